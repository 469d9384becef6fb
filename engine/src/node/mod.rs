//! The node: a pure state machine that routes events to the parts and their wishes back out as actions.
//!
//! Here is the control part: membership, configuration, start and stop, rejoin, disks, space. What it does with guests'
//! data is done by one machine per virtual volume (`volume`), which knows nothing of all this but its right.
//!
//! | module | what it decides |
//! |---|---|
//! | `membership` | the phase: who may serve, leases, takeover |
//! | `rights` | what the machines of the volumes may do |
//! | `machines` | which of them is stepped, when |
//! | `volume` | everything of one volume |
//! | `beside` | what a volume does without having the node for itself |
//! | `start` | what a node that starts, or has lost, may do |
//! | `source`, `target` | rejoin and resync, on either side |
//! | `resync` | which volume copies next |
//! | `messages` | whom a message of the partner concerns |
//! | `stop` | the clean stop |
//! | `scrub` | which volume is looked at next for damage, and how fast |
//! | `disks` | disks that are added and removed |
//! | `volumes` | volumes that grow and are deleted |
//! | `items` | what is kept with a volume |
//! | `clones` | volumes that begin as others are: snapshots and clones |
//! | `space` | thresholds of the pool's use, a partner that is full |
//! | `paths` | what hosts are told of the paths and the blocks of a volume |

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

use crate::block::PagePool;
use crate::cells::Cells;
use crate::ids::{BootId, DiskId, Epoch, NodeName, VolumeId};
use crate::io::Geometry;
use crate::mirror::message::{Control, Hello, Message};
use crate::planted::Bug;
use crate::pool::{Lsn, Opening, Record};
use crate::store::Store;
use crate::time::Instant;

pub mod config;
pub mod event;
mod forget;
pub mod view;

mod arbitration;
mod beside;
mod clones;
mod disks;
mod items;
mod machines;
mod membership;
mod messages;
mod open;
mod paths;
mod peek;
mod phase;
mod resync;
mod rights;
pub mod scrub;
mod source;
mod space;
mod start;
mod stop;
mod target;
mod volume;
mod volume_table;
mod volumes;

use arbitration::Question;
use config::{NodeConfig, SpaceLevel};
use event::{Action, Event, Notice};
use phase::Phase;
use volume::Volume;
use volume::context::{Shared, Told};
pub use volume::mend;
use volume::room::Room;
use volumes::Asker;

/// One of the two storage controllers. Give it every [`Event`] with the time it is handled, then take all
/// [`Action`]s from [`poll`](Node::poll), and come back not later than [`deadline`](Node::deadline).
///
/// Work per event is bounded by what is in hand: the requests that the front end admitted and the writes in
/// flight to the partner, both capped.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    now: Instant,
    opening: Option<Opening>,
    store: Option<Store>,
    volumes: Cells<Volume>,
    machines: machines::Machines,
    /// What the machines share.
    shared: Shared,
    room: Room,
    /// What machines have told the control part, until it has heard it.
    told: VecDeque<(VolumeId, Told)>,
    /// Volumes that have stepped beside others, and what their machines have told.
    stepped: Mutex<beside::Stepped>,
    pages: PagePool,
    actions: VecDeque<Action>,

    phase: Phase,
    /// Rises with every change of phase: what was begun in an earlier term is judged again.
    term: u64,
    question: Option<Question>,
    last_question: u64,
    link: Option<u64>,
    peer: Option<Hello>,
    /// The partner's last known life.
    peer_boot: BootId,
    /// The last pair of this life, while its memory counts; zero if none.
    pair_epoch: Epoch,
    hello_due: bool,
    /// Did the last hello say that this node may become a target?
    ready_said: bool,
    /// When this life of the node began to matter: its pool was open.
    opened_at: Instant,
    /// When it last answered the partner's probe: the partner's lease may run from here.
    answered_at: Option<Instant>,
    /// The partner's clock as last heard, and when.
    owner_clock: Option<(Instant, Instant)>,

    /// The last disk request of the opening.
    last_io: u64,
    scrub: scrub::Scrub,
    stopping: bool,
    space_level: SpaceLevel,
    /// The last target had no space: what frees some goes first.
    target_was_full: bool,
    /// Disks that shall join, and who asked.
    adding: BTreeMap<DiskId, u64>,
    /// Changes of volumes on their way.
    changes: volumes::Changes,
    /// Clones on their way.
    clones: clones::Clones,
    settled: forget::Settled,
}

impl Node {
    /// A node over formatted pool disks of these sizes. It reads them first; [`event::Notice::Opened`] tells
    /// when it is ready for guests.
    pub fn new(config: NodeConfig, disks: &[Geometry]) -> Node {
        Node {
            opening: Some(
                Opening::new(disks).expect(config.partnership, config.name).planted(config.planted),
            ),
            store: None,
            volumes: Cells::default(),
            machines: machines::Machines::default(),
            shared: Shared::default(),
            room: Room::default(),
            told: VecDeque::new(),
            stepped: Mutex::default(),
            pages: PagePool::new(),
            actions: VecDeque::new(),
            now: Instant::ZERO,
            phase: Phase::Opening,
            term: 0,
            question: None,
            last_question: 0,
            link: None,
            peer: None,
            peer_boot: BootId(0),
            pair_epoch: Epoch(0),
            hello_due: false,
            ready_said: false,
            opened_at: Instant::ZERO,
            answered_at: None,
            owner_clock: None,
            last_io: 0,
            scrub: scrub::Scrub::default(),
            stopping: false,
            space_level: SpaceLevel::Normal,
            target_was_full: false,
            adding: BTreeMap::new(),
            changes: volumes::Changes::default(),
            clones: clones::Clones::default(),
            settled: forget::Settled::default(),
            config,
        }
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        if self.store.is_none() {
            self.handle_unopened(event);
            return;
        }
        let stepped = self.catch_up();
        let progress = self.route(event);
        self.check_time();
        if progress || stepped {
            self.pump();
        }
        self.send_hello();
        self.hand_down();
    }

    /// Hands the event to the part that it concerns. False if nothing in the store can have moved.
    fn route(&mut self, event: Event) -> bool {
        match event {
            Event::Guest { id, volume, command } => self.guest(id, volume, command),
            Event::Abort { id } => self.abort(id),
            Event::Disk { id, result } => {
                let now = self.now;
                self.store_mut().io_done(now, id, result);
            }
            Event::LinkUp { link } => self.link_up(link),
            Event::LinkDown { link } => self.link_down(link),
            Event::Message { link, message } if self.link == Some(link) => self.message(message),
            Event::Message { .. } => return false,
            Event::Arbiter { id, result } => self.answered(id, result),
            Event::Scrub { start } => self.scrub(start),
            Event::Stop => self.stop(),
            Event::Pool { id, ask } => self.pool_asked(id, ask),
            Event::Volume { id, volume, what } => self.volume_asked(Asker::Here(id), volume, what),
            Event::Clones { id, clones } => self.clones_asked(Asker::Here(id), clones),
            Event::Tick => {}
        }
        true
    }

    /// The next thing to do; call until `None` after each `handle`.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call `handle` with [`Event::Tick`] if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let destage = self.store.as_ref().and_then(Store::deadline);
        let scrub = self.store.as_ref().and_then(|_| self.scrub_deadline());
        let clones = self.clones_deadline();
        [destage, scrub, clones, self.phase_deadline(), self.volumes_deadline()].into_iter().flatten().min()
    }

    /// Lets the store move and gives what moved to those who wait for it, until nothing moves any more.
    fn pump(&mut self) {
        loop {
            let (now, paired) = (self.now, matches!(self.phase, Phase::Paired(_)));
            self.store_mut().ask_in_doubt(paired);
            self.store_mut().pump(now);
            if self.store().failed() && !matches!(self.phase, Phase::Failed) {
                self.disk_failed();
                return;
            }
            self.tell_disk_news();
            self.clear_the_way();
            let mut moved = false;
            while let Some(read) = self.store_mut().poll_read() {
                self.with_giver_of(read.token.0, |volume, cx| volume.read_done(cx, read));
                moved = true;
            }
            moved |= self.wake();
            if moved {
                continue;
            }
            // What this round appended or wrote goes out now, not with the next event; zeros may be stable at once.
            let settled = self.store().settled();
            self.store_mut().pump(now);
            if self.store().settled() == settled {
                break;
            }
        }
        self.watch_space();
        while let Some(request) = self.store_mut().poll_io() {
            self.actions.push_back(Action::Disk(request));
        }
    }

    /// Tries again whatever waits for durability, stability, room or the right to serve.
    fn wake(&mut self) -> bool {
        let mut moved = self.phase_step();
        moved |= self.wake_volumes();
        moved |= self.resync_step();
        moved |= self.volumes_step();
        moved |= self.clones_step();
        self.scrub_step();
        self.forget_step();
        self.tidy_volumes();
        moved
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the pool is open")
    }

    fn store_mut(&mut self) -> &mut Store {
        self.store.as_mut().expect("the pool is open")
    }

    fn has(&self, bug: Bug) -> bool {
        self.config.planted.has(bug)
    }

    fn me(&self) -> NodeName {
        self.config.name
    }

    fn is_durable(&self, lsn: Lsn) -> bool {
        self.store().durable() >= lsn
    }

    fn append(&mut self, records: &[Record]) -> Lsn {
        self.store_mut().append(records)
    }

    fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }

    fn send(&mut self, message: Message) {
        if let Some(link) = self.link {
            self.actions.push_back(Action::Send { link, message });
        }
    }

    fn say(&mut self, control: Control) {
        self.send(Message::control(control));
    }
}
