//! What a node is doing: a type per phase, so that what belongs to one cannot be touched in another.

use std::collections::{BTreeMap, BTreeSet};

use super::volume::RegionRun;
use crate::arbiter::Register;
use crate::ids::{BootId, Epoch, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::pool::Lsn;
use crate::time::Instant;

/// The phase of a node.
#[derive(Debug)]
pub(super) enum Phase {
    /// The pool is being read.
    Opening,
    /// The pool cannot be used; this life is over.
    Failed,
    /// Up, and finding out whether it may serve.
    Starting(Starting),
    /// One of two.
    Paired(Paired),
    /// Lost its partner; asking who may go on.
    Deciding(Deciding),
    /// May go on; waits until the partner's lease has surely run out.
    Waiting(Waiting),
    /// Writes down that it goes on.
    Recording(Recording),
    /// The only one.
    Alone(Box<Alone>),
    /// The partner goes on, or nobody.
    Lost(Lost),
    /// Behind; being brought up to date.
    Target(Target),
    /// Whole again; waits for the word to go.
    Joined(Joined),
    /// Stopped cleanly.
    Stopped,
}

#[derive(Debug)]
pub(super) struct Starting {
    /// The register, once read in this life.
    pub(super) register: Option<Option<Register>>,
    pub(super) ask_at: Instant,
    /// The record that yields to the partner is on its way.
    pub(super) yielding: Option<Lsn>,
}

#[derive(Debug)]
pub(super) struct Paired {
    pub(super) epoch: Epoch,
    /// What the register holds, as far as known.
    pub(super) register: Option<Register>,
    pub(super) partner_boot: BootId,
    pub(super) lease_until: Instant,
    pub(super) probe_at: Instant,
    /// Since when the link has been down.
    pub(super) link_lost: Option<Instant>,
    /// Since when this pair has been waiting for its first lease.
    pub(super) since: Instant,
    pub(super) stop: super::stop::PairStop,
}

#[derive(Debug)]
pub(super) struct Deciding {
    /// The epoch that was left.
    pub(super) epoch: Epoch,
    pub(super) register: Option<Register>,
    pub(super) since: Instant,
    pub(super) ask_at: Instant,
    /// The bound has passed: guests are told.
    pub(super) refusing: bool,
    /// The partner is there and is not told yet: it would ask too, and might win.
    pub(super) quiet: bool,
}

#[derive(Debug)]
pub(super) struct Waiting {
    /// The epoch to go on in.
    pub(super) epoch: Epoch,
    pub(super) until: Instant,
    /// What the register holds; `None` without an arbiter.
    pub(super) register: Option<Register>,
    /// The register does not say so yet (after a handover).
    pub(super) bring_up: bool,
}

#[derive(Debug)]
pub(super) struct Recording {
    pub(super) epoch: Epoch,
    pub(super) lsn: Lsn,
    pub(super) register: Option<Register>,
    pub(super) bring_up: bool,
}

#[derive(Debug)]
pub(super) struct Alone {
    pub(super) epoch: Epoch,
    pub(super) register: Option<Register>,
    pub(super) bring_up: bool,
    pub(super) ask_at: Instant,
    pub(super) rejoin: Rejoin,
    /// When the rejoin got to where it is.
    pub(super) rejoin_since: Instant,
}

/// How far a source is with the returning partner.
#[derive(Debug)]
pub(super) enum Rejoin {
    /// Nobody to bring up.
    None,
    /// Waits for the partner's marks.
    Gathering {
        /// Regions to log, by volume.
        regions: BTreeMap<VolumeId, Vec<RegionRun>>,
        full: Vec<VolumeId>,
        /// Clones that the partner makes of its own halves, each with the one of these that it goes back to.
        made: BTreeMap<VolumeId, VolumeId>,
    },
    /// The marks are being written down.
    Merging { lsn: Lsn, bases: Vec<(VolumeId, crate::ids::Generation)>, made: BTreeSet<VolumeId> },
    /// The partner writes down that it is behind.
    Telling,
    /// Copies; guests' writes go to both.
    Copying {
        /// Not drained before this: the last attempt took too long.
        drain_at: Instant,
    },
    /// Nothing left to copy: new writes wait until the last are stable on both, but not for long.
    Draining {
        /// Given up then.
        until: Instant,
    },
    /// The partner has no space for what it lacks: tried again then.
    Stalled(Instant),
    /// Writes down the epoch it will propose.
    Preparing { proposed: Epoch, lsn: Lsn },
    /// The partner writes down that both are members.
    Proposing { proposed: Epoch },
    /// So does this node.
    Confirming { proposed: Epoch, lsn: Lsn },
    /// The register is being swapped; held until that is resolved.
    Swapping { proposed: Epoch },
    /// The join was broken off; writes down that it is alone again.
    Undoing { lsn: Lsn },
}

#[derive(Debug)]
pub(super) struct Lost {
    pub(super) register: Option<Option<Register>>,
    pub(super) ask_at: Instant,
    pub(super) yielding: Option<Lsn>,
    /// The record that this node stops with everything of the pair is on its way.
    pub(super) completing: Option<Lsn>,
}

#[derive(Debug)]
pub(super) struct Target {
    /// The source's epoch.
    pub(super) epoch: Epoch,
    /// The record "I am behind" is durable when this is.
    pub(super) lsn: Lsn,
    pub(super) ready_told: bool,
    /// Received copies: (tag, volume, version), until stable.
    pub(super) received: std::collections::VecDeque<(u64, VolumeId, u64)>,
    /// The pool is full: copies are dropped until the source begins anew.
    pub(super) full: bool,
    /// Copies that wait for room.
    pub(super) waiting: std::collections::VecDeque<super::target::Copy>,
    pub(super) told: u64,
    /// The join record is being written.
    pub(super) joining: Option<(Epoch, Lsn)>,
}

#[derive(Debug)]
pub(super) struct Joined {
    pub(super) proposed: Epoch,
    pub(super) link_lost: Option<Instant>,
}

impl Phase {
    pub(super) fn peer_phase(&self) -> PeerPhase {
        match self {
            Phase::Opening | Phase::Starting(_) => PeerPhase::Starting,
            Phase::Paired(_) => PeerPhase::Paired,
            Phase::Deciding(_) | Phase::Waiting(_) | Phase::Recording(_) => PeerPhase::Deciding,
            Phase::Alone(_) => PeerPhase::Alone,
            Phase::Lost(_) => PeerPhase::Lost,
            Phase::Target(_) => PeerPhase::Target,
            Phase::Joined(_) => PeerPhase::Joined,
            Phase::Stopped | Phase::Failed => PeerPhase::Stopped,
        }
    }
}
