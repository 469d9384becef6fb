//! The table of mirrored volumes that a source hands to the partner that it brings up to date.
//!
//! Invariant: when a target has the record that it is behind in writing, it has the source's table and what is kept with
//! its volumes too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use super::event::Notice;
use crate::guest::Items;
use crate::ids::{ItemName, VolumeId};
use crate::mirror::message::VolumeEntry;
use crate::planted::Bug;
use crate::pool::{Lsn, Record, SECTORS_MAX, room};

static NOTHING: Items = Items::new();

impl Node {
    /// Mirrored volumes that are deleted.
    pub(super) fn deleted_volumes(&self) -> Vec<VolumeId> {
        let all = self.store().pool().metadata().volumes();
        all.filter(|(_, meta)| meta.mirrored && meta.deleted).map(|(id, _)| id).collect()
    }

    /// Source: all mirrored volumes as they are here.
    pub(super) fn volume_table(&self) -> Vec<VolumeEntry> {
        if self.has(Bug::AbsentPartnerNotTold) {
            return Vec::new();
        }
        let all = self.store().pool().metadata().volumes().filter(|(_, meta)| meta.mirrored);
        all.map(|(volume, meta)| VolumeEntry {
            volume,
            uuid: meta.uuid,
            sectors: meta.sectors,
            change: meta.change,
            epoch: meta.changed_in,
            deleted: meta.deleted,
        })
        .collect()
    }

    /// Target: can the source's table be taken over? Room for its volumes is needed, and nothing may lie beyond the
    /// end of one that is smaller there: no writes were acknowledged there, unless a person has put old disks back.
    pub(super) fn may_take_over(&mut self, table: &[VolumeEntry]) -> bool {
        let pool = self.store().pool();
        let metadata = pool.metadata();
        let known = |entry: &&VolumeEntry| entry.sectors <= SECTORS_MAX;
        let foreign = table
            .iter()
            .find(|entry| !known(entry) || metadata.volume(entry.volume).is_some_and(|meta| !meta.mirrored));
        let cut = table.iter().find(|entry| {
            let size = pool.extent_blocks() * 8;
            let first = u32::try_from(entry.sectors.div_ceil(size)).unwrap_or(u32::MAX);
            let meta = metadata.volume(entry.volume).filter(|meta| entry.sectors < meta.sectors);
            meta.is_some_and(|meta| {
                let (from, to) = (entry.sectors.div_ceil(8), meta.sectors.div_ceil(8));
                meta.map.iter_from(first).next().is_some()
                    || self
                        .store()
                        .look(entry.volume, |cache| cache.held_in(from..to).next().is_some())
                        .unwrap_or(false)
            })
        });
        let problem = match (foreign, cut) {
            _ if self.room_for(table) > pool.volumes_max() => {
                "this node's pool has no room for the volumes of its partner; add a disk".into()
            }
            (Some(entry), _) => format!("volume {} is not the partner's volume of that id", entry.volume),
            (_, Some(entry)) => format!(
                "volume {} holds data beyond the end that it has at the partner; clear this node's disks",
                entry.volume
            ),
            _ => return true,
        };
        self.notice(Notice::NeedsDecision(problem));
        false
    }

    /// Target: what is to be written down so that the volumes are as the source has them. First goes what is not kept any
    /// more, so that there is room; a volume's state comes after all that is kept with it, for who has the one has the other.
    pub(super) fn take_over_table(&mut self, table: &[VolumeEntry]) -> Vec<Record> {
        let received = core::mem::take(&mut self.changes.received);
        let mut records: Vec<Record> = Vec::new();
        for entry in table {
            let (kept, theirs) = (self.items_of(entry.volume), items_for(entry, &received));
            let gone = kept.iter().filter(|(name, item)| theirs.get(name) != Some(*item));
            records.extend(gone.map(|(&name, _)| item_record(entry.volume, name, 0, Arc::default())));
        }
        for entry in table {
            self.take_over_entry(entry, items_for(entry, &received), &mut records);
        }
        records
    }

    fn take_over_entry(&mut self, entry: &VolumeEntry, theirs: &Items, records: &mut Vec<Record>) {
        let VolumeEntry { volume, uuid, sectors, change, epoch, deleted } = *entry;
        let here = self.store().pool().metadata().volume(volume);
        let now = here.map(|meta| (meta.sectors, meta.change, meta.changed_in, meta.deleted));
        if now.is_none() {
            records.push(Record::VolumeCreate { volume, uuid, sectors, mirrored: true });
        }
        let kept = self.items_of(volume);
        let come = theirs.iter().filter(|(name, item)| kept.get(name) != Some(*item));
        records.extend(
            come.map(|(&name, item)| item_record(volume, name, item.revision, Arc::clone(&item.value))),
        );
        // The change that is taken back here may have been the first.
        if now != Some((sectors, change, epoch, deleted)) && (now.is_some() || change > 0) {
            records.push(Record::VolumeState { volume, sectors, change, epoch, deleted });
        }
        if deleted {
            return self.drop_volume(volume);
        }
        if !self.volumes.contains(volume) {
            self.add_volume(volume, sectors, true);
        }
        if let Some(state) = self.volumes.get_mut(volume) {
            (state.sectors, state.leaving) = (sectors, false);
        }
    }

    fn items_of(&self, volume: VolumeId) -> &Items {
        self.store().pool().metadata().volume(volume).map_or(&NOTHING, |meta| &meta.items)
    }

    /// Target: what the table has deleted is taken apart when the record is durable.
    pub(super) fn purge_deleted(&mut self, table: &[VolumeEntry], lsn: Lsn) {
        for entry in table.iter().filter(|entry| entry.deleted) {
            self.store_mut().purge(entry.volume, lsn);
        }
    }

    /// Target: room that the volumes would take with those of the table, and with what the source keeps with them.
    fn room_for(&self, table: &[VolumeEntry]) -> usize {
        let metadata = self.store().pool().metadata();
        let named: BTreeSet<VolumeId> = table.iter().map(|entry| entry.volume).collect();
        let others =
            metadata.volumes().filter(|(id, _)| !named.contains(id)).map(|(_, meta)| room(&meta.items));
        let theirs = named.iter().map(|id| room(self.changes.received.get(id).unwrap_or(&NOTHING)));
        others.chain(theirs).sum()
    }
}

/// What the source keeps with a volume of its table.
fn items_for<'a>(entry: &VolumeEntry, received: &'a BTreeMap<VolumeId, Items>) -> &'a Items {
    received.get(&entry.volume).filter(|_| !entry.deleted).unwrap_or(&NOTHING)
}

fn item_record(volume: VolumeId, name: ItemName, revision: u64, value: Arc<[u8]>) -> Record {
    Record::VolumeItem { volume, name, revision, value }
}
