//! Volumes that grow and are deleted: an operator who asks at either server, and hosts that go on meanwhile.
//!
//! What was acknowledged must hold on every node that serves, ever after, and on both at rest. What was asked and not
//! acknowledged may have happened or not, but on both nodes alike.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::ids::{NodeName, VolumeId};
use crate::mirror::message::{VolumeChange, VolumeRefusal};
use crate::node::event::Event;
use crate::node::view::View;

/// What the operators know of the volumes.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    /// Sizes that were acknowledged.
    grown: BTreeMap<VolumeId, u64>,
    /// Deletes that were acknowledged.
    deleted: BTreeSet<VolumeId>,
    /// Deletes that were asked for.
    doomed: BTreeSet<VolumeId>,
}

impl Cluster {
    /// The operator at `who` wants a volume to have this size.
    pub(super) fn grow_volume(&mut self, who: NodeName, volume: VolumeId, sectors: u64) {
        self.change_volume(who, volume, VolumeChange::Grow { sectors });
    }

    /// The operator at `who` deletes a volume. The last one stays: hosts need something to do.
    pub(super) fn delete_volume(&mut self, who: NodeName, volume: VolumeId) {
        let known = &self.knowledge.doomed;
        if known.contains(&volume) || known.len() + 1 < self.setup.volumes.len() {
            self.change_volume(who, volume, VolumeChange::Delete);
        }
    }

    pub(super) fn change_volume(&mut self, who: NodeName, volume: VolumeId, what: VolumeChange) {
        let linear = !self.hosts.is_mirrored(volume);
        let who = if linear { NodeName::A } else { who };
        let slot = &self.slots[who.index()];
        if !slot.opened || volume.0 as usize > self.setup.volumes.len() {
            return;
        }
        if what == VolumeChange::Delete {
            self.knowledge.doomed.insert(volume);
        }
        self.send_change(who, volume, what);
    }

    pub(super) fn send_change(&mut self, who: NodeName, volume: VolumeId, what: VolumeChange) {
        let slot = &mut self.slots[who.index()];
        slot.questions += 1;
        let id = slot.questions;
        slot.changes.insert(id, (volume, what.clone()));
        self.deliver(who, Event::Volume { id, volume, what });
    }

    pub(super) fn volume_answered(&mut self, who: NodeName, id: u64, result: Result<(), VolumeRefusal>) {
        if self.clones_answered(who, id, result) {
            return;
        }
        let Some((volume, what)) = self.slots[who.index()].changes.remove(&id) else {
            return self.fail(16, format!("node {who} answers question {id} twice, or it was never asked"));
        };
        self.story(&who.to_string(), || format!("{what:?} of volume {volume}: {result:?}"));
        match (result, what) {
            (Err(VolumeRefusal::Interrupted), _) => self.counters.volume_changes_lost += 1,
            (Err(VolumeRefusal::Changed { .. }), _) => self.counters.items_refused += 1,
            (Err(_), _) => self.counters.volume_refusals += 1,
            (Ok(()), VolumeChange::Grow { sectors }) => {
                self.counters.volumes_grown += 1;
                let grown = self.knowledge.grown.entry(volume).or_default();
                *grown = sectors.max(*grown);
                self.hosts.grow(volume, sectors);
            }
            (Ok(()), VolumeChange::Keep { name, expect, value }) => {
                self.item_kept(who, volume, (name, expect, value));
            }
            (Ok(()), VolumeChange::Delete) => {
                self.counters.volumes_deleted += 1;
                self.knowledge.deleted.insert(volume);
                self.hosts.forget(volume);
            }
        }
        self.watch.look_soon();
    }

    /// A host was told that the volume is gone.
    pub(super) fn volume_is_gone(&mut self, node: NodeName, volume: VolumeId) {
        if !self.knowledge.doomed.contains(&volume) {
            self.fail(23, format!("node {node} says that volume {volume} is gone, which nobody deleted"));
        }
    }

    /// A host was answered.
    pub(super) fn volume_is_there(&mut self, node: NodeName, volume: VolumeId, began_after_delete: bool) {
        if began_after_delete && self.knowledge.deleted.contains(&volume) {
            self.fail(23, format!("node {node} serves volume {volume}, which is deleted"));
        }
    }

    /// Was the delete of this volume acknowledged?
    pub(super) fn is_deleted(&self, volume: VolumeId) -> bool {
        self.knowledge.deleted.contains(&volume)
    }

    /// A node that serves has every change that was acknowledged.
    pub(super) fn inspect_volumes(&mut self, view: &View) {
        if !view.serving {
            return;
        }
        let node = view.name;
        self.inspect_items(view);
        self.inspect_clones(view);
        for volume in view.volumes.iter().filter(|volume| volume.mirrored || node == NodeName::A) {
            let id = volume.id;
            if self.knowledge.deleted.contains(&id) {
                return self.fail(23, format!("node {node} serves, and has volume {id}, which is deleted"));
            }
            let (grown, has) = (self.knowledge.grown.get(&id).copied().unwrap_or(0), volume.sectors);
            if has < grown {
                return self.fail(
                    23,
                    format!(
                        "node {node} serves volume {id} with {has} sectors, and {grown} were acknowledged"
                    ),
                );
            }
        }
    }

    /// Hosts of a pair see no size that one of the halves does not have.
    pub(super) fn inspect_sizes(&mut self, a: &View, b: &View) {
        for volume in a.volumes.iter().filter(|volume| volume.mirrored) {
            let Some(other) = b.volumes.iter().find(|other| other.id == volume.id) else { continue };
            if volume.sectors_shown > other.sectors || other.sectors_shown > volume.sectors {
                let text = format!(
                    "hosts see {} and {} sectors of volume {}, of which the halves have {} and {}",
                    volume.sectors_shown, other.sectors_shown, volume.id, volume.sectors, other.sectors
                );
                return self.fail(23, text);
            }
        }
    }

    /// Is a deleted volume being taken apart, or its space on its way back?
    pub(super) fn is_deleting(&self) -> bool {
        NodeName::BOTH.iter().filter_map(|node| self.view(*node)).any(|view| {
            let extents: u64 = view.volumes.iter().map(|volume| volume.extents).sum();
            let used = extents * self.setup.extent_bytes;
            !view.deleting.is_empty() || (!view.deleted.is_empty() && view.pool_bytes_used > used)
        })
    }

    /// At rest both nodes know the same volumes.
    pub(super) fn compare_volumes(&mut self) {
        let views = NodeName::BOTH.map(|node| self.view(node));
        let [Some(a), Some(b)] = &views else { return };
        self.inspect_volumes(a);
        self.inspect_volumes(b);
        self.compare_items();
        let table = |view: &View| -> Vec<(VolumeId, u64, u64)> {
            let mirrored = view.volumes.iter().filter(|volume| volume.mirrored);
            mirrored.map(|volume| (volume.id, volume.sectors, volume.sectors_shown)).collect()
        };
        if table(a) != table(b) {
            self.fail(23, format!("at rest the volumes are {:?} on a and {:?} on b", table(a), table(b)));
        }
    }
}
