//! A write that the owner ordered, at its partner: reserved, its areas hot, then in the cache and visible, then
//! confirmed. Overlapping writes never are in flight together, so the order of arrival is the order.

use core::ops::Range;

use super::Node;
use super::op::{Held, Incoming};
use super::phase::Phase;
use super::waiting::{Cause, Waiter};
use crate::block::Payload;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Body, Message};
use crate::planted::Bug;

impl Node {
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn write_received(
        &mut self,
        epoch: Epoch,
        volume: VolumeId,
        order: u64,
        range: Range<u64>,
        zero: bool,
        data: Option<Payload>,
        origin: Option<u64>,
    ) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        let Some(state) = self.volumes.get_mut(&volume) else { return };
        if order <= state.seen_order {
            self.write_repeated(epoch, volume, order);
            return;
        }
        state.seen_order = order;
        let known = origin.and_then(|number| self.forwarded.get_mut(&number));
        let data = match (data, known) {
            (data, Some(forwarded)) => {
                forwarded.ordered = true;
                data.unwrap_or_else(|| forwarded.data.clone())
            }
            (Some(data), None) => data,
            (None, None) => Payload::new(),
        };
        if !zero && data.len() as u64 != range.end - range.start || range.end > state.sectors.div_ceil(8) {
            // The owner counts on a payload that this node does not have: it must come again.
            state.seen_order = order - 1;
            self.say_refused(epoch, volume, order);
            return;
        }
        state.applied.push_back((order, None));
        let blocks = (range.end - range.start) as u32;
        let first = range.start;
        let incoming =
            Incoming { first, blocks, zero, data, origin, reserved: false, heated: false, waits: None };
        self.incoming.insert((volume, order), incoming);
        self.try_incoming(volume, order);
    }

    /// A resend: say again what became of it.
    fn write_repeated(&mut self, epoch: Epoch, volume: VolumeId, order: u64) {
        if self.incoming.contains_key(&(volume, order)) {
            return;
        }
        let stored = !self.volumes[&volume].was_refused(order);
        self.confirm_write(epoch, volume, order, stored);
    }

    fn say_refused(&mut self, epoch: Epoch, volume: VolumeId, order: u64) {
        let most = self.config.mirror.write_blocks_in_flight;
        if let Some(state) = self.volumes.get_mut(&volume) {
            state.refuse(order, most);
        }
        self.confirm_write(epoch, volume, order, false);
    }

    fn confirm_write(&mut self, epoch: Epoch, volume: VolumeId, order: u64, stored: bool) {
        self.send(Message { body: Body::WriteDone { epoch, volume, order, stored }, data: Payload::new() });
    }

    /// Takes a write as far as it can go now. True if it is over.
    pub(super) fn try_incoming(&mut self, volume: VolumeId, order: u64) -> bool {
        let Phase::Paired(pair) = &self.phase else { return true };
        let epoch = pair.epoch;
        let waiter = Waiter::Incoming(volume, order);
        let Some(incoming) = self.incoming.get(&(volume, order)) else { return true };
        let (range, zero, reserved, heated, waits) =
            (incoming.range(), incoming.zero, incoming.reserved, incoming.heated, incoming.waits);
        if !reserved {
            if !zero && !self.store_mut().reserve(volume, range.clone()) {
                if let Some(lsn) = self.awaits_space(volume, waits) {
                    self.incoming.get_mut(&(volume, order)).expect("found above").waits = Some(lsn);
                    self.waiting.add(waiter, Cause::Log(lsn));
                    return false;
                }
                let incoming = self.incoming.remove(&(volume, order)).expect("found above");
                self.forget_applied(volume, order);
                if let Some(forwarded) = incoming.origin.and_then(|number| self.forwarded.get_mut(&number)) {
                    forwarded.ordered = false;
                }
                self.say_refused(epoch, volume, order);
                return true;
            }
            self.store_mut().promise(volume, range.clone());
            self.incoming.get_mut(&(volume, order)).expect("found above").reserved = true;
        }
        if !heated {
            if !self.heat(volume, range.clone()) {
                self.waiting.add(waiter, Cause::Service);
                return false;
            }
            self.incoming.get_mut(&(volume, order)).expect("found above").heated = true;
        }
        if let Some(lsn) = self.hot_pending(volume, range.clone()) {
            self.waiting.add(waiter, Cause::Log(lsn));
            return false;
        }
        if !self.take_room(waiter, volume, range.end - range.start) {
            return false;
        }
        self.apply_incoming(epoch, volume, order);
        true
    }

    fn forget_applied(&mut self, volume: VolumeId, order: u64) {
        if let Some(state) = self.volumes.get_mut(&volume) {
            state.applied.retain(|&(applied, _)| applied != order);
        }
    }

    fn apply_incoming(&mut self, epoch: Epoch, volume: VolumeId, order: u64) {
        let incoming = self.incoming.remove(&(volume, order)).expect("found by the caller");
        let (now, range) = (self.now, incoming.range());
        let store = self.store_mut();
        let version = match incoming.zero {
            true => store.zero(now, volume, range.clone()),
            false => store.write(now, volume, incoming.first, &incoming.data),
        };
        store.redeem(volume, range.clone());
        self.note_hot(volume, range.clone(), order, version);
        self.cool_down(volume, range.clone());
        let state = self.volumes.get_mut(&volume).expect("a write is for a volume");
        match state.applied.back_mut() {
            Some(last) if last.0 == order => last.1 = Some(version),
            _ => {
                if let Some(entry) = state.applied.iter_mut().find(|entry| entry.0 == order) {
                    entry.1 = Some(version);
                }
            }
        }
        self.confirm_write(epoch, volume, order, true);
        let Some(number) = incoming.origin else { return };
        if self.has(Bug::ForwardAppliedTwice) {
            return; // the planted bug forgets that it is done, and sends it again
        }
        if let Some(forwarded) = self.forwarded.remove(&number) {
            let held =
                Held { request: forwarded.request, volume, blocks: range, version, fua: forwarded.fua };
            if self.lease_runs() { self.acknowledge(held) } else { self.held.push(held) }
        }
    }

    /// The pair ended before this write was in the cache: the owner was not told that it is.
    pub(super) fn drop_incoming(&mut self, volume: VolumeId, incoming: Incoming) {
        let range = incoming.range();
        if incoming.heated {
            self.cool_down(volume, range.clone());
        }
        if incoming.reserved {
            self.store_mut().redeem(volume, range.clone());
            self.store_mut().unreserve(volume, range);
        }
    }
}
