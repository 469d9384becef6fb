//! The offline comparison of all data with their checksums: what is damaged is named, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use std::collections::BTreeSet;

use pool_support::{Disk, open};
use store_support::{Bench, Op, V};
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::SumArea;
use twinsan::store::{Damage, DataCheck, DataReport, Defect};

fn do_all(bench: &mut Bench, ops: &[Op]) {
    for op in ops {
        bench.begin(*op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
}

/// One volume with two extents, in each of them blocks 3, 4 and 20 written; everything settled.
fn settled(planted: Planted) -> Bench {
    let mut bench = Bench::new(planted);
    do_all(&mut bench, &[Op::Create, Op::WriteNew, Op::WriteNew, Op::Idle]);
    bench
}

/// Checks the pool on these disks, `depth` reads at a time; reads that touch one of `unreadable` fail.
fn check(disks: &[Disk], depth: usize, unreadable: &BTreeSet<u64>) -> DataReport {
    let mut disks = disks.to_vec();
    let (pool, _) = open(&mut disks).unwrap();
    let mut check = DataCheck::new(&pool);
    let mut in_flight = Vec::new();
    while !check.is_over() {
        while in_flight.len() < depth {
            let Some(io) = check.poll_io() else { break };
            in_flight.push(io);
        }
        let Some(io) = in_flight.pop() else { break };
        let DiskOp::Read { offset, blocks } = io.op else { panic!("a check only reads") };
        assert!(blocks <= 256, "{blocks} blocks at once");
        let fails = unreadable.range(offset..offset + u64::from(blocks) * 4096).next().is_some();
        let read = disks[usize::from(io.disk.0)].submit(&io.op);
        check.io_done(io.token, if fails { Err(DiskError::Unreadable) } else { read });
    }
    assert!(check.is_over() && in_flight.is_empty(), "it ends");
    assert_eq!(check.bytes_done(), check.bytes_total());
    let report = check.report().clone();
    let compared = report.good + report.in_doubt + report.bad + report.unjudged + report.without_sums;
    assert_eq!(compared * 4096, check.bytes_total(), "each block counts once: {report:?}");
    report
}

fn check_now(bench: &Bench) -> DataReport {
    let reports = [1, 4].map(|depth| check(&bench.disks, depth, &BTreeSet::new()));
    assert_eq!(reports[0], reports[1]);
    reports[0].clone()
}

fn area(bench: &Bench) -> SumArea {
    bench.store().pool().sum_area(DiskId(0)).unwrap()
}

fn rotten(bench: &Bench, block: u64) -> Defect {
    let (disk, offset) = bench.place(block);
    Defect::Block { disk, offset, volume: V, block, damage: Damage::Rotten }
}

#[test]
fn what_is_sound_is_called_so() {
    let report = check_now(&settled(Planted::NONE));
    assert!(report.is_clean());
    assert_eq!((report.good, report.zeros, report.in_doubt), (6, 58, 0));
}

#[test]
fn a_flipped_bit_names_its_block() {
    let mut bench = settled(Planted::NONE);
    let at = bench.place(35).1;
    bench.disks[0].rot(at + 600);
    let report = check_now(&bench);
    assert_eq!((report.good, report.bad, &report.defects[..]), (5, 1, &[rotten(&bench, 35)][..]));
    let text = report.defects[0].to_string();
    assert_eq!(text, format!("byte {at}: block 35 of volume 1: it is not what was written there"));
}

#[test]
fn a_flipped_bit_of_a_checksum_names_its_line() {
    let mut bench = settled(Planted::NONE);
    let area = area(&bench);
    let (line, _) = area.place(bench.place(20).1);
    let offset = area.offset + line * 68;
    bench.disks[0].rot(offset + 5);
    let report = check_now(&bench);
    let data_offset = area.data_offset + line * (64 << 10);
    assert_eq!(report.defects, [Defect::Line { disk: DiskId(0), offset, data_offset }]);
    assert_eq!((report.good, report.bad, report.unjudged, report.bad_lines), (5, 0, 1, 1));
}

#[test]
fn a_misdirected_write_is_named_at_both_places() {
    let mut bench = settled(Planted::NONE);
    let (from, to) = (bench.place(3).1, bench.place(35).1);
    let landed = bench.disks[0].block(from);
    bench.disks[0].put(to, &landed);
    bench.disks[0].put(from, &[0; 4096]);
    let report = check_now(&bench);
    assert_eq!(report.defects, [3, 35].map(|block| rotten(&bench, block)));
}

#[test]
fn what_cannot_be_read_is_named_alone() {
    let bench = settled(Planted::NONE);
    let (disk, offset) = bench.place(4);
    let report = check(&bench.disks, 4, &BTreeSet::from([offset]));
    let damage = Damage::Unreadable;
    assert_eq!(report.defects, [Defect::Block { disk, offset, volume: V, block: 4, damage }]);
    assert_eq!(report.good, 5);
    // A page of checksums: the blocks of all its lines are left out.
    let report = check(&bench.disks, 4, &BTreeSet::from([area(&bench).offset]));
    assert_eq!((report.good, report.bad, report.unjudged, report.bad_lines), (0, 0, 6, 4));
}

/// The first sector of each block arrives, the last does not.
fn torn(bench: &mut Bench) {
    bench.begin(Op::OverwriteWide);
    while bench.disks[0].unflushed.is_empty() || bench.unsure() == 0 {
        assert!(bench.step(&mut |_| Ok(())).unwrap(), "data are written");
    }
    bench.run(&mut |_| Ok(())).unwrap();
    bench.begin(Op::Overwrite);
    assert!(bench.step(&mut |_| Ok(())).unwrap());
    bench.cut_power(|sector| sector % 8 != 7);
}

#[test]
fn what_a_crash_puts_in_doubt_is_no_damage() {
    let mut bench = settled(Planted::NONE);
    torn(&mut bench);
    let report = check_now(&bench);
    assert!(report.is_clean(), "{report:?}");
    assert!(report.in_doubt > 0 && report.in_doubt_unlike > 0, "{report:?}");
    // The node that comes back settles it.
    bench.restart();
    bench.read_all().unwrap();
    do_all(&mut bench, &[Op::Idle]);
    let report = check_now(&bench);
    assert_eq!((report.in_doubt, report.bad, report.good > 0), (0, 0, true));
}

/// A block in doubt that is copied to a place of its own, away from a clone, is in doubt there too, also after one more crash.
#[test]
fn doubt_that_goes_along_is_no_damage() {
    let mut bench = settled(Planted::NONE);
    torn(&mut bench);
    bench.restart();
    bench.store_mut().ask_in_doubt(true);
    bench.store_mut().clone_volume(VolumeId(7), V, Uuid(7), (true, true));
    let (before, unsure) = (bench.store().pool().shared_extents(), bench.unsure());
    do_all(&mut bench, &[Op::Overwrite]);
    assert_eq!(bench.store().pool().shared_extents(), before - 1);
    assert!(bench.unsure() > unsure, "the new place is in doubt too: {}", bench.unsure());
    bench.cut_power(|_| true);
    let report = check_now(&bench);
    assert!(report.is_clean() && report.in_doubt > 0, "{report:?}");
    bench.restart();
    do_all(&mut bench, &[Op::Idle]);
    bench.read_all().unwrap();
    let report = check_now(&bench);
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn pools_without_checksums_say_so() {
    let mut bench = Bench::without_sums();
    do_all(&mut bench, &[Op::Create, Op::WriteNew]);
    let report = check_now(&bench);
    assert_eq!((report.without_sums, report.good, report.is_clean()), (32, 0, true));
}

#[test]
fn large_pools_are_read_in_long_runs() {
    let mut bench = Bench::large();
    do_all(&mut bench, &[Op::Create]);
    // Every second block of one extent, and one block in each of 400 others: more than one batch of checksums.
    (0..128).for_each(|n| bench.write_some(n * 2));
    do_all(&mut bench, &[Op::Idle]);
    for extent in 1..400 {
        bench.write_some(extent * 256 + extent % 256);
        if extent % 50 == 0 {
            do_all(&mut bench, &[Op::Idle]);
        }
    }
    do_all(&mut bench, &[Op::Idle]);
    let at = bench.place(399 * 256 + 143).1;
    bench.disks[0].rot(at);
    let report = check_now(&bench);
    assert_eq!((report.good, report.defects.len()), (128 + 398, 1), "{report:?}");
    let mut disks = bench.disks.clone();
    let (pool, _) = open(&mut disks).unwrap();
    let mut check = DataCheck::new(&pool);
    let mut reads = 0;
    while let Some(io) = check.poll_io() {
        reads += 1;
        let read = disks[usize::from(io.disk.0)].submit(&io.op);
        check.io_done(io.token, read);
    }
    assert!(reads <= 400 + 2, "{reads} reads");
}

#[test]
fn a_store_that_leaves_the_address_out_is_found() {
    let report = check_now(&settled(Planted::only(Bug::BlockChecksumWithoutAddress)));
    assert_eq!((report.good, report.bad), (0, 6));
    let report = check_now(&settled(Planted::only(Bug::MappedBeforeSums)));
    assert!(report.is_clean(), "without a crash nothing is missing");
}
