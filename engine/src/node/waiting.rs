//! What waits, and for what: the log, room in the cache, or the right to serve.
//!
//! Room is given first come, first served, so that a large write is not starved by small ones. There are two
//! queues. In `room` stands what needs nothing but write-back: writes alone and of linear volumes, the partner's
//! writes, copies of a resync. In `window` stand this node's own writes of a pair, for which the partner's
//! answers must make room too. Invariant: nothing in `room` waits for the partner, so two nodes never wait for
//! each other; and the first in `window` moves to `room` when no write is with the partner any more, so neither
//! queue starves the other.
//!
//! What is given up is not searched for: whoever wakes it finds that it is gone.

use std::collections::{BTreeSet, VecDeque};

use super::Node;
use super::membership::Service;
use crate::ids::VolumeId;
use crate::planted::Bug;
use crate::pool::Lsn;

/// Something that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Waiter {
    /// A write at the node that orders it.
    Write(u64),
    /// A write that the partner ordered.
    Incoming(VolumeId, u64),
    /// The copies of a resync.
    Copies,
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
}

/// Everything that [`Cause::Service`] depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    service: Service,
    term: u64,
    link: Option<u64>,
    link_lost: bool,
    cooled: u64,
}

/// First come, first served.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Waiter>,
    members: BTreeSet<Waiter>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn front(&self) -> Option<Waiter> {
        self.order.front().copied()
    }

    fn holds(&self, waiter: Waiter) -> bool {
        self.members.contains(&waiter)
    }

    fn leave(&mut self) {
        if let Some(first) = self.order.pop_front() {
            self.members.remove(&first);
        }
    }

    /// True if it is this one's turn and there is room: it is out of the queue then. Otherwise it is in.
    fn take(&mut self, waiter: Waiter, fits: bool) -> bool {
        let first = self.front().is_none_or(|front| front == waiter);
        if first && fits {
            self.leave();
            return true;
        }
        if self.members.insert(waiter) {
            self.order.push_back(waiter);
        }
        false
    }

    fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        self.members.clear();
        self.order.drain(..)
    }
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    log: BTreeSet<(Lsn, Waiter)>,
    service: BTreeSet<Waiter>,
    room: Queue,
    window: Queue,
    /// The last that went from `window` to `room`.
    promoted: Option<Waiter>,
    seen: Option<Stamp>,
    /// How often areas have cooled: those that wait for a place in the hot set look again.
    pub(super) cooled: u64,
}

impl Waiting {
    pub(super) fn add(&mut self, waiter: Waiter, cause: Cause) {
        match cause {
            Cause::Log(lsn) => {
                self.log.insert((lsn, waiter));
            }
            Cause::Room => debug_assert!(self.room.holds(waiter) || self.window.holds(waiter)),
            Cause::Service => {
                self.service.insert(waiter);
            }
        }
    }

    /// Everything whose record is durable.
    fn logged(&mut self, durable: Lsn) -> Vec<Waiter> {
        let mut ready = Vec::new();
        while let Some(&(lsn, waiter)) = self.log.first()
            && lsn <= durable
        {
            self.log.pop_first();
            ready.push(waiter);
        }
        ready
    }

    /// Everything but what waits for the log: the right to serve has changed, and with it what is needed.
    fn unsettled(&mut self) -> Vec<Waiter> {
        let mut all: Vec<Waiter> = self.room.drain().collect();
        all.extend(self.window.drain());
        all.extend(core::mem::take(&mut self.service));
        all
    }
}

impl Node {
    /// Is there room for `count` blocks, and is it this one's turn? If not it stands in the queue. For what needs
    /// nothing from the partner.
    pub(super) fn take_room(&mut self, waiter: Waiter, volume: VolumeId, count: u64) -> bool {
        let fits = self.store_mut().room(volume, count);
        if fits && self.has(Bug::SmallWritesPassLarge) {
            return true;
        }
        let taken = self.waiting.room.take(waiter, fits);
        if !taken {
            self.store_mut().urge();
        }
        taken
    }

    /// The same for a write that goes to the partner first: what is with the partner will need room here too.
    pub(super) fn take_window(&mut self, waiter: Waiter, volume: VolumeId, count: u64) -> bool {
        let in_flight = self.blocks_in_flight;
        let mut limit = self.config.mirror.write_blocks_in_flight;
        if !self.has(Bug::SentWithoutRoom) {
            // Others may fill the cache while these are away: half of it more is still in bounds.
            limit = limit.min(self.store().dirty_blocks_max() as u64 / 2);
        }
        // Only what goes alone may be larger than the whole allowance.
        let fits = match in_flight {
            _ if self.has(Bug::SentWithoutRoom) => {
                (in_flight == 0 || in_flight + count <= limit)
                    && self.store_mut().room(volume, in_flight + count)
            }
            0 => self.store_mut().room(volume, count),
            _ => in_flight + count <= limit && self.store_mut().has_place(volume, in_flight + count),
        };
        if fits && self.has(Bug::SmallWritesPassLarge) {
            return true;
        }
        let many = self.has(Bug::ManyMoveToRoom);
        let Waiting { room, window, promoted, .. } = &mut self.waiting;
        if room.holds(waiter) {
            return room.take(waiter, fits);
        }
        if window.take(waiter, fits && room.is_empty()) {
            return true;
        }
        // One at a time: a second would wait for the answer to the first.
        let alone = many || promoted.is_none_or(|other| !room.holds(other));
        if in_flight == 0 && window.front() == Some(waiter) && alone {
            *promoted = Some(waiter);
            window.leave();
            room.take(waiter, false);
        }
        // Somebody waits: what is dirty does not wait to grow old.
        self.store_mut().urge();
        false
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            service: self.service(),
            term: self.term,
            link: self.link,
            link_lost: self.is_link_lost(),
            cooled: self.waiting.cooled,
        }
    }

    /// Tries again what waited for something that has come. True if anything moved.
    pub(super) fn wake_waiting(&mut self) -> bool {
        let mut moved = self.wake_granted();
        let stamp = self.stamp();
        if self.waiting.seen != Some(stamp) {
            self.waiting.seen = Some(stamp);
            for waiter in self.waiting.unsettled() {
                moved |= self.retry(waiter);
            }
        }
        let durable = self.store().durable();
        for waiter in self.waiting.logged(durable) {
            self.retry(waiter);
            moved = true;
        }
        moved |= self.wake_queue(|waiting| &mut waiting.room);
        moved |= self.wake_queue(|waiting| &mut waiting.window);
        moved
    }

    /// Serves a queue until its first one has to wait.
    fn wake_queue(&mut self, queue: fn(&mut Waiting) -> &mut Queue) -> bool {
        let mut moved = false;
        while let Some(first) = queue(&mut self.waiting).front() {
            if self.is_waiting(first) {
                self.retry(first);
                if queue(&mut self.waiting).front() == Some(first) && self.is_waiting(first) {
                    moved |= self.has(Bug::SmallWritesPassLarge) && self.wake_out_of_turn(queue);
                    break;
                }
            } else {
                queue(&mut self.waiting).leave();
            }
            moved = true;
        }
        moved
    }

    /// The planted bug: whoever fits goes on.
    fn wake_out_of_turn(&mut self, queue: fn(&mut Waiting) -> &mut Queue) -> bool {
        let all: Vec<Waiter> = queue(&mut self.waiting).order.iter().copied().collect();
        all.into_iter().filter(|&waiter| self.is_waiting(waiter) && self.retry(waiter)).count() > 0
    }

    fn is_waiting(&self, waiter: Waiter) -> bool {
        match waiter {
            Waiter::Write(id) => self.writes.get(&id).is_some_and(|write| write.sent.is_none()),
            Waiter::Incoming(volume, order) => self.incoming.contains_key(&(volume, order)),
            Waiter::Copies => self.has_copies(),
        }
    }

    /// True if it went on, whatever that came to.
    fn retry(&mut self, waiter: Waiter) -> bool {
        match waiter {
            Waiter::Write(id) => self.advance(id),
            Waiter::Incoming(volume, order) => self.try_incoming(volume, order),
            Waiter::Copies => self.apply_copies(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_came_is_the_first_that_goes() {
        let (large, small) = (Waiter::Write(1), Waiter::Write(2));
        let mut queue = Queue::default();
        assert!(!queue.take(large, false), "no room yet");
        assert!(!queue.take(small, true), "it would fit, and must not pass");
        assert!(!queue.take(small, true), "asking again is not a second place");
        assert!(queue.take(large, true));
        assert!(queue.take(small, true));
        assert!(queue.is_empty());
    }

    #[test]
    fn what_waits_for_the_log_wakes_with_it() {
        let mut waiting = Waiting::default();
        waiting.add(Waiter::Write(1), Cause::Log(Lsn(5)));
        waiting.add(Waiter::Write(2), Cause::Log(Lsn(3)));
        assert_eq!(waiting.logged(Lsn(2)), []);
        assert_eq!(waiting.logged(Lsn(4)), [Waiter::Write(2)]);
        assert_eq!(waiting.logged(Lsn(9)), [Waiter::Write(1)]);
    }
}
