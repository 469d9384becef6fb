//! What steps have left to be done, in the order of the steps, done by one thread at a time.

use parking_lot::{Mutex, MutexGuard};

use super::gate::Gate;

pub(super) struct Queue<T> {
    left: Mutex<Vec<T>>,
    /// Elects who does it.
    pub(super) gate: Gate,
    /// What is being done: kept for its memory.
    batch: Mutex<Vec<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { left: Mutex::default(), gate: Gate::default(), batch: Mutex::default() }
    }
}

impl<T> Queue<T> {
    /// Leaves something. Whoever does runs the gate when it holds no lock any more.
    pub(super) fn leave(&self, item: T) {
        self.left.lock().push(item);
    }

    /// For leaving more than one thing.
    pub(super) fn open(&self) -> MutexGuard<'_, Vec<T>> {
        self.left.lock()
    }

    /// Takes what is there now; for the one whom the gate has elected.
    pub(super) fn take(&self) -> MutexGuard<'_, Vec<T>> {
        let mut batch = self.batch.lock();
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut *batch, &mut *self.left.lock());
        batch
    }
}
