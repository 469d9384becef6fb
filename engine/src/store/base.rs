//! What all volumes of a node stand on: the pool, its checksums, the flushes of its disks, who asked which disk request,
//! and who waits for what of all that.
//!
//! A volume's store gets this as an argument where it needs it. Nothing here reaches into a volume's store: what concerns
//! one is handed back by name (`Key`), and `Store` routes it. Invariants:
//!
//! - A flush covers just the writes that had completed when it was submitted.
//! - A name is in one list of those that wait at most.
//! - A failed write or flush fails the store for good.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::destage::Key;
use super::evacuate::Evacuation;
use super::read::PartKey;
use super::sums::{Claim, PageKey, SumTable};
use super::{CacheConfig, Purpose};
use crate::format::sums::LINE_BLOCKS;
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskRequest, DiskResult, IoId};
use crate::planted::{Bug, Planted};
use crate::pool::{Lsn, Pool, Record};
use crate::time::{Duration, Instant};

/// A flush is started without being asked for when this many jobs wait for one.
const FLUSH_JOBS: usize = 16;

/// Most bytes of extents that are on their way to places of their own, unless it is one.
const REDIRECTED_BYTES_MAX: u64 = 32 << 20;

/// Jobs that a flush of one disk makes stable.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    /// Jobs that were written since the last flush was submitted, and since when; moves are told apart.
    waiting: Vec<(Key, bool)>,
    since: Option<Instant>,
    /// Jobs that the flush in flight covers.
    flushing: Option<Vec<(Key, bool)>>,
}

/// Jobs of all volumes that wait for something, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// In progress.
    pub(super) count: u64,
    /// Writes in flight, but for those of moves: these have bounds of their own, and take nothing from the depth.
    pub(super) writes: usize,
    /// Whose record is to be durable.
    pub(super) logging: BTreeSet<(Lsn, Key)>,
    /// Whose checksums are made ready, and how many of them are moves.
    pub(super) preparing: Vec<(Key, bool)>,
    pub(super) moves_preparing: usize,
    /// Whose data are written and whose checksums must be too, for their extent is new.
    pub(super) awaiting_sums: Vec<Key>,
    /// Those that give a shared extent a place of its own.
    pub(super) redirects: usize,
    /// Extents with zeros that need a place of their own and find none: their first dirty block, and since when. With
    /// the space that was free then.
    pub(super) starved: Vec<(Key, u64, Instant)>,
    pub(super) starved_at: [u64; 4],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) pool: Pool,
    pub(super) sums: SumTable,
    disks: Vec<DiskState>,
    pub(super) jobs: Jobs,
    pub(super) evacuation: Evacuation,
    /// Parts of reads whose checksums are on the way.
    pub(super) unread: Vec<PartKey>,
    purposes: BTreeMap<IoId, Purpose>,
    last_io: u64,
    out: VecDeque<DiskRequest>,
    pub(super) failed: bool,
    /// Can the partner be asked what is in doubt?
    pub(super) ask: bool,
    /// The last record that made checksums sure.
    settled: Lsn,
    pub(super) depth: usize,
    pub(super) age: Duration,
    pub(super) eager: bool,
    pub(super) planted: Planted,
}

impl Base {
    pub(super) fn new(mut pool: Pool, config: &CacheConfig, first_io: u64, planted: Planted) -> Base {
        pool.set_planted(planted);
        let sums = SumTable::new(&pool, config, planted);
        let leftovers = sums.leftovers(&pool);
        if !leftovers.is_empty() {
            pool.append(&leftovers);
        }
        Base {
            sums,
            disks: pool.disks().iter().map(|_| DiskState::default()).collect(),
            jobs: Jobs::default(),
            evacuation: Evacuation::default(),
            unread: Vec::new(),
            purposes: BTreeMap::new(),
            last_io: first_io,
            out: VecDeque::new(),
            failed: false,
            ask: false,
            settled: Lsn(0),
            depth: config.destage_depth.max(1),
            age: config.destage_age,
            eager: false,
            planted,
            pool,
        }
    }

    /// Has a disk failed?
    pub(super) fn has_failed(&self) -> bool {
        self.failed || self.pool.failed().is_some()
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.planted.has(bug)
    }

    /// `disk` is a place of the pool.
    pub(super) fn submit(&mut self, disk: DiskId, op: DiskOp, purpose: Purpose) {
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

    /// Submits what the pool itself asks of its disks.
    pub(super) fn submit_pool(&mut self) {
        while let Some(io) = self.pool.poll_io() {
            self.submit_to(io.disk, io.op, Purpose::Pool { token: io.token });
        }
    }

    pub(super) fn poll_io(&mut self) -> Option<DiskRequest> {
        self.out.pop_front()
    }

    /// Who asked this?
    pub(super) fn purpose_of(&mut self, id: IoId) -> Option<Purpose> {
        self.purposes.remove(&id)
    }

    /// May the destager begin another write?
    pub(super) fn has_depth(&self) -> bool {
        let preparing = self.jobs.preparing.len() - self.jobs.moves_preparing;
        self.jobs.writes + preparing < self.depth && self.jobs.redirects < self.redirects_max()
    }

    /// Most extents that are being read to get places of their own: so much memory do they take.
    fn redirects_max(&self) -> usize {
        (REDIRECTED_BYTES_MAX / (self.pool.extent_blocks() * 4096)).clamp(1, 8) as usize
    }

    /// Each job on its way may be about to record zeros of its extent: there must be room for all of them.
    pub(super) fn remembers_zeros(&self, volume: VolumeId, extent: u32) -> bool {
        self.pool.may_remember_zeros(volume, extent, self.jobs.count)
    }

    // Flushes of disks.

    /// A job is written to this disk, and stable when that has flushed.
    pub(super) fn await_flush(&mut self, now: Instant, disk: DiskId, key: Key, moves: bool) {
        self.disks[usize::from(disk.0)].waiting.push((key, moves));
        self.flush_later(now, disk);
    }

    /// What has been written to this disk is flushed at the latest when it is old enough.
    fn flush_later(&mut self, now: Instant, disk: DiskId) {
        self.disks[usize::from(disk.0)].since.get_or_insert(now);
    }

    /// Begins the flushes that are due, or that `wanted` asks for whom it knows.
    pub(super) fn start_flushes(&mut self, now: Instant, wanted: impl Fn(VolumeId) -> bool, pressed: bool) {
        for index in 0..self.disks.len() {
            let (disk, id) = (&self.disks[index], DiskId(index as u16));
            let sums = self.sums.has_written(id);
            if disk.flushing.is_some() || (disk.waiting.is_empty() && !sums) {
                continue;
            }
            let old = disk.since.is_some_and(|since| now >= since + self.age);
            let begins = self.eager
                || old
                || pressed
                || disk.waiting.len() >= FLUSH_JOBS
                || (sums && self.sums.wants_flush())
                || disk.waiting.iter().any(|&((volume, _), moves)| moves || wanted(volume));
            if begins {
                let disk = &mut self.disks[index];
                disk.since = None;
                disk.flushing = Some(core::mem::take(&mut disk.waiting));
                self.sums.flush_begun(id);
                self.submit(id, DiskOp::Flush, Purpose::Flush { disk: id });
            }
        }
    }

    /// A flush ended. Returns the jobs that it covers.
    pub(super) fn flush_done(&mut self, disk: DiskId, result: DiskResult) -> Vec<Key> {
        let state = &mut self.disks[usize::from(disk.0)];
        let jobs = state.flushing.take().unwrap_or_default();
        if result.is_err() {
            if self.planted.has(Bug::FailedFlushTrusted) {
                // The planted bug: as if the next attempt made up for the one that failed.
                state.waiting.splice(0..0, jobs);
            } else {
                self.failed = true;
            }
            return Vec::new();
        }
        let records = self.sums.flush_done(disk, self.pool.metadata());
        self.settle_sums(&records);
        jobs.into_iter().map(|(key, _)| key).collect()
    }

    /// When a disk is to be flushed at the latest.
    pub(super) fn next_flush(&self) -> Option<Instant> {
        let due = self.disks.iter().filter(|disk| disk.flushing.is_none()).filter_map(|disk| disk.since);
        due.min().map(|since| since + self.age)
    }

    /// Takes notice of disks that have joined.
    pub(super) fn disks_grow(&mut self) {
        let places = self.pool.disks().len();
        self.sums.disks_change(&self.pool);
        self.disks.resize_with(places.max(self.disks.len()), DiskState::default);
    }

    /// Is no flush of this disk in flight or due, and nothing of its checksums in use?
    pub(super) fn is_quiet(&self, disk: DiskId) -> bool {
        let state = &self.disks[usize::from(disk.0)];
        state.flushing.is_none() && state.waiting.is_empty() && self.sums.is_quiet(disk)
    }

    /// A disk has left.
    pub(super) fn forget_disk(&mut self, disk: DiskId) {
        self.disks[usize::from(disk.0)] = DiskState::default();
        self.sums.forget_disk(disk);
    }

    /// The next job whose record is durable.
    pub(super) fn next_logged(&mut self) -> Option<Key> {
        let durable = self.pool.durable();
        self.jobs.logging.first().filter(|(lsn, _)| *lsn <= durable)?;
        self.jobs.logging.pop_first().map(|(_, key)| key)
    }

    // Between the data and its checksums: which record, page or flush has to come first.

    /// Are all checksums on stable media, and is that durable?
    pub(super) fn are_sums_settled(&self) -> bool {
        self.sums.is_settled() && self.pool.durable() >= self.settled
    }

    /// May the reader of this volume ask the partner what is in doubt?
    pub(super) fn may_ask(&self, volume: VolumeId) -> bool {
        self.ask && self.pool.metadata().volume(volume).is_some_and(|meta| meta.mirrored)
    }

    /// Blocks of these lines that read as zero are beyond doubt: nobody asks their sums before data come to them. What
    /// their extent says of zeros must be durable.
    pub(super) fn settle_zeros(&mut self, (volume, extent): Key, blocks: core::ops::Range<u64>) {
        let Some(zeros) = self.pool.zeros(volume, extent).filter(|_| !self.pool.is_shared(volume, extent))
        else {
            return;
        };
        let first = u64::from(extent) * self.pool.extent_blocks();
        let line = LINE_BLOCKS as u64;
        for block in blocks.start / line * line..blocks.end.next_multiple_of(line) {
            if zeros.contains(block as u32)
                && let Some((disk, offset)) = self.pool.place(volume, first + block)
            {
                self.sums.forget_doubt(disk, offset);
            }
        }
    }

    /// Lines are about to change. Returns the record that must be durable before the data of a mapped extent does.
    pub(super) fn guard(&mut self, claim: &Claim, new: bool) -> Lsn {
        if new {
            self.sums.claim_new(claim);
        }
        let records = if new { Vec::new() } else { self.sums.make_unsure(claim, self.pool.metadata()) };
        let lsn = if records.is_empty() { Lsn(0) } else { self.pool.append(&records) };
        self.load_sums();
        if self.has(Bug::UnsureNotAwaited) { Lsn(0) } else { lsn }
    }

    /// What is in doubt of a new extent, which lies there, is so after a crash too. No need to wait: the map comes later.
    pub(super) fn guard_doubt(&mut self, place: (DiskId, u64), doubtful: &[u64]) {
        let records = self.sums.make_blocks_unsure(place, doubtful, self.pool.metadata());
        if !records.is_empty() {
            self.pool.append(&records);
        }
    }

    /// A job's data is on stable media.
    pub(super) fn release_sums(&mut self, claim: &Claim) {
        let records = self.sums.release(claim, self.pool.metadata());
        self.settle_sums(&records);
    }

    /// These lines are sure again.
    fn settle_sums(&mut self, records: &[Record]) {
        if !records.is_empty() {
            self.settled = self.pool.append(records);
        }
    }

    /// Asks for the pages that are wanted and not here.
    pub(super) fn load_sums(&mut self) {
        while let Some((key, offset, tries)) = self.sums.next_load() {
            self.submit(key.0, DiskOp::Read { offset, blocks: 1 }, Purpose::SumRead { key, tries });
        }
    }

    /// Writes the pages whose time has come.
    pub(super) fn write_sums(&mut self, now: Instant) {
        while let Some((key, offset, block)) = self.sums.next_write(now, self.pool.metadata()) {
            let data = smallvec::smallvec![block];
            self.submit(key.0, DiskOp::Write { offset, data }, Purpose::SumWrite { key });
        }
    }

    /// A page of checksums has come: those who wait for one look again.
    pub(super) fn sum_read_done(&mut self, key: PageKey, tries: u32, result: &DiskResult) {
        match result {
            Ok(read) if read.len() == 1 => self.sums.load_done(key, tries, Some(&read[0])),
            _ => self.sums.load_done(key, tries, None),
        }
        self.load_sums();
    }

    /// A page of checksums is written. Returns the jobs that look whether it was theirs.
    pub(super) fn sum_write_done(&mut self, now: Instant, key: PageKey, result: &DiskResult) -> Vec<Key> {
        if result.is_err() {
            self.failed = true;
            return Vec::new();
        }
        self.sums.write_done(key);
        self.flush_later(now, key.0);
        core::mem::take(&mut self.jobs.awaiting_sums)
    }
}
