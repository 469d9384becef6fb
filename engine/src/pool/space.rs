//! Who may use which slot. A slot is free; or allocated and not yet mapped; or mapped; or retiring: unmapped,
//! but the record that says so is not durable, or I/O on it is still in flight. Only free slots are given out.
//!
//! Space may be kept for a volume: what it has not used of that, others cannot reserve.
//!
//! Invariants: the free slots and the allocated, mapped and retiring ones make up the disks; there are never
//! more reservations without a slot than free slots.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::free::FreeSlots;
use super::metadata::{Freed, Metadata};
use super::record::{Lsn, Slot};
use crate::ids::{DiskId, VolumeId};

/// An extent of a volume.
type Extent = (VolumeId, u32);

#[derive(Debug)]
pub(super) struct Space {
    disks: Vec<FreeSlots>,
    /// Smooth weighted round robin: each disk's turn comes as often as its share of the free space.
    credit: Vec<i64>,
    free: u64,
    /// Extents that are not mapped and have space: a slot if it has been chosen.
    reserved: BTreeMap<Extent, Option<Slot>>,
    /// Reservations without a slot.
    unbacked: u64,
    /// Slots allocated and not mapped, and for what.
    pending: BTreeMap<Slot, Extent>,
    /// Slots unmapped by records up to these, oldest first.
    retiring: VecDeque<(Lsn, Freed)>,
    /// I/O in flight per slot.
    held: BTreeMap<Slot, u32>,
    /// Slots whose unmapping is durable, but that are held.
    waiting: BTreeSet<Slot>,
    /// Slots kept for volumes, what they use included.
    kept: BTreeMap<VolumeId, u64>,
    /// Of those volumes: entries of `reserved`.
    claims: BTreeMap<VolumeId, u64>,
}

impl Space {
    /// Disks with these numbers of slots, all free.
    pub(super) fn new(slots: impl Iterator<Item = u32>) -> Space {
        let disks: Vec<FreeSlots> = slots.map(FreeSlots::all).collect();
        Space {
            credit: vec![0; disks.len()],
            free: disks.iter().map(|disk| u64::from(disk.len())).sum(),
            disks,
            reserved: BTreeMap::new(),
            unbacked: 0,
            pending: BTreeMap::new(),
            retiring: VecDeque::new(),
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            kept: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Takes all mapped slots; the first one that was not free is the error.
    pub(super) fn occupy(&mut self, metadata: &Metadata) -> Result<(), (VolumeId, u32, Slot)> {
        for (id, volume) in metadata.volumes() {
            for (extent, slot) in volume.map.iter() {
                if !self.disks.get_mut(usize::from(slot.disk.0)).is_some_and(|disk| disk.take(slot.index)) {
                    return Err((id, extent, slot));
                }
                self.free -= 1;
            }
        }
        Ok(())
    }

    pub(super) fn free(&self) -> u64 {
        self.free
    }

    pub(super) fn unreserved(&self) -> u64 {
        self.free - self.unbacked
    }

    pub(super) fn slots(&self) -> u64 {
        self.disks.iter().map(|disk| u64::from(disk.slots())).sum()
    }

    pub(super) fn free_on(&self, disk: DiskId) -> u32 {
        self.disks[usize::from(disk.0)].len()
    }

    pub(super) fn is_free(&self, slot: Slot) -> bool {
        self.disks.get(usize::from(slot.disk.0)).is_some_and(|disk| disk.contains(slot.index))
    }

    /// Slots that are neither free nor mapped.
    pub(super) fn between(&self) -> impl Iterator<Item = Slot> + '_ {
        let retiring = self.retiring.iter().flat_map(|(_, slots)| slots.iter().copied());
        self.pending.keys().copied().chain(retiring).chain(self.waiting.iter().copied())
    }

    /// Reserves a slot for an extent, unless no more than `kept` are left.
    pub(super) fn reserve(&mut self, extent: Extent, kept: u64) -> bool {
        if self.reserved.contains_key(&extent) {
            return true;
        }
        if self.unreserved() <= kept {
            return false;
        }
        self.reserved.insert(extent, None);
        if let Some(claims) = self.claims.get_mut(&extent.0) {
            *claims += 1;
        }
        self.unbacked += 1;
        true
    }

    pub(super) fn release(&mut self, extent: Extent) {
        if self.reserved.get(&extent) == Some(&None) {
            self.forget_reserved(extent);
            self.unbacked -= 1;
        }
    }

    fn forget_reserved(&mut self, extent: Extent) {
        if self.reserved.remove(&extent).is_some()
            && let Some(claims) = self.claims.get_mut(&extent.0)
        {
            *claims -= 1;
        }
    }

    /// Keeps so many slots for a volume, those that it uses included; none ends it.
    pub(super) fn keep_for(&mut self, volume: VolumeId, slots: u64) {
        if slots == 0 {
            self.kept.remove(&volume);
            self.claims.remove(&volume);
            return;
        }
        self.kept.insert(volume, slots);
        let claims = self.reserved.range((volume, 0)..=(volume, u32::MAX)).count() as u64;
        self.claims.insert(volume, claims);
    }

    /// Slots kept for volumes other than this one and not used by them.
    pub(super) fn kept(&self, metadata: &Metadata, but: Option<VolumeId>) -> u64 {
        let others = self.kept.iter().filter(|(volume, _)| Some(**volume) != but);
        others.map(|(volume, slots)| slots.saturating_sub(self.used_by(metadata, *volume))).sum()
    }

    /// Has the volume used less than is kept for it?
    pub(super) fn is_owed(&self, metadata: &Metadata, volume: VolumeId) -> bool {
        self.kept.get(&volume).is_some_and(|slots| *slots > self.used_by(metadata, volume))
    }

    fn used_by(&self, metadata: &Metadata, volume: VolumeId) -> u64 {
        let mapped = metadata.volume(volume).map_or(0, |volume| volume.map.len());
        mapped + self.claims.get(&volume).copied().unwrap_or(0)
    }

    /// The record that frees the last of the slots on their way back, if there are any.
    pub(super) fn freeing(&self) -> Option<Lsn> {
        self.retiring.back().map(|(lsn, _)| *lsn)
    }

    /// Releases what a deleted volume had reserved.
    pub(super) fn release_volume(&mut self, volume: VolumeId) {
        let extents: Vec<Extent> =
            self.reserved.range((volume, 0)..=(volume, u32::MAX)).map(|(at, _)| *at).collect();
        for extent in extents {
            self.release(extent);
        }
        self.keep_for(volume, 0);
    }

    pub(super) fn allocate(&mut self, extent: Extent) -> Slot {
        let reservation =
            self.reserved.get_mut(&extent).expect("an extent is reserved before it is allocated");
        assert!(reservation.is_none(), "extent {extent:?} already has a slot");
        let disk = choose(&self.disks, &mut self.credit).expect("a reservation is backed by a free slot");
        let index = self.disks[disk].first().expect("the chosen disk has a free slot");
        self.disks[disk].take(index);
        self.free -= 1;
        self.unbacked -= 1;
        let slot = Slot { disk: DiskId(disk as u16), index };
        *reservation = Some(slot);
        self.pending.insert(slot, extent);
        slot
    }

    pub(super) fn unallocate(&mut self, slot: Slot, leak: bool) {
        let extent = self.pending.remove(&slot).expect("the slot was allocated and is not mapped");
        self.forget_reserved(extent);
        if !leak {
            self.retire(slot);
        }
    }

    /// A record maps `slot`: it must have been allocated for this extent.
    pub(super) fn mapped(&mut self, extent: Extent, slot: Slot) {
        let owner = self.pending.remove(&slot);
        assert_eq!(owner, Some(extent), "{slot:?} is mapped without having been allocated for it");
        self.forget_reserved(extent);
    }

    /// The record at `lsn` has freed these.
    pub(super) fn unmapped(&mut self, lsn: Lsn, slots: Freed) {
        if !slots.is_empty() {
            self.retiring.push_back((lsn, slots));
        }
    }

    /// Everything up to `lsn` is durable.
    pub(super) fn durable(&mut self, lsn: Lsn) {
        while self.retiring.front().is_some_and(|(at, _)| *at <= lsn) {
            for slot in self.retiring.pop_front().expect("just looked at").1 {
                self.retire(slot);
            }
        }
    }

    pub(super) fn hold(&mut self, slot: Slot) {
        *self.held.entry(slot).or_insert(0) += 1;
    }

    pub(super) fn unhold(&mut self, slot: Slot) {
        let count = self.held.get_mut(&slot).expect("each unhold has its hold");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&slot);
            if self.waiting.remove(&slot) {
                self.give(slot);
            }
        }
    }

    fn retire(&mut self, slot: Slot) {
        if self.held.contains_key(&slot) {
            self.waiting.insert(slot);
        } else {
            self.give(slot);
        }
    }

    fn give(&mut self, slot: Slot) {
        assert!(self.disks[usize::from(slot.disk.0)].give(slot.index), "{slot:?} is freed twice");
        self.free += 1;
    }
}

/// The disk whose turn it is.
fn choose(disks: &[FreeSlots], credit: &mut [i64]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<usize> = None;
    for (at, disk) in disks.iter().enumerate().filter(|(_, disk)| disk.len() != 0) {
        total += i64::from(disk.len());
        credit[at] += i64::from(disk.len());
        if best.is_none_or(|best| credit[at] > credit[best]) {
            best = Some(at);
        }
    }
    credit[best?] -= total;
    best
}
