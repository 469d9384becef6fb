//! The arbiter, and what becomes of the questions to it. A question that was asked is carried out even if its asker has
//! died; the answer reaches only the life that asked.

use twinsan::arbiter::{Answer, ArbiterError, Ask};
use twinsan::ids::{Epoch, Members, NodeName};
use twinsan::node::event::Event;

use super::Pair;

/// A question on its way to the arbiter. It is carried out even if its asker has died.
pub(super) struct Question {
    life: u64,
    id: u64,
    ask: Ask,
}

/// What becomes of a node's questions to the arbiter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    QuestionsHeld,
    AnswersHeld,
    Lost,
}

impl Pair {
    /// A node's questions do not reach the arbiter until they are released.
    pub(crate) fn hold_questions(&mut self, node: NodeName) {
        self.side(node).way = Way::QuestionsHeld;
    }

    /// The arbiter's answers do not reach a node until they are released.
    pub(crate) fn hold_answers(&mut self, node: NodeName) {
        self.side(node).way = Way::AnswersHeld;
    }

    /// A node cannot ask the arbiter, and knows it.
    pub(crate) fn lose_arbiter(&mut self, node: NodeName) {
        self.side(node).way = Way::Lost;
    }

    /// The arbiter handles the oldest question of a node, dead or alive. The answer reaches the life that asked.
    pub(crate) fn arbiter_handles(&mut self, node: NodeName) {
        let question = self.side(node).questions.pop_front().expect("a question is under way");
        self.answer_question(node, question);
        self.settle();
    }

    /// The oldest question of a node is overtaken by all that it, or its next life, asks from now on.
    pub(crate) fn question_is_late(&mut self, node: NodeName) {
        let late = self.side(node).questions.pop_front();
        assert!(late.is_some(), "a question is under way");
        self.side(node).late = late;
    }

    /// It reaches the arbiter at last.
    pub(crate) fn late_question_arrives(&mut self, node: NodeName) {
        let question = self.side(node).late.take().expect("a question is late");
        self.answer_question(node, question);
        self.settle();
    }

    /// Questions on their way from a node.
    pub(crate) fn questions(&self, node: NodeName) -> usize {
        self.sides[node.index()].questions.len()
    }

    /// Questions and answers arrive, and later ones as they come.
    pub(crate) fn release_arbiter(&mut self, node: NodeName) {
        self.side(node).way = Way::Open;
        while let Some(question) = self.side(node).questions.pop_front() {
            self.answer_question(node, question);
        }
        for (life, event) in core::mem::take(&mut self.side(node).answers) {
            if self.side(node).life == life {
                self.happens(node, event);
            }
        }
        self.settle();
    }

    fn answer_question(&mut self, node: NodeName, question: Question) {
        let Question { life, id, ask } = question;
        let answer: Answer = ask.decide(self.register);
        self.register = answer.register;
        if self.side(node).life == life && self.side(node).node.is_some() {
            let event = Event::Arbiter { id, result: Ok(answer) };
            if self.side(node).way == Way::AnswersHeld {
                self.side(node).answers.push_back((life, event));
            } else {
                self.happens(node, event);
            }
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.register.expect("the arbiter has been asked").epoch
    }

    /// Whom the register names.
    pub(crate) fn members(&self) -> Members {
        self.register.expect("the arbiter has been asked").members
    }

    pub(super) fn asked(&mut self, name: NodeName, id: u64, ask: Ask) {
        let life = self.side(name).life;
        let question = Question { life, id, ask };
        match self.side(name).way {
            Way::Open | Way::AnswersHeld => self.answer_question(name, question),
            Way::QuestionsHeld => self.side(name).questions.push_back(question),
            Way::Lost => {
                let result = Err(ArbiterError { reason: "the way is cut".into() });
                self.happens(name, Event::Arbiter { id, result });
            }
        }
    }
}
