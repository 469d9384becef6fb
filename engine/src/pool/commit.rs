//! The way to the next superblock: frames of a checkpoint, flush, superblocks of the other disks, each flushed,
//! then that of the home disk, flushed. Only then does the old checkpoint count for nothing and is the log before it free.
//!
//! Where the metadata are kept twice, each frame is written to both copies, and the superblocks are written twice, to
//! their other place with the next generation: so both places name the new checkpoint before what the old one needs is
//! given up. A copy that moves has its log cleared first: entries of an earlier stay there are not to be found.
//!
//! The other disks go first, so that none of them ever shows an earlier generation than the home disk: one
//! that does is an old copy. If the home disk itself changes (`moving`), the superblocks are written twice: the former one
//! is last in the first round, for until it names the new one it is what counts, and the new one is last in the second.

use std::collections::VecDeque;

use super::checkpoint::CheckpointWriter;
use super::copies::{Sites, disks_of};
use super::layout::{Commit, DiskState, Layout};
use super::record::Lsn;
use super::{Pool, PoolIo, Purpose};
use crate::block::{BLOCK_BYTES, payload_from, zeros};
use crate::format::superblock::SUPERBLOCK_OFFSETS;
use crate::ids::DiskId;
use crate::io::DiskOp;
use crate::planted::Bug;

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
    /// Clear so many bytes of this disk, where a new copy of the log will be, from this offset on.
    Clear(DiskId, u64, u64),
    /// Take a step.
    Step(Step),
}

/// A commit on its way.
#[derive(Debug)]
pub(super) struct CommitWriter {
    /// The checkpoint, unless only the generation rises.
    writer: Option<CheckpointWriter>,
    /// What is left to be cleared: disk, from, to.
    clear: VecDeque<(DiskId, u64, u64)>,
    frames_in_flight: usize,
    steps: VecDeque<Step>,
    step_in_flight: bool,
    /// What the new superblocks will say.
    pub(super) next: Commit,
    /// The table of disks in them, and where they say that the metadata are.
    pub(super) layout: Layout,
    /// Where the log will begin, not wrapped.
    pub(super) log_start: u64,
    rounds: u8,
}

/// How a commit goes about it.
#[derive(Debug)]
pub(super) struct Way {
    /// The disk whose superblock is the last, in each round.
    lasts: Vec<DiskId>,
    /// Disks flushed before the first superblock.
    flush_first: Vec<DiskId>,
    /// What is cleared before: disk, from, to.
    clear: VecDeque<(DiskId, u64, u64)>,
}

impl CommitWriter {
    /// A commit to the disks of this layout.
    fn new(
        writer: Option<CheckpointWriter>,
        next: Commit,
        log_start: u64,
        layout: Layout,
        way: Way,
    ) -> CommitWriter {
        let mut steps: VecDeque<Step> = way.flush_first.iter().copied().map(Step::Flush).collect();
        let there = layout.disks.iter().zip(0..).filter(|(disk, _)| disk.state != DiskState::Removed);
        let all: Vec<DiskId> = there.map(|(_, at)| DiskId(at)).collect();
        for (last, round) in way.lasts.iter().zip(0..) {
            for disk in all.iter().filter(|disk| *disk != last).chain([last]) {
                steps.extend([Step::Superblock(*disk, round), Step::Flush(*disk)]);
            }
        }
        CommitWriter {
            writer,
            clear: way.clear,
            frames_in_flight: 0,
            steps,
            step_in_flight: false,
            next,
            layout,
            log_start,
            rounds: way.lasts.len() as u8,
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

    /// The next thing to do, if any; `Err` if the checkpoint does not fit into its area.
    pub(super) fn poll(&mut self) -> Result<Option<CommitIo>, ()> {
        if self.frames_in_flight < FRAMES_IN_FLIGHT
            && let Some((disk, from, to)) = self.clear.front_mut()
        {
            let (disk, at, bytes) = (*disk, *from, (*to - *from).min(CLEAR_BYTES));
            *from += bytes;
            if from == to {
                self.clear.pop_front();
            }
            self.frames_in_flight += 1;
            return Ok(Some(CommitIo::Clear(disk, at, bytes)));
        }
        if let Some(writer) = &mut self.writer {
            if self.frames_in_flight >= FRAMES_IN_FLIGHT {
                return Ok(None);
            }
            if let Some((at, frame)) = writer.next_frame() {
                if writer.bytes() > self.layout.checkpoint_area_bytes {
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

impl Pool {
    pub(super) fn commit_io(&mut self, io: CommitIo) -> PoolIo {
        let commit = self.committing.as_mut().expect("it has just asked");
        let next = commit.next;
        match io {
            CommitIo::Frame(at, bytes) => {
                let data = payload_from(&self.pages, &bytes);
                let sites = commit.layout.sites(next.second);
                for site in &sites[1..] {
                    let op = DiskOp::Write {
                        offset: site.checkpoint(next.checkpoint_number) + at,
                        data: data.clone(),
                    };
                    commit.frame_again();
                    self.queued.push_back((site.disk, op, Purpose::Frame));
                }
                let offset = sites[0].checkpoint(next.checkpoint_number) + at;
                self.request(sites[0].disk, DiskOp::Write { offset, data }, Purpose::Frame)
            }
            CommitIo::Clear(disk, offset, bytes) => {
                let data = zeros(bytes as usize / BLOCK_BYTES);
                self.request(disk, DiskOp::Write { offset, data }, Purpose::Frame)
            }
            CommitIo::Step(Step::Flush(disk)) => {
                self.request(disk, DiskOp::Flush, Purpose::Step(Step::Flush(disk)))
            }
            CommitIo::Step(Step::Superblock(disk, round)) => {
                let next = Commit { generation: next.generation + u64::from(round), ..next };
                let block = commit.layout.superblock(&self.identity, &next, disk);
                let offset = SUPERBLOCK_OFFSETS[usize::from(block.place())];
                self.write(disk, offset, &block.seal(), Purpose::Step(Step::Superblock(disk, round)))
            }
        }
    }

    /// Starts a checkpoint when it is time, and the first superblocks of this life.
    pub(super) fn begin_commit(&mut self) {
        if self.committing.is_some() {
            return;
        }
        let moves = self.layout.is_out_of_place(self.commit.second);
        // Where the superblocks may name different checkpoints, the first write of a life makes them name the same.
        let differ = self.commit.second.is_some() || self.layout.is_moved();
        let first = !self.introduced && differ && !self.table.is_new();
        let wanted = self.checkpoint_asked || self.log.wants_checkpoint() || self.table.is_new() || moves;
        let checkpoint = wanted && !first;
        if !checkpoint && self.introduced && !self.table.is_due() {
            return;
        }
        if checkpoint && moves && self.log.is_writing() {
            // It comes to rest, for nothing new begins.
            return;
        }
        let mut next = Commit { generation: self.commit.generation + 1, ..self.commit };
        let (mut writer, mut log_start, mut layout) = (None, self.log.start(), self.layout.clone());
        if checkpoint {
            (layout, next.second) = self.layout.settled(self.commit.second);
            let number = self.commit.checkpoint_number + 1;
            writer = CheckpointWriter::new(self.identity.pool.0, number, &self.metadata, &layout);
            match &mut writer {
                None => return self.fail(self.layout.home),
                Some(writer) if self.planted.has(Bug::ZerosForgottenInCheckpoint) => writer.forget_zeros(),
                Some(_) => {}
            }
            let sequence;
            (log_start, sequence) = self.log.cut();
            if layout.log_bytes != self.layout.log_bytes {
                log_start = 0;
            }
            next.checkpoint_number = number;
            next.checkpoint_lsn = self.log.appended().0;
            next.log_start = log_start % layout.log_bytes;
            next.log_sequence = sequence;
            self.checkpoint_asked = false;
        }
        self.introduced = true;
        let way = self.way(checkpoint, &layout, next.second);
        self.table.begin();
        self.committing = Some(CommitWriter::new(writer, next, log_start, layout, way));
    }

    fn way(&self, checkpoint: bool, layout: &Layout, second: Option<DiskId>) -> Way {
        let (before, now) = (self.layout.home, layout.home);
        let (old, new): (Sites, Sites) = (self.layout.sites(self.commit.second), layout.sites(second));
        let cleared = new.iter().filter(|site| checkpoint && !old.contains(site));
        let early = self.planted.has(Bug::HomeNamedBeforeWhole) && now != before;
        let flush = checkpoint && !self.planted.has(Bug::FlushSkippedBeforeSuperblock);
        let twice = checkpoint && second.is_some() && !self.planted.has(Bug::SuperblockWrittenOnce);
        let twice = if now == before { twice } else { !self.planted.has(Bug::OldHomeGivenUpEarly) };
        Way {
            lasts: [if early { now } else { before }, now]
                .into_iter()
                .take(if twice { 2 } else { 1 })
                .collect(),
            flush_first: disks_of(&new).filter(|disk| flush && !(early && *disk == now)).collect(),
            clear: cleared.map(|site| (site.disk, site.log, site.log + layout.log_bytes)).collect(),
        }
    }

    pub(super) fn committed(&mut self) {
        let commit = self.committing.take().expect("its last step has just ended");
        self.log.release(commit.log_start, commit.covered());
        if commit.layout.log_bytes != self.layout.log_bytes {
            self.log.restart(commit.layout.log_bytes);
        }
        self.layout.follow(&commit.layout);
        self.agreed = true;
        let before = std::mem::replace(&mut self.commit, commit.outcome());
        self.unequal &= before.checkpoint_number == self.commit.checkpoint_number;
        self.table_committed();
    }
}
