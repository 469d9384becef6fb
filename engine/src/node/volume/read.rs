//! Reads. In a pair both nodes answer from what they have: the partner at once, the owner once no write that
//! the partner may lack overlaps. Alone, an answer waits until what it says is stable.
//!
//! A read that began in another term is judged again: the right to answer may be gone.

use core::ops::Range;

use super::Volume;
use super::context::Context;
use super::op::{Reading, Settling};
use super::right::{Place, Service};
use crate::block::Payload;
use crate::guest::{Command, GuestError, Sectors};
use crate::ids::{Epoch, RequestId};
use crate::mirror::message::{Body, Control, Message};
use crate::planted::Bug;
use crate::store::{Damaged, Read, ReadDone, ReadToken};

impl Volume {
    pub(super) fn begin_read(&mut self, cx: &mut Context<'_>, request: RequestId, at: Sectors) {
        let term = self.right.term;
        self.begin_reading(cx, Reading::Guest { request, at, term }, at.blocks());
    }

    fn begin_reading(&mut self, cx: &mut Context<'_>, reading: Reading, blocks: Range<u64>) {
        let id = self.next_id();
        self.reading.insert(id, reading);
        if self.may_read(cx, id, blocks.clone()) {
            self.fetch(cx, id, blocks);
        }
    }

    /// Must the read wait for writes that the partner may lack?
    fn may_read(&mut self, cx: &Context<'_>, id: u64, blocks: Range<u64>) -> bool {
        let waits = self.right.is_pair() && self.mirrored && self.owner == cx.me();
        !waits || cx.has(Bug::OwnerReadsUnacknowledged) || self.lock.pass(blocks, id)
    }

    /// The write it waited for is over.
    pub(super) fn read_granted(&mut self, cx: &mut Context<'_>, id: u64) {
        let blocks = match self.reading.get(&id) {
            Some(Reading::Guest { at, .. }) => at.blocks(),
            Some(Reading::Partner { blocks, .. }) => blocks.clone(),
            _ => return,
        };
        self.fetch(cx, id, blocks);
    }

    fn fetch(&mut self, cx: &mut Context<'_>, id: u64, blocks: Range<u64>) {
        if let Read::Ready(data, version) = cx.store.read(self.id, blocks, ReadToken(id)) {
            self.finish_read(cx, id, Ok((data, version)));
        }
    }

    pub(in crate::node) fn read_done(&mut self, cx: &mut Context<'_>, done: ReadDone) {
        self.finish_read(cx, done.token.0, done.result);
    }

    fn finish_read(&mut self, cx: &mut Context<'_>, id: u64, result: Result<(Payload, u64), Damaged>) {
        let Some(reading) = self.reading.remove(&id) else { return };
        match (reading, result) {
            (Reading::Region { region }, result) => {
                self.region_read(cx, region, id, result.ok().map(|(data, _)| data));
            }
            (Reading::Partner { ask, term, .. }, result) => {
                if term == self.right.term {
                    let result = result.map(|(data, _)| data).map_err(|_| GuestError::Medium);
                    self.reply_partner(cx, ask, result);
                }
            }
            (Reading::Merge { write }, Ok(found)) => self.merge_read(cx, write, Ok(found)),
            (Reading::Guest { request, at, term }, Ok((data, version))) => {
                self.answer_read(cx, request, at, term, data, version);
            }
            (Reading::Scrub { blocks }, Ok(_)) => self.scrubbed(cx, blocks),
            (reading, Err(damaged)) => self.mend(cx, reading, damaged),
        }
    }

    pub(super) fn answer_read(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        at: Sectors,
        term: u64,
        data: Payload,
        version: u64,
    ) {
        if !self.mirrored {
            self.complete(cx, id, Ok(data));
            return;
        }
        if term != self.right.term {
            self.guest(cx, id, Command::Read { at });
            return;
        }
        match self.service(cx.now) {
            Service::Pair => self.complete(cx, id, Ok(data)),
            Service::Alone | Service::AloneReads => {
                let blocks = at.blocks();
                let stable = version == 0 || cx.store.is_stable(self.id, blocks.clone(), version);
                if stable || cx.has(Bug::ReadUnstableAlone) {
                    self.complete(cx, id, Ok(data));
                } else {
                    self.settle(id, blocks, version, Ok(data));
                }
            }
            Service::Hold | Service::Refuse => self.guest(cx, id, Command::Read { at }),
        }
    }

    /// The partner cannot read these blocks; it asks as a guest would.
    pub(in crate::node) fn read_asked(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        ask: u64,
        blocks: Range<u64>,
    ) {
        if !self.right.is_pair_of(epoch) || blocks.is_empty() {
            return;
        }
        if !self.mirrored || blocks.end > self.blocks() || blocks.end - blocks.start > 4096 {
            self.reply_partner(cx, ask, Err(GuestError::Invalid));
            return;
        }
        let term = self.right.term;
        self.begin_reading(cx, Reading::Partner { ask, blocks: blocks.clone(), term }, blocks);
    }

    fn reply_partner(&mut self, cx: &mut Context<'_>, id: u64, result: Result<Payload, GuestError>) {
        if !self.right.is_pair() {
            return;
        }
        let epoch = self.right.epoch;
        let (error, data) = match result {
            Ok(data) => (None, data),
            Err(error) => (Some(error), Payload::new()),
        };
        self.send(cx, Message { body: Body::Control(Control::ReadReply { epoch, id, error }), data });
    }

    pub(super) fn refuse_reads(&mut self, cx: &mut Context<'_>, error: GuestError) {
        let guests = self.reading.iter().filter(|(_, reading)| matches!(reading, Reading::Guest { .. }));
        for id in guests.map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(Reading::Guest { request, .. }) = self.reading.remove(&id) {
                let granted = self.lock.forget(id);
                self.grant(granted);
                self.refuse(cx, request, error);
            }
        }
        self.refuse_mends(cx, error);
    }

    /// Answers what has become stable.
    pub(super) fn wake_settled(&mut self, cx: &mut Context<'_>) -> bool {
        if self.settling.is_empty() || self.right.place != Place::Alone {
            return false;
        }
        let waiting = core::mem::take(&mut self.settling);
        let before = waiting.len();
        for settling in waiting {
            let Settling { request, blocks, version, result } = settling;
            if cx.store.is_stable(self.id, blocks.clone(), version) {
                self.complete(cx, request, result);
            } else {
                self.settle(request, blocks, version, result);
            }
        }
        self.settling.len() < before
    }
}
