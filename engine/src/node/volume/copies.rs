//! The window of a resync at its source: what is with the target. It is of all volumes together, because one sequence of
//! tags numbers the copies of a link and the target confirms by tag alone. And a copy at the target.

use std::collections::BTreeMap;

use super::context::Context;
use super::room::Waiter;
use super::{REGION_BLOCKS, Volume};
use crate::block::Payload;

/// Copies on their way to the target, and figures of the current or last resync.
#[derive(Debug, Default)]
pub(in crate::node) struct Copies {
    /// Regions that it began with.
    pub(in crate::node) total: u64,
    /// Bytes of the log's regions copied (guests' own new writes not counted).
    pub(in crate::node) bytes_copied: u64,
    last_tag: u64,
    stable_tag: u64,
    /// Blocks by tag.
    in_flight: BTreeMap<u64, u64>,
    blocks_in_flight: u64,
    /// Regions that are being read.
    pub(super) reading: u64,
}

impl Copies {
    /// A resync begins.
    pub(in crate::node) fn begin(&mut self) {
        *self = Copies::default();
    }

    /// May one more region be read, with so many blocks in flight at most?
    pub(in crate::node) fn may_read(&self, limit: u64) -> bool {
        self.blocks_in_flight + self.reading * REGION_BLOCKS < limit
    }

    /// Are more blocks than this in flight? Then the target is slow.
    pub(super) fn exceeds(&self, limit: u64) -> bool {
        self.blocks_in_flight > limit
    }

    /// So many blocks are sent: the tag of this copy.
    pub(super) fn send(&mut self, blocks: u64) -> u64 {
        self.last_tag += 1;
        self.in_flight.insert(self.last_tag, blocks);
        self.blocks_in_flight += blocks;
        self.last_tag
    }

    /// The target has everything up to this tag on stable media.
    pub(in crate::node) fn confirm(&mut self, tag: u64) {
        if tag > self.last_tag {
            return;
        }
        self.stable_tag = self.stable_tag.max(tag);
        let later = self.in_flight.split_off(&(tag + 1));
        let confirmed: u64 = core::mem::replace(&mut self.in_flight, later).values().sum();
        self.blocks_in_flight -= confirmed;
    }

    /// Up to which tag copies count as stable; `early`: all that were sent, whether or not.
    pub(super) fn stable(&self, early: bool) -> u64 {
        if early { self.last_tag } else { self.stable_tag }
    }
}

/// What became of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Copied {
    /// In the cache, with this version.
    At(u64),
    /// The cache is full; later.
    NoRoom,
    /// The pool is full.
    NoSpace,
}

impl Volume {
    /// Target: puts a copy into the cache if it is the turn of copies and there is room.
    pub(in crate::node) fn take_copy(
        &self,
        cx: &mut Context<'_>,
        range: core::ops::Range<u64>,
        zero: bool,
        data: &Payload,
    ) -> Copied {
        let count = range.end - range.start;
        if range.end > self.blocks() || (!zero && data.len() as u64 != count) {
            return Copied::At(0);
        }
        if !cx.take_room(Waiter::Copies, self.id, count) {
            return Copied::NoRoom;
        }
        if !zero && !cx.store.reserve(self.id, range.clone()) {
            return match cx.awaits_space(self.id, None) {
                Some(_) => Copied::NoRoom,
                None => Copied::NoSpace,
            };
        }
        Copied::At(cx.put(self.id, range, zero, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_confirms_all_before_it() {
        let mut copies = Copies::default();
        let [first, second, third] = [16, 3, 16].map(|blocks| copies.send(blocks));
        copies.confirm(second);
        assert_eq!((copies.stable(false), copies.blocks_in_flight), (second, 16));
        copies.confirm(third + 1);
        assert_eq!(copies.stable(false), second, "what was not sent is not confirmed");
        copies.confirm(first);
        assert_eq!((copies.stable(false), copies.stable(true)), (second, third));
    }
}
