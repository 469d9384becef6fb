//! When a reservation of SPC-2 ends without RELEASE: with its session, by a reset, or because its session has ended on a node
//! that could not say so.
//!
//! Invariant: a session ends, and so the next one of its nexus begins, when what it had is given up, or cannot be for now;
//! what could not be given up, or was left by a node that was killed, is given up later, or when it stands in somebody's way.

use std::sync::Arc;

use twinsan::guest::{PathState, VirtualVolume};
use twinsan::runtime::VolumeRefusal;

use crate::scsi::reservations::{ITEM, Reservations};
use crate::scsi::{Nexus, Unit};
use crate::target::{Orphan, Target, Ticket};

use super::{Awaited, Connection};

const TRIES_MAX: u8 = 8;

impl Connection {
    /// A session begins: what an earlier one of its nexus had, before this node was started, means nothing, and so does what
    /// others had then.
    pub(super) fn disregard_old(&mut self) {
        let own = self.nexus();
        for index in 0..self.units.len() {
            if !disregard_if(&mut self.units[index], |by| *by == *own) {
                self.disregard_dead(index);
            }
        }
    }

    /// The session ends; `ticket` is kept until what it has is given up.
    pub(super) fn give_up_own(&mut self, ticket: &Arc<Ticket>) {
        let own = self.nexus();
        for unit in self.units.iter().filter(|unit| unit.reservations.said_exclusive() == Some(&*own)) {
            give_up(&self.target, &unit.volume, &own, 0, vec![Arc::clone(ticket)]);
        }
    }

    /// The connection is gone, perhaps without a logout.
    pub(super) fn give_up_at_end(&mut self) {
        let own = self.nexus();
        self.units.iter_mut().for_each(Unit::look);
        if self.units.iter().any(|unit| unit.reservations.said_exclusive() == Some(&*own)) {
            let ticket = self.expect(Awaited::GivenUp);
            self.give_up_own(&ticket);
        }
    }

    /// The initiator does not see these units any more.
    pub(super) fn give_up_unmapped<'a>(&self, units: impl Iterator<Item = &'a mut Unit>) {
        let own = self.nexus();
        for unit in units {
            unit.look();
            if unit.reservations.said_exclusive() == Some(&*own) {
                give_up(&self.target, &unit.volume, &own, 0, Vec::new());
            }
        }
    }

    /// A RESERVE is kept that was given up: with its session, or by a reset.
    pub(super) fn give_up_late(&mut self, slot: u16) {
        let ticket = self.expect(Awaited::GivenUp);
        let Some(task) = self.tasks.get(slot) else { return };
        let Some(unit) = self.units.get(task.unit) else { return };
        let tickets = task.tickets.iter().map(Arc::clone).chain([ticket]).collect();
        give_up(&self.target, &unit.volume, &self.nexus(), 0, tickets);
    }

    /// The unit is reset; `ticket` is kept until whoever had it has it no longer.
    pub(super) fn give_up_by_reset(&mut self, index: usize, ticket: &Arc<Ticket>) {
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.look();
        if let Some(by) = unit.reservations.said_exclusive() {
            give_up(&self.target, &unit.volume, &Arc::new(by.clone()), 0, vec![Arc::clone(ticket)]);
        }
    }

    /// Has whoever has the unit for himself no session any more? Then that is disregarded from now on.
    pub(super) fn disregard_dead(&mut self, index: usize) -> bool {
        let target = Arc::clone(&self.target);
        let Some(unit) = self.units.get_mut(index) else { return false };
        let volume = Arc::clone(&unit.volume);
        let is_dead = |by: &Nexus| match by.port == target.config.portal_group {
            true => !target.has_session(by),
            false => volume.partner_path_state() == PathState::Unavailable,
        };
        disregard_if(unit, is_dead)
    }
}

/// Disregards what somebody has if `is_dead` says so of him, and has it taken away unless it has changed by then.
fn disregard_if(unit: &mut Unit, is_dead: impl Fn(&Nexus) -> bool) -> bool {
    let Some((_, revision)) = unit.reservations.exclusive().filter(|(by, _)| is_dead(by)) else {
        return false;
    };
    unit.reservations.disregard_exclusive();
    if let Some(bytes) = unit.reservations.valid().and_then(|(state, _)| state.encode()) {
        unit.volume.keep(ITEM, revision, &bytes, Box::new(drop));
    }
    true
}

/// Takes the unit from `by`, if he still has it. The tickets are dropped when that is done; or when it cannot be done for now,
/// and is left to [`Target::adopt_orphan`].
fn give_up(
    target: &Arc<Target>,
    volume: &Arc<dyn VirtualVolume>,
    by: &Arc<Nexus>,
    tries: u8,
    tickets: Vec<Arc<Ticket>>,
) {
    let items = volume.items();
    let Some(item) = items.get(&ITEM) else { return };
    let state = Reservations::decode(&item.value).filter(|state| state.exclusive() == Some(&**by));
    let Some(bytes) = state.and_then(|state| state.free_unit().encode()) else { return };
    let (target, again, him) = (Arc::clone(target), Arc::clone(volume), Arc::clone(by));
    let done = move |result| match result {
        // Somebody else was faster.
        Err(VolumeRefusal::Changed { .. }) if tries < TRIES_MAX => {
            give_up(&target, &again, &him, tries + 1, tickets);
        }
        Ok(()) | Err(VolumeRefusal::Unknown(_)) => drop(tickets),
        Err(_) => target.adopt_orphan(Orphan { volume: again, by: him, tickets }),
    };
    volume.keep(ITEM, item.revision, &bytes, Box::new(done));
}

/// Tries once more to give up what could not be given up.
pub(crate) fn give_up_orphan(target: &Arc<Target>, orphan: Orphan) {
    let Orphan { volume, by, tickets } = orphan;
    // A session of the same nexus that has begun meanwhile has disregarded it, and may have the unit anew.
    if by.port != target.config.portal_group || !target.has_session(&by) || !tickets.is_empty() {
        give_up(target, &volume, &by, TRIES_MAX, tickets);
    }
}
