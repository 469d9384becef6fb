//! How a node takes an event: in a step that has the node for itself, or, if the event is for one volume and the seed says so,
//! in one that a volume takes beside others.
//!
//! Steps beside each other are as good as one after the other (`node::beside`), so their orders are all that can happen. What
//! the runtime does in between is done here too: between such a step and the look at the whole node that it asks for, other
//! events may come; and the node is asked for its deadline only after a step that had it for itself.

use super::report::Counters;
use super::slot::Slot;
use crate::node::event::{Action, Event};
use crate::time::{Duration, Instant};

/// Of the events that a volume could take beside others so many do.
const BESIDE: f64 = 0.8;

impl Slot {
    /// Gives an event to the node. Returns what it wants done.
    pub(super) fn step(&mut self, now: Instant, event: Event, counters: &mut Counters) -> Vec<Action> {
        let mut actions = Vec::new();
        let time = self.clock.at(now);
        let Some(node) = self.node.as_mut() else { return actions };
        let tries =
            matches!(event, Event::Guest { .. } | Event::Message { .. }) && self.step_rng.chance(BESIDE);
        let event =
            if tries { node.handle_beside(time, event, &mut actions, &mut |_| ()) } else { Err(event) };
        let event = match event {
            Ok(owes) => {
                counters.steps_beside += 1;
                if !owes {
                    return actions;
                }
                if self.step_rng.chance(0.5) {
                    counters.steps_owed += 1;
                    let late = now + self.step_rng.micros(1, 30);
                    self.tick_at = Some(self.tick_at.map_or(late, |at| at.min(late)));
                    return actions;
                }
                Event::Tick
            }
            Err(event) => event,
        };
        node.handle(time, event);
        while let Some(action) = node.poll() {
            actions.push(action);
        }
        self.set_tick(now);
        actions
    }

    /// When the node wants to be woken.
    pub(super) fn set_tick(&mut self, now: Instant) {
        let deadline = self.node.as_ref().filter(|_| !self.paused).and_then(|node| node.deadline());
        let soonest = now + Duration::from_micros(1);
        self.tick_at = deadline.map(|deadline| self.clock.when(deadline).max(soonest));
    }
}
