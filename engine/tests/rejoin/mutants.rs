//! The exam of the table: each rule of the decision is broken in turn, and each thing that it asks is forgotten in turn.
//! All of these must be noticed, by a history or by caution.

use std::cmp::Ordering;

use twinsan::mirror::message::PeerPhase;
use twinsan::mirror::rejoin::lineage::Lineage;
use twinsan::mirror::rejoin::{
    AMOUNTS, AmountRule, Case, Claim, Decision, Outcome, RULES, Role, Rule, Ruling, Standing, Whose, decide,
    decide_by,
};

use crate::caution::{caution, every_case};
use crate::table;

type Decider = Box<dyn Fn(&Case) -> Decision>;

/// Who noticed a mistake.
#[derive(PartialEq)]
enum Noticed {
    History,
    Caution,
    Nobody,
}

fn examine(decider: &Decider) -> Noticed {
    if table().cases.iter().any(|(case, expected)| !expected.verdict.allows(decider(case))) {
        return Noticed::History;
    }
    let mut objection = None;
    every_case(|case| {
        objection = caution(case, decider(case));
        objection.is_none()
    });
    if objection.is_some() { Noticed::Caution } else { Noticed::Nobody }
}

fn mutant(rules: Vec<Rule>, amounts: Vec<AmountRule>) -> Decider {
    Box::new(move |case| decide_by(&rules, &amounts, case))
}

/// The decision with one rule left out, or leading elsewhere.
fn broken_rules() -> Vec<(String, Decider)> {
    let mut all = Vec::new();
    let elsewhere = [
        Outcome::Is(Decision::Retry),
        Outcome::Is(Decision::Nothing),
        Outcome::Is(Decision::SplitBrain),
        Outcome::Is(Decision::Unrelated),
        Outcome::Stands,
    ];
    for (place, rule) in RULES.iter().enumerate() {
        let mut without = RULES.to_vec();
        without.remove(place);
        all.push((format!("without the rule {:?}", rule.name), mutant(without, AMOUNTS.to_vec())));
        for outcome in elsewhere.into_iter().filter(|outcome| *outcome != rule.outcome) {
            let mut other = RULES.to_vec();
            other[place].outcome = outcome;
            all.push((
                format!("the rule {:?} leads to {outcome:?}", rule.name),
                mutant(other, AMOUNTS.to_vec()),
            ));
        }
    }
    all
}

/// The same for the amounts.
fn broken_amounts() -> Vec<(String, Decider)> {
    let mut all = Vec::new();
    let elsewhere = [
        Decision::Retry,
        Decision::Nothing,
        Decision::SplitBrain,
        Decision::Delta(Role::Source),
        Decision::Full(Role::Source),
        Decision::Delta(Role::Target),
        Decision::Full(Role::Target),
    ];
    for (place, rule) in AMOUNTS.iter().enumerate() {
        let mut without = AMOUNTS.to_vec();
        without.remove(place);
        all.push((format!("without the amount {:?}", rule.name), mutant(RULES.to_vec(), without)));
        for decision in elsewhere.into_iter().filter(|decision| *decision != rule.decision) {
            let mut other = AMOUNTS.to_vec();
            other[place].decision = decision;
            all.push((
                format!("the amount {:?} leads to {decision:?}", rule.name),
                mutant(RULES.to_vec(), other),
            ));
        }
    }
    all
}

/// The decision about what it believes to see.
fn forgetful() -> Vec<(String, Decider)> {
    let mut all: Vec<(String, Decider)> = Vec::new();
    let mut nodes = |name: &str, change: fn(&mut Standing)| {
        let decider = move |case: &Case| {
            let mut case = *case;
            change(&mut case.mine);
            change(&mut case.theirs);
            decide(&case)
        };
        all.push((name.into(), Box::new(decider)));
    };
    nodes("an open question is overlooked", |n| n.ready = true);
    nodes("deciding is taken for lost", |n| {
        if n.phase == PeerPhase::Deciding {
            n.phase = PeerPhase::Lost
        }
    });
    nodes("stopped is taken for lost", |n| {
        if n.phase == PeerPhase::Stopped {
            n.phase = PeerPhase::Lost
        }
    });
    nodes("half joined is taken for lost", |n| {
        if n.phase == PeerPhase::Alone {
            n.phase = PeerPhase::Lost
        }
    });
    nodes("lost is taken for paired", |n| {
        if n.phase == PeerPhase::Lost {
            n.phase = PeerPhase::Paired
        }
    });
    nodes("joined is taken for paired", |n| {
        if n.phase == PeerPhase::Joined {
            n.phase = PeerPhase::Paired
        }
    });
    nodes("a half that is behind is taken for good", |n| n.up_to_date = true);
    nodes("a new life is taken for the old one", |n| n.unbroken = true);
    nodes("an old life is taken for a new one", |n| n.unbroken = false);
    nodes("alone is taken for a pair", |n| {
        if n.claim == Claim::Alone {
            n.claim = Claim::Shared
        }
    });
    nodes("given way is taken for a pair", |n| {
        if n.claim == Claim::Ceded {
            n.claim = Claim::Shared
        }
    });
    let mut worlds = |name: &str, change: fn(&mut Case)| {
        let decider = move |case: &Case| {
            let mut case = *case;
            change(&mut case);
            decide(&case)
        };
        all.push((name.into(), Box::new(decider)));
    };
    worlds("epochs are not compared", |case| case.epochs = Ordering::Equal);
    worlds("the register is not read", |case| {
        if matches!(case.ruling, Ruling::Register { .. }) {
            case.ruling = Ruling::Unknown;
        }
    });
    worlds("the register's epoch is not compared", |case| {
        if let Ruling::Register { to_mine, to_theirs, .. } = &mut case.ruling {
            (*to_mine, *to_theirs) = (Ordering::Equal, Ordering::Equal);
        }
    });
    worlds("an arbiter out of reach is taken for none", |case| {
        if case.ruling == Ruling::Unknown {
            case.ruling = Ruling::NoArbiter(Whose::Mine);
        }
    });
    worlds("each takes itself for preferred", |case| {
        if let Ruling::NoArbiter(preferred) = &mut case.ruling {
            *preferred = Whose::Mine;
        }
    });
    worlds("a lost log is trusted", |case| case.logs_intact = true);
    worlds("a good log is not trusted", |case| case.logs_intact = false);
    worlds("an empty half is taken for equal", |case| {
        if matches!(case.lineage, Lineage::MineNew | Lineage::TheirsNew) {
            case.lineage = Lineage::Equal;
        }
    });
    worlds("diverged is taken for equal", |case| {
        if case.lineage == Lineage::Diverged {
            case.lineage = Lineage::Equal;
        }
    });
    worlds("unrelated is taken for equal", |case| {
        if case.lineage == Lineage::Unrelated {
            case.lineage = Lineage::Equal;
        }
    });
    worlds("newer is taken for equal", |case| {
        if matches!(case.lineage, Lineage::MineNewer | Lineage::TheirsNewer) {
            case.lineage = Lineage::Equal;
        }
    });
    all
}

/// What a plausible other design would do.
fn other_designs() -> Vec<(String, Decider)> {
    let newer = |case: &Case| match (decide(case), case.lineage) {
        (Decision::Retry, _) => Decision::Retry,
        (_, Lineage::MineNewer) => Decision::Delta(Role::Source),
        (_, Lineage::TheirsNewer) => Decision::Delta(Role::Target),
        (other, _) => other,
    };
    let equal = |case: &Case| match (decide(case), case.lineage) {
        (Decision::Delta(_), Lineage::Equal) => Decision::Nothing,
        (other, _) => other,
    };
    let epoch = |case: &Case| match (decide(case), case.epochs) {
        (Decision::SplitBrain, Ordering::Greater) => Decision::Delta(Role::Source),
        (Decision::SplitBrain, Ordering::Less) => Decision::Delta(Role::Target),
        (other, _) => other,
    };
    let named = |case: &Case| match (decide(case), case.ruling) {
        (Decision::Retry, Ruling::Register { names: Some(Whose::Mine), .. }) => Decision::Delta(Role::Source),
        (Decision::Retry, Ruling::Register { names: Some(Whose::Theirs), .. }) => {
            Decision::Delta(Role::Target)
        }
        (other, _) => other,
    };
    let hasty = |case: &Case| match decide(case) {
        Decision::Delta(role) => Decision::Full(role),
        other => other,
    };
    vec![
        ("the newer generation is the source".into(), Box::new(newer)),
        ("equal generations are equal data".into(), Box::new(equal)),
        ("of two that served alone the later one wins".into(), Box::new(epoch)),
        ("whom the register names is the source".into(), Box::new(named)),
        ("everything is copied always".into(), Box::new(hasty)),
    ]
}

#[test]
fn every_broken_rule_is_noticed() {
    let all = [broken_rules(), broken_amounts(), forgetful(), other_designs()];
    let (mut by_history, mut by_caution, mut unnoticed) = (0, 0, Vec::new());
    for (name, decider) in all.iter().flatten() {
        match examine(decider) {
            Noticed::History => by_history += 1,
            Noticed::Caution => by_caution += 1,
            Noticed::Nobody => unnoticed.push(name),
        }
    }
    println!(
        "{} broken deciders: {by_history} noticed by histories, {by_caution} by caution",
        by_history + by_caution + unnoticed.len()
    );
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:#?}");
}
