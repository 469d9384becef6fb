//! Writes on their way between the nodes: who shows them, who keeps them, and which never happen.

use crate::pair_support::{A, B, DiskHold, Look, Pair, said};
use crate::{NEW, OLD, UNMARKED};
use twinsan::guest::{Command, GuestError, Sectors};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// The owner has a write that the partner lacks. What its guests and the partner's see of it, in this order.
fn look_at_a_write_on_its_way(bugs: &[Bug]) -> [Look; 2] {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    assert!(pair.under_way(B) > 0, "it is on its way");
    let early = pair.begin_read(A, 0);
    let looks = [pair.seen(early), pair.look(B, 0)];
    pair.release(B);
    assert!(pair.is_acknowledged(write));
    assert_eq!([pair.seen(early), pair.look(B, 0)], [Look::Shows(NEW); 2]);
    looks
}

/// Were the owner to show its own write at once, a guest could see it there, and a moment later see the old content
/// through the partner: a value seen and then unseen.
///
/// Trace: `owner_read_nowait`.
#[test]
fn the_owner_does_not_show_what_the_partner_lacks() {
    assert_eq!(look_at_a_write_on_its_way(&[]), [Look::Waits, Look::Shows(OLD)]);
    let hasty = look_at_a_write_on_its_way(&[Bug::OwnerReadsUnacknowledged]);
    assert_eq!(hasty, [Look::Shows(NEW), Look::Shows(OLD)], "seen, and unseen");
}

/// The partner dies with a write on its way to it. What the survivor shows when it has acknowledged the write.
fn the_partner_dies_in_mid_write(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    pair.crash(B);
    assert!(pair.is_open(write), "nobody knows yet who goes on");
    pair.until_phase(A, PeerPhase::Alone);
    pair.pass_millis(100);
    assert!(pair.is_acknowledged(write));
    pair.read(A, 0)
}

/// Were the writes in flight dropped when the owner goes on alone, one of them could have been seen at the partner
/// before it died, or would be acknowledged as done: and then be gone.
///
/// Trace: `drop_pend`.
#[test]
fn a_write_in_flight_is_kept_when_the_partner_dies() {
    assert_eq!(the_partner_dies_in_mid_write(&[]), NEW);
    assert_eq!(
        the_partner_dies_in_mid_write(&[Bug::PendingDroppedAtTakeover]),
        OLD,
        "acknowledged, and gone"
    );
}

/// A write is on its way to the partner when the owner dies. Was it acknowledged, and what does the partner show when it
/// goes on?
fn the_owner_dies_in_mid_write(bugs: &[Bug]) -> (bool, u8) {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    let early = pair.is_acknowledged(write);
    pair.crash(A);
    pair.release(B);
    pair.until_phase(B, PeerPhase::Alone);
    (early, pair.read(B, 0))
}

/// Were a write acknowledged when it is in one memory, that memory's end would lose it.
#[test]
fn a_write_is_acknowledged_when_both_have_it() {
    assert_eq!(the_owner_dies_in_mid_write(&[]), (false, OLD));
    let hasty = the_owner_dies_in_mid_write(&[Bug::AckBeforePartner]);
    assert_eq!(hasty, (true, OLD), "acknowledged, and gone");
}

/// A sector that is not a whole block, so that the owner sends the block with the order.
const SECTOR: Sectors = Sectors::new(1, 1);

fn sector(pair: &mut Pair, node: NodeName) -> u8 {
    let id = pair.ask(node, Command::Read { at: SECTOR });
    pair.finish(id).expect("reads")[0].bytes()[512]
}

/// A guest gives up a write at the partner while it is on its way to the owner. What it reads there when it is told
/// that the write can no longer act, and what it reads in the end.
fn a_guest_gives_up_a_forwarded_write(bugs: &[Bug]) -> [u8; 2] {
    let mut pair = Pair::with(bugs);
    pair.hold(A, said::forward);
    let write = pair.begin_sector_write(B, SECTOR, NEW);
    pair.give_up(B, write);
    let at_once = pair.is_given_up(write);
    assert_eq!(at_once, !bugs.is_empty(), "the owner has not settled it yet");
    if !at_once {
        pair.release(A);
        assert!(pair.is_given_up(write), "now it has");
    }
    let then = sector(&mut pair, B);
    pair.release(A);
    pair.pass_millis(100);
    assert_eq!(sector(&mut pair, A), sector(&mut pair, B));
    [then, sector(&mut pair, B)]
}

/// Were the partner to say "given up" by itself, the write could still be ordered afterwards: its guest, which has gone
/// to the other path, would see it surface.
///
/// Trace: `ghost_fwd`.
#[test]
fn a_write_that_was_given_up_never_surfaces() {
    let [then, in_the_end] = a_guest_gives_up_a_forwarded_write(&[]);
    assert_eq!(then, in_the_end);
    assert_eq!(a_guest_gives_up_a_forwarded_write(&[Bug::AbortNotSettled]), [OLD, NEW], "a ghost");
}

/// The owner has a forwarded write and has not given it its place when the guest gives it up: it is forgotten, and
/// only then does the guest hear so.
#[test]
fn a_forwarded_write_that_is_not_ordered_can_be_taken_back() {
    let mut pair = Pair::with(&[]);
    pair.hold_disk(A, DiskHold::Flushes);
    let first = pair.begin_write(B, 0, NEW);
    assert_eq!(pair.has_said(B, said::forward), 1);
    assert_eq!(pair.has_said(A, said::write), 0, "its area is not durably hot");
    pair.hold(B, said::anything);
    pair.give_up(B, first);
    assert!(!pair.is_given_up(first), "the owner's word is on its way");
    pair.release(B);
    assert!(pair.is_given_up(first));
    assert_eq!(pair.refusal(first), Some(GuestError::Aborted));
    pair.release_disk(A);
    pair.pass_millis(1000);
    assert_eq!(pair.has_said(A, said::write), 0, "never ordered");
    assert_eq!([pair.read(A, 0), pair.read(B, 0)], [OLD; 2]);
}

/// A forwarded write is on its way for longer than any initiator waits for a path. What comes of it.
fn a_forwarded_write_comes_late(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::with(bugs);
    pair.hold(A, said::forward);
    let write = pair.begin_write(B, 0, NEW);
    pair.pass_millis(4500);
    assert_eq!([pair.look(A, 0), pair.look(B, 0)], [Look::Shows(OLD); 2]);
    pair.release(A);
    pair.pass_millis(100);
    assert_eq!(pair.refusal(write), bugs.is_empty().then_some(GuestError::Transitioning));
    assert_eq!(pair.read(A, 0), pair.read(B, 0));
    pair.read(B, 0)
}

/// Were a forwarded write ordered however late it comes, it would surface after its guest has gone to the other path.
#[test]
fn a_forwarded_write_dies_at_its_deadline() {
    assert_eq!(a_forwarded_write_comes_late(&[]), OLD);
    assert_eq!(a_forwarded_write_comes_late(&[Bug::ForwardDeadlineIgnored]), NEW);
}

/// A forwarded write reaches the owner behind a write of the same block that is in flight, is given up, and its guest
/// writes 1 again and then 2 through the owner: however it is settled, it does not come after them.
///
/// Trace: `ghost_fwd`.
#[test]
fn a_write_that_was_sent_again_elsewhere_is_not_undone_by_its_first_attempt() {
    let mut pair = Pair::with(&[]);
    pair.hold(B, said::write);
    pair.begin_write(A, 0, 7);
    let first = pair.begin_write(B, 0, 1);
    pair.give_up(B, first);
    assert!(!pair.is_given_up(first), "the owner's word is behind its write");
    pair.release(B);
    assert!(pair.is_given_up(first));
    assert_eq!(pair.refusal(first), Some(GuestError::Aborted));
    for value in [1, 2] {
        pair.write(A, 0, value).expect("written through the owner");
    }
    pair.pass_millis(5000);
    assert_eq!([pair.read(A, 0), pair.read(B, 0)], [2; 2]);
}

/// A forwarded write has its place, and a later one through the owner waits for it, when the link is lost for a moment:
/// the partner, which has not heard of the place, sends its write again. What is there when both were done.
fn a_forwarded_write_is_sent_twice(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    let first = pair.begin_write(B, 0, 1);
    assert_eq!(pair.has_said(A, said::write), 1, "it has its place");
    let second = pair.begin_write(A, 0, 2);
    assert!(pair.is_open(second), "behind it");
    pair.cut();
    pair.release(B);
    pair.heal();
    pair.pass_millis(100);
    assert_eq!(pair.has_said(B, said::forward), 2);
    assert!(pair.is_acknowledged(second));
    assert_eq!(pair.is_acknowledged(first), bugs.is_empty());
    assert_eq!(pair.read(A, 0), pair.read(B, 0));
    pair.read(B, 0)
}

/// Were a write that the owner knows given a second place, it would take effect again, after what was written and
/// acknowledged since.
#[test]
fn a_forwarded_write_takes_effect_once() {
    assert_eq!(a_forwarded_write_is_sent_twice(&[]), 2);
    assert_eq!(a_forwarded_write_is_sent_twice(&[Bug::ForwardAppliedTwice]), 1, "acknowledged, and undone");
}

/// The link is lost while the owner has a forwarded write that it has not ordered. The owner goes on, the other
/// node tells its guest that the write was not done. What the owner shows then.
fn the_link_is_lost_before_a_forwarded_write_is_ordered(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::with(bugs);
    pair.hold_disk(A, DiskHold::Flushes);
    let write = pair.begin_write(B, 0, NEW);
    assert_eq!((pair.has_said(B, said::forward), pair.has_said(A, said::write)), (1, 0));
    pair.hold_questions(B);
    pair.cut();
    pair.release_disk(A);
    pair.until_phase(A, PeerPhase::Alone);
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Lost);
    assert_eq!(pair.refusal(write), Some(GuestError::Unavailable), "its guest goes elsewhere");
    pair.pass_millis(500);
    let shown = pair.read(A, 0);
    pair.heal();
    pair.until_whole();
    shown
}

/// Were forwarded writes kept across a change of epoch, one would be carried out after its guest was told that it was
/// not, and after whatever the guest has done since; carried out in mid-join, it would be in no log either.
///
/// Trace: `keep_fq`.
#[test]
fn a_forwarded_write_that_was_not_ordered_dies_with_the_link() {
    assert_eq!(the_link_is_lost_before_a_forwarded_write_is_ordered(&[]), OLD);
    let kept = the_link_is_lost_before_a_forwarded_write_is_ordered(&[Bug::ForwardKeptAfterLoss]);
    assert_eq!(kept, NEW, "refused, and done");
}

/// The partner has a write in its cache and not on its disk, for long; then it dies. What was broken.
fn a_slow_disk_under_an_idle_area(bugs: &[Bug]) -> String {
    let mut pair = Pair::with(bugs);
    pair.write(A, 0, NEW).expect("written");
    pair.hold_disk(B, DiskHold::Data);
    pair.pass_millis(15_000);
    assert!(pair.is_on_disk(A, NEW) && !pair.is_on_disk(B, NEW));
    assert_eq!(pair.has_said(B, said::stable), 0);
    assert_eq!(pair.is_marked(A, 0), bugs.is_empty());
    pair.crash(B);
    pair.restart(B);
    let broken = pair.broken();
    pair.until_paired();
    if bugs.is_empty() {
        assert_eq!([pair.read(A, 0), pair.read(B, 0)], [NEW; 2]);
    }
    broken
}

/// Were an area to cool when the write has only left the cache, the crash of one node would leave halves that differ
/// where nothing says so.
///
/// Trace: `cool_unflushed`.
#[test]
fn an_area_cools_when_both_have_flushed_it() {
    assert_eq!(a_slow_disk_under_an_idle_area(&[]), "");
    assert!(a_slow_disk_under_an_idle_area(&[Bug::CooledUnflushed]).contains(UNMARKED));
}

/// A write reaches the partner when it has left the pair and is asking who may go on. Were it applied and confirmed
/// then, it would belong to an epoch that is over. (Alone this does no harm, other rules see to that; it is not done
/// all the same.)
///
/// Trace: `apply_after_asking+join_lease_free`.
#[test]
fn a_node_that_asks_takes_no_write_of_the_old_epoch() {
    let mut pair = Pair::with(&[]);
    pair.hold(B, said::write);
    let write = pair.begin_write(A, 0, NEW);
    pair.pause(A);
    pair.hold_questions(B);
    pair.until_phase(B, PeerPhase::Deciding);
    pair.deliver(B);
    assert_eq!(pair.has_said(B, said::write_done), 0);
    assert_eq!(pair.look(B, 0), Look::Waits);
    pair.release_arbiter(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.read(B, 0), OLD);
    pair.release(B);
    pair.resume(A);
    pair.until_whole();
    assert_eq!(pair.refusal(write), Some(GuestError::Unavailable), "never acknowledged");
    assert_eq!(pair.read(A, 0), OLD);
}

/// A write to an extent that has no space yet: is it answered without anything else happening?
fn reaches_new_ground(bugs: &[Bug]) -> bool {
    let mut pair = Pair::with(bugs);
    // The first write to a volume has the node.
    let first = pair.begin_linear_write(A, 0, OLD);
    assert!(pair.is_acknowledged(first));
    let write = pair.begin_linear_write(A, 20_000, NEW);
    pair.is_acknowledged(write)
}

/// What a volume leaves when it steps beside others is done at once.
#[test]
fn what_a_step_beside_others_leaves_is_not_left_lying() {
    assert!(reaches_new_ground(&[]));
    assert!(!reaches_new_ground(&[Bug::OwedLookForgotten]));
}
