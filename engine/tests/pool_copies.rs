//! The metadata are kept twice: whatever one place of them is lost, and whenever, nothing is lost. Workloads of one
//! operation (two at once for those that move the second copy) from several beginnings; each block of superblocks, log and
//! checkpoints, and each copy as a whole, damaged at every moment. Invariant 22.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;

use pool_support::rot::{Rot, copies, wipe, wipe_copy};
use pool_support::session::{Op, Session, Witness};
use pool_support::{Disk, formatted, open, open_marked, settle};
use twinsan::format::superblock::SUPERBLOCK_OFFSETS;
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp, Geometry};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{DiskNews, DiskRefusal, DiskState, NewDisk, OpenError, Opening, PoolOptions, Record};

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
const ONE: &[u64] = &[8 << 20];
const TWO: &[u64] = &[8 << 20, 9 << 20];
/// Each of them has room for a copy.
const MOVABLE: &[u64] = &[12 << 20, 13 << 20, 12 << 20];
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
        all.extend(BESIDE.map(|op| vec![moving, op]));
    }
    all
}

/// What is tried at once with what moves a copy.
const BESIDE: [Op; 4] = [Op::Node, Op::WriteNew, Op::Burst, Op::Restart];

/// The first copy moves, and with a large disk both grow.
fn moves() -> Vec<Vec<Op>> {
    let mut all = vec![vec![Op::RemoveHome], vec![Op::AddLarge], vec![Op::AddLarge, Op::RemoveHome]];
    for moving in [Op::RemoveHome, Op::AddLarge] {
        all.extend(BESIDE.map(|op| vec![moving, op]));
    }
    all
}

fn damage_everywhere(
    bytes: &[u64],
    entries: usize,
    workloads: Vec<Vec<Op>>,
    planted: Planted,
) -> Result<(u64, u64), (u64, String)> {
    let begin = beginning(bytes, entries, planted);
    let (mut states, mut repaired) = (0, 0);
    for ops in workloads {
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
    nothing_is_lost_by(bytes, entries, workloads());
}

fn nothing_is_lost_by(bytes: &[u64], entries: usize, workloads: Vec<Vec<Op>>) {
    let (states, repaired) = damage_everywhere(bytes, entries, workloads, Planted::NONE)
        .unwrap_or_else(|(_, what)| panic!("{what}"));
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
fn nothing_is_lost_while_the_first_copy_moves() {
    nothing_is_lost_by(MOVABLE, 0, moves());
}

#[test]
fn nothing_is_lost_while_both_copies_leave_one_disk() {
    nothing_is_lost_by(ONE, 13, moves());
}

#[test]
fn planted_bugs_are_found() {
    let moved = damage_everywhere(ONE, 0, moves(), Planted::only(Bug::OldHomeGivenUpEarly));
    println!("OldHomeGivenUpEarly: {:.200}", moved.expect_err("it was not found").1);
    let bugs = [
        (Bug::SecondCopyNotAwaited, TWO, 0),
        (Bug::DamagedCopyPreferred, ONE, 0),
        (Bug::DamagedCopyKept, ONE, 0),
        (Bug::SuperblockWrittenOnce, ONE, 13),
        (Bug::AppendedWhileCopyMoves, TWO, 0),
    ];
    for (bug, bytes, entries) in bugs {
        match damage_everywhere(bytes, entries, workloads(), Planted::only(bug)) {
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

fn where_is(session: &Session<'_>) -> Vec<usize> {
    copies(&session.disks).iter().map(|copy| copy.disk).collect()
}

/// Carries these out, one after the other; where the copies are after each, and how many disks there are.
fn after_each(session: &mut Session<'_>, ops: &[Op]) -> Vec<(Vec<usize>, usize)> {
    let there = |session: &Session<'_>| {
        let disks = session.pool().unwrap().disks().iter();
        disks.filter(|disk| disk.state != DiskState::Removed).count()
    };
    let mut step = |op: &Op| {
        session.begin(*op).unwrap();
        session.run().unwrap();
        session.check_rest().unwrap();
        session.restart().unwrap();
        (where_is(session), there(session))
    };
    ops.iter().map(&mut step).collect()
}

#[test]
fn the_first_copy_moves_when_its_disk_leaves() {
    let mut session = beginning(MOVABLE, 0, Planted::NONE);
    assert_eq!(where_is(&session), [1, 0]);
    // The second becomes the first. A disk that the pool was made of has room for one copy only.
    let ops = [Op::RemoveHome, Op::RemoveHome, Op::WriteNew, Op::RemoveHome];
    let expected = [(vec![0, 2], 2), (vec![2], 1), (vec![2], 1), (vec![2], 1)];
    assert_eq!(after_each(&mut session, &ops), expected);
    // One that is added has room for two.
    let ops = [Op::AddDisk, Op::RemoveHome, Op::Node, Op::Burst, Op::AddDisk, Op::RemoveHome];
    let expected = [
        (vec![2, 3], 2),
        (vec![3, 3], 1),
        (vec![3, 3], 1),
        (vec![3, 3], 1),
        (vec![3, 4], 2),
        (vec![4, 4], 1),
    ];
    assert_eq!(after_each(&mut session, &ops), expected);
}

#[test]
fn the_areas_grow_with_the_pool() {
    for (log_bytes, grows) in [(32 << 10, false), (0, true)] {
        let options = PoolOptions { log_bytes, ..OPTIONS };
        let mut session = Session::new(formatted(&options, &[16 << 20]), Planted::NONE);
        session.restart().unwrap();
        let bytes = |session: &Session<'_>| {
            let second = copies(&session.disks)[1].areas[0].clone();
            second.end - second.start
        };
        let before = bytes(&session);
        let ops = [Op::VolumeCreate, Op::WriteNew, Op::AddLarge, Op::WriteNew, Op::Burst];
        let moved = after_each(&mut session, &ops);
        assert_eq!(moved[1..], [(vec![0, 0], 1), (vec![1, 1], 2), (vec![1, 1], 2), (vec![1, 1], 2)]);
        assert!(bytes(&session) > 8 * before, "{before}, then {}", bytes(&session));
        let log = copies(&session.disks)[0].areas[0].clone();
        assert_eq!(log.end - log.start > 512 << 10, grows, "one that was asked for stays");
        // The first disk has no room for what they are now; two of the new ones hold a copy each.
        let moved = after_each(&mut session, &[Op::AddLarge, Op::RemoveHome, Op::RemoveHome]);
        assert_eq!(moved, [(vec![1, 2], 3), (vec![2, 2], 2), (vec![2, 2], 2)]);
    }
}

/// The power fails while the areas grow, at each request, and all that was written survives. The next life appends: what
/// counts must not hang on one superblock, for the other may still name the former areas. How many states were tried.
fn appended_after_half_a_move(planted: Planted) -> Result<u64, String> {
    let mut disks = formatted(&OPTIONS, ONE);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    let geometry = Geometry { bytes: 1 << 30, sector_bytes: 4096 };
    disks.push(Disk::new(geometry.bytes));
    pool.add_disk(NewDisk { device: DiskId(1), geometry, uuid: Uuid(0xADD), replaces: None });
    let mut states = 0;
    while let Some(io) = pool.poll_io() {
        let result = disks[usize::from(io.disk.0)].submit(&io.op);
        pool.io_done(io.token, result);
        let mut disks = disks.clone();
        let (mut next, devices) = open_marked(&mut disks, planted).unwrap();
        let volume = VolumeId(1);
        let create = Record::VolumeCreate { volume, uuid: Uuid(1), sectors: 4096, mirrored: true };
        let lsn = next.append(&[create]);
        while let Some(io) = next.poll_io() {
            let result = disks[devices[usize::from(io.disk.0)]].submit(&io.op);
            next.io_done(io.token, result);
            if next.durable() < lsn {
                continue;
            }
            let places = (0..2).flat_map(|at| SUPERBLOCK_OFFSETS.map(|offset| (at, offset)));
            for (at, offset) in places {
                let mut disks = disks.clone();
                // While a disk joins, one of its superblocks is all there is.
                if disks[at].block(SUPERBLOCK_OFFSETS[usize::from(offset == 0)])[0] == 0 {
                    continue;
                }
                wipe(&mut disks[at], offset..offset + 4096);
                let (again, _) = open_marked(&mut disks, planted).map_err(|error| error.to_string())?;
                if again.metadata().volume(volume).is_none() {
                    return Err(format!("it is lost with byte {offset} of disk {at}"));
                }
                states += 1;
            }
        }
    }
    Ok(states)
}

#[test]
fn nothing_new_counts_before_the_superblocks_agree_on_the_home_disk() {
    let states = appended_after_half_a_move(Planted::NONE).unwrap();
    assert!(states > 100, "{states} states with something new");
    let found = appended_after_half_a_move(Planted::only(Bug::AppendedWhileCopyMoves));
    println!("AppendedWhileCopyMoves: {}", found.expect_err("it was not found"));
}

#[test]
fn the_last_disk_with_room_for_the_metadata_stays() {
    let mut disks = formatted(&OPTIONS, &[8 << 20, 1 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    let Err(DiskRefusal::Home { needed }) = pool.remove_disk(DiskId(0)) else { panic!("it may not leave") };
    for (bytes, fits) in [(needed - 4096, false), (needed, true)] {
        let geometry = Geometry { bytes, sector_bytes: 4096 };
        let device = DiskId(disks.len() as u16);
        disks.push(Disk::new(bytes));
        let uuid = Uuid(0xADD0 + u128::from(bytes));
        pool.add_disk(NewDisk { device, geometry, uuid, replaces: None });
        settle(&mut pool, &mut disks);
        assert_eq!(pool.remove_disk(DiskId(0)).is_ok(), fits);
    }
    settle(&mut pool, &mut disks);
    assert!(pool.drop_disk(DiskId(0)));
    settle(&mut pool, &mut disks);
    assert_eq!((pool.home(), pool.is_idle()), (DiskId(3), true));
    let (again, _) = open(&mut disks[1..]).unwrap();
    assert_eq!((again.home(), again.second_copy()), (DiskId(3), None));
}

#[test]
fn a_disk_joins_unless_it_cannot_hold_the_areas_that_it_needs() {
    // The log takes most of what a copy does: a large one is too much for a disk of this size.
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 256 << 20 };
    let mut disks = formatted(&options, &[400 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    for (gib, joins) in [(2, false), (3, true), (8, true), (100, true)] {
        let geometry = Geometry { bytes: gib << 30, sector_bytes: 4096 };
        let device = DiskId(disks.len() as u16);
        disks.push(Disk::new(geometry.bytes));
        pool.add_disk(NewDisk { device, geometry, uuid: Uuid(gib.into()), replaces: None });
        settle(&mut pool, &mut disks);
        let news = pool.poll_disk_news().unwrap();
        assert_eq!(matches!(news, DiskNews::Joined { .. }), joins, "{gib} GiB: {news:?}");
        if !joins {
            assert_eq!(news, DiskNews::Refused { device, why: DiskRefusal::MetadataFull });
        }
    }
    assert_eq!((pool.home(), pool.failed()), (DiskId(3), None));
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
