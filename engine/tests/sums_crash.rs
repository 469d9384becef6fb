//! Exhaustive crashes of the store with its block checksums: workloads of up to two operations (`TWINSAN_CRASH_OPS`) from several
//! beginnings, the power cut at every moment with every interesting subset of unflushed sectors, every request failing
//! once. After each, every block can be read, with a content that it may have: a checksum that was lost or came too
//! early never makes good data look bad.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use std::collections::BTreeSet;

use pool_support::crash::{choices, durable_hash, left, loose, state_hash, workloads};
use store_support::{Bench, Op, Order};
use twinsan::planted::{Bug, Planted};

/// Where a workload begins.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    /// Two extents of one volume, all checksums on disk.
    Settled,
    /// The same, overwritten since: their lines are unsure.
    Unsure,
    /// After a crash with lines unsure and the data torn: their blocks are in doubt.
    InDoubt,
    /// Four extents on two disks, all checksums on disk.
    TwoDisks,
    /// With a snapshot: one extent of two is shared, lines of it are unsure.
    Snapshot,
}

const BEGINNINGS: [Beginning; 4] =
    [Beginning::Settled, Beginning::Unsure, Beginning::InDoubt, Beginning::Snapshot];

fn beginning(which: Beginning, planted: Planted) -> Bench {
    let two = matches!(which, Beginning::TwoDisks);
    let mut bench = if two { Bench::on_two_disks(planted) } else { Bench::new(planted) };
    let more: &[Op] = if two { &[Op::WriteNew, Op::WriteNew] } else { &[] };
    for op in [Op::Create, Op::WriteNew, Op::WriteNew].iter().chain(more).chain(&[Op::Idle]) {
        bench.begin(*op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    assert_eq!(bench.unsure(), 0, "what is idle is settled");
    if !matches!(which, Beginning::Settled | Beginning::TwoDisks) {
        bench.begin(Op::OverwriteWide);
        bench.run(&mut |_| Ok(())).unwrap();
        assert_ne!(bench.unsure(), 0);
    }
    if matches!(which, Beginning::Snapshot) {
        for op in [Op::Snapshot, Op::Overwrite] {
            bench.begin(op);
            bench.run(&mut |_| Ok(())).unwrap();
        }
        let shared = bench.store().pool().shared_extents();
        assert_eq!(shared, if planted.has(Bug::SharedExtentOverwritten) { 2 } else { 1 });
    }
    if matches!(which, Beginning::InDoubt) {
        bench.begin(Op::Overwrite);
        assert!(bench.step(&mut |_| Ok(())).unwrap(), "the data is written");
        bench.cut_power(|sector| sector % 3 != 0);
        bench.restart();
        assert_ne!(bench.in_doubt(), 0);
    }
    bench
}

#[derive(Default)]
struct Total {
    states: u64,
    remade: u64,
    again: u64,
    /// Crash states tried, with what was expected of them.
    seen: BTreeSet<(u64, u64)>,
}

/// The power is cut now, in every way; what is left is opened and read, and some of it is crashed once more while its
/// checksums are being made anew.
fn cut_here(bench: &Bench, total: &mut Total, deep: bool) -> Result<(), String> {
    let loose = loose(&bench.disks);
    let (base, expected) = (durable_hash(&bench.disks), bench.fingerprint());
    for (at, choice) in choices(&loose).enumerate() {
        if !total.seen.insert((state_hash(base, &loose, &choice), expected)) {
            continue;
        }
        let named = |what: String| format!("{what} (versions {:?}, torn {:?})", choice.versions, choice.torn);
        let mut after = bench.fork(left(&bench.disks, &loose, &choice));
        after.restart();
        after.read_all().map_err(named)?;
        total.states += 1;
        total.remade += after.store().sum_counters().remade;
        if deep && at % 8 == 3 {
            total.again += 1;
            after.begin(Op::Idle);
            after.run(&mut |bench| cut_here(bench, total, false)).map_err(named)?;
            after.read_all().map_err(named)?;
        }
    }
    Ok(())
}

/// A disk that comes or goes, alone and with every other operation before it and after it.
fn disk_changes() -> Vec<Vec<Op>> {
    let change = |disks: Op| {
        let pairs = Op::ALL.into_iter().flat_map(move |other| [vec![other, disks], vec![disks, other]]);
        [vec![disks]].into_iter().chain(pairs)
    };
    let both = vec![Op::AddDisk, Op::RemoveDisk];
    change(Op::AddDisk).chain(change(Op::RemoveDisk)).chain([both]).collect()
}

fn workloads_from(which: Beginning) -> Vec<Vec<Op>> {
    match which {
        Beginning::TwoDisks => disk_changes(),
        Beginning::Snapshot => workloads(&Op::WITH_SNAPSHOT),
        _ => workloads(&Op::ALL),
    }
}

fn cut_everywhere(which: Beginning, planted: Planted, total: &mut Total) -> Result<(), String> {
    let begin = beginning(which, planted);
    for ops in workloads_from(which) {
        for (at_once, order) in [(true, Order::First), (true, Order::Last), (false, Order::First)] {
            if ops.len() <= 1 && !at_once {
                continue;
            }
            let named = |what: String| format!("{which:?} {ops:?} at once: {at_once}, {order:?}: {what}");
            let mut bench = begin.fork(begin.disks.clone());
            bench.order = order;
            bench.restart();
            for op in &ops {
                bench.begin(*op);
                if !at_once || Some(op) == ops.last() {
                    bench.run(&mut |bench| cut_here(bench, total, true)).map_err(named)?;
                }
            }
            bench.read_all().map_err(named)?;
        }
    }
    Ok(())
}

#[test]
fn no_crash_makes_good_data_look_bad() {
    let mut total = Total::default();
    for which in BEGINNINGS {
        cut_everywhere(which, Planted::NONE, &mut total).unwrap_or_else(|what| panic!("{what}"));
    }
    let Total { states, remade, again, .. } = total;
    println!(
        "{states} crash states, {again} of them crashed again, {remade} checksums made anew: all blocks readable"
    );
    assert!(states > 20_000 && remade > 1000, "{states} states, {remade} remade: too few to mean anything");
}

#[test]
fn no_crash_of_a_move_makes_good_data_look_bad() {
    let mut total = Total::default();
    cut_everywhere(Beginning::TwoDisks, Planted::NONE, &mut total).unwrap_or_else(|what| panic!("{what}"));
    let Total { states, again, .. } = total;
    println!(
        "{states} crash states while disks come and go, {again} of them crashed again: all blocks readable"
    );
    assert!(states > 10_000, "{states} states are too few to mean anything");
}

#[test]
fn every_request_fails_once() {
    let mut failures = 0;
    for which in BEGINNINGS {
        let begin = beginning(which, Planted::NONE);
        for ops in workloads_from(which) {
            for n in 1.. {
                let mut bench = begin.fork(begin.disks.clone());
                bench.restart();
                bench.fail_at = Some(n);
                ops.iter().for_each(|op| bench.begin(*op));
                let named = |what: String| format!("{which:?} {ops:?}, request {n} fails: {what}");
                bench.run(&mut |_| Ok(())).map_err(named).unwrap_or_else(|what| panic!("{what}"));
                if bench.requests < n {
                    break;
                }
                failures += 1;
                for keep in [true, false] {
                    let mut after = bench.fork(bench.disks.clone());
                    after.cut_power(|_| keep);
                    after.restart();
                    after.read_all().map_err(named).unwrap_or_else(|what| panic!("{what}"));
                }
            }
        }
    }
    println!("{failures} failed requests: all blocks readable");
    assert!(failures > 1000);
}

#[test]
fn planted_bugs_are_found() {
    let still = &[Beginning::Settled, Beginning::Unsure][..];
    for (bug, beginnings) in [
        (Bug::SumsTrustedAfterCrash, still),
        (Bug::UnsureNotAwaited, still),
        (Bug::MappedBeforeSums, still),
        (Bug::SharedExtentOverwritten, &[Beginning::Snapshot]),
        (Bug::EvacuatedWithoutFlush, &[Beginning::TwoDisks]),
    ] {
        let mut total = Total::default();
        let found =
            beginnings.iter().find_map(|which| cut_everywhere(*which, Planted::only(bug), &mut total).err());
        match found {
            Some(what) => println!("{bug:?} found after {} states: {what:.200}", total.states),
            None => panic!("{bug:?} was not found in {} states", total.states),
        }
    }
}
