//! One answer for the node, out of the decisions about its volumes.
//!
//! Membership is per node: either all mirrored volumes go one way, each by its own amount, or none is touched.
//! A volume that needs a person stops all and is named.

use super::lineage::{Lineage, lineage};
use super::{Amount, Authority, Case, Decision, Role, Standing, decide};
use crate::ids::VolumeId;
use crate::mirror::message::{HalfSummary, Hello};

/// Why two nodes cannot be a mirror until a person has acted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Both served without knowing of each other.
    #[error("both halves were written without knowing of each other; say whose data are kept")]
    SplitBrain,
    /// Nothing in common.
    #[error(
        "the halves have no history in common: a foreign disk or an old image; put the right one back or clear it"
    )]
    Unrelated,
    /// The halves differ in size.
    #[error("the halves were made with different sizes; configure the volume alike on both nodes")]
    SizeDiffers,
    /// Only one node has it.
    #[error("only one of the nodes has it; configure the volume alike on both nodes")]
    Missing,
}

/// What a node does about its partner: one direction, for all mirrored volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Go on as the pair that we are.
    Nothing,
    /// Resynchronise.
    Resync {
        /// Which way.
        role: Role,
        /// How much of each volume, in the order of my hello.
        volumes: Vec<(VolumeId, Amount)>,
    },
    /// Copy nothing: this volume needs a person.
    Refused {
        /// The first such volume.
        volume: VolumeId,
        /// Why.
        reason: Refusal,
    },
    /// It cannot be said yet; put the question again when either hello or the register has changed.
    Retry,
}

/// Decides about all mirrored volumes of two nodes of one partnership (their hellos have been checked for
/// partnership, version and names). Membership is per node: either all volumes go one way, or none is touched.
pub fn decide_all(mine: &Hello, theirs: &Hello, authority: Authority) -> Plan {
    if !Standing::of(mine).settled() || !Standing::of(theirs).settled() {
        return Plan::Retry;
    }
    if let Some((volume, reason)) = mismatch(mine, theirs) {
        return Plan::Refused { volume, reason };
    }
    let mut whole = Fold { plan: Plan::Nothing, any: false };
    for half in &mine.halves {
        if let Some(other) = theirs.halves.iter().find(|other| other.volume == half.volume) {
            whole.add(half.volume, decide(&Case::of(mine, theirs, authority, (half, other))));
        }
    }
    let plan = if whole.any { whole.plan } else { direction_alone(mine, theirs, authority) };
    if let Some(volume) = left_over(&plan, mine, theirs) {
        return Plan::Refused { volume, reason: Refusal::Missing };
    }
    with_revived(plan, mine, theirs)
}

/// A volume that only a node has whose data do not stand, or only one of a pair, and that is no clone: nobody would write it down
/// at the other. (A clone of which the source has never heard goes from the target.)
fn left_over(plan: &Plan, mine: &Hello, theirs: &Hello) -> Option<VolumeId> {
    match plan {
        Plan::Nothing => lacking(mine, theirs, |_| true).or_else(|| lacking(theirs, mine, |_| true)),
        Plan::Resync { role: Role::Source, .. } => lacking(theirs, mine, |_| true),
        Plan::Resync { role: Role::Target, .. } => lacking(mine, theirs, |_| true),
        Plan::Refused { .. } | Plan::Retry => None,
    }
}

/// The first of the volumes that one node has and the other neither has nor knows to be deleted; no clone, and of this kind.
fn lacking(has: &Hello, lacks: &Hello, counts: fn(&HalfSummary) -> bool) -> Option<VolumeId> {
    let known = |volume: VolumeId| {
        lacks.halves.iter().any(|other| other.volume == volume) || lacks.deleted.contains(&volume)
    };
    let lacking = |half: &&HalfSummary| half.of.is_none() && counts(half) && !known(half.volume);
    has.halves.iter().find(lacking).map(|half| half.volume)
}

/// A volume that is deleted only where data do not stand is made again there, and copied as a whole. One that was made of
/// another while the target was away, or that only the source has in writing, the target makes of its own half of that.
fn with_revived(plan: Plan, mine: &Hello, theirs: &Hello) -> Plan {
    let Plan::Resync { role, mut volumes } = plan else { return plan };
    let (source, target) = match role {
        Role::Source => (mine, theirs),
        Role::Target => (theirs, mine),
    };
    let known = |half: &&HalfSummary| target.halves.iter().any(|other| other.volume == half.volume);
    let revived = source.halves.iter().filter(|half| !known(half));
    volumes.extend(revived.map(|half| {
        let made = begins_as(half, source, target).is_some();
        (half.volume, if made { Amount::Delta } else { Amount::Full })
    }));
    Plan::Resync { role, volumes }
}

/// A half of which the target has never heard, and that it can make of a half of its own: of which? What that lacks of it is in
/// the logs and hot sets then, for a clone begins with those of its model: the source's was made no earlier than the
/// generation of the target's model ended. A clone that the target has deleted is not of that kind: its model has gone on.
pub fn begins_as(half: &HalfSummary, source: &Hello, target: &Hello) -> Option<VolumeId> {
    begins_within(half, source, target, source.halves.len())
}

/// Not more than so many clones back.
fn begins_within(half: &HalfSummary, source: &Hello, target: &Hello, most: usize) -> Option<VolumeId> {
    let known = |volume: VolumeId| target.halves.iter().find(|other| other.volume == volume);
    if target.deleted.contains(&half.volume) || known(half.volume).is_some() {
        return None;
    }
    let of = half.of?;
    let root = match known(of) {
        Some(_) => of,
        // It is to be made there itself.
        None => {
            let model = source.halves.iter().find(|other| other.volume == of)?;
            begins_within(model, source, target, most.checked_sub(1)?)?
        }
    };
    let theirs = known(root)?;
    let related = lineage((half.generation, &half.ancestors), (theirs.generation, &theirs.ancestors));
    matches!(related, Lineage::Equal | Lineage::MineNewer).then_some(root)
}

/// With no mirrored volume there is still a direction.
fn direction_alone(mine: &Hello, theirs: &Hello, authority: Authority) -> Plan {
    match decide(&Case::of_nodes(mine, theirs, authority)) {
        Decision::Nothing => Plan::Nothing,
        Decision::Delta(role) | Decision::Full(role) => Plan::Resync { role, volumes: Vec::new() },
        Decision::SplitBrain | Decision::Unrelated | Decision::Retry => Plan::Retry,
    }
}

fn mismatch(mine: &Hello, theirs: &Hello) -> Option<(VolumeId, Refusal)> {
    // One that was ever changed the node whose data stand has its partner make, as one that was made while nodes ran.
    let unchanged = |half: &HalfSummary| half.change == 0;
    if let Some(volume) = lacking(mine, theirs, unchanged).or_else(|| lacking(theirs, mine, unchanged)) {
        return Some((volume, Refusal::Missing));
    }
    // One that was changed on one node only is as the node has it whose data stand.
    let differs = |half: &&HalfSummary| {
        theirs.halves.iter().any(|other| {
            other.volume == half.volume
                && other.sectors != half.sectors
                && (other.change, half.change) == (0, 0)
        })
    };
    mine.halves.iter().find(differs).map(|half| (half.volume, Refusal::SizeDiffers))
}

/// Joins the decisions of the volumes. Refusals win over everything, then *retry*; two directions are none.
struct Fold {
    plan: Plan,
    any: bool,
}

impl Fold {
    fn add(&mut self, volume: VolumeId, decision: Decision) {
        let first = !core::mem::replace(&mut self.any, true);
        let plan = core::mem::replace(&mut self.plan, Plan::Retry);
        self.plan = match (plan, decision) {
            (refused @ Plan::Refused { .. }, _) => refused,
            (_, Decision::SplitBrain) => Plan::Refused { volume, reason: Refusal::SplitBrain },
            (_, Decision::Unrelated) => Plan::Refused { volume, reason: Refusal::Unrelated },
            (Plan::Retry, _) | (_, Decision::Retry) => Plan::Retry,
            (Plan::Nothing, Decision::Nothing) => Plan::Nothing,
            (Plan::Nothing, Decision::Delta(role)) if first => resync(role, volume, Amount::Delta),
            (Plan::Nothing, Decision::Full(role)) if first => resync(role, volume, Amount::Full),
            (Plan::Resync { role, mut volumes }, Decision::Delta(same)) if role == same => {
                volumes.push((volume, Amount::Delta));
                Plan::Resync { role, volumes }
            }
            (Plan::Resync { role, mut volumes }, Decision::Full(same)) if role == same => {
                volumes.push((volume, Amount::Full));
                Plan::Resync { role, volumes }
            }
            _ => Plan::Retry,
        };
    }
}

fn resync(role: Role, volume: VolumeId, amount: Amount) -> Plan {
    Plan::Resync { role, volumes: vec![(volume, amount)] }
}
