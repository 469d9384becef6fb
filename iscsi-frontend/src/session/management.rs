//! Task management and logout (RFC 7143 11.5, 11.6, 11.14; SAM-5 7).
//!
//! A function is answered when the tasks that it ends can no longer act, in this session and in all others.

use std::sync::Arc;

use twinsan::ids::VolumeId;

use crate::pdu::{Header, Response};
use crate::scsi::{Attention, Unit};
use crate::target::{Clear, Ticket};

use super::framer::Place;
use super::tasks::{State, Task};
use super::{Awaited, Closing, Connection, Current, Phase};

/// Functions (RFC 7143 11.5.1).
mod function {
    pub(super) const ABORT_TASK: u8 = 1;
    pub(super) const ABORT_TASK_SET: u8 = 2;
    pub(super) const CLEAR_TASK_SET: u8 = 4;
    pub(super) const LOGICAL_UNIT_RESET: u8 = 5;
    pub(super) const TARGET_WARM_RESET: u8 = 6;
    pub(super) const TARGET_COLD_RESET: u8 = 7;
    pub(super) const TASK_REASSIGN: u8 = 8;
}

/// Responses (RFC 7143 11.6.1).
mod response {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_SUCH_TASK: u8 = 1;
    pub(super) const NO_SUCH_LUN: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
    pub(super) const REJECTED: u8 = 255;
}

/// Functions that end many tasks and wait for them to die, at once: each is remembered by every task that it ends. Those
/// that end a single one are no more than there are tasks.
const ENDINGS_MAX: usize = 16;

/// How far a function reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The tasks of one unit.
    Unit,
    /// Those of all units that the initiator sees.
    Target,
    /// And the sessions that share a unit with it, its own included. RFC 7143 11.5.1 says all of the target's, but a host
    /// shall not reach those that share nothing with it.
    Sessions,
}

impl Connection {
    pub(super) fn take_task_management(&mut self, header: &Header) {
        let itt = header.itt();
        match header.flags() & 0x7f {
            function::ABORT_TASK => self.abort_task(header),
            function::ABORT_TASK_SET => self.end_tasks(header, None, Reach::Unit),
            function::CLEAR_TASK_SET => self.end_tasks(header, Some(Attention::CommandsCleared), Reach::Unit),
            function::LOGICAL_UNIT_RESET => self.end_tasks(header, Some(Attention::Reset), Reach::Unit),
            function::TARGET_WARM_RESET => self.end_tasks(header, Some(Attention::Reset), Reach::Target),
            function::TARGET_COLD_RESET => self.end_tasks(header, Some(Attention::Reset), Reach::Sessions),
            function::TASK_REASSIGN => self.answer_management(itt, response::NO_REASSIGNMENT),
            _ => self.answer_management(itt, response::NOT_SUPPORTED),
        }
    }

    fn answer_management(&mut self, itt: u32, response: u8) {
        self.send(Response::TaskManagement { itt, response }, &[]);
    }

    fn abort_task(&mut self, header: &Header) {
        let Some(slot) = self.tasks.find(header.ttt()) else {
            return self.answer_management(header.itt(), response::NO_SUCH_TASK);
        };
        if self.tasks.get(slot).is_some_and(|task| task.state == State::Gathering) {
            self.abandon(slot);
            return self.answer_management(header.itt(), response::COMPLETE);
        }
        let response = Response::TaskManagement { itt: header.itt(), response: response::COMPLETE };
        let ticket = self.expect(Awaited::Aborted { response });
        self.abort(slot, Some(&ticket));
    }

    /// Ends tasks; with an `attention`, those of others too, who then learn of it.
    fn end_tasks(&mut self, header: &Header, attention: Option<Attention>, reach: Reach) {
        let (one_unit, drop) = (reach == Reach::Unit, reach == Reach::Sessions);
        let found = self.unit_of(header.lun());
        if one_unit && found.is_none() {
            return self.answer_management(header.itt(), response::NO_SUCH_LUN);
        }
        let endings = self.awaited.iter().filter(|(_, awaited)| matches!(awaited, Awaited::Answer { .. }));
        if endings.count() >= ENDINGS_MAX {
            return self.answer_management(header.itt(), response::REJECTED);
        }
        let ticket = self.expect(Awaited::Answer {
            response: Response::TaskManagement { itt: header.itt(), response: response::COMPLETE },
            closing: if drop { Closing::AfterSend } else { Closing::No },
        });
        let concerns = |task: &Task| !one_unit || Some(task.unit) == found;
        for slot in self.tasks.select(concerns) {
            self.abort(slot, Some(&ticket));
        }
        let Some(attention) = attention else { return };
        let volumes = self.units.iter().enumerate();
        let volumes = volumes.filter(|(index, _)| !one_unit || Some(*index) == found);
        let volumes: Vec<VolumeId> = volumes.map(|(_, unit)| unit.volume_id()).collect();
        self.stop_copies(&volumes, &ticket);
        let clear = Clear { volumes, attention, drop };
        self.target.clear(&self.address, &clear, &ticket);
        if attention == Attention::Reset {
            for index in (0..self.units.len()).filter(|index| !one_unit || Some(*index) == found) {
                self.give_up_by_reset(index, &ticket);
            }
            self.attend(&clear);
        }
    }

    /// The mappings have changed: units that stay keep their state, tasks on units that go are given up, and the
    /// initiator is told (SPC-4 6.33). One that sees nothing any more, or has to prove now who it is, is asked to leave.
    pub(super) fn remap(&mut self) {
        let Phase::Full { discovery: false } = self.phase else { return };
        if !self.is_trusted() {
            return self.drop_politely();
        }
        let mut fresh = self.target.units(&self.nexus());
        let stays = |unit: &Unit| fresh.iter().position(|new| new.is_same(unit));
        let moved: Vec<Option<usize>> = self.units.iter().map(stays).collect();
        for (old, place) in self.units.iter_mut().zip(&moved) {
            if let Some(place) = place {
                old.protect(fresh[*place].is_read_only());
            }
        }
        self.remap_copies(&fresh);
        if fresh.len() == self.units.len() && moved.iter().all(Option::is_some) {
            return;
        }
        let mut units = core::mem::take(&mut self.units);
        let gone = units.iter_mut().zip(&moved).filter(|(_, place)| place.is_none());
        self.give_up_unmapped(gone.map(|(unit, _)| unit));
        self.units = units;
        for slot in self.tasks.select(|task| moved.get(task.unit).is_some_and(Option::is_none)) {
            self.abort(slot, None);
        }
        for task in self.tasks.iter_mut() {
            task.unit = moved.get(task.unit).copied().flatten().unwrap_or(usize::MAX);
        }
        for (old, place) in self.units.drain(..).zip(moved) {
            if let Some(place) = place {
                fresh[place] = old;
            }
        }
        self.units = fresh;
        if self.units.is_empty() {
            return self.drop_politely();
        }
        self.units.iter_mut().for_each(|unit| unit.attend(Attention::UnitsChanged));
    }

    fn attend(&mut self, clear: &Clear) {
        for unit in self.units.iter_mut().filter(|unit| clear.volumes.contains(&unit.volume_id())) {
            unit.attend(clear.attention);
        }
        if clear.attention == Attention::Reset {
            self.disown_copies(&clear.volumes);
        }
    }

    /// Another session ends the tasks of some volumes.
    pub(super) fn clear(&mut self, clear: &Clear, ticket: &Arc<Ticket>) {
        let units = &self.units;
        let concerns =
            |task: &Task| units.get(task.unit).is_some_and(|unit| clear.volumes.contains(&unit.volume_id()));
        let slots = self.tasks.select(concerns);
        // CLEAR TASK SET is news only to those who lost a task (SAM-5 5.14, 7.4).
        if clear.attention == Attention::Reset || !slots.is_empty() {
            self.attend(clear);
        }
        for slot in slots {
            self.abort(slot, Some(ticket));
        }
        self.stop_copies(&clear.volumes, ticket);
        if clear.drop && self.units.iter().any(|unit| clear.volumes.contains(&unit.volume_id())) {
            self.drop_politely();
        }
    }

    /// Gives up a task; a copy of `ticket` is kept until it can no longer act. It will not be answered.
    pub(super) fn abort(&mut self, slot: u16, ticket: Option<&Arc<Ticket>>) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if task.state == State::Gathering {
            self.abandon(slot);
            return;
        }
        if self.is_fencing(slot) {
            return self.fence_no_more(slot);
        }
        let Some(task) = self.tasks.get_mut(slot) else { return };
        task.tickets.extend(ticket.map(Arc::clone));
        let runs = task.state == State::Running;
        self.tasks.give_up(slot);
        if runs {
            self.call_off(slot);
        }
    }

    /// Asks for the request under way to be given up, wherever it is.
    pub(super) fn call_off(&mut self, slot: u16) {
        let Some(task) = self.tasks.get(slot) else { return };
        let own = self.units.get(task.unit).map(|unit| &unit.volume);
        if let Some(volume) = task.work.volume().or(own) {
            volume.abort(task.request, &self.sink, self.address.key | u64::from(slot));
        }
    }

    /// Forgets a task of which the volume knows nothing.
    fn abandon(&mut self, slot: u16) {
        if self.framer.place == Place::Task(slot) {
            self.framer.discard();
            self.current = Current::Ignored;
        }
        self.waiting.retain(|waiting| *waiting != slot);
        self.release(slot);
    }

    /// The volume says that an aborted task can no longer act.
    pub(crate) fn aborted(&mut self, slot: u16) {
        match self.tasks.get(slot).map(|task| task.state) {
            Some(State::Aborting) => {
                self.release(slot);
                self.wake_waiting();
            }
            Some(State::Stopping(sense)) => self.fail(slot, sense),
            _ => {}
        }
    }

    /// Logout: closes the session, or its one connection, which is the same.
    pub(super) fn take_logout(&mut self, header: &Header) {
        const CLOSE_SESSION: u8 = 0;
        const CLOSE_CONNECTION: u8 = 1;
        const NO_SUCH_CID: u8 = 1;
        const NO_RECOVERY: u8 = 2;
        let itt = header.itt();
        let refusal = match header.flags() & 0x7f {
            CLOSE_SESSION => None,
            CLOSE_CONNECTION if header.half(20) == self.cid => None,
            CLOSE_CONNECTION => Some(NO_SUCH_CID),
            _ => Some(NO_RECOVERY),
        };
        if let Some(response) = refusal {
            return self.send(Response::Logout { itt, response }, &[]);
        }
        let ticket = self.expect(Awaited::Answer {
            response: Response::Logout { itt, response: 0 },
            closing: Closing::AfterSend,
        });
        self.phase = Phase::Leaving;
        self.give_up_own(&ticket);
        for slot in self.tasks.select(|_| true) {
            self.abort(slot, Some(&ticket));
        }
    }
}
