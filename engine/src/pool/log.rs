//! The metadata log: a circle of entries, which lies in each copy of the metadata (`copies`).
//!
//! One entry is in flight at a time, written and then flushed before the next is written; everything appended
//! meanwhile goes out together. So an entry that exists proves that all before it had been flushed, which is
//! how recovery tells a torn tail from rot.
//!
//! Invariants: an entry lies in one piece; the entries from `start` to `head` are never overwritten; `start`
//! moves only when a superblock that no longer needs them is flushed.

use std::collections::VecDeque;

use super::codec;
use super::record::{Lsn, Record};
use crate::format::frame::{ENTRY_BYTES_MAX, FrameHeader, FrameKind, HEADER_BYTES, frame_bytes};

/// Records that go out in one entry. The bytes begin with room for the header.
#[derive(Debug)]
struct Group {
    bytes: Vec<u8>,
    first: Lsn,
    records: u32,
}

/// What the log is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Writing(Lsn),
    /// Written; the flush is to be asked for.
    Written(Lsn),
    Flushing(Lsn),
}

/// Something to do, with each copy.
#[derive(Debug)]
pub(super) enum LogIo {
    /// Write these bytes at this place of the log.
    Write(u64, Vec<u8>),
    /// Flush.
    Flush,
}

#[derive(Debug)]
pub(super) struct Log {
    pool: u128,
    /// Bytes of the circle.
    bytes: u64,
    /// Bytes from the first lap on: `head % bytes` is the place of the next entry.
    head: u64,
    start: u64,
    /// Of the next entry.
    sequence: u64,
    appended: Lsn,
    durable: Lsn,
    pending: VecDeque<Group>,
    state: State,
}

impl Log {
    /// A log whose entries from `start` to `head` (places, not wrapped) have been replayed, up to record `lsn`.
    pub(super) fn new(pool: u128, bytes: u64, start: u64, head: u64, sequence: u64, lsn: Lsn) -> Log {
        let (pending, state) = (VecDeque::new(), State::Idle);
        Log { pool, bytes, head, start, sequence, appended: lsn, durable: lsn, pending, state }
    }

    /// Most bytes of records in an entry: after a checkpoint, four of the largest fit into the log.
    pub(super) fn payload_max(&self) -> usize {
        (self.bytes as usize / 4).min(ENTRY_BYTES_MAX) - HEADER_BYTES
    }

    pub(super) fn appended(&self) -> Lsn {
        self.appended
    }

    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// The number that the next record gets.
    pub(super) fn next_lsn(&self) -> Lsn {
        Lsn(self.appended.0 + 1)
    }

    /// Takes the records of one call. They go into one entry if they fit.
    pub(super) fn append(&mut self, records: &[Record]) {
        let mut bytes = Vec::with_capacity(records.len() * 24);
        let mut ends = Vec::with_capacity(records.len());
        for record in records {
            codec::encode(record, &mut bytes);
            ends.push(bytes.len());
        }
        let max = self.payload_max();
        let room = self.pending.back().map_or(0, |group| max + HEADER_BYTES - group.bytes.len());
        if bytes.len() > room {
            self.begin_group();
        }
        let mut from = 0;
        for to in ends {
            if self.pending.back().is_none_or(|group| group.bytes.len() + (to - from) > max + HEADER_BYTES) {
                self.begin_group();
            }
            let group = self.pending.back_mut().expect("just begun");
            group.bytes.extend_from_slice(&bytes[from..to]);
            group.records += 1;
            self.appended.0 += 1;
            from = to;
        }
    }

    fn begin_group(&mut self) {
        if self.pending.back().is_none_or(|group| group.records != 0) {
            let first = self.next_lsn();
            self.pending.push_back(Group { bytes: vec![0; HEADER_BYTES], first, records: 0 });
        }
    }

    /// Drops what has not been written: nothing becomes durable any more.
    pub(super) fn abandon(&mut self) {
        self.pending.clear();
    }

    /// The next thing to do, if any. No entry begins while they are held.
    pub(super) fn poll(&mut self, hold: bool) -> Option<LogIo> {
        match self.state {
            State::Written(lsn) => {
                self.state = State::Flushing(lsn);
                Some(LogIo::Flush)
            }
            State::Idle if hold => None,
            State::Idle => {
                let place = self.place(frame_bytes(self.pending.front()?.bytes.len() - HEADER_BYTES))?;
                let mut group = self.pending.pop_front().expect("just looked at");
                let (header, payload) = group.bytes.split_at_mut(HEADER_BYTES);
                let flushed = self.sequence - 1;
                let (kind, first) = (FrameKind::Log, group.first.0);
                let sealed =
                    FrameHeader::seal(kind, self.pool, self.sequence, first, flushed, group.records, payload);
                header.copy_from_slice(bytemuck::bytes_of(&sealed));
                self.head = place + frame_bytes(payload.len()) as u64;
                self.sequence += 1;
                self.state = State::Writing(Lsn(first + u64::from(group.records) - 1));
                Some(LogIo::Write(place % self.bytes, group.bytes))
            }
            State::Writing(_) | State::Flushing(_) => None,
        }
    }

    /// Where an entry of this length goes, if there is room: it does not straddle the end of the circle.
    fn place(&self, length: usize) -> Option<u64> {
        let (length, rest) = (length as u64, self.bytes - self.head % self.bytes);
        let place = if length > rest { self.head + rest } else { self.head };
        (place + length <= self.start + self.bytes).then_some(place)
    }

    /// The write is done.
    pub(super) fn written(&mut self) {
        let State::Writing(lsn) = self.state else { unreachable!("a log write was in flight") };
        self.state = State::Written(lsn);
    }

    /// The flush is done.
    pub(super) fn flushed(&mut self) {
        let State::Flushing(lsn) = self.state else { unreachable!("a log flush was in flight") };
        self.state = State::Idle;
        self.durable = self.durable.max(lsn);
    }

    /// The flush is to be asked for again (only a planted bug does that).
    pub(super) fn flush_again(&mut self) {
        let State::Flushing(lsn) = self.state else { unreachable!("a log flush was in flight") };
        self.state = State::Written(lsn);
    }

    /// Does something wait, or is something in flight?
    pub(super) fn is_busy(&self) -> bool {
        self.state != State::Idle || !self.pending.is_empty()
    }

    /// Is it time for a checkpoint?
    pub(super) fn wants_checkpoint(&self) -> bool {
        let stuck = || {
            let front = self.pending.front();
            front.is_some_and(|group| self.place(frame_bytes(group.bytes.len() - HEADER_BYTES)).is_none())
        };
        self.head - self.start > self.bytes / 2 || stuck()
    }

    /// Has the log any entry that a checkpoint would make superfluous?
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.start
    }

    /// Where replay would begin after a checkpoint taken now: place (not wrapped) and sequence. What is pending then
    /// is in both the checkpoint and a later entry; replay skips it by its number.
    pub(super) fn cut(&self) -> (u64, u64) {
        (self.head, self.sequence)
    }

    /// Where the entries begin that are still needed, not wrapped.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Is an entry on its way?
    pub(super) fn is_writing(&self) -> bool {
        self.state != State::Idle
    }

    /// The log goes on in another place, empty and of another size.
    pub(super) fn restart(&mut self, bytes: u64) {
        (self.bytes, self.head, self.start) = (bytes, 0, 0);
    }

    /// The superblock with this cut and checkpoint is flushed.
    pub(super) fn release(&mut self, start: u64, covered: Lsn) {
        self.start = start;
        self.durable = self.durable.max(covered);
    }
}
