//! The way to the next superblock: frames of a checkpoint, flush, superblocks of the other disks, each flushed,
//! then that of the home disk, flushed. Only then does the old checkpoint count for nothing and is the log before it free.
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

/// One step after the frames; each waits for the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Superblock(DiskId),
    Flush(DiskId),
}

/// Something to do.
#[derive(Debug)]
pub(super) enum CommitIo {
    /// Write a frame at this place of the checkpoint area.
    Frame(u64, Vec<u8>),
    /// Take a step.
    Step(Step),
}

/// A commit on its way.
#[derive(Debug)]
pub(super) struct CommitWriter {
    /// The checkpoint, unless only the generation rises.
    writer: Option<CheckpointWriter>,
    frames_in_flight: usize,
    steps: VecDeque<Step>,
    step_in_flight: bool,
    /// What the new superblocks will say.
    pub(super) next: Commit,
    /// The table of disks in them.
    pub(super) table: Vec<PoolDisk>,
    /// Where the log will begin, not wrapped.
    pub(super) log_start: u64,
}

impl CommitWriter {
    /// A commit to the disks of this table. `flush_first` is false for a planted bug only.
    pub(super) fn new(
        writer: Option<CheckpointWriter>,
        next: Commit,
        log_start: u64,
        table: Vec<PoolDisk>,
        home: DiskId,
        flush_first: bool,
    ) -> CommitWriter {
        let mut steps = VecDeque::new();
        if writer.is_some() && flush_first {
            steps.push_back(Step::Flush(home));
        }
        let there = table.iter().zip(0..).filter(|(disk, _)| disk.state != DiskState::Removed);
        let others = there.map(|(_, at)| DiskId(at)).filter(|disk| *disk != home);
        for disk in others.chain([home]) {
            steps.extend([Step::Superblock(disk), Step::Flush(disk)]);
        }
        CommitWriter { writer, frames_in_flight: 0, steps, step_in_flight: false, next, table, log_start }
    }

    /// The last record that the new checkpoint contains, if there is one.
    pub(super) fn covered(&self) -> Lsn {
        Lsn(self.next.checkpoint_lsn)
    }

    /// The next thing to do, if any. `area_bytes`: room for the checkpoint; `Err` if it does not fit.
    pub(super) fn poll(&mut self, area_bytes: u64) -> Result<Option<CommitIo>, ()> {
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
