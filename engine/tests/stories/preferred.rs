//! Without an arbiter: node a is preferred and goes on, node b stops.

use crate::pair_support::{A, B, DiskHold, Look, Pair, said};
use crate::{BOTH_SERVE, NEW, OLD};
use twinsan::guest::GuestError;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// The preferred node dies with a write that its partner shows, and restarts cut off. What it answers after a while.
fn the_preferred_node_restarts(bugs: &[Bug]) -> Look {
    let mut pair = Pair::preferring_a(bugs);
    pair.hold(A, said::write_done);
    pair.begin_write(A, 0, NEW);
    pair.crash(A);
    assert_eq!(pair.look(B, 0), Look::Shows(NEW), "its lease still runs");
    pair.start(A);
    pair.pass_millis(5000);
    let seen = pair.look(A, 0);
    if bugs.is_empty() {
        assert_eq!(pair.look(B, 0), Look::Refuses(GuestError::Unavailable), "it is not preferred");
        pair.heal();
        pair.until_whole();
        assert_eq!(pair.read(A, 0), NEW, "b's memory is unbroken: its data stand");
    }
    seen
}

/// Were preference enough to go on after a restart, a node that has lost its memory would serve what its disk has.
/// Only unbroken memory goes on unasked.
///
/// Trace: `pref+pref_restart_goes_on`.
#[test]
fn the_preferred_node_does_not_go_on_after_a_restart() {
    assert_eq!(the_preferred_node_restarts(&[]), Look::Refuses(GuestError::Unavailable));
    assert_eq!(the_preferred_node_restarts(&[Bug::PreferredGoesOnAfterRestart]), Look::Shows(OLD));
}

/// Node b, which would stop, has served alone and takes the preferred node back; the link is lost when a has written
/// that both are members and b has not heard so. What was broken when a goes on.
fn the_link_is_lost_in_mid_join(bugs: &[Bug]) -> String {
    let mut pair = Pair::preferring_a(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Lost);
    pair.start(A);
    pair.pass_millis(3000);
    pair.hold(B, said::joined);
    pair.heal();
    pair.until_phase(A, PeerPhase::Joined);
    assert_eq!(pair.phase(B), Some(PeerPhase::Alone));
    assert_eq!(pair.is_serving(B), !bugs.is_empty(), "it gave up its right before a got one");
    pair.cut_noticed_by(&[A]);
    pair.release(B);
    pair.until_phase(A, PeerPhase::Alone);
    let broken = pair.broken();
    pair.until_phase(B, PeerPhase::Lost);
    if bugs.is_empty() {
        pair.heal();
        pair.until_whole();
    }
    broken
}

/// Were the target the first to write that both are members, it would go on by that when the link is lost, beside a
/// source that still has its own right.
///
/// Trace: `pref+pref_target_first`.
#[test]
fn a_source_that_would_stop_gives_up_its_right_first() {
    assert_eq!(the_link_is_lost_in_mid_join(&[]), "");
    assert!(the_link_is_lost_in_mid_join(&[Bug::RightKeptAtJoin]).contains(BOTH_SERVE));
}

/// The preferred node is writing down that both are members, on a slow disk, when the link is lost and comes back. Node b
/// has given up its right by then, so it stops. The phases of both a long time after a has written.
fn the_link_is_lost_while_the_target_writes(bugs: &[Bug]) -> [Option<PeerPhase>; 2] {
    let mut pair = Pair::preferring_a(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Lost);
    pair.start(A);
    pair.pass_millis(3000);
    pair.hold(A, said::join);
    pair.heal();
    pair.until("a is to join", |pair| pair.under_way(A) > 0);
    pair.hold_disk(A, DiskHold::Flushes);
    pair.release(A);
    pair.cut();
    pair.until_phase(B, PeerPhase::Lost);
    pair.heal();
    assert_eq!(pair.phase(A), Some(PeerPhase::Target));
    pair.release_disk(A);
    pair.pass_millis(20_000);
    pair.phases()
}

/// A node that has joined waits for the word to go, from a source that is still at it. Were it not to look whether the
/// source is, both would wait for ever, and nobody would serve.
#[test]
fn a_node_that_joins_too_late_goes_on_without_the_word() {
    assert_eq!(the_link_is_lost_while_the_target_writes(&[]), [Some(PeerPhase::Paired); 2]);
    let stuck = [Some(PeerPhase::Joined), Some(PeerPhase::Lost)];
    assert_eq!(the_link_is_lost_while_the_target_writes(&[Bug::JoinedUnlooked]), stuck);
}
