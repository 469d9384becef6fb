//! What is kept with a volume for those above the engine: something small under a number, such as a table of
//! reservations, the same on both nodes. It is changed like the volume itself (`volumes`), in the owner's order; whoever
//! changes it says which revision he has seen, and is refused if there is a later one.

use std::sync::Arc;

use super::Node;
use super::event::{Action, Notice};
use crate::guest::{Item, Items};
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Control, ItemEntry, VolumeChange, VolumeRefusal};
use crate::planted::Bug;

/// Most bytes that are kept with a volume in all: a message has room for them.
const ITEMS_BYTES_MAX: usize = 512 << 10;
/// Most names under which something is kept with a volume.
const ITEMS_MAX: usize = 1024;

impl Node {
    /// At the node that orders the change: does whoever asks know what is kept, and is there room?
    pub(super) fn may_keep(&self, volume: VolumeId, what: &VolumeChange) -> Result<(), VolumeRefusal> {
        let VolumeChange::Keep { name, expect, .. } = what else { return Ok(()) };
        let meta = self.store().pool().metadata().volume(volume);
        let revision = meta.and_then(|meta| meta.items.get(name)).map_or(0, |item| item.revision);
        if revision != *expect && !self.has(Bug::KeptUncompared) {
            return Err(VolumeRefusal::Changed { revision });
        }
        if self.has_room_to_keep(volume, what) { Ok(()) } else { Err(VolumeRefusal::NoRoom) }
    }

    /// Can a change be written down here?
    pub(super) fn has_room_to_keep(&self, volume: VolumeId, what: &VolumeChange) -> bool {
        let VolumeChange::Keep { name, value, .. } = what else { return true };
        let pool = self.store().pool();
        let Some(meta) = pool.metadata().volume(volume) else { return false };
        let others = meta.items.iter().filter(|(other, _)| *other != name);
        let (count, bytes) =
            others.fold((1, value.len()), |(count, bytes), (_, item)| (count + 1, bytes + item.value.len()));
        let pending = self.changes.room_pending() + self.clones.room_pending();
        count <= ITEMS_MAX
            && bytes <= ITEMS_BYTES_MAX
            && pool.has_room_for_item(volume, *name, value.len(), pending)
    }

    /// What is kept with the volume is in force from now on, as it is in writing here.
    pub(super) fn show_items(&mut self, volume: VolumeId) {
        let meta = self.store().pool().metadata().volume(volume);
        let Some(items) = meta.map(|meta| meta.items.clone()) else { return };
        let Some(state) = self.volumes.get_mut(volume) else { return };
        if !items.is_empty() || state.items_shown {
            state.items_shown = true;
            self.actions.push_back(Action::VolumeItems { volume, items: Arc::new(items) });
        }
    }

    /// Requests are held from now on until it is decided who serves. They will be done only if this node goes on, and then
    /// what it has in writing counts: whoever judges a request before it is held judges it by that.
    pub(super) fn show_what_may_count(&mut self) {
        for volume in self.mirrored() {
            self.show_items(volume);
        }
    }

    /// Source: what is kept with the mirrored volumes, before the table of these.
    pub(super) fn tell_items(&mut self, epoch: Epoch) {
        if self.has(Bug::AbsentPartnerNotTold) {
            return;
        }
        for volume in self.mirrored() {
            let meta = self.store().pool().metadata().volume(volume);
            let Some(meta) = meta.filter(|meta| !meta.items.is_empty()) else { continue };
            let items = meta.items.iter().map(|(&name, Item { revision, value })| {
                let (revision, value) = (*revision, Arc::clone(value));
                ItemEntry { name, revision, value }
            });
            let items = items.collect();
            self.say(Control::VolumeItems { epoch, volume, items });
        }
    }

    /// Target: the source's table comes next.
    pub(super) fn items_received(&mut self, volume: VolumeId, items: Vec<ItemEntry>) {
        if !self.ready_to_rejoin() {
            return;
        }
        let pool = self.store().pool();
        let (most, volumes) = (pool.item_bytes_max(), pool.volumes_max());
        let fits = |item: &ItemEntry| !item.value.is_empty() && item.value.len() <= most;
        let bytes = items.iter().map(|item| item.value.len()).sum::<usize>();
        let all_fit = items.iter().all(fits) && items.len() <= ITEMS_MAX && bytes <= ITEMS_BYTES_MAX;
        if !all_fit || self.changes.received.len() >= volumes {
            // Without them the table cannot be taken over.
            let what = "this node's pool has no room for what its partner keeps with its volumes; make it anew on \
                        larger disks";
            self.notice(Notice::NeedsDecision(what.into()));
            if let Some(link) = self.link {
                self.actions.push_back(Action::Disconnect { link });
            }
            return;
        }
        let items = items.into_iter();
        let items: Items =
            items.map(|ItemEntry { name, revision, value }| (name, Item { revision, value })).collect();
        self.changes.received.insert(volume, items);
    }
}
