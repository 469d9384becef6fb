//! What of volumes is looked at with every command: their sizes as hosts see them, and whether what is kept with them has
//! changed; and what they are, by the word of the pool. Whoever looks keeps the place.
//!
//! Invariant: a place is one volume's. If the number of one that is deleted becomes that of another, those who look at the
//! first find it deleted ever after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ids::{Uuid, VolumeId};

/// No volume is so small.
const UNSAID: u64 = 0;
/// Or so large.
const DELETED: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct Sizes(Mutex<BTreeMap<VolumeId, Size>>);

/// Of one volume.
#[derive(Clone, Default)]
pub(super) struct Size(Arc<Place>);

/// What a volume is for as long as there is it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) uuid: Uuid,
    pub(super) mirrored: bool,
    pub(super) read_only: bool,
}

#[derive(Default)]
struct Place {
    facts: Mutex<Option<Facts>>,
    /// 512-byte sectors.
    size: AtomicU64,
    /// How often what is kept was put in force.
    items: AtomicU64,
}

impl Sizes {
    pub(super) fn of(&self, volume: VolumeId) -> Size {
        self.0.lock().entry(volume).or_default().clone()
    }

    /// Volumes that hosts may see, by number.
    pub(super) fn shown(&self) -> Vec<VolumeId> {
        let places = self.0.lock();
        places.iter().filter(|(_, size)| size.sectors().is_some()).map(|(&volume, _)| volume).collect()
    }

    /// There is this volume, by the word of the pool.
    pub(super) fn is(&self, volume: VolumeId, facts: Facts) {
        let mut places = self.0.lock();
        let place = places.entry(volume).or_default();
        if *place.0.facts.lock().get_or_insert(facts) != facts {
            place.0.size.store(DELETED, Ordering::Release);
            *place = Size(Arc::new(Place { facts: Mutex::new(Some(facts)), ..Place::default() }));
        }
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
    /// `None` if the pool has not said yet.
    pub(super) fn facts(&self) -> Option<Facts> {
        *self.0.facts.lock()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_another_volume_gets_is_not_that_one_for_those_who_knew_the_first() {
        const VOLUME: VolumeId = VolumeId(1002);
        let facts = |uuid| Facts { uuid: Uuid(uuid), mirrored: true, read_only: true };
        let sizes = Sizes::default();
        let early = sizes.of(VOLUME);
        sizes.is(VOLUME, facts(1));
        sizes.show(VOLUME, Some(8));
        sizes.is(VOLUME, facts(1));
        assert_eq!((early.facts(), early.sectors(), sizes.shown()), (Some(facts(1)), Some(8), vec![VOLUME]));
        sizes.show(VOLUME, None);
        assert!(early.is_deleted() && sizes.shown().is_empty());
        sizes.is(VOLUME, facts(2));
        sizes.show(VOLUME, Some(16));
        assert!(early.is_deleted(), "that one is gone");
        assert_eq!((early.facts(), sizes.of(VOLUME).facts()), (Some(facts(1)), Some(facts(2))));
        assert_eq!(sizes.of(VOLUME).sectors(), Some(16));
    }
}
