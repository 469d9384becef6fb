//! A node comes back to the one that serves alone: what may differ, and in which order they become a pair again.

use crate::pair_support::{A, B, Look, Pair, said};
use crate::{BOTH_SERVE, NEW, OLD, UNMARKED};
use twinsan::guest::GuestError;
use twinsan::ids::Members;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node a has written that it is whole; before b hears so, the link is lost, and a asks who may go on. What was
/// broken.
fn the_link_is_lost_before_the_register_is_swapped(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.hold(B, said::joined);
    pair.restart(A);
    pair.until_phase(A, PeerPhase::Joined);
    if bugs.is_empty() {
        assert_eq!(pair.members(), Members::only(B), "target, source, register: in this order");
    }
    pair.cut();
    pair.release(B);
    pair.pass_millis(3000);
    assert_eq!(pair.phase(B), Some(PeerPhase::Alone), "it has taken the join back");
    let broken = pair.broken();
    if bugs.is_empty() {
        assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
        pair.heal();
        pair.until_whole();
    }
    broken
}

/// Were the register swapped to both before target and source have it in writing, the target could win it, while the
/// source, which knows of nothing, goes on alone.
///
/// Trace: `join_cas_first`.
#[test]
fn the_register_is_the_last_to_know_of_a_new_pair() {
    assert_eq!(the_link_is_lost_before_the_register_is_swapped(&[]), "");
    let broken = the_link_is_lost_before_the_register_is_swapped(&[Bug::RegisterBeforeTarget]);
    assert!(broken.contains(BOTH_SERVE));
}

/// The target dies and returns while the source's swap to both is on its way. Were it taken in again, and a second
/// join proposed, the first swap would make it a member of an epoch of which the source knows nothing. The source
/// begins no new rejoin until the swap is resolved, and what it has proposed once it never proposes again: either
/// would be enough.
///
/// Trace: `rejoin_during_cas`.
#[test]
fn no_rejoin_begins_while_the_swap_is_open() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.stop(A);
    pair.until("the register names b", |pair| pair.members() == Members::only(B));
    pair.crash(A);
    pair.hold_questions(B);
    pair.restart(A);
    pair.until("b swaps", |pair| pair.questions(B) > 0);
    assert_eq!(pair.phase(A), Some(PeerPhase::Joined));
    let asked = pair.has_said(B, said::sets_ask);
    pair.crash(A);
    pair.restart(A);
    pair.pass_millis(1000);
    assert_eq!(pair.has_said(B, said::sets_ask), asked, "it does not take a in");
    assert_eq!(pair.phase(A), Some(PeerPhase::Starting));
    assert_eq!(pair.look(B, 0), Look::Waits, "who serves is open");
    pair.arbiter_handles(B);
    assert_eq!(pair.members(), Members::BOTH);
    pair.cut();
    pair.pass_millis(1000);
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
    assert_eq!(pair.read(B, 0), NEW);
    pair.heal();
    pair.until_whole();
    assert_eq!(pair.read(A, 0), NEW);
}

/// The owner dies with a write that its partner never got, and comes back as the target. Did the owner's disk have
/// it, did the partner mark the area before it copied anything, and what was broken in the end.
fn the_owner_dies_with_a_write_of_its_own(bugs: &[Bug]) -> (bool, bool, String) {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    pair.begin_write(A, 0, NEW);
    pair.pass_millis(1200);
    let destaged = pair.is_on_disk(A, NEW);
    pair.crash_keeping_unflushed(A);
    pair.release(B);
    pair.hold(A, said::copy);
    pair.restart(A);
    pair.until("b copies or has nothing to copy", |pair| {
        pair.under_way(A) > 0 || pair.has_said(B, said::join) > 0
    });
    let marked = pair.is_marked(B, 0);
    pair.release(A);
    pair.until_paired();
    if bugs.is_empty() {
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [OLD; 2]);
    }
    (destaged, marked, pair.broken())
}

/// Were an unacknowledged write destaged, and the target's own hot set ignored when it comes back, the mirror would be
/// called whole with a block that only the target has.
///
/// Trace: `ignore_target_hot+destage_before_ack`.
#[test]
fn the_targets_own_hot_set_is_fetched() {
    assert_eq!(the_owner_dies_with_a_write_of_its_own(&[]), (false, true, String::new()));
    let (destaged, marked, broken) = the_owner_dies_with_a_write_of_its_own(&[Bug::TargetHotIgnored]);
    assert_eq!((destaged, marked, &*broken), (false, false, ""), "the other rule sees to it");
    let both = [Bug::TargetHotIgnored, Bug::OwnerReadsUnacknowledged];
    let (destaged, marked, broken) = the_owner_dies_with_a_write_of_its_own(&both);
    assert!(destaged && !marked && broken.contains(UNMARKED), "{broken}");
}

/// A write is in both caches when the owner dies; the partner goes on alone and writes it back. What was broken when
/// the owner is back.
fn the_owner_dies_with_a_write_of_both(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.write(A, 0, NEW).expect("written");
    pair.crash(A);
    pair.hold(A, said::sets_ask);
    pair.restart(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.pass_millis(300);
    assert!(pair.is_on_disk(B, NEW));
    pair.release(A);
    pair.until_paired();
    if bugs.is_empty() {
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [NEW; 2]);
    }
    pair.broken()
}

/// Were the survivor to forget what was hot when it goes on alone, and the target's own hot set ignored, the mirror
/// would be called whole without the last writes before the crash.
///
/// Trace: `noseed_log+ignore_target_hot`.
#[test]
fn the_survivor_logs_what_was_hot() {
    assert_eq!(the_owner_dies_with_a_write_of_both(&[]), "");
    for one in [Bug::MarkForgottenAtTakeover, Bug::TargetHotIgnored] {
        assert_eq!(the_owner_dies_with_a_write_of_both(&[one]), "", "the other rule sees to it");
    }
    let both = [Bug::MarkForgottenAtTakeover, Bug::TargetHotIgnored];
    assert!(the_owner_dies_with_a_write_of_both(&both).contains(UNMARKED));
}
