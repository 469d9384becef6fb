//! Damages each place of the metadata, and each copy as a whole, at every moment of a session, and opens what is left.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use twinsan::format::superblock::{DISK_REMOVED, FEATURE_MOVED, NO_SECOND, SUPERBLOCK_OFFSETS, Superblock};
use twinsan::planted::Planted;

use super::crash::{Choice, durable_hash, left, loose};
use super::model::Expected;
use super::session::Witness;
use super::{Disk, SECTOR, open_marked, open_with, settle};

const BLOCK: u64 = 4096;

/// One copy of log and checkpoints: its disk, and the bytes that it takes.
pub(crate) struct Copy {
    pub(crate) disk: usize,
    pub(crate) areas: Vec<Range<u64>>,
}

/// Something done to the metadata.
enum Damage {
    /// A bit changes.
    Bit(usize, u64),
    /// A block is lost.
    Block(usize, u64),
    /// A copy is lost.
    Copy(usize),
}

/// The superblock of this disk that counts, and how many whole ones there are.
pub(crate) fn superblock(disk: &Disk) -> (Option<Superblock>, usize) {
    let parse = |copy: u8| Superblock::parse(&disk.block(SUPERBLOCK_OFFSETS[usize::from(copy)]), copy).ok();
    let whole: Vec<Superblock> = [0, 1].into_iter().filter_map(parse).collect();
    (whole.iter().max_by_key(|block| block.generation.get()).copied(), whole.len())
}

/// Where the copies are, by the home disk's superblock: of two, that of the one that the metadata are on their way from.
pub(crate) fn copies(disks: &[Disk]) -> Vec<Copy> {
    let blocks: Vec<Option<Superblock>> = disks.iter().map(|disk| superblock(disk).0).collect();
    let newest = blocks.iter().flatten().max_by_key(|block| block.generation.get());
    let counts = |block: &Superblock| {
        let known = newest.is_some_and(|newest| {
            newest.disks.iter().any(|entry| entry.uuid == block.disk && entry.state != DISK_REMOVED)
        });
        known && block.disk == block.disks[usize::from(block.home.get())].uuid
    };
    let homes = (0..blocks.len()).filter(|at| blocks[*at].as_ref().is_some_and(counts));
    let Some(home) = homes.min_by_key(|at| blocks[*at].map(|block| block.generation.get())) else {
        return Vec::new();
    };
    let main = blocks[home].expect("just found");
    let area = main.checkpoint_area_bytes.get();
    let span = |from: u64, bytes: u64| from..from + bytes;
    let areas = main.checkpoint_offsets.map(|offset| span(offset.get(), area));
    let log = span(main.log_offset.get(), main.log_bytes.get());
    let mut all = vec![Copy { disk: home, areas: [log].into_iter().chain(areas).collect() }];
    if main.home_second.get() != NO_SECOND {
        let uuid = main.disks[usize::from(main.home_second.get())].uuid;
        let at = blocks.iter().position(|block| block.is_some_and(|block| block.disk == uuid));
        let disk = at.expect("the second copy's disk is there");
        let [from, _] = blocks[disk].expect("just found").spare.map(|number| number.get());
        let bytes = main.log_bytes.get() + 2 * area;
        let behind = disk == home && main.features.get() & FEATURE_MOVED != 0;
        all.push(Copy { disk, areas: vec![span(if behind { from + bytes } else { from }, bytes)] });
    }
    all
}

/// Everything that may be damaged.
fn damages(disks: &[Disk], copies: &[Copy]) -> Vec<Damage> {
    let mut all: Vec<Damage> = (0..copies.len()).map(Damage::Copy).collect();
    let mut places: BTreeSet<(usize, u64)> = BTreeSet::new();
    for (at, disk) in disks.iter().enumerate() {
        // While a disk joins or leaves, one of its superblocks is all there is.
        if superblock(disk).1 == 2 {
            places.extend(SUPERBLOCK_OFFSETS.map(|offset| (at, offset)));
        }
    }
    for copy in copies {
        for area in &copy.areas {
            let sectors = area.start / SECTOR as u64..area.end / SECTOR as u64;
            let written = disks[copy.disk].media.range(sectors);
            places.extend(written.map(|(at, _)| (copy.disk, at * SECTOR as u64 / BLOCK * BLOCK)));
        }
    }
    for (disk, offset) in places {
        all.extend([
            Damage::Bit(disk, offset + 32),
            Damage::Bit(disk, offset + 90),
            Damage::Block(disk, offset),
        ]);
    }
    all
}

pub(crate) fn wipe(disk: &mut Disk, bytes: Range<u64>) {
    let sectors = bytes.start / SECTOR as u64..bytes.end / SECTOR as u64;
    let there: Vec<u64> = disk.media.range(sectors).map(|(at, _)| *at).collect();
    there.into_iter().for_each(|at| drop(disk.media.insert(at, Arc::new([0; SECTOR]))));
}

pub(crate) fn wipe_copy(disks: &mut [Disk], copy: &Copy) {
    copy.areas.iter().for_each(|area| wipe(&mut disks[copy.disk], area.clone()));
}

/// Tries all damages at each moment, with everything lost that was not flushed, and with nothing lost.
pub(crate) struct Rot {
    planted: Planted,
    /// Damaged states tried.
    pub(crate) states: u64,
    /// Of those, repaired ones of which each copy was then lost.
    pub(crate) repaired: u64,
    seen: BTreeSet<(u64, u64)>,
}

impl Rot {
    pub(crate) fn new(planted: Planted) -> Rot {
        Rot { planted, states: 0, repaired: 0, seen: BTreeSet::new() }
    }

    fn damage(&mut self, disks: &[Disk], expected: &Expected) -> Result<(), String> {
        let copies = copies(disks);
        for damage in damages(disks, &copies) {
            let mut bad = disks.to_vec();
            let place = match damage {
                Damage::Bit(disk, offset) => {
                    bad[disk].rot(offset);
                    format!("a bit of disk {disk} at {offset}")
                }
                Damage::Block(disk, offset) => {
                    wipe(&mut bad[disk], offset..offset + BLOCK);
                    format!("the block of disk {disk} at {offset}")
                }
                Damage::Copy(at) => {
                    wipe_copy(&mut bad, &copies[at]);
                    format!("copy {at}")
                }
            };
            let named = |what: String| format!("{place} is lost: {what}");
            let opened = open_marked(&mut bad, self.planted).map_err(|error| named(error.to_string()));
            let (pool, devices) = opened?;
            expected.check(&pool, &bad, &devices).map_err(named)?;
            self.states += 1;
            if self.states.is_multiple_of(5) {
                let mut given: Vec<Disk> = devices.iter().map(|at| bad[*at].clone()).collect();
                self.repair(pool, &mut given).map_err(named)?;
            }
        }
        Ok(())
    }

    /// The pool goes on. When it is at rest, each copy alone is enough.
    fn repair(&mut self, mut pool: twinsan::pool::Pool, disks: &mut [Disk]) -> Result<(), String> {
        settle(&mut pool, disks);
        for copy in copies(disks) {
            let mut bad = disks.to_vec();
            wipe_copy(&mut bad, &copy);
            let (again, _) = open_with(&mut bad, self.planted)
                .map_err(|error| format!("repaired, then a copy is lost: {error}"))?;
            if again.metadata() != pool.metadata() || again.durable() != pool.durable() {
                return Err(format!("repaired {:?}, then {:?}", pool.metadata(), again.metadata()));
            }
        }
        let (_, report) = open_with(disks, self.planted).map_err(|error| error.to_string())?;
        if !report.copies.is_empty() || report.completed.is_some() {
            return Err(format!("not repaired: {:?}, {:?}", report.copies, report.completed));
        }
        self.repaired += 1;
        Ok(())
    }
}

impl Witness for Rot {
    fn moment(&mut self, disks: &[Disk], expected: &Expected) -> Result<(), String> {
        let loose = loose(disks);
        for all in [false, true] {
            let versions = loose.iter().map(|loose| if all { loose.newest() } else { 0 }).collect();
            let after = left(disks, &loose, &Choice { versions, torn: None });
            if self.seen.insert((durable_hash(&after), expected.fingerprint())) {
                self.damage(&after, expected)?;
            }
        }
        Ok(())
    }
}
