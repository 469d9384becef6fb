//! Hosts that write clones, each write forced to stable media, and without a second attempt.
//!
//! A sector of a clone shows what its snapshot had, or a value that was written there; once a write was acknowledged while
//! no other one was open or of unknown end, that value, whatever fails afterwards. A snapshot takes no write at all.

use std::collections::BTreeMap;

use super::{Cluster, FIRST_READ, Shown};
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::{Command, GuestError, GuestResult, Sectors};
use crate::ids::{NodeName, RequestId, VolumeId};
use crate::node::event::Event;
use crate::sim::pattern::{self, Value};

/// Reads have smaller numbers.
const FIRST_WRITE: u64 = FIRST_READ << 1;

/// A write on its way.
#[derive(Clone, Copy, Debug)]
struct Open {
    volume: VolumeId,
    at: Sectors,
    value: Value,
}

/// What a sector that was written may show.
#[derive(Clone, Debug, Default)]
struct May {
    values: Vec<Value>,
    /// A write was acknowledged: it does not show any more what the snapshot had.
    changed: bool,
    open: u32,
    /// The end of some write is not known: it may come at any time.
    unsure: bool,
}

/// All writes to clones.
#[derive(Debug, Default)]
pub(super) struct Writes {
    last: u64,
    open: BTreeMap<u64, Open>,
    may: BTreeMap<VolumeId, BTreeMap<u64, May>>,
}

impl Writes {
    fn begin(&mut self, open: Open) -> u64 {
        let may = self.may.entry(open.volume).or_default();
        for sector in open.at.start..open.at.end() {
            let may = may.entry(sector).or_default();
            may.values.push(open.value);
            may.open += 1;
        }
        self.last += 1;
        let id = FIRST_WRITE + self.last;
        self.open.insert(id, open);
        id
    }

    fn end(&mut self, Open { volume, at, value }: Open, done: bool) {
        let may = self.may.entry(volume).or_default();
        for (_, may) in may.range_mut(at.start..at.end()) {
            may.open -= 1;
            may.unsure |= !done;
            may.changed |= done;
            if done && may.open == 0 && !may.unsure {
                may.values = vec![value];
            }
        }
    }

    /// Blocks of the clone that were written.
    pub(super) fn blocks(&self, volume: VolumeId) -> impl Iterator<Item = u64> + '_ {
        self.may.get(&volume).into_iter().flatten().map(|(sector, _)| sector / SECTORS_PER_BLOCK)
    }

    /// Takes from what a clone shows the sectors that hosts have written; what is wrong with one of them. Those that may
    /// still show what the snapshot had are taken too: they tell nothing of it.
    pub(super) fn check(&self, volume: VolumeId, shown: &mut Shown) -> Option<String> {
        let written = self.may.get(&volume)?;
        let wrong = shown.iter().find(|(sector, value)| {
            written.get(sector).is_some_and(|may| may.changed && !may.values.contains(value))
        });
        let text = wrong.map(|(sector, value)| {
            let may = &written[sector];
            format!("volume {volume} sector {sector} shows {value}, and may show {:?}", may.values)
        });
        shown.retain(|(sector, _)| !written.contains_key(sector));
        text
    }
}

impl Cluster {
    /// A host writes to the clone that was acknowledged as this one, counted round; if there is none that hosts may write, to
    /// a snapshot, which must not take it. Where, the number says.
    pub(in crate::sim::cluster) fn write_clone(&mut self, who: NodeName, which: u32, place: u32) {
        let all: Vec<_> = self.acknowledged().map(|(id, made)| (id, made.clone())).collect();
        let writable: Vec<_> = all.iter().filter(|(_, made)| !made.read_only && !made.doomed).collect();
        let all: Vec<_> = if writable.is_empty() { all.iter().collect() } else { writable };
        if all.is_empty() {
            return;
        }
        let (volume, made) = all[which as usize % all.len()];
        let who = if made.mirrored { who } else { NodeName::A };
        let sizes = self.view(who).map_or_else(Vec::new, |view| view.volumes);
        let size = sizes.iter().find(|each| each.id == *volume).map_or(0, |each| each.sectors_shown);
        let blocks: Vec<u64> = self.watch.blocks(made.root).filter(|block| (block + 1) * 8 <= size).collect();
        if blocks.is_empty() {
            return;
        }
        let start = blocks[place as usize % blocks.len()] * SECTORS_PER_BLOCK + u64::from(place % 5);
        let at = Sectors::new(start, u64::from(1 + place % 13).min(size - start));
        let value = self.hosts.next_value();
        let data = pattern::payload(&self.pages, made.root, at, value);
        let id = self.clones.writes.begin(Open { volume: *volume, at, value });
        self.deliver(
            who,
            Event::Guest {
                id: RequestId(id),
                volume: *volume,
                command: Command::Write { at, data, fua: true },
            },
        );
    }

    /// Is this the answer to a write to a clone?
    pub(super) fn clone_was_written(&mut self, id: RequestId, result: &GuestResult) -> bool {
        let Some(open) = self.clones.writes.open.remove(&id.0) else { return id.0 > FIRST_WRITE };
        self.clones.writes.end(open, result.is_ok());
        let read_only = self.clones.made.get(&open.volume).is_some_and(|made| made.read_only);
        match result {
            Ok(_) if read_only => {
                self.fail(27, format!("snapshot {} takes a write to {:?}", open.volume, open.at));
            }
            Ok(_) => self.counters.clone_writes += 1,
            Err(GuestError::ReadOnly) if read_only => self.counters.snapshot_writes_refused += 1,
            Err(GuestError::ReadOnly) => {
                self.fail(27, format!("clone {} takes no write", open.volume));
            }
            Err(_) => {}
        }
        true
    }
}
