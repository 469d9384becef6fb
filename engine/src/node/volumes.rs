//! Volumes that grow, volumes that are deleted, and what is kept with them. `engine/docs/volumes.md` has the cases.
//!
//! The owner orders the changes of a mirrored volume. In a pair: the partner writes a change down, then the owner, then
//! hosts see it. Alone: this node writes it down, and a partner that comes back takes the whole table over before
//! anything is copied to it. Invariants:
//!
//! - A change is answered only when it is durable on both nodes, or on the one whose data stand.
//! - No host is told of a size that a node which may serve does not have in writing.
//! - A volume is deleted on a node only when nothing of it is in hand there; nothing new is begun from the moment on that
//!   it is to be deleted.
//! - What is kept is in force, on a node that may serve, from before the answer on; only one of two changes that were
//!   asked for on the same ground is made.
//! - Each change has a number that is larger than that of the change before, and the epoch in which it was made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Node;
use super::event::{Action, Notice};
use super::phase::{Phase, Rejoin};
use super::volume::right::Service;
use crate::guest::Items;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Control, VolumeChange, VolumeEntry, VolumeRefusal};
use crate::planted::Bug;
use crate::pool::{Lsn, Record, SECTORS_MAX, item_room};

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
    /// The partner has been told, and may have it in writing: it is this node's next change, and no other.
    told: bool,
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
    /// Target: what the source keeps with its volumes, until it comes with its table.
    pub(super) received: BTreeMap<VolumeId, Items>,
}

impl Changes {
    /// Is a change of this volume on its way?
    pub(super) fn concern(&self, volume: VolumeId) -> bool {
        self.ours.contains_key(&volume) || self.theirs.contains_key(&volume)
    }

    /// Room that items will take which are not in the pool yet.
    pub(super) fn room_pending(&self) -> usize {
        let ours = self.ours.values().filter(|ours| !matches!(ours.stage, Stage::Writing(_)));
        let theirs = self.theirs.values().filter(|theirs| theirs.writing.is_none());
        let all = ours.map(|ours| &ours.what).chain(theirs.map(|theirs| &theirs.what));
        all.map(|what| match what {
            VolumeChange::Keep { value, .. } => item_room(value.len()),
            VolumeChange::Grow { .. } | VolumeChange::Delete => 0,
        })
        .sum()
    }
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
        let state = self.volumes.get(volume).ok_or(VolumeRefusal::Unknown(volume))?;
        let (sectors, shown) = (state.sectors, state.shown);
        let (mirrored, owner) = (state.mirrored, state.owner);
        drop(state);
        if mirrored && !matches!(self.phase, Phase::Paired(_) | Phase::Alone(_)) {
            // What it knows of the volume may be old.
            return Err(VolumeRefusal::NotNow);
        }
        let snapshot = self.volumes.get(volume).is_some_and(|state| state.read_only);
        if let VolumeChange::Grow { .. } = &what
            && snapshot
        {
            return Err(VolumeRefusal::Snapshot(volume));
        }
        if let VolumeChange::Grow { sectors: wanted } = &what {
            match *wanted {
                wanted if wanted == sectors && wanted == shown => return Ok(false),
                wanted if wanted <= sectors => return Err(VolumeRefusal::NotLarger { sectors }),
                wanted if wanted > SECTORS_MAX => return Err(VolumeRefusal::TooLarge { most: SECTORS_MAX }),
                _ => {}
            }
        }
        if self.changes.concern(volume) || self.clones.concern(volume) {
            return Err(VolumeRefusal::Busy);
        }
        if self.stopping || self.store().failed() {
            return Err(VolumeRefusal::NotNow);
        }
        match &self.phase {
            Phase::Failed | Phase::Stopped => return Err(VolumeRefusal::NotNow),
            Phase::Paired(pair) if mirrored && owner != self.me() => {
                let epoch = pair.epoch;
                let ask = |id| Control::VolumeAsk { epoch, id, volume, what };
                return self.forward_ask(asker, epoch, ask).map(|()| true);
            }
            _ => {}
        }
        self.may_keep(volume, &what)?;
        let closes = what == VolumeChange::Delete;
        self.changes.ours.insert(volume, Change { asker, what, stage: Stage::Begun, told: false });
        if closes {
            self.close_volume(volume);
        }
        Ok(true)
    }

    /// The owner is asked; it answers in this epoch, on this link, or nothing is known.
    pub(super) fn forward_ask(
        &mut self,
        asker: Asker,
        epoch: Epoch,
        ask: impl FnOnce(u64) -> Control,
    ) -> Result<(), VolumeRefusal> {
        let Asker::Here(id) = asker else { return Err(VolumeRefusal::NotNow) };
        if self.link.is_none() || self.is_link_lost() {
            return Err(VolumeRefusal::NotNow);
        }
        self.changes.forwarded.insert(id, epoch);
        self.say(ask(id));
        Ok(())
    }

    pub(super) fn change_asked(&mut self, epoch: Epoch, id: u64, volume: VolumeId, what: VolumeChange) {
        let asker = Asker::Partner(epoch, id);
        let mirrored = self.volumes.get(volume).map(|state| state.mirrored);
        match mirrored {
            _ if !self.is_paired_in(epoch) => {}
            Some(true) => self.volume_asked(asker, volume, what),
            _ => self.answer_change(asker, Err(VolumeRefusal::Unknown(volume))),
        }
    }

    pub(super) fn change_answered(&mut self, epoch: Epoch, id: u64, result: Result<(), VolumeRefusal>) {
        if self.changes.forwarded.get(&id) == Some(&epoch) {
            self.changes.forwarded.remove(&id);
            self.answer_change(Asker::Here(id), result);
        }
    }

    pub(super) fn answer_change(&mut self, asker: Asker, result: Result<(), VolumeRefusal>) {
        match asker {
            Asker::Here(id) => self.actions.push_back(Action::VolumeAnswer { id, result }),
            Asker::Partner(epoch, id) if self.is_paired_in(epoch) => {
                self.say(Control::VolumeAnswer { epoch, id, result });
            }
            Asker::Partner(..) => {}
        }
    }

    pub(super) fn is_paired_in(&self, epoch: Epoch) -> bool {
        matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch)
    }

    /// Nothing new is begun of this volume; what has not been sent or logged is given up.
    fn close_volume(&mut self, volume: VolumeId) {
        self.with(volume, |volume, cx| volume.close(cx));
    }

    /// Is nothing of this volume in hand?
    fn is_idle(&self, volume: VolumeId) -> bool {
        self.volumes.get(volume).is_none_or(|state| state.is_idle())
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
        match self.changes.ours[&volume].stage {
            Stage::Writing(lsn) if self.is_durable(lsn) => self.change_done(volume),
            // It never will be.
            Stage::Writing(_) if matches!(self.phase, Phase::Failed) => {
                self.give_change_up(volume, VolumeRefusal::Interrupted);
            }
            Stage::Writing(_) => return false,
            Stage::Told(epoch, _) if self.is_paired_in(epoch) => return false,
            // The pair ended, and nothing is in writing here: it begins anew, if this node goes on.
            Stage::Told(..) | Stage::Begun => return self.begin_writing(volume),
        }
        true
    }

    fn begin_writing(&mut self, volume: VolumeId) -> bool {
        self.set_stage(volume, Stage::Begun);
        let idle = self.changes.ours[&volume].what != VolumeChange::Delete || self.is_idle(volume);
        let mirrored = self.volumes.get(volume).is_some_and(|state| state.mirrored);
        match &self.phase {
            Phase::Failed | Phase::Stopped => self.give_change_up(volume, VolumeRefusal::Interrupted),
            // As with requests: whoever asked may be gone by the time this is decided.
            Phase::Deciding(deciding)
                if deciding.refusing && mirrored && !self.changes.ours[&volume].told =>
            {
                self.give_change_up(volume, VolumeRefusal::Interrupted);
            }
            _ if !mirrored && idle => self.write_change(volume),
            _ if !mirrored => return false,
            Phase::Paired(pair) if idle && self.service() == Service::Pair && self.link.is_some() => {
                let (epoch, linked) = (pair.epoch, pair.link_lost.is_none());
                return linked && self.tell_change(epoch, volume);
            }
            Phase::Alone(alone) if idle => match &alone.rejoin {
                Rejoin::None | Rejoin::Stalled(_) => self.write_change(volume),
                // The target has the table as it was: it is told anew.
                Rejoin::Gathering { .. }
                | Rejoin::Merging { .. }
                | Rejoin::Telling
                | Rejoin::Copying { .. }
                | Rejoin::Draining { .. } => {
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
            _ => self.give_change_up(volume, VolumeRefusal::Interrupted),
        }
        true
    }

    fn set_stage(&mut self, volume: VolumeId, stage: Stage) {
        if let Some(change) = self.changes.ours.get_mut(&volume) {
            change.stage = stage;
        }
    }

    fn tell_change(&mut self, epoch: Epoch, volume: VolumeId) -> bool {
        let what = self.changes.ours[&volume].what.clone();
        let change = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change) + 1;
        self.set_stage(volume, Stage::Told(epoch, change));
        if let Some(ours) = self.changes.ours.get_mut(&volume) {
            ours.told = true;
        }
        let early = match what {
            VolumeChange::Grow { .. } => Bug::GrownBeforePartner,
            VolumeChange::Delete => Bug::DeletedBeforePartner,
            VolumeChange::Keep { .. } => Bug::KeptBeforePartner,
        };
        self.say(Control::VolumeChange { epoch, volume, change, what });
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

    /// The partner cannot write it down: it is in writing on neither.
    pub(super) fn change_refused(
        &mut self,
        epoch: Epoch,
        volume: VolumeId,
        change: u64,
        refusal: VolumeRefusal,
    ) {
        let told = self.changes.ours.get(&volume).map(|ours| ours.stage);
        if self.is_paired_in(epoch) && told == Some(Stage::Told(epoch, change)) {
            self.give_change_up(volume, refusal);
        }
    }

    /// Writes a change down here.
    fn write_change(&mut self, volume: VolumeId) {
        let Some(what) = self.changes.ours.get(&volume).map(|change| change.what.clone()) else { return };
        let lsn = self.append_change(volume, &what);
        self.set_stage(volume, Stage::Writing(lsn));
    }

    fn append_change(&mut self, volume: VolumeId, what: &VolumeChange) -> Lsn {
        let epoch = self.acting_epoch();
        let meta = self.store().pool().metadata().volume(volume).expect("a running volume has metadata");
        let (change, now, read_only) = (meta.change + 1, meta.sectors, meta.read_only);
        let (sectors, deleted) = match what {
            VolumeChange::Grow { sectors } => (*sectors, false),
            VolumeChange::Delete => (now, true),
            VolumeChange::Keep { .. } => (now, false),
        };
        let mut records = vec![Record::VolumeState { volume, sectors, change, epoch, deleted, read_only }];
        if let VolumeChange::Keep { name, value, .. } = what {
            let (name, revision, value) = (*name, change, Arc::clone(value));
            records.push(Record::VolumeItem { volume, name, revision, value });
        }
        let lsn = self.append(&records);
        if deleted {
            self.drop_volume(volume);
            self.store_mut().purge(volume, lsn);
        }
        lsn
    }

    /// It is in writing on both, or on the only one that counts.
    fn change_done(&mut self, volume: VolumeId) {
        let Some(Change { asker, what, .. }) = self.changes.ours.remove(&volume) else { return };
        if let VolumeChange::Grow { sectors } = what
            && let Some(state) = self.volumes.get_mut(volume)
        {
            state.sectors = sectors;
        }
        self.show(volume);
        if matches!(what, VolumeChange::Keep { .. }) {
            self.show_items(volume);
        }
        if let Phase::Paired(pair) = &self.phase
            && let Some(meta) = self.store().pool().metadata().volume(volume).filter(|meta| meta.mirrored)
        {
            let (epoch, change) = (pair.epoch, meta.change);
            self.say(Control::VolumeShown { epoch, volume, change });
        }
        if what == VolumeChange::Delete {
            let mirrored = self.store().pool().metadata().volume(volume).is_some_and(|meta| meta.mirrored);
            if !mirrored || matches!(self.phase, Phase::Paired(_)) {
                self.settle_deleted([volume]);
            }
            self.notice(Notice::VolumeDeleted(volume));
        }
        self.answer_change(asker, Ok(()));
    }

    /// Nothing of it is in writing here, nor will be: the volume stays as it was.
    fn give_change_up(&mut self, volume: VolumeId, refusal: VolumeRefusal) {
        let Some(Change { asker, .. }) = self.changes.ours.remove(&volume) else { return };
        if let Some(state) = self.volumes.get_mut(volume) {
            state.leaving = false;
        }
        self.answer_change(asker, Err(refusal));
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
        let makes_sense = self.volumes.get(volume).is_some_and(|state| {
            let possible = match &what {
                VolumeChange::Grow { sectors } => *sectors > state.sectors && *sectors <= SECTORS_MAX,
                VolumeChange::Delete | VolumeChange::Keep { .. } => true,
            };
            state.mirrored && state.owner != me && possible
        });
        if !makes_sense || change != known + 1 {
            if let Some(link) = self.link {
                self.actions.push_back(Action::Disconnect { link });
            }
            return;
        }
        if !self.has_room_to_keep(volume, &what) {
            let refusal = VolumeRefusal::NoRoom;
            return self.say(Control::VolumeRefused { epoch, volume, change, refusal });
        }
        let closes = what == VolumeChange::Delete;
        self.changes.theirs.insert(volume, Ordered { epoch, change, what, writing: None });
        if closes {
            self.close_volume(volume);
        }
    }

    fn ordered_step(&mut self, volume: VolumeId) -> bool {
        let Ordered { epoch, change, ref what, writing } = self.changes.theirs[&volume];
        let here = self.is_paired_in(epoch);
        match writing {
            Some(lsn) if self.is_durable(lsn) => {
                match *what {
                    VolumeChange::Grow { sectors } => {
                        if let Some(state) = self.volumes.get_mut(volume) {
                            state.sectors = state.sectors.max(sectors);
                        }
                    }
                    VolumeChange::Delete => self.notice(Notice::VolumeDeleted(volume)),
                    VolumeChange::Keep { .. } => self.show_items(volume),
                }
                self.changes.theirs.remove(&volume);
                if here {
                    self.say(Control::VolumeChanged { epoch, volume, change });
                }
            }
            Some(_) => return false,
            None if !here => {
                self.changes.theirs.remove(&volume);
                if let Some(state) = self.volumes.get_mut(volume) {
                    state.leaving = false;
                }
            }
            None if *what == VolumeChange::Delete && !self.is_idle(volume) => return false,
            None => {
                let what = what.clone();
                let lsn = self.append_change(volume, &what);
                if let Some(ordered) = self.changes.theirs.get_mut(&volume) {
                    ordered.writing = Some(lsn);
                }
            }
        }
        true
    }

    /// Partner: both have it in writing.
    pub(super) fn change_shown(&mut self, epoch: Epoch, volume: VolumeId, change: u64) {
        let known = self.store().pool().metadata().volume(volume);
        let (known, deleted) = known.map_or((0, false), |meta| (meta.change, meta.deleted));
        if self.is_paired_in(epoch) && known >= change {
            self.show_as_owner(volume);
            // An earlier change may have been shown: the owner's own record of the deletion need not be durable then.
            self.settle_deleted((deleted && change == known).then_some(volume));
        }
    }

    /// Owner: the link is back; what was said of changes may have been lost.
    pub(super) fn resend_changes(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let epoch = pair.epoch;
        self.resend_clones();
        let told = self.changes.ours.iter().filter_map(|(&volume, ours)| match ours.stage {
            Stage::Told(_, change) => Some((volume, change, ours.what.clone())),
            Stage::Begun | Stage::Writing(_) => None,
        });
        for (volume, change, what) in told.collect::<Vec<_>>() {
            self.say(Control::VolumeChange { epoch, volume, change, what });
        }
        let me = self.me();
        let mine = self.volumes.iter().filter(|(_, state)| state.mirrored && state.owner == me);
        for volume in mine.map(|(id, _)| id).collect::<Vec<_>>() {
            let change = self.store().pool().metadata().volume(volume).map_or(0, |meta| meta.change);
            let shown = !self.changes.ours.contains_key(&volume) && !self.clones.makes(volume);
            if change > 0 && shown {
                self.say(Control::VolumeShown { epoch, volume, change });
            }
        }
    }

    /// Hosts see the volume as it is.
    pub(super) fn show(&mut self, volume: VolumeId) {
        let Some(state) = self.volumes.get_mut(volume).filter(|state| state.shown != state.sectors) else {
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
        for volume in linear.map(|(id, _)| id).collect::<Vec<_>>() {
            self.show(volume);
            self.show_items(volume);
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
            if let Some(state) = self.volumes.get_mut(volume) {
                state.sectors = sectors;
            }
            self.show(volume);
            self.show_items(volume);
        }
        self.show_deleted(true);
    }

    /// Is a volume of the table, which is to be there, still being taken apart here?
    pub(super) fn must_purge_first(&self, table: &[VolumeEntry]) -> bool {
        let mut purging = self.store().purging();
        purging.any(|(volume, _)| table.iter().any(|entry| entry.volume == volume && !entry.deleted))
    }
}
