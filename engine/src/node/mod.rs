//! The node: a pure state machine that routes events to the parts and their wishes back out as actions.

use crate::ids::VolumeId;
use crate::io::Geometry;
use crate::time::Instant;

pub mod config;
pub mod event;
pub mod view;

use config::NodeConfig;
use event::{Action, Event};
use view::{Peek, View};

/// One of the two storage controllers. Give it every [`Event`] with the time it is handled, then take all
/// [`Action`]s from [`poll`](Node::poll), and come back not later than [`deadline`](Node::deadline).
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
}

impl Node {
    /// A node over formatted pool disks of these sizes. It reads them first; [`event::Notice::Opened`] tells when it is
    /// ready for guests.
    pub fn new(config: NodeConfig, disks: &[Geometry]) -> Node {
        let _ = disks;
        Node { config }
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, now: Instant, event: Event) {
        let _ = (now, event);
    }

    /// The next thing to do; call until `None` after each `handle`.
    pub fn poll(&mut self) -> Option<Action> {
        None
    }

    /// When to call `handle` with [`Event::Tick`] if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// A look inside.
    pub fn view(&self, now: Instant) -> View {
        let _ = now;
        unreachable!("being written; {:?}", self.config.name)
    }

    /// Where a block of a volume would be read from now.
    pub fn peek(&self, volume: VolumeId, block: u64) -> Peek {
        let _ = (volume, block);
        Peek::Unmapped
    }
}
