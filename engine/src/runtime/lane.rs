//! Lanes: events that stay in order among each other, and the requests of guests whose answers do.
//!
//! Each volume has a lane for its requests and aborts. The link to the partner has one, whatever its reports concern: a
//! message for a volume must not overtake an earlier one for the control part. All else, and the requests of volumes that
//! have no lane, share the control lane, whose events are steps of the whole node. Between lanes there is no order.
//!
//! Invariants:
//! - The events of a lane are handled in their order, one at a time, by whom its gate has elected.
//! - The id of a request names its lane; its abort goes the same way behind it.
//! - The answers of a lane are given in the order of the steps that decided them, one at a time. A lane closes at the same
//!   place: after an answer that is being given, and nothing is entered any more.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::gate::Gate;
use super::queue::Queue;
use super::requests::{Caller, Requests, lane_of};
use crate::guest::{Command, GuestError, GuestResult};
use crate::ids::{RequestId, VolumeId};
use crate::node::event::{Action, Event};

const CONTROL: u16 = 0;
const LINK: u16 = 1;

/// See the module.
pub(super) struct Lane {
    pub(super) number: u16,
    intake: Mutex<Intake>,
    /// Elects who handles the events.
    pub(super) stepping: Gate,
    runner: Mutex<Runner>,
    pub(super) answers: Queue<Answer>,
    closed: AtomicBool,
}

/// Under one lock, for a guest's request goes into both.
struct Intake {
    events: Vec<Event>,
    requests: Requests,
}

/// Events being handled, and actions asked for: kept for their memory.
#[derive(Default)]
pub(super) struct Runner {
    pub(super) batch: Vec<Event>,
    pub(super) asked: Vec<Action>,
}

/// What a guest is told.
pub(super) struct Answer {
    pub(super) id: RequestId,
    /// `None`: it was given up, and can no longer act.
    pub(super) result: Option<GuestResult>,
}

impl Lane {
    fn new(number: u16) -> Arc<Lane> {
        let requests = Requests::new(number);
        Arc::new(Lane {
            number,
            intake: Mutex::new(Intake { events: Vec::new(), requests }),
            stepping: Gate::default(),
            runner: Mutex::default(),
            answers: Queue::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Has this lane given the id?
    pub(super) fn is_of(&self, id: RequestId) -> bool {
        lane_of(id) == self.number
    }

    /// Can its events be steps of one volume?
    pub(super) fn goes_beside(&self) -> bool {
        self.number != CONTROL
    }

    pub(super) fn leave(&self, event: Event) {
        self.intake.lock().events.push(event);
    }

    /// Enters a guest's request and leaves it; gives the caller back if nothing is entered any more.
    pub(super) fn request(
        &self,
        volume: VolumeId,
        command: Command,
        caller: Caller,
    ) -> Result<RequestId, Caller> {
        let mut intake = self.intake.lock();
        // A comparison that may have been done is not to be made again.
        let once = matches!(command, Command::CompareAndWrite { .. });
        let at_end = if once { GuestError::Uncertain } else { GuestError::Unavailable };
        let id = intake.requests.enter(caller, at_end)?;
        intake.events.push(Event::Guest { id, volume, command });
        Ok(id)
    }

    /// As [`request`](Self::request), for giving one up.
    pub(super) fn abort(&self, id: RequestId, caller: Caller) -> Result<(), Caller> {
        let mut intake = self.intake.lock();
        intake.requests.enter_abort(id, caller)?;
        intake.events.push(Event::Abort { id });
        Ok(())
    }

    /// The events that are there now; for the one whom the gate has elected.
    pub(super) fn take(&self) -> MutexGuard<'_, Runner> {
        let mut runner = self.runner.lock();
        std::mem::swap(&mut runner.batch, &mut self.intake.lock().events);
        runner
    }

    /// Gives an answer to whom it is due.
    pub(super) fn answer(&self, answer: Answer) {
        match answer.result {
            Some(result) => {
                let caller = self.intake.lock().requests.take(answer.id);
                if let Some((sink, token)) = caller {
                    contain(|| sink.complete(token, result));
                }
            }
            None => {
                let callers = self.intake.lock().requests.take_aborts(answer.id);
                for (sink, token) in callers {
                    contain(|| sink.aborted(token));
                }
            }
        }
    }

    /// Nothing is entered any more, and everyone has an answer. For the one who answers.
    pub(super) fn close(&self) {
        let waiting = self.intake.lock().requests.close();
        for ((sink, token), answer) in waiting {
            contain(|| sink.complete(token, Err(answer)));
        }
        let aborting = self.intake.lock().requests.close_aborts();
        for (sink, token) in aborting {
            contain(|| sink.aborted(token));
        }
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// All lanes of a node.
pub(super) struct Lanes {
    pub(super) control: Arc<Lane>,
    pub(super) link: Arc<Lane>,
    table: RwLock<Table>,
}

struct Table {
    numbered: Vec<Arc<Lane>>,
    volumes: BTreeMap<VolumeId, Arc<Lane>>,
    closed: bool,
}

impl Lanes {
    pub(super) fn new(volumes: impl IntoIterator<Item = VolumeId>) -> Lanes {
        let (control, link) = (Lane::new(CONTROL), Lane::new(LINK));
        let numbered = vec![Arc::clone(&control), Arc::clone(&link)];
        let table = RwLock::new(Table { numbered, volumes: BTreeMap::new(), closed: false });
        let lanes = Lanes { control, link, table };
        volumes.into_iter().for_each(|volume| lanes.add(volume));
        lanes
    }

    /// A volume has a lane from now on, if there is a number for it.
    pub(super) fn add(&self, volume: VolumeId) {
        let mut table = self.table.write();
        if table.closed || table.volumes.contains_key(&volume) {
            return;
        }
        let Ok(number) = u16::try_from(table.numbered.len()) else { return };
        let lane = Lane::new(number);
        table.numbered.push(Arc::clone(&lane));
        table.volumes.insert(volume, lane);
    }

    pub(super) fn of_volume(&self, volume: VolumeId) -> Arc<Lane> {
        let table = self.table.read();
        Arc::clone(table.volumes.get(&volume).unwrap_or(&self.control))
    }

    /// The lane of a request. One that no lane has given belongs to the control lane.
    pub(super) fn of_request(&self, id: RequestId) -> Arc<Lane> {
        let table = self.table.read();
        Arc::clone(table.numbered.get(usize::from(lane_of(id))).unwrap_or(&self.control))
    }

    /// There will be no others.
    pub(super) fn close(&self) -> Vec<Arc<Lane>> {
        let mut table = self.table.write();
        table.closed = true;
        table.numbered.clone()
    }

    /// Has everyone who ever asked an answer?
    pub(super) fn are_closed(&self) -> bool {
        let table = self.table.read();
        table.closed && table.numbered.iter().all(|lane| lane.closed.load(Ordering::SeqCst))
    }
}

/// Calls what is not ours. If it unwinds, the panic hook has reported it, and there is nobody else to tell.
pub(super) fn contain(call: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(call)));
}
