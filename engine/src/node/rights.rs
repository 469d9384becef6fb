//! What the machines of the volumes may do: their [`Right`], made here and nowhere else from the phase, the link, the
//! lease and the configuration. A machine compares the lease with its clock itself.

use super::Node;
use super::config::WhenFull;
use super::phase::{Alone, Phase, Rejoin};
use super::volume::right::{Place, Right, Service};
use crate::arbiter::Arbitration;
use crate::ids::{Epoch, Members};
use crate::planted::Bug;
use crate::time::Instant;

impl Node {
    /// What the machines may do now.
    pub(super) fn right(&self) -> Right {
        let (place, epoch) = match &self.phase {
            Phase::Paired(pair) => (Place::Pair, pair.epoch),
            Phase::Deciding(deciding) => (Place::Undecided, deciding.epoch),
            Phase::Alone(alone) => (Place::Alone, alone.epoch),
            _ => (Place::Outside, Epoch(0)),
        };
        let (lease_until, link_lost) = match &self.phase {
            Phase::Paired(pair) => (pair.lease_until, pair.link_lost.is_some()),
            _ => (Instant::ZERO, false),
        };
        Right {
            term: self.term,
            epoch,
            place,
            mirrored: self.mirrored_service(),
            linear: self.linear_service(),
            lease_until,
            blind: self.has(Bug::PausedNodeAnswers) || self.has(Bug::LeaseNeverEnds),
            link: self.link,
            link_lost,
            owner_clock: self.owner_clock,
            copying: self.is_copying(),
            drops_full_partner: self.config.mirror.when_partner_full == WhenFull::Degrade
                && (self.has_arbiter() || self.goes_on_unasked()),
            stopping: self.stopping,
        }
    }

    /// What guests of mirrored volumes can expect now.
    pub(super) fn service(&self) -> Service {
        self.right().service(self.now)
    }

    /// Does the lease run?
    pub(super) fn lease_runs(&self) -> bool {
        self.right().lease_runs(self.now)
    }

    /// As long as the lease runs.
    fn mirrored_service(&self) -> Service {
        match &self.phase {
            Phase::Paired(pair) if !pair.stop.holds() => Service::Pair,
            Phase::Paired(_) | Phase::Waiting(_) | Phase::Recording(_) => Service::Hold,
            Phase::Deciding(deciding) if deciding.refusing => Service::Refuse,
            Phase::Deciding(_) => Service::Hold,
            Phase::Alone(alone) => self.alone_service(alone),
            Phase::Target(_) if self.has(Bug::StaleServesReads) => Service::AloneReads,
            _ => Service::Refuse,
        }
    }

    fn alone_service(&self, alone: &Alone) -> Service {
        // Without an arbiter the node that would stop has given up its right when it proposes the join.
        let gave_up =
            !self.has_arbiter() && self.record().members == Members::BOTH && !self.goes_on_unasked();
        match &alone.rejoin {
            Rejoin::Swapping { .. } if self.is_swap_overdue() => Service::Refuse,
            Rejoin::Swapping { .. } => Service::Hold,
            Rejoin::Confirming { .. } | Rejoin::Proposing { .. } | Rejoin::Undoing { .. } if gave_up => {
                Service::Hold
            }
            Rejoin::Draining { .. }
            | Rejoin::Preparing { .. }
            | Rejoin::Proposing { .. }
            | Rejoin::Confirming { .. }
            | Rejoin::Undoing { .. } => Service::AloneReads,
            _ if self.stopping => Service::AloneReads,
            _ => Service::Alone,
        }
    }

    fn linear_service(&self) -> Service {
        match &self.phase {
            Phase::Stopped | Phase::Failed => Service::Refuse,
            // What a linear volume took after the last flush of a clean stop would be lost.
            _ if self.stopping => Service::Refuse,
            _ => Service::Alone,
        }
    }

    /// Without an arbiter: is this the node that goes on?
    pub(super) fn goes_on_unasked(&self) -> bool {
        self.config.arbitration == Arbitration::Preferred && self.config.preferred == self.me()
    }

    /// Is a target being brought up to date?
    pub(super) fn is_copying(&self) -> bool {
        matches!(&self.phase, Phase::Alone(alone)
            if matches!(alone.rejoin, Rejoin::Copying { .. } | Rejoin::Draining { .. }))
    }
}
