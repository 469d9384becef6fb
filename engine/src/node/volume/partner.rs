//! A write that the owner ordered, at its partner: reserved, its areas hot, then in the cache and visible, then
//! confirmed. Overlapping writes never are in flight together, so the order of arrival is the order.

use core::ops::Range;

use super::Volume;
use super::context::Context;
use super::op::{Held, Incoming};
use super::waiting::{Cause, Turn};
use crate::block::Payload;
use crate::ids::Epoch;
use crate::mirror::message::{Body, Message};
use crate::planted::Bug;

/// A write as the owner sends it.
#[derive(Debug)]
pub(in crate::node) struct Ordered {
    pub(in crate::node) order: u64,
    pub(in crate::node) range: Range<u64>,
    pub(in crate::node) zero: bool,
    /// `None`: its blocks are here already, or zero.
    pub(in crate::node) data: Option<Payload>,
    /// This node's number of it, if it was forwarded from here.
    pub(in crate::node) origin: Option<u64>,
}

impl Volume {
    pub(in crate::node) fn write_received(&mut self, cx: &mut Context<'_>, epoch: Epoch, write: Ordered) {
        if !self.right.is_pair_of(epoch) {
            return;
        }
        let Ordered { order, range, zero, data, origin } = write;
        if order <= self.seen_order {
            self.write_repeated(cx, order);
            return;
        }
        self.seen_order = order;
        let known = origin.and_then(|number| self.forwarded.get_mut(&number));
        let data = match (data, known) {
            (data, Some(forwarded)) => {
                forwarded.ordered = true;
                data.unwrap_or_else(|| forwarded.wanted.data.clone())
            }
            (Some(data), None) => data,
            (None, None) => Payload::new(),
        };
        if !zero && data.len() as u64 != range.end - range.start || range.end > self.blocks() {
            // The owner counts on a payload that this node does not have: it must come again.
            self.seen_order = order - 1;
            self.say_refused(cx, order);
            return;
        }
        self.applied.push_back((order, None));
        let blocks = (range.end - range.start) as u32;
        let first = range.start;
        let incoming =
            Incoming { first, blocks, zero, data, origin, reserved: false, heated: false, waits: None };
        self.incoming.insert(order, incoming);
        self.try_incoming(cx, order);
    }

    /// A resend: say again what became of it.
    fn write_repeated(&mut self, cx: &mut Context<'_>, order: u64) {
        if !self.incoming.contains_key(&order) {
            let stored = !self.refused.contains(&order);
            self.confirm_write(cx, order, stored);
        }
    }

    /// Remembers a refusal, and says it. The owner sends again only what was in flight when the link was lost, at most
    /// `write_blocks_in_flight` writes: those refused last.
    fn say_refused(&mut self, cx: &mut Context<'_>, order: u64) {
        self.seen_order = self.seen_order.max(order);
        self.refused.push_back(order);
        while self.refused.len() as u64 > cx.config.mirror.write_blocks_in_flight {
            self.refused.pop_front();
        }
        self.confirm_write(cx, order, false);
    }

    fn confirm_write(&self, cx: &mut Context<'_>, order: u64, stored: bool) {
        let body = Body::WriteDone { epoch: self.right.epoch, volume: self.id, order, stored };
        self.send(cx, Message { body, data: Payload::new() });
    }

    /// Takes a write as far as it can go now. True if it is over.
    pub(super) fn try_incoming(&mut self, cx: &mut Context<'_>, order: u64) -> bool {
        let Some(incoming) = self.incoming.get(&order).filter(|_| self.right.is_pair()) else { return true };
        let (range, reserved, heated) = (incoming.range(), incoming.reserved, incoming.heated);
        if self.reaches_new_ground(cx, range.clone(), reserved || incoming.zero, heated) {
            self.wait(cx, Turn::Incoming(order), Cause::Whole);
            return false;
        }
        if !reserved && !self.reserve_incoming(cx, order, range.clone()) {
            return !self.incoming.contains_key(&order);
        }
        if !heated {
            if !self.heat(cx, range.clone()) {
                self.wait(cx, Turn::Incoming(order), Cause::Service);
                return false;
            }
            self.incoming.get_mut(&order).expect("found above").heated = true;
        }
        if let Some(lsn) = self.hot_pending(cx, range.clone()) {
            self.wait(cx, Turn::Incoming(order), Cause::Log(lsn));
            return false;
        }
        if !self.take_room(cx, Turn::Incoming(order), range.end - range.start) {
            self.wait(cx, Turn::Incoming(order), Cause::Room);
            return false;
        }
        self.apply_incoming(cx, order);
        true
    }

    /// Reserves its space. If there is none it waits, or is refused and over.
    fn reserve_incoming(&mut self, cx: &mut Context<'_>, order: u64, range: Range<u64>) -> bool {
        let incoming = self.incoming.get_mut(&order).expect("found by the caller");
        if incoming.zero || cx.store.reserve(self.id, range.clone()) {
            cx.store.promise(self.id, range);
            incoming.reserved = true;
            return true;
        }
        if let Some(lsn) = cx.awaits_space(self.id, incoming.waits) {
            incoming.waits = Some(lsn);
            self.wait(cx, Turn::Incoming(order), Cause::Log(lsn));
            return false;
        }
        let incoming = self.incoming.remove(&order).expect("found by the caller");
        self.applied.retain(|&(applied, _)| applied != order);
        if let Some(forwarded) = incoming.origin.and_then(|number| self.forwarded.get_mut(&number)) {
            forwarded.ordered = false;
        }
        self.say_refused(cx, order);
        false
    }

    fn apply_incoming(&mut self, cx: &mut Context<'_>, order: u64) {
        let incoming = self.incoming.remove(&order).expect("found by the caller");
        let range = incoming.range();
        let version = cx.put(self.id, range.clone(), incoming.zero, &incoming.data);
        cx.store.redeem(self.id, range.clone());
        self.note_hot(cx, range.clone(), order, version);
        self.cool_down(cx, range.clone());
        match self.applied.back_mut() {
            Some(last) if last.0 == order => last.1 = Some(version),
            _ => {
                if let Some(entry) = self.applied.iter_mut().find(|entry| entry.0 == order) {
                    entry.1 = Some(version);
                }
            }
        }
        self.confirm_write(cx, order, true);
        let Some(number) = incoming.origin else { return };
        if cx.has(Bug::ForwardAppliedTwice) {
            return; // the planted bug forgets that it is done, and sends it again
        }
        if let Some(forwarded) = self.forwarded.remove(&number) {
            let held = Held { request: forwarded.request, blocks: range, version, fua: forwarded.wanted.fua };
            self.acknowledge_in_pair(cx, held);
        }
    }

    /// The pair ended before these writes were in the cache: the owner was not told that they are.
    pub(super) fn drop_incoming(&mut self, cx: &mut Context<'_>) {
        for incoming in core::mem::take(&mut self.incoming).into_values() {
            let range = incoming.range();
            if incoming.heated {
                self.cool_down(cx, range.clone());
            }
            if incoming.reserved {
                cx.store.redeem(self.id, range.clone());
                cx.store.unreserve(self.id, range);
            }
        }
        self.applied.retain(|(_, version)| version.is_some());
    }
}
