//! Takes deleted volumes apart in the background: what the cache has of them is dropped, then their extents are unmapped,
//! some at a time.
//!
//! Invariants:
//! - Nothing of a volume is dropped or unmapped before the record that deletes it is durable. A crash before that brings
//!   the volume back as the disks have it, a crash after that goes on here.
//! - An extent on which a destage job works is left until the job has ended.
//! - One batch of records is under way per volume, so that deleting a large volume keeps nobody else waiting.

use std::collections::BTreeMap;

use super::Store;
use super::volume::VolumeStore;
use crate::ids::VolumeId;
use crate::planted::Bug;
use crate::pool::{Lsn, Pool, Record};

/// Extents that are unmapped in one go: their records fit into one entry of the log.
const BATCH: usize = 256;

/// Deleted volumes that are not gone yet, and the record that each waits for.
#[derive(Debug, Default)]
pub(super) struct Purges {
    volumes: BTreeMap<VolumeId, Lsn>,
}

impl Purges {
    /// What an earlier life has left.
    pub(super) fn of(pool: &Pool) -> Purges {
        let left = pool.metadata().volumes().filter(|(_, meta)| meta.deleted && !meta.map.is_empty());
        Purges { volumes: left.map(|(id, _)| (id, Lsn(0))).collect() }
    }
}

impl Store {
    /// A volume was deleted by the record that is durable with `lsn`. Nothing of it is read or written any more.
    pub fn purge(&mut self, volume: VolumeId, lsn: Lsn) {
        self.purges.volumes.insert(volume, lsn);
    }

    /// Deleted volumes that are not gone yet, with the extents that are left.
    pub fn purging(&self) -> impl Iterator<Item = (VolumeId, u64)> + '_ {
        let left = |id| self.base.pool.metadata().volume(id).map_or(0, |meta| meta.map.len());
        self.purges.volumes.keys().map(move |&id| (id, left(id)))
    }

    pub(super) fn purge_step(&mut self) {
        if self.purges.volumes.is_empty() {
            return;
        }
        let (durable, early) = (self.base.pool.durable(), self.base.has(Bug::DeletedSpaceReusedEarly));
        let ready = self.purges.volumes.iter().filter(|(_, lsn)| early || **lsn <= durable);
        for volume in ready.map(|(&id, _)| id).collect::<Vec<_>>() {
            let forgotten = self.forget(volume);
            self.base.pool.release_volume(volume);
            let here = self.volumes.get_mut(volume).map(|here| &*here);
            let is_busy = |extent: u32| here.is_some_and(|volume| volume.is_busy(extent));
            let works = here.is_some_and(|volume| !volume.jobs.is_empty());
            let Some(meta) = self.base.pool.metadata().volume(volume) else { continue };
            let idle = meta.map.iter().map(|(extent, _)| extent);
            let idle = idle.filter(|extent| !is_busy(*extent)).take(BATCH);
            let records: Vec<Record> = idle.map(|extent| Record::Unmap { volume, extent }).collect();
            if !records.is_empty() {
                let lsn = self.base.pool.append(&records);
                self.purges.volumes.insert(volume, lsn);
            } else if forgotten && meta.map.is_empty() && !works {
                self.purges.volumes.remove(&volume);
                // A write that was given up and is still to say so finds its promise here.
                if here.is_some_and(VolumeStore::is_idle)
                    && let Some(gone) = self.volumes.remove(volume)
                {
                    self.bounds.shares().leave(volume, &gone.cache);
                    self.versions_gone = self.versions_gone.max(gone.cache.version());
                }
            }
        }
    }

    /// Drops what the cache has of a volume, as far as it can now. True if nothing is left.
    fn forget(&mut self, id: VolumeId) -> bool {
        !self.volumes.contains(id) || self.with(id, |volume, _| volume.cache.forget())
    }
}
