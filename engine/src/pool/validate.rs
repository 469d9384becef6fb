//! What a record may say. The same question is asked before a record is written (a wrong one is a bug, and must
//! not reach the disk) and after it is read (a wrong one is damage).

use super::SECTORS_MAX;
use super::families::FAMILY_MAX;
use super::layout::Layout;
use super::metadata::Metadata;
use super::record::{ITEM_BYTES_MAX, Record};
use crate::ids::VolumeId;

/// 512-byte sectors per region of the change log.
pub const REGION_SECTORS: u64 = 128;

/// May the pool append the record? A checkpoint that is read may name a clone before what it was made of.
pub(super) fn check_new(record: &Record, metadata: &Metadata, layout: &Layout) -> Result<(), &'static str> {
    match record {
        Record::VolumeCreate { volume, .. }
            if metadata.volume(*volume).is_none() && metadata.is_named(*volume) =>
        {
            Err("a volume with a number that a clone names")
        }
        _ => check(record, metadata, layout),
    }
}

/// Does the record make sense for this pool as it is?
pub(super) fn check(record: &Record, metadata: &Metadata, layout: &Layout) -> Result<(), &'static str> {
    let good = match record {
        Record::Node(_)
        | Record::VolumeDelete { .. }
        | Record::Half { .. }
        | Record::HotClear { .. }
        | Record::LogClear { .. } => true,
        Record::VolumeCreate { volume, sectors, .. } => {
            if metadata.volume(*volume).is_none() && metadata.volumes_room() >= layout.volumes_max() {
                return Err("more volumes than the pool has room for");
            }
            *sectors <= SECTORS_MAX
        }
        Record::VolumeClone { volume, of, read_only, .. } => {
            if metadata.volume(*volume).is_none() && metadata.volumes_room() >= layout.volumes_max() {
                return Err("more volumes than the pool has room for");
            }
            let Some(model) = metadata.volume(*of) else { return Ok(()) };
            let named = metadata.volume(*volume).is_none() && metadata.is_named(*volume);
            (*read_only || model.is_snapshot()) && !named && metadata.family_size(*of) < FAMILY_MAX
        }
        Record::VolumeItem { volume, name, value, .. } => {
            let room = metadata.volumes_room_with(*volume, *name, value.len());
            if room > layout.volumes_max() && !value.is_empty() {
                return Err("an item that the pool has no room for");
            }
            value.len() <= ITEM_BYTES_MAX
        }
        Record::VolumeState { volume, sectors, .. } => {
            let beyond = sectors.div_ceil(layout.extent_bytes / 512);
            let mapped = metadata.volume(*volume).filter(|volume| *sectors < volume.sectors);
            let cuts = mapped.is_some_and(|volume| {
                u32::try_from(beyond).is_ok_and(|first| volume.map.iter_from(first).next().is_some())
            });
            *sectors <= SECTORS_MAX && !cuts
        }
        Record::Map { volume, extent, slot } | Record::MapShared { volume, extent, slot } => {
            layout.has(*slot) && within(metadata, *volume, *extent, layout.extent_bytes / 512)
        }
        Record::Unmap { volume, extent } => within(metadata, *volume, *extent, layout.extent_bytes / 512),
        Record::HotAdd { volume, area } | Record::HotRemove { volume, area } => {
            within(metadata, *volume, *area, 8)
        }
        Record::ZeroAdd { volume, extent, first, count }
        | Record::ZeroRemove { volume, extent, first, count } => {
            zeros(metadata, layout, *volume, *extent, (*first, *count))
        }
        Record::LogAdd { volume, first, count } | Record::LogRemove { volume, first, count } => {
            let sectors = metadata.volume(*volume).map_or(SECTORS_MAX, |volume| volume.sectors);
            first.checked_add(*count).is_some_and(|end| end <= sectors.div_ceil(REGION_SECTORS))
        }
        Record::UnsureAdd { disk, first, count } | Record::UnsureRemove { disk, first, count } => {
            first.checked_add(u64::from(*count)).is_some_and(|end| *count > 0 && end <= layout.lines(*disk))
        }
    };
    if good { Ok(()) } else { Err("a record of something beyond the end of its volume or disk") }
}

/// Does unit `at` begin inside the volume? Of volumes that do not exist, anything may be said.
fn within(metadata: &Metadata, volume: VolumeId, at: u32, unit_sectors: u64) -> bool {
    metadata.volume(volume).is_none_or(|volume| u64::from(at) * unit_sectors < volume.sectors)
}

/// Do these blocks lie in an extent, and is it mapped? Of volumes that do not exist, anything may be said.
pub(super) fn zeros(
    metadata: &Metadata,
    layout: &Layout,
    volume: VolumeId,
    extent: u32,
    (first, count): (u32, u32),
) -> bool {
    let fits = u64::from(first) + u64::from(count) <= layout.extent_blocks();
    fits && metadata.volume(volume).is_none_or(|volume| volume.map.contains(extent))
}
