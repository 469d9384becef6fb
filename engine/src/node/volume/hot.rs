//! The hot set: areas in which the halves may differ right now.
//!
//! Invariants: an area is hot, durably, on a node before a write to it is applied there. It cools only when no
//! write to it is in flight and both nodes have flushed what it holds; the owner decides. Cooling is lazy and in
//! batches: a working set that fits costs no I/O.

use super::Volume;
use super::context::Context;
use super::op::HotArea;
use crate::ids::Epoch;
use crate::mirror::message::Control;
use crate::node::config::NodeConfig;
use crate::planted::Bug;
use crate::pool::{Lsn, Record};
use crate::time::{Duration, Instant};

/// How often the partner tells how far it is stable, and the owner lets areas cool.
pub(in crate::node) const TIDY_EVERY: Duration = Duration::from_millis(50);

/// When a volume is next to be tidied up: not before this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::node) enum TidyDue {
    /// Then.
    Soon(Instant),
    /// When an area may have become idle.
    WhenIdle(Instant),
}

impl TidyDue {
    /// At which time that is, seen from now.
    pub(in crate::node) fn at(self, now: Instant, hot_idle: Duration) -> Instant {
        match self {
            TidyDue::Soon(at) => at,
            TidyDue::WhenIdle(at) => at.max(now + hot_idle / 4),
        }
    }
}

fn areas(cx: &Context<'_>, blocks: core::ops::Range<u64>) -> core::ops::RangeInclusive<u32> {
    let size = cx.config.mirror.area_blocks;
    (blocks.start / size) as u32..=((blocks.end - 1) / size) as u32
}

impl Volume {
    /// Makes the areas of a write hot and counts it as in flight in them. False if the hot set is full for now.
    pub(super) fn heat(&mut self, cx: &mut Context<'_>, blocks: core::ops::Range<u64>) -> bool {
        let areas = areas(cx, blocks);
        let (now, most, volume) = (cx.now, cx.config.mirror.hot_areas_max, self.id);
        let missing: Vec<u32> = areas.clone().filter(|area| !self.hot.contains_key(area)).collect();
        if !missing.is_empty() {
            // Room is made in `cool`; the partner follows the owner.
            let is_owner = self.owner == cx.me();
            if is_owner && self.hot.len() + missing.len() > most.max(missing.len()) * 2 {
                cx.store.urge();
                return false;
            }
            let records: Vec<Record> = missing.iter().map(|&area| Record::HotAdd { volume, area }).collect();
            let lsn = cx.append(&records);
            for area in missing {
                let fresh = HotArea { lsn, in_flight: 0, last_order: 0, last_version: 0, last_use: now };
                self.hot.insert(area, fresh);
            }
        }
        for area in areas {
            let hot = self.hot.get_mut(&area).expect("hot by now");
            hot.in_flight += 1;
            hot.last_use = now;
        }
        true
    }

    /// Is none of these areas cold?
    pub(super) fn is_hot(&self, cx: &Context<'_>, blocks: core::ops::Range<u64>) -> bool {
        areas(cx, blocks).all(|area| self.hot.contains_key(&area))
    }

    /// The record that must be durable before a write to these hot blocks; `None` if all are.
    pub(super) fn hot_pending(&self, cx: &Context<'_>, blocks: core::ops::Range<u64>) -> Option<Lsn> {
        let durable = cx.store.durable();
        let lsn = areas(cx, blocks).filter_map(|area| self.hot.get(&area).map(|hot| hot.lsn)).max();
        lsn.filter(|&lsn| lsn > durable)
    }

    /// A write that was counted is over.
    pub(super) fn cool_down(&mut self, cx: &Context<'_>, blocks: core::ops::Range<u64>) {
        for area in areas(cx, blocks) {
            if let Some(hot) = self.hot.get_mut(&area) {
                hot.in_flight = hot.in_flight.saturating_sub(1);
            }
        }
    }

    /// The last write of these areas is this one.
    pub(super) fn note_hot(
        &mut self,
        cx: &Context<'_>,
        blocks: core::ops::Range<u64>,
        order: u64,
        version: u64,
    ) {
        for area in areas(cx, blocks) {
            if let Some(hot) = self.hot.get_mut(&area) {
                hot.last_order = hot.last_order.max(order);
                hot.last_version = hot.last_version.max(version);
            }
        }
    }

    /// Now and then, in a pair with a link: the partner tells how far it is stable, the owner lets areas cool.
    pub(in crate::node) fn tidy_up(&mut self, cx: &mut Context<'_>) {
        if !self.mirrored || !self.right.is_linked_pair() || cx.now < self.tidy_at {
            return;
        }
        self.tidy_at = cx.now + TIDY_EVERY;
        if self.owner == cx.me() {
            self.cool(cx);
        } else {
            self.report_stable(cx);
        }
    }

    /// Owner: lets areas cool that are idle, or the longest unused if there are too many.
    fn cool(&mut self, cx: &mut Context<'_>) {
        let unflushed = cx.has(Bug::CooledUnflushed);
        let stable = cx.store.stable_through(self.id);
        let (now, mirror) = (cx.now, cx.config.mirror);
        let excess = self.hot.len().saturating_sub(mirror.hot_areas_max);
        let may = |hot: &HotArea| {
            hot.in_flight == 0
                && (unflushed || (hot.last_version <= stable && hot.last_order <= self.partner_stable))
        };
        let mut candidates: Vec<(Instant, u32)> = self
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
                cx.store.urge();
            }
            return;
        }
        let areas: Vec<u32> = candidates.into_iter().map(|(_, area)| area).collect();
        self.forget_hot(cx, &areas);
        let (epoch, volume) = (self.right.epoch, self.id);
        self.say(cx, Control::Cool { epoch, volume, areas });
    }

    fn forget_hot(&mut self, cx: &mut Context<'_>, areas: &[u32]) {
        let volume = self.id;
        let records: Vec<Record> = areas.iter().map(|&area| Record::HotRemove { volume, area }).collect();
        cx.append(&records);
        self.waiting.cooled += 1;
        for area in areas {
            self.hot.remove(area);
        }
    }

    /// Partner: the owner says that these areas are equal and stable on both.
    pub(in crate::node) fn cooled(&mut self, cx: &mut Context<'_>, epoch: Epoch, areas: &[u32]) {
        if !self.right.is_pair_of(epoch) || self.owner == cx.me() {
            return;
        }
        let idle = |area: &u32| self.hot.get(area).is_some_and(|hot| hot.in_flight == 0);
        let idle: Vec<u32> = areas.iter().copied().filter(idle).collect();
        self.forget_hot(cx, &idle);
    }

    /// Owner: the link is back; the partner may have missed what cooled.
    pub(super) fn tell_hot(&mut self, cx: &mut Context<'_>) {
        if self.mirrored && self.owner == cx.me() {
            let (epoch, volume) = (self.right.epoch, self.id);
            let areas = self.hot.keys().copied().collect();
            self.say(cx, Control::Hot { epoch, volume, areas });
        }
    }

    /// Partner: areas that the owner does not name have cooled.
    pub(in crate::node) fn only_hot(&mut self, cx: &mut Context<'_>, epoch: Epoch, areas: &[u32]) {
        let cold = self.hot.keys().copied().filter(|area| areas.binary_search(area).is_err());
        self.cooled(cx, epoch, &cold.collect::<Vec<_>>());
    }

    /// Partner: tells the owner how far it is stable.
    fn report_stable(&mut self, cx: &mut Context<'_>) {
        let stable = cx.store.stable_through(self.id);
        while let Some(&(order, Some(version))) = self.applied.front()
            && version <= stable
        {
            self.stable_known = order;
            self.applied.pop_front();
        }
        if self.stable_known > self.stable_told {
            self.stable_told = self.stable_known;
            let (epoch, volume, order) = (self.right.epoch, self.id, self.stable_told);
            self.say(cx, Control::Stable { epoch, volume, order });
        }
    }

    /// Partner: the link is back; the owner may have missed how far this node is stable.
    pub(super) fn tell_stable_again(&mut self, cx: &Context<'_>) {
        if self.owner != cx.me() && !cx.has(Bug::StableNotRepeated) {
            self.stable_told = 0;
        }
    }

    pub(in crate::node) fn partner_stable(&mut self, epoch: Epoch, order: u64) {
        if self.right.is_pair_of(epoch) {
            self.partner_stable = self.partner_stable.max(order);
        }
    }

    /// When the partner has something to tell, or an area may have become idle; in a pair with a link, for what cannot be
    /// told needs no waking.
    pub(in crate::node) fn tidy_due(&self, config: &NodeConfig) -> Option<TidyDue> {
        if !self.mirrored {
            return None;
        }
        let soon = if self.owner != config.name {
            !self.applied.is_empty() || self.stable_known > self.stable_told
        } else {
            self.hot.len() > config.mirror.hot_areas_max
        };
        if soon {
            Some(TidyDue::Soon(self.tidy_at))
        } else {
            let idles = self.owner == config.name && !self.hot.is_empty();
            idles.then_some(TidyDue::WhenIdle(self.tidy_at))
        }
    }
}
