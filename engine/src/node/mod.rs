//! The node: a pure state machine that routes events to the parts and their wishes back out as actions.
//!
//! | module | what it decides |
//! |---|---|
//! | `membership` | the phase: who may serve, leases, takeover |
//! | `start` | what a node that starts, or has lost, may do |
//! | `source`, `target` | rejoin and resync, on either side |
//! | `resync` | which region is copied next, and when its mark goes |
//! | `stop` | the clean stop |
//! | `guest` | what becomes of a guest's request |
//! | `write` | a write at the node that orders it |
//! | `waiting` | who goes first when the log, room or the right to serve is there |
//! | `partner` | a write that the owner ordered; a write forwarded to the owner |
//! | `read`, `flush`, `paths` | what they say |
//! | `mend`, `scrub` | what becomes of damaged blocks, and how they are looked for |
//! | `disks` | disks that are added and removed |
//! | `volumes` | volumes that grow and are deleted |
//! | `hot` | which areas may differ right now |
//! | `space` | a write that finds no space; thresholds of the pool's use |
//! | `status` | which blocks hold data |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::block::PagePool;
use crate::guest::{Command, GuestError, GuestResult};
use crate::ids::{BootId, DiskId, Epoch, NodeName, RequestId, VolumeId};
use crate::io::Geometry;
use crate::mirror::message::{Control, Hello, Message};
use crate::planted::Bug;
use crate::pool::{Lsn, Opening, Record};
use crate::store::Store;
use crate::time::Instant;

pub mod config;
pub mod event;
pub mod view;

mod arbitration;
mod disks;
mod flush;
mod forward;
mod guest;
mod hot;
mod lock;
mod membership;
pub mod mend;
mod op;
mod open;
mod partner;
mod paths;
mod peek;
mod phase;
mod read;
mod resync;
pub mod scrub;
mod source;
mod space;
mod start;
mod status;
mod stop;
mod target;
mod volume;
mod volumes;
mod waiting;
mod write;

use arbitration::Question;
use config::{NodeConfig, SpaceLevel};
use event::{Action, Event, Notice};
use op::{Flush, Forwarded, Held, Incoming, Reading, Settling, Write};
use phase::Phase;
use volume::Volume;
use volumes::Asker;
use waiting::Waiting;

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
    volumes: BTreeMap<VolumeId, Volume>,
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

    last_id: u64,
    writes: BTreeMap<u64, Write>,
    /// Lock waiters whose turn has come.
    granted: VecDeque<lock::Granted>,
    waiting: Waiting,
    reading: BTreeMap<u64, Reading>,
    forwarded: BTreeMap<u64, Forwarded>,
    incoming: BTreeMap<(VolumeId, u64), Incoming>,
    flushes: BTreeMap<u64, Flush>,
    settling: Vec<Settling>,
    held: Vec<Held>,
    parked: VecDeque<(RequestId, VolumeId, Command)>,
    aborting: BTreeSet<RequestId>,
    blocks_in_flight: u64,
    stable_sent_at: Instant,
    cool_at: Instant,
    /// Reads that wait for the partner's copy of damaged blocks.
    mends: mend::Mends,
    scrub: scrub::Scrub,
    stopping: bool,
    resync: resync::Progress,
    space_level: SpaceLevel,
    /// The last target had no space: what frees some goes first.
    target_was_full: bool,
    /// Disks that shall join, and who asked.
    adding: BTreeMap<DiskId, u64>,
    /// Changes of volumes on their way.
    changes: volumes::Changes,
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
            volumes: BTreeMap::new(),
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
            last_id: 0,
            writes: BTreeMap::new(),
            granted: VecDeque::new(),
            waiting: Waiting::default(),
            reading: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            incoming: BTreeMap::new(),
            flushes: BTreeMap::new(),
            settling: Vec::new(),
            held: Vec::new(),
            parked: VecDeque::new(),
            aborting: BTreeSet::new(),
            blocks_in_flight: 0,
            stable_sent_at: Instant::ZERO,
            cool_at: Instant::ZERO,
            mends: mend::Mends::default(),
            scrub: scrub::Scrub::default(),
            stopping: false,
            resync: resync::Progress::default(),
            space_level: SpaceLevel::Normal,
            target_was_full: false,
            adding: BTreeMap::new(),
            changes: volumes::Changes::default(),
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
        let progress = self.route(event);
        self.check_time();
        if progress {
            self.pump();
        }
        self.send_hello();
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
        [destage, scrub, self.phase_deadline(), self.forward_deadline(), self.hot_deadline()]
            .into_iter()
            .flatten()
            .min()
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
                self.read_done(read);
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
        moved |= self.wake_waiting();
        moved |= self.wake_settled();
        moved |= self.wake_flushes();
        moved |= self.resync_step();
        moved |= self.volumes_step();
        self.scrub_step();
        self.report_stable();
        self.cool();
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

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
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

    fn complete(&mut self, id: RequestId, result: GuestResult) {
        self.actions.push_back(Action::Complete { id, result });
        if self.aborting.remove(&id) {
            self.actions.push_back(Action::Aborted { id });
        }
    }

    fn refuse(&mut self, id: RequestId, error: GuestError) {
        self.complete(id, Err(error));
    }
}
