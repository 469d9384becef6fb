//! What each service action of PERSISTENT RESERVE OUT makes of the state (SPC-4 5.13.5 to 5.13.11).

use super::orders::{Order, What};
use super::{Held, Nexus, Registration, Reservations, Type};
use crate::scsi::Sense;

/// Why an order is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Fault(Sense),
}

/// What a host wants changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// PERSISTENT RESERVE OUT.
    Order(Order),
    /// RESERVE (6) or (10).
    TakeUnit,
    /// RELEASE (6) or (10).
    ReleaseUnit,
}

/// RESERVE or RELEASE of another type than that of the reservation (SPC-4 5.13.11.1.2).
const INVALID_RELEASE: Sense = Sense::new(0x05, 0x26, 0x04);

/// The state that comes of an order, and the nexuses whose tasks are to be aborted.
pub(crate) type Outcome = (Reservations, Vec<Nexus>);

impl Reservations {
    /// What `change`, wanted by `from`, comes to. `ports` are the relative identifiers of the target ports there are.
    pub(crate) fn change(&self, change: &Change, from: &Nexus, ports: &[u16]) -> Result<Outcome, Refusal> {
        let alone = |next| (next, Vec::new());
        match change {
            Change::Order(order) => self.apply(order, from, ports),
            Change::TakeUnit => self.take_unit(from).map(alone),
            Change::ReleaseUnit => self.release_unit(from).map(alone),
        }
    }

    /// What `order`, sent by `from`, comes to. `ports` are the relative identifiers of the target ports there are.
    pub(crate) fn apply(&self, order: &Order, from: &Nexus, ports: &[u16]) -> Result<Outcome, Refusal> {
        if self.exclusive.is_some() {
            return Err(Refusal::Conflict);
        }
        let own = self.registration(from).map(|registration| registration.key);
        let proved = match (&order.what, own) {
            (What::Register { ignore: true, .. }, _) => true,
            (What::Register { .. }, None) => order.key == 0,
            (_, own) => own == Some(order.key),
        };
        if !proved {
            return Err(Refusal::Conflict);
        }
        let mut next = self.clone();
        next.changes += 1;
        let mut aborted = Vec::new();
        match &order.what {
            What::Register { others, .. } if own.is_some() && !others.is_empty() => {
                return Err(Refusal::Fault(Sense::parameter(20)));
            }
            What::Register { key: 0, all_ports: true, .. } if own.is_some() => {
                let to_all = |port: &u16| Nexus { port: *port, ..from.clone() };
                ports.iter().map(to_all).for_each(|nexus| next.unregister(&nexus));
                next.unregister(from);
            }
            What::Register { key: 0, .. } if own.is_some() => next.unregister(from),
            // Neither registered nor to be: nothing changes.
            What::Register { key: 0, .. } => return Ok((self.clone(), aborted)),
            What::Register { key, others, all_ports, aptpl, .. } => {
                next.aptpl = *aptpl;
                next.register(from, *key, others, all_ports.then_some(ports));
            }
            What::Reserve { kind } => return self.reserve(*kind, from, next).map(|next| (next, aborted)),
            What::Release { kind } => return self.release(*kind, from, next).map(|next| (next, aborted)),
            What::Clear => {
                next.registrations.clear();
                next.held = None;
                next.cleared = next.changes;
            }
            What::Preempt { key, kind, abort } => {
                let gone = next.preempt(*key, *kind, from)?;
                aborted.extend(gone.into_iter().filter(|_| *abort));
            }
            What::Move { .. } => next.move_to(&order.what, from, ports)?,
        }
        next.generation = next.generation.wrapping_add(1);
        next.settle();
        Ok((next, aborted))
    }

    /// A reservation that all hold is as good as made by any of them.
    fn settle(&mut self) {
        let Reservations { held: Some(held), registrations, .. } = self else { return };
        let is_there = registrations.iter().any(|registration| registration.nexus == held.by);
        if let (false, Some(first)) = (is_there, registrations.first()) {
            held.by = first.nexus.clone();
        }
    }

    fn register(&mut self, from: &Nexus, key: u64, others: &[super::Initiator], ports: Option<&[u16]>) {
        let all_ports = ports.is_some();
        let own = [from.port];
        for initiator in std::iter::once(&from.initiator).chain(others) {
            for &port in ports.unwrap_or(&own) {
                let nexus = Nexus { initiator: initiator.clone(), port, site: from.site };
                self.enter(Registration { nexus, key, all_ports });
            }
        }
    }

    /// In place of the registration of the same nexus, if there is one.
    fn enter(&mut self, registration: Registration) {
        match self.registrations.iter_mut().find(|known| known.nexus == registration.nexus) {
            Some(known) => *known = registration,
            None => self.registrations.push(registration),
        }
    }

    fn unregister(&mut self, from: &Nexus) {
        self.registrations.retain(|registration| registration.nexus != *from);
        let Some(held) = &self.held else { return };
        let ends = if held.kind.is_held_by_all() { self.registrations.is_empty() } else { held.by == *from };
        if ends {
            self.let_go();
        }
    }

    /// The reservation ends; those who were admitted by it are told.
    fn let_go(&mut self) {
        if self.held.take().is_some_and(|held| held.kind.admits_registrants()) {
            self.released = self.changes;
        }
    }

    fn reserve(&self, kind: Type, from: &Nexus, mut next: Reservations) -> Result<Reservations, Refusal> {
        match &self.held {
            None => {
                next.held = Some(Held { kind, by: from.clone() });
                Ok(next)
            }
            Some(held) if held.kind == kind && self.is_held_by(from) => Ok(self.clone()),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    fn release(&self, kind: Type, from: &Nexus, mut next: Reservations) -> Result<Reservations, Refusal> {
        match &self.held {
            Some(held) if self.is_held_by(from) && held.kind != kind => Err(Refusal::Fault(INVALID_RELEASE)),
            Some(_) if self.is_held_by(from) => {
                next.let_go();
                Ok(next)
            }
            _ => Ok(self.clone()),
        }
    }

    /// Takes away what is registered under `key`, and the reservation if it is held under it; returns whose was taken.
    fn preempt(&mut self, key: u64, kind: Type, from: &Nexus) -> Result<Vec<Nexus>, Refusal> {
        let by_all = self.held.as_ref().is_some_and(|held| held.kind.is_held_by_all());
        let everybody = by_all && key == 0;
        if key == 0 && !everybody {
            return Err(Refusal::Fault(Sense::parameter(8)));
        }
        let matches = |registration: &Registration| everybody || registration.key == key;
        if !everybody && !self.registrations.iter().any(matches) {
            return Err(Refusal::Conflict);
        }
        let takes_over = match &self.held {
            Some(held) if !held.kind.is_held_by_all() => {
                self.registration(&held.by).is_some_and(|holder| holder.key == key)
            }
            _ => everybody,
        };
        let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registrations)
            .into_iter()
            .partition(|registration| matches(registration) && registration.nexus != *from);
        self.registrations = stay;
        if takes_over {
            let before = self.held.replace(Held { kind, by: from.clone() });
            if before.is_some_and(|held| held.kind != kind) {
                self.released = self.changes;
            }
        }
        Ok(gone.into_iter().map(|registration| registration.nexus).collect())
    }

    fn move_to(&mut self, what: &What, from: &Nexus, ports: &[u16]) -> Result<(), Refusal> {
        let What::Move { key, to, port, unregister, aptpl } = what else { return Ok(()) };
        match &self.held {
            Some(held) if held.by == *from && !held.kind.is_held_by_all() => {}
            _ => return Err(Refusal::Conflict),
        }
        let to = Nexus { initiator: to.clone(), port: *port, site: from.site };
        let fault = match (key, ports.contains(port)) {
            (0, _) => Some(8),
            (_, false) => Some(18),
            _ if to == *from => Some(24),
            _ => None,
        };
        if let Some(at) = fault {
            return Err(Refusal::Fault(Sense::parameter(at)));
        }
        self.aptpl = *aptpl;
        self.enter(Registration { nexus: to.clone(), key: *key, all_ports: false });
        if let Some(held) = &mut self.held {
            held.by = to;
        }
        if *unregister {
            self.registrations.retain(|registration| registration.nexus != *from);
        }
        Ok(())
    }
}
