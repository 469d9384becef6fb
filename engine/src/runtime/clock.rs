//! What time it is, for the engine.

use crate::backend;
use crate::time::Instant;

/// A monotonic clock. Leases rest on it: it must go on while the machine is suspended, and its rate must be right to
/// within the lease margin. The wall clock is none.
pub trait Clock: Send + Sync {
    /// The time now; never earlier than an answer before it, on any thread. Called in the middle of the node's steps: it
    /// must not call the engine.
    fn now(&self) -> Instant;
}

/// The system's clock since boot, time of suspension included (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        backend::boot_time()
    }
}
