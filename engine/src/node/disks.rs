//! Disks that are added to the pool and taken from it while the node runs: the operator's requests go to the store,
//! what becomes of them comes back as answers and notices.

use super::Node;
use super::event::{Action, Notice, PoolAsk};
use super::view::{DiskUse, DiskView};
use crate::ids::{DiskId, Uuid};
use crate::pool::{DiskNews, DiskRefusal, DiskState, Pool, PoolDisk};
use crate::store::Store;

impl Node {
    /// An operator asks. Each request is answered once.
    pub(super) fn pool_asked(&mut self, id: u64, ask: PoolAsk) {
        if self.store().failed() {
            if let PoolAsk::Add(new) = ask {
                self.actions.push_back(Action::Release { disk: new.device });
            }
            self.actions.push_back(Action::PoolAnswer { id, result: Err(DiskRefusal::PoolFailed) });
            return;
        }
        if let PoolAsk::Add(new) = ask {
            self.adding.insert(new.device, id);
            self.store_mut().add_disk(new);
            self.tell_disk_news();
            return;
        }
        let result = self.change_disk(&ask);
        self.actions.push_back(Action::PoolAnswer { id, result });
    }

    fn change_disk(&mut self, ask: &PoolAsk) -> Result<(), DiskRefusal> {
        // What was promised room before it is in writing must find it then.
        let pending = self.changes.room_pending() + self.clones.room_pending();
        let store = self.store_mut();
        match *ask {
            PoolAsk::Add(_) => unreachable!("answered when the disk has joined"),
            PoolAsk::Remove { disk } => store.remove_disk_beside(find(store.pool(), disk)?, pending),
            PoolAsk::Keep { disk } => store.keep_disk(find(store.pool(), disk)?),
            PoolAsk::Pause { disk, paused } => store.pause_removal(find(store.pool(), disk)?, paused),
        }
    }

    /// Passes on what became of disks that were to join or to leave.
    pub(super) fn tell_disk_news(&mut self) {
        while let Some(news) = self.store_mut().poll_disk_news() {
            match news {
                DiskNews::Joined { device, uuid } => {
                    self.notice(Notice::DiskJoined(uuid));
                    self.answer_add(device, Ok(()));
                }
                DiskNews::Refused { device, why } => {
                    self.actions.push_back(Action::Release { disk: device });
                    self.answer_add(device, Err(why));
                }
                DiskNews::Left { device, uuid, erased } => {
                    self.actions.push_back(Action::Release { disk: device });
                    self.notice(Notice::DiskLeft { disk: uuid, erased });
                }
            }
        }
        while let Some(unmovable) = self.store_mut().poll_unmovable() {
            let uuid = self.store().pool().disks()[usize::from(unmovable.disk.0)].uuid;
            self.notice(Notice::Unmovable {
                disk: uuid,
                offset: unmovable.offset,
                volume: unmovable.volume,
                block: unmovable.block,
            });
        }
    }

    /// Damaged blocks stand in the way of moves: their volumes ask the partner for them.
    pub(super) fn clear_the_way(&mut self) {
        while let Some((volume, block)) = self.store_mut().poll_in_the_way() {
            self.with(volume, |volume, cx| volume.clear_the_way(cx, block));
        }
    }

    fn answer_add(&mut self, device: DiskId, result: Result<(), DiskRefusal>) {
        if let Some(id) = self.adding.remove(&device) {
            self.actions.push_back(Action::PoolAnswer { id, result });
        }
    }

    /// No disk is added any more in this life.
    pub(super) fn refuse_disks(&mut self) {
        for (disk, id) in core::mem::take(&mut self.adding) {
            self.actions.push_back(Action::Release { disk });
            self.actions.push_back(Action::PoolAnswer { id, result: Err(DiskRefusal::PoolFailed) });
        }
    }

    pub(super) fn disk_views(&self) -> Vec<DiskView> {
        let Some(store) = &self.store else { return Vec::new() };
        let there = store.pool().disks().iter().zip(0..).filter(|(disk, _)| disk.state != DiskState::Removed);
        let there = there.map(|(disk, at)| disk_view(store, disk, DiskId(at)));
        let mut views: Vec<DiskView> = there.chain(store.pool().departing().map(departing_view)).collect();
        views.sort_by_key(|disk| disk.place);
        views
    }
}

fn find(pool: &Pool, uuid: Uuid) -> Result<DiskId, DiskRefusal> {
    let found = pool.disks().iter().position(|disk| disk.uuid == uuid && disk.state != DiskState::Removed);
    found.map(|at| DiskId(at as u16)).ok_or(DiskRefusal::Unknown { disk: uuid })
}

fn disk_view(store: &Store, disk: &PoolDisk, place: DiskId) -> DiskView {
    let pool = store.pool();
    let used = disk.slots - pool.free_on(place).min(disk.slots);
    DiskView {
        uuid: disk.uuid,
        place,
        device: pool.device(place).unwrap_or(place),
        bytes: disk.bytes,
        sector_bytes: disk.sector_bytes,
        home: place == pool.home(),
        extents: disk.slots,
        extents_used: used,
        state: match disk.state {
            DiskState::Joining => DiskUse::Joining,
            DiskState::Leaving => DiskUse::Leaving {
                extents_left: pool.extents_on(place),
                paused: store.is_paused(place),
                unmovable: store.unmovable(place).count() as u32,
            },
            DiskState::InUse | DiskState::Removed => DiskUse::InUse,
        },
    }
}

/// One that is empty stays in view until it has been let go: only then may it be taken away.
fn departing_view((place, device, disk): (DiskId, DiskId, PoolDisk)) -> DiskView {
    DiskView {
        uuid: disk.uuid,
        place,
        device,
        bytes: disk.bytes,
        sector_bytes: disk.sector_bytes,
        home: false,
        extents: disk.slots,
        extents_used: 0,
        state: DiskUse::Departing,
    }
}
