//! What waits in a volume's machine, and for what: the log, room in the cache, or the right to serve. Room is the node's
//! (`room`); what waits for it stands there.
//!
//! What is given up is not searched for: whoever wakes it finds that it is gone.

use core::ops::Range;
use std::collections::BTreeSet;

use super::Volume;
use super::context::Context;
use super::right::Service;
use super::room::Waiter;
use crate::pool::Lsn;

/// Something of a volume that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::node) enum Turn {
    /// A write at the node that orders it.
    Write(u64),
    /// A write that the partner ordered, by its order.
    Incoming(u64),
}

/// What it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// A record is to be durable.
    Log(Lsn),
    /// Its turn in a queue for room, where it stands by now.
    Room,
    /// The right to serve, the link, or a place in the hot set.
    Service,
    /// A step that has the node for itself: this one goes beside others.
    Whole,
}

/// Everything that [`Cause::Service`] depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    service: Service,
    term: u64,
    link: Option<u64>,
    link_lost: bool,
    cooled: u64,
    resting: bool,
}

/// Everything that waits for the log or the right to serve.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    log: BTreeSet<(Lsn, Turn)>,
    service: BTreeSet<Turn>,
    seen: Option<Stamp>,
    /// How often areas have cooled: those that wait for a place in the hot set look again.
    pub(super) cooled: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.log.is_empty() && self.service.is_empty()
    }

    /// Everything whose record is durable.
    fn logged(&mut self, durable: Lsn) -> Vec<Turn> {
        let mut ready = Vec::new();
        while let Some(&(lsn, turn)) = self.log.first()
            && lsn <= durable
        {
            self.log.pop_first();
            ready.push(turn);
        }
        ready
    }
}

impl Volume {
    pub(super) fn wait(&mut self, cx: &Context<'_>, turn: Turn, cause: Cause) {
        match cause {
            Cause::Log(lsn) => {
                self.waiting.log.insert((lsn, turn));
            }
            // The next step that has the node wakes it. If it is room, it may be had there.
            Cause::Whole => {
                self.waiting.log.insert((Lsn(0), turn));
            }
            Cause::Room if !cx.store.is_whole() => {
                self.waiting.log.insert((Lsn(0), turn));
            }
            Cause::Room => debug_assert!(cx.room.holds(Waiter::Volume(self.id, turn))),
            Cause::Service => {
                self.waiting.service.insert(turn);
            }
        }
    }

    /// Is there something that a step of the store, another right or time may move on?
    pub(in crate::node) fn is_awake(&self) -> bool {
        !(self.granted.is_empty()
            && self.waiting.is_empty()
            && self.forwarded.is_empty()
            && self.settling.is_empty()
            && self.flushes.is_empty())
    }

    /// Would something that waits go on, were it woken now?
    pub(in crate::node) fn has_ready(&self, durable: Lsn) -> bool {
        !self.granted.is_empty()
            || self.waiting.log.first().is_some_and(|(lsn, _)| *lsn <= durable)
            || self.has_flush_to_begin()
    }

    fn stamp(&self, cx: &Context<'_>) -> Stamp {
        let Self { right, waiting, resting, .. } = self;
        let resting = *resting;
        let (service, cooled) = (self.service(cx.now), waiting.cooled);
        Stamp { service, term: right.term, link: right.link, link_lost: right.link_lost, cooled, resting }
    }

    /// Tries again what waited for something that has come, but for room. True if anything moved.
    pub(in crate::node) fn wake(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.wake_granted(cx);
        let stamp = self.stamp(cx);
        if self.waiting.seen != Some(stamp) {
            self.waiting.seen = Some(stamp);
            for turn in core::mem::take(&mut self.waiting.service) {
                moved |= self.retry(cx, turn);
            }
        }
        for turn in self.waiting.logged(cx.store.durable()) {
            self.retry(cx, turn);
            moved = true;
        }
        moved |= self.wake_settled(cx);
        moved |= self.wake_flushes(cx);
        moved
    }

    /// Does a write need space that is not reserved, or areas to become hot, in a step that goes beside others? Both are for
    /// one that has the node for itself.
    pub(super) fn reaches_new_ground(
        &self,
        cx: &Context<'_>,
        blocks: Range<u64>,
        has_space: bool,
        is_heated: bool,
    ) -> bool {
        !cx.store.is_whole()
            && (!(has_space || cx.store.may_reserve(blocks.clone()))
                || (self.mirrored && !is_heated && !self.is_hot(cx, blocks)))
    }

    /// Is this still waiting for something?
    pub(in crate::node) fn is_waiting(&self, turn: Turn) -> bool {
        match turn {
            Turn::Write(id) => self.writes.get(&id).is_some_and(|write| write.sent.is_none()),
            Turn::Incoming(order) => self.incoming.contains_key(&order),
        }
    }

    /// True if it went on, whatever that came to.
    pub(in crate::node) fn retry(&mut self, cx: &mut Context<'_>, turn: Turn) -> bool {
        match turn {
            Turn::Write(id) => self.advance(cx, id),
            Turn::Incoming(order) => self.try_incoming(cx, order),
        }
    }

    pub(super) fn take_room(&self, cx: &mut Context<'_>, turn: Turn, count: u64) -> bool {
        cx.take_room(Waiter::Volume(self.id, turn), self.id, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_log_wakes_with_it() {
        let mut waiting = Waiting::default();
        waiting.log.extend([(Lsn(5), Turn::Write(1)), (Lsn(3), Turn::Write(2))]);
        assert_eq!(waiting.logged(Lsn(2)), []);
        assert_eq!(waiting.logged(Lsn(4)), [Turn::Write(2)]);
        assert_eq!(waiting.logged(Lsn(9)), [Turn::Write(1)]);
    }
}
