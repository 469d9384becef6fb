//! What the simulator's tests share: settings from the environment, and seeds spread over threads.

#![expect(clippy::disallowed_methods, reason = "tests run seeds on several threads and are set from outside")]
#![allow(dead_code, reason = "each test uses its part")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use twinsan::planted::Planted;
use twinsan::sim::Scale;
use twinsan::sim::cluster::{Report, run};
use twinsan::sim::trace::Detail;

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A text from the environment.
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs a seed; a panic of the node is told with the seed that raises it.
pub(crate) fn run_seed(seed: u64, scale: Scale, planted: Planted, detail: Detail) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, scale, planted, detail))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
    })
}

/// Calls `work` with each number of the range, on as many threads as `TWINSAN_THREADS` says (2).
pub(crate) fn spread(range: std::ops::Range<u64>, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(range.start);
    std::thread::scope(|scope| {
        for _ in 0..setting("TWINSAN_THREADS", 2) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= range.end {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

/// Something that several threads add to.
#[derive(Default)]
pub(crate) struct Shared<T>(Mutex<T>);

impl<T> Shared<T> {
    /// Uses it.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
