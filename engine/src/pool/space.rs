//! Who may use which slot. A slot is free; or allocated and not yet mapped; or mapped; or retiring: unmapped,
//! but the record that says so is not durable, or I/O on it is still in flight. Only free slots are given out.
//!
//! Volumes of a family may have a slot in common (`families`): it is *shared* until the records by which all but one of them
//! have let go of it are durable. Until then a crash may bring them back, so it must not be overwritten.
//!
//! Space may be kept for a volume: what it has not used of that, others cannot reserve.
//!
//! A disk is open or closed. Nothing is given out on a closed one: it has not joined yet, or it is leaving, or was until
//! a moment ago. For each
//! extent that still has to leave, a free slot of an open disk is kept back. A disk is closed only if the others have
//! room for all of that and for what is kept for volumes.
//!
//! Invariants: the free slots and the allocated, mapped and retiring ones make up the disks; reservations without
//! a slot and extents that have to leave are never more than the free slots of the open disks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::free::FreeSlots;
use super::metadata::{Freed, Metadata};
use super::owners::Owners;
use super::record::{Lsn, Slot};
use crate::ids::{DiskId, VolumeId};

/// An extent of a volume.
pub(super) type Extent = (VolumeId, u32);

#[derive(Debug)]
pub(super) struct Space {
    disks: Vec<FreeSlots>,
    /// Is anything given out on the disk?
    open: Vec<bool>,
    /// Slots of the disk that are allocated or mapped.
    live: Vec<u32>,
    /// Slots allocated for extents that leave their disk, and which one that is.
    moving: BTreeMap<Slot, DiskId>,
    /// Smooth weighted round robin: each disk's turn comes as often as its share of the free space.
    credit: Vec<i64>,
    /// Free slots of the open disks.
    free: u64,
    /// Extents that are not mapped and have space: a slot if it has been chosen.
    reserved: BTreeMap<Extent, Option<Slot>>,
    /// Reservations without a slot.
    unbacked: u64,
    /// Slots allocated and not mapped, and for what.
    pending: BTreeMap<Slot, Extent>,
    /// Slots unmapped by records up to these, oldest first.
    retiring: VecDeque<(Lsn, Freed)>,
    pub(super) owners: Owners,
    /// Who has let go of a shared slot by records up to these, oldest first: family and extent.
    pub(super) parting: VecDeque<(Lsn, Extent, Slot)>,
    /// The same, durably, but I/O on the slot is in flight.
    pub(super) parting_held: BTreeMap<Slot, Vec<Extent>>,
    /// How many of all these, by slot.
    pub(super) parted: BTreeMap<Slot, u16>,
    /// Extents of a volume that lie in shared slots.
    pub(super) shared: BTreeMap<VolumeId, u64>,
    /// I/O in flight per slot.
    pub(super) held: BTreeMap<Slot, u32>,
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
            open: vec![true; disks.len()],
            live: vec![0; disks.len()],
            moving: BTreeMap::new(),
            credit: vec![0; disks.len()],
            free: disks.iter().map(|disk| u64::from(disk.len())).sum(),
            disks,
            reserved: BTreeMap::new(),
            unbacked: 0,
            pending: BTreeMap::new(),
            retiring: VecDeque::new(),
            owners: Owners::default(),
            parting: VecDeque::new(),
            parting_held: BTreeMap::new(),
            parted: BTreeMap::new(),
            shared: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            kept: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Takes all mapped slots; the first one that was not free is the error.
    pub(super) fn occupy(&mut self, metadata: &Metadata) -> Result<(), (VolumeId, u32, Slot)> {
        for (id, volume) in metadata.volumes() {
            // Who had the last extent too has the next as a rule: a family is large, and is looked through once.
            let mut guess = None;
            for (extent, slot) in volume.map.iter() {
                if !self.disks.get_mut(usize::from(slot.disk.0)).is_some_and(|disk| disk.take(slot.index)) {
                    let has = |other: &VolumeId| {
                        metadata.volume(*other).is_some_and(|other| other.map.get(extent) == Some(slot))
                    };
                    let first = guess.filter(has);
                    let first =
                        first.or_else(|| metadata.sharers(id, extent, slot).find(|first| *first < id));
                    guess = first;
                    let first = first.filter(|_| self.owners(slot) < u64::from(u16::MAX));
                    self.share((first.ok_or((id, extent, slot))?, extent), id, slot);
                    continue;
                }
                let disk = usize::from(slot.disk.0);
                self.live[disk] += 1;
                self.free -= u64::from(self.open[disk]);
            }
        }
        Ok(())
    }

    /// Adds a disk of so many slots in this place, which is the next or that of a disk without slots; closed.
    pub(super) fn add(&mut self, disk: DiskId, slots: u32) {
        let at = usize::from(disk.0);
        self.disks.resize_with(self.disks.len().max(at + 1), || FreeSlots::all(0));
        self.open.resize(self.disks.len(), false);
        self.live.resize(self.disks.len(), 0);
        self.credit.resize(self.disks.len(), 0);
        assert!(self.disks[at].slots() == 0, "the place of {disk} is taken");
        self.disks[at] = FreeSlots::all(slots);
    }

    /// From now on slots of the disk are given out.
    pub(super) fn open(&mut self, disk: DiskId) {
        let at = usize::from(disk.0);
        if !core::mem::replace(&mut self.open[at], true) {
            self.free += u64::from(self.disks[at].len());
        }
    }

    /// Are slots of the disk given out?
    pub(super) fn is_open(&self, disk: DiskId) -> bool {
        self.open[usize::from(disk.0)]
    }

    /// From now on no slot of the disk is given out.
    pub(super) fn close(&mut self, disk: DiskId) {
        let at = usize::from(disk.0);
        if core::mem::replace(&mut self.open[at], false) {
            self.free -= u64::from(self.disks[at].len());
            self.credit[at] = 0;
        }
    }

    /// Would the reservations, `kept` slots and the extents of this disk find room on the others?
    pub(super) fn has_room_without(&self, disk: DiskId, kept: u64) -> bool {
        let at = usize::from(disk.0);
        // What is on a closed disk has room there already.
        let (lost, live) = if self.open[at] { (self.disks[at].len(), self.live[at]) } else { (0, 0) };
        self.free - u64::from(lost) >= self.unbacked + self.to_move() + u64::from(live) + kept
    }

    /// Is every slot of the disk free, with no I/O on any of them?
    pub(super) fn is_vacant(&self, disk: DiskId) -> bool {
        let free = &self.disks[usize::from(disk.0)];
        free.len() == free.slots()
            && self.held.range(Slot { disk, index: 0 }..=Slot { disk, index: u32::MAX }).next().is_none()
    }

    /// Takes the slots of a vacant, closed disk away.
    pub(super) fn remove(&mut self, disk: DiskId) {
        let at = usize::from(disk.0);
        assert!(self.is_vacant(disk) && !self.open[at], "{disk} is in use");
        self.disks[at] = FreeSlots::all(0);
    }

    /// Slots of the disk that are allocated or mapped.
    pub(super) fn live_on(&self, disk: DiskId) -> u32 {
        self.live[usize::from(disk.0)]
    }

    /// Extents that have to leave their disk and have no new slot yet.
    fn to_move(&self) -> u64 {
        let live = self.live.iter().zip(&self.open).filter(|(_, open)| !**open);
        // An extent whose disk stays has its place there: its new slot is one more.
        let moving = self.moving.values().filter(|from| !self.is_open(**from)).count() as u64;
        live.map(|(live, _)| u64::from(*live)).sum::<u64>().saturating_sub(moving)
    }

    /// Free slots, those of closed disks too.
    pub(super) fn free(&self) -> u64 {
        self.disks.iter().map(|disk| u64::from(disk.len())).sum()
    }

    pub(super) fn unreserved(&self) -> u64 {
        self.free.saturating_sub(self.unbacked + self.to_move())
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
        let retiring = retiring.chain(self.deserted());
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

    pub(super) fn is_reserved(&self, extent: Extent) -> bool {
        self.reserved.contains_key(&extent)
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

    /// Is space kept for the volume?
    pub(super) fn is_kept(&self, volume: VolumeId) -> bool {
        self.kept.contains_key(&volume)
    }

    /// Has the volume used less than is kept for it?
    pub(super) fn is_owed(&self, metadata: &Metadata, volume: VolumeId) -> bool {
        self.kept.get(&volume).is_some_and(|slots| *slots > self.used_by(metadata, volume))
    }

    fn used_by(&self, metadata: &Metadata, volume: VolumeId) -> u64 {
        // What is shared needs a slot more when it is written.
        let mapped = metadata.volume(volume).map_or(0, |meta| self.exclusive(volume, meta.map.len()));
        mapped + self.claims.get(&volume).copied().unwrap_or(0)
    }

    /// The record that frees the last of the slots on their way back, or by which the last of those who share one lets go of
    /// it, if there are any.
    pub(super) fn freeing(&self) -> Option<Lsn> {
        let parting = self.parting.back().map(|(lsn, ..)| *lsn);
        self.retiring.back().map(|(lsn, _)| *lsn).max(parting)
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

    /// `careless`: closed disks too, for a planted bug.
    pub(super) fn allocate(&mut self, extent: Extent, careless: bool) -> Slot {
        let reservation = self.reserved.get(&extent).expect("an extent is reserved before it is allocated");
        assert!(reservation.is_none(), "extent {extent:?} already has a slot");
        let slot = self.take(extent, careless).expect("a reservation is backed by a free slot");
        self.unbacked -= 1;
        self.reserved.insert(extent, Some(slot));
        slot
    }

    /// Is a slot free for an extent that leaves its disk, beside those for reservations?
    pub(super) fn has_room_to_move(&self) -> bool {
        self.free > self.unbacked
    }

    /// A slot for a mapped extent that leaves this disk; `None` if there is none but for reservations.
    pub(super) fn allocate_move(&mut self, extent: Extent, from: DiskId, careless: bool) -> Option<Slot> {
        if !self.has_room_to_move() {
            return None;
        }
        let slot = self.take(extent, careless)?;
        self.moving.insert(slot, from);
        Some(slot)
    }

    fn take(&mut self, extent: Extent, careless: bool) -> Option<Slot> {
        let disk = choose(&self.disks, |at| careless || self.open[at], &mut self.credit)?;
        let index = self.disks[disk].first()?;
        self.disks[disk].take(index);
        self.free = self.free.saturating_sub(u64::from(self.open[disk]));
        self.live[disk] += 1;
        let slot = Slot { disk: DiskId(disk as u16), index };
        self.pending.insert(slot, extent);
        Some(slot)
    }

    pub(super) fn unallocate(&mut self, slot: Slot, leak: bool) {
        let extent = self.pending.remove(&slot).expect("the slot was allocated and is not mapped");
        if self.moving.remove(&slot).is_none() {
            self.forget_reserved(extent);
        }
        self.live[usize::from(slot.disk.0)] -= 1;
        if !leak {
            self.retire(slot);
        }
    }

    /// A record maps `slot`: it must have been allocated for this extent.
    pub(super) fn mapped(&mut self, extent: Extent, slot: Slot) {
        let owner = self.pending.remove(&slot);
        assert_eq!(owner, Some(extent), "{slot:?} is mapped without having been allocated for it");
        if self.moving.remove(&slot).is_none() {
            self.forget_reserved(extent);
        }
    }

    /// The record at `lsn` has freed these, which nobody shares.
    pub(super) fn unmapped(&mut self, lsn: Lsn, slots: Freed) {
        for slot in &slots {
            self.not_live(*slot);
        }
        if !slots.is_empty() {
            self.retiring.push_back((lsn, slots));
        }
    }

    pub(super) fn not_live(&mut self, slot: Slot) {
        // Not below zero: a planted bug frees what was never counted.
        let live = &mut self.live[usize::from(slot.disk.0)];
        *live = live.saturating_sub(1);
    }

    /// Everything up to `lsn` is durable.
    pub(super) fn durable(&mut self, metadata: &Metadata, lsn: Lsn) {
        while self.retiring.front().is_some_and(|(at, _)| *at <= lsn) {
            for slot in self.retiring.pop_front().expect("just looked at").1 {
                self.retire(slot);
            }
        }
        while self.parting.front().is_some_and(|(at, _, _)| *at <= lsn) {
            let (_, extent, slot) = self.parting.pop_front().expect("just looked at");
            self.part(metadata, extent, slot);
        }
    }

    pub(super) fn hold(&mut self, slot: Slot) {
        *self.held.entry(slot).or_insert(0) += 1;
    }

    pub(super) fn unhold(&mut self, metadata: &Metadata, slot: Slot) {
        let count = self.held.get_mut(&slot).expect("each unhold has its hold");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&slot);
            self.part_unheld(metadata, slot);
            if self.waiting.remove(&slot) {
                self.give(slot);
            }
        }
    }

    pub(super) fn retire(&mut self, slot: Slot) {
        if self.held.contains_key(&slot) {
            self.waiting.insert(slot);
        } else {
            self.give(slot);
        }
    }

    fn give(&mut self, slot: Slot) {
        let at = usize::from(slot.disk.0);
        assert!(self.disks[at].give(slot.index), "{slot:?} is freed twice");
        self.free += u64::from(self.open[at]);
    }
}

/// The disk whose turn it is.
fn choose(disks: &[FreeSlots], may: impl Fn(usize) -> bool, credit: &mut [i64]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<usize> = None;
    for (at, disk) in disks.iter().enumerate().filter(|(at, disk)| may(*at) && disk.len() != 0) {
        total += i64::from(disk.len());
        credit[at] += i64::from(disk.len());
        if best.is_none_or(|best| credit[at] > credit[best]) {
            best = Some(at);
        }
    }
    credit[best?] -= total;
    best
}
