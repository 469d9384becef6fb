//! The rejoin decision: which half's data stand, and how much is copied to the other.
//!
//! One pure, total function, [`decide`], is called at connect, at reconnect and at attach, after both nodes have
//! said hello. [`decide_all`] puts it to every mirrored volume and gives one answer for the node. Mirrored pairs
//! lose data here rather than on the data path, so the whole input space is enumerated in `tests/rejoin.rs`
//! against a model of histories that shares nothing with this file.
//!
//! Membership (the register, or without one the durable records) decides the *direction*, the generations decide
//! the *amount*. Equal generations are no proof of equal data.
//!
//! # The table
//!
//! The first rule of [`RULES`] that holds decides. A rule is put to both nodes in turn, so that what one node
//! decides is always the mirror image of what the other decides.
//!
//! | rule | when | then |
//! |---|---|---|
//! | unsettled | a node has a question open, is deciding, is stopping, or is a source half way to being whole | retry |
//! | unrelated | the halves have no generation in common | unrelated |
//! | hiccup | both in the same pair, memories unbroken, the register not beyond it, one generation | nothing |
//! | two alone | both have it in writing that they served alone | split brain |
//! | diverged | both grew from a common ancestor, and neither was told by a person to give up | split brain |
//! | overruled | the register has moved on from the node whose data would stand, to the other or to both | retry |
//! | outrun | a node that is alone finds one, not behind, that handed over to it in a later epoch | retry |
//! | alone | one node has it in writing that it served alone, the other has not | its data stand |
//! | ceded | one node has it in writing that the other goes on; the other's half is not behind | the other's data stand |
//! | remembers | no arbiter, equal records, one memory unbroken since the pair began | that node's data stand |
//! | preferred | no arbiter, equal records, both memories unbroken or both broken | the preferred node's data stand |
//! | *(none)* | | retry |
//!
//! *Retry* means that nothing is copied and nobody's word changes: the arbiter, the nodes' own next steps or a person
//! will change what is known, and then the question is put again. Where a node's data stand, the first of
//! [`AMOUNTS`] that holds, seen from that node, says how much is copied:
//!
//! | rule | when | then |
//! |---|---|---|
//! | empty source | the source's half never held data, the target's did | retry: a person must choose |
//! | empty target | the target's half never held data | full (only mapped extents) |
//! | newer target | the target's generation grew from the source's | split brain |
//! | known target | hot sets and logs of both can be trusted | delta |
//! | lost log | otherwise | full |
//!
//! # Why some rules look fussy
//!
//! - *two alone* does not ask the register which of the two is older. A source that carries on after its target has
//!   written "we are both members" shares that generation with it; if the target is then forced to serve, the source's
//!   generation is an ancestor of the target's, and yet the source has acknowledged writes that the target never saw.
//! - *overruled*, and no rule for equal records where there is an arbiter: a grant that its winner has not written down
//!   may have been won by a life that is over, and is about to be given back; the other node may have the only copy of
//!   what was acknowledged.
//! - *outrun*: a node that handed over or was made whole in a later epoch has seen a later state of the source than
//!   the source itself shows: its disks were put back from an older image.
//! - A person's word `keep x` makes x's record a new epoch and the other's record "x goes on, I am behind"; then the
//!   *alone* rule applies to a diverged pair, and the logs of both, back to the common ancestor, are a delta.
//!
//! # What it relies on
//!
//! - A node makes a new generation in the very batch that records that it goes alone ([`lineage::alone`]); ancestors end
//!   when the mirror is whole ([`lineage::whole`]).
//! - A source that has written "both are members" acknowledges nothing that the target lacks until it is in the pair,
//!   or has taken it back. It is unsettled until then.
//! - A resync belongs to one connection of two lives. After either is gone the question is put again, and a source that
//!   has lost its log copies everything before it may join.
//! - A node whose halves are new goes on alone only if the partner's are new too. An old half whose partner's disks were
//!   replaced does not go on by itself either, unless the register says that it is current: the partner may have served
//!   alone before.
//! - Two replicas whose facts are alike are alike: disks put back from an image of the same generation and epoch
//!   cannot be told here.

use core::cmp::Ordering;

use crate::arbiter::Register;
use crate::ids::{Epoch, Members, NodeName};
use crate::mirror::message::{HalfSummary, Hello, PeerPhase};

pub mod lineage;
mod plan;
use lineage::{Lineage, lineage};
pub use plan::{Plan, Refusal, begins_as, decide_all};

/// Which way data flow in a resync, for the node that decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// My data stand.
    Source,
    /// The partner's data stand.
    Target,
}

/// What is to be done about one mirrored volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Decision {
    /// Go on as the pair that we are: the link was down, no more.
    Nothing,
    /// Copy what hot sets and logs of both name.
    Delta(Role),
    /// Copy all that is mapped.
    Full(Role),
    /// Both served without knowing of each other. A person must say whose data are kept.
    SplitBrain,
    /// The halves have nothing to do with each other.
    Unrelated,
    /// It cannot be said yet.
    Retry,
}

impl Decision {
    /// The same decision, seen by the partner.
    pub const fn swapped(self) -> Decision {
        match self {
            Decision::Delta(Role::Source) => Decision::Delta(Role::Target),
            Decision::Delta(Role::Target) => Decision::Delta(Role::Source),
            Decision::Full(Role::Source) => Decision::Full(Role::Target),
            Decision::Full(Role::Target) => Decision::Full(Role::Source),
            same => same,
        }
    }
}

/// What a node's durable members record says of the right to serve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Claim {
    /// Only the node itself.
    Alone,
    /// Both.
    Shared,
    /// Only the partner: it was handed over to, or is the source.
    Ceded,
}

/// What one node is, as far as the decision asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Standing {
    /// What it is doing.
    pub phase: PeerPhase,
    /// Its durable members record.
    pub claim: Claim,
    /// Its durable word that its half is not behind.
    pub up_to_date: bool,
    /// It has no question open at the arbiter and may become a target.
    pub ready: bool,
    /// Its memory is unbroken since the epoch of its record began, in which both were members.
    pub unbroken: bool,
}

impl Standing {
    /// What a hello says of the node that sent it.
    pub fn of(hello: &Hello) -> Standing {
        let claim = match hello.members {
            Members::BOTH => Claim::Shared,
            members if members.has(hello.node) => Claim::Alone,
            _ => Claim::Ceded,
        };
        let unbroken =
            claim == Claim::Shared && hello.pair_epoch == hello.epoch && hello.pair_epoch != Epoch(0);
        Standing { phase: hello.phase, claim, up_to_date: hello.up_to_date, ready: hello.ready, unbroken }
    }

    fn settled(self) -> bool {
        let joining = self.phase == PeerPhase::Alone && self.claim == Claim::Shared;
        self.ready && !joining && !matches!(self.phase, PeerPhase::Deciding | PeerPhase::Stopped)
    }

    fn in_pair(self) -> bool {
        matches!(self.phase, PeerPhase::Paired | PeerPhase::Joined)
            && self.claim == Claim::Shared
            && self.up_to_date
            && self.unbroken
    }

    fn gave_up(self) -> bool {
        self.claim == Claim::Ceded && !self.up_to_date
    }
}

/// One of the two nodes, seen by the node that decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Whose {
    /// Me.
    Mine,
    /// The partner.
    Theirs,
}

impl Whose {
    const fn swapped(self) -> Whose {
        match self {
            Whose::Mine => Whose::Theirs,
            Whose::Theirs => Whose::Mine,
        }
    }
}

/// What is known about who may serve, from outside the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// The arbiter's register, as last read. It may be older than the nodes' records.
    Register(Register),
    /// The arbiter has no register of this partnership.
    Blank,
    /// The arbiter has not been asked or cannot be reached.
    Unknown,
    /// There is no arbiter.
    NoArbiter {
        /// Which node goes on, all else being equal.
        preferred: NodeName,
    },
}

/// [`Authority`] reduced to what the decision asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ruling {
    /// The arbiter's register.
    Register {
        /// Whom it names; `None` if both.
        names: Option<Whose>,
        /// Its epoch against my record's.
        to_mine: Ordering,
        /// Its epoch against the partner's record's.
        to_theirs: Ordering,
    },
    /// No register of this partnership.
    Blank,
    /// Not known.
    Unknown,
    /// No arbiter; this node is preferred.
    NoArbiter(Whose),
}

impl Ruling {
    fn of(authority: Authority, mine: &Hello, theirs: &Hello) -> Ruling {
        let whose = |node| if node == mine.node { Whose::Mine } else { Whose::Theirs };
        match authority {
            Authority::Register(register) => Ruling::Register {
                names: match register.members {
                    Members::BOTH => None,
                    members if members.has(mine.node) => Some(Whose::Mine),
                    _ => Some(Whose::Theirs),
                },
                to_mine: register.epoch.cmp(&mine.epoch),
                to_theirs: register.epoch.cmp(&theirs.epoch),
            },
            Authority::Blank => Ruling::Blank,
            Authority::Unknown => Ruling::Unknown,
            Authority::NoArbiter { preferred } => Ruling::NoArbiter(whose(preferred)),
        }
    }

    fn swapped(self) -> Ruling {
        match self {
            Ruling::Register { names, to_mine, to_theirs } => {
                Ruling::Register { names: names.map(Whose::swapped), to_mine: to_theirs, to_theirs: to_mine }
            }
            Ruling::NoArbiter(preferred) => Ruling::NoArbiter(preferred.swapped()),
            same => same,
        }
    }
}

/// Everything that the decision about one volume depends on: small enough to be enumerated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Case {
    /// The node that decides.
    pub mine: Standing,
    /// Its partner.
    pub theirs: Standing,
    /// The epoch of my record against the partner's.
    pub epochs: Ordering,
    /// What is known from outside.
    pub ruling: Ruling,
    /// How the halves are related.
    pub lineage: Lineage,
    /// Hot set and change log of both halves can be trusted.
    pub logs_intact: bool,
}

impl Case {
    /// The same case, seen by the partner.
    pub fn swapped(self) -> Case {
        Case {
            mine: self.theirs,
            theirs: self.mine,
            epochs: self.epochs.reverse(),
            ruling: self.ruling.swapped(),
            lineage: self.lineage.swapped(),
            logs_intact: self.logs_intact,
        }
    }

    /// The case of one volume.
    pub fn of(
        mine: &Hello,
        theirs: &Hello,
        authority: Authority,
        halves: (&HalfSummary, &HalfSummary),
    ) -> Case {
        let (my_half, their_half) = halves;
        Case {
            lineage: lineage(
                (my_half.generation, &my_half.ancestors),
                (their_half.generation, &their_half.ancestors),
            ),
            logs_intact: my_half.log_intact && their_half.log_intact,
            ..Case::of_nodes(mine, theirs, authority)
        }
    }

    fn of_nodes(mine: &Hello, theirs: &Hello, authority: Authority) -> Case {
        Case {
            mine: Standing::of(mine),
            theirs: Standing::of(theirs),
            epochs: mine.epoch.cmp(&theirs.epoch),
            ruling: Ruling::of(authority, mine, theirs),
            lineage: Lineage::Equal,
            logs_intact: true,
        }
    }

    /// I have it in writing, with a half that is not behind, that I served alone.
    fn alone(&self) -> bool {
        self.mine.claim == Claim::Alone && self.mine.up_to_date
    }

    /// The partner has it in writing that I go on, and my half is not behind.
    fn ceded_to(&self) -> bool {
        self.mine.claim == Claim::Shared && self.mine.up_to_date && self.theirs.claim == Claim::Ceded
    }

    /// No arbiter; both records are the same, and both halves not behind (or there is nothing to be behind of).
    fn even(&self) -> bool {
        matches!(self.ruling, Ruling::NoArbiter(_))
            && self.epochs == Ordering::Equal
            && self.mine.claim == Claim::Shared
            && self.theirs.claim == Claim::Shared
            && (self.lineage == Lineage::BothNew || self.mine.up_to_date && self.theirs.up_to_date)
    }

    fn register_beyond_mine(&self) -> bool {
        matches!(self.ruling, Ruling::Register { to_mine: Ordering::Greater, .. })
    }

    /// The register knows of a membership not older than my record, and it is not mine alone.
    fn overruled(&self) -> bool {
        match self.ruling {
            Ruling::Register { names: Some(Whose::Mine), .. } => false,
            Ruling::Register { names: None, to_mine, .. } => to_mine == Ordering::Greater,
            Ruling::Register { names: Some(Whose::Theirs), to_mine, .. } => to_mine != Ordering::Less,
            _ => false,
        }
    }
}

/// What a [`Rule`] leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The decision.
    Is(Decision),
    /// The data of the node to which the rule was put stand; [`AMOUNTS`] tells the rest.
    Stands,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name in the table.
    pub name: &'static str,
    /// Does it hold, put to the node that is `mine` in the case?
    pub holds: fn(&Case) -> bool,
    /// What follows.
    pub outcome: Outcome,
}

/// The table that decides whose data stand, in order.
pub const RULES: [Rule; 11] = [
    Rule { name: "unsettled", holds: |case| !case.mine.settled(), outcome: Outcome::Is(Decision::Retry) },
    Rule {
        name: "unrelated",
        holds: |case| case.lineage == Lineage::Unrelated,
        outcome: Outcome::Is(Decision::Unrelated),
    },
    Rule {
        name: "hiccup",
        holds: |case| {
            case.mine.in_pair()
                && case.theirs.in_pair()
                && (case.mine.phase, case.theirs.phase) != (PeerPhase::Joined, PeerPhase::Joined)
                && case.epochs == Ordering::Equal
                && case.lineage == Lineage::Equal
                && !case.register_beyond_mine()
        },
        outcome: Outcome::Is(Decision::Nothing),
    },
    Rule {
        name: "two alone",
        holds: |case| {
            case.alone()
                && case.swapped().alone()
                && !matches!(case.lineage, Lineage::BothNew | Lineage::MineNew | Lineage::TheirsNew)
        },
        outcome: Outcome::Is(Decision::SplitBrain),
    },
    Rule {
        name: "diverged",
        holds: |case| case.lineage == Lineage::Diverged && !case.mine.gave_up() && !case.theirs.gave_up(),
        outcome: Outcome::Is(Decision::SplitBrain),
    },
    Rule {
        name: "overruled",
        holds: |case| (case.alone() || case.ceded_to()) && case.overruled(),
        outcome: Outcome::Is(Decision::Retry),
    },
    Rule {
        name: "outrun",
        holds: |case| {
            case.alone()
                && case.theirs.claim == Claim::Ceded
                && case.theirs.up_to_date
                && case.epochs == Ordering::Less
        },
        outcome: Outcome::Is(Decision::Retry),
    },
    Rule {
        name: "alone",
        holds: |case| case.alone() && case.theirs.claim != Claim::Alone,
        outcome: Outcome::Stands,
    },
    Rule { name: "ceded", holds: |case| case.ceded_to(), outcome: Outcome::Stands },
    Rule {
        name: "remembers",
        holds: |case| case.even() && case.mine.unbroken && !case.theirs.unbroken,
        outcome: Outcome::Stands,
    },
    Rule {
        name: "preferred",
        holds: |case| {
            case.even()
                && case.mine.unbroken == case.theirs.unbroken
                && case.ruling == Ruling::NoArbiter(Whose::Mine)
        },
        outcome: Outcome::Stands,
    },
];

/// How much a source copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Amount {
    /// What hot sets and logs of both name.
    Delta,
    /// All that is mapped.
    Full,
}

/// One line of the second table.
#[derive(Clone, Copy, Debug)]
pub struct AmountRule {
    /// Its name in the table.
    pub name: &'static str,
    /// Does it hold, where `mine` is the source?
    pub holds: fn(&Case) -> bool,
    /// What follows, said to the source.
    pub decision: Decision,
}

/// The table that decides how much is copied, in order. The last rule always holds.
pub const AMOUNTS: [AmountRule; 5] = [
    AmountRule {
        name: "empty source",
        holds: |case| case.lineage == Lineage::MineNew,
        decision: Decision::Retry,
    },
    AmountRule {
        name: "empty target",
        holds: |case| matches!(case.lineage, Lineage::TheirsNew | Lineage::BothNew),
        decision: Decision::Full(Role::Source),
    },
    AmountRule {
        name: "newer target",
        holds: |case| case.lineage == Lineage::TheirsNewer,
        decision: Decision::SplitBrain,
    },
    AmountRule {
        name: "known target",
        holds: |case| case.logs_intact,
        decision: Decision::Delta(Role::Source),
    },
    AmountRule { name: "lost log", holds: |_| true, decision: Decision::Full(Role::Source) },
];

/// Decides about one volume. Pure and total; `decide(&case.swapped())` is always `decide(&case).swapped()`.
pub fn decide(case: &Case) -> Decision {
    decide_by(&RULES, &AMOUNTS, case)
}

/// [`decide`] by other tables. For the test that flips each rule and must notice.
pub fn decide_by(rules: &[Rule], amounts: &[AmountRule], case: &Case) -> Decision {
    let partner = case.swapped();
    for rule in rules {
        match (rule.outcome, (rule.holds)(case), (rule.holds)(&partner)) {
            (_, false, false) => {}
            (Outcome::Is(decision), ..) => return decision,
            (Outcome::Stands, true, false) => return amount(amounts, case),
            (Outcome::Stands, false, true) => return amount(amounts, &partner).swapped(),
            (Outcome::Stands, true, true) => return Decision::Retry,
        }
    }
    Decision::Retry
}

fn amount(amounts: &[AmountRule], source: &Case) -> Decision {
    amounts.iter().find(|rule| (rule.holds)(source)).map_or(Decision::Retry, |rule| rule.decision)
}
