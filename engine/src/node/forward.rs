//! A guest's write at the node that does not own the volume: the owner gives it its place.
//!
//! The payload crosses the link once and is kept here; what comes back is its order, which is its write.
//! Invariant: a forwarded write is ordered at most once, and never after its deadline on the owner's clock, nor
//! after the link, the term or the epoch in which it was sent.

use super::Node;
use super::op::{Forwarded, Origin, Write};
use super::phase::Phase;
use crate::block::Payload;
use crate::guest::{Command, GuestError, Sectors};
use crate::ids::{Epoch, RequestId, VolumeId};
use crate::mirror::message::{Body, Control, Deadline, Message};
use crate::planted::Bug;
use crate::time::Instant;

impl Node {
    pub(super) fn forward(
        &mut self,
        request: RequestId,
        volume: VolumeId,
        at: Sectors,
        zero: bool,
        data: Payload,
        fua: bool,
    ) {
        let id = self.next_id();
        let deadline = self.now + self.config.mirror.forward_deadline;
        self.forwarded.insert(
            id,
            Forwarded {
                request,
                volume,
                at,
                zero,
                fua,
                data,
                deadline,
                sent: false,
                ever_sent: false,
                ordered: false,
                cancelled: false,
            },
        );
        self.transmit_forwarded(id);
    }

    fn transmit_forwarded(&mut self, id: u64) {
        let Phase::Paired(pair) = &self.phase else { return };
        let (epoch, linked) = (pair.epoch, self.link.is_some() && pair.link_lost.is_none());
        let Some((clock, heard)) = self.owner_clock.filter(|_| linked) else { return };
        let now = self.now;
        let Some(forwarded) = self.forwarded.get_mut(&id) else { return };
        (forwarded.sent, forwarded.ever_sent) = (true, true);
        let deadline = Deadline {
            owner_clock: clock,
            spent_nanos: now.since(heard).as_nanos() as u64,
            left_nanos: forwarded.deadline.since(now).as_nanos() as u64,
        };
        let (volume, at, zero, data) =
            (forwarded.volume, forwarded.at, forwarded.zero, forwarded.data.clone());
        self.send(Message { body: Body::Forward { epoch, volume, id, at, zero, deadline }, data });
    }

    /// The link is back: what the owner has not ordered, as far as known here, goes out again.
    pub(super) fn resend_forwarded(&mut self) {
        let again: Vec<u64> =
            self.forwarded.iter().filter(|(_, forwarded)| !forwarded.ordered).map(|(&id, _)| id).collect();
        for id in again {
            let cancelled = self.forwarded[&id].cancelled;
            self.transmit_forwarded(id);
            if cancelled {
                self.cancel_forwarded(id);
            }
        }
    }

    /// The link of a pair is down: unordered forwarded writes of the partner die with it.
    pub(super) fn link_lost_in_pair(&mut self) {
        self.drop_unordered();
        for forwarded in self.forwarded.values_mut() {
            forwarded.sent = false;
        }
        for flush in self.flushes.values_mut() {
            flush.asked = false;
        }
        self.flushes.retain(|_, flush| !matches!(flush.for_whom, super::op::Flusher::Partner(_)));
        self.restart_remote_reads();
    }

    /// Owner: what the partner forwarded and was not given its place is forgotten.
    pub(super) fn drop_unordered(&mut self) {
        if self.has(Bug::ForwardKeptAfterLoss) {
            return;
        }
        let unsent: Vec<u64> = self
            .writes
            .iter()
            .filter(|(_, write)| matches!(write.origin, Origin::Partner(_)) && write.sent.is_none())
            .map(|(&id, _)| id)
            .collect();
        for id in unsent {
            self.drop_write(id);
        }
    }

    /// Owner: a write of the partner's guest wants its place.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn forward_received(
        &mut self,
        epoch: Epoch,
        volume: VolumeId,
        id: u64,
        at: Sectors,
        zero: bool,
        data: Payload,
        deadline: Instant,
    ) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        let origin = Origin::Partner(id);
        let known = self.writes.values().any(|write| write.origin == origin);
        if known && !self.has(Bug::ForwardAppliedTwice) {
            return; // a resend of what is being done
        }
        if self.volumes.get(&volume).is_none_or(|state| state.leaving) {
            self.say(Control::ForwardRefused { epoch, id, error: GuestError::Gone });
            return;
        }
        let state =
            self.volumes.get(&volume).filter(|state| state.mirrored && state.owner == self.config.name);
        let fits = |sectors: u64| {
            at.count > 0
                && at.start.checked_add(at.count).is_some_and(|end| end <= sectors)
                && (zero || data.len() as u64 == at.blocks().end - at.blocks().start)
        };
        if !state.is_some_and(|state| fits(state.sectors)) {
            self.say(Control::ForwardRefused { epoch, id, error: GuestError::Invalid });
            return;
        }
        let deadline = if self.has(Bug::ForwardDeadlineIgnored) { Instant::NEVER } else { deadline };
        self.begin_write(Write {
            volume,
            origin,
            at,
            zero,
            fua: false,
            data,
            locked: false,
            merged: false,
            merging: false,
            reserved: false,
            heated: false,
            marked: false,
            sent: None,
            answered: true,
            deadline,
            waits: None,
        });
    }

    pub(super) fn forward_refused(&mut self, epoch: Epoch, id: u64, error: GuestError) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        if let Some(forwarded) = self.forwarded.remove(&id) {
            let error = if forwarded.cancelled { self.given_up(forwarded.request) } else { error };
            self.refuse(forwarded.request, error);
        }
    }

    /// Why a forwarded write ended without its place: its guest gave it up, or it took too long.
    fn given_up(&self, request: RequestId) -> GuestError {
        if self.aborting.contains(&request) { GuestError::Aborted } else { GuestError::Transitioning }
    }

    /// Asks the owner to forget a forwarded write; answered when the owner has settled it.
    pub(super) fn cancel_forwarded(&mut self, id: u64) {
        let Some(forwarded) = self.forwarded.get_mut(&id) else { return };
        if !forwarded.ever_sent {
            let request = forwarded.request;
            self.forwarded.remove(&id);
            self.refuse(request, self.given_up(request));
            return;
        }
        forwarded.cancelled = true;
        let sent = forwarded.sent;
        if self.has(Bug::AbortNotSettled) {
            let forwarded = self.forwarded.remove(&id).expect("found above");
            self.refuse(forwarded.request, self.given_up(forwarded.request));
            return;
        }
        if !sent {
            return; // settled when the link is back, or with the pair
        }
        if let Phase::Paired(pair) = &self.phase {
            let epoch = pair.epoch;
            self.say(Control::Cancel { epoch, id });
        }
    }

    /// Owner: forget it if it is not ordered.
    pub(super) fn cancel_received(&mut self, epoch: Epoch, id: u64) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        let found =
            self.writes.iter().find(|(_, write)| write.origin == Origin::Partner(id)).map(|(&id, _)| id);
        if let Some(write) = found {
            if self.writes[&write].sent.is_some() {
                return; // its order is on the way, and settles it
            }
            self.drop_write(write);
        }
        self.say(Control::Cancelled { epoch, id });
    }

    pub(super) fn forward_cancelled(&mut self, epoch: Epoch, id: u64) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        if self.forwarded.get(&id).is_some_and(|forwarded| forwarded.cancelled && !forwarded.ordered) {
            let forwarded = self.forwarded.remove(&id).expect("found above");
            self.refuse(forwarded.request, self.given_up(forwarded.request));
        }
    }

    /// Alone now: forwarded writes that were never ordered begin anew, here.
    pub(super) fn reclaim_forwarded(&mut self) {
        for (_, forwarded) in core::mem::take(&mut self.forwarded) {
            let (at, fua) = (forwarded.at, forwarded.fua);
            if forwarded.cancelled {
                self.refuse(forwarded.request, self.given_up(forwarded.request));
                continue;
            }
            let command = match forwarded.zero {
                true => Command::Zero { at, fua },
                false => Command::Write { at, data: forwarded.data, fua },
            };
            self.parked.push_back((forwarded.request, forwarded.volume, command));
        }
    }

    /// Forwarded writes that took too long are cancelled; the guest is told to try again.
    pub(super) fn check_time(&mut self) {
        if self.forwarded.is_empty() {
            return;
        }
        let now = self.now;
        let late: Vec<u64> = self
            .forwarded
            .iter()
            .filter(|(_, forwarded)| {
                forwarded.sent && !forwarded.cancelled && !forwarded.ordered && now >= forwarded.deadline
            })
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.cancel_forwarded(id);
        }
    }

    pub(super) fn forward_deadline(&self) -> Option<Instant> {
        self.forwarded
            .values()
            .filter(|forwarded| forwarded.sent && !forwarded.cancelled && !forwarded.ordered)
            .map(|forwarded| forwarded.deadline)
            .min()
    }
}
