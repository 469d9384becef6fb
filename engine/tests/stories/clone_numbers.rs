//! Numbers of snapshots that are deleted: they are forgotten when nobody needs them any more, and none is given out twice.

use crate::clones_review::{epoch, has, new};
use crate::pair_support::{A, B, DiskHold, Pair, VOLUME};
use crate::{NEW, OLD};
use twinsan::ids::{NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{Body, Control, NewClone, PeerPhase, VolumeChange};

const SNAPSHOT: VolumeId = VolumeId(1000);
const CLONE: VolumeId = VolumeId(1003);

fn numbers_kept(pair: &Pair) -> [Vec<u32>; 2] {
    NodeName::BOTH.map(|node| {
        let deleted = pair.view(node).map_or_else(Vec::new, |view| view.deleted);
        deleted.into_iter().map(|volume| volume.0).collect()
    })
}

/// Numbers of deleted snapshots are not used up: both nodes forget all but the last, which is not given out again.
#[test]
fn numbers_of_snapshots_are_enough() {
    let mut pair = Pair::with(&[]);
    let number = |n: u32| VolumeId(3000 + 3 * n);
    for n in 0..1000 {
        assert_eq!(pair.make(A, vec![new(number(n), VOLUME, true)]), Ok(()), "{n} were made and deleted");
        assert_eq!(pair.change(A, number(n), VolumeChange::Delete), Ok(()));
        pair.pass_millis(10);
    }
    assert_eq!(numbers_kept(&pair), [[number(999).0]; 2]);
    // Nor are the numbers of the machines that served them, of which there are 65,536.
    assert_eq!(pair.make(A, vec![new(number(1000), VOLUME, true)]), Ok(()));
    assert_eq!(pair.make(A, vec![new(number(1001), number(1000), false)]), Ok(()));
    pair.write_to(B, number(1001), 0, NEW).expect("written");
    let many = |body: &Body| matches!(body, Body::Forward { id, .. } if id >> 48 > 10);
    let any = |body: &Body| matches!(body, Body::Forward { .. });
    assert!(pair.has_said(B, any) > 0 && pair.has_said(B, many) == 0);
    for n in [1001, 1000] {
        assert_eq!(pair.change(A, number(n), VolumeChange::Delete), Ok(()));
    }
    pair.pass_millis(100);
    // What a partner that is away has to hear of stays until it has.
    for n in 1010..1013 {
        assert_eq!(pair.make(A, vec![new(number(n), VOLUME, true)]), Ok(()));
    }
    assert_eq!(pair.make(A, vec![new(number(1013), number(1010), false)]), Ok(()));
    pair.pass_millis(10);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    for n in [1010, 1012, 1013] {
        assert_eq!(pair.change(A, number(n), VolumeChange::Delete), Ok(()));
    }
    pair.pass_millis(100);
    let gone = [1000, 1001, 1010, 1012, 1013].map(|n| number(n).0);
    assert_eq!(numbers_kept(&pair), [gone.to_vec(), Vec::new()], "b is down");
    pair.restart(B);
    pair.until_whole();
    pair.pass_millis(100);
    // The last was made of this one, and names it.
    let last = [1010, 1013].map(|n| number(n).0);
    assert_eq!(numbers_kept(&pair), [last; 2]);
    assert_eq!(pair.read_of(A, number(1011), 0), pair.read_of(B, number(1011), 0));
    // A crash brings nothing back.
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.restart(A);
    pair.until_whole();
    assert_eq!(numbers_kept(&pair), [last; 2]);
}

/// A partner forgets a deleted snapshot when the owner has said of its deletion, and of nothing that came before, that it has it
/// in writing: else the owner could come back with it, and the partner make it anew of a volume that has gone on.
#[test]
fn a_deletion_that_the_owner_does_not_have_is_not_forgotten() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, OLD).expect("written");
    for volume in [SNAPSHOT, CLONE] {
        assert_eq!(pair.make(A, vec![new(volume, VOLUME, true)]), Ok(()));
    }
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold_disk(A, DiskHold::Flushes);
    let change = pair.begin_change(A, SNAPSHOT, VolumeChange::Delete);
    pair.pass_millis(100);
    assert!(pair.outcome(change).is_none() && numbers_kept(&pair)[1] == [SNAPSHOT.0]);
    let epoch = epoch(&pair, B);
    pair.slip(B, Control::VolumeShown { epoch, volume: SNAPSHOT, change: 1 });
    pair.pass_millis(100);
    assert_eq!(numbers_kept(&pair)[1], [SNAPSHOT.0]);
    pair.crash(A);
    pair.crash(B);
    pair.release_disk(A);
    pair.restart(A);
    pair.restart(B);
    pair.until_whole();
    pair.pass_millis(100);
    let [a, b] =
        NodeName::BOTH.map(|node| has(&pair, node, SNAPSHOT).then(|| pair.read_of(node, SNAPSHOT, 0)));
    assert!(a == b && a.is_none_or(|shown| shown == OLD), "{a:?} {b:?}");
}

/// A number that another volume got is not forgotten for what was said of the one before.
#[test]
fn a_number_that_lives_again_is_not_forgotten_for_its_first_life() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    assert_eq!(pair.make(A, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
    assert_eq!(pair.change(A, SNAPSHOT, VolumeChange::Delete), Ok(()));
    pair.pass_millis(100);
    assert_eq!(numbers_kept(&pair), [[SNAPSHOT.0]; 2], "it is the largest");
    let again = NewClone { uuid: Uuid(9), ..new(SNAPSHOT, VOLUME, true) };
    assert_eq!(pair.make(A, vec![again]), Ok(()));
    assert_eq!(pair.make(A, vec![new(CLONE, VOLUME, true)]), Ok(()));
    pair.hold_disk(A, DiskHold::Flushes);
    let change = pair.begin_change(A, SNAPSHOT, VolumeChange::Delete);
    pair.pass_millis(100);
    assert!(pair.outcome(change).is_none());
    assert_eq!(numbers_kept(&pair)[1], [SNAPSHOT.0], "the owner does not have it in writing");
    pair.release_disk(A);
    pair.pass_millis(100);
    assert_eq!(pair.outcome(change), Some(Ok(())));
    assert_eq!(numbers_kept(&pair), [[], []] as [[u32; 0]; 2]);
}
