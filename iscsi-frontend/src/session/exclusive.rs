//! When a reservation of SPC-2 ends without RELEASE: with its session, by a reset, or because its session has ended on a node
//! that could not say so.
//!
//! Invariant: a session ends, and so the next one of its nexus begins, when what it had is given up; what a node that was
//! killed has left is given up when it stands in somebody's way.

use std::sync::Arc;

use twinsan::guest::{PathState, VirtualVolume};
use twinsan::runtime::VolumeRefusal;

use crate::scsi::reservations::{ITEM, Reservations};
use crate::scsi::{Nexus, Unit};
use crate::target::Ticket;

use super::{Awaited, Connection};

const TRIES_MAX: u8 = 8;

impl Connection {
    /// A session begins: what an earlier one of its nexus had, before this node was started, means nothing.
    pub(super) fn disregard_own(&mut self) {
        let own = self.nexus();
        for unit in &mut self.units {
            disregard_if(unit, |by| *by == *own);
        }
    }

    /// The session ends; `ticket` is kept until what it has is given up.
    pub(super) fn give_up_own(&mut self, ticket: &Arc<Ticket>) {
        let own = self.nexus();
        for unit in self.units.iter().filter(|unit| unit.reservations.is_exclusive_of(&own)) {
            give_up(&unit.volume, &own, 0, Some(Arc::clone(ticket)));
        }
    }

    /// The connection is gone, perhaps without a logout.
    pub(super) fn give_up_at_end(&mut self) {
        let own = self.nexus();
        self.units.iter_mut().for_each(Unit::look);
        if self.units.iter().any(|unit| unit.reservations.is_exclusive_of(&own)) {
            let ticket = self.expect(Awaited::GivenUp);
            self.give_up_own(&ticket);
        }
    }

    /// The unit is reset; `ticket` is kept until whoever had it has it no longer.
    pub(super) fn give_up_by_reset(&mut self, index: usize, ticket: &Arc<Ticket>) {
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.look();
        if let Some((by, _)) = unit.reservations.exclusive() {
            give_up(&unit.volume, &Arc::new(by.clone()), 0, Some(Arc::clone(ticket)));
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
    let free = unit.reservations.state().and_then(|(state, _)| state.free_unit().encode());
    unit.reservations.disregard_exclusive();
    if let Some(bytes) = free {
        unit.volume.keep(ITEM, revision, &bytes, Box::new(drop));
    }
    true
}

/// Takes the unit from `by`, if he still has it; `ticket` is dropped when that is done, or given up as well.
fn give_up(volume: &Arc<dyn VirtualVolume>, by: &Arc<Nexus>, tries: u8, ticket: Option<Arc<Ticket>>) {
    let items = volume.items();
    let Some(item) = items.get(&ITEM) else { return };
    let state = Reservations::decode(&item.value).filter(|state| state.exclusive() == Some(&**by));
    let Some(bytes) = state.and_then(|state| state.free_unit().encode()) else { return };
    let (again, him) = (Arc::clone(volume), Arc::clone(by));
    let done = move |result| match result {
        // Somebody else was faster.
        Err(VolumeRefusal::Changed { .. } | VolumeRefusal::Busy) if tries < TRIES_MAX => {
            give_up(&again, &him, tries + 1, ticket);
        }
        _ => drop(ticket),
    };
    volume.keep(ITEM, item.revision, &bytes, Box::new(done));
}
