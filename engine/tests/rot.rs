//! Rot on one disk, on both, and where there is no partner to ask.

mod pair_support;

use pair_support::{A, B, Pair, VOLUME};
use twinsan::arbiter::Arbitration;
use twinsan::block::{BLOCK_BYTES, PagePool, payload_from};
use twinsan::guest::{Command, GuestError, GuestResult, Sectors};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::node::mend::MendCounters;
use twinsan::node::scrub::ScrubReport;
use twinsan::time::Duration;

/// A pair with blocks 0 to 9 written, cold on disk on both nodes, in no cache.
fn cold_pair() -> Pair {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    for block in 0..10 {
        pair.write(A, block, block as u8 + 1).expect("written");
    }
    pair.flush(A).expect("flushed");
    chill(&mut pair, A);
    chill(&mut pair, B);
    // Rot is not what the nodes wrote: the halves differ then.
    pair.stop_comparing();
    pair
}

/// Nothing of the node is hot, no checksum unsure; then it drops what is in its cache.
fn chill(pair: &mut Pair, node: NodeName) {
    pair.pass(Duration::from_secs(30));
    pair.crash(node);
    pair.restart(node);
    pair.until_paired();
    pair.pass(Duration::from_secs(1));
}

fn mends(pair: &Pair, node: NodeName) -> MendCounters {
    pair.view(node).expect("it runs").mends
}

fn report(pair: &Pair, node: NodeName) -> ScrubReport {
    pair.view(node).expect("it runs").scrub
}

fn read_many(pair: &mut Pair, node: NodeName, first: u64, count: u64) -> Result<Vec<u8>, GuestError> {
    let id = pair.ask(node, Command::Read { at: Sectors::new(first * 8, count * 8) });
    pair.finish(id).map(|data| data.iter().map(|block| block.bytes()[7]).collect())
}

fn write_part(pair: &mut Pair, node: NodeName, block: u64, fill: u8) -> GuestResult {
    let id = pair.begin_sector_write(node, Sectors::new(block * 8, 3), fill);
    pair.finish(id)
}

fn bytes_of(pair: &mut Pair, node: NodeName, block: u64) -> Vec<u8> {
    let id = pair.ask(node, Command::Read { at: Sectors::new(block * 8, 8) });
    pair.finish(id).expect("reads")[0].bytes().to_vec()
}

#[test]
fn a_rotten_block_comes_from_the_partner_and_is_put_right() {
    for victim in NodeName::BOTH {
        let mut pair = cold_pair();
        pair.rot(victim, 4);
        assert_eq!(read_many(&mut pair, victim, 2, 5), Ok(vec![3, 4, 5, 6, 7]));
        assert_eq!(mends(&pair, victim), MendCounters { damaged: 1, repaired: 1, lost: 0 });
        chill(&mut pair, victim);
        assert_eq!(pair.on_disk(victim, 4), 5);
        assert_eq!(read_many(&mut pair, victim, 4, 1), Ok(vec![5]));
        assert_eq!(mends(&pair, victim).damaged, 0);
    }
}

#[test]
fn a_block_is_lost_only_if_both_copies_are() {
    let mut pair = cold_pair();
    for (victim, block) in [(A, 3), (B, 4), (A, 6), (B, 6)] {
        pair.rot(victim, block);
    }
    assert_eq!(read_many(&mut pair, A, 6, 1), Err(GuestError::Medium));
    assert_eq!(read_many(&mut pair, B, 5, 3), Err(GuestError::Medium));
    // Each has one of these damaged, and not the same.
    assert_eq!(read_many(&mut pair, A, 3, 2), Ok(vec![4, 5]));
    assert_eq!(read_many(&mut pair, B, 3, 3), Ok(vec![4, 5, 6]));
    pair.write(B, 6, 0x66).expect("written as a whole");
    assert_eq!((pair.read(A, 6), pair.read(B, 6)), (0x66, 0x66));
}

#[test]
fn a_part_written_over_a_rotten_block_does_not_launder_it() {
    // Node a orders the writes; node b forwards them.
    for (victim, path) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut pair = cold_pair();
        pair.rot(victim, 4);
        write_part(&mut pair, path, 4, 0x99).expect("written");
        for n in NodeName::BOTH {
            let bytes = bytes_of(&mut pair, n, 4);
            assert!(bytes[..1536].iter().all(|byte| *byte == 0x99) && bytes[1536..].iter().all(|b| *b == 5));
        }
    }
    let mut pair = cold_pair();
    pair.rot(A, 4);
    pair.rot(B, 4);
    assert!(matches!(write_part(&mut pair, A, 4, 0x99), Err(GuestError::Medium)));
    assert!(matches!(write_part(&mut pair, B, 4, 0x99), Err(GuestError::Medium)));
    // A long write that covers the bad block as a whole, and others in part, needs it not.
    let data = payload_from(&PagePool::new(), &[0x77; 3 * BLOCK_BYTES]);
    let id = pair.ask(A, Command::Write { at: Sectors::new(3 * 8 + 1, 2 * 8), data, fua: true });
    pair.finish(id).expect("written");
    assert_eq!(read_many(&mut pair, B, 4, 1), Ok(vec![0x77]));
}

/// One that compares needs all of the blocks that it names, and finds them where a read does.
#[test]
fn a_comparison_with_a_rotten_block_asks_the_partner() {
    for (victim, path) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut pair = cold_pair();
        pair.rot(victim, 4);
        let wrong = pair.begin_compare(path, Sectors::new(4 * 8, 8), 6, 0x99);
        assert!(matches!(pair.finish(wrong), Err(GuestError::Miscompare { offset: 0 })));
        let right = pair.begin_compare(path, Sectors::new(4 * 8, 8), 5, 0x99);
        pair.finish(right).expect("written");
        assert_eq!((pair.read(A, 4), pair.read(B, 4)), (0x99, 0x99));
    }
    let mut pair = cold_pair();
    pair.rot(A, 4);
    pair.rot(B, 4);
    for node in NodeName::BOTH {
        let lost = pair.begin_compare(node, Sectors::new(4 * 8, 8), 5, 0x99);
        assert!(matches!(pair.finish(lost), Err(GuestError::Medium)));
        let beside = pair.begin_compare(node, Sectors::new(5 * 8, 8), 6, 6);
        pair.finish(beside).expect("the block beside it is whole");
    }
}

#[test]
fn alone_a_rotten_block_is_a_medium_error_until_it_is_overwritten() {
    let mut pair = cold_pair();
    pair.crash(B);
    pair.pass(Duration::from_secs(10));
    pair.rot(A, 4);
    for _ in 0..3 {
        assert_eq!(read_many(&mut pair, A, 3, 3), Err(GuestError::Medium));
    }
    assert_eq!((read_many(&mut pair, A, 3, 1), read_many(&mut pair, A, 5, 1)), (Ok(vec![4]), Ok(vec![6])));
    assert!(matches!(write_part(&mut pair, A, 4, 1), Err(GuestError::Medium)));
    assert_eq!(read_many(&mut pair, A, 4, 1), Err(GuestError::Medium));
    pair.write(A, 4, 0x44).expect("written as a whole");
    assert_eq!(read_many(&mut pair, A, 3, 3), Ok(vec![4, 0x44, 6]));
}

#[test]
fn a_resync_does_not_copy_rot() {
    let mut pair = cold_pair();
    pair.crash(B);
    pair.pass(Duration::from_secs(10));
    pair.rot(A, 4);
    pair.write(A, 9, 0x90).expect("the region of block 4 is logged");
    pair.restart(B);
    pair.pass(Duration::from_secs(10));
    assert_eq!(pair.phases(), [Some(PeerPhase::Alone), Some(PeerPhase::Target)]);
    assert_eq!(pair.on_disk(B, 4), 5, "what was there is not overwritten by rot");
    pair.write(A, 4, 0x44).expect("written as a whole");
    pair.until_paired();
    assert_eq!((pair.read(A, 4), pair.read(B, 4), pair.read(B, 9)), (0x44, 0x44, 0x90));
}

#[test]
fn a_scrub_finds_what_nobody_reads_and_puts_it_right() {
    let mut pair = cold_pair();
    for (victim, block) in [(A, 2), (A, 7), (B, 3)] {
        pair.rot(victim, block);
    }
    pair.scrub(A, true);
    pair.pass(Duration::from_secs(2));
    let found = report(&pair, A);
    assert_eq!((found.running, found.finished, found.repaired, found.unrepaired), (false, 1, 2, 0));
    assert_eq!((found.bytes_total, found.bytes_done), (1 << 20, 1 << 20));
    pair.scrub(B, true);
    pair.pass(Duration::from_secs(2));
    assert_eq!(report(&pair, B).repaired, 1);
    for n in NodeName::BOTH {
        chill(&mut pair, n);
        assert_eq!([2, 3, 7].map(|block| pair.on_disk(n, block)), [3, 4, 8]);
    }
}

#[test]
fn a_scrub_alone_names_what_cannot_be_put_right_and_keeps_its_pace() {
    let mut pair = cold_pair();
    pair.crash(B);
    pair.pass(Duration::from_secs(10));
    pair.rot(A, 4);
    pair.rot(A, 9);
    pair.scrub(A, true);
    // A MiB at 64 MiB/s takes 16 ms.
    pair.pass(Duration::from_millis(5));
    let half = report(&pair, A);
    assert!(half.running && half.bytes_done < half.bytes_total, "{half:?}");
    pair.scrub(A, false);
    pair.pass(Duration::from_secs(1));
    assert_eq!((report(&pair, A).running, report(&pair, A).finished), (false, 0));
    pair.scrub(A, true);
    pair.pass(Duration::from_secs(1));
    let found = report(&pair, A);
    assert_eq!((found.finished, found.repaired, found.unrepaired), (1, 0, 2));
    assert_eq!(found.unrepaired_blocks, [(VOLUME, 4), (VOLUME, 9)]);
    pair.write(A, 4, 0x44).expect("written as a whole");
    pair.flush(A).expect("flushed");
    pair.scrub(A, true);
    pair.pass(Duration::from_secs(1));
    assert_eq!(report(&pair, A).unrepaired_blocks, [(VOLUME, 9)]);
}

#[test]
fn a_clean_stop_leaves_nothing_in_doubt_and_a_crash_little() {
    for clean in [true, false] {
        let mut pair = Pair::new(Arbitration::Register);
        pair.until_paired();
        // The first time into a new extent, whose checksums are never unsure.
        for fill in [7, 8] {
            for block in 0..40 {
                pair.write(A, block * 3, fill).expect("written");
            }
            pair.flush(A).expect("flushed");
        }
        if clean {
            pair.stop(A);
            pair.until_phase(A, PeerPhase::Stopped);
        }
        pair.crash(A);
        pair.start(A);
        let doubt = pair.view(A).expect("it is open").sum_lines_in_doubt;
        assert_eq!(doubt > 0, !clean, "{doubt} lines");
    }
}
