//! What the runtime needs of a node: a seam for tests that put something else there.

use crate::guest::{GuestError, PathState, Sectors, StatusRun};
use crate::ids::VolumeId;
use crate::node::Node;
use crate::node::event::{Action, Event};
use crate::node::view::View;
use crate::time::Instant;

/// See [`Node`], whose methods these are.
pub(super) trait Machine: Send {
    fn handle(&mut self, now: Instant, event: Event);
    fn poll(&mut self) -> Option<Action>;
    fn deadline(&self) -> Option<Instant>;
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

    fn deadline(&self) -> Option<Instant> {
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
