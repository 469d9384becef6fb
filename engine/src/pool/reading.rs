//! Reads the checkpoint and the log, from both copies where there are two.
//!
//! The log ends at the first entry that is whole in neither copy. That is the trace of a crash, and is cut, unless a
//! later entry proves that it had been flushed: then it is rot, and an error.
//!
//! Invariants: a copy counts only if its checksum is right; copies that differ from the one that is taken are noted, and
//! make the pool write a checkpoint before all else; an error names the place in each copy.

use std::collections::{BTreeMap, VecDeque};

use super::Pool;
use super::copies::Sites;
use super::error::OpenError;
use super::identify::Recognised;
use super::layout::{Commit, DiskState, Layout};
use super::log::Log;
use super::opening::OpenReport;
use super::record::Lsn;
use super::replay::{Entry, Replay};
use super::space::Space;
use super::table::Table;
use crate::block::{BLOCK_BYTES, PagePool, Payload};
use crate::ids::DiskId;
use crate::io::DiskOp;
use crate::planted::{Bug, Planted};

/// Bytes read at once from checkpoint and log; longer than any frame.
const READ_BYTES: u64 = 1 << 20;
/// Most damaged copies that are listed.
const COPIES_MAX: usize = 1000;
const BAD_CHECKPOINT: &str = "a checkpoint that is not what was written";
const BAD_ENTRY: &str = "a log entry that had been flushed is not whole";

/// A place where one copy of the metadata is not what was written, and the other is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedCopy {
    /// The disk: its number among those given.
    pub disk: DiskId,
    /// Where, in bytes from the beginning of the disk.
    pub offset: u64,
    /// What is there.
    pub what: &'static str,
}

/// After the superblocks.
#[derive(Debug)]
pub(super) struct Reading {
    found: Recognised,
    /// The copies, with their disks' numbers among those given.
    sites: Sites,
    /// What was asked for, of each copy; empty before the first time.
    pieces: Vec<Piece>,
    replay: Replay,
    part: Part,
    /// Bytes of the log replayed, with what was skipped at the end of the circle.
    log_bytes: u64,
    torn: bool,
    copies: Vec<DamagedCopy>,
    /// How many were noted before the last log entry.
    before_last: Option<usize>,
    /// For a planted bug: who owned what when the checkpoint had been read.
    early: Option<Space>,
}

/// A piece of one copy. What cannot be read is zeros.
#[derive(Debug)]
struct Piece {
    disk: DiskId,
    offset: u64,
    bytes: Vec<u8>,
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

impl Reading {
    pub(super) fn new(found: Recognised, planted: Planted) -> Reading {
        let replay = Replay::new(found.commit.checkpoint_lsn, found.commit.log_sequence, planted);
        let mut sites = found.layout.sites(found.commit.second);
        for site in &mut sites {
            site.disk = found.devices[usize::from(site.disk.0)].expect("disks with metadata are there");
        }
        Reading {
            found,
            sites,
            pieces: Vec::new(),
            replay,
            part: Part::Checkpoint(0),
            log_bytes: 0,
            torn: false,
            copies: Vec::new(),
            before_last: None,
            early: None,
        }
    }

    pub(super) fn has_copies(&self) -> bool {
        self.sites.len() > 1
    }

    fn layout(&self) -> &Layout {
        &self.found.layout
    }

    fn commit(&self) -> &Commit {
        &self.found.commit
    }

    /// What to read next, of the checkpoint or of the log: from and to.
    fn span(&self) -> Option<(u64, u64)> {
        let circle = self.layout().log_bytes;
        let (from, end) = match self.part {
            Part::Checkpoint(at) => (at, self.commit().checkpoint_bytes),
            Part::Log(at) => (at, circle),
            Part::Wrapped(_) => (0, circle),
            Part::Scan(at, end) => (at, end),
        };
        (from < end).then(|| (from, end.min(from + READ_BYTES)))
    }

    /// What to read next; nothing when all is read.
    pub(super) fn ask(&mut self) -> Vec<(DiskId, DiskOp)> {
        let Some((from, to)) = self.span() else { return Vec::new() };
        let number = self.commit().checkpoint_number;
        let mut asks = Vec::new();
        for site in &self.sites {
            let area = if let Part::Checkpoint(_) = self.part { site.checkpoint(number) } else { site.log };
            let (disk, offset, bytes) = (site.disk, area + from, vec![0; (to - from) as usize]);
            asks.push((disk, DiskOp::Read { offset, blocks: ((to - from) / BLOCK_BYTES as u64) as u32 }));
            self.pieces.push(Piece { disk, offset, bytes });
        }
        asks
    }

    /// An answer.
    pub(super) fn got(&mut self, disk: DiskId, op: &DiskOp, data: &Payload) -> Result<(), OpenError> {
        let DiskOp::Read { offset, blocks } = *op else { return Ok(()) };
        if data.len() != blocks as usize {
            return Err(OpenError::Corrupt { disk, offset, what: "the disk answered with another length" });
        }
        let inside = |piece: &&mut Piece| {
            piece.disk == disk && (piece.offset..piece.offset + piece.bytes.len() as u64).contains(&offset)
        };
        let piece = self.pieces.iter_mut().find(inside).expect("only this was asked for");
        let from = (offset - piece.offset) as usize;
        for (place, block) in piece.bytes[from..].chunks_mut(BLOCK_BYTES).zip(data) {
            place.copy_from_slice(block.bytes());
        }
        Ok(())
    }

    /// Something there cannot be read: what to ask instead, block by block.
    pub(super) fn unreadable(&mut self, disk: DiskId, op: &DiskOp) -> Vec<(DiskId, DiskOp)> {
        match *op {
            DiskOp::Read { offset, blocks } if blocks > 1 => {
                let block = |n| DiskOp::Read { offset: offset + n * BLOCK_BYTES as u64, blocks: 1 };
                (0..u64::from(blocks)).map(|n| (disk, block(n))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Takes what was asked for, if anything was.
    pub(super) fn take(&mut self, planted: Planted) -> Result<(), OpenError> {
        let pieces = core::mem::take(&mut self.pieces);
        if pieces.is_empty() {
            return Ok(());
        }
        match self.part {
            Part::Checkpoint(at) => self.take_checkpoint(&pieces, at, planted),
            Part::Log(at) => self.take_log(&pieces, at, planted),
            Part::Wrapped(from) => self.take_wrapped(&pieces, from, planted),
            Part::Scan(at, end) => {
                let pool = self.found.identity.pool.0;
                if pieces.iter().any(|piece| self.replay.proves_rot(&piece.bytes, pool)) {
                    let lost = (self.commit().log_start + self.log_bytes) % self.layout().log_bytes;
                    return Err(self.beyond_repair(self.sites.iter().map(|site| site.log + lost), BAD_ENTRY));
                }
                self.part = self.next_scan(at + pieces[0].bytes.len() as u64, end);
                Ok(())
            }
        }
    }

    /// No copy is what was written.
    fn beyond_repair(&self, offsets: impl Iterator<Item = u64>, what: &'static str) -> OpenError {
        let places: Vec<(DiskId, u64)> = self.sites.iter().map(|site| site.disk).zip(offsets).collect();
        match places[..] {
            [(disk, offset), (other, other_offset), ..] => {
                OpenError::BothCopies { disk, offset, other, other_offset, what }
            }
            _ => OpenError::Corrupt { disk: places[0].0, offset: places[0].1, what },
        }
    }

    /// Notes the copies that differ from the one taken.
    fn compare(
        &mut self,
        pieces: &[Piece],
        taken: usize,
        bytes: core::ops::Range<usize>,
        what: &'static str,
    ) {
        for piece in pieces {
            let same = piece.bytes[bytes.clone()] == pieces[taken].bytes[bytes.clone()];
            if !same && self.copies.len() < COPIES_MAX {
                let (disk, offset) = (piece.disk, piece.offset + bytes.start as u64);
                self.copies.push(DamagedCopy { disk, offset, what });
            }
        }
    }

    fn take_checkpoint(&mut self, pieces: &[Piece], at: u64, planted: Planted) -> Result<(), OpenError> {
        let (pool, number) = (self.found.identity.pool.0, self.commit().checkpoint_number);
        let mut done = 0;
        while done < pieces[0].bytes.len() {
            let look = |piece: &Piece| self.replay.look_frame(&piece.bytes[done..], pool, number);
            let whole = pieces.iter().map(look).enumerate().find_map(|(of, found)| match found {
                Entry::Good(length) => Some((of, length)),
                _ => None,
            });
            let Some((of, length)) = whole else {
                if done != 0 && pieces.iter().any(|piece| matches!(look(piece), Entry::Cut)) {
                    break;
                }
                let places = pieces.iter().map(|piece| piece.offset + done as u64);
                return Err(self.beyond_repair(places, BAD_CHECKPOINT));
            };
            self.compare(pieces, of, done..done + length, BAD_CHECKPOINT);
            let taken = self.replay.take_frame(&pieces[of].bytes[done..done + length], &self.found.layout);
            let (disk, offset) = (pieces[of].disk, pieces[of].offset + done as u64);
            taken.map_err(|what| OpenError::Corrupt { disk, offset, what })?;
            done += length;
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

    /// What is at this place of the pieces, and in which of them.
    fn look(&self, pieces: &[Piece], done: usize, planted: Planted) -> (usize, Entry) {
        let (mut best, mut cut, mut torn) = (None, false, false);
        for (of, piece) in pieces.iter().enumerate() {
            match self.replay.look_entry(&piece.bytes[done..], self.found.identity.pool.0) {
                good @ Entry::Good(_) => best = best.or(Some((of, good))),
                Entry::Cut => cut = true,
                Entry::Bad(head) => {
                    torn |= head;
                    if head && planted.has(Bug::DamagedCopyPreferred) {
                        return (of, Entry::Bad(true));
                    }
                }
            }
        }
        best.unwrap_or((0, if cut { Entry::Cut } else { Entry::Bad(torn) }))
    }

    /// Takes the entry that is whole in this one of the pieces.
    fn enter(&mut self, pieces: &[Piece], of: usize, done: usize, length: usize) -> Result<(), OpenError> {
        let entered = self.replay.take_entry(&pieces[of].bytes[done..done + length], &self.found.layout);
        let (disk, offset) = (pieces[of].disk, pieces[of].offset + done as u64);
        entered.map_err(|what| OpenError::Corrupt { disk, offset, what })?;
        self.log_bytes += length as u64;
        self.before_last = Some(self.copies.len());
        self.compare(pieces, of, done..done + length, BAD_ENTRY);
        Ok(())
    }

    fn take_log(&mut self, pieces: &[Piece], at: u64, planted: Planted) -> Result<(), OpenError> {
        let (length, circle) = (pieces[0].bytes.len(), self.layout().log_bytes);
        let mut done = 0;
        loop {
            let whole = at + done as u64 == circle || self.log_bytes >= circle;
            if whole || done == length {
                self.go_on(at + done as u64);
                return Ok(());
            }
            match self.look(pieces, done, planted) {
                (of, Entry::Good(length)) => {
                    self.enter(pieces, of, done, length)?;
                    done += length;
                }
                // Read again from its beginning, unless the circle ends here: then it cannot be an entry.
                (_, Entry::Cut) if done != 0 && at + (length as u64) < circle => {
                    self.go_on(at + done as u64);
                    return Ok(());
                }
                (_, bad) => {
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
    fn take_wrapped(&mut self, pieces: &[Piece], from: u64, planted: Planted) -> Result<(), OpenError> {
        let rest = self.layout().log_bytes - from;
        if let (of, Entry::Good(length)) = self.look(pieces, 0, planted)
            && length as u64 > rest
            && self.log_bytes + rest < self.layout().log_bytes
        {
            self.enter(pieces, of, 0, length)?;
            self.torn = false;
            self.log_bytes += rest;
            self.go_on(length as u64);
            return Ok(());
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

    pub(super) fn finish(mut self: Box<Self>, planted: Planted) -> Result<(Pool, OpenReport), OpenError> {
        let space = match self.early.take() {
            Some(space) => space,
            None => self.space()?,
        };
        let Reading { found, sites, replay, log_bytes, torn, mut copies, before_last, .. } = *self;
        let Recognised { identity, layout, commit, devices, strays, damaged } = found;
        let repair = !copies.is_empty() && !planted.has(Bug::DamagedCopyKept);
        // A crash leaves the last entry so; of those before, both copies had been flushed.
        let unfinished = before_last.map(|before| copies.split_off(before));
        let completed = unfinished.and_then(|last| last.first().map(|copy| (copy.disk, copy.offset)));
        let place = (commit.log_start + log_bytes) % layout.log_bytes;
        let report = OpenReport {
            identity,
            generation: commit.generation,
            entries: replay.entries,
            records: replay.records,
            torn: torn.then_some((sites[0].disk, layout.log_offset + place)),
            strays,
            damaged,
            copies,
            completed,
        };
        let layout = Layout { clones: replay.metadata.clone_room(), ..layout };
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
            checkpoint_asked: repair,
            unequal: repair,
            introduced: false,
            agreed: false,
            in_flight: BTreeMap::new(),
            queued: VecDeque::new(),
            log_left: 0,
            next_token: 0,
            failed: None,
            pages: PagePool::new(),
            planted,
        };
        Ok((pool, report))
    }
}
