//! A write at the node that orders it.
//!
//! In a pair: lock (overlapping writes wait) → whole blocks → space reserved here → its areas hot here → sent to
//! the partner → the partner has it → visible here, answered. Alone: lock → whole blocks → space → its regions
//! logged → visible here, sent to a target → answered when stable. Each step is repeated from the top whenever
//! what a write waits for may have come: the right may have changed meanwhile.

use core::ops::Range;

use super::Volume;
use super::context::{Context, Told};
use super::lock::Granted;
use super::op::{Flusher, Held, Origin, Reading, Settling, Write, merge};
use super::right::{Place, Service};
use super::room::Waiter;
use super::waiting::{Cause, Turn};
use crate::block::{Payload, is_all_zero};
use crate::guest::{GuestError, GuestResult};
use crate::ids::{Epoch, RequestId};
use crate::mirror::message::{Body, Control, Manner, Message};
use crate::planted::Bug;
use crate::pool::Lsn;
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

impl Volume {
    pub(super) fn begin_write(&mut self, cx: &mut Context<'_>, mut write: Write) {
        let id = self.next_id();
        if write.manner == Manner::IfEqual && cx.has(Bug::ComparedUnlocked) {
            self.compare_unlocked(cx, &mut write);
        }
        let locked = self.lock.acquire(write.blocks(), id);
        write.locked = locked;
        self.writes.insert(id, write);
        if locked {
            self.advance(cx, id);
        }
    }

    /// Takes a write as far as it can go now. True if it does not wait here any more.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, id: u64) -> bool {
        loop {
            match self.write_step(cx, id) {
                Step::Next => {}
                Step::Wait(cause) => {
                    self.wait(cx, Turn::Write(id), cause);
                    return false;
                }
                Step::Called | Step::Over => return true,
            }
        }
    }

    fn write_step(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        let Some(write) = self.writes.get(&id) else { return Step::Over };
        if !write.locked || write.merging || write.sent.is_some() {
            return Step::Called;
        }
        if cx.now > write.deadline {
            return self.expire(cx, id);
        }
        // A linear volume's write that was begun ends, also when a stop is asked for.
        let service = if self.mirrored { self.service(cx.now) } else { Service::Alone };
        let may_begin = matches!(service, Service::Pair | Service::Alone)
            || (write.marked && service == Service::AloneReads);
        // One that has space reserved is on its way to stable media.
        let held = self.resting && !write.reserved && !cx.has(Bug::ClonedUnderWrites);
        if !may_begin || held {
            return Step::Wait(Cause::Service);
        }
        if let Some(found) = write.mismatch {
            return if self.answer_mismatch(cx, id, found) { Step::Over } else { Step::Next };
        }
        if !write.merged {
            return self.make_whole(cx, id);
        }
        if self.reaches_new_ground(cx, write.blocks(), write.reserved || write.zero, write.heated) {
            return Step::Wait(Cause::Whole);
        }
        if !write.reserved {
            return self.reserve_here(cx, id);
        }
        match (self.mirrored, service) {
            (false, _) => self.apply_linear(cx, id),
            (true, Service::Pair) => self.send_to_partner(cx, id),
            _ => self.apply_alone(cx, id),
        }
    }

    /// Reads what the first and last block hold where the write does not cover them; all, if it looks at what is there first.
    fn make_whole(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        let write = self.writes.get_mut(&id).expect("checked by the caller");
        if write.at.is_aligned() && !write.looks_first() {
            write.merged = true;
            return Step::Next;
        }
        let blocks = write.blocks();
        write.merging = true;
        let token = self.next_id();
        match cx.store.read(self.id, blocks, ReadToken(token)) {
            Read::Ready(old, version) => {
                self.merged(cx, id, Ok((old, version)));
                if self.writes.contains_key(&id) { Step::Next } else { Step::Over }
            }
            Read::Pending => {
                self.reading.insert(token, Reading::Merge { write: id });
                Step::Called
            }
        }
    }

    fn merged(&mut self, cx: &mut Context<'_>, id: u64, old: Result<(Payload, u64), GuestError>) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.merging = false;
        match old {
            Ok((old, version)) => {
                if !self.is_as_expected(id, &old, version) {
                    return;
                }
                let Some(write) = self.writes.get_mut(&id) else { return };
                let or = write.manner == Manner::Or;
                write.data = merge(cx.pages, write.at, or, write.zero, &write.data, &old);
                write.compare.clear();
                write.merged = true;
                write.zero = is_all_zero(&write.data);
                if write.zero {
                    write.data.clear();
                }
            }
            Err(error) => self.fail_write(cx, id, error),
        }
    }

    /// The blocks a write wanted to know are here.
    pub(super) fn merge_read(
        &mut self,
        cx: &mut Context<'_>,
        id: u64,
        old: Result<(Payload, u64), GuestError>,
    ) {
        self.merged(cx, id, old);
        self.advance(cx, id);
    }

    /// What the blocks held is to be read once more.
    pub(super) fn merge_again(&mut self, cx: &Context<'_>, id: u64) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.merging = false;
            // Nothing is to be durable first: with the next turn.
            self.wait(cx, Turn::Write(id), Cause::Log(Lsn(0)));
        }
    }

    fn reserve_here(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        let write = &self.writes[&id];
        let blocks = write.blocks();
        // Zeros need no space: where nothing is mapped nothing is written.
        if !write.zero && !cx.store.reserve(self.id, blocks.clone()) {
            return self.lacks_space(cx, id).map_or(Step::Over, |lsn| Step::Wait(Cause::Log(lsn)));
        }
        cx.store.promise(self.id, blocks);
        if let Some(write) = self.writes.get_mut(&id) {
            write.reserved = true;
        }
        Step::Next
    }

    /// A write found no space here: it waits for the record that frees what is on its way, or is over.
    fn lacks_space(&mut self, cx: &mut Context<'_>, id: u64) -> Option<Lsn> {
        let waits = cx.awaits_space(self.id, self.writes[&id].waits);
        match (waits, self.writes.get_mut(&id)) {
            (Some(_), Some(write)) => write.waits = waits,
            _ => self.fail_write(cx, id, GuestError::OutOfSpace),
        }
        waits
    }

    fn apply_linear(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        let Some((write, version)) = self.apply(cx, id) else { return Step::Wait(Cause::Room) };
        if let Origin::Guest(request) = write.origin {
            self.may_have_effect(request, write.manner);
            let (blocks, fua) = (write.blocks(), write.fua);
            self.acknowledge(cx, Held { request, blocks, version, fua });
        }
        Step::Over
    }

    fn send_to_partner(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        if !self.right.is_linked_pair() {
            return Step::Wait(Cause::Service);
        }
        let write = &self.writes[&id];
        let (blocks, heated) = (write.blocks(), write.heated);
        let count = blocks.end - blocks.start;
        if !heated {
            if !self.heat(cx, blocks.clone()) {
                return Step::Wait(Cause::Service);
            }
            self.writes.get_mut(&id).expect("still here").heated = true;
        }
        if let Some(lsn) = self.hot_pending(cx, blocks) {
            return Step::Wait(Cause::Log(lsn));
        }
        if !cx.take_window(Waiter::Volume(self.id, Turn::Write(id)), self.id, count) {
            return Step::Wait(Cause::Room);
        }
        self.last_order += 1;
        let order = self.last_order;
        self.sent.insert(order, id);
        self.blocks_in_flight += count;
        let write = self.writes.get_mut(&id).expect("still here");
        write.sent = Some(order);
        if let (Origin::Guest(request), manner) = (write.origin, write.manner) {
            self.may_have_effect(request, manner);
        }
        self.transmit(cx, id, order);
        if cx.has(Bug::AckBeforePartner) || cx.has(Bug::OwnerReadsUnacknowledged) {
            self.act_too_early(cx, id);
        }
        Step::Called
    }

    /// Two planted bugs: answer, or show, what the partner does not have yet.
    fn act_too_early(&mut self, cx: &mut Context<'_>, id: u64) {
        let (answers, shows) = (cx.has(Bug::AckBeforePartner), cx.has(Bug::OwnerReadsUnacknowledged));
        let Some(write) = self.writes.get_mut(&id) else { return };
        let (origin, range, zero, data) = (write.origin, write.blocks(), write.zero, write.data.clone());
        write.answered |= answers;
        if shows {
            cx.put(self.id, range.clone(), zero, &data);
        }
        if let (true, Origin::Guest(request)) = (answers, origin) {
            self.complete(cx, request, Ok(Payload::new()));
        }
    }

    /// Sends a write to the partner; again after a link was lost.
    fn transmit(&self, cx: &mut Context<'_>, id: u64, order: u64) {
        let write = &self.writes[&id];
        let range = write.blocks();
        let origin = match write.origin {
            Origin::Partner(number) => Some(number),
            Origin::Guest(_) => None,
        };
        // The partner has the payload of its own write, unless this node had to complete its blocks, or set bits in them.
        let whole = write.at.is_aligned() && write.manner != Manner::Or;
        let carried = !write.zero && (origin.is_none() || !whole);
        let body = Body::Write {
            epoch: self.right.epoch,
            volume: self.id,
            order,
            first: range.start,
            blocks: (range.end - range.start) as u32,
            zero: write.zero,
            carried,
            origin,
        };
        let data = if carried { write.data.clone() } else { Payload::new() };
        self.send(cx, Message { body, data });
    }

    /// The link is back within the lease: everything that was not answered goes out again, in order.
    pub(super) fn resend_writes(&self, cx: &mut Context<'_>) {
        for (&order, &id) in &self.sent {
            self.transmit(cx, id, order);
        }
    }

    /// The partner has the write in its cache, or has no space for it.
    pub(in crate::node) fn write_done(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        order: u64,
        stored: bool,
    ) {
        let counts = matches!(self.right.place, Place::Pair | Place::Undecided);
        if !counts || self.right.epoch != epoch {
            return;
        }
        let Some(id) = self.sent.remove(&order) else { return };
        let range = self.writes[&id].blocks();
        self.came_back(cx, range.end - range.start);
        if !stored {
            self.unsend(id);
            self.partner_lacks_space(cx, id);
            return;
        }
        let (write, version) = self.apply_reserved(cx, id);
        self.note_hot(cx, range, order, version);
        let Origin::Guest(request) = write.origin else { return };
        if write.answered {
            return;
        }
        self.acknowledge_in_pair(cx, Held { request, blocks: write.blocks(), version, fua: write.fua });
    }

    /// These blocks are not with the partner any more.
    fn came_back(&mut self, cx: &mut Context<'_>, blocks: u64) {
        self.blocks_in_flight -= blocks;
        cx.room.came_back(blocks);
    }

    /// The pair has ended: nothing is with the partner any more.
    pub(super) fn all_came_back(&mut self, cx: &mut Context<'_>) {
        self.sent.clear();
        self.came_back(cx, self.blocks_in_flight);
    }

    /// The partner has no space for a write that this node ordered: refused, or done without the partner. It leaves the
    /// pair in the ordinary way, so that whoever decides about lost partners decides about this one too. It asks before
    /// the partner knows; should the partner win nevertheless, the write is answered as retryable, and refused there.
    fn partner_lacks_space(&mut self, cx: &mut Context<'_>, id: u64) {
        let degrades = self.right.drops_full_partner;
        let from_here = matches!(self.writes[&id].origin, Origin::Guest(_));
        let left = self.right.place == Place::Undecided && degrades && from_here;
        if degrades && self.service(cx.now) == Service::Pair && !self.right.stopping {
            // A write of the partner's guest ends with the pair: the guest asks again, here.
            self.wait(cx, Turn::Write(id), Cause::Service);
            cx.told.push_back((self.id, Told::PartnerFull));
        } else if left {
            self.wait(cx, Turn::Write(id), Cause::Service);
        } else {
            self.fail_write(cx, id, GuestError::OutOfSpace);
        }
    }

    /// The write is in the cache of every node that counts: answer, or flush first if it asked for that.
    pub(super) fn acknowledge(&mut self, cx: &mut Context<'_>, held: Held) {
        if held.fua {
            self.begin_flush(cx, Flusher::Guest(held.request));
        } else {
            self.complete(cx, held.request, Ok(Payload::new()));
        }
    }

    /// The same in a pair, where the answer is held while the right to serve is open.
    pub(super) fn acknowledge_in_pair(&mut self, cx: &mut Context<'_>, held: Held) {
        if self.lease_runs(cx) {
            self.acknowledge(cx, held);
        } else {
            self.held.push(held);
        }
    }

    fn apply_alone(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        let write = &self.writes[&id];
        let (blocks, marked) = (write.blocks(), write.marked);
        if !marked {
            self.mark(cx, blocks.clone());
            self.writes.get_mut(&id).expect("still here").marked = true;
        }
        if let Some(lsn) = self.mark_pending(cx, blocks) {
            return Step::Wait(Cause::Log(lsn));
        }
        let Some((write, version)) = self.apply(cx, id) else { return Step::Wait(Cause::Room) };
        self.send_fresh(cx, write.blocks(), &write.data, write.zero);
        if let (Origin::Guest(request), false) = (write.origin, write.answered) {
            self.may_have_effect(request, write.manner);
            if cx.has(Bug::AckBeforeStable) {
                self.complete(cx, request, Ok(Payload::new()));
            } else {
                self.settle(request, write.blocks(), version, Ok(Payload::new()));
            }
        }
        Step::Over
    }

    /// Answers when that version of the blocks is stable.
    pub(super) fn settle(
        &mut self,
        request: RequestId,
        blocks: Range<u64>,
        version: u64,
        result: GuestResult,
    ) {
        self.settling.push(Settling { request, blocks, version, result });
    }

    /// Puts a write into the cache if there is room and it is its turn; it is over then.
    fn apply(&mut self, cx: &mut Context<'_>, id: u64) -> Option<(Write, u64)> {
        let range = self.writes[&id].blocks();
        self.take_room(cx, Turn::Write(id), range.end - range.start).then(|| self.apply_reserved(cx, id))
    }

    fn apply_reserved(&mut self, cx: &mut Context<'_>, id: u64) -> (Write, u64) {
        let write = self.writes.remove(&id).expect("a write is applied once");
        let version = cx.put(self.id, write.blocks(), write.zero, &write.data);
        self.release(cx, id, &write);
        (write, version)
    }

    /// Gives back what a write held: its promise of space, its areas, its lock.
    fn release(&mut self, cx: &mut Context<'_>, id: u64, write: &Write) {
        if write.reserved {
            cx.store.redeem(self.id, write.blocks());
        }
        if write.heated {
            self.cool_down(cx, write.blocks());
        }
        if write.marked {
            self.unmark(cx, write.blocks());
        }
        let granted = match write.locked {
            true => self.lock.release(write.blocks().start, id),
            false => self.lock.forget(id),
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
    pub(super) fn drop_write(&mut self, cx: &mut Context<'_>, id: u64) -> Option<Write> {
        let write = self.writes.remove(&id)?;
        if let Some(order) = write.sent
            && self.sent.remove(&order).is_some()
        {
            self.came_back(cx, write.blocks().end - write.blocks().start);
        }
        self.release(cx, id, &write);
        if write.reserved {
            cx.store.unreserve(self.id, write.blocks());
        }
        Some(write)
    }

    pub(super) fn fail_write(&mut self, cx: &mut Context<'_>, id: u64, error: GuestError) {
        let Some(write) = self.drop_write(cx, id) else { return };
        match write.origin {
            Origin::Guest(request) if !write.answered => self.refuse(cx, request, error),
            Origin::Guest(_) => {}
            Origin::Partner(number) if self.right.is_pair() => {
                let epoch = self.right.epoch;
                self.say(cx, Control::ForwardRefused { epoch, id: number, error });
            }
            Origin::Partner(_) => {}
        }
    }

    /// The volume is deleted: what has not been sent or logged is not done any more.
    pub(super) fn give_up_writes(&mut self, cx: &mut Context<'_>) {
        let idle = |write: &Write| write.sent.is_none() && !write.marked && !write.merging;
        let idle = self.writes.iter().filter(|(_, write)| idle(write));
        for id in idle.map(|(&id, _)| id).collect::<Vec<_>>().into_iter().rev() {
            self.fail_write(cx, id, GuestError::Gone);
        }
    }

    fn expire(&mut self, cx: &mut Context<'_>, id: u64) -> Step {
        self.fail_write(cx, id, GuestError::Transitioning);
        Step::Over
    }

    fn unsend(&mut self, id: u64) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.sent = None;
        if let Origin::Guest(request) = write.origin {
            self.had_no_effect(request);
        }
    }

    /// The blocks of the write that has this place in the order, if it is with the partner.
    pub(in crate::node) fn blocks_sent(&self, order: u64) -> u64 {
        let write = self.sent.get(&order).and_then(|id| self.writes.get(id));
        write.map_or(0, |write| write.blocks().end - write.blocks().start)
    }

    /// The blocks of writes that the partner may or may not have.
    pub(in crate::node) fn sent_blocks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.writes.values().filter(|write| write.sent.is_some()).map(Write::blocks)
    }

    /// Alone now, or never again in the pair: what was sent to the partner is kept, a reader there may have seen it.
    pub(in crate::node) fn keep_sent_writes(&mut self, cx: &mut Context<'_>) {
        self.all_came_back(cx);
        let sent: Vec<u64> =
            self.writes.iter().filter(|(_, write)| write.sent.is_some()).map(|(&id, _)| id).collect();
        for id in sent {
            if cx.has(Bug::PendingDroppedAtTakeover) {
                let answer = self.drop_write(cx, id).map(|write| write.origin);
                if let Some(Origin::Guest(request)) = answer {
                    self.complete(cx, request, Ok(Payload::new()));
                }
                continue;
            }
            // Their regions were logged with the record; visible before any read is answered.
            let (write, version) = self.apply_reserved(cx, id);
            if let (Origin::Guest(request), false) = (write.origin, write.answered) {
                self.settle(request, write.blocks(), version, Ok(Payload::new()));
            }
        }
    }

    /// Those whose turn for a lock has come go on.
    pub(super) fn wake_granted(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(next) = self.granted.pop_front() {
            moved = true;
            if next.shared {
                self.read_granted(cx, next.id);
            } else {
                self.advance(cx, next.id);
            }
        }
        moved
    }

    pub(super) fn abort_write(&mut self, cx: &mut Context<'_>, id: u64, request: RequestId) {
        let write = &self.writes[&id];
        if write.sent.is_none() && !write.marked && !write.merging {
            self.drop_write(cx, id);
            self.refuse(cx, request, GuestError::Aborted);
        }
    }

    /// Writes that were not sent are dropped; those that were are kept while it is undecided who goes on, but nobody
    /// waits for them any more.
    pub(super) fn refuse_writes(&mut self, cx: &mut Context<'_>, error: GuestError) {
        let keep_sent = self.right.place == Place::Undecided;
        for id in self.writes.keys().copied().collect::<Vec<_>>().into_iter().rev() {
            let Some(write) = self.writes.get_mut(&id) else { continue };
            let (origin, answered) = (write.origin, core::mem::replace(&mut write.answered, true));
            if !(keep_sent && write.sent.is_some()) {
                self.drop_write(cx, id);
            }
            if let (Origin::Guest(request), false) = (origin, answered) {
                self.refuse(cx, request, error);
            }
        }
    }
}
