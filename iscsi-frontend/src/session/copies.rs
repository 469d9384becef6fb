//! EXTENDED COPY in a session: the units that a copy may reach, how many there are, and what stops one that its host has not
//! given up.
//!
//! A copy lies in the task set of the unit that it was sent to, and ends silently with it. Of the units that it copies from
//! and to it is a mere user: when others end all their commands there, or the host no longer sees one, the copy is stopped
//! and its host told, after its last request can no longer act.
//!
//! Invariant: nothing is copied from or to a unit that the host does not see, from the moment the session learns of it.

use std::sync::Arc;

use twinsan::ids::VolumeId;

use crate::scsi::copy::{COPIES_MAX, Copy, Order};
use crate::scsi::{Plan, Sense, Unit, Work};
use crate::target::Ticket;

use super::Connection;
use super::tasks::{State, Task};

impl Connection {
    /// What the parameter list `list` of an EXTENDED COPY comes to.
    pub(super) fn plan_copy(&mut self, slot: u16, list: &[u8]) -> Plan {
        let order = match Order::parse(list) {
            Ok(order) => order,
            Err(sense) => return sense.into(),
        };
        if self.tasks.select(|task| task.work.copy().is_some()).len() >= COPIES_MAX {
            return Plan::Full;
        }
        let Some(task) = self.tasks.get_mut(slot) else { return Sense::INTERNAL.into() };
        let own = task.unit;
        if let Some(list) = order.list
            && let Some(unit) = self.units.get_mut(own)
        {
            if let Err(sense) = unit.copies.begin(list) {
                return sense.into();
            }
            task.list = Some(list);
        }
        match Copy::new(&order, &self.units, own, &self.target.config.pages) {
            Ok(copy) => Plan::Run(Work::Copy(Box::new(copy))),
            Err(sense) => sense.into(),
        }
    }

    /// For RECEIVE COPY STATUS: how far a copy is.
    pub(super) fn note_progress(&mut self, slot: u16, work: &Work) {
        let (Some(copy), Some(task)) = (work.copy(), self.tasks.get(slot)) else { return };
        if let (Some(list), Some(unit)) = (task.list, self.units.get_mut(task.unit)) {
            let (segments, bytes) = copy.progress();
            unit.copies.progress(list, segments, bytes);
        }
    }

    /// And what became of it.
    pub(super) fn note_outcome(&mut self, slot: u16, failure: Option<&Sense>) {
        let Some(Task { list: Some(list), unit, .. }) = self.tasks.get(slot) else { return };
        if let Some(unit) = self.units.get_mut(*unit) {
            unit.copies.conclude(*list, failure);
        }
    }

    /// A task is gone.
    pub(super) fn forget_copy(&mut self, task: &Task) {
        if let (Some(list), Some(unit)) = (task.list, self.units.get_mut(task.unit)) {
            unit.copies.end(list);
        }
    }

    /// Units with these volumes were reset, and what is known of their copies is gone: those that are still dying must not
    /// speak for later ones with the same list identifier.
    pub(super) fn disown_copies(&mut self, volumes: &[VolumeId]) {
        let reset = |unit: &Unit| volumes.contains(&unit.volume_id());
        for task in self.tasks.iter_mut() {
            if self.units.get(task.unit).is_some_and(reset) {
                task.list = None;
            }
        }
    }

    /// All commands of these volumes are ended, by whomever; `ticket` is kept until no copy acts on them.
    pub(super) fn stop_copies(&mut self, volumes: &[VolumeId], ticket: &Arc<Ticket>) {
        let touches = |task: &Task| task.work.copy().is_some_and(|copy| copy.touches(volumes));
        for slot in self.tasks.select(touches) {
            let Some(sense) = self.tasks.get(slot).and_then(|task| task.work.copy()).map(Copy::cut_off)
            else {
                continue;
            };
            self.stop(slot, sense, Some(ticket));
        }
    }

    /// The host sees `fresh` units from now on.
    pub(super) fn remap_copies(&mut self, fresh: &[Unit]) {
        for slot in self.tasks.select(|task| task.work.copy().is_some()) {
            let Some(Work::Copy(copy)) = self.tasks.get_mut(slot).map(|task| &mut task.work) else {
                continue;
            };
            if let Some(sense) = copy.remap(fresh) {
                self.stop(slot, sense, None);
            }
        }
    }

    /// Gives up a task that its initiator has not given up: it is answered with `sense` when it can no longer act.
    fn stop(&mut self, slot: u16, sense: Sense, ticket: Option<&Arc<Ticket>>) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        match task.state {
            State::Gathering => {
                self.waiting.retain(|waiting| *waiting != slot);
                self.fail(slot, sense);
            }
            State::Running => {
                task.state = State::Stopping(sense);
                task.tickets.extend(ticket.map(Arc::clone));
                self.call_off(slot);
            }
            State::Keeping | State::Aborting | State::Stopping(_) => {
                task.tickets.extend(ticket.map(Arc::clone))
            }
        }
    }
}
