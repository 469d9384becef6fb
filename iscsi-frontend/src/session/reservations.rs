//! Reservations in a session: orders to change them, and what they forbid commands that are under way.
//!
//! An order is carried out by keeping the state that it makes with the volume, in place of the one that it was made from. If
//! somebody else, on this node or its partner, was faster, it is made again from what he left.
//!
//! Invariant: an order is answered when what it made is in force on both nodes, or on the one that serves alone; and if it
//! aborts tasks, when those on this node can no longer act.

use std::sync::Arc;

use twinsan::guest::Command;
use twinsan::ids::VolumeId;
use twinsan::runtime::VolumeRefusal;

use crate::scsi::reservations::{Change, ITEM, Need, Refusal, Reservations};
use crate::scsi::{Kind, Nexus, Sense, Work, code};
use crate::target::{Notice, Ticket};

use super::tasks::{State, Task};
use super::{Awaited, Connection};

/// How often an order is made again because somebody else was faster.
const TRIES_MAX: u8 = 8;

/// An order that the volume is to keep the outcome of.
pub(crate) struct Keeping {
    change: Change,
    next: Reservations,
    aborted: Vec<Nexus>,
    tries: u8,
}

impl Connection {
    /// May the task ask this of the volume? Reservations may have changed since its command came.
    pub(super) fn may_go_on(&mut self, slot: u16, work: &Work, command: &Command) -> bool {
        let Some(task) = self.tasks.get(slot) else { return false };
        let need = || Kind::parse(&task.cdb).map_or(Need::Write, |kind| kind.need());
        if !self.units.get_mut(task.unit).is_none_or(|unit| unit.still_allows(need)) {
            return false;
        }
        let Some(volume) = work.copy().and_then(|copy| copy.volume()) else { return true };
        let need = if matches!(command, Command::Read { .. }) { Need::Read } else { Need::Write };
        let Some(unit) = self.units.iter_mut().find(|unit| Arc::ptr_eq(&unit.volume, volume)) else {
            return false;
        };
        unit.still_allows(|| need) && unit.reservations.allows(need)
    }

    /// Answers a task that may not go on.
    pub(super) fn conflict(&mut self, slot: u16, work: &Work) {
        if let Some(copy) = work.copy() {
            return self.fail(slot, copy.cut_off());
        }
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if !task.writes {
            task.asked = 0;
        }
        self.finish(slot, code::RESERVATION_CONFLICT);
    }

    /// PERSISTENT RESERVE OUT, RESERVE or RELEASE.
    pub(super) fn reserve(&mut self, slot: u16, change: Change) {
        self.try_to_reserve(slot, change, 0);
    }

    fn try_to_reserve(&mut self, slot: u16, change: Change, tries: u8) {
        let ports = self.target.port_numbers();
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let Some(unit) = self.units.get_mut(task.unit) else { return self.fail(slot, Sense::NO_SUCH_LUN) };
        unit.look();
        let Some((state, revision)) = unit.reservations.state() else {
            return self.fail(slot, Sense::INTERNAL);
        };
        let (next, aborted) = match state.change(&change, unit.reservations.nexus(), &ports) {
            Ok(outcome) => outcome,
            Err(Refusal::Conflict) => return self.finish(slot, code::RESERVATION_CONFLICT),
            Err(Refusal::Fault(sense)) => return self.fail(slot, sense),
        };
        if next == *state {
            return self.finish(slot, code::GOOD);
        }
        let Some(bytes) = next.encode() else { return self.fail(slot, Sense::NO_MORE_REGISTRATIONS) };
        task.state = State::Keeping;
        task.keeping = Some(Box::new(Keeping { change, next, aborted, tries }));
        let address = self.address.clone();
        let done = Box::new(move |result| address.post(Notice::Kept(slot, result)));
        unit.volume.keep(ITEM, revision, &bytes, done);
    }

    /// The volume has kept what the task in this slot wanted, or not.
    pub(super) fn kept(&mut self, slot: u16, result: Result<(), VolumeRefusal>) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if task.state == State::Aborting {
            return self.aborted(slot);
        }
        let Some(keeping) = task.keeping.take() else { return };
        let Keeping { change, next, aborted, tries } = *keeping;
        match result {
            Ok(()) => {
                if let Some(unit) = self.units.get_mut(task.unit) {
                    unit.reservations.learn(next);
                }
                self.fence(slot, &aborted);
            }
            Err(VolumeRefusal::Changed { .. }) if tries < TRIES_MAX => {
                self.try_to_reserve(slot, change, tries + 1);
            }
            Err(VolumeRefusal::Changed { .. } | VolumeRefusal::Busy) => self.finish(slot, code::BUSY),
            Err(VolumeRefusal::NoRoom) => self.fail(slot, Sense::NO_MORE_REGISTRATIONS),
            Err(VolumeRefusal::Unknown(_)) => self.fail(slot, Sense::NO_SUCH_LUN),
            Err(_) => self.fail(slot, Sense::TRANSITIONING),
        }
    }

    /// Answers when the tasks of these nexuses can no longer act.
    fn fence(&mut self, slot: u16, nexuses: &[Nexus]) {
        let Some(volume) =
            self.tasks.get(slot).and_then(|task| self.units.get(task.unit)).map(|unit| unit.volume_id())
        else {
            return self.finish(slot, code::GOOD);
        };
        if nexuses.is_empty() {
            return self.finish(slot, code::GOOD);
        }
        let ticket = self.expect(Awaited::Fenced { slot });
        self.target.cut_off(nexuses, volume, &ticket);
    }

    /// They are dead.
    pub(super) fn fenced(&mut self, slot: u16) {
        match self.tasks.get(slot).map(|task| task.state) {
            Some(State::Keeping) => self.finish(slot, code::GOOD),
            Some(State::Aborting) => self.aborted(slot),
            _ => {}
        }
    }

    /// This initiator was preempted, and its tasks on the volume are to end (SPC-4 5.13.11.2.6).
    pub(super) fn cut_off(&mut self, volume: VolumeId, ticket: &Arc<Ticket>) {
        let units = &self.units;
        let concerns = |task: &Task| units.get(task.unit).is_some_and(|unit| unit.volume_id() == volume);
        for slot in self.tasks.select(concerns) {
            self.abort(slot, Some(ticket));
        }
        self.stop_copies(&[volume], ticket);
    }
}
