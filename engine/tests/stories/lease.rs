//! Who may answer at this moment: leases, and what a node promises by answering a probe.

use crate::pair_support::{A, B, Look, Pair, Setup, said};
use crate::{BOTH_SERVE, NEW, OLD};
use twinsan::guest::GuestError;
use twinsan::ids::Members;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node a notices that the link is gone, node b does not. What was broken by the time a serves alone.
fn one_node_misses_the_cut(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.cut_noticed_by(&[A]);
    pair.until("a has won", |pair| pair.members() == Members::only(A));
    if bugs.is_empty() {
        assert_eq!(pair.look(A, 0), Look::Waits, "won, and not yet alone");
    }
    assert_eq!(pair.look(B, 0), Look::Shows(OLD), "its lease still runs");
    pair.until_phase(A, PeerPhase::Alone);
    let broken = pair.broken();
    pair.pass_millis(2500);
    assert_eq!(pair.look(B, 0), Look::Refuses(GuestError::Unavailable));
    pair.heal();
    pair.until_whole();
    broken
}

/// Were the winner to go on at once, the other node, which has heard of nothing and whose lease runs, would go on
/// serving beside it.
///
/// Trace: `nowait`.
#[test]
fn a_winner_waits_until_the_other_lease_has_run_out() {
    assert_eq!(one_node_misses_the_cut(&[]), "");
    assert!(one_node_misses_the_cut(&[Bug::LeaseNotWaitedOut]).contains(BOTH_SERVE));
}

fn until_a_answers_a_probe(pair: &mut Pair) {
    let replies = pair.has_said(A, said::probe_reply);
    pair.until("a answers a probe", |pair| pair.has_said(A, said::probe_reply) > replies);
}

/// A pair in which the two do not probe at the same time: a was suspended for a moment when it should have.
fn out_of_step(bugs: &[Bug]) -> Pair {
    let mut pair = Pair::with(bugs);
    until_a_answers_a_probe(&mut pair);
    pair.pass_millis(200);
    pair.pause(A);
    pair.pass_millis(130);
    pair.resume(A);
    pair
}

/// The link to node a stalls until a's lease is over, and b's not quite; then b's probes arrive, late, while a waits
/// for b's lease to run out. What was broken by the time a serves alone.
fn probes_reach_a_node_that_has_won(bugs: &[Bug]) -> String {
    let mut pair = out_of_step(bugs);
    until_a_answers_a_probe(&mut pair);
    pair.stall(A);
    pair.hold(B, said::hello);
    pair.until("a has won", |pair| pair.members() == Members::only(A));
    assert!(pair.is_serving(B), "its lease ends a little later");
    let replies = pair.has_said(A, said::probe_reply);
    pair.release(A);
    assert_eq!(pair.has_said(A, said::probe_reply) > replies, !bugs.is_empty());
    pair.until_phase(A, PeerPhase::Alone);
    let broken = pair.broken();
    pair.release(B);
    pair.until_whole();
    broken
}

/// Were a node that asks for the right to go on alone to answer probes still, it would extend the very lease whose
/// end it waits for.
///
/// Trace: `answer_while_asking`.
#[test]
fn a_node_that_asks_answers_no_probe() {
    assert_eq!(probes_reach_a_node_that_has_won(&[]), "");
    let broken = probes_reach_a_node_that_has_won(&[Bug::ProbeAnsweredWhileDeciding]);
    assert!(broken.contains(BOTH_SERVE));
}

/// Node b is suspended while node a, which it had not told of a write, goes on alone and acknowledges that write.
/// What b answers first when it wakes up.
fn a_node_sleeps_through_its_lease(bugs: &[Bug]) -> Look {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    pair.pause(B);
    pair.cut_noticed_by(&[A]);
    pair.until_phase(A, PeerPhase::Alone);
    pair.pass_millis(100);
    assert!(pair.is_acknowledged(write));
    let read = pair.begin_read(B, 0);
    pair.resume(B);
    let seen = pair.seen(read);
    pair.heal();
    pair.until_whole();
    assert_eq!(pair.read(B, 0), NEW);
    seen
}

/// Were the lease looked at now and then, and not before every answer, a node that was suspended would answer from
/// what it had before.
///
/// Trace: `no_lease_check`.
#[test]
fn a_node_that_slept_past_its_lease_notices_before_it_answers() {
    assert_eq!(a_node_sleeps_through_its_lease(&[]), Look::Refuses(GuestError::Unavailable));
    assert_eq!(a_node_sleeps_through_its_lease(&[Bug::PausedNodeAnswers]), Look::Shows(OLD));
}

/// Node a notices that the link is gone, goes on alone and acknowledges a write that it had not told b of. Node b has
/// noticed nothing, and runs. What b answers then.
fn a_node_outlives_its_lease(bugs: &[Bug]) -> Look {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    pair.cut_noticed_by(&[A]);
    pair.release(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.pass_millis(100);
    assert!(pair.is_acknowledged(write));
    let seen = pair.look(B, 0);
    if bugs.is_empty() {
        pair.heal();
        pair.until_whole();
        assert_eq!(pair.read(B, 0), NEW);
    }
    seen
}

/// Were a node to serve until it hears that the pair is over, it would show what its partner has overwritten. That it
/// leaves the pair when its lease ends, and that it looks before each answer, are two rules: awake, either is enough.
///
/// Trace: `no_lease_check`.
#[test]
fn a_node_that_hears_nothing_serves_for_one_lease() {
    assert_eq!(a_node_outlives_its_lease(&[]), Look::Refuses(GuestError::Unavailable));
    let looks_late = a_node_outlives_its_lease(&[Bug::PausedNodeAnswers]);
    assert_eq!(looks_late, Look::Refuses(GuestError::Unavailable), "the other rule sees to it");
    assert_eq!(a_node_outlives_its_lease(&[Bug::LeaseNeverEnds]), Look::Shows(OLD), "overwritten at a");
}

/// The link is lost, and both nodes can ask the arbiter. What was broken.
fn both_ask(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.cut();
    pair.pass_millis(6000);
    if bugs.is_empty() {
        let phases = pair.phases();
        assert!(phases.contains(&Some(PeerPhase::Alone)) && phases.contains(&Some(PeerPhase::Lost)));
        pair.heal();
        pair.until_whole();
    }
    pair.broken()
}

/// Were the arbiter's refusal not the last word, each side of a cut would serve what the other does not have.
#[test]
fn one_side_of_a_cut_goes_on() {
    assert_eq!(both_ask(&[]), "");
    assert!(both_ask(&[Bug::BothWin]).contains(BOTH_SERVE));
}

/// "Go" makes a pair and grants no lease: each node serves from the first answer to its own probe. (A lease that came
/// with the word would do no harm that we know of. It would be one that nobody promised.)
///
/// Trace: `apply_after_asking+join_lease_free`.
#[test]
fn the_word_to_go_grants_no_lease() {
    let mut pair = Pair::set_up(Setup::default());
    pair.hold(B, said::go);
    pair.until_phase(A, PeerPhase::Paired);
    let first = pair.begin_read(A, 0);
    assert_eq!(pair.seen(first), Look::Waits, "the other does not know yet that it is one of a pair");
    pair.stall(A);
    pair.release(B);
    let second = pair.begin_read(B, 0);
    assert_eq!(pair.phases(), [Some(PeerPhase::Paired); 2]);
    assert_eq!([pair.seen(first), pair.seen(second)], [Look::Waits; 2], "no probe has been answered");
    pair.release(A);
    pair.pass_millis(300);
    assert_eq!([pair.seen(first), pair.seen(second)], [Look::Shows(OLD); 2]);
}

/// Node a asks for the right to go on alone; the link comes back well within both leases, and then a dies and
/// restarts, and its question reaches the arbiter last. Had a gone back to the old epoch when the link came back, the
/// answer to its question would have taken the right to serve from a pair that serves. It never goes back: it, or its
/// partner, goes on to a later epoch.
///
/// Trace: `resume_after_ask+keep_grant`.
#[test]
fn a_node_that_has_asked_never_goes_back_to_the_old_epoch() {
    let mut pair = Pair::with(&[]);
    let epoch = pair.epoch();
    pair.hold(A, said::write_done);
    let write = pair.begin_write(A, 0, NEW);
    pair.cut();
    pair.hold_questions(A);
    pair.hold_questions(B);
    pair.until_phase(A, PeerPhase::Deciding);
    pair.release(A);
    pair.heal();
    pair.pass_millis(100);
    assert_eq!(pair.phases(), [Some(PeerPhase::Deciding); 2], "the link is back, the pair is not");
    assert_eq!([pair.look(A, 0), pair.look(B, 0)], [Look::Waits; 2]);
    pair.crash(A);
    pair.restart(A);
    pair.arbiter_handles(A);
    assert_eq!(pair.members(), Members::only(A), "a grant to a life that is over");
    pair.release_arbiter(A);
    pair.release_arbiter(B);
    assert_eq!(pair.read(B, 0), NEW, "b has it in its cache, a has lost it");
    pair.until_whole();
    assert!(pair.epoch() > epoch);
    assert!(pair.read(A, 0) == NEW && pair.is_open(write));
}
