//! What happens to a node's disk: rot, the scrub that looks for it, and a blank one in its place.

use twinsan::block::{PagePool, payload_from};
use twinsan::ids::NodeName;
use twinsan::node::event::Event;
use twinsan::node::view::Peek;

use super::disk::Disk;
use super::{Pair, VOLUME};

impl Pair {
    fn place(&self, node: NodeName, block: u64) -> u64 {
        match self.sides[node.index()].node.as_ref().expect("it lives").peek(VOLUME, block) {
            Peek::OnDisk(_, offset) => offset / 4096,
            other => panic!("block {block} is not just on disk: {other:?}"),
        }
    }

    /// Byte 7 of a block as it is on disk. The block is in no cache.
    pub(crate) fn on_disk(&self, node: NodeName, block: u64) -> u8 {
        self.sides[node.index()].disk.visible(self.place(node, block)).bytes()[7]
    }

    /// A bit of byte 7 of a block flips on disk. The block is in no cache.
    pub(crate) fn rot(&mut self, node: NodeName, block: u64) {
        let at = self.place(node, block);
        let disk = &mut self.side(node).disk;
        let mut bytes = *disk.visible(at).bytes();
        bytes[7] ^= 0x80;
        disk.replace(at, payload_from(&PagePool::new(), &bytes)[0].clone());
    }

    /// A dead node gets a blank disk instead of its own, with a new pool on it.
    pub(crate) fn replace_disk(&mut self, node: NodeName) {
        let disk = self.setup.disk;
        let side = self.side(node);
        assert!(side.node.is_none(), "node {node} uses it");
        side.disk = Disk::formatted(node, disk);
    }

    /// A scrub begins or ends.
    pub(crate) fn scrub(&mut self, node: NodeName, start: bool) {
        self.happens(node, Event::Scrub { start });
        self.settle();
    }
}
