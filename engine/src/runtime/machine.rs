//! What the runtime needs of a node: a seam for tests that put something else there.

use crate::guest::PathState;
use crate::ids::VolumeId;
use crate::mirror::message::PeerPhase;
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
        path_states(&Node::view(self, now), volume)
    }
}

/// Path states as a view shows them.
fn path_states(view: &View, volume: VolumeId) -> [PathState; 2] {
    let Some(volume) = view.volumes.iter().find(|found| found.id == volume) else {
        return [PathState::Unavailable; 2];
    };
    let serves = |owner: bool| if owner { PathState::Optimized } else { PathState::NonOptimized };
    let owned = volume.owner == Some(view.name);
    let own = match view.phase {
        _ if !volume.mirrored => PathState::Optimized,
        _ if view.serving => serves(owned),
        PeerPhase::Deciding | PeerPhase::Paired => PathState::Transitioning,
        _ => PathState::Unavailable,
    };
    let partners = match view.phase {
        PeerPhase::Paired if volume.mirrored => serves(!owned),
        _ => PathState::Unavailable,
    };
    [own, partners]
}
