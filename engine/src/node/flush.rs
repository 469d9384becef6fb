//! SYNCHRONIZE CACHE and FUA: everything up to here is stable on both nodes, or on the survivor, which has
//! durably outdated the other.

use super::Node;
use super::op::{Flush, Flusher};
use super::phase::Phase;
use crate::block::Payload;
use crate::guest::GuestError;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::Control;
use crate::planted::Bug;

impl Node {
    pub(super) fn begin_flush(&mut self, for_whom: Flusher, volume: VolumeId) {
        let id = self.next_id();
        let version = self.store().version(volume);
        self.store_mut().urge();
        let misses = self.has(Bug::FlushMissesUnconfirmed) && matches!(for_whom, Flusher::Guest(_));
        let after_order = self.volumes.get(&volume).filter(|_| !misses).map(|state| state.last_order);
        let local = matches!(for_whom, Flusher::Partner(_)) || !self.volumes[&volume].mirrored;
        self.flushes
            .insert(id, Flush { for_whom, volume, version, after_order, partner_done: local, asked: false });
        self.ask_flush(id);
    }

    fn ask_flush(&mut self, id: u64) {
        let Phase::Paired(pair) = &self.phase else { return };
        let epoch = pair.epoch;
        if self.link.is_none() || pair.link_lost.is_some() {
            return;
        }
        let Some(flush) = self.flushes.get_mut(&id) else { return };
        if flush.partner_done || flush.asked {
            return;
        }
        flush.asked = true;
        let volume = flush.volume;
        self.say(Control::FlushAsk { epoch, id, volume });
    }

    pub(super) fn resend_flushes(&mut self) {
        let ids: Vec<u64> = self.flushes.keys().copied().collect();
        for id in ids {
            self.ask_flush(id);
        }
    }

    pub(super) fn flush_asked(&mut self, epoch: Epoch, id: u64, volume: VolumeId) {
        let in_epoch = matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch);
        if in_epoch && self.volumes.contains_key(&volume) {
            self.begin_flush(Flusher::Partner(id), volume);
        }
    }

    pub(super) fn partner_flushed(&mut self, epoch: Epoch, id: u64) {
        if matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch)
            && let Some(flush) = self.flushes.get_mut(&id)
        {
            flush.partner_done = true;
        }
    }

    /// The partner may have acknowledged writes whose confirmation is still on its way here: they come first, whoever asks.
    /// At takeover they are in the cache before this is asked.
    fn flush_begins(&mut self, id: u64) -> bool {
        let Some(volume) = self.flushes.get(&id).map(|flush| flush.volume) else { return false };
        let version = self.store().version(volume);
        let Some(flush) = self.flushes.get_mut(&id) else { return false };
        let Some(order) = flush.after_order else { return true };
        let sent = self.volumes.get(&flush.volume).and_then(|state| state.sent.first_key_value());
        if sent.is_some_and(|(&first, _)| first <= order) {
            return false;
        }
        (flush.after_order, flush.version) = (None, version);
        self.store_mut().urge();
        true
    }

    pub(super) fn wake_flushes(&mut self) -> bool {
        if self.flushes.is_empty() {
            return false;
        }
        let alone = matches!(self.phase, Phase::Alone(_));
        let ids: Vec<u64> = self.flushes.keys().copied().collect();
        let before = ids.len();
        for id in ids {
            if !self.flush_begins(id) {
                continue;
            }
            let Some(flush) = self.flushes.get(&id) else { continue };
            let here = self.store().stable_through(flush.volume) >= flush.version;
            let (for_whom, partner_done) = (flush.for_whom, flush.partner_done || alone);
            if !here || !partner_done {
                continue;
            }
            let mirrored = self.volumes[&flush.volume].mirrored;
            match for_whom {
                Flusher::Guest(request) => {
                    if mirrored && !alone && !self.lease_runs() {
                        continue;
                    }
                    self.flushes.remove(&id);
                    self.complete(request, Ok(Payload::new()));
                }
                Flusher::Partner(ask) => {
                    self.flushes.remove(&id);
                    if let Phase::Paired(pair) = &self.phase {
                        let epoch = pair.epoch;
                        self.say(Control::FlushDone { epoch, id: ask });
                    }
                }
            }
        }
        self.flushes.len() < before
    }

    pub(super) fn refuse_flushes(&mut self, volumes: &[VolumeId], error: GuestError) {
        let ids: Vec<u64> = self
            .flushes
            .iter()
            .filter(|(_, flush)| volumes.contains(&flush.volume))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            let Some(flush) = self.flushes.remove(&id) else { continue };
            if let Flusher::Guest(request) = flush.for_whom {
                self.refuse(request, error);
            }
        }
    }
}
