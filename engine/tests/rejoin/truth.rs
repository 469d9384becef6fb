//! Which decisions are right, judged from everything that the model knows and no node can.

use twinsan::mirror::rejoin::{Decision, Role};

use crate::history::{BLOCKS, Doing, Joining, Mode, Register, Replica, World, only};

/// Which register the deciding nodes have in mind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// What it holds now, or rightly that there is none.
    Now(Option<Register>),
    /// What it held before its last change.
    Before(Register),
    /// It could not be asked.
    Unknown,
}

pub(crate) const DECISIONS: [Decision; 8] = [
    Decision::Nothing,
    Decision::Delta(Role::Source),
    Decision::Delta(Role::Target),
    Decision::Full(Role::Source),
    Decision::Full(Role::Target),
    Decision::SplitBrain,
    Decision::Unrelated,
    Decision::Retry,
];

/// A set of decisions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict(pub(crate) u8);

impl Verdict {
    pub(crate) const ANY: Verdict = Verdict(0xff);

    pub(crate) fn allow(&mut self, decision: Decision, allowed: bool) {
        let bit = DECISIONS.iter().position(|d| *d == decision).expect("all are listed");
        self.0 |= u8::from(allowed) << bit;
    }

    pub(crate) fn allows(self, decision: Decision) -> bool {
        DECISIONS.iter().zip(0..).any(|(d, bit)| *d == decision && self.0 >> bit & 1 == 1)
    }

    pub(crate) fn and(self, other: Verdict) -> Verdict {
        Verdict(self.0 & other.0)
    }
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(DECISIONS.iter().filter(|d| self.allows(**d))).finish()
    }
}

/// What node 0 may decide about node 1, in a world where both are up and connected.
pub(crate) fn verdict(world: &World, mode: Mode, seen: Seen) -> Verdict {
    let mut right = Verdict(0);
    let [a, b] = &world.node;
    if !a.settled() || !b.settled() {
        right.allow(Decision::Retry, true);
        return right;
    }
    if a.foreign || b.foreign {
        right.allow(Decision::Unrelated, true);
        return right;
    }
    if still_one(world, mode) {
        right.allow(Decision::Nothing, true);
        return right;
    }
    let stands = [0, 1].map(|i| may_stand(world, i, seen));
    let delta = world.differing() & !world.marked() == 0 && !a.log_lost && !b.log_lost;
    let full = |target: &Replica| target.generation == 0 || a.log_lost || b.log_lost;
    right.allow(Decision::Delta(Role::Source), stands[0] && delta && b.generation != 0);
    right.allow(Decision::Delta(Role::Target), stands[1] && delta && a.generation != 0);
    right.allow(Decision::Full(Role::Source), stands[0] && full(b));
    right.allow(Decision::Full(Role::Target), stands[1] && full(a));
    right.allow(Decision::SplitBrain, world.served_alone == [true; 2]);
    let stuck = needs_person(world)
        || (0..2)
            .any(|i| stands[i] && (delta || full(&world.node[1 - i])) && must_begin(world, mode, i, seen));
    right.allow(Decision::Retry, !stuck);
    right
}

/// Link down and up again, nobody died, nobody asked.
fn still_one(world: &World, mode: Mode) -> bool {
    let [a, b] = &world.node;
    let in_pair =
        |n: &Replica| matches!(n.doing, Doing::Paired | Doing::Joined) && n.pair == n.epoch && n.pair != 0;
    let current = mode != Mode::Register || world.register.is_some_and(|r| r.0 == a.pair);
    let both_wait = a.doing == Doing::Joined && b.doing == Doing::Joined;
    let whole = (0..BLOCKS).all(|block| {
        let either = a.holds(block) & b.holds(block);
        a.cache[block] | a.kept[block] | b.cache[block] | b.kept[block]
            == either | a.kept[block] | b.kept[block]
            && world.promised[block] & !either == 0
    });
    in_pair(a) && in_pair(b) && a.pair == b.pair && current && !both_wait && whole
}

/// Would the data of `i` do, and has the other no better right?
fn may_stand(world: &World, i: usize, seen: Seen) -> bool {
    let (n, other) = (&world.node[i], &world.node[1 - i]);
    let empty = n.generation == 0 && other.generation != 0;
    let complete = !empty && (0..BLOCKS).all(|b| world.promised[b] & !n.holds(b) == 0);
    // The register has moved on to the other, who is about to learn it.
    let overruled = matches!(seen, Seen::Now(Some(r)) if r.1 == only(1 - i) && r.0 > n.epoch);
    let other_serves = other.doing == Doing::Alone;
    complete && n.good && !world.lost && !overruled && !other_serves && !discards_unasked(world, i)
}

/// Both have served alone, and letting `i` stand would throw away what the other then did.
fn discards_unasked(world: &World, i: usize) -> bool {
    let (n, other) = (&world.node[i], &world.node[1 - i]);
    world.served_alone == [true; 2]
        && other.members == only(1 - i)
        && (0..BLOCKS).any(|b| other.holds(b) & !n.holds(b) & world.promised[b] != 0)
}

/// Each has what the other was never to lose.
fn needs_person(world: &World) -> bool {
    let lacks = |n: &Replica| (0..BLOCKS).any(|b| world.promised[b] & !n.holds(b) != 0);
    world.served_alone == [true; 2] && world.node.iter().all(lacks)
}

/// Nothing but a resync can bring the two together again, and everything that it needs is known.
fn must_begin(world: &World, mode: Mode, i: usize, seen: Seen) -> bool {
    let (n, other) = (&world.node[i], &world.node[1 - i]);
    if matches!(seen, Seen::Before(_)) || other.members == only(1 - i) && other.good {
        return false;
    }
    let serves = n.doing == Doing::Alone && n.joining == Joining::No && n.members == only(i);
    let waits = |n: &Replica| matches!(n.doing, Doing::Starting | Doing::Lost | Doing::Target);
    let even = n.members == other.members && n.epoch == other.epoch && other.good;
    let named = other.members == only(i) && n.members == 3;
    let nobody_decides = mode != Mode::Register && waits(n) && waits(other) && n.good && (even || named);
    // Of two with equal rights one is chosen; which, is not the world's business unless only one will do.
    let chosen = named || !even || i == 0 || !may_stand(world, 1 - i, seen);
    serves || nobody_decides && chosen
}
