//! Opens a pool: reads the superblocks, the checkpoint they name, and the log from there on.
//!
//! It writes nothing, so a crash in the middle of it changes nothing. It ends with a flush of every disk: what
//! was read may lie in the volatile caches of disks that a crash of the node alone has left running, and the
//! node is about to act on it.
//!
//! What is read from checkpoint and log, and what it comes to, is `reading`'s to say.

use std::collections::BTreeMap;

use super::error::OpenError;
use super::identify::{Copy, recognise};
use super::layout::Identity;
use super::reading::{DamagedCopy, Reading};
use super::{Pool, PoolIo};
use crate::block::BLOCK_BYTES;
use crate::format::superblock::{DISKS_MAX, SUPERBLOCK_OFFSETS};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};
use crate::planted::{Bug, Planted};

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
    /// Copies of the checkpoint or of log entries that were damaged, the other copy being whole; at most the first 1000.
    /// The pool writes a new checkpoint at once, and then needs none of them.
    pub copies: Vec<DamagedCopy>,
    /// The last log entry was whole in one copy only, as a crash leaves it, and counts: where the other copy is, disk
    /// and byte offset.
    pub completed: Option<(DiskId, u64)>,
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
                if let Err(error) = reading.got(disk, &op, &data) {
                    return self.finish(Err(error));
                }
            }
            // The other copy serves, but for the blocks that can be read.
            (Stage::Reading(reading), Err(DiskError::Unreadable)) if reading.has_copies() => {
                self.asks.extend(reading.unreadable(disk, &op));
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
                        let mut reading = Box::new(Reading::new(found, self.planted));
                        self.asks.extend(reading.ask());
                        self.stage = Stage::Reading(reading);
                    }
                    Err(error) => self.finish(Err(error)),
                }
            }
            Stage::Reading(mut reading) => {
                if let Err(error) = reading.take(self.planted) {
                    return self.finish(Err(error));
                }
                self.asks.extend(reading.ask());
                if !self.asks.is_empty() {
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
