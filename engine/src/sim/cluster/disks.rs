//! Disks that come and go: an operator at each server who adds and removes them.
//!
//! A node that starts is given the disks that carry a pool's mark, in any order. Those that were let go, or never
//! got in, lie around blank until the end.

use super::{Cluster, Slot};
use crate::format::superblock::SUPERBLOCK_OFFSETS;
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::Geometry;
use crate::node::event::{Event, PoolAsk};
use crate::node::view::{DiskUse, View};
use crate::pool::{DiskRefusal, NewDisk, probe};
use crate::sim::disk::{DiskSpeed, SimDisk};
use crate::sim::rng::{Rng, mix};

/// What the operator waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Add,
    Remove,
    Keep,
}

impl Slot {
    /// The disk that the node of this life knows by this number.
    pub(super) fn device(&mut self, disk: DiskId) -> &mut SimDisk {
        &mut self.disks[self.devices[usize::from(disk.0)]]
    }

    /// As [`device`](Self::device), to look at.
    pub(super) fn disk(&self, disk: DiskId) -> &SimDisk {
        &self.disks[self.devices[usize::from(disk.0)]]
    }

    /// Those that carry a pool's mark.
    pub(super) fn marked(&self) -> Vec<usize> {
        let marked = |disk: &SimDisk| {
            let copies = SUPERBLOCK_OFFSETS.map(|offset| disk.visible(Cluster::disk_block(offset)));
            probe([copies[0].bytes(), copies[1].bytes()]).is_some()
        };
        (0..self.disks.len()).filter(|at| marked(&self.disks[*at])).collect()
    }

    /// Chooses what a new life is given: what carries a mark, in any order.
    pub(super) fn connect(&mut self, rng: &mut Rng) -> Vec<Geometry> {
        self.devices = self.marked();
        for at in (1..self.devices.len()).rev() {
            self.devices.swap(at, rng.below(at as u64 + 1) as usize);
        }
        self.devices.iter().map(|at| self.disks[*at].geometry()).collect()
    }
}

impl Cluster {
    /// The operator adds a blank disk.
    pub(super) fn add_disk(&mut self, who: NodeName, bytes: u64, sector_bytes: u32) {
        let speed = DiskSpeed { transfer_us: self.setup.transfer_us, flush_us: self.setup.flush_us };
        let slot = &mut self.slots[who.index()];
        if !slot.opened || slot.disk_failed || slot.disks.iter().any(SimDisk::is_failing) {
            return;
        }
        let seed =
            mix(self.setup.seed ^ (slot.disks.len() as u64) << 40 ^ slot.pools << 32 ^ who as u64 ^ 77);
        let uuid = Uuid(u128::from(seed) << 64 | u128::from(mix(seed)));
        let (geometry, device) =
            (Geometry { bytes, sector_bytes }, DiskId(u16::try_from(slot.devices.len()).expect("few disks")));
        slot.devices.push(slot.disks.len());
        slot.disks.push(SimDisk::new(geometry, speed));
        self.ask_pool(who, Asked::Add, PoolAsk::Add(NewDisk { device, geometry, uuid, replaces: None }));
    }

    /// The operator removes a disk that is in use, the one with the pool's metadata like any other.
    pub(super) fn remove_disk(&mut self, who: NodeName, which: u32) {
        if let Some(disk) = self.pick_disk(who, which, |state| *state == DiskUse::InUse) {
            self.ask_pool(who, Asked::Remove, PoolAsk::Remove { disk });
        }
    }

    /// The operator keeps a disk that is leaving.
    pub(super) fn keep_disk(&mut self, who: NodeName, which: u32) {
        let leaving = |state: &DiskUse| matches!(state, DiskUse::Leaving { .. });
        if let Some(disk) = self.pick_disk(who, which, leaving) {
            self.ask_pool(who, Asked::Keep, PoolAsk::Keep { disk });
        }
    }

    fn pick_disk(&self, who: NodeName, which: u32, fits: impl Fn(&DiskUse) -> bool) -> Option<Uuid> {
        let view = self.view(who)?;
        let fitting: Vec<_> = view.disks.iter().filter(|disk| fits(&disk.state)).collect();
        let at = which as usize % fitting.len().max(1);
        fitting.get(at).map(|disk| disk.uuid)
    }

    fn ask_pool(&mut self, who: NodeName, asked: Asked, ask: PoolAsk) {
        let slot = &mut self.slots[who.index()];
        slot.questions += 1;
        let id = slot.questions;
        slot.asked.insert(id, asked);
        self.deliver(who, Event::Pool { id, ask });
    }

    pub(super) fn pool_answered(&mut self, who: NodeName, id: u64, result: Result<(), DiskRefusal>) {
        let Some(asked) = self.slots[who.index()].asked.remove(&id) else {
            return self.fail(16, format!("node {who} answers question {id} twice, or it was never asked"));
        };
        match (asked, result) {
            (Asked::Add, Ok(())) => self.counters.disks_joined += 1,
            (Asked::Remove, Ok(())) => self.counters.removals += 1,
            (Asked::Keep, Ok(())) => self.counters.removals_cancelled += 1,
            (_, Err(_)) => self.counters.disk_refusals += 1,
        }
    }

    /// What leaves never grows, and a disk that is gone was empty.
    pub(super) fn inspect_disks(&mut self, view: &View) {
        let mut left = std::collections::BTreeMap::new();
        for disk in &view.disks {
            let DiskUse::Leaving { extents_left, .. } = disk.state else { continue };
            left.insert(disk.uuid, extents_left);
            let before = self.watch.leaving[view.name.index()].get(&disk.uuid).copied();
            if before.is_some_and(|before| extents_left > before) {
                let (node, before) = (view.name, before.unwrap_or_default());
                let text = format!(
                    "node {node} puts something on a disk that is leaving: {before} extents, then {extents_left}"
                );
                self.fail(20, text);
                return;
            }
        }
        self.watch.leaving[view.name.index()] = left;
    }

    /// Is a disk of a living node still being emptied?
    pub(super) fn is_emptying(&self) -> bool {
        let views = NodeName::BOTH.map(|node| self.view(node));
        let mut disks = views.iter().flatten().flat_map(|view| &view.disks);
        disks.any(|disk| disk.state != DiskUse::InUse)
    }

    /// A node dies with disks on their way in or out.
    pub(super) fn count_disk_crash(&mut self, who: NodeName) {
        let busy =
            self.view(who).is_some_and(|view| view.disks.iter().any(|disk| disk.state != DiskUse::InUse));
        self.counters.deaths_in_disk_changes += u64::from(busy);
    }
}
