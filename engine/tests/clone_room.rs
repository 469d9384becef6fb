//! Room in the checkpoints for clones: what was asked for before a clone was made stands, whatever is written to it and whatever
//! else comes and goes.

#![allow(clippy::unwrap_used)]

mod pool_support;

use pool_support::{Disk, formatted, open, settle};
use twinsan::ids::{Epoch, Uuid, VolumeId};
use twinsan::pool::{Pool, PoolOptions, Record, check};

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
const SECTORS: u64 = 128 << 10;
const V: u32 = 1;

fn map(pool: &mut Pool, volume: u32, extent: u32) {
    let volume = VolumeId(volume);
    assert!(pool.reserve(volume, extent));
    let slot = pool.allocate(volume, extent);
    pool.append(&[Record::Map { volume, extent, slot }]);
}

fn create(volume: u32) -> Record {
    Record::VolumeCreate { volume: VolumeId(volume), uuid: Uuid(1), sectors: SECTORS, mirrored: true }
}

fn state(volume: u32, deleted: bool) -> Record {
    let (volume, epoch) = (VolumeId(volume), Epoch(1));
    Record::VolumeState { volume, sectors: SECTORS, change: 1, epoch, deleted, read_only: false }
}

fn clone(pool: &mut Pool, volume: u32, of: u32, read_only: bool) {
    let (volume, of, uuid) = (VolumeId(volume), VolumeId(of), Uuid(2));
    pool.may_clone(volume, of, read_only).unwrap();
    pool.append(&[Record::VolumeClone { volume, of, uuid, read_only, mirrored: true }]);
}

/// A pool with as many volumes as it has room for, from this number on.
fn fill(pool: &mut Pool, disks: &mut [Disk], from: u32) {
    for id in from..=pool.volumes_max() as u32 {
        pool.append(&[create(id)]);
        settle(pool, disks);
    }
}

/// What a writable clone gets of its own is in places of its own, which are counted as such.
#[test]
fn a_clone_that_grows_leaves_the_others_their_room() {
    let mut disks = formatted(&OPTIONS, &[30 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    map(&mut pool, V, 0);
    settle(&mut pool, &mut disks);
    clone(&mut pool, 2, V, true);
    clone(&mut pool, 3, 2, false);
    fill(&mut pool, &mut disks, 4);
    let most = pool.volumes_max() as u32;
    for (id, first) in (1..=most).flat_map(|id| (0..9).map(move |part| (id, part * 100))) {
        let volume = VolumeId(id);
        let hot: Vec<Record> = (first..first + 100).map(|area| Record::HotAdd { volume, area }).collect();
        pool.append(&hot);
        settle(&mut pool, &mut disks);
    }
    let mut extent = 1;
    while pool.free_extents() > 0 {
        map(&mut pool, 3, extent);
        settle(&mut pool, &mut disks);
        extent += 1;
    }
    pool.append(&[state(4, false)]);
    assert_eq!(pool.volumes_max() as u32, most, "after any change of a volume");
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    assert!(pool.failed().is_none() && check(&pool).is_clean());
    let (mut again, _) = open(&mut disks).unwrap();
    assert_eq!(again.volumes_max() as u32, most, "in the next life");
    again.append(&[state(5, false)]);
    again.checkpoint();
    settle(&mut again, &mut disks);
    assert!(again.failed().is_none());
}

/// Room for a clone is given back with its last extent.
#[test]
fn what_a_clone_needed_can_be_had_when_it_is_gone() {
    const EXTENTS: u32 = 380;
    let mut disks = formatted(&OPTIONS, &[28 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    for extent in 0..EXTENTS {
        map(&mut pool, V, extent);
        settle(&mut pool, &mut disks);
    }
    let before = pool.volumes_max();
    clone(&mut pool, 2, V, true);
    clone(&mut pool, 3, 2, false);
    assert!(pool.volumes_max() < before);
    for (gone, extent) in [2, 3].into_iter().flat_map(|gone| (0..EXTENTS).map(move |extent| (gone, extent))) {
        if extent == 0 {
            pool.append(&[state(gone, true)]);
        }
        pool.append(&[Record::Unmap { volume: VolumeId(gone), extent }]);
        settle(&mut pool, &mut disks);
    }
    assert_eq!(pool.volumes_max(), before);
    fill(&mut pool, &mut disks, 4);
    assert!(pool.may_clone(VolumeId(1000), VolumeId(V), true).is_err(), "it is full");
}

/// Space that two have let go of is on its way back.
#[test]
fn shared_space_on_its_way_back_is_seen() {
    let mut disks = formatted(&OPTIONS, &[28 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[create(V)]);
    map(&mut pool, V, 0);
    settle(&mut pool, &mut disks);
    clone(&mut pool, 2, V, true);
    settle(&mut pool, &mut disks);
    assert_eq!(pool.freeing(), None);
    pool.append(&[Record::Unmap { volume: VolumeId(V), extent: 0 }]);
    let last = pool.append(&[Record::Unmap { volume: VolumeId(2), extent: 0 }]);
    assert_eq!(pool.freeing(), Some(last));
    settle(&mut pool, &mut disks);
    assert_eq!(pool.freeing(), None);
}
