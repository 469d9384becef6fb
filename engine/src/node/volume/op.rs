//! What a volume has in hand: writes, reads, flushes, forwarded writes.

use core::ops::Range;

use crate::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::guest::{GuestResult, Sectors};
use crate::ids::RequestId;
use crate::mirror::message::Manner;
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

/// A write as a guest asks for it.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Wanted {
    pub(in crate::node) at: Sectors,
    pub(in crate::node) manner: Manner,
    pub(in crate::node) zero: bool,
    /// Empty if `zero`.
    pub(in crate::node) data: Payload,
    /// What is expected there; empty unless the manner asks for it.
    pub(in crate::node) compare: Payload,
    pub(in crate::node) fua: bool,
}

/// A write at the node that orders it (owner, alone, or linear).
#[derive(Debug)]
pub(super) struct Write {
    pub(super) origin: Origin,
    pub(super) at: Sectors,
    pub(super) manner: Manner,
    pub(super) zero: bool,
    pub(super) fua: bool,
    /// The blocks, once `merged`; empty if `zero`.
    pub(super) data: Payload,
    /// What is expected there.
    pub(super) compare: Payload,
    /// There is something else.
    pub(super) mismatch: Option<Mismatch>,
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

/// What was found where something else was expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mismatch {
    /// The first byte that differs, from the beginning of the first sector.
    pub(super) offset: u32,
    /// The version of what was found.
    pub(super) version: u64,
    /// The term in which it was.
    pub(super) term: u64,
}

impl Write {
    pub(super) fn new(origin: Origin, wanted: Wanted) -> Write {
        let Wanted { at, manner, zero, data, compare, fua } = wanted;
        Write {
            origin,
            at,
            manner,
            zero,
            fua,
            data,
            compare,
            mismatch: None,
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
    pub(super) wanted: Wanted,
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
    pub(super) result: GuestResult,
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

/// Lays the sectors of a write, or with `or` its bits, over the blocks as they are, so that all blocks are whole. `old` has the blocks
/// of the range (only the first and the last matter).
pub(super) fn merge(
    pool: &PagePool,
    at: Sectors,
    or: bool,
    zero: bool,
    data: &Payload,
    old: &Payload,
) -> Payload {
    let blocks = at.blocks();
    let last = (blocks.end - blocks.start - 1) as usize;
    (0..=last)
        .map(|index| {
            let base = (blocks.start + index as u64) * SECTORS_PER_BLOCK;
            let from = at.start.max(base) - base;
            let to = at.end().min(base + SECTORS_PER_BLOCK) - base;
            let new = if zero { Block::Zero } else { data[index].clone() };
            if from == 0 && to == SECTORS_PER_BLOCK && !or {
                return new;
            }
            let (from, to) = (from as usize * SECTOR_BYTES, to as usize * SECTOR_BYTES);
            let mut page = pool.take();
            let bytes: &mut [u8; BLOCK_BYTES] = page.bytes_mut();
            bytes.copy_from_slice(old[index].bytes());
            if or {
                let pairs = bytes[from..to].iter_mut().zip(&new.bytes()[from..to]);
                pairs.for_each(|(byte, bits)| *byte |= bits);
            } else {
                bytes[from..to].copy_from_slice(&new.bytes()[from..to]);
            }
            let block = Block::Data(page.freeze());
            if zero { block.detect_zero() } else { block }
        })
        .collect()
}
