//! The cache: 4 KiB blocks of all volumes of one node, clean and dirty, bounded.
//!
//! Every write has a *version*, a number that rises with each write of the node. A block is *unstable* from the
//! version that first made it differ from stable media until a flush has covered it. Invariants:
//!
//! - The cache never holds more blocks than configured; callers ask [`Cache::room`] before they write.
//! - A block with an unstable version, or one that a disk read is looking at (pinned), is never evicted.
//! - At most one version of a block is on its way to disk; it is `issued` until it is stable.
//! - [`Cache::stable_through`] never overstates: every write of the volume up to it is stable, or was
//!   overwritten by one that is.

mod queue;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::block::Block;
use crate::ids::VolumeId;
use crate::time::Instant;

use queue::CleanQueue;
use table::Table;

/// Place of an entry in the arena.
type Place = u32;
const NOWHERE: Place = u32::MAX;

/// One cached block.
#[derive(Debug)]
struct Entry {
    volume: VolumeId,
    block: u64,
    content: Block,
    /// Version of `content`; zero if it was read from disk.
    version: u64,
    /// First unstable version; zero if the block is clean.
    since: u64,
    /// Version on its way to disk; zero if none.
    issued: u64,
    /// First version after `issued`; zero if none.
    again: u64,
    /// Was it used since it was last looked at for eviction?
    used: bool,
    /// Is it among the candidates for eviction?
    queued: bool,
    /// How often the place was given to a block: queue entries of earlier blocks are void.
    birth: u32,
}

/// Dirty order of one volume.
#[derive(Debug, Default)]
struct Order {
    /// (since, block), ascending; entries of blocks that became stable are void.
    fresh: VecDeque<(u64, u64)>,
    /// (since, block) of blocks that were written again while on their way to disk.
    again: BTreeSet<(u64, u64)>,
}

/// The cache of one node.
#[derive(Debug)]
pub struct Cache {
    tables: BTreeMap<VolumeId, Table>,
    orders: BTreeMap<VolumeId, Order>,
    entries: Vec<Entry>,
    free: Vec<Place>,
    clean: CleanQueue,
    /// Blocks to write back, oldest first, with the time they became dirty; may hold void ones.
    to_destage: VecDeque<(VolumeId, u64, Instant)>,
    pins: BTreeMap<(VolumeId, u64), u32>,
    blocks_max: usize,
    dirty_blocks_max: usize,
    blocks: usize,
    unstable: usize,
    version: u64,
    settled: u64,
}

impl Cache {
    /// A cache of at most `blocks_max` blocks, `dirty_blocks_max` of them dirty.
    pub fn new(blocks_max: usize, dirty_blocks_max: usize) -> Cache {
        let blocks_max = blocks_max.max(64);
        Cache {
            tables: BTreeMap::new(),
            orders: BTreeMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            clean: CleanQueue::new(blocks_max),
            to_destage: VecDeque::new(),
            pins: BTreeMap::new(),
            blocks_max,
            dirty_blocks_max: dirty_blocks_max.clamp(16, blocks_max * 2 / 3),
            blocks: 0,
            unstable: 0,
            version: 0,
            settled: 0,
        }
    }

    /// Blocks held.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks held that are not stable.
    pub fn unstable_blocks(&self) -> usize {
        self.unstable
    }

    /// How often a block became stable: a sign that something moved.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Most blocks that may be dirty.
    pub fn dirty_blocks_max(&self) -> usize {
        self.dirty_blocks_max
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// May `count` more blocks become dirty now?
    pub fn room(&self, count: usize) -> bool {
        // A write larger than the whole allowance goes alone.
        self.unstable + count <= self.dirty_blocks_max || self.unstable == 0
    }

    /// Is there place for `count` more dirty blocks beside those that are there?
    pub fn has_place(&self, count: u64) -> bool {
        self.unstable as u64 + count <= self.dirty_blocks_max as u64
    }

    /// The content of a block, if it is here.
    pub fn get(&mut self, volume: VolumeId, block: u64) -> Option<&Block> {
        let place = self.place(volume, block)?;
        let entry = &mut self.entries[place as usize];
        entry.used = true;
        Some(&entry.content)
    }

    /// As [`get`](Self::get), without counting as use.
    pub fn peek(&self, volume: VolumeId, block: u64) -> Option<&Block> {
        self.place(volume, block).map(|place| &self.entries[place as usize].content)
    }

    /// The blocks of a range that are here, ascending, with their contents.
    pub fn held_in(
        &self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
    ) -> impl Iterator<Item = (u64, &Block)> + '_ {
        let held = self.tables.get(&volume).into_iter().flat_map(move |table| table.range(blocks.clone()));
        held.map(|(block, place)| (block, &self.entries[place as usize].content))
    }

    /// The version of a block in the cache; zero if it is not here, or was read from disk.
    pub fn version_of(&self, volume: VolumeId, block: u64) -> u64 {
        self.place(volume, block).map_or(0, |place| self.entries[place as usize].version)
    }

    /// Begins a write: the version that its blocks get.
    pub fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Puts a written block in place.
    pub fn write(&mut self, now: Instant, volume: VolumeId, block: u64, content: Block, version: u64) {
        let place = match self.place(volume, block) {
            Some(place) => place,
            None => self.insert(volume, block),
        };
        let entry = &mut self.entries[place as usize];
        entry.content = content;
        entry.version = version;
        entry.used = true;
        if entry.since == 0 {
            entry.since = version;
            self.unstable += 1;
            self.orders.entry(volume).or_default().fresh.push_back((version, block));
            self.to_destage.push_back((volume, block, now));
        } else if entry.issued != 0 && entry.again == 0 {
            entry.again = version;
        }
    }

    /// Keeps a block that was read from disk, if there is room for it and nothing newer is here.
    pub fn keep(&mut self, volume: VolumeId, block: u64, content: Block) {
        if self.place(volume, block).is_some() || !self.make_room() {
            return;
        }
        let place = self.insert(volume, block);
        let entry = &mut self.entries[place as usize];
        entry.content = content;
        entry.queued = true;
        let birth = entry.birth;
        self.clean.push(place, birth);
    }

    /// While pinned, a block that is in the cache stays there.
    pub fn pin(&mut self, volume: VolumeId, block: u64) {
        *self.pins.entry((volume, block)).or_default() += 1;
    }

    /// Takes one pin away.
    pub fn unpin(&mut self, volume: VolumeId, block: u64) {
        let count = self.pins.get_mut(&(volume, block)).expect("unpin follows pin");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&(volume, block));
        }
    }

    /// The oldest block that waits for write-back and since when; void entries are dropped on the way.
    pub fn oldest_dirty(&mut self) -> Option<(VolumeId, u64, Instant)> {
        while let Some(&(volume, block, when)) = self.to_destage.front() {
            if self.is_dirty(volume, block) {
                return Some((volume, block, when));
            }
            self.to_destage.pop_front();
        }
        None
    }

    /// As [`oldest_dirty`](Self::oldest_dirty), just looking.
    pub fn next_dirty(&self) -> Option<(VolumeId, u64, Instant)> {
        self.to_destage.iter().copied().find(|&(volume, block, _)| self.is_dirty(volume, block))
    }

    /// Takes the oldest waiting block off the queue.
    pub fn pop_dirty(&mut self) {
        self.to_destage.pop_front();
    }

    /// Puts a block back at the front of the queue.
    pub fn push_dirty_front(&mut self, volume: VolumeId, block: u64, when: Instant) {
        self.to_destage.push_front((volume, block, when));
    }

    /// Is the block waiting for write-back (unstable and not on its way)?
    pub fn is_dirty(&self, volume: VolumeId, block: u64) -> bool {
        self.place(volume, block).is_some_and(|place| {
            let entry = &self.entries[place as usize];
            entry.since != 0 && entry.issued == 0
        })
    }

    /// The blocks of a range that wait for write-back, ascending.
    pub fn dirty_in(&self, volume: VolumeId, blocks: core::ops::Range<u64>) -> Vec<u64> {
        let Some(table) = self.tables.get(&volume) else { return Vec::new() };
        table
            .range(blocks)
            .filter(|&(_, place)| {
                let entry = &self.entries[place as usize];
                entry.since != 0 && entry.issued == 0
            })
            .map(|(block, _)| block)
            .collect()
    }

    /// The block's present version goes to disk: its content.
    pub fn issue(&mut self, volume: VolumeId, block: u64) -> Block {
        let place = self.place(volume, block).expect("a dirty block is in the cache");
        let entry = &mut self.entries[place as usize];
        debug_assert!(entry.since != 0 && entry.issued == 0, "issued once");
        entry.issued = entry.version;
        entry.again = 0;
        entry.content.clone()
    }

    /// The version that was issued is on stable media.
    pub fn stable(&mut self, now: Instant, volume: VolumeId, block: u64) {
        let place = self.place(volume, block).expect("an issued block stays in the cache");
        let entry = &mut self.entries[place as usize];
        assert!(entry.issued != 0, "stable follows issue");
        self.settled += 1;
        let since = entry.since;
        entry.issued = 0;
        entry.since = entry.again;
        entry.again = 0;
        let (rewritten, birth) = (entry.since, entry.birth);
        let queue = rewritten == 0 && !core::mem::replace(&mut entry.queued, true);
        let order = self.orders.entry(volume).or_default();
        order.again.remove(&(since, block));
        if rewritten != 0 {
            order.again.insert((rewritten, block));
            self.to_destage.push_back((volume, block, now));
        } else {
            self.unstable -= 1;
            if queue {
                self.clean.push(place, birth);
            }
        }
        self.drop_void(volume);
    }

    /// Forgets the heads of the dirty order that are stable by now.
    fn drop_void(&mut self, volume: VolumeId) {
        let Some(order) = self.orders.get_mut(&volume) else { return };
        let table = self.tables.get(&volume);
        while let Some(&(since, block)) = order.fresh.front() {
            let live = table
                .and_then(|table| table.get(block))
                .is_some_and(|place| self.entries[place as usize].since == since);
            if live && !order.again.contains(&(since, block)) {
                break;
            }
            order.fresh.pop_front();
        }
    }

    /// Every write of the volume up to this version is stable, or was overwritten by one that is.
    pub fn stable_through(&self, volume: VolumeId) -> u64 {
        let Some(order) = self.orders.get(&volume) else { return self.version };
        let fresh = order.fresh.front().map(|&(since, _)| since);
        let again = order.again.first().map(|&(since, _)| since);
        match (fresh, again) {
            (None, None) => self.version,
            (a, b) => a.into_iter().chain(b).min().expect("one of them") - 1,
        }
    }

    /// Is every write of these blocks up to `version` stable?
    pub fn is_stable(&self, volume: VolumeId, blocks: core::ops::Range<u64>, version: u64) -> bool {
        let Some(table) = self.tables.get(&volume) else { return true };
        table.range(blocks).all(|(_, place)| {
            let since = self.entries[place as usize].since;
            since == 0 || since > version
        })
    }

    /// The newest unstable version in a range; zero if all is stable.
    pub fn unstable_version(&self, volume: VolumeId, blocks: core::ops::Range<u64>) -> u64 {
        let Some(table) = self.tables.get(&volume) else { return 0 };
        table
            .range(blocks)
            .map(|(_, place)| &self.entries[place as usize])
            .filter(|entry| entry.since != 0)
            .map(|entry| entry.version)
            .max()
            .unwrap_or(0)
    }

    /// Drops what is here of a volume that is deleted, dirty blocks too, but for blocks that are pinned or on their way
    /// to disk: ask again when they are not. True if nothing is left.
    pub fn forget(&mut self, volume: VolumeId) -> bool {
        let Some(table) = self.tables.get(&volume) else { return true };
        let all: Vec<(u64, Place)> = table.range(0..u64::MAX).collect();
        let mut left = false;
        for (block, place) in all {
            let entry = &mut self.entries[place as usize];
            if entry.issued != 0 || self.pins.contains_key(&(volume, block)) {
                left = true;
                continue;
            }
            let since = core::mem::take(&mut entry.since);
            if since != 0 {
                (self.unstable, self.settled) = (self.unstable - 1, self.settled + 1);
                if let Some(order) = self.orders.get_mut(&volume) {
                    order.again.remove(&(since, block));
                }
            }
            self.remove(place);
        }
        if !left {
            self.tables.remove(&volume);
            self.orders.remove(&volume);
        }
        self.drop_void(volume);
        !left
    }

    fn place(&self, volume: VolumeId, block: u64) -> Option<Place> {
        self.tables.get(&volume)?.get(block)
    }

    fn insert(&mut self, volume: VolumeId, block: u64) -> Place {
        self.make_room();
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.entries.push(Entry {
                    volume,
                    block,
                    content: Block::Zero,
                    version: 0,
                    since: 0,
                    issued: 0,
                    again: 0,
                    used: false,
                    queued: false,
                    birth: 0,
                });
                (self.entries.len() - 1) as Place
            }
        };
        let entry = &mut self.entries[place as usize];
        (entry.volume, entry.block, entry.version) = (volume, block, 0);
        (entry.used, entry.queued) = (false, false);
        self.tables.entry(volume).or_default().set(block, place);
        self.blocks += 1;
        place
    }

    /// Evicts until one more block fits; false if nothing can go.
    fn make_room(&mut self) -> bool {
        while self.blocks >= self.blocks_max {
            let (entries, pins) = (&mut self.entries, &self.pins);
            let victim = self.clean.evict(|place, birth| {
                let entry = &mut entries[place as usize];
                if entry.birth != birth {
                    return queue::Verdict::Void;
                }
                if entry.since != 0 {
                    entry.queued = false;
                    return queue::Verdict::Void;
                }
                if core::mem::take(&mut entry.used) || pins.contains_key(&(entry.volume, entry.block)) {
                    return queue::Verdict::Keep;
                }
                queue::Verdict::Evict
            });
            let Some(place) = victim else { return false };
            self.remove(place);
        }
        true
    }

    fn remove(&mut self, place: Place) {
        let entry = &mut self.entries[place as usize];
        entry.content = Block::Zero;
        entry.birth = entry.birth.wrapping_add(1);
        let (volume, block) = (entry.volume, entry.block);
        self.tables.get_mut(&volume).expect("a cached block is in its table").set(block, NOWHERE);
        self.free.push(place);
        self.blocks -= 1;
    }
}

#[cfg(test)]
mod tests;
