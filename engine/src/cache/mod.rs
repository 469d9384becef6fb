//! The cache: 4 KiB blocks, clean and dirty, bounded.
//!
//! A [`Cache`] is that of one volume. What the caches of a node have in common, first of all the two bounds, which are given
//! out in portions, is in [`Shares`]. Every write has a *version*, a number that rises with each write of the volume. A
//! block is *unstable* from the version that first made it differ from stable media until a flush has covered it.
//! Invariants:
//!
//! - The caches together never hold more blocks than configured; callers ask [`Shares::room`] before they write.
//! - A block with an unstable version, or one that a disk read is looking at (pinned), is never evicted.
//! - At most one version of a block is on its way to disk; it is `issued` until it is stable.
//! - [`Cache::stable_through`] never overstates: every write of the volume up to it is stable, or was
//!   overwritten by one that is.

mod allot;
mod queue;
mod shares;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::block::Block;
use crate::time::Instant;

use queue::{CleanQueue, Worth};
pub use shares::{HasCache, Shares};
use table::Table;

/// A turn for write-back: the age of the oldest block, and a number, for of those equally old who has waited longest is next.
type Turn = (Instant, u64);
/// Place of an entry in the arena.
type Place = u32;
const NOWHERE: Place = u32::MAX;
/// So many free places are not worth giving back.
const FREE_MAX: usize = 1024;

/// One cached block.
#[derive(Debug)]
struct Entry {
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

/// The cache of one volume.
#[derive(Debug)]
pub struct Cache {
    table: Table,
    entries: Vec<Entry>,
    free: Vec<Place>,
    clean: CleanQueue,
    /// Dirty order: (since, block), ascending; entries of blocks that became stable are void.
    fresh: VecDeque<(u64, u64)>,
    /// (since, block) of blocks that were written again while on their way to disk.
    again: BTreeSet<(u64, u64)>,
    /// Blocks to write back, oldest first, with the time they became dirty; may hold void ones.
    to_destage: VecDeque<(u64, Instant)>,
    pins: BTreeMap<u64, u32>,
    /// Its share of the node's bounds.
    blocks_max: usize,
    dirty_blocks_max: usize,
    blocks: usize,
    unstable: usize,
    version: u64,
    /// Its turn for write-back, as `Shares` has it.
    turn: Option<Turn>,
    /// A block was taken since it got that turn.
    served: bool,
    /// Has it more of each bound than it uses, as `Shares` has it?
    spare: [bool; 2],
    /// What `Shares` has counted of `unstable`, and has not counted of what became stable.
    counted: usize,
    settled: u64,
}

impl Cache {
    /// A cache of a volume whose last version is this. It has no share of the bounds yet.
    pub fn new(version: u64) -> Cache {
        Cache {
            table: Table::default(),
            entries: Vec::new(),
            free: Vec::new(),
            clean: CleanQueue::new(0),
            fresh: VecDeque::new(),
            again: BTreeSet::new(),
            to_destage: VecDeque::new(),
            pins: BTreeMap::new(),
            blocks_max: 0,
            dirty_blocks_max: 0,
            blocks: 0,
            unstable: 0,
            version,
            turn: None,
            served: false,
            spare: [false; 2],
            counted: 0,
            settled: 0,
        }
    }

    /// Would `count` more blocks exceed its share?
    pub fn lacks_place(&self, count: usize) -> bool {
        self.blocks + count > self.blocks_max
    }

    /// May `count` more blocks become dirty within its share?
    pub fn has_room(&self, count: usize) -> bool {
        self.unstable + count <= self.dirty_blocks_max
    }

    /// How many blocks more are dirty than `Shares` has counted.
    pub fn uncounted(&self) -> usize {
        self.unstable.saturating_sub(self.counted)
    }

    /// Does it wait for write-back already?
    pub fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    fn set_blocks_max(&mut self, blocks_max: usize) {
        self.blocks_max = blocks_max;
        self.clean.set_blocks_max(blocks_max);
    }

    /// Blocks held.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks held that are not stable.
    pub fn unstable_blocks(&self) -> usize {
        self.unstable
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The content of a block, if it is here.
    pub fn get(&mut self, block: u64) -> Option<&Block> {
        let place = self.place(block)?;
        let entry = &mut self.entries[place as usize];
        entry.used = true;
        Some(&entry.content)
    }

    /// As [`get`](Self::get), without counting as use.
    pub fn peek(&self, block: u64) -> Option<&Block> {
        self.place(block).map(|place| &self.entries[place as usize].content)
    }

    /// The blocks of a range that are here, ascending, with their contents.
    pub fn held_in(&self, blocks: core::ops::Range<u64>) -> impl Iterator<Item = (u64, &Block)> + '_ {
        self.table.range(blocks).map(|(block, place)| (block, &self.entries[place as usize].content))
    }

    /// The version of a block in the cache; zero if it is not here, or was read from disk.
    pub fn version_of(&self, block: u64) -> u64 {
        self.place(block).map_or(0, |place| self.entries[place as usize].version)
    }

    /// Begins a write: the version that its blocks get.
    pub fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Puts a written block in place.
    pub fn write(&mut self, now: Instant, block: u64, content: Block, version: u64) {
        let place = match self.place(block) {
            Some(place) => place,
            None => self.insert(now, block),
        };
        let entry = &mut self.entries[place as usize];
        entry.content = content;
        entry.version = version;
        entry.used = true;
        if entry.since == 0 {
            entry.since = version;
            self.unstable += 1;
            self.fresh.push_back((version, block));
            self.to_destage.push_back((block, now));
        } else if entry.issued != 0 && entry.again == 0 {
            entry.again = version;
        }
    }

    /// Keeps a block that was read from disk, if there is room for it and nothing newer is here.
    pub fn keep(&mut self, now: Instant, block: u64, content: Block) {
        if self.place(block).is_some() || !self.make_room(now) {
            return;
        }
        let place = self.insert(now, block);
        let entry = &mut self.entries[place as usize];
        entry.content = content;
        entry.queued = true;
        let birth = entry.birth;
        self.clean.push(now, place, birth);
    }

    /// While pinned, a block that is in the cache stays there.
    pub fn pin(&mut self, block: u64) {
        *self.pins.entry(block).or_default() += 1;
    }

    /// Takes one pin away.
    pub fn unpin(&mut self, block: u64) {
        let count = self.pins.get_mut(&block).expect("unpin follows pin");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&block);
        }
    }

    /// The oldest block that waits for write-back and since when; void entries are dropped on the way.
    fn oldest_dirty(&mut self) -> Option<(u64, Instant)> {
        while let Some(&(block, when)) = self.to_destage.front() {
            if self.is_dirty(block) {
                return Some((block, when));
            }
            self.to_destage.pop_front();
        }
        None
    }

    /// As [`oldest_dirty`](Self::oldest_dirty), just looking.
    fn next_dirty(&self) -> Option<(u64, Instant)> {
        self.to_destage.iter().copied().find(|&(block, _)| self.is_dirty(block))
    }

    /// Takes the oldest waiting block off the queue.
    pub fn pop_dirty(&mut self) {
        self.served = true;
        self.to_destage.pop_front();
    }

    /// Puts a block back at the front of the queue.
    pub fn push_dirty_front(&mut self, block: u64, when: Instant) {
        self.to_destage.push_front((block, when));
    }

    /// Is the block waiting for write-back (unstable and not on its way)?
    pub fn is_dirty(&self, block: u64) -> bool {
        self.place(block).is_some_and(|place| {
            let entry = &self.entries[place as usize];
            entry.since != 0 && entry.issued == 0
        })
    }

    /// The blocks of a range that wait for write-back, ascending.
    pub fn dirty_in(&self, blocks: core::ops::Range<u64>) -> Vec<u64> {
        self.table
            .range(blocks)
            .filter(|&(_, place)| {
                let entry = &self.entries[place as usize];
                entry.since != 0 && entry.issued == 0
            })
            .map(|(block, _)| block)
            .collect()
    }

    /// The block's present version goes to disk: its content.
    pub fn issue(&mut self, block: u64) -> Block {
        let place = self.place(block).expect("a dirty block is in the cache");
        let entry = &mut self.entries[place as usize];
        debug_assert!(entry.since != 0 && entry.issued == 0, "issued once");
        entry.issued = entry.version;
        entry.again = 0;
        entry.content.clone()
    }

    /// The version that was issued is on stable media.
    pub fn stable(&mut self, now: Instant, block: u64) {
        let place = self.place(block).expect("an issued block stays in the cache");
        let entry = &mut self.entries[place as usize];
        assert!(entry.issued != 0, "stable follows issue");
        self.settled += 1;
        let since = entry.since;
        entry.issued = 0;
        entry.since = entry.again;
        entry.again = 0;
        let (rewritten, birth) = (entry.since, entry.birth);
        let queue = rewritten == 0 && !core::mem::replace(&mut entry.queued, true);
        self.again.remove(&(since, block));
        if rewritten != 0 {
            self.again.insert((rewritten, block));
            self.to_destage.push_back((block, now));
        } else {
            self.unstable -= 1;
            if queue {
                self.clean.push(now, place, birth);
            }
        }
        self.drop_void();
    }

    /// Forgets the heads of the dirty order that are stable by now.
    fn drop_void(&mut self) {
        while let Some(&(since, block)) = self.fresh.front() {
            let live = self.table.get(block).is_some_and(|place| self.entries[place as usize].since == since);
            if live && !self.again.contains(&(since, block)) {
                break;
            }
            self.fresh.pop_front();
        }
    }

    /// Every write of the volume up to this version is stable, or was overwritten by one that is.
    pub fn stable_through(&self) -> u64 {
        let fresh = self.fresh.front().map(|&(since, _)| since);
        let again = self.again.first().map(|&(since, _)| since);
        fresh.into_iter().chain(again).min().map_or(self.version, |since| since - 1)
    }

    /// Is every write of these blocks up to `version` stable?
    pub fn is_stable(&self, blocks: core::ops::Range<u64>, version: u64) -> bool {
        self.table.range(blocks).all(|(_, place)| {
            let since = self.entries[place as usize].since;
            since == 0 || since > version
        })
    }

    /// The newest unstable version in a range; zero if all is stable.
    pub fn unstable_version(&self, blocks: core::ops::Range<u64>) -> u64 {
        self.table
            .range(blocks)
            .map(|(_, place)| &self.entries[place as usize])
            .filter(|entry| entry.since != 0)
            .map(|entry| entry.version)
            .max()
            .unwrap_or(0)
    }

    /// The volume is deleted: drops what is here, dirty blocks too, but for blocks that are pinned or on their way to disk:
    /// ask again when they are not. True if nothing is left.
    pub fn forget(&mut self) -> bool {
        let all: Vec<u64> = self.table.range(0..u64::MAX).map(|(block, _)| block).collect();
        for block in all {
            let place = self.place(block).expect("just found");
            let entry = &mut self.entries[place as usize];
            if entry.issued != 0 || self.pins.contains_key(&block) {
                continue;
            }
            let since = core::mem::take(&mut entry.since);
            if since != 0 {
                (self.unstable, self.settled) = (self.unstable - 1, self.settled + 1);
                self.again.remove(&(since, block));
            }
            self.remove(place);
        }
        self.drop_void();
        self.blocks == 0 && self.pins.is_empty()
    }

    fn place(&self, block: u64) -> Option<Place> {
        self.table.get(block)
    }

    fn insert(&mut self, now: Instant, block: u64) -> Place {
        self.make_room(now);
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.entries.push(Entry {
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
        (entry.block, entry.version) = (block, 0);
        (entry.used, entry.queued) = (false, false);
        self.table.set(block, place);
        self.blocks += 1;
        place
    }

    /// Evicts until one more block fits into its share; false if nothing can go.
    fn make_room(&mut self, now: Instant) -> bool {
        while self.blocks >= self.blocks_max {
            if !self.evict(now, &mut (2 * self.clean.len())) {
                return false;
            }
        }
        true
    }

    /// Evicts one block, if there is one to evict among so many candidates.
    fn evict(&mut self, now: Instant, looks: &mut usize) -> bool {
        let (entries, pins) = (&mut self.entries, &self.pins);
        let victim = self.clean.evict(now, looks, |place, birth| {
            let entry = &mut entries[place as usize];
            if entry.birth != birth {
                return queue::Verdict::Void;
            }
            if entry.since != 0 {
                entry.queued = false;
                return queue::Verdict::Void;
            }
            if core::mem::take(&mut entry.used) || pins.contains_key(&entry.block) {
                return queue::Verdict::Keep;
            }
            queue::Verdict::Evict
        });
        let Some(place) = victim else { return false };
        self.remove(place);
        true
    }

    fn remove(&mut self, place: Place) {
        let entry = &mut self.entries[place as usize];
        entry.content = Block::Zero;
        entry.birth = entry.birth.wrapping_add(1);
        self.table.set(entry.block, NOWHERE);
        self.free.push(place);
        self.blocks -= 1;
        if self.free.len() > FREE_MAX && self.free.len() > 3 * self.blocks {
            self.compact();
        }
    }

    /// Gives the memory of most free places back: what one volume no longer holds is for others.
    fn compact(&mut self) {
        let mut moved = vec![NOWHERE; self.entries.len()];
        let live: Vec<(u64, Place)> = self.table.range(0..u64::MAX).collect();
        for (to, (block, from)) in (0..).zip(live) {
            moved[from as usize] = to;
            self.table.set(block, to);
        }
        let entries = &self.entries;
        self.clean.replace(|place, birth| {
            let to = moved[place as usize];
            (to != NOWHERE && entries[place as usize].birth == birth).then_some(to)
        });
        let mut kept: Vec<(Place, Entry)> = moved.into_iter().zip(self.entries.drain(..)).collect();
        kept.retain(|(to, _)| *to != NOWHERE);
        kept.sort_unstable_by_key(|(to, _)| *to);
        self.entries = kept.into_iter().map(|(_, entry)| entry).collect();
        self.entries.shrink_to_fit();
        self.free = Vec::new();
    }
}

#[cfg(test)]
mod tests;
