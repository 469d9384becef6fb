//! The rejoin decision against its whole input space.
//!
//! - Histories of two nodes are generated breadth first by an independent model (`history`, `step`). Wherever both
//!   nodes are up and connected, the model says which decisions are right (`truth`), from what no node can know: who
//!   holds what was promised, where the halves differ and what is marked. A decision must be right in *every* history
//!   that looks the same to the nodes.
//! - What no history reaches is judged by rules that ask for caution only (`caution`).
//! - Then each rule of the decision is broken in turn, and the table must notice.
#![expect(clippy::disallowed_types, reason = "a hash map of worlds that is never iterated")]

mod caution;
mod change;
mod history;
mod mutants;
mod plans;
mod step;
mod truth;

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use caution::{caution, every_case, is_listed};
use history::{Budget, Doing, Joining, Mode, Replica, Setting, World};
use truth::{DECISIONS, Seen, Verdict, verdict};
use twinsan::arbiter::Register;
use twinsan::ids::{BootId, Epoch, Generation, Members, NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{HalfSummary, Hello, PROTOCOL_VERSION, PeerPhase};
use twinsan::mirror::rejoin::{Authority, Case, decide};

const QUIET: Budget = Budget { writes: 0, kills: 0, cuts: 0, stops: 0, forces: 0, losses: 0 };

/// What is explored. Deep in one respect at a time: the product of all is out of reach.
fn settings() -> Vec<Setting> {
    let mut all = Vec::new();
    for mode in [Mode::Register, Mode::Preferred, Mode::StopBoth] {
        let mut add = |blocks, fresh, budget| all.push(Setting { mode, blocks, fresh, budget });
        add(1, false, Budget { writes: 2, kills: 2, cuts: 1, stops: 1, ..QUIET });
        add(1, false, Budget { writes: 2, kills: 2, cuts: 1, forces: 1, ..QUIET });
        add(1, false, Budget { writes: 1, kills: 2, cuts: 1, losses: 1, ..QUIET });
        add(1, false, Budget { writes: 1, kills: 2, forces: 1, losses: 1, ..QUIET });
        add(2, false, Budget { writes: 2, kills: 1, cuts: 1, ..QUIET });
        add(1, true, Budget { writes: 1, kills: 2, cuts: 1, ..QUIET });
    }
    all
}

/// What was found, and how each world was reached.
struct Explored {
    worlds: HashMap<World, u32>,
    /// From which world, by which of its steps.
    parents: Vec<(u32, u16)>,
    steps: u64,
}

fn explore(setting: &Setting, mut visit: impl FnMut(u32, &World)) -> Explored {
    let first = World::first(setting).canonical();
    let mut found = Explored { worlds: HashMap::new(), parents: vec![(0, 0)], steps: 0 };
    found.worlds.insert(first.clone(), 0);
    visit(0, &first);
    let mut frontier = vec![(0, first)];
    while !frontier.is_empty() {
        let mut next = Vec::new();
        for (id, world) in frontier {
            for (index, (_, world)) in step::steps(&world, setting).into_iter().enumerate() {
                found.steps += 1;
                let new = found.parents.len() as u32;
                if *found.worlds.entry(world.clone()).or_insert(new) == new {
                    found.parents.push((id, index as u16));
                    assert!(world.marks_hold(), "an unmarked difference: {}", trace(setting, &found, new));
                    assert!(world.keeps_promises(), "a promise is broken: {}", trace(setting, &found, new));
                    visit(new, &world);
                    next.push((new, world));
                }
            }
        }
        frontier = next;
    }
    found
}

/// The way to a world, in words.
fn trace(setting: &Setting, found: &Explored, id: u32) -> String {
    let mut indices = Vec::new();
    let mut at = id;
    while at != 0 {
        indices.push(found.parents[at as usize].1);
        at = found.parents[at as usize].0;
    }
    let mut world = World::first(setting).canonical();
    let mut text = format!("{setting:?}\n");
    for index in indices.iter().rev() {
        let (label, next) = step::steps(&world, setting).swap_remove(usize::from(*index));
        text += &format!("  {label}\n");
        world = next;
    }
    format!("{text}{world:#?}")
}

fn hello(world: &World, i: usize) -> Hello {
    let n = &world.node[i];
    Hello {
        version: PROTOCOL_VERSION,
        partnership: Uuid(1),
        node: NodeName::BOTH[i],
        boot: BootId(1),
        phase: phase(n),
        epoch: Epoch(n.epoch.into()),
        members: Members::from_bits(n.members).expect("one or both"),
        up_to_date: n.good,
        complete: false,
        ready: !matches!(n.doing, Doing::Asking | Doing::Won) && n.joining != Joining::Swapping,
        pair_epoch: Epoch(n.pair.into()),
        halves: vec![HalfSummary {
            volume: VolumeId(1),
            sectors: 8,
            generation: Generation(n.generation.into()),
            ancestors: (1..16).filter(|g| n.past >> g & 1 == 1).map(Generation).collect(),
            log_intact: !n.log_lost,
            change: 0,
            of: None,
        }],
        deleted: Vec::new(),
    }
}

fn phase(n: &Replica) -> PeerPhase {
    match n.doing {
        Doing::Down => PeerPhase::Stopped,
        Doing::Starting => PeerPhase::Starting,
        Doing::Paired => PeerPhase::Paired,
        Doing::Asking | Doing::Won => PeerPhase::Deciding,
        Doing::Alone => PeerPhase::Alone,
        Doing::Lost => PeerPhase::Lost,
        Doing::Target => PeerPhase::Target,
        Doing::Joined => PeerPhase::Joined,
    }
}

fn case(world: &World, mode: Mode, seen: Seen) -> Case {
    let (mine, theirs) = (hello(world, 0), hello(world, 1));
    let register = |(epoch, members, by): history::Register| {
        Authority::Register(Register {
            epoch: Epoch(epoch.into()),
            members: Members::from_bits(members).expect("one or both"),
            by: NodeName::BOTH[usize::from(by)],
        })
    };
    let authority = match (mode, seen) {
        (Mode::Register, Seen::Now(Some(now))) => register(now),
        (Mode::Register, Seen::Now(None)) => Authority::Blank,
        (Mode::Register, Seen::Before(before)) => register(before),
        (Mode::Register, Seen::Unknown) => Authority::Unknown,
        (Mode::Preferred | Mode::StopBoth, _) => Authority::NoArbiter { preferred: NodeName::A },
    };
    Case::of(&mine, &theirs, authority, (&mine.halves[0], &theirs.halves[0]))
}

/// What a reachable case may be answered with, and a world that narrowed it.
#[derive(Clone, Copy)]
struct Expected {
    verdict: Verdict,
    /// Setting and world that took away each decision, for the report.
    against: [Option<(usize, u32)>; DECISIONS.len()],
}

struct Table {
    cases: BTreeMap<Case, Expected>,
    worlds: u64,
    steps: u64,
    meetings: u64,
}

fn swapped(verdict: Verdict) -> Verdict {
    let mut other = Verdict(0);
    for decision in DECISIONS {
        other.allow(decision.swapped(), verdict.allows(decision));
    }
    other
}

fn build_table() -> Table {
    let mut table = Table { cases: BTreeMap::new(), worlds: 0, steps: 0, meetings: 0 };
    for (index, setting) in settings().iter().enumerate() {
        let found = explore(setting, |id, world| meet(&mut table, setting, (index, id), world));
        println!("{} histories of {setting:?}", found.worlds.len());
        table.worlds += found.worlds.len() as u64;
        table.steps += found.steps;
    }
    table
}

/// Notes what may be decided in this world, in everything that the nodes may know of the register.
fn meet(table: &mut Table, setting: &Setting, at: (usize, u32), world: &World) {
    if !world.link || !world.node.iter().all(Replica::up) {
        return;
    }
    table.meetings += 1;
    let mut seen = vec![Seen::Now(world.register)];
    if setting.mode == Mode::Register {
        seen.push(Seen::Unknown);
        seen.extend(world.register_before.map(Seen::Before));
    }
    for seen in seen {
        let (case, right) = (case(world, setting.mode, seen), verdict(world, setting.mode, seen));
        for (case, right) in [(case, right), (case.swapped(), swapped(right))] {
            let fresh = Expected { verdict: Verdict::ANY, against: [None; DECISIONS.len()] };
            let expected = table.cases.entry(case).or_insert(fresh);
            for (decision, against) in DECISIONS.iter().zip(&mut expected.against) {
                if !right.allows(*decision) {
                    against.get_or_insert(at);
                }
            }
            expected.verdict = expected.verdict.and(right);
        }
    }
}

fn explain(at: (usize, u32)) -> String {
    let setting = settings()[at.0];
    let found = explore(&setting, |_, _| {});
    trace(&setting, &found, at.1)
}

/// Built once for all tests of this file.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(build_table)
}

#[test]
fn every_history_gets_a_right_answer() {
    let table = table();
    println!("{} histories by {} steps", table.worlds, table.steps);
    println!("{} meetings of two nodes, {} inputs reached", table.meetings, table.cases.len());
    assert!(table.worlds > 500_000 && table.cases.len() > 2_000, "the model explores too little");
    let wrong = |(case, expected): &(&Case, &Expected)| !expected.verdict.allows(decide(case));
    let count = table.cases.iter().filter(wrong).count();
    if let Some((case, expected)) = table.cases.iter().find(wrong) {
        let decision = decide(case);
        println!("{case:?}\n  decided {decision:?}, right is {:?}, for example here:", expected.verdict);
        let bit = DECISIONS.iter().position(|d| *d == decision).expect("all are listed");
        println!("{}", explain(expected.against[bit].expect("something took it away")));
    }
    assert_eq!(count, 0, "wrong answers");
}

/// Each answer that a history makes the only right one is given somewhere, so that a model that allows everything
/// would be noticed.
#[test]
fn the_model_demands_every_answer() {
    for decision in DECISIONS {
        let mut only = Verdict(0);
        only.allow(decision, true);
        let demanded = table().cases.values().filter(|expected| expected.verdict == only).count();
        println!("{decision:?} is the only right answer to {demanded} inputs");
        assert!(demanded > 0, "{decision:?} is never demanded");
    }
}

#[test]
fn every_input_gets_a_cautious_answer() {
    let mut answers = [0u64; DECISIONS.len()];
    let inputs = every_case(|case| {
        let decision = decide(case);
        if let Some(objection) = caution(case, decision) {
            panic!("{case:?}: {decision:?}: {objection}");
        }
        assert_eq!(decide(&case.swapped()), decision.swapped(), "the partner decides otherwise: {case:?}");
        for (known, count) in DECISIONS.iter().zip(&mut answers) {
            *count += u64::from(*known == decision);
        }
        true
    });
    println!("{inputs} inputs, {} of them reached by histories", table().cases.len());
    for (decision, count) in DECISIONS.iter().zip(answers) {
        println!("  {count} times {decision:?}");
    }
    assert_eq!(answers.iter().sum::<u64>(), inputs, "an input has no verdict");
    assert!(table().cases.keys().all(is_listed), "a history left the input space");
}
