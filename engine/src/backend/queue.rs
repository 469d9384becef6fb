//! A queue from which threads take work. A thread without work sleeps at once: one that looks around a few times more
//! costs the processor more than its waking does.
//!
//! Invariant: while there is work and a sleeping thread, one that was woken is on its way.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// See the module.
pub(super) struct Queue<T> {
    line: Mutex<Line<T>>,
    came: Condvar,
}

struct Line<T> {
    /// `None` when closed.
    waiting: Option<VecDeque<T>>,
    /// Threads that sleep and that nobody has woken.
    sleeping: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        let line = Line { waiting: Some(VecDeque::new()), sleeping: 0 };
        Queue { line: Mutex::new(line), came: Condvar::new() }
    }

    /// Puts work at the end; gives it back if the queue is closed.
    pub(super) fn push(&self, work: T) -> Result<(), T> {
        let mut line = self.line.lock();
        let Some(waiting) = &mut line.waiting else { return Err(work) };
        waiting.push_back(work);
        if line.sleeping > 0 {
            line.sleeping -= 1;
            drop(line);
            self.came.notify_one();
        }
        Ok(())
    }

    /// Takes the first; waits for it. `None` when the queue is closed.
    pub(super) fn take(&self) -> Option<T> {
        let mut line = self.line.lock();
        loop {
            if let Some(work) = line.waiting.as_mut()?.pop_front() {
                return Some(work);
            }
            line.sleeping += 1;
            self.came.wait(&mut line);
        }
    }

    /// Closes it: gives back what was in it, and wakes everybody.
    pub(super) fn close(&self) -> VecDeque<T> {
        let mut line = self.line.lock();
        let left = line.waiting.take().unwrap_or_default();
        line.sleeping = 0;
        drop(line);
        self.came.notify_all();
        left
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn work_comes_in_order_and_not_after_the_end() {
        let queue = Queue::new();
        (0..3).for_each(|n| queue.push(n).unwrap());
        assert_eq!(queue.take(), Some(0));
        assert_eq!(queue.close(), [1, 2]);
        assert_eq!((queue.push(9), queue.take()), (Err(9), None));
        assert!(queue.close().is_empty());
    }

    #[test]
    fn threads_take_each_work_once_and_end() {
        const EACH: u64 = 20_000;
        let (queue, sum, left) = (Queue::new(), AtomicU64::new(0), AtomicU64::new(2 * EACH));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(work) = queue.take() {
                        sum.fetch_add(work, Ordering::Relaxed);
                        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                            assert!(queue.close().is_empty());
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| (1..=EACH).for_each(|work| queue.push(work).unwrap()));
            }
        });
        assert_eq!(sum.into_inner(), EACH * (EACH + 1));
    }
}
