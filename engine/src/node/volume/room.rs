//! Room in the cache, which all volumes of a node share, is given first come, first served, so that a large write is not
//! starved by small ones. There are two queues. In `ready` stands what needs nothing but write-back: writes alone and of
//! linear volumes, the partner's writes, copies of a resync. In `window` stand this node's own writes of a pair, for which
//! the partner's answers must make room too. Invariant: nothing in `ready` waits for the partner, so two nodes never wait
//! for each other; and the first in `window` moves to `ready` when no write is with the partner any more, so neither queue
//! starves the other.
//!
//! What is given up is not searched for: whoever wakes it finds that it is gone.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::context::Context;
use super::waiting::Turn;
use crate::ids::VolumeId;
use crate::planted::Bug;

/// Something that waits for room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::node) enum Waiter {
    /// A write of a volume.
    Volume(VolumeId, Turn),
    /// The copies of a resync, at its target.
    Copies,
}

/// First come, first served.
#[derive(Debug, Default)]
pub(in crate::node) struct Queue {
    order: VecDeque<Waiter>,
    members: BTreeSet<Waiter>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(in crate::node) fn front(&self) -> Option<Waiter> {
        self.order.front().copied()
    }

    pub(in crate::node) fn all(&self) -> Vec<Waiter> {
        self.order.iter().copied().collect()
    }

    fn holds(&self, waiter: Waiter) -> bool {
        self.members.contains(&waiter)
    }

    pub(in crate::node) fn leave(&mut self) {
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

/// The queues for room in the cache. Steps of different volumes may come to it at the same time: each takes its turn, or its
/// place in a queue, in one go.
#[derive(Debug, Default)]
pub(in crate::node) struct Room {
    queues: Mutex<Queues>,
    /// How many stand in the queues.
    waiting: AtomicUsize,
    /// Blocks of all volumes that are with the partner: they will need room here too.
    in_flight: AtomicU64,
}

#[derive(Debug, Default)]
pub(in crate::node) struct Queues {
    pub(in crate::node) ready: Queue,
    pub(in crate::node) window: Queue,
    /// The last that went from `window` to `ready`.
    promoted: Option<Waiter>,
}

impl Room {
    pub(super) fn holds(&self, waiter: Waiter) -> bool {
        let queues = self.queues.lock();
        queues.ready.holds(waiter) || queues.window.holds(waiter)
    }

    /// Everything that waits: the right to serve has changed, and with it what is needed.
    pub(in crate::node) fn unsettled(&self) -> Vec<Waiter> {
        self.change(|queues| {
            let mut all: Vec<Waiter> = queues.ready.drain().collect();
            all.extend(queues.window.drain());
            all
        })
    }

    pub(in crate::node) fn change<R>(&self, change: impl FnOnce(&mut Queues) -> R) -> R {
        let mut queues = self.queues.lock();
        let result = change(&mut queues);
        self.waiting.store(queues.ready.order.len() + queues.window.order.len(), Ordering::Relaxed);
        result
    }

    /// Does nobody stand in a queue? As good as the moment: who comes next may be first or second.
    pub(in crate::node) fn is_free(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// So many blocks are with the partner no more.
    pub(super) fn came_back(&self, blocks: u64) {
        let before = self.in_flight.fetch_sub(blocks, Ordering::Relaxed);
        debug_assert!(before >= blocks, "what comes back was sent");
    }
}

impl Context<'_> {
    /// Is there room for `count` blocks, and is it this one's turn? If not it stands in the queue. For what needs
    /// nothing from the partner.
    pub(super) fn take_room(&mut self, waiter: Waiter, volume: VolumeId, count: u64) -> bool {
        let fits = self.store.room(volume, count);
        if !fits && !self.store.is_whole() {
            // Others may have room that they do not use: whoever has the node knows, and lets it stand in the queue if not.
            return false;
        }
        if fits && (self.room.is_free() || self.has(Bug::SmallWritesPassLarge)) {
            return true;
        }
        let taken = self.room.change(|queues| queues.ready.take(waiter, fits));
        if !taken && self.store.is_whole() {
            self.store.urge();
        }
        taken
    }

    /// The same for a write that goes to the partner first: what is with the partner will need room here too. It counts as
    /// there from now on.
    pub(super) fn take_window(&mut self, waiter: Waiter, volume: VolumeId, count: u64) -> bool {
        let room = self.room;
        let taken = room.change(|queues| {
            let taken = self.take_window_of(queues, waiter, volume, count);
            if taken {
                room.in_flight.fetch_add(count, Ordering::Relaxed);
            }
            taken
        });
        if !taken && self.store.is_whole() {
            // Somebody waits: what is dirty does not wait to grow old.
            self.store.urge();
        }
        taken
    }

    fn take_window_of(&mut self, queues: &mut Queues, waiter: Waiter, volume: VolumeId, count: u64) -> bool {
        let in_flight = self.room.in_flight.load(Ordering::Relaxed);
        let mut limit = self.config.mirror.write_blocks_in_flight;
        if !self.has(Bug::SentWithoutRoom) {
            // Others may fill the cache while these are away: half of it more is still in bounds.
            limit = limit.min(self.store.dirty_blocks_max() as u64 / 2);
        }
        // Only what goes alone may be larger than the whole allowance.
        let fits = match in_flight {
            _ if self.has(Bug::SentWithoutRoom) => {
                (in_flight == 0 || in_flight + count <= limit) && self.store.room(volume, in_flight + count)
            }
            0 => self.store.room(volume, count),
            _ => in_flight + count <= limit && self.store.has_place(volume, in_flight + count),
        };
        if fits && self.has(Bug::SmallWritesPassLarge) {
            return true;
        }
        if !fits && !self.store.is_whole() {
            return false;
        }
        let many = self.has(Bug::ManyMoveToRoom);
        let Queues { ready, window, promoted } = queues;
        if ready.holds(waiter) {
            return ready.take(waiter, fits);
        }
        if window.take(waiter, fits && ready.is_empty()) {
            return true;
        }
        // One at a time: a second would wait for the answer to the first.
        let alone = many || promoted.is_none_or(|other| !ready.holds(other));
        if in_flight == 0 && window.front() == Some(waiter) && alone {
            *promoted = Some(waiter);
            window.leave();
            ready.take(waiter, false);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_came_is_the_first_that_goes() {
        let [large, small] = [1, 2].map(|id| Waiter::Volume(VolumeId(id), Turn::Write(1)));
        let mut queue = Queue::default();
        assert!(!queue.take(large, false), "no room yet");
        assert!(!queue.take(small, true), "it would fit, and must not pass");
        assert!(!queue.take(small, true), "asking again is not a second place");
        assert!(queue.take(large, true));
        assert!(queue.take(small, true));
        assert!(queue.is_empty());
    }
}
