//! Events become steps: whoever brings one steps the node, and does what the steps of that round leave to be done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec::Drain;

use smallvec::SmallVec;

use super::{Core, ROUNDS_MAX};
use crate::node::event::{Action, Event};
use crate::runtime::lane::{Answer, Lane, Runner};
use crate::runtime::world::Panic;

/// Steps that a thread takes before it lets those in who want the node for themselves.
const STEPS_AT_ONCE: usize = 16;

/// What a round of steps has left to be done by the thread that made it.
#[derive(Default)]
struct Left {
    /// There are answers in the round's own lane.
    own: bool,
    /// There are answers in these.
    others: SmallVec<[Arc<Lane>; 2]>,
    actions: bool,
}

impl Left {
    /// Noted even if another thread is to see to that lane too: this one may be there earlier.
    fn note(&mut self, lane: Arc<Lane>) {
        if !self.others.iter().rev().any(|known| Arc::ptr_eq(known, &lane)) {
            self.others.push(lane);
        }
    }
}

impl Core {
    /// Hands an event to the node, and does what the node wants, unless another thread is at it.
    pub(in crate::runtime) fn happened(&self, event: Event) {
        let lane = match event {
            Event::LinkUp { .. } | Event::LinkDown { .. } | Event::Message { .. } => &self.lanes.link,
            _ => &self.lanes.control,
        };
        lane.leave(event);
        self.run(lane);
    }

    /// Every event that was left in the lane before this call is seen to, with what comes of it, here or by the thread
    /// that is at it. Between two rounds the post is vacant, so that another can step while this one performs.
    pub(super) fn run(&self, lane: &Arc<Lane>) {
        for _ in 0..ROUNDS_MAX {
            let (mut left, mut more) = (Left::default(), false);
            lane.stepping.run_at_most(1, || self.step(lane, &mut left), || more = true);
            self.finish(lane, &left);
            if !more {
                return;
            }
        }
        self.relieve(Some(lane));
    }

    fn finish(&self, lane: &Arc<Lane>, left: &Left) {
        if left.own {
            self.answer(lane);
        }
        left.others.iter().for_each(|lane| self.answer(lane));
        if left.actions {
            self.perform();
        }
    }

    /// This thread has worked for others long enough. The next who comes goes on; if nobody does, the timer.
    pub(super) fn relieve(&self, lane: Option<&Arc<Lane>>) {
        if let Some(lane) = lane {
            let mut relieved = self.relieved.lock();
            if !relieved.iter().any(|known| Arc::ptr_eq(known, lane)) {
                relieved.push(Arc::clone(lane));
            }
        }
        self.timer.call();
        if self.closed.load(Ordering::SeqCst) {
            // There may be no timer any more. Nothing is stepped, so nothing is left of a round.
            if let Some(lane) = lane {
                lane.stepping.run(|| self.step(lane, &mut Left::default()));
                lane.answers.gate.run(|| self.answer_once(lane));
            }
            self.actions.gate.run(|| self.perform_once());
        }
    }

    /// The timer's part: what others were relieved of, and time has passed.
    pub(in crate::runtime) fn tick(&self) {
        let relieved = std::mem::take(&mut *self.relieved.lock());
        for lane in &relieved {
            self.run(lane);
            self.answer(lane);
        }
        self.perform();
        self.happened(Event::Tick);
    }

    /// Handles the events that are there now; the gate brings another round for those to come.
    fn step(&self, lane: &Lane, left: &mut Left) {
        let stepped = {
            let Runner { batch, asked } = &mut *lane.take();
            let mut events = batch.drain(..);
            if events.len() == 0 {
                // Another round has taken what this one was to take. The node is left alone: it has not caught up.
                return;
            }
            if lane.goes_beside() {
                self.step_beside(lane, &mut events, asked, left)
            } else {
                self.step_alone(lane, &mut events, asked, left)
            }
        };
        if let Err(panic) = stepped {
            self.lifecycle.failed(&panic_text(&*panic));
            self.close();
        }
    }

    /// Steps beside other lanes, but for what the machine gives back. The time is read for each event when it has been
    /// taken and the world's lock is held: a node that was paused in between is told so, and does not answer by a lease that
    /// has run out.
    fn step_beside(
        &self,
        lane: &Lane,
        events: &mut Drain<'_, Event>,
        asked: &mut Vec<Action>,
        left: &mut Left,
    ) -> Result<(), Panic> {
        let mut tick = false;
        while events.len() > 0 {
            let stepped = self.world.beside(|machine| {
                for event in events.by_ref().take(STEPS_AT_ONCE) {
                    let now = self.clock.now();
                    let mut queue_up = |asked: &mut Vec<Action>| self.queue_up(lane, asked, left);
                    tick |= match machine.handle_beside(now, event, asked, &mut queue_up) {
                        Ok(soon) => soon,
                        Err(event) => return Some(event),
                    };
                    debug_assert!(
                        asked.is_empty(),
                        "a step that let go of its locks before it queued its actions"
                    );
                }
                None
            })?;
            let Some(given_back) = stepped else { return Ok(()) };
            if let Some(event) = given_back {
                self.step_alone(lane, &mut std::iter::once(event), asked, left)?;
                tick = false;
            }
        }
        if tick {
            self.step_alone(lane, &mut std::iter::once(Event::Tick), asked, left)?;
        }
        Ok(())
    }

    /// Steps of the whole node. The time is read as for steps beside.
    fn step_alone(
        &self,
        lane: &Lane,
        events: &mut dyn Iterator<Item = Event>,
        asked: &mut Vec<Action>,
        left: &mut Left,
    ) -> Result<(), Panic> {
        let stepped = self.world.alone(|machine| {
            for event in events {
                machine.handle(self.clock.now(), event);
                while let Some(action) = machine.poll() {
                    asked.push(action);
                }
            }
            self.timer.set(machine.deadline());
            self.queue_up(lane, asked, left);
        });
        stepped.map(drop)
    }

    /// Queues what a step asks for, while its locks are held.
    fn queue_up(&self, own: &Lane, asked: &mut Vec<Action>, left: &mut Left) {
        let mut actions = None;
        for action in asked.drain(..) {
            match action {
                Action::Complete { id, result } => {
                    self.leave_answer(own, Answer { id, result: Some(result) }, left);
                }
                Action::Aborted { id } => self.leave_answer(own, Answer { id, result: None }, left),
                // At once: whoever finds that the node may serve finds this in force.
                Action::VolumeItems { volume, items } => {
                    self.items.write().insert(volume, items);
                    self.sizes.items_shown(volume);
                }
                other => actions.get_or_insert_with(|| self.actions.open()).push(other),
            }
        }
        left.actions |= actions.is_some();
    }

    fn leave_answer(&self, own: &Lane, answer: Answer, left: &mut Left) {
        if own.is_of(answer.id) {
            own.answers.leave(answer);
            left.own = true;
        } else {
            let lane = self.lanes.of_request(answer.id);
            lane.answers.leave(answer);
            left.note(lane);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_string()
}
