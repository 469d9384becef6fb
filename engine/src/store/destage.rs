//! Write-back: dirty blocks → disk, an extent at a time, oldest first, merged into runs.
//!
//! A job on an extent goes: its checksums unsure, and that durable → write the runs → flush of the disk → stable. Where the
//! extent is new: write the runs and their checksums → flush → map it, the rest reading as zero → the map is durable →
//! stable. Where data come to blocks that read as zero, they cease to after the flush, in the same way. Zeros are not
//! written: that the blocks read as zero → durable → stable; or if all of the extent does: unmap it → durable → stable, and
//! the place is free. Jobs run beside each other, one per extent. An extent
//! that leaves its disk (`evacuate`) is read first, then goes the way of a new one; what it remembers as zero it keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::evacuate::PIECES_MAX;
use super::plan::{Plan, Zeros};
use super::sums::Claim;
use super::{CacheConfig, Purpose, Store};
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskResult};
use crate::planted::Bug;
use crate::pool::{Lsn, Record, Slot};
use crate::time::{Duration, Instant};

/// A flush is started without being asked for when this many jobs wait for one.
const FLUSH_JOBS: usize = 16;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// An extent of a volume.
pub(super) type Key = (VolumeId, u32);

/// Where a job stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// The extent is read, to be moved.
    Gathering,
    /// Waits for its checksums' pages, and for this record, which says that they may be old.
    Preparing(Lsn),
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
    /// What the map says of zeros when the data are on stable media.
    zeros: Zeros,
    stage: Stage,
    /// The lines of checksums that it changes, if the disk has any.
    claim: Option<Claim>,
    /// What is still to be submitted: the first block, from the beginning of the extent, and the data. All of it while the
    /// job prepares; of a move, the rest while it writes, the next one last.
    runs: Vec<(u64, Payload)>,
    /// Where the extent lies, in bytes from the beginning of the disk.
    offset: u64,
    /// Blocks of the extent became dirty meanwhile, the first of them then.
    more: Option<Instant>,
    /// The extent leaves its disk.
    moves: bool,
}

impl Job {
    /// A job that moves an extent, before anything is written.
    pub(super) fn moving(disk: DiskId) -> Job {
        Job { stage: Stage::Gathering, moves: true, ..Job::new(Vec::new(), disk, None, Zeros::default()) }
    }

    fn new(blocks: Vec<u64>, disk: DiskId, slot: Option<Slot>, zeros: Zeros) -> Job {
        let (stage, claim, runs, offset, more) = (Stage::Written, None, Vec::new(), 0, None);
        Job { blocks, disk, slot, zeros, stage, claim, runs, offset, more, moves: false }
    }

    /// What is to be recorded when the data are on stable media.
    fn records(&self, (volume, extent): Key) -> Vec<Record> {
        let map = self.slot.map(|slot| Record::Map { volume, extent, slot });
        map.into_iter().chain(self.zeros.records(volume, extent)).collect()
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
    /// Jobs that prepare, and how many of them are moves.
    preparing: Vec<Key>,
    moves_preparing: usize,
    /// Jobs whose data are written and whose checksums must be too, for their extent is new.
    awaiting_sums: Vec<Key>,
    disks: Vec<DiskState>,
    promises: BTreeMap<Key, u32>,
    /// Writes in flight, but for those of moves: these have bounds of their own, and take nothing from the depth.
    writes: usize,
    depth: usize,
    age: Duration,
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
            preparing: Vec::new(),
            moves_preparing: 0,
            awaiting_sums: Vec::new(),
            disks: (0..disks).map(|_| DiskState::default()).collect(),
            promises: BTreeMap::new(),
            writes: 0,
            depth: config.destage_depth.max(1),
            age: config.destage_age,
            eager: false,
        }
    }

    /// Jobs in progress.
    pub(super) fn jobs(&self) -> u64 {
        self.jobs.len() as u64
    }

    fn has_room(&self) -> bool {
        self.writes + self.preparing.len() - self.moves_preparing < self.depth
    }

    pub(super) fn is_busy(&self, volume: VolumeId, extent: u32) -> bool {
        self.jobs.contains_key(&(volume, extent))
    }

    /// Does any job work on this volume?
    pub(super) fn works_on(&self, volume: VolumeId) -> bool {
        self.jobs.range((volume, 0)..=(volume, u32::MAX)).next().is_some()
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

    pub(super) fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }
}

impl Store {
    /// Must the oldest dirty block go now?
    fn is_due(&self, now: Instant, volume: VolumeId, since: Instant) -> bool {
        self.destager.eager
            || self.is_urged(volume)
            || self.is_half_dirty()
            || now >= since + self.destager.age
    }

    fn is_urged(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_some_and(|volume| volume.is_urged(self.urges))
    }

    fn is_half_dirty(&self) -> bool {
        self.shares.unstable_blocks() * 2 > self.shares.dirty_blocks_max()
    }

    /// What was issued of these blocks is on stable media.
    fn stable(&mut self, now: Instant, id: VolumeId, blocks: Vec<u64>) {
        let cache = &mut self.volume(id).cache;
        blocks.into_iter().for_each(|block| cache.stable(now, block));
        self.shares.note(&mut self.volumes, id);
    }

    pub(super) fn start_destage(&mut self, now: Instant) {
        while self.destager.has_room() {
            let Some((volume, block, since)) = self.shares.oldest_dirty(&mut self.volumes) else { break };
            if !self.is_due(now, volume, since) {
                break;
            }
            self.volume(volume).cache.pop_dirty();
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
        let cache = &mut self.volume(volume).cache;
        let blocks = cache.dirty_in(first..first + size);
        let contents: Vec<Block> = blocks.iter().map(|&block| cache.issue(block)).collect();
        let all_zero = contents.iter().all(|content| matches!(content, Block::Zero));
        match self.pool.place(volume, first) {
            Some((disk, offset)) => {
                self.write_mapped(now, (volume, extent), (disk, offset), (blocks, contents));
            }
            None if all_zero => {
                self.stable(now, volume, blocks);
                self.give_back(volume, extent);
            }
            None => self.write_new_extent(now, (volume, extent), blocks, contents),
        }
    }

    fn write_mapped(
        &mut self,
        now: Instant,
        (volume, extent): Key,
        (disk, offset): (DiskId, u64),
        (blocks, contents): (Vec<u64>, Vec<Block>),
    ) {
        let first = u64::from(extent) * self.pool.extent_blocks();
        let dirty = blocks.iter().map(|block| block - first).zip(contents);
        let remembers = self.remembers_zeros(volume, extent);
        let used = self.pool.blocks_in(volume, extent);
        let plan = Plan::mapped_extent(used, self.pool.zeros(volume, extent), dirty, remembers);
        if plan.empties && !self.destager.is_promised(volume, extent) {
            self.unmap(volume, extent, disk, blocks);
            return;
        }
        if plan.writes.is_empty() && plan.zeros.is_empty() {
            self.stable(now, volume, blocks);
            return;
        }
        let job = Job::new(blocks, disk, None, plan.zeros);
        self.prepare(now, (volume, extent), job, offset, plan.writes);
    }

    /// Each job on its way may be about to record zeros of its extent: there must be room for all of them.
    fn remembers_zeros(&self, volume: VolumeId, extent: u32) -> bool {
        self.pool.may_remember_zeros(volume, extent, self.destager.jobs.len() as u64)
    }

    fn unmap(&mut self, volume: VolumeId, extent: u32, disk: DiskId, blocks: Vec<u64>) {
        let lsn = self.pool.append(&[Record::Unmap { volume, extent }]);
        let job = Job { stage: Stage::Logging(lsn), ..Job::new(blocks, disk, None, Zeros::default()) };
        self.add_job(volume, extent, job);
    }

    /// A write that kept an extent mapped was given up: if it reads as zero from end to end, its space is free.
    pub(super) fn unmap_if_zero(&mut self, volume: VolumeId, extent: u32) {
        let size = self.pool.extent_blocks();
        let Some((disk, _)) = self.pool.place(volume, u64::from(extent) * size) else { return };
        let used = self.pool.blocks_in(volume, extent);
        let zeros = self.pool.zeros(volume, extent).map_or(0, |bits| bits.count(0..used as u32));
        if u64::from(zeros) == used {
            self.unmap(volume, extent, disk, Vec::new());
        }
    }

    fn write_new_extent(
        &mut self,
        now: Instant,
        (volume, extent): Key,
        blocks: Vec<u64>,
        contents: Vec<Block>,
    ) {
        if self.planted.has(Bug::WriteWithoutSpace) && !self.pool.reserve(volume, extent) {
            // The planted bug's loss: there is no place for data that was acknowledged.
            self.stable(Instant::ZERO, volume, blocks);
            return;
        }
        let size = self.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let remembers = self.remembers_zeros(volume, extent);
        let slot = self.pool.allocate(volume, extent);
        let dirty = blocks.iter().map(|block| block - first).zip(contents);
        let mut plan = Plan::new_extent(size, dirty, remembers);
        if self.planted.has(Bug::UnwrittenBlocksForgotten) {
            plan.zeros = Zeros::default();
        }
        let offset = self.pool.slot_offset(slot);
        let job = Job::new(blocks, slot.disk, Some(slot), plan.zeros);
        self.prepare(now, (volume, extent), job, offset, plan.writes);
    }

    /// Begins a job that writes runs of an extent that lies at byte `offset`: its checksums are made ready first. Without
    /// any, what remains is said in the log.
    fn prepare(&mut self, now: Instant, key: Key, mut job: Job, offset: u64, runs: Vec<(u64, Payload)>) {
        if runs.is_empty() {
            job.stage = Stage::Logging(self.pool.append(&job.records(key)));
            self.add_job(key.0, key.1, job);
            return;
        }
        job.runs = runs;
        let places = job.runs.iter().map(|(first, data)| (offset + first * BLOCK, data.len() as u64 * BLOCK));
        job.claim = self.sums.claim(job.disk, places);
        let lsn = job.claim.as_ref().map_or(Lsn(0), |claim| self.guard(claim, job.slot.is_some()));
        job.stage = Stage::Preparing(lsn);
        job.offset = offset;
        let moves = usize::from(job.moves);
        self.add_job(key.0, key.1, job);
        if !self.start_writing(now, key) {
            self.destager.preparing.push(key);
            self.destager.moves_preparing += moves;
        }
    }

    /// All of an extent that leaves its disk has been read, and these are its new slot, the blocks that are dirty in
    /// the cache, and what to write, with what that changes of its zeros.
    pub(super) fn write_moved(&mut self, now: Instant, key: Key, slot: Slot, blocks: Vec<u64>, plan: Plan) {
        let job = self.destager.jobs.remove(&key).expect("its extent was read for it");
        let job = Job { blocks, disk: slot.disk, slot: Some(slot), zeros: plan.zeros, ..job };
        let offset = self.pool.slot_offset(slot);
        self.prepare(now, key, job, offset, plan.writes);
    }

    /// Starts the jobs whose checksums are ready.
    pub(super) fn start_prepared(&mut self, now: Instant) {
        if self.destager.preparing.is_empty() {
            return;
        }
        let mut preparing = core::mem::take(&mut self.destager.preparing);
        preparing.retain(|key| !self.start_writing(now, *key));
        self.destager.preparing.append(&mut preparing);
        let Destager { preparing, jobs, .. } = &self.destager;
        self.destager.moves_preparing = preparing.iter().filter(|key| jobs[*key].moves).count();
    }

    /// Submits the writes of a job if it is ready, with its checksums set.
    fn start_writing(&mut self, now: Instant, key: Key) -> bool {
        let durable = self.pool.durable();
        let (volume, extent) = key;
        let job = self.destager.jobs.get_mut(&key).expect("a job that prepares");
        let Stage::Preparing(lsn) = job.stage else { return true };
        if lsn > durable || job.claim.as_ref().is_some_and(|claim| !self.sums.is_ready(claim)) {
            return false;
        }
        let (disk, offset, moves) = (job.disk, job.offset, job.moves);
        let mut runs = core::mem::take(&mut job.runs);
        job.stage = Stage::Writing(runs.len());
        if !moves {
            self.destager.writes += runs.len();
        }
        if let Some(claim) = &job.claim {
            let start = u64::from(extent) * self.pool.extent_blocks();
            for (first, data) in &runs {
                self.sums.set_run(now, disk, offset + first * BLOCK, (volume, start + first), data);
            }
            if job.slot.is_some() {
                self.sums.hurry(claim);
            }
        }
        if self.sums.doubtful() > 0 {
            for (first, data) in &runs {
                self.settle_zeros((volume, extent), *first..first + data.len() as u64);
            }
        }
        if moves {
            let mut later = runs.split_off(runs.len().min(PIECES_MAX));
            later.reverse();
            self.destager.jobs.get_mut(&key).expect("just looked at").runs = later;
        }
        runs.into_iter().for_each(|run| self.write_run(key, (disk, offset), run));
        let early = [Bug::MapBeforeData, Bug::ZeroBitClearedBeforeData, Bug::EvacuatedWithoutFlush];
        if early.into_iter().any(|bug| self.planted.has(bug)) {
            self.map_early(volume, extent);
        }
        true
    }

    /// Submits a run of an extent that lies there.
    fn write_run(&mut self, key: Key, (disk, offset): (DiskId, u64), (first, data): (u64, Payload)) {
        let op = DiskOp::Write { offset: offset + first * BLOCK, data };
        self.submit(disk, op, Purpose::Destage { volume: key.0, extent: key.1 });
    }

    pub(super) fn add_job(&mut self, volume: VolumeId, extent: u32, job: Job) {
        if let Stage::Logging(lsn) = job.stage {
            self.destager.logging.insert((lsn, (volume, extent)));
        }
        let before = self.destager.jobs.insert((volume, extent), job);
        assert!(before.is_none(), "one destage job per extent");
    }

    /// Three planted bugs: the map says so while the data are on the way.
    fn map_early(&mut self, volume: VolumeId, extent: u32) {
        let job = self.destager.jobs.get_mut(&(volume, extent)).expect("just added");
        let bug = match job.slot {
            Some(_) if job.moves => Bug::EvacuatedWithoutFlush,
            Some(_) => Bug::MapBeforeData,
            None => Bug::ZeroBitClearedBeforeData,
        };
        if !self.planted.has(bug) || matches!(job.stage, Stage::Logging(_)) {
            return;
        }
        let records = job.records((volume, extent));
        (job.slot, job.zeros) = (None, Zeros::default());
        self.pool.append(&records);
    }

    pub(super) fn destage_write_done(
        &mut self,
        now: Instant,
        volume: VolumeId,
        extent: u32,
        result: DiskResult,
    ) {
        let key = (volume, extent);
        let job = self.destager.jobs.get_mut(&key).expect("a job lives until its writes have ended");
        self.destager.writes -= usize::from(!job.moves);
        if result.is_err() {
            self.failed = true;
            return;
        }
        let Stage::Writing(left) = &mut job.stage else { return };
        *left -= 1;
        if *left == 0 {
            self.written(now, key);
        } else if let Some(run) = job.runs.pop() {
            let place = (job.disk, job.offset);
            self.write_run(key, place, run);
        }
    }

    /// A job's data is written; so must be the checksums of a new extent, before the flush that covers both.
    fn written(&mut self, now: Instant, key: Key) {
        let job = self.destager.jobs.get_mut(&key).expect("a job that writes");
        if job.slot.is_some() && job.claim.as_ref().is_some_and(|claim| !self.sums.is_written(claim)) {
            self.destager.awaiting_sums.push(key);
            return;
        }
        job.stage = Stage::Written;
        let disk = job.disk;
        self.destager.disks[disk.0 as usize].waiting.push(key);
        self.flush_later(now, disk);
    }

    /// A page of checksums is written.
    pub(super) fn recheck_written(&mut self, now: Instant) {
        for key in core::mem::take(&mut self.destager.awaiting_sums) {
            self.written(now, key);
        }
    }

    /// What has been written to this disk is flushed at the latest when it is old enough.
    pub(super) fn flush_later(&mut self, now: Instant, disk: DiskId) {
        self.destager.disks[disk.0 as usize].since.get_or_insert(now);
    }

    pub(super) fn start_flushes(&mut self, now: Instant) {
        for index in 0..self.destager.disks.len() {
            let (disk, id) = (&self.destager.disks[index], DiskId(index as u16));
            let sums = self.sums.has_written(id);
            if disk.flushing.is_some() || (disk.waiting.is_empty() && !sums) {
                continue;
            }
            let old = disk.since.is_some_and(|since| now >= since + self.destager.age);
            let wanted = self.destager.eager
                || old
                || disk.waiting.len() >= FLUSH_JOBS
                || (sums && self.sums.wants_flush())
                || disk.waiting.iter().any(|key| self.destager.jobs.get(key).is_some_and(|job| job.moves))
                || disk.waiting.iter().any(|&(volume, _)| self.is_urged(volume))
                || self.is_half_dirty();
            if wanted {
                let disk = &mut self.destager.disks[index];
                disk.since = None;
                disk.flushing = Some(core::mem::take(&mut disk.waiting));
                self.sums.flush_begun(id);
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
        self.sums_flushed(disk);
        for key in jobs {
            let job = self.destager.jobs.get_mut(&key).expect("a job waits for its flush");
            let records = job.records(key);
            if records.is_empty() {
                self.finish_job(now, key);
                continue;
            }
            let lsn = self.pool.append(&records);
            job.stage = Stage::Logging(lsn);
            self.destager.logging.insert((lsn, key));
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
        if let Some(claim) = &job.claim {
            self.release_sums(claim);
        }
        if let Some(since) = job.more {
            let size = self.pool.extent_blocks();
            let first = u64::from(key.1) * size;
            let cache = &mut self.volume(key.0).cache;
            job.blocks.iter().for_each(|&block| cache.stable(now, block));
            if let Some(&block) = cache.dirty_in(first..first + size).first() {
                cache.push_dirty_front(block, since);
            }
            self.shares.note(&mut self.volumes, key.0);
        } else {
            self.stable(now, key.0, job.blocks);
        }
        if job.moves {
            self.move_ended(key);
        }
    }

    /// Takes notice of disks that have joined.
    pub(super) fn disks_grow(&mut self) {
        let places = self.pool.disks().len();
        self.sums.disks_change(&self.pool);
        self.destager.disks.resize_with(places.max(self.destager.disks.len()), DiskState::default);
    }

    /// Is no flush of this disk in flight or due, and nothing of its checksums in use?
    pub(super) fn is_quiet(&self, disk: DiskId) -> bool {
        let state = &self.destager.disks[usize::from(disk.0)];
        state.flushing.is_none() && state.waiting.is_empty() && self.sums.is_quiet(disk)
    }

    /// A disk has left.
    pub(super) fn forget_disk(&mut self, disk: DiskId) {
        self.destager.disks[usize::from(disk.0)] = DiskState::default();
        self.sums.forget_disk(disk);
    }

    pub(super) fn next_destage(&self) -> Option<Instant> {
        let age = self.destager.age;
        let flush =
            self.destager.disks.iter().filter(|disk| disk.flushing.is_none()).filter_map(|disk| disk.since);
        let mut next = flush.min().map(|since| since + age);
        if self.destager.has_room()
            && let Some((volume, block, since)) = self.shares.next_dirty(&self.volumes)
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
