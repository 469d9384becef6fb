//! Write-back: dirty blocks → disk, an extent at a time, oldest first, merged into runs.
//!
//! A job on an extent goes: write the runs → flush of the disk → stable. Where the extent is new: write all of
//! it (zeros where nothing was written) → flush → map it → the map is durable → stable. Where all of it is
//! zero: unmap it → durable → stable, and the place is free. Jobs run beside each other, one per extent. An extent
//! that leaves its disk (`evacuate`) is read first, then goes the way of a new one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Purpose, Store};
use crate::block::{Block, Payload, zeros};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskResult};
use crate::node::config::CacheConfig;
use crate::planted::Bug;
use crate::pool::{Lsn, Record, Slot};
use crate::time::{Duration, Instant};

/// Longest single write of the destager, in blocks (1 MiB).
const RUN_BLOCKS_MAX: usize = 256;
/// A flush is started without being asked for when this many jobs wait for one.
const FLUSH_JOBS: usize = 16;

/// An extent of a volume.
pub(super) type Key = (VolumeId, u32);

/// Where a job stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// The extent is read, to be moved.
    Gathering,
    /// This many writes have not completed.
    Writing(usize),
    /// The data is written and waits for a flush of this disk.
    Written,
    /// Its map entry, or its removal, is durable when the log is.
    Logging(Lsn),
}

#[derive(Debug)]
pub(super) struct Job {
    blocks: Vec<u64>,
    disk: DiskId,
    /// The new place, until it is mapped.
    slot: Option<Slot>,
    stage: Stage,
    /// Blocks of the extent became dirty meanwhile, the first of them then.
    more: Option<Instant>,
    /// The extent leaves its disk.
    moves: bool,
}

impl Job {
    /// A job that moves an extent, before anything is written.
    pub(super) fn new(disk: DiskId, stage: Stage) -> Job {
        Job { blocks: Vec::new(), disk, slot: None, stage, more: None, moves: true }
    }
}

#[derive(Debug, Default)]
struct DiskState {
    /// Jobs that were written since the last flush was submitted, and since when.
    waiting: Vec<Key>,
    since: Option<Instant>,
    /// Jobs that the flush in flight covers.
    flushing: Option<Vec<Key>>,
}

/// State of the write-back.
#[derive(Debug)]
pub(super) struct Destager {
    jobs: BTreeMap<Key, Job>,
    logging: BTreeSet<(Lsn, Key)>,
    disks: Vec<DiskState>,
    promises: BTreeMap<Key, u32>,
    writes: usize,
    depth: usize,
    age: Duration,
    urged: u64,
    eager: bool,
}

fn extents(blocks: core::ops::Range<u64>, size: u64) -> core::ops::RangeInclusive<u64> {
    blocks.start / size..=(blocks.end - 1) / size
}

impl Destager {
    pub(super) fn new(config: &CacheConfig, disks: usize) -> Destager {
        Destager {
            jobs: BTreeMap::new(),
            logging: BTreeSet::new(),
            disks: (0..disks).map(|_| DiskState::default()).collect(),
            promises: BTreeMap::new(),
            writes: 0,
            depth: config.destage_depth.max(1),
            age: config.destage_age,
            urged: 0,
            eager: false,
        }
    }

    pub(super) fn is_busy(&self, volume: VolumeId, extent: u32) -> bool {
        self.jobs.contains_key(&(volume, extent))
    }

    /// Is a new place being made for this extent? It needs no reservation any more.
    pub(super) fn is_allocating(&self, volume: VolumeId, extent: u32) -> bool {
        self.jobs.get(&(volume, extent)).is_some_and(|job| job.slot.is_some())
    }

    pub(super) fn is_promised(&self, volume: VolumeId, extent: u32) -> bool {
        self.promises.contains_key(&(volume, extent))
    }

    pub(super) fn promise(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, size: u64) {
        for extent in extents(blocks, size) {
            *self.promises.entry((volume, extent as u32)).or_default() += 1;
        }
    }

    pub(super) fn redeem(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, size: u64) {
        for extent in extents(blocks, size) {
            let key = (volume, extent as u32);
            let count = self.promises.get_mut(&key).expect("redeem follows promise");
            *count -= 1;
            if *count == 0 {
                self.promises.remove(&key);
            }
        }
    }

    pub(super) fn urge(&mut self, version: u64) {
        self.urged = self.urged.max(version);
    }

    pub(super) fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }
}

impl Store {
    /// Must the oldest dirty block go now?
    fn is_due(&self, now: Instant, volume: VolumeId, since: Instant) -> bool {
        self.destager.eager
            || self.is_urged(volume)
            || self.cache.unstable_blocks() * 2 > self.cache.dirty_blocks_max()
            || now >= since + self.destager.age
    }

    fn is_urged(&self, volume: VolumeId) -> bool {
        self.destager.urged > 0 && self.cache.stable_through(volume) < self.destager.urged
    }

    pub(super) fn start_destage(&mut self, now: Instant) {
        while self.destager.writes < self.destager.depth {
            let Some((volume, block, since)) = self.cache.oldest_dirty() else { break };
            if !self.is_due(now, volume, since) {
                break;
            }
            self.cache.pop_dirty();
            let extent = (block / self.pool.extent_blocks()) as u32;
            match self.destager.jobs.get_mut(&(volume, extent)) {
                // The next job of this extent takes it, with all others.
                Some(job) => {
                    job.more.get_or_insert(since);
                }
                None => self.start_job(now, volume, extent),
            }
        }
    }

    fn start_job(&mut self, now: Instant, volume: VolumeId, extent: u32) {
        let size = self.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let blocks = self.cache.dirty_in(volume, first..first + size);
        let contents: Vec<Block> = blocks.iter().map(|&block| self.cache.issue(volume, block)).collect();
        let all_zero = contents.iter().all(|content| matches!(content, Block::Zero));
        match self.pool.locate(volume, first) {
            Some((disk, _))
                if all_zero && blocks.len() as u64 == size && !self.destager.is_promised(volume, extent) =>
            {
                let lsn = self.pool.append(&[Record::Unmap { volume, extent }]);
                self.add_job(
                    volume,
                    extent,
                    Job { blocks, disk, slot: None, stage: Stage::Logging(lsn), more: None, moves: false },
                );
            }
            Some((disk, offset)) => {
                let runs = runs(&blocks, contents, first, offset);
                self.write_runs(
                    volume,
                    extent,
                    Job { blocks, disk, slot: None, stage: Stage::Written, more: None, moves: false },
                    runs,
                );
            }
            None if all_zero => {
                for block in blocks {
                    self.cache.stable(now, volume, block);
                }
                self.give_back(volume, extent);
            }
            None => self.write_new_extent(volume, extent, blocks, contents),
        }
    }

    fn write_new_extent(&mut self, volume: VolumeId, extent: u32, blocks: Vec<u64>, contents: Vec<Block>) {
        if self.planted.has(Bug::WriteWithoutSpace) && !self.pool.reserve(volume, extent) {
            // The planted bug's loss: there is no place for data that was acknowledged.
            for block in blocks {
                self.cache.stable(Instant::ZERO, volume, block);
            }
            return;
        }
        let size = self.pool.extent_blocks();
        let slot = self.pool.allocate(volume, extent);
        let mut data = zeros(size as usize);
        for (&block, content) in blocks.iter().zip(contents) {
            data[(block % size) as usize] = content;
        }
        let offset = self.pool.slot_offset(slot);
        let job = Job {
            blocks,
            disk: slot.disk,
            slot: Some(slot),
            stage: Stage::Written,
            more: None,
            moves: false,
        };
        self.write_runs(volume, extent, job, vec![(offset, data)]);
    }

    /// All of an extent that leaves its disk has been read, and these are its new slot, the blocks that are dirty in
    /// the cache, and its contents.
    pub(super) fn write_moved(&mut self, key: Key, slot: Slot, blocks: Vec<u64>, runs: Vec<(u64, Payload)>) {
        let job = self.destager.jobs.remove(&key).expect("its extent was read for it");
        let job = Job { blocks, disk: slot.disk, slot: Some(slot), ..job };
        self.write_runs(key.0, key.1, job, runs);
        if self.planted.has(Bug::EvacuatedWithoutFlush) {
            let job = self.destager.jobs.get_mut(&key).expect("just added");
            job.slot = None;
            self.pool.append(&[Record::Map { volume: key.0, extent: key.1, slot }]);
        }
    }

    fn write_runs(&mut self, volume: VolumeId, extent: u32, mut job: Job, runs: Vec<(u64, Payload)>) {
        job.stage = Stage::Writing(runs.len());
        self.destager.writes += runs.len();
        let disk = job.disk;
        self.add_job(volume, extent, job);
        for (offset, data) in runs {
            self.submit(disk, DiskOp::Write { offset, data }, Purpose::Destage { volume, extent });
        }
        if self.planted.has(Bug::MapBeforeData) {
            self.map_early(volume, extent);
        }
    }

    pub(super) fn add_job(&mut self, volume: VolumeId, extent: u32, job: Job) {
        if let Stage::Logging(lsn) = job.stage {
            self.destager.logging.insert((lsn, (volume, extent)));
        }
        let before = self.destager.jobs.insert((volume, extent), job);
        assert!(before.is_none(), "one destage job per extent");
    }

    /// The planted bug: a new extent is mapped while its data is on the way.
    fn map_early(&mut self, volume: VolumeId, extent: u32) {
        let job = self.destager.jobs.get_mut(&(volume, extent)).expect("just added");
        if let Some(slot) = job.slot.take() {
            self.pool.append(&[Record::Map { volume, extent, slot }]);
        }
    }

    pub(super) fn destage_write_done(
        &mut self,
        now: Instant,
        volume: VolumeId,
        extent: u32,
        result: DiskResult,
    ) {
        self.destager.writes -= 1;
        if result.is_err() {
            self.failed = true;
            return;
        }
        let key = (volume, extent);
        let Some(job) = self.destager.jobs.get_mut(&key) else { return };
        let Stage::Writing(left) = &mut job.stage else { return };
        *left -= 1;
        if *left == 0 {
            job.stage = Stage::Written;
            let disk = &mut self.destager.disks[job.disk.0 as usize];
            disk.waiting.push(key);
            disk.since.get_or_insert(now);
        }
    }

    pub(super) fn start_flushes(&mut self, now: Instant) {
        for index in 0..self.destager.disks.len() {
            let disk = &self.destager.disks[index];
            if disk.flushing.is_some() || disk.waiting.is_empty() {
                continue;
            }
            let old = disk.since.is_some_and(|since| now >= since + self.destager.age);
            let wanted = self.destager.eager
                || old
                || disk.waiting.len() >= FLUSH_JOBS
                || disk.waiting.iter().any(|key| self.destager.jobs.get(key).is_some_and(|job| job.moves))
                || disk.waiting.iter().any(|&(volume, _)| self.is_urged(volume))
                || self.cache.unstable_blocks() * 2 > self.cache.dirty_blocks_max();
            if wanted {
                let disk = &mut self.destager.disks[index];
                disk.since = None;
                disk.flushing = Some(core::mem::take(&mut disk.waiting));
                let id = DiskId(index as u16);
                self.submit(id, DiskOp::Flush, Purpose::Flush { disk: id });
            }
        }
    }

    pub(super) fn flush_done(&mut self, now: Instant, disk: DiskId, result: DiskResult) {
        let jobs = self.destager.disks[disk.0 as usize].flushing.take().unwrap_or_default();
        if result.is_err() {
            if self.planted.has(Bug::FailedFlushTrusted) {
                // The planted bug: as if the next attempt made up for the one that failed.
                self.destager.disks[disk.0 as usize].waiting.splice(0..0, jobs);
                return;
            }
            self.failed = true;
            return;
        }
        for key in jobs {
            let job = self.destager.jobs.get_mut(&key).expect("a job waits for its flush");
            match job.slot {
                Some(slot) => {
                    let (volume, extent) = key;
                    let lsn = self.pool.append(&[Record::Map { volume, extent, slot }]);
                    job.stage = Stage::Logging(lsn);
                    self.destager.logging.insert((lsn, key));
                }
                None => self.finish_job(now, key),
            }
        }
    }

    /// Ends the jobs whose log record is durable.
    pub(super) fn finish_mapped(&mut self, now: Instant) {
        let durable = self.pool.durable();
        while let Some(&(lsn, key)) = self.destager.logging.first() {
            if lsn > durable {
                break;
            }
            self.destager.logging.pop_first();
            self.finish_job(now, key);
        }
    }

    pub(super) fn finish_job(&mut self, now: Instant, key: Key) {
        let job = self.destager.jobs.remove(&key).expect("a job ends once");
        for block in job.blocks {
            self.cache.stable(now, key.0, block);
        }
        if let Some(since) = job.more {
            let size = self.pool.extent_blocks();
            let first = u64::from(key.1) * size;
            if let Some(&block) = self.cache.dirty_in(key.0, first..first + size).first() {
                self.cache.push_dirty_front(key.0, block, since);
            }
        }
        if job.moves {
            self.move_ended(key);
        }
    }

    /// A disk has been added.
    pub(super) fn disks_grow(&mut self) {
        let places = self.pool.disks().len();
        self.destager.disks.resize_with(places.max(self.destager.disks.len()), DiskState::default);
    }

    /// Is no flush of this disk in flight or due?
    pub(super) fn is_quiet(&self, disk: DiskId) -> bool {
        let state = &self.destager.disks[usize::from(disk.0)];
        state.flushing.is_none() && state.waiting.is_empty()
    }

    pub(super) fn next_destage(&self) -> Option<Instant> {
        let age = self.destager.age;
        let flush =
            self.destager.disks.iter().filter(|disk| disk.flushing.is_none()).filter_map(|disk| disk.since);
        let mut next = flush.min().map(|since| since + age);
        if self.destager.writes < self.destager.depth
            && let Some((volume, block, since)) = self.cache.next_dirty()
        {
            let extent = (block / self.pool.extent_blocks()) as u32;
            if !self.destager.is_busy(volume, extent) {
                let due = since + age;
                next = Some(next.map_or(due, |at| at.min(due)));
            }
        }
        next
    }
}

/// Joins neighbouring blocks into runs: (byte offset on disk, data).
fn runs(blocks: &[u64], contents: Vec<Block>, first: u64, offset: u64) -> Vec<(u64, Payload)> {
    let mut runs: VecDeque<(u64, u64, Payload)> = VecDeque::new();
    for (&block, content) in blocks.iter().zip(contents) {
        match runs.back_mut() {
            Some((_, next, data)) if *next == block && data.len() < RUN_BLOCKS_MAX => {
                data.push(content);
                *next += 1;
            }
            _ => runs.push_back((block, block + 1, smallvec::smallvec![content])),
        }
    }
    runs.into_iter().map(|(block, _, data)| (offset + (block - first) * 4096, data)).collect()
}
