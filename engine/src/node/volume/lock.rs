//! Overlapping writes of a volume wait for each other, first come, first served; reads that must not see a
//! write in flight wait for it too.

use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
struct Waiter {
    range: Range<u64>,
    id: u64,
    shared: bool,
}

/// A waiter whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) id: u64,
    /// A read: it holds nothing.
    pub(super) shared: bool,
}

/// The write locks of one volume, by block range.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    /// Start → (end, holder); the ranges do not overlap.
    held: BTreeMap<u64, (u64, u64)>,
    waiting: VecDeque<Waiter>,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl RangeLock {
    fn is_held(&self, range: &Range<u64>) -> bool {
        self.held.range(..range.end).next_back().is_some_and(|(_, &(end, _))| end > range.start)
    }

    /// Takes the range, or queues for it.
    pub(super) fn acquire(&mut self, range: Range<u64>, id: u64) -> bool {
        if self.is_held(&range)
            || self.waiting.iter().any(|waiter| !waiter.shared && overlap(&waiter.range, &range))
        {
            self.waiting.push_back(Waiter { range, id, shared: false });
            return false;
        }
        self.held.insert(range.start, (range.end, id));
        true
    }

    /// May a read go ahead? If not it is queued.
    pub(super) fn pass(&mut self, range: Range<u64>, id: u64) -> bool {
        let free = !self.is_held(&range);
        if !free {
            self.waiting.push_back(Waiter { range, id, shared: true });
        }
        free
    }

    /// Gives the range back and says whose turn it is.
    pub(super) fn release(&mut self, start: u64, id: u64) -> Vec<Granted> {
        let held = self.held.remove(&start);
        assert!(held.is_some_and(|(_, holder)| holder == id), "only the holder releases");
        self.grant()
    }

    /// Takes a waiter out of the queue and says whose turn that makes it.
    pub(super) fn forget(&mut self, id: u64) -> Vec<Granted> {
        self.waiting.retain(|waiter| waiter.id != id);
        self.grant()
    }

    fn grant(&mut self) -> Vec<Granted> {
        let mut granted = Vec::new();
        if self.waiting.is_empty() {
            return granted;
        }
        let mut at = 0;
        while at < self.waiting.len() {
            let waiter = &self.waiting[at];
            let before = self
                .waiting
                .iter()
                .take(at)
                .any(|other| !other.shared && overlap(&other.range, &waiter.range));
            if self.is_held(&waiter.range) || (before && !waiter.shared) {
                at += 1;
                continue;
            }
            let waiter = self.waiting.remove(at).expect("in bounds");
            if !waiter.shared {
                self.held.insert(waiter.range.start, (waiter.range.end, waiter.id));
            }
            granted.push(Granted { id: waiter.id, shared: waiter.shared });
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_writes_go_in_order_and_others_pass() {
        let mut lock = RangeLock::default();
        assert!(lock.acquire(0..10, 1));
        assert!(!lock.acquire(5..15, 2));
        assert!(!lock.acquire(12..20, 3), "behind the one it overlaps");
        assert!(lock.acquire(30..40, 4));
        assert!(!lock.pass(9..10, 5));
        assert!(lock.pass(20..30, 6));
        assert_eq!(lock.release(0, 1), vec![Granted { id: 2, shared: false }]);
        let granted = lock.release(5, 2);
        assert_eq!(granted, vec![Granted { id: 3, shared: false }, Granted { id: 5, shared: true }]);
        assert!(lock.release(12, 3).is_empty());
        assert!(lock.release(30, 4).is_empty());
    }
}
