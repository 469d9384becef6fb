//! The heart of the runtime: whoever brings an event steps the node.
//!
//! An event goes into a lane (see [`lane`](super::lane)); then the caller tries to become the one who empties it. That one
//! gives each event to the node, as a step of one volume beside those of other lanes if the machine takes it so, or else as
//! a step that has the node for itself (see [`world`](super::world)). What a step asks for is queued while its locks are
//! held: answers to guests in the lane of the request, all else in one queue of the node. What is kept with a volume comes into
//! force then and there, so that whoever finds that the node serves finds it in force. Each queue again is emptied by one
//! thread at a time. No thread waits for another, but a step for the locks of others; no event waits for a thread to wake
//! up; and after some rounds for others a thread is relieved.
//!
//! Invariants:
//! - Steps are as if they came one after the other; a lane's events are handled in their order.
//! - The time given with an event is read after the event was taken from its lane and the world's lock was had: a node that
//!   was paused in between is told so, and does not answer by a lease that has run out.
//! - Messages leave and disks are asked in the order of the steps that wanted it. So are the answers of a lane: nobody hears
//!   that a request was given up and then how it ended. An answer may come after a message of a later step, though, even one
//!   that gives the right to serve away: it was decided at a moment between the guest's question and its answer, under the
//!   right that this node had then, which is all that a guest can tell.
//! - Actions are performed with none of the machine's locks held. A disk, a transport or a sink that answers at once only
//!   leaves an event; a lane is not answered from within one of its own answers. So a chain of sinks, each of which
//!   asks another volume, is as deep as there are volumes in it, and no deeper.
//! - After [`Core::close`] no request, event or action does anything, and every caller has its answer, or has it from the
//!   thread that answers him. Disks and transport are let go after that.
//! - A panic of the node is contained: the core closes.

mod performer;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

pub(super) use self::performer::Outside;
use super::clock::Clock;
use super::lane::{Lane, Lanes, contain};
use super::lifecycle::Lifecycle;
use super::machine::Machine;
use super::operators::Operators;
use super::queue::Queue;
use super::requests::Caller;
use super::sizes::Sizes;
use super::timer::Timer;
use super::transport::Inbox;
use super::world::World;
use crate::backend::DiskSink;
use crate::guest::{Command, GuestError, Items, PathState, Sectors, StatusRun};
use crate::ids::{RequestId, VolumeId};
use crate::io::{DiskResult, IoId};
use crate::mirror::message::{Message, NewClone, VolumeChange, VolumeRefusal};
use crate::node::event::{Action, Event, PoolAsk};
use crate::node::view::View;
use crate::pool::DiskRefusal;

/// How many rounds a thread works for others at one post before it goes back to what it came from: some 100 µs.
const ROUNDS_MAX: usize = 128;

/// See the module.
pub(super) struct Core {
    world: World,
    lanes: Lanes,
    /// What the node wants, but for answers to guests.
    actions: Queue<Action>,
    /// `None` before the start and when closed.
    outside: Mutex<Option<Outside>>,
    /// Lanes that were left with work and nobody at it.
    relieved: Mutex<Vec<Arc<Lane>>>,
    closed: AtomicBool,
    /// Operators who wait for the node's answer.
    operators: Operators<DiskRefusal>,
    /// Those who want a volume changed.
    changers: Operators<VolumeRefusal>,
    /// The volumes as hosts see them, and as the pool knows them.
    pub(super) sizes: Sizes,
    /// What is kept with the volumes, in force.
    items: RwLock<BTreeMap<VolumeId, Arc<Items>>>,
    pub(super) lifecycle: Lifecycle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timer: Timer,
}

impl Core {
    /// Each of `volumes` has a lane.
    pub(super) fn new(
        machine: Box<dyn Machine>,
        clock: Arc<dyn Clock>,
        volumes: impl IntoIterator<Item = VolumeId>,
    ) -> Arc<Core> {
        Arc::new(Core {
            world: World::new(machine),
            lanes: Lanes::new(volumes),
            actions: Queue::default(),
            outside: Mutex::default(),
            relieved: Mutex::default(),
            closed: AtomicBool::new(false),
            operators: Operators::default(),
            changers: Operators::default(),
            sizes: Sizes::default(),
            items: RwLock::default(),
            lifecycle: Lifecycle::default(),
            clock,
            timer: Timer::new(),
        })
    }

    /// Connects the core to the outside, and begins.
    pub(super) fn begin(&self, outside: Outside) {
        *self.outside.lock() = Some(outside);
        self.happened(Event::Tick);
    }

    /// Where the requests of a volume go. It stays the same for a volume that has one of its own.
    pub(super) fn lane(&self, volume: VolumeId) -> Arc<Lane> {
        self.lanes.of_volume(volume)
    }

    /// Starts a guest's request.
    pub(super) fn submit(
        &self,
        lane: &Arc<Lane>,
        volume: VolumeId,
        command: Command,
        caller: Caller,
    ) -> RequestId {
        match lane.request(volume, command, caller) {
            Ok(id) => {
                self.run(lane);
                id
            }
            Err((sink, token)) => {
                sink.complete(token, Err(GuestError::Unavailable));
                RequestId(0)
            }
        }
    }

    /// Gives up a guest's request.
    pub(super) fn abort(&self, id: RequestId, caller: Caller) {
        let lane = self.lanes.of_request(id);
        match lane.abort(id, caller) {
            Ok(()) => self.run(&lane),
            Err((sink, token)) => sink.aborted(token),
        }
    }

    /// Asks something of the pool, and waits for the answer.
    pub(super) fn ask_pool(&self, ask: PoolAsk) -> Result<(), DiskRefusal> {
        let (id, answer) = self.operators.enter().ok_or(DiskRefusal::NotOpen)?;
        self.happened(Event::Pool { id, ask });
        answer.recv().unwrap_or(Err(DiskRefusal::NotOpen))
    }

    /// Wants a volume changed, and waits until it is, or is not.
    pub(super) fn change_volume(&self, volume: VolumeId, what: VolumeChange) -> Result<(), VolumeRefusal> {
        let (id, answer) = self.changers.enter().ok_or(VolumeRefusal::NotNow)?;
        self.happened(Event::Volume { id, volume, what });
        answer.recv().unwrap_or(Err(VolumeRefusal::Interrupted))
    }

    /// Wants a volume changed; tells `done` what came of it, on whatever thread has the answer.
    pub(super) fn begin_change(
        &self,
        volume: VolumeId,
        what: VolumeChange,
        done: Box<dyn FnOnce(Result<(), VolumeRefusal>) + Send>,
    ) {
        let entered = self.changers.enter_with(Box::new(|answer| {
            done(answer.unwrap_or(Err(VolumeRefusal::Interrupted)));
        }));
        match entered {
            Ok(id) => self.happened(Event::Volume { id, volume, what }),
            Err(caller) => caller(Some(Err(VolumeRefusal::NotNow))),
        }
    }

    /// Wants volumes that begin as others are, and waits until they do, or do not.
    pub(super) fn make_clones(&self, clones: Vec<NewClone>) -> Result<(), VolumeRefusal> {
        let (id, answer) = self.changers.enter().ok_or(VolumeRefusal::NotNow)?;
        self.happened(Event::Clones { id, clones });
        answer.recv().unwrap_or(Err(VolumeRefusal::Interrupted))
    }

    /// What is kept with a volume.
    pub(super) fn items(&self, volume: VolumeId) -> Arc<Items> {
        self.items.read().get(&volume).cloned().unwrap_or_default()
    }

    pub(super) fn view(&self) -> Option<View> {
        self.world.look(|machine| machine.view(self.clock.now()))
    }

    pub(super) fn path_states(&self, volume: VolumeId) -> [PathState; 2] {
        let states = self.world.look(|machine| machine.path_states(self.clock.now(), volume));
        states.unwrap_or([PathState::Unavailable; 2])
    }

    pub(super) fn block_status(&self, volume: VolumeId, at: Sectors) -> Result<Vec<StatusRun>, GuestError> {
        let runs = self.world.look(|machine| machine.block_status(self.clock.now(), volume, at));
        runs.unwrap_or(Err(GuestError::Unavailable))
    }

    /// `None` when closed.
    pub(super) fn extent_sectors(&self) -> Option<u64> {
        self.world.look(|machine| machine.extent_sectors())?
    }

    /// Ends everything without a word to the partner or the disks. Returns when the disks and the transport are let
    /// go, or another thread is about to do so.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let machine = self.world.close();
        contain(|| drop(machine));
        self.timer.stop();
        // Whoever answers or performs now, this thread or another, finds the core closed: he answers all who wait, and
        // when no lane is left he lets go.
        self.lanes.close().iter().for_each(|lane| self.answer(lane));
        self.perform();
        self.operators.close().into_iter().for_each(|caller| contain(|| caller(None)));
        self.changers.close().into_iter().for_each(|caller| contain(|| caller(None)));
    }
}

impl DiskSink for Core {
    fn complete(&self, id: IoId, result: DiskResult) {
        self.happened(Event::Disk { id, result });
    }
}

impl Inbox for Core {
    fn link_up(&self, link: u64) {
        self.happened(Event::LinkUp { link });
    }

    fn link_down(&self, link: u64) {
        self.happened(Event::LinkDown { link });
    }

    fn message(&self, link: u64, message: Message) {
        self.happened(Event::Message { link, message });
    }
}
