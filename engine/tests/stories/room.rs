//! A full cache: writers are slowed down to the speed of the disks, and none of them for ever.

use crate::pair_support::{A, B, DiskHold, Pair, Setup};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::node::config::CacheConfig;
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
