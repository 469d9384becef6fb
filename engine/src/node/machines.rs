//! The machines of the volumes, as the control part drives them. A step of a machine goes through [`Node::with`] or
//! [`Node::each`] and no other way: before it the machine gets its right, after it the control part hears what it told.
//!
//! Invariants: no machine is stepped with an old right. Volumes are stepped in the order of their ids. A machine that
//! waits for the log, the disks or another right is *awake*; only those are looked at in each round, so an event costs
//! nothing for volumes that have nothing in hand.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::config::NodeConfig;
use super::event::Action;
use super::volume::context::{Context, Told};
use super::volume::hot::{TIDY_EVERY, TidyDue};
use super::volume::right::{Right, Service};
use super::volume::room::{Queue, Queues, Waiter};
use super::volume::stock::Stock;
use super::volume::{MACHINES_MAX, Volume, first_id, machine_of};
use crate::cells::Cells;
use crate::guest::{Command, GuestError};
use crate::ids::{Epoch, RequestId, Uuid, VolumeId};
use crate::mirror::message::Control;
use crate::planted::Bug;
use crate::pool::VolumeMeta;
use crate::time::{Duration, Instant};

/// The numbers of the machines of a node, which their ids carry.
#[derive(Debug, Default)]
pub(super) struct Machines {
    volumes: Vec<VolumeId>,
    /// Volumes that are gone: the last id that was given for them. One that comes back goes on there.
    retired: BTreeMap<VolumeId, u64>,
    /// The last numbers that machines gave whose volumes are forgotten.
    vacant: Vec<u64>,
    /// Those that are awake, ascending.
    awake: Vec<VolumeId>,
    /// When each is to be tidied up, those that are at all: the earliest `Soon` and the earliest `WhenIdle` are what counts.
    tidy_due: BTreeSet<(TidyDue, VolumeId)>,
    /// What was handed down last.
    right: Option<Right>,
    /// What those who wait for room waited under.
    seen: Option<(Service, u64, Option<u64>, bool)>,
    /// When those of a pair next have something to tell, or to let cool.
    tidy_at: Instant,
}

impl Machines {
    /// Takes notice of whether a machine is awake.
    fn set_awake(&mut self, volume: &mut Volume) {
        volume.known_awake = volume.is_awake();
        match self.awake.binary_search(&volume.id) {
            Ok(at) if !volume.known_awake => drop(self.awake.remove(at)),
            Err(at) if volume.known_awake => self.awake.insert(at, volume.id),
            _ => {}
        }
    }

    fn forget_awake(&mut self, id: VolumeId) {
        self.awake.retain(|awake| *awake != id);
    }

    /// After a step of a machine.
    fn stepped(&mut self, volume: &mut Volume, config: &NodeConfig) {
        self.set_awake(volume);
        let due = volume.tidy_due(config);
        let before = core::mem::replace(&mut volume.tidy_seen, due);
        if before != due {
            self.forget_tidy(volume.id, before);
            self.tidy_due.extend(due.map(|due| (due, volume.id)));
        }
    }

    /// The last number that a new machine must not give: that of one of before, if there is one whose volume is forgotten.
    fn number_for(&mut self, id: VolumeId) -> u64 {
        if let Some(last_id) = self.vacant.pop() {
            self.volumes[machine_of(last_id)] = id;
            return last_id;
        }
        let machine = self.volumes.len();
        assert!(machine < MACHINES_MAX, "a pool has fewer volumes");
        self.volumes.push(id);
        first_id(machine)
    }

    /// The volume is deleted and forgotten: another gets its machine's number, and goes on from the last that it gave.
    pub(super) fn forget(&mut self, id: VolumeId) {
        self.vacant.extend(self.retired.remove(&id));
    }

    fn forget_tidy(&mut self, id: VolumeId, due: Option<TidyDue>) {
        if let Some(due) = due {
            self.tidy_due.remove(&(due, id));
        }
    }

    /// When the first is to be tidied up.
    fn tidy_deadline(&self, now: Instant, hot_idle: Duration) -> Option<Instant> {
        let from = |due| self.tidy_due.range((due, VolumeId(0))..).next();
        let firsts = [TidyDue::Soon(Instant::ZERO), TidyDue::WhenIdle(Instant::ZERO)].map(from);
        firsts.into_iter().flatten().map(|(due, _)| due.at(now, hot_idle)).min()
    }

    /// The next that is awake, behind `last`.
    fn next_awake(&self, last: Option<VolumeId>) -> Option<VolumeId> {
        let at = last.map_or(0, |last| self.awake.partition_point(|id| *id <= last));
        self.awake.get(at).copied()
    }
}

/// What the pool says of a volume, or is about to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) uuid: Uuid,
    pub(super) sectors: u64,
    pub(super) mirrored: bool,
    pub(super) read_only: bool,
}

impl Known {
    pub(super) fn of(meta: &VolumeMeta) -> Known {
        let (uuid, sectors, mirrored) = (meta.uuid, meta.sectors, meta.mirrored);
        Known { uuid, sectors, mirrored, read_only: meta.is_snapshot() }
    }
}

impl Node {
    /// A machine for a volume that has none.
    pub(super) fn add_volume(&mut self, id: VolumeId, known: Known) {
        let Known { uuid, sectors, mirrored, read_only } = known;
        let last_id = self.machines.retired.remove(&id).unwrap_or_else(|| self.machines.number_for(id));
        let mut volume = Volume::new(id, last_id, sectors, mirrored, self.config.preferred);
        let config = self.config.volumes.iter().find(|config| config.id == id);
        volume.detect_zeros = config.is_some_and(|config| config.detect_zeros);
        volume.read_only = read_only;
        self.volumes.insert(id, volume);
        self.machines.right = None;
        self.actions.push_back(Action::VolumeIs { volume: id, uuid, mirrored, read_only });
    }

    /// The volume is no more. Nothing of it is in hand but for what a node that is behind need not answer, and blocks that
    /// the partner was asked for.
    pub(super) fn drop_volume(&mut self, id: VolumeId) {
        self.scrub_leaves(id);
        self.with(id, Volume::leave);
        let Some(volume) = self.volumes.remove(id) else { return };
        self.machines.retired.insert(id, volume.last_id());
        self.machines.forget_awake(id);
        self.machines.forget_tidy(id, volume.tidy_seen);
        self.actions.push_back(Action::VolumeSize { volume: id, sectors: None });
    }

    fn split(&mut self) -> (&mut Cells<Volume>, &mut Machines, Context<'_>) {
        let Node { volumes, machines, now, config, store, pages, room, shared, actions, told, .. } = self;
        let store = store.as_mut().expect("the pool is open");
        let (store, shared) = (Stock::Whole(store), Some(shared));
        (volumes, machines, Context { now: *now, config, store, pages, room, shared, actions, told })
    }

    /// Hands the right down to all machines if it has changed.
    pub(super) fn hand_down(&mut self) {
        let right = self.right();
        if self.machines.right != Some(right) {
            self.machines.right = Some(right);
            self.volumes.iter_mut().for_each(|(_, volume)| volume.hand_down(right));
        }
    }

    /// A step of the machine of this volume, if there is one.
    pub(super) fn with<R>(
        &mut self,
        id: VolumeId,
        step: impl FnOnce(&mut Volume, &mut Context<'_>) -> R,
    ) -> Option<R> {
        self.hand_down();
        let (volumes, machines, mut cx) = self.split();
        let volume = volumes.get_mut(id)?;
        let result = step(volume, &mut cx);
        machines.stepped(volume, cx.config);
        drop(cx);
        self.hear();
        Some(result)
    }

    /// A step of the machine that gave this id.
    pub(super) fn with_giver_of(&mut self, id: u64, step: impl FnOnce(&mut Volume, &mut Context<'_>)) {
        if let Some(&volume) = self.machines.volumes.get(machine_of(id)) {
            self.with(volume, step);
        }
    }

    /// A machine has stepped beside others.
    pub(super) fn note_step(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.stepped = false;
            self.machines.stepped(volume, &self.config);
        }
    }

    /// A step of every machine.
    pub(super) fn each(&mut self, mut step: impl FnMut(&mut Volume, &mut Context<'_>)) {
        self.hand_down();
        let (volumes, machines, mut cx) = self.split();
        for (_, volume) in volumes.iter_mut() {
            step(volume, &mut cx);
            machines.stepped(volume, cx.config);
        }
        drop(cx);
        self.hear();
    }

    /// A step of every machine of a mirrored volume.
    pub(super) fn each_mirrored(&mut self, mut step: impl FnMut(&mut Volume, &mut Context<'_>)) {
        self.each(|volume, cx| {
            if volume.mirrored {
                step(volume, cx);
            }
        });
    }

    /// What machines have told the control part.
    pub(super) fn hear(&mut self) {
        while let Some((volume, told)) = self.told.pop_front() {
            match told {
                Told::PartnerFull => self.drop_full_partner(),
                Told::Scrubbed { blocks } => self.scrubbed(volume, blocks),
                Told::ScrubAgain { later } => self.scrub_again(volume, later),
                Told::ScrubFound { block, repaired } => self.scrub_found(volume, block, repaired),
            }
        }
    }

    /// A guest asks.
    pub(super) fn guest(&mut self, id: RequestId, volume: VolumeId, command: Command) {
        if self.volumes.contains(volume) {
            self.with(volume, |volume, cx| volume.guest(cx, id, command));
        } else {
            let error = self.why_gone(volume);
            self.actions.push_back(Action::Complete { id, result: Err(error) });
        }
    }

    /// There is no such volume here. Of a mirrored one only a node that may serve can tell.
    fn why_gone(&self, volume: VolumeId) -> GuestError {
        let known = self.store().pool().metadata().volume(volume);
        // One that is unknown here the partner may have made.
        let mirrored = known.is_none_or(|meta| meta.mirrored);
        match self.service() {
            Service::Hold | Service::Refuse if mirrored => GuestError::Unavailable,
            _ => GuestError::Gone,
        }
    }

    /// A guest gives a request up. It is answered when the request can no longer act.
    pub(super) fn abort(&mut self, id: RequestId) {
        let mut found = false;
        self.each(|volume, cx| found = found || volume.abort(cx, id));
        if !found {
            self.actions.push_back(Action::Aborted { id });
        }
    }

    /// The partner wants a forwarded write of its guest forgotten. Its message does not name the volume.
    pub(super) fn cancel_received(&mut self, epoch: Epoch, id: u64) {
        if !self.is_paired_in(epoch) {
            return;
        }
        let mut ordered = false;
        self.each(|volume, cx| ordered |= volume.cancel_received(cx, id));
        if !ordered {
            self.say(Control::Cancelled { epoch, id });
        }
    }

    /// Tries again whatever waits in the machines for durability, stability, room or the right to serve. True if anything
    /// moved.
    pub(super) fn wake_volumes(&mut self) -> bool {
        let mut moved = self.wake_unsettled();
        let mut last = None;
        while let Some(id) = self.machines.next_awake(last) {
            moved |= self.with(id, Volume::wake).unwrap_or(false);
            last = Some(id);
        }
        moved |= self.wake_queue(|room| &mut room.ready);
        moved |= self.wake_queue(|room| &mut room.window);
        moved
    }

    /// With another right something else may be needed than room.
    fn wake_unsettled(&mut self) -> bool {
        let right = self.right();
        let stamp = (right.service(self.now), right.term, right.link, right.link_lost);
        if self.machines.seen.replace(stamp) == Some(stamp) {
            return false;
        }
        let mut moved = false;
        for waiter in self.room.unsettled() {
            moved |= self.retry(waiter);
        }
        moved
    }

    /// Serves a queue until its first one has to wait.
    fn wake_queue(&mut self, queue: fn(&mut Queues) -> &mut Queue) -> bool {
        let mut moved = false;
        while let Some(first) = self.room.change(|room| queue(room).front()) {
            if self.is_waiting(first) {
                self.retry(first);
                if self.room.change(|room| queue(room).front()) == Some(first) && self.is_waiting(first) {
                    moved |= self.has(Bug::SmallWritesPassLarge) && self.wake_out_of_turn(queue);
                    break;
                }
            } else {
                self.room.change(|room| queue(room).leave());
            }
            moved = true;
        }
        moved
    }

    /// The planted bug: whoever fits goes on.
    fn wake_out_of_turn(&mut self, queue: fn(&mut Queues) -> &mut Queue) -> bool {
        let all = self.room.change(|room| queue(room).all());
        all.into_iter().filter(|&waiter| self.is_waiting(waiter) && self.retry(waiter)).count() > 0
    }

    fn is_waiting(&self, waiter: Waiter) -> bool {
        match waiter {
            Waiter::Volume(id, turn) => self.volumes.get(id).is_some_and(|volume| volume.is_waiting(turn)),
            Waiter::Copies => self.has_copies(),
        }
    }

    /// True if it went on, whatever that came to.
    fn retry(&mut self, waiter: Waiter) -> bool {
        match waiter {
            Waiter::Volume(id, turn) => self.with(id, |volume, cx| volume.retry(cx, turn)).unwrap_or(true),
            Waiter::Copies => self.apply_copies(),
        }
    }

    /// Those of a pair tell each other how far they are stable, and let areas cool.
    pub(super) fn tidy_volumes(&mut self) {
        if self.now >= self.machines.tidy_at && self.right().is_linked_pair() {
            self.machines.tidy_at = self.now + TIDY_EVERY;
            self.each(|volume, cx| volume.tidy_up(cx));
        }
    }

    /// Forwarded writes that took too long are cancelled.
    pub(super) fn check_time(&mut self) {
        let mut last = None;
        while let Some(id) = self.machines.next_awake(last) {
            if self.volumes.get(id).and_then(|volume| volume.deadline()).is_some_and(|at| self.now >= at) {
                self.with(id, |volume, cx| volume.check_time(cx));
            }
            last = Some(id);
        }
    }

    pub(super) fn volumes_deadline(&self) -> Option<Instant> {
        let awake = self.machines.awake.iter().filter_map(|id| self.volumes.get(*id)?.deadline());
        debug_assert!(
            self.volumes.values().all(|volume| volume.tidy_seen == volume.tidy_due(&self.config)),
            "it changes in steps only"
        );
        let tidy = self.machines.tidy_deadline(self.now, self.config.mirror.hot_idle);
        let tidy = tidy.filter(|_| self.right().is_linked_pair()).map(|at| at.max(self.machines.tidy_at));
        awake.chain(tidy).min()
    }

    pub(super) fn mirrored(&self) -> Vec<VolumeId> {
        self.volumes.values().filter(|volume| volume.mirrored).map(|volume| volume.id).collect()
    }

    /// Every guest of a mirrored volume is told to go elsewhere; nothing of theirs is executed later, but for
    /// writes that the partner may already show.
    pub(super) fn refuse_all(&mut self, error: GuestError) {
        self.each_mirrored(|volume, cx| volume.refuse_all(cx, error));
    }

    /// This life serves no more, linear volumes neither.
    pub(super) fn refuse_everything(&mut self, error: GuestError) {
        self.drop_partners_business();
        self.each(|volume, cx| volume.refuse_all(cx, error));
    }

    pub(super) fn drop_partners_business(&mut self) {
        self.each(|volume, cx| volume.drop_partners_business(cx));
    }

    /// A node that is behind, or may go on no more, has nothing of the pair in hand.
    pub(super) fn forget_mirrored(&mut self) {
        self.drop_partners_business();
        self.refuse_all(GuestError::Unavailable);
        self.each_mirrored(|volume, cx| volume.end_pair(cx));
    }

    /// The right to serve is back, or a new one was won: go on with what was held.
    pub(super) fn service_resumed(&mut self) {
        self.each(|volume, cx| volume.resume(cx));
    }
}
