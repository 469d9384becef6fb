//! Opens a pool: reads the superblocks, the checkpoint they name, and the log from there on.
//!
//! It writes nothing, so a crash in the middle of it changes nothing. It ends with a flush of every disk: what
//! was read may lie in the volatile caches of disks that a crash of the node alone has left running, and the
//! node is about to act on it.
//!
//! The log ends at the first entry that is not whole. That is the trace of a crash, and is cut, unless a later
//! entry proves that it had been flushed: then it is rot, and an error.

use std::collections::BTreeMap;

use super::error::OpenError;
use super::identify::{Copy, Recognised, recognise};
use super::layout::{Commit, DiskState, Identity, Layout};
use super::log::Log;
use super::record::Lsn;
use super::replay::{Entry, Replay};
use super::space::Space;
use super::table::Table;
use super::{Pool, PoolIo};
use crate::block::{BLOCK_BYTES, PagePool, Payload};
use crate::format::superblock::{DISKS_MAX, SUPERBLOCK_OFFSETS};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};
use crate::planted::{Bug, Planted};

/// Bytes read at once from checkpoint and log; longer than any frame.
const READ_BYTES: u64 = 1 << 20;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenReport {
    /// Who the pool is.
    pub identity: Identity,
    /// Generation of the superblocks.
    pub generation: u64,
    /// Entries of the log that were replayed.
    pub entries: u64,
    /// Records in them that the checkpoint did not contain.
    pub records: u64,
    /// The log ended with a torn entry, which was cut: disk and byte offset.
    pub torn: Option<(DiskId, u64)>,
    /// Disks given that carry the pool's mark and are no part of it: they were removed, or their joining was cut
    /// short. They are left alone, and may be added.
    pub strays: Vec<DiskId>,
    /// Superblock copies that were damaged or torn, the other copy being whole: disk and copy. They are written
    /// anew as the pool goes on.
    pub damaged: Vec<(DiskId, u8)>,
}

/// A pool being opened. Carry out what [`poll_io`](Self::poll_io) asks for until [`done`](Self::done) tells
/// the outcome.
#[derive(Debug)]
pub struct Opening {
    disks: Vec<Geometry>,
    expected: Option<(Uuid, NodeName)>,
    planted: Planted,
    stage: Stage,
    asks: Vec<(DiskId, DiskOp)>,
    in_flight: BTreeMap<u64, (DiskId, DiskOp)>,
    next_token: u64,
}

#[derive(Debug)]
enum Stage {
    Superblocks(Vec<[Copy; 2]>),
    Reading(Box<Reading>),
    Flushing(Box<Reading>),
    Done(Option<Box<Result<(Pool, OpenReport), OpenError>>>),
}

/// After the superblocks.
#[derive(Debug)]
struct Reading {
    found: Recognised,
    replay: Replay,
    part: Part,
    /// Bytes of the log replayed, with what was skipped at the end of the circle.
    log_bytes: u64,
    torn: bool,
    /// For a planted bug: who owned what when the checkpoint had been read.
    early: Option<Space>,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// Reading the checkpoint from this byte of it.
    Checkpoint(u64),
    /// Reading the log from this byte of it.
    Log(u64),
    /// No entry there; one that did not fit there may be at the beginning of the circle.
    Wrapped(u64),
    /// The log ended; looking for proof of rot up to the second place.
    Scan(u64, u64),
}

impl Opening {
    /// Begins to open the pool on these disks, given in any order.
    pub fn new(disks: &[Geometry]) -> Opening {
        let mut opening = Opening {
            disks: disks.to_vec(),
            expected: None,
            planted: Planted::NONE,
            stage: Stage::Superblocks(disks.iter().map(|_| [None, None]).collect()),
            asks: Vec::new(),
            in_flight: BTreeMap::new(),
            next_token: 0,
        };
        if disks.is_empty() || disks.len() > DISKS_MAX {
            opening.finish(Err(OpenError::Disks(disks.len())));
            return opening;
        }
        for disk in (0..disks.len() as u16).map(DiskId) {
            for offset in SUPERBLOCK_OFFSETS {
                if offset + BLOCK_BYTES as u64 <= disks[usize::from(disk.0)].bytes {
                    opening.asks.push((disk, DiskOp::Read { offset, blocks: 1 }));
                }
            }
        }
        if opening.asks.is_empty() {
            opening.advance();
        }
        opening
    }

    /// Refuses a pool of another partnership or node.
    pub fn expect(mut self, partnership: Uuid, node: NodeName) -> Opening {
        self.expected = Some((partnership, node));
        self
    }

    /// With a deliberate bug, which the pool will have too.
    pub fn planted(mut self, planted: Planted) -> Opening {
        self.planted = planted;
        self
    }

    /// The next disk request; call until `None` after each [`io_done`](Self::io_done).
    pub fn poll_io(&mut self) -> Option<PoolIo> {
        let (disk, op) = self.asks.pop()?;
        let token = self.next_token;
        self.next_token += 1;
        self.in_flight.insert(token, (disk, op.clone()));
        Some(PoolIo { token, disk, op })
    }

    /// A request has ended.
    pub fn io_done(&mut self, token: u64, result: DiskResult) {
        let Some((disk, op)) = self.in_flight.remove(&token) else { return };
        let offset = if let DiskOp::Read { offset, .. } = op { offset } else { 0 };
        match (&mut self.stage, result) {
            (Stage::Done(_), _) => return,
            (Stage::Superblocks(copies), Ok(data)) => {
                let copy =
                    SUPERBLOCK_OFFSETS.iter().position(|at| *at == offset).expect("only these were asked");
                copies[usize::from(disk.0)][copy] = data.first().map(|block| Box::new(*block.bytes()));
            }
            // One copy may be unreadable; the other serves.
            (Stage::Superblocks(_), Err(DiskError::Unreadable)) => {}
            (Stage::Reading(reading), Ok(data)) => {
                if let Err(error) = reading.take(&bytes_of(&data), self.planted) {
                    return self.finish(Err(error));
                }
            }
            (Stage::Flushing(_), Ok(_)) => {}
            (_, Err(error)) => return self.finish(Err(OpenError::Io { disk, offset, error })),
        }
        if self.in_flight.is_empty() && self.asks.is_empty() {
            self.advance();
        }
    }

    /// The outcome, once.
    pub fn done(&mut self) -> Option<Result<(Pool, OpenReport), OpenError>> {
        match &mut self.stage {
            Stage::Done(outcome) => outcome.take().map(|outcome| *outcome),
            _ => None,
        }
    }

    fn finish(&mut self, outcome: Result<(Pool, OpenReport), OpenError>) {
        self.asks.clear();
        self.stage = Stage::Done(Some(Box::new(outcome)));
    }

    /// Everything asked for has been answered: ask for more, or end.
    fn advance(&mut self) {
        match core::mem::replace(&mut self.stage, Stage::Done(None)) {
            Stage::Superblocks(copies) => {
                match recognise(&copies, &self.disks, self.expected, self.planted) {
                    Ok(found) => {
                        let reading = Box::new(Reading::new(found, self.planted));
                        self.asks.extend(reading.ask());
                        self.stage = Stage::Reading(reading);
                    }
                    Err(error) => self.finish(Err(error)),
                }
            }
            Stage::Reading(reading) => {
                if let Some(ask) = reading.ask() {
                    self.asks.push(ask);
                    self.stage = Stage::Reading(reading);
                } else if self.planted.has(Bug::OpenedWithoutFlush) {
                    self.finish(reading.finish(self.planted));
                } else {
                    self.asks.extend((0..self.disks.len() as u16).map(|disk| (DiskId(disk), DiskOp::Flush)));
                    self.stage = Stage::Flushing(reading);
                }
            }
            Stage::Flushing(reading) => self.finish(reading.finish(self.planted)),
            done @ Stage::Done(_) => self.stage = done,
        }
    }
}

impl Reading {
    fn new(found: Recognised, planted: Planted) -> Reading {
        let replay = Replay::new(found.commit.checkpoint_lsn, found.commit.log_sequence, planted);
        Reading { found, replay, part: Part::Checkpoint(0), log_bytes: 0, torn: false, early: None }
    }

    /// The home disk's number among those given.
    fn home(&self) -> DiskId {
        let layout = self.layout();
        self.found.devices[usize::from(layout.home.0)].expect("the home disk is there")
    }

    fn layout(&self) -> &Layout {
        &self.found.layout
    }

    fn commit(&self) -> &Commit {
        &self.found.commit
    }

    /// What to read next: place on the home disk and length.
    fn span(&self) -> Option<(u64, u64)> {
        let layout = self.layout();
        let (area, from, end) = match self.part {
            Part::Checkpoint(at) => (
                layout.checkpoint_offset(self.commit().checkpoint_number),
                at,
                self.commit().checkpoint_bytes,
            ),
            Part::Log(at) => (layout.log_offset, at, layout.log_bytes),
            Part::Wrapped(_) => (layout.log_offset, 0, layout.log_bytes),
            Part::Scan(at, end) => (layout.log_offset, at, end),
        };
        (from < end).then(|| (area + from, (end - from).min(READ_BYTES)))
    }

    fn ask(&self) -> Option<(DiskId, DiskOp)> {
        let (offset, bytes) = self.span()?;
        Some((self.home(), DiskOp::Read { offset, blocks: (bytes / BLOCK_BYTES as u64) as u32 }))
    }

    fn corrupt(&self, offset: u64, what: &'static str) -> OpenError {
        OpenError::Corrupt { disk: self.home(), offset, what }
    }

    /// The bytes that were asked for.
    fn take(&mut self, bytes: &[u8], planted: Planted) -> Result<(), OpenError> {
        let (offset, length) = self.span().expect("something had been asked for");
        if bytes.len() as u64 != length {
            return Err(self.corrupt(offset, "the disk answered with another length"));
        }
        match self.part {
            Part::Checkpoint(at) => self.take_checkpoint(bytes, at, offset, planted),
            Part::Log(at) => self.take_log(bytes, at, offset),
            Part::Wrapped(from) => self.take_wrapped(bytes, from, offset),
            Part::Scan(at, end) => {
                if self.replay.proves_rot(bytes, self.found.identity.pool.0) {
                    let log = self.layout().log_offset;
                    let lost = (self.commit().log_start + self.log_bytes) % self.layout().log_bytes;
                    return Err(self.corrupt(log + lost, "a log entry that had been flushed is not whole"));
                }
                self.part = self.next_scan(at + length, end);
                Ok(())
            }
        }
    }

    fn take_checkpoint(
        &mut self,
        bytes: &[u8],
        at: u64,
        offset: u64,
        planted: Planted,
    ) -> Result<(), OpenError> {
        let (pool, number) = (self.found.identity.pool.0, self.commit().checkpoint_number);
        let mut done = 0;
        while done < bytes.len() {
            let taken = self.replay.checkpoint_frame(&bytes[done..], pool, number, &self.found.layout);
            let taken = taken.map_err(|what| self.corrupt(offset + done as u64, what))?;
            if taken == 0 && done == 0 {
                return Err(self.corrupt(offset, "a checkpoint that is not what was written"));
            }
            if taken == 0 {
                break;
            }
            done += taken;
        }
        let next = at + done as u64;
        self.part = Part::Checkpoint(next);
        if next == self.commit().checkpoint_bytes {
            self.part = Part::Log(self.commit().log_start);
            if planted.has(Bug::ExtentAllocatedTwice) {
                self.early = self.space().ok();
            }
        }
        Ok(())
    }

    fn take_log(&mut self, bytes: &[u8], at: u64, offset: u64) -> Result<(), OpenError> {
        let mut done = 0;
        loop {
            let whole =
                at + done as u64 == self.layout().log_bytes || self.log_bytes >= self.layout().log_bytes;
            if whole || done == bytes.len() {
                self.go_on(at + done as u64);
                return Ok(());
            }
            let entry = self.replay.log_entry(&bytes[done..], self.found.identity.pool.0, &self.found.layout);
            match entry.map_err(|what| self.corrupt(offset + done as u64, what))? {
                Entry::Good(length) => {
                    done += length;
                    self.log_bytes += length as u64;
                }
                // Read again from its beginning, unless the circle ends here: then it cannot be an entry.
                Entry::Cut if done != 0 && at + (bytes.len() as u64) < self.layout().log_bytes => {
                    self.go_on(at + done as u64);
                    return Ok(());
                }
                bad @ (Entry::Cut | Entry::Bad(_)) => {
                    self.torn |= matches!(bad, Entry::Bad(true) | Entry::Cut);
                    let place = at + done as u64;
                    self.part = if place == 0 { self.scan() } else { Part::Wrapped(place) };
                    return Ok(());
                }
            }
        }
    }

    /// Continues at this place of the log, or ends it when the circle is full.
    fn go_on(&mut self, place: u64) {
        let full = self.log_bytes >= self.layout().log_bytes;
        self.part = if full { Part::Scan(0, 0) } else { Part::Log(place % self.layout().log_bytes) };
    }

    /// No entry at `from`: is the next one at the beginning, because it did not fit there?
    fn take_wrapped(&mut self, bytes: &[u8], from: u64, offset: u64) -> Result<(), OpenError> {
        let rest = self.layout().log_bytes - from;
        let head = crate::format::frame::FrameHeader::parse(
            bytes,
            crate::format::frame::FrameKind::Log,
            self.found.identity.pool.0,
        );
        if head.is_some_and(|head| head.bytes() as u64 > rest)
            && self.log_bytes + rest < self.layout().log_bytes
        {
            let entry = self.replay.log_entry(bytes, self.found.identity.pool.0, &self.found.layout);
            if let Entry::Good(length) = entry.map_err(|what| self.corrupt(offset, what))? {
                self.torn = false;
                self.log_bytes += rest + length as u64;
                self.go_on(length as u64);
                return Ok(());
            }
        }
        self.part = self.scan();
        Ok(())
    }

    /// Looks for proof of rot from the end of the log to its beginning, once round.
    fn scan(&self) -> Part {
        let (start, circle) = (self.commit().log_start, self.layout().log_bytes);
        let end = start + self.log_bytes;
        if end < circle { self.next_scan(end, circle) } else { self.next_scan(end - circle, start) }
    }

    /// From the end of the circle the search goes on at its beginning.
    fn next_scan(&self, at: u64, end: u64) -> Part {
        let (start, circle) = (self.commit().log_start, self.layout().log_bytes);
        if at >= end && end == circle && start != 0 { Part::Scan(0, start) } else { Part::Scan(at, end) }
    }

    /// Who owns what.
    fn space(&self) -> Result<Space, OpenError> {
        let mut space = Space::new(self.layout().disks.iter().map(|disk| disk.slots));
        for (disk, at) in self.layout().disks.iter().zip(0..) {
            if disk.state != DiskState::InUse {
                space.close(DiskId(at));
            }
        }
        space.occupy(&self.replay.metadata).map_err(|(_, _, slot)| OpenError::Corrupt {
            disk: self.found.devices[usize::from(slot.disk.0)].unwrap_or(slot.disk),
            offset: self.layout().offset(slot),
            what: "two extents lie there",
        })?;
        Ok(space)
    }

    fn finish(mut self: Box<Self>, planted: Planted) -> Result<(Pool, OpenReport), OpenError> {
        let space = match self.early.take() {
            Some(space) => space,
            None => self.space()?,
        };
        let home = self.home();
        let Reading { found, replay, log_bytes, torn, .. } = *self;
        let Recognised { identity, layout, commit, devices, strays, damaged } = found;
        let place = (commit.log_start + log_bytes) % layout.log_bytes;
        let report = OpenReport {
            identity,
            generation: commit.generation,
            entries: replay.entries,
            records: replay.records,
            torn: torn.then_some((home, layout.log_offset + place)),
            strays,
            damaged,
        };
        let (start, head) = (commit.log_start, commit.log_start + log_bytes);
        let log = Log::new(identity.pool.0, layout.log_bytes, start, head, replay.sequence, Lsn(replay.lsn));
        let pool = Pool {
            identity,
            extent_shift: layout.extent_bytes.trailing_zeros(),
            layout,
            devices,
            table: Table::default(),
            zeros_coming: 0,
            metadata: replay.metadata,
            space,
            log,
            commit,
            committing: None,
            checkpoint_asked: false,
            introduced: false,
            in_flight: BTreeMap::new(),
            next_token: 0,
            failed: None,
            pages: PagePool::new(),
            planted,
        };
        Ok((pool, report))
    }
}

fn bytes_of(data: &Payload) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() * BLOCK_BYTES);
    data.iter().for_each(|block| bytes.extend_from_slice(block.bytes()));
    bytes
}
