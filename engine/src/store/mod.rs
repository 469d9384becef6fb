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
//! - Neither a read nor a move of an extent sees what a later owner of its slot wrote: reads hold their slots. A move reads
//!   without holding: it is the job of its extent, so nothing else unmaps that meanwhile, and nothing is put on a disk
//!   that is leaving.
//! - A flush covers just the writes that had completed when it was submitted. A failed write or flush fails
//!   the store for good: nothing becomes stable any more.

mod config;
mod destage;
mod evacuate;
mod guard;
mod plan;
mod purge;
mod read;
mod sums;
mod volume;

use std::collections::{BTreeMap, VecDeque};

use crate::block::{Block, Payload};
use crate::cache::{Cache, Shares};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskRequest, DiskResult, IoId};
use crate::planted::{Bug, Planted};
use crate::pool::{Lsn, Pool, Record};
use crate::time::Instant;

pub use config::CacheConfig;
use destage::Destager;
use evacuate::Evacuation;
pub use evacuate::Unmovable;
pub use guard::Damaged;
use purge::Purges;
use read::Reads;
pub use read::{Read, ReadToken};
pub use sums::{Damage, SumCounters};
use sums::{PageKey, SumTable};
use volume::VolumeStore;

/// What a disk request of the store was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Pool { token: u64 },
    Read { token: ReadToken, part: usize },
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

/// The pool with its cache.
#[derive(Debug)]
pub struct Store {
    pool: Pool,
    /// Volumes that were read or written in this life.
    volumes: BTreeMap<VolumeId, VolumeStore>,
    shares: Shares,
    /// What is cached of a volume that is not in `volumes`.
    nothing: Cache,
    /// No version of a volume that is gone was higher: an id that is used again does not begin below it.
    versions_gone: u64,
    /// Calls to destage everything.
    urges: u64,
    destager: Destager,
    evacuation: Evacuation,
    purges: Purges,
    reads: Reads,
    sums: SumTable,
    purposes: BTreeMap<IoId, Purpose>,
    last_io: u64,
    out: VecDeque<DiskRequest>,
    done: VecDeque<ReadDone>,
    failed: bool,
    /// Can the partner be asked what is in doubt?
    ask: bool,
    /// The last record that made checksums sure.
    settled: Lsn,
    planted: Planted,
}

impl Store {
    /// A store over an open pool.
    pub fn new(mut pool: Pool, config: &CacheConfig, first_io: u64, planted: Planted) -> Store {
        pool.set_planted(planted);
        let sums = SumTable::new(&pool, config, planted);
        let leftovers = sums.leftovers(&pool);
        if !leftovers.is_empty() {
            pool.append(&leftovers);
        }
        let mut store = Store {
            volumes: BTreeMap::new(),
            shares: Shares::new(config.blocks_max, config.dirty_blocks_max),
            nothing: Cache::new(0),
            versions_gone: 0,
            urges: 0,
            destager: Destager::new(config, pool.disks().len()),
            evacuation: Evacuation::default(),
            purges: Purges::of(&pool),
            reads: Reads::default(),
            sums,
            purposes: BTreeMap::new(),
            last_io: first_io,
            out: VecDeque::new(),
            done: VecDeque::new(),
            failed: false,
            ask: false,
            settled: Lsn(0),
            planted,
            pool,
        };
        let known: Vec<VolumeId> =
            store.pool.metadata().volumes().filter(|(_, meta)| !meta.deleted).map(|(id, _)| id).collect();
        for id in known {
            store.volume(id);
        }
        store
    }

    /// What is here of a volume.
    fn volume(&mut self, id: VolumeId) -> &mut VolumeStore {
        self.volumes.entry(id).or_insert_with(|| {
            self.shares.join(id);
            VolumeStore::new(self.versions_gone)
        })
    }

    /// The pool, to look at.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The cache of a volume, to look at.
    pub fn cache(&self, volume: VolumeId) -> &Cache {
        self.volumes.get(&volume).map_or(&self.nothing, |volume| &volume.cache)
    }

    /// Blocks in the caches of all volumes.
    pub fn cached_blocks(&self) -> usize {
        self.volumes.values().map(|volume| volume.cache.blocks()).sum()
    }

    /// Those of them that are not stable.
    pub fn unstable_blocks(&self) -> usize {
        self.shares.unstable_blocks()
    }

    /// Most blocks that may be dirty.
    pub fn dirty_blocks_max(&self) -> usize {
        self.shares.dirty_blocks_max()
    }

    /// How often a block became stable: a sign that something moved.
    pub fn settled(&self) -> u64 {
        self.shares.settled()
    }

    /// Has a disk failed? Nothing becomes stable any more.
    pub fn failed(&self) -> bool {
        self.failed || self.pool.failed().is_some()
    }

    /// Appends to the pool's metadata log; in force at once, durable when [`durable`](Self::durable) says so.
    pub fn append(&mut self, records: &[Record]) -> Lsn {
        self.pool.append(records)
    }

    /// How far the metadata log is durable.
    pub fn durable(&self) -> Lsn {
        self.pool.durable()
    }

    /// Keeps so many bytes of the pool for a volume, those that it uses included.
    pub fn keep_for(&mut self, volume: VolumeId, bytes: u64) {
        self.pool.keep_for(volume, bytes);
    }

    /// Reserves space for blocks of a volume; false if the pool is full. What was reserved stays so.
    pub fn reserve(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) -> bool {
        if self.planted.has(Bug::WriteWithoutSpace) {
            return true;
        }
        let extent_blocks = self.pool.extent_blocks();
        let extents = blocks.start / extent_blocks..=(blocks.end - 1) / extent_blocks;
        for extent in extents.clone() {
            let extent_id = extent as u32;
            if !self.destager.is_allocating(volume, extent_id) && !self.pool.reserve(volume, extent_id) {
                for undo in *extents.start()..extent {
                    self.give_back(volume, undo as u32);
                }
                return false;
            }
        }
        true
    }

    /// Gives back the reservation of blocks that will not be written, unless other writes need it.
    pub fn unreserve(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let extent_blocks = self.pool.extent_blocks();
        for extent in blocks.start / extent_blocks..=(blocks.end - 1) / extent_blocks {
            self.give_back(volume, extent as u32);
        }
    }

    /// A reservation is kept while blocks of the extent wait for write-back, or a destage job works on it.
    /// Writes that are reserved and not yet in the cache count in `pending`.
    fn give_back(&mut self, volume: VolumeId, extent: u32) {
        let size = self.pool.extent_blocks();
        let blocks = u64::from(extent) * size..(u64::from(extent) + 1) * size;
        if !self.destager.is_busy(volume, extent)
            && !self.destager.is_promised(volume, extent)
            && self.cache(volume).dirty_in(blocks).is_empty()
        {
            self.pool.release(volume, extent);
            self.unmap_if_zero(volume, extent);
        }
    }

    /// Counts a write that is reserved and will come (or be given up): its reservation stays.
    pub fn promise(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        self.destager.promise(volume, blocks, self.pool.extent_blocks());
    }

    /// The promised write came or was given up.
    pub fn redeem(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        self.destager.redeem(volume, blocks, self.pool.extent_blocks());
    }

    /// May `count` more blocks of a volume become dirty? If not, try again after progress.
    pub fn room(&mut self, volume: VolumeId, count: u64) -> bool {
        self.volume(volume);
        self.shares.room(&mut self.volumes, volume, count as usize)
    }

    /// Is there place for `count` more dirty blocks of a volume beside those that are there? None of them goes alone.
    pub fn has_place(&mut self, volume: VolumeId, count: u64) -> bool {
        self.volume(volume);
        self.shares.has_place(&mut self.volumes, volume, count as usize)
    }

    /// Puts blocks into the cache, visible from now on; space must be reserved. Returns their version.
    pub fn write(&mut self, now: Instant, volume: VolumeId, first: u64, data: &[Block]) -> u64 {
        self.put(now, volume, data.len(), (first..).zip(data.iter().cloned()))
    }

    /// Makes blocks zero, visible from now on. Returns their version.
    pub fn zero(&mut self, now: Instant, volume: VolumeId, blocks: core::ops::Range<u64>) -> u64 {
        self.put(now, volume, blocks.clone().count(), blocks.map(|at| (at, Block::Zero)))
    }

    fn put(
        &mut self,
        now: Instant,
        id: VolumeId,
        count: usize,
        blocks: impl Iterator<Item = (u64, Block)>,
    ) -> u64 {
        let urges = self.urges;
        let mut volume = self.volume(id);
        if volume.cache.lacks_place(count) {
            self.shares.make_place(now, &mut self.volumes, id, count);
            volume = self.volume(id);
        }
        let version = volume.next_version(urges);
        for (at, block) in blocks {
            volume.cache.write(now, at, block, version);
        }
        self.shares.note(&mut self.volumes, id);
        version
    }

    /// Repairs blocks that could not be read, where nothing newer is cached.
    pub fn repair(&mut self, now: Instant, volume: VolumeId, first: u64, data: &[Block]) {
        for (at, block) in (first..).zip(data) {
            if self.cache(volume).peek(at).is_none() && self.pool.locate(volume, at).is_some() {
                self.put(now, volume, 1, core::iter::once((at, block.clone())));
            }
        }
    }

    /// What is written to these blocks stays in the cache until [`unpin`](Self::unpin).
    pub fn pin(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let cache = &mut self.volume(volume).cache;
        blocks.for_each(|block| cache.pin(block));
    }

    /// Ends one [`pin`](Self::pin).
    pub fn unpin(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let cache = &mut self.volume(volume).cache;
        blocks.for_each(|block| cache.unpin(block));
    }

    /// The version of the last write of a volume; zero if it has none in this life.
    pub fn version(&self, volume: VolumeId) -> u64 {
        self.cache(volume).version()
    }

    /// Every write of the volume up to this version is on stable media.
    pub fn stable_through(&self, volume: VolumeId) -> u64 {
        self.volumes.get(&volume).map_or(u64::MAX, |volume| volume.cache.stable_through())
    }

    /// Is every write of these blocks up to `version` on stable media?
    pub fn is_stable(&self, volume: VolumeId, blocks: core::ops::Range<u64>, version: u64) -> bool {
        self.cache(volume).is_stable(blocks, version)
    }

    /// Destage everything written so far now, not when it is old enough.
    pub fn urge(&mut self) {
        self.urges += 1;
    }

    /// From now on (or no longer) every write is destaged at once.
    pub fn set_eager(&mut self, eager: bool) {
        self.destager.set_eager(eager);
    }

    /// Starts what can be started. Call after every change and every [`io_done`](Self::io_done).
    pub fn pump(&mut self, now: Instant) {
        if self.failed() {
            return;
        }
        self.disks_grow();
        self.finish_mapped(now);
        self.purge_step();
        self.start_destage(now);
        self.evacuate(now);
        self.start_prepared(now);
        self.write_sums(now);
        self.start_flushes(now);
        while let Some(io) = self.pool.poll_io() {
            self.submit_to(io.disk, io.op, Purpose::Pool { token: io.token });
        }
    }

    /// When to call [`pump`](Self::pump) even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.failed() {
            return None;
        }
        let all = [self.next_destage(), self.sums.deadline(), self.next_move()];
        all.into_iter().flatten().min()
    }

    /// The next disk request.
    pub fn poll_io(&mut self) -> Option<DiskRequest> {
        self.out.pop_front()
    }

    /// The next finished read.
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        self.done.pop_front()
    }

    /// A disk request finished.
    pub fn io_done(&mut self, now: Instant, id: IoId, result: DiskResult) {
        let Some(purpose) = self.purposes.remove(&id) else { return };
        match purpose {
            Purpose::Pool { token } => {
                self.pool.expect_zeros(self.destager.jobs());
                self.pool.io_done(token, result);
            }
            Purpose::Read { token, part } => self.read_part_done(now, token, part, result),
            Purpose::Destage { volume, extent } => self.destage_write_done(now, volume, extent, result),
            Purpose::Gather { volume, extent, at, blocks } => {
                self.gathered(now, (volume, extent), at, blocks, result);
            }
            Purpose::Flush { disk } => self.flush_done(now, disk, result),
            Purpose::SumRead { key, tries } => self.sum_read_done(now, key, tries, result),
            Purpose::SumWrite { key } => self.sum_write_done(now, key, result),
        }
    }

    /// `disk` is a place of the pool.
    fn submit(&mut self, disk: DiskId, op: DiskOp, purpose: Purpose) {
        let device = self.pool.device(disk).expect("only disks that are there are asked");
        self.submit_to(device, op, purpose);
    }

    /// `disk` is one of the disks given.
    fn submit_to(&mut self, disk: DiskId, op: DiskOp, purpose: Purpose) {
        self.last_io += 1;
        let id = IoId(self.last_io);
        self.purposes.insert(id, purpose);
        self.out.push_back(DiskRequest { id, disk, op });
    }
}
