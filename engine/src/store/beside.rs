//! What a step of one volume can have of the store beside steps of others: its own volume's part, for itself, and the rest to
//! look at. The cache, promises of space, and the bounds are all that it changes.
//!
//! What needs more (space at the first touch of an extent, a read from disk) is left in `VolumeStore::deferred`, or refused,
//! and whoever has the whole store does it: [`Store::catch_up`]. Invariants:
//!
//! - Nothing of `Base` changes while steps are beside each other, so what one has seen of it stays true.
//! - Room that was given for dirty blocks is the volume's own: no other takes it before the next catching up.
//! - No bound is exceeded: a step [makes place](Beside::make_place) for what it puts into the cache before it begins.

use core::ops::Range;

use parking_lot::MutexGuard;

use super::base::Base;
use super::bounds::Bounds;
use super::volume::VolumeStore;
use super::{Read, ReadDone, ReadToken, Store};
use crate::block::Block;
use crate::ids::VolumeId;
use crate::planted::Bug;
use crate::pool::Pool;
use crate::time::Instant;

/// So many blocks of a volume may be dirty and not counted: 1 MiB. Write-back begins when half of what may be is dirty.
const UNCOUNTED_MAX: usize = 256;

/// Something that needs the whole store.
#[derive(Debug)]
pub(super) enum Deferred {
    Read { blocks: Range<u64>, token: ReadToken },
    Unreserve { blocks: Range<u64> },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    base: &'a Base,
    bounds: &'a Bounds,
    volume: MutexGuard<'a, VolumeStore>,
    wants_whole: bool,
}

impl Store {
    /// A volume's part; `None` if a step of it must have the whole store.
    pub(crate) fn beside(&self, volume: VolumeId) -> Option<Beside<'_>> {
        if self.failed() || self.base.eager {
            return None;
        }
        let volume = self.volumes.get(volume)?;
        Some(Beside { base: &self.base, bounds: &self.bounds, volume, wants_whole: false })
    }

    /// Does what steps of this volume have left, and counts what they changed.
    pub(crate) fn catch_up(&mut self, now: Instant, volume: VolumeId) {
        let deferred = core::mem::take(&mut self.volume(volume).deferred);
        for deferred in deferred {
            match deferred {
                Deferred::Read { blocks, token } => {
                    if let Read::Ready(data, version) = self.read(volume, blocks, token) {
                        self.done.push_back(ReadDone { token, result: Ok((data, version)) });
                    }
                }
                Deferred::Unreserve { blocks } => self.unreserve(volume, blocks),
            }
        }
        if self.volume(volume).cache.lacks_place(0) {
            self.bounds.shares().make_place(now, self.volumes.map_mut(), volume, 0);
        }
        self.note(volume);
    }
}

impl<'a> Beside<'a> {
    pub(crate) fn pool(&self) -> &'a Pool {
        &self.base.pool
    }

    /// Is there something that needs the whole store soon?
    pub(crate) fn wants_whole(&self) -> bool {
        self.wants_whole
    }

    /// Everything written so far is to be destaged.
    pub(crate) fn urge(&mut self) {
        self.bounds.urge();
        self.wants_whole = true;
    }

    /// As [`Store::read`]; what is not at hand is read later.
    pub(crate) fn read(&mut self, blocks: Range<u64>, token: ReadToken) -> Read {
        match self.volume.read_at_hand(self.base, blocks.clone()) {
            Some((data, version)) => Read::Ready(data, version),
            None => {
                self.defer(Deferred::Read { blocks, token });
                Read::Pending
            }
        }
    }

    fn defer(&mut self, deferred: Deferred) {
        self.volume.deferred.push(deferred);
        self.wants_whole = true;
    }

    /// Is space for these blocks there already?
    pub(crate) fn is_reserved(&self, blocks: Range<u64>) -> bool {
        self.base.has(Bug::WriteWithoutSpace) || self.volume.is_reserved(self.base, blocks)
    }

    pub(crate) fn unreserve(&mut self, blocks: Range<u64>) {
        self.defer(Deferred::Unreserve { blocks });
    }

    pub(crate) fn promise(&mut self, blocks: Range<u64>) {
        self.volume.promise(blocks, self.base.pool.extent_blocks());
    }

    pub(crate) fn redeem(&mut self, blocks: Range<u64>) {
        self.volume.redeem(blocks, self.base.pool.extent_blocks());
    }

    /// As [`Store::room`]; what other volumes have and do not use stays with them.
    pub(crate) fn room(&mut self, count: u64) -> bool {
        let count = count as usize;
        if self.bounds.is_in_debt() {
            self.wants_whole = true;
            return false;
        }
        if self.volume.cache.has_room(count) {
            return true;
        }
        // A larger share, or none to be had: a reason to write back either way.
        self.wants_whole = true;
        let id = self.volume.id;
        self.bounds.look().room_of_free(&mut self.volume.cache, id, count)
    }

    pub(crate) fn dirty_blocks_max(&self) -> usize {
        self.bounds.dirty_blocks_max()
    }

    /// Is there place for `count` more blocks, of what is free, or because blocks of this volume give way?
    pub(crate) fn make_place(&mut self, now: Instant, count: u64) -> bool {
        let (id, cache, count) = (self.volume.id, &mut self.volume.cache, count as usize);
        if cache.lacks_place(count) {
            self.bounds.look().make_place_of_free(now, cache, id, count);
        }
        !cache.lacks_place(count)
    }

    /// As [`Store::write`].
    pub(crate) fn write(&mut self, now: Instant, first: u64, data: &[Block]) -> u64 {
        self.put(now, data.len(), (first..).zip(data.iter().cloned()))
    }

    /// As [`Store::zero`].
    pub(crate) fn zero(&mut self, now: Instant, blocks: Range<u64>) -> u64 {
        self.put(now, blocks.clone().count(), blocks.map(|at| (at, Block::Zero)))
    }

    fn put(&mut self, now: Instant, count: usize, blocks: impl Iterator<Item = (u64, Block)>) -> u64 {
        let volume = &mut *self.volume;
        debug_assert!(!volume.cache.lacks_place(count), "place was made when the step began");
        let version = volume.next_version(self.bounds.urges());
        for (at, block) in blocks {
            volume.cache.write(now, at, block, version);
        }
        // With the first that is dirty somebody has to know when it is old enough.
        self.wants_whole |= !volume.cache.has_turn() || volume.cache.uncounted() >= UNCOUNTED_MAX;
        version
    }

    pub(crate) fn version(&self) -> u64 {
        self.volume.cache.version()
    }

    pub(crate) fn stable_through(&self) -> u64 {
        self.volume.cache.stable_through()
    }

    pub(crate) fn is_stable(&self, blocks: Range<u64>, version: u64) -> bool {
        self.volume.cache.is_stable(blocks, version)
    }
}
