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
use crate::scsi::{Initiator, Nexus, Sense, Unit, Work, code};
use crate::target::{Notice, Target, Ticket};

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
        let need = task.need;
        if !self.units.get_mut(task.unit).is_none_or(|unit| unit.still_allows(need)) {
            return false;
        }
        let Some(volume) = work.copy().and_then(|copy| copy.volume()) else { return true };
        let need = if matches!(command, Command::Read { .. }) { Need::Read } else { Need::Write };
        let Some(unit) = self.units.iter_mut().find(|unit| Arc::ptr_eq(&unit.volume, volume)) else {
            return false;
        };
        unit.still_allows(need)
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
        let target = Arc::clone(&self.target);
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let Some(unit) = self.units.get_mut(task.unit) else { return self.fail(slot, Sense::NO_SUCH_LUN) };
        unit.look();
        if !unit.serves() {
            return self.fail(slot, Sense::TRANSITIONING);
        }
        let Some((state, revision)) = unit.reservations.valid() else {
            return self.fail(slot, Sense::INTERNAL);
        };
        if let Some(at) = unknown_name(&change, &target, unit.volume_id()) {
            return self.fail(slot, Sense::parameter(at));
        }
        let ports = target.port_numbers();
        let ports = if unit.is_mirrored() { &ports[..] } else { &ports[..1] };
        let (next, aborted) = match state.change(&change, unit.reservations.nexus(), ports) {
            Ok(outcome) => outcome,
            Err(Refusal::Conflict) => return self.finish(slot, code::RESERVATION_CONFLICT),
            Err(Refusal::Fault(sense)) => return self.fail(slot, sense),
        };
        // Kept even if nothing changes: that this is in force is known for sure only then.
        let Some(bytes) = next.encode() else { return self.fail(slot, Sense::NO_MORE_REGISTRATIONS) };
        task.state = State::Keeping;
        task.keeping = Some(Box::new(Keeping { change, next, aborted, tries }));
        unit.reservations.order_begun();
        let address = self.address.clone();
        let done = Box::new(move |result| address.post(Notice::Kept(slot, result)));
        unit.volume.keep(ITEM, revision, &bytes, done);
    }

    /// The volume has kept what the task in this slot wanted, or not.
    pub(super) fn kept(&mut self, slot: u16, result: Result<(), VolumeRefusal>) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let Some(keeping) = task.keeping.take() else { return };
        let Keeping { change, next, aborted, tries } = *keeping;
        let (unit, given_up) = (task.unit, task.state == State::Aborting);
        let done = self.over(unit, &next, &result);
        if done && given_up && change == Change::TakeUnit {
            // It came after all, and nobody has it who could let go.
            self.give_up_late(slot);
        }
        if done {
            return self.fence(slot, &aborted, given_up);
        }
        if given_up {
            return self.aborted(slot);
        }
        match result {
            Err(VolumeRefusal::Changed { .. }) if tries < TRIES_MAX => {
                self.try_to_reserve(slot, change, tries + 1);
            }
            Err(VolumeRefusal::Changed { .. } | VolumeRefusal::Busy) => self.finish(slot, code::BUSY),
            Err(VolumeRefusal::NoRoom) => self.fail(slot, Sense::NO_MORE_REGISTRATIONS),
            Err(VolumeRefusal::Unknown(_)) => self.fail(slot, Sense::NO_SUCH_LUN),
            _ => self.fail(slot, Sense::TRANSITIONING),
        }
    }

    /// The unit learns what came of an order. Is what it made in force? Nodes that lost each other do not know that, but the
    /// one that serves alone can see it.
    fn over(&mut self, unit: usize, next: &Reservations, result: &Result<(), VolumeRefusal>) -> bool {
        let Some(unit) = self.units.get_mut(unit) else { return result.is_ok() };
        unit.look();
        let is_there =
            unit.serves_alone() && unit.reservations.state().is_some_and(|(state, _)| *state == *next);
        let done = result.is_ok() || (*result == Err(VolumeRefusal::Interrupted) && is_there);
        unit.order_over(done.then_some(next));
        done
    }

    /// Ends the tasks of these nexuses, and answers when they can no longer act; or answers nobody, if the order was given up.
    fn fence(&mut self, slot: u16, nexuses: &[Nexus], given_up: bool) {
        let unit = self.tasks.get(slot).and_then(|task| self.units.get(task.unit));
        if let Some(volume) = unit.map(Unit::volume_id).filter(|_| !nexuses.is_empty()) {
            // An order that was given up can no longer act, and waits for nobody.
            let ticket = match given_up {
                true => Ticket::of_nobody(&self.address),
                false => self.expect(Awaited::Fenced { slot }),
            };
            self.target.cut_off(nexuses, volume, &ticket);
        } else if !given_up {
            return self.finish(slot, code::GOOD);
        }
        if given_up {
            self.aborted(slot);
        }
    }

    /// They are dead.
    pub(super) fn fenced(&mut self, slot: u16) {
        if self.tasks.get(slot).is_some_and(|task| task.state == State::Keeping) {
            self.finish(slot, code::GOOD);
        }
    }

    /// Is the task an order that is kept, and waits for others only? It can no longer act, and must not be waited for: two
    /// such would wait for each other. If it is given up, it is over.
    pub(super) fn is_fencing(&self, slot: u16) -> bool {
        self.tasks.get(slot).is_some_and(|task| task.state == State::Keeping && task.keeping.is_none())
    }

    /// It is given up.
    pub(super) fn fence_no_more(&mut self, slot: u16) {
        let is_its = |awaited: &Awaited| matches!(awaited, Awaited::Fenced { slot: its } if *its == slot);
        self.awaited.retain(|(_, awaited)| !is_its(awaited));
        self.release(slot);
        self.wake_waiting();
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

/// Where the list of an order names an initiator to whom the volume is not mapped: it could never use what it is given, nor
/// give it back.
fn unknown_name(change: &Change, target: &Target, volume: VolumeId) -> Option<u16> {
    let Change::Order(order) = change else { return None };
    let (named, at) = order.named()?;
    let access = target.access();
    let is_known = |initiator: &Initiator| access.maps(&initiator.name, volume);
    (!named.iter().all(is_known)).then_some(at)
}
