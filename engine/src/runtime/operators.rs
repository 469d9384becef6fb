//! Operators who wait for the node's answer to what they asked of the pool.
//!
//! Invariant: each who enters has an answer, or is told that there will be none when the core closes.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::pool::DiskRefusal;

type Answer = Result<(), DiskRefusal>;

#[derive(Default)]
pub(super) struct Operators {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    waiting: BTreeMap<u64, Sender<Answer>>,
    closed: bool,
}

impl Operators {
    /// A number for the question, and where the answer will be.
    pub(super) fn enter(&self) -> Result<(u64, Receiver<Answer>), DiskRefusal> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(DiskRefusal::NotOpen);
        }
        state.last += 1;
        let (id, (sender, receiver)) = (state.last, bounded(1));
        state.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    pub(super) fn answer(&self, id: u64, answer: Answer) {
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
