//! When may a crash lose data? Never after a single failure. While another failure is outstanding a node that
//! dies may take with it what was not yet stable; what was acknowledged by a lone node, or was covered by a
//! completed flush, must survive even that. A linear volume has one copy: each crash may cost it what was not
//! flushed.

use std::collections::BTreeSet;

use super::{Cluster, slot};
use crate::arbiter::Arbitration;
use crate::block::BLOCK_BYTES;
use crate::ids::{Members, NodeName, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::view::Peek;

impl Cluster {
    /// A node is about to die: notes what that may lose.
    pub(super) fn crash_may_lose(&mut self, node: NodeName) {
        if !self.slots[node.index()].alive() || self.slots[node.index()].disk_failed {
            return;
        }
        let linear = self.volumes(false);
        if node == NodeName::A && !linear.is_empty() {
            let kept = self.stable_blocks(node, &linear);
            self.history.lose(linear, kept, false);
        }
        self.mirrored_may_lose(node);
        self.degraded = true;
    }

    /// A node ends after a clean stop. From a pair it has handed over everything, stable, and one that has lost its
    /// partner may have written down that it has everything; from anything else it is one more node that is gone.
    pub(super) fn exit_may_lose(&mut self, node: NodeName) {
        if self.view(node).is_some_and(|view| view.complete) {
            self.degraded = true;
        } else if !self.handed_over {
            self.mirrored_may_lose(node);
            self.degraded = true;
        }
    }

    fn mirrored_may_lose(&mut self, node: NodeName) {
        let (mine, other) = (self.has_authority(node), self.has_authority(node.partner()));
        if self.degraded && (mine || !other) {
            let mirrored = self.volumes(true);
            let slot = &self.slots[node.index()];
            let alone = slot.phase == PeerPhase::Alone || slot.stopped_alone;
            let kept = if alone { self.stable_blocks(node, &mirrored) } else { BTreeSet::new() };
            self.counters.losses += 1;
            self.story(&node.to_string(), || "dies while another failure is outstanding".into());
            // The other one has in memory what the pair acknowledged, and may die with it later.
            let partner = &self.slots[node.partner().index()];
            let partly = partner.alive()
                && partner.opened
                && matches!(partner.phase, PeerPhase::Paired | PeerPhase::Lost);
            self.history.lose(mirrored, kept, partly);
        }
    }

    /// Goes on alone, or is sure to: what it has in memory is safe from the other's death.
    fn has_authority(&self, node: NodeName) -> bool {
        let slot = &self.slots[node.index()];
        if !slot.alive() || !slot.opened {
            return false;
        }
        match slot.phase {
            PeerPhase::Alone => true,
            PeerPhase::Paired if slot::asks_arbiter(&self.setup) => {
                // The notices do not tell when a node begins to decide; the register tells how it ended.
                self.arbiter.register().is_some_and(|r| r.members == Members::only(node) && r.by == node)
            }
            PeerPhase::Paired if self.setup.arbitration == Arbitration::Preferred => self.is_deciding(node),
            _ => false,
        }
    }

    fn is_deciding(&self, node: NodeName) -> bool {
        let slot = &self.slots[node.index()];
        let view = slot.node.as_ref().map(|alive| alive.view(slot.clock.at(self.now)));
        node == self.setup.preferred && view.is_some_and(|view| view.phase == PeerPhase::Deciding)
    }

    /// Blocks of these volumes that a power cut of this node cannot change.
    fn stable_blocks(&self, node: NodeName, volumes: &[VolumeId]) -> BTreeSet<(VolumeId, u64)> {
        let slot = &self.slots[node.index()];
        let Some(alive) = slot.node.as_ref().filter(|_| slot.opened) else { return BTreeSet::new() };
        let touched =
            volumes.iter().flat_map(|volume| self.watch.blocks(*volume).map(|block| (*volume, block)));
        touched
            .filter(|(volume, block)| match alive.peek(*volume, *block) {
                Peek::OnDisk(disk, offset) => slot.disk(disk).is_stable(offset / BLOCK_BYTES as u64),
                _ => false,
            })
            .collect()
    }

    /// Both nodes are one sound pair, or not. A pair that ends in any other way than by a clean stop has failed.
    pub(super) fn update_degraded(&mut self, paired: bool) {
        if !paired {
            self.degraded |= !self.handed_over && !self.slots.iter().any(|slot| slot.stopping);
        } else if self.network.is_whole() {
            (self.degraded, self.handed_over) = (false, false);
        }
    }
}
