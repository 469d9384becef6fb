//! What a volume's machine may do: a value. The control part makes it, in one place (`node::rights`), and hands it down
//! to every machine at each change. A machine knows nothing else of the phase, the partner or the arbiter.
//!
//! Invariant: an old right is only too short. Whoever answers by it compares `lease_until` with the clock first.

use crate::ids::Epoch;
use crate::time::Instant;

/// What a guest can expect now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::node) enum Service {
    /// Served as one of a pair.
    Pair,
    /// Served alone.
    Alone,
    /// Served alone, but new writes wait.
    AloneReads,
    /// Wait: it will be decided soon.
    Hold,
    /// Use the other path.
    #[default]
    Refuse,
}

/// As what a node acts in its epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::node) enum Place {
    /// Not at all: it starts, is behind, has lost or is over.
    #[default]
    Outside,
    /// One of a pair.
    Pair,
    /// It has left the pair of this epoch, and asks who goes on.
    Undecided,
    /// The only one.
    Alone,
}

/// The right of a volume's machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::node) struct Right {
    /// Rises with every change of phase: what was begun in an earlier term is judged again.
    pub(in crate::node) term: u64,
    /// The epoch in which the node acts, or which it has left.
    pub(in crate::node) epoch: Epoch,
    pub(in crate::node) place: Place,
    /// What guests of a mirrored volume can expect, in a pair as long as the lease runs.
    pub(in crate::node) mirrored: Service,
    /// What guests of a linear volume can expect.
    pub(in crate::node) linear: Service,
    /// Of a pair; an answer after this needs a new one.
    pub(in crate::node) lease_until: Instant,
    /// A planted bug: the lease is not looked at.
    pub(in crate::node) blind: bool,
    /// The link that is up.
    pub(in crate::node) link: Option<u64>,
    /// The link of this pair is down, or was and the partner has not introduced itself since.
    pub(in crate::node) link_lost: bool,
    /// The partner's clock as last heard, and when.
    pub(in crate::node) owner_clock: Option<(Instant, Instant)>,
    /// A target is being brought up to date: it gets new writes too.
    pub(in crate::node) copying: bool,
    /// A partner that is full is dropped, as configured, for this node may go on.
    pub(in crate::node) drops_full_partner: bool,
    /// A clean stop has been asked for.
    pub(in crate::node) stopping: bool,
}

impl Right {
    pub(super) fn is_pair(&self) -> bool {
        self.place == Place::Pair
    }

    /// Is this the pair of `epoch`? Messages of another do not count.
    pub(super) fn is_pair_of(&self, epoch: Epoch) -> bool {
        self.is_pair() && self.epoch == epoch
    }

    /// Can something be said to the partner in this pair now?
    pub(in crate::node) fn is_linked_pair(&self) -> bool {
        self.is_pair() && self.link.is_some() && !self.link_lost
    }

    /// Does the lease of a pair run?
    pub(in crate::node) fn lease_runs(&self, now: Instant) -> bool {
        self.is_pair() && (now < self.lease_until || self.blind)
    }

    /// What guests of a mirrored volume can expect at this time.
    pub(in crate::node) fn service(&self, now: Instant) -> Service {
        match self.mirrored {
            Service::Pair if !self.lease_runs(now) => Service::Hold,
            service => service,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_in_a_pair_ends_with_the_lease() {
        let (before, end) = (Instant::from_nanos(9), Instant::from_nanos(10));
        let right =
            Right { place: Place::Pair, mirrored: Service::Pair, lease_until: end, ..Right::default() };
        assert_eq!(right.service(before), Service::Pair);
        assert_eq!(right.service(end), Service::Hold);
        let alone = Right { place: Place::Alone, mirrored: Service::Alone, ..right };
        assert_eq!(alone.service(end), Service::Alone);
    }
}
