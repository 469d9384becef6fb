//! What a step of a volume's machine has of the store: all of it, or its own volume's part beside other steps.

use core::ops::Range;

use crate::block::Block;
use crate::ids::VolumeId;
use crate::pool::{Lsn, Pool};
use crate::store::{Beside, Read, ReadToken, Store};
use crate::time::Instant;

/// See the module. The volume that a call names is that of the machine.
#[derive(Debug)]
pub(in crate::node) enum Stock<'a> {
    /// The step has the node for itself.
    Whole(&'a mut Store),
    /// Other volumes' steps go on.
    Beside(Beside<'a>),
}

impl Stock<'_> {
    /// For what only a step does that has the node for itself.
    pub(super) fn whole(&mut self) -> &mut Store {
        match self {
            Stock::Whole(store) => store,
            Stock::Beside(_) => unreachable!("a step beside others leaves this: handle_beside"),
        }
    }

    /// Does the step have the node for itself?
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Stock::Whole(_))
    }

    /// Is there something that needs the whole store soon?
    pub(in crate::node) fn wants_whole(&self) -> bool {
        match self {
            Stock::Whole(_) => false,
            Stock::Beside(beside) => beside.wants_whole(),
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        match self {
            Stock::Whole(store) => store.pool(),
            Stock::Beside(beside) => beside.pool(),
        }
    }

    pub(in crate::node) fn durable(&self) -> Lsn {
        self.pool().durable()
    }

    pub(super) fn urge(&mut self) {
        match self {
            Stock::Whole(store) => store.urge(),
            Stock::Beside(beside) => beside.urge(),
        }
    }

    pub(super) fn read(&mut self, volume: VolumeId, blocks: Range<u64>, token: ReadToken) -> Read {
        match self {
            Stock::Whole(store) => store.read(volume, blocks, token),
            Stock::Beside(beside) => beside.read(blocks, token),
        }
    }

    /// Can [`reserve`](Self::reserve) be asked in this step?
    pub(super) fn may_reserve(&self, blocks: Range<u64>) -> bool {
        match self {
            Stock::Whole(_) => true,
            Stock::Beside(beside) => beside.is_reserved(blocks),
        }
    }

    pub(super) fn reserve(&mut self, volume: VolumeId, blocks: Range<u64>) -> bool {
        match self {
            Stock::Whole(store) => store.reserve(volume, blocks),
            // Else it would wait for a step that has the node: `Volume::reaches_new_ground`.
            Stock::Beside(beside) => {
                debug_assert!(beside.is_reserved(blocks), "no step beside others reaches new ground");
                true
            }
        }
    }

    pub(super) fn unreserve(&mut self, volume: VolumeId, blocks: Range<u64>) {
        match self {
            Stock::Whole(store) => store.unreserve(volume, blocks),
            Stock::Beside(beside) => beside.unreserve(blocks),
        }
    }

    pub(super) fn promise(&mut self, volume: VolumeId, blocks: Range<u64>) {
        match self {
            Stock::Whole(store) => store.promise(volume, blocks),
            Stock::Beside(beside) => beside.promise(blocks),
        }
    }

    pub(super) fn redeem(&mut self, volume: VolumeId, blocks: Range<u64>) {
        match self {
            Stock::Whole(store) => store.redeem(volume, blocks),
            Stock::Beside(beside) => beside.redeem(blocks),
        }
    }

    pub(super) fn room(&mut self, volume: VolumeId, count: u64) -> bool {
        match self {
            Stock::Whole(store) => store.room(volume, count),
            Stock::Beside(beside) => beside.room(count),
        }
    }

    pub(super) fn has_place(&mut self, volume: VolumeId, count: u64) -> bool {
        match self {
            Stock::Whole(store) => store.has_place(volume, count),
            Stock::Beside(beside) => beside.room(count),
        }
    }

    pub(super) fn dirty_blocks_max(&self) -> usize {
        match self {
            Stock::Whole(store) => store.dirty_blocks_max(),
            Stock::Beside(beside) => beside.dirty_blocks_max(),
        }
    }

    pub(super) fn write(&mut self, now: Instant, volume: VolumeId, first: u64, data: &[Block]) -> u64 {
        match self {
            Stock::Whole(store) => store.write(now, volume, first, data),
            Stock::Beside(beside) => beside.write(now, first, data),
        }
    }

    pub(super) fn zero(&mut self, now: Instant, volume: VolumeId, blocks: Range<u64>) -> u64 {
        match self {
            Stock::Whole(store) => store.zero(now, volume, blocks),
            Stock::Beside(beside) => beside.zero(now, blocks),
        }
    }

    pub(super) fn version(&self, volume: VolumeId) -> u64 {
        match self {
            Stock::Whole(store) => store.version(volume),
            Stock::Beside(beside) => beside.version(),
        }
    }

    pub(super) fn stable_through(&self, volume: VolumeId) -> u64 {
        match self {
            Stock::Whole(store) => store.stable_through(volume),
            Stock::Beside(beside) => beside.stable_through(),
        }
    }

    pub(super) fn is_stable(&self, volume: VolumeId, blocks: Range<u64>, version: u64) -> bool {
        match self {
            Stock::Whole(store) => store.is_stable(volume, blocks, version),
            Stock::Beside(beside) => beside.is_stable(blocks, version),
        }
    }
}
