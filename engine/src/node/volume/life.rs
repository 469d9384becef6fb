//! What the control part makes of a volume: a pair begins or ends, the node goes on alone, or everything is refused.

use super::Volume;
use super::context::Context;
use super::op::{Flusher, Held};
use crate::guest::GuestError;
use crate::ids::NodeName;
use crate::time::Instant;

impl Volume {
    /// A new pair begins: the order starts over, nothing is hot.
    pub(in crate::node) fn begin_pair(&mut self, cx: &mut Context<'_>, owner: NodeName) {
        self.owner = owner;
        self.end_pair(cx);
        self.marking.clear();
    }

    /// The pair ended: nothing of its order counts any more. What it kept hot is in the log, or about to be.
    pub(in crate::node) fn end_pair(&mut self, cx: &mut Context<'_>) {
        (self.last_order, self.partner_stable, self.seen_order) = (0, 0, 0);
        (self.stable_told, self.stable_known) = (0, 0);
        self.all_came_back(cx);
        self.refused.clear();
        self.applied.clear();
        self.hot.clear();
    }

    /// The link is back within the lease: everything that was not answered goes out again.
    pub(in crate::node) fn resume_pair(&mut self, cx: &mut Context<'_>) {
        self.resend_writes(cx);
        self.tell_hot(cx);
        self.tell_stable_again(cx);
        self.resend_forwarded(cx);
        self.resend_flushes(cx);
    }

    /// Writes, reads and questions of the partner end with the pair. So do writes that it ordered and that are
    /// not in the cache here: it was never told that they were.
    pub(in crate::node) fn drop_partners_business(&mut self, cx: &mut Context<'_>) {
        self.drop_incoming(cx);
        self.drop_unordered(cx);
        self.flushes.retain(|_, flush| matches!(flush.for_whom, Flusher::Guest(_)));
        self.restart_remote_reads(cx);
        for forwarded in self.forwarded.values_mut() {
            (forwarded.sent, forwarded.ordered) = (false, false);
        }
    }

    /// The right to serve is back, or a new one was won: go on with what was held.
    pub(in crate::node) fn resume(&mut self, cx: &mut Context<'_>) {
        if self.lease_runs(cx) {
            for held in core::mem::take(&mut self.held) {
                self.acknowledge(cx, held);
            }
        }
        self.unpark(cx);
    }

    /// This node goes on alone, and that is written down with everything in which the partner may differ: what was kept
    /// is done here, and answered when it is stable.
    pub(in crate::node) fn go_on_alone(&mut self, cx: &mut Context<'_>) {
        self.keep_sent_writes(cx);
        for held in core::mem::take(&mut self.held) {
            let Held { request, blocks, version, .. } = held;
            self.settle(request, blocks, version, Ok(Default::default()));
        }
        self.reclaim_forwarded(cx);
        self.unpark(cx);
    }

    /// Every guest is told to go elsewhere; nothing of theirs is executed later, but for writes that the partner may
    /// already show.
    pub(in crate::node) fn refuse_all(&mut self, cx: &mut Context<'_>, error: GuestError) {
        for (id, _) in core::mem::take(&mut self.parked) {
            self.refuse(cx, id, error);
        }
        for settling in core::mem::take(&mut self.settling) {
            self.refuse(cx, settling.request, error);
        }
        for held in core::mem::take(&mut self.held) {
            self.refuse(cx, held.request, error);
        }
        self.refuse_flushes(cx, error);
        self.refuse_reads(cx, error);
        self.refuse_forwarded(cx, error);
        self.refuse_writes(cx, error);
    }

    /// The volume is no more: it waits for no block of the partner, and keeps none in the cache for the answer.
    pub(in crate::node) fn leave(&mut self, cx: &mut Context<'_>) {
        self.refuse_mends(cx, GuestError::Gone);
    }

    /// Has a write been sent to the partner and not come back?
    pub(in crate::node) fn has_sent(&self) -> bool {
        self.writes.values().any(|write| write.sent.is_some())
    }

    /// Is nothing in flight that a pair must have settled before one of it leaves?
    pub(in crate::node) fn is_quiet(&self) -> bool {
        !self.has_sent() && self.incoming.is_empty() && self.held.is_empty()
    }

    /// Is no write on its way to the cache here, or to the partner's? Those that wait for the volume to have been cloned are not.
    pub(in crate::node) fn is_calm(&self) -> bool {
        self.writes.values().all(|write| !write.reserved) && self.incoming.is_empty()
    }

    /// Has no write been begun that is not in the cache?
    pub(in crate::node) fn has_no_write(&self) -> bool {
        self.writes.is_empty()
    }

    /// Does an answer wait until what it says is stable?
    pub(in crate::node) fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Is a request held until it is decided who serves?
    pub(in crate::node) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// When a forwarded write has taken too long.
    pub(in crate::node) fn deadline(&self) -> Option<Instant> {
        self.forward_deadline()
    }
}
