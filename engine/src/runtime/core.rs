//! The heart of the runtime: whoever brings an event steps the node.
//!
//! An event goes into a queue; then the caller tries to become the one who empties it. That one gives each event to
//! the node and leaves the node's actions in a second queue, which again is emptied by one thread at a time. No
//! thread waits for another, no event waits for a thread to wake up; and after some rounds for others a thread is
//! relieved.
//!
//! Invariants:
//! - The time given with an event is read after the event was taken from the queue: a node that was paused in between
//!   is told so, and does not answer by a lease that has run out.
//! - Actions are performed in the order in which the node asked for them, never with the node's lock held. A disk, a
//!   transport or a sink that answers at once only leaves an event: no recursion deeper than one step.
//! - After [`Core::close`] no request, event or action does anything, and every caller has its answer.
//! - A panic of the node is contained: the core closes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::Mutex;

use super::clock::Clock;
use super::gate::Gate;
use super::lifecycle::Lifecycle;
use super::machine::Machine;
use super::operators::Operators;
use super::requests::{Caller, Requests};
use super::sizes::Sizes;
use super::timer::Timer;
use super::transport::{Inbox, Transport};
use crate::arbiter::{ArbiterError, Ask};
use crate::backend::{BackendRequest, BlockBackend, DiskSink};
use crate::guest::{Command, GuestError, PathState, Sectors, StatusRun};
use crate::ids::{DiskId, RequestId, VolumeId};
use crate::io::{DiskError, DiskRequest, DiskResult, IoId};
use crate::mirror::message::{Message, VolumeChange, VolumeRefusal};
use crate::node::event::{Action, Event, PoolAsk};
use crate::node::view::View;
use crate::pool::DiskRefusal;

/// How many rounds a thread works for others before it goes back to what it came from: some 100 µs.
const ROUNDS_MAX: usize = 128;

/// See the module.
pub(super) struct Core {
    intake: Mutex<Intake>,
    stepping: Gate,
    driver: Mutex<Driver>,
    actions: Mutex<Vec<Action>>,
    performing: Gate,
    performer: Mutex<Performer>,
    closed: AtomicBool,
    /// Operators who wait for the node's answer.
    operators: Operators<DiskRefusal>,
    /// Those who want a volume changed.
    changers: Operators<VolumeRefusal>,
    /// The volumes as hosts see them; `None`: deleted.
    pub(super) sizes: Sizes,
    pub(super) lifecycle: Lifecycle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timer: Timer,
}

/// Under one lock, for a guest's request goes into both.
#[derive(Default)]
struct Intake {
    events: Vec<Event>,
    requests: Requests,
}

struct Driver {
    /// `None` when closed.
    machine: Option<Box<dyn Machine>>,
    /// Events being handled, and actions asked for: kept for their memory.
    batch: Vec<Event>,
    asked: Vec<Action>,
}

#[derive(Default)]
struct Performer {
    /// `None` before the start and when closed.
    outside: Option<Outside>,
    batch: Vec<Action>,
}

/// What actions act on.
pub(super) struct Outside {
    /// By number; `None` for those that were let go.
    pub(super) disks: Vec<Option<Arc<dyn BlockBackend>>>,
    pub(super) transport: Option<Arc<dyn Transport>>,
    /// Questions for the arbiter's thread.
    pub(super) questions: Option<Sender<(u64, Ask)>>,
    /// The core itself, as the disks see it.
    pub(super) sink: Arc<dyn DiskSink>,
}

impl Core {
    pub(super) fn new(machine: Box<dyn Machine>, clock: Arc<dyn Clock>) -> Arc<Core> {
        Arc::new(Core {
            intake: Mutex::default(),
            stepping: Gate::default(),
            driver: Mutex::new(Driver { machine: Some(machine), batch: Vec::new(), asked: Vec::new() }),
            actions: Mutex::default(),
            performing: Gate::default(),
            performer: Mutex::default(),
            closed: AtomicBool::new(false),
            operators: Operators::default(),
            changers: Operators::default(),
            sizes: Sizes::default(),
            lifecycle: Lifecycle::default(),
            clock,
            timer: Timer::new(),
        })
    }

    /// Connects the core to the outside, and begins.
    pub(super) fn begin(&self, outside: Outside) {
        self.performer.lock().outside = Some(outside);
        self.happened(Event::Tick);
    }

    /// Hands an event to the node, and does what the node wants, unless another thread is at it.
    pub(super) fn happened(&self, event: Event) {
        self.intake.lock().events.push(event);
        self.run();
    }

    /// Every event or action that was left before this call is seen to, here or by the thread that is at it.
    fn run(&self) {
        self.stepping.run_at_most(ROUNDS_MAX, || self.step(), || self.relieve());
        self.performing.run_at_most(ROUNDS_MAX, || self.perform(), || self.relieve());
    }

    /// This thread has worked for others long enough. The next who comes goes on; if nobody does, the timer.
    fn relieve(&self) {
        self.timer.call();
        if self.closed.load(Ordering::SeqCst) {
            // There may be no timer any more.
            self.stepping.run(|| self.step());
            self.performing.run(|| self.perform());
        }
    }

    /// Starts a guest's request.
    pub(super) fn submit(&self, volume: VolumeId, command: Command, caller: Caller) -> RequestId {
        let mut intake = self.intake.lock();
        match intake.requests.enter(caller) {
            Ok(id) => {
                intake.events.push(Event::Guest { id, volume, command });
                drop(intake);
                self.run();
                id
            }
            Err((sink, token)) => {
                drop(intake);
                sink.complete(token, Err(GuestError::Unavailable));
                RequestId(0)
            }
        }
    }

    /// Gives up a guest's request.
    pub(super) fn abort(&self, id: RequestId, caller: Caller) {
        let entered = self.intake.lock().requests.enter_abort(id, caller);
        match entered {
            Ok(()) => self.happened(Event::Abort { id }),
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

    /// Makes room for a disk more: its number from now on. `None` when closed, or when there were too many.
    pub(super) fn connect(&self, disk: Arc<dyn BlockBackend>) -> Option<DiskId> {
        let mut performer = self.performer.lock();
        let disks = &mut performer.outside.as_mut()?.disks;
        let number = u16::try_from(disks.len()).ok()?;
        disks.push(Some(disk));
        Some(DiskId(number))
    }

    pub(super) fn view(&self) -> Option<View> {
        let driver = self.driver.lock();
        let now = self.clock.now();
        driver.machine.as_ref().map(|machine| machine.view(now))
    }

    pub(super) fn path_states(&self, volume: VolumeId) -> [PathState; 2] {
        let driver = self.driver.lock();
        let now = self.clock.now();
        let machine = driver.machine.as_ref();
        machine.map_or([PathState::Unavailable; 2], |machine| machine.path_states(now, volume))
    }

    pub(super) fn block_status(&self, volume: VolumeId, at: Sectors) -> Result<Vec<StatusRun>, GuestError> {
        let driver = self.driver.lock();
        let now = self.clock.now();
        let machine = driver.machine.as_ref().ok_or(GuestError::Unavailable)?;
        machine.block_status(now, volume, at)
    }

    /// `None` when closed.
    pub(super) fn extent_sectors(&self) -> Option<u64> {
        self.driver.lock().machine.as_ref()?.extent_sectors()
    }

    /// Ends everything without a word to the partner or the disks. Returns when the disks and the transport are let
    /// go, or another thread is about to do so.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let machine = self.driver.lock().machine.take();
        drop(machine);
        self.timer.stop();
        // Whoever performs now, this thread or another, finds the core closed and lets go.
        self.performing.run(|| self.perform());
        self.operators.close();
        self.changers.close();
        let waiting = self.intake.lock().requests.close();
        for (sink, token) in waiting {
            contain(|| sink.complete(token, Err(GuestError::Unavailable)));
        }
        let aborting = self.intake.lock().requests.close_aborts();
        for (sink, token) in aborting {
            contain(|| sink.aborted(token));
        }
    }

    fn step(&self) {
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            let mut driver = self.driver.lock();
            driver.drain(&self.intake, &*self.clock);
            self.timer.set(driver.machine.as_ref().and_then(|machine| machine.deadline()));
            append(&mut self.actions.lock(), &mut driver.asked);
        }));
        if let Err(panic) = stepped {
            self.lifecycle.failed(&panic_text(&*panic));
            self.close();
        }
    }

    /// Performs the actions that are there now; the gate brings another round for those to come.
    fn perform(&self) {
        let mut performer = self.performer.lock();
        let Performer { outside, batch } = &mut *performer;
        std::mem::swap(batch, &mut *self.actions.lock());
        if let Some(outside) = outside {
            self.act_all(outside, batch);
        }
        batch.clear();
        if self.closed.load(Ordering::SeqCst) {
            let outside = outside.take();
            drop(performer);
            if let Some(outside) = outside {
                self.let_go(outside);
            }
        }
    }

    fn act_all(&self, outside: &mut Outside, batch: &mut Vec<Action>) {
        let mut sent = false;
        for action in batch.drain(..).take_while(|_| !self.closed.load(Ordering::Relaxed)) {
            sent |= matches!(action, Action::Send { .. });
            contain(|| self.act(outside, action));
        }
        if let Some(transport) = outside.transport.as_ref().filter(|_| sent) {
            contain(|| transport.flush());
        }
    }

    /// Disks wait for their requests in progress when they are dropped, and those answer to this core: no lock here.
    fn let_go(&self, outside: Outside) {
        if let Some(transport) = &outside.transport {
            contain(|| transport.close());
        }
        contain(|| drop(outside));
        self.lifecycle.let_go();
    }

    fn act(&self, outside: &mut Outside, action: Action) {
        match action {
            Action::Disk(request) => self.start_io(outside, request),
            Action::Send { link, message } => {
                if let Some(transport) = &outside.transport {
                    transport.send(link, message);
                }
            }
            Action::Disconnect { link } => {
                if let Some(transport) = &outside.transport {
                    transport.disconnect(link);
                }
            }
            Action::Arbiter { id, ask } => self.ask(outside, id, ask),
            Action::Complete { id, result } => {
                let caller = self.intake.lock().requests.take(id);
                if let Some((sink, token)) = caller {
                    sink.complete(token, result);
                }
            }
            Action::Aborted { id } => {
                let callers = self.intake.lock().requests.take_aborts(id);
                for (sink, token) in callers {
                    sink.aborted(token);
                }
            }
            Action::Notice(notice) => self.lifecycle.notice(notice),
            Action::PoolAnswer { id, result } => self.operators.answer(id, result),
            Action::VolumeAnswer { id, result } => self.changers.answer(id, result),
            Action::VolumeSize { volume, sectors } => {
                self.sizes.show(volume, sectors);
            }
            Action::Release { disk } => {
                let disk = outside.disks.get_mut(usize::from(disk.0)).and_then(Option::take);
                drop(disk);
            }
        }
    }

    fn start_io(&self, outside: &Outside, request: DiskRequest) {
        match outside.disks.get(usize::from(request.disk.0)).and_then(Option::as_ref) {
            Some(disk) => disk.submit(BackendRequest::new(request.op, Arc::clone(&outside.sink), request.id)),
            None => self.complete(request.id, Err(DiskError::Invalid)),
        }
    }

    fn ask(&self, outside: &Outside, id: u64, ask: Ask) {
        let reason = match outside.questions.as_ref().map(|questions| questions.try_send((id, ask))) {
            Some(Ok(())) => return,
            Some(Err(TrySendError::Full(_))) => "earlier questions are not answered yet",
            Some(Err(TrySendError::Disconnected(_))) | None => "there is none",
        };
        self.happened(Event::Arbiter { id, result: Err(ArbiterError { reason: reason.into() }) });
    }
}

impl Driver {
    /// Handles the events that are there now; the gate brings another round for those to come.
    fn drain(&mut self, intake: &Mutex<Intake>, clock: &dyn Clock) {
        std::mem::swap(&mut self.batch, &mut intake.lock().events);
        for event in self.batch.drain(..) {
            let Some(machine) = &mut self.machine else { continue };
            let now = clock.now();
            machine.handle(now, event);
            while let Some(action) = machine.poll() {
                self.asked.push(action);
            }
        }
    }
}

/// Moves all of `from` behind `to`; by exchange, if `to` is empty.
fn append(to: &mut Vec<Action>, from: &mut Vec<Action>) {
    if to.is_empty() {
        std::mem::swap(to, from);
    } else {
        to.append(from);
    }
}

/// Calls what is not ours. If it unwinds, the panic hook has reported it, and there is nobody else to tell.
fn contain(call: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(call)));
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_string()
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
