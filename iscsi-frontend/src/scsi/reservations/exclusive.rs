//! RESERVE and RELEASE (6) and (10): the unit is one nexus's alone, until that ends or the unit is reset (SPC-2 5.5.1, 7.21,
//! 7.24). They are not compatible with persistent reservations (CRH is clear): where anybody is registered, neither is done.

use super::{Nexus, Refusal, Reservations};

impl Reservations {
    /// RESERVE of `from`. It is a change even if it has the unit already: whoever is about to take that away for an older
    /// reason sees it.
    pub(crate) fn take_unit(&self, from: &Nexus) -> Result<Reservations, Refusal> {
        if !self.registrations.is_empty() || self.exclusive.as_ref().is_some_and(|by| by != from) {
            return Err(Refusal::Conflict);
        }
        Ok(Reservations { changes: self.changes + 1, exclusive: Some(from.clone()), ..self.clone() })
    }

    /// RELEASE of `from`: of another's reservation it is none.
    pub(crate) fn release_unit(&self, from: &Nexus) -> Result<Reservations, Refusal> {
        match &self.exclusive {
            _ if !self.registrations.is_empty() => Err(Refusal::Conflict),
            Some(by) if by == from => Ok(self.free_unit()),
            _ => Ok(self.clone()),
        }
    }

    /// Whoever had the unit has it no longer.
    pub(crate) fn free_unit(&self) -> Reservations {
        let changes = self.changes + u64::from(self.exclusive.is_some());
        Reservations { changes, exclusive: None, ..self.clone() }
    }

    /// How many changes there have been.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Who has the unit for himself.
    pub(crate) fn exclusive(&self) -> Option<&Nexus> {
        self.exclusive.as_ref()
    }
}
