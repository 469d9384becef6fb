//! Lives of a pool that end early, one after the other, while its metadata move: each of them gives the next generation to a
//! commit of its own, and none gets as far as the last superblock. And one superblock rots meanwhile, whenever.
//! Invariants 21 and 22.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;

use std::collections::BTreeSet;

use pool_support::crash::durable_hash;
use pool_support::rot::superblock;
use pool_support::{Disk, formatted, open, open_marked, settle};
use twinsan::format::superblock::SUPERBLOCK_OFFSETS;
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::{DiskOp, Geometry};
use twinsan::planted::Planted;
use twinsan::pool::{DiskNews, DiskRefusal, NewDisk, Pool, PoolOptions, Record};

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
/// Lives that end early, beside the one in which the change was asked for.
const LIVES: u32 = 3;
/// Writes of each of them after which it may end.
const WRITES_MAX: usize = 5;

struct Lives {
    expected: Pool,
    seen: BTreeSet<(u64, bool, u32)>,
    opened: u64,
}

impl Lives {
    /// The power has failed; perhaps a superblock rots too, where there is another.
    fn end(&mut self, disks: &[Disk], rotten: bool, left: u32) {
        self.next(disks.to_vec(), rotten, left);
        for at in (0..disks.len()).filter(|_| !rotten) {
            if let (Some(newest), 2) = superblock(&disks[at]) {
                let mut bad = disks.to_vec();
                bad[at].rot(SUPERBLOCK_OFFSETS[usize::from(newest.place())] + 300);
                self.next(bad, true, left);
            }
        }
    }

    /// The next life begins: everything is there. It ends early as well.
    fn next(&mut self, mut disks: Vec<Disk>, rotten: bool, left: u32) {
        if !self.seen.insert((durable_hash(&disks), rotten, left)) {
            return;
        }
        let (mut pool, devices) = open_marked(&mut disks, Planted::NONE)
            .unwrap_or_else(|error| panic!("{left} lives are left, rotten: {rotten}: {error}"));
        assert_eq!((pool.metadata(), pool.durable()), (self.expected.metadata(), self.expected.durable()));
        self.opened += 1;
        if left > 0 {
            self.live((&mut pool, &devices), &mut disks, (rotten, left - 1), WRITES_MAX);
        }
    }

    /// The pool goes on for so many writes, each of which may be the last of its life. What is written is on the medium.
    fn live(
        &mut self,
        (pool, devices): (&mut Pool, &[usize]),
        disks: &mut [Disk],
        (rotten, left): (bool, u32),
        mut writes: usize,
    ) {
        while writes > 0 {
            for place in (0..pool.disks().len() as u16).map(DiskId) {
                let _ = pool.drop_disk(place);
            }
            let Some(io) = pool.poll_io() else { return };
            let disk = &mut disks[devices[usize::from(io.disk.0)]];
            let result = disk.submit(&io.op);
            disk.flush();
            pool.io_done(io.token, result);
            if matches!(io.op, DiskOp::Write { .. }) {
                writes -= 1;
                self.end(disks, rotten, left);
            }
        }
    }
}

fn with_volume(bytes: &[u64]) -> (Vec<Disk>, Pool) {
    with_log(OPTIONS.log_bytes, bytes)
}

fn with_log(log_bytes: u64, bytes: &[u64]) -> (Vec<Disk>, Pool) {
    let mut disks = formatted(&PoolOptions { log_bytes, ..OPTIONS }, bytes);
    let (mut pool, _) = open(&mut disks).unwrap();
    pool.append(&[Record::VolumeCreate {
        volume: VolumeId(1),
        uuid: Uuid(1),
        sectors: 4096,
        mirrored: true,
    }]);
    settle(&mut pool, &mut disks);
    disks.iter_mut().for_each(Disk::flush);
    (disks, pool)
}

/// The home disk, with nothing on it but the metadata, leaves and is let go.
#[test]
fn lives_end_early_while_the_home_disk_leaves() {
    let mut opened = 0;
    for bytes in [&[1 << 20, 9 << 20, 8 << 20][..], &[12 << 20, 13 << 20, 12 << 20], &[8 << 20, 9 << 20]] {
        let (mut disks, mut pool) = with_volume(bytes);
        let (expected, _) = open(&mut disks.clone()).unwrap();
        let mut lives = Lives { expected, seen: BTreeSet::new(), opened: 0 };
        pool.remove_disk(pool.home()).unwrap();
        let devices: Vec<usize> = (0..disks.len()).collect();
        lives.live((&mut pool, &devices), &mut disks, (false, LIVES), usize::MAX);
        println!("{bytes:?}: opened {} times", lives.opened);
        opened += lives.opened;
    }
    assert!(opened > 1000, "{opened} are too few to mean anything");
}

/// A disk that is empty when the pool is opened is not let go by the first commit of a life: that has no checkpoint, and the
/// superblocks may still name different ones.
#[test]
fn an_empty_disk_stays_until_the_superblocks_agree() {
    let (mut disks, mut pool) = with_volume(&[8 << 20, 9 << 20, 1 << 20]);
    pool.remove_disk(DiskId(2)).unwrap();
    settle(&mut pool, &mut disks);
    let (mut pool, _) = open(&mut disks).unwrap();
    assert!(!pool.drop_disk(DiskId(2)), "nothing has been written in this life");
    settle(&mut pool, &mut disks);
    assert!(pool.drop_disk(DiskId(2)));
}

/// A disk of the size that the refusal names is enough.
#[test]
fn a_disk_as_large_as_was_said_takes_the_metadata() {
    // For the last one the areas have to grow, and there is less room for that than eight times what they take now.
    for (mib, log_bytes) in [(2, 32 << 10), (40, 32 << 10), (4000, 0), (400, 256 << 20)] {
        let (mut disks, mut pool) = with_log(log_bytes, &[mib << 20]);
        let home = pool.home();
        let Err(DiskRefusal::Home { needed }) = pool.remove_disk(home) else {
            panic!("{mib} MiB: it may leave")
        };
        let (device, geometry) = (DiskId(1), Geometry { bytes: needed, sector_bytes: 512 });
        disks.push(Disk::new(needed));
        pool.add_disk(NewDisk { device, geometry, uuid: Uuid(0xADD), replaces: None });
        settle(&mut pool, &mut disks);
        assert!(matches!(pool.poll_disk_news(), Some(DiskNews::Joined { .. })), "{mib} MiB: {needed} bytes");
        pool.remove_disk(home).unwrap_or_else(|why| panic!("{mib} MiB, {needed} bytes: {why}"));
        settle(&mut pool, &mut disks);
        assert!(pool.home() != home && pool.drop_disk(home), "{mib} MiB: {needed} bytes");
    }
}
