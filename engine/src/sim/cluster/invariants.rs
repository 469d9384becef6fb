//! What must hold at every moment, looked at after each turn of events and at short intervals between.
//!
//! Blocks are compared when it can matter: a region whose marks are gone must be equal on both nodes from then
//! on until it is marked again, so each is compared once after it was last touched or seen marked.

use std::collections::BTreeMap;

use super::Cluster;
use crate::block::{BLOCK_BYTES, Block};
use crate::guest::Sectors;
use crate::ids::{Epoch, NodeName, Uuid, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::view::{Peek, View};
use crate::sim::pattern;
use crate::sim::plan::Setup;

/// Blocks in a region of the change log (64 KiB).
pub(super) const REGION_BLOCKS: u64 = 16;
/// Events between two looks.
const LOOK_EVERY: u32 = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Region {
    /// Blocks that guests have written to.
    touched: u16,
    /// Compared since it was last touched or marked.
    compared: bool,
}

/// What is remembered from look to look.
#[derive(Debug)]
pub(super) struct Watch {
    area_blocks: u64,
    regions: Vec<BTreeMap<u64, Region>>,
    countdown: u32,
    soon: bool,
    epochs: [Epoch; 2],
    owners: BTreeMap<(VolumeId, Epoch), NodeName>,
    /// Blocks of the largest change that a guest asked for.
    largest: u64,
    /// Extents that were left on disks that are leaving.
    pub(super) leaving: [BTreeMap<Uuid, u32>; 2],
}

impl Watch {
    pub(super) fn new(setup: &Setup) -> Watch {
        Watch {
            area_blocks: setup.area_blocks,
            regions: vec![BTreeMap::new(); setup.volumes.len()],
            countdown: LOOK_EVERY,
            soon: false,
            epochs: [Epoch(0); 2],
            owners: BTreeMap::new(),
            largest: 0,
            leaving: [const { BTreeMap::new() }; 2],
        }
    }

    fn index(volume: VolumeId) -> usize {
        volume.0 as usize - 1
    }

    pub(super) fn touched(&mut self, volume: VolumeId, at: Sectors) {
        let blocks = at.blocks();
        self.largest = self.largest.max(blocks.end - blocks.start);
        for block in blocks {
            let region = self.regions[Watch::index(volume)].entry(block / REGION_BLOCKS).or_default();
            region.touched |= 1 << (block % REGION_BLOCKS);
            region.compared = false;
        }
    }

    /// Blocks of a volume that guests have written to.
    pub(super) fn blocks(&self, volume: VolumeId) -> impl Iterator<Item = u64> + '_ {
        self.regions[Watch::index(volume)].iter().flat_map(|(number, region)| {
            let first = number * REGION_BLOCKS;
            (0..REGION_BLOCKS).filter(|bit| region.touched >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    pub(super) fn look_soon(&mut self) {
        self.soon = true;
    }

    /// All regions are to be compared again: a node came back from its disk.
    pub(super) fn life_began(&mut self) {
        for region in self.regions.iter_mut().flat_map(BTreeMap::values_mut) {
            region.compared = false;
        }
        self.soon = true;
    }

    pub(super) fn life_ended(&mut self, node: NodeName) {
        self.epochs[node.index()] = Epoch(0);
        self.leaving[node.index()].clear();
        self.soon = true;
    }
}

impl Cluster {
    /// After each event: look, if it is time to.
    pub(super) fn watch_step(&mut self) {
        self.watch.countdown -= 1;
        if self.watch.countdown == 0 || self.watch.soon {
            self.inspect();
        }
    }

    /// A look inside a node; `None` if it is down or its pool is not open.
    pub fn view(&self, node: NodeName) -> Option<View> {
        let slot = &self.slots[node.index()];
        let alive = slot.node.as_ref().filter(|_| slot.opened)?;
        Some(alive.view(slot.clock.at(self.now)))
    }

    /// Looks at everything that must hold now.
    pub(super) fn inspect(&mut self) {
        (self.watch.countdown, self.watch.soon) = (LOOK_EVERY, false);
        let views = NodeName::BOTH.map(|node| self.view(node));
        for view in views.iter().flatten() {
            self.inspect_node(view);
            self.inspect_disks(view);
            self.inspect_volumes(view);
        }
        if let [Some(a), Some(b)] = &views {
            self.inspect_pair(a, b);
        }
        let paired = matches!(&views, [Some(a), Some(b)] if a.phase == PeerPhase::Paired && b.phase == a.phase && a.epoch == b.epoch);
        self.update_degraded(paired);
    }

    fn inspect_node(&mut self, view: &View) {
        let node = view.name;
        let last = &mut self.watch.epochs[node.index()];
        if view.epoch < *last {
            let text = format!("node {node} goes back from epoch {last} to {}", view.epoch);
            self.fail(5, text);
            return;
        }
        *last = view.epoch;
        if view.serving && !view.up_to_date {
            self.fail(6, format!("node {node} serves though its half is behind"));
        }
        // What is dirty, and one write that was with the partner meanwhile; all else gives way.
        let (all, dirty) = (self.setup.cache_blocks as u64, self.setup.dirty_blocks as u64);
        let dirty = dirty + self.watch.largest.max(dirty / 2);
        if view.dirty_blocks > dirty || view.cached_blocks > all.max(dirty) {
            let (has, changed) = (view.cached_blocks, view.dirty_blocks);
            self.fail(
                17,
                format!("node {node} has {has} blocks in its cache of {all}, {changed} dirty of {dirty}"),
            );
        }
        for volume in view.volumes.iter().filter(|volume| volume.mirrored && view.serving) {
            if let Some(owner) = volume.owner
                && *self.watch.owners.entry((volume.id, view.epoch)).or_insert(owner) != owner
            {
                self.fail(5, format!("volume {} has two owners in epoch {}", volume.id, view.epoch));
            }
        }
    }

    fn inspect_pair(&mut self, a: &View, b: &View) {
        let pair = a.phase == PeerPhase::Paired && b.phase == PeerPhase::Paired && a.epoch == b.epoch;
        if a.serving && b.serving && !pair {
            let text = format!(
                "both serve: a is {:?} in epoch {}, b is {:?} in epoch {}",
                a.phase, a.epoch, b.phase, b.epoch
            );
            self.fail(5, text);
            return;
        }
        if pair {
            self.inspect_sizes(a, b);
        }
        if !self.slots.iter().any(|slot| slot.fresh) {
            self.compare_unmarked(a, b);
        }
    }

    /// What differs lies in the hot sets of both or in a change log.
    fn compare_unmarked(&mut self, a: &View, b: &View) {
        for index in 0..self.setup.volumes.len() {
            let volume = VolumeId(index as u32 + 1);
            let find = |view: &View| view.volumes.iter().position(|each| each.id == volume);
            let (Some(at), Some(bt)) = (find(a), find(b)) else { continue };
            let (a, b) = (&a.volumes[at], &b.volumes[bt]);
            if !a.mirrored {
                continue;
            }
            let regions_per_area = (self.watch.area_blocks / REGION_BLOCKS).max(1);
            let mut hot: Vec<u64> = a.hot.iter().chain(&b.hot).map(|area| u64::from(*area)).collect();
            hot.sort_unstable();
            let mut to_compare = Vec::new();
            for (number, region) in &mut self.watch.regions[index] {
                let area = number * REGION_BLOCKS / (regions_per_area * REGION_BLOCKS);
                let marked =
                    a.log.contains(*number) || b.log.contains(*number) || hot.binary_search(&area).is_ok();
                if marked {
                    region.compared = false;
                } else if !core::mem::replace(&mut region.compared, true) {
                    to_compare.push((*number, region.touched));
                }
            }
            for (number, touched) in to_compare {
                self.compare_region(volume, number, touched);
            }
        }
    }

    fn compare_region(&mut self, volume: VolumeId, number: u64, touched: u16) {
        for bit in (0..REGION_BLOCKS).filter(|bit| touched >> bit & 1 == 1) {
            let block = number * REGION_BLOCKS + bit;
            let (Some(a), Some(b)) =
                (self.content(NodeName::A, volume, block), self.content(NodeName::B, volume, block))
            else {
                continue;
            };
            self.counters.blocks_compared += 1;
            if !a.same(&b) {
                let text = format!(
                    "volume {volume} block {block} differs, in no hot set and no log: {} on a, {} on b",
                    say(volume, block, &a),
                    say(volume, block, &b)
                );
                self.fail(7, text);
                return;
            }
        }
    }

    /// What a node would read there if its disks were sound. What was damaged when its extent was copied would be read from
    /// the partner, or not at all.
    pub(super) fn content(&self, node: NodeName, volume: VolumeId, block: u64) -> Option<Block> {
        let slot = &self.slots[node.index()];
        let alive = slot.node.as_ref()?;
        Some(match alive.peek(volume, block) {
            Peek::Cached(block) => block,
            Peek::OnDisk(disk, offset) => {
                let content = slot.disk(disk).truth(Cluster::disk_block(offset));
                let read = |disk, offset| slot.disk(disk).truth(Cluster::disk_block(offset));
                let lost = alive.is_lost(volume, block, &content, read);
                return (!lost).then_some(content);
            }
            Peek::Unmapped => Block::Zero,
        })
    }
}

/// The content of a block, for people.
pub(super) fn say(volume: VolumeId, number: u64, block: &Block) -> String {
    debug_assert_eq!(block.bytes().len(), BLOCK_BYTES);
    match pattern::block_values(volume, number, block) {
        Ok(values) if values.iter().all(|value| *value == values[0]) => format!("value {}", values[0]),
        Ok(values) => format!("values {values:?}"),
        Err(foreign) => foreign.to_string(),
    }
}
