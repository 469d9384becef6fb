//! What a resync copies: the newest content of a region, and of what a new half lacks no more than there is.

use crate::pair_support::{A, B, DiskHold, Pair, REGION_BLOCKS, Setup, said};
use crate::{NEW, UNMARKED};
use twinsan::block::BLOCK_BYTES;
use twinsan::mirror::message::PeerPhase;
use twinsan::node::config::{CacheConfig, MirrorConfig};
use twinsan::planted::{Bug, Planted};

/// The source has forgotten what it had in memory. To copy a region it reads one block from its disk, slowly, and knows
/// at once that the block beside it is zero. A guest writes that one meanwhile. What was broken.
fn a_guest_writes_while_the_region_is_read(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 1, 7).expect("written alone");
    pair.crash(B);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    pair.start(A);
    pair.hold_disk(B, DiskHold::Reads);
    pair.heal();
    pair.until_phase(A, PeerPhase::Target);
    pair.pass_millis(100);
    let write = pair.begin_write(B, 0, NEW);
    assert_eq!(
        pair.has_said(B, said::copy),
        0,
        "the disk has not answered, and the pass will come to the write"
    );
    pair.release_disk(B);
    pair.until("the copy is sent", |pair| pair.has_said(B, said::copy) > 0);
    pair.finish(write).expect("written alone");
    pair.until_paired();
    if bugs.is_empty() {
        pair.until_whole();
        assert_eq!([pair.read(A, 0), pair.read(A, 1)], [NEW, 7]);
    }
    pair.broken()
}

/// Were what the region held when the read began taken for what it holds, the copy would undo the newer write, and its
/// confirmation would clear the mark.
#[test]
fn a_copy_holds_what_was_written_while_it_was_read() {
    assert_eq!(a_guest_writes_while_the_region_is_read(&[]), "");
    assert!(a_guest_writes_while_the_region_is_read(&[Bug::ResyncOverwritesNewer]).contains(UNMARKED));
}

/// A few regions of a large volume have data, and nothing is hot, when a node comes back with a blank disk. Blocks that
/// have data, blocks that the copies name, and bytes that they carry.
fn the_first_copy_to_a_new_half(bugs: &[Bug]) -> (u64, u64, u64) {
    let firsts = [0, 312 * REGION_BLOCKS, 1250 * REGION_BLOCKS];
    let mut pair = Pair::with(bugs);
    for first in firsts {
        let id = pair.begin_long_write(A, first, REGION_BLOCKS, 3);
        pair.finish(id).expect("written");
    }
    pair.until("all is cold", |pair| pair.half(A).hot.is_empty() && pair.half(B).hot.is_empty());
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.replace_disk(A);
    // A blank half has no marks: what it lacks is known by that.
    pair.stop_comparing();
    pair.restart(A);
    pair.until_whole();
    (firsts.len() as u64 * REGION_BLOCKS, pair.blocks_named(B), pair.bytes_copied(B)[0])
}

/// Were regions marked in which nothing is, the first copy to a new half of a thin volume would take as long as that of
/// a full one.
#[test]
fn a_new_half_gets_what_is_mapped_and_no_more() {
    let (mapped, named, bytes) = the_first_copy_to_a_new_half(&[]);
    assert_eq!(bytes, mapped * BLOCK_BYTES as u64, "all that has data");
    assert!(named <= mapped, "copies of {named} blocks, and {mapped} have data");
    let (_, named, _) = the_first_copy_to_a_new_half(&[Bug::NewHalfGetsAll]);
    assert!(named > 100 * mapped, "{named}");
}

/// The source's cache is full of what a linear volume reads again and again, and the marked regions are on its disk. Are
/// they all at the target in the end?
#[test]
fn a_region_is_copied_though_the_cache_has_no_place_for_it() {
    let cache = CacheConfig { blocks_max: 64, dirty_blocks_max: 32, ..CacheConfig::default() };
    let mut pair = Pair::set_up(Setup { cache, ..Setup::default() });
    pair.until_paired();
    for block in 0..64 {
        let write = pair.begin_linear_write(B, block, 7);
        pair.finish(write).expect("written");
    }
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    for region in 0..8 {
        let write = pair.begin_long_write(B, region * REGION_BLOCKS, REGION_BLOCKS, NEW);
        pair.finish(write).expect("written alone");
    }
    pair.crash(B);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    for block in (0..3).flat_map(|_| 0..64) {
        assert_eq!(pair.read_linear(B, block), 7);
    }
    pair.restart(A);
    pair.until_whole();
    assert!((0..8).all(|region| pair.read(A, (region + 1) * REGION_BLOCKS - 1) == NEW));
}

/// A block of a region cannot be read, which is tried again later. A guest overwrites it while the target is slow, so the
/// region is copied at once; and once more while the copy is on its way. What was broken.
fn an_unreadable_region_is_overwritten(bugs: &[Bug]) -> String {
    let mirror = MirrorConfig { resync_blocks_in_flight: REGION_BLOCKS, ..MirrorConfig::default() };
    let mut pair = Pair::set_up(Setup { mirror, planted: Planted::these(bugs), ..Setup::default() });
    pair.until_paired();
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 0, 7).expect("written alone");
    pair.crash(B);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    pair.rot(B, 0);
    pair.hold(A, said::copy);
    pair.restart(A);
    pair.until_phase(A, PeerPhase::Target);
    assert_eq!(pair.has_said(B, said::copy), 0, "the region cannot be read");
    let flood = pair.begin_long_write(B, 1000, 3 * REGION_BLOCKS, 8);
    let first = pair.begin_write(B, 0, 9);
    let sent = pair.has_said(B, said::copy);
    pair.hold(B, said::copy_stable);
    pair.release(A);
    while pair.has_said(B, said::copy) == sent {
        pair.until("the target confirms", |pair| pair.under_way(B) > 0);
        pair.deliver(B);
    }
    let second = pair.begin_write(B, 0, NEW);
    pair.release(B);
    pair.pass_millis(10);
    let broken = pair.broken();
    for write in [flood, first, second] {
        pair.finish(write).expect("written alone");
    }
    pair.until_paired();
    if bugs.is_empty() {
        pair.until_whole();
    }
    broken
}

/// Were the region taken up once more when its time comes, a write to it would not go to the target behind the copy, and
/// the confirmation of that would clear the mark of both.
#[test]
fn a_region_is_to_be_copied_in_one_way_only() {
    assert_eq!(an_unreadable_region_is_overwritten(&[]), "");
    assert!(an_unreadable_region_is_overwritten(&[Bug::UnreadableCopiedTwice]).contains(UNMARKED));
}
