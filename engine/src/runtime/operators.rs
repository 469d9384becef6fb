//! Operators who wait for the node's answer to what they asked of the pool, or of a volume.
//!
//! Invariant: each who enters has an answer, or is told that there will be none when the core closes.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// Why they may be refused.
type Answer<R> = Result<(), R>;

pub(super) struct Operators<R> {
    state: Mutex<State<R>>,
}

struct State<R> {
    last: u64,
    waiting: BTreeMap<u64, Sender<Answer<R>>>,
    closed: bool,
}

impl<R> Default for Operators<R> {
    fn default() -> Operators<R> {
        Operators { state: Mutex::new(State { last: 0, waiting: BTreeMap::new(), closed: false }) }
    }
}

impl<R> Operators<R> {
    /// A number for the question, and where the answer will be; `None` when closed.
    pub(super) fn enter(&self) -> Option<(u64, Receiver<Answer<R>>)> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.last += 1;
        let (id, (sender, receiver)) = (state.last, bounded(1));
        state.waiting.insert(id, sender);
        Some((id, receiver))
    }

    pub(super) fn answer(&self, id: u64, answer: Answer<R>) {
        if let Some(waiting) = self.state.lock().waiting.remove(&id) {
            // One who has gone needs no answer.
            drop(waiting.send(answer));
        }
    }

    /// There are no answers any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting.clear();
    }
}
