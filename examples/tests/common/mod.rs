//! What the tests of the daemon share.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod pair;
pub(crate) mod pool;

use std::time::{Duration, Instant};

/// What a node must have done by then, however slow the machine.
const BOUND: Duration = Duration::from_secs(90);

/// Waits until something is there; the one place where these tests sleep.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = reached() {
            return found;
        }
        assert!(Instant::now() < end, "not within {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
