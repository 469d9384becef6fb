//! The pool against a plain model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;

use std::collections::BTreeMap;

use pool_support::plain_pool::Model;
use pool_support::{Disk, formatted, open_marked};
use proptest::prelude::*;
use twinsan::ids::{DiskId, Epoch, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{
    DiskNews, DiskRefusal, DiskState, ExtentMap, Lsn, NewDisk, Pool, PoolOptions, Record, Slot, check,
};

/// What a store can ask of a pool.
#[derive(Clone, Debug)]
enum Ask {
    Create(u32),
    Delete(u32),
    /// A volume begins as another one, for hosts to write or not.
    Clone(u32, u32, bool),
    /// A volume grows to so many extents, the last of them not whole.
    Grow(u32, u32),
    /// A volume is deleted, and its extents are still there.
    Bury(u32),
    Reserve(u32, u32),
    Release(u32, u32),
    Allocate(u32, u32),
    Unallocate(usize),
    Map(usize),
    Unmap(u32, u32),
    Hold(usize),
    Unhold(usize),
    Log(u32, u64, u64, bool),
    /// Blocks of a mapped extent read as zero, or no longer do.
    Zeros(u32, u32, u32, u32, bool),
    /// So many extents are kept for a volume.
    Keep(u32, u64),
    /// This many requests of the pool are carried out.
    Work(u8),
    Checkpoint,
    /// A blank disk of so many MiB joins.
    AddDisk(u64),
    RemoveDisk(usize),
    KeepDisk(usize),
    /// An extent leaves its disk: it is given a new slot, and mapped there.
    Move(usize),
    /// All requests are carried out, and the pool is opened again.
    Reopen,
}

fn ask() -> impl Strategy<Value = Ask> {
    let (volume, extent, pick) = (0u32..5, 0u32..12, 0usize..100);
    prop_oneof![
        1 => volume.clone().prop_map(Ask::Create),
        1 => volume.clone().prop_map(Ask::Delete),
        2 => (volume.clone(), volume.clone(), any::<bool>()).prop_map(|(v, of, only)| Ask::Clone(v, of, only)),
        1 => (volume.clone(), 8u32..14).prop_map(|(v, extents)| Ask::Grow(v, extents)),
        1 => volume.clone().prop_map(Ask::Bury),
        6 => (volume.clone(), extent.clone()).prop_map(|(v, e)| Ask::Reserve(v, e)),
        2 => (volume.clone(), extent.clone()).prop_map(|(v, e)| Ask::Release(v, e)),
        6 => (volume.clone(), extent.clone()).prop_map(|(v, e)| Ask::Allocate(v, e)),
        1 => pick.clone().prop_map(Ask::Unallocate),
        5 => pick.clone().prop_map(Ask::Map),
        4 => (volume.clone(), extent).prop_map(|(v, e)| Ask::Unmap(v, e)),
        2 => pick.clone().prop_map(Ask::Hold),
        2 => pick.prop_map(Ask::Unhold),
        2 => (volume, 0u64..500, 1u64..200, any::<bool>()).prop_map(|(v, f, n, add)| Ask::Log(v, f, n, add)),
        4 => (0u32..5, 0u32..12, 0u32..16, 1u32..16, any::<bool>())
            .prop_map(|(v, e, f, n, add)| Ask::Zeros(v, e, f, n, add)),
        1 => (0u32..3, 0u64..6).prop_map(|(v, extents)| Ask::Keep(v, extents)),
        6 => (1u8..9).prop_map(Ask::Work),
        1 => Just(Ask::Checkpoint),
        1 => disk_mib().prop_map(Ask::AddDisk),
        2 => (0usize..6).prop_map(Ask::RemoveDisk),
        1 => (0usize..6).prop_map(Ask::KeepDisk),
        6 => (0usize..100).prop_map(Ask::Move),
        1 => Just(Ask::Reopen),
    ]
}

/// Small ones as a rule; some have room for the metadata, and for a large one these must grow.
fn disk_mib() -> impl Strategy<Value = u64> {
    prop_oneof![16 => 1u64..4, 4 => Just(9), 1 => Just(1024)]
}

/// Of a volume of so many extents, the last not whole.
fn sectors(extents: u32) -> u64 {
    u64::from(extents) * 128 - 40
}

struct Both {
    disks: Vec<Disk>,
    /// Which of them the pool knows by each number.
    devices: Vec<usize>,
    pool: Pool,
    model: Model,
}

/// Is space reserved for a volume, or a place allocated?
fn is_in_hand(model: &Model, v: u32) -> bool {
    let pending = model.pending.iter().any(|((of, _), _)| *of == v);
    pending || model.reserved.iter().any(|(of, _)| *of == v)
}

impl Both {
    fn new() -> Both {
        let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
        let mut disks = formatted(&options, &[1 << 20, 1 << 20]);
        let (pool, devices) = open_marked(&mut disks, Planted::NONE).unwrap();
        let model = Model { slots: pool.free_extents(), ..Model::default() };
        Both { disks, devices, pool, model }
    }

    /// With extents of one volume on both disks.
    fn with_extents() -> Both {
        let mut both = Both::new();
        both.step(&Ask::Create(0));
        for extent in 0..4 {
            both.step(&Ask::Reserve(0, extent));
            both.step(&Ask::Allocate(0, extent));
            both.step(&Ask::Map(0));
        }
        both.settle();
        both
    }

    fn replace_with_clone(&mut self, v: u32, of: VolumeId, read_only: bool) {
        self.step(&Ask::Delete(v));
        if self.pool.metadata().volume(VolumeId(v)).is_none() {
            self.step(&Ask::Clone(v, of.0, read_only));
        }
    }

    fn step(&mut self, ask: &Ask) {
        let (pool, model) = (&mut self.pool, &mut self.model);
        match *ask {
            Ask::Create(v) if model.volumes.contains_key(&v) || !pool.metadata().is_named(VolumeId(v)) => {
                // Some are small, and grow.
                let (uuid, extents) = (Uuid(1), if v % 2 == 0 { 512 } else { 8 });
                let (volume, sectors) = (VolumeId(v), sectors(extents));
                pool.append(&[Record::VolumeCreate { volume, uuid, sectors, mirrored: false }]);
                model.volumes.entry(v).or_default();
                model.extents.entry(v).or_insert(extents);
            }
            Ask::Delete(v) if !model.is_moving(v, None) => {
                let lsn = pool.append(&[Record::VolumeDelete { volume: VolumeId(v) }]);
                model.reserved.retain(|(volume, _)| *volume != v);
                model.zeros.retain(|(volume, ..)| *volume != v);
                model.kept.remove(&v);
                model.extents.remove(&v);
                let (gone, _) = model.volumes.remove(&v).unwrap_or_default();
                gone.into_values().for_each(|slot| model.unmapped(lsn, Some(slot)));
            }
            Ask::Clone(v, of, read_only) => {
                let (volume, of) = (VolumeId(v), VolumeId(of));
                if pool.may_clone(volume, of, read_only).is_ok() {
                    // One of which only the number is left goes first.
                    if pool.metadata().volume(volume).is_some() {
                        return self.replace_with_clone(v, of, read_only);
                    }
                    let (uuid, mirrored) = (Uuid(1), false);
                    pool.append(&[Record::VolumeClone { volume, of, uuid, read_only, mirrored }]);
                    model.clone_volume(v, of.0);
                }
            }
            Ask::Grow(v, extents) if model.extents.get(&v).is_some_and(|now| *now < extents) => {
                let (volume, change, epoch) = (VolumeId(v), u64::from(extents), Epoch(1));
                let (sectors, deleted) = (sectors(extents), false);
                pool.append(&[Record::VolumeState {
                    volume,
                    sectors,
                    change,
                    epoch,
                    deleted,
                    read_only: false,
                }]);
                model.extents.insert(v, extents);
            }
            // Nothing is in hand of a volume that is deleted, nor will be.
            Ask::Bury(v) if model.extents.contains_key(&v) && !is_in_hand(model, v) => {
                let (volume, change, epoch) = (VolumeId(v), 99, Epoch(1));
                let (sectors, deleted) = (sectors(model.extents[&v]), true);
                pool.append(&[Record::VolumeState {
                    volume,
                    sectors,
                    change,
                    epoch,
                    deleted,
                    read_only: false,
                }]);
                model.volumes.get_mut(&v).unwrap().1.clear();
            }
            Ask::Reserve(v, e) if !pool.metadata().volume(VolumeId(v)).is_some_and(|meta| meta.deleted) => {
                let has = (model.mapped(v, e) && !model.is_shared(v, e))
                    || model.reserved.contains(&(v, e))
                    || model.has_new_slot(v, e);
                let gets = !has && model.free() > model.kept(v);
                assert_eq!(pool.reserve(VolumeId(v), e), has || gets);
                if gets {
                    model.reserved.insert((v, e));
                }
            }
            Ask::Release(v, e) => {
                pool.release(VolumeId(v), e);
                model.reserved.remove(&(v, e));
            }
            Ask::Allocate(v, e) if model.reserved.remove(&(v, e)) => {
                let slot = pool.allocate(VolumeId(v), e);
                assert!(!model.is_closed(slot.disk), "{slot:?} is on a disk that leaves");
                assert!(!model.used().contains(&slot), "{slot:?} is in use");
                model.pending.push(((v, e), slot));
            }
            Ask::Unallocate(n) if !model.pending.is_empty() => {
                let at = n % model.pending.len();
                let slot = model.pending[at].1;
                // A move that has its slot is not given up: the slot may be held, and lacking for the next attempt.
                if !model.moving.contains_key(&slot) {
                    model.pending.remove(at);
                    pool.unallocate(slot);
                    model.unmapped(Lsn(0), Some(slot));
                }
            }
            Ask::Map(n) if !model.pending.is_empty() => {
                let at = model.pending.remove(n % model.pending.len());
                Both::map(pool, model, at);
            }
            Ask::Unmap(v, extent) if model.reaches(v, extent) && !model.is_moving(v, Some(extent)) => {
                let lsn = pool.append(&[Record::Unmap { volume: VolumeId(v), extent }]);
                let old = model.volumes.get_mut(&v).and_then(|(map, _)| map.remove(&extent));
                model.unmapped(lsn, old);
                model.zeros.retain(|(volume, of, _)| (*volume, *of) != (v, extent));
            }
            Ask::Hold(n) => {
                let used = model.used();
                if let Some(slot) = used.get(n % used.len().max(1)) {
                    pool.hold(*slot);
                    model.held.push(*slot);
                }
            }
            Ask::Unhold(n) if !model.held.is_empty() => {
                let slot = model.held.remove(n % model.held.len());
                pool.unhold(slot);
            }
            Ask::Log(v, first, count, add) => {
                let (volume, regions) = (VolumeId(v), model.extents.get(&v).map_or(8, |all| u64::from(*all)));
                let first = first % regions;
                let count = count.min(regions - first);
                let run =
                    [Record::LogRemove { volume, first, count }, Record::LogAdd { volume, first, count }];
                pool.append(&run[usize::from(add)..][..1]);
                if let Some((_, log)) = model.volumes.get_mut(&v) {
                    let range = first..first + count;
                    if add { log.extend(range) } else { log.retain(|region| !range.contains(region)) }
                }
            }
            Ask::Zeros(v, extent, first, count, add) if model.mapped(v, extent) => {
                let (volume, count) = (VolumeId(v), count.min(16 - first));
                pool.append(&[match add {
                    true => Record::ZeroAdd { volume, extent, first, count },
                    false => Record::ZeroRemove { volume, extent, first, count },
                }]);
                let blocks = (first..first + count).map(|block| (v, extent, block));
                if add {
                    model.zeros.extend(blocks);
                } else {
                    model.zeros.retain(|block| !blocks.clone().any(|gone| gone == *block));
                }
            }
            Ask::Keep(v, extents) => {
                pool.keep_for(VolumeId(v), extents * (64 << 10) - extents.min(1));
                model.kept.insert(v, extents);
            }
            Ask::Work(requests) => {
                for _ in 0..requests {
                    let Some(io) = pool.poll_io() else { break };
                    let result = self.disks[self.devices[usize::from(io.disk.0)]].submit(&io.op);
                    pool.io_done(io.token, result);
                }
            }
            Ask::Checkpoint => pool.checkpoint(),
            Ask::AddDisk(mib) => self.add_disk(mib << 20),
            Ask::RemoveDisk(n) => self.remove_disk(n),
            Ask::KeepDisk(n) => self.keep_disk(n),
            Ask::Move(n) => self.move_extent(n),
            Ask::Reopen => self.reopen(),
            _ => {}
        }
        self.see_to_disks();
        self.compare();
    }

    fn map(pool: &mut Pool, model: &mut Model, ((v, extent), slot): ((u32, u32), Slot)) {
        let volume = VolumeId(v);
        if !model.reaches(v, extent) {
            // Asked for of a larger volume of that number.
            pool.unallocate(slot);
            model.unmapped(Lsn(0), Some(slot));
        } else if model.moving.remove(&slot).is_some() {
            let lsn = pool.append(&[Record::MapShared { volume, extent, slot }]);
            model.move_shared(lsn, (v, extent), slot);
        } else {
            let lsn = pool.append(&[Record::Map { volume, extent, slot }]);
            match model.volumes.get_mut(&v) {
                Some((map, _)) => {
                    let old = map.insert(extent, slot);
                    model.unmapped(lsn, old);
                }
                None => model.unmapped(lsn, Some(slot)),
            }
        }
    }

    fn add_disk(&mut self, bytes: u64) {
        let geometry = Geometry { bytes, sector_bytes: 4096 };
        let (device, uuid) = (DiskId(self.devices.len() as u16), Uuid(0xADD0 + self.disks.len() as u128));
        self.devices.push(self.disks.len());
        let mut disk = Disk::new(bytes);
        disk.geometry = geometry;
        self.disks.push(disk);
        self.pool.add_disk(NewDisk { device, geometry, uuid, replaces: None });
    }

    fn remove_disk(&mut self, n: usize) {
        let place = DiskId((n % self.pool.disks().len()) as u16);
        let in_use = self.pool.disks()[usize::from(place.0)].state == DiskState::InUse;
        let (slots, model) = (u64::from(self.pool.disks()[usize::from(place.0)].slots), &self.model);
        let used = model.used().iter().filter(|slot| slot.disk == place).count() as u64;
        let needed = model.reserved.len() as u64 + model.to_leave() + model.kept(u32::MAX);
        // What was leaving until now is among that already.
        let again = model.staying.contains(&place);
        let more = if again { 0 } else { slots - used + model.live_on(place) };
        let fits = in_use && model.free_slots() >= needed + more;
        let others: Vec<u64> = (0..)
            .zip(self.pool.disks())
            .filter(|(at, _)| *at != place.0)
            .map(|(_, disk)| disk)
            .filter(|disk| disk.state == DiskState::InUse)
            .map(|disk| disk.spare[1])
            .collect();
        let home = place == self.pool.home();
        let removed = self.pool.remove_disk(place);
        if let Err(DiskRefusal::Home { needed }) = removed {
            assert!(in_use && others.iter().all(|spare| *spare < needed / 8), "{needed}, of {others:?}");
            return;
        }
        assert_eq!(removed.is_ok(), fits, "removed: {removed:?}; the others have room: {fits}");
        let to = others.iter().any(|spare| *spare != 0)
            || self.pool.disks().iter().any(|disk| disk.state == DiskState::Joining);
        assert!(!home || removed.is_err() || to, "the metadata have nowhere to go");
        if removed.is_ok() {
            let (left, kept) = (self.pool.free_extents() * (64 << 10), self.pool.bytes_kept());
            assert!(left >= kept, "{left} bytes are left, and {kept} are kept");
            self.model.leaving.insert(place);
            if !self.model.staying.remove(&place) {
                self.model.slots -= slots;
            }
        }
    }

    fn keep_disk(&mut self, n: usize) {
        let place = DiskId((n % self.pool.disks().len()) as u16);
        let kept = self.pool.keep_disk(place).is_ok();
        assert_eq!(kept, self.model.leaving.remove(&place));
        if kept {
            self.model.staying.insert(place);
        }
    }

    fn move_extent(&mut self, n: usize) {
        let model = &mut self.model;
        let mapped =
            model.volumes.iter().flat_map(|(v, (map, _))| map.iter().map(|(e, slot)| (*v, *e, *slot)));
        let leaving: Vec<(u32, u32, Slot)> = mapped
            .filter(|(_, e, slot)| model.leaving.contains(&slot.disk) && !model.is_moved(*e, *slot))
            .collect();
        let Some((v, e, from)) = leaving.get(n % leaving.len().max(1)).copied() else { return };
        let room = model.free_slots() > model.reserved.len() as u64;
        let slot = self.pool.allocate_move(VolumeId(v), e);
        assert_eq!(slot.is_some(), room);
        assert!(room, "a disk that may leave finds room");
        if let Some(slot) = slot {
            assert!(!model.is_closed(slot.disk) && !model.used().contains(&slot), "{slot:?}");
            model.pending.push(((v, e), slot));
            model.moving.insert(slot, from.disk);
        }
    }

    /// Lets empty disks go, and counts those that have joined.
    fn see_to_disks(&mut self) {
        let durable = self.pool.durable();
        self.model.settle(durable);
        for place in self.model.leaving.clone() {
            if self.pool.drop_disk(place) {
                assert!(self.model.used().iter().all(|slot| slot.disk != place), "{place} was not empty");
                self.model.leaving.remove(&place);
            }
        }
        let stays = |place: &DiskId| self.pool.is_open(*place);
        for place in self.model.staying.iter().copied().filter(stays).collect::<Vec<_>>() {
            self.stays_for_good(place);
            self.model.staying.remove(&place);
            self.model.slots += u64::from(self.pool.disks()[usize::from(place.0)].slots);
        }
        while let Some(news) = self.pool.poll_disk_news() {
            if let DiskNews::Joined { uuid, .. } = news {
                let joined = self.pool.disks().iter().find(|disk| disk.uuid == uuid).unwrap();
                self.model.slots += u64::from(joined.slots);
            }
        }
    }

    /// The power may fail from now on, and the disk stays.
    fn stays_for_good(&self, place: DiskId) {
        let mut disks = self.disks.clone();
        disks.iter_mut().for_each(|disk| disk.unflushed.clear());
        let (pool, _) = open_marked(&mut disks, Planted::NONE).unwrap();
        assert_eq!(pool.disks()[usize::from(place.0)].state, DiskState::InUse, "{place} may still leave");
    }

    /// Carries out all requests.
    fn settle(&mut self) {
        loop {
            self.see_to_disks();
            let asked: Vec<_> = core::iter::from_fn(|| self.pool.poll_io()).collect();
            if asked.is_empty() {
                return;
            }
            for io in asked {
                let result = self.disks[self.devices[usize::from(io.disk.0)]].submit(&io.op);
                self.pool.io_done(io.token, result);
            }
        }
    }

    fn reopen(&mut self) {
        self.settle();
        assert!(self.pool.is_idle());
        let (again, devices) = open_marked(&mut self.disks, Planted::NONE).unwrap();
        assert_eq!(again.metadata(), self.pool.metadata());
        assert_eq!(again.disks(), self.pool.disks());
        (self.pool, self.devices) = (again, devices);
        self.model.reserved.clear();
        self.model.pending.clear();
        self.model.retiring.clear();
        self.model.held.clear();
        self.model.kept.clear();
        self.model.moving.clear();
    }

    fn compare(&self) {
        let (pool, model) = (&self.pool, &self.model);
        let volumes: Vec<u32> = pool.metadata().volumes().map(|(id, _)| id.0).collect();
        assert_eq!(volumes, model.volumes.keys().copied().collect::<Vec<_>>());
        for (id, (map, log)) in &model.volumes {
            let volume = pool.metadata().volume(VolumeId(*id)).unwrap();
            assert!(volume.map.iter().eq(map.iter().map(|(extent, slot)| (*extent, *slot))));
            assert!(volume.log.iter().eq(log.iter().copied()));
            for (extent, block) in (0..12).flat_map(|extent| (0..16).map(move |block| (extent, block))) {
                let (zero, mapped) = (model.zeros.contains(&(*id, extent, block)), map.contains_key(&extent));
                let at = u64::from(extent * 16 + block);
                assert_eq!(pool.locate(VolumeId(*id), at).is_some(), mapped && !zero);
                assert_eq!(pool.place(VolumeId(*id), at).is_some(), mapped);
            }
        }
        assert_eq!(pool.free_extents(), model.free());
        assert_eq!(pool.bytes_used(), model.used().len() as u64 * (64 << 10));
        assert_eq!(pool.bytes_kept(), model.kept(u32::MAX) * (64 << 10));
        let report = check(pool);
        assert!(report.is_clean(), "{report:?}");
    }
}

/// The model is worth something: it finds a pool that puts new extents on a disk that leaves.
#[test]
#[should_panic(expected = "is on a disk that leaves")]
fn a_leaving_disk_that_takes_extents_is_found() {
    let mut both = Both::new();
    both.pool.set_planted(Planted::only(Bug::LeavingDiskAllocated));
    both.step(&Ask::Create(0));
    for extent in 0..8 {
        if extent == 4 {
            both.step(&Ask::RemoveDisk(1));
        }
        both.step(&Ask::Reserve(0, extent));
        both.step(&Ask::Allocate(0, extent));
    }
}

/// What a clone gets the number of is gone first.
#[test]
fn a_clone_gets_the_number_of_a_buried_volume() {
    let mut both = Both::new();
    let grown = [Ask::Create(3), Ask::Bury(3), Ask::Create(1), Ask::Grow(1, 12)];
    for ask in grown.iter().chain(&[Ask::Clone(3, 1, true), Ask::Unmap(3, 8)]) {
        both.step(ask);
        both.compare();
    }
}

/// It finds a pool that lets a disk go with the space that is kept for a volume.
#[test]
#[should_panic(expected = "the others have room")]
fn a_disk_that_leaves_with_kept_space_is_found() {
    let mut both = Both::new();
    both.pool.set_planted(Planted::only(Bug::ReservationIgnored));
    both.step(&Ask::Create(0));
    let all = both.pool.free_extents();
    both.step(&Ask::Keep(0, all));
    both.step(&Ask::RemoveDisk(1));
    both.step(&Ask::RemoveDisk(0));
}

/// It finds a pool that puts extents on a disk that may still leave.
#[test]
#[should_panic(expected = "may still leave")]
fn a_disk_that_is_used_before_it_stays_is_found() {
    let mut both = Both::with_extents();
    both.pool.set_planted(Planted::only(Bug::DiskUsedBeforeItJoined));
    both.step(&Ask::RemoveDisk(1));
    both.settle();
    both.step(&Ask::KeepDisk(1));
}

/// Kept and removed again, with commits of both on their way: it leaves, and when it is kept once more it stays.
#[test]
fn a_disk_is_kept_and_removed_and_kept() {
    for work in 0..20 {
        let mut both = Both::with_extents();
        for ask in [Ask::RemoveDisk(1), Ask::KeepDisk(1), Ask::RemoveDisk(1)] {
            both.step(&ask);
            both.step(&Ask::Work(work));
        }
        both.settle();
        assert!(both.model.leaving.contains(&DiskId(1)) && !both.pool.is_open(DiskId(1)));
        both.step(&Ask::KeepDisk(1));
        both.settle();
        assert!(both.pool.is_open(DiskId(1)));
        both.reopen();
        both.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_behaves_like_its_model(asks in proptest::collection::vec(ask(), 1..150)) {
        let mut both = Both::new();
        asks.iter().for_each(|ask| both.step(ask));
        both.reopen();
        both.compare();
    }

    #[test]
    fn an_extent_map_behaves_like_a_map(
        asks in proptest::collection::vec((0u32..3000, any::<u32>(), 0u8..5), 1..800),
        from in 0u32..3000,
    ) {
        let (mut map, mut model) = (ExtentMap::new(), BTreeMap::new());
        for (extent, index, kind) in asks {
            let slot = Slot { disk: DiskId(index as u16 % 64), index };
            if kind < 3 {
                prop_assert_eq!(map.insert(extent, slot), model.insert(extent, slot));
            } else {
                prop_assert_eq!(map.remove(extent), model.remove(&extent));
            }
            prop_assert_eq!(map.get(extent), model.get(&extent).copied());
            prop_assert_eq!(map.contains(extent + 1), model.contains_key(&(extent + 1)));
            prop_assert_eq!(map.len(), model.len() as u64);
        }
        prop_assert!(map.iter().eq(model.iter().map(|(extent, slot)| (*extent, *slot))));
        prop_assert!(map.iter_from(from).eq(model.range(from..).map(|(extent, slot)| (*extent, *slot))));
    }
}
