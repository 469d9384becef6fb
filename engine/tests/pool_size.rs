//! The pool at size.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;

use pool_support::{formatted, open, settle};
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::pool::{ExtentMap, PoolOptions, Record, Slot, check};

/// A map filled in any order stays within 16 bytes per extent.
#[test]
fn an_extent_map_is_small() {
    let slot = |index| Slot { disk: DiskId(3), index };
    let (mut ordered, mut shuffled, mut quarter) = (ExtentMap::new(), ExtentMap::new(), ExtentMap::new());
    let mut x = 1u32;
    for n in 0..200_000 {
        ordered.insert(n, slot(n));
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        quarter.insert(x >> 12 & 0xF_FFFF, slot(n));
        shuffled.insert(n.wrapping_mul(77_773) % 200_003, slot(n));
    }
    for map in [&ordered, &shuffled, &quarter] {
        let per_extent = map.bytes() as f64 / map.len() as f64;
        println!("{} extents: {per_extent:.1} bytes each", map.len());
        assert!(per_extent <= 16.0, "{per_extent}");
    }
}

/// A million extents: mapped through the log, with checkpoints on the way, and found again.
#[test]
fn a_million_extents() {
    let count = 1_000_000u32;
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 0 };
    let mut disks = formatted(&options, &[40 << 30, 30 << 30]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let volume = VolumeId(1);
    pool.append(&[Record::VolumeCreate {
        volume,
        uuid: Uuid(1),
        sectors: 128 << 30 >> 9 << 3,
        mirrored: true,
    }]);
    for chunk in 0..count / 1000 {
        let records: Vec<Record> = (chunk * 1000..(chunk + 1) * 1000)
            .map(|extent| {
                assert!(pool.reserve(volume, extent));
                Record::Map { volume, extent, slot: pool.allocate(volume, extent) }
            })
            .collect();
        pool.append(&records);
        if chunk % 10 == 0 {
            settle(&mut pool, &mut disks);
        }
    }
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    let (again, report) = open(&mut disks).unwrap();
    assert_eq!(report.records, 0);
    assert_eq!(again.metadata(), pool.metadata());
    assert_eq!(again.metadata().mapped(), u64::from(count));
    assert!(check(&again).is_clean());
}

/// A change log too ragged for its room is kept coarser, never smaller.
#[test]
fn a_ragged_change_log_is_kept_coarser() {
    let mut disks = formatted(&PoolOptions { extent_bytes: 64 << 10, log_bytes: 64 << 10 }, &[4 << 20]);
    let volume = VolumeId(1);
    let sectors = 16 << 31;
    for (pages, exact) in [(100, true), (2000, false)] {
        let (mut pool, _) = open(&mut disks).unwrap();
        pool.append(&[Record::VolumeCreate { volume, uuid: Uuid(1), sectors, mirrored: true }]);
        let ragged = |page: u64| {
            (0..100).map(move |n| Record::LogAdd { volume, first: page * 8192 + n * 5, count: 2 })
        };
        for page in 0..pages {
            pool.append(&ragged(page).collect::<Vec<_>>());
            settle(&mut pool, &mut disks);
        }
        pool.checkpoint();
        settle(&mut pool, &mut disks);
        assert_eq!(pool.failed(), None);
        let (again, _) = open(&mut disks).unwrap();
        let (before, after) =
            (pool.metadata().volume(volume).unwrap(), again.metadata().volume(volume).unwrap());
        assert!(before.log.iter().all(|region| after.log.contains(region)), "never less");
        assert_eq!(before.log == after.log, exact);
        assert!(after.log.len() <= before.log.len() * 50, "not everything");
    }
}
