//! The tasks of a connection, in slots that are used again.
//!
//! Invariant: a slot is free only when nothing can still call back for it: not the volume, not the data phase.

use std::sync::Arc;

use smallvec::SmallVec;
use twinsan::ids::RequestId;

use crate::scsi::reservations::Need;
use crate::scsi::{Kind, Plan, Sense, Work};
use crate::target::Ticket;

use super::landing::Landing;
use super::reservations::Keeping;

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its data is coming, or it waits for memory. Nothing was asked of the volume.
    Gathering,
    /// A request of the volume is under way.
    Running,
    /// The volume is to keep something: nobody can call that off.
    Keeping,
    /// As `Running` or `Keeping`, and to be given up.
    Aborting,
    /// As `Aborting`, and then to be answered with this.
    Stopping(Sense),
}

/// Where the data from the initiator goes.
pub(crate) enum Into {
    Nowhere,
    Blocks(Landing),
    List(Kind, Vec<u8>),
}

/// The data phase from the initiator.
pub(crate) struct Flow {
    pub(crate) into: Into,
    /// Bytes that the task uses; what comes beyond is dropped.
    pub(crate) wanted: u32,
    /// Offset of the next byte that the initiator will send.
    pub(crate) came: u32,
    /// Unsolicited data is still to come.
    pub(crate) unsolicited: bool,
    /// Where the burst asked for ends; equal to `came` when none is.
    pub(crate) burst_end: u32,
    pub(crate) data_sn: u32,
    pub(crate) r2t_sn: u32,
    /// What was wrong with the data.
    pub(crate) failed: Option<Sense>,
}

/// A SCSI command in progress.
pub(crate) struct Task {
    pub(crate) itt: u32,
    /// What it wants of the unit.
    pub(crate) need: Need,
    pub(crate) lun: [u8; 8],
    pub(crate) unit: usize,
    pub(crate) state: State,
    pub(crate) immediate: bool,
    /// Does the initiator expect data, or will it send some?
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    /// Bytes that the initiator expects to move.
    pub(crate) expected: u32,
    /// Bytes that the command asks to move.
    pub(crate) asked: u32,
    /// What to do when the data is there.
    pub(crate) plan: Plan,
    /// What is left to ask of the volume.
    pub(crate) work: Work,
    /// The blocks read go to the initiator.
    pub(crate) fetches: bool,
    /// Offset of the first byte of the transfer in its first block.
    pub(crate) head: u32,
    pub(crate) flow: Flow,
    pub(crate) request: RequestId,
    /// What the volume is to keep.
    pub(crate) keeping: Option<Box<Keeping>>,
    /// The list identifier of a copy.
    pub(crate) list: Option<u8>,
    /// Room that the task waits for or has, in bytes.
    pub(crate) needs: usize,
    /// Bytes counted against the connection's memory: with room, and come unasked.
    pub(crate) reserved: usize,
    pub(crate) parked: usize,
    /// Dropped with the task.
    pub(crate) tickets: SmallVec<[Arc<Ticket>; 1]>,
}

/// In place of a tag: no task that can be named.
const NO_TASK: u64 = u64::MAX;

/// Slots.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: Vec<Option<Task>>,
    /// The tag of the task in each slot, dense, because every command is looked for in it.
    tags: Vec<u64>,
    free: Vec<u16>,
    immediate: usize,
}

impl Tasks {
    pub(crate) fn insert(&mut self, task: Task) -> u16 {
        self.immediate += usize::from(task.immediate);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.tags.push(NO_TASK);
            (self.slots.len() - 1) as u16
        });
        self.tags[usize::from(slot)] = u64::from(task.itt);
        self.slots[usize::from(slot)] = Some(task);
        slot
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Task> {
        let task = self.slots.get_mut(usize::from(slot))?.take()?;
        self.immediate -= usize::from(task.immediate);
        self.tags[usize::from(slot)] = NO_TASK;
        self.free.push(slot);
        Some(task)
    }

    pub(crate) fn get(&self, slot: u16) -> Option<&Task> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Task> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// All tasks.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Those that came outside the command window.
    pub(crate) fn immediate(&self) -> usize {
        self.immediate
    }

    /// The slots of tasks that `wanted` names.
    pub(crate) fn select(&self, wanted: impl Fn(&Task) -> bool) -> SmallVec<[u16; 8]> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, task)| task.as_ref().is_some_and(&wanted)).map(|(slot, _)| slot as u16).collect()
    }

    /// All tasks, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.slots.iter_mut().flatten()
    }

    /// The task in this slot is to be given up: its tag names it no longer.
    pub(crate) fn give_up(&mut self, slot: u16) {
        if let Some(Some(task)) = self.slots.get_mut(usize::from(slot)) {
            task.state = State::Aborting;
            self.tags[usize::from(slot)] = NO_TASK;
        }
    }

    /// The slot of the task with this tag that has not been given up.
    pub(crate) fn find(&self, itt: u32) -> Option<u16> {
        self.tags.iter().position(|tag| *tag == u64::from(itt)).map(|slot| slot as u16)
    }
}
