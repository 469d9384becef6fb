//! Between the data and its checksums: which record, page or flush has to come first.

use super::sums::{Claim, Damage, PageKey, SumCounters};
use super::{Purpose, Store};
use crate::format::sums::LINE_BLOCKS;
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskOp, DiskResult};
use crate::planted::Bug;
use crate::pool::{Lsn, Record};
use crate::time::Instant;

impl Store {
    /// What was done with block checksums in this life.
    pub fn sum_counters(&self) -> SumCounters {
        self.sums.counters()
    }

    /// Pages of checksums in memory, and how many there may be.
    pub fn sum_pages(&self) -> (usize, usize) {
        (self.sums.pages(), self.sums.pages_max())
    }

    /// Lines of checksums that are in doubt after a crash, or because they are damaged.
    pub fn sum_lines_in_doubt(&self) -> u64 {
        self.sums.doubtful()
    }

    /// Has the block that lies there a checksum that is not in doubt?
    pub fn is_beyond_doubt(&self, disk: DiskId, offset: u64) -> bool {
        self.sums.is_beyond_doubt(disk, offset)
    }

    /// The first extent from this one on with blocks that a crash has put in doubt.
    pub fn next_in_doubt(&self, from: (VolumeId, u32)) -> Option<(VolumeId, u32)> {
        self.sums.next_in_doubt(from)
    }

    /// Writes all checksums back, and goes on doing so at once: for a clean stop.
    pub fn close_sums(&mut self) {
        self.sums.close();
    }

    /// Are all checksums on stable media, and is that durable?
    pub fn are_sums_settled(&self) -> bool {
        self.sums.is_settled() && self.pool.durable() >= self.settled
    }

    /// From now on (or no longer) what is in doubt of a mirrored volume can be asked of the partner.
    pub fn ask_in_doubt(&mut self, ask: bool) {
        self.ask = ask;
    }

    /// The partner has no better copy of a block in doubt: the next read takes it as it is.
    pub fn trust(&mut self, volume: VolumeId, block: u64) {
        self.sums.trust(volume, block);
    }

    /// May the reader of this volume ask the partner what is in doubt?
    pub(super) fn may_ask(&self, volume: VolumeId) -> bool {
        self.ask && self.pool.metadata().volume(volume).is_some_and(|meta| meta.mirrored)
    }

    /// Blocks of these lines that read as zero are beyond doubt: nobody asks their sums before data come to them. What
    /// their extent says of zeros must be durable.
    pub(super) fn settle_zeros(&mut self, (volume, extent): (VolumeId, u32), blocks: core::ops::Range<u64>) {
        let Some(zeros) = self.pool.zeros(volume, extent) else { return };
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

    /// The same for blocks of a volume, where no job is about to change what reads as zero.
    pub(super) fn settle_zeros_of(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let size = self.pool.extent_blocks();
        let mut first = blocks.start;
        while self.sums.doubtful() > 0 && first < blocks.end {
            let (extent, end) = (first / size, blocks.end.min((first / size + 1) * size));
            let key = (volume, extent as u32);
            if !self.destager.is_busy(volume, key.1) {
                self.settle_zeros(key, first - extent * size..end - extent * size);
            }
            first = end;
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
        if self.planted.has(Bug::UnsureNotAwaited) { Lsn(0) } else { lsn }
    }

    /// A job's data is on stable media.
    pub(super) fn release_sums(&mut self, claim: &Claim) {
        let records = self.sums.release(claim, self.pool.metadata());
        self.settle_sums(&records);
    }

    /// The disk has flushed everything that was written when the flush began.
    pub(super) fn sums_flushed(&mut self, disk: DiskId) {
        let records = self.sums.flush_done(disk, self.pool.metadata());
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

    pub(super) fn sum_read_done(&mut self, now: Instant, key: PageKey, tries: u32, result: DiskResult) {
        match &result {
            Ok(read) if read.len() == 1 => self.sums.load_done(key, tries, Some(&read[0])),
            _ => self.sums.load_done(key, tries, None),
        }
        self.load_sums();
        self.verify_waiting(now);
        self.verify_gathered(now);
    }

    pub(super) fn sum_write_done(&mut self, now: Instant, key: PageKey, result: DiskResult) {
        if result.is_err() {
            self.failed = true;
            return;
        }
        self.sums.write_done(key);
        self.flush_later(now, key.0);
        self.recheck_written(now);
    }
}

/// Blocks of a read that cannot be had from here, and the others.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// All blocks of the read; those that are damaged are zero.
    pub found: crate::block::Payload,
    /// The newest version among them that is not stable.
    pub version: u64,
    /// The damaged ones, ascending.
    pub blocks: Vec<(u64, Damage)>,
}
