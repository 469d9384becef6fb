//! One page of the checksum area in memory, and how far each of its lines is on the way to disk.

use bytemuck::Zeroable;

use crate::block::BLOCK_BYTES;
use crate::format::sums::{LINE_BLOCKS, PAGE_LINES, SumPage};
use crate::time::Instant;

/// Lines of a page, a bit for each.
pub(super) type Lines = u64;

/// See the module. A line may be at several stages at once: changed again while it is being written.
#[derive(Debug)]
pub(super) struct Page {
    bytes: Box<SumPage>,
    /// Has it been read, or is all of it new?
    pub(super) loaded: bool,
    /// Lines whose own checksum was right, or that were set since.
    pub(super) known: Lines,
    /// A job is about to overwrite data of these, or has and its data is not stable.
    pub(super) busy: Lines,
    /// Of new extents: to be written before they are mapped.
    pub(super) fresh: Lines,
    /// Changed since the last write was submitted.
    pub(super) dirty: Lines,
    /// Covered by the write in flight, if there is one.
    pub(super) writing: Lines,
    pub(super) in_flight: bool,
    /// Covered by a completed write, and by no flush.
    pub(super) written: Lines,
    /// Covered by the flush in flight.
    pub(super) flushing: Lines,
    /// Reads that want to verify with it.
    pub(super) users: u32,
    /// Was it used since it was last looked at for eviction?
    pub(super) used: bool,
    /// The last change.
    pub(super) changed_at: Instant,
    /// Its place among the changed pages.
    pub(super) queued_at: Instant,
}

impl Page {
    pub(super) fn new() -> Page {
        Page {
            bytes: Box::new(SumPage::zeroed()),
            loaded: false,
            known: 0,
            busy: 0,
            fresh: 0,
            dirty: 0,
            writing: 0,
            in_flight: false,
            written: 0,
            flushing: 0,
            users: 0,
            used: true,
            changed_at: Instant::ZERO,
            queued_at: Instant::ZERO,
        }
    }

    /// Lines that are not on stable media as they are here.
    pub(super) fn unflushed(&self) -> Lines {
        self.dirty | self.writing | self.written | self.flushing
    }

    /// May it be forgotten?
    pub(super) fn is_idle(&self) -> bool {
        self.loaded && self.users == 0 && self.busy == 0 && !self.in_flight && self.unflushed() == 0
    }

    /// The page as read from disk. Lines that were set meanwhile are kept.
    pub(super) fn load(&mut self, bytes: &[u8; BLOCK_BYTES], seed: u32, first_line: u64) {
        let read: SumPage = bytemuck::pod_read_unaligned(bytes);
        for (at, line) in read.lines.iter().enumerate() {
            if self.known >> at & 1 == 0 {
                self.bytes.lines[at] = *line;
                let good = line.crc.get() == line.checksum(seed, first_line + at as u64);
                self.known |= u64::from(good) << at;
            }
        }
        self.loaded = true;
    }

    /// These lines begin anew.
    pub(super) fn clear(&mut self, lines: Lines) {
        for at in (0..PAGE_LINES).filter(|at| lines >> at & 1 == 1) {
            self.bytes.lines[at].sums = [0.into(); LINE_BLOCKS];
        }
        self.known |= lines;
    }

    pub(super) fn sum(&self, line: usize, at: usize) -> u32 {
        self.bytes.lines[line].sums[at].get()
    }

    /// Sets one sum; the line counts as known from now on.
    pub(super) fn set(&mut self, line: usize, at: usize, sum: u32) {
        if self.known >> line & 1 == 0 {
            self.bytes.lines[line].sums = [0.into(); LINE_BLOCKS];
            self.known |= 1 << line;
        }
        self.bytes.lines[line].sums[at] = sum.into();
        self.dirty |= 1 << line;
    }

    /// Gives the changed lines their checksums, wrong ones where a line is `void`; the bytes to write.
    pub(super) fn seal(&mut self, seed: u32, first_line: u64, void: Lines) -> &[u8; BLOCK_BYTES] {
        for at in (0..PAGE_LINES).filter(|at| self.dirty >> at & 1 == 1) {
            let line = &mut self.bytes.lines[at];
            let crc = line.checksum(seed, first_line + at as u64);
            line.crc = (if void >> at & 1 == 1 { !crc } else { crc }).into();
        }
        bytemuck::cast_ref(&*self.bytes)
    }
}
