//! The disks of a pool: opened for a node, made and formatted if they are new, read offline for `twinsand check`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use twinsan::backend::{self, BlockBackend, FileBackend, FileOptions, create_sparse};
use twinsan::block::{Block, PagePool};
use twinsan::format::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS};
use twinsan::ids::Uuid;
use twinsan::io::{DiskError, DiskOp};
use twinsan::pool::{self, FormatIds, Identity, OpenReport, Opening, Pool, PoolOptions};

use crate::config::{Config, Disk};
use crate::sizes;

/// Why the disks cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskProblem {
    #[error(transparent)]
    Open(#[from] backend::OpenError),
    #[error("{0} is not there; create it, or give it a `size` in pool.disks to have it made")]
    Missing(String),
    #[error("the disk cannot be read or written: {0}")]
    Io(#[from] DiskError),
    #[error("the pool cannot be formatted: {0}")]
    Format(#[from] pool::PoolError),
    #[error("the pool cannot be opened: {0}")]
    Pool(#[from] pool::OpenError),
    #[error("no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

/// The disks of a pool, in any order.
pub(crate) type Disks = Vec<Arc<dyn BlockBackend>>;
/// Disks with their paths.
type Found = Vec<(PathBuf, Arc<dyn BlockBackend>)>;

/// What a node starts with.
pub(crate) struct Prepared {
    /// The disks, and where they are.
    pub(crate) disks: Disks,
    pub(crate) paths: Vec<PathBuf>,
    /// In the configuration, and part of no pool: to be added, or removed.
    pub(crate) blank: Vec<PathBuf>,
    /// The pool was made just now.
    pub(crate) fresh: bool,
}

/// Opens the disks of a node; a pool that does not exist yet is formatted. A blank disk beside formatted ones is left
/// alone: whether one is missing is the pool's to say, which knows them all.
pub(crate) fn prepare(config: &Config, pages: &PagePool) -> Result<Prepared, DiskProblem> {
    let listed = &config.pool().disks;
    for disk in listed {
        make_if_absent(disk)?;
    }
    let found = open(listed.iter().map(|disk| disk.path.as_path()), pages)?;
    let all: (Vec<PathBuf>, Disks) = found.iter().cloned().unzip();
    let (disks, paths, blank) = marked(found)?;
    if !disks.is_empty() {
        return Ok(Prepared { disks, paths, blank, fresh: false });
    }
    let (paths, disks) = all;
    format(config, &disks)?;
    Ok(Prepared { disks, paths, blank: Vec::new(), fresh: true })
}

/// Tells those that are part of a pool, with their paths, from the paths of those that are not.
pub(crate) fn marked(found: Found) -> Result<(Disks, Vec<PathBuf>, Vec<PathBuf>), DiskProblem> {
    let (mut disks, mut paths, mut blank) = (Disks::new(), Vec::new(), Vec::new());
    for (path, disk) in found {
        if probe(&*disk)?.is_some() {
            disks.push(disk);
            paths.push(path);
        } else {
            blank.push(path);
        }
    }
    Ok((disks, paths, blank))
}

/// Opens a disk of the configuration, made first if it is a file that is not there.
pub(crate) fn open_or_make(disk: &Disk, pages: &PagePool) -> Result<Arc<dyn BlockBackend>, DiskProblem> {
    make_if_absent(disk)?;
    Ok(open(std::iter::once(disk.path.as_path()), pages)?.remove(0).1)
}

fn make_if_absent(disk: &Disk) -> Result<(), DiskProblem> {
    if disk.path.exists() {
        return Ok(());
    }
    let bytes = disk.size.as_deref().and_then(sizes::parse);
    let bytes = bytes.ok_or_else(|| DiskProblem::Missing(disk.path.display().to_string()))?;
    Ok(create_sparse(&disk.path, bytes)?)
}

/// Opens existing disks.
pub(crate) fn open<'a>(
    paths: impl Iterator<Item = &'a Path>,
    pages: &PagePool,
) -> Result<Found, DiskProblem> {
    let options = FileOptions { pages: pages.clone(), ..FileOptions::default() };
    let open = |path: &Path| FileBackend::open(path, &options);
    paths.map(|path| Ok((path.to_path_buf(), Arc::new(open(path)?) as Arc<dyn BlockBackend>))).collect()
}

/// Whose disk it is, if it is a pool's.
pub(crate) fn probe(disk: &dyn BlockBackend) -> Result<Option<Identity>, DiskProblem> {
    let mut copies = [[0; SUPERBLOCK_BYTES]; 2];
    for (offset, copy) in SUPERBLOCK_OFFSETS.into_iter().zip(&mut copies) {
        match backend::perform(disk, DiskOp::Read { offset, blocks: 1 }) {
            Ok(read) => read.first().into_iter().for_each(|block| *copy = *Block::bytes(block)),
            // The other copy may do, or the pool will miss it.
            Err(DiskError::Unreadable) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(pool::probe([&copies[0], &copies[1]]))
}

fn format(config: &Config, disks: &Disks) -> Result<(), DiskProblem> {
    let ids = FormatIds {
        pool: backend::random_uuid()?,
        disks: disks.iter().map(|_| backend::random_uuid()).collect::<Result<Vec<Uuid>, _>>()?,
        partnership: config.partnership(),
        node: config.name(),
    };
    let options = PoolOptions { extent_bytes: config.extent_bytes(), log_bytes: config.log_bytes() };
    let geometries: Vec<_> = disks.iter().map(|disk| disk.geometry()).collect();
    for write in pool::format(&ids, &options, &geometries)? {
        let op = DiskOp::Write { offset: write.offset, data: write.data };
        backend::perform(&*disks[usize::from(write.disk.0)], op)?;
    }
    for disk in disks {
        backend::perform(&**disk, DiskOp::Flush)?;
    }
    Ok(())
}

/// Opens a pool without a node: what is on disk, nothing more.
pub(crate) fn open_pool(disks: &Disks) -> Result<(Pool, OpenReport), DiskProblem> {
    let geometries: Vec<_> = disks.iter().map(|disk| disk.geometry()).collect();
    let mut opening = Opening::new(&geometries);
    loop {
        while let Some(io) = opening.poll_io() {
            let result = backend::perform(&*disks[usize::from(io.disk.0)], io.op);
            opening.io_done(io.token, result);
        }
        if let Some(outcome) = opening.done() {
            return Ok(outcome?);
        }
    }
}

/// Carries out what a pool that is opened without a node asks for.
pub(crate) fn settle(disks: &Disks, pool: &mut Pool) -> Result<(), DiskProblem> {
    while let Some(io) = pool.poll_io() {
        let result = backend::perform(&*disks[usize::from(io.disk.0)], io.op);
        let failed = result.as_ref().err().cloned();
        pool.io_done(io.token, result);
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    Ok(())
}
