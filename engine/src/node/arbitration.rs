//! One question to the arbiter at a time, asked again until it is answered.
//!
//! An unanswered swap may still be done later. That is harmless: it names the register it expects, epochs never
//! come back, and whoever asked reads the register again before it draws a conclusion.

use super::Node;
use super::event::Action;
use super::phase::Phase;
use crate::arbiter::{Answer, ArbiterError, Arbitration, Ask, Register};
use crate::ids::{Epoch, Members};
use crate::time::Instant;

/// The open question.
#[derive(Debug)]
pub(super) struct Question {
    id: u64,
    ask: Ask,
    asked_at: Instant,
}

impl Node {
    pub(super) fn has_arbiter(&self) -> bool {
        self.config.arbitration == Arbitration::Register
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.last_question += 1;
        let id = self.last_question;
        self.question = Some(Question { id, ask, asked_at: self.now });
        self.hello_due = true;
        self.actions.push_back(Action::Arbiter { id, ask });
    }

    /// A register in which this node alone may serve, in an epoch that was never proposed.
    pub(super) fn mine(&self, register: Option<Register>) -> Register {
        Register { epoch: self.next_epoch(register), members: Members::only(self.me()), by: self.me() }
    }

    /// Higher than every epoch known, committed or proposed.
    pub(super) fn next_epoch(&self, register: Option<Register>) -> Epoch {
        let record = self.record();
        let known = register.map_or(Epoch(0), |register| register.epoch);
        Epoch(known.max(record.epoch).max(record.proposed).0 + 1)
    }

    /// Is a swap on its way? Then what the register will hold is open. A read changes nothing.
    pub(super) fn is_swapping(&self) -> bool {
        self.question.as_ref().is_some_and(|question| matches!(question.ask, Ask::Swap { .. }))
    }

    pub(super) fn answered(&mut self, id: u64, result: Result<Answer, ArbiterError>) {
        let Some(question) = self.question.take_if(|question| question.id == id) else { return };
        self.hello_due = true;
        match result {
            Ok(answer) => self.verdict(question.ask, answer),
            Err(_) => self.ask_later(),
        }
    }

    fn ask_later(&mut self) {
        let at = self.now + self.config.mirror.arbiter_retry;
        match &mut self.phase {
            Phase::Starting(starting) => starting.ask_at = at,
            Phase::Deciding(deciding) => deciding.ask_at = at,
            Phase::Lost(lost) => lost.ask_at = at,
            Phase::Alone(alone) => alone.ask_at = at,
            _ => {}
        }
    }

    fn verdict(&mut self, ask: Ask, answer: Answer) {
        match &self.phase {
            Phase::Starting(_) | Phase::Lost(_) => self.idle_verdict(ask, answer),
            Phase::Deciding(_) => self.deciding_verdict(answer),
            Phase::Alone(_) => self.alone_verdict(answer),
            _ => {}
        }
    }

    /// Gives up on an answer that is overdue, so that the question is asked again.
    pub(super) fn check_question(&mut self) {
        let patience = self.config.mirror.arbiter_retry * 4;
        if self.question.as_ref().is_some_and(|question| self.now >= question.asked_at + patience) {
            self.question = None;
            self.ask_later();
        }
    }

    pub(super) fn question_deadline(&self) -> Option<Instant> {
        self.question.as_ref().map(|question| question.asked_at + self.config.mirror.arbiter_retry * 4)
    }
}
