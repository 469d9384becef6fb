//! Reads. In a pair both nodes answer from what they have: the partner at once, the owner once no write that
//! the partner may lack overlaps. Alone, an answer waits until what it says is stable.
//!
//! A read that began in another term is judged again: the right to answer may be gone.

use core::ops::Range;

use super::Node;
use super::membership::Service;
use super::op::{Reading, Settling};
use super::phase::Phase;
use crate::block::Payload;
use crate::guest::{Command, GuestError, Sectors};
use crate::ids::{Epoch, RequestId, VolumeId};
use crate::mirror::message::{Body, Control, Message};
use crate::planted::Bug;
use crate::store::{Damaged, Read, ReadDone, ReadToken};

impl Node {
    pub(super) fn begin_read(&mut self, request: RequestId, volume: VolumeId, at: Sectors) {
        let id = self.next_id();
        let term = self.term;
        self.reading.insert(id, Reading::Guest { request, volume, at, term });
        if self.may_read(id, volume, at.blocks()) {
            self.fetch(id, volume, at.blocks());
        }
    }

    /// Must the read wait for writes that the partner may lack?
    fn may_read(&mut self, id: u64, volume: VolumeId, blocks: Range<u64>) -> bool {
        let (me, bug) = (self.me(), self.has(Bug::OwnerReadsUnacknowledged));
        let paired = matches!(self.phase, Phase::Paired(_));
        let Some(state) = self.volumes.get_mut(&volume) else { return false };
        if !paired || !state.mirrored || state.owner != me || bug {
            return true;
        }
        state.lock.pass(blocks, id)
    }

    /// The write it waited for is over.
    pub(super) fn read_granted(&mut self, id: u64) {
        match self.reading.get(&id) {
            Some(Reading::Guest { volume, at, .. }) => {
                let (volume, blocks) = (*volume, at.blocks());
                self.fetch(id, volume, blocks);
            }
            Some(Reading::Partner { volume, blocks, .. }) => {
                let (volume, blocks) = (*volume, blocks.clone());
                self.fetch(id, volume, blocks);
            }
            _ => {}
        }
    }

    fn fetch(&mut self, id: u64, volume: VolumeId, blocks: Range<u64>) {
        if let Read::Ready(data, version) = self.store_mut().read(volume, blocks, ReadToken(id)) {
            self.finish_read(id, Ok((data, version)));
        }
    }

    pub(super) fn read_done(&mut self, done: ReadDone) {
        self.finish_read(done.token.0, done.result);
    }

    fn finish_read(&mut self, id: u64, result: Result<(Payload, u64), Damaged>) {
        let Some(reading) = self.reading.remove(&id) else { return };
        match (reading, result) {
            (Reading::Region { volume, region, link }, result) => {
                self.region_read(volume, region, link, result.ok().map(|(data, _)| data));
            }
            (Reading::Partner { ask, term, .. }, result) => self.answer_partner(ask, term, result),
            (Reading::Merge { write }, Ok((data, _))) => self.merge_read(write, Ok(data)),
            (Reading::Guest { request, volume, at, term }, Ok((data, version))) => {
                self.answer_read(request, volume, at, term, data, version);
            }
            (Reading::Scrub { volume, blocks }, Ok(_)) => self.scrubbed(volume, blocks),
            (reading, Err(damaged)) => self.mend(reading, damaged),
        }
    }

    pub(super) fn answer_read(
        &mut self,
        id: RequestId,
        volume: VolumeId,
        at: Sectors,
        term: u64,
        data: Payload,
        version: u64,
    ) {
        let mirrored = self.volumes[&volume].mirrored;
        if !mirrored {
            self.complete(id, Ok(data));
            return;
        }
        if term != self.term {
            self.guest(id, volume, Command::Read { at });
            return;
        }
        match self.service() {
            Service::Pair => self.complete(id, Ok(data)),
            Service::Alone | Service::AloneReads => {
                let blocks = at.blocks();
                let stable = version == 0 || self.store().is_stable(volume, blocks.clone(), version);
                if stable || self.has(Bug::ReadUnstableAlone) {
                    self.complete(id, Ok(data));
                } else {
                    self.settling.push(Settling { request: id, volume, blocks, version, result: data });
                }
            }
            Service::Hold | Service::Refuse => self.guest(id, volume, Command::Read { at }),
        }
    }

    /// The partner cannot read these blocks; it asks as a guest would.
    pub(super) fn read_asked(&mut self, epoch: Epoch, ask: u64, volume: VolumeId, blocks: Range<u64>) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) || blocks.is_empty() {
            return;
        }
        let fits = self.volumes.get(&volume).is_some_and(|state| {
            state.mirrored && blocks.end <= state.sectors.div_ceil(8) && blocks.end - blocks.start <= 4096
        });
        if !fits {
            self.reply_partner(ask, Err(GuestError::Invalid));
            return;
        }
        let id = self.next_id();
        let term = self.term;
        self.reading.insert(id, Reading::Partner { ask, volume, blocks: blocks.clone(), term });
        if self.may_read(id, volume, blocks.clone()) {
            self.fetch(id, volume, blocks);
        }
    }

    fn answer_partner(&mut self, ask: u64, term: u64, result: Result<(Payload, u64), Damaged>) {
        if term == self.term {
            self.reply_partner(ask, result.map(|(data, _)| data).map_err(|_| GuestError::Medium));
        }
    }

    fn reply_partner(&mut self, id: u64, result: Result<Payload, GuestError>) {
        let Phase::Paired(pair) = &self.phase else { return };
        let epoch = pair.epoch;
        let (error, data) = match result {
            Ok(data) => (None, data),
            Err(error) => (Some(error), Payload::new()),
        };
        self.send(Message { body: Body::Control(Control::ReadReply { epoch, id, error }), data });
    }

    pub(super) fn refuse_reads(&mut self, volumes: &[VolumeId], error: GuestError) {
        let ids: Vec<u64> = self
            .reading
            .iter()
            .filter(
                |(_, reading)| matches!(reading, Reading::Guest { volume, .. } if volumes.contains(volume)),
            )
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            if let Some(Reading::Guest { request, volume, .. }) = self.reading.remove(&id) {
                if let Some(state) = self.volumes.get_mut(&volume) {
                    let granted = state.lock.forget(id);
                    self.grant(granted);
                }
                self.refuse(request, error);
            }
        }
        self.refuse_mends(error);
    }

    /// Answers what has become stable.
    pub(super) fn wake_settled(&mut self) -> bool {
        if self.settling.is_empty() {
            return false;
        }
        let waiting = core::mem::take(&mut self.settling);
        let before = waiting.len();
        for settling in waiting {
            let alone = matches!(self.phase, Phase::Alone(_));
            let stable = self.store().is_stable(settling.volume, settling.blocks.clone(), settling.version);
            if alone && stable {
                self.complete(settling.request, Ok(settling.result));
            } else {
                self.settling.push(settling);
            }
        }
        self.settling.len() < before
    }
}
