//! The node under its lock: held shared by steps of single volumes beside each other, and alone by a step of the whole
//! node.
//!
//! Invariants:
//! - *Two phases*: whatever a step locks, here or inside the machine, it keeps until it ends, and what it asks for is
//!   queued before it lets go. So steps that ran beside each other did what the same steps do one after the other, in the
//!   order in which they let go; the queues are in that order too. The simulator explores such orders, and no others exist.
//! - The order of locks is: this one, a volume's, what volumes have in common (both inside the machine), then the short
//!   ones of the runtime, none of which is held while another of the former is taken.
//! - Nothing that is not ours runs while this lock is held, but the clock. So a thread in a step never takes it again;
//!   debug builds see to that.
//! - After a step that panicked no other begins, and no look. Those that ran beside it may end: the machine sees to it
//!   that they do not build on what the panic left half done.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};

use super::machine::Machine;

/// What a step died of.
pub(super) type Panic = Box<dyn Any + Send>;

/// See the module.
pub(super) struct World {
    /// `None` when closed. A panic is caught before the lock is let go, so poison says nothing that `broken` does not.
    machine: ShardedLock<Option<Box<dyn Machine>>>,
    broken: AtomicBool,
}

impl World {
    pub(super) fn new(machine: Box<dyn Machine>) -> World {
        World { machine: ShardedLock::new(Some(machine)), broken: AtomicBool::new(false) }
    }

    /// Does `steps` beside other threads; `None` when closed. An error is told to one thread only, who is to close.
    pub(super) fn beside<T>(&self, steps: impl FnOnce(&dyn Machine) -> T) -> Result<Option<T>, Panic> {
        let (_inside, machine) = self.share();
        match machine.as_deref().filter(|_| self.is_whole()) {
            Some(machine) => self.contain(|| steps(machine)),
            None => Ok(None),
        }
    }

    /// Does `steps` with the node for itself; `None` when closed. Errors are as for [`beside`](Self::beside).
    pub(super) fn alone<T>(&self, steps: impl FnOnce(&mut dyn Machine) -> T) -> Result<Option<T>, Panic> {
        let _inside = inside::enter();
        let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        match machine.as_deref_mut().filter(|_| self.is_whole()) {
            Some(machine) => self.contain(|| steps(machine)),
            None => Ok(None),
        }
    }

    /// A look at the node, which finds each volume between two steps; `None` when closed.
    pub(super) fn look<T>(&self, look: impl FnOnce(&dyn Machine) -> T) -> Option<T> {
        let (_inside, machine) = self.share();
        machine.as_deref().filter(|_| self.is_whole()).map(look)
    }

    /// Waits for the steps that have begun; none begins any more. The machine is the caller's, who holds no lock.
    pub(super) fn close(&self) -> Option<Box<dyn Machine>> {
        let _inside = inside::enter();
        self.machine.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn share(&self) -> (inside::Inside, ShardedLockReadGuard<'_, Option<Box<dyn Machine>>>) {
        (inside::enter(), self.machine.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_whole(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// To be called with the lock held, so that whoever has it next sees what came of this.
    fn contain<T>(&self, steps: impl FnOnce() -> T) -> Result<Option<T>, Panic> {
        match catch_unwind(AssertUnwindSafe(steps)) {
            Ok(done) => Ok(Some(done)),
            Err(panic) if !self.broken.swap(true, Ordering::AcqRel) => Err(panic),
            Err(_) => Ok(None),
        }
    }
}

/// Does this thread hold the lock? A second time it would wait for itself.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_types, reason = "what a thread holds is known to that thread alone")]
mod inside {
    use std::cell::Cell;

    std::thread_local! {
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) struct Inside;

    pub(super) fn enter() -> Inside {
        assert!(!INSIDE.replace(true), "a thread in a step, or at a look, takes the world's lock again");
        Inside
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
}

#[cfg(not(debug_assertions))]
mod inside {
    pub(super) struct Inside;

    pub(super) fn enter() -> Inside {
        Inside
    }
}
