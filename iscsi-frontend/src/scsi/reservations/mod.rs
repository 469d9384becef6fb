//! Persistent reservations (SPC-4 5.13), as values: who has registered with a volume, what is reserved, and what a
//! service action makes of it. `iscsi-frontend/docs/reservations.md` says how both nodes come to have the same.
//!
//! The reservations of SPC-2 (`exclusive`) are beside these: who has one keeps everybody else out of the other kind.
//!
//! `orders` parses PERSISTENT RESERVE OUT, `apply` says what it makes of the state, `report` answers PERSISTENT RESERVE IN,
//! `codec` writes the state down, and `watch` is how a session follows it.
//!
//! Invariants: a holder is registered; of two registrations no two are of the same nexus; a state is changed by making the
//! next one from it, whose count of changes is higher.

mod apply;
mod codec;
mod exclusive;
mod nexus;
mod orders;
mod report;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use apply::{Change, Refusal};
pub(crate) use nexus::{Initiator, Nexus};
pub(crate) use orders::{LIST_BYTES, Order};
pub(crate) use watch::Watch;

use twinsan::ids::ItemName;

use super::Attention;

/// Under which name a volume's reservations are kept with it.
pub(crate) const ITEM: ItemName = ItemName(1);

/// What a command wants of a unit, as far as reservations are concerned (SPC-4 table 65, SBC-3 table 13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// To learn what anybody may learn, or to give up what it has.
    Nothing,
    /// To use the unit, though not its medium: only RESERVE of another keeps it out.
    Use,
    /// To read the medium, or what is as private.
    Read,
    /// To write, or to change what others see.
    Write,
}

/// A type of reservation (SPC-4 table 63).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Type {
    const ALL: [Type; 6] = [
        Type::WriteExclusive,
        Type::ExclusiveAccess,
        Type::WriteExclusiveRegistrantsOnly,
        Type::ExclusiveAccessRegistrantsOnly,
        Type::WriteExclusiveAllRegistrants,
        Type::ExclusiveAccessAllRegistrants,
    ];

    fn of(code: u8) -> Option<Type> {
        Type::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Are all who have registered holders?
    fn is_held_by_all(self) -> bool {
        matches!(self, Type::WriteExclusiveAllRegistrants | Type::ExclusiveAccessAllRegistrants)
    }

    /// May all who have registered do as the holder may?
    fn admits_registrants(self) -> bool {
        !matches!(self, Type::WriteExclusive | Type::ExclusiveAccess)
    }

    /// May those read whom it keeps from writing?
    fn lets_others_read(self) -> bool {
        matches!(
            self,
            Type::WriteExclusive | Type::WriteExclusiveRegistrantsOnly | Type::WriteExclusiveAllRegistrants
        )
    }
}

/// An initiator that has registered its key, by way of one target port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registration {
    nexus: Nexus,
    key: u64,
    /// It was made for all ports at once.
    all_ports: bool,
}

/// The reservation.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    kind: Type,
    /// Who made it. If [all hold it](Type::is_held_by_all), any other is as good.
    by: Nexus,
}

/// Registrations and reservation of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reservations {
    /// PRGENERATION.
    generation: u32,
    /// Asked to survive a loss of power. They do in any case.
    aptpl: bool,
    /// Changes so far; then the last one that removed all, and the last one that released what others relied on.
    changes: u64,
    cleared: u64,
    released: u64,
    /// In the order they came.
    registrations: Vec<Registration>,
    held: Option<Held>,
    /// Who has the unit for himself, by RESERVE (6) or (10) of SPC-2. Then nobody is registered.
    exclusive: Option<Nexus>,
}

impl Reservations {
    /// Is everybody registered once, and a holder at all?
    pub(crate) fn is_sound(&self) -> bool {
        let known = |place: usize| self.registrations[..place].iter().map(|known| &known.nexus);
        let mut all = self.registrations.iter().enumerate();
        all.all(|(place, new)| known(place).all(|nexus| *nexus != new.nexus))
            && self.held.as_ref().is_none_or(|held| self.registration(&held.by).is_some())
            && (self.exclusive.is_none() || self.registrations.is_empty())
    }

    /// How many have registered.
    pub(crate) fn count(&self) -> usize {
        self.registrations.len()
    }

    fn registration(&self, nexus: &Nexus) -> Option<&Registration> {
        self.registrations.iter().find(|registration| registration.nexus == *nexus)
    }

    fn is_held_by(&self, nexus: &Nexus) -> bool {
        match &self.held {
            Some(held) if held.kind.is_held_by_all() => self.registration(nexus).is_some(),
            Some(held) => held.by == *nexus,
            None => false,
        }
    }

    /// May a command with this need, of this nexus, go on?
    pub(crate) fn allow(&self, need: Need, nexus: &Nexus) -> bool {
        if self.exclusive.as_ref().is_some_and(|by| by != nexus) {
            return need == Need::Nothing;
        }
        let Some(Held { kind, by }) = &self.held else { return true };
        match need {
            Need::Nothing | Need::Use => true,
            Need::Read if kind.lets_others_read() => true,
            Need::Read | Need::Write if kind.admits_registrants() => self.registration(nexus).is_some(),
            Need::Read | Need::Write => by == nexus,
        }
    }

    /// What `nexus`, which knows `before`, has to be told of what others have done since.
    fn news(&self, before: &Reservations, nexus: &Nexus) -> Option<Attention> {
        let lost = |state: &Reservations| state.exclusive.as_ref() == Some(nexus);
        if lost(before) && !lost(self) {
            // By a reset at the other node, or as if by one.
            return Some(Attention::Reset);
        }
        before.registration(nexus)?;
        match self.registration(nexus) {
            None if self.cleared > before.changes => Some(Attention::ReservationsPreempted),
            None => Some(Attention::RegistrationsPreempted),
            Some(_) if self.released > before.changes => Some(Attention::ReservationsReleased),
            Some(_) => None,
        }
    }
}
