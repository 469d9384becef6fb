//! When a reservation of SPC-2 ends without RELEASE: with its session, by a reset, or because its session has ended on a node
//! that could not say so.
//!
//! Invariant: a session ends, and so the next one of its nexus begins, when what it had is given up, or cannot be for now;
//! what could not be given up, or was left by a node that was killed, is given up later, or when it stands in somebody's way.

use std::sync::Arc;

use twinsan::guest::PathState;
use twinsan::runtime::VolumeRefusal;

use crate::scsi::reservations::{ITEM, Reservations};
use crate::scsi::{Nexus, Unit};
use crate::target::{Address, Orphan, Target, Ticket};

use super::{Awaited, Connection};

const TRIES_MAX: u8 = 8;

impl Connection {
    /// A session begins: what an earlier one of its nexus had, before this node was started, means nothing, and so does what
    /// others had then.
    pub(super) fn disregard_old(&mut self) {
        let (own, target, address) = (self.nexus(), Arc::clone(&self.target), self.address.clone());
        for index in 0..self.units.len() {
            if !disregard_if(&target, &mut self.units[index], &address, |by| *by == *own) {
                self.disregard_dead(index);
            }
        }
    }

    /// The session ends; `ticket` is kept until what it has is given up.
    pub(super) fn give_up_own(&mut self, ticket: &Arc<Ticket>) {
        let own = self.nexus();
        for unit in &mut self.units {
            unit.look();
            if unit.reservations.said_exclusive() == Some(&*own) {
                give_up(&self.target, unit, &self.address, vec![Arc::clone(ticket)]);
            }
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
                give_up(&self.target, unit, &self.address, Vec::new());
            }
        }
    }

    /// A RESERVE is kept that was given up: with its session, or by a reset.
    pub(super) fn give_up_late(&mut self, slot: u16) {
        let ticket = self.expect(Awaited::GivenUp);
        let Some(task) = self.tasks.get(slot) else { return };
        let tickets = task.tickets.iter().map(Arc::clone).chain([ticket]).collect();
        if let Some(unit) = self.units.get_mut(task.unit) {
            unit.look();
            give_up(&self.target, unit, &self.address, tickets);
        }
    }

    /// The unit is reset; `ticket` is kept until whoever had it has it no longer.
    pub(super) fn give_up_by_reset(&mut self, index: usize, ticket: &Arc<Ticket>) {
        if let Some(unit) = self.units.get_mut(index) {
            unit.look();
            give_up(&self.target, unit, &self.address, vec![Arc::clone(ticket)]);
        }
    }

    /// Has whoever has the unit for himself no session any more? Then that is disregarded from now on.
    pub(super) fn disregard_dead(&mut self, index: usize) -> bool {
        let (target, address) = (Arc::clone(&self.target), self.address.clone());
        let Some(unit) = self.units.get_mut(index) else { return false };
        let volume = Arc::clone(&unit.volume);
        let is_dead = |by: &Nexus| match by.port == target.config.portal_group {
            true => !target.has_session(by),
            false => volume.partner_path_state() == PathState::Unavailable,
        };
        disregard_if(&target, unit, &address, is_dead)
    }
}

/// Disregards what somebody has if `is_dead` says so of him, and has it taken away.
fn disregard_if(
    target: &Arc<Target>,
    unit: &mut Unit,
    address: &Address,
    is_dead: impl Fn(&Nexus) -> bool,
) -> bool {
    if !unit.reservations.exclusive().is_some_and(is_dead) {
        return false;
    }
    unit.reservations.disregard_exclusive();
    give_up(target, unit, address, Vec::new());
    true
}

/// Takes the unit from whoever is said to have it.
fn give_up(target: &Arc<Target>, unit: &Unit, address: &Address, tickets: Vec<Arc<Ticket>>) {
    let Some((state, _)) = unit.reservations.state() else { return };
    let Some(by) = state.exclusive() else { return };
    let (volume, by) = (Arc::clone(&unit.volume), Arc::new(by.clone()));
    let orphan = Orphan { volume, by, taken: state.changes(), tickets, address: address.clone() };
    give_up_orphan(target, orphan, 0);
}

/// Takes the unit from him who has it, if he has it by the same reservation. The tickets are dropped when that is so; or when
/// nobody can say how long it will take, and it is left to [`Target::adopt_orphan`].
pub(crate) fn give_up_orphan(target: &Arc<Target>, mut orphan: Orphan, tries: u8) {
    let items = orphan.volume.items();
    let Some(item) = items.get(&ITEM) else { return };
    let is_it =
        |state: &Reservations| state.exclusive() == Some(&*orphan.by) && state.changes() == orphan.taken;
    let state = Reservations::decode(&item.value).filter(is_it);
    let Some(bytes) = state.and_then(|state| state.free_unit().encode()) else { return };
    let (target, volume) = (Arc::clone(target), Arc::clone(&orphan.volume));
    let done = move |result| match result {
        Ok(()) | Err(VolumeRefusal::Unknown(_)) => drop(orphan),
        // Somebody else was faster.
        Err(VolumeRefusal::Changed { .. }) if tries < TRIES_MAX => give_up_orphan(&target, orphan, tries + 1),
        // Or is about to be: that does not take long.
        Err(VolumeRefusal::Busy | VolumeRefusal::Changed { .. }) => target.adopt_orphan(orphan),
        Err(_) => {
            orphan.tickets.clear();
            target.adopt_orphan(orphan);
        }
    };
    volume.keep(ITEM, item.revision, &bytes, Box::new(done));
}
