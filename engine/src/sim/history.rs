//! What the hosts saw: every request with its beginning, its end and its answer, on one clock that numbers
//! these moments one by one.

use std::collections::BTreeSet;

use super::pattern::Value;
use crate::guest::Sectors;
use crate::ids::{NodeName, VolumeId};

/// A moment of the history. Zero is before everything.
pub type Moment = u64;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read.
    Read,
    /// Write of a value that no other write has.
    Write,
    /// Write of such a value if the sectors hold what is expected.
    Compare,
    /// Clear: the value is zero.
    Zero,
    /// Flush of the volume.
    Flush,
}

impl Kind {
    /// Does it change what is read?
    pub fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::Compare | Kind::Zero)
    }
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No answer, or none that says whether it was done: it may take effect at any later time, or never.
    Open,
    /// Done, says the answer.
    Done,
    /// Nothing of it was or will be done, says the answer.
    Refused,
}

/// One request of a host, with all its attempts.
#[derive(Clone, Debug)]
pub struct Op {
    /// The host.
    pub host: u32,
    /// What was asked.
    pub kind: Kind,
    /// Of which volume.
    pub volume: VolumeId,
    /// Of which sectors; none for a flush.
    pub at: Sectors,
    /// What a write writes.
    pub value: Value,
    /// What a comparison expects.
    pub expected: Value,
    /// When the first attempt began.
    pub start: Moment,
    /// When the answer came.
    pub end: Option<Moment>,
    /// The answer.
    pub outcome: Outcome,
    /// The answer promises that this is on stable media: a forced write, or any answer of a lone node.
    pub stable: bool,
    /// What a read returned, sector by sector.
    pub values: Vec<Value>,
    /// The paths tried, each with its moment.
    pub attempts: Vec<(Moment, NodeName)>,
}

impl Op {
    /// Does it change what is read?
    pub fn writes(&self) -> bool {
        self.kind.writes()
    }

    /// When the attempt began that was answered; if none was, the first.
    pub fn answered_from(&self) -> Moment {
        let attempt = if self.end.is_some() { self.attempts.last() } else { self.attempts.first() };
        attempt.map_or(self.start, |attempt| attempt.0)
    }
}

/// A failure after which what was not yet stable may be gone.
#[derive(Clone, Debug)]
pub struct Loss {
    /// When.
    pub at: Moment,
    /// Of which volumes.
    pub volumes: Vec<VolumeId>,
    /// Blocks known to be stable, which it does not touch.
    pub kept: BTreeSet<(VolumeId, u64)>,
    /// Some of it may be left in the memory of the other node.
    pub partly: bool,
}

/// Everything the hosts saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All requests, by number.
    pub ops: Vec<Op>,
    /// All failures that may lose data.
    pub losses: Vec<Loss>,
    moment: Moment,
}

impl History {
    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// A request begins; returns its number.
    pub fn begin(&mut self, host: u32, kind: Kind, volume: VolumeId, at: Sectors, value: Value) -> usize {
        let start = self.tick();
        let (end, outcome, stable) = (None, Outcome::Open, false);
        let (values, attempts, expected) = (Vec::new(), Vec::new(), 0);
        self.ops.push(Op {
            host,
            kind,
            volume,
            at,
            value,
            expected,
            start,
            end,
            outcome,
            stable,
            values,
            attempts,
        });
        self.ops.len() - 1
    }

    /// Another attempt of a request goes to `node`.
    pub fn attempt(&mut self, op: usize, node: NodeName) {
        let moment = self.tick();
        self.ops[op].attempts.push((moment, node));
    }

    /// The request is done.
    pub fn done(&mut self, op: usize, stable: bool, values: Vec<Value>) {
        let moment = self.tick();
        let op = &mut self.ops[op];
        (op.end, op.outcome, op.values) = (Some(moment), Outcome::Done, values);
        op.stable |= stable;
    }

    /// The request is over without having been done. Only if it had a single attempt is it sure that nothing
    /// of it was.
    pub fn refused(&mut self, op: usize) {
        let op = &mut self.ops[op];
        if op.attempts.len() <= 1 {
            op.outcome = Outcome::Refused;
        }
    }

    /// The request is over, and no attempt of it has had an effect.
    pub fn without_effect(&mut self, op: usize) {
        self.ops[op].outcome = Outcome::Refused;
    }

    /// What is not stable may be lost now.
    pub fn lose(&mut self, volumes: Vec<VolumeId>, kept: BTreeSet<(VolumeId, u64)>, partly: bool) {
        let at = self.tick();
        self.losses.push(Loss { at, volumes, kept, partly });
    }
}
