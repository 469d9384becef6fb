//! SYNCHRONIZE CACHE and FUA: everything up to here is stable on both nodes, or on the survivor, which has
//! durably outdated the other.

use super::Volume;
use super::context::Context;
use super::op::{Flush, Flusher};
use super::right::Place;
use crate::block::Payload;
use crate::guest::GuestError;
use crate::ids::Epoch;
use crate::mirror::message::Control;
use crate::planted::Bug;

impl Volume {
    pub(super) fn begin_flush(&mut self, cx: &mut Context<'_>, for_whom: Flusher) {
        let id = self.next_id();
        let version = cx.store.version(self.id);
        cx.store.urge();
        let misses = cx.has(Bug::FlushMissesUnconfirmed) && matches!(for_whom, Flusher::Guest(_));
        let after_order = (!misses).then_some(self.last_order);
        let partner_done = matches!(for_whom, Flusher::Partner(_)) || !self.mirrored;
        self.flushes.insert(id, Flush { for_whom, version, after_order, partner_done, asked: false });
        self.ask_flush(cx, id);
    }

    fn ask_flush(&mut self, cx: &mut Context<'_>, id: u64) {
        if !self.right.is_linked_pair() {
            return;
        }
        let Some(flush) = self.flushes.get_mut(&id) else { return };
        if flush.partner_done || flush.asked {
            return;
        }
        flush.asked = true;
        let (epoch, volume) = (self.right.epoch, self.id);
        self.say(cx, Control::FlushAsk { epoch, id, volume });
    }

    pub(super) fn resend_flushes(&mut self, cx: &mut Context<'_>) {
        for id in self.flushes.keys().copied().collect::<Vec<_>>() {
            self.ask_flush(cx, id);
        }
    }

    pub(in crate::node) fn flush_asked(&mut self, cx: &mut Context<'_>, epoch: Epoch, id: u64) {
        if self.right.is_pair_of(epoch) {
            self.begin_flush(cx, Flusher::Partner(id));
        }
    }

    pub(in crate::node) fn partner_flushed(&mut self, epoch: Epoch, id: u64) {
        if self.right.is_pair_of(epoch)
            && let Some(flush) = self.flushes.get_mut(&id)
        {
            flush.partner_done = true;
        }
    }

    /// Does a flush wait for confirmations that have come?
    pub(super) fn has_flush_to_begin(&self) -> bool {
        let first = self.sent.first_key_value().map_or(u64::MAX, |(&first, _)| first);
        self.flushes.values().any(|flush| flush.after_order.is_some_and(|order| first > order))
    }

    /// The partner may have acknowledged writes whose confirmation is still on its way here: they come first, whoever asks.
    /// At takeover they are in the cache before this is asked.
    fn flush_begins(&mut self, cx: &mut Context<'_>, id: u64) -> bool {
        let Some(flush) = self.flushes.get_mut(&id) else { return false };
        let Some(order) = flush.after_order else { return true };
        if self.sent.first_key_value().is_some_and(|(&first, _)| first <= order) {
            return false;
        }
        (flush.after_order, flush.version) = (None, cx.store.version(self.id));
        cx.store.urge();
        true
    }

    pub(super) fn wake_flushes(&mut self, cx: &mut Context<'_>) -> bool {
        if self.flushes.is_empty() {
            return false;
        }
        let alone = self.right.place == Place::Alone;
        let may_answer = !self.mirrored || alone || self.lease_runs(cx);
        let ids: Vec<u64> = self.flushes.keys().copied().collect();
        let before = ids.len();
        for id in ids {
            if !self.flush_begins(cx, id) {
                continue;
            }
            let Some(flush) = self.flushes.get(&id) else { continue };
            let here = cx.store.stable_through(self.id) >= flush.version;
            let (for_whom, partner_done) = (flush.for_whom, flush.partner_done || alone);
            if !here || !partner_done {
                continue;
            }
            match for_whom {
                Flusher::Guest(_) if !may_answer => {}
                Flusher::Guest(request) => {
                    self.flushes.remove(&id);
                    self.complete(cx, request, Ok(Payload::new()));
                }
                Flusher::Partner(ask) => {
                    self.flushes.remove(&id);
                    if self.right.is_pair() {
                        let epoch = self.right.epoch;
                        self.say(cx, Control::FlushDone { epoch, id: ask });
                    }
                }
            }
        }
        self.flushes.len() < before
    }

    pub(super) fn refuse_flushes(&mut self, cx: &mut Context<'_>, error: GuestError) {
        for flush in core::mem::take(&mut self.flushes).into_values() {
            if let Flusher::Guest(request) = flush.for_whom {
                self.refuse(cx, request, error);
            }
        }
    }
}
