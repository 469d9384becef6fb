//! What the caches of a store have in common, as steps of one volume beside those of others can have it: the shares of the
//! bounds behind a lock, and what is looked at with each write without it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::cache::Shares;

/// See the module.
#[derive(Debug)]
pub(super) struct Bounds {
    shares: Mutex<Shares>,
    /// Most blocks that may be dirty.
    dirty_blocks_max: usize,
    /// Is there a debt of dirty blocks?
    in_debt: AtomicBool,
    /// Calls to destage everything.
    urges: AtomicU64,
}

impl Bounds {
    pub(super) fn new(shares: Shares) -> Bounds {
        Bounds {
            dirty_blocks_max: shares.dirty_blocks_max(),
            shares: Mutex::new(shares),
            in_debt: AtomicBool::new(false),
            urges: AtomicU64::new(0),
        }
    }

    /// For whoever has the whole store. Call [`noted`](Self::noted) after a change.
    pub(super) fn shares(&mut self) -> &mut Shares {
        self.shares.get_mut()
    }

    pub(super) fn look(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock()
    }

    /// The shares may have changed.
    pub(super) fn noted(&mut self) {
        *self.in_debt.get_mut() = self.shares.get_mut().is_in_debt();
    }

    pub(super) fn dirty_blocks_max(&self) -> usize {
        self.dirty_blocks_max
    }

    pub(super) fn is_in_debt(&self) -> bool {
        self.in_debt.load(Ordering::Relaxed)
    }

    /// How often everything was to be destaged.
    pub(super) fn urges(&self) -> u64 {
        self.urges.load(Ordering::Relaxed)
    }

    /// Everything written so far is to be destaged.
    pub(super) fn urge(&self) {
        self.urges.fetch_add(1, Ordering::Relaxed);
    }
}
