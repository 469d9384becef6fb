//! The change log of the node that serves alone: each mark is set, and is kept until both halves have what it is for.

use crate::pair_support::{A, B, DiskHold, Look, Pair, REGION_BLOCKS, said};
use crate::{NEW, OLD, UNMARKED};
use twinsan::guest::{Command, GuestError};
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node b writes alone, and node a comes back. What was broken.
fn a_node_comes_back_to_a_log(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 0, NEW).expect("written alone");
    pair.restart(A);
    pair.until_paired();
    if bugs.is_empty() {
        pair.until_whole();
        assert_eq!(pair.read(A, 0), NEW);
    }
    pair.broken()
}

/// Were the log cleared when the partner is there again, and not as it gets what the log is for, the mirror would be
/// called whole with nothing copied.
#[test]
fn the_log_is_kept_until_the_partner_has_what_it_names() {
    assert_eq!(a_node_comes_back_to_a_log(&[]), "");
    assert!(a_node_comes_back_to_a_log(&[Bug::LogClearedAtRejoin]).contains(UNMARKED));
}

/// A write lies in two regions. What was broken when the partner is back.
fn a_write_across_a_border(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    let write = pair.begin_long_write(B, REGION_BLOCKS - 1, 2, NEW);
    pair.finish(write).expect("written alone");
    pair.restart(A);
    pair.until_paired();
    if bugs.is_empty() {
        pair.until_whole();
        assert_eq!([REGION_BLOCKS - 1, REGION_BLOCKS].map(|block| pair.read(A, block)), [NEW; 2]);
    }
    pair.broken()
}

/// Were only the first region of a write marked, the rest of it would never be copied.
#[test]
fn every_region_of_a_write_is_marked() {
    assert_eq!(a_write_across_a_border(&[]), "");
    let broken = a_write_across_a_border(&[Bug::MarkForgottenAcrossRegions]);
    assert!(broken.contains(&format!("block {REGION_BLOCKS} differs and is not marked")), "{broken}");
    assert!(!broken.contains(&format!("block {} differs", REGION_BLOCKS - 1)), "{broken}");
}

/// The last copy is in the target's memory, and its disk takes no data, when the source dies; the target crashes too, and
/// is back. What it shows of a write that the source had acknowledged alone.
fn the_last_copy_is_not_durable(bugs: &[Bug]) -> Look {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.write(B, 0, NEW).expect("written alone");
    pair.start(A);
    pair.hold_disk(A, DiskHold::Data);
    pair.heal();
    pair.pass_millis(1500);
    let phase = if bugs.is_empty() { PeerPhase::Target } else { PeerPhase::Paired };
    assert_eq!(pair.phase(A), Some(phase));
    pair.crash(B);
    pair.pass_millis(6000);
    pair.crash(A);
    pair.start(A);
    pair.pass_millis(6000);
    let seen = pair.look(A, 0);
    if bugs.is_empty() {
        pair.restart(B);
        pair.until_whole();
        assert_eq!(pair.read(A, 0), NEW);
    }
    seen
}

/// Were the mirror called whole with the last copy on its way to the target's disk, the target could go on without the
/// source, and then lose what it has only in memory.
#[test]
fn the_mirror_is_whole_when_the_last_copy_is_durable() {
    assert_eq!(the_last_copy_is_not_durable(&[]), Look::Refuses(GuestError::Unavailable));
    assert_eq!(
        the_last_copy_is_not_durable(&[Bug::WholeTooEarly]),
        Look::Shows(OLD),
        "acknowledged, and gone"
    );
}

/// The partner says that a write is stable, and the link dies with that; it is back at once, and nobody writes again.
/// Areas that stay hot on either node.
fn the_word_that_a_write_is_stable_is_lost(bugs: &[Bug]) -> usize {
    let mut pair = Pair::with(bugs);
    pair.hold(A, said::stable);
    pair.write(A, 0, NEW).expect("written");
    pair.ask(A, Command::Flush);
    pair.until("b has said it", |pair| pair.under_way(A) > 0);
    pair.cut();
    pair.heal();
    pair.release(A);
    assert_eq!(pair.phases(), [Some(PeerPhase::Paired); 2], "it is the same pair");
    pair.pass_millis(30_000);
    pair.half(A).hot.len() + pair.half(B).hot.len()
}

/// Were it said once only, an area that nobody writes to any more would be hot for ever, and a hot set full of such areas
/// would let no write to another area begin.
#[test]
fn areas_cool_though_a_link_is_lost() {
    assert_eq!(the_word_that_a_write_is_stable_is_lost(&[]), 0);
    assert_ne!(the_word_that_a_write_is_stable_is_lost(&[Bug::StableNotRepeated]), 0);
}
