//! The one place where tests of this crate sleep.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until something is so, however slow the machine.
#[track_caller]
pub(crate) fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "waited too long until {what}");
        thread::sleep(Duration::from_micros(200));
    }
}
