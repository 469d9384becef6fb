//! The metadata of a pool as values: what the log records add up to.
//!
//! Invariants: the same records in the same order give the same metadata; applying records again that are
//! already contained, all of them and in order, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::extent_map::ExtentMap;
use super::families::CloneRoom;
use super::record::{ANCESTORS_MAX, NodeRecord, Record, Slot};
use super::validate::REGION_SECTORS;
use super::zero_bits::ZeroBits;
use crate::bits::BitSet;
use crate::guest::{Item, Items};
use crate::ids::{DiskId, Epoch, Generation, ItemName, Uuid, VolumeId};

/// Slots that a record has freed.
pub type Freed = SmallVec<[Slot; 1]>;

/// Bytes of a checkpoint that a volume may count on (enough for some 900 hot areas), and as much again for each of these that its items begin.
pub(super) const VOLUME_BYTES: u64 = 4096;
/// What an item takes beside its bytes at most: the heads of its record and of a frame, and what is left of the frame's last
/// block. A frame of a checkpoint may hold no other.
const ITEM_HEAD_BYTES: usize = 32 + 64 + 4096;

/// Room in a checkpoint that a volume with these items counts on, as a number of volumes without any.
pub fn room(items: &Items) -> usize {
    let bytes = items.values().map(|item| item.value.len() + ITEM_HEAD_BYTES).sum::<usize>();
    1 + bytes.div_ceil(VOLUME_BYTES as usize)
}

/// Room that an item of so many bytes takes at most, in the same unit.
pub fn item_room(bytes: usize) -> usize {
    (bytes + ITEM_HEAD_BYTES).div_ceil(VOLUME_BYTES as usize)
}

/// Whose clone a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kin {
    /// The volume that it began as. It may be gone.
    pub of: VolumeId,
    /// The first of its family, whose number is in the checksums of all of them. It may be gone.
    pub family: VolumeId,
    /// It is a snapshot: hosts may not write it.
    pub read_only: bool,
    /// Extents that it had when it was made: those in which it may come to differ from what it began as without a place of
    /// its own being counted anyway.
    pub extents: u32,
}

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeMeta {
    /// Identity shown to hosts.
    pub uuid: Uuid,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Has it a half on each node?
    pub mirrored: bool,
    /// Number of its last change; zero if it is as it was made.
    pub change: u64,
    /// The epoch in which it was changed last.
    pub changed_in: Epoch,
    /// It is deleted. What is still mapped of it is on its way back.
    pub deleted: bool,
    /// It is a snapshot by its own word, whatever it was made of.
    pub read_only: bool,
    /// Identity of the data; zero if it never held any.
    pub generation: Generation,
    /// Earlier generations, newest first, at most [`ANCESTORS_MAX`].
    pub ancestors: Vec<Generation>,
    /// Areas that may differ between the halves.
    pub hot: BTreeSet<u32>,
    /// Regions that the partner lacks.
    pub log: BitSet,
    /// Where the extents lie, and which blocks of them read as zero.
    pub map: ExtentMap,
    /// What is kept with it.
    pub items: Items,
    /// Whose clone it is, if it is one.
    pub kin: Option<Kin>,
}

impl VolumeMeta {
    /// The volume as it is, as a record.
    pub fn state_record(&self, volume: VolumeId) -> Record {
        let VolumeMeta { sectors, change, changed_in: epoch, deleted, read_only, .. } = *self;
        Record::VolumeState { volume, sectors, change, epoch, deleted, read_only }
    }

    fn put(&mut self, name: ItemName, item: Item) {
        if item.value.is_empty() {
            self.items.remove(&name);
        } else {
            self.items.insert(name, item);
        }
    }

    /// No mark names what lies beyond this end any more.
    fn forget_beyond(&mut self, sectors: u64) {
        self.hot.retain(|area| u64::from(*area) * 8 < sectors);
        let regions = sectors.div_ceil(REGION_SECTORS);
        let last = self.log.runs().last().map_or(0, |(first, count)| first + count);
        if last > regions {
            self.log.remove_run(regions, last - regions);
        }
    }
}

/// All of a pool's metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// What the node says of itself.
    pub node: NodeRecord,
    volumes: BTreeMap<VolumeId, VolumeMeta>,
    /// The clones of each family, by its first volume.
    clones: BTreeMap<VolumeId, BTreeSet<VolumeId>>,
    unsure: BTreeMap<DiskId, BitSet>,
}

impl Metadata {
    /// That of a fresh pool.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// The volume, if it exists.
    #[inline]
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeMeta> {
        self.volumes.get(&id)
    }

    /// All volumes, by id.
    pub fn volumes(&self) -> impl ExactSizeIterator<Item = (VolumeId, &VolumeMeta)> + '_ {
        self.volumes.iter().map(|(id, volume)| (*id, volume))
    }

    /// Room that the volumes may count on in a checkpoint, as a number of volumes that have no items.
    pub fn volumes_room(&self) -> usize {
        self.volumes.values().map(|volume| room(&volume.items)).sum()
    }

    /// The same if this item were put there.
    pub(super) fn volumes_room_with(&self, volume: VolumeId, name: ItemName, bytes: usize) -> usize {
        let Some(meta) = self.volumes.get(&volume) else { return self.volumes_room() };
        let mut changed = VolumeMeta { items: meta.items.clone(), ..VolumeMeta::default() };
        changed.put(name, Item { revision: 0, value: vec![0; bytes].into() });
        self.volumes_room() - room(&meta.items) + room(&changed.items)
    }

    /// Lines of the disks' checksum areas that may not be those of the data.
    pub fn unsure(&self) -> impl Iterator<Item = (DiskId, &BitSet)> + '_ {
        self.unsure.iter().map(|(disk, lines)| (*disk, lines))
    }

    /// May this line not be that of the data?
    #[inline]
    pub fn is_unsure(&self, disk: DiskId, line: u64) -> bool {
        self.unsure.get(&disk).is_some_and(|lines| lines.contains(line))
    }

    /// Mapped extents of all volumes.
    pub fn mapped(&self) -> u64 {
        self.volumes.values().map(|volume| volume.map.len()).sum()
    }

    /// Mapped extents of all volumes in which some block reads as zero.
    pub fn zero_extents(&self) -> u64 {
        self.volumes.values().map(|volume| volume.map.zero_extents()).sum()
    }

    /// Applies one record and tells what it freed. Records of volumes that do not exist do nothing; a slot that
    /// such a record would have mapped counts as freed.
    pub fn apply(&mut self, record: &Record) -> Freed {
        match record {
            Record::Node(node) => self.node = *node,
            Record::VolumeCreate { volume, uuid, sectors, mirrored } => {
                self.volumes.entry(*volume).or_insert_with(|| VolumeMeta {
                    uuid: *uuid,
                    sectors: *sectors,
                    mirrored: *mirrored,
                    ..VolumeMeta::default()
                });
            }
            Record::VolumeDelete { volume } => {
                self.leave_family(*volume);
                let gone = self.volumes.remove(volume);
                return gone.iter().flat_map(|volume| volume.map.iter()).map(|(_, slot)| slot).collect();
            }
            Record::VolumeState { volume, sectors, change, epoch, deleted, read_only } => {
                self.with(*volume, |volume| {
                    if *deleted {
                        volume.items.clear();
                        (volume.generation, volume.ancestors) = (Generation(0), Vec::new());
                        volume.hot.clear();
                        volume.log.clear();
                    }
                    if *sectors < volume.sectors {
                        volume.forget_beyond(*sectors);
                    }
                    (volume.sectors, volume.deleted, volume.read_only) = (*sectors, *deleted, *read_only);
                    (volume.change, volume.changed_in) = (*change, *epoch);
                })
            }
            Record::VolumeClone { volume, of, uuid, read_only, mirrored } => {
                self.clone_volume(*volume, *of, |clone| {
                    (clone.uuid, clone.mirrored) = (*uuid, *mirrored);
                    clone.kin = clone.kin.map(|kin| Kin { read_only: *read_only, ..kin });
                });
            }
            Record::MapShared { volume, extent, slot } => return self.map_shared(*volume, *extent, *slot),
            Record::VolumeItem { volume, name, revision, value } => self.with(*volume, |volume| {
                volume.put(*name, Item { revision: *revision, value: Arc::clone(value) });
            }),
            Record::Half { volume, generation, ancestors } => self.with(*volume, |volume| {
                volume.generation = *generation;
                volume.ancestors = ancestors.iter().copied().take(ANCESTORS_MAX).collect();
            }),
            Record::Map { volume, extent, slot } => return self.map(*volume, *extent, *slot),
            Record::Unmap { volume, extent } => {
                let old = self.volumes.get_mut(volume).and_then(|volume| volume.map.remove(*extent));
                return old.into_iter().collect();
            }
            Record::HotAdd { volume, area } => self.with(*volume, |volume| {
                volume.hot.insert(*area);
            }),
            Record::HotRemove { volume, area } => self.with(*volume, |volume| {
                volume.hot.remove(area);
            }),
            Record::HotClear { volume } => self.with(*volume, |volume| volume.hot.clear()),
            Record::LogAdd { volume, first, count } => self.with(*volume, |volume| {
                volume.log.insert_run(*first, *count);
            }),
            Record::LogRemove { volume, first, count } => self.with(*volume, |volume| {
                volume.log.remove_run(*first, *count);
            }),
            Record::LogClear { volume } => self.with(*volume, |volume| volume.log.clear()),
            Record::ZeroAdd { volume, extent, first, count } => self.with(*volume, |volume| {
                volume.map.change_zeros(*extent, |bits| bits.insert(*first..first.saturating_add(*count)));
            }),
            Record::ZeroRemove { volume, extent, first, count } => self.with(*volume, |volume| {
                volume.map.change_zeros(*extent, |bits| bits.remove(*first..first.saturating_add(*count)));
            }),
            Record::UnsureAdd { disk, first, count } => {
                self.unsure.entry(*disk).or_default().insert_run(*first, u64::from(*count));
            }
            Record::UnsureRemove { disk, first, count } => {
                if let Some(lines) = self.unsure.get_mut(disk) {
                    lines.remove_run(*first, u64::from(*count));
                    if lines.is_empty() {
                        self.unsure.remove(disk);
                    }
                }
            }
        }
        Freed::new()
    }

    /// A page of a volume's change log, as checkpoints keep it.
    pub(super) fn log_page(&mut self, volume: VolumeId, index: u64, words: &crate::bits::PageWords) {
        self.with(volume, |volume| volume.log.insert_page(index, words));
    }

    /// The blocks of an extent that read as zero, as checkpoints keep them.
    pub(super) fn zero_map(&mut self, volume: VolumeId, extent: u32, bits: ZeroBits) {
        self.with(volume, |volume| volume.map.change_zeros(extent, |old| *old = bits));
    }

    /// The clones of the family that this volume founded.
    pub(super) fn clones_of(&self, founder: VolumeId) -> impl Iterator<Item = VolumeId> + '_ {
        self.clones.get(&founder).into_iter().flatten().copied()
    }

    /// Is there any clone, or the number of one?
    pub(super) fn has_clones(&self) -> bool {
        !self.clones.is_empty()
    }

    /// All clones, family by family.
    pub(super) fn all_clones(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.clones.values().flatten().copied()
    }

    fn leave_family(&mut self, volume: VolumeId) {
        let Some(kin) = self.volume(volume).and_then(|meta| meta.kin) else { return };
        if let Some(clones) = self.clones.get_mut(&kin.family) {
            clones.remove(&volume);
            if clones.is_empty() {
                self.clones.remove(&kin.family);
            }
        }
    }

    /// Whose clone a volume is, as checkpoints keep it.
    pub(super) fn set_kin(&mut self, volume: VolumeId, kin: Kin) {
        self.with(volume, |meta| meta.kin = Some(kin));
        self.clones.entry(kin.family).or_default().insert(volume);
    }

    /// A volume's map begins as that of another, as checkpoints keep it.
    pub(super) fn map_base(&mut self, volume: VolumeId, base: VolumeId, extent_sectors: u64) {
        let map = self.volume(base).map(|base| base.map.clone()).unwrap_or_default();
        self.with(volume, |meta| {
            meta.map = map;
            // The base may have grown since.
            if let Ok(end) = u32::try_from(meta.sectors.div_ceil(extent_sectors)) {
                meta.map.cut(end);
            }
        });
    }

    /// What a checkpoint must have room for so that clones can go their own ways.
    pub(super) fn clone_room(&self) -> CloneRoom {
        let mut room = CloneRoom::default();
        for (_, meta) in self.volumes().filter(|(_, meta)| !meta.deleted || !meta.map.is_empty()) {
            if let Some(kin) = meta.kin {
                room.add(if kin.read_only { 0 } else { u64::from(kin.extents) });
            }
        }
        room
    }

    pub(super) fn put_volume(&mut self, id: VolumeId, meta: VolumeMeta) {
        let kin = meta.kin;
        self.volumes.insert(id, meta);
        if let Some(kin) = kin {
            self.set_kin(id, kin);
        }
    }

    pub(super) fn with(&mut self, volume: VolumeId, change: impl FnOnce(&mut VolumeMeta)) {
        if let Some(volume) = self.volumes.get_mut(&volume) {
            change(volume);
        }
    }

    fn map(&mut self, volume: VolumeId, extent: u32, slot: Slot) -> Freed {
        let Some(volume) = self.volumes.get_mut(&volume) else { return Freed::from_slice(&[slot]) };
        let old = volume.map.insert(extent, slot);
        old.into_iter().filter(|old| *old != slot).collect()
    }
}
