//! The alarm clock: calls when the node's deadline has come.
//!
//! Setting a deadline costs no lock unless it is earlier than what the sleeper waits for; a later one is noticed when
//! it wakes. The two sides each write their own variable before they read the other's, so one of them sees that the
//! sleeper must wake earlier.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use parking_lot::{Condvar, Mutex};

use super::clock::Clock;
use crate::time::{Duration, Instant};

/// The sleeper looks at the clock this often at least: a wait does not count the time of a suspension.
const NAP_MAX: Duration = Duration::from_millis(100);

pub(super) struct Timer {
    /// The deadline, in nanoseconds.
    wanted: AtomicU64,
    /// When the sleeper wakes by itself.
    armed: AtomicU64,
    called: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Timer {
    pub(super) fn new() -> Timer {
        Timer {
            wanted: AtomicU64::new(u64::MAX),
            armed: AtomicU64::new(0),
            called: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// From now on the deadline is this.
    pub(super) fn set(&self, deadline: Option<Instant>) {
        let deadline = deadline.unwrap_or(Instant::NEVER).as_nanos();
        if self.wanted.load(SeqCst) != deadline {
            self.wanted.store(deadline, SeqCst);
            if deadline < self.armed.load(SeqCst) {
                self.rouse();
            }
        }
    }

    /// The sleeper shall tick at once.
    pub(super) fn call(&self) {
        self.called.store(true, SeqCst);
        self.rouse();
    }

    /// Ends [`run`](Self::run).
    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.rouse();
    }

    fn rouse(&self) {
        // With the lock held the sleeper is asleep, or has yet to look.
        let _awake = self.lock.lock();
        self.wake.notify_one();
    }

    /// Calls `tick` whenever the deadline has come, until stopped. `tick` sees to a new deadline.
    pub(super) fn run(&self, clock: &dyn Clock, tick: impl Fn()) {
        while self.wait(clock) {
            tick();
        }
    }

    /// Waits for the deadline, and takes it. False: stopped.
    fn wait(&self, clock: &dyn Clock) -> bool {
        let mut asleep = self.lock.lock();
        loop {
            let now = clock.now();
            let nap_end = (now + NAP_MAX).as_nanos();
            self.armed.store(nap_end.min(self.wanted.load(SeqCst)), SeqCst);
            let wanted = self.wanted.load(SeqCst);
            if self.stopped.load(SeqCst) {
                return false;
            }
            if self.called.swap(false, SeqCst) {
                self.armed.store(0, SeqCst);
                return true;
            }
            if wanted <= now.as_nanos() {
                // A deadline that is set meanwhile stays.
                let _ = self.wanted.compare_exchange(wanted, u64::MAX, SeqCst, SeqCst);
                self.armed.store(0, SeqCst);
                return true;
            }
            let nap = Instant::from_nanos(wanted.min(nap_end)) - now;
            self.wake.wait_for(&mut asleep, nap);
        }
    }
}
