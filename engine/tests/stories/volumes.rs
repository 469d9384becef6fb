//! Volumes grow and are deleted: both halves or neither, whoever dies at which step, and a partner that was away learns
//! of it when it comes back.

use crate::pair_support::{A, B, DiskHold, Pair, VOLUME, said};
use crate::{NEW, OLD};
use twinsan::guest::{Command, GuestError, Sectors};
use twinsan::ids::{ItemName, NodeName};
use twinsan::mirror::message::{Control, PeerPhase, VolumeChange, VolumeRefusal};
use twinsan::planted::Bug;

/// What the volume has at first, in sectors: not a whole number of extents.
const SMALL: u64 = 200_000;
const LARGE: u64 = 300_008;
const GROW: VolumeChange = VolumeChange::Grow { sectors: LARGE };
const NAME: ItemName = ItemName(7);
/// The first block behind the old end.
const BEYOND: u64 = SMALL / 8;

/// Something is kept, in place of what has this revision.
fn keep(text: &str, expect: u64) -> VolumeChange {
    VolumeChange::Keep { name: NAME, expect, value: text.as_bytes().into() }
}

fn changes() -> [VolumeChange; 3] {
    [GROW, VolumeChange::Delete, keep("kept", 0)]
}

fn sizes(pair: &Pair) -> [Option<u64>; 2] {
    NodeName::BOTH.map(|node| pair.size(node, VOLUME))
}

fn tables_agree(pair: &Pair) -> bool {
    pair.table(A) == pair.table(B)
}

/// At which step of a change something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// The partner has not heard of it.
    Asked,
    /// The partner has heard, and cannot write it down.
    WritingThere,
    /// The owner has not heard that the partner has it in writing.
    Written,
    /// The owner cannot write it down.
    WritingHere,
    /// The partner has not heard that both have it.
    Done,
}

const STEPS: [At; 5] = [At::Asked, At::WritingThere, At::Written, At::WritingHere, At::Done];

/// A pair whose change, asked for at node a, has come to this step.
fn stopped_at(at: At, what: &VolumeChange) -> (Pair, u64) {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    match at {
        At::Asked => pair.hold(B, said::volume_change),
        At::WritingThere => pair.hold_disk(B, DiskHold::Flushes),
        At::Written => pair.hold(A, said::volume_changed),
        At::WritingHere => pair.hold_disk(A, DiskHold::Flushes),
        At::Done => pair.hold(B, said::volume_shown),
    }
    let change = pair.begin_change(A, VOLUME, what.clone());
    assert_eq!(pair.outcome(change), (at == At::Done).then_some(Ok(())), "{at:?}");
    (pair, change)
}

/// Is the volume as if the change had happened, on both nodes; or as if it had not, on both?
fn happened(pair: &mut Pair, what: &VolumeChange) -> bool {
    assert!(tables_agree(pair), "{:?} and {:?}", pair.table(A), pair.table(B));
    let (volumes, deleted) = pair.table(A);
    let happened = match what {
        VolumeChange::Grow { sectors } => volumes == [(VOLUME, *sectors)],
        VolumeChange::Delete => deleted == [VOLUME],
        VolumeChange::Keep { .. } => pair.kept(A, VOLUME).contains_key(&NAME),
    };
    match what {
        VolumeChange::Delete if happened => assert_eq!(sizes(pair), [None; 2]),
        VolumeChange::Delete => {
            assert_eq!(NodeName::BOTH.map(|node| pair.read(node, 0)), [NEW; 2], "it has its data back");
        }
        VolumeChange::Keep { .. } => {
            assert_eq!(pair.kept(A, VOLUME), pair.kept(B, VOLUME), "the same is in force on both");
            assert_eq!(NodeName::BOTH.map(|node| pair.read(node, 0)), [NEW; 2]);
        }
        VolumeChange::Grow { .. } => {
            assert_eq!(sizes(pair), [Some(if happened { LARGE } else { SMALL }); 2]);
            assert_eq!(NodeName::BOTH.map(|node| pair.read(node, 0)), [NEW; 2]);
        }
    }
    happened
}

#[test]
fn a_volume_grows_on_both_nodes_whoever_is_asked() {
    for asked in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.write(A, BEYOND - 1, NEW).expect("written");
        pair.flush(A).expect("flushed");
        assert_eq!(pair.change(asked, VOLUME, GROW), Ok(()));
        assert_eq!(sizes(&pair), [Some(LARGE); 2]);
        for node in NodeName::BOTH {
            assert_eq!(
                pair.read(node, BEYOND),
                OLD,
                "the extent with the old end is mapped, and reads as zero there"
            );
            pair.write(node, BEYOND + 7 + node.index() as u64, NEW).expect("written beyond the old end");
            pair.write(node, LARGE / 8 - 1, NEW).expect("written at the new end");
        }
        assert_eq!(pair.change(asked, VOLUME, GROW), Ok(()), "it is so already");
        let shrink = VolumeChange::Grow { sectors: SMALL };
        assert_eq!(pair.change(asked, VOLUME, shrink), Err(VolumeRefusal::NotLarger { sectors: LARGE }));
        for node in NodeName::BOTH {
            pair.crash(node.partner());
            pair.until_phase(node, PeerPhase::Alone);
            pair.restart(node.partner());
            pair.until_whole();
        }
        assert_eq!(sizes(&pair), [Some(LARGE); 2]);
        assert_eq!(pair.read(B, BEYOND + 7), NEW);
    }
}

#[test]
fn a_deleted_volume_is_refused_at_once_and_its_space_comes_back() {
    for asked in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        for block in 0..40 {
            pair.write(A, block * 256, NEW).expect("written");
        }
        pair.flush(A).expect("flushed");
        assert!(NodeName::BOTH.iter().all(|node| pair.bytes_used(*node) == 40 << 20));
        assert_eq!(pair.change(asked, VOLUME, VolumeChange::Delete), Ok(()));
        for node in NodeName::BOTH {
            for command in [
                Command::Read { at: Sectors::new(0, 8) },
                Command::Zero { at: Sectors::new(0, 8), fua: false },
                Command::Flush,
            ] {
                let request = pair.ask_volume(node, VOLUME, command);
                assert_eq!(pair.refusal(request), Some(GuestError::Gone));
            }
            assert_eq!(pair.bytes_used(node), 0);
        }
        assert_eq!(pair.change(asked, VOLUME, GROW), Err(VolumeRefusal::Unknown(VOLUME)));
        for node in NodeName::BOTH {
            pair.crash(node);
            pair.restart(node);
            pair.until_paired();
        }
        assert_eq!(
            pair.table(A),
            (vec![], vec![VOLUME]),
            "the configuration names it, and it is not made again"
        );
        assert!(tables_agree(&pair));
    }
}

/// Writes that are on their way when the volume is to be deleted end first; later ones are refused.
#[test]
fn a_delete_waits_for_what_is_in_hand() {
    for writer in NodeName::BOTH {
        let mut pair = Pair::with(&[]);
        pair.hold(A, said::write_done);
        let write = pair.begin_write(writer, 5, NEW);
        let delete = pair.begin_change(A, VOLUME, VolumeChange::Delete);
        assert_eq!((pair.outcome(delete), pair.has_said(A, said::volume_change)), (None, 0));
        let late = pair.begin_write(A, 6, NEW);
        assert_eq!(pair.refusal(late), Some(GuestError::Gone));
        let forwarded = pair.begin_write(B, 7, NEW);
        pair.release(A);
        assert!(pair.is_acknowledged(write));
        assert_eq!(pair.refusal(forwarded), Some(GuestError::Gone));
        assert_eq!(pair.outcome(delete), Some(Ok(())));
    }
}

/// One of the two dies at each step of a change, and comes back to the other.
#[test]
fn a_change_happens_on_both_or_on_neither_whoever_dies() {
    for what in changes() {
        for at in STEPS {
            for victim in NodeName::BOTH {
                let (mut pair, change) = stopped_at(at, &what);
                pair.dies_and_comes_back(victim);
                pair.pass_millis(500);
                let happened = happened(&mut pair, &what);
                let acknowledged = pair.outcome(change) == Some(Ok(()));
                assert!(happened || !acknowledged, "{what:?}, {victim} dies at {at:?}");
                // The owner goes on with what it was asked for.
                assert!(happened || victim == A, "{what:?}, {victim} dies at {at:?}");
            }
        }
    }
}

/// Both die, and come back in either order.
#[test]
fn a_change_happens_on_both_or_on_neither_though_both_die() {
    for what in changes() {
        for at in STEPS {
            for first in NodeName::BOTH {
                let (mut pair, change) = stopped_at(at, &what);
                let acknowledged = pair.outcome(change) == Some(Ok(()));
                pair.both_die(first);
                pair.pass_millis(500);
                assert!(happened(&mut pair, &what) || !acknowledged, "{what:?} at {at:?}");
            }
        }
    }
}

/// The link is lost for a moment at each step: the pair goes on, and so does the change.
#[test]
fn a_change_survives_a_link_that_comes_back() {
    for what in changes() {
        for at in STEPS {
            let (mut pair, change) = stopped_at(at, &what);
            pair.cut_and_release();
            pair.pass_millis(50);
            pair.heal();
            pair.until("the operator has an answer", |pair| pair.outcome(change).is_some());
            assert_eq!(pair.outcome(change), Some(Ok(())), "{what:?} at {at:?}");
            pair.pass_millis(100);
            assert!(happened(&mut pair, &what));
        }
    }
}

/// The link is lost for good; then the nodes find each other again.
#[test]
fn a_change_is_settled_by_the_one_that_goes_on() {
    for what in changes() {
        for at in STEPS {
            let (mut pair, change) = stopped_at(at, &what);
            pair.cut_and_release();
            pair.pass_millis(6000);
            let outcome = pair.outcome(change).expect("nobody is kept waiting");
            pair.heal();
            pair.until_paired();
            pair.pass_millis(500);
            let happened = happened(&mut pair, &what);
            assert!(happened || outcome == Err(VolumeRefusal::Interrupted), "{what:?} at {at:?}");
        }
    }
}

/// What a partner that was away knows of the volume when it is back: its size on both nodes, after a grow that the
/// survivor made alone.
fn grown_while_the_partner_was_away(bugs: &[Bug]) -> [u64; 2] {
    let mut pair = Pair::with(bugs);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.change(A, VOLUME, GROW), Ok(()));
    pair.restart(B);
    pair.until_paired();
    NodeName::BOTH.map(|node| pair.half(node).sectors)
}

/// Were it not told, it would take the owner's next write beyond its own end for nonsense.
#[test]
fn a_partner_that_was_away_learns_what_became_of_the_volumes() {
    assert_eq!(grown_while_the_partner_was_away(&[]), [LARGE; 2]);
    assert_eq!(grown_while_the_partner_was_away(&[Bug::AbsentPartnerNotTold]), [LARGE, SMALL]);
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.change(A, VOLUME, VolumeChange::Delete), Ok(()));
    assert_eq!(pair.bytes_used(A), 0);
    pair.restart(B);
    pair.until_paired();
    pair.pass_millis(100);
    assert!(tables_agree(&pair));
    assert_eq!(pair.bytes_used(B), 0);
}

/// A change while the partner is being brought up to date: it is told at once, by beginning anew.
#[test]
fn a_target_learns_of_a_change_too() {
    for what in changes() {
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
        let change = pair.begin_change(A, VOLUME, what.clone());
        pair.release(A);
        pair.until_paired();
        pair.pass_millis(200);
        assert_eq!(pair.outcome(change), Some(Ok(())));
        assert!(happened(&mut pair, &what));
    }
}

/// The owner has told its partner, which dies at once; the owner dies before it has told anyone else. What the
/// survivor has of an acknowledged change.
fn after_the_owner_dies(what: VolumeChange, bugs: &[Bug]) -> (Option<Result<(), VolumeRefusal>>, bool) {
    let mut pair = Pair::with(bugs);
    pair.hold(B, said::volume_change);
    let change = pair.begin_change(A, VOLUME, what);
    let outcome = pair.outcome(change);
    pair.crash(A);
    pair.release(B);
    pair.until_phase(B, PeerPhase::Alone);
    let (volumes, deleted) = pair.table(B);
    (outcome, volumes == [(VOLUME, LARGE)] || deleted == [VOLUME] || !pair.kept(B, VOLUME).is_empty())
}

/// Were a change acknowledged before the partner has it, it would be taken back when the owner dies.
#[test]
fn a_change_is_acknowledged_when_both_have_it() {
    let bugs = [Bug::GrownBeforePartner, Bug::DeletedBeforePartner, Bug::KeptBeforePartner];
    for (what, bug) in changes().into_iter().zip(bugs) {
        assert_eq!(after_the_owner_dies(what.clone(), &[]), (None, false));
        assert_eq!(after_the_owner_dies(what, &[bug]), (Some(Ok(())), false), "taken back");
    }
}

#[test]
fn a_linear_volume_grows_and_is_deleted_on_its_node() {
    use crate::pair_support::LINEAR;
    let mut pair = Pair::with(&[]);
    let write = pair.begin_linear_write(A, 3, NEW);
    pair.finish(write).expect("written");
    assert_eq!(pair.change(A, LINEAR, GROW), Ok(()));
    assert_eq!((pair.size(A, LINEAR), pair.size(B, LINEAR)), (Some(LARGE), Some(SMALL)));
    assert_eq!(pair.change(A, LINEAR, VolumeChange::Delete), Ok(()));
    pair.crash(A);
    pair.restart(A);
    pair.until_paired();
    assert_eq!((pair.size(A, LINEAR), pair.size(B, LINEAR)), (None, Some(SMALL)));
    assert_eq!(pair.bytes_used(A), 0);
}

/// The record that deletes a linear volume is not durable when the node dies; the space that it had is wanted by
/// another volume. What the deleted one, which is back, reads afterwards.
fn read_after_an_undurable_delete(bugs: &[Bug]) -> Option<u8> {
    use crate::pair_support::LINEAR;
    let mut pair = Pair::with(bugs);
    for block in 0..3 {
        let write = pair.begin_linear_write(A, block * 256, NEW);
        pair.finish(write).expect("written");
    }
    // From now on the area is hot, and all that is written is on disk.
    pair.write(A, 0, NEW).expect("written");
    pair.pass_millis(5000);
    pair.hold_disk(A, DiskHold::Flushes);
    let delete = pair.begin_change(A, LINEAR, VolumeChange::Delete);
    assert_eq!(pair.outcome(delete), None, "not durable");
    for block in 1..4 {
        let write = pair.begin_write(A, block * 256, 7);
        assert!(pair.is_acknowledged(write));
    }
    pair.pass_millis(1500);
    pair.crash_keeping_data(A);
    pair.restart(A);
    pair.until_paired();
    let read = pair.ask_volume(A, LINEAR, Command::Read { at: Sectors::new(0, 8) });
    pair.until("an answer", |pair| !pair.is_open(read));
    match pair.seen(read) {
        crate::pair_support::Look::Shows(fill) => Some(fill),
        _ => None,
    }
}

/// Were space given out again before that, a crash would bring the volume back with somebody else's data, or none.
#[test]
fn the_space_of_a_deleted_volume_is_free_when_that_is_durable() {
    assert_eq!(read_after_an_undurable_delete(&[]), Some(NEW));
    assert_ne!(read_after_an_undurable_delete(&[Bug::DeletedSpaceReusedEarly]), Some(NEW));
}

/// Two ask at both nodes, one after the other, on the ground of the same. What came of it, and what is kept.
fn two_who_have_seen_the_same(bugs: &[Bug]) -> ([Option<Result<(), VolumeRefusal>>; 2], Vec<u8>) {
    let mut pair = Pair::with(bugs);
    let first = pair.change(A, VOLUME, keep("of one", 0));
    let second = pair.change(B, VOLUME, keep("of the other", 0));
    assert_eq!(pair.kept(A, VOLUME), pair.kept(B, VOLUME));
    ([Some(first), Some(second)], pair.kept(B, VOLUME)[&NAME].value.to_vec())
}

/// Were it replaced whatever it is by now, one would be told that it is kept what another has replaced unseen.
#[test]
fn of_two_who_have_seen_the_same_one_is_refused() {
    let refused = Some(Err(VolumeRefusal::Changed { revision: 1 }));
    assert_eq!(two_who_have_seen_the_same(&[]), ([Some(Ok(())), refused], b"of one".to_vec()));
    let (outcomes, kept) = two_who_have_seen_the_same(&[Bug::KeptUncompared]);
    assert_eq!((outcomes, kept), ([Some(Ok(())), Some(Ok(()))], b"of the other".to_vec()));
}

#[test]
fn what_is_kept_is_in_force_on_both_nodes_when_it_is_answered_until_it_is_replaced() {
    let mut pair = Pair::with(&[]);
    for (round, asked) in [A, B, A, B].into_iter().enumerate() {
        let (round, text) = (round as u64, format!("round {round}"));
        assert_eq!(pair.change(asked, VOLUME, keep(&text, round)), Ok(()));
        for node in NodeName::BOTH {
            let item = &pair.kept(node, VOLUME)[&NAME];
            assert_eq!((item.revision, &*item.value), (round + 1, text.as_bytes()));
        }
    }
    for victim in NodeName::BOTH {
        pair.crash(victim);
        pair.until_phase(victim.partner(), PeerPhase::Alone);
        assert_eq!(pair.kept(victim.partner(), VOLUME)[&NAME].revision, 4);
        pair.restart(victim);
        pair.until_paired();
        assert_eq!(pair.kept(victim, VOLUME)[&NAME].revision, 4);
    }
    assert_eq!(pair.change(B, VOLUME, keep("", 4)), Ok(()));
    assert!(NodeName::BOTH.iter().all(|node| pair.kept(*node, VOLUME).is_empty()));
}

/// A partner that was away has what was replaced or kept meanwhile, and no more what is not kept any more.
#[test]
fn a_partner_that_was_away_has_what_is_kept() {
    let mut pair = Pair::with(&[]);
    let other = VolumeChange::Keep { name: ItemName(8), expect: 0, value: (*b"other").into() };
    assert_eq!(pair.change(A, VOLUME, other), Ok(()));
    assert_eq!(pair.change(A, VOLUME, keep("old", 0)), Ok(()));
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.change(A, VOLUME, keep("new", 2)), Ok(()));
    let gone = VolumeChange::Keep { name: ItemName(8), expect: 1, value: (*b"").into() };
    assert_eq!(pair.change(A, VOLUME, gone), Ok(()));
    pair.restart(B);
    pair.until_paired();
    assert_eq!(pair.kept(A, VOLUME), pair.kept(B, VOLUME));
    assert_eq!(pair.kept(B, VOLUME).keys().collect::<Vec<_>>(), [&NAME]);
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!(&*pair.kept(B, VOLUME)[&NAME].value, b"new");
}

/// A node that was started anew, or that came back and then lost its partner, holds requests before it serves. What is
/// kept says which of them may be done, so it is to be seen by then.
#[test]
fn what_is_kept_is_seen_before_requests_are_held() {
    let mut pair = Pair::with(&[]);
    assert_eq!(pair.change(A, VOLUME, keep("kept", 0)), Ok(()));
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.crash(A);
    pair.restart(A);
    pair.until_phase(A, PeerPhase::Deciding);
    let write = pair.begin_write(A, 0, NEW);
    assert!(pair.is_open(write), "held");
    assert_eq!(&*pair.kept(A, VOLUME)[&NAME].value, b"kept");
    pair.until_phase(A, PeerPhase::Alone);
    assert!(pair.finish(write).is_ok());
}

/// Whoever asked may be gone when it is decided who serves, like those whose requests were refused by then. But what the
/// partner was told it may have in writing: no other change takes that number.
#[test]
fn a_change_does_not_wait_for_a_verdict_that_does_not_come_unless_the_partner_may_have_it() {
    for told in [false, true] {
        let mut pair = Pair::with(&[]);
        pair.hold(B, said::volume_change);
        pair.lose_arbiter(A);
        if !told {
            pair.crash(B);
        }
        let change = pair.begin_change(A, VOLUME, keep("late", 0));
        if told {
            pair.crash(B);
        }
        pair.pass_millis(60_000);
        assert_eq!(pair.outcome(change), if told { None } else { Some(Err(VolumeRefusal::Interrupted)) });
        pair.release_arbiter(A);
        pair.until_phase(A, PeerPhase::Alone);
        pair.until("it is over", |pair| pair.outcome(change).is_some());
        assert_eq!(!pair.kept(A, VOLUME).is_empty(), told);
    }
}

#[test]
fn what_is_too_much_is_refused_and_nothing_is_lost() {
    let mut pair = Pair::with(&[]);
    assert_eq!(pair.change(B, VOLUME, keep(&"x".repeat(40_000), 0)), Err(VolumeRefusal::NoRoom));
    assert_eq!(pair.change(A, VOLUME, keep("enough", 0)), Ok(()));
    assert_eq!(&*pair.kept(B, VOLUME)[&NAME].value, b"enough");
}

/// The partner has deleted the volume, and the owner has not heard of it, when the owner's scrub finds a damaged block
/// and asks the partner for it. Were the block kept for the answer, nothing would take the volume apart, and a node that
/// is at that does not join a pair again.
#[test]
fn a_deleted_volume_is_taken_apart_though_the_partner_was_asked_for_a_block_of_it() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.until("all is cold", |pair| pair.half(A).hot.is_empty() && pair.half(B).hot.is_empty());
    // Node a owns the volume again, with nothing in its cache.
    for victim in NodeName::BOTH {
        pair.crash(victim);
        pair.until_phase(victim.partner(), PeerPhase::Alone);
        pair.restart(victim);
        pair.until_paired();
    }
    pair.stop_comparing();
    pair.rot(A, 0);
    pair.hold(A, said::volume_changed);
    let delete = pair.begin_change(A, VOLUME, VolumeChange::Delete);
    pair.pass_millis(10);
    assert!(pair.under_way(A) > 0, "the partner has it in writing");
    pair.scrub(A, true);
    pair.pass_millis(10);
    assert_eq!(pair.has_said(A, said::read_ask), 1);
    pair.release(A);
    pair.until("the volume is deleted", |pair| pair.outcome(delete) == Some(Ok(())));
    pair.until("nothing is left of it", |pair| pair.being_deleted(A) == 0);
    assert_eq!(pair.bytes_used(A), 0);
}

/// The partner refuses a change that the owner has told it. This version refuses only what it has no room for; were the
/// owner to count on that, a volume that stays would be closed for as long as the node lives.
#[test]
fn a_change_that_the_partner_refuses_leaves_the_volume_as_it_was() {
    for what in changes() {
        let (mut pair, change) = stopped_at(At::Asked, &what);
        let epoch = pair.register.expect("a pair").epoch;
        let refusal = VolumeRefusal::NoRoom;
        pair.slip(A, Control::VolumeRefused { epoch, volume: VOLUME, change: 1, refusal });
        assert_eq!(pair.outcome(change), Some(Err(refusal)));
        assert_eq!((pair.table(A), pair.size(A, VOLUME)), ((vec![(VOLUME, SMALL)], vec![]), Some(SMALL)));
        assert_eq!(pair.read(A, 0), NEW, "{what:?}");
        let write = pair.begin_write(A, 1, NEW);
        assert_eq!(pair.refusal(write), None, "{what:?}");
    }
}
