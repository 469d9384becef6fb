//! A node alone, and a node that is being brought up to date: what they answer, and when a mark may go.

use crate::pair_support::{A, B, DiskHold, Look, Pair, REGION_BLOCKS, said};
use crate::{NEW, OLD, UNMARKED};
use twinsan::block::BLOCK_BYTES;
use twinsan::guest::GuestError;
use twinsan::ids::Members;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node a is dead and node b serves alone.
fn b_alone(bugs: &[Bug]) -> Pair {
    let mut pair = Pair::with(bugs);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair
}

/// As [`b_alone`], but a stopped cleanly.
fn b_alone_after_a_clean_stop(bugs: &[Bug]) -> Pair {
    let mut pair = Pair::with(bugs);
    pair.stop(A);
    pair.until("the register names b", |pair| pair.members() == Members::only(B));
    pair.crash(A);
    pair
}

/// What a target answers to a read of what the source has written since.
fn read_at_the_target(bugs: &[Bug]) -> Look {
    let mut pair = b_alone(bugs);
    pair.write(B, 100, 7).expect("written alone");
    pair.hold(A, said::copy);
    pair.restart(A);
    pair.until_phase(A, PeerPhase::Target);
    pair.write(B, 0, NEW).expect("written alone");
    let seen = pair.look(A, 0);
    pair.release(A);
    pair.until_whole();
    seen
}

/// Were a half that is behind to serve what no mark names, it would go by marks that are older than the source's
/// last write.
///
/// Trace: `resync_reads`.
#[test]
fn a_half_that_is_behind_serves_nothing() {
    assert_eq!(read_at_the_target(&[]), Look::Refuses(GuestError::Unavailable));
    assert_eq!(read_at_the_target(&[Bug::StaleServesReads]), Look::Shows(OLD), "acknowledged at b");
}

/// A node alone has a write in its cache and not on its disk. What a read shows of it, and what is there after the
/// node has crashed.
fn read_alone_before_it_is_stable(bugs: &[Bug]) -> (Look, u8) {
    let mut pair = b_alone_after_a_clean_stop(bugs);
    pair.hold_disk(B, DiskHold::Data);
    let write = pair.begin_write(B, 0, NEW);
    let seen = pair.look(B, 0);
    pair.pass_millis(1000);
    assert!(pair.is_open(write));
    pair.crash(B);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    (seen, pair.read(B, 0))
}

/// Were a lone node to show what is only in its memory, its crash would unsee it.
///
/// Trace: `read_unstable_alone`.
#[test]
fn alone_a_read_waits_until_what_it_shows_is_stable() {
    assert_eq!(read_alone_before_it_is_stable(&[]), (Look::Waits, OLD));
    let shown = read_alone_before_it_is_stable(&[Bug::ReadUnstableAlone]);
    assert_eq!(shown, (Look::Shows(NEW), OLD), "seen, and unseen");
}

/// A target has a guest's new write in its memory, as the source has. Is it acknowledged, and what is there after the
/// source has crashed?
fn a_write_in_two_memories_one_of_them_behind(bugs: &[Bug]) -> (bool, u8) {
    let mut pair = b_alone_after_a_clean_stop(bugs);
    pair.hold_disk(B, DiskHold::Data);
    pair.start(A);
    pair.hold_disk(A, DiskHold::Data);
    let write = pair.begin_write(B, 0, NEW);
    pair.heal();
    pair.until("the write is sent to the target", |pair| pair.has_said(B, said::copy) > 0);
    pair.pass_millis(500);
    assert_eq!(pair.phase(A), Some(PeerPhase::Target));
    let acknowledged = pair.is_acknowledged(write);
    pair.crash(B);
    pair.release_disk(A);
    pair.start(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.look(A, 0), Look::Refuses(GuestError::Unavailable), "it is behind, and cannot help");
    let shown = pair.read(B, 0);
    pair.heal();
    pair.until_whole();
    (acknowledged, shown)
}

/// Were two memories enough while the register still names one node, the crash of that node would lose an acknowledged
/// write: the other has it, and may not serve.
///
/// Trace: `ram_ack_before_cas`.
#[test]
fn until_the_register_names_both_a_write_is_stable_before_it_is_acknowledged() {
    assert_eq!(a_write_in_two_memories_one_of_them_behind(&[]), (false, OLD));
    let hasty = a_write_in_two_memories_one_of_them_behind(&[Bug::AckBeforeStable]);
    assert_eq!(hasty, (true, OLD), "acknowledged, and gone");
}

/// The target has a copy on stable media, the source has what was copied only in its memory, and crashes. What was
/// broken.
fn the_source_is_slower_than_the_target(bugs: &[Bug]) -> String {
    let mut pair = b_alone(bugs);
    pair.hold_disk(B, DiskHold::Data);
    pair.begin_write(B, 0, NEW);
    pair.restart(A);
    pair.until("the copy is stable", |pair| pair.has_said(A, said::copy_stable) > 0);
    assert!(pair.is_on_disk(A, NEW) && !pair.is_on_disk(B, NEW));
    assert_eq!(pair.is_marked(B, 0), bugs.is_empty());
    pair.crash(B);
    pair.restart(B);
    let broken = pair.broken();
    if bugs.is_empty() {
        pair.until_whole();
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [OLD; 2], "it was never acknowledged");
    }
    broken
}

/// Were a mark cleared when the target has the copy stable, and the source not, the source's crash would leave the
/// target with what nobody else has, where nothing says so.
///
/// Trace: `rs_clear_src_unstable`.
#[test]
fn a_mark_goes_when_the_source_has_it_stable_too() {
    assert_eq!(the_source_is_slower_than_the_target(&[]), "");
    assert!(the_source_is_slower_than_the_target(&[Bug::LogClearedUnstableHere]).contains(UNMARKED));
}

/// A guest writes to a region whose copy is on its way; the target confirms the copy. What was broken.
fn a_write_overtakes_the_confirmation_of_a_copy(bugs: &[Bug]) -> String {
    let mut pair = b_alone(bugs);
    pair.write(B, 0, 7).expect("written alone");
    pair.hold(A, said::copy);
    pair.hold(B, said::copy_stable);
    pair.restart(A);
    pair.until("the copy is sent", |pair| pair.under_way(A) > 0);
    pair.deliver(A);
    pair.until("the copy is confirmed", |pair| pair.under_way(B) > 0);
    pair.write(B, 0, NEW).expect("written alone");
    assert!(pair.under_way(A) > 0, "the target gets it too");
    pair.release(B);
    assert_eq!(pair.is_marked(B, 0), bugs.is_empty());
    let broken = pair.broken();
    pair.release(A);
    pair.until_whole();
    broken
}

/// Were a mark cleared by any confirmation, it would be cleared by that of the copy before the last write.
///
/// Trace: `rs_clear_any`.
#[test]
fn a_mark_goes_when_nothing_was_written_since_what_is_confirmed() {
    assert_eq!(a_write_overtakes_the_confirmation_of_a_copy(&[]), "");
    assert!(a_write_overtakes_the_confirmation_of_a_copy(&[Bug::FreshCopyNotAwaited]).contains(UNMARKED));
}

/// The target has a copy in its memory and not on its disk, and crashes. What was broken.
fn the_target_is_slower_than_the_source(bugs: &[Bug]) -> String {
    let mut pair = b_alone(bugs);
    pair.write(B, 0, NEW).expect("written alone");
    pair.start(A);
    pair.hold_disk(A, DiskHold::Data);
    pair.heal();
    pair.until("the copy is sent", |pair| pair.has_said(B, said::copy) > 0);
    pair.pass_millis(100);
    assert_eq!(pair.has_said(A, said::copy_stable), 0);
    pair.crash(A);
    pair.restart(A);
    let broken = pair.broken();
    if bugs.is_empty() {
        pair.until_whole();
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [NEW; 2]);
    }
    broken
}

/// Were a mark cleared when the target has the copy in its memory, the target's crash would leave it behind where
/// nothing says so.
///
/// Trace: `rs_clear_unstable`.
#[test]
fn a_mark_goes_when_the_target_has_it_stable() {
    assert_eq!(the_target_is_slower_than_the_source(&[]), "");
    assert!(the_target_is_slower_than_the_source(&[Bug::LogClearedEarly]).contains(UNMARKED));
}

/// What was hot when the partner died and what was written since, in bytes; and what the resync copied, and passed on
/// of guests' writes, in bytes. Guests write over and over, and most of the volume has data and has not changed.
fn bytes_of_a_delta_resync(bugs: &[Bug]) -> (u64, u64, u64) {
    const AREA: u64 = 1024;
    let mut pair = Pair::with(bugs);
    for first in (0..6 * AREA).step_by(AREA as usize) {
        let id = pair.begin_long_write(A, first, AREA, 3);
        pair.finish(id).expect("written");
    }
    pair.until("all is cold", |pair| pair.half(A).hot.is_empty() && pair.half(B).hot.is_empty());
    pair.write(A, 5, 4).expect("written");
    pair.write(B, AREA + 5, 4).expect("written");
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    let regions = 40;
    for round in 0..5 {
        for region in 0..regions {
            pair.write(B, 2 * AREA + region * 3 * REGION_BLOCKS + round, 5).expect("written alone");
        }
    }
    pair.restart(A);
    for round in 0..40 {
        pair.write(B, 2 * AREA + round * 3 * REGION_BLOCKS, 6).expect("written during the resync");
        pair.pass_millis(5);
    }
    pair.until_paired();
    for block in [5, AREA + 5, 2 * AREA + 4, 2 * AREA, 5 * AREA] {
        assert_eq!(pair.read(A, block), pair.read(B, block), "block {block}");
    }
    let [copied, fresh] = pair.bytes_copied(B);
    let changed = (2 * AREA + regions * REGION_BLOCKS) * BLOCK_BYTES as u64;
    (changed, copied, fresh)
}

/// Were the log not believed, or copied again for every write that comes meanwhile, bringing back a node that was away
/// for a minute would take as long as a new one.
#[test]
fn a_delta_resync_moves_little_more_than_what_changed() {
    let (changed, copied, fresh) = bytes_of_a_delta_resync(&[]);
    assert!(copied >= changed, "all of it: {copied} of {changed}");
    assert!(copied * 10 <= changed * 12, "and little more: {copied} of {changed}");
    assert!(fresh <= 40 * BLOCK_BYTES as u64, "each write of a guest at most once: {fresh}");
    let (changed, copied, _) = bytes_of_a_delta_resync(&[Bug::ResyncCopiesAll]);
    assert!(copied * 10 > changed * 12, "{copied} of {changed}");
}
