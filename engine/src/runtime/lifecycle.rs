//! From start to end: what an engine has told so far, and waiting for it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::{Condvar, Mutex};

use crate::node::event::Notice;
use crate::time::Duration;

/// How many notices are kept for those who begin to listen later.
const KEPT_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Lifecycle {
    state: Mutex<State>,
    changed: Condvar,
}

/// How far an engine has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    pub(super) opened: bool,
    /// Why it cannot open, or what it died of.
    pub(super) failed: Option<String>,
    pub(super) stopped: bool,
    /// Disks and transport are let go.
    pub(super) over: bool,
}

#[derive(Default)]
struct State {
    stage: Stage,
    kept: VecDeque<Notice>,
    listeners: Vec<Sender<Notice>>,
}

impl Lifecycle {
    pub(super) fn notice(&self, notice: Notice) {
        let mut state = self.state.lock();
        match &notice {
            Notice::Opened => state.stage.opened = true,
            Notice::OpenFailed(reason) => state.stage.failed = Some(reason.clone()),
            Notice::Stopped => state.stage.stopped = true,
            _ => {}
        }
        state.listeners.retain(|listener| listener.send(notice.clone()).is_ok());
        if state.kept.len() == KEPT_MAX {
            state.kept.pop_front();
        }
        state.kept.push_back(notice);
        self.changed.notify_all();
    }

    /// The node died of a panic.
    pub(super) fn failed(&self, panic: &str) {
        let reason = format!("the node failed: {panic}; restart it, and report this");
        self.state.lock().stage.failed = Some(reason);
        self.changed.notify_all();
    }

    /// Nothing more happens.
    pub(super) fn let_go(&self) {
        let mut state = self.state.lock();
        state.stage.over = true;
        state.listeners.clear();
        self.changed.notify_all();
    }

    /// The notices so far (the last 256), and those to come.
    pub(super) fn listen(&self) -> Receiver<Notice> {
        let (sender, receiver) = channel();
        let mut state = self.state.lock();
        for notice in &state.kept {
            // The receiver is in this function's hands.
            drop(sender.send(notice.clone()));
        }
        if !state.stage.over {
            state.listeners.push(sender);
        }
        receiver
    }

    pub(super) fn stage(&self) -> Stage {
        self.state.lock().stage.clone()
    }

    /// Waits until `reached` holds, at most for `bound`; returns how far it is then.
    pub(super) fn wait(&self, bound: Duration, reached: impl Fn(&Stage) -> bool) -> Stage {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !reached(&state.stage), bound);
        state.stage.clone()
    }
}
