//! Makes a pool: the list of writes that turn blank disks into one.

use super::checkpoint::CheckpointWriter;
use super::error::PoolError;
use super::layout::{Commit, Identity, Layout, PoolOptions};
use super::metadata::Metadata;
use crate::block::{PagePool, Payload, payload_from};
use crate::format::superblock::SUPERBLOCK_OFFSETS;
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::Geometry;

/// Identities of a new pool. They must be fresh: random, never used before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormatIds {
    /// The pool.
    pub pool: Uuid,
    /// Its disks.
    pub disks: Vec<Uuid>,
    /// The partnership that it serves.
    pub partnership: Uuid,
    /// The node that it is part of.
    pub node: NodeName,
}

/// One write of [`format`](fn@format).
#[derive(Clone, Debug)]
pub struct FormatWrite {
    /// The disk.
    pub disk: DiskId,
    /// Byte offset.
    pub offset: u64,
    /// What to write.
    pub data: Payload,
}

/// The writes that make a pool of these disks. Carry them out in order and flush each disk; then it opens. What
/// the disks held before is lost: ask [`probe`](super::probe) first.
pub fn format(
    ids: &FormatIds,
    options: &PoolOptions,
    disks: &[Geometry],
) -> Result<Vec<FormatWrite>, PoolError> {
    let layout = Layout::plan(options, &ids.disks, disks)?;
    let identity = Identity { pool: ids.pool, partnership: ids.partnership, node: ids.node };
    let pages = PagePool::new();
    let mut writes = Vec::new();

    let number = 1;
    let mut checkpoint = CheckpointWriter::new(ids.pool.0, number, &Metadata::new(), &layout)
        .expect("a fresh pool has next to nothing to write down");
    let second = layout.choose_second(None);
    while let Some((at, bytes)) = checkpoint.next_frame() {
        for site in layout.sites(second) {
            let (disk, offset) = (site.disk, site.checkpoint(number) + at);
            writes.push(FormatWrite { disk, offset, data: payload_from(&pages, &bytes) });
        }
    }
    let commit = Commit {
        generation: 0,
        checkpoint_number: number,
        checkpoint_bytes: checkpoint.bytes(),
        checkpoint_lsn: 0,
        log_start: 0,
        log_sequence: 1,
        second,
    };
    // Both copies, so that nothing of an earlier pool is left.
    for generation in [1, 2] {
        for disk in (0..disks.len() as u16).map(DiskId) {
            let block = layout.superblock(&identity, &Commit { generation, ..commit }, disk);
            let offset = SUPERBLOCK_OFFSETS[usize::from(block.place())];
            writes.push(FormatWrite { disk, offset, data: payload_from(&pages, &block.seal()) });
        }
    }
    Ok(writes)
}
