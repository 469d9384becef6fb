//! `Cluster` and `State`.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use twinsan::guest::{Sectors, TRANSFER_SECTORS_MAX, ZERO_SECTORS_MAX};
use twinsan::ids::{NodeName, VolumeId};
use twinsan::sim::cluster::{self, ApiError};
use twinsan::sim::generate;
use twinsan::sim::history::{Kind, Outcome};
use twinsan::sim::{Plan, Scale, Setup, Step, Verb};

use crate::words;

/// A node as its partner would see it.
#[pyclass(frozen, get_all, module = "twinsan")]
pub(crate) struct State {
    /// Does its process run?
    alive: bool,
    /// What it is doing.
    phase: &'static str,
    /// Its epoch, once it is open.
    epoch: u64,
    /// May it serve?
    serving: bool,
    /// Dirty 4 KiB blocks in its cache.
    dirty_blocks: u64,
    /// 64 KiB regions still to be copied.
    resync_regions_left: u64,
}

#[pymethods]
impl State {
    fn __repr__(&self) -> String {
        let State { phase, epoch, dirty_blocks, resync_regions_left, .. } = self;
        let [alive, serving] = [self.alive, self.serving].map(|yes| if yes { "True" } else { "False" });
        format!(
            "State(alive={alive}, phase={phase:?}, epoch={epoch}, serving={serving}, \
             dirty_blocks={dirty_blocks}, resync_regions_left={resync_regions_left})"
        )
    }
}

/// Two nodes, their disks, their link, the arbiter and their hosts, on virtual time.
///
/// Calls let time pass until they are done; between calls no time passes.
#[pyclass(module = "twinsan")]
pub(crate) struct Cluster {
    cluster: cluster::Cluster,
    /// The plan it was made from.
    given: Vec<Step>,
    /// What was done by hand so far.
    done: Vec<Step>,
    /// Sizes of the volumes, by number from 1, in sectors.
    volumes: Vec<u64>,
}

impl Cluster {
    fn of(plan: Plan) -> Cluster {
        let given = plan.steps.clone();
        let volumes = plan.setup.volumes.iter().map(|volume| volume.sectors).collect();
        Cluster { cluster: cluster::Cluster::from_plan(plan), given, done: Vec::new(), volumes }
    }

    fn note(&mut self, verb: Verb) {
        let at_us = self.cluster.now().as_nanos() / 1000;
        self.done.push(Step { at_us, verb });
    }

    fn act(&mut self, verb: Verb) {
        self.note(verb.clone());
        self.cluster.apply_now(verb);
    }

    fn volume(&self, number: u32) -> PyResult<(VolumeId, u64)> {
        let index = (number as usize).checked_sub(1);
        let sectors = index.and_then(|index| self.volumes.get(index)).copied();
        let unknown = || PyValueError::new_err(format!("no volume {number}; create one first"));
        sectors.map(|sectors| (VolumeId(number), sectors)).ok_or_else(unknown)
    }

    /// A range that a host may ask for: nodes refuse others, and hosts that were told the limits do not ask.
    fn place(&self, number: u32, sector: u64, count: u64, most: u64) -> PyResult<(VolumeId, Sectors)> {
        let (volume, sectors) = self.volume(number)?;
        let fits = sector.checked_add(count).is_some_and(|end| end <= sectors);
        if !fits || !(1..=most).contains(&count) {
            let text = format!("a request has 1 to {most} sectors, and volume {number} has {sectors}");
            return Err(PyValueError::new_err(text));
        }
        Ok((volume, Sectors::new(sector, count)))
    }
}

#[pymethods]
impl Cluster {
    /// A world without volumes, to be driven by hand. The lease is that of the mirror.
    #[new]
    #[pyo3(signature = (seed = 1, *, arbitration = "register", preferred = "a", lease_ms = 500))]
    fn new(seed: u64, arbitration: &str, preferred: &str, lease_ms: u64) -> PyResult<Cluster> {
        let (arbitration, preferred) = (words::arbitration(arbitration)?, words::node(preferred)?);
        if lease_ms == 0 {
            return Err(PyValueError::new_err("a lease takes at least a millisecond"));
        }
        let setup = Setup { seed, arbitration, preferred, lease_ms, volumes: Vec::new(), ..Setup::default() };
        Ok(Cluster::of(Plan { setup, steps: Vec::new() }))
    }

    /// The world and the troubles that this seed stands for, with so many requests of hosts.
    #[staticmethod]
    #[pyo3(signature = (seed, ops = 2000))]
    fn generated(seed: u64, ops: u64) -> Cluster {
        Cluster::of(generate::plan(seed, Scale { ops, ..Scale::default() }))
    }

    /// The world of a plan: JSON lines, the first one the setup.
    #[staticmethod]
    fn from_plan(text: &str) -> PyResult<Cluster> {
        Plan::parse(text).map(Cluster::of).map_err(words::plan_error)
    }

    /// Adds a volume of so many sectors, before anything runs; returns its number.
    #[pyo3(signature = (sectors, *, mirrored = true))]
    fn create(&mut self, sectors: u64, mirrored: bool) -> PyResult<u32> {
        if !(1..=1 << 30).contains(&sectors) {
            return Err(PyValueError::new_err("a simulated volume has 1 to 2**30 sectors"));
        }
        let id = self.cluster.create(sectors, mirrored).map_err(words::error)?;
        self.volumes.push(sectors);
        Ok(id.0)
    }

    /// Writes; returns the number that the sectors show from then on.
    #[pyo3(signature = (volume, sector, count = 8, *, via = "a", fua = false))]
    fn write(&mut self, volume: u32, sector: u64, count: u64, via: &str, fua: bool) -> PyResult<u64> {
        let (volume, at) = self.place(volume, sector, count, TRANSFER_SECTORS_MAX)?;
        let via = words::node(via)?;
        self.note(Verb::Write { via, volume, at, fua });
        let op = self.cluster.submit(Kind::Write, via, volume, at, fua);
        let patience = self.cluster.patience();
        self.cluster.run_for(patience, |cluster| cluster.is_done(op)).map_err(words::error)?;
        match &self.cluster.history().ops[op] {
            op if op.outcome == Outcome::Done => Ok(op.value),
            _ => Err(words::error(ApiError::Refused)),
        }
    }

    /// Reads; returns the number of each sector.
    #[pyo3(signature = (volume, sector, count = 8, *, via = "a"))]
    fn read(&mut self, volume: u32, sector: u64, count: u64, via: &str) -> PyResult<Vec<u64>> {
        let (volume, at) = self.place(volume, sector, count, TRANSFER_SECTORS_MAX)?;
        let via = words::node(via)?;
        self.note(Verb::Read { via, volume, at });
        self.cluster.read(via, volume, at).map_err(words::error)
    }

    /// Makes sectors zero.
    #[pyo3(signature = (volume, sector, count, *, via = "a"))]
    fn zero(&mut self, volume: u32, sector: u64, count: u64, via: &str) -> PyResult<()> {
        let (volume, at) = self.place(volume, sector, count, ZERO_SECTORS_MAX)?;
        let via = words::node(via)?;
        self.note(Verb::Zero { via, volume, at });
        self.cluster.zero(via, volume, at).map_err(words::error)
    }

    /// Makes everything written so far stable on both nodes.
    #[pyo3(signature = (volume, *, via = "a"))]
    fn flush(&mut self, volume: u32, via: &str) -> PyResult<()> {
        let ((volume, _), via) = (self.volume(volume)?, words::node(via)?);
        self.note(Verb::Flush { via, volume });
        self.cluster.flush(via, volume).map_err(words::error)
    }

    /// Hosts begin to work on their own: so many requests more.
    fn load(&mut self, ops: u64) {
        self.act(Verb::Load { ops });
    }

    /// Kills a node's process; its disks keep what they were given.
    fn kill(&mut self, node: &str) -> PyResult<()> {
        let who = words::node(node)?;
        self.act(Verb::Kill { who });
        Ok(())
    }

    /// Cuts a node's power; its disks lose any part of what was not flushed.
    fn power_cut(&mut self, node: &str) -> PyResult<()> {
        let who = words::node(node)?;
        self.act(Verb::PowerCut { who });
        Ok(())
    }

    /// Starts a node that is down.
    fn start(&mut self, node: &str) -> PyResult<()> {
        let who = words::node(node)?;
        self.act(Verb::Start { who });
        Ok(())
    }

    /// Stops a node cleanly: it hands over first.
    fn stop(&mut self, node: &str) -> PyResult<()> {
        let who = words::node(node)?;
        self.act(Verb::Stop { who });
        Ok(())
    }

    /// Cuts the mirror link.
    fn cut(&mut self) {
        self.act(Verb::Cut);
    }

    /// Heals the mirror link.
    fn heal(&mut self) {
        self.act(Verb::Heal);
    }

    /// Does what one line of a plan says, now; its time does not matter.
    fn apply(&mut self, step: &str) -> PyResult<()> {
        let plan = Plan::parse(&format!("{{}}\n{step}")).map_err(words::plan_error)?;
        for step in plan.steps {
            self.act(step.verb);
        }
        Ok(())
    }

    /// Lets time pass, and the steps of the plan that are due in it.
    fn run(&mut self, seconds: f64) -> PyResult<()> {
        let span = Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|span| *span <= Duration::from_secs(86_400))
            .ok_or_else(|| PyValueError::new_err("seconds must be between 0 and 86400"))?;
        self.cluster.run(span);
        self.broken()
    }

    /// Runs all steps of the plan that are still to come.
    fn run_plan(&mut self) -> PyResult<()> {
        self.cluster.run_plan().map_err(words::error)
    }

    /// Lets time pass until a node is in a phase.
    fn until(&mut self, node: &str, phase: &str) -> PyResult<()> {
        let (node, phase) = (words::node(node)?, words::phase(phase)?);
        self.cluster.until_phase(node, phase).map_err(words::error)
    }

    /// Lets time pass until both nodes are a whole pair.
    fn until_paired(&mut self) -> PyResult<()> {
        self.cluster.until_paired().map_err(words::error)
    }

    /// A node now.
    fn state(&self, node: &str) -> PyResult<State> {
        let node: NodeName = words::node(node)?;
        let state = self.cluster.state(node);
        Ok(State {
            alive: state.alive,
            phase: words::phase_name(state.phase),
            epoch: state.epoch,
            serving: state.serving,
            dirty_blocks: state.dirty_blocks,
            resync_regions_left: state.resync_regions_left,
        })
    }

    /// Heals everything, waits until both halves are equal, and checks all that must hold.
    fn check(&mut self) -> PyResult<()> {
        self.cluster.check().map_err(words::error)
    }

    /// Checks what must hold now; heals nothing.
    fn check_now(&mut self) -> PyResult<()> {
        self.note(Verb::Check);
        self.cluster.check_now().map_err(words::error)
    }

    /// The plan: the one the world was made from, and what was done by hand so far.
    fn plan(&self) -> String {
        let steps = self.given.iter().chain(&self.done).cloned().collect();
        let mut plan = Plan { setup: self.cluster.plan().setup, steps };
        plan.sort();
        plan.print()
    }

    /// What happened so far, in numbers.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(py);
        for (name, value) in self.cluster.counters().list() {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }

    /// Seconds of virtual time since the beginning.
    #[getter]
    fn now(&self) -> f64 {
        self.cluster.now().as_nanos() as f64 / 1e9
    }

    /// Stands for everything that happened so far: equal runs have equal ones.
    #[getter]
    fn trace_hash(&self) -> u64 {
        self.cluster.trace_hash()
    }
}

impl Cluster {
    fn broken(&self) -> PyResult<()> {
        match self.cluster.violation() {
            Some(broken) => Err(crate::Broken::new_err(format!(
                "invariant {} is broken: {}",
                broken.invariant, broken.text
            ))),
            None => Ok(()),
        }
    }
}
