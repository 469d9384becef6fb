//! How a session follows the reservations of a unit: what it knows of them, and what its initiator has to be told.
//!
//! Looked at with every command, so it costs two comparisons while nothing changes.
//!
//! Invariant: an initiator is told of what others have done, once, and never of what it did itself. While an order of its own
//! is being kept nobody can say yet which of that a change is: what it has been told is remembered until that is known.

use std::sync::Arc;

use twinsan::guest::VirtualVolume;

use super::{ITEM, Need, Nexus, Reservations};
use crate::scsi::Attention;

/// What a session knows.
pub(crate) struct Watch {
    nexus: Arc<Nexus>,
    /// What the volume said last time; see [`VirtualVolume::items_version`].
    version: u64,
    /// Revision of the item, and its bytes; zero: none was kept. A node whose change was lost with it may have made another of
    /// the same number since.
    revision: u64,
    value: Option<Arc<[u8]>>,
    known: Known,
    /// The state up to which the initiator has been told, if that is not what is known.
    told: Option<Reservations>,
    /// Own orders that are being kept.
    orders: usize,
    /// A revision of which [`Reservations::exclusive`] means nothing any more: its session has ended.
    stale: Option<u64>,
    /// What follows from all that for commands.
    may: May,
}

/// What is kept may have been written by a later version of this software: then nobody is let in.
enum Known {
    State(Reservations),
    Unreadable,
}

/// What the session may do.
#[derive(Clone, Copy)]
struct May {
    use_it: bool,
    read: bool,
    write: bool,
}

impl Watch {
    /// A session of this nexus begins to watch a volume.
    pub(crate) fn new(nexus: &Arc<Nexus>, volume: &dyn VirtualVolume) -> Watch {
        let mut watch = Watch {
            nexus: Arc::clone(nexus),
            version: 0,
            revision: 0,
            value: None,
            known: Known::State(Reservations::default()),
            told: None,
            orders: 0,
            stale: None,
            may: May { use_it: true, read: true, write: true },
        };
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
        let value = item.map(|item| &item.value);
        if revision == self.revision && value == self.value.as_ref() {
            return None;
        }
        self.value = value.map(Arc::clone);
        if core::mem::replace(&mut self.revision, revision) == revision {
            self.stale = None;
        }
        let state = item.map_or(Some(Reservations::default()), |item| Reservations::decode(&item.value));
        let before = std::mem::replace(&mut self.known, state.map_or(Known::Unreadable, Known::State));
        if let (None, Known::State(before)) = (&self.told, before) {
            self.told = Some(before);
        }
        self.decide();
        self.news()
    }

    /// What has come since the initiator was last told, unless it may be its own doing.
    fn news(&mut self) -> Option<Attention> {
        let Known::State(now) = &self.known else { return None };
        if self.orders > 0 {
            return None;
        }
        now.news(&self.told.take()?, &self.nexus)
    }

    /// An order of the initiator is on its way.
    pub(crate) fn order_begun(&mut self) {
        self.orders += 1;
    }

    /// It is over: `made` is what it made of the state, if it did. What the initiator has to be told of what others did.
    pub(crate) fn order_over(
        &mut self,
        made: Option<&Reservations>,
        volume: &dyn VirtualVolume,
    ) -> Option<Attention> {
        if let Some(made) = made {
            self.told = Some(made.clone());
        }
        self.orders = self.orders.saturating_sub(1);
        self.look(volume).or_else(|| self.news())
    }

    /// What is known, with its revision. `None`: it cannot be read.
    pub(crate) fn state(&self) -> Option<(&Reservations, u64)> {
        match &self.known {
            Known::State(state) => Some((state, self.revision)),
            Known::Unreadable => None,
        }
    }

    /// The same, without what is known to mean nothing: what orders are made from.
    pub(crate) fn valid(&self) -> Option<(Reservations, u64)> {
        let (state, revision) = self.state()?;
        Some((if self.stale == Some(revision) { state.free_unit() } else { state.clone() }, revision))
    }

    /// Whoever has the unit by RESERVE; `None` if that is known to mean nothing.
    pub(crate) fn exclusive(&self) -> Option<&Nexus> {
        self.said_exclusive().filter(|_| self.stale != Some(self.revision))
    }

    /// Whoever is said to have the unit by RESERVE, whatever that means.
    pub(crate) fn said_exclusive(&self) -> Option<&Nexus> {
        self.state()?.0.exclusive()
    }

    /// It means nothing.
    pub(crate) fn disregard_exclusive(&mut self) {
        self.stale = Some(self.revision);
        self.decide();
    }

    /// May a command with this need go on?
    pub(crate) fn allows(&self, need: Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Use => self.may.use_it,
            Need::Read => self.may.read,
            Need::Write => self.may.write,
        }
    }

    fn decide(&mut self) {
        let allows = |need| match &self.known {
            Known::State(state) if self.stale == Some(self.revision) => {
                state.free_unit().allow(need, &self.nexus)
            }
            Known::State(state) => state.allow(need, &self.nexus),
            Known::Unreadable => need == Need::Use,
        };
        self.may = May { use_it: allows(Need::Use), read: allows(Need::Read), write: allows(Need::Write) };
    }
}
