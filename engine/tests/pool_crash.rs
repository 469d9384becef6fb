//! Exhaustive crashes of the pool: all workloads of up to two operations, one after the other and at once, from
//! several beginnings; the power cut at every moment, with every interesting subset of unflushed sectors; every
//! request failing once. Invariants 2, 3, 9, 10 and 14 are checked after each.
//!
//! `TWINSAN_CRASH_OPS=3` tries all workloads of three operations too, which takes hours.

#[path = "support/bugs.rs"]
mod bugs;
mod pool_support;

use bugs::BY_CRASH_STATES;
use pool_support::crash::{PowerCuts, workloads};
use pool_support::formatted;
use pool_support::session::{Op, Order, Session, Witness};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::PoolOptions;

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };

/// Fewest crash states from each beginning.
const STATES_MIN: u64 = 20_000;
const _: () = assert!(Op::ALL.len() >= 12 && STATES_MIN * Beginning::ALL.len() as u64 >= 50_000);

/// Where a workload begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beginning {
    /// One disk, the log nearly empty.
    Fresh,
    /// One disk, the log in its second lap and about to want a checkpoint.
    Lapped,
    /// Three disks.
    Spread,
    /// One disk, after a crash that left a torn entry.
    Torn,
    /// One disk with two copies of the metadata.
    Copied,
    /// Three disks, the copies on two of them.
    Apart,
    /// One disk with two copies, and with a log as large as such pools get unasked: it grows too.
    LogGrows,
    /// Three disks, with a volume, a snapshot of it, and extents that they share and do not share.
    Cloned,
}

impl Beginning {
    const ALL: [Beginning; 6] = [
        Beginning::Fresh,
        Beginning::Lapped,
        Beginning::Spread,
        Beginning::Torn,
        Beginning::Copied,
        Beginning::Apart,
    ];
}

/// What moves the metadata.
const MOVING: [Op; 2] = [Op::RemoveHome, Op::AddLarge];

fn beginning(which: Beginning, planted: Planted) -> Session<'static> {
    let spread: &[u64] = &[1 << 20, 2 << 20, 1 << 20];
    let bytes = match which {
        Beginning::Spread | Beginning::Cloned => spread,
        Beginning::Copied => &[8 << 20],
        Beginning::Apart => &[1 << 20, 9 << 20, 8 << 20],
        Beginning::LogGrows => &[16 << 20],
        Beginning::Fresh | Beginning::Lapped | Beginning::Torn => &[2 << 20],
    };
    let log_bytes = if which == Beginning::LogGrows { 0 } else { OPTIONS.log_bytes };
    let options = PoolOptions { log_bytes, ..OPTIONS };
    let mut session = Session::new(formatted(&options, bytes), planted);
    session.restart().expect("a fresh pool opens");
    let run = |session: &mut Session<'_>, ops: &[Op]| {
        for op in ops {
            session.begin(*op).expect("the beginning is sound");
            session.run().expect("the beginning is sound");
        }
    };
    run(&mut session, &[Op::VolumeCreate, Op::WriteNew, Op::VolumeCreate, Op::WriteNew, Op::Hot, Op::Log]);
    match which {
        Beginning::Fresh | Beginning::LogGrows => run(&mut session, &[Op::Checkpoint]),
        Beginning::Spread | Beginning::Apart => run(&mut session, &[Op::WriteNew]),
        Beginning::Cloned => {
            run(&mut session, &[Op::WriteNew, Op::WriteNew, Op::VolumeDelete, Op::Snapshot, Op::WriteShared]);
        }
        Beginning::Lapped | Beginning::Copied => run(&mut session, &[Op::Node; 10]),
        Beginning::Torn => {
            session.begin(Op::Burst).expect("the beginning is sound");
            for _ in 0..1 {
                session.step().expect("the beginning is sound");
            }
            // The first entry is on its way: half of it arrives.
            session.cut_power(|sector| sector % 3 != 0);
        }
    }
    session
}

#[derive(Default)]
struct Total {
    workloads: u64,
    states: u64,
    again: u64,
    failures: u64,
}

/// One workload: the operations one after the other, or at once.
fn drive(session: &mut Session<'_>, ops: &[Op], at_once: bool) -> Result<(), String> {
    session.restart()?;
    for op in ops {
        session.begin(*op)?;
        if !at_once {
            session.run()?;
        }
    }
    session.run()
}

/// What moves the metadata, alone and with each other operation that asks something of the log, the disks or the node.
fn moves() -> Vec<Vec<Op>> {
    let beside = [Op::Node, Op::WriteNew, Op::Unmap, Op::Burst, Op::Checkpoint, Op::Restart, Op::RestartLate];
    let disks = [Op::AddDisk, Op::RemoveDisk];
    let mut all = MOVING.map(|op| vec![op]).to_vec();
    for moving in MOVING {
        all.extend(beside.into_iter().chain(disks).chain(MOVING).map(|op| vec![moving, op]));
    }
    all
}

fn modes(ops: &[Op]) -> &'static [(bool, Order)] {
    let all = &[(true, Order::First), (true, Order::Last), (false, Order::First)];
    if ops.len() < 2 { &all[..2] } else { all }
}

fn cut_everywhere(
    which: Beginning,
    workloads: Vec<Vec<Op>>,
    planted: Planted,
    total: &mut Total,
) -> Result<(), String> {
    let begin = beginning(which, planted);
    for ops in workloads {
        for (at_once, order) in modes(&ops) {
            let named = |what: String| format!("{which:?} {ops:?} at once: {at_once}, {order:?}: {what}");
            let mut cuts = PowerCuts::new(planted);
            let moves = ops.iter().any(|op| MOVING.contains(op));
            cuts.deep_one_in = if moves { 1 } else { 8 };
            let mut session = begin.fork(Some(&mut cuts as &mut dyn Witness));
            session.order = *order;
            let outcome = drive(&mut session, &ops, *at_once).and_then(|()| session.check_rest());
            outcome.map_err(named)?;
            total.workloads += 1;
            total.states += cuts.states;
            total.again += cuts.again;
        }
    }
    Ok(())
}

/// The first, second, third, … request fails; then the power is cut; then nothing is lost that was promised.
fn fail_everywhere(
    which: Beginning,
    workloads: Vec<Vec<Op>>,
    planted: Planted,
    total: &mut Total,
) -> Result<(), String> {
    let begin = beginning(which, planted);
    for ops in workloads {
        for order in [Order::First, Order::Last] {
            for n in 1.. {
                let mut session = begin.fork(None);
                session.order = order;
                session.fail_at = Some(n);
                let named = |what: String| format!("{which:?} {ops:?} {order:?}, request {n} fails: {what}");
                drive(&mut session, &ops, true).map_err(named)?;
                if session.requests < n {
                    break;
                }
                total.failures += 1;
                // A restart, in the workload or while opening, gives a pool a new life; otherwise it has ended.
                let restarted = ops.iter().any(|op| [Op::Restart, Op::RestartLate].contains(op))
                    || session.pool().is_none();
                if !session.failed()
                    && !restarted
                    && !session.refused
                    && !planted.has(Bug::FailedFlushTrusted)
                {
                    return Err(named("the pool goes on".into()));
                }
                for keep in [true, false] {
                    let mut session = session.fork(None);
                    session.cut_power(|_| keep);
                    session.restart().map_err(named)?;
                    session.check_rest().map_err(named)?;
                }
            }
        }
    }
    Ok(())
}

fn exhaust(which: Beginning) {
    exhaust_with(which, workloads(&Op::ALL), STATES_MIN);
}

fn exhaust_with(which: Beginning, workloads: Vec<Vec<Op>>, least: u64) {
    let mut total = Total::default();
    cut_everywhere(which, workloads, Planted::NONE, &mut total).unwrap_or_else(|what| panic!("{what}"));
    println!(
        "{which:?}: {} kinds of operations, {} workloads, {} crash states, {} crashes of the recovery: nothing lost",
        Op::ALL.len(),
        total.workloads,
        total.states,
        total.again
    );
    assert!(total.states > least, "{} states are too few to mean anything", total.states);
}

#[test]
fn power_cuts_while_the_metadata_move() {
    exhaust_with(Beginning::Apart, moves(), 2_000);
}

#[test]
fn power_cuts_while_the_metadata_grow_on_one_disk() {
    exhaust_with(Beginning::Copied, moves(), 2_000);
}

#[test]
fn power_cuts_while_the_log_grows_too() {
    // Reading a log of that size takes its time.
    let beside = [Op::Burst, Op::RestartLate].map(|op| vec![Op::AddLarge, op]);
    exhaust_with(Beginning::LogGrows, beside.to_vec(), 500);
}

#[test]
fn power_cuts_while_the_only_copy_of_the_metadata_moves() {
    exhaust_with(Beginning::Fresh, moves(), 2_000);
}

#[test]
fn power_cuts_on_a_fresh_pool() {
    exhaust(Beginning::Fresh);
}

#[test]
fn power_cuts_on_a_log_that_wraps() {
    exhaust(Beginning::Lapped);
}

#[test]
fn power_cuts_on_three_disks() {
    exhaust(Beginning::Spread);
}

#[test]
fn power_cuts_after_a_torn_entry() {
    exhaust(Beginning::Torn);
}

#[test]
fn power_cuts_with_two_copies_of_the_metadata() {
    exhaust(Beginning::Copied);
}

#[test]
fn power_cuts_with_the_copies_on_two_disks() {
    exhaust(Beginning::Apart);
}

#[test]
fn power_cuts_with_a_snapshot() {
    exhaust_with(Beginning::Cloned, workloads(&Op::CLONING), STATES_MIN);
}

#[test]
fn every_request_fails_once() {
    let mut total = Total::default();
    for which in [Beginning::Fresh, Beginning::Lapped, Beginning::Spread, Beginning::Apart] {
        fail_everywhere(which, workloads(&Op::ALL), Planted::NONE, &mut total)
            .unwrap_or_else(|what| panic!("{what}"));
    }
    fail_everywhere(Beginning::Cloned, workloads(&Op::CLONING), Planted::NONE, &mut total)
        .unwrap_or_else(|what| panic!("{what}"));
    for which in [Beginning::Fresh, Beginning::Apart] {
        fail_everywhere(which, moves(), Planted::NONE, &mut total).unwrap_or_else(|what| panic!("{what}"));
    }
    println!("{} failed requests: nothing lost", total.failures);
}

#[test]
fn planted_bugs_are_found() {
    for &bug in BY_CRASH_STATES {
        let mut total = Total::default();
        let planted = Planted::only(bug);
        let mut beginnings = vec![Beginning::Fresh, Beginning::Lapped];
        if bug == Bug::PartingNotAwaited {
            beginnings = vec![Beginning::Cloned];
        }
        if bug == Bug::EvacuatedWithoutFlush {
            // It takes a disk that can leave.
            beginnings = vec![Beginning::Spread];
        }
        let moving = [Bug::HomeNamedBeforeWhole, Bug::NewHomeBelievedEarly].contains(&bug);
        if moving {
            beginnings = vec![Beginning::Fresh, Beginning::Apart];
        }
        let found = beginnings.iter().find_map(|which| {
            let workloads = match bug {
                _ if moving => moves(),
                Bug::PartingNotAwaited => workloads(&Op::CLONING),
                _ => workloads(&Op::ALL),
            };
            if bug == Bug::FailedFlushTrusted {
                return fail_everywhere(*which, workloads, planted, &mut total).err();
            }
            cut_everywhere(*which, workloads, planted, &mut total).err()
        });
        match found {
            Some(what) => {
                println!("{bug:?} found after {} states: {what:.200}", total.states + total.failures)
            }
            None => panic!("{bug:?} was not found in {} states", total.states),
        }
    }
}
