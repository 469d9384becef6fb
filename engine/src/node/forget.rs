//! Numbers of deleted clones: forgotten when nobody needs them any more, so that a pool does not fill with them.
//!
//! A deleted volume stays in the table so that a partner that was away hears of it. Snapshots come and go by the thousand, so
//! theirs do not stay for ever. Invariants:
//!
//! - A mirrored clone is forgotten only in a pair, when both nodes have in writing that it is deleted. A node that has
//!   forgotten it learns of it again, as deleted, from a partner that has not, or never.
//! - It is forgotten when its space is free, and while no other volume names it.
//! - The largest number of each kind stays: new ones are given out above it, so none is given out twice.

use std::collections::BTreeSet;

use super::Node;
use super::phase::Phase;
use crate::ids::{NUMBER_KINDS, Uuid, VolumeId};
use crate::pool::{Record, VolumeMeta};

/// Most that are forgotten at once: their records are one entry of the log.
const FORGOTTEN_MAX: usize = 64;

/// Deleted volumes of which all who count have that in writing.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// With what tells a volume from one of before or after it that has its number.
    volumes: BTreeSet<(VolumeId, Uuid)>,
    /// How things stood at the last look: how many there were, how many were being purged, and whether there was a pair.
    looked: (usize, usize, bool),
}

impl Node {
    /// Everybody who counts has in writing that these volumes are deleted. Those that are no clones stay for ever.
    pub(super) fn settle_deleted(&mut self, volumes: impl IntoIterator<Item = VolumeId>) {
        let store = self.store.as_ref().expect("the pool is open");
        // Where it came with a table there is no more left of a snapshot than that it was one.
        let is_clone = |meta: &&VolumeMeta| meta.kin.is_some() || meta.is_snapshot();
        let clone = |id| store.pool().metadata().volume(id).filter(is_clone).map(|meta| (id, meta.uuid));
        self.settled.volumes.extend(volumes.into_iter().filter_map(clone));
    }

    /// The pool is open: of linear volumes nobody else has to hear.
    pub(super) fn settle_linear(&mut self) {
        let all = self.store().pool().metadata().volumes();
        let gone = all.filter(|(_, meta)| meta.deleted && !meta.mirrored).map(|(id, _)| id);
        let gone: Vec<VolumeId> = gone.collect();
        self.settle_deleted(gone);
    }

    /// Forgets what nobody needs.
    pub(super) fn forget_step(&mut self) {
        if self.settled.volumes.is_empty() || self.store().failed() {
            return;
        }
        let paired = matches!(self.phase, Phase::Paired(_));
        let now = (self.settled.volumes.len(), self.store().purging().count(), paired);
        if core::mem::replace(&mut self.settled.looked, now) == now {
            return;
        }
        let metadata = self.store.as_ref().expect("the pool is open").pool().metadata();
        let is_it = |id, uuid| metadata.volume(id).is_some_and(|meta| meta.deleted && meta.uuid == uuid);
        self.settled.volumes.retain(|(id, uuid)| is_it(*id, *uuid));
        let gone = self.needed_by_nobody(paired);
        if gone.is_empty() {
            return;
        }
        let records: Vec<Record> = gone.iter().map(|&volume| Record::VolumeDelete { volume }).collect();
        self.append(&records);
        self.settled.volumes.retain(|(volume, _)| !gone.contains(volume));
        gone.into_iter().for_each(|volume| self.machines.forget(volume));
    }

    fn needed_by_nobody(&self, paired: bool) -> Vec<VolumeId> {
        let metadata = self.store().pool().metadata();
        let purging: BTreeSet<VolumeId> = self.store().purging().map(|(id, _)| id).collect();
        let mut largest = [VolumeId(0); NUMBER_KINDS as usize];
        metadata.volumes().for_each(|(id, _)| largest[(id.0 % NUMBER_KINDS) as usize] = id);
        let goes = |id: &VolumeId| {
            let meta = metadata.volume(*id);
            meta.is_some_and(|meta| meta.gives_way() && (paired || !meta.mirrored))
                && !purging.contains(id)
                && !self.changes.concern(*id)
                && largest[(id.0 % NUMBER_KINDS) as usize] != *id
                && !metadata.is_named(*id)
        };
        self.settled.volumes.iter().map(|(id, _)| *id).filter(goes).take(FORGOTTEN_MAX).collect()
    }
}
