//! Volumes that begin as others are: snapshots of volumes, clones of snapshots, of one volume or of several at one moment.
//! `engine/docs/snapshots.md` has the cases.
//!
//! The owner lets the volumes come to rest: what is dirty is written back, then new writes wait until the last are on stable
//! media. In a pair the partner, when it has come to rest too, writes the clones down, then the owner, then writes go on. Alone:
//! this node writes them down, and a partner that comes back makes them of its own halves (`volume_table`). Invariants:
//!
//! - On each node the clones are written down while nothing of what they are made of is in hand, in one call to `append`: all of
//!   them or none.
//! - From when the owner has told its partner until it has them in writing itself, it begins no write to what they are made of:
//!   so both nodes make them at the same place in the order of writes.
//! - They are acknowledged only when they are durable on both nodes, or on the one whose data stand.
//! - Writes do not wait for longer than [`HOLDS_LEASES`] leases until the partner is told, and twice as long until it has the clones
//!   in writing or the pair ends. They do not wait for this node's own record: behind it they lie elsewhere, so no crash shows
//!   them without it.

use super::Node;
use super::event::Notice;
use super::machines::Known;
use super::phase::{Phase, Rejoin};
use super::volume::right::Service;
use super::volumes::Asker;
use crate::ids::{Epoch, ItemName, VolumeId};
use crate::mirror::message::{CLONES_MAX, Control, NAME_BYTES_MAX, NewClone, VolumeRefusal};
use crate::planted::Bug;
use crate::pool::{CloneRefusal, Lsn, Record, item_room};
use crate::time::Instant;

/// How many leases writes may wait for volumes that do not come to rest; as long they may take before that.
const HOLDS_LEASES: u32 = 2;

/// How far the clones are at the node that orders them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// What is dirty is written back; writes go on.
    Settling,
    /// Writes wait until the last are stable, or until it is decided who serves.
    Held,
    /// The partner of this epoch writes them down.
    Told(Epoch, u64),
    /// They are being written down here.
    Writing(Lsn),
}

/// Clones that this node orders.
#[derive(Debug)]
struct Taking {
    asker: Asker,
    clones: Vec<NewClone>,
    mirrored: bool,
    stage: Stage,
    /// Since when it is at this stage.
    since: Instant,
    /// What was written before it was asked for: the volumes with the last version of each.
    dirty: Vec<(VolumeId, u64)>,
    /// The partner has been told, and may have them in writing.
    told: bool,
}

/// Clones that the owner ordered, at its partner.
#[derive(Debug)]
struct Ordered {
    epoch: Epoch,
    id: u64,
    clones: Vec<NewClone>,
    since: Instant,
    /// They are being written down.
    writing: Option<Lsn>,
}

/// Clones on their way.
#[derive(Debug, Default)]
pub(super) struct Clones {
    ours: Option<Taking>,
    theirs: Option<Ordered>,
    /// The last number of an order.
    last: u64,
    /// Target: since when it could not make the clones that its partner has, for something was in hand.
    pub(super) restless_since: Option<Instant>,
}

impl Clones {
    /// Is something being made of this volume, or is it about to be made?
    pub(super) fn concern(&self, volume: VolumeId) -> bool {
        let ours = self.ours.iter().flat_map(|taking| &taking.clones);
        let theirs = self.theirs.iter().flat_map(|ordered| &ordered.clones);
        ours.chain(theirs).any(|clone| clone.of == volume || clone.volume == volume)
    }

    /// Is this volume being made, and not in writing on both nodes?
    pub(super) fn makes(&self, volume: VolumeId) -> bool {
        self.ours.iter().flat_map(|taking| &taking.clones).any(|clone| clone.volume == volume)
    }

    /// Room in a checkpoint that they will take and do not yet.
    pub(super) fn room_pending(&self) -> usize {
        let ours = self.ours.iter().filter(|taking| !matches!(taking.stage, Stage::Writing(_)));
        let theirs = self.theirs.iter().filter(|ordered| ordered.writing.is_none());
        let all = ours.map(|taking| &taking.clones).chain(theirs.map(|ordered| &ordered.clones));
        all.flatten().map(|clone| 1 + item_room(clone.name.len())).sum()
    }
}

impl Node {
    /// An operator wants clones. Each question is answered once.
    pub(super) fn clones_asked(&mut self, asker: Asker, clones: Vec<NewClone>) {
        if let Err(refusal) = self.begin_clones(asker, clones) {
            self.answer_change(asker, Err(refusal));
        }
    }

    pub(super) fn clones_asked_by_partner(&mut self, epoch: Epoch, id: u64, clones: Vec<NewClone>) {
        let linear = clones.iter().find(|clone| self.volumes.get(clone.of).is_none_or(|of| !of.mirrored));
        let asker = Asker::Partner(epoch, id);
        match linear.map(|clone| clone.of) {
            _ if !self.is_paired_in(epoch) => {}
            Some(of) => self.answer_change(asker, Err(VolumeRefusal::Unknown(of))),
            None => self.clones_asked(asker, clones),
        }
    }

    fn begin_clones(&mut self, asker: Asker, clones: Vec<NewClone>) -> Result<(), VolumeRefusal> {
        let mirrored = self.check_clones(&clones)?;
        if mirrored && !matches!(self.phase, Phase::Paired(_) | Phase::Alone(_)) {
            // What it knows of the volumes may be old.
            return Err(VolumeRefusal::NotNow);
        }
        let busy = |clone: &NewClone| self.changes.concern(clone.of) || self.changes.concern(clone.volume);
        if self.clones.ours.is_some() || self.clones.theirs.is_some() || clones.iter().any(busy) {
            return Err(VolumeRefusal::Busy);
        }
        if self.stopping || self.store().failed() || matches!(self.phase, Phase::Failed | Phase::Stopped) {
            return Err(VolumeRefusal::NotNow);
        }
        if let Phase::Paired(pair) = &self.phase {
            let (epoch, me) = (pair.epoch, self.me());
            let theirs = |clone: &NewClone| self.volumes.get(clone.of).is_some_and(|of| of.owner != me);
            if mirrored && clones.iter().any(theirs) {
                return self.forward_ask(asker, epoch, |id| Control::ClonesAsk { epoch, id, clones });
            }
        }
        self.may_clone(&clones)?;
        let dirty = clones.iter().map(|clone| (clone.of, self.store().version(clone.of))).collect();
        let (stage, since) = (Stage::Settling, self.now);
        self.clones.ours = Some(Taking { asker, clones, mirrored, stage, since, dirty, told: false });
        self.settle_clones();
        Ok(())
    }

    /// Does the question make sense? Says whether the volumes are mirrored.
    fn check_clones(&self, clones: &[NewClone]) -> Result<bool, VolumeRefusal> {
        if !self.config.experimental_snapshots {
            return Err(VolumeRefusal::Experimental);
        }
        let mut kinds = clones.iter().map(|clone| {
            let of = self.volumes.get(clone.of).filter(|of| !of.leaving);
            of.map(|of| of.mirrored).ok_or(VolumeRefusal::Unknown(clone.of))
        });
        let Some(first) = kinds.next() else { return Err(VolumeRefusal::Many) };
        let mirrored = first?;
        for kind in kinds {
            if kind? != mirrored {
                return Err(VolumeRefusal::Mixed);
            }
        }
        let twice = |(at, clone): (usize, &NewClone)| {
            clones[..at].iter().any(|other| other.volume == clone.volume || other.name == clone.name)
        };
        if clones.len() > CLONES_MAX || clones.iter().enumerate().any(twice) {
            return Err(VolumeRefusal::Many);
        }
        let named = |clone: &NewClone| (1..=NAME_BYTES_MAX).contains(&clone.name.len());
        if clones.iter().all(named) { Ok(mirrored) } else { Err(VolumeRefusal::Name) }
    }

    /// Can the clones be made here?
    fn may_clone(&self, clones: &[NewClone]) -> Result<(), VolumeRefusal> {
        self.may_clone_beside(clones, self.clones.room_pending())
    }

    /// The same, where so much room is taken by others that are on their way.
    fn may_clone_beside(&self, clones: &[NewClone], others: usize) -> Result<(), VolumeRefusal> {
        let going = |clone: &NewClone| self.store().purging().any(|(volume, _)| volume == clone.volume);
        if let Some(clone) = clones.iter().find(|clone| going(clone)) {
            return Err(VolumeRefusal::Clone(CloneRefusal::Taken(clone.volume)));
        }
        let pending = self.changes.room_pending() + others;
        let asked = clones.iter().map(|clone| (clone.volume, clone.of, clone.read_only, clone.name.len()));
        self.store().pool().may_clone_all(asked, pending).map_err(VolumeRefusal::Clone)
    }

    /// Everything dirty is to be written back, here and at the partner, so that writes need not wait long.
    fn settle_clones(&mut self) {
        self.store_mut().urge();
        let Some(taking) = &self.clones.ours else { return };
        let volumes: Vec<VolumeId> = taking.clones.iter().map(|clone| clone.of).collect();
        if let (true, Phase::Paired(pair)) = (taking.mirrored, &self.phase) {
            let epoch = pair.epoch;
            for volume in volumes {
                // Nobody waits for this answer.
                self.say(Control::FlushAsk { epoch, id: 0, volume });
            }
        }
    }

    /// Takes clones as far as they can go now. True if they moved.
    pub(super) fn clones_step(&mut self) -> bool {
        let moved = self.our_clones_step();
        self.their_clones_step() || moved
    }

    fn our_clones_step(&mut self) -> bool {
        let Some(taking) = &self.clones.ours else { return false };
        match taking.stage {
            Stage::Writing(lsn) if self.is_durable(lsn) => self.clones_done(),
            // It never will be.
            Stage::Writing(_) if matches!(self.phase, Phase::Failed) => {
                self.give_clones_up(VolumeRefusal::Interrupted);
            }
            Stage::Writing(_) => return false,
            Stage::Told(epoch, _) if self.is_paired_in(epoch) => {
                if self.now < self.order_ends(taking.since) {
                    return false;
                }
                // The partner's disk hangs: guests go on without it.
                self.leave_pair();
            }
            // The pair ended, and nothing is in writing here: it begins anew, if this node goes on.
            Stage::Told(..) => self.set_clones_stage(Stage::Held),
            Stage::Settling => {
                let stable = |&(id, version): &(VolumeId, u64)| self.store().stable_through(id) >= version;
                let settled = taking.dirty.iter().all(stable);
                if !settled && self.now < self.patience_ends(taking.since) {
                    return false;
                }
                self.hold_for_clones(true);
                self.set_clones_stage(Stage::Held);
            }
            Stage::Held => return self.held_clones_step(),
        }
        true
    }

    fn held_clones_step(&mut self) -> bool {
        let Some(taking) = &self.clones.ours else { return false };
        let (mirrored, told) = (taking.mirrored, taking.told);
        let late = self.now >= self.patience_ends(taking.since);
        match &self.phase {
            Phase::Deciding(deciding) if deciding.refusing && mirrored && !told => {}
            _ if !mirrored && !matches!(self.phase, Phase::Failed | Phase::Stopped) => {
                return self.write_when_at_rest(late);
            }
            Phase::Paired(pair) if self.service() == Service::Pair && self.link.is_some() => {
                let (epoch, lost) = (pair.epoch, pair.link_lost.is_some());
                return !lost && self.tell_when_at_rest(epoch, late);
            }
            Phase::Alone(alone) => match &alone.rejoin {
                Rejoin::None | Rejoin::Stalled(_) => return self.write_when_at_rest(late),
                // The target has the table as it was: it is told anew.
                Rejoin::Gathering { .. }
                | Rejoin::Merging { .. }
                | Rejoin::Telling
                | Rejoin::Copying { .. }
                | Rejoin::Draining { .. } => {
                    if self.is_at_rest_for_clones() {
                        self.start_link_over();
                    }
                    return self.write_when_at_rest(late);
                }
                // Nearly a pair, or soon not; but writes do not wait for that for ever.
                _ if !late => return false,
                _ => {}
            },
            Phase::Paired(_) | Phase::Deciding(_) | Phase::Waiting(_) | Phase::Recording(_) => return false,
            _ => {}
        }
        let refusal = if late { VolumeRefusal::NotAtRest } else { VolumeRefusal::Interrupted };
        self.give_clones_up(if told { VolumeRefusal::Interrupted } else { refusal });
        true
    }

    /// Until when it may take, if it began then.
    fn patience_ends(&self, since: Instant) -> Instant {
        since + self.config.mirror.lease * HOLDS_LEASES
    }

    /// Until when the partner may take that was told then: it says by itself when it does not come to rest.
    fn order_ends(&self, since: Instant) -> Instant {
        since + self.config.mirror.lease * HOLDS_LEASES * 2
    }

    fn set_clones_stage(&mut self, stage: Stage) {
        let now = self.now;
        if let Some(taking) = &mut self.clones.ours {
            (taking.stage, taking.since) = (stage, now);
        }
    }

    /// New writes to what the clones are made of wait, or go on.
    fn hold_for_clones(&mut self, hold: bool) {
        let Some(taking) = &self.clones.ours else { return };
        let volumes: Vec<VolumeId> = taking.clones.iter().map(|clone| clone.of).collect();
        self.store_mut().urge();
        for volume in volumes {
            self.store_mut().keep_at_rest(volume, hold);
            self.with(volume, |volume, _| volume.resting = hold);
        }
    }

    /// Is nothing in hand of what the clones are made of? If there is, it is hurried.
    fn is_at_rest_for_clones(&mut self) -> bool {
        let Some(taking) = &self.clones.ours else { return false };
        let at_rest = taking.clones.iter().all(|clone| self.is_at_rest(clone.of));
        if !at_rest {
            self.store_mut().urge();
        }
        at_rest
    }

    /// Is nothing of the volume in hand here, but for writes that wait, and everything on stable media?
    pub(super) fn is_at_rest(&self, volume: VolumeId) -> bool {
        self.volumes.get(volume).is_none_or(|volume| volume.is_calm()) && self.store().is_at_rest(volume)
    }

    fn tell_when_at_rest(&mut self, epoch: Epoch, late: bool) -> bool {
        if !self.is_at_rest_for_clones() {
            return self.give_clones_up_if(late);
        }
        let Some(taking) = &self.clones.ours else { return false };
        let (clones, told) = (taking.clones.clone(), taking.told);
        // What was written since they were asked for may have taken the space or the room.
        if let (false, Err(refusal)) = (told, self.may_clone_beside(&clones, 0)) {
            self.give_clones_up(refusal);
            return true;
        }
        self.clones.last += 1;
        let id = self.clones.last;
        self.set_clones_stage(Stage::Told(epoch, id));
        let Some(taking) = &mut self.clones.ours else { return false };
        taking.told = true;
        self.say(Control::ClonesTake { epoch, id, clones });
        if self.has(Bug::ClonedBeforePartner) {
            self.write_when_at_rest(false);
        }
        true
    }

    fn write_when_at_rest(&mut self, late: bool) -> bool {
        if !self.is_at_rest_for_clones() {
            return self.give_clones_up_if(late);
        }
        let Some(taking) = &self.clones.ours else { return false };
        let (clones, told) = (taking.clones.clone(), taking.told);
        match self.may_clone_beside(&clones, 0) {
            Ok(()) => {
                let lsn = self.append_clones(&clones);
                self.set_clones_stage(Stage::Writing(lsn));
                // What is written from now on lies elsewhere, and its records come behind those of the clones.
                self.hold_for_clones(false);
            }
            // The partner has them by now: it must not stay a pair that differs. Whoever goes on says what there is.
            Err(_) if told && matches!(self.phase, Phase::Paired(_)) => self.leave_pair(),
            Err(refusal) => self.give_clones_up(if told { VolumeRefusal::Interrupted } else { refusal }),
        }
        true
    }

    /// A pair of which one has them in writing, or may have, goes on until both have.
    fn give_clones_up_if(&mut self, late: bool) -> bool {
        let told = self.clones.ours.as_ref().is_some_and(|taking| taking.told);
        let gives_up = late && !(told && matches!(self.phase, Phase::Paired(_)));
        if gives_up {
            self.give_clones_up(if told { VolumeRefusal::Interrupted } else { VolumeRefusal::NotAtRest });
        }
        gives_up
    }

    /// The partner has them in writing.
    pub(super) fn clones_taken(&mut self, epoch: Epoch, id: u64) {
        let told = self.clones.ours.as_ref().map(|taking| taking.stage);
        if self.is_paired_in(epoch) && told == Some(Stage::Told(epoch, id)) && !self.write_when_at_rest(false)
        {
            // A block was repaired meanwhile: soon.
            self.set_clones_stage(Stage::Held);
        }
    }

    /// The partner cannot write them down: they are in writing on neither.
    pub(super) fn clones_refused(&mut self, epoch: Epoch, id: u64, refusal: VolumeRefusal) {
        let told = self.clones.ours.as_ref().map(|taking| taking.stage);
        if self.is_paired_in(epoch) && told == Some(Stage::Told(epoch, id)) {
            self.give_clones_up(refusal);
        }
    }

    /// Owner: the link is back; the order, or its answer, may have been lost.
    pub(super) fn resend_clones(&mut self) {
        let Some(Taking { stage: Stage::Told(epoch, id), clones, .. }) = &self.clones.ours else { return };
        let (epoch, id, clones) = (*epoch, *id, clones.clone());
        self.say(Control::ClonesTake { epoch, id, clones });
    }

    /// Writes clones down here: all at one stroke.
    fn append_clones(&mut self, clones: &[NewClone]) -> Lsn {
        let epoch = self.acting_epoch();
        let paired = matches!(self.phase, Phase::Paired(_));
        let mut records = Vec::new();
        for clone in clones {
            let NewClone { volume, of, uuid, read_only, .. } = *clone;
            let model = self.store().pool().metadata().volume(of).expect("it was looked at before");
            let (sectors, mirrored) = (model.sectors, model.mirrored);
            // One that this node alone had, and that gave way.
            records.extend(self.forgotten(volume));
            records.push(Record::VolumeClone { volume, of, uuid, read_only, mirrored });
            let (change, deleted) = (1, false);
            records.push(Record::VolumeState { volume, sectors, change, epoch, deleted, read_only });
            let (name, revision, value) = (ItemName::NAME, change, clone.name.as_bytes().into());
            records.push(Record::VolumeItem { volume, name, revision, value });
            if paired {
                // Both halves are at rest at the same place in the order of writes, so nothing differs.
                records.push(Record::HotClear { volume });
            }
        }
        let lsn = self.append(&records);
        for clone in clones {
            let meta = self.store().pool().metadata().volume(clone.volume).expect("it was just made");
            let (known, owner) = (Known::of(meta), self.volumes.get(clone.of).map(|of| of.owner));
            self.add_volume(clone.volume, known);
            if let (Some(state), Some(owner)) = (self.volumes.get_mut(clone.volume), owner) {
                state.owner = owner;
            }
        }
        lsn
    }

    /// What makes the number of a volume of which nothing is left that of another, if there is one.
    pub(super) fn forgotten(&self, volume: VolumeId) -> Option<Record> {
        self.store().pool().metadata().volume(volume).map(|meta| {
            assert!(meta.gives_way(), "volume {volume} is there");
            Record::VolumeDelete { volume }
        })
    }

    /// They are in writing on both, or on the only one that counts.
    fn clones_done(&mut self) {
        self.hold_for_clones(false);
        let Some(Taking { asker, clones, mirrored, .. }) = self.clones.ours.take() else { return };
        let epoch = match &self.phase {
            Phase::Paired(pair) if mirrored => Some(pair.epoch),
            _ => None,
        };
        for NewClone { volume, of, read_only, .. } in clones {
            self.show_clone(volume, of, read_only);
            if let Some(epoch) = epoch {
                self.say(Control::VolumeShown { epoch, volume, change: 1 });
            }
        }
        self.answer_change(asker, Ok(()));
    }

    fn show_clone(&mut self, volume: VolumeId, of: VolumeId, read_only: bool) {
        self.show(volume);
        self.show_items(volume);
        self.notice(Notice::VolumeCloned { volume, of, read_only });
    }

    /// Partner: the owner shows a volume as it is in writing on both.
    pub(super) fn show_as_owner(&mut self, volume: VolumeId) {
        let new = self.volumes.get(volume).is_some_and(|state| state.shown == 0);
        let meta = self.store().pool().metadata().volume(volume);
        match meta.and_then(|meta| meta.kin).filter(|_| new) {
            Some(kin) => self.show_clone(volume, kin.of, kin.read_only),
            None => self.show(volume),
        }
    }

    /// Nothing of it is in writing here, nor will be.
    fn give_clones_up(&mut self, refusal: VolumeRefusal) {
        self.hold_for_clones(false);
        if let Some(Taking { asker, .. }) = self.clones.ours.take() {
            self.answer_change(asker, Err(refusal));
        }
    }

    /// Partner: the owner has ordered clones.
    pub(super) fn clones_told(&mut self, epoch: Epoch, id: u64, clones: Vec<NewClone>) {
        if !self.is_paired_in(epoch) || self.clones.theirs.is_some() {
            return;
        }
        let known = |clone: &NewClone| {
            let meta = self.store().pool().metadata().volume(clone.volume);
            meta.is_some_and(|meta| meta.uuid == clone.uuid && !meta.deleted)
        };
        if clones.iter().all(known) {
            // A resend of what is done.
            return self.say(Control::ClonesTaken { epoch, id });
        }
        let me = self.me();
        let mine =
            |clone: &NewClone| self.volumes.get(clone.of).is_some_and(|of| of.owner == me || !of.mirrored);
        let refusal = match self.check_clones(&clones) {
            Err(refusal) => Some(refusal),
            Ok(_) if clones.iter().any(mine) => Some(VolumeRefusal::NotNow),
            Ok(_) => self.may_clone(&clones).err(),
        };
        if let Some(refusal) = refusal {
            return self.say(Control::ClonesRefused { epoch, id, refusal });
        }
        self.store_mut().urge();
        for clone in &clones {
            self.store_mut().keep_at_rest(clone.of, true);
        }
        let since = self.now;
        self.clones.theirs = Some(Ordered { epoch, id, clones, since, writing: None });
    }

    fn their_clones_step(&mut self) -> bool {
        let Some(ordered) = &self.clones.theirs else { return false };
        let Ordered { epoch, id, since, writing, .. } = *ordered;
        let here = self.is_paired_in(epoch);
        match writing {
            Some(lsn) if self.is_durable(lsn) => {
                self.forget_ordered();
                if here {
                    self.say(Control::ClonesTaken { epoch, id });
                }
            }
            Some(_) => return false,
            None if !here => self.forget_ordered(),
            None if !ordered.clones.iter().all(|clone| self.is_at_rest(clone.of)) => {
                if self.now < self.patience_ends(since) {
                    self.store_mut().urge();
                    return false;
                }
                self.forget_ordered();
                self.say(Control::ClonesRefused { epoch, id, refusal: VolumeRefusal::NotAtRest });
            }
            None => {
                let clones = ordered.clones.clone();
                if let Err(refusal) = self.may_clone_beside(&clones, 0) {
                    self.forget_ordered();
                    self.say(Control::ClonesRefused { epoch, id, refusal });
                    return true;
                }
                let lsn = self.append_clones(&clones);
                if let Some(ordered) = &mut self.clones.theirs {
                    ordered.writing = Some(lsn);
                }
            }
        }
        true
    }

    fn forget_ordered(&mut self) {
        let Some(ordered) = self.clones.theirs.take() else { return };
        for clone in ordered.clones {
            self.store_mut().keep_at_rest(clone.of, false);
        }
    }

    /// When something has taken too long.
    pub(super) fn clones_deadline(&self) -> Option<Instant> {
        let ours = self.clones.ours.as_ref();
        let ours = ours.and_then(|taking| match taking.stage {
            Stage::Settling | Stage::Held => Some(self.patience_ends(taking.since)),
            Stage::Told(..) => Some(self.order_ends(taking.since)),
            Stage::Writing(_) => None,
        });
        let theirs = self.clones.theirs.as_ref();
        let theirs = theirs.filter(|ordered| ordered.writing.is_none());
        let theirs = theirs.map(|ordered| self.patience_ends(ordered.since));
        // What is late and waits for a decision is looked at when that has come.
        [ours, theirs].into_iter().flatten().filter(|at| *at > self.now).min()
    }
}
