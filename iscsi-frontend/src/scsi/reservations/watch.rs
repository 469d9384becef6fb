//! How a session follows the reservations of a unit: what it knows of them, and what its initiator has to be told.
//!
//! Looked at with every command, so it costs one comparison while nothing changes.

use std::sync::Arc;

use twinsan::guest::VirtualVolume;

use super::{ITEM, Need, Nexus, Reservations};
use crate::scsi::Attention;

/// What a session knows.
pub(crate) struct Watch {
    nexus: Arc<Nexus>,
    /// What the volume said last time; see [`VirtualVolume::items_version`].
    version: u64,
    /// Revision of the item; zero: none was kept.
    revision: u64,
    known: Known,
    /// A revision of which [`Reservations::exclusive`] means nothing any more: its session has ended.
    stale: Option<u64>,
}

/// What is kept may have been written by a later version of this software: then nobody is let in.
enum Known {
    State(Reservations),
    Unreadable,
}

impl Watch {
    /// A session of this nexus begins to watch a volume.
    pub(crate) fn new(nexus: &Arc<Nexus>, volume: &dyn VirtualVolume) -> Watch {
        let known = Known::State(Reservations::default());
        let mut watch = Watch { nexus: Arc::clone(nexus), version: 0, revision: 0, known, stale: None };
        watch.look(volume);
        watch
    }

    pub(crate) fn nexus(&self) -> &Arc<Nexus> {
        &self.nexus
    }

    /// Has what is kept changed since it was last looked at?
    pub(crate) fn is_behind(&self, volume: &dyn VirtualVolume) -> bool {
        self.version != volume.items_version()
    }

    /// Looks at what is kept now; what the initiator has to be told of that.
    pub(crate) fn look(&mut self, volume: &dyn VirtualVolume) -> Option<Attention> {
        // In this order: what comes in between is seen, and looked at once more.
        self.version = volume.items_version();
        let items = volume.items();
        let item = items.get(&ITEM);
        let revision = item.map_or(0, |item| item.revision);
        if revision == self.revision {
            return None;
        }
        self.revision = revision;
        let state = item.map_or(Some(Reservations::default()), |item| Reservations::decode(&item.value));
        let before = std::mem::replace(&mut self.known, state.map_or(Known::Unreadable, Known::State));
        match (before, &self.known) {
            (Known::State(before), Known::State(now)) => now.news(&before, &self.nexus),
            _ => None,
        }
    }

    /// What is known, with its revision. `None`: it cannot be read.
    pub(crate) fn state(&self) -> Option<(&Reservations, u64)> {
        match &self.known {
            Known::State(state) => Some((state, self.revision)),
            Known::Unreadable => None,
        }
    }

    /// The initiator has made this of it itself.
    pub(crate) fn learn(&mut self, made: Reservations) {
        self.known = Known::State(made);
        // Of what revision that is, and what came after, the next look tells.
        (self.version, self.revision) = (u64::MAX, u64::MAX);
    }

    /// Whoever has the unit by RESERVE, with the revision; `None` if that is known to mean nothing.
    pub(crate) fn exclusive(&self) -> Option<(&Nexus, u64)> {
        let (state, revision) = self.state().filter(|(_, revision)| self.stale != Some(*revision))?;
        Some((state.exclusive()?, revision))
    }

    pub(crate) fn is_exclusive_of(&self, nexus: &Nexus) -> bool {
        self.exclusive().is_some_and(|(by, _)| by == nexus)
    }

    /// It means nothing.
    pub(crate) fn disregard_exclusive(&mut self) {
        self.stale = Some(self.revision);
    }

    /// May a command with this need go on?
    pub(crate) fn allows(&self, need: Need) -> bool {
        match &self.known {
            Known::State(state) if self.stale == Some(self.revision) => {
                state.free_unit().allow(need, &self.nexus)
            }
            Known::State(state) => state.allow(need, &self.nexus),
            Known::Unreadable => matches!(need, Need::Nothing | Need::Use),
        }
    }
}
