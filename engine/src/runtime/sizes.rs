//! What of volumes is looked at with every command: their sizes as hosts see them, and whether what is kept with them has
//! changed. Whoever looks keeps the place.

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

/// Of one volume.
#[derive(Clone, Default)]
pub(super) struct Size(Arc<Place>);

#[derive(Default)]
struct Place {
    /// 512-byte sectors.
    size: AtomicU64,
    /// How often what is kept was put in force.
    items: AtomicU64,
}

impl Sizes {
    pub(super) fn of(&self, volume: VolumeId) -> Size {
        self.0.lock().entry(volume).or_default().clone()
    }

    /// From now on hosts see this; `None`: it is deleted.
    pub(super) fn show(&self, volume: VolumeId, sectors: Option<u64>) {
        self.of(volume).0.size.store(sectors.unwrap_or(DELETED), Ordering::Release);
    }

    /// What is kept with it has just been put in force.
    pub(super) fn items_shown(&self, volume: VolumeId) {
        self.of(volume).0.items.fetch_add(1, Ordering::Release);
    }
}

impl Size {
    pub(super) fn items_version(&self) -> u64 {
        self.0.items.load(Ordering::Acquire)
    }

    /// In sectors; `None` if it is deleted, or the node has not said yet.
    pub(super) fn sectors(&self) -> Option<u64> {
        Some(self.0.size.load(Ordering::Acquire)).filter(|size| ![UNSAID, DELETED].contains(size))
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.0.size.load(Ordering::Acquire) == DELETED
    }
}
