//! Makes a pool on real disks, and opens one without a node: for tools.

use std::sync::Arc;

use crate::backend::{self, BlockBackend};
use crate::block::{BLOCK_BYTES, Block};
use crate::format::superblock::SUPERBLOCK_OFFSETS;
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::{DiskError, DiskOp, DiskResult};
use crate::pool::{self, FormatIds, Identity, OpenReport, Opening, Pool, PoolOptions};

/// What a new pool shall be.
#[derive(Clone, Debug)]
pub struct NewPool {
    /// The partnership that it serves.
    pub partnership: Uuid,
    /// The node that it is part of.
    pub node: NodeName,
    /// Its measures.
    pub options: PoolOptions,
    /// The pool that these disks hold and that may be lost. `None`: they must hold none.
    pub replaces: Option<Uuid>,
}

impl NewPool {
    /// A pool with default measures, on disks that hold none.
    pub fn new(partnership: Uuid, node: NodeName) -> NewPool {
        NewPool { partnership, node, options: PoolOptions::default(), replaces: None }
    }
}

/// Why a pool was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// There is something to lose. Nothing was written.
    #[error(
        "disk {disk} is part of pool {pool:032x} of node {node}; name that pool as the one to be replaced, or another disk",
        pool = .holds.pool.0,
        node = .holds.node
    )]
    Occupied {
        /// The disk.
        disk: DiskId,
        /// The pool that it is part of.
        holds: Identity,
    },
    /// No pool can be made of these disks like that. Nothing was written.
    #[error(transparent)]
    Pool(#[from] pool::PoolError),
    /// The disk failed; the pool is not complete.
    #[error("disk {disk}: {error}")]
    Disk {
        /// The disk.
        disk: DiskId,
        /// How it failed.
        error: DiskError,
    },
    /// The system has no random numbers.
    #[error("no random identities can be had: {0}")]
    Random(#[from] std::io::Error),
}

/// Makes a pool of these disks, whose order is the pool's from now on. What they held is lost, except that a pool is
/// overwritten only if it is named. Returns the new pool's identity.
pub fn format_pool(disks: &[Arc<dyn BlockBackend>], new: &NewPool) -> Result<Identity, FormatError> {
    for (disk, number) in disks.iter().zip(0..) {
        let disk_id = DiskId(number);
        let holds = probe(&**disk).map_err(|error| FormatError::Disk { disk: disk_id, error })?;
        if let Some(holds) = holds.filter(|holds| new.replaces != Some(holds.pool)) {
            return Err(FormatError::Occupied { disk: disk_id, holds });
        }
    }
    let ids = FormatIds {
        pool: backend::random_uuid()?,
        disks: disks.iter().map(|_| backend::random_uuid()).collect::<Result<_, _>>()?,
        partnership: new.partnership,
        node: new.node,
    };
    let geometries: Vec<_> = disks.iter().map(|disk| disk.geometry()).collect();
    for write in pool::format(&ids, &new.options, &geometries)? {
        let op = DiskOp::Write { offset: write.offset, data: write.data };
        perform(disks, write.disk, op).map_err(|error| FormatError::Disk { disk: write.disk, error })?;
    }
    for disk in (0..disks.len() as u16).map(DiskId) {
        perform(disks, disk, DiskOp::Flush).map_err(|error| FormatError::Disk { disk, error })?;
    }
    Ok(Identity { pool: ids.pool, partnership: ids.partnership, node: ids.node })
}

/// The pool that a disk is part of.
pub fn probe(disk: &dyn BlockBackend) -> Result<Option<Identity>, DiskError> {
    let mut copies = Vec::new();
    for offset in SUPERBLOCK_OFFSETS {
        let inside = offset + BLOCK_BYTES as u64 <= disk.geometry().bytes;
        let read = || backend::perform(disk, DiskOp::Read { offset, blocks: 1 });
        copies.push(if inside { read()?.pop().unwrap_or_default() } else { Block::Zero });
    }
    Ok(pool::probe(std::array::from_fn(|copy| copies[copy].bytes())))
}

/// Opens a pool without a node, to look at it: it reads, and writes nothing.
pub fn open_pool(disks: &[Arc<dyn BlockBackend>]) -> Result<(Pool, OpenReport), pool::OpenError> {
    let geometries: Vec<_> = disks.iter().map(|disk| disk.geometry()).collect();
    let mut opening = Opening::new(&geometries);
    loop {
        if let Some(outcome) = opening.done() {
            return outcome;
        }
        let io = opening.poll_io().expect("an opening that is not done has a request");
        opening.io_done(io.token, perform(disks, io.disk, io.op));
    }
}

fn perform(disks: &[Arc<dyn BlockBackend>], disk: DiskId, op: DiskOp) -> DiskResult {
    disks.get(usize::from(disk.0)).map_or(Err(DiskError::Invalid), |disk| backend::perform(&**disk, op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    fn disks(count: usize) -> Vec<Arc<dyn BlockBackend>> {
        (0..count).map(|_| Arc::new(MemoryBackend::new(64 << 20)) as Arc<dyn BlockBackend>).collect()
    }

    #[test]
    fn a_new_pool_opens() {
        let disks = disks(2);
        assert_eq!(probe(&*disks[0]), Ok(None));
        let identity = format_pool(&disks, &NewPool::new(Uuid(7), NodeName::B)).unwrap();
        assert_eq!(probe(&*disks[1]), Ok(Some(identity)));
        let (pool, report) = open_pool(&disks).unwrap();
        assert_eq!(pool.identity(), identity);
        assert_eq!(
            report.identity,
            Identity { pool: identity.pool, partnership: Uuid(7), node: NodeName::B }
        );
        assert!(pool::check(&pool).is_clean());
        assert!(open_pool(&disks[..1]).is_err());
    }

    #[test]
    fn a_pool_is_overwritten_only_by_name() {
        let disks = disks(1);
        let mut new = NewPool::new(Uuid(7), NodeName::A);
        let first = format_pool(&disks, &new).unwrap();
        for wrong in [None, Some(Uuid(1))] {
            new.replaces = wrong;
            let error = format_pool(&disks, &new).unwrap_err();
            assert!(matches!(error, FormatError::Occupied { holds, .. } if holds == first));
            assert!(error.to_string().contains(&format!("{:032x}", first.pool.0)), "{error}");
            open_pool(&disks).unwrap();
        }
        new.replaces = Some(first.pool);
        assert_ne!(format_pool(&disks, &new).unwrap().pool, first.pool);
    }

    #[test]
    fn what_cannot_be_a_pool_is_left_alone() {
        let tiny: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(8192));
        let error = format_pool(&[tiny], &NewPool::new(Uuid(7), NodeName::A)).unwrap_err();
        assert!(matches!(error, FormatError::Pool(_)), "{error}");
        assert!(format_pool(&[], &NewPool::new(Uuid(7), NodeName::A)).is_err());
    }
}
