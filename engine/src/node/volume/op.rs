//! What a volume has in hand: writes, reads, flushes, forwarded writes.

use core::ops::Range;

use crate::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::guest::Sectors;
use crate::ids::RequestId;
use crate::pool::Lsn;
use crate::time::Instant;

/// On whose behalf a write is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// A guest of this node.
    Guest(RequestId),
    /// A guest of the partner; the partner's number of the write.
    Partner(u64),
}

/// A write at the node that orders it (owner, alone, or linear).
#[derive(Debug)]
pub(super) struct Write {
    pub(super) origin: Origin,
    pub(super) at: Sectors,
    pub(super) zero: bool,
    pub(super) fua: bool,
    /// The blocks, once `merged`; empty if `zero`.
    pub(super) data: Payload,
    pub(super) locked: bool,
    /// Its first and last block are whole.
    pub(super) merged: bool,
    pub(super) merging: bool,
    pub(super) reserved: bool,
    /// Its areas count it as in flight.
    pub(super) heated: bool,
    /// Its regions count it as logged and not applied.
    pub(super) marked: bool,
    /// Its place in the order, once sent to the partner.
    pub(super) sent: Option<u64>,
    /// Its guest has been answered (only a planted bug does that this early).
    pub(super) answered: bool,
    /// Not ordered after this (forwarded writes).
    pub(super) deadline: Instant,
    /// It found no space and waits for what this record frees.
    pub(super) waits: Option<Lsn>,
}

impl Write {
    pub(super) fn new(origin: Origin, at: Sectors, zero: bool, fua: bool, data: Payload) -> Write {
        Write {
            origin,
            at,
            zero,
            fua,
            data,
            locked: false,
            merged: false,
            merging: false,
            reserved: false,
            heated: false,
            marked: false,
            sent: None,
            answered: false,
            deadline: Instant::NEVER,
            waits: None,
        }
    }

    pub(super) fn blocks(&self) -> Range<u64> {
        self.at.blocks()
    }
}

/// A write that was forwarded to the owner.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) request: RequestId,
    pub(super) at: Sectors,
    pub(super) zero: bool,
    pub(super) fua: bool,
    pub(super) data: Payload,
    pub(super) deadline: Instant,
    /// Sent on the link that is up now.
    pub(super) sent: bool,
    /// Sent at any time: the owner may have given it its place.
    pub(super) ever_sent: bool,
    /// The owner has given it its place.
    pub(super) ordered: bool,
    pub(super) cancelled: bool,
}

/// A write that the owner ordered and this node has not applied yet.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) first: u64,
    pub(super) blocks: u32,
    pub(super) zero: bool,
    pub(super) data: Payload,
    pub(super) origin: Option<u64>,
    pub(super) reserved: bool,
    pub(super) heated: bool,
    /// It found no space and waits for what this record frees.
    pub(super) waits: Option<Lsn>,
}

impl Incoming {
    pub(super) fn range(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.blocks)
    }
}

/// What a read of the store is for.
#[derive(Debug)]
pub(super) enum Reading {
    /// A guest's read.
    Guest { request: RequestId, at: Sectors, term: u64 },
    /// The first or last block of a write.
    Merge { write: u64 },
    /// The partner cannot read it.
    Partner { ask: u64, blocks: Range<u64>, term: u64 },
    /// Blocks that the scrub looks at.
    Scrub { blocks: Range<u64> },
    /// A region to resynchronise.
    Region { region: u64 },
}

/// A flush of one volume on this node, and on the partner.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) for_whom: Flusher,
    pub(super) version: u64,
    /// Writes up to this order must be in the cache here first, then `version` is taken.
    pub(super) after_order: Option<u64>,
    pub(super) partner_done: bool,
    pub(super) asked: bool,
}

/// Who waits for a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flusher {
    Guest(RequestId),
    Partner(u64),
}

/// An answer that waits until what it says is stable.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) request: RequestId,
    pub(super) blocks: Range<u64>,
    pub(super) version: u64,
    pub(super) result: Payload,
}

/// A write that is in the cache; its guest's answer is held while the node's right to serve is open.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) request: RequestId,
    pub(super) blocks: Range<u64>,
    pub(super) version: u64,
    pub(super) fua: bool,
}

/// An area of the hot set.
#[derive(Debug)]
pub(super) struct HotArea {
    pub(super) lsn: Lsn,
    pub(super) in_flight: u32,
    pub(super) last_order: u64,
    pub(super) last_version: u64,
    pub(super) last_use: Instant,
}

/// Lays the sectors of a write over the blocks as they are, so that all blocks are whole. `old` has the blocks
/// of the range (only the first and the last matter).
pub(super) fn merge(pool: &PagePool, at: Sectors, zero: bool, data: &Payload, old: &Payload) -> Payload {
    let blocks = at.blocks();
    let last = (blocks.end - blocks.start - 1) as usize;
    (0..=last)
        .map(|index| {
            let base = (blocks.start + index as u64) * SECTORS_PER_BLOCK;
            let from = at.start.max(base) - base;
            let to = at.end().min(base + SECTORS_PER_BLOCK) - base;
            let new = if zero { Block::Zero } else { data[index].clone() };
            if from == 0 && to == SECTORS_PER_BLOCK {
                return new;
            }
            let (from, to) = (from as usize * SECTOR_BYTES, to as usize * SECTOR_BYTES);
            let mut page = pool.take();
            let bytes: &mut [u8; BLOCK_BYTES] = page.bytes_mut();
            bytes.copy_from_slice(old[index].bytes());
            bytes[from..to].copy_from_slice(&new.bytes()[from..to]);
            let block = Block::Data(page.freeze());
            if zero { block.detect_zero() } else { block }
        })
        .collect()
}
