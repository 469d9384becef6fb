//! Writes that look at what is there first: nothing comes between, and none is made again after it had an effect.

use crate::pair_support::{A, B, DiskHold, Pair, said};
use crate::{NEW, OLD};
use twinsan::block::{BLOCK_BYTES, PagePool, payload_from};
use twinsan::guest::{Command, GuestError, Sectors};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Block 0.
const BLOCK: Sectors = Sectors::new(0, 8);
const AT_ONCE: Option<GuestError> = Some(GuestError::Miscompare { offset: 0 });

fn both(pair: &mut Pair) -> [u8; 2] {
    [pair.read(A, 0), pair.read(B, 0)]
}

#[test]
fn it_is_written_if_it_is_as_expected_on_either_path() {
    for node in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        let first = pair.begin_compare(node, BLOCK, 0, 5);
        assert!(pair.is_acknowledged(first), "blocks that were never written are zeros");
        assert_eq!(both(&mut pair), [5; 2]);
        let other = pair.begin_compare(node, BLOCK, 0, 6);
        assert_eq!(pair.refusal(other), AT_ONCE);
        assert_eq!(both(&mut pair), [5; 2]);
        // Zeros, written and expected, are no blocks of their own.
        let cleared = pair.begin_compare(node, BLOCK, 5, 0);
        assert!(pair.is_acknowledged(cleared));
        let again = pair.begin_compare(node, BLOCK, 0, 7);
        assert!(pair.is_acknowledged(again));
        assert_eq!(both(&mut pair), [7; 2]);
    }
}

/// Only the sectors count, and where the first of their bytes differs is told.
#[test]
fn sectors_of_two_blocks_are_compared_and_written_as_one() {
    for node in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, 1).expect("written");
        pair.write(A, 1, 1).expect("written");
        let across = Sectors::new(5, 6);
        let done = pair.begin_compare(node, across, 1, 2);
        assert!(pair.is_acknowledged(done));
        for reader in NodeName::BOTH {
            let id = pair.ask(reader, Command::Read { at: Sectors::new(0, 16) });
            let data = pair.finish(id).expect("reads");
            let bytes: Vec<u8> = data.iter().flat_map(|block| block.bytes().to_vec()).collect();
            let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[511]).collect();
            assert_eq!(sectors, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1]);
        }
        let shifted = pair.begin_compare(node, Sectors::new(8, 6), 2, 9);
        assert_eq!(pair.refusal(shifted), Some(GuestError::Miscompare { offset: 3 * 512 }));
        let behind = pair.begin_compare(node, Sectors::new(4, 4), 2, 9);
        assert_eq!(pair.refusal(behind), AT_ONCE);
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_compared() {
    let mut pair = Pair::with(&[]);
    for node in NodeName::BOTH {
        let long = pair.begin_compare(node, Sectors::new(0, 9), 0, 1);
        assert_eq!(pair.refusal(long), Some(GuestError::Invalid));
        let beyond = pair.begin_compare(node, Sectors::new(199_999, 2), 0, 1);
        assert_eq!(pair.refusal(beyond), Some(GuestError::OutOfRange));
        let none = pair.begin_compare(node, Sectors::new(8, 0), 0, 1);
        assert!(pair.is_acknowledged(none));
        let two = |n| payload_from(&PagePool::new(), &vec![0; n * BLOCK_BYTES]);
        let askew = Command::CompareAndWrite { at: BLOCK, compare: two(2), data: two(1), fua: false };
        let askew = pair.ask(node, askew);
        assert_eq!(pair.refusal(askew), Some(GuestError::Invalid));
    }
    assert_eq!(both(&mut pair), [OLD; 2]);
}

#[test]
fn a_linear_volume_compares_too() {
    let mut pair = Pair::with(&[]);
    let command = pair.compare_of(BLOCK, 0, 3);
    let first = pair.ask_linear(A, command.clone());
    let second = pair.ask_linear(A, command);
    assert!(pair.is_acknowledged(first));
    assert_eq!(pair.refusal(second), AT_ONCE);
    assert_eq!(pair.read_linear(A, 0), 3);
}

/// A write of the owner is on its way when somebody compares with what was there before. Is that taken for equal?
fn compares_behind_a_write(node: NodeName, bugs: &[Bug]) -> bool {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    let compare = pair.begin_compare(node, BLOCK, OLD, 9);
    assert!(pair.is_open(compare), "behind the write");
    pair.release(B);
    assert!(pair.is_acknowledged(write));
    let done = pair.is_acknowledged(compare);
    assert_eq!(both(&mut pair), [if done { 9 } else { NEW }; 2]);
    assert_eq!(pair.refusal(compare), if done { None } else { AT_ONCE });
    done
}

/// Were it compared before its turn, an acknowledged write would be overwritten by one whose guest has never seen it.
#[test]
fn nothing_comes_between_what_is_compared_and_what_is_written() {
    for node in NodeName::BOTH {
        assert!(!compares_behind_a_write(node, &[]));
        assert!(compares_behind_a_write(node, &[Bug::ComparedUnlocked]), "a write is lost");
    }
}

#[test]
fn of_two_that_expect_the_same_one_is_done() {
    for order in [[A, B], [B, A], [A, A], [B, B]] {
        let mut pair = Pair::with(&[]);
        pair.hold(B, said::write);
        let first = pair.begin_compare(order[0], BLOCK, OLD, 3);
        let second = pair.begin_compare(order[1], BLOCK, OLD, 4);
        pair.release(B);
        assert!(pair.is_acknowledged(first));
        assert_eq!(pair.refusal(second), AT_ONCE);
        assert_eq!(both(&mut pair), [3; 2]);
    }
}

/// A forwarded comparison has its place when the link is lost for a moment; the partner, which has not heard of it, sends
/// it again. What its guest is told.
fn is_sent_twice(bugs: &[Bug]) -> Option<GuestError> {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let compare = pair.begin_compare(B, BLOCK, OLD, NEW);
    assert_eq!(pair.has_said(A, said::write), 1, "it has its place");
    pair.cut();
    pair.release(B);
    pair.heal();
    pair.pass_millis(100);
    assert_eq!(pair.has_said(B, said::forward), 2);
    assert_eq!(both(&mut pair), [NEW; 2]);
    assert!(!pair.is_open(compare));
    pair.refusal(compare)
}

/// Were it begun anew it would be compared with its own result.
#[test]
fn one_that_is_sent_again_is_not_compared_with_its_own_result() {
    assert_eq!(is_sent_twice(&[]), None);
    assert_eq!(is_sent_twice(&[Bug::ForwardAppliedTwice]), AT_ONCE);
}

/// The partner has it in its cache and the owner has not heard so when the link is lost for a moment.
#[test]
fn one_that_was_done_is_not_made_again_when_the_link_comes_back() {
    for node in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.hold(A, said::write_done);
        let compare = pair.begin_compare(node, BLOCK, OLD, NEW);
        pair.cut();
        pair.release(A);
        pair.heal();
        pair.pass_millis(100);
        assert!(pair.is_acknowledged(compare));
        assert_eq!(both(&mut pair), [NEW; 2]);
    }
}

/// One without a place dies with the link, and is compared anew with what is there then.
#[test]
fn one_that_was_not_ordered_is_compared_anew() {
    let mut pair = Pair::with(&[]);
    pair.hold_disk(A, DiskHold::Flushes);
    let compare = pair.begin_compare(B, BLOCK, OLD, NEW);
    assert_eq!((pair.has_said(B, said::forward), pair.has_said(A, said::write)), (1, 0));
    pair.cut();
    pair.release_disk(A);
    pair.heal();
    pair.pass_millis(100);
    assert!(pair.is_acknowledged(compare));
    assert_eq!((pair.has_said(B, said::forward), pair.has_said(A, said::write)), (2, 1));
    assert_eq!(both(&mut pair), [NEW; 2]);
}

/// That it failed is lost with the link: it is told again, or compared again, and fails again.
#[test]
fn a_mismatch_that_was_not_heard_is_found_again() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, 3).expect("written");
    pair.hold(B, said::forward_refused);
    let compare = pair.begin_compare(B, BLOCK, OLD, NEW);
    assert!(pair.is_open(compare));
    pair.cut();
    pair.release(B);
    pair.heal();
    pair.pass_millis(100);
    assert_eq!(pair.refusal(compare), AT_ONCE);
    assert_eq!(both(&mut pair), [3; 2]);
}

/// The owner dies while a comparison of the partner's guest is in the midst, before or after the partner has it.
#[test]
fn the_partner_ends_its_own_when_the_owner_dies() {
    for has_it in [false, true] {
        let mut pair = Pair::with(&[]);
        if has_it {
            pair.hold(A, said::write_done)
        } else {
            pair.hold(B, said::write)
        }
        let compare = pair.begin_compare(B, BLOCK, OLD, NEW);
        pair.crash(A);
        pair.release(B);
        pair.until_phase(B, PeerPhase::Alone);
        pair.pass_millis(200);
        assert!(pair.is_acknowledged(compare), "had it: {has_it}");
        assert_eq!(pair.read(B, 0), NEW);
        pair.restart(A);
        pair.until_whole();
        assert_eq!(both(&mut pair), [NEW; 2]);
    }
}

/// The partner dies while a comparison is on its way to it, or before it has been sent.
#[test]
fn the_owner_ends_its_own_when_the_partner_dies() {
    for sent in [true, false] {
        let mut pair = Pair::with(&[]);
        if sent {
            pair.hold(B, said::write)
        } else {
            pair.hold_disk(A, DiskHold::Flushes)
        }
        let compare = pair.begin_compare(A, BLOCK, OLD, NEW);
        assert_eq!(pair.has_said(A, said::write), usize::from(sent));
        pair.crash(B);
        pair.release_disk(A);
        pair.until_phase(A, PeerPhase::Alone);
        pair.pass_millis(200);
        assert!(pair.is_acknowledged(compare), "sent: {sent}");
        assert_eq!(pair.read(A, 0), NEW);
        pair.restart(B);
        pair.until_whole();
        assert_eq!(both(&mut pair), [NEW; 2]);
    }
}

/// A node has a comparison on its way, loses the link, and the other goes on. What its guest is told, and what it is told at
/// the other node when it tries again.
fn the_other_goes_on(node: NodeName, bugs: &[Bug]) -> [Option<GuestError>; 2] {
    let other = node.partner();
    let mut pair = Pair::with(bugs);
    // The answer does not arrive: node b has the write in its cache, or node a has, and neither knows of the other.
    pair.hold(node, if node == A { said::write_done } else { said::write });
    let compare = pair.begin_compare(node, BLOCK, OLD, NEW);
    assert!(pair.is_open(compare));
    pair.hold_questions(node);
    pair.cut();
    pair.until_phase(other, PeerPhase::Alone);
    pair.release_arbiter(node);
    pair.until_phase(node, PeerPhase::Lost);
    assert_eq!(pair.read(other, 0), NEW);
    let first = pair.refusal(compare);
    let again = pair.begin_compare(other, BLOCK, OLD, NEW);
    pair.pass_millis(200);
    let second = pair.refusal(again);
    pair.heal();
    pair.until_whole();
    assert_eq!(both(&mut pair), [NEW; 2]);
    [first, second]
}

/// Were a guest told to use the other path it would do so, and hear that what it has written itself is not what it expects.
#[test]
fn a_guest_is_not_told_to_try_again_what_may_have_been_done() {
    for node in NodeName::BOTH {
        assert_eq!(the_other_goes_on(node, &[])[0], Some(GuestError::Uncertain));
        let blind = the_other_goes_on(node, &[Bug::UncertainToldToRetry]);
        assert_eq!(blind, [Some(GuestError::Unavailable), AT_ONCE], "told to try again, and refused");
    }
}

/// One that was neither sent nor done may be tried again on the other path, and succeeds there.
#[test]
fn one_that_had_no_effect_may_be_tried_again() {
    let mut pair = Pair::with(&[]);
    pair.hold_disk(A, DiskHold::Flushes);
    let compare = pair.begin_compare(A, BLOCK, OLD, NEW);
    assert_eq!(pair.has_said(A, said::write), 0);
    pair.hold_questions(A);
    pair.cut();
    pair.until_phase(B, PeerPhase::Alone);
    pair.release_arbiter(A);
    pair.until_phase(A, PeerPhase::Lost);
    assert_eq!(pair.refusal(compare), Some(GuestError::Unavailable));
    let again = pair.begin_compare(B, BLOCK, OLD, NEW);
    pair.pass_millis(200);
    assert!(pair.is_acknowledged(again));
    pair.release_disk(A);
    pair.heal();
    pair.until_whole();
    assert_eq!(both(&mut pair), [NEW; 2]);
}

/// A guest gives up a forwarded comparison: when it is told so it can no longer act.
#[test]
fn one_that_was_given_up_does_not_act_any_more() {
    let mut pair = Pair::with(&[]);
    pair.hold(A, said::forward);
    let compare = pair.begin_compare(B, BLOCK, OLD, NEW);
    pair.give_up(B, compare);
    assert!(!pair.is_given_up(compare), "the owner has not settled it yet");
    pair.release(A);
    assert!(pair.is_given_up(compare));
    let then = pair.read(B, 0);
    pair.pass_millis(5000);
    assert_eq!(both(&mut pair), [then; 2]);
}

/// Alone, with a write in the cache that the disk does not take: is it told what a comparison finds before it is stable?
fn tells_of_what_is_not_stable(bugs: &[Bug]) -> bool {
    let mut pair = Pair::with(bugs);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.hold_disk(A, DiskHold::Data);
    let write = pair.begin_write(A, 0, 3);
    pair.pass_millis(200);
    assert!(pair.is_open(write));
    let compare = pair.begin_compare(A, BLOCK, OLD, NEW);
    let early = !pair.is_open(compare);
    pair.release_disk(A);
    pair.pass_millis(200);
    assert_eq!(pair.refusal(compare), AT_ONCE);
    assert_eq!(pair.read(A, 0), 3);
    early
}

/// Were it told at once, a loss of power could take back what a guest has been told is there.
#[test]
fn alone_a_mismatch_is_told_when_it_is_stable() {
    assert!(!tells_of_what_is_not_stable(&[]));
    assert!(tells_of_what_is_not_stable(&[Bug::MismatchUnstableAlone]));
}

/// A node that goes on alone is cut off from power in the midst: what was acknowledged is there, and only as a whole.
#[test]
fn power_is_lost_alone() {
    let mut pair = Pair::with(&[]);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    let done = pair.begin_compare(A, BLOCK, OLD, 3);
    pair.pass_millis(200);
    assert!(pair.is_acknowledged(done));
    pair.hold_disk(A, DiskHold::Flushes);
    let open = pair.begin_compare(A, BLOCK, 3, 4);
    pair.pass_millis(200);
    assert!(pair.is_open(open));
    pair.crash(A);
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.read(A, 0), 3);
}

fn begin_or(pair: &mut Pair, node: NodeName, at: Sectors, bits: u8) -> u64 {
    let blocks = (at.blocks().end - at.blocks().start) as usize;
    let data = payload_from(&PagePool::new(), &vec![bits; blocks * BLOCK_BYTES]);
    pair.ask(node, Command::OrWrite { at, data, fua: false })
}

#[test]
fn bits_are_set_in_what_is_there() {
    for node in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        let fresh = begin_or(&mut pair, node, BLOCK, 0x11);
        assert!(pair.is_acknowledged(fresh));
        let more = begin_or(&mut pair, node, BLOCK, 0x42);
        assert!(pair.is_acknowledged(more));
        assert_eq!(both(&mut pair), [0x53; 2]);
        let none = begin_or(&mut pair, node, BLOCK, 0);
        assert!(pair.is_acknowledged(none));
        let part = begin_or(&mut pair, node, Sectors::new(2, 3), 0x80);
        assert!(pair.is_acknowledged(part));
        for reader in NodeName::BOTH {
            let id = pair.ask(reader, Command::Read { at: BLOCK });
            let data = pair.finish(id).expect("reads");
            let sectors: Vec<u8> = data[0].bytes().chunks(512).map(|sector| sector[7]).collect();
            assert_eq!(sectors, [0x53, 0x53, 0xd3, 0xd3, 0xd3, 0x53, 0x53, 0x53]);
        }
    }
}

/// The bits of a write that is behind another are set in what that one has written.
#[test]
fn bits_are_set_in_turn() {
    for node in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.hold(B, said::write);
        pair.begin_write(A, 0, 1);
        let or = begin_or(&mut pair, node, BLOCK, 2);
        pair.release(B);
        assert!(pair.is_acknowledged(or));
        assert_eq!(both(&mut pair), [3; 2]);
    }
}

/// One of the pools is full: nothing was written, and that is sure.
#[test]
fn one_without_space_had_no_effect() {
    for full in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        for extent in 0..90 {
            let write = pair.begin_linear_write(full, extent * 256, 1);
            let _ = pair.finish(write);
        }
        for node in [A, B, B, A] {
            let compare = pair.begin_compare(node, BLOCK, OLD, NEW);
            assert!(
                matches!(pair.finish(compare), Err(GuestError::OutOfSpace)),
                "{full} is full, {node} asked"
            );
            assert_eq!(both(&mut pair), [OLD; 2]);
        }
    }
}
