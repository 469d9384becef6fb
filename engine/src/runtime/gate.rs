//! Elects who does shared work, without a lock and without a lost wake-up.
//!
//! Whoever leaves work somewhere then calls [`Gate::run`]. One caller at a time becomes the runner; the others
//! return at once, and the runner does another round for them.
//!
//! Invariant: after every `run` by anyone, `work` begins once more, or has begun after that call. It rests on
//! one atomic only: an arrival changes the count, and the runner leaves by exchanging exactly the count that it
//! read before it began its last round.
//!
//! A runner that finds no end, because others keep arriving, may hand over: it leaves the post vacant for the next
//! who arrives, and sees to it that somebody does. While the post is vacant there is work and no runner; whoever
//! fills it does so by an exchange, so that one does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    arrivals: AtomicUsize,
    vacant: AtomicBool,
}

impl Gate {
    /// Does `work` until nobody has arrived since it last began; returns at once if another is at it (or this
    /// thread is, further up its stack). `work` must not unwind: the gate would stay shut.
    pub(super) fn run(&self, work: impl FnMut()) {
        self.run_at_most(usize::MAX, work, || ());
    }

    /// As [`run`](Self::run), but for so many rounds. If there is work left then, calls `relieve`, which must see
    /// to it that some thread runs this gate once more.
    pub(super) fn run_at_most(&self, rounds: usize, mut work: impl FnMut(), relieve: impl FnOnce()) {
        if self.arrivals.fetch_add(1, Ordering::AcqRel) != 0 && !self.fill_vacancy() {
            return;
        }
        for _ in 0..rounds {
            let seen = self.arrivals.load(Ordering::Acquire);
            work();
            if self.arrivals.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        self.vacant.store(true, Ordering::Release);
        relieve();
    }

    fn fill_vacancy(&self) -> bool {
        self.vacant.load(Ordering::Relaxed) && self.vacant.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicU64;
    use std::thread;

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
    fn nothing_left_behind_is_forgotten() {
        let gate = Gate::default();
        race(|work| gate.run(work));
    }

    #[test]
    fn nothing_is_forgotten_when_runners_hand_over() {
        let gate = Gate::default();
        let handovers = AtomicU64::new(0);
        let run = |work: &dyn Fn()| {
            // This thread relieves itself, unless another is faster.
            let mut again = true;
            while std::mem::take(&mut again) {
                gate.run_at_most(2, work, || again = true);
                handovers.fetch_add(u64::from(again), Ordering::Relaxed);
            }
        };
        race(run);
        assert_eq!(gate.arrivals.load(Ordering::Relaxed), 0);
        assert!(!gate.vacant.load(Ordering::Relaxed));
    }

    #[test]
    fn a_vacant_post_is_filled_by_the_next() {
        let gate = Gate::default();
        let (rounds, relieved) = (Cell::new(0), Cell::new(false));
        let work = || {
            rounds.set(rounds.get() + 1);
            if rounds.get() < 4 {
                gate.run(|| panic!("two runners"));
            }
        };
        gate.run_at_most(2, work, || relieved.set(true));
        assert!(relieved.get() && rounds.get() == 2);
        gate.run_at_most(9, work, || panic!("no need"));
        assert_eq!(rounds.get(), 4);
        gate.run(work);
        assert_eq!(rounds.get(), 5);
    }

    /// Four threads each leave work and run the gate, many times: all of it is taken, by one at a time.
    #[expect(clippy::disallowed_methods, reason = "races are made with threads")]
    fn race(run: impl Fn(&dyn Fn()) + Sync) {
        const EACH: u64 = 50_000;
        let (left, taken, running) = (Mutex::new(0u64), AtomicU64::new(0), AtomicBool::new(false));
        let work = || {
            assert!(!running.swap(true, Ordering::Relaxed), "two runners");
            taken.fetch_add(std::mem::take(&mut *left.lock()), Ordering::Relaxed);
            running.store(false, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        *left.lock() += 1;
                        run(&work);
                    }
                });
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), 4 * EACH);
    }
}
