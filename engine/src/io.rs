//! Requests to pool disks and their answers: the only way in which the core touches a disk.
//!
//! What the core assumes of a disk: a completed write may be lost by a power cut until a later flush has
//! completed; unflushed 512-byte sectors survive in any subset, and the one being written may be torn; a flush
//! covers the writes that had *completed* when it was submitted. Requests may complete in any order.

use crate::block::Payload;
use crate::ids::DiskId;

/// Identifies one disk request of a node, never used twice in one life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct IoId(pub u64);

/// What a disk is asked to do. Offsets are bytes and multiples of 4096; lengths are whole 4 KiB blocks.
#[derive(Clone, Debug)]
pub enum DiskOp {
    /// Read `blocks` blocks at `offset`; answered with as many.
    Read {
        /// Byte offset.
        offset: u64,
        /// Number of 4 KiB blocks.
        blocks: u32,
    },
    /// Write `data` at `offset`.
    Write {
        /// Byte offset.
        offset: u64,
        /// The blocks to write.
        data: Payload,
    },
    /// Make all completed writes durable.
    Flush,
}

/// One request to one disk.
#[derive(Clone, Debug)]
pub struct DiskRequest {
    /// Echoed in the answer.
    pub id: IoId,
    /// The disk.
    pub disk: DiskId,
    /// What to do.
    pub op: DiskOp,
}

/// Why a disk request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The medium could not be read there.
    #[error("the disk cannot read this place; the block must come from the partner or a backup")]
    Unreadable,
    /// The device failed the request; nothing can be assumed of a write.
    #[error("the disk failed the request; replace it")]
    Failed,
    /// The request lies outside the disk or is misaligned.
    #[error("the request lies outside the disk or is not a multiple of 4096 bytes")]
    Invalid,
    /// The backend dropped the request without an answer.
    #[error("the backend dropped the request")]
    Dropped,
}

/// The answer: the blocks read, or nothing for a write or flush.
pub type DiskResult = Result<Payload, DiskError>;

/// Size of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Capacity in bytes.
    pub bytes: u64,
    /// Smallest unit that the device writes atomically: 512 or 4096 bytes.
    pub sector_bytes: u32,
}
