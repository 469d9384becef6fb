//! Volumes that grow, and volumes that are deleted. `engine/docs/volumes.md` has the cases.
//!
//! The owner orders the changes of a mirrored volume. In a pair: the partner writes a change down, then the owner, then
//! hosts see it. Alone: this node writes it down, and a partner that comes back takes the whole table over before
//! anything is copied to it. Invariants:
//!
//! - A change is answered only when it is durable on both nodes, or on the one whose data stand.
//! - No host is told of a size that a node which may serve does not have in writing.
//! - A volume is deleted on a node only when nothing of it is in hand there; nothing new is begun from the moment on that
//!   it is to be deleted.
//! - Each change has a number that is larger than that of the change before, and the epoch in which it was made.

use std::collections::BTreeMap;

use super::Node;
use super::event::{Action, Notice};
use super::membership::Service;
use super::op::Reading;
use super::phase::{Phase, Rejoin};
use super::volume::Volume;
use crate::guest::GuestError;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Control, VolumeChange, VolumeEntry, VolumeRefusal};
use crate::planted::Bug;
use crate::pool::{Lsn, Record, SECTORS_MAX};

/// Who waits for a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// An operator of this node.
    Here(u64),
    /// An operator of the partner; the partner's number of the question.
    Partner(Epoch, u64),
}

/// How far a change is at the node that orders it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waits until nothing of the volume is in hand, or until it is decided who serves.
    Begun,
    /// The partner of this epoch writes it down.
    Told(Epoch, u64),
    /// It is being written down here.
    Writing(Lsn),
}

#[derive(Debug)]
struct Change {
    asker: Asker,
    what: VolumeChange,
    stage: Stage,
}

/// A change that the owner ordered, at its partner.
#[derive(Debug)]
struct Ordered {
    epoch: Epoch,
    change: u64,
    what: VolumeChange,
    /// It is being written down.
    writing: Option<Lsn>,
}

/// Changes on their way, by volume.
#[derive(Debug, Default)]
pub(super) struct Changes {
    ours: BTreeMap<VolumeId, Change>,
    theirs: BTreeMap<VolumeId, Ordered>,
    /// Operators here whose question is with the owner, by the owner's epoch.
    forwarded: BTreeMap<u64, Epoch>,
}

impl Node {
    /// An operator wants a volume changed. Each question is answered once.
    pub(super) fn volume_asked(&mut self, asker: Asker, volume: VolumeId, what: VolumeChange) {
        match self.begin_change(asker, volume, what) {
            Ok(true) => {}
            Ok(false) => self.answer_change(asker, Ok(())),
            Err(refusal) => self.answer_change(asker, Err(refusal)),
        }
    }

    /// False if it is so already.
    fn begin_change(
        &mut self,
        asker: Asker,
        volume: VolumeId,
        what: VolumeChange,
    ) -> Result<bool, VolumeRefusal> {
        let state = self.volumes.get(&volume).ok_or(VolumeRefusal::Unknown(volume))?;
        let (sectors, mirrored, owner) = (state.sectors, state.mirrored, state.owner);
        if mirrored && !matches!(self.phase, Phase::Paired(_) | Phase::Alone(_)) {
            // What it knows of the volume may be old.
            return Err(VolumeRefusal::NotNow);
        }
        if let VolumeChange::Grow { sectors: wanted } = what {
            match () {
                () if wanted == sectors && wanted == state.shown => return Ok(false),
                () if wanted <= sectors => return Err(VolumeRefusal::NotLarger { sectors }),
                () if wanted > SECTORS_MAX => return Err(VolumeRefusal::TooLarge { most: SECTORS_MAX }),
                () => {}
            }
        }
        if self.changes.ours.contains_key(&volume) || self.changes.theirs.contains_key(&volume) {
            return Err(VolumeRefusal::Busy);
        }
        if self.stopping || self.store().failed() {
            return Err(VolumeRefusal::NotNow);
        }
        match &self.phase {
            Phase::Failed | Phase::Stopped => return Err(VolumeRefusal::NotNow),
            Phase::Paired(pair) if mirrored && owner != self.me() => {
                let epoch = pair.epoch;
                return self.forward_change(asker, epoch, volume, what).map(|()| true);
            }
            _ => {}
        }
        self.changes.ours.insert(volume, Change { asker, what, stage: Stage::Begun });
        if what == VolumeChange::Delete {
            self.close_volume(volume);
        }
        Ok(true)
    }

    /// The owner is asked; it answers in this epoch, on this link, or nothing is known.
    fn forward_change(
        &mut self,
        asker: Asker,
        epoch: Epoch,
        volume: VolumeId,
        what: VolumeChange,
    ) -> Result<(), VolumeRefusal> {
        let Asker::Here(id) = asker else { return Err(VolumeRefusal::NotNow) };
        if self.link.is_none() || self.is_link_lost() {
            return Err(VolumeRefusal::NotNow);
        }
        self.changes.forwarded.insert(id, epoch);
        self.say(Control::VolumeAsk { epoch, id, volume, what });
        Ok(())
    }

    pub(super) fn change_asked(&mut self, epoch: Epoch, id: u64, volume: VolumeId, what: VolumeChange) {
        if self.is_paired_in(epoch) {
            self.volume_asked(Asker::Partner(epoch, id), volume, what);
        }
    }

    pub(super) fn change_answered(&mut self, epoch: Epoch, id: u64, result: Result<(), VolumeRefusal>) {
        if self.changes.forwarded.get(&id) == Some(&epoch) {
            self.changes.forwarded.remove(&id);
            self.answer_change(Asker::Here(id), result);
        }
    }

    fn answer_change(&mut self, asker: Asker, result: Result<(), VolumeRefusal>) {
        match asker {
            Asker::Here(id) => self.actions.push_back(Action::VolumeAnswer { id, result }),
            Asker::Partner(epoch, id) if self.is_paired_in(epoch) => {
                self.say(Control::VolumeAnswer { epoch, id, result });
            }
            Asker::Partner(..) => {}
        }
    }

    fn is_paired_in(&self, epoch: Epoch) -> bool {
        matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch)
    }

    /// Nothing new is begun of this volume; what has not been sent or logged is given up.
    fn close_volume(&mut self, volume: VolumeId) {
        let Some(state) = self.volumes.get_mut(&volume) else { return };
        state.leaving = true;
        for (id, of, command) in core::mem::take(&mut self.parked) {
            if of == volume {
                self.refuse(id, GuestError::Gone);
            } else {
                self.parked.push_back((id, of, command));
            }
        }
        self.give_up_writes(volume);
        let unsent = |(_, write): &(&u64, &super::op::Forwarded)| write.volume == volume && !write.ever_sent;
        for id in self.forwarded.iter().filter(unsent).map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(write) = self.forwarded.remove(&id) {
                self.refuse(write.request, GuestError::Gone);
            }
        }
    }

    /// Is nothing of this volume in hand?
    fn is_idle(&self, volume: VolumeId) -> bool {
        let reads = self.reading.values().chain(self.mends.readings());
        let of_it = |reading: &Reading| match reading {
            Reading::Guest { volume: of, .. }
            | Reading::Partner { volume: of, .. }
            | Reading::Scrub { volume: of, .. } => *of == volume,
            // A resync begins anew before the record: what is read for it by then goes nowhere.
            Reading::Region { .. } => false,
            // Its write is in hand.
            Reading::Merge { .. } => false,
        };
        self.writes.values().all(|write| write.volume != volume)
            && self.incoming.keys().all(|(of, _)| *of != volume)
            && self.forwarded.values().all(|write| write.volume != volume)
            && self.flushes.values().all(|flush| flush.volume != volume)
            && self.settling.iter().all(|settling| settling.volume != volume)
            && self.held.iter().all(|held| held.volume != volume)
            && self.parked.iter().all(|(_, of, _)| *of != volume)
            && !reads.into_iter().any(of_it)
    }

    /// Takes changes as far as they can go now. True if one moved.
    pub(super) fn volumes_step(&mut self) -> bool {
        let mut moved = false;
        for volume in self.changes.ours.keys().copied().collect::<Vec<_>>() {
            moved |= self.change_step(volume);
        }
        for volume in self.changes.theirs.keys().copied().collect::<Vec<_>>() {
            moved |= self.ordered_step(volume);
        }
        let lost = |epoch: Epoch| !self.is_paired_in(epoch) || self.link.is_none();
        let lost = self.changes.forwarded.iter().filter(|(_, epoch)| lost(**epoch)).map(|(&id, _)| id);
        for id in lost.collect::<Vec<_>>() {
            self.changes.forwarded.remove(&id);
            self.answer_change(Asker::Here(id), Err(VolumeRefusal::Interrupted));
        }
        moved
    }

    fn change_step(&mut self, volume: VolumeId) -> bool {
        let Change { what, stage, .. } = self.changes.ours[&volume];
        match stage {
            Stage::Writing(lsn) if self.is_durable(lsn) => self.change_done(volume),
            Stage::Writing(_) => return false,
            Stage::Told(epoch, _) if self.is_paired_in(epoch) => return false,
            // The pair ended, and nothing is in writing here: it begins anew, if this node goes on.
            Stage::Told(..) | Stage::Begun => return self.begin_writing(volume, what),
        }
        true
    }

    fn begin_writing(&mut self, volume: VolumeId, what: VolumeChange) -> bool {
        self.set_stage(volume, Stage::Begun);
        let idle = what != VolumeChange::Delete || self.is_idle(volume);
        let mirrored = self.volumes.get(&volume).is_some_and(|state| state.mirrored);
        match &self.phase {
            Phase::Failed | Phase::Stopped => self.change_broken_off(volume),
            _ if !mirrored && idle => self.write_change(volume),
            _ if !mirrored => return false,
            Phase::Paired(pair) if idle && self.service() == Service::Pair && self.link.is_some() => {
                let (epoch, linked) = (pair.epoch, pair.link_lost.is_none());
                return linked && self.tell_change(epoch, volume, what);
            }
            Phase::Alone(alone) if idle => match &alone.rejoin {
                Rejoin::None | Rejoin::Stalled(_) => self.write_change(volume),
                // The target has the table as it was: it is told anew.
                Rejoin::Gathering { .. }
                | Rejoin::Merging { .. }
                | Rejoin::Telling
                | Rejoin::Copying(_)
                | Rejoin::Draining(..) => {
                    self.start_link_over();
                    self.write_change(volume);
                }
                // Nearly a pair, or soon not: then.
                _ => return false,
            },
            Phase::Paired(_)
            | Phase::Alone(_)
            | Phase::Deciding(_)
            | Phase::Waiting(_)
            | Phase::Recording(_) => return false,
            _ => self.change_broken_off(volume),
        }
        true
    }

    fn set_stage(&mut self, volume: VolumeId, stage: Stage) {
        if let Some(change) = self.changes.ours.get_mut(&volume) {
            change.stage = stage;
        }
    }

    fn tell_change(&mut self, epoch: Epoch, volume: VolumeId, what: VolumeChange) -> bool {
        let change = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change) + 1;
        self.set_stage(volume, Stage::Told(epoch, change));
        self.say(Control::VolumeChange { epoch, volume, change, what });
        let early = match what {
            VolumeChange::Grow { .. } => Bug::GrownBeforePartner,
            VolumeChange::Delete => Bug::DeletedBeforePartner,
        };
        if self.has(early) {
            self.write_change(volume);
        }
        true
    }

    /// The partner has it in writing.
    pub(super) fn change_written(&mut self, epoch: Epoch, volume: VolumeId, change: u64) {
        let told = self.changes.ours.get(&volume).map(|ours| ours.stage);
        if self.is_paired_in(epoch) && told == Some(Stage::Told(epoch, change)) {
            self.write_change(volume);
        }
    }

    /// Writes a change down here.
    fn write_change(&mut self, volume: VolumeId) {
        let Some(what) = self.changes.ours.get(&volume).map(|change| change.what) else { return };
        let lsn = self.append_change(volume, what);
        self.set_stage(volume, Stage::Writing(lsn));
    }

    fn append_change(&mut self, volume: VolumeId, what: VolumeChange) -> Lsn {
        let epoch = self.acting_epoch();
        let meta = self.store().pool().metadata().volume(volume).expect("a running volume has metadata");
        let (change, now) = (meta.change + 1, meta.sectors);
        let (sectors, deleted) = match what {
            VolumeChange::Grow { sectors } => (sectors, false),
            VolumeChange::Delete => (now, true),
        };
        let lsn = self.append(&[Record::VolumeState { volume, sectors, change, epoch, deleted }]);
        if deleted {
            self.drop_volume(volume);
            self.store_mut().purge(volume, lsn);
        }
        lsn
    }

    fn drop_volume(&mut self, volume: VolumeId) {
        if self.volumes.remove(&volume).is_some() {
            self.actions.push_back(Action::VolumeSize { volume, sectors: None });
        }
    }

    /// It is in writing on both, or on the only one that counts.
    fn change_done(&mut self, volume: VolumeId) {
        let Some(Change { asker, what, .. }) = self.changes.ours.remove(&volume) else { return };
        if let VolumeChange::Grow { sectors } = what
            && let Some(state) = self.volumes.get_mut(&volume)
        {
            state.sectors = sectors;
        }
        self.show(volume);
        if let Phase::Paired(pair) = &self.phase
            && let Some(meta) = self.store().pool().metadata().volume(volume).filter(|meta| meta.mirrored)
        {
            let (epoch, change) = (pair.epoch, meta.change);
            self.say(Control::VolumeShown { epoch, volume, change });
        }
        if what == VolumeChange::Delete {
            self.notice(Notice::VolumeDeleted(volume));
        }
        self.answer_change(asker, Ok(()));
    }

    /// This node does not go on: nothing of it is in writing here.
    fn change_broken_off(&mut self, volume: VolumeId) {
        let Some(Change { asker, .. }) = self.changes.ours.remove(&volume) else { return };
        if let Some(state) = self.volumes.get_mut(&volume) {
            state.leaving = false;
        }
        self.answer_change(asker, Err(VolumeRefusal::Interrupted));
    }

    /// Partner: the owner has ordered a change.
    pub(super) fn change_told(&mut self, epoch: Epoch, volume: VolumeId, change: u64, what: VolumeChange) {
        if !self.is_paired_in(epoch) || self.changes.theirs.contains_key(&volume) {
            return;
        }
        let known = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change);
        if known >= change {
            // A resend of what is done.
            return self.say(Control::VolumeChanged { epoch, volume, change });
        }
        let me = self.me();
        let makes_sense = self.volumes.get(&volume).is_some_and(|state| {
            let grows =
                |sectors| matches!(what, VolumeChange::Grow { sectors: to } if to > sectors && to <= SECTORS_MAX);
            state.mirrored
                && state.owner != me
                && (what == VolumeChange::Delete || grows(state.sectors))
        });
        if !makes_sense || change != known + 1 {
            if let Some(link) = self.link {
                self.actions.push_back(Action::Disconnect { link });
            }
            return;
        }
        self.changes.theirs.insert(volume, Ordered { epoch, change, what, writing: None });
        if what == VolumeChange::Delete {
            self.close_volume(volume);
        }
    }

    fn ordered_step(&mut self, volume: VolumeId) -> bool {
        let Ordered { epoch, change, what, writing } = self.changes.theirs[&volume];
        let here = self.is_paired_in(epoch);
        match writing {
            Some(lsn) if self.is_durable(lsn) => {
                self.changes.theirs.remove(&volume);
                match what {
                    VolumeChange::Grow { sectors } => {
                        if let Some(state) = self.volumes.get_mut(&volume) {
                            state.sectors = state.sectors.max(sectors);
                        }
                    }
                    VolumeChange::Delete => self.notice(Notice::VolumeDeleted(volume)),
                }
                if here {
                    self.say(Control::VolumeChanged { epoch, volume, change });
                }
            }
            Some(_) => return false,
            None if !here => {
                self.changes.theirs.remove(&volume);
                if let Some(state) = self.volumes.get_mut(&volume) {
                    state.leaving = false;
                }
            }
            None if what == VolumeChange::Delete && !self.is_idle(volume) => return false,
            None => {
                let lsn = self.append_change(volume, what);
                if let Some(ordered) = self.changes.theirs.get_mut(&volume) {
                    ordered.writing = Some(lsn);
                }
            }
        }
        true
    }

    /// Partner: both have it in writing.
    pub(super) fn change_shown(&mut self, epoch: Epoch, volume: VolumeId, change: u64) {
        let known = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change);
        if self.is_paired_in(epoch) && known >= change {
            self.show(volume);
        }
    }

    /// Owner: the link is back; what was said of changes may have been lost.
    pub(super) fn resend_changes(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let epoch = pair.epoch;
        let ours = self.changes.ours.iter().map(|(&volume, change)| (volume, change.what, change.stage));
        for (volume, what, stage) in ours.collect::<Vec<_>>() {
            if let Stage::Told(_, change) = stage {
                self.say(Control::VolumeChange { epoch, volume, change, what });
            }
        }
        let me = self.me();
        let mine = self.volumes.iter().filter(|(_, state)| state.mirrored && state.owner == me);
        for volume in mine.map(|(&id, _)| id).collect::<Vec<_>>() {
            let change = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change);
            if change > 0 && !self.changes.ours.contains_key(&volume) {
                self.say(Control::VolumeShown { epoch, volume, change });
            }
        }
    }

    /// Hosts see the volume as it is.
    fn show(&mut self, volume: VolumeId) {
        let Some(state) = self.volumes.get_mut(&volume).filter(|state| state.shown != state.sectors) else {
            return;
        };
        let (first, sectors) = (state.shown == 0, state.sectors);
        state.shown = sectors;
        self.actions.push_back(Action::VolumeSize { volume, sectors: Some(sectors) });
        if !first {
            self.notice(Notice::VolumeGrown { volume, sectors });
        }
    }

    /// The pool is open. Of mirrored volumes hosts hear when the node may serve: the partner may know better.
    pub(super) fn show_linear(&mut self) {
        let linear = self.volumes.iter().filter(|(_, state)| !state.mirrored);
        for volume in linear.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.show(volume);
        }
        self.show_deleted(false);
    }

    fn show_deleted(&mut self, mirrored: bool) {
        let all = self.store().pool().metadata().volumes();
        let gone = all.filter(|(_, meta)| meta.deleted && meta.mirrored == mirrored);
        for volume in gone.map(|(id, _)| id).collect::<Vec<_>>() {
            self.actions.push_back(Action::VolumeSize { volume, sectors: None });
        }
    }

    /// A pair begins, or a node goes on alone: all that is in writing here counts.
    pub(super) fn show_mirrored(&mut self) {
        for volume in self.mirrored() {
            let sectors = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.sectors);
            if let Some(state) = self.volumes.get_mut(&volume) {
                state.sectors = sectors;
            }
            self.show(volume);
        }
        self.show_deleted(true);
    }

    /// Is a volume of the table, which is to be there, still being taken apart here?
    pub(super) fn must_purge_first(&self, table: &[VolumeEntry]) -> bool {
        let mut purging = self.store().purging();
        purging.any(|(volume, _)| table.iter().any(|entry| entry.volume == volume && !entry.deleted))
    }

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
        let (pool, cache) = (self.store().pool(), self.store().cache());
        let metadata = pool.metadata();
        let new = table.iter().filter(|entry| metadata.volume(entry.volume).is_none()).count();
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
                    || cache.held_in(entry.volume, from..to).next().is_some()
            })
        });
        let problem = match (foreign, cut) {
            _ if metadata.volumes().len() + new > pool.volumes_max() => {
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

    /// Target: what is to be written down so that the volumes are as the source has them.
    pub(super) fn take_over_table(&mut self, table: &[VolumeEntry]) -> Vec<Record> {
        let mut records = Vec::new();
        for entry in table {
            let VolumeEntry { volume, uuid, sectors, change, epoch, deleted } = *entry;
            let here = self.store().pool().metadata().volume(volume);
            let now = here.map(|meta| (meta.sectors, meta.change, meta.changed_in, meta.deleted));
            if now.is_none() {
                records.push(Record::VolumeCreate { volume, uuid, sectors, mirrored: true });
            }
            // The change that is taken back here may have been the first.
            if now != Some((sectors, change, epoch, deleted)) && (now.is_some() || change > 0) {
                records.push(Record::VolumeState { volume, sectors, change, epoch, deleted });
            }
            if deleted {
                self.drop_volume(volume);
                continue;
            }
            let owner = self.config.preferred;
            let config = self.config.volumes.iter().find(|config| config.id == volume);
            let detect_zeros = config.is_some_and(|config| config.detect_zeros);
            let state = self.volumes.entry(volume).or_insert_with(|| Volume::new(sectors, true, owner));
            (state.sectors, state.leaving, state.detect_zeros) = (sectors, false, detect_zeros);
        }
        records
    }

    /// Target: what the table has deleted is taken apart when the record is durable.
    pub(super) fn purge_deleted(&mut self, table: &[VolumeEntry], lsn: Lsn) {
        for entry in table.iter().filter(|entry| entry.deleted) {
            self.store_mut().purge(entry.volume, lsn);
        }
    }
}
