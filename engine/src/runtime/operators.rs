//! Those who wait for the node's answer to what they asked of the pool, or of a volume.
//!
//! Invariant: each who enters has an answer, or hears when the core closes that there will be none.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

/// Why they may be refused.
type Answer<R> = Result<(), R>;
/// `None`: there will be no answer.
pub(super) type Caller<R> = Box<dyn FnOnce(Option<Answer<R>>) + Send>;

pub(super) struct Operators<R> {
    state: Mutex<State<R>>,
}

struct State<R> {
    last: u64,
    waiting: BTreeMap<u64, Caller<R>>,
    closed: bool,
}

impl<R> Default for Operators<R> {
    fn default() -> Operators<R> {
        Operators { state: Mutex::new(State { last: 0, waiting: BTreeMap::new(), closed: false }) }
    }
}

impl<R: Send + 'static> Operators<R> {
    /// A number for the question, and where the answer will be; `None` when closed.
    pub(super) fn enter(&self) -> Option<(u64, Receiver<Answer<R>>)> {
        let (sender, receiver) = bounded(1);
        let id = self.enter_with(Box::new(move |answer| {
            // One who has gone needs no answer.
            drop(answer.map(|answer| sender.send(answer)));
        }));
        id.ok().map(|id| (id, receiver))
    }

    /// A number for the question, whose answer is told to `caller`, on whatever thread has it. Gives him back when closed.
    pub(super) fn enter_with(&self, caller: Caller<R>) -> Result<u64, Caller<R>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(caller);
        }
        state.last += 1;
        let id = state.last;
        state.waiting.insert(id, caller);
        Ok(id)
    }

    pub(super) fn answer(&self, id: u64, answer: Answer<R>) {
        let caller = self.state.lock().waiting.remove(&id);
        if let Some(caller) = caller {
            caller(Some(answer));
        }
    }

    /// There are no answers any more; whoever waits is to be told.
    pub(super) fn close(&self) -> Vec<Caller<R>> {
        let mut state = self.state.lock();
        state.closed = true;
        core::mem::take(&mut state.waiting).into_values().collect()
    }
}
