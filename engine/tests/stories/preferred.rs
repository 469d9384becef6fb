//! Without an arbiter: node a is preferred and goes on, node b stops.

use crate::pair_support::{A, B, Look, Pair, said};
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
