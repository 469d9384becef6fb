//! Write-back: dirty blocks → disk, an extent at a time, oldest first, merged into runs.
//!
//! A job on an extent goes: its checksums unsure, and that durable → write the runs → flush of the disk → stable. Where the
//! extent is new: write the runs and their checksums → flush → map it, the rest reading as zero → the map is durable →
//! stable. Where data come to blocks that read as zero, they cease to after the flush, in the same way. Zeros are not
//! written: that the blocks read as zero → durable → stable; or if all of the extent does: unmap it → durable → stable, and
//! the place is free. Jobs run beside each other, one per extent. An extent
//! that leaves its disk (`evacuate`) is read first, then goes the way of a new one; what it remembers as zero it keeps.

use super::Purpose;
use super::Store;
use super::base::Base;
use super::gather::PIECES_MAX;
use super::job::{Job, Stage};
use super::plan::{Plan, Zeros};
use super::sums::Address;
use super::volume::VolumeStore;
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskResult};
use crate::planted::Bug;
use crate::pool::{Lsn, Record, Slot};
use crate::time::Instant;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// An extent of a volume.
pub(super) type Key = (VolumeId, u32);

impl Store {
    /// Must the oldest dirty block go now?
    fn is_due(&self, now: Instant, volume: VolumeId, since: Instant) -> bool {
        self.base.eager
            || self.volumes.get(volume).is_some_and(|volume| volume.is_urged(self.bounds.urges()))
            || self.is_half_dirty()
            || now >= since + self.base.age
    }

    fn is_half_dirty(&self) -> bool {
        self.bounds.look().is_half_dirty()
    }

    pub(super) fn start_destage(&mut self, now: Instant) {
        self.feed_starved();
        while self.base.has_depth() {
            let Some((id, block, since)) = self.bounds.shares().oldest_dirty(self.volumes.map_mut()) else {
                break;
            };
            if !self.is_due(now, id, since) {
                break;
            }
            self.with(id, |volume, base| {
                volume.cache.pop_dirty();
                let extent = (block / base.pool.extent_blocks()) as u32;
                match volume.jobs.get_mut(&extent) {
                    // The next job of this extent takes it, with all others.
                    Some(job) => {
                        job.more.get_or_insert(since);
                    }
                    None => volume.start_job(base, now, extent),
                }
            });
        }
    }

    /// Starts the jobs whose checksums are ready.
    pub(super) fn start_prepared(&mut self, now: Instant) {
        if self.base.jobs.preparing.is_empty() {
            return;
        }
        let mut preparing = core::mem::take(&mut self.base.jobs.preparing);
        preparing.retain(|&((id, extent), _)| {
            !self.with(id, |volume, base| volume.start_writing(base, now, extent))
        });
        let jobs = &mut self.base.jobs;
        jobs.preparing.append(&mut preparing);
        jobs.moves_preparing = jobs.preparing.iter().filter(|(_, moves)| *moves).count();
    }

    pub(super) fn start_flushes(&mut self, now: Instant) {
        let (volumes, urges, pressed) = (&self.volumes, self.bounds.urges(), self.is_half_dirty());
        let urged = |id: VolumeId| volumes.get(id).is_some_and(|volume| volume.is_urged(urges));
        self.base.start_flushes(now, urged, pressed);
    }

    pub(super) fn flush_done(&mut self, now: Instant, disk: DiskId, result: DiskResult) {
        for (id, extent) in self.base.flush_done(disk, result) {
            self.with(id, |volume, base| volume.flushed(base, now, extent));
        }
    }

    /// Ends the jobs whose log record is durable.
    pub(super) fn finish_logged(&mut self, now: Instant) {
        while let Some((id, extent)) = self.base.next_logged() {
            self.with(id, |volume, base| volume.finish_job(base, now, extent));
        }
    }

    pub(super) fn next_destage(&self) -> Option<Instant> {
        let dirty =
            if self.base.has_depth() { self.bounds.look().next_dirty(self.volumes.map()) } else { None };
        let due = dirty.and_then(|(id, block, since)| {
            let extent = (block / self.base.pool.extent_blocks()) as u32;
            self.volumes.get(id).is_some_and(|volume| !volume.is_busy(extent)).then(|| since + self.base.age)
        });
        self.base.next_flush().into_iter().chain(due).min()
    }
}

impl VolumeStore {
    /// What was issued of these blocks is on stable media.
    fn stable(&mut self, now: Instant, blocks: Vec<u64>) {
        blocks.into_iter().for_each(|block| self.cache.stable(now, block));
    }

    fn start_job(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let size = base.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let blocks = self.cache.dirty_in(first..first + size);
        if let Some(place) = base.pool.place(self.id, first)
            && base.pool.is_shared(self.id, extent)
            && !base.has(Bug::SharedExtentOverwritten)
        {
            return self.write_shared(base, now, extent, place, blocks);
        }
        let contents: Vec<Block> = blocks.iter().map(|&block| self.cache.issue(block)).collect();
        let all_zero = contents.iter().all(|content| matches!(content, Block::Zero));
        match base.pool.place(self.id, first) {
            Some(place) => self.write_mapped(base, now, extent, place, (blocks, contents)),
            None if all_zero => {
                self.stable(now, blocks);
                self.give_back(base, extent);
            }
            None => self.write_new_extent(base, now, extent, blocks, contents),
        }
    }

    pub(super) fn write_mapped(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        (disk, offset): (DiskId, u64),
        (blocks, contents): (Vec<u64>, Vec<Block>),
    ) {
        if !self.is_promised(extent) {
            // It may have been shared when space was reserved for it.
            base.pool.release(self.id, extent);
        }
        let first = u64::from(extent) * base.pool.extent_blocks();
        let dirty = blocks.iter().map(|block| block - first).zip(contents);
        let remembers = base.remembers_zeros(self.id, extent);
        let used = base.pool.blocks_in(self.id, extent);
        let plan = Plan::mapped_extent(used, base.pool.zeros(self.id, extent), dirty, remembers);
        if plan.empties && !self.is_promised(extent) {
            return self.unmap(base, extent, Job::new(blocks, disk, None, Zeros::default()));
        }
        if plan.writes.is_empty() && plan.zeros.is_empty() {
            self.stable(now, blocks);
            return;
        }
        let job = Job::new(blocks, disk, None, plan.zeros);
        self.prepare(base, now, extent, job, offset, plan.writes);
    }

    /// Unmaps an extent with a job that has nothing to write.
    pub(super) fn unmap(&mut self, base: &mut Base, extent: u32, job: Job) {
        base.pool.release(self.id, extent);
        let lsn = base.pool.append(&[Record::Unmap { volume: self.id, extent }]);
        self.add_job(base, extent, Job { stage: Stage::Logging(lsn), redirects: false, ..job });
    }

    /// A write that kept an extent mapped was given up: if it reads as zero from end to end, its space is free.
    pub(super) fn unmap_if_zero(&mut self, base: &mut Base, extent: u32) {
        let size = base.pool.extent_blocks();
        if let Some((disk, _)) = base.pool.place(self.id, u64::from(extent) * size)
            && self.reads_as_zero(base, extent)
        {
            self.unmap(base, extent, Job::new(Vec::new(), disk, None, Zeros::default()));
        }
    }

    /// Does the map say so, of all of a mapped extent?
    fn reads_as_zero(&self, base: &Base, extent: u32) -> bool {
        let used = base.pool.blocks_in(self.id, extent);
        base.pool.zeros(self.id, extent).is_some_and(|bits| u64::from(bits.count(0..used as u32)) == used)
    }

    fn write_new_extent(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        blocks: Vec<u64>,
        contents: Vec<Block>,
    ) {
        if base.has(Bug::WriteWithoutSpace) && !base.pool.reserve(self.id, extent) {
            // The planted bug's loss: there is no place for data that was acknowledged.
            self.stable(Instant::ZERO, blocks);
            return;
        }
        let size = base.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let remembers = base.remembers_zeros(self.id, extent);
        let slot = base.pool.allocate(self.id, extent);
        let dirty = blocks.iter().map(|block| block - first).zip(contents);
        let mut plan = Plan::new_extent(size, dirty, remembers);
        if base.has(Bug::UnwrittenBlocksForgotten) {
            plan.zeros = Zeros::default();
        }
        let offset = base.pool.slot_offset(slot);
        let job = Job::new(blocks, slot.disk, Some(slot), plan.zeros);
        self.prepare(base, now, extent, job, offset, plan.writes);
    }

    /// Begins a job that writes runs of an extent that lies at byte `offset`: its checksums are made ready first. Without
    /// any, what remains is said in the log.
    pub(super) fn prepare(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        mut job: Job,
        offset: u64,
        runs: Vec<(u64, Payload)>,
    ) {
        if runs.is_empty() {
            job.stage = Stage::Logging(base.pool.append(&job.records((self.id, extent))));
            self.add_job(base, extent, job);
            return;
        }
        job.runs = runs;
        let places = job.runs.iter().map(|(first, data)| (offset + first * BLOCK, data.len() as u64 * BLOCK));
        job.claim = base.sums.claim(job.disk, places);
        let lsn = job.claim.as_ref().map_or(Lsn(0), |claim| base.guard(claim, job.slot.is_some()));
        base.guard_doubt((job.disk, offset), &job.doubtful);
        job.stage = Stage::Preparing(lsn);
        job.offset = offset;
        let moves = job.moves;
        self.add_job(base, extent, job);
        if !self.start_writing(base, now, extent) {
            base.jobs.preparing.push(((self.id, extent), moves));
            base.jobs.moves_preparing += usize::from(moves);
        }
    }

    /// All of an extent that leaves its disk has been read, and these are its new slot, the blocks that are dirty in
    /// the cache, and what to write, with what that changes of its zeros.
    pub(super) fn write_moved(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        slot: Slot,
        blocks: Vec<u64>,
        plan: Plan,
    ) {
        let job = self.jobs.remove(&extent).expect("its extent was read for it");
        base.jobs.count -= 1;
        let job = Job { blocks, disk: slot.disk, slot: Some(slot), zeros: plan.zeros, ..job };
        let offset = base.pool.slot_offset(slot);
        self.prepare(base, now, extent, job, offset, plan.writes);
    }

    /// Submits the writes of a job if it is ready, with its checksums set.
    fn start_writing(&mut self, base: &mut Base, now: Instant, extent: u32) -> bool {
        let durable = base.pool.durable();
        let job = self.jobs.get_mut(&extent).expect("a job that prepares");
        let Stage::Preparing(lsn) = job.stage else { return true };
        if lsn > durable || job.claim.as_ref().is_some_and(|claim| !base.sums.is_ready(claim)) {
            return false;
        }
        let (disk, offset, moves) = (job.disk, job.offset, job.moves);
        let mut runs = core::mem::take(&mut job.runs);
        job.stage = Stage::Writing(runs.len());
        if !moves {
            base.jobs.writes += runs.len();
        }
        if let Some(claim) = &job.claim {
            let start = u64::from(extent) * base.pool.extent_blocks();
            let (volume, family) = (self.id, base.pool.family(self.id));
            for (first, data) in &runs {
                base.sums.set_run(now, disk, offset + first * BLOCK, (family, start + first), data);
                let end = first + data.len() as u64;
                // Neither has a sum that matches, and what is in doubt is told from what is damaged.
                let here = |at: &&u64| (*first..end).contains(*at);
                let content = |at: u64| &data[(at - first) as usize];
                for at in job.spoiled.iter().filter(here) {
                    let (place, block) = ((disk, offset + at * BLOCK), start + at);
                    base.sums.spoil(now, place, Address { family, volume, block }, content(*at));
                }
                for at in job.doubtful.iter().filter(here) {
                    let (place, block) = ((disk, offset + at * BLOCK), start + at);
                    let address = Address { family, volume, block };
                    base.sums.put_in_doubt(now, place, (address, extent), content(*at));
                }
            }
            if job.slot.is_some() {
                base.sums.hurry(claim);
            }
        }
        if base.sums.doubtful() > 0 {
            for (first, data) in &runs {
                base.settle_zeros((self.id, extent), *first..first + data.len() as u64);
            }
        }
        if moves {
            let mut later = runs.split_off(runs.len().min(PIECES_MAX));
            later.reverse();
            job.runs = later;
        }
        runs.into_iter().for_each(|run| self.write_run(base, extent, (disk, offset), run));
        let early = [Bug::MapBeforeData, Bug::ZeroBitClearedBeforeData, Bug::EvacuatedWithoutFlush];
        if early.into_iter().any(|bug| base.has(bug)) {
            self.map_early(base, extent);
        }
        true
    }

    /// Submits a run of an extent that lies there.
    fn write_run(
        &self,
        base: &mut Base,
        extent: u32,
        (disk, offset): (DiskId, u64),
        (first, data): (u64, Payload),
    ) {
        let op = DiskOp::Write { offset: offset + first * BLOCK, data };
        base.submit(disk, op, Purpose::Destage { volume: self.id, extent });
    }

    pub(super) fn add_job(&mut self, base: &mut Base, extent: u32, job: Job) {
        if let Stage::Logging(lsn) = job.stage {
            base.jobs.logging.insert((lsn, (self.id, extent)));
        }
        base.jobs.count += 1;
        let before = self.jobs.insert(extent, job);
        assert!(before.is_none(), "one destage job per extent");
    }

    /// Three planted bugs: the map says so while the data are on the way.
    fn map_early(&mut self, base: &mut Base, extent: u32) {
        let job = self.jobs.get_mut(&extent).expect("just added");
        let bug = match job.slot {
            Some(_) if job.moves => Bug::EvacuatedWithoutFlush,
            Some(_) => Bug::MapBeforeData,
            None => Bug::ZeroBitClearedBeforeData,
        };
        if !base.has(bug) || matches!(job.stage, Stage::Logging(_)) {
            return;
        }
        let records = job.records((self.id, extent));
        (job.slot, job.zeros) = (None, Zeros::default());
        base.pool.append(&records);
    }

    pub(super) fn destage_write_done(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        result: DiskResult,
    ) {
        let job = self.jobs.get_mut(&extent).expect("a job lives until its writes have ended");
        base.jobs.writes -= usize::from(!job.moves);
        if result.is_err() {
            base.failed = true;
            return;
        }
        let Stage::Writing(left) = &mut job.stage else { return };
        *left -= 1;
        if *left == 0 {
            self.written(base, now, extent);
        } else if let Some(run) = job.runs.pop() {
            let place = (job.disk, job.offset);
            self.write_run(base, extent, place, run);
        }
    }

    /// A job's data is written; so must be the checksums of a new extent, before the flush that covers both.
    pub(super) fn written(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let job = self.jobs.get_mut(&extent).expect("a job that writes");
        let key = (self.id, extent);
        if job.slot.is_some() && job.claim.as_ref().is_some_and(|claim| !base.sums.is_written(claim)) {
            base.jobs.awaiting_sums.push(key);
            return;
        }
        job.stage = Stage::Written;
        base.await_flush(now, job.disk, key, job.moves);
    }

    /// A flush covers all that the job wrote.
    fn flushed(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let job = self.jobs.get_mut(&extent).expect("a job waits for its flush");
        let records = job.records((self.id, extent));
        if records.is_empty() {
            self.finish_job(base, now, extent);
            return;
        }
        let lsn = base.pool.append(&records);
        job.stage = Stage::Logging(lsn);
        base.jobs.logging.insert((lsn, (self.id, extent)));
    }

    pub(super) fn finish_job(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let job = self.jobs.remove(&extent).expect("a job ends once");
        base.jobs.count -= 1;
        base.jobs.redirects -= usize::from(job.redirects);
        if let Some(claim) = &job.claim {
            base.release_sums(claim);
        }
        self.stable(now, job.blocks);
        if let Some(since) = job.more {
            let size = base.pool.extent_blocks();
            let first = u64::from(extent) * size;
            if let Some(&block) = self.cache.dirty_in(first..first + size).first() {
                self.cache.push_dirty_front(block, since);
            }
        }
        if job.moves {
            base.move_ended((self.id, extent));
        }
        // A write that was given up meanwhile could not give its reservation back.
        if base.pool.has_reservation(self.id, extent) || self.reads_as_zero(base, extent) {
            self.give_back(base, extent);
        }
    }
}
