//! The world driven by hand: each call lets virtual time pass until it is done, or until a bound.

use super::Cluster;
use crate::guest::Sectors;
use crate::ids::{NodeName, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::sim::checker;
use crate::sim::history::{Kind, Outcome};
use crate::sim::hosts::Request;
use crate::sim::pattern::{Value, ZERO};
use crate::sim::plan::{Plan, Verb, VolumeSetup};
use crate::time::Duration;

/// Why a call could not be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// It did not finish within the bound.
    #[error("not finished after {0:?} of virtual time; is a node up, and may it serve?")]
    Unfinished(Duration),
    /// The request was refused.
    #[error("refused: the pool has no space, or no good copy is left")]
    Refused,
    /// Volumes are made before the nodes start.
    #[error("the nodes run already; create volumes first")]
    Running,
    /// A promise was broken.
    #[error("invariant {0} is broken: {1}")]
    Broken(u32, String),
}

/// A node as its partner would see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Does its process run?
    pub alive: bool,
    /// What it is doing.
    pub phase: PeerPhase,
    /// Its epoch, once it is open.
    pub epoch: u64,
    /// May it serve?
    pub serving: bool,
    /// Dirty blocks in its cache.
    pub dirty_blocks: u64,
    /// 64 KiB regions still to be copied.
    pub resync_regions_left: u64,
}

impl Cluster {
    /// Adds a volume of so many sectors, before anything runs.
    pub fn create(&mut self, sectors: u64, mirrored: bool) -> Result<VolumeId, ApiError> {
        if self.begun {
            return Err(ApiError::Running);
        }
        self.setup.volumes.push(VolumeSetup { sectors, mirrored, reserved_bytes: 0 });
        self.watch = super::Watch::new(&self.setup);
        self.hosts = super::Hosts::new(&self.setup, super::Rng::new(self.setup.seed).fork("hosts"));
        Ok(VolumeId(self.setup.volumes.len() as u32))
    }

    /// Checks the history so far.
    pub fn check_history(&mut self) {
        match checker::check(&self.history) {
            Ok(checked) => self.counters.checked = checked,
            Err(violation) => {
                let (volume, sector) = (violation.volume, violation.sector);
                self.fail(1, format!("volume {volume} sector {sector}: {}", violation.text));
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        self.begin();
        let until = self.now + span;
        self.run_until(until);
    }

    /// Lets time pass until `done`, at most so long.
    pub fn run_for(&mut self, most: Duration, done: impl Fn(&Cluster) -> bool) -> Result<(), ApiError> {
        self.begin();
        let end = self.now + most;
        while !done(self) {
            self.broken()?;
            if !self.step(end) {
                return Err(ApiError::Unfinished(most));
            }
        }
        self.broken()
    }

    fn broken(&self) -> Result<(), ApiError> {
        match &self.violation {
            Some(violation) => Err(ApiError::Broken(violation.invariant, violation.text.clone())),
            None => Ok(()),
        }
    }

    /// A host's request, by this path first; returns its number in the history at once.
    pub fn submit(&mut self, kind: Kind, via: NodeName, volume: VolumeId, at: Sectors, fua: bool) -> usize {
        self.begin();
        self.request(Request { kind, volume, at, fua, expected: ZERO }, via, None)
    }

    /// Is this request over?
    pub fn is_done(&self, op: usize) -> bool {
        !self.hosts.pending.contains_key(&op)
    }

    fn finish(&mut self, op: usize) -> Result<(), ApiError> {
        self.run_for(self.patience(), |cluster| cluster.is_done(op))?;
        match self.history.ops[op].outcome {
            Outcome::Done => Ok(()),
            _ => Err(ApiError::Refused),
        }
    }

    /// How long a call waits: longer than any takeover.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.setup.lease_ms) * 40
    }

    /// Writes; returns the value that the sectors hold from then on.
    pub fn write(&mut self, via: NodeName, volume: VolumeId, at: Sectors) -> Result<Value, ApiError> {
        let op = self.submit(Kind::Write, via, volume, at, false);
        self.finish(op)?;
        Ok(self.history.ops[op].value)
    }

    /// Reads; returns each sector's value, 0 where it reads as zero.
    pub fn read(&mut self, via: NodeName, volume: VolumeId, at: Sectors) -> Result<Vec<Value>, ApiError> {
        let op = self.submit(Kind::Read, via, volume, at, false);
        self.finish(op)?;
        Ok(self.history.ops[op].values.clone())
    }

    /// Clears.
    pub fn zero(&mut self, via: NodeName, volume: VolumeId, at: Sectors) -> Result<(), ApiError> {
        let op = self.submit(Kind::Zero, via, volume, at, false);
        self.finish(op)
    }

    /// Makes everything written so far stable.
    pub fn flush(&mut self, via: NodeName, volume: VolumeId) -> Result<(), ApiError> {
        let op = self.submit(Kind::Flush, via, volume, Sectors::new(0, 0), false);
        self.finish(op)
    }

    /// Waits until both nodes are a whole pair.
    pub fn until_paired(&mut self) -> Result<(), ApiError> {
        self.run_for(self.patience(), Cluster::is_whole)
    }

    /// Waits until this node serves alone.
    pub fn until_alone(&mut self, node: NodeName) -> Result<(), ApiError> {
        self.until_phase(node, PeerPhase::Alone)
    }

    /// Waits until this node is in a phase.
    pub fn until_phase(&mut self, node: NodeName, phase: PeerPhase) -> Result<(), ApiError> {
        self.run_for(self.patience(), |cluster| cluster.state(node).phase == phase)
    }

    /// A node now.
    pub fn state(&self, node: NodeName) -> State {
        let slot = &self.slots[node.index()];
        let view = self.view(node);
        State {
            alive: slot.alive(),
            phase: view.as_ref().map_or(slot.phase, |view| view.phase),
            epoch: view.as_ref().map_or(0, |view| view.epoch.0),
            serving: view.as_ref().is_some_and(|view| view.serving),
            dirty_blocks: view.as_ref().map_or(0, |view| view.dirty_blocks),
            resync_regions_left: view.as_ref().map_or(0, |view| view.resync_regions_left),
        }
    }

    /// Heals everything, waits until all has converged, and checks all that must hold.
    pub fn check(&mut self) -> Result<(), ApiError> {
        self.begin();
        self.converge();
        self.check_history();
        self.broken()
    }

    /// Checks what the hosts saw so far, and what must hold now; changes nothing.
    pub fn check_now(&mut self) -> Result<(), ApiError> {
        self.apply_now(Verb::Check);
        self.broken()
    }

    /// The steps that are still to come, with the setup.
    pub fn plan(&self) -> Plan {
        Plan { setup: self.setup.clone(), steps: self.steps.iter().cloned().collect() }
    }

    /// Runs all steps of the plan that are still to come.
    pub fn run_plan(&mut self) -> Result<(), ApiError> {
        let end = self.plan_end();
        self.run_until(end);
        self.broken()
    }
}
