//! The cache against what it promises.

use super::*;
use crate::block::{PagePool, payload_from};

const V: VolumeId = VolumeId(1);
const NOW: Instant = Instant::ZERO;

fn data(n: u8) -> Block {
    payload_from(&PagePool::new(), &[n; 4096])[0].clone()
}

fn write(cache: &mut Cache, block: u64, n: u8) -> u64 {
    let version = cache.next_version();
    cache.write(NOW, V, block, data(n), version);
    version
}

#[test]
fn a_write_is_unstable_until_its_flush() {
    let mut cache = Cache::new(64, 32);
    let first = write(&mut cache, 7, 1);
    assert_eq!(cache.stable_through(V), first - 1);
    assert_eq!(cache.oldest_dirty().map(|found| found.1), Some(7));
    cache.issue(V, 7);
    assert!(cache.oldest_dirty().is_none());
    let second = write(&mut cache, 7, 2);
    cache.stable(NOW, V, 7);
    assert_eq!(cache.stable_through(V), second - 1);
    assert!(cache.is_stable(V, 0..10, first));
    assert!(!cache.is_stable(V, 0..10, second));
    cache.issue(V, 7);
    cache.stable(NOW, V, 7);
    assert_eq!(cache.stable_through(V), second);
    assert_eq!(cache.unstable_blocks(), 0);
}

#[test]
fn the_oldest_unstable_write_holds_the_mark_back() {
    let mut cache = Cache::new(64, 32);
    let first = write(&mut cache, 1, 1);
    write(&mut cache, 2, 1);
    cache.issue(V, 2);
    cache.stable(NOW, V, 2);
    assert_eq!(cache.stable_through(V), first - 1);
    let rewritten = write(&mut cache, 1, 2);
    cache.issue(V, 1);
    cache.stable(NOW, V, 1);
    assert_eq!(cache.stable_through(V), rewritten);
}

#[test]
fn it_never_holds_more_than_configured_and_never_drops_what_is_dirty() {
    let mut cache = Cache::new(64, 32);
    for block in 0..32 {
        assert!(cache.room(1));
        write(&mut cache, block, block as u8);
    }
    assert!(!cache.room(1));
    for block in 100..400 {
        cache.keep(V, block, data(1));
        assert!(cache.blocks() <= 64);
    }
    for block in 0..32 {
        assert_eq!(cache.peek(V, block).map(|found| found.bytes()[0]), Some(block as u8));
    }
}

#[test]
fn a_scan_does_not_flush_out_what_is_used() {
    let mut cache = Cache::new(64, 32);
    for block in 0..40 {
        cache.keep(V, block, data(1));
    }
    for scan in 0..2000 {
        for block in 0..40 {
            if scan % 4 == 0 {
                cache.get(V, block);
            }
        }
        cache.keep(V, 1000 + scan, data(2));
    }
    let kept = (0..40).filter(|&block| cache.peek(V, block).is_some()).count();
    assert!(kept >= 36, "{kept} of 40 kept");
}

#[test]
fn a_pinned_block_stays() {
    let mut cache = Cache::new(64, 32);
    cache.pin(V, 5);
    cache.keep(V, 5, data(5));
    for block in 100..400 {
        cache.keep(V, block, data(1));
    }
    assert!(cache.peek(V, 5).is_some());
    cache.unpin(V, 5);
}
