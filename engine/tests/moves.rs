//! What block checksums and zeros become when extents leave a disk, on one store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use std::collections::BTreeSet;

use pool_support::open_with;
use store_support::{Bench, Op, V};
use twinsan::ids::DiskId;
use twinsan::io::DiskOp;
use twinsan::planted::{Bug, Planted};
use twinsan::pool::DiskState;
use twinsan::store::Damage;
use twinsan::time::Duration;

const LEAVES: DiskId = DiskId(1);

/// Six extents with three blocks each, on both disks; the store just opened.
fn written() -> Bench {
    written_with(Planted::NONE)
}

fn written_with(planted: Planted) -> Bench {
    let mut bench = Bench::on_two_disks(planted);
    bench.begin(Op::Create);
    for _ in 0..6 {
        bench.begin(Op::WriteNew);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    bench.begin(Op::Idle);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.restart();
    bench
}

fn zeros(bench: &Bench) -> BTreeSet<(u32, u32)> {
    let meta = bench.store().pool().metadata().volume(V).unwrap();
    let runs = meta
        .map
        .zeros_from(0)
        .flat_map(|(extent, bits)| bits.runs().into_iter().map(move |run| (extent, run)));
    runs.flat_map(|(extent, run)| run.map(move |block| (extent, block))).collect()
}

/// Time passes while the disk is being emptied.
fn go_on(bench: &mut Bench) {
    bench.begin(Op::Idle);
    // While something is left behind it never comes to rest.
    let _ = bench.run(&mut |_| Ok(()));
}

fn state(bench: &Bench) -> DiskState {
    bench.store().pool().disks()[usize::from(LEAVES.0)].state
}

#[test]
fn zeros_and_checksums_go_along() {
    let mut bench = written();
    let (zeros_before, moving) = (zeros(&bench), bench.store().pool().extents_on(LEAVES));
    assert!(moving > 1 && zeros_before.len() == 6 * (32 - 3));
    bench.store_mut().remove_disk(LEAVES).unwrap();
    go_on(&mut bench);
    assert_eq!(state(&bench), DiskState::Removed);
    assert_eq!((zeros(&bench), bench.unsure()), (zeros_before.clone(), 0));
    // The three blocks of each were compared, and nothing else was read of it.
    assert_eq!(bench.store().sum_counters().verified, u64::from(moving) * 3);
    bench.disks.pop();
    bench.restart();
    bench.read_all().unwrap();
    let counters = bench.store().sum_counters();
    assert_eq!((counters.verified, counters.bad, zeros(&bench)), (18, 0, zeros_before));
}

/// What a host clears is cleared, though its extent moves before that is written back: an extent of zeros is free then,
/// and blocks of zeros are remembered.
#[test]
fn what_is_cleared_before_a_move_is_given_back_after_it() {
    let mut bench = written();
    bench.destage_age = Duration::from_secs(20);
    bench.restart();
    let leaving: Vec<u64> = (0..6).filter(|extent| bench.place(extent * 32 + 20).0 == LEAVES).collect();
    let (all, some) = (leaving[0], leaving[1]);
    bench.zero(all * 32, 32);
    bench.zero(some * 32 + 3, 1);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    let mut moved = false;
    bench.begin(Op::Idle);
    bench
        .run(&mut |bench| {
            let meta = bench.store().pool().metadata().volume(V).unwrap();
            moved |= meta.map.get(all as u32).is_some_and(|slot| slot.disk != LEAVES);
            Ok(())
        })
        .unwrap();
    assert!(moved, "it was written back before it was moved");
    let meta = bench.store().pool().metadata().volume(V).unwrap();
    assert_eq!(
        (state(&bench), meta.map.contains(all as u32), meta.map.len()),
        (DiskState::Removed, false, 5)
    );
    assert!(zeros(&bench).contains(&(some as u32, 3)));
    assert_eq!(bench.store().unstable_blocks(), 0);
    bench.disks.pop();
    bench.restart();
    bench.read_all().unwrap();
}

/// An extent of many pieces is read and written a few at a time. Most of its requests in flight at each disk.
#[test]
fn a_move_has_few_requests_in_flight() {
    let mut bench = written();
    let extent = (0..6).find(|extent| bench.place(extent * 32 + 20).0 == LEAVES).unwrap();
    (0..16).for_each(|n| bench.write_some(extent * 32 + n * 2));
    go_on(&mut bench);
    bench.restart();
    for other in (0..6).filter(|other| *other != extent) {
        bench.zero(other * 32, 32);
    }
    go_on(&mut bench);
    assert_eq!(bench.store().pool().extents_on(LEAVES), 1);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    let (mut reads, mut writes) = (0, 0);
    bench.begin(Op::Idle);
    let from = bench.place(extent * 32).1;
    bench
        .run(&mut |bench| {
            let at_once = bench.in_flight();
            let of = |disk, kind: fn(&DiskOp) -> bool| {
                at_once.clone().filter(move |request| request.disk == disk && kind(&request.op)).count()
            };
            let data = |op: &DiskOp| matches!(op, DiskOp::Read { .. });
            reads = reads.max(of(LEAVES, data));
            writes =
                writes.max(of(DiskId(0), |op| matches!(op, DiskOp::Write { data, .. } if data.len() == 1)));
            Ok(())
        })
        .unwrap();
    assert_ne!(bench.place(extent * 32), (LEAVES, from));
    assert!((4..=5).contains(&reads) && (4..=6).contains(&writes), "{reads} {writes}");
    bench.read_all().unwrap();
}

/// A byte of a block that is to leave is not what was written; which block that is.
fn rotten(bench: &mut Bench) -> u64 {
    let rotten = (0..6).map(|extent| extent * 32 + 20).find(|block| bench.place(*block).0 == LEAVES).unwrap();
    let (_, offset) = bench.place(rotten);
    let byte = bench.disks[1].block(offset)[0] ^ 4;
    let mut sector = bench.disks[1].block(offset)[..512].to_vec();
    sector[0] = byte;
    let sector: [u8; 512] = sector.try_into().unwrap();
    bench.disks[1].media.insert(offset / 512, sector.into());
    rotten
}

#[test]
fn rot_that_is_moved_uncompared_is_found() {
    for (planted, found) in [(Planted::NONE, false), (Planted::only(Bug::MovedUncompared), true)] {
        let mut bench = written_with(planted);
        let rotten = rotten(&mut bench);
        bench.store_mut().remove_disk(LEAVES).unwrap();
        go_on(&mut bench);
        assert_eq!(bench.read_one(rotten).is_ok(), found, "it has a checksum that matches");
    }
}

#[test]
fn a_move_makes_no_rotten_block_good() {
    let mut bench = written();
    let rotten = rotten(&mut bench);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    go_on(&mut bench);
    assert_eq!((state(&bench), bench.store().pool().extents_on(LEAVES)), (DiskState::Leaving, 1));
    let told: Vec<u64> = bench.store().unmovable(LEAVES).map(|at| at.block).collect();
    assert_eq!(told, [rotten]);
    assert_eq!(bench.read_one(rotten).err(), Some(Damage::Rotten));
    assert_eq!(bench.store_mut().poll_in_the_way(), Some((V, rotten)), "the partner can be asked for it");
    // Once it is overwritten, the extent goes too.
    bench.write_some(rotten);
    go_on(&mut bench);
    assert_eq!(state(&bench), DiskState::Removed);
    bench.disks.pop();
    bench.restart();
    bench.read_all().unwrap();
    assert_eq!((bench.store().sum_counters().bad, bench.unsure()), (0, 0));
}

#[test]
fn what_is_in_doubt_waits_for_the_partner() {
    let mut bench = written();
    // The power fails while a block that is to leave is overwritten: its line is unsure.
    let block = (0..6).map(|extent| extent * 32 + 20).find(|block| bench.place(*block).0 == LEAVES).unwrap();
    bench.write_some(block);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.cut_power(|_| true);
    bench.restart();
    assert!(bench.in_doubt() > 0);
    bench.store_mut().ask_in_doubt(true);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    go_on(&mut bench);
    assert_eq!((state(&bench), bench.store().pool().extents_on(LEAVES)), (DiskState::Leaving, 1));
    assert_eq!(bench.store().unmovable(LEAVES).count(), 0, "it is not damaged");
    bench.store_mut().ask_in_doubt(false);
    go_on(&mut bench);
    assert_eq!((state(&bench), bench.in_doubt(), bench.unsure()), (DiskState::Removed, 0, 0));
    bench.disks.pop();
    bench.restart();
    bench.read_all().unwrap();
}

/// In the moment in which a disk that leaves is no longer shown, it is taken away and the power fails.
fn opens_without_what_is_not_shown(planted: Planted) -> bool {
    let mut bench = written_with(planted);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    bench.begin(Op::Idle);
    let stopped = bench.run(&mut |bench| {
        let shown = state(bench) != DiskState::Removed || bench.store().pool().departing().next().is_some();
        if shown { Ok(()) } else { Err("it is gone".into()) }
    });
    assert_eq!(stopped, Err("it is gone".into()));
    bench.cut_power(|_| false);
    bench.disks.pop();
    open_with(&mut bench.disks, Planted::NONE).is_ok()
}

#[test]
fn a_disk_is_shown_until_the_pool_opens_without_it() {
    assert!(opens_without_what_is_not_shown(Planted::NONE));
    assert!(
        !opens_without_what_is_not_shown(Planted::only(Bug::DepartingDiskHidden)),
        "the bug was not found"
    );
}

/// A disk takes the place of one that has left: its checksums are its own.
#[test]
fn the_next_disk_in_a_place_begins_anew() {
    let mut bench = written();
    bench.store_mut().remove_disk(LEAVES).unwrap();
    go_on(&mut bench);
    bench.add_disk(2);
    go_on(&mut bench);
    assert_eq!(state(&bench), DiskState::InUse);
    assert!(bench.store().pool().sum_area(LEAVES).is_some());
    for _ in 0..6 {
        bench.begin(Op::Unmap);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    for extent in 0..6 {
        bench.write_some(extent * 32 + 9);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    go_on(&mut bench);
    assert!(bench.store().pool().extents_on(LEAVES) > 0);
    bench.disks.remove(1);
    bench.restart();
    bench.read_all().unwrap();
    let counters = bench.store().sum_counters();
    assert!(counters.verified > 0 && counters.bad == 0 && counters.lines_lost == 0);
}
