//! The disks of a pool: opened for a node, made and formatted if they are new, read offline for `twinsand check`.

use std::path::Path;
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
    #[error(
        "some disks of the pool are formatted and some are not; bring back the ones that are missing, or begin with empty disks"
    )]
    Mixed,
    #[error("the disk cannot be read or written: {0}")]
    Io(#[from] DiskError),
    #[error("the pool cannot be formatted: {0}")]
    Format(#[from] pool::PoolError),
    #[error("the pool cannot be opened: {0}")]
    Pool(#[from] pool::OpenError),
    #[error("no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

/// The disks of a pool, in its order.
pub(crate) type Disks = Vec<Arc<dyn BlockBackend>>;

/// Opens the disks of a node; a pool that does not exist yet is formatted. Tells whether it was.
pub(crate) fn prepare(config: &Config, pages: &PagePool) -> Result<(Disks, bool), DiskProblem> {
    for disk in &config.pool().disks {
        make_if_absent(disk)?;
    }
    let disks = open(config.pool().disks.iter().map(|disk| disk.path.as_path()), pages)?;
    let known = disks.iter().map(|disk| probe(&**disk)).collect::<Result<Vec<_>, _>>()?;
    let fresh = known.iter().all(Option::is_none);
    if fresh {
        format(config, &disks)?;
    } else if known.iter().any(Option::is_none) {
        return Err(DiskProblem::Mixed);
    }
    Ok((disks, fresh))
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
) -> Result<Disks, DiskProblem> {
    let options = FileOptions { pages: pages.clone(), ..FileOptions::default() };
    paths.map(|path| Ok(Arc::new(FileBackend::open(path, &options)?) as Arc<dyn BlockBackend>)).collect()
}

/// Whose disk it is, if it is a pool's.
pub(crate) fn probe(disk: &dyn BlockBackend) -> Result<Option<Identity>, DiskProblem> {
    let mut copies = [[0; SUPERBLOCK_BYTES]; 2];
    for (offset, copy) in SUPERBLOCK_OFFSETS.into_iter().zip(&mut copies) {
        if let Some(block) = backend::perform(disk, DiskOp::Read { offset, blocks: 1 })?.first() {
            *copy = *Block::bytes(block);
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
    let options = PoolOptions { extent_bytes: config.extent_bytes(), ..PoolOptions::default() };
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
