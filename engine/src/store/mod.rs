//! One node's half of everything: the pool with the cache in front of it.
//!
//! The store takes whole 4 KiB blocks, keeps them in the cache, writes them back, and tells how far each
//! volume is on stable media. It knows nothing of partners, guests or epochs. Invariants:
//!
//! - A block is written back only into space that was reserved before the write was taken.
//! - A new extent is mapped only after its data are flushed, and what was not written of it reads as zero by the map
//!   from the same moment. A block that reads as zero ceases to only after its data are flushed.
//! - An extent is unmapped only when every block of it is zero, and given out again only when that is durable.
//! - At most one destage job works on an extent, so that writes to one place of a disk never race.
//! - What is read from disk is compared with its checksum before anyone sees it (`sums`).
//! - What several volumes share is never overwritten: whoever writes it first gets a place of its own (`redirect`).
//! - Neither a read nor a move of an extent sees what a later owner of its slot wrote: reads hold their slots. A move reads
//!   without holding: it is the job of its extent, so nothing else unmaps that meanwhile, and nothing is put on a disk
//!   that is leaving.
//! - A flush covers just the writes that had completed when it was submitted. A failed write or flush fails
//!   the store for good: nothing becomes stable any more.
//!
//! Each volume has a store of its own (`volume`), which knows of no other. What all of them stand on is in `base`: the pool,
//! its checksums, the disks' flushes. A volume's store is given that where it needs it; `base` names whom something
//! concerns, and [`Store`], which has both, goes there. Of the data path these calls need `base`: `reserve` and `unreserve`,
//! for a look at the map, and for more than that only at the first touch of an extent; `read`, for what is not in the cache;
//! `repair`; and all of the write-back. The others need the volume's store alone, and the bounds (`cache::Shares`): `room`
//! and `write` where its share does not suffice. Those are `promise`, `redeem`, `room`, `has_place`, `write`, `zero`,
//! `pin`, `unpin`, `version`, `stable_through` and `is_stable`.

mod base;
mod beside;
mod bounds;
mod config;
mod data_check;
mod destage;
mod evacuate;
mod gather;
mod guard;
mod job;
mod plan;
mod purge;
mod read;
mod redirect;
mod sums;
mod volume;

use core::ops::Range;
use std::collections::VecDeque;

use crate::block::{Block, Payload};
use crate::cache::{Cache, Shares};
use crate::cells::Cells;
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskRequest, DiskResult, IoId};
use crate::planted::{Bug, Planted};
use crate::pool::{Lsn, Pool, Record};
use crate::time::Instant;

use base::Base;
pub(crate) use beside::Beside;
use bounds::Bounds;
pub use config::CacheConfig;
pub use data_check::{DataCheck, DataReport, Defect};
pub use evacuate::Unmovable;
pub use guard::Damaged;
use purge::Purges;
use read::PartKey;
pub use read::{Read, ReadToken};
use sums::PageKey;
pub use sums::{Damage, SumCounters};
use volume::VolumeStore;

/// What a disk request of the store was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Pool { token: u64 },
    Read { part: PartKey },
    Destage { volume: VolumeId, extent: u32 },
    Gather { volume: VolumeId, extent: u32, at: u64, blocks: u64 },
    Flush { disk: DiskId },
    SumRead { key: PageKey, tries: u32 },
    SumWrite { key: PageKey },
}

/// A read that finished.
#[derive(Debug)]
pub struct ReadDone {
    /// As given to [`Store::read`].
    pub token: ReadToken,
    /// The blocks, and the newest version among them that is not stable (zero if all is).
    pub result: Result<(Payload, u64), Damaged>,
}

/// The pool with its caches.
#[derive(Debug)]
pub struct Store {
    base: Base,
    /// Volumes that are there, or were read or written in this life.
    volumes: Cells<VolumeStore>,
    bounds: Bounds,
    /// No version of a volume that is gone was higher: an id that is used again does not begin below it.
    versions_gone: u64,
    purges: Purges,
    done: VecDeque<ReadDone>,
}

impl Store {
    /// A store over an open pool.
    pub fn new(pool: Pool, config: &CacheConfig, first_io: u64, planted: Planted) -> Store {
        let base = Base::new(pool, config, first_io, planted);
        let metadata = base.pool.metadata();
        let known: Vec<VolumeId> =
            metadata.volumes().filter(|(_, meta)| !meta.deleted).map(|(id, _)| id).collect();
        let mut store = Store {
            volumes: Cells::default(),
            bounds: Bounds::new(Shares::new(config.blocks_max, config.dirty_blocks_max)),
            versions_gone: 0,
            purges: Purges::of(&base.pool),
            done: VecDeque::new(),
            base,
        };
        for id in known {
            store.volume(id);
        }
        store
    }

    /// What is here of a volume.
    fn volume(&mut self, id: VolumeId) -> &mut VolumeStore {
        if !self.volumes.contains(id) {
            self.bounds.shares().join(id);
            self.volumes.insert(id, VolumeStore::new(id, self.versions_gone));
        }
        self.volumes.get_mut(id).expect("made if it was not there")
    }

    /// Lets a volume do something that may need what all stand on, and takes notice of what came of it.
    fn with<R>(&mut self, id: VolumeId, what: impl FnOnce(&mut VolumeStore, &mut Base) -> R) -> R {
        self.volume(id);
        let volume = self.volumes.get_mut(id).expect("made if it was not there");
        let result = what(volume, &mut self.base);
        self.done.append(&mut volume.done);
        self.note(id);
        result
    }

    /// After each change of a volume's cache.
    fn note(&mut self, id: VolumeId) {
        self.bounds.shares().note(self.volumes.map_mut(), id);
        self.bounds.noted();
    }

    /// The pool, to look at.
    pub fn pool(&self) -> &Pool {
        &self.base.pool
    }

    /// Looks at the cache of a volume; `None`: nothing of it is, or was, in one.
    pub fn look<R>(&self, volume: VolumeId, look: impl FnOnce(&Cache) -> R) -> Option<R> {
        self.volumes.get(volume).map(|volume| look(&volume.cache))
    }

    /// Blocks in the caches of all volumes.
    pub fn cached_blocks(&self) -> usize {
        self.volumes.values().map(|volume| volume.cache.blocks()).sum()
    }

    /// Those of them that are not stable.
    pub fn unstable_blocks(&self) -> usize {
        self.bounds.look().unstable_blocks()
    }

    /// Most blocks that may be dirty.
    pub fn dirty_blocks_max(&self) -> usize {
        self.bounds.dirty_blocks_max()
    }

    /// How often a block became stable: a sign that something moved.
    pub fn settled(&self) -> u64 {
        self.bounds.look().settled()
    }

    /// Has a disk failed? Nothing becomes stable any more.
    pub fn failed(&self) -> bool {
        self.base.has_failed()
    }

    /// Appends to the pool's metadata log; in force at once, durable when [`durable`](Self::durable) says so.
    pub fn append(&mut self, records: &[Record]) -> Lsn {
        self.base.pool.append(records)
    }

    /// How far the metadata log is durable.
    pub fn durable(&self) -> Lsn {
        self.base.pool.durable()
    }

    /// Keeps so many bytes of the pool for a volume, those that it uses included.
    pub fn keep_for(&mut self, volume: VolumeId, bytes: u64) {
        self.base.pool.keep_for(volume, bytes);
    }

    /// Reserves space for blocks of a volume; false if the pool is full. What was reserved stays so.
    pub fn reserve(&mut self, volume: VolumeId, blocks: Range<u64>) -> bool {
        self.base.has(Bug::WriteWithoutSpace)
            || self.with(volume, |volume, base| volume.reserve(base, blocks))
    }

    /// Gives back the reservation of blocks that will not be written, unless other writes need it.
    pub fn unreserve(&mut self, volume: VolumeId, blocks: Range<u64>) {
        self.with(volume, |volume, base| volume.unreserve(base, blocks));
    }

    /// Counts a write that is reserved and will come (or be given up): its reservation stays.
    pub fn promise(&mut self, volume: VolumeId, blocks: Range<u64>) {
        let size = self.base.pool.extent_blocks();
        self.volume(volume).promise(blocks, size);
    }

    /// The promised write came or was given up.
    pub fn redeem(&mut self, volume: VolumeId, blocks: Range<u64>) {
        let size = self.base.pool.extent_blocks();
        self.volume(volume).redeem(blocks, size);
    }

    /// May `count` more blocks of a volume become dirty? If not, try again after progress.
    pub fn room(&mut self, volume: VolumeId, count: u64) -> bool {
        self.volume(volume);
        let room = self.bounds.shares().room(self.volumes.map_mut(), volume, count as usize);
        self.bounds.noted();
        room
    }

    /// Is there place for `count` more dirty blocks of a volume beside those that are there? None of them goes alone.
    pub fn has_place(&mut self, volume: VolumeId, count: u64) -> bool {
        self.volume(volume);
        let room = self.bounds.shares().has_place(self.volumes.map_mut(), volume, count as usize);
        self.bounds.noted();
        room
    }

    /// Puts blocks into the cache, visible from now on; space must be reserved. Returns their version.
    pub fn write(&mut self, now: Instant, volume: VolumeId, first: u64, data: &[Block]) -> u64 {
        self.put(now, volume, data.len(), (first..).zip(data.iter().cloned()))
    }

    /// Makes blocks zero, visible from now on. Returns their version.
    pub fn zero(&mut self, now: Instant, volume: VolumeId, blocks: Range<u64>) -> u64 {
        self.put(now, volume, blocks.clone().count(), blocks.map(|at| (at, Block::Zero)))
    }

    fn put(
        &mut self,
        now: Instant,
        id: VolumeId,
        count: usize,
        blocks: impl Iterator<Item = (u64, Block)>,
    ) -> u64 {
        let urges = self.bounds.urges();
        let mut volume = self.volume(id);
        if volume.cache.lacks_place(count) {
            self.bounds.shares().make_place(now, self.volumes.map_mut(), id, count);
            volume = self.volume(id);
        }
        let version = volume.next_version(urges);
        for (at, block) in blocks {
            volume.cache.write(now, at, block, version);
        }
        self.note(id);
        version
    }

    /// Repairs blocks that could not be read, where nothing newer is cached.
    pub fn repair(&mut self, now: Instant, volume: VolumeId, first: u64, data: &[Block]) {
        for (at, block) in (first..).zip(data) {
            let newer = self.look(volume, |cache| cache.peek(at).is_some()).unwrap_or(false);
            let there = !newer && self.base.pool.locate(volume, at).is_some();
            // Of an extent that others share it gets a copy of its own, if there is space; else it stays as it is.
            if there && self.reserve(volume, at..at + 1) {
                self.put(now, volume, 1, core::iter::once((at, block.clone())));
            }
        }
    }

    /// What is written to these blocks stays in the cache until [`unpin`](Self::unpin).
    pub fn pin(&mut self, volume: VolumeId, blocks: Range<u64>) {
        let cache = &mut self.volume(volume).cache;
        blocks.for_each(|block| cache.pin(block));
    }

    /// Ends one [`pin`](Self::pin).
    pub fn unpin(&mut self, volume: VolumeId, blocks: Range<u64>) {
        let cache = &mut self.volume(volume).cache;
        blocks.for_each(|block| cache.unpin(block));
    }

    /// The version of the last write of a volume; zero if it has none in this life.
    pub fn version(&self, volume: VolumeId) -> u64 {
        self.look(volume, Cache::version).unwrap_or(0)
    }

    /// Every write of the volume up to this version is on stable media.
    pub fn stable_through(&self, volume: VolumeId) -> u64 {
        self.look(volume, Cache::stable_through).unwrap_or(u64::MAX)
    }

    /// Is every write of these blocks up to `version` on stable media?
    pub fn is_stable(&self, volume: VolumeId, blocks: Range<u64>, version: u64) -> bool {
        self.look(volume, |cache| cache.is_stable(blocks, version)).unwrap_or(true)
    }

    /// Destage everything written so far now, not when it is old enough.
    pub fn urge(&mut self) {
        self.bounds.urge();
    }

    /// From now on (or no longer) every write is destaged at once.
    pub fn set_eager(&mut self, eager: bool) {
        self.base.eager = eager;
    }

    /// Starts what can be started. Call after every change and every [`io_done`](Self::io_done).
    pub fn pump(&mut self, now: Instant) {
        if self.failed() {
            return;
        }
        self.base.disks_grow();
        self.finish_logged(now);
        self.purge_step();
        self.start_destage(now);
        self.evacuate(now);
        self.start_prepared(now);
        self.base.write_sums(now);
        self.start_flushes(now);
        self.base.submit_pool();
    }

    /// When to call [`pump`](Self::pump) even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.failed() {
            return None;
        }
        let all = [self.next_destage(), self.base.sums.deadline(), self.next_move()];
        all.into_iter().flatten().min()
    }

    /// The next disk request.
    pub fn poll_io(&mut self) -> Option<DiskRequest> {
        self.base.poll_io()
    }

    /// The next finished read.
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        self.done.pop_front()
    }

    /// A disk request finished: whose was it?
    pub fn io_done(&mut self, now: Instant, id: IoId, result: DiskResult) {
        let Some(purpose) = self.base.purpose_of(id) else { return };
        match purpose {
            Purpose::Pool { token } => {
                let jobs = self.base.jobs.count;
                self.base.pool.expect_zeros(jobs);
                self.base.pool.io_done(token, result);
            }
            Purpose::Read { part } => self.read_part_done(now, part, result),
            Purpose::Destage { volume, extent } => {
                self.with(volume, |volume, base| volume.destage_write_done(base, now, extent, result));
            }
            Purpose::Gather { volume, extent, at, blocks } => {
                self.with(volume, |volume, base| volume.gathered(base, now, extent, (at, blocks), result));
            }
            Purpose::Flush { disk } => self.flush_done(now, disk, result),
            Purpose::SumRead { key, tries } => {
                self.base.sum_read_done(key, tries, &result);
                self.verify_waiting(now);
                self.verify_gathered(now);
            }
            Purpose::SumWrite { key } => {
                for (id, extent) in self.base.sum_write_done(now, key, &result) {
                    self.with(id, |volume, base| volume.written(base, now, extent));
                }
            }
        }
    }
}
