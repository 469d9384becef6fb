//! The hot set: areas in which the halves may differ right now.
//!
//! Invariants: an area is hot, durably, on a node before a write to it is applied there. It cools only when no
//! write to it is in flight and both nodes have flushed what it holds; the owner decides. Cooling is lazy and in
//! batches: a working set that fits costs no I/O.

use super::Node;
use super::op::HotArea;
use super::phase::Phase;
use crate::ids::{Epoch, NodeName, VolumeId};
use crate::mirror::message::Control;
use crate::planted::Bug;
use crate::pool::{Lsn, Record};
use crate::time::{Duration, Instant};

/// How often the partner tells how far it is stable.
const STABLE_EVERY: Duration = Duration::from_millis(50);

impl Node {
    fn areas(&self, blocks: core::ops::Range<u64>) -> core::ops::RangeInclusive<u32> {
        let size = self.config.mirror.area_blocks;
        (blocks.start / size) as u32..=((blocks.end - 1) / size) as u32
    }

    /// Makes the areas of a write hot and counts it as in flight in them. False if the hot set is full for now.
    pub(super) fn heat(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) -> bool {
        let areas = self.areas(blocks);
        let (now, most) = (self.now, self.config.mirror.hot_areas_max);
        let state = self.volumes.get_mut(&volume).expect("a write is for a volume");
        let missing: Vec<u32> = areas.clone().filter(|area| !state.hot.contains_key(area)).collect();
        if !missing.is_empty() {
            let is_owner = state.owner == self.config.name;
            // Room is made in `cool`; the partner follows the owner.
            if is_owner && state.hot.len() + missing.len() > most.max(missing.len()) * 2 {
                self.store_mut().urge();
                return false;
            }
            let records: Vec<Record> = missing.iter().map(|&area| Record::HotAdd { volume, area }).collect();
            let lsn = self.append(&records);
            let state = self.volumes.get_mut(&volume).expect("as above");
            for area in missing {
                let fresh = HotArea { lsn, in_flight: 0, last_order: 0, last_version: 0, last_use: now };
                state.hot.insert(area, fresh);
            }
        }
        let state = self.volumes.get_mut(&volume).expect("as above");
        for area in areas {
            let hot = state.hot.get_mut(&area).expect("hot by now");
            hot.in_flight += 1;
            hot.last_use = now;
        }
        true
    }

    /// The record that must be durable before a write to these hot blocks; `None` if all are.
    pub(super) fn hot_pending(&self, volume: VolumeId, blocks: core::ops::Range<u64>) -> Option<Lsn> {
        let durable = self.store().durable();
        let state = &self.volumes[&volume];
        let lsn = self.areas(blocks).filter_map(|area| state.hot.get(&area).map(|hot| hot.lsn)).max();
        lsn.filter(|&lsn| lsn > durable)
    }

    /// A write that was counted is over.
    pub(super) fn cool_down(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>) {
        let areas = self.areas(blocks);
        let Some(state) = self.volumes.get_mut(&volume) else { return };
        for area in areas {
            if let Some(hot) = state.hot.get_mut(&area) {
                hot.in_flight = hot.in_flight.saturating_sub(1);
            }
        }
    }

    /// The last write of these areas is this one.
    pub(super) fn note_hot(
        &mut self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
        order: u64,
        version: u64,
    ) {
        let areas = self.areas(blocks);
        let Some(state) = self.volumes.get_mut(&volume) else { return };
        for area in areas {
            if let Some(hot) = state.hot.get_mut(&area) {
                hot.last_order = hot.last_order.max(order);
                hot.last_version = hot.last_version.max(version);
            }
        }
    }

    /// Owner: lets areas cool that are idle, or the longest unused if there are too many.
    pub(super) fn cool(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        if self.now < self.cool_at || self.link.is_none() || pair.link_lost.is_some() {
            return;
        }
        self.cool_at = self.now + STABLE_EVERY;
        let (epoch, me) = (pair.epoch, self.config.name);
        let owned: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.mirrored && volume.owner == me && !volume.hot.is_empty())
            .map(|(&id, _)| id)
            .collect();
        for volume in owned {
            self.cool_volume(epoch, volume);
        }
    }

    fn cool_volume(&mut self, epoch: Epoch, volume: VolumeId) {
        let unflushed = self.has(Bug::CooledUnflushed);
        let stable = self.store().stable_through(volume);
        let (now, mirror) = (self.now, self.config.mirror);
        let state = &self.volumes[&volume];
        let excess = state.hot.len().saturating_sub(mirror.hot_areas_max);
        let may = |hot: &HotArea| {
            hot.in_flight == 0
                && (unflushed || (hot.last_version <= stable && hot.last_order <= state.partner_stable))
        };
        let mut candidates: Vec<(Instant, u32)> = state
            .hot
            .iter()
            .filter(|(_, hot)| may(hot) && (excess > 0 || now >= hot.last_use + mirror.hot_idle))
            .map(|(&area, hot)| (hot.last_use, area))
            .collect();
        candidates.sort_unstable();
        // Some more than needed at once, so that the next cold write need not wait for a log write again.
        let wanted = excess + mirror.hot_areas_max / 8;
        let idle = candidates.iter().filter(|(last, _)| now >= *last + mirror.hot_idle).count();
        let keep = if excess > 0 { wanted.max(idle) } else { idle };
        candidates.truncate(keep);
        if candidates.is_empty() {
            if excess > 0 {
                self.store_mut().urge();
            }
            return;
        }
        let areas: Vec<u32> = candidates.into_iter().map(|(_, area)| area).collect();
        self.forget_hot(volume, &areas);
        self.say(Control::Cool { epoch, volume, areas });
    }

    fn forget_hot(&mut self, volume: VolumeId, areas: &[u32]) {
        let records: Vec<Record> = areas.iter().map(|&area| Record::HotRemove { volume, area }).collect();
        self.append(&records);
        self.waiting.cooled += 1;
        let Some(state) = self.volumes.get_mut(&volume) else { return };
        for area in areas {
            state.hot.remove(area);
        }
    }

    /// Partner: the owner says that these areas are equal and stable on both.
    pub(super) fn cooled(&mut self, epoch: Epoch, volume: VolumeId, areas: Vec<u32>) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        let me = self.me();
        let Some(state) = self.volumes.get(&volume).filter(|state| state.owner != me) else { return };
        let idle: Vec<u32> = areas
            .into_iter()
            .filter(|area| state.hot.get(area).is_some_and(|hot| hot.in_flight == 0))
            .collect();
        self.forget_hot(volume, &idle);
    }

    /// Owner: the link is back; the partner may have missed what cooled.
    pub(super) fn tell_hot(&mut self, epoch: Epoch) {
        let me = self.me();
        let owned: Vec<(VolumeId, Vec<u32>)> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.mirrored && volume.owner == me)
            .map(|(&id, volume)| (id, volume.hot.keys().copied().collect()))
            .collect();
        for (volume, areas) in owned {
            self.say(Control::Hot { epoch, volume, areas });
        }
    }

    /// Partner: areas that the owner does not name have cooled.
    pub(super) fn only_hot(&mut self, epoch: Epoch, volume: VolumeId, areas: &[u32]) {
        let Some(state) = self.volumes.get(&volume) else { return };
        let cold = state.hot.keys().copied().filter(|area| areas.binary_search(area).is_err()).collect();
        self.cooled(epoch, volume, cold);
    }

    /// Partner: tells the owner how far it is stable, now and then.
    pub(super) fn report_stable(&mut self) {
        let Phase::Paired(pair) = &self.phase else { return };
        let linked = self.link.is_some() && pair.link_lost.is_none();
        if self.now < self.stable_sent_at + STABLE_EVERY || !linked {
            return;
        }
        let (epoch, me) = (pair.epoch, self.config.name);
        self.stable_sent_at = self.now;
        let mut told = Vec::new();
        for (&id, volume) in
            self.volumes.iter_mut().filter(|(_, volume)| volume.mirrored && volume.owner != me)
        {
            let stable = self.store.as_ref().expect("the pool is open").stable_through(id);
            while let Some(&(order, Some(version))) = volume.applied.front()
                && version <= stable
            {
                volume.stable_known = order;
                volume.applied.pop_front();
            }
            if volume.stable_known > volume.stable_told {
                volume.stable_told = volume.stable_known;
                told.push((id, volume.stable_known));
            }
        }
        for (volume, order) in told {
            self.say(Control::Stable { epoch, volume, order });
        }
    }

    /// Partner: the link is back; the owner may have missed how far this node is stable.
    pub(super) fn tell_stable_again(&mut self) {
        if self.has(Bug::StableNotRepeated) {
            return;
        }
        let me = self.me();
        self.volumes
            .values_mut()
            .filter(|volume| volume.owner != me)
            .for_each(|volume| volume.stable_told = 0);
    }

    pub(super) fn partner_stable(&mut self, epoch: Epoch, volume: VolumeId, order: u64) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        if let Some(state) = self.volumes.get_mut(&volume) {
            state.partner_stable = state.partner_stable.max(order);
        }
    }

    /// When the partner has something to tell, or an area may have become idle.
    pub(super) fn hot_deadline(&self) -> Option<Instant> {
        // What cannot be told needs no waking.
        let Phase::Paired(pair) = &self.phase else { return None };
        if self.link.is_none() || pair.link_lost.is_some() {
            return None;
        }
        let (me, mirror): (NodeName, _) = (self.me(), &self.config.mirror);
        let mut next: Option<Instant> = None;
        for volume in self.volumes.values().filter(|volume| volume.mirrored) {
            let at = if volume.owner != me {
                let to_tell = !volume.applied.is_empty() || volume.stable_known > volume.stable_told;
                to_tell.then_some(self.stable_sent_at + STABLE_EVERY)
            } else if volume.hot.len() > mirror.hot_areas_max {
                Some(self.cool_at)
            } else {
                (!volume.hot.is_empty()).then_some(self.cool_at.max(self.now + mirror.hot_idle / 4))
            };
            next = [next, at].into_iter().flatten().min();
        }
        next
    }
}
