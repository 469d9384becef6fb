//! The metadata are kept twice: whatever one place of them is lost, and whenever, nothing is lost. Workloads of one
//! operation (two at once for those that move the second copy) from several beginnings; each block of superblocks, log and
//! checkpoints, and each copy as a whole, damaged at every moment. Invariant 22.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;

use pool_support::rot::{Rot, copies, wipe, wipe_copy};
use pool_support::session::{Op, Session, Witness};
use pool_support::{Disk, formatted, open, settle};
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{OpenError, Opening, PoolOptions, Record};

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
const ONE: &[u64] = &[8 << 20];
const TWO: &[u64] = &[8 << 20, 9 << 20];
const THREE: &[u64] = &[8 << 20, 9 << 20, 1 << 20];

/// A pool with two volumes, and with so many entries more in the log.
fn beginning(bytes: &[u64], entries: usize, planted: Planted) -> Session<'static> {
    let mut session = Session::new(formatted(&OPTIONS, bytes), planted);
    session.restart().unwrap();
    let ops = [Op::VolumeCreate, Op::WriteNew, Op::VolumeCreate, Op::WriteNew, Op::Hot, Op::Log];
    for op in ops.into_iter().chain(core::iter::repeat_n(Op::Node, entries)) {
        session.begin(op).unwrap();
        session.run().unwrap();
    }
    session
}

fn workloads() -> Vec<Vec<Op>> {
    let mut all: Vec<Vec<Op>> = Op::ALL.map(|op| vec![op]).to_vec();
    for moving in [Op::AddDisk, Op::RemoveDisk] {
        all.extend([Op::Node, Op::WriteNew, Op::Burst, Op::Restart].map(|op| vec![moving, op]));
    }
    all
}

fn damage_everywhere(bytes: &[u64], entries: usize, planted: Planted) -> Result<(u64, u64), (u64, String)> {
    let begin = beginning(bytes, entries, planted);
    let (mut states, mut repaired) = (0, 0);
    for ops in workloads() {
        let mut rot = Rot::new(planted);
        let mut session = begin.fork(Some(&mut rot as &mut dyn Witness));
        let outcome = session.restart().and_then(|()| {
            ops.iter().try_for_each(|op| session.begin(*op))?;
            session.run()?;
            session.check_rest()
        });
        drop(session);
        (states, repaired) = (states + rot.states, repaired + rot.repaired);
        outcome.map_err(|what| (states, format!("{bytes:?} {entries} {ops:?}: {what}")))?;
    }
    Ok((states, repaired))
}

fn nothing_is_lost(bytes: &[u64], entries: usize) {
    let (states, repaired) =
        damage_everywhere(bytes, entries, Planted::NONE).unwrap_or_else(|(_, what)| panic!("{what}"));
    println!("{bytes:?}: {states} damaged states, {repaired} repaired: nothing lost");
    assert!(states > 5_000 && repaired > 1_000, "{states} states, {repaired} repaired: too few");
}

#[test]
fn nothing_is_lost_with_both_copies_on_one_disk() {
    nothing_is_lost(ONE, 0);
}

#[test]
fn nothing_is_lost_in_a_log_that_wraps() {
    nothing_is_lost(ONE, 13);
}

#[test]
fn nothing_is_lost_with_the_copies_on_two_disks() {
    nothing_is_lost(TWO, 0);
}

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        (Bug::SecondCopyNotAwaited, TWO, 0),
        (Bug::DamagedCopyPreferred, ONE, 0),
        (Bug::DamagedCopyKept, ONE, 0),
        (Bug::SuperblockWrittenOnce, ONE, 13),
        (Bug::AppendedWhileCopyMoves, TWO, 0),
    ];
    for (bug, bytes, entries) in bugs {
        match damage_everywhere(bytes, entries, Planted::only(bug)) {
            Err((states, what)) => println!("{bug:?} found after {states} states: {what:.200}"),
            Ok((states, _)) => panic!("{bug:?} was not found in {states} states"),
        }
    }
}

#[test]
fn the_second_copy_lies_on_another_disk_if_there_is_one() {
    let where_is = |disks: &[Disk]| copies(disks).iter().map(|copy| copy.disk).collect::<Vec<_>>();
    assert_eq!(where_is(&formatted(&OPTIONS, ONE)), [0, 0]);
    assert_eq!(where_is(&formatted(&OPTIONS, TWO)), [1, 0]);
    assert_eq!(where_is(&formatted(&OPTIONS, THREE)), [1, 0]);
    // An eighth of a disk is too little.
    assert_eq!(where_is(&formatted(&OPTIONS, &[4 << 20])), [0]);
    let one = formatted(&OPTIONS, ONE);
    let [first, second] = &copies(&one)[..] else { panic!("there are two") };
    assert!(second.areas[0].start > 6 << 20 && first.areas[2].end < 2 << 20, "far apart");
}

#[test]
fn the_second_copy_follows_the_disks() {
    let where_is =
        |session: &Session<'_>| copies(&session.disks).iter().map(|copy| copy.disk).collect::<Vec<_>>();
    let mut session = beginning(ONE, 0, Planted::NONE);
    assert_eq!(where_is(&session), [0, 0]);
    for (op, expected) in
        [(Op::AddDisk, [0, 1]), (Op::AddDisk, [0, 1]), (Op::RemoveDisk, [0, 1]), (Op::RemoveDisk, [0, 0])]
    {
        session.begin(op).unwrap();
        session.run().unwrap();
        session.check_rest().unwrap();
        assert_eq!(where_is(&session), expected, "{op:?}");
    }
}

/// A pool whose log has four entries, after the first checkpoint.
fn with_entries(bytes: &[u64]) -> Vec<Disk> {
    let mut disks = formatted(&OPTIONS, bytes);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    let volume = VolumeId(1);
    pool.append(&[Record::VolumeCreate { volume, uuid: Uuid(1), sectors: 4096, mirrored: true }]);
    settle(&mut pool, &mut disks);
    for area in 0..3 {
        pool.append(&[Record::HotAdd { volume, area }]);
        settle(&mut pool, &mut disks);
    }
    disks
}

#[test]
fn a_damaged_copy_is_reported_where_it_is_and_then_needed_no_more() {
    for (at, name) in [(0, "first"), (1, "second")] {
        let mut disks = with_entries(TWO);
        let copy = &copies(&disks)[at];
        let (disk, log) = (copy.disk, copy.areas[0].start);
        disks[disk].rot(log + 4096 + 70);
        disks[disk].rot(log + 3 * 4096 + 70);
        let (mut pool, report) = open(&mut disks).unwrap();
        let places: Vec<(DiskId, u64)> = report.copies.iter().map(|copy| (copy.disk, copy.offset)).collect();
        assert_eq!(places, [(DiskId(disk as u16), log + 4096)], "{name}");
        assert_eq!(report.completed, Some((DiskId(disk as u16), log + 3 * 4096)), "the last may be torn");
        assert_eq!((report.entries, report.torn), (4, None));
        settle(&mut pool, &mut disks);
        let (_, report) = open(&mut disks).unwrap();
        assert_eq!((report.copies.len(), report.completed, report.entries), (0, None, 0));
    }
}

#[test]
fn damage_of_both_copies_is_refused_and_both_places_named() {
    for (entry, what) in [(0, "log"), (2, "log"), (u64::MAX, "checkpoint")] {
        let mut disks = with_entries(TWO);
        let copies = copies(&disks);
        for copy in &copies {
            // The first checkpoint has an odd number.
            let [log, bytes] = [copy.areas[0].start, 32 << 10];
            let area = match copy.areas.get(2) {
                Some(area) => area.start,
                None => log + bytes + (copy.areas[0].end - log - bytes) / 2,
            };
            let offset = if what == "log" { log + entry * 4096 } else { area };
            wipe(&mut disks[copy.disk], offset..offset + 4096);
        }
        match open(&mut disks) {
            Err(OpenError::BothCopies { disk, offset, other, other_offset, what: text }) => {
                assert_eq!([usize::from(disk.0), usize::from(other.0)], [copies[0].disk, copies[1].disk]);
                assert_eq!(offset - copies[0].areas[0].start, other_offset - copies[1].areas[0].start);
                assert!(text.contains(what), "{text}");
            }
            outcome => panic!("{:?}", outcome.map(|(_, report)| report)),
        }
    }
}

#[test]
fn what_cannot_be_read_is_taken_from_the_other_copy() {
    for lost in 0..2 {
        let disks = with_entries(ONE);
        let (expected, _) = open(&mut disks.clone()).unwrap();
        let copy = &copies(&disks)[lost];
        // One sector of the log, or everything.
        for bytes in
            [copy.areas[0].start + 8192..copy.areas[0].start + 8704, copy.areas[0].start..copy.areas[0].end]
        {
            let mut disk = disks[0].clone();
            let mut opening = Opening::new(&[disk.geometry]);
            while let Some(io) = opening.poll_io() {
                let touches = |offset: u64, blocks: u32| {
                    offset < bytes.end && offset + u64::from(blocks) * 4096 > bytes.start
                };
                let result = match io.op {
                    DiskOp::Read { offset, blocks } if touches(offset, blocks) => Err(DiskError::Unreadable),
                    ref op => disk.submit(op),
                };
                opening.io_done(io.token, result);
            }
            let (pool, report) = opening.done().unwrap().unwrap();
            assert_eq!(pool.metadata(), expected.metadata());
            assert!(report.copies.iter().all(|copy| bytes.start / 4096 <= copy.offset / 4096));
            assert_ne!(report.copies.len(), 0);
        }
    }
}

#[test]
fn a_copy_that_is_lost_as_a_whole_is_written_anew() {
    let mut disks = with_entries(TWO);
    for at in [0, 1, 0, 1] {
        let copy = &copies(&disks)[at];
        wipe_copy(&mut disks, copy);
        let (mut pool, report) = open(&mut disks).unwrap();
        assert_eq!(pool.metadata().volume(VolumeId(1)).unwrap().hot.len(), 3);
        assert_ne!(report.copies.len(), 0);
        settle(&mut pool, &mut disks);
    }
}

/// A crash has left the last entry whole in one copy only. Were another appended before a checkpoint makes up for it, the
/// loss of that one place would take both with it.
#[test]
fn nothing_new_counts_while_an_entry_has_one_copy() {
    for lost in 0..2 {
        let mut disks = with_entries(TWO);
        let sites = copies(&disks).into_iter().map(|copy| (copy.disk, copy.areas[0].start + 3 * 4096));
        let sites: Vec<(usize, u64)> = sites.collect();
        let (torn, at) = sites[lost];
        disks[torn].rot(at + 70);
        let (mut pool, report) = open(&mut disks).unwrap();
        assert!(report.completed.is_some());
        let lsn = pool.append(&[Record::HotAdd { volume: VolumeId(1), area: 9 }]);
        let mut states = 0;
        while let Some(io) = pool.poll_io() {
            let result = disks[usize::from(io.disk.0)].submit(&io.op);
            pool.io_done(io.token, result);
            if pool.durable() >= lsn {
                let mut disks = disks.clone();
                let (whole, at) = sites[1 - lost];
                wipe(&mut disks[whole], at..at + 4096);
                let (pool, _) = open(&mut disks).expect("it needs the entry no more");
                assert!(pool.metadata().volume(VolumeId(1)).unwrap().hot.contains(&9));
                states += 1;
            }
        }
        assert!(states > 2, "{states} states with something new");
    }
}
