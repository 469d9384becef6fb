//! The bytes on disk: every offset that `docs/format.md` documents, golden images, and what becomes of a pool
//! whose bytes are anything at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a golden image is printed on demand")]

mod pool_support;

use core::mem::{align_of, offset_of, size_of};

use bytemuck::Zeroable;
use pool_support::golden::{assert_written_as, from_text};
use pool_support::rot::{copies, wipe_copy};
use pool_support::{Disk, disk, formatted, open, settle};
use proptest::prelude::*;
use twinsan::arbiter::{Register, image};
use twinsan::format::frame::FrameHeader;
use twinsan::format::record::{
    CloneBody, CreateBody, HalfBody, IndexBody, ItemBody, KinBody, MapBody, NodeBody, RecordHead, RunBody,
    StateBody, TableBody, UnsureBody, ZeroBody, ZeroMapBody, kind,
};
use twinsan::format::sums::{SumLine, SumPage};
use twinsan::format::superblock::{
    DiskEntry, FEATURE_COPIES, FEATURE_MOVED, FEATURE_ZEROS, FEATURES_KNOWN, Superblock,
};
use twinsan::ids::{DiskId, Epoch, Generation, ItemName, Members, NodeName, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::pool::{
    DiskState, Metadata, NewDisk, NodeRecord, Pool, PoolOptions, REGION_SECTORS, Record, SECTORS_MAX, Slot,
    check, open_arbitrary,
};

macro_rules! layout {
    ($name:ident, $bytes:literal, $($field:ident: $offset:literal),* $(,)?) => {
        assert_eq!((size_of::<$name>(), align_of::<$name>()), ($bytes, 1), stringify!($name));
        $(assert_eq!(offset_of!($name, $field), $offset, concat!(stringify!($name), ".", stringify!($field)));)*
        let _ = $name::zeroed();
    };
}

#[test]
fn every_offset_is_as_documented() {
    layout!(Superblock, 4096, magic: 0, version: 8, copy: 10, node: 11, features: 12, pool: 16, partnership: 32,
        disk: 48, generation: 64, disk_index: 72, disk_count: 74, home: 76, home_second: 78, extent_bytes: 80,
        sector_bytes: 84, data_offset: 88, log_offset: 96, log_bytes: 104, checkpoint_offsets: 112,
        checkpoint_area_bytes: 128, checkpoint_number: 136, checkpoint_bytes: 144, checkpoint_lsn: 152,
        log_start: 160, log_sequence: 168, integrity: 176, spare: 192, reserved: 208, disks: 512, reserved_tail: 2560,
        crc: 4092);
    layout!(DiskEntry, 32, uuid: 0, bytes: 16, slots: 24, state: 28, reserved: 29);
    layout!(FrameHeader, 64, magic: 0, version: 4, kind: 6, pool: 8, sequence: 24, place: 32, flushed: 40,
        payload_bytes: 48, records: 52, header_crc: 56, payload_crc: 60);
    layout!(RecordHead, 8, kind: 0, reserved: 1, units: 2, volume: 4);
    layout!(NodeBody, 24, epoch: 0, proposed: 8, members: 16, up_to_date: 17, complete: 18, reserved: 19);
    layout!(CreateBody, 32, uuid: 0, sectors: 16, mirrored: 24, reserved: 25);
    layout!(ItemBody, 16, revision: 0, name: 8, bytes: 12);
    layout!(StateBody, 32, sectors: 0, change: 8, epoch: 16, deleted: 24, read_only: 25, reserved: 26);
    layout!(CloneBody, 24, uuid: 0, of: 16, read_only: 20, mirrored: 21, reserved: 22);
    layout!(KinBody, 16, of: 0, family: 4, read_only: 8, reserved: 9, extents: 12);
    layout!(HalfBody, 24, generation: 0, ancestors: 16, reserved: 17);
    layout!(MapBody, 12, extent: 0, index: 4, disk: 8, flags: 10);
    layout!(IndexBody, 8, index: 0, reserved: 4);
    layout!(RunBody, 16, first: 0, count: 8);
    layout!(TableBody, 8, count: 0, reserved: 4);
    layout!(ZeroBody, 16, extent: 0, first: 4, count: 8, reserved: 12);
    layout!(ZeroMapBody, 8, extent: 0, words: 4);
    assert_eq!((FEATURE_ZEROS, FEATURES_KNOWN & FEATURE_ZEROS), (2, 2));
    assert_eq!((FEATURE_COPIES, FEATURES_KNOWN & FEATURE_COPIES), (16, 16));
    assert_eq!((FEATURE_MOVED, FEATURES_KNOWN & FEATURE_MOVED), (32, 32));
    layout!(UnsureBody, 16, first: 0, count: 8, disk: 12, reserved: 14);
    layout!(SumLine, 68, sums: 0, crc: 64);
    layout!(SumPage, 4096, lines: 0, reserved: 4080);
    let kinds = [
        (kind::NODE, 1),
        (kind::VOLUME_CREATE, 2),
        (kind::VOLUME_DELETE, 3),
        (kind::HALF, 4),
        (kind::MAP, 5),
        (kind::UNMAP, 6),
        (kind::HOT_ADD, 7),
        (kind::HOT_REMOVE, 8),
        (kind::HOT_CLEAR, 9),
        (kind::LOG_ADD, 10),
        (kind::LOG_REMOVE, 11),
        (kind::LOG_CLEAR, 12),
        (kind::UNSURE_ADD, 13),
        (kind::UNSURE_REMOVE, 14),
        (kind::ZERO_ADD, 18),
        (kind::ZERO_REMOVE, 19),
        (kind::VOLUME_CLONE, 28),
        (kind::MAP_SHARED, 29),
        (kind::KIN, 35),
        (kind::MAP_BASE, 36),
        (kind::UNMAP_TABLE, 37),
        (kind::ZERO_MAP, 39),
        (kind::MAP_TABLE, 32),
        (kind::HOT_TABLE, 33),
        (kind::LOG_PAGE, 34),
    ];
    kinds.iter().for_each(|(kind, number)| assert_eq!(kind, number));
}

/// Each field in its place, and nothing in the reserved ones.
#[test]
fn the_register_is_as_documented() {
    let (partnership, epoch) = (0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10_u128, 0x1112_1314_1516_1718_u64);
    let register = Register { epoch: Epoch(epoch), members: Members::BOTH, by: NodeName::B };
    let mut expected = [0u8; 64];
    for (at, bytes) in [
        (0, &b"TWINREG\0"[..]),
        (8, &1u32.to_le_bytes()),
        (16, &partnership.to_le_bytes()),
        (32, &epoch.to_le_bytes()),
        (40, &[3]),
        (41, &[1]),
    ] {
        expected[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let crc = crc32c::crc32c(&expected[..60]);
    expected[60..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(image::encode(Uuid(partnership), register), expected);
    assert_eq!(image::decode(Uuid(partnership), &expected), Ok(register));
}

/// The records behind the golden images: in a checkpoint, then in the log after it. The first images are of before
/// there were checksums and zeros by block.
fn golden_records(disks: usize, today: bool) -> [Vec<Record>; 2] {
    let (v, w) = (VolumeId(1), VolumeId(0xFFFF_FFFE));
    let slot = |n: u32| match disks {
        1 => Slot { disk: DiskId(0), index: n },
        _ => Slot { disk: DiskId(n as u16), index: 0 },
    };
    let members = Members::only(NodeName::A);
    let (uuid, half) =
        (Uuid(0x0123_4567_89AB_CDEF_0011_2233_4455_6677), 0xFEDC_BA98_7654_3210_FFEE_DDCC_BBAA_9988);
    let node = NodeRecord { epoch: Epoch(7), members, proposed: Epoch(8), up_to_date: true, complete: false };
    let ancestors = vec![Generation(5), Generation(1 << 100)];
    let before = vec![
        Record::VolumeCreate { volume: v, uuid, sectors: 64 << 11, mirrored: true },
        Record::VolumeCreate { volume: w, uuid: Uuid(1), sectors: 4 << 31, mirrored: false },
        Record::VolumeCreate { volume: VolumeId(9), uuid: Uuid(2), sectors: 1000, mirrored: false },
        Record::Half { volume: v, generation: Generation(half), ancestors },
        Record::Map { volume: v, extent: 3, slot: slot(0) },
        Record::Map { volume: v, extent: 700, slot: slot(1) },
        Record::Map { volume: w, extent: 60_000, slot: slot(2) },
        Record::HotAdd { volume: v, area: 5 },
        Record::HotAdd { volume: v, area: 6 },
        Record::LogAdd { volume: v, first: 2, count: 600 },
        Record::LogAdd { volume: w, first: 4096, count: 4096 * 5 },
    ];
    let zeros = [
        Record::ZeroAdd { volume: v, extent: 3, first: 1, count: 15 },
        Record::ZeroAdd { volume: w, extent: 60_000, first: 5, count: 2 },
    ];
    let zeros = zeros.into_iter().filter(|_| today);
    let ragged = (0..40).map(|n| Record::LogAdd { volume: w, first: 90_000 + n * 3, count: 1 });
    let disk = DiskId(0);
    let unsure = [
        Record::UnsureAdd { disk, first: 3, count: 1 },
        Record::UnsureAdd { disk, first: 0, count: 2 },
        Record::UnsureRemove { disk, first: 0, count: 1 },
    ];
    let [unsure_before, unsure_after] = if today { [&unsure[..2], &unsure[2..]] } else { [&unsure[..0]; 2] };
    let mut after = vec![
        Record::Node(node),
        Record::VolumeDelete { volume: VolumeId(9) },
        Record::Unmap { volume: v, extent: 700 },
        Record::HotRemove { volume: v, area: 5 },
        Record::HotClear { volume: w },
        Record::LogRemove { volume: v, first: 100, count: 300 },
        Record::LogClear { volume: VolumeId(9) },
    ];
    let filled = [
        Record::ZeroRemove { volume: v, extent: 3, first: 8, count: 2 },
        Record::ZeroAdd { volume: w, extent: 60_000, first: 15, count: 1 },
    ];
    after.extend(filled.into_iter().filter(|_| today));
    after.extend_from_slice(unsure_after);
    let unsure_before = unsure_before.iter().cloned();
    [before.into_iter().chain(zeros).chain(ragged).chain(unsure_before).collect(), after]
}

/// A pool with these records, three lives old, the last of which ended in the middle of a log write.
fn golden_disks(bytes: &[u64]) -> Vec<Disk> {
    let mut disks = formatted(&PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 }, bytes);
    for records in golden_records(bytes.len(), true) {
        let (mut pool, _) = open(&mut disks).unwrap();
        for record in &records {
            if let Record::Map { volume, extent, slot } = record {
                assert!(pool.reserve(*volume, *extent));
                assert_eq!(pool.allocate(*volume, *extent), *slot);
            }
            pool.append(core::slice::from_ref(record));
        }
        settle(&mut pool, &mut disks);
        if records.len() > 10 {
            pool.checkpoint();
            settle(&mut pool, &mut disks);
        }
    }
    let (mut pool, _) = open(&mut disks).unwrap();
    settle(&mut pool, &mut disks);
    pool.append(&vec![Record::HotAdd { volume: VolumeId(1), area: 77 }; 300]);
    let io = pool.poll_io().unwrap();
    let home = disk(&mut disks, io.disk);
    home.begin(&io.op);
    let first = *home.unflushed.keys().next().unwrap();
    home.unflushed.retain(|at, _| *at < first + 3);
    home.flush();
    disks
}

/// As pools are written today.
const GOLDEN: [(&str, &[u64]); 3] = [
    (include_str!("golden/pool-v1-full-one-disk.txt"), &[2 << 20]),
    (include_str!("golden/pool-v1-full-three-disks.txt"), &[2 << 20, 1 << 20, 1 << 20]),
    (include_str!("golden/pool-v1-copies-three-disks.txt"), &[9 << 20, 8 << 20, 8 << 20]),
];

/// As one was written before pools could grow: its checkpoint areas are smaller.
const FIXED: &str = include_str!("golden/pool-v1-full-three-disks-fixed.txt");

/// As they were written before there were block checksums and zeros by block.
const FIRST: [&str; 2] =
    [include_str!("golden/pool-v1-one-disk.txt"), include_str!("golden/pool-v1-three-disks.txt")];

#[test]
fn golden_images_open() {
    let today = GOLDEN.iter().map(|(text, _)| (*text, true));
    for (text, today) in today.chain([(FIXED, true)]).chain(FIRST.map(|text| (text, false))) {
        let mut disks = from_text(text);
        let (pool, report) = open(&mut disks).unwrap();
        assert_eq!(pool.sum_area(DiskId(0)).is_some(), today);
        let records = golden_records(disks.len(), today).concat();
        let mut expected = Metadata::new();
        records.iter().for_each(|record| drop(expected.apply(record)));
        assert_eq!(*pool.metadata(), expected);
        assert_eq!(pool.durable().0, records.len() as u64);
        assert!(report.torn.is_some());
        // A pool from before has no room to remember zeros: they are written.
        assert_eq!((pool.zero_extents_max() > 0, pool.metadata().zero_extents() > 0), (today, today));
        assert!(check(&pool).is_clean());
    }
}

/// Each copy of the metadata alone is enough.
#[test]
fn a_golden_image_with_two_copies_opens_without_either() {
    let disks = from_text(GOLDEN[2].0);
    let (expected, report) = open(&mut disks.clone()).unwrap();
    assert_eq!((report.copies.len(), report.completed), (0, None));
    let copies = copies(&disks);
    assert_eq!(copies.iter().map(|copy| copy.disk).collect::<Vec<_>>(), [0, 1]);
    for copy in &copies {
        let mut disks = disks.clone();
        wipe_copy(&mut disks, copy);
        assert_eq!(open(&mut disks).unwrap().0.metadata(), expected.metadata());
    }
}

/// What is written today is what was written when the images were made; if it must change, the version must.
#[test]
fn golden_images_are_still_written_so() {
    for (text, bytes) in GOLDEN {
        assert_written_as(&golden_disks(bytes), text);
    }
}

const GOLDEN_CHANGES: &str = include_str!("golden/pool-v1-disk-changes.txt");

/// Carries out what the pool asks for, and lets go what is empty.
fn settle_changes(pool: &mut Pool, disks: &mut [Disk]) {
    for _ in 0..3 {
        settle(pool, disks);
        for place in (0..pool.disks().len() as u16).map(DiskId) {
            let _ = pool.drop_disk(place);
        }
    }
}

/// A blank disk joins.
fn add_disk(pool: &mut Pool, disks: &mut Vec<Disk>, bytes: u64) {
    let (device, geometry) = (DiskId(disks.len() as u16), Geometry { bytes, sector_bytes: 4096 });
    disks.push(Disk::new(bytes));
    pool.add_disk(NewDisk { device, geometry, uuid: Uuid(0xADD), replaces: None });
    settle_changes(pool, disks);
}

fn map_somewhere(pool: &mut Pool, extent: u32) {
    let volume = VolumeId(1);
    assert!(pool.reserve(volume, extent));
    let slot = pool.allocate(volume, extent);
    pool.append(&[Record::Map { volume, extent, slot }]);
}

/// A pool of four places: the home disk, an empty one, one that is leaving, and one that was added.
fn golden_disk_changes() -> Vec<Disk> {
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
    let mut disks = formatted(&options, &[2 << 20, 1 << 20, 1 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let volume = VolumeId(1);
    pool.append(&[Record::VolumeCreate { volume, uuid: Uuid(1), sectors: 64 << 11, mirrored: true }]);
    (0..6).for_each(|extent| map_somewhere(&mut pool, extent));
    settle(&mut pool, &mut disks);
    add_disk(&mut pool, &mut disks, 1 << 20);
    pool.remove_disk(DiskId(1)).unwrap();
    for extent in 0..6 {
        let slot = pool.metadata().volume(volume).unwrap().map.get(extent).unwrap();
        if slot.disk == DiskId(1) {
            let slot = pool.allocate_move(volume, extent).unwrap();
            pool.append(&[Record::Map { volume, extent, slot }]);
        }
    }
    settle_changes(&mut pool, &mut disks);
    pool.remove_disk(DiskId(2)).unwrap();
    settle_changes(&mut pool, &mut disks);
    map_somewhere(&mut pool, 100);
    settle_changes(&mut pool, &mut disks);
    disks.remove(1);
    disks
}

#[test]
fn a_golden_image_of_disks_that_come_and_go_opens_and_is_still_written_so() {
    assert_written_as(&golden_disk_changes(), GOLDEN_CHANGES);
    let mut disks = from_text(GOLDEN_CHANGES);
    disks.reverse();
    let (pool, report) = open(&mut disks).unwrap();
    let states: Vec<DiskState> = pool.disks().iter().map(|disk| disk.state).collect();
    assert_eq!(states, [DiskState::InUse, DiskState::Removed, DiskState::Leaving, DiskState::InUse]);
    assert_eq!(pool.metadata().mapped(), 7);
    assert!(report.strays.is_empty() && check(&pool).is_clean());
    assert_eq!(pool.disks()[3].sector_bytes, 4096);
}

const GOLDEN_MOVED: &str = include_str!("golden/pool-v1-moved-home.txt");

/// A pool whose home disk has left. The metadata have grown for one that was added, and lie there, both copies.
fn golden_moved() -> Vec<Disk> {
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
    let mut disks = formatted(&options, &[9 << 20, 8 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let volume = VolumeId(1);
    pool.append(&[Record::VolumeCreate { volume, uuid: Uuid(1), sectors: 64 << 11, mirrored: true }]);
    settle(&mut pool, &mut disks);
    add_disk(&mut pool, &mut disks, 1 << 30);
    pool.remove_disk(DiskId(0)).unwrap();
    settle_changes(&mut pool, &mut disks);
    (0..3).for_each(|extent| map_somewhere(&mut pool, extent));
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    map_somewhere(&mut pool, 100);
    settle(&mut pool, &mut disks);
    disks.remove(0);
    disks
}

#[test]
fn a_golden_image_of_metadata_that_have_moved_opens_and_is_still_written_so() {
    assert_written_as(&golden_moved(), GOLDEN_MOVED);
    let disks = from_text(GOLDEN_MOVED);
    let (pool, report) = open(&mut disks.clone()).unwrap();
    assert_eq!((pool.home(), pool.second_copy()), (DiskId(2), Some(DiskId(2))));
    assert_eq!((pool.metadata().mapped(), report.entries, report.copies.len()), (4, 1, 0));
    assert!(check(&pool).is_clean());
    let copies = copies(&disks);
    assert_eq!(copies.iter().map(|copy| copy.disk).collect::<Vec<_>>(), [1, 1]);
    for copy in &copies {
        let mut disks = disks.clone();
        wipe_copy(&mut disks, copy);
        assert_eq!(open(&mut disks).unwrap().0.metadata(), pool.metadata());
    }
}

const GOLDEN_ITEMS: &str = include_str!("golden/pool-v1-items.txt");

/// A pool with things that are kept with its volumes: in a checkpoint, and changed once more in the log after it.
fn golden_items() -> Vec<Disk> {
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
    let mut disks = formatted(&options, &[2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let item = |volume, name, revision, text: &str| {
        let (volume, name) = (VolumeId(volume), ItemName(name));
        Record::VolumeItem { volume, name, revision, value: text.as_bytes().into() }
    };
    for id in 1..=2 {
        let (volume, uuid) = (VolumeId(id), Uuid(u128::from(id)));
        pool.append(&[Record::VolumeCreate { volume, uuid, sectors: 1000, mirrored: true }]);
    }
    pool.append(&[item(1, 1, 1, "first"), item(1, 700, 2, "second"), item(2, 1, 1, &"long ".repeat(300))]);
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    pool.append(&[item(1, 1, 3, ""), item(1, 700, 4, "later"), item(2, 0, 2, "another")]);
    settle(&mut pool, &mut disks);
    disks
}

#[test]
fn a_golden_image_with_items_opens_and_is_still_written_so() {
    assert_written_as(&golden_items(), GOLDEN_ITEMS);
    let (pool, _) = open(&mut from_text(GOLDEN_ITEMS)).unwrap();
    let items = |volume| {
        let items = pool.metadata().volume(VolumeId(volume)).unwrap().items.iter();
        items.map(|(name, item)| (name.0, item.revision, item.value.len())).collect::<Vec<_>>()
    };
    assert_eq!(items(1), [(700, 4, 5)]);
    assert_eq!(items(2), [(0, 2, 7), (1, 1, 1500)]);
    assert_eq!(pool.metadata().volumes_room(), 7, "what is kept counts as volumes do");
    assert!(check(&pool).is_clean());
}

const GOLDEN_VOLUMES: &str = include_str!("golden/pool-v1-volume-changes.txt");

/// A pool with a volume that has grown, one that is deleted and not gone yet, and one of which nothing but that is left;
/// in a checkpoint, and changed once more in the log after it.
fn golden_volume_changes() -> Vec<Disk> {
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
    let mut disks = formatted(&options, &[2 << 20]);
    let (mut pool, _) = open(&mut disks).unwrap();
    let state = |volume, sectors, change, epoch, deleted| {
        let (volume, epoch) = (VolumeId(volume), Epoch(epoch));
        Record::VolumeState { volume, sectors, change, epoch, deleted, read_only: false }
    };
    for id in 1..=3 {
        let (volume, uuid) = (VolumeId(id), Uuid(u128::from(id)));
        pool.append(&[Record::VolumeCreate { volume, uuid, sectors: 1000, mirrored: id != 2 }]);
    }
    pool.append(&[state(1, 5000, 1, 7, false), state(3, 1000, 1, 8, true)]);
    (0..4).for_each(|extent| map_somewhere(&mut pool, extent));
    pool.checkpoint();
    settle(&mut pool, &mut disks);
    pool.append(&[state(1, 6000, 2, 9, false)]);
    map_somewhere(&mut pool, 40);
    pool.append(&[state(2, 2000, 1, 9, false), Record::LogAdd { volume: VolumeId(1), first: 46, count: 1 }]);
    pool.append(&[state(1, 6000, 3, 10, true), Record::Unmap { volume: VolumeId(1), extent: 0 }]);
    settle(&mut pool, &mut disks);
    disks
}

#[test]
fn a_golden_image_of_volumes_that_change_opens_and_is_still_written_so() {
    assert_written_as(&golden_volume_changes(), GOLDEN_VOLUMES);
    let (pool, _) = open(&mut from_text(GOLDEN_VOLUMES)).unwrap();
    let states: Vec<_> = pool
        .metadata()
        .volumes()
        .map(|(id, meta)| (id.0, meta.sectors, meta.change, meta.changed_in.0, meta.deleted, meta.map.len()))
        .collect();
    assert_eq!(states, [(1, 6000, 3, 10, true, 4), (2, 2000, 1, 9, false, 0), (3, 1000, 1, 8, true, 0)]);
    assert!(check(&pool).is_clean());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes: a sound pool or an error.
    #[test]
    fn arbitrary_bytes_open_or_are_refused(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = open_arbitrary(&data);
    }

    /// Records that are nearly right, in a checkpoint or in the log.
    #[test]
    fn arbitrary_records_open_or_are_refused(
        mode in 2u8..4,
        copies in any::<bool>(),
        records in proptest::collection::vec((1u8..17, 1u8..5, 0u32..3, proptest::collection::vec(any::<u64>(), 5)), 1..30),
        small in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for (kind, units, volume, words) in records {
            let kind = match kind {
                15.. if mode == 2 => [32, 33, 34, 39][usize::from(kind) % 4],
                15.. => 18 + kind % 2,
                kind => kind,
            };
            let mut record = vec![kind, 0, units + 1, 0];
            record.extend_from_slice(&volume.to_le_bytes());
            for word in words.iter().take(usize::from(units)) {
                record.extend_from_slice(&(if small { word % 9 } else { *word }).to_le_bytes());
            }
            if mode == 3 {
                bytes.extend_from_slice(&((record.len() as u16) << 3).to_le_bytes());
            }
            bytes.extend_from_slice(&record);
        }
        bytes.insert(0, mode | if copies { 0x80 } else { 0 });
        let _ = open_arbitrary(&bytes);
    }
}

/// The costliest thing that few bytes can say: volumes of 64 TiB whose change logs are full.
#[test]
fn few_bytes_never_cost_much() {
    let mut bytes = vec![2u8];
    for volume in 0..30u32 {
        let mut create = [0u8; 40];
        create[..4].copy_from_slice(&[kind::VOLUME_CREATE, 0, 5, 0]);
        create[4..8].copy_from_slice(&volume.to_le_bytes());
        create[24..32].copy_from_slice(&SECTORS_MAX.to_le_bytes());
        let mut add = [0u8; 24];
        add[..4].copy_from_slice(&[kind::LOG_ADD, 0, 3, 0]);
        add[4..8].copy_from_slice(&volume.to_le_bytes());
        add[16..24].copy_from_slice(&(SECTORS_MAX / REGION_SECTORS).to_le_bytes());
        bytes.extend_from_slice(&create);
        bytes.extend_from_slice(&add);
    }
    let report = open_arbitrary(&bytes).unwrap();
    assert_eq!(report.volumes, 30);
}
