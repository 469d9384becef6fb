//! A full cache: writers are slowed down to the speed of the disks, and none of them for ever.

use crate::NEW;
use crate::pair_support::{A, B, DiskHold, Pair, Setup, said};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::node::config::{CacheConfig, MirrorConfig};
use twinsan::planted::{Bug, Planted};

/// The longest write that a guest may ask for, in blocks: twice what may be dirty.
const LARGE: u64 = 2048;
/// Small writes that are always waiting.
const SMALL_OPEN: usize = 32;

/// A stream of small writes that never ends, all over a range that is larger than what may be dirty.
struct Stream {
    at: NodeName,
    next: u64,
    open: Vec<u64>,
    done: u64,
}

impl Stream {
    fn top_up(&mut self, pair: &mut Pair) {
        for _ in 0..2000 {
            let before = self.open.len();
            self.open.retain(|&write| pair.is_open(write));
            self.done += (before - self.open.len()) as u64;
            if self.open.len() >= SMALL_OPEN {
                return;
            }
            self.open.push(pair.begin_write(self.at, self.next * 257 % 1280 * 2, 1));
            self.next += 1;
        }
    }
}

/// Each disk does eight of the writes that it was given, in ten milliseconds.
fn let_disks_work(pair: &mut Pair) {
    pair.pass_millis(10);
    for node in NodeName::BOTH {
        pair.hold_disk(node, DiskHold::Data);
        (0..8).for_each(|_| pair.disk_does_one(node));
    }
}

/// A large write comes at a node, amid a stream of small ones at node a that has filled the caches. After how many
/// turns of the disks is it acknowledged, and how many small ones were meanwhile? Three hundred is long.
fn a_large_write_amid_small_ones(at: NodeName, alone: bool, bugs: &[Bug]) -> (Option<u64>, u64) {
    let cache = CacheConfig { blocks_max: 4096, dirty_blocks_max: 1024, ..CacheConfig::default() };
    let planted = Planted::these(bugs);
    let mut pair = Pair::set_up(Setup { cache, planted, ..Setup::default() });
    pair.until_paired();
    pair.stop_comparing();
    if alone {
        pair.crash(at.partner());
        pair.until_phase(at, PeerPhase::Alone);
    }
    let mut stream = Stream { at: if alone { at } else { A }, next: 0, open: Vec::new(), done: 0 };
    for _ in 0..4 {
        let_disks_work(&mut pair);
        stream.top_up(&mut pair);
    }
    let large = pair.begin_long_write(at, 10_000, LARGE, 9);
    stream.done = 0;
    for turn in 1..=300 {
        let_disks_work(&mut pair);
        stream.top_up(&mut pair);
        if pair.is_acknowledged(large) {
            return (Some(turn), stream.done);
        }
        assert!(pair.is_open(large), "refused: {:?}", pair.refusal(large));
    }
    (None, stream.done)
}

/// Were room in the cache given to whatever fits, a write that needs much of it would wait for as long as small ones
/// come.
#[test]
fn a_large_write_is_not_starved_by_small_ones() {
    for (at, alone) in [(A, false), (B, false), (A, true)] {
        let (turn, _) = a_large_write_amid_small_ones(at, alone, &[]);
        assert!(turn.is_some_and(|turn| turn <= 200), "at {at}, alone {alone}: {turn:?}");
        let (turn, small) = a_large_write_amid_small_ones(at, alone, &[Bug::SmallWritesPassLarge]);
        assert!(turn.is_none() && small > 300, "at {at}, alone {alone}: {turn:?}, {small} small ones");
    }
}

/// Most blocks that may be dirty in the stories below.
const DIRTY_MAX: u64 = 64;

/// A pair with small caches. Node a's disk takes data when the story lets it, and all is clean.
fn small_caches(write_blocks_in_flight: u64, bugs: &[Bug]) -> Pair {
    let cache = CacheConfig {
        blocks_max: 2 * DIRTY_MAX as usize,
        dirty_blocks_max: DIRTY_MAX as usize,
        ..CacheConfig::default()
    };
    let mirror = MirrorConfig { write_blocks_in_flight, ..MirrorConfig::default() };
    let mut pair = Pair::set_up(Setup { cache, mirror, planted: Planted::these(bugs), ..Setup::default() });
    pair.until_paired();
    pair.hold_disk(A, DiskHold::Data);
    pair
}

/// Sixteen writes come at once, half of them through the partner, and what the owner says of them is late. Then the
/// partner has them all and says so, and the owner's disk does one of its writes after the other. Most blocks that were
/// dirty there at once.
fn most_dirty_at_the_owner(blocks: u64, bugs: &[Bug]) -> u64 {
    let mut pair = small_caches(MirrorConfig::default().write_blocks_in_flight, bugs);
    pair.stop_comparing();
    pair.hold(B, said::write);
    let writes: Vec<u64> = (0..16)
        .map(|n| pair.begin_long_write(NodeName::BOTH[n as usize % 2], n * blocks, blocks, NEW))
        .collect();
    assert!(pair.has_said(A, said::write) > 0, "some are with the partner");
    pair.release(B);
    pair.pass_millis(100);
    for _ in 0..4000 {
        if writes.iter().all(|&write| !pair.is_open(write)) {
            break;
        }
        pair.pass_millis(1);
        pair.disk_does_one(A);
        pair.hold_disk(A, DiskHold::Data);
    }
    assert!(writes.iter().all(|&write| pair.is_acknowledged(write)), "none waits for ever");
    pair.most_dirty(A)
}

/// What is with the partner comes back as dirty blocks, however slow this node's own disk is. Were writes of the pair
/// sent without counting it, the cache would grow by all that the window allows. Only a write that is larger than the
/// allowance may exceed it, and goes alone.
#[test]
fn the_owner_has_room_for_all_that_is_with_the_partner() {
    for blocks in [1, 16, 48, DIRTY_MAX] {
        assert!(most_dirty_at_the_owner(blocks, &[]) <= DIRTY_MAX, "writes of {blocks} blocks");
    }
    assert_eq!(most_dirty_at_the_owner(4 * DIRTY_MAX, &[]), 4 * DIRTY_MAX);
    assert_eq!(most_dirty_at_the_owner(16, &[Bug::SentWithoutRoom]), 4 * DIRTY_MAX, "all of them");
}

/// Two writes of the pair wait while a first one is dirty at the owner. Then the disk has that, one of the two goes to
/// the partner, which is silent, and leaves no window for the other. Is a write of a linear volume acknowledged then?
fn a_linear_write_beside_a_silent_partner(bugs: &[Bug]) -> bool {
    let mut pair = small_caches(DIRTY_MAX, bugs);
    let first = pair.begin_long_write(A, 0, 32, NEW);
    assert!(pair.is_acknowledged(first));
    let waiting = [1024, 2048].map(|block| pair.begin_long_write(A, block, 48, NEW));
    assert_eq!(pair.has_said(A, said::write), 1, "no room");
    pair.hold(A, said::write_done);
    pair.release_disk(A);
    pair.pass_millis(1000);
    assert_eq!(pair.has_said(A, said::write), 2, "no window");
    let linear = pair.begin_linear_write(A, 0, NEW);
    pair.pass_millis(1000);
    let served = pair.is_acknowledged(linear);
    pair.release(A);
    for write in [linear, waiting[0], waiting[1]] {
        if pair.is_open(write) {
            pair.finish(write).expect("written at last");
        }
    }
    served
}

/// Were every write of the pair that comes to the front while nothing is in flight to move to where linear volumes'
/// writes wait, the second would stand there until the partner answers the first.
#[test]
fn a_linear_volume_does_not_wait_for_the_partner() {
    assert!(a_linear_write_beside_a_silent_partner(&[]));
    assert!(!a_linear_write_beside_a_silent_partner(&[Bug::ManyMoveToRoom]), "held up by the partner");
}
