//! The way of changed lines to disk, and of lines into the unsure set and out of it.
//!
//! A page is written as a whole, one write of it in flight at a time. What a write and a flush then cover is noted line
//! by line: lines that a job has touched meanwhile stay unsure until the next write.

use smallvec::SmallVec;

use super::page::Lines;
use super::{PageKey, SumTable};
use crate::block::{BLOCK_BYTES, Block};
use crate::format::sums::PAGE_LINES;
use crate::ids::DiskId;
use crate::planted::Bug;
use crate::pool::{Metadata, Record};
use crate::time::Instant;

/// Most page writes in flight.
const WRITES_MAX: usize = 16;
/// Most changed pages looked at in search of one to write.
const LOOKS_MAX: usize = 64;
/// All lines of a page.
const ALL: Lines = u64::MAX >> (64 - PAGE_LINES);

/// The lines that a job of the destager changes.
#[derive(Clone, Debug)]
pub(in crate::store) struct Claim {
    disk: DiskId,
    pages: SmallVec<[(u64, Lines); 2]>,
}

/// Pages of one disk that were written, and those that the flush in flight covers.
#[derive(Debug, Default)]
pub(super) struct DiskWrites {
    written: Vec<u64>,
    flushing: Vec<u64>,
}

impl SumTable {
    /// A job begins that changes the data of these runs (byte offset, bytes): their lines are kept at hand, and stay
    /// unsure, until [`release`](Self::release).
    pub(in crate::store) fn claim(
        &mut self,
        disk: DiskId,
        runs: impl Iterator<Item = (u64, u64)>,
    ) -> Option<Claim> {
        let area = self.area(disk)?;
        let mut claim = Claim { disk, pages: SmallVec::new() };
        for (offset, bytes) in runs {
            for (number, lines) in SumTable::spread(area.lines_of(offset, bytes)) {
                match claim.pages.last_mut() {
                    Some((last, all)) if *last == number => *all |= lines,
                    _ => claim.pages.push((number, lines)),
                }
            }
        }
        for &(number, lines) in &claim.pages {
            self.page((disk, number)).busy |= lines;
        }
        Some(claim)
    }

    /// The claim is for a new extent: whatever its lines say now is of an earlier one. Pages that it fills need not be
    /// read.
    pub(in crate::store) fn claim_new(&mut self, claim: &Claim) {
        for &(number, lines) in &claim.pages {
            let page = self.page((claim.disk, number));
            page.loaded |= lines == ALL;
            page.clear(lines);
        }
        for line in claim.lines() {
            self.doubt.forget(claim.disk, line);
        }
    }

    /// Records that make the lines unsure that are not.
    pub(in crate::store) fn make_unsure(&mut self, claim: &Claim, metadata: &Metadata) -> Vec<Record> {
        self.unsure_records(claim.disk, claim.lines(), metadata)
    }

    /// Records that make the lines unsure that have these blocks, of an extent that lies at byte `offset`.
    pub(in crate::store) fn make_blocks_unsure(
        &mut self,
        (disk, offset): (DiskId, u64),
        blocks: &[u64],
        metadata: &Metadata,
    ) -> Vec<Record> {
        let Some(area) = self.area(disk) else { return Vec::new() };
        let mut lines: Vec<u64> =
            blocks.iter().map(|block| area.place(offset + block * BLOCK_BYTES as u64).0).collect();
        lines.dedup();
        self.unsure_records(disk, lines.into_iter(), metadata)
    }

    fn unsure_records(
        &mut self,
        disk: DiskId,
        lines: impl Iterator<Item = u64>,
        metadata: &Metadata,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        for line in lines.filter(|line| !metadata.is_unsure(disk, *line)) {
            self.counters.unsure += 1;
            match records.last_mut() {
                Some(Record::UnsureAdd { first, count, .. }) if *first + u64::from(*count) == line => {
                    *count += 1;
                }
                _ => records.push(Record::UnsureAdd { disk, first: line, count: 1 }),
            }
        }
        records
    }

    /// May the claimed lines be changed now: are their pages here, and not too many others changed?
    pub(in crate::store) fn is_ready(&self, claim: &Claim) -> bool {
        let crowded = self.changed.len() >= self.changed_max();
        claim.pages.iter().all(|&(number, _)| {
            let page = &self.pages[&(claim.disk, number)];
            page.loaded && (!crowded || page.unflushed() != 0)
        })
    }

    /// Most pages that may be changed and not on stable media: so the unsure set is bounded.
    fn changed_max(&self) -> usize {
        self.pages_max / 2
    }

    /// The claimed lines were set, for an extent that is not mapped before they are on stable media.
    pub(in crate::store) fn hurry(&mut self, claim: &Claim) {
        for &(number, lines) in &claim.pages {
            let key = (claim.disk, number);
            self.page(key).fresh |= lines;
            self.urgent.insert(key);
        }
    }

    /// Have the claimed lines been written, though not flushed?
    pub(in crate::store) fn is_written(&self, claim: &Claim) -> bool {
        let careless = self.planted.has(Bug::MappedBeforeSums);
        careless
            || claim.pages.iter().all(|&(number, lines)| self.pages[&(claim.disk, number)].fresh & lines == 0)
    }

    /// The job's data is on stable media. Returns what that makes sure.
    pub(in crate::store) fn release(&mut self, claim: &Claim, metadata: &Metadata) -> Vec<Record> {
        let mut records = Vec::new();
        for &(number, lines) in &claim.pages {
            let key = (claim.disk, number);
            let page = self.pages.get_mut(&key).expect("a claimed page stays");
            page.busy &= !lines;
            self.settle(key, lines, metadata, &mut records);
        }
        records
    }

    /// Of these lines, those are sure again that are on stable media as they are here, if nothing of them is in doubt.
    fn settle(&self, key: PageKey, lines: Lines, metadata: &Metadata, records: &mut Vec<Record>) {
        let page = &self.pages[&key];
        let settled = lines & !(page.unflushed() | page.busy | page.fresh);
        for at in (0..PAGE_LINES as u64).filter(|at| settled >> at & 1 == 1) {
            let line = key.1 * PAGE_LINES as u64 + at;
            if !metadata.is_unsure(key.0, line) || self.doubt.has_line(key.0, line) {
                continue;
            }
            match records.last_mut() {
                Some(Record::UnsureRemove { disk, first, count })
                    if *disk == key.0 && *first + u64::from(*count) == line =>
                {
                    *count += 1;
                }
                _ => records.push(Record::UnsureRemove { disk: key.0, first: line, count: 1 }),
            }
        }
    }

    /// The next page to write, if it is time for one.
    pub(in crate::store) fn next_write(
        &mut self,
        now: Instant,
        metadata: &Metadata,
    ) -> Option<(PageKey, u64, Block)> {
        if self.writes >= WRITES_MAX {
            return None;
        }
        let key = self.next_urgent().or_else(|| self.next_due(now))?;
        Some((key, self.offset(key), self.begin_write(now, key, metadata)))
    }

    fn next_urgent(&mut self) -> Option<PageKey> {
        loop {
            let key = self.urgent.iter().find(|key| !self.pages[*key].in_flight).copied()?;
            self.urgent.remove(&key);
            let page = &self.pages[&key];
            if page.fresh & page.dirty != 0 {
                return Some(key);
            }
        }
    }

    fn next_due(&mut self, now: Instant) -> Option<PageKey> {
        let pressed = self.is_pressed();
        let mut found = None;
        let mut later: SmallVec<[PageKey; 8]> = SmallVec::new();
        for &(since, key) in self.changed.iter().take(LOOKS_MAX) {
            let page = &self.pages[&key];
            if !pressed && now < since + self.idle_after {
                break;
            }
            if page.in_flight || page.dirty & !page.busy == 0 {
                continue;
            }
            if !pressed && now < page.changed_at + self.idle_after {
                later.push(key);
                continue;
            }
            found = Some(key);
            break;
        }
        for key in later {
            let at = self.pages[&key].changed_at;
            self.requeue(key, at);
        }
        found
    }

    fn requeue(&mut self, key: PageKey, at: Instant) {
        let page = self.pages.get_mut(&key).expect("a changed page stays");
        self.changed.remove(&(page.queued_at, key));
        page.queued_at = at;
        self.changed.insert((at, key));
    }

    fn is_pressed(&self) -> bool {
        self.closing || self.changed.len() * 2 > self.changed_max()
    }

    fn begin_write(&mut self, now: Instant, key: PageKey, metadata: &Metadata) -> Block {
        let (seed, first) = (self.seed(key.0), key.1 * PAGE_LINES as u64);
        let void = (0..PAGE_LINES as u64)
            .filter(|at| self.doubt.has_line(key.0, first + at) && !metadata.is_unsure(key.0, first + at))
            .fold(0, |void, at| void | 1 << at);
        self.requeue(key, now);
        let page = self.pages.get_mut(&key).expect("a changed page stays");
        let mut buffer = self.buffers.take();
        buffer.bytes_mut().copy_from_slice(page.seal(seed, first, void));
        page.writing = page.dirty & (!page.busy | page.fresh);
        page.dirty &= !page.writing;
        page.in_flight = true;
        self.writes += 1;
        self.counters.page_writes += 1;
        Block::Data(buffer.freeze())
    }

    /// A page is written.
    pub(in crate::store) fn write_done(&mut self, key: PageKey) {
        let page = self.pages.get_mut(&key).expect("a page being written stays");
        page.in_flight = false;
        if page.written == 0 && page.writing != 0 {
            self.disks[usize::from(key.0.0)].written.push(key.1);
        }
        page.fresh &= !page.writing;
        page.written |= core::mem::take(&mut page.writing);
        if page.fresh != 0 {
            self.urgent.insert(key);
        }
        self.writes -= 1;
    }

    /// Are there pages that a flush of this disk would cover?
    pub(in crate::store) fn has_written(&self, disk: DiskId) -> bool {
        !self.disks[usize::from(disk.0)].written.is_empty()
    }

    /// Is the flush wanted for their sake?
    pub(in crate::store) fn wants_flush(&self) -> bool {
        self.closing || self.changed.len() * 4 > self.changed_max() * 3
    }

    /// A flush of this disk begins.
    pub(in crate::store) fn flush_begun(&mut self, disk: DiskId) {
        let writes = &mut self.disks[usize::from(disk.0)];
        writes.flushing = core::mem::take(&mut writes.written);
        for number in &writes.flushing {
            let page = self.pages.get_mut(&(disk, *number)).expect("a page that is not flushed stays");
            page.flushing = core::mem::take(&mut page.written);
        }
    }

    /// The flush of this disk is done. Returns what that makes sure.
    pub(in crate::store) fn flush_done(&mut self, disk: DiskId, metadata: &Metadata) -> Vec<Record> {
        let mut records = Vec::new();
        for number in core::mem::take(&mut self.disks[usize::from(disk.0)].flushing) {
            let key = (disk, number);
            let page = self.pages.get_mut(&key).expect("a page that is not flushed stays");
            let lines = core::mem::take(&mut page.flushing);
            if page.unflushed() == 0 {
                self.changed.remove(&(page.queued_at, key));
            }
            self.settle(key, lines, metadata, &mut records);
        }
        records
    }

    /// Lines that were unsure when the pool was opened and belong to no extent any more.
    pub(in crate::store) fn leftovers(&self, pool: &crate::pool::Pool) -> Vec<Record> {
        self.doubt.leftovers(pool)
    }

    /// Records that drop what is unsure of a disk on which no extent lies.
    pub(in crate::store) fn records_without(&self, disk: DiskId, metadata: &Metadata) -> Vec<Record> {
        let mut records = Vec::new();
        for (_, lines) in metadata.unsure().filter(|(of, _)| *of == disk) {
            for (mut first, lines) in lines.runs() {
                let end = first + lines;
                while first < end {
                    let count = u32::try_from(end - first).unwrap_or(u32::MAX);
                    records.push(Record::UnsureRemove { disk, first, count });
                    first += u64::from(count);
                }
            }
        }
        records
    }

    /// When a page will have been idle for long enough.
    pub(in crate::store) fn deadline(&self) -> Option<Instant> {
        if self.writes >= WRITES_MAX {
            return None;
        }
        let mut writable = self.changed.iter().take(LOOKS_MAX).filter_map(|(_, key)| {
            let page = &self.pages[key];
            (!page.in_flight && page.dirty & !page.busy != 0).then(|| page.changed_at.max(page.queued_at))
        });
        writable.next().map(|since| since + self.idle_after)
    }

    /// From now on changed pages are written at once.
    pub(in crate::store) fn close(&mut self) {
        self.closing = true;
    }

    /// Is every changed page on stable media?
    pub(in crate::store) fn is_settled(&self) -> bool {
        self.changed.is_empty()
    }
}

impl Claim {
    fn lines(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flat_map(|&(number, lines)| {
            let first = number * PAGE_LINES as u64;
            (0..PAGE_LINES as u64).filter(move |at| lines >> at & 1 == 1).map(move |at| first + at)
        })
    }
}
