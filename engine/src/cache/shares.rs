//! What the caches of one node have in common: the two bounds, what is counted over all, and whose turn it is to be written
//! back.
//!
//! Each cache has a share of both bounds, which it gets here in portions when it lacks it. A write whose share suffices adds
//! to the counts, and needs nothing else from here. Invariants:
//!
//! - What may be dirty is bounded as if there were one cache: there is [room](Shares::room) for blocks only if all volumes
//!   together have that many less than the bound. What a volume has to take all the same is a debt, and while there is one
//!   there is room for nobody.
//! - Clean blocks of any volume give way: those seen once before those used again, the oldest first. With one cache at hand
//!   it is that cache's own that do.
//! - The oldest dirty block of all volumes is written back first; volumes whose oldest are equally old take turns.
//!
//! Volumes that have more than they use are known by name, so that taking it back costs nothing for the others. Each time it
//! is taken back a volume has half as much left to take, so that costs no more than getting it did.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use super::allot::Allotter;
use super::{Cache, Turn, Worth};
use crate::ids::VolumeId;
use crate::time::Instant;

/// Candidates for eviction of one volume that are looked at before others are considered again.
const LOOKS: usize = 64;

/// Something of a volume that has its cache.
pub trait HasCache {
    /// Looks at the cache.
    fn look<R>(&self, look: impl FnOnce(&Cache) -> R) -> R;
    /// The cache.
    fn cache_mut(&mut self) -> &mut Cache;
}

impl<T: HasCache> HasCache for Mutex<T> {
    fn look<R>(&self, look: impl FnOnce(&Cache) -> R) -> R {
        self.lock().look(look)
    }

    fn cache_mut(&mut self) -> &mut Cache {
        self.get_mut().cache_mut()
    }
}

impl HasCache for Cache {
    fn look<R>(&self, look: impl FnOnce(&Cache) -> R) -> R {
        look(self)
    }

    fn cache_mut(&mut self) -> &mut Cache {
        self
    }
}

/// One of the two bounds.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Blocks,
    Dirty,
}

impl Bound {
    fn used(self, cache: &Cache) -> usize {
        match self {
            Bound::Blocks => cache.blocks,
            Bound::Dirty => cache.unstable,
        }
    }

    /// How much of its share a cache does not use.
    fn unused(self, cache: &Cache) -> usize {
        self.share(cache).saturating_sub(self.used(cache))
    }

    fn share(self, cache: &Cache) -> usize {
        match self {
            Bound::Blocks => cache.blocks_max,
            Bound::Dirty => cache.dirty_blocks_max,
        }
    }

    fn set(self, cache: &mut Cache, share: usize) {
        match self {
            Bound::Blocks => cache.set_blocks_max(share),
            Bound::Dirty => cache.dirty_blocks_max = share,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Shares {
    blocks: Allotter,
    dirty: Allotter,
    /// By bound, the volumes that do not use all they have.
    pub(super) spare: [BTreeSet<VolumeId>; 2],
    /// Dirty blocks of all volumes.
    unstable: usize,
    settled: u64,
    /// Volumes with blocks to write back, by the age of the oldest; it may be younger than it says here.
    turns: BTreeSet<(Turn, VolumeId)>,
    /// The number of the last turn.
    last_turn: u64,
}

impl Shares {
    /// For caches of at most `blocks_max` blocks together, `dirty_blocks_max` of them dirty.
    pub fn new(blocks_max: usize, dirty_blocks_max: usize) -> Shares {
        let blocks_max = blocks_max.max(64);
        let dirty_blocks_max = dirty_blocks_max.clamp(16, blocks_max * 2 / 3);
        Shares {
            // What is clean can be had at any time, so nothing is kept of it.
            blocks: Allotter::new(blocks_max, 0),
            dirty: Allotter::new(dirty_blocks_max, dirty_blocks_max / 8),
            spare: [BTreeSet::new(), BTreeSet::new()],
            unstable: 0,
            settled: 0,
            turns: BTreeSet::new(),
            last_turn: 0,
        }
    }

    /// A volume has a cache from now on.
    pub fn join(&mut self, volume: VolumeId) {
        self.blocks.join(volume);
        self.dirty.join(volume);
    }

    /// The cache of a volume is empty, and gone.
    pub fn leave(&mut self, volume: VolumeId, cache: &Cache) {
        debug_assert!(cache.blocks == 0 && cache.unstable == 0, "only an empty cache goes");
        self.blocks.leave(volume);
        self.dirty.leave(volume);
        for spare in &mut self.spare {
            spare.remove(&volume);
        }
        if let Some(turn) = cache.turn {
            self.turns.remove(&(turn, volume));
        }
    }

    /// Blocks of all volumes that are not stable.
    pub fn unstable_blocks(&self) -> usize {
        self.unstable
    }

    /// Most blocks that may be dirty.
    pub fn dirty_blocks_max(&self) -> usize {
        self.dirty.bound()
    }

    /// So many blocks a cache gets at once, at least, when its share does not suffice.
    pub fn portion(&self) -> usize {
        self.blocks.portion()
    }

    /// Is more dirty than the bound allows? Then there is room for nobody.
    pub fn is_in_debt(&self) -> bool {
        self.dirty.is_in_debt()
    }

    /// Is more than half of what may be dirty?
    pub fn is_half_dirty(&self) -> bool {
        self.unstable * 2 > self.dirty.bound()
    }

    /// As [`room`](Self::room), with one cache at hand: what others have and do not use stays with them.
    pub fn room_of_free(&mut self, cache: &mut Cache, of: VolumeId, count: usize) -> bool {
        let wanted = cache.unstable + count;
        let fits = self.dirty.want(of, wanted);
        if fits {
            cache.dirty_blocks_max = self.dirty.held(of);
            self.see_spare(Bound::Dirty, of, cache);
        }
        fits
    }

    /// As [`make_place`](Self::make_place), with one cache at hand: what is free, and else blocks of its own give way. That may
    /// not suffice.
    pub fn make_place_of_free(&mut self, now: Instant, cache: &mut Cache, of: VolumeId, count: usize) {
        if self.blocks.want(of, cache.blocks + count) {
            cache.set_blocks_max(self.blocks.held(of));
            self.see_spare(Bound::Blocks, of, cache);
            return;
        }
        if cache.blocks + count > cache.blocks_max + cache.clean.len() {
            return;
        }
        let mut looks = 2 * cache.clean.len();
        while cache.lacks_place(count) && cache.evict(now, &mut looks) {}
        self.see_spare(Bound::Blocks, of, cache);
    }

    /// How often a block became stable: a sign that something moved.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// May `count` more blocks of a volume become dirty now?
    pub fn room<H: HasCache>(&mut self, all: &mut BTreeMap<VolumeId, H>, of: VolumeId, count: usize) -> bool {
        // A write larger than the whole allowance goes alone.
        self.has_place(all, of, count) || self.dirty.given() == 0
    }

    /// Is there place for `count` more dirty blocks of a volume beside those that are there?
    pub fn has_place<H: HasCache>(
        &mut self,
        all: &mut BTreeMap<VolumeId, H>,
        of: VolumeId,
        count: usize,
    ) -> bool {
        let cache = all.get_mut(&of).expect("a volume with a cache").cache_mut();
        let wanted = cache.unstable + count;
        if wanted <= cache.dirty_blocks_max && !self.dirty.is_in_debt() {
            return true;
        }
        self.give(Bound::Dirty, all, of, wanted)
    }

    /// A cache is about to get `count` more blocks: others give way, or blocks of its own.
    pub fn make_place<H: HasCache>(
        &mut self,
        now: Instant,
        all: &mut BTreeMap<VolumeId, H>,
        of: VolumeId,
        count: usize,
    ) {
        let looks: usize = all.values_mut().map(|each| each.cache_mut().clean.len()).sum();
        let mut looks = 2 * looks;
        loop {
            let wanted = all.get_mut(&of).expect("a volume with a cache").cache_mut().blocks + count;
            if self.give(Bound::Blocks, all, of, wanted) {
                return;
            }
            let worth =
                |(id, each): (&VolumeId, &mut H)| each.cache_mut().clean.next().map(|worth| (worth, *id));
            let victim: Option<(Worth, VolumeId)> = all.iter_mut().filter_map(worth).min();
            let Some((_, victim)) = victim.filter(|_| looks > 0) else { return };
            let cache = all.get_mut(&victim).expect("just found").cache_mut();
            // More than one at once, so that it is not sought for each.
            for _ in 0..self.blocks.portion() {
                let (most, mut left) = (LOOKS.min(looks), LOOKS.min(looks));
                let evicted = cache.evict(now, &mut left);
                looks -= most - left;
                if !evicted {
                    break;
                }
            }
            self.see_spare(Bound::Blocks, victim, cache);
        }
    }

    /// Lets a volume have this much of a bound, if need be of what others do not use. If that does not suffice, nobody has
    /// any more than he uses.
    fn give<H: HasCache>(
        &mut self,
        bound: Bound,
        all: &mut BTreeMap<VolumeId, H>,
        of: VolumeId,
        wanted: usize,
    ) -> bool {
        // At first others keep half of what they do not use: two that grow side by side take it from each other for long.
        for spare in [None, Some(2), Some(1)] {
            if let Some(part) = spare {
                self.take_back(bound, all, part);
            }
            if self.allotter(bound).want(of, wanted) {
                self.set_share(bound, all, of);
                return true;
            }
        }
        false
    }

    /// Takes one `part`th of what each volume has and does not use.
    fn take_back<H: HasCache>(&mut self, bound: Bound, all: &mut BTreeMap<VolumeId, H>, part: usize) {
        for volume in self.spare[bound as usize].iter().copied().collect::<Vec<_>>() {
            let cache = all.get_mut(&volume).expect("only volumes with a cache have a share").cache_mut();
            // What it uses beyond its share is not counted yet, and is none that can be taken.
            let left = bound.share(cache) - bound.unused(cache).div_ceil(part);
            self.allotter(bound).give_back(volume, left);
            bound.set(cache, left);
            self.see_spare(bound, volume, cache);
        }
    }

    /// What a cache has or uses of a bound has changed.
    fn see_spare(&mut self, bound: Bound, volume: VolumeId, cache: &mut Cache) {
        let (at, unused) = (bound as usize, bound.unused(cache) > 0);
        if core::mem::replace(&mut cache.spare[at], unused) == unused {
            return;
        }
        match unused {
            true => self.spare[at].insert(volume),
            false => self.spare[at].remove(&volume),
        };
    }

    fn allotter(&mut self, bound: Bound) -> &mut Allotter {
        match bound {
            Bound::Blocks => &mut self.blocks,
            Bound::Dirty => &mut self.dirty,
        }
    }

    fn set_share<H: HasCache>(&mut self, bound: Bound, all: &mut BTreeMap<VolumeId, H>, of: VolumeId) {
        let share = self.allotter(bound).held(of);
        let cache = all.get_mut(&of).expect("a volume with a cache").cache_mut();
        bound.set(cache, share);
        self.see_spare(bound, of, cache);
    }

    /// After each change of a cache.
    pub fn note<H: HasCache>(&mut self, all: &mut BTreeMap<VolumeId, H>, of: VolumeId) {
        let cache = all.get_mut(&of).expect("a volume with a cache").cache_mut();
        self.count(of, cache);
        self.see_spare(Bound::Blocks, of, cache);
        self.see_spare(Bound::Dirty, of, cache);
        let (blocks, dirty) = (cache.blocks, cache.unstable);
        // What had to come came: of dirty blocks it was with the partner, or goes alone.
        for (bound, has, share) in
            [(Bound::Blocks, blocks, cache.blocks_max), (Bound::Dirty, dirty, cache.dirty_blocks_max)]
        {
            if has > share && !self.give(bound, all, of, has) {
                self.allotter(bound).take(of, has);
                self.set_share(bound, all, of);
            }
        }
    }

    fn count(&mut self, volume: VolumeId, cache: &mut Cache) {
        self.unstable = self.unstable - cache.counted + cache.unstable;
        cache.counted = cache.unstable;
        self.settled += core::mem::take(&mut cache.settled);
        if let Some((when, _)) = cache.turn.filter(|_| cache.served) {
            self.set_turn(volume, cache, Some(when));
        }
        if let Some(&(_, oldest)) = cache.to_destage.front()
            && cache.turn.is_none_or(|(when, _)| oldest < when)
        {
            self.set_turn(volume, cache, Some(oldest));
        }
    }

    /// Gives a volume its turn, behind all others of that age.
    fn set_turn(&mut self, volume: VolumeId, cache: &mut Cache, when: Option<Instant>) {
        self.last_turn += 1;
        let turn = when.map(|when| (when, self.last_turn));
        if let Some(before) = core::mem::replace(&mut cache.turn, turn) {
            self.turns.remove(&(before, volume));
        }
        self.turns.extend(turn.map(|turn| (turn, volume)));
        cache.served = false;
    }

    /// The oldest block of all volumes that waits for write-back and since when.
    pub fn oldest_dirty<H: HasCache>(
        &mut self,
        all: &mut BTreeMap<VolumeId, H>,
    ) -> Option<(VolumeId, u64, Instant)> {
        while let Some(&((turn, _), volume)) = self.turns.first() {
            let cache = all.get_mut(&volume).expect("only volumes with a cache have a turn").cache_mut();
            match cache.oldest_dirty() {
                Some((block, when)) if when <= turn => return Some((volume, block, when)),
                // It may be younger than the oldest of another volume.
                oldest => self.set_turn(volume, cache, oldest.map(|(_, when)| when)),
            }
        }
        None
    }

    /// As [`oldest_dirty`](Self::oldest_dirty), just looking.
    pub fn next_dirty<H: HasCache>(&self, all: &BTreeMap<VolumeId, H>) -> Option<(VolumeId, u64, Instant)> {
        let mut found: Option<(Turn, VolumeId, u64)> = None;
        for &(turn, volume) in &self.turns {
            if found.is_some_and(|(first, ..)| first <= turn) {
                break;
            }
            let Some((block, when)) = all.get(&volume).and_then(|each| each.look(Cache::next_dirty)) else {
                continue;
            };
            // One that is younger than its turn says gets another, behind all of its age.
            let turn = if when <= turn.0 { turn } else { (when, u64::MAX) };
            if found.is_none_or(|(first, ..)| turn < first) {
                found = Some((turn, volume, block));
            }
        }
        found.map(|((when, _), volume, block)| (volume, block, when))
    }
}
