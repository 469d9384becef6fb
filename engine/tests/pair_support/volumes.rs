//! What operators want of the volumes, and what becomes of it.

use twinsan::block::{BLOCK_BYTES, payload_from};
use twinsan::guest::{Command, GuestResult, Items, Sectors};
use twinsan::ids::{NodeName, VolumeId};
use twinsan::mirror::message::{NewClone, PeerPhase, VolumeChange, VolumeRefusal};
use twinsan::node::event::Event;

use super::Pair;
use super::guests::fill_of;

impl Pair {
    /// An operator at a node wants a volume changed.
    pub(crate) fn begin_change(&mut self, node: NodeName, volume: VolumeId, what: VolumeChange) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.happens(node, Event::Volume { id, volume, what });
        self.settle();
        id
    }

    /// What the operator has been told, if anything.
    pub(crate) fn outcome(&self, change: u64) -> Option<Result<(), VolumeRefusal>> {
        self.changes.get(&change).cloned()
    }

    /// Wants a volume changed, and waits for what comes of it.
    pub(crate) fn change(
        &mut self,
        node: NodeName,
        volume: VolumeId,
        what: VolumeChange,
    ) -> Result<(), VolumeRefusal> {
        let id = self.begin_change(node, volume, what);
        self.until("the operator has an answer", |pair| pair.outcome(id).is_some());
        self.outcome(id).expect("just seen")
    }

    /// The size of a volume that hosts of a node see; `None` if it is deleted.
    pub(crate) fn size(&self, node: NodeName, volume: VolumeId) -> Option<u64> {
        self.sides[node.index()].sizes.get(&volume).copied().flatten()
    }

    /// What is kept with a volume, as it is in force on a node.
    pub(crate) fn kept(&self, node: NodeName, volume: VolumeId) -> Items {
        self.sides[node.index()].items.get(&volume).map_or_else(Items::new, |items| (**items).clone())
    }

    /// Bytes of a node's pool that are not free.
    pub(crate) fn bytes_used(&self, node: NodeName) -> u64 {
        let side = &self.sides[node.index()];
        side.node.as_ref().map_or(0, |alive| alive.view(self.now).pool_bytes_used)
    }

    /// Deleted volumes that a node is still taking apart.
    pub(crate) fn being_deleted(&self, node: NodeName) -> usize {
        let side = &self.sides[node.index()];
        side.node.as_ref().map_or(0, |alive| alive.view(self.now).deleting.len())
    }

    /// The mirrored volumes that a node knows, with their sizes, and those that it knows to be deleted.
    pub(crate) fn table(&self, node: NodeName) -> (Vec<(VolumeId, u64)>, Vec<VolumeId>) {
        let view = self.sides[node.index()].node.as_ref().expect("alive").view(self.now);
        let mirrored = view.volumes.iter().filter(|volume| volume.mirrored);
        (mirrored.map(|volume| (volume.id, volume.sectors)).collect(), view.deleted)
    }

    /// Requests to a volume by its id.
    pub(crate) fn ask_volume(
        &mut self,
        node: NodeName,
        volume: VolumeId,
        command: twinsan::guest::Command,
    ) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.happens(node, Event::Guest { id: twinsan::ids::RequestId(id), volume, command });
        self.settle();
        id
    }

    /// An operator at a node wants clones.
    pub(crate) fn begin_clones(&mut self, node: NodeName, clones: Vec<NewClone>) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.happens(node, Event::Clones { id, clones });
        self.settle();
        id
    }

    /// Wants clones, and waits for what comes of it.
    pub(crate) fn make(&mut self, node: NodeName, clones: Vec<NewClone>) -> Result<(), VolumeRefusal> {
        let id = self.begin_clones(node, clones);
        self.until("the operator has an answer", |pair| pair.outcome(id).is_some());
        self.outcome(id).expect("just seen")
    }

    /// What a guest reads of any volume.
    pub(crate) fn read_of(&mut self, node: NodeName, volume: VolumeId, block: u64) -> u8 {
        let id = self.ask_volume(node, volume, Command::Read { at: Sectors::new(block * 8, 8) });
        let data = self.finish(id).expect("reads");
        fill_of(&data[0])
    }

    /// What comes of a write to any volume.
    pub(crate) fn write_to(&mut self, node: NodeName, volume: VolumeId, block: u64, fill: u8) -> GuestResult {
        let data = payload_from(&self.pages, &[fill; BLOCK_BYTES]);
        let at = Sectors::new(block * 8, 8);
        let id = self.ask_volume(node, volume, Command::Write { at, data, fua: false });
        self.finish(id)
    }

    /// One of the two dies in the midst of something that is held at the other, which goes on alone; then it comes back.
    pub(crate) fn dies_and_comes_back(&mut self, victim: NodeName) {
        self.crash(victim);
        self.release(victim.partner());
        self.release_disk(victim.partner());
        self.until_phase(victim.partner(), PeerPhase::Alone);
        self.pass_millis(100);
        self.restart(victim);
        self.until_paired();
    }

    /// Both die, and come back, this one first.
    pub(crate) fn both_die(&mut self, first: NodeName) {
        self.crash(NodeName::A);
        self.crash(NodeName::B);
        self.start(first);
        self.pass_millis(5000);
        self.restart(first.partner());
        self.until_paired();
    }

    /// The link is cut, and nothing is held any more.
    pub(crate) fn cut_and_release(&mut self) {
        self.cut();
        NodeName::BOTH.into_iter().for_each(|node| {
            self.release_disk(node);
            self.release(node);
        });
    }
}
