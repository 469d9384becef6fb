//! The table of mirrored volumes that a source hands to the partner that it brings up to date.
//!
//! Invariant: when a target has the record that it is behind in writing, it has the source's table and what is kept with
//! its volumes too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use super::event::Notice;
use super::machines::Known;
use super::phase::Phase;
use crate::cache::Cache;
use crate::guest::Items;
use crate::ids::{ItemName, Uuid, VolumeId};
use crate::mirror::message::VolumeEntry;
use crate::planted::Bug;
use crate::pool::{CloneRefusal, Lsn, Record, SECTORS_MAX, VolumeMeta, room};

/// A target that waits so long to make clones says so, and again after as long.
const RESTLESS_LEASES: u32 = 10;

static NOTHING: Items = Items::new();

impl Node {
    /// Mirrored volumes that are deleted.
    pub(super) fn deleted_volumes(&self) -> Vec<VolumeId> {
        let all = self.store().pool().metadata().volumes();
        all.filter(|(_, meta)| meta.mirrored && meta.deleted).map(|(id, _)| id).collect()
    }

    /// Source: all mirrored volumes as they are here; `made`: clones that the target makes of its own halves.
    pub(super) fn volume_table(&self, made: &BTreeSet<VolumeId>) -> Vec<VolumeEntry> {
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
            read_only: meta.is_snapshot(),
            of: meta.kin.map(|kin| kin.of).filter(|_| made.contains(&volume)),
        })
        .collect()
    }

    /// Target: can the source's table be taken over? Room for its volumes is needed, and nothing may lie beyond the
    /// end of one that is smaller there: no writes were acknowledged there, unless a person has put old disks back.
    pub(super) fn may_take_over(&mut self, table: &[VolumeEntry]) -> bool {
        if !self.makes_sense(table) {
            let what =
                "the partner's table of volumes makes no sense; both nodes are to run the same version";
            self.notice(Notice::NeedsDecision(what.into()));
            return false;
        }
        let pool = self.store().pool();
        let metadata = pool.metadata();
        let known = |entry: &&VolumeEntry| entry.sectors <= SECTORS_MAX;
        let gone = self.forgettable(table);
        let other = |entry: &VolumeEntry, meta: &VolumeMeta| {
            !gone.contains(&entry.volume)
                && (!meta.mirrored || (meta.kin.is_some() && meta.uuid != entry.uuid))
        };
        let foreign = table.iter().find(|entry| {
            !known(entry) || metadata.volume(entry.volume).is_some_and(|meta| other(entry, meta))
        });
        let cuts = self.cut_clones(table);
        let cut = table
            .iter()
            .find(|entry| self.lies_beyond(entry.volume, entry.sectors) || cuts.contains(&entry.volume));
        let problem = match (foreign, cut) {
            _ if self.room_for(table) > pool.volumes_max() => {
                "this node's pool has no room for the volumes of its partner; add a disk".into()
            }
            (Some(entry), _) => format!(
                "volume {} is not the partner's volume of that id; delete one of them, by a node that serves alone",
                entry.volume
            ),
            (_, Some(entry)) => format!(
                "volume {} holds data beyond the end that it has at the partner; clear this node's disks",
                entry.volume
            ),
            _ => match self.may_make(table) {
                Ok(()) => return true,
                Err(refusal) => format!("this node cannot make the clones that its partner has: {refusal}"),
            },
        };
        self.notice(Notice::NeedsDecision(problem));
        false
    }

    /// Clones here of which the source has never heard, and of which nothing is left but a number that no other names. They
    /// may never have been acknowledged: another volume may get the number.
    fn forgettable(&self, table: &[VolumeEntry]) -> BTreeSet<VolumeId> {
        let theirs: BTreeSet<(VolumeId, Uuid)> =
            table.iter().map(|entry| (entry.volume, entry.uuid)).collect();
        let purging: BTreeSet<VolumeId> = self.store().purging().map(|(id, _)| id).collect();
        let metadata = self.store().pool().metadata();
        let left = metadata.volumes().filter(|(id, meta)| {
            meta.kin.is_some() && meta.gives_way() && !theirs.contains(&(*id, meta.uuid))
        });
        let mut gone: BTreeSet<VolumeId> =
            left.map(|(id, _)| id).filter(|id| !purging.contains(id)).collect();
        loop {
            let stay = metadata.volumes().filter(|(id, _)| !gone.contains(id));
            let named: BTreeSet<VolumeId> =
                stay.filter_map(|(_, meta)| meta.kin).flat_map(|kin| [kin.of, kin.family]).collect();
            let before = gone.len();
            gone.retain(|id| !named.contains(id));
            if gone.len() == before {
                return gone;
            }
        }
    }

    /// Would the table be refused, whatever goes first?
    fn refuses(&self, table: &[VolumeEntry]) -> bool {
        let metadata = self.store().pool().metadata();
        let clashes = |entry: &VolumeEntry| {
            let here = metadata.volume(entry.volume);
            here.is_some_and(|meta| {
                (!meta.mirrored && !meta.gives_way())
                    || (meta.uuid == entry.uuid && self.lies_beyond(entry.volume, entry.sectors))
            })
        };
        !self.makes_sense(table) || table.iter().any(clashes)
    }

    /// Target: volumes that the source has deleted, or of which it has never heard, go first where they have a number that it
    /// has given to another, or the room that its clones need. True if that is so: it asks again. For a table that is refused
    /// nothing goes: a person decides.
    pub(super) fn makes_way(&mut self, table: &[VolumeEntry]) -> bool {
        if self.refuses(table) {
            return false;
        }
        let other = |id: &VolumeId| {
            let here = self.store().pool().metadata().volume(*id).map(|meta| meta.uuid);
            table.iter().any(|entry| entry.volume == *id && Some(entry.uuid) != here)
        };
        let mut goes = self.unheard_of(table);
        let purging: Vec<VolumeId> = self.store().purging().map(|(id, _)| id).collect();
        let (taken, crowded) = (goes.iter().chain(&purging).any(other), self.may_make(table).is_err());
        if !taken && !crowded {
            return false;
        }
        if crowded {
            goes.extend(self.deleted_by(table));
        }
        if goes.is_empty() {
            return !purging.is_empty();
        }
        if !matches!(self.phase, Phase::Target(_)) {
            self.forget_mirrored();
        }
        let records: Vec<Record> = goes.iter().map(|volume| self.deletion(*volume)).collect();
        let lsn = self.append(&records);
        for volume in goes {
            self.drop_volume(volume);
            self.store_mut().purge(volume, lsn);
        }
        self.hello_due = true;
        true
    }

    /// Volumes here that the source has deleted, but for those of which clones are to be made.
    fn deleted_by(&self, table: &[VolumeEntry]) -> Vec<VolumeId> {
        let models: BTreeSet<VolumeId> = self.to_make(table).into_iter().map(|(_, of)| of).collect();
        let metadata = self.store().pool().metadata();
        let here = |entry: &&VolumeEntry| {
            let meta = metadata.volume(entry.volume);
            let same = meta.is_some_and(|meta| meta.mirrored && !meta.deleted && meta.uuid == entry.uuid);
            entry.deleted && same && !models.contains(&entry.volume)
        };
        table.iter().filter(here).map(|entry| entry.volume).collect()
    }

    /// The record of a deletion by this node.
    fn deletion(&self, volume: VolumeId) -> Record {
        let meta = self.store().pool().metadata().volume(volume).expect("its caller has found it");
        let (sectors, change, read_only) = (meta.sectors, meta.change + 1, meta.read_only);
        let (epoch, deleted) = (self.acting_epoch(), true);
        Record::VolumeState { volume, sectors, change, epoch, deleted, read_only }
    }

    /// Is anything of the volume beyond this end?
    fn lies_beyond(&self, volume: VolumeId, sectors: u64) -> bool {
        let pool = self.store().pool();
        let size = pool.extent_blocks() * 8;
        let first = u32::try_from(sectors.div_ceil(size)).unwrap_or(u32::MAX);
        let meta = pool.metadata().volume(volume).filter(|meta| sectors < meta.sectors);
        meta.is_some_and(|meta| {
            let (from, to) = (sectors.div_ceil(8), meta.sectors.div_ceil(8));
            let held = |cache: &Cache| cache.held_in(from..to).next().is_some();
            meta.map.iter_from(first).next().is_some() || self.store().look(volume, held).unwrap_or(false)
        })
    }

    /// Clones of the table that would have more than they have at the source.
    fn cut_clones(&self, table: &[VolumeEntry]) -> BTreeSet<VolumeId> {
        let (mut roots, mut cut) = (BTreeMap::new(), BTreeSet::new());
        for (entry, of) in self.to_make(table) {
            let root = roots.get(&of).copied().unwrap_or(of);
            roots.insert(entry.volume, root);
            if self.lies_beyond(root, entry.sectors) {
                cut.insert(entry.volume);
            }
        }
        cut
    }

    /// Has every volume one entry, and can every clone that is to be made be made of something?
    fn makes_sense(&self, table: &[VolumeEntry]) -> bool {
        let metadata = self.store().pool().metadata();
        let made: BTreeSet<VolumeId> = self.to_make(table).iter().map(|(entry, _)| entry.volume).collect();
        let known = |entry: &VolumeEntry| {
            entry.of.is_none() || metadata.volume(entry.volume).is_some() || made.contains(&entry.volume)
        };
        table.is_sorted_by(|one, next| one.volume < next.volume) && table.iter().all(known)
    }

    /// Target: clones of the table that are to be made of halves that are here, each after what it is made of.
    fn to_make<'a>(&self, table: &'a [VolumeEntry]) -> Vec<(&'a VolumeEntry, VolumeId)> {
        let metadata = self.store().pool().metadata();
        let gone = self.forgettable(table);
        let mut left: Vec<(&VolumeEntry, VolumeId)> = table
            .iter()
            .filter(|entry| metadata.volume(entry.volume).is_none() || gone.contains(&entry.volume))
            .filter_map(|entry| Some((entry, entry.of?)))
            .collect();
        let mut known: BTreeSet<VolumeId> =
            metadata.volumes().map(|(id, _)| id).filter(|id| !gone.contains(id)).collect();
        let mut made = Vec::new();
        loop {
            let (ready, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, of)| known.contains(of));
            if ready.is_empty() {
                return made;
            }
            known.extend(ready.iter().map(|(entry, _)| entry.volume));
            made.extend(ready);
            left = rest;
        }
    }

    /// Target: is nothing in hand of the halves of which clones are to be made? If there is, it is hurried; people are told if
    /// that does not help.
    pub(super) fn may_clone_for(&mut self, table: &[VolumeEntry]) -> bool {
        let restless = self.to_make(table).iter().map(|(_, of)| *of).find(|of| !self.is_at_rest(*of));
        let Some(of) = restless else {
            self.clones.restless_since = None;
            return true;
        };
        self.store_mut().urge();
        let since = *self.clones.restless_since.get_or_insert(self.now);
        if self.now >= since + self.config.mirror.lease * RESTLESS_LEASES {
            self.clones.restless_since = Some(self.now);
            self.notice(Notice::NeedsDecision(format!(
                "this node cannot make the clones that its partner has: what it holds of volume {of} does not come to rest; \
                 look at its disks, and start it anew",
            )));
        }
        false
    }

    fn may_make(&self, table: &[VolumeEntry]) -> Result<(), CloneRefusal> {
        let metadata = self.store().pool().metadata();
        let made = self.to_make(table);
        let pending = self.room_for(table).saturating_sub(metadata.volumes_room() + made.len());
        let asked = made.iter().map(|(entry, of)| (entry.volume, *of, entry.read_only, 0));
        if made.is_empty() { Ok(()) } else { self.store().pool().may_clone_all(asked, pending) }
    }

    /// Target: clones that only this node has were never acknowledged, or a person has given them up with its data.
    fn unheard_of(&self, table: &[VolumeEntry]) -> Vec<VolumeId> {
        let named: BTreeSet<(VolumeId, Uuid)> =
            table.iter().map(|entry| (entry.volume, entry.uuid)).collect();
        let here = self.store().pool().metadata().volumes();
        let mine = here.filter(|(id, meta)| {
            meta.mirrored && !meta.deleted && meta.kin.is_some() && !named.contains(&(*id, meta.uuid))
        });
        mine.map(|(id, _)| id).collect()
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
        let made = self.to_make(table);
        let gone = self.forgettable(table);
        if table.iter().any(|entry| gone.contains(&entry.volume)) {
            records.extend(gone.iter().map(|&volume| Record::VolumeDelete { volume }));
        }
        records.extend(made.into_iter().map(|(entry, of)| {
            let VolumeEntry { volume, uuid, read_only, .. } = *entry;
            Record::VolumeClone { volume, of, uuid, read_only, mirrored: true }
        }));
        for entry in table {
            let new = gone.contains(&entry.volume);
            self.take_over_entry(entry, new, items_for(entry, &received), &mut records);
        }
        for volume in self.unheard_of(table) {
            records.push(self.deletion(volume));
            self.drop_volume(volume);
        }
        records
    }

    /// `new`: what this node has by that number is another volume, which gives way.
    fn take_over_entry(&mut self, entry: &VolumeEntry, new: bool, theirs: &Items, records: &mut Vec<Record>) {
        let VolumeEntry { volume, uuid, sectors, change, epoch, deleted, read_only, of } = *entry;
        let here = self.store().pool().metadata().volume(volume).filter(|_| !new);
        let now = here.map(|meta| (meta.sectors, meta.change, meta.changed_in, meta.deleted));
        if now.is_none() && of.is_none() {
            records.push(Record::VolumeCreate { volume, uuid, sectors, mirrored: true });
        }
        let kept = if new { &NOTHING } else { self.items_of(volume) };
        let come = theirs.iter().filter(|(name, item)| kept.get(name) != Some(*item));
        records.extend(
            come.map(|(&name, item)| item_record(volume, name, item.revision, Arc::clone(&item.value))),
        );
        // The change that is taken back here may have been the first.
        if now != Some((sectors, change, epoch, deleted)) && (now.is_some() || change > 0) {
            records.push(Record::VolumeState { volume, sectors, change, epoch, deleted, read_only });
        }
        if deleted {
            return self.drop_volume(volume);
        }
        if !self.volumes.contains(volume) {
            self.add_volume(volume, Known { uuid, sectors, mirrored: true, read_only });
        }
        if let Some(state) = self.volumes.get_mut(volume) {
            (state.sectors, state.leaving) = (sectors, false);
        }
    }

    fn items_of(&self, volume: VolumeId) -> &Items {
        self.store().pool().metadata().volume(volume).map_or(&NOTHING, |meta| &meta.items)
    }

    /// Target: what the table has deleted is taken apart when the record is durable.
    pub(super) fn purge_deleted(&mut self, lsn: Lsn) {
        let deleted = self.deleted_volumes();
        for volume in deleted {
            self.store_mut().purge(volume, lsn);
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
