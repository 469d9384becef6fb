//! Looks inside the nodes: for stories, and after every event for what must hold at every moment.

use twinsan::block::{BLOCK_BYTES, Block};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::node::event::Notice;
use twinsan::node::view::{Peek, View, VolumeView};
use twinsan::time::Duration;

use super::{A, B, Pair, REGION_BLOCKS, VOLUME};

impl Pair {
    pub(crate) fn view(&self, node: NodeName) -> Option<View> {
        self.sides[node.index()].node.as_ref().map(|alive| alive.view(self.now))
    }

    pub(crate) fn phase(&self, node: NodeName) -> Option<PeerPhase> {
        self.view(node).map(|view| view.phase)
    }

    pub(crate) fn phases(&self) -> [Option<PeerPhase>; 2] {
        NodeName::BOTH.map(|node| self.phase(node))
    }

    pub(crate) fn is_serving(&self, node: NodeName) -> bool {
        self.view(node).is_some_and(|view| view.serving)
    }

    pub(crate) fn half(&self, node: NodeName) -> VolumeView {
        let view = self.view(node).expect("the node lives");
        view.volumes.into_iter().find(|volume| volume.id == VOLUME).expect("its pool is open")
    }

    /// Is the block in a hot area or a logged region of this node?
    pub(crate) fn is_marked(&self, node: NodeName, block: u64) -> bool {
        marks(&self.half(node), self.setup.mirror.area_blocks, block)
    }

    pub(crate) fn notices(&self, node: NodeName) -> &[Notice] {
        &self.sides[node.index()].notices
    }

    pub(crate) fn until_phase(&mut self, node: NodeName, phase: PeerPhase) {
        self.until(&format!("node {node} is {phase:?}"), |pair| pair.phase(node) == Some(phase));
    }

    pub(crate) fn until_paired(&mut self) {
        self.until("a pair", |pair| pair.phases() == [Some(PeerPhase::Paired); 2]);
        self.pass(Duration::from_millis(10));
    }

    /// Runs to a pair and compares the halves as guests see them.
    pub(crate) fn until_whole(&mut self) {
        self.until_paired();
        for block in self.touched.clone() {
            assert_eq!(self.read(A, block), self.read(B, block), "block {block}");
        }
    }

    /// Most dirty blocks that a node has had at once.
    pub(crate) fn most_dirty(&self, node: NodeName) -> u64 {
        self.most_dirty[node.index()]
    }

    /// For stories of very many blocks: the halves are not compared after every event any more.
    pub(crate) fn stop_comparing(&mut self) {
        self.compares = false;
    }

    /// The promises that were broken so far. A sound node's test does not get here with any.
    pub(crate) fn broken(&self) -> String {
        self.broken.join("; ")
    }

    fn broke(&mut self, what: String) {
        assert!(self.setup.planted.is_any(), "{what}");
        if !self.broken.contains(&what) {
            self.broken.push(what);
        }
    }

    /// What must hold at every moment.
    pub(super) fn inspect(&mut self) {
        let views = NodeName::BOTH.map(|node| self.view(node));
        for view in views.iter().flatten() {
            let most = &mut self.most_dirty[view.name.index()];
            *most = view.dirty_blocks.max(*most);
        }
        for view in views.iter().flatten().filter(|view| view.serving && !view.up_to_date) {
            self.broke(format!("{} serves though its half is behind", view.name));
        }
        let [Some(a), Some(b)] = &views else { return };
        let pair = a.phase == PeerPhase::Paired && b.phase == PeerPhase::Paired && a.epoch == b.epoch;
        if a.serving && b.serving && !pair {
            self.broke("both serve".into());
        }
        let half = |view: &View| view.volumes.iter().find(|volume| volume.id == VOLUME).cloned();
        let (Some(a), Some(b)) = (half(a), half(b)) else { return };
        if !self.compares {
            return;
        }
        let area = self.setup.mirror.area_blocks;
        for block in self.touched.clone() {
            let marked = marks(&a, area, block) || marks(&b, area, block);
            if !marked && !self.content(A, block).same(&self.content(B, block)) {
                self.broke(format!("block {block} differs and is not marked"));
            }
        }
    }

    fn content(&self, node: NodeName, block: u64) -> Block {
        let side = &self.sides[node.index()];
        match side.node.as_ref().expect("its view was taken").peek(VOLUME, block) {
            Peek::Cached(block) => block,
            Peek::OnDisk(_, offset) => side.disk.visible(offset / BLOCK_BYTES as u64),
            Peek::Unmapped => Block::Zero,
        }
    }
}

fn marks(half: &VolumeView, area_blocks: u64, block: u64) -> bool {
    half.log.contains(block / REGION_BLOCKS) || half.hot.contains(&((block / area_blocks) as u32))
}
