//! The memory that all connections of a server hold for initiators, and when there is too much of it.
//!
//! Invariants: what a connection was last counted with is given back when it goes; above the limit only connections
//! that hold little may begin commands with data, so that those that hold much cannot shut out the others.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Below it a connection may always take one more command, in bytes.
const SHARE_BYTES: usize = 1 << 20;

/// The count.
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    /// For at most about `max` bytes.
    pub(crate) fn new(max: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), max }
    }

    /// May a connection that holds `own` bytes take on more?
    pub(crate) fn admits(&self, own: usize) -> bool {
        own < SHARE_BYTES || self.used.load(Ordering::Relaxed) < self.max
    }

    /// A connection that was counted with `before` bytes holds `now`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        match now.checked_sub(before) {
            Some(more) => self.used.fetch_add(more, Ordering::Relaxed),
            None => self.used.fetch_sub(before - now, Ordering::Relaxed),
        };
    }

    /// Bytes counted now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_hold_little_are_never_shut_out() {
        let budget = Budget::new(8 << 20);
        assert!(budget.admits(4 << 20));
        budget.change(0, 9 << 20);
        assert!(!budget.admits(4 << 20) && budget.admits(SHARE_BYTES - 1));
        budget.change(9 << 20, 1 << 20);
        assert!(budget.admits(4 << 20));
        assert_eq!(budget.used(), 1 << 20);
    }
}
