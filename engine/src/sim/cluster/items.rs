//! What is kept with volumes: two who change it at both servers, each on the ground of what he saw there last.
//!
//! What was acknowledged must be in force on every node that serves, ever after, unless a later change replaced it, and on
//! both at rest; and no change may have been made on the ground of what it was not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Cluster;
use crate::guest::Items;
use crate::ids::{ItemName, NodeName, VolumeId};
use crate::mirror::message::VolumeChange;
use crate::node::view::View;

/// A change that was acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    revision: u64,
    /// The revision that whoever asked had seen.
    expect: u64,
    value: Arc<[u8]>,
}

/// What is known of all that is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    changes: BTreeMap<(VolumeId, ItemName), Vec<Acknowledged>>,
    /// What somebody wanted to be kept no more, whatever came of it: there was nothing before, and may be nothing again.
    removed: BTreeSet<(VolumeId, ItemName)>,
    last: u64,
}

impl Cluster {
    /// Somebody at `who` wants to keep something new, in place of what he sees there; now and then of what he saw long ago.
    pub(super) fn keep_item(
        &mut self,
        who: NodeName,
        volume: VolumeId,
        name: ItemName,
        seen: bool,
        bytes: u32,
    ) {
        let who = if self.hosts.is_mirrored(volume) { who } else { NodeName::A };
        let items = self.slots[who.index()].items.get(&volume);
        let revision = items.and_then(|items| items.get(&name)).map_or(0, |item| item.revision);
        let expect = if seen { revision } else { revision.saturating_sub(1) };
        self.kept.last += 1;
        if bytes == 0 {
            self.kept.removed.insert((volume, name));
        }
        let mut value = vec![0xA5; bytes as usize];
        value.iter_mut().zip(self.kept.last.to_le_bytes()).for_each(|(byte, number)| *byte = number);
        self.change_volume(who, volume, VolumeChange::Keep { name, expect, value: value.into() });
    }

    /// What a node has in force.
    pub(super) fn items_shown(&mut self, who: NodeName, volume: VolumeId, items: Arc<Items>) {
        self.slots[who.index()].items.insert(volume, items);
    }

    /// Hosts see a volume at this size; `None`: it is deleted, and what was kept with it is gone.
    pub(super) fn size_shown(&mut self, who: NodeName, volume: VolumeId, sectors: Option<u64>) {
        match sectors {
            Some(sectors) => self.hosts.grow(volume, sectors),
            None => self.items_shown(who, volume, Arc::default()),
        }
    }

    /// It was acknowledged at `who`.
    pub(super) fn item_kept(
        &mut self,
        who: NodeName,
        volume: VolumeId,
        (name, expect, value): (ItemName, u64, Arc<[u8]>),
    ) {
        self.counters.items_kept += 1;
        let view = self.view(who);
        let of_it = view.iter().flat_map(|view| &view.volumes).find(|of| of.id == volume);
        // It was deleted at once.
        let Some(revision) = of_it.map(|of| of.change) else { return };
        let changes = self.kept.changes.entry((volume, name)).or_default();
        let blank = self.kept.removed.contains(&(volume, name));
        let between = |seen: u64, at: u64, made: u64| seen < made && made < at && !(blank && seen == 0);
        let lost = changes.iter().find(|other| {
            between(expect, revision, other.revision) || between(other.expect, other.revision, revision)
        });
        let problem = lost.map(|other| {
            format!(
                "item {name} of volume {volume}: change {revision} was made on the ground of {expect}, and \
                 {} on that of {}",
                other.revision, other.expect
            )
        });
        changes.push(Acknowledged { revision, expect, value });
        if let Some(problem) = problem {
            self.fail(24, problem);
        }
    }

    /// A node that serves has in force what was acknowledged, or something later.
    pub(super) fn inspect_items(&mut self, view: &View) {
        let node = view.name;
        let items = &self.slots[node.index()].items;
        let problem = self.kept.changes.iter().find_map(|(&(volume, name), changes)| {
            let mirrored = self.hosts.is_mirrored(volume);
            if self.is_deleted(volume) || !(mirrored || node == NodeName::A) {
                return None;
            }
            let newest = changes.iter().max_by_key(|change| change.revision)?;
            let item = items.get(&volume).and_then(|items| items.get(&name));
            let of_it = view.volumes.iter().find(|of| of.id == volume)?;
            let good = match item {
                Some(item) if item.revision == newest.revision => item.value == newest.value,
                Some(item) => item.revision > newest.revision,
                // Nothing is kept any more, by this change or by a later one.
                None => newest.value.is_empty() || of_it.change > newest.revision,
            };
            (!good).then(|| {
                format!(
                    "node {node} serves volume {volume}, and has in force for {name} revision {:?}; {} was acknowledged",
                    item.map(|item| item.revision),
                    newest.revision
                )
            })
        });
        if let Some(problem) = problem {
            self.fail(24, problem);
        }
    }

    /// At rest the same is in force on both nodes.
    pub(super) fn compare_items(&mut self) {
        let [a, b] = NodeName::BOTH.map(|node| {
            let items = self.slots[node.index()].items.iter();
            let mirrored = items.filter(|(volume, items)| {
                self.hosts.is_mirrored(**volume) && !items.is_empty() && !self.is_deleted(**volume)
            });
            mirrored.map(|(&volume, items)| (volume, Arc::clone(items))).collect::<BTreeMap<_, _>>()
        });
        if a != b {
            self.fail(24, format!("at rest a keeps {a:?}, and b {b:?}"));
        }
    }
}
