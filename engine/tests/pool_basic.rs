//! The pool's promises one by one, without crashes.

mod pool_support;

use pool_support::{formatted, ids, open, settle};
use twinsan::ids::{DiskId, Epoch, Generation, Members, NodeName, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp, Geometry};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{
    DiskNews, DiskRefusal, Identity, NewDisk, NodeRecord, OpenError, Opening, PoolError, PoolOptions, Record,
    Slot, check, format,
};

const SMALL: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 64 << 10 };
const V: VolumeId = VolumeId(7);

fn create(volume: VolumeId) -> Record {
    Record::VolumeCreate { volume, uuid: Uuid(9), sectors: 1 << 20, mirrored: true }
}

#[test]
fn everything_recorded_is_there_after_opening_again() {
    let mut disks = formatted(&SMALL, &[4 << 20, 2 << 20]);
    let (mut pool, report) = open(&mut disks).unwrap();
    assert_eq!((report.entries, report.torn), (0, None));
    let node = NodeRecord {
        epoch: Epoch(5),
        members: Members::only(NodeName::B),
        proposed: Epoch(6),
        up_to_date: false,
        complete: true,
    };
    assert!(pool.reserve(V, 3));
    let slot = pool.allocate(V, 3);
    let lsn = pool.append(&[
        create(V),
        Record::Node(node),
        Record::Half { volume: V, generation: Generation(4), ancestors: (0..12).map(Generation).collect() },
        Record::Map { volume: V, extent: 3, slot },
        Record::HotAdd { volume: V, area: 2 },
        Record::HotAdd { volume: V, area: 9 },
        Record::HotRemove { volume: V, area: 2 },
        Record::LogAdd { volume: V, first: 10, count: 5000 },
        Record::LogRemove { volume: V, first: 12, count: 1 },
    ]);
    assert!(pool.durable() < lsn);
    settle(&mut pool, &mut disks);
    assert_eq!(pool.durable(), lsn);
    for checkpoint in [false, true, false] {
        if checkpoint {
            pool.checkpoint();
            settle(&mut pool, &mut disks);
        }
        let (again, report) = open(&mut disks).unwrap();
        assert_eq!(again.metadata(), pool.metadata());
        assert_eq!(again.metadata().node, node);
        assert_eq!(again.metadata().volume(V).unwrap().ancestors.len(), 8);
        assert_eq!(again.durable(), lsn);
        assert_eq!(again.locate(V, 3 * 16 + 5).unwrap().1, pool.slot_offset(slot) + 5 * 4096);
        assert_eq!(again.free_extents(), pool.free_extents());
        assert!(check(&again).is_clean());
        assert_eq!(report.records, if checkpoint { 0 } else { report.records });
        pool = again;
        settle(&mut pool, &mut disks);
    }
}

#[test]
fn space_goes_through_all_its_states() {
    let mut disks = formatted(&SMALL, &[2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let all = pool.free_extents();
    pool.append(&[create(V)]);
    assert!(pool.reserve(V, 0) && pool.reserve(V, 0));
    assert_eq!(pool.free_extents(), all - 1);
    pool.release(V, 0);
    assert_eq!(pool.free_extents(), all);
    (0..all as u32).for_each(|extent| assert!(pool.reserve(V, extent)));
    assert!(!pool.reserve(V, all as u32), "full");
    let slot = pool.allocate(V, 0);
    assert!(pool.reserve(V, 0), "still promised");
    pool.append(&[Record::Map { volume: V, extent: 0, slot }]);
    assert!(pool.reserve(V, 0), "mapped");
    settle(&mut pool, &mut disks);

    pool.hold(slot);
    let lsn = pool.append(&[Record::Unmap { volume: V, extent: 0 }]);
    assert!(!pool.reserve(V, 0), "not durable");
    settle(&mut pool, &mut disks);
    assert_eq!(pool.durable(), lsn);
    assert!(!pool.reserve(V, 0), "held");
    pool.unhold(slot);
    assert!(pool.reserve(V, 0));
    assert_eq!(pool.allocate(V, 0), slot);
    pool.unallocate(slot);
    assert_eq!(pool.free_extents(), 1);
    pool.append(&[Record::VolumeDelete { volume: V }]);
    settle(&mut pool, &mut disks);
    assert_eq!(pool.free_extents(), all);
    assert_eq!(pool.bytes_used(), 0);
    assert!(check(&pool).is_clean());
}

#[test]
fn a_slot_mapped_for_a_volume_that_is_gone_is_free_again() {
    let mut disks = formatted(&SMALL, &[2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    assert!(pool.reserve(V, 1));
    let slot = pool.allocate(V, 1);
    pool.append(&[Record::VolumeDelete { volume: V }, Record::Map { volume: V, extent: 1, slot }]);
    settle(&mut pool, &mut disks);
    assert_eq!(pool.bytes_used(), 0);
    assert!(check(&pool).is_clean());
}

#[test]
fn extents_are_spread_by_free_space() {
    let mut disks = formatted(&SMALL, &[8 << 20, 4 << 20, 2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let free: Vec<u32> = (0..3).map(|disk| pool.free_on(DiskId(disk))).collect();
    for extent in 0..pool.free_extents() as u32 / 2 {
        assert!(pool.reserve(V, extent));
        pool.allocate(V, extent);
    }
    for (disk, free) in (0..3).zip(free) {
        let left = pool.free_on(DiskId(disk));
        assert!(left.abs_diff(free / 2) <= 2, "disk {disk}: {left} of {free} left");
    }
}

#[test]
fn disks_are_recognised_in_any_order() {
    let mut disks = formatted(&SMALL, &[4 << 20, 2 << 20, 3 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    for extent in 0..20 {
        assert!(pool.reserve(V, extent));
        let slot = pool.allocate(V, extent);
        pool.append(&[Record::Map { volume: V, extent, slot }]);
    }
    settle(&mut pool, &mut disks);
    let expected = pool.metadata().clone();
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut given: Vec<_> = order.iter().map(|at| disks[*at].clone()).collect();
        for _ in 0..2 {
            let (mut pool, _) = open(&mut given).unwrap();
            assert_eq!(*pool.metadata(), expected, "{order:?}");
            for (number, place) in (0..).zip(order) {
                assert_eq!(pool.device(DiskId(place as u16)), Some(DiskId(number)));
            }
            pool.append(&[Record::Node(pool.metadata().node)]);
            pool.checkpoint();
            settle(&mut pool, &mut given);
            assert_eq!(pool.failed(), None);
        }
        // Each request went to the right disk: in the old order it opens too.
        let mut back: Vec<_> = disks.clone();
        order.iter().zip(given).for_each(|(at, disk)| back[*at] = disk);
        assert_eq!(*open(&mut back).unwrap().0.metadata(), expected);
    }
}

#[test]
fn a_long_life_in_a_short_log() {
    let mut disks = formatted(&PoolOptions { log_bytes: 32 << 10, ..SMALL }, &[4 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    for round in 0..400u32 {
        let records: Vec<Record> =
            (0..round % 700).map(|n| Record::HotAdd { volume: V, area: (n * 7 + round) % 5000 }).collect();
        pool.append(&records);
        pool.append(&[Record::LogAdd { volume: V, first: u64::from(round), count: 1 }]);
        if round % 3 == 0 {
            settle(&mut pool, &mut disks);
        }
        if round % 50 == 49 {
            settle(&mut pool, &mut disks);
            assert_eq!(pool.failed(), None);
            let (again, _) = open(&mut disks).unwrap();
            assert_eq!(again.metadata(), pool.metadata());
            assert_eq!(again.durable(), pool.durable());
            pool = again;
        }
    }
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let geometry = |bytes| Geometry { bytes, sector_bytes: 512 };
    assert!(matches!(format(&ids(1), &SMALL, &[geometry(64 << 10)]), Err(PoolError::TooSmall { .. })));
    assert!(matches!(format(&ids(2), &SMALL, &[geometry(4 << 20)]), Err(PoolError::Disks { .. })));
    let odd = PoolOptions { extent_bytes: 100_000, ..SMALL };
    assert!(matches!(format(&ids(1), &odd, &[geometry(4 << 20)]), Err(PoolError::ExtentBytes(100_000))));

    let disks = formatted(&SMALL, &[4 << 20, 2 << 20, 2 << 20]);
    let refused = |change: &dyn Fn(&mut Vec<pool_support::Disk>)| {
        let mut disks = disks.clone();
        change(&mut disks);
        open(&mut disks).map(|_| ()).unwrap_err()
    };
    let cloned = refused(&|disks| disks[2] = disks[1].clone());
    assert_eq!(cloned, OpenError::Cloned { disk: DiskId(2), other: DiskId(1) });
    let missing = refused(&|disks| drop(disks.remove(1)));
    assert_eq!(missing, OpenError::Missing { disk: DiskId(1), uuid: Uuid(0xD1) });
    let blank = refused(&|disks| disks[1] = pool_support::Disk::new(2 << 20));
    assert_eq!(blank, OpenError::NotFormatted { disk: DiskId(1) });
    let shrunk = refused(&|disks| disks[2].geometry.bytes -= 4096);
    assert!(matches!(shrunk, OpenError::Shrunk { disk: DiskId(2), .. }));
    let corrupt = refused(&|disks| {
        disks[1].rot(100);
        disks[1].rot((64 << 10) + 100);
    });
    assert_eq!(corrupt, OpenError::SuperblocksCorrupt { disk: DiskId(1) });

    // An old copy of a disk: the pool has been opened since.
    let mut used = disks.clone();
    let (mut pool, _) = open(&mut used).unwrap();
    settle(&mut pool, &mut used);
    for old in [0, 1] {
        let mut mixed = used.clone();
        mixed[old] = disks[old].clone();
        let refused = open(&mut mixed).map(|_| ());
        match old {
            1 => assert!(matches!(refused, Err(OpenError::Older { disk: DiskId(1), .. })), "{refused:?}"),
            _ => assert!(
                refused.is_ok(),
                "one generation behind looks like a crash before the home disk's turn"
            ),
        }
    }
    let (mut pool, _) = open(&mut used).unwrap();
    settle(&mut pool, &mut used);
    used[0] = disks[0].clone();
    assert!(matches!(open(&mut used).map(|_| ()), Err(OpenError::Older { disk: DiskId(0), .. })));
}

#[test]
fn a_pool_of_another_node_is_refused() {
    let mut disks = formatted(&SMALL, &[4 << 20]);
    let mut open_as = |partnership, node| {
        let mut opening = Opening::new(&[disks[0].geometry]).expect(Uuid(partnership), node);
        while let Some(io) = opening.poll_io() {
            let result = disks[0].submit(&io.op);
            opening.io_done(io.token, result);
        }
        opening.done().unwrap().map(|(pool, _)| pool.identity())
    };
    let (node, partnership) = (NodeName::A, Uuid(0x2222));
    assert_eq!(open_as(0x2222, NodeName::A), Ok(Identity { pool: Uuid(0x1111), partnership, node }));
    assert_eq!(open_as(0x2222, NodeName::B), Err(OpenError::WrongNode { node, partnership }));
    assert_eq!(open_as(0x9999, NodeName::A), Err(OpenError::WrongNode { node, partnership }));
}

/// The first, second, third, … request of opening fails: it does not open, and nothing has been written.
#[test]
fn an_opening_that_fails_changes_nothing() {
    let disks = formatted(&SMALL, &[4 << 20, 2 << 20]);
    for n in 1.. {
        let mut opening = Opening::new(&disks.iter().map(|disk| disk.geometry).collect::<Vec<_>>());
        let (mut disks, mut requests) = (disks.clone(), 0);
        while let Some(io) = opening.poll_io() {
            requests += 1;
            assert!(!matches!(io.op, DiskOp::Write { .. }));
            let result = disks[usize::from(io.disk.0)].submit(&io.op);
            opening.io_done(io.token, if requests == n { Err(DiskError::Failed) } else { result });
        }
        match opening.done().unwrap() {
            Err(OpenError::Io { error: DiskError::Failed, .. }) => assert!(requests >= n),
            Err(error) => panic!("{error}"),
            Ok(_) => {
                assert!(n > 8 && requests < n, "request {n} failed unnoticed");
                return;
            }
        }
    }
}

#[test]
fn one_damaged_superblock_copy_is_survived_and_reported() {
    for copy in 0..2u8 {
        let mut disks = formatted(&SMALL, &[4 << 20, 2 << 20]);
        let (mut pool, _) = open(&mut disks).unwrap();
        pool.append(&[create(V)]);
        settle(&mut pool, &mut disks);
        let expected = pool.metadata().clone();
        disks.iter_mut().for_each(|disk| disk.rot(u64::from(copy) * (64 << 10) + 300));
        let (mut pool, report) = open(&mut disks).unwrap();
        assert_eq!(report.damaged, vec![(DiskId(0), copy), (DiskId(1), copy)]);
        assert_eq!(*pool.metadata(), expected);
        for _ in 0..2 {
            settle(&mut pool, &mut disks);
            pool = open(&mut disks).unwrap().0;
        }
        assert!(open(&mut disks).unwrap().1.damaged.is_empty(), "written anew");
    }
}

#[test]
fn rot_in_the_log_is_an_error_and_a_torn_tail_is_cut() {
    let mut disks = formatted(&SMALL, &[4 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    pool.append(&[create(V)]);
    settle(&mut pool, &mut disks);
    for area in 0..4 {
        pool.append(&[Record::HotAdd { volume: V, area }]);
        settle(&mut pool, &mut disks);
    }
    let log = 128 << 10;
    for entry in 0..5u64 {
        for byte in [0, 9, 30, 40, 57, 61, 70] {
            let mut bad = disks.clone();
            bad[0].rot(log + entry * 4096 + byte);
            match (entry, open(&mut bad)) {
                (4, Ok((pool, report))) => {
                    assert_eq!(pool.metadata().volume(V).unwrap().hot.len(), 3);
                    assert_eq!(report.torn.is_some(), byte > 60);
                }
                (0..4, Err(OpenError::Corrupt { disk: DiskId(0), offset, .. })) => {
                    assert_eq!(offset, log + entry * 4096);
                }
                (_, outcome) => panic!("entry {entry} byte {byte}: {:?}", outcome.map(|(_, report)| report)),
            }
        }
    }
}

#[test]
#[should_panic(expected = "without having been allocated")]
fn a_slot_that_was_not_allocated_cannot_be_mapped() {
    let mut disks = formatted(&SMALL, &[4 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V), Record::Map { volume: V, extent: 1, slot: Slot { disk: DiskId(0), index: 3 } }]);
}

#[test]
fn space_that_is_kept_for_a_volume_is_not_given_to_others() {
    let mut disks = formatted(&SMALL, &[2 << 20]);
    let found = |planted| {
        let (mut pool, _) = open(&mut disks.clone()).unwrap();
        pool.set_planted(planted);
        pool.append(&[create(V), create(VolumeId(8))]);
        let all = pool.free_extents();
        pool.keep_for(V, (3 << 16) - 1);
        assert!(pool.reserve(V, 0));
        assert_eq!(pool.bytes_kept(), 2 << 16);
        let others = (0..100).take_while(|extent| pool.reserve(VolumeId(8), *extent)).count() as u64;
        others != all - 3 || !(1..3).all(|extent| pool.reserve(V, extent)) || pool.reserve(V, 3)
    };
    assert!(!found(Planted::NONE));
    assert!(found(Planted::only(Bug::ReservationIgnored)));

    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V), create(VolumeId(8))]);
    (0..pool.free_extents() as u32).for_each(|extent| assert!(pool.reserve(VolumeId(8), extent)));
    pool.keep_for(V, 1 << 16);
    assert_eq!(pool.bytes_kept_missing(), 1 << 16, "others were first");
    pool.release(VolumeId(8), 5);
    assert!(!pool.reserve(VolumeId(8), 5) && pool.is_owed(V) && pool.reserve(V, 0) && !pool.is_owed(V));
}

/// However full the pool and however short the log: unmapping and deleting go on, and free the space.
#[test]
fn a_full_pool_with_a_full_log_unmaps_and_deletes() {
    let mut disks = formatted(&PoolOptions { log_bytes: 32 << 10, ..SMALL }, &[40 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let volumes: Vec<VolumeId> = (0..4).map(VolumeId).collect();
    pool.append(&volumes.iter().map(|volume| create(*volume)).collect::<Vec<_>>());
    let all = pool.free_extents();
    for extent in 0..all as u32 {
        let volume = volumes[extent as usize % 4];
        assert!(pool.reserve(volume, extent));
        let slot = pool.allocate(volume, extent);
        let zeros = (0..8).map(|n| Record::ZeroAdd { volume, extent, first: n * 2, count: 1 });
        pool.append(&[Record::Map { volume, extent, slot }].into_iter().chain(zeros).collect::<Vec<_>>());
        // Each extent has as ragged a map as it can: the checkpoint holds all of them.
        pool.append(&[Record::LogAdd { volume, first: u64::from(extent) * 2, count: 1 }]);
        if extent % 50 == 0 {
            settle(&mut pool, &mut disks);
        }
    }
    assert_eq!((pool.free_extents(), pool.metadata().zero_extents()), (0, all));
    assert!(pool.metadata().zero_extents() <= pool.zero_extents_max());
    for extent in (0..all as u32).step_by(2) {
        pool.append(&[Record::Unmap { volume: volumes[extent as usize % 4], extent }]);
    }
    pool.append(&[Record::VolumeDelete { volume: volumes[1] }]);
    pool.append(&[Record::VolumeDelete { volume: volumes[3] }]);
    settle(&mut pool, &mut disks);
    assert_eq!((pool.failed(), pool.free_extents()), (None, all));
    let (again, _) = open(&mut disks).unwrap();
    assert_eq!(again.metadata(), pool.metadata());
    assert!(check(&again).is_clean());
}

/// The room of the checkpoint is enough for the maps of zeros that a pool may have, at every extent size.
#[test]
fn all_maps_of_zeros_fit_into_the_checkpoint() {
    for (extent, bytes) in
        [(64 << 10, 300u64 << 20), (1 << 20, 3 << 30), (16 << 20, 20 << 30), (128 << 20, 100 << 30)]
    {
        let mut disks = formatted(&PoolOptions { extent_bytes: extent, log_bytes: 0 }, &[bytes]);
        let (mut pool, _) = open(&mut disks).unwrap();
        let sectors = 1 << 36;
        pool.append(&[Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors, mirrored: true }]);
        let last = (extent / 4096) as u32 - 1;
        let count = pool.free_extents().min(pool.zero_extents_max()) as u32;
        assert_eq!(u64::from(count), pool.free_extents(), "pools of these sizes remember all zeros");
        for extent in (0..count).map(|extent| extent * 3) {
            assert!(pool.reserve(V, extent) && pool.may_remember_zeros(V, extent, 0));
            let slot = pool.allocate(V, extent);
            let zero = Record::ZeroAdd { volume: V, extent, first: last, count: 1 };
            pool.append(&[Record::Map { volume: V, extent, slot }, zero]);
        }
        pool.checkpoint();
        settle(&mut pool, &mut disks);
        assert_eq!(pool.failed(), None);
        let (again, report) = open(&mut disks).unwrap();
        assert_eq!((report.records, again.metadata() == pool.metadata()), (0, true));
        assert_eq!(again.locate(V, u64::from(last)), None);
        assert!(again.place(V, u64::from(last)).is_some());
    }
}

#[test]
#[should_panic(expected = "beyond the end of its volume")]
fn zeros_of_an_extent_that_is_not_mapped_cannot_be_recorded() {
    let mut disks = formatted(&SMALL, &[4 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V), Record::ZeroAdd { volume: V, extent: 1, first: 0, count: 1 }]);
}

/// The superblocks may still name a disk that has just been dropped: a copy of it does not join meanwhile.
#[test]
fn a_copy_of_a_disk_that_departs_does_not_join() {
    let mut disks = formatted(&SMALL, &[4 << 20, 2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    disks.push(disks[1].clone());
    pool.remove_disk(DiskId(1)).unwrap();
    assert!(pool.drop_disk(DiskId(1)));
    let uuid = pool.departing().next().unwrap().2.uuid;
    let (device, geometry) = (DiskId(2), disks[2].geometry);
    pool.add_disk(NewDisk { device, geometry, uuid: Uuid(77), replaces: None });
    settle(&mut pool, &mut disks);
    let news: Vec<DiskNews> = core::iter::from_fn(|| pool.poll_disk_news()).collect();
    let refused = DiskNews::Refused { device, why: DiskRefusal::Member { disk: uuid } };
    let left = DiskNews::Left { device: DiskId(1), uuid, erased: true };
    assert_eq!(news, [refused, left]);
    // Now it holds nothing that counts.
    pool.add_disk(NewDisk { device, geometry, uuid: Uuid(77), replaces: None });
    settle(&mut pool, &mut disks);
    assert_eq!(pool.poll_disk_news(), Some(DiskNews::Joined { device, uuid: Uuid(77) }));
}

/// An item that was promised room is written down later: a disk does not go meanwhile if there would be none.
#[test]
fn a_disk_stays_while_room_is_promised_that_it_makes() {
    let mut disks = formatted(&PoolOptions::default(), &[5 << 30, 4 << 30]);
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    let before = pool.volumes_max();
    let refused = pool.remove_disk_beside(DiskId(1), before).unwrap_err();
    let DiskRefusal::Volumes { volumes, most } = refused else { panic!("{refused:?}") };
    assert!(volumes == before && most < before, "{volumes} of {most}");
    assert_eq!(pool.remove_disk_beside(DiskId(1), most), Ok(()), "all that is promised finds its place");
    assert_eq!(pool.volumes_max(), most);
}
