//! Where everything lies on the disks of a pool, planned when it is made and read back from its superblocks.
//!
//! On the home disk (the largest): superblocks, log, two checkpoint areas, checksums, data. On the others: superblocks,
//! checksums, data. The checkpoint areas hold the map of a full pool, so unmapping never lacks metadata space. At the end
//! of each disk that is large enough, room is spared for a copy of log and checkpoint areas: see `copies`. Where they go
//! when that disk leaves, or when they become too small, is `moving`'s to say.

use super::error::PoolError;
use super::families::CloneRoom;
use super::metadata::VOLUME_BYTES;
use super::moving::Sizes;
use super::record::Slot;
use crate::block::BLOCK_BYTES;
use crate::format::frame::CHECKPOINT_FRAME_BYTES_MAX;
use crate::format::sums::{LINE_DATA_BYTES, area_bytes};
use crate::format::superblock::{
    DISK_IN_USE, DISK_LEAVING, DISK_REMOVED, DISKS_MAX, DiskEntry, FEATURE_COPIES, FEATURE_MOVED,
    FEATURE_SUMS, FEATURE_ZEROS, NO_SECOND, SUPERBLOCK_AREA_BYTES, Superblock,
};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::Geometry;
use bytemuck::Zeroable;

/// Smallest extent.
pub const EXTENT_BYTES_MIN: u64 = 64 << 10;
/// Largest extent.
pub const EXTENT_BYTES_MAX: u64 = 128 << 20;
/// Smallest log.
pub const LOG_BYTES_MIN: u64 = 32 << 10;
/// Room in a checkpoint for what is not map: at least and at most.
const SIDE_BYTES: (u64, u64) = (128 << 10, 64 << 20);
/// Most room in a checkpoint for the blocks that read as zero inside mapped extents.
const ZERO_BYTES_MAX: u64 = 32 << 20;
/// The spare area takes at most this part of a disk: smaller disks have none.
pub(super) const SPARE_SHARE: u64 = 8;
/// A pool can grow to this many times the extents that its checkpoint areas were made for before they are full.
pub(super) const GROWTH: u64 = 4;
/// The log of a pool takes at least and at most this, unless it is asked for another size.
pub(super) const LOG_BYTES: (u64, u64) = (512 << 10, 64 << 20);
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Who a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The pool.
    pub pool: Uuid,
    /// The partnership that it serves.
    pub partnership: Uuid,
    /// The node that it is part of.
    pub node: NodeName,
}

/// How a pool shall be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolOptions {
    /// Bytes per extent: a power of two from 64 KiB to 128 MiB.
    pub extent_bytes: u64,
    /// Bytes of the metadata log, a multiple of 4096; 0: derived from the size of the disks. It bounds the time that recovery takes.
    pub log_bytes: u64,
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions { extent_bytes: 1 << 20, log_bytes: 0 }
    }
}

/// What a place of a pool is to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// On its way in; not used before the superblocks name it.
    Joining,
    /// In use.
    InUse,
    /// Being emptied; nothing new is put on it.
    Leaving,
    /// Empty: its disk was removed.
    Removed,
}

/// One disk of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolDisk {
    /// What it is to the pool.
    pub state: DiskState,
    /// Its identity.
    pub uuid: Uuid,
    /// Its size in bytes when it was formatted.
    pub bytes: u64,
    /// The unit that it wrote atomically when it was formatted.
    pub sector_bytes: u32,
    /// Where its data area begins.
    pub data_offset: u64,
    /// Extents in its data area.
    pub slots: u32,
    /// Where its checksum area lies, in bytes from the beginning: offset and bytes. Zero: it has none.
    pub sums: [u64; 2],
    /// Room on it for a copy of the metadata: offset and bytes. Zero: none.
    pub spare: [u64; 2],
}

/// Where everything lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) extent_bytes: u64,
    pub(super) disks: Vec<PoolDisk>,
    pub(super) home: DiskId,
    pub(super) log_offset: u64,
    pub(super) log_bytes: u64,
    pub(super) checkpoint_offsets: [u64; 2],
    pub(super) checkpoint_area_bytes: u64,
    pub(super) features: u32,
    /// Sizes that the areas get with the commit that lets a disk join.
    pub(super) growing: Option<Sizes>,
    /// Bytes of the disks by which the room for volumes is measured: those on which extents are put.
    pub(super) counted_bytes: u64,
    /// What the clones of the pool may come to need of a checkpoint.
    pub(super) clones: CloneRoom,
}

/// What changes from one superblock of a pool to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Commit {
    pub(super) generation: u64,
    pub(super) checkpoint_number: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) checkpoint_lsn: u64,
    pub(super) log_start: u64,
    pub(super) log_sequence: u64,
    /// The disk in whose spare area the second copy of log and checkpoints lies.
    pub(super) second: Option<DiskId>,
}

impl Layout {
    /// Plans a pool on these disks.
    pub(super) fn plan(
        options: &PoolOptions,
        uuids: &[Uuid],
        disks: &[Geometry],
    ) -> Result<Layout, PoolError> {
        let extent = options.extent_bytes;
        if !extent.is_power_of_two() || !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) {
            return Err(PoolError::ExtentBytes(extent));
        }
        if disks.is_empty() || disks.len() > DISKS_MAX || disks.len() != uuids.len() {
            return Err(PoolError::Disks { disks: disks.len(), uuids: uuids.len() });
        }
        let home = (0..disks.len()).rev().max_by_key(|at| disks[*at].bytes).expect("at least one disk");
        let bytes: u64 = disks.iter().map(|disk| disk.bytes).sum();
        let side = side_bytes(bytes);
        let area = checkpoint_area_bytes(bytes / extent * GROWTH, side + zero_bytes(bytes, extent));
        let log = match options.log_bytes {
            0 => log_bytes(bytes, extent),
            log if log >= LOG_BYTES_MIN && log.is_multiple_of(BLOCK) => log,
            log => return Err(PoolError::LogBytes(log)),
        };
        let checkpoints = SUPERBLOCK_AREA_BYTES + log;
        let mut layout = Layout {
            extent_bytes: extent,
            disks: Vec::new(),
            home: DiskId(home as u16),
            log_offset: SUPERBLOCK_AREA_BYTES,
            log_bytes: log,
            checkpoint_offsets: [checkpoints, checkpoints + area],
            checkpoint_area_bytes: area,
            features: FEATURE_ZEROS,
            growing: None,
            counted_bytes: bytes,
            clones: CloneRoom::default(),
        };
        for (at, (disk, uuid)) in disks.iter().zip(uuids).enumerate() {
            let meta = if at == home { checkpoints + 2 * area } else { SUPERBLOCK_AREA_BYTES };
            let spares = [layout.copy_bytes()];
            let planned = plan_disk(DiskId(at as u16), *uuid, disk, (meta, &spares), extent)?;
            layout.disks.push(planned);
        }
        Ok(layout)
    }

    /// The superblock of one disk.
    pub(super) fn superblock(&self, identity: &Identity, commit: &Commit, disk: DiskId) -> Superblock {
        let mut block = Superblock::zeroed();
        let own = &self.disks[usize::from(disk.0)];
        block.magic = crate::format::superblock::SUPERBLOCK_MAGIC;
        block.version = crate::format::FORMAT_VERSION.into();
        block.node = identity.node as u8;
        block.pool = identity.pool.0.into();
        block.partnership = identity.partnership.0.into();
        block.disk = own.uuid.0.into();
        block.generation = commit.generation.into();
        block.disk_index = disk.0.into();
        block.disk_count = (self.disks.len() as u16).into();
        block.home = self.home.0.into();
        block.home_second = commit.second.map_or(NO_SECOND, |second| second.0).into();
        block.extent_bytes = (self.extent_bytes as u32).into();
        block.sector_bytes = own.sector_bytes.into();
        block.data_offset = own.data_offset.into();
        block.integrity = own.sums.map(Into::into);
        block.spare = own.spare.map(Into::into);
        let sums = if own.sums[1] == 0 { 0 } else { FEATURE_SUMS };
        let copies = if commit.second.is_none() { 0 } else { FEATURE_COPIES };
        let moved = if self.is_moved() { FEATURE_MOVED } else { 0 };
        block.features = (self.features | sums | copies | moved).into();
        block.log_offset = self.log_offset.into();
        block.log_bytes = self.log_bytes.into();
        block.checkpoint_offsets = self.checkpoint_offsets.map(Into::into);
        block.checkpoint_area_bytes = self.checkpoint_area_bytes.into();
        block.checkpoint_number = commit.checkpoint_number.into();
        block.checkpoint_bytes = commit.checkpoint_bytes.into();
        block.checkpoint_lsn = commit.checkpoint_lsn.into();
        block.log_start = commit.log_start.into();
        block.log_sequence = commit.log_sequence.into();
        for (entry, disk) in block.disks.iter_mut().zip(&self.disks) {
            *entry = DiskEntry {
                uuid: disk.uuid.0.into(),
                bytes: disk.bytes.into(),
                slots: disk.slots.into(),
                state: match disk.state {
                    DiskState::Joining | DiskState::InUse => DISK_IN_USE,
                    DiskState::Leaving => DISK_LEAVING,
                    DiskState::Removed => DISK_REMOVED,
                },
                reserved: [0; 3],
            };
        }
        block
    }

    /// The layout that the superblock that counts and those of the disks, by place, describe; or what is
    /// wrong with it and in which place. After this, arithmetic on the layout cannot overflow and nothing lies
    /// outside its disk.
    pub(super) fn read(
        main: &Superblock,
        blocks: &[Option<Superblock>],
    ) -> Result<(Layout, Commit), (DiskId, &'static str)> {
        let home = DiskId(main.home.get());
        let extent = u64::from(main.extent_bytes.get());
        if !extent.is_power_of_two() || !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) {
            return Err((home, "its extent size"));
        }
        let mut layout = Layout {
            extent_bytes: extent,
            disks: Vec::new(),
            home,
            log_offset: main.log_offset.get(),
            log_bytes: main.log_bytes.get(),
            checkpoint_offsets: main.checkpoint_offsets.map(|offset| offset.get()),
            checkpoint_area_bytes: main.checkpoint_area_bytes.get(),
            features: main.features.get() & !(FEATURE_SUMS | FEATURE_COPIES | FEATURE_MOVED),
            growing: None,
            counted_bytes: 0,
            clones: CloneRoom::default(),
        };
        for (at, (entry, block)) in main.disks.iter().zip(blocks).enumerate() {
            let id = DiskId(at as u16);
            match block {
                Some(block) => layout.take_in(id, entry, block, main).map_err(|what| (id, what))?,
                None => layout.disks.push(PoolDisk::removed(Uuid(entry.uuid.get()))),
            }
        }
        let commit = Commit {
            generation: main.generation.get(),
            checkpoint_number: main.checkpoint_number.get(),
            checkpoint_bytes: main.checkpoint_bytes.get(),
            checkpoint_lsn: main.checkpoint_lsn.get(),
            log_start: main.log_start.get(),
            log_sequence: main.log_sequence.get(),
            second: Some(main.home_second.get()).filter(|second| *second != NO_SECOND).map(DiskId),
        };
        let copies = main.features.get() & FEATURE_COPIES != 0;
        if copies != commit.second.is_some() || commit.second.is_some_and(|disk| !layout.may_be_second(disk))
        {
            return Err((home, "the place of the second copy of its metadata"));
        }
        layout.check(&commit).map_err(|what| (home, what))?;
        Ok((layout, commit))
    }

    /// The disk at `id`, as the table and its own superblock describe it; or what is wrong with it.
    fn take_in(
        &mut self,
        id: DiskId,
        entry: &DiskEntry,
        block: &Superblock,
        main: &Superblock,
    ) -> Result<(), &'static str> {
        let state = if entry.state == DISK_IN_USE { DiskState::InUse } else { DiskState::Leaving };
        let disk = PoolDisk {
            state,
            uuid: Uuid(block.disk.get()),
            bytes: entry.bytes.get(),
            sector_bytes: block.sector_bytes.get(),
            data_offset: block.data_offset.get(),
            slots: entry.slots.get(),
            sums: block.integrity.map(|number| number.get()),
            spare: block.spare.map(|number| number.get()),
        };
        let has_sums = block.features.get() & FEATURE_SUMS != 0;
        let [_, sums] = if has_sums { disk.sums } else { [0, u64::MAX] };
        if has_sums != (disk.sums != [0, 0])
            || sums < area_bytes(u64::from(disk.slots).saturating_mul(self.extent_bytes))
        {
            return Err("its checksum area");
        }
        // Of another generation it may name another home disk: a move of the metadata was cut short.
        let same_home = block.home.get() == self.home.0 || block.generation != main.generation;
        if !same_home || u64::from(block.extent_bytes.get()) != self.extent_bytes {
            return Err("it disagrees with the other disks");
        }
        let mut areas = vec![
            (0, SUPERBLOCK_AREA_BYTES),
            (disk.data_offset, u64::from(disk.slots).saturating_mul(self.extent_bytes)),
            (disk.sums[0], disk.sums[1]),
            (disk.spare[0], disk.spare[1]),
        ];
        areas.retain(|(_, bytes)| *bytes != 0);
        let moved = main.features.get() & FEATURE_MOVED != 0;
        if id == self.home && !moved {
            areas.push((self.log_offset, self.log_bytes));
            areas.extend(self.checkpoint_offsets.map(|offset| (offset, self.checkpoint_area_bytes)));
        }
        if !disjoint(areas, disk.bytes) {
            return Err("its areas overlap or lie outside the disk");
        }
        if id == self.home && moved && !self.lies_in(disk.spare) {
            return Err("the place of its metadata");
        }
        if state == DiskState::InUse {
            self.counted_bytes = self.counted_bytes.saturating_add(disk.bytes);
        }
        self.disks.push(disk);
        Ok(())
    }

    fn check(&self, commit: &Commit) -> Result<(), &'static str> {
        let log = self.log_bytes >= LOG_BYTES_MIN && commit.log_start < self.log_bytes;
        if !log || !commit.log_start.is_multiple_of(BLOCK) {
            return Err("the place of its log");
        }
        if commit.checkpoint_bytes > self.checkpoint_area_bytes
            || commit.checkpoint_bytes == 0
            || !commit.checkpoint_bytes.is_multiple_of(BLOCK)
        {
            return Err("the size of its checkpoint");
        }
        // Numbers that no pool reaches, so that counting on from them cannot overflow.
        let numbers =
            [commit.generation, commit.checkpoint_number, commit.checkpoint_lsn, commit.log_sequence];
        if commit.log_sequence == 0 || numbers.iter().any(|number| *number > u64::MAX >> 8) {
            return Err("its numbers");
        }
        Ok(())
    }

    /// Where the slot lies, in bytes from the beginning of its disk.
    #[inline]
    pub(super) fn offset(&self, slot: Slot) -> u64 {
        self.disks[usize::from(slot.disk.0)].data_offset + u64::from(slot.index) * self.extent_bytes
    }

    /// Is there such a slot?
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.disks.get(usize::from(slot.disk.0)).is_some_and(|disk| slot.index < disk.slots)
    }

    /// Lines of the disk's checksum area; zero if there is no such disk, or it has none.
    pub(super) fn lines(&self, disk: DiskId) -> u64 {
        let disk = self.disks.get(usize::from(disk.0)).filter(|disk| disk.sums[1] != 0);
        disk.map_or(0, |disk| u64::from(disk.slots) * self.extent_bytes / LINE_DATA_BYTES)
    }

    /// Room in a checkpoint for what is not map.
    pub(super) fn side_bytes(&self) -> u64 {
        self.side_bytes_with(self.counted_bytes, None)
    }

    /// The same, if so many bytes counted and there were a disk more: what the map and the zeros leave.
    pub(super) fn side_bytes_with(&self, counted_bytes: u64, more: Option<&PoolDisk>) -> u64 {
        let left = |(beside_map, zeros)| side_bytes(counted_bytes).min(beside_map - zeros);
        self.rooms(more).map(left).min().expect("there is always one")
    }

    /// Of the bytes that the map of the full pool leaves in a checkpoint, what the maps of zeros may take, with a disk more.
    pub(super) fn zeros_room(&self, more: Option<&PoolDisk>) -> u64 {
        self.rooms(more).map(|(_, zeros)| zeros).min().expect("there is always one")
    }

    /// Would these clones leave enough: for so many volumes, for the blocks that read as zero in so many extents, and for a
    /// quarter of what a new pool of this size would have for everything else?
    pub(super) fn has_room_with(&self, clones: CloneRoom, volumes: usize, zero_extents: u64) -> bool {
        let with = Layout { clones, ..self.clone() };
        let side = with.side_bytes();
        side >= side_bytes(self.counted_bytes) / GROWTH
            && (side / VOLUME_BYTES) as usize >= volumes
            && with.zero_extents_max() >= zero_extents
    }

    /// What a checkpoint has room for beside the map, and for zeros. While the areas are about to grow both counts are
    /// kept to: the one without the disk that they grow for, and the one with it.
    fn rooms<'a>(&'a self, more: Option<&'a PoolDisk>) -> impl Iterator<Item = (u64, u64)> + 'a {
        let counts = move |disk: &&PoolDisk| self.growing.is_none() || disk.state != DiskState::Joining;
        let now = self.room(self.checkpoint_area_bytes, self.disks.iter().filter(counts).chain(more));
        let then = self.growing.map(|sizes| self.room(sizes.area_bytes, self.disks.iter().chain(more)));
        core::iter::once(now).chain(then)
    }

    /// Bytes that the map of the full pool leaves of an area, and what of them the maps of zeros may take. All disks count,
    /// whatever they are to the pool: it shrinks only when a disk joins, which is when it is looked at, or when one is
    /// gone, which its extents have left.
    fn room<'a>(&self, area_bytes: u64, disks: impl Iterator<Item = &'a PoolDisk>) -> (u64, u64) {
        let (mut extents, mut bytes) = (0, 0u64);
        for disk in disks {
            (extents, bytes) = (extents + u64::from(disk.slots), bytes.saturating_add(disk.bytes));
        }
        let beside_map = area_bytes.saturating_sub(map_bytes(self.clones.entries(extents)));
        if self.features & FEATURE_ZEROS == 0 {
            return (beside_map, 0);
        }
        let least = side_bytes(bytes) / GROWTH;
        (beside_map, zero_bytes(bytes, self.extent_bytes).min(beside_map.saturating_sub(least)))
    }

    /// 4 KiB blocks per extent.
    pub(super) fn extent_blocks(&self) -> u64 {
        self.extent_bytes / BLOCK
    }

    /// Most extents in which some block may read as zero: as many as a checkpoint has room for when it holds
    /// everything else that it must.
    pub(super) fn zero_extents_max(&self) -> u64 {
        self.zeros_room(None) / zero_map_room(self.extent_blocks())
    }

    /// Most volumes of the pool.
    pub(super) fn volumes_max(&self) -> usize {
        (self.side_bytes() / VOLUME_BYTES) as usize
    }

    /// Most volumes of the pool without so many bytes of its disks.
    pub(super) fn volumes_max_without(&self, bytes: u64) -> usize {
        (self.side_bytes_with(self.counted_bytes.saturating_sub(bytes), None) / VOLUME_BYTES) as usize
    }
}

impl PoolDisk {
    /// An empty place.
    pub(super) fn removed(uuid: Uuid) -> PoolDisk {
        let (bytes, sector_bytes, data_offset, slots, sums, spare) = (0, 0, 0, 0, [0; 2], [0; 2]);
        PoolDisk { state: DiskState::Removed, uuid, bytes, sector_bytes, data_offset, slots, sums, spare }
    }
}

/// A disk whose checksums, and then its data, begin behind `meta` bytes. At its end there is room for copies of the
/// metadata: the first of `spares` bytes that it is large enough for.
pub(super) fn plan_disk(
    place: DiskId,
    uuid: Uuid,
    disk: &Geometry,
    (meta, spares): (u64, &[u64]),
    extent: u64,
) -> Result<PoolDisk, PoolError> {
    let spare = spares.iter().copied().find(|spare| *spare <= disk.bytes / SPARE_SHARE).unwrap_or(0);
    let end = if spare == 0 { disk.bytes } else { (disk.bytes - spare) / BLOCK * BLOCK };
    let sums = area_bytes(end.saturating_sub(meta));
    let data_offset = (meta + sums).next_multiple_of(extent.min(1 << 20));
    let slots = end.saturating_sub(data_offset) / extent;
    let bytes = disk.bytes;
    if slots == 0 {
        return Err(PoolError::TooSmall { disk: place, bytes, needed: data_offset + extent });
    }
    let slots = u32::try_from(slots).map_err(|_| PoolError::TooLarge { disk: place })?;
    let (state, sector_bytes) = (DiskState::InUse, disk.sector_bytes);
    let (sums, spare) = ([meta, sums], if spare == 0 { [0; 2] } else { [end, spare] });
    Ok(PoolDisk { state, uuid, bytes, sector_bytes, data_offset, slots, sums, spare })
}

pub(super) fn side_bytes(pool_bytes: u64) -> u64 {
    (pool_bytes / 256).clamp(SIDE_BYTES.0, SIDE_BYTES.1)
}

/// Twelve bytes for each extent, and the heads of frames and tables.
fn map_bytes(extents: u64) -> u64 {
    let map = extents * super::codec::MAP_ENTRY_BYTES as u64;
    map + map / 256 + 2 * CHECKPOINT_FRAME_BYTES_MAX as u64
}

/// Room for the map and for what is not map.
pub(super) fn checkpoint_area_bytes(extents: u64, side: u64) -> u64 {
    (map_bytes(extents) + side).next_multiple_of(BLOCK)
}

/// The log of a new pool of so many bytes.
pub(super) fn log_bytes(pool_bytes: u64, extent: u64) -> u64 {
    let (least, most) = LOG_BYTES;
    let half = checkpoint_area_bytes(pool_bytes / extent, side_bytes(pool_bytes)) / 2;
    half.clamp(least, most).next_multiple_of(BLOCK)
}

/// Room for the blocks of one extent that read as zero, with a share of the frames' heads and of what is left at
/// their ends.
pub(super) fn zero_map_room(extent_blocks: u64) -> u64 {
    super::codec::zero_map_bytes(extent_blocks) * 17 / 16 + 1
}

/// Room for those of all extents of the pool, within reason; at least for some beyond rounding.
pub(super) fn zero_bytes(pool_bytes: u64, extent: u64) -> u64 {
    let all = pool_bytes / extent * zero_map_room(extent / BLOCK);
    (all + BLOCK).min(ZERO_BYTES_MAX)
}

/// Do the areas (offset, bytes) lie on 4096-byte boundaries, apart from each other, and below `end`?
fn disjoint(mut areas: Vec<(u64, u64)>, end: u64) -> bool {
    areas.sort_unstable();
    let mut at = 0;
    for (offset, bytes) in areas {
        let Some(next) = offset.checked_add(bytes) else { return false };
        if offset < at || next > end || !offset.is_multiple_of(BLOCK) || !bytes.is_multiple_of(BLOCK) {
            return false;
        }
        at = next;
    }
    true
}
