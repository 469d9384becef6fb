//! Two nodes, their disks, the link, the arbiter and the hosts, stepped through virtual time.
//!
//! One queue orders everything by time; ties go by the order of their making. A node is given an event with
//! its own clock's time, and then asked for all its actions; nothing happens inside a node at any other time.
//! All randomness comes from the seed.

use core::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::arbiter::SimArbiter;
use super::disk::Crash;
use super::generate::{self, Scale};
use super::history::History;
use super::hosts::{HostStep, Hosts};
use super::network::{Delivery, Due as LinkDue, LinkStep, Network};
use super::plan::{Plan, Setup, Step, Verb};
use super::rng::Rng;
use super::trace::{Detail, Trace};
use crate::arbiter::{Answer, ArbiterError, Ask};
use crate::block::PagePool;
use crate::ids::{DiskId, NodeName, VolumeId};
use crate::io::{DiskError, IoId};
use crate::mirror::message::PeerPhase;
use crate::node::Node;
use crate::node::event::{Action, Event, Notice};
use crate::planted::Planted;
use crate::time::Instant;

mod amount;
mod api;
mod clones;
mod converge;
mod disks;
mod failures;
mod faults;
mod guests;
mod invariants;
mod items;
mod losses;
mod offline;
mod origin;
mod report;
mod slot;
mod steps;
mod verbs;
mod volumes;

pub use api::{ApiError, State};
pub use origin::Origin;
pub use report::{Counters, Failure, Report, run, run_plan};

use amount::Amount;
use invariants::Watch;
use slot::Slot;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Number of the invariant in `engine/docs/invariants.md`.
    pub invariant: u32,
    /// When, in virtual time.
    pub at: Instant,
    /// What is wrong.
    pub text: String,
}

/// A node that is woken so often in a row, with nothing else happening, spins.
const TICKS_MAX: u32 = 5_000;

/// Something that will happen.
#[derive(Debug)]
enum Due {
    Disk { node: NodeName, life: u64, disk: DiskId, io: IoId },
    Link(LinkStep),
    Ask { node: NodeName, life: u64, id: u64, ask: Ask, answer_at: Instant, lost: bool },
    Answer { node: NodeName, life: u64, id: u64, result: Result<Answer, ArbiterError> },
    Host(HostStep),
    Exit { node: NodeName, life: u64 },
    FailDisks { node: NodeName, flushes: bool },
    NewDisks { node: NodeName },
}

#[derive(Debug)]
struct Scheduled {
    at: Instant,
    number: u64,
    due: Due,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The simulated world.
#[derive(Debug)]
pub struct Cluster {
    setup: Setup,
    planted: Planted,
    steps: VecDeque<Step>,
    now: Instant,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    slots: [Slot; 2],
    network: Network,
    arbiter: SimArbiter,
    hosts: Hosts,
    history: History,
    pages: PagePool,
    disk_rng: Rng,
    boot_rng: Rng,
    fault_rng: Rng,
    lives: u64,
    begun: bool,
    counters: Counters,
    trace: Trace,
    watch: Watch,
    amount: Amount,
    /// Another failure is outstanding: a crash may now lose what is not stable.
    degraded: bool,
    /// The pair ended by a clean stop, with everything stable: no failure.
    handed_over: bool,
    healing: bool,
    /// A resync found no space at its target: the mirror may stay degraded, guests may not.
    partner_full: bool,
    /// Both nodes are down, and this one died first.
    died_first: Option<NodeName>,
    violation: Option<Violation>,
    knowledge: volumes::Knowledge,
    kept: items::Kept,
    clones: clones::Clones,
    link_dues: Vec<LinkDue>,
}

impl Cluster {
    /// The run of this seed.
    pub fn new(seed: u64) -> Cluster {
        Cluster::from_plan(generate::plan(seed, Scale::default()))
    }

    /// The run of this plan.
    pub fn from_plan(plan: Plan) -> Cluster {
        Cluster::with(plan, Planted::NONE, Detail::None)
    }

    /// A world without a plan, to be driven by hand.
    pub fn by_hand(setup: Setup) -> Cluster {
        Cluster::from_plan(Plan { setup, steps: Vec::new() })
    }

    /// The run of this plan, with a planted bug and a timeline.
    pub fn with(plan: Plan, planted: Planted, detail: Detail) -> Cluster {
        let Plan { setup, steps } = plan;
        let root = Rng::new(setup.seed);
        let mut fault_rng = root.fork("choices");
        let mut slots = NodeName::BOTH.map(|name| Slot::new(name, &root));
        for slot in &mut slots {
            slot.format(&setup);
            slot.clock = slot::Clock::new(Instant::ZERO, Instant::from_nanos(fault_rng.below(1 << 50)));
        }
        Cluster {
            network: Network::new(root.fork("network"), setup.link_delay_us, setup.late_share),
            arbiter: SimArbiter::new(root.fork("arbiter"), setup.arbiter_delay_us, setup.arbiter_loss),
            hosts: Hosts::new(&setup, root.fork("hosts")),
            watch: Watch::new(&setup),
            amount: Amount::default(),
            disk_rng: root.fork("disks"),
            boot_rng: root.fork("boots"),
            fault_rng,
            planted,
            steps: steps.into(),
            now: Instant::ZERO,
            queue: BinaryHeap::new(),
            scheduled: 0,
            slots,
            history: History::default(),
            pages: PagePool::new(),
            lives: 0,
            begun: false,
            counters: Counters::default(),
            trace: Trace::new(detail),
            degraded: true,
            handed_over: false,
            healing: false,
            partner_full: false,
            died_first: None,
            violation: None,
            knowledge: volumes::Knowledge::default(),
            kept: items::Kept::default(),
            clones: clones::Clones::default(),
            link_dues: Vec::new(),
            setup,
        }
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the hosts saw.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Hash of all events and actions so far.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The readable timeline.
    pub fn timeline(&self) -> &[String] {
        self.trace.lines()
    }

    /// What happened, in numbers.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The first broken promise, if any.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn fail(&mut self, invariant: u32, text: String) {
        let at = self.now;
        self.trace.line(Detail::Story, at, "!!", || format!("invariant {invariant}: {text}"));
        self.violation.get_or_insert(Violation { invariant, at, text });
    }

    fn story(&mut self, who: &str, text: impl FnOnce() -> String) {
        self.trace.line(Detail::Story, self.now, who, text);
    }

    fn schedule(&mut self, at: Instant, due: Due) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at, number: self.scheduled, due }));
    }

    /// Starts both nodes, once.
    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            for node in NodeName::BOTH {
                self.start(node);
            }
        }
    }

    /// The next moment at which something happens.
    fn next_at(&self) -> Option<Instant> {
        let queued = self.queue.peek().map(|Reverse(next)| next.at);
        let step = self.steps.front().map(|step| Instant::from_nanos(step.at_us * 1000));
        let ticks = self.slots.iter().map(|slot| slot.tick_at);
        ticks.chain([queued, step]).flatten().min()
    }

    /// Lets the next thing happen, if it happens by `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.begin();
        let Some(at) = self.next_at().filter(|at| *at <= until) else { return false };
        self.now = self.now.max(at);
        if self.steps.front().is_some_and(|step| step.at_us * 1000 <= at.as_nanos()) {
            let step = self.steps.pop_front().expect("just seen");
            self.apply(step.verb);
        } else if let Some(index) =
            self.slots.iter().position(|slot| slot.tick_at.is_some_and(|tick| tick <= at))
        {
            self.slots[index].tick_at = None;
            self.deliver(NodeName::BOTH[index], Event::Tick);
        } else if let Some(Reverse(next)) = self.queue.pop() {
            self.happen(next.due);
        }
        self.watch_step();
        true
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Disk { node, life, disk, io } => {
                let slot = &mut self.slots[node.index()];
                if slot.life == life
                    && let Some(result) = slot.device(disk).finish(io, &mut self.disk_rng)
                {
                    self.deliver(node, Event::Disk { id: io, result });
                }
            }
            Due::FailDisks { node, flushes } => self.fail_disks_now(node, flushes),
            Due::NewDisks { node } => self.ask_new_disks(node),
            Due::Link(step) => {
                let mut dues = core::mem::take(&mut self.link_dues);
                let told = self.network.step(self.now, step, &mut dues);
                self.link_dues = dues;
                self.schedule_link();
                for delivery in told {
                    self.deliver_link(delivery);
                }
            }
            Due::Ask { node, life, id, ask, answer_at, lost } => {
                let answer = self.arbiter.apply(node, ask);
                if answer.swapped {
                    self.story("arb", || format!("now holds {:?}", answer.register));
                }
                if let Some(text) = self.arbiter.violation().map(str::to_string) {
                    self.fail(5, text);
                }
                let result = if lost { Err(unreachable_arbiter()) } else { Ok(answer) };
                self.schedule(answer_at, Due::Answer { node, life, id, result });
            }
            Due::Answer { node, life, id, result } => {
                if self.slots[node.index()].life == life {
                    self.deliver(node, Event::Arbiter { id, result });
                }
            }
            Due::Host(step) => self.host_step(step),
            Due::Exit { node, life } => {
                if self.slots[node.index()].life == life {
                    self.exit_may_lose(node);
                    self.end_life(node, Crash::Kill);
                }
            }
        }
    }

    fn schedule_link(&mut self) {
        for (at, step) in core::mem::take(&mut self.link_dues) {
            self.schedule(at, Due::Link(step));
        }
    }

    fn on_network(&mut self, act: impl FnOnce(&mut Network, Instant, &mut Vec<LinkDue>)) {
        act(&mut self.network, self.now, &mut self.link_dues);
        self.schedule_link();
    }

    fn deliver_link(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Up(node, link) => self.deliver(node, Event::LinkUp { link }),
            Delivery::Down(node, link) => {
                self.counters.links_lost += 1;
                // Only the source's end ends a resync: a cut shorter than the grace of a link does not.
                self.interrupted(node);
                self.deliver(node, Event::LinkDown { link });
            }
            Delivery::Message(node, link, message) => self.deliver(node, Event::Message { link, message }),
        }
    }

    /// Gives an event to a node, and carries out what it wants done.
    fn deliver(&mut self, name: NodeName, event: Event) {
        let slot = &mut self.slots[name.index()];
        if !slot.alive() {
            return;
        }
        if slot.paused {
            slot.inbox.push_back(event);
            return;
        }
        self.trace.event(self.now, name, &event);
        self.counters.events += 1;
        slot.ticks = if matches!(event, Event::Tick) { slot.ticks + 1 } else { 0 };
        let spins = slot.ticks > TICKS_MAX;
        let actions = slot.step(self.now, event, &mut self.counters);
        let life = slot.life;
        for action in actions {
            self.trace.action(self.now, name, &action);
            self.carry_out(name, life, action);
        }
        if spins {
            self.fail(15, format!("node {name} wants to be woken again and again, and does nothing"));
        }
    }

    fn carry_out(&mut self, name: NodeName, life: u64, action: Action) {
        let now = self.now;
        match action {
            Action::Disk(request) => {
                let (disk, io) = (request.disk, request.id);
                let span = self.slots[name.index()].device(disk).submit(request, &mut self.disk_rng);
                self.schedule(now + span, Due::Disk { node: name, life, disk, io });
            }
            Action::Send { link, message } => {
                self.note_copy(name, &message);
                self.on_network(|network, now, dues| network.send(now, name, link, message, dues));
            }
            Action::Disconnect { link } => {
                self.on_network(|network, now, dues| network.disconnect(now, name, link, dues));
            }
            Action::Arbiter { id, ask } => self.ask_arbiter(name, life, id, ask),
            Action::Complete { id, result } => self.completed(name, id, result),
            Action::Aborted { id } => self.aborted(id),
            Action::Notice(notice) => self.noticed(name, life, notice),
            Action::PoolAnswer { id, result } => self.pool_answered(name, id, result),
            Action::VolumeAnswer { id, result } => self.volume_answered(name, id, result),
            Action::VolumeItems { volume, items } => self.items_shown(name, volume, items),
            Action::VolumeSize { volume, sectors } => self.size_shown(name, volume, sectors),
            Action::Release { .. } | Action::VolumeIs { .. } => {}
        }
    }

    fn ask_arbiter(&mut self, node: NodeName, life: u64, id: u64, ask: Ask) {
        let fate = self.arbiter.fate(node);
        let answer_at = self.now + fate.answered_after;
        match fate.lands_after {
            Some(after) => {
                let lost = fate.answer_lost;
                self.schedule(self.now + after, Due::Ask { node, life, id, ask, answer_at, lost });
            }
            None => {
                let result = Err(unreachable_arbiter());
                self.schedule(answer_at, Due::Answer { node, life, id, result });
            }
        }
    }

    fn noticed(&mut self, name: NodeName, life: u64, notice: Notice) {
        let slot = &mut self.slots[name.index()];
        match notice {
            Notice::Opened => {
                (slot.opened, slot.phase) = (true, PeerPhase::Starting);
                self.forgive_doubtful(name);
                self.check_pool(name);
            }
            Notice::Paired(_) => {
                slot.phase = PeerPhase::Paired;
                (slot.resyncing, slot.fresh) = (false, false);
            }
            Notice::Alone(_) => {
                slot.phase = PeerPhase::Alone;
                self.counters.takeovers += 1;
            }
            Notice::Lost => slot.phase = PeerPhase::Lost,
            Notice::Unreadable { volume, region } => self.cannot_be_copied(name, volume, region),
            Notice::ReservationShort { .. }
            | Notice::DiskJoined(_)
            | Notice::VolumeGrown { .. }
            | Notice::VolumeDeleted(_)
            | Notice::VolumeCloned { .. }
            | Notice::DiskNotOurs(_) => {}
            Notice::DiskLeft { .. } => self.counters.disks_left += 1,
            Notice::Unmovable { volume, block, .. } => self.cannot_be_moved(name, volume, block),
            Notice::PartnerDropped => self.counters.partners_dropped += 1,
            Notice::SpaceReached { .. } => self.counters.thresholds_reached += 1,
            Notice::SpaceRegained { .. } => self.counters.thresholds_left += 1,
            Notice::Damaged { repaired: true, .. } => self.counters.blocks_repaired += 1,
            Notice::Damaged { .. } => self.counters.blocks_lost += 1,
            Notice::PartnerFull => self.partner_full = true,
            Notice::ResyncBegan { source, regions } => {
                if source == name {
                    self.counters.resyncs += 1;
                    NodeName::BOTH.into_iter().for_each(|node| self.interrupted(node));
                    self.slots[name.index()].resyncing = true;
                    // A fresh half is behind like any other from now on: what it lacks is marked.
                    self.slots.iter_mut().for_each(|slot| slot.fresh = false);
                    self.resync_begins(regions);
                }
            }
            Notice::DiskFailed => {
                self.crash_may_lose(name);
                self.slots[name.index()].phase = PeerPhase::Stopped;
                self.disks_failed(name);
            }
            Notice::Stopped => {
                slot.stopped_alone = slot.phase == PeerPhase::Alone;
                slot.phase = PeerPhase::Stopped;
                self.handed_over |= !self.degraded;
                self.counters.clean_stops += 1;
                let after = self.fault_rng.micros(0, 20_000);
                self.schedule(self.now + after, Due::Exit { node: name, life });
            }
            Notice::OpenDiskFailed { disk, error: DiskError::Failed } if slot.disk(disk).is_failing() => {
                // It died before it noticed, and finds out now.
                slot.phase = PeerPhase::Stopped;
                self.disks_failed(name);
            }
            Notice::OpenDiskFailed { .. } => {}
            // The disk's failure was told just before; any other reason is none.
            Notice::OpenFailed(_) if slot.disk_failed => {}
            Notice::OpenFailed(reason) => self.fail(9, format!("node {name} cannot open its pool: {reason}")),
            Notice::NeedsDecision(what) if what.contains("cannot make the clones") => {
                self.clones_in_the_way(name)
            }
            Notice::NeedsDecision(what) => {
                self.fail(15, format!("node {name} wants a person's decision: {what}"))
            }
        }
        self.watch.look_soon();
    }

    /// A resync from this node, if one was going on, has been broken off.
    fn interrupted(&mut self, source: NodeName) {
        let broken = core::mem::take(&mut self.slots[source.index()].resyncing);
        self.counters.resyncs_interrupted += u64::from(broken);
    }

    /// Runs the node's next life.
    fn start(&mut self, name: NodeName) {
        if self.slots[name.index()].alive() {
            return;
        }
        self.story(&name.to_string(), || "starts".into());
        self.count_return(name);
        self.lives += 1;
        let slot = &mut self.slots[name.index()];
        slot.life = self.lives;
        slot.phase = PeerPhase::Starting;
        (slot.opened, slot.stopping) = (false, false);
        let config = slot.config(&self.setup, self.planted, &mut self.boot_rng);
        let geometries = slot.connect(&mut self.fault_rng);
        slot.asked.clear();
        slot.changes.clear();
        self.clones.life_ended(name);
        slot.items.clear();
        slot.node = Some(Node::new(config, &geometries));
        let life = slot.life;
        self.on_network(|network, now, dues| network.started(now, name, life, dues));
        self.watch.life_began();
        self.deliver(name, Event::Tick);
    }

    /// The node's life ends, without a word.
    fn end_life(&mut self, name: NodeName, crash: Crash) {
        let now = self.now;
        self.count_sums(name);
        let slot = &mut self.slots[name.index()];
        if slot.node.take().is_none() {
            return;
        }
        slot.life = 0;
        slot.phase = PeerPhase::Stopped;
        (slot.opened, slot.stopping, slot.paused, slot.stopped_alone) = (false, false, false, false);
        slot.inbox.clear();
        slot.tick_at = None;
        let disks = slot.disks.iter_mut();
        let lost: Vec<_> = disks.map(|disk| disk.crash(crash, &mut self.disk_rng)).collect();
        if crash == Crash::PowerCut {
            let shows = Instant::from_nanos(self.fault_rng.below(1 << 50));
            slot.clock = slot::Clock::new(now, shows);
        }
        let silently = crash == Crash::PowerCut;
        self.on_network(|network, now, dues| network.died(now, name, silently, dues));
        self.interrupted(name);
        self.paths_died(name, silently);
        self.watch.life_ended(name);
        self.count_death(name, &lost);
    }

    /// Counts what a node did in its life that ends, or at the end of a run.
    fn count_sums(&mut self, name: NodeName) {
        if let Some(view) = self.view(name) {
            self.counters.blocks_asked += view.sums.asked;
            self.counters.sums_remade += view.sums.remade;
            self.counters.blocks_scrubbed += view.scrub.bytes_done / 4096;
            self.counters.scrub_repairs += view.scrub.repaired;
        }
        self.counters.writes_astray = self.counters.writes_astray.max(self.writes_astray());
    }

    fn writes_astray(&self) -> u64 {
        self.slots.iter().flat_map(|slot| &slot.disks).map(|disk| disk.mishaps()).sum()
    }

    /// Runs until `until`, or until something is wrong.
    pub fn run_until(&mut self, until: Instant) {
        while self.violation.is_none() && self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Ids of the mirrored volumes, or of the linear ones.
    fn volumes(&self, mirrored: bool) -> Vec<VolumeId> {
        let volumes = self.setup.volumes.iter().enumerate();
        volumes.filter(|(_, v)| v.mirrored == mirrored).map(|(index, _)| VolumeId(index as u32 + 1)).collect()
    }

    /// Does what a plan's line says, now.
    pub fn apply_now(&mut self, verb: Verb) {
        self.begin();
        self.apply(verb);
    }
}

fn unreachable_arbiter() -> ArbiterError {
    ArbiterError { reason: "no answer".into() }
}
