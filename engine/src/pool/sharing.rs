//! Slots that several volumes of a family have: when one is shared, and when it is so no more.

use super::metadata::{Freed, Metadata};
use super::record::{Lsn, Slot};
use super::space::{Extent, Space};
use crate::ids::VolumeId;

impl Space {
    /// Is any slot shared?
    #[inline]
    pub(super) fn has_shared(&self) -> bool {
        !self.owners.is_empty()
    }

    /// Slots that are shared.
    pub(super) fn shared_slots(&self) -> u64 {
        self.owners.slots()
    }

    /// Have several volumes this slot, or may they after a crash?
    #[inline]
    pub(super) fn is_shared(&self, slot: Slot) -> bool {
        self.owners.more(slot) != 0
    }

    /// How many volumes have this mapped slot.
    pub(super) fn owners(&self, slot: Slot) -> u64 {
        let parted = self.parted.get(&slot).copied().unwrap_or(0);
        (1 + u64::from(self.owners.more(slot))).saturating_sub(u64::from(parted))
    }

    /// Of `mapped` extents of a volume, those that no other has.
    pub(super) fn exclusive(&self, volume: VolumeId, mapped: u64) -> u64 {
        mapped.saturating_sub(self.shared.get(&volume).copied().unwrap_or(0))
    }

    /// Slots that all who had them have let go of, the last of them not durably.
    pub(super) fn deserted(&self) -> impl Iterator<Item = Slot> + '_ {
        self.parted.iter().filter(|(slot, parted)| **parted > self.owners.more(**slot)).map(|(slot, _)| *slot)
    }

    /// A volume begins as this one: it has all of its slots.
    pub(super) fn cloned(&mut self, metadata: &Metadata, of: VolumeId, clone: VolumeId) {
        let Some(model) = metadata.volume(of) else { return };
        for (extent, slot) in model.map.iter() {
            self.share((of, extent), clone, slot);
        }
    }

    /// One volume more has the slot of an extent.
    pub(super) fn share(&mut self, (first, _): Extent, more: VolumeId, slot: Slot) {
        if !self.is_shared(slot) {
            *self.shared.entry(first).or_default() += 1;
        }
        *self.shared.entry(more).or_default() += 1;
        self.owners.add(slot, 1);
    }

    /// The record at `lsn` has made a volume of this family let go of the slot of an extent. True if others had it: then
    /// nothing is free yet.
    pub(super) fn let_go(
        &mut self,
        lsn: Lsn,
        family: VolumeId,
        (volume, extent): Extent,
        slot: Slot,
    ) -> bool {
        if !self.is_shared(slot) {
            return false;
        }
        let parted = self.parted.entry(slot).or_default();
        *parted += 1;
        if *parted > self.owners.more(slot) {
            self.not_live(slot);
        }
        self.count_shared(volume, false);
        self.parting.push_back((lsn, (family, extent), slot));
        true
    }

    fn count_shared(&mut self, volume: VolumeId, more: bool) {
        let count = self.shared.entry(volume).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.shared.remove(&volume);
        }
    }

    /// That a volume of a family has let go of a slot is durable. While I/O on it is in flight it stays shared: what one
    /// volume reads there another must not write.
    pub(super) fn part(&mut self, metadata: &Metadata, at: Extent, slot: Slot) {
        if self.held.contains_key(&slot) {
            self.parting_held.entry(slot).or_default().push(at);
        } else {
            self.part_now(metadata, at, slot);
        }
    }

    /// No I/O on the slot is in flight any more.
    pub(super) fn part_unheld(&mut self, metadata: &Metadata, slot: Slot) {
        for at in self.parting_held.remove(&slot).unwrap_or_default() {
            self.part_now(metadata, at, slot);
        }
    }

    fn part_now(&mut self, metadata: &Metadata, (family, extent): Extent, slot: Slot) {
        let left = self.parted.get_mut(&slot).expect("who parts was counted");
        *left -= 1;
        if *left == 0 {
            self.parted.remove(&slot);
        }
        if !self.owners.drop_one(slot) {
            return self.retire(slot);
        }
        if !self.is_shared(slot)
            && let Some(last) = metadata.sharers(family, extent, slot).next()
        {
            self.count_shared(last, false);
        }
    }

    /// All who had the slot of an extent have this one now: so many.
    pub(super) fn moved(&mut self, slot: Slot, sharers: &[VolumeId]) {
        if sharers.len() > 1 {
            self.owners.add(slot, sharers.len() as u16 - 1);
            sharers.iter().for_each(|sharer| self.count_shared(*sharer, true));
        }
    }

    /// As [`let_go`](Self::let_go), of many extents: what is free now.
    pub(super) fn let_all_go(
        &mut self,
        lsn: Lsn,
        (family, volume): (VolumeId, VolumeId),
        extents: impl Iterator<Item = (u32, Slot)>,
    ) -> Freed {
        extents
            .filter(|(extent, slot)| !self.let_go(lsn, family, (volume, *extent), *slot))
            .map(|(_, slot)| slot)
            .collect()
    }
}
