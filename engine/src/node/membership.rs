//! Who may serve: leases, the loss of the partner, and the way to serving alone.
//!
//! Invariants: a node in a pair answers only while its lease runs, and the lease counts from the sending of the
//! probe. From asking on it answers no probe, acknowledges no write of the old epoch and never goes back to
//! that epoch. Before it serves alone, the partner's lease has run out, and `{epoch, alone}` with its own hot
//! set and the regions of every kept write is durable.

use super::Node;
use super::event::Notice;
use super::phase::{Alone, Deciding, Lost, Paired, Phase, Recording, Rejoin, Waiting};
use super::stop::PairStop;
use super::volume::regions;
use crate::arbiter::{Answer, Ask, Register};
use crate::guest::GuestError;
use crate::ids::{BootId, Epoch, Generation, Members, NodeName, VolumeId};
use crate::mirror::message::{Control, HalfSummary, PeerPhase};
use crate::mirror::rejoin::{Plan, lineage};
use crate::planted::Bug;
use crate::pool::{NodeRecord, Record};
use crate::time::Instant;

/// What is written down of a half.
pub(super) fn half_record(half: HalfSummary) -> Record {
    Record::Half { volume: half.volume, generation: half.generation, ancestors: half.ancestors }
}

impl Node {
    /// Is the link of this pair down?
    pub(super) fn is_link_lost(&self) -> bool {
        matches!(&self.phase, Phase::Paired(pair) if pair.link_lost.is_some())
    }

    /// Moves the phase on as far as time and durability allow. True if it moved.
    pub(super) fn phase_step(&mut self) -> bool {
        let before = self.term;
        self.check_question();
        match &self.phase {
            Phase::Starting(_) | Phase::Lost(_) => self.idle_step(),
            Phase::Paired(_) => self.paired_step(),
            Phase::Deciding(_) => self.deciding_step(),
            Phase::Waiting(waiting) if self.now >= waiting.until => self.record_alone(),
            Phase::Recording(recording) if self.is_durable(recording.lsn) => self.enter_alone(),
            Phase::Alone(_) => self.alone_step(),
            Phase::Target(_) => self.target_step(),
            Phase::Joined(_) => self.joined_step(),
            _ => {}
        }
        self.stop_step();
        self.term != before
    }

    pub(super) fn phase_deadline(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Starting(starting) => self.idle_deadline(starting.ask_at),
            Phase::Lost(lost) => self.idle_deadline(lost.ask_at),
            Phase::Paired(pair) => {
                let lost = pair.link_lost.map(|since| since + self.config.mirror.link_grace);
                let probe = self.link.map(|_| pair.probe_at);
                [Some(self.lease_end(pair)), lost, probe, pair.stop.deadline()].into_iter().flatten().min()
            }
            Phase::Deciding(deciding) => {
                let bound = deciding.since + self.config.mirror.verdict_bound;
                let bound = (!deciding.refusing).then_some(bound);
                let ask = self.question.is_none().then_some(deciding.ask_at);
                [bound, ask].into_iter().flatten().min()
            }
            Phase::Waiting(waiting) => Some(waiting.until),
            Phase::Alone(alone) => self.alone_deadline(alone),
            Phase::Joined(joined) => joined.link_lost.map(|since| since + self.config.mirror.link_grace),
            _ => None,
        };
        [own, self.question_deadline()].into_iter().flatten().min()
    }

    /// When the pair ends if nothing more is heard: a new pair gets a lease's time to begin.
    fn lease_end(&self, pair: &Paired) -> Instant {
        if self.has(Bug::LeaseNeverEnds) {
            return Instant::NEVER;
        }
        pair.lease_until.max(pair.since + self.config.mirror.lease)
    }

    fn paired_step(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let grace = self.config.mirror.link_grace;
        let link_gone = pair.link_lost.is_some_and(|since| self.now >= since + grace);
        if self.now >= self.lease_end(pair) || link_gone {
            self.leave_pair();
        } else if self.now >= pair.probe_at && self.link.is_some() {
            self.probe();
        }
    }

    fn probe(&mut self) {
        let (now, heartbeat) = (self.now, self.config.mirror.heartbeat);
        let Phase::Paired(pair) = &mut self.phase else { return };
        pair.probe_at = now + heartbeat;
        let epoch = pair.epoch;
        self.say(Control::Probe { epoch, sent: now });
    }

    pub(super) fn probed(&mut self, epoch: Epoch, sent: Instant) {
        let too_late = self.has(Bug::ProbeAnsweredWhileDeciding)
            && matches!(self.phase, Phase::Deciding(_) | Phase::Waiting(_));
        if matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) || too_late {
            self.answered_at = Some(self.now);
            let clock = self.now;
            self.say(Control::ProbeReply { epoch, sent, clock });
        }
    }

    pub(super) fn probe_answered(&mut self, epoch: Epoch, sent: Instant, clock: Instant) {
        let (now, lease) = (self.now, self.config.mirror.lease);
        let Phase::Paired(pair) = &mut self.phase else { return };
        if pair.epoch != epoch || sent > now {
            return;
        }
        let before = now < pair.lease_until;
        pair.lease_until = pair.lease_until.max(sent + lease);
        let runs = now < pair.lease_until;
        self.owner_clock = Some((clock, now));
        if runs && !before {
            self.service_resumed();
        }
    }

    pub(super) fn enter_pair(
        &mut self,
        epoch: Epoch,
        owner: NodeName,
        register: Option<Register>,
        boot: BootId,
    ) {
        self.each_mirrored(|volume, cx| volume.begin_pair(cx, owner));
        self.show_mirrored();
        self.store_mut().set_eager(false);
        self.owner_clock = None;
        self.pair_epoch = epoch;
        self.target_was_full = false;
        // Both have one table now.
        self.settle_deleted(self.deleted_volumes());
        let now = self.now;
        self.set_phase(Phase::Paired(Paired {
            epoch,
            register,
            partner_boot: boot,
            lease_until: Instant::ZERO,
            probe_at: now,
            link_lost: self.link.is_none().then_some(now),
            since: now,
            stop: PairStop::default(),
        }));
        self.notice(Notice::Paired(epoch));
    }

    /// The partner is gone, or may be: this node leaves the epoch and never comes back to it.
    pub(super) fn leave_pair(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let (epoch, register) = (pair.epoch, pair.register);
        if pair.stop.is_handing_over() {
            self.say(Control::HandedOver { epoch });
            self.stopped();
            return;
        }
        self.drop_partners_business();
        self.decide(epoch, register);
    }

    /// Asks who may go on after `epoch`, of which `register` is the committed state.
    pub(super) fn decide(&mut self, epoch: Epoch, register: Option<Register>) {
        self.show_what_may_count();
        let now = self.now;
        self.set_phase(Phase::Deciding(Deciding {
            epoch,
            register,
            since: now,
            ask_at: now,
            refusing: false,
            quiet: false,
        }));
        if !self.has_arbiter() {
            if self.goes_on_unasked() {
                let epoch = Epoch(self.next_epoch(None).0.max(epoch.0 + 1));
                self.wait_out(epoch, None);
            } else {
                self.lose();
            }
        }
    }

    fn deciding_step(&mut self) {
        let Phase::Deciding(deciding) = &mut self.phase else { return };
        if !deciding.refusing && self.now >= deciding.since + self.config.mirror.verdict_bound {
            deciding.refusing = true;
            self.refuse_all(GuestError::Unavailable);
        }
        let Phase::Deciding(deciding) = &self.phase else { return };
        if self.question.is_none() && self.now >= deciding.ask_at {
            let expect = deciding.register;
            self.ask(Ask::Swap { expect, new: self.mine(expect) });
        }
    }

    pub(super) fn deciding_verdict(&mut self, answer: Answer) {
        let Phase::Deciding(deciding) = &mut self.phase else { return };
        match answer.register {
            Some(register) if register.members == Members::only(self.config.name) => {
                self.wait_out(register.epoch, Some(register));
            }
            Some(register) if register.members == Members::BOTH && register.epoch == deciding.epoch => {
                deciding.register = Some(register);
                deciding.ask_at = self.now;
            }
            _ if self.has(Bug::BothWin) => {
                let epoch = self.next_epoch(answer.register);
                self.wait_out(epoch, None);
            }
            register => {
                self.lose();
                if let Phase::Lost(lost) = &mut self.phase {
                    lost.register = Some(register);
                }
            }
        }
    }

    /// Won: wait until no promise of this node to its partner can still be running.
    pub(super) fn wait_out(&mut self, epoch: Epoch, register: Option<Register>) {
        self.show_what_may_count();
        let span = self.config.mirror.lease + self.config.mirror.lease_margin;
        let promised = self.answered_at.map_or(Instant::ZERO, |at| at + span);
        // What an earlier life promised is not known: a full lease from the start covers it.
        let until = match self.has(Bug::LeaseNotWaitedOut) {
            false => promised.max(self.opened_at + span),
            true => self.now,
        };
        self.set_phase(Phase::Waiting(Waiting { epoch, until, register, bring_up: false }));
    }

    /// Goes on without waiting: the partner has said that it serves no more.
    pub(super) fn take_over_now(&mut self, epoch: Epoch, register: Option<Register>, bring_up: bool) {
        self.show_what_may_count();
        let until = self.now;
        self.set_phase(Phase::Waiting(Waiting { epoch, until, register, bring_up }));
    }

    /// Writes down that this node goes on alone, with everything in which the partner may differ.
    fn record_alone(&mut self) {
        let Phase::Waiting(waiting) = &self.phase else { return };
        let (epoch, register, bring_up) = (waiting.epoch, waiting.register, waiting.bring_up);
        let record = self.record();
        let members = Members::only(self.me());
        let mut records = Vec::new();
        if record.members != members || record.epoch != epoch {
            records.extend(self.marks_for_takeover());
            records.extend(self.new_generations(epoch));
            let proposed = record.proposed.max(epoch);
            records.push(Record::Node(NodeRecord {
                epoch,
                members,
                proposed,
                up_to_date: true,
                complete: false,
            }));
            for id in self.mirrored() {
                records.push(Record::HotClear { volume: id });
            }
        }
        let lsn = self.append(&records);
        self.set_phase(Phase::Recording(Recording { epoch, lsn, register, bring_up }));
    }

    /// The hot set, and the regions of writes that the partner may or may not have.
    fn marks_for_takeover(&self) -> Vec<Record> {
        let mut records = self.hot_as_regions();
        if self.has(Bug::MarkForgottenAtTakeover) {
            records.clear();
        }
        for (volume, machine) in self.volumes.iter() {
            for run in machine.sent_blocks().map(regions) {
                records.push(Record::LogAdd { volume, first: run.start, count: run.end - run.start });
            }
        }
        records
    }

    fn new_generations(&self, epoch: Epoch) -> Vec<Record> {
        self.halves()
            .into_iter()
            .map(|mut half| {
                let generation = self.new_generation(half.volume, epoch);
                lineage::alone(&mut half, generation);
                half_record(half)
            })
            .collect()
    }

    /// Never the same twice: this life of this node makes one generation of a volume in an epoch.
    pub(super) fn new_generation(&self, volume: VolumeId, epoch: Epoch) -> Generation {
        let high = self.config.boot.0.rotate_left(17) ^ u64::from(volume.0);
        Generation(u128::from(high) << 64 | u128::from(epoch.0 << 1 | self.me().index() as u64))
    }

    fn enter_alone(&mut self) {
        let Phase::Recording(recording) = &self.phase else { return };
        let (epoch, register, bring_up) = (recording.epoch, recording.register, recording.bring_up);
        let ask_at = self.now;
        self.set_phase(Phase::Alone(Box::new(Alone {
            epoch,
            register,
            bring_up,
            ask_at,
            rejoin: Rejoin::None,
            rejoin_since: ask_at,
        })));
        self.store_mut().set_eager(true);
        self.drop_partners_business();
        let me = self.me();
        self.each_mirrored(|volume, cx| {
            volume.end_pair(cx);
            volume.owner = me;
        });
        self.show_mirrored();
        self.each(|volume, cx| volume.go_on_alone(cx));
        self.notice(Notice::Alone(epoch));
        self.consider_peer();
    }

    /// The other side goes on, or nobody: everything held is answered, nothing of it is executed later.
    pub(super) fn lose(&mut self) {
        self.forget_mirrored();
        self.store_mut().set_eager(false);
        let ask_at = self.now + self.config.mirror.arbiter_retry;
        self.set_phase(Phase::Lost(Lost { register: None, ask_at, yielding: None, completing: None }));
        self.notice(Notice::Lost);
        self.consider_peer();
    }

    fn joined_step(&mut self) {
        let Phase::Joined(joined) = &self.phase else { return };
        let gone = joined.link_lost.is_some_and(|since| self.now >= since + self.config.mirror.link_grace);
        if !gone {
            return;
        }
        let proposed = joined.proposed;
        if self.has_arbiter() {
            let register = Register { epoch: proposed, members: Members::BOTH, by: self.me().partner() };
            self.decide(proposed, Some(register));
        } else {
            self.decide(proposed, None);
        }
    }

    pub(super) fn link_up(&mut self, link: u64) {
        if let Some(old) = self.link.filter(|&old| old != link) {
            self.link_down(old);
        }
        self.link = Some(link);
        self.peer = None;
        self.changes.received.clear();
        self.hello_due = true;
    }

    pub(super) fn link_down(&mut self, link: u64) {
        if self.link != Some(link) {
            return;
        }
        self.link = None;
        self.peer = None;
        let now = self.now;
        match &mut self.phase {
            Phase::Paired(pair) => {
                pair.link_lost.get_or_insert(now);
                self.each(|volume, cx| volume.link_lost(cx));
            }
            Phase::Joined(joined) => {
                joined.link_lost.get_or_insert(now);
            }
            Phase::Alone(_) => self.rejoin_interrupted(),
            Phase::Target(target) => {
                target.received.clear();
                target.waiting.clear();
                (target.told, target.ready_told) = (0, true);
            }
            _ => {}
        }
    }

    /// The link of a pair is up again.
    fn link_restored(&mut self) {
        let Phase::Paired(pair) = &mut self.phase else { return };
        pair.probe_at = self.now;
        if pair.link_lost.take().is_some() {
            self.resume_pair();
        }
    }

    /// The link is back within the lease: everything that was not answered goes out again.
    fn resume_pair(&mut self) {
        self.each(|volume, cx| volume.resume_pair(cx));
        self.resend_changes();
        if self.lease_runs() {
            self.service_resumed();
        }
    }

    /// The partner has introduced itself, or something here changed: does it fit?
    pub(super) fn consider_peer(&mut self) {
        let Some(peer) = self.peer.clone() else { return };
        match &mut self.phase {
            Phase::Paired(pair) => {
                let (epoch, me) = (pair.epoch, self.config.name);
                let (boot, register) = (pair.partner_boot, pair.register);
                if peer.boot == boot && self.rejoin_plan(&peer, register) == Plan::Nothing {
                    self.link_restored();
                } else if peer.boot == boot
                    && peer.phase == PeerPhase::Joined
                    && peer.epoch == epoch
                    && register.is_none_or(|register| register.by == me)
                {
                    self.link_restored();
                    self.say(Control::Go { epoch });
                } else {
                    self.leave_pair();
                }
            }
            Phase::Joined(joined) => {
                if matches!(peer.phase, PeerPhase::Paired | PeerPhase::Alone) {
                    joined.link_lost = None;
                } else {
                    let now = self.now;
                    joined.link_lost.get_or_insert(now);
                }
            }
            Phase::Alone(_) => self.consider_rejoin(&peer),
            Phase::Starting(_) | Phase::Lost(_) => self.consider_yield(&peer),
            _ => {}
        }
    }
}
