//! The caches against what they promise.

use proptest::prelude::*;

use super::*;
use crate::block::{PagePool, payload_from};
use crate::ids::VolumeId;

const V: VolumeId = VolumeId(1);
const W: VolumeId = VolumeId(2);

/// The caches of a node.
struct Node {
    now: Instant,
    pages: PagePool,
    shares: Shares,
    caches: BTreeMap<VolumeId, Cache>,
}

impl Node {
    fn new(volumes: u32, blocks_max: usize, dirty_blocks_max: usize) -> Node {
        let (mut shares, mut caches) = (Shares::new(blocks_max, dirty_blocks_max), BTreeMap::new());
        for id in (1..=volumes).map(VolumeId) {
            shares.join(id);
            caches.insert(id, Cache::new(0));
        }
        Node { now: Instant::ZERO, pages: PagePool::new(), shares, caches }
    }

    fn cache(&mut self, volume: VolumeId) -> &mut Cache {
        self.caches.get_mut(&volume).unwrap()
    }

    fn data(&self, n: u8) -> Block {
        payload_from(&self.pages, &[n; 4096])[0].clone()
    }

    fn pass(&mut self) {
        self.now += core::time::Duration::from_millis(1);
    }

    fn room(&mut self, volume: VolumeId, count: usize) -> bool {
        self.shares.room(&mut self.caches, volume, count)
    }

    fn make_place(&mut self, volume: VolumeId, count: usize) {
        if self.cache(volume).lacks_place(count) {
            self.shares.make_place(self.now, &mut self.caches, volume, count);
        }
    }

    fn write_run(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, n: u8) -> u64 {
        self.make_place(volume, blocks.clone().count());
        let (now, data) = (self.now, self.data(n));
        let version = self.cache(volume).next_version();
        blocks.for_each(|block| self.cache(volume).write(now, block, data.clone(), version));
        self.shares.note(&mut self.caches, volume);
        version
    }

    fn write(&mut self, volume: VolumeId, block: u64, n: u8) -> u64 {
        self.write_run(volume, block..block + 1, n)
    }

    fn keep(&mut self, volume: VolumeId, block: u64, n: u8) {
        self.make_place(volume, 1);
        let (now, data) = (self.now, self.data(n));
        self.cache(volume).keep(now, block, data);
        self.shares.note(&mut self.caches, volume);
    }

    fn stable(&mut self, volume: VolumeId, block: u64) {
        let now = self.now;
        self.cache(volume).stable(now, block);
        self.shares.note(&mut self.caches, volume);
    }

    fn destage(&mut self, volume: VolumeId, block: u64) {
        self.cache(volume).issue(block);
        self.stable(volume, block);
    }

    fn oldest_dirty(&mut self) -> Option<(VolumeId, u64)> {
        self.shares.oldest_dirty(&mut self.caches).map(|(volume, block, _)| (volume, block))
    }

    /// Writes the oldest block back.
    fn destage_one(&mut self) -> Option<(VolumeId, u64)> {
        let (volume, block) = self.oldest_dirty()?;
        self.cache(volume).pop_dirty();
        self.destage(volume, block);
        Some((volume, block))
    }

    fn blocks(&self) -> usize {
        self.caches.values().map(Cache::blocks).sum()
    }

    fn unstable(&self) -> usize {
        self.caches.values().map(Cache::unstable_blocks).sum()
    }

    /// Is it known of every volume whether it has more than it uses?
    fn spare_is_known(&self) -> bool {
        self.caches.iter().all(|(id, cache)| {
            let unused = [cache.blocks < cache.blocks_max, cache.unstable < cache.dirty_blocks_max];
            unused == cache.spare && [0, 1].map(|bound| self.shares.spare[bound].contains(id)) == unused
        })
    }

    fn kept(&self, volume: VolumeId, mut blocks: core::ops::Range<u64>) -> usize {
        let count = blocks.clone().count();
        count - blocks.by_ref().filter(|&block| self.caches[&volume].peek(block).is_none()).count()
    }
}

#[test]
fn a_write_is_unstable_until_its_flush() {
    let mut node = Node::new(1, 64, 32);
    let first = node.write(V, 7, 1);
    assert_eq!(node.cache(V).stable_through(), first - 1);
    assert_eq!(node.oldest_dirty(), Some((V, 7)));
    node.cache(V).issue(7);
    assert!(node.oldest_dirty().is_none());
    let second = node.write(V, 7, 2);
    node.stable(V, 7);
    assert_eq!(node.cache(V).stable_through(), second - 1);
    assert!(node.cache(V).is_stable(0..10, first));
    assert!(!node.cache(V).is_stable(0..10, second));
    node.destage(V, 7);
    assert_eq!(node.cache(V).stable_through(), second);
    assert_eq!(node.shares.unstable_blocks(), 0);
}

#[test]
fn the_oldest_unstable_write_holds_the_mark_back() {
    let mut node = Node::new(1, 64, 32);
    let first = node.write(V, 1, 1);
    node.write(V, 2, 1);
    node.destage(V, 2);
    assert_eq!(node.cache(V).stable_through(), first - 1);
    let rewritten = node.write(V, 1, 2);
    node.destage(V, 1);
    assert_eq!(node.cache(V).stable_through(), rewritten);
}

#[test]
fn versions_of_one_volume_know_nothing_of_another() {
    let mut node = Node::new(2, 64, 32);
    assert_eq!((node.write(V, 1, 1), node.write(W, 1, 1), node.write(V, 2, 1)), (1, 1, 2));
    node.destage(W, 1);
    assert_eq!((node.cache(V).stable_through(), node.cache(W).stable_through()), (0, 1));
}

#[test]
fn it_never_holds_more_than_configured_and_never_drops_what_is_dirty() {
    let mut node = Node::new(1, 64, 32);
    for block in 0..32 {
        assert!(node.room(V, 1));
        node.write(V, block, block as u8);
    }
    assert!(!node.room(V, 1));
    for block in 100..400 {
        node.keep(V, block, 1);
        assert!(node.blocks() <= 64);
    }
    for block in 0..32 {
        assert_eq!(node.cache(V).peek(block).map(|found| found.bytes()[0]), Some(block as u8));
    }
}

#[test]
fn a_scan_does_not_flush_out_what_is_used_be_it_of_another_volume() {
    for scanned in [V, W] {
        let mut node = Node::new(2, 64, 32);
        for block in 0..40 {
            node.keep(V, block, 1);
        }
        for scan in 0..2000 {
            node.pass();
            for block in 0..40 {
                if scan % 4 == 0 {
                    node.cache(V).get(block);
                }
            }
            node.keep(scanned, 1000 + scan, 2);
        }
        let kept = node.kept(V, 0..40);
        assert!(kept >= 36, "{kept} of 40 kept");
    }
}

#[test]
fn a_pinned_block_stays() {
    let mut node = Node::new(2, 64, 32);
    node.cache(V).pin(5);
    node.keep(V, 5, 5);
    for volume in [V, W] {
        for block in 100..400 {
            node.keep(volume, block, 1);
        }
    }
    assert!(node.cache(V).peek(5).is_some());
    node.cache(V).unpin(5);
}

/// What an idle volume has makes place for what a busy one writes, and for what it reads again and again.
#[test]
fn an_idle_volume_gives_way() {
    for writes in [true, false] {
        let mut node = Node::new(2, 256, 128);
        for block in 0..256 {
            node.keep(V, block, 1);
            node.pass();
        }
        assert_eq!(node.kept(V, 0..256), 256);
        for turn in 0..100 {
            for block in 0..200 {
                node.pass();
                if node.cache(W).get(block % (turn * 2 + 1)).is_some() {
                    continue;
                }
                if writes && node.room(W, 1) {
                    node.write(W, block % (turn * 2 + 1), 2);
                    node.destage_one();
                } else {
                    node.keep(W, block % (turn * 2 + 1), 2);
                }
                assert!(node.blocks() <= 256);
            }
        }
        let (idle, busy) = (node.kept(V, 0..256), node.cache(W).blocks());
        assert!(busy > 150, "busy {busy}, idle {idle}");
    }
}

/// A cache that knows how often it was looked at.
struct Watched {
    cache: Cache,
    looks: std::cell::Cell<usize>,
}

impl HasCache for Watched {
    fn look<R>(&self, look: impl FnOnce(&Cache) -> R) -> R {
        self.looks.set(self.looks.get() + 1);
        look(&self.cache)
    }

    fn cache_mut(&mut self) -> &mut Cache {
        self.looks.set(self.looks.get() + 1);
        &mut self.cache
    }
}

/// A busy volume that has no room asks again with each write: that does not cost a look at all others.
#[test]
fn a_volume_without_room_costs_the_others_nothing() {
    const VOLUMES: u32 = 500;
    let mut shares = Shares::new(8192, 4096);
    let mut all: BTreeMap<VolumeId, Watched> = BTreeMap::new();
    let write = |shares: &mut Shares, all: &mut BTreeMap<VolumeId, Watched>, id, block| {
        let room = shares.room(all, id, 1);
        if room {
            let cache = &mut all.get_mut(&id).unwrap().cache;
            let version = cache.next_version();
            cache.write(Instant::ZERO, block, Block::Zero, version);
            shares.note(all, id);
        }
        room
    };
    for id in (1..=VOLUMES).map(VolumeId) {
        shares.join(id);
        all.insert(id, Watched { cache: Cache::new(0), looks: Default::default() });
        assert!(write(&mut shares, &mut all, id, 0));
    }
    let mut block = 1;
    while write(&mut shares, &mut all, V, block) {
        block += 1;
    }
    let looks = |all: &BTreeMap<VolumeId, Watched>| all.values().map(|each| each.looks.get()).sum::<usize>();
    let before = looks(&all);
    assert!((0..100).all(|_| !write(&mut shares, &mut all, V, block)));
    let looked = looks(&all) - before;
    assert!(looked < 1000, "{looked} looks for 100 questions");
}

/// Of 64 blocks, 16 of them dirty, each of a hundred volumes gets its turn.
#[test]
fn the_smallest_cache_serves_many_volumes() {
    let mut node = Node::new(100, 1, 1);
    for turn in 0..10 {
        for volume in (1..=100).map(VolumeId) {
            for block in 0..2 {
                node.pass();
                while !node.room(volume, 1) {
                    assert!(node.destage_one().is_some(), "nothing to write back, and no room");
                }
                node.write(volume, turn * 2 + block, 1);
                assert!(node.blocks() <= 64 && node.unstable() <= 16);
            }
        }
    }
    while node.destage_one().is_some() {}
    assert_eq!(node.shares.unstable_blocks(), 0);
}

#[test]
fn a_write_larger_than_everything_goes_alone() {
    let mut node = Node::new(3, 64, 16);
    node.write(W, 1, 1);
    assert!(!node.room(V, 100), "not beside another");
    node.destage_one();
    assert!(node.room(V, 100));
    node.write_run(V, 0..100, 1);
    assert!(!node.room(V, 1) && !node.room(W, 1), "while there is a debt there is room for nobody");
    for left in (16..100).rev() {
        assert!(!node.room(W, 1), "{left} left");
        node.destage_one();
    }
    node.destage_one();
    assert!(node.room(W, 1));
    node.keep(W, 7, 1);
    assert!(node.blocks() <= 64, "what is clean gives way again");
}

#[test]
fn what_is_dirty_goes_oldest_first_over_all_volumes() {
    let mut node = Node::new(3, 256, 128);
    let order =
        [(3, 1), (1, 9), (2, 4), (1, 2), (3, 7), (2, 3)].map(|(volume, block)| (VolumeId(volume), block));
    for (volume, block) in order {
        node.pass();
        node.write(volume, block, 1);
    }
    // A block that is put back is the oldest again.
    let (volume, block, when) = node.shares.oldest_dirty(&mut node.caches).unwrap();
    node.cache(volume).pop_dirty();
    assert_eq!(node.oldest_dirty(), Some(order[1]));
    node.cache(volume).push_dirty_front(block, when);
    node.shares.note(&mut node.caches, volume);
    for expected in order {
        let next = node.shares.next_dirty(&node.caches).map(|(volume, block, _)| (volume, block));
        assert_eq!(next, Some(expected));
        assert_eq!(node.destage_one(), Some(expected));
    }
    assert_eq!(node.destage_one(), None);
    assert!(node.shares.next_dirty(&node.caches).is_none());
}

/// Were those of equal age served by their ids, a volume with a low one would always be first.
#[test]
fn volumes_whose_blocks_are_equally_old_take_turns() {
    let mut node = Node::new(3, 256, 128);
    for id in [3, 1, 2] {
        for block in 0..4 {
            node.write(VolumeId(id), block, 1);
        }
    }
    for block in 0..4 {
        for id in [3, 1, 2] {
            let next = node.shares.next_dirty(&node.caches).map(|(volume, block, _)| (volume, block));
            assert_eq!(next, Some((VolumeId(id), block)));
            assert_eq!(node.destage_one(), next);
        }
    }
    assert_eq!(node.destage_one(), None);
}

#[test]
fn a_deleted_volume_leaves_nothing_but_what_is_pinned_or_on_its_way() {
    let mut node = Node::new(2, 64, 32);
    node.write_run(V, 0..20, 1);
    node.cache(V).issue(3);
    node.cache(V).pin(4);
    assert!(!node.cache(V).forget());
    node.shares.note(&mut node.caches, V);
    assert_eq!((node.blocks(), node.shares.unstable_blocks()), (2, 2));
    node.stable(V, 3);
    node.cache(V).unpin(4);
    assert!(node.cache(V).forget());
    node.shares.note(&mut node.caches, V);
    let gone = node.caches.remove(&V).unwrap();
    node.shares.leave(V, &gone);
    assert!(node.oldest_dirty().is_none() && node.room(W, 32));
}

#[test]
fn places_that_one_volume_no_longer_needs_are_given_back() {
    let mut node = Node::new(2, 8192, 4096);
    (0..8192).for_each(|block| node.keep(V, block, 1));
    for block in 0..8 {
        node.cache(V).get(block);
    }
    node.write_run(W, 0..4000, 2);
    node.write_run(W, 4000..8000, 2);
    assert!(node.cache(V).entries.len() < 4096, "{} places", node.cache(V).entries.len());
    assert_eq!(node.kept(V, 0..8), 8, "what was used again stays");
    let held: Vec<u64> = node.cache(V).held_in(0..9000).map(|(block, _)| block).collect();
    assert_eq!(held.len(), node.cache(V).blocks());
    (0..8192).for_each(|block| node.keep(V, block, 3));
    assert!(node.blocks() <= 8192);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32, u64, u64),
    Keep(u32, u64),
    Use(u32, u64),
    Destage(u8),
    /// What was with the partner comes, room or no room.
    Force(u32, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (volume, block) = (1u32..6, 0u64..120);
    prop_oneof![
        6 => (volume.clone(), block.clone(), 1u64..20).prop_map(|(v, b, n)| Step::Write(v, b, n)),
        6 => (volume.clone(), block.clone()).prop_map(|(v, b)| Step::Keep(v, b)),
        3 => (volume.clone(), block.clone()).prop_map(|(v, b)| Step::Use(v, b)),
        4 => (1u8..20).prop_map(Step::Destage),
        1 => (volume, block, 1u64..9).prop_map(|(v, b, n)| Step::Force(v, b, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever several volumes do: what is written with room stays within the bounds, but for what came without; nothing
    /// dirty is lost; and the counts over all are those of the caches.
    #[test]
    fn the_bounds_hold_over_all_volumes(steps in proptest::collection::vec(step(), 0..300)) {
        let mut node = Node::new(5, 96, 40);
        let mut dirty: BTreeMap<(VolumeId, u64), u8> = BTreeMap::new();
        let (mut forced, mut value) = (0, 0u8);
        for step in steps {
            node.pass();
            value = value.wrapping_add(1);
            match step {
                Step::Write(volume, first, count) => {
                    let volume = VolumeId(volume);
                    let fits = node.unstable() + count as usize <= 40 - 5;
                    let room = node.room(volume, count as usize);
                    prop_assert!(room || !fits, "all but what is kept for others is to be had");
                    prop_assert!(!room || node.unstable() + count as usize <= 40 || node.unstable() == 0);
                    if room {
                        node.write_run(volume, first..first + count, value);
                        dirty.extend((first..first + count).map(|block| ((volume, block), value)));
                    }
                }
                Step::Force(volume, first, count) if forced == 0 => {
                    let volume = VolumeId(volume);
                    forced = count as usize;
                    node.write_run(volume, first..first + count, value);
                    dirty.extend((first..first + count).map(|block| ((volume, block), value)));
                }
                Step::Force(..) => {}
                Step::Keep(volume, block) => node.keep(VolumeId(volume), block, 0),
                Step::Use(volume, block) => {
                    node.cache(VolumeId(volume)).get(block);
                }
                Step::Destage(count) => {
                    for _ in 0..count {
                        node.destage_one().map(|key| dirty.remove(&key));
                    }
                    if node.unstable() <= 40 {
                        forced = 0;
                    }
                }
            }
            prop_assert!(node.blocks() <= 96 && node.unstable() <= 40 + forced);
            prop_assert_eq!(node.shares.unstable_blocks(), node.unstable());
            prop_assert_eq!(dirty.len(), node.unstable());
            prop_assert!(node.spare_is_known());
            for ((volume, block), value) in &dirty {
                let found = node.caches[volume].peek(*block).map(|found| found.bytes()[0]);
                prop_assert_eq!(found, Some(*value));
            }
        }
    }
}

/// A volume has more dirty than its share, and that is not counted yet, when others take back what it does not use: nothing.
/// It is a debt when it is counted, and there is room for nobody.
#[test]
fn what_is_not_counted_yet_is_a_debt_later() {
    let mut node = Node::new(2, 1024, 256);
    assert!(node.room(V, 100));
    node.write_run(V, 0..20, 1);
    let (now, data) = (node.now, node.data(2));
    let version = node.cache(V).next_version();
    (20..140).for_each(|block| node.cache(V).write(now, block, data.clone(), version));
    assert!(!node.room(W, 200) && node.room(W, 150), "as far as is known");
    node.write_run(W, 0..150, 3);
    let Node { shares, caches, .. } = &mut node;
    shares.note(caches, V);
    assert!(node.unstable() == 290 && node.shares.is_in_debt());
    assert!(!node.room(V, 1) && !node.room(W, 1));
}
