//! The arbiter's register, with a network between it and the nodes: answers come late or not at all, and a
//! swap may land after the node that asked for it has died.
//!
//! A question has exactly one answer. An error says nothing about whether the swap was done, but when it is
//! told nothing more will come of the question.

use super::rng::Rng;
use crate::arbiter::{Answer, Ask, Register};
use crate::ids::{Epoch, NodeName};
use crate::time::Duration;

/// What becomes of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// When it reaches the register, if it does.
    pub lands_after: Option<Duration>,
    /// When the node hears, counted from asking; never before it landed.
    pub answered_after: Duration,
    /// Does the node hear the answer, or an error?
    pub answer_lost: bool,
}

/// The register and how well it can be reached.
#[derive(Debug)]
pub struct SimArbiter {
    rng: Rng,
    register: Option<Register>,
    unreachable: [bool; 2],
    delay_us: u64,
    loss: f64,
    lost_answers: u64,
    violation: Option<String>,
}

impl SimArbiter {
    /// An empty register; answers take about `delay_us`, and this share of them is lost.
    pub fn new(rng: Rng, delay_us: u64, loss: f64) -> SimArbiter {
        let unreachable = [false; 2];
        SimArbiter { rng, register: None, unreachable, delay_us, loss, lost_answers: 0, violation: None }
    }

    /// What it holds.
    pub fn register(&self) -> Option<Register> {
        self.register
    }

    /// Can `node` reach it from now on?
    pub fn set_reachable(&mut self, node: NodeName, reachable: bool) {
        self.unreachable[node.index()] = !reachable;
    }

    /// Answers take about this long from now on.
    pub fn set_delay(&mut self, delay_us: u64) {
        self.delay_us = delay_us;
    }

    /// No more faults.
    pub fn heal(&mut self, delay_us: u64) {
        self.unreachable = [false; 2];
        self.delay_us = delay_us;
        self.loss = 0.0;
    }

    /// How many answers were lost.
    pub fn lost_answers(&self) -> u64 {
        self.lost_answers
    }

    /// A question leaves `node`: what will become of it.
    pub fn fate(&mut self, node: NodeName) -> Fate {
        let (there, back) = (self.rng.micros_around(self.delay_us), self.rng.micros_around(self.delay_us));
        if self.unreachable[node.index()] {
            // Cut off: most questions do not arrive; of some only the answer is lost.
            let lands_after = self.rng.chance(0.2).then_some(there);
            self.lost_answers += 1;
            return Fate {
                lands_after,
                answered_after: there + self.rng.micros(1_000, 800_000),
                answer_lost: true,
            };
        }
        let answer_lost = self.rng.chance(self.loss);
        self.lost_answers += u64::from(answer_lost);
        Fate { lands_after: Some(there), answered_after: there + back, answer_lost }
    }

    /// A question reaches the register.
    pub fn apply(&mut self, node: NodeName, ask: Ask) -> Answer {
        let Ask::Swap { expect, new } = ask else {
            return Answer { swapped: false, register: self.register };
        };
        let swapped = expect == self.register;
        if swapped {
            let before = self.register.map_or(Epoch(0), |register| register.epoch);
            if new.epoch <= before || new.by != node {
                self.violation = Some(format!("node {node} swaps {:?} to {new:?}", self.register));
            }
            self.register = Some(new);
        }
        Answer { swapped, register: self.register }
    }

    /// A swap that should never have been asked for.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Members;

    fn register(epoch: u64, by: NodeName) -> Register {
        Register { epoch: Epoch(epoch), members: Members::only(by), by }
    }

    #[test]
    fn only_the_expected_value_is_replaced() {
        let mut arbiter = SimArbiter::new(Rng::new(1), 100, 0.0);
        let first = register(1, NodeName::A);
        assert!(arbiter.apply(NodeName::A, Ask::Swap { expect: None, new: first }).swapped);
        let answer = arbiter.apply(NodeName::B, Ask::Swap { expect: None, new: register(1, NodeName::B) });
        assert_eq!(answer, Answer { swapped: false, register: Some(first) });
        assert_eq!(arbiter.apply(NodeName::B, Ask::Read).register, Some(first));
        assert!(arbiter.violation().is_none());
        arbiter.apply(NodeName::B, Ask::Swap { expect: Some(first), new: register(1, NodeName::B) });
        assert!(arbiter.violation().is_some(), "the epoch did not rise");
    }

    #[test]
    fn answers_are_lost_though_the_swap_landed() {
        let mut arbiter = SimArbiter::new(Rng::new(1), 100, 0.5);
        let fates: Vec<Fate> = (0..100).map(|_| arbiter.fate(NodeName::A)).collect();
        assert!(fates.iter().all(|fate| fate.lands_after.is_some_and(|after| after <= fate.answered_after)));
        assert!((20..80).contains(&fates.iter().filter(|fate| fate.answer_lost).count()));
        arbiter.set_reachable(NodeName::A, false);
        let fates: Vec<Fate> = (0..100).map(|_| arbiter.fate(NodeName::A)).collect();
        assert!(fates.iter().all(|fate| fate.answer_lost));
        let landed = fates.iter().filter(|fate| fate.lands_after.is_some()).count();
        assert!((5..50).contains(&landed), "{landed}");
        assert!(!arbiter.fate(NodeName::B).answer_lost || arbiter.lost_answers() > 0);
    }
}
