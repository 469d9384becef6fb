//! Elects who does shared work, without a lock and without a lost wake-up.
//!
//! Whoever leaves work somewhere then calls [`Gate::run`]. One caller at a time becomes the runner; the others
//! return at once, and the runner does another round for them.
//!
//! Invariant: after every `run` by anyone, `work` begins once more, or has begun after that call. It rests on
//! one atomic only: an arrival changes the count, and the runner leaves by exchanging exactly the count that it
//! read before it began its last round.

use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    arrivals: AtomicUsize,
}

impl Gate {
    /// Does `work` until nobody has arrived since it last began; returns at once if another is at it (or this
    /// thread is, further up its stack). `work` must not unwind: the gate would stay shut.
    pub(super) fn run(&self, mut work: impl FnMut()) {
        if self.arrivals.fetch_add(1, Ordering::AcqRel) != 0 {
            return;
        }
        loop {
            let seen = self.arrivals.load(Ordering::Acquire);
            work();
            if self.arrivals.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn an_arrival_from_inside_gets_its_round() {
        let gate = Gate::default();
        let rounds = AtomicU64::new(0);
        gate.run(|| {
            if rounds.fetch_add(1, Ordering::Relaxed) < 3 {
                gate.run(|| panic!("two runners"));
            }
        });
        assert_eq!(rounds.into_inner(), 4);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "races are made with threads")]
    fn nothing_left_behind_is_forgotten() {
        const EACH: u64 = 50_000;
        let gate = Arc::new(Gate::default());
        let left = Arc::new(Mutex::new(0u64));
        let taken = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        *left.lock() += 1;
                        gate.run(|| {
                            let found = std::mem::take(&mut *left.lock());
                            taken.fetch_add(found, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), 4 * EACH);
    }
}
