//! How a connection ends: closed by either side, asked to, or found dead.
//!
//! Invariant: after [`Connection::end`] nothing is sent, and the connection is forgotten when its last task is dead.

use crate::pdu::{NO_TAG, Response};

use super::{Awaited, Closing, Connection, Phase};

impl Connection {
    /// Should the socket be closed?
    pub(crate) fn is_over(&self) -> bool {
        match self.closing {
            Closing::No => false,
            Closing::AfterSend => self.output.is_empty(),
            Closing::Now => true,
        }
    }

    /// The initiator has closed the connection, or it broke.
    pub(crate) fn hang_up(&mut self) {
        self.close(Closing::Now);
    }

    /// Asks the initiator to go, as far as it can still be told (RFC 7143 11.9.1, event 2).
    pub(crate) fn drop_politely(&mut self) {
        if matches!(self.phase, Phase::Full { .. }) {
            self.send(Response::Dropping { cid: self.cid }, &[]);
        }
        self.close(Closing::AfterSend);
    }

    /// Asks the initiator to log out within `seconds`; a login is cut off. Whoever does not go is to be dropped then.
    pub(crate) fn ask_to_log_out(&mut self, seconds: u16) {
        match self.phase {
            Phase::Full { .. } => self.send(Response::LogoutRequested { seconds }, &[]),
            Phase::Leaving => {}
            _ => self.close(Closing::Now),
        }
    }

    /// To be called every keep-alive interval: pings an initiator that was silent, and closes if the last
    /// ping had no answer.
    pub(crate) fn keep_alive(&mut self) {
        if self.closing == Closing::AfterSend {
            self.close(if self.lingered { Closing::Now } else { Closing::AfterSend });
            self.lingered = true;
            return;
        }
        if core::mem::take(&mut self.heard) || !matches!(self.phase, Phase::Full { .. }) {
            return;
        }
        if self.pinged {
            return self.close(Closing::Now);
        }
        self.pinged = true;
        self.send(Response::NopIn { lun: [0; 8], itt: NO_TAG, ttt: 0 }, &[]);
    }

    /// The socket is closed: gives up what is in progress.
    pub(crate) fn end(&mut self) {
        self.close(Closing::Now);
        self.phase = Phase::Ended;
        self.output.clear();
        self.framer.discard();
        for slot in self.tasks.select(|_| true) {
            self.abort(slot, None);
        }
        self.give_up_at_end();
    }

    /// Was [`end`](Self::end) called?
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// After [`end`](Self::end): can nothing of this connection act any more? Then its successors are told.
    pub(crate) fn is_dead(&mut self) -> bool {
        // Answers that nobody hears are not waited for: others may wait for this session's end with what they hold.
        let waits = |awaited: &Awaited| matches!(awaited, Awaited::Enter { .. } | Awaited::GivenUp);
        let dead = self.tasks.len() == 0 && !self.awaited.iter().any(|(_, awaited)| waits(awaited));
        if dead {
            self.target.leave(&self.address);
            self.held.clear();
            self.early.clear();
        }
        dead
    }
}
