//! `twinsand check`: a pool offline. Its structure, whether its data are what was written, and whether both halves of its
//! mirrored volumes read the same.
//!
//! Nothing is written, except with `--repair`, and then only what the same command without it has listed: damaged copies
//! of metadata whose other copy is whole. The node must not be running: its disks are locked.

mod data;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use twinsan::backend;
use twinsan::block::{Block, PagePool, Payload, zeros};
use twinsan::ids::VolumeId;
use twinsan::io::DiskOp;
use twinsan::pool::{self, OpenReport, Pool};

use crate::Failure;
use crate::config::Config;
use crate::disks::{self, Disks};
use crate::sizes::show;

/// Blocks compared at once.
const PIECE_BLOCKS: u64 = 256;

#[derive(Args)]
pub(crate) struct Options {
    /// A directory whose files are the disks of the pool.
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    directory: Option<PathBuf>,
    /// The node's configuration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The partner's configuration: compares every block that is mapped in either half of every mirrored volume.
    #[arg(long, value_name = "OTHER.toml", requires = "config")]
    compare: Option<PathBuf>,
    /// Puts right what a check without this lists as damaged.
    #[arg(long, conflicts_with = "compare")]
    repair: bool,
    /// Reads all data too, and compares them with their checksums: takes as long as the disks take to be read.
    #[arg(long)]
    data: bool,
}

/// Is all well?
pub(crate) fn check(options: &Options) -> Result<bool, Failure> {
    let mut mine = match (&options.config, &options.directory) {
        (Some(config), _) => Half::of_config(config)?,
        (None, Some(directory)) => Half::of_directory(directory)?,
        (None, None) => return Err("name the pool: a directory, or --config node.toml".into()),
    };
    let mut clean = mine.repairs(options.repair)?;
    clean &= mine.check(options.data)?;
    if let Some(other) = &options.compare {
        let other = Half::of_config(other)?;
        clean &= other.tell_repairs() & other.check(options.data)?;
        clean &= compare(&mine, &other)?;
    }
    Ok(clean)
}

/// Checks and compares the two nodes of a pair.
pub(crate) fn compare_configs(config: &Path, other: &Path) -> Result<bool, Failure> {
    let compare = Some(other.to_path_buf());
    check(&Options {
        directory: None,
        config: Some(config.to_path_buf()),
        compare,
        repair: false,
        data: true,
    })
}

/// One node's pool.
struct Half {
    disks: Disks,
    paths: Vec<PathBuf>,
    pool: Pool,
    report: OpenReport,
}

impl Half {
    fn of_config(path: &Path) -> Result<Half, Failure> {
        let config = Config::load(path)?;
        let paths = config.pool().disks.iter().map(|disk| disk.path.as_path()).filter(|path| path.exists());
        let (disks, members, blank) = disks::marked(disks::open(paths, &PagePool::new())?)?;
        for path in blank {
            println!("{} is not part of a pool", path.display());
        }
        if disks.is_empty() {
            return Err("none of the disks in the configuration is part of a pool".into());
        }
        Half::open(disks, members)
    }

    /// The disks in a directory, in whatever order their superblocks say.
    fn of_directory(directory: &Path) -> Result<Half, Failure> {
        let (mut found, mut members) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for entry in
            std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.metadata()?.len() >= 128 << 10 {
                names.insert(entry.path());
            }
        }
        for path in &names {
            let (_, disk) = disks::open(std::iter::once(path.as_path()), &PagePool::new())?.remove(0);
            if disks::probe(&*disk)?.is_some() {
                found.push(disk);
                members.push(path.clone());
            }
        }
        if found.is_empty() {
            return Err(format!("{} has no disk of a pool", directory.display()).into());
        }
        Half::open(found, members)
    }

    fn open(disks: Disks, paths: Vec<PathBuf>) -> Result<Half, Failure> {
        let (pool, report) = disks::open_pool(&disks)?;
        println!(
            "pool {:032x} of node {}: {} log entries replayed{}; metadata kept {}",
            pool.identity().pool.0,
            pool.identity().node,
            report.entries,
            if report.torn.is_some() { ", a torn last entry cut" } else { "" },
            if pool.second_copy().is_some() { "twice" } else { "once" },
        );
        Ok(Half { disks, paths, pool, report })
    }

    /// Lists what is damaged and can be put right; true if there is nothing.
    fn tell_repairs(&self) -> bool {
        let repairs = self.report.repairs();
        for repair in &repairs {
            println!("  damaged: {}: {repair}", self.paths[usize::from(repair.disk().0)].display());
        }
        repairs.is_empty()
    }

    /// Lists what is damaged and can be put right, and with `now` does it. True if nothing is left to be done.
    fn repairs(&mut self, now: bool) -> Result<bool, Failure> {
        if self.tell_repairs() {
            return Ok(true);
        }
        if !now {
            println!(
                "  nothing was changed; `twinsand check --repair` does what is listed, as the node itself would"
            );
            return Ok(false);
        }
        self.pool.repair();
        disks::settle(&self.disks, &mut self.pool)?;
        let (pool, report) = disks::open_pool(&self.disks)?;
        let left = report.repairs().len();
        println!("  {} repaired, {left} left", self.report.repairs().len() - left);
        (self.pool, self.report) = (pool, report);
        Ok(left == 0)
    }

    /// Structure, and with `data` what the disks hold.
    fn check(&self, data: bool) -> Result<bool, Failure> {
        let report = pool::check(&self.pool);
        for problem in &report.problems {
            println!("  problem: {problem}");
        }
        println!(
            "  {} volumes, {} extents: {} mapped, {} free, {} in between; {} problems",
            report.volumes, report.extents, report.mapped, report.free, report.between, report.problem_count
        );
        let sound = !data || data::check(&self.pool, &self.disks, &self.paths)?;
        Ok(report.is_clean() && sound)
    }

    /// What hosts would read.
    fn read(&self, volume: VolumeId, first: u64, blocks: u64) -> Result<Payload, Failure> {
        let Some((disk, offset)) = self.pool.place(volume, first) else { return Ok(zeros(blocks as usize)) };
        let device = self.pool.device(disk).ok_or("an extent lies on a disk that is not there")?;
        let op = DiskOp::Read { offset, blocks: blocks as u32 };
        let mut found = backend::perform(&*self.disks[usize::from(device.0)], op)?;
        for (block, content) in (first..).zip(&mut found) {
            if self.pool.locate(volume, block).is_none() {
                *content = Block::Zero;
            }
        }
        Ok(found)
    }

    /// Bytes of the volume that are mapped, in blocks.
    fn mapped(&self, volume: VolumeId) -> impl Iterator<Item = u64> + '_ {
        let blocks = self.pool.extent_blocks();
        let meta = self.pool.metadata().volume(volume);
        meta.into_iter()
            .flat_map(move |meta| meta.map.iter().map(move |(extent, _)| u64::from(extent) * blocks))
    }
}

/// Do both halves of every mirrored volume read the same?
fn compare(mine: &Half, other: &Half) -> Result<bool, Failure> {
    let (a, b) = (mine.pool.identity(), other.pool.identity());
    if a.partnership != b.partnership || a.node == b.node {
        return Err("these are not the two nodes of one pair; name the other node's configuration".into());
    }
    let mut same = true;
    let mirrored = |half: &Half| -> BTreeSet<VolumeId> {
        half.pool.metadata().volumes().filter(|(_, meta)| meta.mirrored).map(|(id, _)| id).collect()
    };
    for volume in mirrored(mine).union(&mirrored(other)) {
        let outcome = compare_volume(mine, other, *volume)?;
        println!(
            "  volume {volume}: {} compared, {} blocks differ{}",
            show(outcome.bytes),
            outcome.different.len(),
            if outcome.different.is_empty() { String::new() } else { outcome.places() },
        );
        same &= outcome.different.is_empty();
    }
    println!("{}", if same { "both halves are the same" } else { "THE HALVES DIFFER" });
    Ok(same)
}

#[derive(Default)]
struct Compared {
    bytes: u64,
    /// Blocks.
    different: Vec<u64>,
}

impl Compared {
    fn places(&self) -> String {
        let first: Vec<String> = self.different.iter().take(10).map(u64::to_string).collect();
        format!(": {}{}", first.join(", "), if self.different.len() > 10 { ", ..." } else { "" })
    }
}

fn compare_volume(mine: &Half, other: &Half, volume: VolumeId) -> Result<Compared, Failure> {
    let mut compared = Compared::default();
    let extents: BTreeSet<u64> = mine.mapped(volume).chain(other.mapped(volume)).collect();
    // The pieces lie within an extent of either pool: extents are powers of two of at least 16 blocks.
    let extent = mine.pool.extent_blocks().min(other.pool.extent_blocks());
    let step = PIECE_BLOCKS.min(extent);
    let longest = mine.pool.extent_blocks().max(other.pool.extent_blocks());
    let mut from = 0;
    for start in extents {
        for first in (start.max(from)..start + longest).step_by(step as usize) {
            let (a, b) = (mine.read(volume, first, step)?, other.read(volume, first, step)?);
            let unlike =
                a.iter().zip(&b).zip(first..).filter(|((a, b), _)| !a.same(b)).map(|(_, block)| block);
            compared.different.extend(unlike);
            compared.bytes += step * 4096;
        }
        from = start + longest;
    }
    Ok(compared)
}
