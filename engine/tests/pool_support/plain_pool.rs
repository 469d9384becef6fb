//! A pool as anyone would describe it, for the test that compares the real one with it.

use std::collections::{BTreeMap, BTreeSet};

use twinsan::ids::DiskId;
use twinsan::pool::{Lsn, Slot};

/// A pool as anyone would describe it.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) slots: u64,
    pub(crate) volumes: BTreeMap<u32, (BTreeMap<u32, Slot>, BTreeSet<u64>)>,
    /// How many extents each has room for.
    pub(crate) extents: BTreeMap<u32, u32>,
    pub(crate) reserved: BTreeSet<(u32, u32)>,
    pub(crate) pending: Vec<((u32, u32), Slot)>,
    /// Unmapped, by the record of this number.
    pub(crate) retiring: Vec<(Lsn, Slot)>,
    pub(crate) held: Vec<Slot>,
    /// Blocks that read as zero: volume, extent, block.
    pub(crate) zeros: BTreeSet<(u32, u32, u32)>,
    /// Extents kept for volumes.
    pub(crate) kept: BTreeMap<u32, u64>,
    /// Places of disks that leave.
    pub(crate) leaving: BTreeSet<DiskId>,
    /// Those that shall stay, and take nothing new before that is on disk.
    pub(crate) staying: BTreeSet<DiskId>,
    /// Those of `pending` that are for extents that leave, and the disk that they leave.
    pub(crate) moving: BTreeMap<Slot, DiskId>,
}

impl Model {
    /// Extents that others than this volume cannot take.
    pub(crate) fn kept(&self, but: u32) -> u64 {
        let used = |volume: u32| {
            // What is shared takes a slot more when it is written.
            let mapped = self
                .volumes
                .get(&volume)
                .map_or(0, |(map, _)| map.keys().filter(|extent| !self.is_shared(volume, **extent)).count());
            let reserved = self.reserved.iter().filter(|(of, _)| *of == volume).count();
            // An extent that moves is used once.
            let new =
                |((of, _), slot): &&((u32, u32), Slot)| *of == volume && !self.moving.contains_key(slot);
            mapped + reserved + self.pending.iter().filter(new).count()
        };
        let others = self.kept.iter().filter(|(volume, _)| **volume != but);
        others.map(|(volume, kept)| kept.saturating_sub(used(*volume) as u64)).sum()
    }

    pub(crate) fn mapped(&self, volume: u32, extent: u32) -> bool {
        self.volumes.get(&volume).is_some_and(|(map, _)| map.contains_key(&extent))
    }

    /// Does the extent begin before the end of the volume, if there is one?
    pub(crate) fn reaches(&self, volume: u32, extent: u32) -> bool {
        self.extents.get(&volume).is_none_or(|all| extent < *all)
    }

    pub(crate) fn settle(&mut self, durable: Lsn) {
        let held = &self.held;
        self.retiring.retain(|(lsn, slot)| *lsn > durable || held.contains(slot));
    }

    pub(crate) fn used(&self) -> Vec<Slot> {
        let retiring = self.retiring.iter().map(|(_, slot)| *slot);
        let used: BTreeSet<Slot> = self.live().chain(retiring).collect();
        used.into_iter().collect()
    }

    fn live(&self) -> impl Iterator<Item = Slot> + '_ {
        let mapped: BTreeSet<Slot> =
            self.volumes.values().flat_map(|(map, _)| map.values().copied()).collect();
        mapped.into_iter().chain(self.pending.iter().map(|(_, slot)| *slot))
    }

    /// Have others this extent there too, or may they after a crash?
    pub(crate) fn is_shared(&self, volume: u32, extent: u32) -> bool {
        let Some(slot) = self.volumes.get(&volume).and_then(|(map, _)| map.get(&extent)) else {
            return false;
        };
        let have = self.sharers(extent, *slot).len();
        // Those who have left count until that is durable, and until no I/O is in flight there that had begun before.
        let parted = self.retiring.iter().filter(|(_, of)| of == slot).count();
        have + parted > 1
    }

    fn sharers(&self, extent: u32, slot: Slot) -> Vec<u32> {
        let there = self.volumes.iter().filter(|(_, (map, _))| map.get(&extent) == Some(&slot));
        there.map(|(volume, _)| *volume).collect()
    }

    /// Is what lies there on its way to another disk, for whichever volume?
    pub(crate) fn is_moved(&self, extent: u32, slot: Slot) -> bool {
        self.sharers(extent, slot).into_iter().any(|volume| self.is_moving(volume, Some(extent)))
    }

    /// Has a slot been given out for this extent, not to be moved there?
    pub(crate) fn has_new_slot(&self, volume: u32, extent: u32) -> bool {
        self.pending.iter().any(|(at, slot)| {
            *at == (volume, extent) && (!self.moving.contains_key(slot) || !self.is_shared(volume, extent))
        })
    }

    pub(crate) fn clone_volume(&mut self, volume: u32, of: u32) {
        let (map, _) = self.volumes[&of].clone();
        self.volumes.insert(volume, (map, BTreeSet::new()));
        self.extents.insert(volume, self.extents[&of]);
        let zeros: Vec<_> = self.zeros.iter().filter(|(id, ..)| *id == of).copied().collect();
        self.zeros.extend(zeros.into_iter().map(|(_, extent, block)| (volume, extent, block)));
    }

    /// All who have this extent there have it in its new slot.
    pub(crate) fn move_shared(&mut self, lsn: Lsn, (volume, extent): (u32, u32), slot: Slot) {
        let old = self.volumes.get(&volume).and_then(|(map, _)| map.get(&extent)).copied();
        let Some(old) = old else { return self.unmapped(lsn, Some(slot)) };
        for sharer in self.sharers(extent, old) {
            self.volumes.get_mut(&sharer).expect("found above").0.insert(extent, slot);
            self.unmapped(lsn, Some(old));
        }
    }

    /// Is nothing put on this disk?
    pub(crate) fn is_closed(&self, disk: DiskId) -> bool {
        self.leaving.contains(&disk) || self.staying.contains(&disk)
    }

    /// Free slots of the disks on which something is put.
    pub(crate) fn free_slots(&self) -> u64 {
        self.slots - self.used().iter().filter(|slot| !self.is_closed(slot.disk)).count() as u64
    }

    /// Extents on a disk.
    pub(crate) fn live_on(&self, disk: DiskId) -> u64 {
        self.live().filter(|slot| slot.disk == disk).count() as u64
    }

    /// Extents that have to leave and have no new slot.
    pub(crate) fn to_leave(&self) -> u64 {
        let live: u64 = self.leaving.iter().chain(&self.staying).map(|disk| self.live_on(*disk)).sum();
        let on_their_way = self.moving.values().filter(|from| self.is_closed(**from)).count();
        live.saturating_sub(on_their_way as u64)
    }

    /// What can still be reserved.
    pub(crate) fn free(&self) -> u64 {
        self.free_slots().saturating_sub(self.reserved.len() as u64 + self.to_leave())
    }

    pub(crate) fn is_moving(&self, volume: u32, extent: Option<u32>) -> bool {
        let mut owners =
            self.pending.iter().filter(|(_, slot)| self.moving.contains_key(slot)).map(|(at, _)| *at);
        owners.any(|(v, e)| v == volume && extent.is_none_or(|extent| extent == e))
    }

    pub(crate) fn unmapped(&mut self, lsn: Lsn, slot: Option<Slot>) {
        self.retiring.extend(slot.map(|slot| (lsn, slot)));
    }
}
