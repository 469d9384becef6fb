//! The way to the next superblock: frames of a checkpoint, flush, superblocks of the other disks, each flushed,
//! then that of the home disk, flushed. Only then does the old checkpoint count for nothing and is the log before it free.
//!
//! Where the metadata are kept twice, each frame is written to both copies, and the superblocks are written twice, to
//! their other place with the next generation: so both places name the new checkpoint before what the old one needs is
//! given up. A second copy that moves has its log cleared first: entries of an earlier stay there are not to be found.
//!
//! The other disks go first, so that none of them ever shows an earlier generation than the home disk: one
//! that does is an old copy.

use std::collections::VecDeque;

use super::checkpoint::CheckpointWriter;
use super::layout::{Commit, DiskState, PoolDisk};
use super::record::Lsn;
use crate::ids::DiskId;

/// Frames in flight at once.
const FRAMES_IN_FLIGHT: usize = 4;
/// Most bytes cleared at once.
const CLEAR_BYTES: u64 = 1 << 20;

/// One step after the frames; each waits for the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The superblock of this disk; the second time round 1, not 0.
    Superblock(DiskId, u8),
    Flush(DiskId),
}

/// Something to do.
#[derive(Debug)]
pub(super) enum CommitIo {
    /// Write a frame at this place of the checkpoint area.
    Frame(u64, Vec<u8>),
    /// Clear so many bytes of the new second copy of the log from this place on.
    Clear(u64, u64),
    /// Take a step.
    Step(Step),
}

/// A commit on its way.
#[derive(Debug)]
pub(super) struct CommitWriter {
    /// The checkpoint, unless only the generation rises.
    writer: Option<CheckpointWriter>,
    /// What is left to be cleared: from, to.
    clear: (u64, u64),
    frames_in_flight: usize,
    steps: VecDeque<Step>,
    step_in_flight: bool,
    /// What the new superblocks will say.
    pub(super) next: Commit,
    /// The table of disks in them.
    pub(super) table: Vec<PoolDisk>,
    /// Where the log will begin, not wrapped.
    pub(super) log_start: u64,
    rounds: u8,
}

/// How a commit goes about it.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) home: DiskId,
    /// Disks flushed before the first superblock.
    pub(super) flush_first: Vec<DiskId>,
    /// How often the superblocks are written.
    pub(super) rounds: u8,
    /// Bytes of a new second copy of the log.
    pub(super) clear: u64,
}

impl CommitWriter {
    /// A commit to the disks of this table.
    pub(super) fn new(
        writer: Option<CheckpointWriter>,
        next: Commit,
        log_start: u64,
        table: Vec<PoolDisk>,
        way: &Way,
    ) -> CommitWriter {
        let mut steps: VecDeque<Step> = way.flush_first.iter().copied().map(Step::Flush).collect();
        let there = table.iter().zip(0..).filter(|(disk, _)| disk.state != DiskState::Removed);
        let others: Vec<DiskId> = there.map(|(_, at)| DiskId(at)).filter(|disk| *disk != way.home).collect();
        for round in 0..way.rounds {
            for disk in others.iter().copied().chain([way.home]) {
                steps.extend([Step::Superblock(disk, round), Step::Flush(disk)]);
            }
        }
        CommitWriter {
            writer,
            clear: (0, way.clear),
            frames_in_flight: 0,
            steps,
            step_in_flight: false,
            next,
            table,
            log_start,
            rounds: way.rounds,
        }
    }

    /// What the superblocks say when the commit is done.
    pub(super) fn outcome(&self) -> Commit {
        Commit { generation: self.next.generation + u64::from(self.rounds) - 1, ..self.next }
    }

    /// The frame just polled takes a write more, to the second copy.
    pub(super) fn frame_again(&mut self) {
        self.frames_in_flight += 1;
    }

    /// The last record that the new checkpoint contains, if there is one.
    pub(super) fn covered(&self) -> Lsn {
        Lsn(self.next.checkpoint_lsn)
    }

    /// The next thing to do, if any. `area_bytes`: room for the checkpoint; `Err` if it does not fit.
    pub(super) fn poll(&mut self, area_bytes: u64) -> Result<Option<CommitIo>, ()> {
        let (from, to) = self.clear;
        if from < to && self.frames_in_flight < FRAMES_IN_FLIGHT {
            let bytes = (to - from).min(CLEAR_BYTES);
            self.clear.0 += bytes;
            self.frames_in_flight += 1;
            return Ok(Some(CommitIo::Clear(from, bytes)));
        }
        if let Some(writer) = &mut self.writer {
            if self.frames_in_flight >= FRAMES_IN_FLIGHT {
                return Ok(None);
            }
            if let Some((at, frame)) = writer.next_frame() {
                if writer.bytes() > area_bytes {
                    return Err(());
                }
                self.frames_in_flight += 1;
                return Ok(Some(CommitIo::Frame(at, frame)));
            }
            self.next.checkpoint_bytes = writer.bytes();
            self.writer = None;
        }
        if self.frames_in_flight != 0 || self.step_in_flight {
            return Ok(None);
        }
        Ok(self.steps.pop_front().map(|step| {
            self.step_in_flight = true;
            CommitIo::Step(step)
        }))
    }

    pub(super) fn frame_done(&mut self) {
        self.frames_in_flight -= 1;
    }

    /// A step is done; true if it was the last.
    pub(super) fn step_done(&mut self) -> bool {
        self.step_in_flight = false;
        self.steps.is_empty()
    }

    /// The step is to be taken again (only a planted bug does that).
    pub(super) fn step_again(&mut self, step: Step) {
        self.step_in_flight = false;
        self.steps.push_front(step);
    }
}
