//! The bytes on disk: every offset that `docs/format.md` documents, golden images, and what becomes of a pool
//! whose bytes are anything at all.

mod pool_support;

use bytemuck::Zeroable;
use core::mem::{align_of, offset_of, size_of};
use twinsan::format::frame::FrameHeader;
use twinsan::format::record::{
    CreateBody, HalfBody, IndexBody, MapBody, NodeBody, RecordHead, RunBody, TableBody, kind,
};
use twinsan::format::superblock::{DiskEntry, Superblock};

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
        log_start: 160, log_sequence: 168, integrity: 176, reserved: 192, disks: 512, reserved_tail: 2560,
        crc: 4092);
    layout!(DiskEntry, 32, uuid: 0, bytes: 16, slots: 24, state: 28, reserved: 29);
    layout!(FrameHeader, 64, magic: 0, version: 4, kind: 6, pool: 8, sequence: 24, place: 32, flushed: 40,
        payload_bytes: 48, records: 52, header_crc: 56, payload_crc: 60);
    layout!(RecordHead, 8, kind: 0, reserved: 1, units: 2, volume: 4);
    layout!(NodeBody, 24, epoch: 0, proposed: 8, members: 16, up_to_date: 17, reserved: 18);
    layout!(CreateBody, 32, uuid: 0, sectors: 16, mirrored: 24, reserved: 25);
    layout!(HalfBody, 24, generation: 0, ancestors: 16, reserved: 17);
    layout!(MapBody, 12, extent: 0, index: 4, disk: 8, flags: 10);
    layout!(IndexBody, 8, index: 0, reserved: 4);
    layout!(RunBody, 16, first: 0, count: 8);
    layout!(TableBody, 8, count: 0, reserved: 4);
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
        (kind::MAP_TABLE, 32),
        (kind::HOT_TABLE, 33),
        (kind::LOG_PAGE, 34),
    ];
    kinds.iter().for_each(|(kind, number)| assert_eq!(kind, number));
}
