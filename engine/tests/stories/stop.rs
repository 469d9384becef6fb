//! Clean stops: of one, of both, and when the partner, the resync or the arbiter is in the way.

use crate::pair_support::{A, B, DiskHold, Look, Pair, Setup, said};
use crate::{BOTH_SERVE, NEW, OLD};
use twinsan::guest::GuestError;
use twinsan::ids::{Members, NodeName};
use twinsan::mirror::message::PeerPhase;
use twinsan::node::config::MirrorConfig;
use twinsan::planted::Bug;

/// Node a stops cleanly while node b has a write in its cache and its disk is slow; then b goes on, crashes and
/// restarts. Did a stop before b's disk had the write, and what does b show?
fn stop_beside_a_slow_disk(bugs: &[Bug]) -> (bool, u8) {
    let mut pair = Pair::with(bugs);
    pair.write(A, 0, NEW).expect("written");
    pair.hold_disk(B, DiskHold::Data);
    pair.stop(A);
    pair.pass_millis(1000);
    let early = pair.phase(A) == Some(PeerPhase::Stopped);
    if !early {
        assert_eq!(pair.has_said(B, said::stop_ready), 0);
        pair.release_disk(B);
    }
    pair.until_phase(A, PeerPhase::Stopped);
    pair.until_phase(B, PeerPhase::Alone);
    pair.crash(B);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    (early, pair.read(B, 0))
}

/// Were the right to serve handed over with dirty caches, the only current half would not be stable, and its crash
/// would lose what both had acknowledged.
///
/// Trace: `handover_dirty`.
#[test]
fn a_node_hands_over_when_both_have_flushed() {
    assert_eq!(stop_beside_a_slow_disk(&[]), (false, NEW));
    assert_eq!(stop_beside_a_slow_disk(&[Bug::HandedOverDirty]), (true, OLD), "acknowledged, and gone");
}

/// Node a has handed over and restarts, cut off, before b could bring the register up. What was broken.
fn a_leaver_returns_before_the_register_is_up(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.hold_questions(B);
    pair.stop(A);
    pair.until_phase(A, PeerPhase::Stopped);
    pair.until_phase(B, PeerPhase::Alone);
    pair.crash(A);
    assert_eq!(pair.members(), Members::BOTH, "what it will read does not name b");
    pair.start(A);
    pair.pass_millis(6000);
    let broken = pair.broken();
    if bugs.is_empty() {
        assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
        pair.write(B, 0, NEW).expect("b serves");
        pair.release_arbiter(B);
        pair.heal();
        pair.until_whole();
    }
    broken
}

/// Were a node that has handed over to swap the register for itself, it would serve beside the one it handed over to.
///
/// Trace: `handover_noreg+restart_cas`.
#[test]
fn a_node_that_has_handed_over_never_swaps() {
    assert_eq!(a_leaver_returns_before_the_register_is_up(&[]), "");
    assert!(a_leaver_returns_before_the_register_is_up(&[Bug::SwapsAfterRestart]).contains(BOTH_SERVE));
}

/// Both are asked to stop at the same moment: a hands over to b, b follows. Then only b may begin, with all data.
#[test]
fn of_two_that_stop_at_once_the_second_to_go_is_the_first_to_return() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.stop_both();
    pair.until_phase(A, PeerPhase::Stopped);
    pair.until_phase(B, PeerPhase::Stopped);
    assert_eq!((pair.has_said(A, said::handed_over), pair.has_said(B, said::handed_over)), (1, 0));
    pair.crash(A);
    pair.crash(B);
    pair.start(A);
    pair.pass_millis(6000);
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable), "it was not the last to serve");
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.read(B, 0), NEW);
    pair.heal();
    pair.until_whole();
    assert_eq!(pair.read(A, 0), NEW);
}

/// The partner does not answer the wish to stop, though it lives: after two leases the leaver stops as if it had
/// crashed, and the partner goes on as after a crash.
#[test]
fn a_partner_that_does_not_answer_does_not_keep_a_node_from_stopping() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.hold(B, said::stop_ask);
    pair.stop(A);
    let late = pair.begin_write(A, 1, NEW);
    pair.pass_millis(3900);
    assert_eq!(pair.phase(A), Some(PeerPhase::Paired), "two leases are not over");
    assert!(pair.is_open(late), "held");
    pair.pass_millis(200);
    assert_eq!(pair.phase(A), Some(PeerPhase::Stopped));
    assert_eq!(pair.refusal(late), Some(GuestError::Unavailable));
    assert!(pair.is_on_disk(A, NEW), "nothing acknowledged is only in memory");
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!([pair.read(B, 0), pair.read(B, 1)], [NEW, OLD]);
    pair.crash(A);
    pair.restart(A);
    pair.until_whole();
}

/// The only node that serves is asked to stop while it brings its partner up to date. It stops when all that it has
/// acknowledged is stable; the partner is behind and serves nothing until it is back, and then the rest is copied.
#[test]
fn a_source_stops_in_mid_resync() {
    let few = MirrorConfig { resync_blocks_in_flight: 64, ..MirrorConfig::default() };
    let mut pair = Pair::set_up(Setup { mirror: few, ..Setup::default() });
    pair.until_paired();
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    for block in 0..40 {
        pair.write(B, block * 16, NEW).expect("written alone");
    }
    pair.hold(A, said::copy);
    pair.restart(A);
    pair.until("copies are under way", |pair| pair.under_way(A) > 0);
    pair.hold_disk(B, DiskHold::Data);
    let last = pair.begin_write(B, 3, NEW);
    pair.stop(B);
    pair.pass_millis(1000);
    assert_eq!(pair.phase(B), Some(PeerPhase::Alone), "it has a write to make stable");
    let late = pair.begin_write(B, 4, NEW);
    pair.release_disk(B);
    pair.until_phase(B, PeerPhase::Stopped);
    assert!(pair.is_acknowledged(last));
    assert_eq!(pair.refusal(late), Some(GuestError::Unavailable));
    pair.crash(B);
    pair.pass_millis(6000);
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable), "it is behind");
    pair.restart(B);
    pair.release(A);
    pair.until_whole();
    assert_eq!([pair.read(A, 3), pair.read(A, 4)], [NEW, OLD]);
}

/// Node a is whole again and node b's swap to both is on its way for ever.
fn a_swap_that_is_not_answered(bugs: &[Bug]) -> Pair {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 0, NEW).expect("written alone");
    pair.hold_questions(B);
    pair.restart(A);
    pair.until("b swaps", |pair| pair.questions(B) > 0);
    assert_eq!(pair.phase(A), Some(PeerPhase::Joined));
    pair
}

/// While the swap to both is open guests wait, but not for ever: after the bound they are told to go elsewhere. When
/// the arbiter answers at last, the pair serves.
#[test]
fn guests_are_told_when_the_swap_to_both_is_overdue() {
    let mut pair = a_swap_that_is_not_answered(&[]);
    let (read, write) = (pair.begin_read(B, 0), pair.begin_write(B, 1, NEW));
    pair.pass_millis(19_500);
    assert!(pair.is_open(read) && pair.is_open(write));
    pair.pass_millis(1000);
    assert_eq!(pair.seen(read), Look::Refuses(GuestError::Unavailable));
    assert_eq!(pair.refusal(write), Some(GuestError::Unavailable));
    for node in NodeName::BOTH {
        assert_eq!(pair.look(node, 0), Look::Refuses(GuestError::Unavailable));
    }
    pair.release_arbiter(B);
    pair.until_whole();
    assert_eq!([pair.read(A, 0), pair.read(A, 1)], [NEW, OLD]);
}

/// A node is asked to stop while its swap to both is open, and stops when that is overdue. Whether the arbiter gets
/// the swap then, or never, and whoever comes back first: at most one serves, and it has all data.
#[test]
fn a_node_stops_while_its_swap_to_both_is_overdue() {
    for swap_arrives in [true, false] {
        let mut pair = a_swap_that_is_not_answered(&[]);
        pair.stop(B);
        pair.pass_millis(19_500);
        assert_eq!(pair.phase(B), Some(PeerPhase::Alone), "it may be answered yet");
        pair.until_phase(B, PeerPhase::Stopped);
        if swap_arrives {
            pair.arbiter_handles(B);
        }
        pair.crash(B);
        pair.pass_millis(6000);
        let expected = if swap_arrives { Look::Shows(NEW) } else { Look::Refuses(GuestError::Unavailable) };
        assert_eq!(pair.look(A, 0), expected);
        pair.start(B);
        pair.release_arbiter(B);
        pair.pass_millis(6000);
        assert!(!(pair.is_serving(A) && pair.is_serving(B)));
        pair.heal();
        pair.until_whole();
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [NEW; 2]);
    }
}

/// The leaver has it in writing that the partner goes on, and dies before it can say so. The partner asks the arbiter as
/// after a crash; the leaver comes back as one that is behind.
#[test]
fn a_handover_that_is_not_heard_is_a_crash() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.hold(B, said::handed_over);
    pair.stop(A);
    pair.until_phase(A, PeerPhase::Stopped);
    assert_eq!(pair.phase(B), Some(PeerPhase::Paired), "it has not heard");
    pair.crash(A);
    pair.start(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 1, NEW).expect("written alone");
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
    pair.heal();
    pair.until_whole();
    assert_eq!([pair.read(A, 0), pair.read(A, 1)], [NEW; 2]);
}

/// The partner dies, and with it the word that it goes on, which the leaver has in writing. Both come back, in either
/// order and cut off from each other at first: one serves, with all data, and at no time two.
#[test]
fn the_heir_of_a_handover_dies_before_it_hears_of_it() {
    for order in [[A, B], [B, A]] {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, NEW).expect("written");
        pair.hold(B, said::handed_over);
        pair.stop(A);
        pair.until_phase(A, PeerPhase::Stopped);
        for node in [B, A] {
            pair.crash(node);
        }
        for node in order {
            pair.start(node);
            pair.pass_millis(5000);
        }
        let serving = NodeName::BOTH.map(|node| pair.is_serving(node));
        assert_eq!(serving.iter().filter(|serves| **serves).count(), 1, "{serving:?}");
        pair.heal();
        pair.until_whole();
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [NEW; 2]);
    }
}

/// A node that has lost its partner and cannot ask who goes on is asked to stop: it stops when guests have been told
/// that it does not know, and a write that its partner may have shown is never unseen.
#[test]
fn a_node_without_a_verdict_stops_at_the_bound() {
    let mut pair = Pair::with(&[]);
    pair.hold(A, said::write_done);
    let write = pair.begin_write(A, 0, NEW);
    pair.lose_arbiter(A);
    pair.lose_arbiter(B);
    pair.cut();
    pair.until_phase(A, PeerPhase::Deciding);
    pair.stop(A);
    pair.pass_millis(19_000);
    assert_eq!(pair.phase(A), Some(PeerPhase::Deciding));
    assert!(pair.is_open(write));
    pair.until_phase(A, PeerPhase::Stopped);
    assert_eq!(pair.refusal(write), Some(GuestError::Unavailable));
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.read(B, 0), NEW, "it has it, and may have shown it");
    pair.crash(A);
    pair.release_arbiter(A);
    pair.restart(A);
    pair.until_whole();
    assert_eq!(pair.read(A, 0), NEW);
}

/// Asks a node whose disk takes no data to stop, for long enough. Did it stop before its disk had what it holds? It is
/// down after this, with what its disk has.
fn stops_early(pair: &mut Pair, node: NodeName) -> bool {
    pair.stop(node);
    pair.pass_millis(21_000);
    let early = pair.phase(node) == Some(PeerPhase::Stopped);
    if !early {
        pair.release_disk(node);
        pair.until_phase(node, PeerPhase::Stopped);
    }
    pair.crash(node);
    early
}

/// Node b shows a write, its word that it has it is on its way, and it crashes. Node a cannot ask who goes on, has told
/// its guests so, takes a write of its linear volume, or not, and is asked to stop. Then b is back first and gives way
/// to a. Did a stop early, and what do the mirror and the linear volume show there?
fn stop_without_a_verdict(with_linear: bool, bugs: &[Bug]) -> (bool, [u8; 2]) {
    let mut pair = Pair::with(bugs);
    pair.hold_disk(A, DiskHold::Data);
    pair.hold(A, said::write_done);
    let write = pair.begin_write(A, 0, NEW);
    assert_eq!(pair.look(B, 0), Look::Shows(NEW));
    pair.lose_arbiter(A);
    pair.crash(B);
    pair.until("a has told its guests", |pair| !pair.is_open(write));
    assert_eq!(pair.refusal(write), Some(GuestError::Unavailable));
    if with_linear {
        let linear = pair.begin_linear_write(A, 0, NEW);
        assert!(pair.is_acknowledged(linear));
    }
    let early = stops_early(&mut pair, A);
    pair.release_arbiter(A);
    pair.start(B);
    pair.until("b takes itself out", |pair| pair.members() == Members::only(A));
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
    (early, [pair.read(A, 0), pair.read_linear(A, 0)])
}

/// Were a node that knows no verdict to stop at once, a clean stop would lose what it acknowledged on a linear volume,
/// and a write of the mirror that a guest has seen at the partner, of which this node has the only copy.
#[test]
fn a_stop_without_a_verdict_writes_everything_first() {
    assert_eq!(stop_without_a_verdict(true, &[]), (false, [NEW, NEW]));
    assert_eq!(stop_without_a_verdict(false, &[]), (false, [NEW, OLD]));
    let hasty = [Bug::StoppedUndecidedDirty];
    assert_eq!(stop_without_a_verdict(true, &hasty), (true, [OLD, OLD]), "acknowledged or shown, and gone");
}

/// Node b is asked to stop while its swap to both is open for ever, with a write of its linear volume in memory. Did it
/// stop before its disk had that, and what does the volume show when it is back?
fn stop_with_an_overdue_swap(bugs: &[Bug]) -> (bool, u8) {
    let mut pair = a_swap_that_is_not_answered(bugs);
    pair.hold_disk(B, DiskHold::Data);
    let linear = pair.begin_linear_write(B, 0, NEW);
    assert!(pair.is_acknowledged(linear));
    let early = stops_early(&mut pair, B);
    pair.start(B);
    (early, pair.read_linear(B, 0))
}

/// That nobody knows who may serve the mirror is no reason to lose what a linear volume took.
#[test]
fn a_stop_with_an_overdue_swap_writes_everything_first() {
    assert_eq!(stop_with_an_overdue_swap(&[]), (false, NEW));
    assert_eq!(
        stop_with_an_overdue_swap(&[Bug::StoppedUndecidedDirty]),
        (true, OLD),
        "acknowledged, and gone"
    );
}

/// A half that is being brought up to date is asked to stop: the source goes on as if nothing were, and the rest is
/// copied when the half is back.
#[test]
fn a_target_stops_in_mid_resync() {
    let mut pair = Pair::with(&[]);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    for block in 0..40 {
        pair.write(B, block * 16, NEW).expect("written alone");
    }
    pair.hold(B, said::copy_stable);
    pair.restart(A);
    pair.until("copies are stable", |pair| pair.under_way(B) > 0);
    pair.stop(A);
    pair.until_phase(A, PeerPhase::Stopped);
    pair.write(B, 1, NEW).expect("written alone");
    pair.crash(A);
    pair.release(B);
    pair.restart(A);
    pair.until_whole();
    assert_eq!([pair.read(A, 1), pair.read(A, 16)], [NEW; 2]);
}
