//! Snapshots and clones: at one moment on both nodes or on neither, whoever dies at which step; and what becomes of those that
//! one node took alone.

use crate::pair_support::{A, B, DiskHold, LINEAR, Pair, Setup, VOLUME, said};
use crate::{NEW, OLD};
use twinsan::guest::{Command, GuestError, Sectors};
use twinsan::ids::{ItemName, NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{NewClone, PeerPhase, VolumeChange, VolumeRefusal};
use twinsan::planted::Bug;
use twinsan::pool::CloneRefusal;

const SNAPSHOT: VolumeId = VolumeId(1000);
const CLONE: VolumeId = VolumeId(1003);
/// What is written after the snapshot.
const LATER: u8 = 2;

fn new(volume: VolumeId, of: VolumeId, read_only: bool) -> NewClone {
    NewClone { volume, of, uuid: Uuid(u128::from(volume.0)), name: format!("of {of}"), read_only }
}

fn snapshot() -> Vec<NewClone> {
    vec![new(SNAPSHOT, VOLUME, true)]
}

/// Another of the same number.
fn snapshot_again() -> Vec<NewClone> {
    vec![NewClone { uuid: Uuid(9), ..new(SNAPSHOT, VOLUME, true) }]
}

fn clone() -> Vec<NewClone> {
    vec![new(CLONE, SNAPSHOT, false)]
}

fn has(pair: &Pair, node: NodeName, volume: VolumeId) -> bool {
    pair.table(node).0.iter().any(|(id, _)| *id == volume)
}

/// What both nodes read there, which is the same.
fn on_both(pair: &mut Pair, volume: VolumeId, block: u64) -> u8 {
    let [a, b] = NodeName::BOTH.map(|node| pair.read_of(node, volume, block));
    assert_eq!(a, b, "block {block} of volume {volume}");
    a
}

#[test]
fn a_snapshot_stays_what_the_volume_was_on_both_nodes() {
    for asked in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        for block in 0..4 {
            pair.write(A, block * 256, NEW).expect("written");
        }
        assert_eq!(pair.make(asked, snapshot()), Ok(()));
        let used = pair.bytes_used(A);
        pair.write(A, 0, LATER).expect("written");
        pair.write(B, 256, LATER).expect("written");
        pair.flush(A).expect("flushed");
        assert_eq!([0, 256, 512].map(|block| on_both(&mut pair, SNAPSHOT, block)), [NEW; 3]);
        assert_eq!([0, 256, 512].map(|block| on_both(&mut pair, VOLUME, block)), [LATER, LATER, NEW]);
        assert_eq!(pair.bytes_used(A), used + (2 << 20), "two extents are no longer shared");
        for node in NodeName::BOTH {
            assert_eq!(pair.write_to(node, SNAPSHOT, 0, LATER).map(drop), Err(GuestError::ReadOnly));
            assert_eq!(pair.kept(node, SNAPSHOT)[&ItemName::NAME].value[..], *b"of 1");
            assert_eq!(pair.size(node, SNAPSHOT), pair.size(node, VOLUME));
        }
        // Whoever dies, the other one has it, and it is whole again afterwards.
        for node in NodeName::BOTH {
            pair.crash(node.partner());
            pair.until_phase(node, PeerPhase::Alone);
            assert_eq!(pair.read_of(node, SNAPSHOT, 0), NEW);
            pair.write(node, 512, LATER).expect("written alone");
            pair.restart(node.partner());
            pair.until_whole();
            assert_eq!([0, 256, 512].map(|block| on_both(&mut pair, SNAPSHOT, block)), [NEW; 3]);
        }
    }
}

#[test]
fn a_clone_is_written_and_its_snapshot_stays() {
    for asked in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, NEW).expect("written");
        let refused = Err(VolumeRefusal::Clone(CloneRefusal::NotSnapshot(VOLUME)));
        assert_eq!(pair.make(asked, vec![new(CLONE, VOLUME, false)]), refused);
        assert_eq!(pair.make(asked, snapshot()), Ok(()));
        assert_eq!(pair.make(asked, clone()), Ok(()));
        for (node, block) in [(A, 0), (B, 1)] {
            pair.write_to(node, CLONE, block, LATER).expect("written");
        }
        assert_eq!([0, 1].map(|block| on_both(&mut pair, CLONE, block)), [LATER; 2]);
        for volume in [SNAPSHOT, VOLUME] {
            assert_eq!([0, 1].map(|block| on_both(&mut pair, volume, block)), [NEW, OLD]);
        }
        // What they were made of goes; they stay, over the death of either node too.
        assert_eq!(pair.change(asked, VOLUME, VolumeChange::Delete), Ok(()));
        assert_eq!(pair.change(asked, SNAPSHOT, VolumeChange::Delete), Ok(()));
        for node in NodeName::BOTH {
            pair.crash(node.partner());
            pair.until_phase(node, PeerPhase::Alone);
            pair.write_to(node, CLONE, 1, NEW).expect("written alone");
            pair.restart(node.partner());
            pair.until_paired();
            assert_eq!([0, 1].map(|block| on_both(&mut pair, CLONE, block)), [LATER, NEW]);
        }
        assert_eq!(pair.change(asked, CLONE, VolumeChange::Delete), Ok(()));
        pair.pass_millis(100);
        assert_eq!(NodeName::BOTH.map(|node| pair.bytes_used(node)), [0; 2]);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut pair = Pair::with(&[]);
    let missing = VolumeId(77);
    let cases = [
        (vec![], VolumeRefusal::Many),
        (vec![new(SNAPSHOT, VOLUME, true), new(SNAPSHOT, VOLUME, true)], VolumeRefusal::Many),
        (vec![new(SNAPSHOT, missing, true)], VolumeRefusal::Unknown(missing)),
        (vec![new(SNAPSHOT, VOLUME, true), new(CLONE, LINEAR, true)], VolumeRefusal::Mixed),
        (vec![new(LINEAR, VOLUME, true)], VolumeRefusal::Clone(CloneRefusal::Taken(LINEAR))),
        (vec![NewClone { name: String::new(), ..new(SNAPSHOT, VOLUME, true) }], VolumeRefusal::Name),
    ];
    for node in NodeName::BOTH {
        for (clones, refusal) in &cases {
            assert_eq!(pair.make(node, clones.clone()), Err(*refusal));
        }
    }
    assert_eq!(pair.make(A, snapshot()), Ok(()));
    let grow = VolumeChange::Grow { sectors: 300_000 };
    assert_eq!(pair.change(A, SNAPSHOT, grow), Err(VolumeRefusal::Snapshot(SNAPSHOT)));
    assert_eq!(pair.make(B, snapshot()), Err(VolumeRefusal::Clone(CloneRefusal::Taken(SNAPSHOT))));
}

/// A linear volume is its node's own affair, also when that node may not serve the mirror.
#[test]
fn a_linear_volume_has_snapshots_too() {
    let mut pair = Pair::with(&[]);
    let write = pair.begin_linear_write(B, 0, NEW);
    pair.finish(write).expect("written");
    assert_eq!(pair.make(B, vec![new(SNAPSHOT, LINEAR, true)]), Ok(()));
    let write = pair.begin_linear_write(B, 0, LATER);
    pair.finish(write).expect("written");
    let flush = pair.ask_linear(B, Command::Flush);
    pair.finish(flush).expect("flushed");
    assert_eq!((pair.read_of(B, SNAPSHOT, 0), pair.read_linear(B, 0)), (NEW, LATER));
    pair.crash(B);
    pair.restart(B);
    pair.until_paired();
    assert_eq!((pair.read_of(B, SNAPSHOT, 0), pair.read_linear(B, 0)), (NEW, LATER));
    assert!(pair.size(A, SNAPSHOT).is_none(), "it is not mirrored");
}

/// What both nodes' snapshots have of a write that comes when the partner has cloned and the owner has not.
fn written_in_between(bugs: &[Bug]) -> [u8; 2] {
    let mut pair = Pair::with(bugs);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold(A, said::clones_taken);
    let take = pair.begin_clones(A, snapshot());
    let late = [pair.begin_write(A, 0, LATER), pair.begin_write(B, 256, LATER)];
    pair.pass_millis(20);
    let (waits, open) = (late.iter().all(|write| pair.is_open(*write)), pair.outcome(take).is_none());
    assert!(open && (waits || !bugs.is_empty()));
    pair.release(A);
    pair.until("the operator has an answer", |pair| pair.outcome(take).is_some());
    late.into_iter().for_each(|write| drop(pair.finish(write).expect("written")));
    pair.until_whole();
    NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0))
}

#[test]
fn a_write_is_in_the_snapshot_of_both_nodes_or_of_neither() {
    assert_eq!(written_in_between(&[]), [NEW; 2]);
    assert_eq!(written_in_between(&[Bug::ClonedUnderWrites]), [LATER, NEW], "the planted bug");
}

/// Disks that do not get to stable media keep writes waiting for a while only.
#[test]
fn a_volume_that_does_not_come_to_rest_is_not_cloned() {
    for slow in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.hold_disk(slow, DiskHold::Data);
        pair.write(A, 0, NEW).expect("in both caches");
        let take = pair.begin_clones(A, snapshot());
        pair.pass_millis(4500);
        let late = pair.begin_write(A, 1, LATER);
        pair.until("the operator has an answer", |pair| pair.outcome(take).is_some());
        assert_eq!(pair.outcome(take), Some(Err(VolumeRefusal::NotAtRest)), "{slow}");
        pair.release_disk(slow);
        pair.finish(late).expect("written");
        pair.until_whole();
        assert!(NodeName::BOTH.iter().all(|node| !has(&pair, *node, SNAPSHOT)));
        assert_eq!(pair.make(B, snapshot()), Ok(()));
        assert_eq!(on_both(&mut pair, SNAPSHOT, 1), LATER);
    }
}

/// At which step of it something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// The partner has not heard of it.
    Told,
    /// The partner has heard, and cannot write it down.
    WritingThere,
    /// The owner has not heard that the partner has it in writing.
    Taken,
    /// The owner cannot write it down.
    WritingHere,
    /// The partner has not heard that both have it.
    Done,
}

const STEPS: [At; 5] = [At::Told, At::WritingThere, At::Taken, At::WritingHere, At::Done];

/// A pair whose snapshot, asked for at node a, has come to this step, and a write that came behind it.
fn stopped_at(at: At) -> (Pair, u64, u64) {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    match at {
        At::Told => pair.hold(B, said::clones_take),
        At::WritingThere => pair.hold_disk(B, DiskHold::Flushes),
        At::Taken => pair.hold(A, said::clones_taken),
        At::WritingHere => pair.hold_disk(A, DiskHold::Flushes),
        At::Done => pair.hold(B, said::volume_shown),
    }
    let take = pair.begin_clones(A, snapshot());
    assert_eq!(pair.outcome(take), (at == At::Done).then_some(Ok(())), "{at:?}");
    let write = pair.begin_write(A, 0, LATER);
    (pair, take, write)
}

/// Is it there, on both nodes alike, as the volume was?
fn happened(pair: &mut Pair) -> bool {
    pair.pass_millis(500);
    assert_eq!(pair.table(A).0, pair.table(B).0);
    let happened = has(pair, A, SNAPSHOT);
    if happened {
        let found = on_both(pair, SNAPSHOT, 0);
        assert!(found == NEW || found == LATER);
        assert_eq!(NodeName::BOTH.map(|node| pair.size(node, SNAPSHOT)), [Some(200_000); 2]);
        pair.write(B, 0, 3).expect("written");
        pair.flush(A).expect("flushed");
        assert_eq!((on_both(pair, SNAPSHOT, 0), on_both(pair, VOLUME, 0)), (found, 3));
    }
    happened
}

#[test]
fn a_snapshot_is_on_both_or_on_neither_whoever_dies() {
    for at in STEPS {
        for victim in NodeName::BOTH {
            let (mut pair, take, _) = stopped_at(at);
            pair.dies_and_comes_back(victim);
            let acknowledged = pair.outcome(take) == Some(Ok(()));
            assert!(happened(&mut pair) || !acknowledged, "{victim} dies at {at:?}");
            assert!(victim == A || acknowledged, "the owner goes on with what it was asked for, {at:?}");
        }
    }
}

#[test]
fn a_snapshot_is_on_both_or_on_neither_though_both_die() {
    for at in STEPS {
        for first in NodeName::BOTH {
            let (mut pair, take, _) = stopped_at(at);
            let acknowledged = pair.outcome(take) == Some(Ok(()));
            pair.both_die(first);
            let happened = happened(&mut pair);
            assert!(happened || !acknowledged, "{first} comes back first, {at:?}");
            // A number that only one node has heard of can be given out again.
            assert!(happened || pair.make(B, snapshot_again()) == Ok(()));
        }
    }
}

#[test]
fn a_snapshot_survives_a_link_that_comes_back() {
    for at in STEPS {
        let (mut pair, take, write) = stopped_at(at);
        pair.cut_and_release();
        pair.pass_millis(50);
        pair.heal();
        pair.until("the operator has an answer", |pair| pair.outcome(take).is_some());
        assert_eq!(pair.outcome(take), Some(Ok(())), "{at:?}");
        pair.finish(write).expect("written");
        assert!(happened(&mut pair));
    }
}

#[test]
fn a_snapshot_is_settled_by_the_one_that_goes_on() {
    for at in STEPS {
        let (mut pair, take, _) = stopped_at(at);
        pair.cut_and_release();
        pair.pass_millis(6000);
        let outcome = pair.outcome(take).expect("nobody is kept waiting");
        pair.heal();
        pair.until_paired();
        assert!(happened(&mut pair) || outcome == Err(VolumeRefusal::Interrupted), "{at:?}");
    }
}

/// An owner that has not waited for its partner, and dies: is the snapshot that it acknowledged there?
fn after_the_owner_dies(bugs: &[Bug]) -> (Option<Result<(), VolumeRefusal>>, bool) {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::clones_take);
    let take = pair.begin_clones(A, snapshot());
    let outcome = pair.outcome(take);
    pair.crash(A);
    pair.release(B);
    pair.until_phase(B, PeerPhase::Alone);
    pair.pass_millis(100);
    (outcome, has(&pair, B, SNAPSHOT))
}

#[test]
fn a_snapshot_is_acknowledged_when_the_partner_has_it() {
    assert_eq!(after_the_owner_dies(&[]), (None, false));
    assert_eq!(after_the_owner_dies(&[Bug::ClonedBeforePartner]), (Some(Ok(())), false), "the planted bug");
}

/// A node alone takes snapshots, of what the partner lacks too: it makes them of its own half when it comes back, and is sent
/// what that lacks of them, no more.
#[test]
fn a_partner_that_was_away_makes_the_snapshots_of_its_own_half() {
    let mut pair = Pair::with(&[]);
    for block in 0..8 {
        pair.write(A, block * 256, NEW).expect("written");
    }
    pair.flush(A).expect("flushed");
    pair.pass_millis(15_000);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    let second = VolumeId(1006);
    pair.write(A, 0, LATER).expect("written alone");
    assert_eq!(pair.make(A, snapshot()), Ok(()));
    pair.write(A, 256, LATER).expect("written alone");
    assert_eq!(pair.make(A, vec![new(second, VOLUME, true),]), Ok(()));
    assert_eq!(pair.make(A, clone()), Ok(()));
    pair.write_to(A, CLONE, 512, LATER).expect("written alone");
    pair.write(A, 0, 3).expect("written alone");
    let before = pair.bytes_copied(A);
    pair.restart(B);
    pair.until_whole();
    pair.pass_millis(100);
    assert_eq!(pair.table(A), pair.table(B));
    let found = |pair: &mut Pair, volume| [0, 256, 512, 768].map(|block| on_both(pair, volume, block));
    assert_eq!(found(&mut pair, VOLUME), [3, LATER, NEW, NEW]);
    assert_eq!(found(&mut pair, SNAPSHOT), [LATER, NEW, NEW, NEW]);
    assert_eq!(found(&mut pair, second), [LATER, LATER, NEW, NEW]);
    assert_eq!(found(&mut pair, CLONE), [LATER, NEW, LATER, NEW]);
    let [_, after] = pair.bytes_copied(A);
    assert!(after - before[1] <= 16 * (64 << 10), "{} bytes were copied", after - before[1]);
    // It shares what it can: at most one extent for each difference.
    let [a, b] = NodeName::BOTH.map(|node| pair.bytes_used(node));
    assert!(b <= a + (6 << 20), "{b} bytes are used at the partner, {a} here");
    for node in NodeName::BOTH {
        assert_eq!(pair.write_to(node, second, 0, NEW).map(drop), Err(GuestError::ReadOnly));
    }
}

/// The owner dies with a write that it never sent, and its partner takes a snapshot alone. What both then show there.
fn the_owner_dies_before_a_snapshot(bugs: &[Bug]) -> [u8; 2] {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::write);
    pair.begin_write(A, 0, NEW);
    pair.pass_millis(1200);
    pair.crash_keeping_unflushed(A);
    pair.release(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.make(B, snapshot()), Ok(()));
    pair.restart(A);
    pair.until_whole();
    NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0))
}

/// A clone that a partner makes of its own half lacks what that lacked: it is marked, though another rule sees to it that a half
/// holds nothing that the other has not.
#[test]
fn what_a_half_lacked_is_marked_in_the_clone_of_it() {
    assert_eq!(the_owner_dies_before_a_snapshot(&[]), [OLD; 2]);
    assert_eq!(the_owner_dies_before_a_snapshot(&[Bug::OwnerReadsUnacknowledged]), [OLD; 2]);
    let both = [Bug::CloneMarksForgotten, Bug::OwnerReadsUnacknowledged];
    assert_eq!(the_owner_dies_before_a_snapshot(&both), [NEW, OLD]);
}

/// What a partner that was away is told of while it is brought up to date.
#[test]
fn a_target_learns_of_a_snapshot_too() {
    let mut pair = Pair::with(&[]);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    for block in 0..50 {
        pair.write(A, block * 64, NEW).expect("written alone");
    }
    pair.hold(A, said::copy_stable);
    pair.restart(B);
    pair.until_phase(B, PeerPhase::Target);
    pair.pass_millis(50);
    let take = pair.begin_clones(A, snapshot());
    pair.write(A, 64, LATER).expect("written");
    pair.release(A);
    pair.until_whole();
    assert_eq!(pair.outcome(take), Some(Ok(())));
    assert_eq!([0, 64, 128].map(|block| on_both(&mut pair, SNAPSHOT, block)), [NEW; 3]);
    assert_eq!(on_both(&mut pair, VOLUME, 64), LATER);
}

/// A partner with new disks gets them as a whole, and they are snapshots there too.
#[test]
fn new_disks_get_the_snapshots_as_a_whole() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    assert_eq!(pair.make(A, snapshot()), Ok(()));
    pair.write(A, 0, LATER).expect("written");
    pair.flush(A).expect("flushed");
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.replace_disk(B);
    pair.restart(B);
    pair.until_whole();
    pair.pass_millis(100);
    assert_eq!((on_both(&mut pair, SNAPSHOT, 0), on_both(&mut pair, VOLUME, 0)), (NEW, LATER));
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(pair.write_to(B, SNAPSHOT, 0, LATER).map(drop), Err(GuestError::ReadOnly));
    assert_eq!(pair.make(B, clone()), Ok(()), "of a snapshot, though its model is another volume here");
    pair.restart(A);
    pair.until_whole();
    assert_eq!(on_both(&mut pair, CLONE, 0), NEW);
}

/// A number that only the node which was away has in use: it gives way to what the one whose data stand has made of it.
#[test]
fn a_number_that_was_given_out_twice_belongs_to_the_one_that_goes_on() {
    let (mut pair, take, _) = stopped_at(At::Taken);
    pair.crash(A);
    pair.crash(B);
    // The one that comes back first takes itself out, so the other's data stand.
    pair.start(B);
    pair.pass_millis(5000);
    pair.restart(A);
    assert_eq!(pair.outcome(take), None);
    pair.until_whole();
    assert!(NodeName::BOTH.iter().all(|node| !has(&pair, *node, SNAPSHOT)));
    pair.pass_millis(100);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.write(A, 0, 3).expect("written alone");
    assert_eq!(pair.make(A, snapshot_again()), Ok(()));
    pair.write(A, 0, 4).expect("written alone");
    pair.restart(B);
    pair.until_whole();
    assert_eq!((on_both(&mut pair, SNAPSHOT, 0), on_both(&mut pair, VOLUME, 0)), (3, 4));
}

/// Who has not said that he wants to try them makes none, linear ones neither.
#[test]
fn snapshots_have_to_be_wanted() {
    let mut pair = Pair::set_up(Setup { snapshots: false, ..Setup::default() });
    pair.until_paired();
    for (node, of) in [(A, VOLUME), (B, VOLUME), (A, LINEAR)] {
        let refused = pair.make(node, vec![new(SNAPSHOT, of, true)]);
        assert_eq!(refused, Err(VolumeRefusal::Experimental));
    }
    let name = VolumeChange::Keep { name: ItemName::NAME, expect: 0, value: (*b"accounts").into() };
    assert_eq!(pair.change(B, VOLUME, name), Ok(()), "names are not experimental");
}

/// A node that may not serve cannot tell whether there is a volume: its partner may have made it meanwhile.
#[test]
fn a_node_that_may_not_serve_does_not_say_that_a_volume_is_gone() {
    let mut pair = Pair::with(&[]);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.make(A, snapshot()), Ok(()));
    pair.hold(B, said::sets_ask);
    pair.restart(B);
    pair.pass_millis(20);
    let read = pair.ask_volume(B, SNAPSHOT, Command::Read { at: Sectors::new(0, 8) });
    assert_eq!(pair.refusal(read), Some(GuestError::Unavailable));
    pair.release(B);
    pair.until_whole();
    assert_eq!(on_both(&mut pair, SNAPSHOT, 0), OLD);
}
