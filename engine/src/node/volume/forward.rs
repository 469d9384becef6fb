//! A guest's write at the node that does not own the volume: the owner gives it its place.
//!
//! The payload crosses the link once and is kept here; what comes back is its order, which is its write.
//! Invariant: a forwarded write is ordered at most once, and never after its deadline on the owner's clock, nor
//! after the link, the term or the epoch in which it was sent.

use super::Volume;
use super::context::Context;
use super::op::{Flusher, Forwarded, Origin, Wanted, Write};
use crate::block::Payload;
use crate::guest::{GuestError, Sectors};
use crate::ids::{Epoch, RequestId};
use crate::mirror::message::{Body, Control, Deadline, Manner, Message};
use crate::planted::Bug;
use crate::time::Instant;

/// A write that the partner forwarded.
#[derive(Debug)]
pub(in crate::node) struct Wish {
    /// The partner's number of it.
    pub(in crate::node) id: u64,
    pub(in crate::node) wanted: Wanted,
    /// Not ordered after this.
    pub(in crate::node) deadline: Instant,
}

impl Wish {
    /// A write as it comes in a message.
    pub(in crate::node) fn new(
        id: u64,
        at: Sectors,
        manner: Manner,
        zero: bool,
        mut data: Payload,
        deadline: Deadline,
    ) -> Wish {
        let written = if zero { 0 } else { (at.blocks().end - at.blocks().start) as usize };
        let compare = match manner {
            Manner::IfEqual => data.drain(written.min(data.len())..).collect(),
            Manner::Replace | Manner::Or => Payload::new(),
        };
        let wanted = Wanted { at, manner, zero, data, compare, fua: false };
        Wish { id, wanted, deadline: deadline.at_owner() }
    }
}

impl Volume {
    pub(super) fn forward(&mut self, cx: &mut Context<'_>, request: RequestId, wanted: Wanted) {
        let id = self.next_id();
        let deadline = cx.now + cx.config.mirror.forward_deadline;
        self.forwarded.insert(
            id,
            Forwarded {
                request,
                wanted,
                deadline,
                sent: false,
                ever_sent: false,
                ordered: false,
                cancelled: false,
            },
        );
        self.transmit_forwarded(cx, id);
    }

    fn transmit_forwarded(&mut self, cx: &mut Context<'_>, id: u64) {
        let (epoch, volume) = (self.right.epoch, self.id);
        let linked = self.right.is_linked_pair();
        let Some((clock, heard)) = self.right.owner_clock.filter(|_| linked) else { return };
        let Some(forwarded) = self.forwarded.get_mut(&id) else { return };
        (forwarded.sent, forwarded.ever_sent) = (true, true);
        let deadline = Deadline {
            owner_clock: clock,
            spent_nanos: cx.now.since(heard).as_nanos() as u64,
            left_nanos: forwarded.deadline.since(cx.now).as_nanos() as u64,
        };
        let Wanted { at, manner, zero, data, compare, .. } = &forwarded.wanted;
        let (at, manner, zero) = (*at, *manner, *zero);
        let data = data.iter().chain(compare).cloned().collect();
        let request = forwarded.request;
        self.may_have_effect(request, manner);
        self.send(
            cx,
            Message { body: Body::Forward { epoch, volume, id, at, manner, zero, deadline }, data },
        );
    }

    /// The link is back: what the owner has not ordered, as far as known here, goes out again.
    pub(super) fn resend_forwarded(&mut self, cx: &mut Context<'_>) {
        let again: Vec<u64> =
            self.forwarded.iter().filter(|(_, forwarded)| !forwarded.ordered).map(|(&id, _)| id).collect();
        for id in again {
            let cancelled = self.forwarded[&id].cancelled;
            self.transmit_forwarded(cx, id);
            if cancelled {
                self.cancel_forwarded(cx, id);
            }
        }
    }

    /// The link of a pair is down: unordered forwarded writes of the partner die with it.
    pub(in crate::node) fn link_lost(&mut self, cx: &mut Context<'_>) {
        self.drop_unordered(cx);
        for forwarded in self.forwarded.values_mut() {
            forwarded.sent = false;
        }
        for flush in self.flushes.values_mut() {
            flush.asked = false;
        }
        self.flushes.retain(|_, flush| !matches!(flush.for_whom, Flusher::Partner(_)));
        self.restart_remote_reads(cx);
    }

    /// Owner: what the partner forwarded and was not given its place is forgotten.
    pub(super) fn drop_unordered(&mut self, cx: &mut Context<'_>) {
        if cx.has(Bug::ForwardKeptAfterLoss) {
            return;
        }
        let unsent: Vec<u64> = self
            .writes
            .iter()
            .filter(|(_, write)| matches!(write.origin, Origin::Partner(_)) && write.sent.is_none())
            .map(|(&id, _)| id)
            .collect();
        for id in unsent {
            self.drop_write(cx, id);
        }
    }

    /// Owner: a write of the partner's guest wants its place.
    pub(in crate::node) fn forward_received(&mut self, cx: &mut Context<'_>, epoch: Epoch, wish: Wish) {
        if !self.right.is_pair_of(epoch) {
            return;
        }
        let Wish { id, wanted, deadline } = wish;
        let at = wanted.at;
        let origin = Origin::Partner(id);
        let known = self.writes.values().any(|write| write.origin == origin);
        if known && !cx.has(Bug::ForwardAppliedTwice) {
            return; // a resend of what is being done
        }
        if self.leaving {
            self.say(cx, Control::ForwardRefused { epoch, id, error: GuestError::Gone });
            return;
        }
        if self.read_only {
            // The partner's machine refuses it already: one that does not is not believed.
            self.say(cx, Control::ForwardRefused { epoch, id, error: GuestError::ReadOnly });
            return;
        }
        let fits = at.count > 0
            && at.start.checked_add(at.count).is_some_and(|end| end <= self.sectors)
            && at.count <= wanted.sectors_max()
            && wanted.is_complete();
        if !(fits && self.mirrored && self.owner == cx.me()) {
            self.say(cx, Control::ForwardRefused { epoch, id, error: GuestError::Invalid });
            return;
        }
        let mut write = Write::new(origin, wanted);
        write.answered = true;
        write.deadline = if cx.has(Bug::ForwardDeadlineIgnored) { Instant::NEVER } else { deadline };
        self.begin_write(cx, write);
    }

    pub(in crate::node) fn forward_refused(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        id: u64,
        error: GuestError,
    ) {
        if !self.right.is_pair_of(epoch) {
            return;
        }
        let Some(forwarded) = self.forwarded.remove(&id) else { return };
        self.had_no_effect(forwarded.request);
        // What it tells of the blocks counts only while this node may serve.
        let tells = matches!(error, GuestError::Miscompare { .. });
        if forwarded.cancelled {
            self.refuse(cx, forwarded.request, self.given_up(forwarded.request));
        } else if tells && !self.lease_runs(cx) {
            self.compare_later(cx, forwarded.request, forwarded.wanted);
        } else {
            self.refuse(cx, forwarded.request, error);
        }
    }

    /// Why a forwarded write ended without its place: its guest gave it up, or it took too long.
    fn given_up(&self, request: RequestId) -> GuestError {
        if self.aborting.contains(&request) { GuestError::Aborted } else { GuestError::Transitioning }
    }

    fn end_forwarded(&mut self, cx: &mut Context<'_>, id: u64) {
        if let Some(forwarded) = self.forwarded.remove(&id) {
            self.had_no_effect(forwarded.request);
            let error = self.given_up(forwarded.request);
            self.refuse(cx, forwarded.request, error);
        }
    }

    /// Asks the owner to forget a forwarded write; answered when the owner has settled it.
    pub(super) fn cancel_forwarded(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(forwarded) = self.forwarded.get_mut(&id) else { return };
        if !forwarded.ever_sent {
            return self.end_forwarded(cx, id);
        }
        forwarded.cancelled = true;
        let sent = forwarded.sent;
        if cx.has(Bug::AbortNotSettled) {
            return self.end_forwarded(cx, id);
        }
        // What is not with the owner now is settled when the link is back, or with the pair.
        if sent && self.right.is_pair() {
            let epoch = self.right.epoch;
            self.say(cx, Control::Cancel { epoch, id });
        }
    }

    /// Owner: forget it if it is not ordered. True if it is: its order is on the way, and settles it.
    pub(in crate::node) fn cancel_received(&mut self, cx: &mut Context<'_>, id: u64) -> bool {
        let found =
            self.writes.iter().find(|(_, write)| write.origin == Origin::Partner(id)).map(|(&id, _)| id);
        let Some(write) = found else { return false };
        if self.writes[&write].sent.is_some() {
            return true;
        }
        self.drop_write(cx, write);
        false
    }

    pub(in crate::node) fn forward_cancelled(&mut self, cx: &mut Context<'_>, epoch: Epoch, id: u64) {
        let waits = |forwarded: &Forwarded| forwarded.cancelled && !forwarded.ordered;
        if self.right.is_pair_of(epoch) && self.forwarded.get(&id).is_some_and(waits) {
            self.end_forwarded(cx, id);
        }
    }

    /// Alone now: forwarded writes that were never ordered begin anew, here.
    pub(super) fn reclaim_forwarded(&mut self, cx: &mut Context<'_>) {
        for forwarded in core::mem::take(&mut self.forwarded).into_values() {
            let request = forwarded.request;
            self.had_no_effect(request);
            if forwarded.cancelled {
                let error = self.given_up(request);
                self.refuse(cx, request, error);
                continue;
            }
            self.parked.push_back((request, forwarded.wanted.into_command()));
        }
    }

    /// The volume is deleted: what the owner has never heard of is not done any more.
    pub(super) fn give_up_forwarded(&mut self, cx: &mut Context<'_>) {
        let unsent = self.forwarded.iter().filter(|(_, write)| !write.ever_sent);
        for id in unsent.map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(write) = self.forwarded.remove(&id) {
                self.refuse(cx, write.request, GuestError::Gone);
            }
        }
    }

    pub(super) fn refuse_forwarded(&mut self, cx: &mut Context<'_>, error: GuestError) {
        for forwarded in core::mem::take(&mut self.forwarded).into_values() {
            self.refuse(cx, forwarded.request, error);
        }
    }

    fn unsettled(&self) -> impl Iterator<Item = (u64, Instant)> + '_ {
        self.forwarded
            .iter()
            .filter(|(_, forwarded)| forwarded.sent && !forwarded.cancelled && !forwarded.ordered)
            .map(|(&id, forwarded)| (id, forwarded.deadline))
    }

    /// Forwarded writes that took too long are cancelled; the guest is told to try again.
    pub(in crate::node) fn check_time(&mut self, cx: &mut Context<'_>) {
        let late = self.unsettled().filter(|(_, deadline)| cx.now >= *deadline);
        for id in late.map(|(id, _)| id).collect::<Vec<_>>() {
            self.cancel_forwarded(cx, id);
        }
    }

    pub(super) fn forward_deadline(&self) -> Option<Instant> {
        self.unsettled().map(|(_, deadline)| deadline).min()
    }
}
