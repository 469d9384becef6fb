//! The sizes of volumes as hosts see them. They are looked at with every command, so whoever does keeps the place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ids::VolumeId;

/// No volume is so small.
const UNSAID: u64 = 0;
/// Or so large.
const DELETED: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct Sizes(Mutex<BTreeMap<VolumeId, Size>>);

/// The size of one volume in 512-byte sectors.
#[derive(Clone, Default)]
pub(super) struct Size(Arc<AtomicU64>);

impl Sizes {
    pub(super) fn of(&self, volume: VolumeId) -> Size {
        self.0.lock().entry(volume).or_default().clone()
    }

    /// From now on hosts see this; `None`: it is deleted.
    pub(super) fn show(&self, volume: VolumeId, sectors: Option<u64>) {
        self.of(volume).0.store(sectors.unwrap_or(DELETED), Ordering::Release);
    }
}

impl Size {
    /// In sectors; `None` if it is deleted, or the node has not said yet.
    pub(super) fn sectors(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|size| ![UNSAID, DELETED].contains(size))
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.0.load(Ordering::Acquire) == DELETED
    }
}
