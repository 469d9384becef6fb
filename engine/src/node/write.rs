//! A write at the node that orders it.
//!
//! In a pair: lock (overlapping writes wait) → whole blocks → space reserved here → its areas hot here → sent to
//! the partner → the partner has it → visible here, answered. Alone: lock → whole blocks → space → its regions
//! logged → visible here, sent to a target → answered when stable. Each step is repeated from the top whenever
//! what a write waits for may have come: the phase may have changed meanwhile.

use super::Node;
use super::lock::Granted;
use super::membership::Service;
use super::op::{Flusher, Held, Origin, Reading, Settling, Write, merge};
use super::phase::Phase;
use super::volume::regions;
use super::waiting::{Cause, Waiter};
use crate::block::{Payload, is_all_zero};
use crate::guest::GuestError;
use crate::ids::{Epoch, RequestId, VolumeId};
use crate::mirror::message::{Body, Control, Message};
use crate::planted::Bug;
use crate::pool::{Lsn, Record};
use crate::store::{Read, ReadToken};

/// What a step of a write came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// Done; take the next.
    Next,
    /// Something must happen first; it is asked for.
    Wait(Cause),
    /// Waits for a lock, a read, or the partner, which will call.
    Called,
    /// The write is over.
    Over,
}

impl Node {
    pub(super) fn begin_write(&mut self, write: Write) {
        let id = self.next_id();
        let (volume, range) = (write.volume, write.blocks());
        self.writes.insert(id, write);
        let locked = self.volumes.get_mut(&volume).is_some_and(|volume| volume.lock.acquire(range, id));
        if locked && let Some(write) = self.writes.get_mut(&id) {
            write.locked = true;
            self.advance(id);
        }
    }

    /// Takes a write as far as it can go now. True if it does not wait here any more.
    pub(super) fn advance(&mut self, id: u64) -> bool {
        loop {
            match self.write_step(id) {
                Step::Next => {}
                Step::Wait(cause) => {
                    self.waiting.add(Waiter::Write(id), cause);
                    return false;
                }
                Step::Called | Step::Over => return true,
            }
        }
    }

    fn write_step(&mut self, id: u64) -> Step {
        let Some(write) = self.writes.get(&id) else { return Step::Over };
        if !write.locked || write.merging || write.sent.is_some() {
            return Step::Called;
        }
        if self.now > write.deadline {
            return self.expire(id);
        }
        let mirrored = self.volumes[&write.volume].mirrored;
        // A linear volume's write that was begun ends, also when a stop is asked for.
        let service = if mirrored { self.service() } else { Service::Alone };
        let may_begin = matches!(service, Service::Pair | Service::Alone)
            || (write.marked && service == Service::AloneReads);
        if !may_begin {
            return Step::Wait(Cause::Service);
        }
        if !write.merged {
            return self.make_whole(id);
        }
        if !write.reserved {
            return self.reserve_here(id);
        }
        match (mirrored, service) {
            (false, _) => self.apply_linear(id),
            (true, Service::Pair) => self.send_to_partner(id),
            _ => self.apply_alone(id),
        }
    }

    /// Reads what the first and last block hold where the write does not cover them.
    fn make_whole(&mut self, id: u64) -> Step {
        let write = self.writes.get_mut(&id).expect("checked by the caller");
        if write.at.is_aligned() {
            write.merged = true;
            return Step::Next;
        }
        let (volume, blocks) = (write.volume, write.blocks());
        write.merging = true;
        let token = self.next_id();
        match self.store_mut().read(volume, blocks, ReadToken(token)) {
            Read::Ready(old, _) => {
                self.merged(id, Ok(old));
                if self.writes.contains_key(&id) { Step::Next } else { Step::Over }
            }
            Read::Pending => {
                self.reading.insert(token, Reading::Merge { write: id });
                Step::Called
            }
        }
    }

    fn merged(&mut self, id: u64, old: Result<Payload, GuestError>) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.merging = false;
        match old {
            Ok(old) => {
                write.data = merge(&self.pages, write.at, write.zero, &write.data, &old);
                write.merged = true;
                write.zero = is_all_zero(&write.data);
                if write.zero {
                    write.data.clear();
                }
            }
            Err(error) => self.fail_write(id, error),
        }
    }

    /// The blocks a write wanted to know are here.
    pub(super) fn merge_read(&mut self, id: u64, old: Result<Payload, GuestError>) {
        self.merged(id, old);
        self.advance(id);
    }

    /// What the blocks held is to be read once more.
    pub(super) fn merge_again(&mut self, id: u64) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.merging = false;
            // Nothing is to be durable first: with the next turn.
            self.waiting.add(Waiter::Write(id), Cause::Log(Lsn(0)));
        }
    }

    fn reserve_here(&mut self, id: u64) -> Step {
        let write = &self.writes[&id];
        let (volume, blocks) = (write.volume, write.blocks());
        // Zeros need no space: where nothing is mapped nothing is written.
        if !write.zero && !self.store_mut().reserve(volume, blocks.clone()) {
            return self.lacks_space(id).map_or(Step::Over, |lsn| Step::Wait(Cause::Log(lsn)));
        }
        self.store_mut().promise(volume, blocks);
        if let Some(write) = self.writes.get_mut(&id) {
            write.reserved = true;
        }
        Step::Next
    }

    fn apply_linear(&mut self, id: u64) -> Step {
        let Some((write, version)) = self.apply(id) else { return Step::Wait(Cause::Room) };
        if let Origin::Guest(request) = write.origin {
            let (volume, blocks, fua) = (write.volume, write.blocks(), write.fua);
            self.acknowledge(Held { request, volume, blocks, version, fua });
        }
        Step::Over
    }

    fn send_to_partner(&mut self, id: u64) -> Step {
        let Phase::Paired(pair) = &self.phase else { return Step::Wait(Cause::Service) };
        let epoch = pair.epoch;
        if self.link.is_none() || self.is_link_lost() {
            return Step::Wait(Cause::Service);
        }
        let write = &self.writes[&id];
        let (volume, blocks, heated) = (write.volume, write.blocks(), write.heated);
        let count = blocks.end - blocks.start;
        if !heated {
            if !self.heat(volume, blocks.clone()) {
                return Step::Wait(Cause::Service);
            }
            self.writes.get_mut(&id).expect("still here").heated = true;
        }
        if let Some(lsn) = self.hot_pending(volume, blocks) {
            return Step::Wait(Cause::Log(lsn));
        }
        if !self.take_window(Waiter::Write(id), volume, count) {
            return Step::Wait(Cause::Room);
        }
        let state = self.volumes.get_mut(&volume).expect("a write is for a volume");
        state.last_order += 1;
        let order = state.last_order;
        state.sent.insert(order, id);
        self.blocks_in_flight += count;
        self.writes.get_mut(&id).expect("still here").sent = Some(order);
        self.transmit(epoch, id, order);
        if self.has(Bug::AckBeforePartner) || self.has(Bug::OwnerReadsUnacknowledged) {
            self.act_too_early(id);
        }
        Step::Called
    }

    /// Two planted bugs: answer, or show, what the partner does not have yet.
    fn act_too_early(&mut self, id: u64) {
        let (answers, shows) = (self.has(Bug::AckBeforePartner), self.has(Bug::OwnerReadsUnacknowledged));
        let Some(write) = self.writes.get_mut(&id) else { return };
        let (origin, volume, range, zero, data) =
            (write.origin, write.volume, write.blocks(), write.zero, write.data.clone());
        write.answered |= answers;
        if shows {
            self.put(volume, range.clone(), zero, &data);
        }
        if let (true, Origin::Guest(request)) = (answers, origin) {
            self.complete(request, Ok(Payload::new()));
        }
    }

    /// Sends a write to the partner; again after a link was lost.
    fn transmit(&mut self, epoch: Epoch, id: u64, order: u64) {
        let write = &self.writes[&id];
        let range = write.blocks();
        let origin = match write.origin {
            Origin::Partner(number) => Some(number),
            Origin::Guest(_) => None,
        };
        // The partner has the payload of its own write, unless this node had to complete its blocks.
        let carried = !write.zero && (origin.is_none() || !write.at.is_aligned());
        let body = Body::Write {
            epoch,
            volume: write.volume,
            order,
            first: range.start,
            blocks: (range.end - range.start) as u32,
            zero: write.zero,
            carried,
            origin,
        };
        let data = if carried { write.data.clone() } else { Payload::new() };
        self.send(Message { body, data });
    }

    /// The link is back within the lease: everything that was not answered goes out again, in order.
    pub(super) fn resume_pair(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let epoch = pair.epoch;
        let again: Vec<(u64, u64)> = self
            .volumes
            .values()
            .flat_map(|volume| volume.sent.iter().map(|(&order, &id)| (order, id)))
            .collect();
        for (order, id) in again {
            self.transmit(epoch, id, order);
        }
        self.tell_hot(epoch);
        self.tell_stable_again();
        self.resend_changes();
        self.resend_forwarded();
        self.resend_flushes();
        if self.lease_runs() {
            self.service_resumed();
        }
    }

    /// The partner has the write in its cache, or has no space for it.
    pub(super) fn write_done(&mut self, epoch: Epoch, volume: VolumeId, order: u64, stored: bool) {
        let in_epoch = match &self.phase {
            Phase::Paired(pair) => pair.epoch == epoch,
            Phase::Deciding(deciding) => deciding.epoch == epoch,
            _ => false,
        };
        let Some(state) = self.volumes.get_mut(&volume).filter(|_| in_epoch) else { return };
        let Some(id) = state.sent.remove(&order) else { return };
        let write = &self.writes[&id];
        let range = write.blocks();
        self.blocks_in_flight -= range.end - range.start;
        if !stored {
            self.unsend(id);
            self.partner_lacks_space(id);
            return;
        }
        let (write, version) = self.apply_reserved(id);
        self.note_hot(volume, range, order, version);
        let Origin::Guest(request) = write.origin else { return };
        if write.answered {
            return;
        }
        let held = Held { request, volume, blocks: write.blocks(), version, fua: write.fua };
        if self.lease_runs() {
            self.acknowledge(held);
        } else {
            self.held.push(held);
        }
    }

    /// The write is in the cache of every node that counts: answer, or flush first if it asked for that.
    pub(super) fn acknowledge(&mut self, held: Held) {
        if held.fua {
            self.begin_flush(Flusher::Guest(held.request), held.volume);
        } else {
            self.complete(held.request, Ok(Payload::new()));
        }
    }

    fn apply_alone(&mut self, id: u64) -> Step {
        let write = &self.writes[&id];
        let (volume, blocks, marked) = (write.volume, write.blocks(), write.marked);
        if !marked {
            self.mark(volume, blocks.clone());
            self.writes.get_mut(&id).expect("still here").marked = true;
        }
        if let Some(lsn) = self.mark_pending(volume, blocks) {
            return Step::Wait(Cause::Log(lsn));
        }
        let Some((write, version)) = self.apply(id) else { return Step::Wait(Cause::Room) };
        self.send_fresh(volume, write.blocks(), &write.data, write.zero);
        if let (Origin::Guest(request), false) = (write.origin, write.answered) {
            let blocks = write.blocks();
            if self.has(Bug::AckBeforeStable) {
                self.complete(request, Ok(Payload::new()));
            } else {
                self.settling.push(Settling { request, volume, blocks, version, result: Payload::new() });
            }
        }
        Step::Over
    }

    /// Logs the regions of a write that the partner will lack.
    fn mark(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let mut run = regions(blocks);
        if self.has(Bug::MarkForgottenAcrossRegions) {
            run.end = run.start + 1;
        }
        let metadata = self.store().pool().metadata();
        let log = metadata.volume(volume).map(|meta| &meta.log);
        let missing: Vec<u64> =
            run.clone().filter(|&region| !log.is_some_and(|log| log.contains(region))).collect();
        let state = self.volumes.get_mut(&volume).expect("a write is for a volume");
        for region in run {
            *state.marked.entry(region).or_default() += 1;
        }
        if missing.is_empty() {
            return;
        }
        let records: Vec<Record> =
            missing.iter().map(|&region| Record::LogAdd { volume, first: region, count: 1 }).collect();
        let lsn = self.append(&records);
        let state = self.volumes.get_mut(&volume).expect("as above");
        for region in missing {
            state.marking.insert(region, lsn);
        }
    }

    /// The record that must be durable before a write to these marked blocks; `None` if all are.
    fn mark_pending(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) -> Option<Lsn> {
        let durable = self.store().durable();
        let state = self.volumes.get_mut(&volume).expect("a write is for a volume");
        if state.marking.is_empty() {
            return None;
        }
        let mut pending = None;
        for region in regions(blocks) {
            match state.marking.get(&region) {
                Some(&lsn) if lsn > durable => pending = pending.max(Some(lsn)),
                _ => {
                    state.marking.remove(&region);
                }
            }
        }
        pending
    }

    /// The write is no longer between its mark and the cache.
    fn unmark(&mut self, write: &Write) {
        if !write.marked {
            return;
        }
        let mut run = regions(write.blocks());
        if self.has(Bug::MarkForgottenAcrossRegions) {
            run.end = run.start + 1;
        }
        let state = self.volumes.get_mut(&write.volume).expect("a write is for a volume");
        for region in run {
            let count = state.marked.get_mut(&region).expect("unmark follows mark");
            *count -= 1;
            if *count == 0 {
                state.marked.remove(&region);
            }
        }
    }

    /// Puts a write into the cache if there is room and it is its turn; it is over then.
    fn apply(&mut self, id: u64) -> Option<(Write, u64)> {
        let (volume, range) = (self.writes[&id].volume, self.writes[&id].blocks());
        self.take_room(Waiter::Write(id), volume, range.end - range.start).then(|| self.apply_reserved(id))
    }

    fn put(&mut self, volume: VolumeId, range: core::ops::Range<u64>, zero: bool, data: &Payload) -> u64 {
        let now = self.now;
        let store = self.store_mut();
        if zero { store.zero(now, volume, range) } else { store.write(now, volume, range.start, data) }
    }

    fn apply_reserved(&mut self, id: u64) -> (Write, u64) {
        let write = self.writes.remove(&id).expect("a write is applied once");
        let version = self.put(write.volume, write.blocks(), write.zero, &write.data);
        self.release(id, &write);
        (write, version)
    }

    /// Gives back what a write held: its promise of space, its areas, its lock.
    fn release(&mut self, id: u64, write: &Write) {
        if write.reserved {
            self.store_mut().redeem(write.volume, write.blocks());
        }
        if write.heated {
            self.cool_down(write.volume, write.blocks());
        }
        self.unmark(write);
        let Some(state) = self.volumes.get_mut(&write.volume) else { return };
        let granted = match write.locked {
            true => state.lock.release(write.blocks().start, id),
            false => state.lock.forget(id),
        };
        self.grant(granted);
    }

    /// Lock waiters whose turn has come hold the lock from now on, also if they are given up before they move.
    pub(super) fn grant(&mut self, granted: Vec<Granted>) {
        for next in granted {
            if !next.shared
                && let Some(write) = self.writes.get_mut(&next.id)
            {
                write.locked = true;
            }
            self.granted.push_back(next);
        }
    }

    /// Ends a write that was not applied.
    pub(super) fn drop_write(&mut self, id: u64) -> Option<Write> {
        let write = self.writes.remove(&id)?;
        if let Some(order) = write.sent
            && let Some(state) = self.volumes.get_mut(&write.volume)
            && state.sent.remove(&order).is_some()
        {
            self.blocks_in_flight -= write.blocks().end - write.blocks().start;
        }
        self.release(id, &write);
        if write.reserved {
            self.store_mut().unreserve(write.volume, write.blocks());
        }
        Some(write)
    }

    pub(super) fn fail_write(&mut self, id: u64, error: GuestError) {
        let Some(write) = self.drop_write(id) else { return };
        match write.origin {
            Origin::Guest(request) if !write.answered => self.refuse(request, error),
            Origin::Guest(_) => {}
            Origin::Partner(number) => {
                if let Phase::Paired(pair) = &self.phase {
                    let epoch = pair.epoch;
                    self.say(Control::ForwardRefused { epoch, id: number, error });
                }
            }
        }
    }

    /// The volume is deleted: what has not been sent or logged is not done any more.
    pub(super) fn give_up_writes(&mut self, volume: VolumeId) {
        let idle = |write: &Write| write.sent.is_none() && !write.marked && !write.merging;
        let its = self.writes.iter().filter(|(_, write)| write.volume == volume && idle(write));
        for id in its.map(|(&id, _)| id).collect::<Vec<_>>().into_iter().rev() {
            self.fail_write(id, GuestError::Gone);
        }
    }

    fn expire(&mut self, id: u64) -> Step {
        self.fail_write(id, GuestError::Transitioning);
        Step::Over
    }

    fn unsend(&mut self, id: u64) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.sent = None;
        }
    }

    /// Alone now: what was sent to the partner is kept, a reader there may have seen it.
    pub(super) fn keep_sent_writes(&mut self) {
        self.blocks_in_flight = 0;
        let sent: Vec<u64> =
            self.writes.iter().filter(|(_, write)| write.sent.is_some()).map(|(&id, _)| id).collect();
        for id in sent {
            if self.has(Bug::PendingDroppedAtTakeover) {
                let answer = self.drop_write(id).map(|write| write.origin);
                if let Some(Origin::Guest(request)) = answer {
                    self.complete(request, Ok(Payload::new()));
                }
                continue;
            }
            // Their regions were logged with the record; visible before any read is answered.
            let (write, version) = self.apply_reserved(id);
            if let (Origin::Guest(request), false) = (write.origin, write.answered) {
                let (volume, blocks) = (write.volume, write.blocks());
                self.settling.push(Settling { request, volume, blocks, version, result: Payload::new() });
            }
        }
    }

    /// Those whose turn for a lock has come go on.
    pub(super) fn wake_granted(&mut self) -> bool {
        let mut moved = false;
        while let Some(next) = self.granted.pop_front() {
            moved = true;
            if next.shared {
                self.read_granted(next.id);
            } else {
                self.advance(next.id);
            }
        }
        moved
    }

    pub(super) fn abort_write(&mut self, id: u64, request: RequestId) {
        let write = &self.writes[&id];
        if write.sent.is_none() && !write.marked && !write.merging {
            self.drop_write(id);
            self.refuse(request, GuestError::Aborted);
        }
    }

    /// Writes that were not sent are dropped; those that were are kept, but nobody waits for them any more.
    pub(super) fn refuse_writes(&mut self, volumes: &[VolumeId], error: GuestError) {
        let keep_sent = matches!(self.phase, Phase::Deciding(_));
        let ids: Vec<u64> = self
            .writes
            .iter()
            .filter(|(_, write)| volumes.contains(&write.volume))
            .map(|(&id, _)| id)
            .collect();
        for id in ids.into_iter().rev() {
            let Some(write) = self.writes.get_mut(&id) else { continue };
            let (origin, answered) = (write.origin, core::mem::replace(&mut write.answered, true));
            if !(keep_sent && write.sent.is_some()) {
                self.drop_write(id);
            }
            if let (Origin::Guest(request), false) = (origin, answered) {
                self.refuse(request, error);
            }
        }
    }
}
