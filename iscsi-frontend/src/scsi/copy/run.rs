//! A copy under way: which units it may reach, and its reads and writes, piece by piece.
//!
//! A piece is read with an ordinary read, whatever the map says about holes: only that waits for writes that are not
//! acknowledged yet. A read of a hole costs no I/O and gives zeros without pages, and those are cleared at the
//! destination, not written.
//!
//! Invariants: segments are copied in order, so a fault in one is told after those before it are done; a piece that
//! overlaps a later one of the same segment is copied after it.

use std::fmt;
use std::sync::Arc;

use twinsan::block::{Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK, is_all_zero};
use twinsan::guest::{Command, GuestError, Sectors, VirtualVolume};
use twinsan::ids::VolumeId;

use super::PIECE_SECTORS;
use super::find::{self, Codes, NOT_REACHABLE, Objection, Segment, Side, THIRD_PARTY_DEVICE_FAILURE};
use super::list::Order;
use crate::scsi::sense::{Cause, Pointer};
use crate::scsi::{Sense, Unit};

const DATA_UNDERRUN: Codes = (0x0d, 0x04);

impl Segment {
    /// Would the first piece overwrite what the others are to read?
    fn is_backwards(&self) -> bool {
        let ahead = self.to.checked_sub(self.from);
        self.source.id == self.destination.id && ahead.is_some_and(|ahead| (1..self.count).contains(&ahead))
    }

    /// The sectors to copy next, from its beginning on, when `done` are copied.
    fn piece(&self, done: u64) -> Piece {
        let left = self.count - done;
        if self.is_backwards() {
            let count = left.min(PIECE_SECTORS);
            return Piece { offset: left - count, count };
        }
        // Pieces end where extents do, mostly: of those at the destination blocks are written whole, and extents that
        // get nothing but zeros stay holes.
        let count = left.min(PIECE_SECTORS - (self.to + done) % PIECE_SECTORS);
        Piece { offset: done, count }
    }

    fn is_shifted(&self) -> bool {
        self.from % SECTORS_PER_BLOCK != self.to % SECTORS_PER_BLOCK
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    offset: u64,
    count: u64,
}

/// What was asked last.
#[derive(Debug)]
enum Asked {
    Nothing,
    Read(Piece),
    /// It has been read, and is to be written.
    Have(Piece, Payload),
    Write(Piece),
}

/// A copy.
pub(crate) struct Copy {
    segments: Vec<Segment>,
    /// What is wrong with the segment after those.
    fault: Option<Sense>,
    /// The segment under way, and sectors of it that are copied.
    current: usize,
    done: u64,
    bytes: u64,
    asked: Asked,
    pages: PagePool,
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copy { segments, fault, current, done, asked, .. } = self;
        write!(f, "Copy {{ {segments:?}, then {fault:?}, at {current}/{done}, {asked:?} }}")
    }
}

impl Copy {
    /// What `order` comes to when it is sent to the unit at `own` of the `units` that its host sees.
    ///
    /// # Errors
    /// What is wrong with the first segment, if something is.
    pub(crate) fn new(order: &Order, units: &[Unit], own: usize, pages: &PagePool) -> Result<Copy, Sense> {
        let (segments, fault) = find::segments(order, units, own);
        let (asked, pages) = (Asked::Nothing, pages.clone());
        let mut copy = Copy { segments, fault, current: 0, done: 0, bytes: 0, asked, pages };
        copy.settle()?;
        Ok(copy)
    }

    /// Goes on to a segment with something left to copy, or to the end.
    fn settle(&mut self) -> Result<(), Sense> {
        while let Some(segment) = self.segments.get(self.current) {
            if self.done < segment.count {
                return Ok(());
            }
            (self.current, self.done) = (self.current + 1, 0);
        }
        self.fault.take().map_or(Ok(()), Err)
    }

    /// The next request, `None` when all is copied.
    pub(crate) fn step(&mut self) -> Option<Command> {
        let segment = self.segments.get(self.current)?;
        match core::mem::replace(&mut self.asked, Asked::Nothing) {
            Asked::Have(piece, data) => {
                self.asked = Asked::Write(piece);
                let at = Sectors::new(segment.to + piece.offset, piece.count);
                let fua = false;
                let zero = is_all_zero(&data);
                Some(if zero { Command::Zero { at, fua } } else { Command::Write { at, data, fua } })
            }
            Asked::Nothing | Asked::Read(_) | Asked::Write(_) => {
                let piece = segment.piece(self.done);
                self.asked = Asked::Read(piece);
                Some(Command::Read { at: Sectors::new(segment.from + piece.offset, piece.count) })
            }
        }
    }

    /// The answer to the last step.
    pub(crate) fn took(&mut self, found: &Payload) -> Result<(), Sense> {
        let Some(segment) = self.segments.get(self.current) else { return Ok(()) };
        match self.asked {
            Asked::Read(piece) => {
                let from = Sectors::new(segment.from + piece.offset, piece.count);
                if found.len() as u64 != from.blocks().end - from.blocks().start {
                    return Err(self.aborted(Objection::new(DATA_UNDERRUN, segment.source.named)));
                }
                let data = shift(&self.pages, found, from, segment.to + piece.offset);
                self.asked = Asked::Have(piece, data);
                Ok(())
            }
            Asked::Write(piece) => {
                self.asked = Asked::Nothing;
                self.done += piece.count;
                self.bytes += piece.count * SECTOR_BYTES as u64;
                self.settle()
            }
            Asked::Nothing | Asked::Have(..) => Ok(()),
        }
    }

    /// Bytes that it holds at a time: a piece as it was read, and as it is to be written if that differs.
    pub(crate) fn needs(&self) -> usize {
        let copies = if self.segments.iter().any(Segment::is_shifted) { 2 } else { 1 };
        copies * PIECE_SECTORS as usize * SECTOR_BYTES
    }

    fn side(&self) -> Option<&Side> {
        let segment = self.segments.get(self.current)?;
        match self.asked {
            Asked::Read(_) => Some(&segment.source),
            Asked::Write(_) => Some(&segment.destination),
            Asked::Nothing | Asked::Have(..) => None,
        }
    }

    /// Who was asked last.
    pub(crate) fn volume(&self) -> Option<&Arc<dyn VirtualVolume>> {
        self.side().map(|side| &side.volume)
    }

    /// Segments begun, and bytes copied.
    pub(crate) fn progress(&self) -> (u16, u64) {
        ((self.current + 1).min(self.segments.len()) as u16, self.bytes)
    }

    /// Does it read or write one of these volumes now?
    pub(crate) fn touches(&self, volumes: &[VolumeId]) -> bool {
        let segment = self.segments.get(self.current);
        segment.is_some_and(|segment| {
            volumes.contains(&segment.source.id) || volumes.contains(&segment.destination.id)
        })
    }

    /// What to answer when the request under way failed.
    pub(crate) fn failure(&self, error: GuestError) -> Sense {
        let Some(side) = self.side() else { return error.into() };
        if error == GuestError::Gone {
            return self.aborted(Objection::new(NOT_REACHABLE, side.named));
        }
        let Sense { key, asc, ascq, .. } = error.into();
        let cause = Cause { destination: matches!(self.asked, Asked::Write(_)), key, asc, ascq };
        self.aborted(Objection::new(THIRD_PARTY_DEVICE_FAILURE, side.named).caused_by(cause))
    }

    /// What to answer when others have ended all commands of a unit that it copies from or to.
    pub(crate) fn cut_off(&self) -> Sense {
        let named = self.side().map_or(Pointer::Segment(0), |side| side.named);
        self.aborted(Objection::new(THIRD_PARTY_DEVICE_FAILURE, named))
    }

    /// The host sees these units from now on. What to answer if the segment under way may not go on; of later ones that
    /// is told when it is their turn.
    pub(crate) fn remap(&mut self, units: &[Unit]) -> Option<Sense> {
        let later = self.segments.iter().enumerate().skip(self.current);
        let objects = |(number, segment)| Some((number, find::objection(segment, units)?));
        let (number, objection) = later.filter_map(objects).next()?;
        if number == self.current {
            return Some(self.aborted(objection));
        }
        self.segments.truncate(number);
        self.fault = Some(objection.sense(number as u16));
        None
    }

    /// COPY ABORTED in the segment under way. What is left of it is told if some of it is copied, counted from its
    /// beginning without gaps.
    fn aborted(&self, why: Objection) -> Sense {
        let left = self.segments.get(self.current).filter(|_| self.done > 0).map(|segment| {
            let done = if segment.is_backwards() { 0 } else { self.done };
            (segment.count - done) as u32
        });
        Sense { information: left, ..why.sense(self.current as u16) }
    }
}

/// The blocks that sectors `from` of `found` make at `to`: the same blocks if both begin at the same place within one.
fn shift(pages: &PagePool, found: &Payload, from: Sectors, to: u64) -> Payload {
    if from.start % SECTORS_PER_BLOCK == to % SECTORS_PER_BLOCK {
        return found.clone();
    }
    let at = Sectors::new(to, from.count);
    at.blocks().map(|number| shifted(pages, found, from.start, at, number)).collect()
}

/// Block `number` of those that hold the sectors `at`, whose first is sector `from` of the source.
fn shifted(pages: &PagePool, found: &Payload, from: u64, at: Sectors, number: u64) -> Block {
    let base = number * SECTORS_PER_BLOCK;
    let wanted = base.max(at.start)..(base + SECTORS_PER_BLOCK).min(at.end());
    let place = |sector: u64| {
        let sector = from % SECTORS_PER_BLOCK + (sector - at.start);
        ((sector / SECTORS_PER_BLOCK) as usize, (sector % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES)
    };
    if wanted.clone().all(|sector| matches!(found[place(sector).0], Block::Zero)) {
        return Block::Zero;
    }
    let mut page = pages.take_zeroed();
    for sector in wanted {
        let (block, offset) = place(sector);
        let to = (sector - base) as usize * SECTOR_BYTES;
        page.bytes_mut()[to..to + SECTOR_BYTES]
            .copy_from_slice(&found[block].bytes()[offset..offset + SECTOR_BYTES]);
    }
    Block::Data(page.freeze())
}
