//! What every decision must obey, whether a history leads there or not.

use std::cmp::Ordering;

use twinsan::mirror::message::PeerPhase;
use twinsan::mirror::rejoin::lineage::Lineage;
use twinsan::mirror::rejoin::{Case, Claim, Decision, Role, Ruling, Standing, Whose};

const PHASES: [PeerPhase; 8] = [
    PeerPhase::Starting,
    PeerPhase::Paired,
    PeerPhase::Deciding,
    PeerPhase::Alone,
    PeerPhase::Lost,
    PeerPhase::Target,
    PeerPhase::Joined,
    PeerPhase::Stopped,
];
const CLAIMS: [Claim; 3] = [Claim::Alone, Claim::Shared, Claim::Ceded];
const ORDERS: [Ordering; 3] = [Ordering::Less, Ordering::Equal, Ordering::Greater];
const EITHER: [bool; 2] = [false, true];

fn standings() -> Vec<Standing> {
    let mut all = Vec::new();
    for phase in PHASES {
        for claim in CLAIMS {
            for bits in 0..8 {
                let (up_to_date, ready, unbroken) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                all.push(Standing { phase, claim, up_to_date, ready, unbroken });
            }
        }
    }
    all
}

/// Every order of three epochs, and everything else that can be known from outside.
fn rulings() -> Vec<(Ordering, Ruling)> {
    let mut all = Vec::new();
    for epochs in ORDERS {
        for ruling in
            [Ruling::Blank, Ruling::Unknown, Ruling::NoArbiter(Whose::Mine), Ruling::NoArbiter(Whose::Theirs)]
        {
            all.push((epochs, ruling));
        }
        for (to_mine, to_theirs) in ORDERS.iter().flat_map(|x| ORDERS.map(|y| (*x, y))) {
            if possible(epochs, to_mine, to_theirs) {
                for names in [None, Some(Whose::Mine), Some(Whose::Theirs)] {
                    all.push((epochs, Ruling::Register { names, to_mine, to_theirs }));
                }
            }
        }
    }
    all
}

/// Are there three numbers in this order?
fn possible(epochs: Ordering, to_mine: Ordering, to_theirs: Ordering) -> bool {
    let numbers = |mine: u8, theirs: u8, register: u8| {
        mine.cmp(&theirs) == epochs && register.cmp(&mine) == to_mine && register.cmp(&theirs) == to_theirs
    };
    (0..27).any(|n| numbers(n % 3, n / 3 % 3, n / 9))
}

/// Calls `visit` with every input there is, until it says no; returns how many it was.
pub(crate) fn every_case(mut visit: impl FnMut(&Case) -> bool) -> u64 {
    let (standings, rulings) = (standings(), rulings());
    let mut count = 0;
    for mine in &standings {
        for theirs in &standings {
            for (epochs, ruling) in &rulings {
                for lineage in Lineage::ALL {
                    for logs_intact in EITHER {
                        let (mine, theirs, epochs, ruling) = (*mine, *theirs, *epochs, *ruling);
                        count += 1;
                        if !visit(&Case { mine, theirs, epochs, ruling, lineage, logs_intact }) {
                            return count;
                        }
                    }
                }
            }
        }
    }
    count
}

/// Is this one of the inputs that [`every_case`] visits?
pub(crate) fn is_listed(case: &Case) -> bool {
    let standings = standings();
    standings.contains(&case.mine)
        && standings.contains(&case.theirs)
        && rulings().contains(&(case.epochs, case.ruling))
        && Lineage::ALL.contains(&case.lineage)
}

/// What is wrong with this decision, whatever has happened. `None`: nothing.
pub(crate) fn caution(case: &Case, decision: Decision) -> Option<&'static str> {
    let joining = |n: &Standing| n.phase == PeerPhase::Alone && n.claim == Claim::Shared;
    let open = |n: &Standing| matches!(n.phase, PeerPhase::Deciding | PeerPhase::Stopped) || joining(n);
    let settled = |n: &Standing| n.ready && !open(n);
    if !settled(&case.mine) || !settled(&case.theirs) {
        return (decision != Decision::Retry).then_some("decided while a question was open");
    }
    if (case.lineage == Lineage::Unrelated) != (decision == Decision::Unrelated) {
        return Some("unrelated halves are called so, and no others");
    }
    match decision {
        Decision::Nothing => nothing(case),
        Decision::SplitBrain => split_brain(case),
        Decision::Delta(Role::Source) => resync(case).or(delta(case)),
        Decision::Delta(Role::Target) => resync(&case.swapped()).or(delta(&case.swapped())),
        Decision::Full(Role::Source) => resync(case).or(full(case)),
        Decision::Full(Role::Target) => resync(&case.swapped()).or(full(&case.swapped())),
        Decision::Unrelated => None,
        Decision::Retry => both_served(case).or(outgrown(case)).or(outgrown(&case.swapped())),
    }
}

fn new(case: &Case) -> bool {
    matches!(case.lineage, Lineage::BothNew | Lineage::MineNew | Lineage::TheirsNew)
}

fn served(n: &Standing) -> bool {
    n.claim == Claim::Alone && n.up_to_date
}

fn both_served(case: &Case) -> Option<&'static str> {
    let unnoticed = served(&case.mine) && served(&case.theirs) && !new(case);
    unnoticed.then_some("two that served alone went unnoticed")
}

/// `case.mine` served alone, without an arbiter to speak against it, and yet the other's data grew out of its data.
fn outgrown(case: &Case) -> Option<&'static str> {
    let outrun = case.theirs.claim == Claim::Ceded && case.theirs.up_to_date && case.epochs == Ordering::Less;
    let alone = served(&case.mine)
        && case.theirs.claim != Claim::Alone
        && !outrun
        && matches!(case.ruling, Ruling::NoArbiter(_));
    (alone && case.lineage == Lineage::TheirsNewer).then_some("data that grew elsewhere went unnoticed")
}

fn nothing(case: &Case) -> Option<&'static str> {
    let one = |n: &Standing| n.claim == Claim::Shared && n.up_to_date && n.unbroken;
    let waits = |n: &Standing| n.phase == PeerPhase::Joined;
    let pair = |n: &Standing| matches!(n.phase, PeerPhase::Paired | PeerPhase::Joined);
    let beyond = matches!(case.ruling, Ruling::Register { to_mine: Ordering::Greater, .. });
    if !one(&case.mine)
        || !one(&case.theirs)
        || case.epochs != Ordering::Equal
        || case.lineage != Lineage::Equal
    {
        return Some("nothing to do, though the two are not one pair with unbroken memories");
    }
    if !pair(&case.mine) || !pair(&case.theirs) || waits(&case.mine) && waits(&case.theirs) {
        return Some("nothing to do, though one has left the pair");
    }
    beyond.then_some("nothing to do, though the register has moved on")
}

fn split_brain(case: &Case) -> Option<&'static str> {
    let grown = !new(case) && (case.lineage != Lineage::Equal || served(&case.mine) && served(&case.theirs));
    (!grown).then_some("split brain without two that grew apart")
}

/// `case.mine` is the source.
fn resync(case: &Case) -> Option<&'static str> {
    let (source, target) = (&case.mine, &case.theirs);
    let fresh = case.lineage == Lineage::BothNew;
    if !source.up_to_date && !fresh {
        return Some("a half that is behind became the source");
    }
    if case.lineage == Lineage::MineNew {
        return Some("an empty half became the source");
    }
    if source.claim == Claim::Ceded {
        return Some("one that has given way became the source");
    }
    if served(target) {
        return Some("one that served alone became the target");
    }
    if source.claim == Claim::Alone
        && target.claim == Claim::Ceded
        && target.up_to_date
        && case.epochs == Ordering::Less
    {
        return Some("the partner has seen a later epoch than the source");
    }
    outside(case)
}

fn outside(case: &Case) -> Option<&'static str> {
    let (source, target) = (&case.mine, &case.theirs);
    let equals = source.claim == Claim::Shared && target.claim == Claim::Shared;
    match case.ruling {
        Ruling::Register { names: None, to_mine: Ordering::Greater, .. } => Some("the register names both"),
        Ruling::Register {
            names: Some(Whose::Theirs), to_mine: Ordering::Equal | Ordering::Greater, ..
        } => Some("the register names the other"),
        Ruling::NoArbiter(_) if equals && case.epochs != Ordering::Equal => {
            Some("equal rights of different epochs")
        }
        Ruling::NoArbiter(_) if equals && target.unbroken && !source.unbroken => {
            Some("one that forgot became the source of one that remembers")
        }
        Ruling::NoArbiter(preferred) if equals && target.unbroken == source.unbroken => {
            (preferred == Whose::Theirs).then_some("not the preferred node")
        }
        Ruling::NoArbiter(_) => None,
        _ if equals => Some("the arbiter has not chosen between equals"),
        _ => None,
    }
}

fn delta(case: &Case) -> Option<&'static str> {
    let given_up = case.theirs.claim == Claim::Ceded && !case.theirs.up_to_date;
    match case.lineage {
        _ if !case.logs_intact => Some("delta by a log that is lost"),
        Lineage::Equal | Lineage::MineNewer => None,
        Lineage::Diverged if given_up => None,
        _ => Some("delta between halves that the log does not join"),
    }
}

fn full(case: &Case) -> Option<&'static str> {
    let known = case.logs_intact && !matches!(case.lineage, Lineage::TheirsNew | Lineage::BothNew);
    let given_up = case.theirs.claim == Claim::Ceded && !case.theirs.up_to_date;
    if known {
        return Some("full resync with a known partner");
    }
    let backwards = case.lineage == Lineage::TheirsNewer || case.lineage == Lineage::Diverged && !given_up;
    backwards.then_some("full resync over data that grew on their own")
}
