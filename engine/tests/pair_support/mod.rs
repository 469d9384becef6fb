//! Two nodes driven by hand, for tests that tell a story: what a link, a disk, the arbiter or a node does happens at
//! once unless the story holds it back, and time moves when told. After every event it is looked at what must hold
//! at every moment: two nodes serve only as one pair, no half that is behind serves, and blocks in which the halves
//! differ are marked. A sound node that breaks this ends the test; with a planted bug it is written down.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

mod arbiter;
mod disk;
mod guests;
mod medium;
mod volumes;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) use disk::DiskHold;
pub(crate) use guests::Look;
pub(crate) use twinsan::ids::NodeName::{A, B};
pub(crate) use wire::said;

use arbiter::{Question, Way};
use disk::Disk;
use twinsan::arbiter::{Arbitration, Register};
use twinsan::block::{BLOCK_BYTES, PagePool};
use twinsan::guest::{GuestResult, Items};
use twinsan::ids::{BootId, NodeName, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::mirror::message::{Body, Control, Message, VolumeRefusal};
use twinsan::node::Node;
use twinsan::node::config::{CacheConfig, MirrorConfig, NodeConfig, SpaceConfig, VolumeConfig};
use twinsan::node::event::{Action, Event, Notice};
use twinsan::planted::{Bug, Planted};
use twinsan::time::{Duration, Instant};
use wire::{Inbox, Said};

pub(crate) const VOLUME: VolumeId = VolumeId(1);
/// A volume that each node has for itself.
pub(crate) const LINEAR: VolumeId = VolumeId(2);
const DISK: Geometry = Geometry { bytes: 64 << 20, sector_bytes: 512 };
/// Blocks in a region of the change log.
pub(crate) const REGION_BLOCKS: u64 = 16;

/// How a pair is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) arbitration: Arbitration,
    pub(crate) planted: Planted,
    pub(crate) cache: CacheConfig,
    pub(crate) mirror: MirrorConfig,
    /// Snapshots and clones may be made.
    pub(crate) snapshots: bool,
    /// Space that is kept for the mirrored volume.
    pub(crate) reserved_bytes: u64,
    pub(crate) disk: Geometry,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            arbitration: Arbitration::Register,
            planted: Planted::NONE,
            cache: CacheConfig::default(),
            mirror: MirrorConfig::default(),
            snapshots: true,
            reserved_bytes: 0,
            disk: DISK,
        }
    }
}

fn volume(id: VolumeId, name: &str, mirrored: bool) -> VolumeConfig {
    let uuid = Uuid(100 - u128::from(id.0));
    VolumeConfig {
        id,
        name: name.into(),
        uuid,
        sectors: 200_000,
        mirrored,
        reserved_bytes: 0,
        detect_zeros: false,
    }
}

/// One node with what is around it.
struct Side {
    node: Option<Node>,
    /// Which life of the node this is.
    life: u64,
    disk: Disk,
    inbox: Inbox,
    /// While paused: what happened meanwhile.
    paused: Option<VecDeque<Event>>,
    way: Way,
    questions: VecDeque<Question>,
    /// A question that is slower than those asked after it.
    late: Option<Question>,
    answers: VecDeque<(u64, Event)>,
    notices: Vec<Notice>,
    /// The volumes as its hosts see them; `None`: deleted.
    sizes: BTreeMap<VolumeId, Option<u64>>,
    /// What is kept with the volumes, in force.
    items: BTreeMap<VolumeId, Arc<Items>>,
}

/// Two nodes, their disks, the link between them and the arbiter.
pub(crate) struct Pair {
    setup: Setup,
    sides: [Side; 2],
    pub(crate) register: Option<Register>,
    pub(crate) now: Instant,
    link: u64,
    linked: bool,
    lives: u64,
    requests: u64,
    events: VecDeque<(usize, Event)>,
    answers: BTreeMap<u64, GuestResult>,
    aborted: BTreeSet<u64>,
    changes: BTreeMap<u64, Result<(), VolumeRefusal>>,
    said: Vec<(NodeName, Said)>,
    touched: BTreeSet<u64>,
    broken: Vec<String>,
    /// Most dirty blocks that each node has had at once.
    most_dirty: [u64; 2],
    /// Are the halves compared after every event?
    compares: bool,
    pages: PagePool,
}

impl Pair {
    /// Two new nodes that are not yet a pair.
    pub(crate) fn new(arbitration: Arbitration) -> Pair {
        Pair::set_up(Setup { arbitration, ..Setup::default() })
    }

    /// A pair with an arbiter and these bugs planted in both nodes. Node a owns the volume.
    pub(crate) fn with(bugs: &[Bug]) -> Pair {
        let mut pair = Pair::set_up(Setup { planted: Planted::these(bugs), ..Setup::default() });
        pair.until_paired();
        pair
    }

    /// A pair without an arbiter, in which node a is preferred, and these bugs planted.
    pub(crate) fn preferring_a(bugs: &[Bug]) -> Pair {
        let (arbitration, planted) = (Arbitration::Preferred, Planted::these(bugs));
        let mut pair = Pair::set_up(Setup { arbitration, planted, ..Setup::default() });
        pair.until_paired();
        pair
    }

    pub(crate) fn set_up(setup: Setup) -> Pair {
        let disk = setup.disk;
        let side = |name| Side {
            node: None,
            life: 0,
            disk: Disk::formatted(name, disk),
            inbox: Inbox::default(),
            paused: None,
            way: Way::Open,
            questions: VecDeque::new(),
            late: None,
            answers: VecDeque::new(),
            notices: Vec::new(),
            sizes: BTreeMap::new(),
            items: BTreeMap::new(),
        };
        let mut pair = Pair {
            setup,
            sides: NodeName::BOTH.map(side),
            register: None,
            now: Instant::from_nanos(1),
            link: 0,
            linked: false,
            lives: 0,
            requests: 0,
            events: VecDeque::new(),
            answers: BTreeMap::new(),
            aborted: BTreeSet::new(),
            changes: BTreeMap::new(),
            said: Vec::new(),
            touched: BTreeSet::new(),
            broken: Vec::new(),
            most_dirty: [0; 2],
            compares: true,
            pages: PagePool::new(),
        };
        pair.start(A);
        pair.start(B);
        pair.heal();
        pair
    }

    fn side(&mut self, node: NodeName) -> &mut Side {
        &mut self.sides[node.index()]
    }

    /// Begins a life of a node. It has no link until [`heal`](Self::heal).
    pub(crate) fn start(&mut self, node: NodeName) {
        self.lives += 1;
        let config = NodeConfig {
            name: node,
            partnership: Uuid(7),
            boot: BootId(self.lives),
            arbitration: self.setup.arbitration,
            preferred: A,
            volumes: vec![
                VolumeConfig { reserved_bytes: self.setup.reserved_bytes, ..volume(VOLUME, "v", true) },
                volume(LINEAR, "w", false),
            ],
            cache: self.setup.cache,
            mirror: self.setup.mirror,
            space: SpaceConfig::default(),
            experimental_snapshots: self.setup.snapshots,
            planted: self.setup.planted,
        };
        let (life, disk) = (self.lives, self.setup.disk);
        let side = self.side(node);
        assert!(side.node.is_none(), "node {node} lives");
        side.items.clear();
        (side.node, side.life) = (Some(Node::new(config, &[disk])), life);
        self.happens(node, Event::Tick);
        self.settle();
    }

    /// Ends a node's life: its memory and what it had not flushed are lost. The partner learns that the connection
    /// is gone. What is on its way to the arbiter still arrives there.
    pub(crate) fn crash(&mut self, node: NodeName) {
        self.end_life(node, false);
    }

    /// As [`crash`](Self::crash), but what the disk had taken and not flushed happens to be there afterwards.
    pub(crate) fn crash_keeping_unflushed(&mut self, node: NodeName) {
        self.end_life(node, true);
    }

    /// As [`crash`](Self::crash), but guests' data that was not flushed happens to be there; metadata are lost.
    pub(crate) fn crash_keeping_data(&mut self, node: NodeName) {
        self.side(node).disk.power_cut_keeping_data();
        self.end_life(node, false);
    }

    fn end_life(&mut self, node: NodeName, keep: bool) {
        let side = self.side(node);
        assert!(side.node.take().is_some(), "node {node} is dead already");
        side.disk.power_cut(keep);
        side.paused = None;
        side.answers.clear();
        side.inbox = Inbox::default();
        self.events.retain(|(at, _)| *at != node.index());
        self.cut();
    }

    /// Starts a node and connects it.
    pub(crate) fn restart(&mut self, node: NodeName) {
        self.start(node);
        self.heal();
    }

    /// Asks a node to stop cleanly.
    pub(crate) fn stop(&mut self, node: NodeName) {
        self.happens(node, Event::Stop);
        self.settle();
    }

    /// Asks both at the same moment.
    pub(crate) fn stop_both(&mut self) {
        for node in NodeName::BOTH {
            self.happens(node, Event::Stop);
        }
        self.settle();
    }

    /// A node's process is suspended: time passes, it does nothing.
    pub(crate) fn pause(&mut self, node: NodeName) {
        self.side(node).paused = Some(VecDeque::new());
    }

    /// It goes on, with what happened meanwhile.
    pub(crate) fn resume(&mut self, node: NodeName) {
        let waiting = self.side(node).paused.take().expect("the node is paused");
        self.events.extend(waiting.into_iter().map(|event| (node.index(), event)));
        self.settle();
    }

    /// The link breaks, what was on it is lost, and both nodes are told.
    pub(crate) fn cut(&mut self) {
        self.cut_noticed_by(&NodeName::BOTH);
    }

    /// The link breaks and what was on it is lost, but only these nodes are told.
    pub(crate) fn cut_noticed_by(&mut self, nodes: &[NodeName]) {
        if !self.linked {
            return;
        }
        self.linked = false;
        let link = self.link;
        for side in &mut self.sides {
            side.inbox.clear();
        }
        for &node in nodes {
            self.happens(node, Event::LinkDown { link });
        }
        self.settle();
    }

    /// A new connection.
    pub(crate) fn heal(&mut self) {
        self.reconnect();
        self.settle();
    }

    fn reconnect(&mut self) {
        self.linked = true;
        self.link += 1;
        let link = self.link;
        for side in &mut self.sides {
            side.inbox.clear();
        }
        for node in NodeName::BOTH {
            self.happens(node, Event::LinkUp { link });
        }
    }

    /// From now on the first such message to a node, and all that come behind it, stay under way. Heartbeats pass.
    pub(crate) fn hold(&mut self, to: NodeName, held: fn(&Body) -> bool) {
        self.side(to).inbox.hold(held);
    }

    /// Nothing reaches the node any more, heartbeats neither, until [`release`](Self::release).
    pub(crate) fn stall(&mut self, to: NodeName) {
        self.side(to).inbox.stall();
    }

    /// The first message under way to a node arrives.
    pub(crate) fn deliver(&mut self, to: NodeName) {
        let message = self.side(to).inbox.force().expect("a message is under way");
        let link = self.link;
        self.happens(to, Event::Message { link, message });
        self.settle();
    }

    /// A node gets a message that its partner has not sent.
    pub(crate) fn slip(&mut self, to: NodeName, control: Control) {
        self.slip_message(to, Message::control(control));
    }

    /// The same of any message.
    pub(crate) fn slip_message(&mut self, to: NodeName, message: Message) {
        let link = self.link;
        self.happens(to, Event::Message { link, message });
        self.settle();
    }

    /// All messages under way to a node arrive, and the later ones as they come.
    pub(crate) fn release(&mut self, to: NodeName) {
        self.side(to).inbox.release();
        self.settle();
    }

    /// Messages held on their way to a node.
    pub(crate) fn under_way(&self, to: NodeName) -> usize {
        self.sides[to.index()].inbox.len()
    }

    /// How many such messages a node has sent so far.
    pub(crate) fn has_said(&self, node: NodeName, what: fn(&Body) -> bool) -> usize {
        self.said.iter().filter(|(from, said)| *from == node && what(&said.body)).count()
    }

    /// Bytes of blocks in the copies that a source has sent so far: of the log's regions, and of guests' new writes.
    pub(crate) fn bytes_copied(&self, source: NodeName) -> [u64; 2] {
        let mut bytes = [0; 2];
        for (from, said) in &self.said {
            if let (true, Body::Copy { fresh, .. }) = (*from == source, &said.body) {
                bytes[usize::from(*fresh)] += said.data_blocks * BLOCK_BYTES as u64;
            }
        }
        bytes
    }

    /// Blocks that the copies of a source name so far, with data or as zeros.
    pub(crate) fn blocks_named(&self, source: NodeName) -> u64 {
        let copies = self.said.iter().filter(|(from, _)| *from == source);
        copies
            .map(|(_, said)| if let Body::Copy { blocks, .. } = said.body { u64::from(blocks) } else { 0 })
            .sum()
    }

    /// Requests of this kind stay in a node's disk from now on.
    pub(crate) fn hold_disk(&mut self, node: NodeName, hold: DiskHold) {
        self.side(node).disk.hold(hold);
    }

    /// They are carried out, and later ones as they come.
    pub(crate) fn release_disk(&mut self, node: NodeName) {
        let done = self.side(node).disk.release();
        for event in done {
            self.happens(node, event);
        }
        self.settle();
    }

    /// The oldest request that is held in a node's disk is carried out, if there is one.
    pub(crate) fn disk_does_one(&mut self, node: NodeName) {
        if let Some(done) = self.side(node).disk.release_one() {
            self.happens(node, done);
            self.settle();
        }
    }

    /// The requests that are held in a node's disk fail.
    pub(crate) fn fail_disk(&mut self, node: NodeName) {
        let failed = self.side(node).disk.fail_held();
        for event in failed {
            self.happens(node, event);
        }
        self.settle();
    }

    /// Has anything with this byte all over reached a node's disk, flushed or not?
    pub(crate) fn is_on_disk(&self, node: NodeName, fill: u8) -> bool {
        self.sides[node.index()].disk.has_block_of(fill)
    }

    fn happens(&mut self, node: NodeName, event: Event) {
        match &mut self.sides[node.index()].paused {
            Some(waiting) => waiting.push_back(event),
            None => self.events.push_back((node.index(), event)),
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if let Some((n, event)) = self.events.pop_front() {
                self.step(n, event);
            } else if let Some((node, message)) = self.next_message() {
                let link = self.link;
                self.happens(node, Event::Message { link, message });
            } else {
                return;
            }
        }
        panic!("livelock: {:?}", self.phases());
    }

    fn next_message(&mut self) -> Option<(NodeName, Message)> {
        NodeName::BOTH.into_iter().find_map(|node| Some((node, self.side(node).inbox.pop()?)))
    }

    fn step(&mut self, n: usize, event: Event) {
        let now = self.now;
        let Some(node) = &mut self.sides[n].node else { return };
        // What a volume can do beside others it does so.
        let mut actions = Vec::new();
        match node.handle_beside(now, event, &mut actions, &mut |_| ()) {
            Ok(true) => node.handle(now, Event::Tick),
            Ok(false) => {}
            Err(event) => node.handle(now, event),
        }
        for action in actions {
            self.act(NodeName::BOTH[n], action);
        }
        while let Some(action) = self.sides[n].node.as_mut().and_then(Node::poll) {
            self.act(NodeName::BOTH[n], action);
        }
        self.inspect();
    }

    fn act(&mut self, name: NodeName, action: Action) {
        match action {
            Action::Disk(request) => {
                if let Some(done) = self.side(name).disk.submit(request) {
                    self.happens(name, done);
                }
            }
            Action::Send { link, message } => {
                self.said.push((name, Said::of(&message)));
                if self.linked && link == self.link && self.side(name.partner()).node.is_some() {
                    self.side(name.partner()).inbox.push(message);
                }
            }
            Action::Disconnect { link } => {
                if self.linked && link == self.link {
                    self.reconnect();
                }
            }
            Action::Arbiter { id, ask } => self.asked(name, id, ask),
            Action::Complete { id, result } => {
                assert!(self.answers.insert(id.0, result).is_none(), "answered once");
            }
            Action::PoolAnswer { .. } | Action::Release { .. } => unreachable!("no disk comes or goes here"),
            Action::Aborted { id } => {
                self.aborted.insert(id.0);
            }
            Action::VolumeAnswer { id, result } => {
                assert!(self.changes.insert(id, result).is_none(), "answered once");
            }
            Action::VolumeSize { volume, sectors } => drop(self.side(name).sizes.insert(volume, sectors)),
            Action::VolumeIs { .. } => {}
            Action::VolumeItems { volume, items } => drop(self.side(name).items.insert(volume, items)),
            Action::Notice(notice) => self.side(name).notices.push(notice),
        }
    }

    /// Lets time pass, in steps no longer than the nodes allow.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let awake = self.sides.iter().filter(|side| side.paused.is_none());
            let next = awake.filter_map(|side| side.node.as_ref()?.deadline()).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
            for n in 0..2 {
                if self.sides[n].paused.is_none() {
                    self.events.push_back((n, Event::Tick));
                }
            }
            self.settle();
        }
    }

    /// As [`pass`](Self::pass).
    pub(crate) fn pass_millis(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    /// Lets time pass until something is so; it must become so within a minute.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Pair) -> bool) {
        for _ in 0..6000 {
            if done(self) {
                return;
            }
            self.pass(Duration::from_millis(10));
        }
        panic!("never: {what}; phases {:?}, register {:?}", self.phases(), self.register);
    }
}
