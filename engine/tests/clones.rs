//! Volumes that share extents: on one store, and in the bytes on disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use pool_support::golden::{assert_written_as, from_text};
use pool_support::{Disk, formatted, open, open_with, settle};
use store_support::{Bench, Op, S, V};
use twinsan::block::{Block, PagePool};
use twinsan::ids::{DiskId, Epoch, Uuid, VolumeId};
use twinsan::io::{DiskOp, DiskRequest};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{CloneRefusal, DiskState, FAMILY_MAX, Pool, PoolOptions, Record, check};
use twinsan::store::{Damage, Read, ReadToken};

const LEAVES: DiskId = DiskId(1);

fn run(bench: &mut Bench, ops: &[Op]) {
    for op in ops {
        bench.begin(*op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
}

/// A volume of so many extents on two disks, and a snapshot of it.
fn with_snapshot(extents: usize) -> Bench {
    planted_with_snapshot(extents, Planted::NONE)
}

fn planted_with_snapshot(extents: usize, planted: Planted) -> Bench {
    let mut bench = Bench::on_two_disks(planted);
    run(&mut bench, &[Op::Create]);
    run(&mut bench, &vec![Op::WriteNew; extents]);
    run(&mut bench, &[Op::Snapshot, Op::Idle]);
    bench
}

fn sound(bench: &Bench) {
    let report = check(bench.store().pool());
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_snapshot_costs_what_is_written_after_it() {
    let mut bench = with_snapshot(3);
    let extent_bytes = bench.store().pool().extent_blocks() * 4096;
    let used = |bench: &Bench| bench.store().pool().bytes_used() / extent_bytes;
    assert_eq!((used(&bench), bench.store().pool().shared_extents()), (3, 3));
    run(&mut bench, &[Op::Overwrite, Op::Overwrite]);
    assert_eq!((used(&bench), bench.store().pool().shared_extents()), (4, 2));
    // Zeros are remembered for each: that costs nothing.
    run(&mut bench, &[Op::Clear, Op::Unmap]);
    assert_eq!((used(&bench), bench.store().pool().shared_extents()), (3, 2));
    bench.read_all().unwrap();
    sound(&bench);
    bench.restart();
    assert_eq!((used(&bench), bench.store().pool().shared_extents()), (3, 2));
    bench.read_all().unwrap();
    run(&mut bench, &[Op::DropSnapshot, Op::Idle]);
    assert_eq!((used(&bench), bench.store().pool().shared_extents()), (2, 0));
    bench.read_all().unwrap();
    sound(&bench);
}

/// What moves goes along for all, and stays shared; what one has as zero and the other as data is data.
#[test]
fn a_disk_leaves_with_what_is_shared() {
    let mut bench = with_snapshot(5);
    run(&mut bench, &[Op::Clear, Op::Idle]);
    bench.restart();
    let shared = bench.store().pool().shared_extents();
    assert!(shared == 5 && bench.store().pool().extents_on(LEAVES) > 1);
    bench.store_mut().remove_disk(LEAVES).unwrap();
    run(&mut bench, &[Op::Idle]);
    assert_eq!(bench.store().pool().disks()[usize::from(LEAVES.0)].state, DiskState::Removed);
    assert_eq!(bench.store().pool().shared_extents(), shared);
    bench.disks.pop();
    bench.restart();
    assert_eq!(bench.store().pool().shared_extents(), shared);
    bench.read_all().unwrap();
    sound(&bench);
}

/// Beside a write to the shared extent, which is on its way while the disk leaves.
#[test]
fn an_extent_is_written_while_its_disk_leaves() {
    for steps in 0..40 {
        let mut bench = with_snapshot(4);
        bench.store_mut().remove_disk(LEAVES).unwrap();
        bench.begin(Op::OverwriteWide);
        bench.begin(Op::OverwriteSnapshot);
        for _ in 0..steps {
            bench.step(&mut |_| Ok(())).unwrap();
        }
        bench.begin(Op::OverwriteWide);
        run(&mut bench, &[Op::Idle]);
        assert_eq!(bench.store().pool().extents_on(LEAVES), 0, "after {steps} steps");
        bench.read_all().unwrap();
        sound(&bench);
        bench.disks.pop();
        bench.restart();
        bench.read_all().unwrap();
    }
}

/// In a full pool what is shared cannot be written, what is not can; to delete the snapshot makes room.
#[test]
fn a_full_pool_writes_what_nobody_shares() {
    let mut bench = with_snapshot(2);
    run(&mut bench, &[Op::Overwrite]);
    let store = bench.store_mut();
    let hoarded = (3..6).filter(|extent| store.reserve(V, extent * 32..extent * 32 + 1)).count();
    let more = (1000..2000).filter(|extent| store.reserve(VolumeId(9), extent * 32..extent * 32 + 1)).count();
    assert!(hoarded + more > 0 && store.pool().free_extents() == 0);
    assert!(store.reserve(V, 0..1), "it has a place of its own");
    assert!(!store.reserve(V, 32..33), "the snapshot has it too");
    assert!(!store.reserve(S, 33..34));
    run(&mut bench, &[Op::DropSnapshot, Op::Idle]);
    assert!(bench.store_mut().reserve(V, 32..33));
}

/// What is damaged in a shared extent is damaged for both, and for no other block; what is written heals one of them.
#[test]
fn damage_of_a_shared_extent_goes_along() {
    let mut bench = with_snapshot(1);
    bench.restart();
    let (disk, offset) = bench.place(4);
    bench.disks[usize::from(disk.0)].rot(offset + 100);
    run(&mut bench, &[Op::Overwrite]);
    assert_eq!(bench.store().pool().shared_extents(), 0);
    bench.restart();
    assert_eq!(bench.read_one(4).unwrap_err(), Damage::Lost);
    assert_eq!(bench.read_snapshot(4).unwrap_err(), Damage::Rotten);
    assert!(bench.read_one(3).is_ok() && bench.read_snapshot(3).is_ok() && bench.read_one(20).is_ok());
    bench.write_some(4);
    run(&mut bench, &[Op::Idle]);
    bench.restart();
    assert!(bench.read_one(4).is_ok());
    assert_eq!(bench.read_snapshot(4).unwrap_err(), Damage::Rotten);
}

/// A volume whose block 4 was damaged when its extent was copied, and is in doubt after a crash.
fn lost_and_in_doubt(planted: Planted) -> Bench {
    let mut bench = planted_with_snapshot(1, planted);
    bench.restart();
    let (disk, offset) = bench.place(4);
    bench.disks[usize::from(disk.0)].rot(offset + 100);
    run(&mut bench, &[Op::Overwrite]);
    bench.restart();
    // Its neighbours are overwritten: the line is unsure when the power fails.
    run(&mut bench, &[Op::Overwrite]);
    bench.cut_power(|_| true);
    bench.restart();
    assert!(bench.in_doubt() > 0);
    bench
}

/// What was damaged when its extent was copied stays so, also if a crash puts its checksum in doubt and no partner is there to
/// ask: what lies in its place is nothing that anybody wrote.
#[test]
fn what_was_lost_is_not_taken_for_data_after_a_crash() {
    for ask in [false, true] {
        let mut bench = lost_and_in_doubt(Planted::NONE);
        bench.store_mut().ask_in_doubt(ask);
        bench.store_mut().trust(V, 4);
        assert_eq!(bench.read_one(4).unwrap_err(), Damage::Lost);
        assert!(bench.read_one(3).is_ok() || ask);
        run(&mut bench, &[Op::Idle]);
        bench.restart();
        assert_eq!(bench.read_one(4).unwrap_err(), Damage::Lost);
        bench.write_some(4);
        run(&mut bench, &[Op::Idle]);
        bench.restart();
        bench.read_one(4).unwrap();
        sound(&bench);
    }
    // Zeros that a host writes there are its own.
    let mut bench = lost_and_in_doubt(Planted::NONE);
    let zeros = Block::Data(PagePool::new().take_zeroed().freeze());
    let now = bench.now();
    assert!(bench.store_mut().reserve(V, 4..5));
    bench.store_mut().write(now, V, 4, std::slice::from_ref(&zeros));
    bench.run(&mut |_| Ok(())).unwrap();
    bench.cut_power(|_| true);
    bench.restart();
    assert!(bench.in_doubt() > 0);
    assert!(bench.read_one(4).unwrap().same(&zeros));
    let mut bench = lost_and_in_doubt(Planted::only(Bug::LostTakenForData));
    assert!(bench.read_one(4).is_ok(), "the planted bug");
}

/// A disk that fails to read once does not cost a block.
#[test]
fn a_block_that_is_read_at_the_second_try_is_kept() {
    for n in 1..6 {
        let mut bench = with_snapshot(1);
        bench.restart();
        bench.fail_at = Some(n);
        bench.begin(Op::Overwrite);
        let _ = bench.run(&mut |_| Ok(()));
        bench.cut_power(|_| true);
        bench.fail_at = None;
        bench.restart();
        bench.read_all().unwrap();
    }
}

/// What is in doubt where it lay is so in its new place too: the partner is asked, as it would have been.
#[test]
fn a_block_in_doubt_stays_so_in_a_place_of_its_own() {
    let mut bench = with_snapshot(1);
    bench.restart();
    // The power fails while a block of the snapshot's extent, alone again, is overwritten: then it is shared anew.
    run(&mut bench, &[Op::DropSnapshot, Op::Idle, Op::Overwrite]);
    bench.cut_power(|_| true);
    bench.restart();
    assert_eq!(bench.in_doubt(), 1, "a line");
    bench.store_mut().ask_in_doubt(true);
    let (disk, offset) = bench.place(4);
    bench.disks[usize::from(disk.0)].rot(offset + 100);
    let other = VolumeId(7);
    bench.store_mut().clone_volume(other, V, Uuid(7), (true, true));
    run(&mut bench, &[Op::Overwrite]);
    assert_eq!(bench.store().pool().shared_extents(), 0, "it has a place of its own");
    assert_eq!(bench.read_one(4).err(), Some(Damage::Unsure), "not what lay there, and not called rotten");
    bench.store_mut().trust(V, 4);
    bench.read_one(4).unwrap();
    sound(&bench);
}

/// While a read of what is shared is in flight, the last who has it may not write there.
#[test]
fn what_is_read_by_one_is_not_written_by_another() {
    let mut bench = with_snapshot(1);
    bench.restart();
    let place = bench.place(4);
    // The snapshot's data are asked for, and the answer does not come.
    let store = bench.store_mut();
    assert!(matches!(store.read(S, 4..5, ReadToken(77)), Read::Pending));
    let asked: Vec<_> = core::iter::from_fn(|| store.poll_io()).collect();
    let answer = |bench: &mut Bench, asked: &DiskRequest| {
        let medium = &mut bench.disks[usize::from(asked.disk.0)];
        let number = medium.begin(&asked.op);
        let result = medium.end(number, &asked.op);
        let now = bench.now();
        bench.store_mut().io_done(now, asked.id, result);
    };
    let is_data = |request: &&DiskRequest| matches!(request.op, DiskOp::Read { offset, .. } if (request.disk, offset) == place);
    let data = asked.iter().find(is_data).expect("it is not in the cache");
    asked.iter().filter(|request| !is_data(request)).for_each(|sums| answer(&mut bench, sums));
    bench.write_some(4);
    run(&mut bench, &[Op::Idle]);
    assert_ne!(bench.place(4), place, "the volume has a place of its own now");
    assert!(bench.store().pool().is_shared(S, 0), "it is being read");
    answer(&mut bench, data);
    assert!(!bench.store().pool().is_shared(S, 0));
    sound(&bench);
}

// The pool alone.

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };

fn pool_with_volume(bytes: u64, extents: u32) -> (Vec<Disk>, Pool) {
    let mut disks = formatted(&OPTIONS, &[bytes]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors: 128 << 10, mirrored: true }]);
    (0..extents).for_each(|extent| map(&mut pool, V, extent));
    settle(&mut pool, &mut disks);
    (disks, pool)
}

fn map(pool: &mut Pool, volume: VolumeId, extent: u32) {
    assert!(pool.reserve(volume, extent));
    let slot = pool.allocate(volume, extent);
    pool.append(&[Record::Map { volume, extent, slot }]);
}

fn clone(pool: &mut Pool, volume: u32, of: VolumeId, read_only: bool) -> Result<(), CloneRefusal> {
    let volume = VolumeId(volume);
    pool.may_clone(volume, of, read_only)?;
    let uuid = Uuid(u128::from(volume.0));
    pool.append(&[Record::VolumeClone { volume, of, uuid, read_only, mirrored: true }]);
    Ok(())
}

#[test]
fn what_cannot_be_cloned_is_refused_by_name() {
    let (_, mut pool) = pool_with_volume(8 << 20, 3);
    assert_eq!(clone(&mut pool, 2, VolumeId(7), true), Err(CloneRefusal::Unknown(VolumeId(7))));
    assert_eq!(clone(&mut pool, 1, V, true), Err(CloneRefusal::Taken(V)));
    assert_eq!(clone(&mut pool, 2, V, false), Err(CloneRefusal::NotSnapshot(V)));
    assert_eq!(clone(&mut pool, 2, V, true), Ok(()));
    assert_eq!(clone(&mut pool, 3, VolumeId(2), false), Ok(()));
    assert_eq!(pool.family(VolumeId(3)), V);
    // Space that is kept for a volume stays so when it has to write each extent anew.
    let free = pool.free_extents();
    pool.keep_for(V, 3 * (64 << 10));
    assert_eq!(pool.bytes_kept(), 3 * (64 << 10), "all of it is shared");
    for extent in 0..free as u32 - 3 {
        assert!(pool.reserve(VolumeId(3), 100 + extent));
    }
    assert!(!pool.reserve(VolumeId(3), 99));
    assert!((0..3).all(|extent| pool.reserve(V, extent)));
}

#[test]
fn a_volume_has_so_many_snapshots_and_no_more() {
    let (mut disks, mut pool) = pool_with_volume(256 << 20, 40);
    let mut made = 0;
    let refusal = (2..).find_map(|id| {
        let refusal = clone(&mut pool, id, V, true).err();
        made += usize::from(refusal.is_none());
        // Each snapshot has one extent that the next has not.
        map(&mut pool, V, id % 40);
        settle(&mut pool, &mut disks);
        refusal
    });
    assert_eq!((refusal, made), (Some(CloneRefusal::FamilyFull), FAMILY_MAX - 1));
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    let (again, _) = open_with(&mut disks, Planted::NONE).unwrap();
    assert_eq!(again.metadata(), pool.metadata());
    assert_eq!(again.shared_extents(), pool.shared_extents());
    assert!(check(&again).is_clean());
    // Those that are gone make room again, whatever is left of them.
    pool.append(&[Record::VolumeDelete { volume: VolumeId(9) }]);
    assert_eq!(clone(&mut pool, 9, V, true), Ok(()));
}

/// Small areas for checkpoints: what clones may come to need of them is counted before they are made.
#[test]
fn clones_for_which_the_checkpoints_have_no_room_are_refused() {
    let (mut disks, mut pool) = pool_with_volume(3 << 20, 20);
    assert_eq!(clone(&mut pool, 2, V, true), Ok(()));
    let refused = (3..600).find_map(|id| clone(&mut pool, id, VolumeId(2), false).err());
    assert!(matches!(refused, Some(CloneRefusal::NoRoom | CloneRefusal::FamilyFull)), "{refused:?}");
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    assert!(pool.failed().is_none() && pool.is_idle());
    let (again, _) = open(&mut disks).unwrap();
    assert_eq!(again.metadata(), pool.metadata());
}

/// A volume that grows after its snapshot, and has extents beyond where that ends.
#[test]
fn a_volume_grows_beyond_its_snapshot() {
    let mut disks = formatted(&OPTIONS, &[8 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let sectors = 4 * 128;
    pool.append(&[Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors, mirrored: true }]);
    (0..4).for_each(|extent| map(&mut pool, V, extent));
    clone(&mut pool, 2, V, true).unwrap();
    let (sectors, epoch) = (9 * 128, Epoch(1));
    pool.append(&[Record::VolumeState {
        volume: V,
        sectors,
        change: 1,
        epoch,
        deleted: false,
        read_only: false,
    }]);
    (4..9).for_each(|extent| map(&mut pool, V, extent));
    pool.append(&[Record::ZeroAdd { volume: V, extent: 8, first: 0, count: 3 }]);
    clone(&mut pool, 3, V, true).unwrap();
    for deleted in [false, true] {
        if deleted {
            // What is left of a volume that is gone is written down as well.
            let state =
                Record::VolumeState { volume: V, sectors, change: 2, epoch, deleted, read_only: false };
            pool.append(&[state, Record::Unmap { volume: V, extent: 2 }]);
        }
        pool.checkpoint();
        settle(&mut pool, &mut disks);
        let (again, _) = open(&mut disks).unwrap();
        assert_eq!(again.metadata(), pool.metadata());
        let lengths = [1, 2, 3].map(|id| again.metadata().volume(VolumeId(id)).unwrap().map.len());
        assert_eq!(lengths, [if deleted { 8 } else { 9 }, 4, 9]);
        assert!(check(&again).is_clean());
    }
}

/// Snapshots come and go for ever: what is left of those that are gone takes no room in the checkpoints.
#[test]
fn snapshots_that_are_gone_leave_their_numbers_only() {
    let (mut disks, mut pool) = pool_with_volume(6 << 20, 20);
    let deleted = |volume: u32| Record::VolumeState {
        volume: VolumeId(volume),
        sectors: 128 << 10,
        change: 1,
        epoch: Epoch(1),
        deleted: true,
        read_only: false,
    };
    let most = pool.volumes_max() as u32;
    for id in (2..most.min(400)).step_by(2) {
        // A writable clone of a snapshot that goes before it does, and differs in all it has.
        let cloned =
            clone(&mut pool, id, V, true).and_then(|()| clone(&mut pool, id + 1, VolumeId(id), false));
        if cloned.is_err() {
            assert!(id > 40, "{cloned:?} at {id}");
            break;
        }
        (0..20).for_each(|extent| map(&mut pool, VolumeId(id + 1), extent));
        for gone in [id, id + 1] {
            pool.append(&[deleted(gone)]);
            let unmaps: Vec<Record> =
                (0..20).map(|extent| Record::Unmap { volume: VolumeId(gone), extent }).collect();
            for unmap in &unmaps {
                pool.append(core::slice::from_ref(unmap));
            }
        }
        map(&mut pool, V, id % 20);
        pool.checkpoint();
        settle(&mut pool, &mut disks);
        assert!(pool.failed().is_none(), "at {id}");
        let report = check(&pool);
        assert!(report.is_clean(), "{report:?}");
    }
    let (again, _) = open(&mut disks).unwrap();
    assert_eq!(again.metadata(), pool.metadata());
}

const GOLDEN: &str = include_str!("golden/pool-v1-clones.txt");

/// A volume, two snapshots of it and a clone of one, each with what the others have not; in a checkpoint, and changed once
/// more in the log after it.
fn golden_clones() -> Vec<Disk> {
    let (mut disks, mut pool) = pool_with_volume(4 << 20, 4);
    let zero = |volume, extent, first| Record::ZeroAdd { volume: VolumeId(volume), extent, first, count: 2 };
    pool.append(&[zero(1, 1, 3)]);
    clone(&mut pool, 2, V, true).unwrap();
    map(&mut pool, V, 0);
    pool.append(&[zero(1, 2, 5), Record::Unmap { volume: V, extent: 3 }]);
    clone(&mut pool, 3, V, true).unwrap();
    clone(&mut pool, 5, VolumeId(2), false).unwrap();
    map(&mut pool, VolumeId(5), 0);
    map(&mut pool, VolumeId(5), 7);
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    map(&mut pool, VolumeId(5), 1);
    clone(&mut pool, 6, VolumeId(5), true).unwrap();
    let slot = pool.allocate_move(V, 2).unwrap();
    pool.append(&[Record::MapShared { volume: V, extent: 2, slot }]);
    settle(&mut pool, &mut disks);
    disks
}

#[test]
fn a_golden_image_with_clones_opens_and_is_still_written_so() {
    assert_written_as(&golden_clones(), GOLDEN);
    golden_clones_open(GOLDEN);
    golden_clones_open(include_str!("golden/pool-v1-clones-first.txt"));
}

fn golden_clones_open(text: &str) {
    let (pool, _) = open(&mut from_text(text)).unwrap();
    let extents = |volume| {
        let map = &pool.metadata().volume(VolumeId(volume)).unwrap().map;
        map.iter().map(|(extent, slot)| (extent, slot.index)).collect::<Vec<_>>()
    };
    assert_eq!(extents(2), [(0, 0), (1, 1), (2, 8), (3, 3)]);
    assert_eq!(extents(1), [(0, 4), (1, 1), (2, 8)]);
    assert_eq!(extents(3), extents(1));
    assert_eq!(extents(5), [(0, 5), (1, 7), (2, 8), (3, 3), (7, 6)]);
    assert_eq!(extents(6), extents(5));
    let zeros = |volume: u32, extent| {
        let runs = pool.zeros(VolumeId(volume), extent).map_or(Vec::new(), |bits| bits.runs());
        runs.into_iter().flatten().collect::<Vec<u32>>()
    };
    assert_eq!((zeros(2, 1), zeros(2, 2)), (vec![3, 4], vec![]));
    assert_eq!((zeros(3, 1), zeros(3, 2)), (vec![3, 4], vec![5, 6]));
    assert_eq!(pool.metadata().volume(VolumeId(6)).unwrap().kin.unwrap().family, V);
    assert_eq!(pool.shared_extents(), 7);
    assert!(check(&pool).is_clean());
}
