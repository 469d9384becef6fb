//! The clean stop: still a pair, both hold new writes until both have flushed. The leaver writes down that it
//! handed over, stops serving, and says so; the other goes on at once. No arbiter is needed for it: the leaver
//! never swaps from that record.

use super::Node;
use super::event::Notice;
use super::phase::{Phase, Rejoin};
use crate::guest::GuestError;
use crate::ids::{Epoch, Members};
use crate::mirror::message::Control;
use crate::planted::Bug;
use crate::pool::{Lsn, NodeRecord, Record};
use crate::time::Instant;

/// How far a pair is with the clean stop of one of them.
#[derive(Debug, Default)]
pub(super) struct PairStop {
    /// This node wants to stop; give up after this.
    leaving: Option<Instant>,
    /// The partner wants to stop.
    partner_leaves: bool,
    ready_told: bool,
    partner_ready: bool,
    /// The record "handed over" is on its way.
    handing_over: Option<Lsn>,
}

impl PairStop {
    /// Are new requests held?
    pub(super) fn holds(&self) -> bool {
        self.leaving.is_some() || self.partner_leaves
    }

    /// Has the partner been named as the one that goes on? Then this node never swaps.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handing_over.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        // What waits for the record is woken by the disk, or ends with the lease.
        self.leaving.filter(|_| self.handing_over.is_none())
    }
}

impl Node {
    pub(super) fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.store_mut().urge();
        self.store_mut().close_sums();
        let give_up = self.now + self.config.mirror.lease * 2;
        let Phase::Paired(pair) = &mut self.phase else { return };
        // Two that leave at once: the partner's wish came first, so it goes; this one follows alone.
        if !pair.stop.partner_leaves {
            pair.stop.leaving = Some(give_up);
            let epoch = pair.epoch;
            self.say(Control::StopAsk { epoch });
        }
    }

    pub(super) fn stop_asked(&mut self, epoch: Epoch) {
        let me = self.me();
        let Phase::Paired(pair) = &mut self.phase else { return };
        if pair.epoch != epoch || pair.stop.handing_over.is_some() {
            return;
        }
        // Two that leave at once: node a goes first, b follows alone.
        if pair.stop.leaving.is_some() {
            if me.index() == 0 {
                return;
            }
            pair.stop.leaving = None;
        }
        pair.stop.partner_leaves = true;
        self.store_mut().urge();
    }

    pub(super) fn stop_ready(&mut self, epoch: Epoch) {
        if let Phase::Paired(pair) = &mut self.phase
            && pair.epoch == epoch
        {
            pair.stop.partner_ready = true;
        }
    }

    /// Nothing of a mirrored volume is in flight, and everything is stable here.
    fn is_quiet(&self) -> bool {
        self.volumes.values().all(|volume| volume.is_quiet()) && self.is_all_stable()
    }

    /// Everything written is stable here, linear volumes too, of which nothing new is begun once a stop is asked
    /// for.
    pub(super) fn is_all_stable(&self) -> bool {
        let idle = self.volumes.values().all(|volume| volume.mirrored || volume.has_no_write());
        let sums = !self.stopping || self.store().are_sums_settled();
        let stable = |id| self.store().stable_through(id) >= self.store().version(id);
        idle && sums && self.volumes.ids().all(stable)
    }

    pub(super) fn stop_step(&mut self) {
        match &self.phase {
            Phase::Paired(pair) if pair.stop.holds() => self.pair_stop_step(),
            _ if !self.stopping => {}
            Phase::Alone(_) if self.is_swap_overdue() && self.may_stop_undecided() => self.stopped(),
            Phase::Alone(alone) => {
                let free = matches!(
                    alone.rejoin,
                    Rejoin::None | Rejoin::Copying { .. } | Rejoin::Gathering { .. } | Rejoin::Stalled(_)
                );
                if free && !self.volumes.values().any(|volume| volume.is_settling()) && self.is_quiet() {
                    self.stopped();
                }
            }
            Phase::Starting(_) | Phase::Target(_) | Phase::Joined(_) if self.is_all_stable() => {
                self.stopped();
            }
            Phase::Lost(_) => self.lost_stop_step(),
            Phase::Deciding(deciding) if deciding.refusing => self.undecided_stop_step(),
            Phase::Failed => self.stopped(),
            _ => {}
        }
    }

    /// No verdict is to be had: what is here becomes stable, kept writes too, for this may be the last copy.
    fn undecided_stop_step(&mut self) {
        if !self.has(Bug::StoppedUndecidedDirty) {
            self.settle_kept_writes();
        }
        if self.may_stop_undecided() {
            self.stopped();
        }
    }

    fn may_stop_undecided(&self) -> bool {
        self.is_all_stable() || self.has(Bug::StoppedUndecidedDirty)
    }

    /// Writes that a reader at the partner may have seen go to disk here. Their areas are hot.
    fn settle_kept_writes(&mut self) {
        if self.volumes.values().any(|volume| volume.has_sent()) {
            self.each(|volume, cx| volume.keep_sent_writes(cx));
            self.store_mut().urge();
        }
    }

    /// Without an arbiter nobody remembers that the partner died first, so this node writes it down: what it has on
    /// stable media is everything that the pair acknowledged or showed, kept writes too. The partner may have
    /// crashed with less, and would otherwise be chosen when both come back.
    fn lost_stop_step(&mut self) {
        self.settle_kept_writes();
        if !self.is_all_stable() {
            return;
        }
        let record = self.record();
        let of_the_pair = record.members == Members::BOTH
            && record.up_to_date
            && record.epoch == self.pair_epoch
            && !self.has_arbiter()
            && !self.has(Bug::StoppedUnmarked);
        let Phase::Lost(lost) = &self.phase else { return };
        match lost.completing {
            _ if !of_the_pair || lost.yielding.is_some() => self.stopped(),
            None => {
                let lsn = self.append(&[Record::Node(NodeRecord { complete: true, ..record })]);
                if let Phase::Lost(lost) = &mut self.phase {
                    lost.completing = Some(lsn);
                }
            }
            Some(lsn) if self.is_durable(lsn) => self.stopped(),
            Some(_) => {}
        }
    }

    fn pair_stop_step(&mut self) {
        let (quiet, lease) = (self.is_quiet(), self.lease_runs());
        let (now, dirty) = (self.now, self.has(Bug::HandedOverDirty));
        let Phase::Paired(pair) = &mut self.phase else { return };
        let epoch = pair.epoch;
        if pair.stop.partner_leaves {
            if (quiet || dirty) && !pair.stop.ready_told {
                pair.stop.ready_told = true;
                self.say(Control::StopReady { epoch });
            } else if !quiet {
                self.store_mut().urge();
            }
            return;
        }
        if let Some(lsn) = pair.stop.handing_over {
            if self.is_durable(lsn) {
                self.say(Control::HandedOver { epoch });
                self.stopped();
            }
        } else if quiet && pair.stop.partner_ready && lease {
            let members = Members::only(self.me().partner());
            let record = NodeRecord { members, complete: false, ..self.record() };
            let lsn = self.append(&[Record::Node(record)]);
            if let Phase::Paired(pair) = &mut self.phase {
                pair.stop.handing_over = Some(lsn);
            }
        } else if pair.stop.leaving.is_some_and(|until| now >= until) {
            // The partner does not answer: stop as after a crash, nothing acknowledged is lost.
            pair.stop.leaving = Some(now + self.config.mirror.heartbeat);
            if self.is_all_stable() {
                self.stopped();
            } else {
                self.store_mut().urge();
            }
        } else if !quiet {
            self.store_mut().urge();
        }
    }

    pub(super) fn stopped(&mut self) {
        self.refuse_everything(GuestError::Unavailable);
        self.set_phase(Phase::Stopped);
        self.notice(Notice::Stopped);
    }

    /// The partner stopped and has written down that this node goes on.
    pub(super) fn handed_over(&mut self, epoch: Epoch) {
        let Phase::Paired(pair) = &self.phase else { return };
        if pair.epoch != epoch {
            return;
        }
        let register = pair.register;
        let next = self.next_epoch(register);
        self.drop_partners_business();
        self.take_over_now(next, register, self.has_arbiter());
    }
}
