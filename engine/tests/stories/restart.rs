//! A node dies and comes back: what it may still believe, and what it has lost.
//!
//! In most of these stories node b has a write in its cache, and shows it, when node a, which had it in its cache too,
//! dies. From then on the only copy is b's.

use crate::pair_support::{A, B, Look, Pair, said};
use crate::{BOTH_SERVE, NEW, OLD, who_goes_on};
use twinsan::guest::GuestError;
use twinsan::ids::Members;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node b has a write; its word that it has is on its way to node a.
fn the_partner_has_a_write(pair: &mut Pair) {
    pair.hold(A, said::write_done);
    pair.begin_write(A, 0, NEW);
    assert!(pair.under_way(A) > 0);
}

/// Node a restarts and asks the arbiter before b does. What the node that goes on shows.
fn a_restarted_node_asks_first(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::with(bugs);
    the_partner_has_a_write(&mut pair);
    pair.hold_questions(B);
    pair.crash(A);
    pair.start(A);
    assert_eq!(pair.look(B, 0), Look::Shows(NEW), "its lease still runs");
    pair.pass_millis(500);
    pair.release_arbiter(B);
    let survivor = who_goes_on(&mut pair);
    let shown = pair.read(survivor, 0);
    pair.heal();
    pair.until_whole();
    shown
}

/// Were a node that has lost its memory allowed to swap both members for itself, it could win over the one that has
/// what guests have seen.
///
/// Trace: `restart_cas`.
#[test]
fn a_restarted_node_takes_itself_out() {
    assert_eq!(a_restarted_node_asks_first(&[]), NEW);
    assert_eq!(a_restarted_node_asks_first(&[Bug::SwapsAfterRestart]), OLD, "shown by b, then gone");
}

/// Node a asks, dies and restarts; then its question reaches the arbiter, and the register names a. Node b has
/// noticed nothing.
fn a_question_outlives_its_asker(bugs: &[Bug]) -> Pair {
    let mut pair = Pair::with(bugs);
    the_partner_has_a_write(&mut pair);
    pair.hold_questions(A);
    pair.cut_noticed_by(&[A]);
    pair.until_phase(A, PeerPhase::Deciding);
    pair.crash(A);
    pair.start(A);
    pair.arbiter_handles(A);
    assert_eq!(pair.members(), Members::only(A), "a grant to a life that is over");
    assert_eq!(pair.look(B, 0), Look::Shows(NEW), "its lease still runs");
    pair.release_arbiter(A);
    pair
}

fn shown_by_the_survivor(mut pair: Pair) -> u8 {
    let survivor = who_goes_on(&mut pair);
    let shown = pair.read(survivor, 0);
    pair.heal();
    pair.until_whole();
    shown
}

/// Were a grant of an earlier life used, a node that has lost its memory would go on, over the one that has what
/// guests have seen. It gives the grant back.
///
/// Trace: `keep_grant`.
#[test]
fn a_grant_of_an_earlier_life_is_given_back() {
    assert_eq!(shown_by_the_survivor(a_question_outlives_its_asker(&[])), NEW);
    let used = shown_by_the_survivor(a_question_outlives_its_asker(&[Bug::GrantUsedAfterRestart]));
    assert_eq!(used, OLD, "shown by b, then gone");
}

fn broken_until_one_goes_on(mut pair: Pair) -> String {
    who_goes_on(&mut pair);
    pair.broken()
}

/// What an earlier life promised its partner is not known after a restart. Were the grant used, and no lease waited
/// from the start, the other node would still be serving.
///
/// Trace: `restart_nowait+keep_grant+restart_reads_register`.
#[test]
fn a_restarted_node_waits_one_lease_from_its_start() {
    assert_eq!(broken_until_one_goes_on(a_question_outlives_its_asker(&[])), "");
    for one in [Bug::GrantUsedAfterRestart, Bug::LeaseNotWaitedOut] {
        let broken = broken_until_one_goes_on(a_question_outlives_its_asker(&[one]));
        assert!(!broken.contains(BOTH_SERVE), "the other rule sees to it");
    }
    let both = [Bug::GrantUsedAfterRestart, Bug::LeaseNotWaitedOut];
    assert!(broken_until_one_goes_on(a_question_outlives_its_asker(&both)).contains(BOTH_SERVE));
}

/// Node b is alone by a's withdrawal, has made a whole again, and dies while its swap to both is on its way. It
/// restarts and reads that the register names it. Then the swap is done, and node a, cut off, asks on the strength of
/// it. What was broken.
fn a_swap_outlives_the_source(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.hold_questions(B);
    pair.crash(A);
    pair.start(A);
    pair.until("a takes itself out", |pair| pair.members() == Members::only(B));
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Alone);
    pair.hold_questions(B);
    pair.heal();
    pair.until("b swaps", |pair| pair.questions(B) > 0);
    assert_eq!(pair.phase(A), Some(PeerPhase::Joined));
    pair.hold_questions(A);
    pair.crash(B);
    pair.start(B);
    pair.question_is_late(B);
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.look(A, 0), Look::Waits, "it asks, too");
    pair.late_question_arrives(B);
    pair.release_arbiter(A);
    pair.pass_millis(3000);
    let broken = pair.broken();
    if bugs.is_empty() {
        assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
        pair.heal();
        pair.until_whole();
    }
    broken
}

/// Were reading the register enough to go on, a swap of an earlier life could still change it behind the reader's
/// back. A swap of this life that raises the epoch makes every older one void.
///
/// Trace: `restart_reads_register`.
#[test]
fn the_right_to_serve_begins_with_a_swap_of_this_life() {
    assert_eq!(a_swap_outlives_the_source(&[]), "");
    assert!(a_swap_outlives_the_source(&[Bug::RegisterReadIsGrant]).contains(BOTH_SERVE));
}

/// Node a dies and is back within a moment, with the epoch and the generation that it had. Were that a reconnect, a
/// read at a would return what its disk has. It has another boot id, so the pair is over at once, and it was not in
/// a pair in this life: either would be enough, which is why no single weakness shows this.
///
/// Trace: `reconnect_no_incarnation`.
#[test]
fn a_node_with_another_boot_id_has_died_however_fast_it_came_back() {
    let mut pair = Pair::with(&[]);
    the_partner_has_a_write(&mut pair);
    pair.crash(A);
    assert_eq!(pair.look(B, 0), Look::Shows(NEW), "its lease still runs");
    let epoch = pair.epoch();
    pair.hold_questions(B);
    pair.restart(A);
    assert_eq!(pair.phase(B), Some(PeerPhase::Deciding), "as soon as it has heard who is there");
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable));
    pair.release_arbiter(B);
    assert_eq!(pair.read(B, 0), NEW);
    pair.until_whole();
    assert_eq!(pair.read(A, 0), NEW);
    assert!(pair.epoch() > epoch);
}
