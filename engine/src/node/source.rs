//! The source of a resync: takes the returning partner back.
//!
//! Order: the partner's marks are fetched and durable here → the partner writes down that it is behind →
//! copying, guests' new writes going to both → nothing left: new writes wait until the last are stable on both
//! → the partner writes `{e+1, both}` → so does this node → the register is swapped → a pair. Invariants: what
//! differs is in the log at every step; no new rejoin begins while the swap is open; what is proposed once and
//! not committed is never proposed again.

use std::collections::BTreeMap;

use super::Node;
use super::event::{Action, Notice};
use super::membership::half_record;
use super::phase::{Alone, Phase, Rejoin};
use super::volume::{REGION_BLOCKS, RegionRun, mapped_regions, regions};
use crate::arbiter::{Answer, Ask, Register};
use crate::guest::GuestError;
use crate::ids::{Epoch, Generation, Members, VolumeId};
use crate::mirror::message::{Control, HalfSummary, Hello, PeerPhase};
use crate::mirror::rejoin::{Amount, Authority, Plan, Role, begins_as, decide_all, lineage};
use crate::planted::Bug;
use crate::pool::{NodeRecord, Record};
use crate::time::Instant;

/// The mirror is whole: the half's log reaches back to nothing.
pub(super) fn whole_record(mut half: HalfSummary) -> Record {
    let generation = half.generation;
    lineage::whole(&mut half, generation);
    half_record(half)
}

impl Node {
    fn alone(&mut self) -> Option<&mut Alone> {
        match &mut self.phase {
            Phase::Alone(alone) => Some(alone),
            _ => None,
        }
    }

    fn set_rejoin(&mut self, rejoin: Rejoin) {
        let now = self.now;
        if let Some(alone) = self.alone() {
            (alone.rejoin, alone.rejoin_since) = (rejoin, now);
        }
        self.term += 1;
    }

    pub(super) fn halves(&self) -> Vec<HalfSummary> {
        let metadata = self.store().pool().metadata();
        self.mirrored()
            .into_iter()
            .map(|volume| {
                let meta = metadata.volume(volume).expect("a running volume has metadata");
                let (generation, ancestors) = (meta.generation, meta.ancestors.clone());
                let (sectors, change) = (meta.sectors, meta.change);
                let of = meta.kin.map(|kin| kin.of);
                HalfSummary { volume, sectors, generation, ancestors, log_intact: true, change, of }
            })
            .collect()
    }

    /// The partner is there and wants to come back: begin, if nothing stands against it.
    pub(super) fn consider_rejoin(&mut self, peer: &Hello) {
        let comes = matches!(
            peer.phase,
            PeerPhase::Starting | PeerPhase::Lost | PeerPhase::Target | PeerPhase::Joined
        );
        let stopping = self.stopping;
        let Some(alone) = self.alone() else { return };
        if !comes || !peer.ready || stopping || !matches!(alone.rejoin, Rejoin::None) || alone.bring_up {
            return;
        }
        let (epoch, register) = (alone.epoch, alone.register);
        match self.rejoin_plan(peer, register) {
            Plan::Resync { role: Role::Source, volumes } => {
                let full: Vec<VolumeId> = volumes
                    .into_iter()
                    .filter(|(_, amount)| *amount == Amount::Full)
                    .map(|(id, _)| id)
                    .collect();
                let made = self.made_by_partner(peer);
                self.set_rejoin(Rejoin::Gathering { regions: BTreeMap::new(), full: full.clone(), made });
                self.say(Control::SetsAsk { epoch, full });
            }
            Plan::Refused { volume, reason } => {
                self.notice(Notice::NeedsDecision(format!("volume {volume}: {reason}")));
            }
            _ => {}
        }
    }

    /// Clones that the partner has never heard of and makes of its own halves, each with the one of these that it goes back to.
    fn made_by_partner(&self, peer: &Hello) -> BTreeMap<VolumeId, VolumeId> {
        let mine = self.hello(true);
        let made = mine.halves.iter().filter_map(|half| Some((half.volume, begins_as(half, &mine, peer)?)));
        made.collect()
    }

    /// What to do about the partner: one pure function decides, wherever the question comes up.
    pub(super) fn rejoin_plan(&self, peer: &Hello, register: Option<Register>) -> Plan {
        let authority = match register {
            _ if !self.has_arbiter() => Authority::NoArbiter { preferred: self.config.preferred },
            Some(register) => Authority::Register(register),
            None => Authority::Unknown,
        };
        decide_all(&self.hello(true), peer, authority)
    }

    /// The partner's hot set and log, or part of it.
    pub(super) fn sets_received(
        &mut self,
        epoch: Epoch,
        volume: VolumeId,
        hot: Vec<u32>,
        runs: Vec<RegionRun>,
        mapped: Vec<RegionRun>,
    ) {
        let per_area = self.config.mirror.area_blocks / REGION_BLOCKS;
        let ignore_hot = self.has(Bug::TargetHotIgnored);
        let Some(alone) = self.alone().filter(|alone| alone.epoch == epoch) else { return };
        let Rejoin::Gathering { regions, .. } = &mut alone.rejoin else { return };
        let list = regions.entry(volume).or_default();
        list.extend(runs);
        list.extend(mapped);
        if !ignore_hot {
            list.extend(hot.into_iter().map(|area| (u64::from(area) * per_area, per_area)));
        }
    }

    /// All marks are here: write them down with this node's own.
    pub(super) fn sets_complete(&mut self, epoch: Epoch) {
        let forgets = self.has(Bug::CloneMarksForgotten);
        let Some(alone) = self.alone().filter(|alone| alone.epoch == epoch) else { return };
        let Rejoin::Gathering { regions, full, made } = &mut alone.rejoin else { return };
        let (regions, full, made) = (core::mem::take(regions), core::mem::take(full), core::mem::take(made));
        let mut records = Vec::new();
        let mut log = |volume: VolumeId, runs: &[RegionRun]| {
            records.extend(runs.iter().map(|&(first, count)| Record::LogAdd { volume, first, count }));
        };
        regions.iter().for_each(|(volume, runs)| log(*volume, runs));
        // A clone that the partner makes of its half may lack what that lacks.
        for (clone, model) in made.iter().filter(|_| !forgets) {
            log(*clone, regions.get(model).map_or(&[], Vec::as_slice));
        }
        let bases = self.begin_full(&full, epoch, &mut records);
        let clip: Vec<Record> = records.into_iter().filter_map(|record| self.clipped(record)).collect();
        let lsn = self.append(&clip);
        if self.has(Bug::LogClearedAtRejoin) {
            for volume in self.mirrored() {
                self.append(&[Record::LogClear { volume }]);
            }
        }
        self.set_rejoin(Rejoin::Merging { lsn, bases, made: made.into_keys().collect() });
    }

    /// Halves that hold nothing of this volume become a delta from its present generation: everything mapped is
    /// logged, and a new generation begins.
    fn begin_full(
        &self,
        full: &[VolumeId],
        epoch: Epoch,
        records: &mut Vec<Record>,
    ) -> Vec<(VolumeId, Generation)> {
        let mut bases = Vec::new();
        for &volume in full {
            let Some(mut half) = self.halves().into_iter().find(|half| half.volume == volume) else {
                continue;
            };
            let mapped = match self.has(Bug::NewHalfGetsAll) {
                true => vec![(0, u64::MAX)],
                false => mapped_regions(self.store().pool(), volume),
            };
            records.extend(mapped.into_iter().map(|(first, count)| Record::LogAdd { volume, first, count }));
            bases.push((volume, half.generation));
            let fresh = u128::from(self.term) << 40 | 1 << 39;
            lineage::alone(&mut half, Generation(self.new_generation(volume, epoch).0 ^ fresh));
            records.push(half_record(half));
        }
        bases
    }

    /// Marks beyond the end of the volume (an area is larger than what is left) are of no use.
    fn clipped(&self, record: Record) -> Option<Record> {
        let Record::LogAdd { volume, first, count } = record else { return Some(record) };
        let sectors = self.volumes.get(volume)?.sectors;
        let end = regions(0..sectors.div_ceil(8)).end.min(first.checked_add(count)?);
        (first < end).then(|| Record::LogAdd { volume, first, count: end - first })
    }

    pub(super) fn target_ready(&mut self, epoch: Epoch) {
        let Some(alone) = self.alone().filter(|alone| alone.epoch == epoch) else { return };
        if !matches!(alone.rejoin, Rejoin::Telling) {
            return;
        }
        self.set_rejoin(Rejoin::Copying { drain_at: Instant::ZERO });
        self.begin_resync();
    }

    pub(super) fn partner_joined(&mut self, proposed: Epoch) {
        let Some(alone) = self.alone() else { return };
        if !matches!(alone.rejoin, Rejoin::Proposing { proposed: mine } if mine == proposed) {
            return;
        }
        let members = Members::BOTH;
        let record = NodeRecord { epoch: proposed, members, proposed, up_to_date: true, complete: false };
        let mut records: Vec<Record> = self.halves().into_iter().map(whole_record).collect();
        records.push(Record::Node(record));
        let lsn = self.append(&records);
        self.set_rejoin(Rejoin::Confirming { proposed, lsn });
    }

    /// Moves the rejoin on, and brings the register up after a handover.
    pub(super) fn alone_step(&mut self) {
        let Phase::Alone(alone) = &self.phase else { return };
        let (epoch, register) = (alone.epoch, alone.register);
        if alone.bring_up && self.question.is_none() && self.now >= alone.ask_at {
            let new = Register { epoch, members: Members::only(self.me()), by: self.me() };
            self.ask(Ask::Swap { expect: register, new });
        }
        self.rejoin_step();
    }

    /// One step of the rejoin, if its time has come or what it waits for is durable.
    fn rejoin_step(&mut self) {
        let Phase::Alone(alone) = &self.phase else { return };
        let (epoch, register) = (alone.epoch, alone.register);
        match &alone.rejoin {
            Rejoin::Merging { lsn, bases, made } if self.is_durable(*lsn) => {
                let bases = bases.clone();
                let table = self.volume_table(made);
                self.tell_items(epoch);
                self.say(Control::BeTarget { epoch, bases, table });
                self.set_rejoin(Rejoin::Telling);
            }
            Rejoin::Copying { drain_at } if self.now >= *drain_at && self.is_copied() => self.drain(),
            Rejoin::Draining { until } if self.now >= *until => self.stop_draining(),
            // The partner was not ready after all: begin anew.
            Rejoin::Gathering { .. } | Rejoin::Telling
                if self.now >= alone.rejoin_since + self.config.mirror.lease =>
            {
                self.start_link_over();
            }
            // The partner's disk or the partner itself hangs: guests go on without it.
            Rejoin::Preparing { .. } | Rejoin::Proposing { .. }
                if self.now >= alone.rejoin_since + self.config.mirror.lease =>
            {
                self.start_link_over();
            }
            Rejoin::Swapping { .. }
                if self.is_swap_overdue() && self.volumes.values().any(|volume| volume.has_parked()) =>
            {
                self.refuse_all(GuestError::Unavailable);
            }
            Rejoin::Stalled(until) if self.now >= *until => {
                self.set_rejoin(Rejoin::None);
                self.consider_peer();
            }
            Rejoin::Draining { .. } if self.has(Bug::WholeTooEarly) || self.is_resync_settled() => {
                self.prepare_join()
            }
            Rejoin::Preparing { proposed, lsn } if self.is_durable(*lsn) => {
                self.propose(epoch, *proposed, register);
            }
            Rejoin::Confirming { proposed, lsn } if self.is_durable(*lsn) => {
                let proposed = *proposed;
                if self.has_arbiter() {
                    self.set_rejoin(Rejoin::Swapping { proposed });
                } else {
                    self.become_pair(proposed, None);
                }
            }
            Rejoin::Swapping { proposed } if self.question.is_none() && self.now >= alone.ask_at => {
                let new = Register { epoch: *proposed, members: Members::BOTH, by: self.me() };
                self.ask(Ask::Swap { expect: register, new });
            }
            Rejoin::Undoing { lsn } if self.is_durable(*lsn) => {
                self.set_rejoin(Rejoin::None);
                self.service_resumed();
                self.consider_peer();
            }
            _ => {}
        }
    }

    /// Nothing is marked and that is durable: the partner writes down that both are members.
    fn propose(&mut self, epoch: Epoch, proposed: Epoch, register: Option<Register>) {
        let halves = self.halves();
        self.say(Control::Join { epoch, proposed, halves });
        self.set_rejoin(Rejoin::Proposing { proposed });
        if self.has(Bug::RegisterBeforeTarget) {
            let new = Register { epoch: proposed, members: Members::BOTH, by: self.me() };
            self.ask(Ask::Swap { expect: register, new });
        }
    }

    pub(super) fn alone_deadline(&self, alone: &Alone) -> Option<Instant> {
        let asks = alone.bring_up || matches!(alone.rejoin, Rejoin::Swapping { .. });
        let retry = match &alone.rejoin {
            Rejoin::Gathering { .. }
            | Rejoin::Telling
            | Rejoin::Preparing { .. }
            | Rejoin::Proposing { .. } => Some(alone.rejoin_since + self.config.mirror.lease),
            Rejoin::Copying { drain_at } if self.is_copied() => Some(*drain_at),
            Rejoin::Copying { .. } => self.resync_retry_at(),
            Rejoin::Draining { until } | Rejoin::Stalled(until) => Some(*until),
            _ => None,
        };
        [(asks && self.question.is_none()).then_some(alone.ask_at), retry].into_iter().flatten().min()
    }

    /// What the partner still says on this link may belong to an attempt that was given up: a new link drops it.
    pub(super) fn start_link_over(&mut self) {
        let now = self.now;
        if let Some(alone) = self.alone() {
            alone.rejoin_since = now;
        }
        if let Some(link) = self.link {
            self.actions.push_back(Action::Disconnect { link });
            self.link_down(link);
        }
    }

    /// The register has not answered for so long that guests are told.
    pub(super) fn is_swap_overdue(&self) -> bool {
        matches!(&self.phase, Phase::Alone(alone) if matches!(alone.rejoin, Rejoin::Swapping { .. })
            && self.now >= alone.rejoin_since + self.config.mirror.verdict_bound)
    }

    /// Guests' new writes wait from here on.
    fn drain(&mut self) {
        let until = self.now + self.config.mirror.lease;
        let Some(alone) = self.alone() else { return };
        alone.rejoin = Rejoin::Draining { until };
        self.term += 1;
        self.store_mut().urge();
    }

    /// A disk is too slow, here or there: guests are let through, and it is tried again.
    fn stop_draining(&mut self) {
        let drain_at = self.now + self.config.mirror.lease;
        let Some(alone) = self.alone() else { return };
        alone.rejoin = Rejoin::Copying { drain_at };
        self.term += 1;
        self.service_resumed();
    }

    /// The partner's pool is full: it stays behind, guests go on.
    pub(super) fn partner_full(&mut self, epoch: Epoch) {
        let again = self.now + self.config.mirror.lease * 4;
        let Some(alone) = self.alone().filter(|alone| alone.epoch == epoch) else { return };
        if matches!(alone.rejoin, Rejoin::Copying { .. } | Rejoin::Draining { .. }) {
            self.target_was_full = true;
            self.set_rejoin(Rejoin::Stalled(again));
            self.notice(Notice::PartnerFull);
            self.service_resumed();
        }
    }

    /// Is anything that a guest may have to be told still on its way? Then the pair cannot begin.
    fn is_drained(&self) -> bool {
        self.volumes.values().filter(|volume| volume.mirrored).all(|volume| {
            let metadata = self.store().pool().metadata();
            let clean = metadata.volume(volume.id).is_some_and(|meta| meta.log.is_empty());
            (clean || self.has(Bug::WholeTooEarly)) && !volume.has_sent() && !volume.is_settling()
        })
    }

    fn prepare_join(&mut self) {
        if !self.is_drained() {
            return;
        }
        let Phase::Alone(alone) = &self.phase else { return };
        let (epoch, register) = (alone.epoch, alone.register);
        let proposed = self.next_epoch(register);
        // Without an arbiter this node gives up its right before the partner gets one.
        let keeps = self.has_arbiter() || self.has(Bug::RightKeptAtJoin);
        let members = if keeps { Members::only(self.me()) } else { Members::BOTH };
        let epoch = if keeps { epoch } else { proposed };
        let lsn = self.append(&[Record::Node(NodeRecord {
            epoch,
            members,
            proposed,
            up_to_date: true,
            complete: false,
        })]);
        self.set_rejoin(Rejoin::Preparing { proposed, lsn });
    }

    pub(super) fn alone_verdict(&mut self, answer: Answer) {
        let retry = self.now + self.config.mirror.arbiter_retry;
        let me = Members::only(self.me());
        let early = self.has(Bug::RegisterBeforeTarget);
        let Some(alone) = self.alone() else { return };
        alone.ask_at = retry;
        let proposed = match &alone.rejoin {
            Rejoin::Swapping { proposed } => Some(*proposed),
            _ => None,
        };
        let (epoch, expected) = (alone.epoch, alone.register);
        match (answer.register, proposed) {
            (Some(register), None) if early && register.members == Members::BOTH => {}
            (Some(register), Some(proposed))
                if register.members == Members::BOTH && register.epoch == proposed =>
            {
                self.become_pair(proposed, Some(register));
            }
            (Some(register), None) if register.members == me && register.epoch == epoch => {
                alone.register = Some(register);
                alone.bring_up = false;
                self.consider_peer();
            }
            // Unchanged: the swap was not done; ask again.
            (register, _) if register == expected => {}
            // Somebody forced the register: this node may not go on.
            _ => self.lose(),
        }
    }

    fn become_pair(&mut self, epoch: Epoch, register: Option<Register>) {
        let me = self.me();
        let boot = self.peer_boot;
        self.enter_pair(epoch, me, register, boot);
        self.say(Control::Go { epoch });
    }

    /// The link to the partner is gone, or the partner began anew: what was confirmed stays, the rest is in the
    /// log.
    pub(super) fn rejoin_interrupted(&mut self) {
        let Phase::Alone(alone) = &self.phase else { return };
        let (epoch, proposed) = (alone.epoch, self.record().proposed);
        match &alone.rejoin {
            Rejoin::None | Rejoin::Swapping { .. } | Rejoin::Undoing { .. } => {}
            Rejoin::Preparing { .. } | Rejoin::Proposing { .. } | Rejoin::Confirming { .. } => {
                if self.has_arbiter() {
                    let members = Members::only(self.me());
                    let record = NodeRecord { epoch, members, proposed, up_to_date: true, complete: false };
                    let lsn = self.append(&[Record::Node(record)]);
                    self.set_rejoin(Rejoin::Undoing { lsn });
                } else {
                    // The right to serve alone was given up with the record: decided as for a pair.
                    let epoch = self.record().epoch;
                    self.decide(epoch, None);
                }
            }
            _ => {
                self.set_rejoin(Rejoin::None);
                self.service_resumed();
            }
        }
    }
}
