//! Things of volumes, each behind a lock of its own, so that steps of different volumes can go beside each other.
//!
//! Whoever has the whole collection for himself needs no lock: what takes `&mut self` takes none. Of the rest each call locks one
//! thing for as long as its guard lives; nobody holds two, so nobody waits in a circle. In the simulator, where one step ends
//! before the next begins, no lock is ever waited for.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use parking_lot::{Mutex, MutexGuard};

use crate::ids::VolumeId;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cells<T>(BTreeMap<VolumeId, Mutex<T>>);

impl<T> Default for Cells<T> {
    fn default() -> Cells<T> {
        Cells(BTreeMap::new())
    }
}

impl<T> Cells<T> {
    pub(crate) fn insert(&mut self, id: VolumeId, thing: T) {
        self.0.insert(id, Mutex::new(thing));
    }

    pub(crate) fn remove(&mut self, id: VolumeId) -> Option<T> {
        self.0.remove(&id).map(Mutex::into_inner)
    }

    pub(crate) fn contains(&self, id: VolumeId) -> bool {
        self.0.contains_key(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.0.keys().copied()
    }

    pub(crate) fn ids_in(&self, range: impl RangeBounds<VolumeId>) -> impl Iterator<Item = VolumeId> + '_ {
        self.0.range(range).map(|(&id, _)| id)
    }

    pub(crate) fn get(&self, id: VolumeId) -> Option<MutexGuard<'_, T>> {
        self.0.get(&id).map(Mutex::lock)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (VolumeId, MutexGuard<'_, T>)> + '_ {
        self.0.iter().map(|(&id, thing)| (id, thing.lock()))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = MutexGuard<'_, T>> + '_ {
        self.0.values().map(Mutex::lock)
    }

    pub(crate) fn get_mut(&mut self, id: VolumeId) -> Option<&mut T> {
        self.0.get_mut(&id).map(Mutex::get_mut)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (VolumeId, &mut T)> + '_ {
        self.0.iter_mut().map(|(&id, thing)| (id, thing.get_mut()))
    }

    /// All of them, by id.
    pub(crate) fn map_mut(&mut self) -> &mut BTreeMap<VolumeId, Mutex<T>> {
        &mut self.0
    }

    /// As [`map_mut`](Self::map_mut), just looking.
    pub(crate) fn map(&self) -> &BTreeMap<VolumeId, Mutex<T>> {
        &self.0
    }
}
