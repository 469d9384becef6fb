//! Volumes that share extents: a volume, its snapshots, their clones. `engine/docs/snapshots.md` has the whole.
//!
//! A clone begins with the map of another volume, so that each of its extents lies where the other's does. From then on
//! each goes its own way: whoever changes data of a shared extent gets a new place for it first. Invariants:
//!
//! - Only volumes of one family share a place, and only for the same extent.
//! - A family has at most [`FAMILY_MAX`] volumes.
//! - The checksums of a family's blocks have the number of its first volume mixed in. Numbers that a clone names are not used
//!   again.

use std::collections::BTreeMap;

use super::Pool;
use super::checkpoint_maps::MapWriter;
use super::metadata::{Freed, Kin, Metadata, VolumeMeta, item_room};
use super::record::{Lsn, Record, Slot};
use super::zero_bits::ZeroBits;
use crate::ids::{DiskId, VolumeId};
use crate::planted::Bug;

/// Most volumes of a family.
pub const FAMILY_MAX: usize = 256;

/// Why a volume cannot be cloned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum CloneRefusal {
    /// There is no such volume.
    #[error("there is no volume {0}")]
    Unknown(VolumeId),
    /// The number is taken.
    #[error("there is, or was, a volume {0}")]
    Taken(VolumeId),
    /// What hosts may write begins as a snapshot only.
    #[error("volume {0} is not a snapshot: take one of it, and clone that")]
    NotSnapshot(VolumeId),
    /// Too many clones and snapshots.
    #[error("the volume has {FAMILY_MAX} clones and snapshots, with those of these: delete some")]
    FamilyFull,
    /// The checkpoints have no room for its map.
    #[error("the pool's metadata has no room for another clone or snapshot: delete some, or volumes")]
    NoRoom,
    /// A disk has no checksums: a block that cannot be read could not be told from zeros.
    #[error("{0} was made before there were checksums: replace it first")]
    NoSums(DiskId),
    /// Space that is kept for a volume could not be kept any more.
    #[error("{missing} extents more must be free, to keep the space that is reserved for the volume")]
    NoSpace {
        /// How many.
        missing: u64,
    },
}

/// What clones may need of a checkpoint beside the map of a full pool, whatever is written to them and to what they were
/// made of. Each is written down as what it has otherwise than its neighbour (`checkpoint`). Of snapshots taken one after
/// the other each place is named at most once as it begins to be had, once as it ends, and once more where a resync goes
/// through them; of what hosts may write each extent may differ from the snapshot that it began as, and its own snapshots
/// from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CloneRoom {
    any: bool,
    /// Extents of the snapshots that writable clones began as.
    writable: u64,
}

impl CloneRoom {
    /// One clone more; `extents`: of the snapshot that it begins as, if hosts may write it.
    pub(super) fn add(&mut self, extents: u64) {
        self.any = true;
        self.writable = self.writable.saturating_add(extents);
    }

    /// Entries for a pool of so many extents, those of its own map among them.
    pub(super) fn entries(&self, extents: u64) -> u64 {
        let more = if self.any { extents.saturating_add(self.writable).saturating_mul(3) } else { 0 };
        extents.saturating_add(more)
    }
}

/// May a checkpoint say this of a volume?
pub(super) fn check_kin(metadata: &Metadata, volume: VolumeId, kin: &Kin) -> Result<(), &'static str> {
    match metadata.volume(volume) {
        None => Err("a clone that is no volume"),
        Some(meta) if meta.kin.is_some() || kin.family == volume || kin.of == volume => {
            Err("a clone of itself, or of two")
        }
        Some(_) if metadata.volume(kin.family).is_some_and(|first| first.kin.is_some()) => {
            Err("a family whose first volume is a clone")
        }
        Some(_) if metadata.volume(kin.of).is_some_and(|of| of.family(kin.of) != kin.family) => {
            Err("a clone of a volume of another family")
        }
        Some(_) if ancestors(metadata, kin.of).any(|older| older == volume) => {
            Err("a clone of its own clone")
        }
        Some(_) => Ok(()),
    }
}

/// The volume, what it was made of, and so on.
fn ancestors(metadata: &Metadata, volume: VolumeId) -> impl Iterator<Item = VolumeId> + '_ {
    let older = |id: &VolumeId| Some(metadata.volume(*id)?.kin?.of);
    core::iter::successors(Some(volume), older).take(metadata.volumes().len() + 1)
}

/// May a checkpoint say that a volume's map begins as that of another?
pub(super) fn check_base(metadata: &Metadata, volume: VolumeId, base: VolumeId) -> Result<(), &'static str> {
    let (Some(meta), Some(other)) = (metadata.volume(volume), metadata.volume(base)) else {
        return Err("a map that begins as that of no volume");
    };
    let kin = meta.family(volume) == other.family(base);
    if kin && meta.map.is_empty() { Ok(()) } else { Err("a map that begins as one of another family") }
}

impl VolumeMeta {
    /// The volume whose number is in the checksums of this one's blocks.
    pub fn family(&self, own: VolumeId) -> VolumeId {
        self.kin.map_or(own, |kin| kin.family)
    }

    /// Is nothing left of it but its number, which another volume may get if no clone names it?
    pub fn gives_way(&self) -> bool {
        self.deleted && self.map.is_empty()
    }

    /// May hosts not write it?
    pub fn is_snapshot(&self) -> bool {
        self.read_only || self.kin.is_some_and(|kin| kin.read_only)
    }
}

impl Metadata {
    /// The volumes of this one's family, itself among them: the first one, then clones by number.
    pub fn family(&self, volume: VolumeId) -> impl Iterator<Item = (VolumeId, &VolumeMeta)> + '_ {
        let first = self.volume(volume).map_or(volume, |meta| meta.family(volume));
        let members = core::iter::once(first).chain(self.clones_of(first));
        members.filter_map(|id| Some((id, self.volume(id)?)))
    }

    /// Does a clone name this number, of the volume that it was made of or of the first of its family? Then no other volume may
    /// get it, though there may be none that has it.
    pub fn is_named(&self, volume: VolumeId) -> bool {
        let names = |clone: VolumeId| self.volume(clone)?.kin.map(|kin| kin.of == volume);
        self.clones_of(volume).next().is_some() || self.all_clones().any(|clone| names(clone) == Some(true))
    }

    /// How many of them there are, without those that are gone but for their numbers.
    pub(super) fn family_size(&self, volume: VolumeId) -> usize {
        self.family(volume).filter(|(_, meta)| !meta.deleted || !meta.map.is_empty()).count()
    }

    /// Those of them that have the extent there.
    pub(super) fn sharers(
        &self,
        volume: VolumeId,
        extent: u32,
        slot: Slot,
    ) -> impl Iterator<Item = VolumeId> + '_ {
        let there = move |meta: &VolumeMeta| meta.map.get(extent) == Some(slot);
        self.family(volume).filter(move |(_, meta)| there(meta)).map(|(id, _)| id)
    }

    /// Makes a volume of what another is; `finish` says what is its own.
    pub(super) fn clone_volume(
        &mut self,
        volume: VolumeId,
        of: VolumeId,
        finish: impl FnOnce(&mut VolumeMeta),
    ) {
        let Some(model) = self.volume(of).filter(|_| self.volume(volume).is_none()) else { return };
        let family = model.family(of);
        let mut clone = VolumeMeta {
            sectors: model.sectors,
            mirrored: model.mirrored,
            map: model.map.clone(),
            kin: Some(Kin { of, family, read_only: false, extents: model.map.len() as u32 }),
            ..VolumeMeta::default()
        };
        finish(&mut clone);
        if clone.mirrored && model.mirrored {
            (clone.generation, clone.ancestors) = (model.generation, model.ancestors.clone());
            (clone.hot, clone.log) = (model.hot.clone(), model.log.clone());
        }
        self.put_volume(volume, clone);
    }

    /// The extent lies there from now on, for all who have it where this volume has it.
    pub(super) fn map_shared(&mut self, volume: VolumeId, extent: u32, slot: Slot) -> Freed {
        let Some(old) = self.volume(volume).and_then(|meta| meta.map.get(extent)) else {
            return Freed::from_slice(&[slot]);
        };
        let sharers: Vec<VolumeId> = self.sharers(volume, extent, old).collect();
        for &sharer in &sharers {
            self.with(sharer, |meta| {
                meta.map.insert(extent, slot);
            });
        }
        if old == slot { Freed::new() } else { sharers.iter().map(|_| old).collect() }
    }
}

impl Pool {
    /// Applies a record to the metadata, and says what it has freed.
    pub(super) fn apply_families(&mut self, record: &Record, lsn: Lsn) -> Freed {
        match record {
            Record::VolumeClone { volume, of, .. } => {
                let new = self.metadata.volume(*volume).is_none();
                self.metadata.apply(record);
                if new {
                    self.space.cloned(&self.metadata, *of, *volume);
                }
                self.layout.clones = self.metadata.clone_room();
                Freed::new()
            }
            Record::MapShared { volume, extent, slot } => {
                let sharers: Vec<VolumeId> = self.sharers(*volume, *extent).collect();
                let mut freed = self.metadata.apply(record);
                if !sharers.is_empty() && self.space.has_shared() {
                    let family = self.family(*volume);
                    let old = freed.first().copied();
                    freed.clear();
                    for sharer in old.map(|_| &sharers).into_iter().flatten() {
                        let old = old.expect("there are some only if it is there");
                        if !self.space.let_go(lsn, family, (*sharer, *extent), old) {
                            freed.push(old);
                        }
                    }
                    self.space.moved(*slot, &sharers);
                }
                freed
            }
            Record::Map { volume, extent, .. } | Record::Unmap { volume, extent }
                if self.space.has_shared() =>
            {
                let family = self.family(*volume);
                let lsn = if self.planted.has(Bug::PartingNotAwaited) { Lsn(0) } else { lsn };
                let mut freed = self.metadata.apply(record);
                freed.retain(|slot| !self.space.let_go(lsn, family, (*volume, *extent), *slot));
                if lsn == Lsn(0) {
                    self.space.durable(&self.metadata, lsn);
                }
                self.clone_is_gone(*volume);
                freed
            }
            Record::Unmap { volume, .. } => {
                let freed = self.metadata.apply(record);
                self.clone_is_gone(*volume);
                freed
            }
            Record::VolumeState { .. } if self.metadata.has_clones() => {
                self.metadata.apply(record);
                self.layout.clones = self.metadata.clone_room();
                Freed::new()
            }
            Record::VolumeDelete { volume } if self.metadata.volume(*volume).is_some() => {
                let family = self.family(*volume);
                let map = self.metadata.volume(*volume).map(|meta| meta.map.clone()).unwrap_or_default();
                self.metadata.apply(record);
                self.layout.clones = self.metadata.clone_room();
                self.space.let_all_go(lsn, (family, *volume), map.iter())
            }
            _ => self.metadata.apply(record),
        }
    }

    /// The last extent of a deleted clone may be gone: then the checkpoints need no room for it any more.
    fn clone_is_gone(&mut self, volume: VolumeId) {
        let meta = self.metadata.volume(volume);
        if meta.is_some_and(|meta| meta.kin.is_some() && meta.gives_way()) {
            self.layout.clones = self.metadata.clone_room();
        }
    }

    /// The volume whose number is in the checksums of this one's blocks: itself, unless it is a clone.
    #[inline]
    pub fn family(&self, volume: VolumeId) -> VolumeId {
        self.metadata.volume(volume).map_or(volume, |meta| meta.family(volume))
    }

    /// Have other volumes this extent in the same place, or may have after a crash? Then its data must not be overwritten
    /// there.
    #[inline]
    pub fn is_shared(&self, volume: VolumeId, extent: u32) -> bool {
        self.space.has_shared() && {
            let slot = self.metadata.volume(volume).and_then(|meta| meta.map.get(extent));
            slot.is_some_and(|slot| self.space.is_shared(slot))
        }
    }

    /// The volumes that have this extent in the same place as this one, itself among them.
    pub fn sharers(&self, volume: VolumeId, extent: u32) -> impl Iterator<Item = VolumeId> + '_ {
        let slot = self.metadata.volume(volume).and_then(|meta| meta.map.get(extent));
        slot.into_iter().flat_map(move |slot| self.metadata.sharers(volume, extent, slot))
    }

    /// Is this volume the only one that has this extent in its place, or the first of them? What is done for all is done
    /// for that one.
    pub fn is_first_sharer(&self, volume: VolumeId, extent: u32) -> bool {
        !self.is_shared(volume, extent) || !self.sharers(volume, extent).any(|other| other < volume)
    }

    /// The blocks of an extent that read as zero for every volume that has it in the same place: nothing of them is there.
    pub fn zeros_of_all(&self, volume: VolumeId, extent: u32) -> ZeroBits {
        let mut all = self.zeros(volume, extent).cloned().unwrap_or_default();
        if self.is_shared(volume, extent) {
            for sharer in self.sharers(volume, extent) {
                match self.zeros(sharer, extent) {
                    Some(zeros) => all.keep(zeros),
                    None => return ZeroBits::default(),
                }
            }
        }
        all
    }

    /// Places that a checkpoint of now would name.
    pub(super) fn checkpoint_entries(&self) -> u64 {
        MapWriter::new(&self.metadata, self.layout.extent_bytes).entries()
    }

    /// Extents that lie in the same place as one of another volume: the places.
    pub fn shared_extents(&self) -> u64 {
        self.space.shared_slots()
    }

    /// May this volume begin as that one is now? One of this number that [gives way](VolumeMeta::gives_way) is to be forgotten
    /// first ([`Record::VolumeDelete`]).
    pub fn may_clone(&self, volume: VolumeId, of: VolumeId, read_only: bool) -> Result<(), CloneRefusal> {
        let meta = self.metadata.volume(of).filter(|meta| !meta.deleted).ok_or(CloneRefusal::Unknown(of))?;
        let stays = self.metadata.volume(volume).is_some_and(|meta| !meta.gives_way());
        if stays || self.metadata.is_named(volume) {
            return Err(CloneRefusal::Taken(volume));
        }
        if !read_only && !meta.is_snapshot() {
            return Err(CloneRefusal::NotSnapshot(of));
        }
        if self.metadata.family_size(of) >= FAMILY_MAX {
            return Err(CloneRefusal::FamilyFull);
        }
        if let Some(disk) = self.disk_without_sums() {
            return Err(CloneRefusal::NoSums(disk));
        }
        if !self.has_room_to_clone(of, read_only) {
            return Err(CloneRefusal::NoRoom);
        }
        let needed = self.space.kept(&self.metadata, None) + self.space.exclusive(of, meta.map.len());
        match needed.saturating_sub(self.space.unreserved()) {
            missing @ 1.. if self.space.is_kept(of) => Err(CloneRefusal::NoSpace { missing }),
            _ => Ok(()),
        }
    }

    /// May all of these be made at one stroke, in this order: the number of each, what it begins as, whether it is a
    /// snapshot, and the bytes of its name? `pending`: room in the checkpoints that others will take.
    pub fn may_clone_all(
        &self,
        clones: impl IntoIterator<Item = (VolumeId, VolumeId, bool, usize)>,
        pending: usize,
    ) -> Result<(), CloneRefusal> {
        let (mut models, mut families) = (BTreeMap::new(), BTreeMap::new());
        let (mut names, mut volumes) = (0, 0);
        let mut room = self.metadata.clone_room();
        let mut zeros = self.metadata.zero_extents() + self.zeros_coming;
        for (volume, of, read_only, name_bytes) in clones {
            // One that is made of another of these begins as that one's model.
            let (model, snapshot) = models.get(&of).copied().unwrap_or((of, false));
            self.may_clone(volume, model, read_only || snapshot)?;
            let meta = self.metadata.volume(model).ok_or(CloneRefusal::Unknown(of))?;
            if models.insert(volume, (model, read_only)).is_some() {
                return Err(CloneRefusal::Taken(volume));
            }
            let family: &mut usize = families.entry(meta.family(model)).or_default();
            *family += 1;
            if self.metadata.family_size(model) + *family > FAMILY_MAX {
                return Err(CloneRefusal::FamilyFull);
            }
            room.add(if read_only { 0 } else { meta.map.len() });
            zeros += meta.map.zero_extents();
            (names, volumes) = (names + item_room(name_bytes), volumes + 1);
        }
        let taken = self.metadata.volumes_room() + pending + names + volumes;
        let items = taken - self.metadata.volumes().len() - volumes;
        let fits = self.layout.has_room_with(room, taken, zeros) && items * 4 <= self.volumes_max();
        if fits { Ok(()) } else { Err(CloneRefusal::NoRoom) }
    }

    fn disk_without_sums(&self) -> Option<DiskId> {
        let there = (0..).map(DiskId).zip(&self.layout.disks);
        let mut without = there.filter(|(_, disk)| disk.slots != 0 && disk.sums[1] == 0);
        without.next().map(|(place, _)| place)
    }

    fn has_room_to_clone(&self, of: VolumeId, read_only: bool) -> bool {
        let mut clones = self.metadata.clone_room();
        clones.add(if read_only { 0 } else { self.metadata.volume(of).map_or(0, |meta| meta.map.len()) });
        let zeros = self.metadata.volume(of).map_or(0, |meta| meta.map.zero_extents());
        let zeros = self.metadata.zero_extents() + self.zeros_coming + zeros;
        self.layout.has_room_with(clones, self.metadata.volumes_room() + 1, zeros)
    }
}
