//! What the runtime needs of a node: a seam for tests that put something else there.

use crate::guest::{GuestError, PathState, Sectors, StatusRun};
use crate::ids::VolumeId;
use crate::node::Node;
use crate::node::event::{Action, Event};
use crate::node::view::View;
use crate::time::Instant;

/// Queues what a step asks for and leaves the list empty. Called by the step, at its end, with its locks still held.
pub(super) type QueueUp<'a> = &'a mut dyn FnMut(&mut Vec<Action>);

/// See [`Node`], whose methods these are. All that have it `&self` are called by several threads at once: steps beside each
/// other, and looks between them.
pub(super) trait Machine: Send + Sync {
    /// A step that has the whole node for itself.
    fn handle(&mut self, now: Instant, event: Event);
    fn poll(&mut self) -> Option<Action>;
    /// A step of one volume beside those of others. `Err`: only [`handle`](Self::handle) can take the event, nothing has
    /// changed that anybody could tell. `Ok(true)`: `handle` of a tick should follow soon, for something of the step needs the whole node, or the
    /// deadline is earlier now.
    ///
    /// - Whatever the step locks it keeps until it ends: first the volume, then what volumes have in common. It puts what
    ///   it asks for into `actions`, and before it lets go of the first lock it calls `queue_up`: so of two steps that share a
    ///   lock, the later one's actions are behind.
    /// - `now` was read before the step had its locks. It is not earlier than that of any `handle` before, but a step that
    ///   came first to a volume may have been given a later one: the later of the two is the time.
    /// - A step that panics leaves its volume closed: another that comes to it panics too, for what was left may be half done,
    ///   and its answers would be given before the runtime knows. Of what volumes have in common such a step holds no more
    ///   than counts, on which no answer rests.
    #[expect(
        clippy::result_large_err,
        reason = "an event is moved back; a box would cost an allocation per event"
    )]
    fn handle_beside(
        &self,
        now: Instant,
        event: Event,
        actions: &mut Vec<Action>,
        queue_up: QueueUp<'_>,
    ) -> Result<bool, Event> {
        let _ = (now, actions, queue_up);
        Err(event)
    }
    /// Asked by whoever has the node for himself.
    fn deadline(&mut self) -> Option<Instant>;
    fn view(&self, now: Instant) -> View;
    /// This node's path state, and the partner's.
    fn path_states(&self, now: Instant, volume: VolumeId) -> [PathState; 2];
    fn extent_sectors(&self) -> Option<u64>;
    fn block_status(
        &self,
        now: Instant,
        volume: VolumeId,
        at: Sectors,
    ) -> Result<Vec<StatusRun>, GuestError> {
        let _ = (now, volume, at);
        Err(GuestError::Unavailable)
    }
}

impl Machine for Node {
    fn handle(&mut self, now: Instant, event: Event) {
        Node::handle(self, now, event);
    }

    fn poll(&mut self) -> Option<Action> {
        Node::poll(self)
    }

    fn handle_beside(
        &self,
        now: Instant,
        event: Event,
        actions: &mut Vec<Action>,
        queue_up: QueueUp<'_>,
    ) -> Result<bool, Event> {
        Node::handle_beside(self, now, event, actions, queue_up)
    }

    fn deadline(&mut self) -> Option<Instant> {
        Node::deadline(self)
    }

    fn view(&self, now: Instant) -> View {
        Node::view(self, now)
    }

    fn path_states(&self, now: Instant, volume: VolumeId) -> [PathState; 2] {
        Node::path_states(self, now, volume)
    }

    fn extent_sectors(&self) -> Option<u64> {
        Node::extent_sectors(self)
    }

    fn block_status(
        &self,
        now: Instant,
        volume: VolumeId,
        at: Sectors,
    ) -> Result<Vec<StatusRun>, GuestError> {
        Node::block_status(self, now, volume, at)
    }
}
