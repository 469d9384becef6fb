//! What the store has of one volume: its cache, its reads, and the jobs that write it back.
//!
//! Nothing here knows of another volume. What it needs of the pool it asks of `Base`, which it is given: where a block lies
//! when it is not in the cache, and checksums; for writes, space at the first touch of an extent. What is read from the cache
//! or written into it needs none of that.

use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

use super::ReadDone;
use super::base::Base;
use super::beside::Deferred;
use super::gather::Gathering;
use super::job::Job;
use super::read::{ReadToken, Reading};
use crate::cache::{Cache, HasCache};
use crate::ids::VolumeId;

/// See the module.
#[derive(Debug)]
pub(super) struct VolumeStore {
    pub(super) id: VolumeId,
    pub(super) cache: Cache,
    /// The destager's jobs, by extent.
    pub(super) jobs: BTreeMap<u32, Job>,
    /// Extents that are read for their move.
    pub(super) gathering: BTreeMap<u32, Gathering>,
    /// Writes that are reserved and not in the cache yet, by extent.
    promises: BTreeMap<u32, u32>,
    pub(super) reads: BTreeMap<ReadToken, Reading>,
    /// Reads that have ended.
    pub(super) done: VecDeque<ReadDone>,
    /// None of its extents begins to move: it is to be cloned.
    pub(super) resting: bool,
    /// What a step beside others has left for whoever has the whole store.
    pub(super) deferred: Vec<Deferred>,
    /// The last call to destage everything that this volume has taken notice of, and its version then.
    urges_seen: u64,
    urged: u64,
}

impl HasCache for VolumeStore {
    fn look<R>(&self, look: impl FnOnce(&Cache) -> R) -> R {
        look(&self.cache)
    }

    fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }
}

fn extents(blocks: Range<u64>, size: u64) -> core::ops::RangeInclusive<u32> {
    (blocks.start / size) as u32..=((blocks.end - 1) / size) as u32
}

impl VolumeStore {
    /// For a volume whose last version is this.
    pub(super) fn new(id: VolumeId, version: u64) -> VolumeStore {
        VolumeStore {
            id,
            cache: Cache::new(version),
            jobs: BTreeMap::new(),
            gathering: BTreeMap::new(),
            promises: BTreeMap::new(),
            reads: BTreeMap::new(),
            done: VecDeque::new(),
            resting: false,
            deferred: Vec::new(),
            urges_seen: 0,
            urged: 0,
        }
    }

    /// Begins a write, after so many calls to destage everything: those do not mean it. Returns its version.
    pub(super) fn next_version(&mut self, urges: u64) -> u64 {
        if self.urges_seen != urges {
            (self.urges_seen, self.urged) = (urges, self.cache.version());
        }
        self.cache.next_version()
    }

    /// Is anything not stable that the last of so many calls meant?
    pub(super) fn is_urged(&self, urges: u64) -> bool {
        let urged = if self.urges_seen == urges { self.urged } else { self.cache.version() };
        self.cache.stable_through() < urged
    }

    /// Reserves space for blocks; false if the pool is full. What was reserved stays so.
    pub(super) fn reserve(&mut self, base: &mut Base, blocks: Range<u64>) -> bool {
        let extents = extents(blocks, base.pool.extent_blocks());
        for extent in extents.clone() {
            if !self.is_allocating(extent) && !base.pool.reserve(self.id, extent) {
                for undo in *extents.start()..extent {
                    self.give_back(base, undo);
                }
                return false;
            }
        }
        true
    }

    /// Is space for these blocks there already? Then [`reserve`](Self::reserve) changes nothing.
    pub(super) fn is_reserved(&self, base: &Base, blocks: Range<u64>) -> bool {
        let mut extents = extents(blocks, base.pool.extent_blocks());
        extents.all(|extent| self.is_allocating(extent) || base.pool.is_reserved(self.id, extent))
    }

    /// Gives back the reservation of blocks that will not be written, unless other writes need it.
    pub(super) fn unreserve(&mut self, base: &mut Base, blocks: Range<u64>) {
        for extent in extents(blocks, base.pool.extent_blocks()) {
            self.give_back(base, extent);
        }
    }

    /// A reservation is kept while blocks of the extent wait for write-back, or a destage job works on it.
    /// Writes that are reserved and not yet in the cache count in `promises`.
    pub(super) fn give_back(&mut self, base: &mut Base, extent: u32) {
        let size = base.pool.extent_blocks();
        let blocks = u64::from(extent) * size..(u64::from(extent) + 1) * size;
        if !self.is_busy(extent) && !self.is_promised(extent) && self.cache.dirty_in(blocks).is_empty() {
            base.pool.release(self.id, extent);
            self.unmap_if_zero(base, extent);
        }
    }

    /// Counts a write that is reserved and will come.
    pub(super) fn promise(&mut self, blocks: Range<u64>, size: u64) {
        for extent in extents(blocks, size) {
            *self.promises.entry(extent).or_default() += 1;
        }
    }

    /// The promised write came or was given up.
    pub(super) fn redeem(&mut self, blocks: Range<u64>, size: u64) {
        for extent in extents(blocks, size) {
            let count = self.promises.get_mut(&extent).expect("redeem follows promise");
            *count -= 1;
            if *count == 0 {
                self.promises.remove(&extent);
            }
        }
    }

    pub(super) fn is_promised(&self, extent: u32) -> bool {
        self.promises.contains_key(&extent)
    }

    /// Is nothing in progress?
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.promises.is_empty() && self.reads.is_empty()
    }

    /// Does a job work on this extent?
    pub(super) fn is_busy(&self, extent: u32) -> bool {
        self.jobs.contains_key(&extent)
    }

    /// Is a new place being made for this extent? It needs no reservation any more.
    fn is_allocating(&self, extent: u32) -> bool {
        self.jobs.get(&extent).is_some_and(|job| job.slot.is_some() && !job.shared)
    }

    /// Is nothing of it on its way to disk, reserved for what will come, or being moved?
    pub(super) fn is_at_rest(&self) -> bool {
        self.jobs.is_empty()
            && self.promises.is_empty()
            && self.deferred.is_empty()
            && self.cache.version() <= self.cache.stable_through()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::time::Instant;

    #[test]
    fn a_call_to_destage_means_what_was_written_before_it() {
        let mut volume = VolumeStore::new(VolumeId(1), 0);
        let write = |volume: &mut VolumeStore, urges, block| {
            let version = volume.next_version(urges);
            volume.cache.write(Instant::ZERO, block, Block::Zero, version);
        };
        assert!(!volume.is_urged(1), "nothing was written");
        write(&mut volume, 1, 1);
        assert!(!volume.is_urged(1));
        assert!(volume.is_urged(2));
        write(&mut volume, 2, 2);
        assert!(volume.is_urged(2), "the first write is not stable");
        volume.cache.issue(1);
        volume.cache.stable(Instant::ZERO, 1);
        assert!(!volume.is_urged(2), "the second came later");
    }
}
