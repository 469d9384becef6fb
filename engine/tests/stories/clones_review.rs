//! Snapshots and clones where several things go wrong at once: numbers that were given out twice, tables that do not fit, orders
//! that come late, disks that hang.

use crate::NEW;
use crate::pair_support::{A, B, DiskHold, LINEAR, Pair, Setup, VOLUME, said};
use twinsan::block::{BLOCK_BYTES, PagePool, Payload, payload_from};
use twinsan::guest::Sectors;
use twinsan::ids::{Epoch, Generation, ItemName, NodeName, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::mirror::message::{
    Body, Control, Deadline, Manner, Message, NewClone, PeerPhase, VolumeChange, VolumeEntry, VolumeRefusal,
};
use twinsan::node::event::Notice;
use twinsan::pool::CloneRefusal;

const SNAPSHOT: VolumeId = VolumeId(1000);
const CLONE: VolumeId = VolumeId(1003);
const LATER: u8 = 2;

/// Which messages stay under way.
type Held = fn(&Body) -> bool;

pub(crate) fn new(volume: VolumeId, of: VolumeId, read_only: bool) -> NewClone {
    NewClone { volume, of, uuid: Uuid(u128::from(volume.0)), name: format!("{volume} of {of}"), read_only }
}

pub(crate) fn has(pair: &Pair, node: NodeName, volume: VolumeId) -> bool {
    pair.table(node).0.iter().any(|(id, _)| *id == volume)
}

pub(crate) fn epoch(pair: &Pair, node: NodeName) -> Epoch {
    pair.view(node).expect("alive").epoch
}

/// A number that was given out for another snapshot, by a node that died, must not keep the mirror from becoming whole.
#[test]
fn a_number_that_the_partner_gave_out_too_does_not_keep_it_away() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold(A, said::clones_taken);
    pair.begin_clones(A, vec![new(SNAPSHOT, VOLUME, true)]);
    assert!(has(&pair, B, SNAPSHOT) && !has(&pair, A, SNAPSHOT));
    pair.crash(A);
    pair.crash(B);
    pair.start(B);
    pair.pass_millis(5000);
    pair.crash(B);
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
    let again = NewClone { uuid: Uuid(9), ..new(SNAPSHOT, VOLUME, true) };
    assert_eq!(pair.make(A, vec![again]), Ok(()));
    pair.write(A, 0, LATER).expect("written alone");
    pair.restart(B);
    pair.until_whole();
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
}

/// The same of a snapshot and a clone of it: the one names the other.
#[test]
fn numbers_that_name_each_other_give_way() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    let epoch = epoch(&pair, B);
    let both = || [new(SNAPSHOT, VOLUME, true), new(CLONE, SNAPSHOT, false)];
    for (id, clone) in (50..).zip(both()) {
        pair.slip(B, Control::ClonesTake { epoch, id, clones: vec![clone] });
        pair.pass_millis(10);
    }
    assert!(has(&pair, B, CLONE) && !has(&pair, A, CLONE));
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    for clone in both() {
        let uuid = Uuid(clone.uuid.0 + 7);
        assert_eq!(pair.make(A, vec![NewClone { uuid, ..clone }]), Ok(()));
    }
    pair.write(A, 0, LATER).expect("written alone");
    pair.write_to(A, CLONE, 0, 3).expect("written alone");
    pair.restart(B);
    pair.until_whole();
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, CLONE, 0)), [3; 2]);
    for (volume, name) in [(SNAPSHOT, "1000 of 1"), (CLONE, "1003 of 1000")] {
        for node in NodeName::BOTH {
            assert_eq!(pair.kept(node, volume)[&ItemName::NAME].value[..], *name.as_bytes());
        }
    }
    // And over a restart, from what is written down.
    pair.crash(A);
    pair.until_phase(B, PeerPhase::Alone);
    pair.crash(B);
    pair.restart(B);
    pair.until_phase(B, PeerPhase::Alone);
    assert_eq!([SNAPSHOT, CLONE].map(|volume| pair.read_of(B, volume, 0)), [NEW, 3]);
    pair.restart(A);
    pair.until_whole();
}

/// A node that lost with a write in flight makes the snapshots that its partner took meanwhile, and comes back.
#[test]
fn a_node_that_lost_with_a_write_in_flight_comes_back() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold(B, said::write);
    let lost = pair.begin_write(A, 1, LATER);
    pair.lose_arbiter(A);
    pair.cut();
    pair.release(B);
    pair.until_phase(B, PeerPhase::Alone);
    pair.release_arbiter(A);
    pair.until_phase(A, PeerPhase::Lost);
    assert!(!pair.is_acknowledged(lost));
    assert_eq!(pair.make(B, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
    pair.write(B, 0, LATER).expect("written alone");
    pair.heal();
    pair.until_whole();
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
}

/// Snapshots are made and deleted in turn: the partner that missed a whole round takes the new ones.
#[test]
fn a_partner_that_missed_a_round_of_snapshots_comes_back() {
    let disk = Geometry { bytes: 4 << 30, sector_bytes: 512 };
    let mut pair = Pair::set_up(Setup { disk, ..Setup::default() });
    pair.until_paired();
    pair.write(A, 0, NEW).expect("written");
    let round = |first: u32, count: u32| -> Vec<NewClone> {
        (0..count).map(|n| new(VolumeId(first + 3 * n), VOLUME, true)).collect()
    };
    for n in 0..3 {
        assert_eq!(pair.make(A, round(2001 + 300 * n, 44)), Ok(()));
    }
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    for n in 0..3 {
        for old in round(2001 + 300 * n, 44) {
            assert_eq!(pair.change(A, old.volume, VolumeChange::Delete), Ok(()));
        }
        pair.pass_millis(1000);
        assert_eq!(pair.make(A, round(4002 + 300 * n, 44)), Ok(()), "round {n}");
    }
    pair.restart(B);
    pair.until_paired();
    assert_eq!(pair.table(A).0, pair.table(B).0);
}

/// One that is made of a number which gives way at the target is made after it.
#[test]
fn a_clone_of_a_number_that_gives_way_is_made() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    // Only node b has ever heard of 1003.
    pair.hold(A, said::clones_taken);
    pair.begin_clones(A, vec![new(CLONE, VOLUME, true)]);
    pair.crash(A);
    pair.crash(B);
    pair.start(B);
    pair.pass_millis(5000);
    pair.restart(A);
    pair.until_whole();
    pair.pass_millis(100);
    assert!(pair.table(B).1.contains(&CLONE) && !pair.table(A).1.contains(&CLONE));
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    let again = NewClone { uuid: Uuid(9), ..new(CLONE, VOLUME, true) };
    assert_eq!(pair.make(A, vec![again]), Ok(()));
    assert_eq!(pair.make(A, vec![new(SNAPSHOT, CLONE, false)]), Ok(()));
    pair.write(A, 0, LATER).expect("written alone");
    pair.restart(B);
    pair.pass_millis(20_000);
    assert_eq!(pair.phases(), [Some(PeerPhase::Paired); 2], "{:?}", pair.notices(B).last());
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
}

/// Hosts of the partner see nothing that the owner does not have in writing, also when the link comes back.
#[test]
fn a_snapshot_is_not_shown_before_the_owner_has_it() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold_disk(A, DiskHold::Flushes);
    let take = pair.begin_clones(A, vec![new(SNAPSHOT, VOLUME, true)]);
    assert_eq!((pair.outcome(take), pair.size(B, SNAPSHOT)), (None, None));
    pair.cut();
    pair.pass_millis(50);
    pair.heal();
    pair.pass_millis(50);
    assert_eq!((pair.outcome(take), pair.size(B, SNAPSHOT)), (None, None));
    pair.release_disk(A);
    pair.until("the operator has an answer", |pair| pair.outcome(take).is_some());
    assert_eq!((pair.outcome(take), pair.size(B, SNAPSHOT)), (Some(Ok(())), Some(200_000)));
}

/// An order for what was made once and is deleted by now is not done by that.
#[test]
fn a_clone_that_is_deleted_is_not_there() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    assert_eq!(pair.make(A, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
    assert_eq!(pair.change(A, SNAPSHOT, VolumeChange::Delete), Ok(()));
    pair.pass_millis(1000);
    let before = pair.has_said(B, said::clones_taken);
    let clones = vec![new(SNAPSHOT, VOLUME, true)];
    let epoch = epoch(&pair, B);
    pair.slip(B, Control::ClonesTake { epoch, id: 99, clones });
    pair.pass_millis(100);
    let taken = pair.has_said(B, said::clones_taken) - before;
    assert!(taken == 0 || has(&pair, B, SNAPSHOT), "it says that it has what it has not");
}

/// What a snapshot is does not hang on the partner's word.
#[test]
fn a_forwarded_write_does_not_change_a_snapshot() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    assert_eq!(pair.make(A, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
    let epoch = epoch(&pair, A);
    for (id, zero) in [(1, false), (2, true)] {
        let deadline = Deadline { owner_clock: pair.now, spent_nanos: 0, left_nanos: 1_000_000_000 };
        let body = Body::Forward {
            epoch,
            volume: SNAPSHOT,
            id,
            at: Sectors::new(0, 8),
            zero,
            manner: Manner::Replace,
            deadline,
        };
        let data = if zero { Payload::new() } else { payload_from(&PagePool::new(), &[LATER; BLOCK_BYTES]) };
        pair.slip_message(A, Message { body, data });
        pair.pass_millis(1000);
        assert_eq!(pair.read_of(A, SNAPSHOT, 0), NEW, "{zero}");
    }
}

/// The owner has no space for it any more when it is told: refused, and the pair goes on.
#[test]
fn an_owner_that_cannot_make_them_tells_nobody() {
    let mut pair = Pair::set_up(Setup { reserved_bytes: 24 << 20, ..Setup::default() });
    pair.until_paired();
    for block in 0..8 {
        pair.write(A, block * 256, NEW).expect("written");
    }
    pair.flush(A).expect("flushed");
    pair.hold_disk(A, DiskHold::Data);
    pair.write(A, 0, LATER).expect("in both caches");
    let take = pair.begin_clones(A, vec![new(SNAPSHOT, VOLUME, true)]);
    for block in 0..60 {
        let write = pair.begin_linear_write(A, block * 256, NEW);
        if pair.finish(write).is_err() {
            break;
        }
    }
    pair.release_disk(A);
    pair.until("the operator has an answer", |pair| pair.outcome(take).is_some());
    assert!(matches!(pair.outcome(take), Some(Err(VolumeRefusal::Clone(CloneRefusal::NoSpace { .. })))));
    pair.pass_millis(100);
    assert_eq!(pair.phases(), [Some(PeerPhase::Paired); 2]);
    assert!(NodeName::BOTH.iter().all(|node| !has(&pair, *node, SNAPSHOT)));
}

/// A partner whose disk hangs with the order is left behind: writes are not held for ever.
#[test]
fn a_partner_that_hangs_with_an_order_does_not_hold_writes_for_ever() {
    let mut pair = Pair::with(&[]);
    pair.write(A, 0, NEW).expect("written");
    pair.flush(A).expect("flushed");
    pair.hold_disk(B, DiskHold::Flushes);
    let take = pair.begin_clones(A, vec![new(SNAPSHOT, VOLUME, true)]);
    let write = pair.begin_write(A, 0, LATER);
    pair.pass_millis(7_500);
    assert!(pair.is_open(write) && pair.outcome(take).is_none());
    pair.pass_millis(5_000);
    assert!(pair.is_acknowledged(write));
    assert_eq!((pair.outcome(take), pair.phase(A)), (Some(Ok(())), Some(PeerPhase::Alone)));
    pair.release_disk(B);
    pair.until_whole();
    assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
}

/// An operator is told when the disk fails that was to take the clones.
#[test]
fn a_disk_that_fails_leaves_no_operator_waiting() {
    for (asked, clone) in [(A, VOLUME), (B, VOLUME), (A, LINEAR)] {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, NEW).expect("written");
        pair.flush(A).expect("flushed");
        pair.hold_disk(A, DiskHold::Flushes);
        let take = pair.begin_clones(asked, vec![new(SNAPSHOT, clone, true)]);
        assert_eq!(pair.outcome(take), None);
        pair.fail_disk(A);
        pair.pass_millis(10_000);
        assert_eq!(pair.outcome(take), Some(Err(VolumeRefusal::Interrupted)), "{asked} {clone}");
    }
}

/// And so when it was to take a change of a volume.
#[test]
fn a_disk_that_fails_leaves_no_change_waiting() {
    for (volume, what) in [
        (VOLUME, VolumeChange::Grow { sectors: 300_000 }),
        (LINEAR, VolumeChange::Delete),
        (VOLUME, VolumeChange::Keep { name: ItemName::NAME, expect: 0, value: (*b"name").into() }),
    ] {
        let mut pair = Pair::with(&[]);
        pair.hold_disk(A, DiskHold::Flushes);
        let change = pair.begin_change(A, volume, what);
        assert_eq!(pair.outcome(change), None);
        pair.fail_disk(A);
        pair.pass_millis(10_000);
        assert_eq!(pair.outcome(change), Some(Err(VolumeRefusal::Interrupted)), "{volume}");
    }
}

/// An owner whose disk hangs when its partner has the clones holds no write: what is written from then on lies elsewhere.
#[test]
fn an_owner_that_writes_clones_down_holds_no_writes() {
    for dies in [None, Some(A), Some(B)] {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, NEW).expect("written");
        pair.flush(A).expect("flushed");
        pair.hold_disk(A, DiskHold::Flushes);
        let take = pair.begin_clones(A, vec![new(SNAPSHOT, VOLUME, true)]);
        for node in NodeName::BOTH {
            pair.write(node, 0, LATER).expect("in both caches");
        }
        pair.pass_millis(2_000);
        assert_eq!(pair.outcome(take), None);
        match dies {
            Some(node) => pair.dies_and_comes_back(node),
            None => pair.release_disk(A),
        }
        pair.until_whole();
        assert_eq!(NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2], "{dies:?}");
        assert_eq!(NodeName::BOTH.map(|node| pair.read(node, 0)), [LATER; 2], "{dies:?}");
    }
}

/// Whoever stops in the midst of it leaves nobody waiting.
#[test]
fn a_stop_leaves_nobody_waiting() {
    let holds: [(NodeName, Option<Held>); 4] =
        [(B, Some(said::clones_take)), (A, Some(said::clones_taken)), (A, None), (B, None)];
    for (at, held) in holds {
        for leaver in NodeName::BOTH {
            for asked in NodeName::BOTH {
                let mut pair = Pair::with(&[]);
                pair.write(A, 0, NEW).expect("written");
                pair.flush(A).expect("flushed");
                match held {
                    Some(held) => pair.hold(at, held),
                    None => pair.hold_disk(at, DiskHold::Flushes),
                }
                let take = pair.begin_clones(asked, vec![new(SNAPSHOT, VOLUME, true)]);
                let write = pair.begin_write(A, 0, LATER);
                pair.stop(leaver);
                pair.pass_millis(20);
                pair.release(A);
                pair.release(B);
                NodeName::BOTH.iter().for_each(|node| pair.release_disk(*node));
                pair.until_phase(leaver, PeerPhase::Stopped);
                pair.until_phase(leaver.partner(), PeerPhase::Alone);
                pair.pass_millis(15_000);
                let what = format!("{at} {} leaver {leaver} asked {asked}", held.is_some());
                assert!(pair.outcome(take).is_some(), "{what}");
                assert!(!pair.is_open(write), "{what}");
                let there = has(&pair, leaver.partner(), SNAPSHOT);
                assert!(there || pair.outcome(take) != Some(Ok(())), "{what}");
                assert!(there || matches!(pair.outcome(take), Some(Err(_))), "{what}");
                pair.crash(leaver);
                pair.write(leaver.partner(), 0, 3).expect("written alone");
                pair.restart(leaver);
                pair.until_whole();
                assert_eq!(pair.table(A).0, pair.table(B).0, "{what}");
                if there {
                    let found = NodeName::BOTH.map(|node| pair.read_of(node, SNAPSHOT, 0));
                    assert!(found == [NEW; 2] || found == [LATER; 2], "{what} {found:?}");
                }
            }
        }
    }
}

/// What a partner holds of a volume does not get to its disk, so that it cannot make a snapshot of it: it says so.
#[test]
fn a_partner_that_does_not_come_to_rest_says_so() {
    let mut pair = Pair::with(&[]);
    pair.hold_disk(B, DiskHold::Data);
    pair.write(A, 0, NEW).expect("written");
    pair.cut();
    pair.until_phase(A, PeerPhase::Alone);
    assert_eq!(pair.make(A, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
    let told = |pair: &Pair| {
        let says =
            |notice: &&Notice| matches!(notice, Notice::NeedsDecision(what) if what.contains("come to rest"));
        pair.notices(B).iter().filter(says).count()
    };
    pair.heal();
    pair.pass_millis(8_000);
    assert_eq!(told(&pair), 0, "not at once");
    pair.pass_millis(40_000);
    assert!((1..6).contains(&told(&pair)), "{}", told(&pair));
    pair.release_disk(B);
    pair.until_whole();
    pair.pass_millis(100);
    assert_eq!([A, B].map(|node| pair.read_of(node, SNAPSHOT, 0)), [NEW; 2]);
}

fn entry(volume: VolumeId, sectors: u64, of: Option<VolumeId>) -> VolumeEntry {
    VolumeEntry {
        volume,
        uuid: Uuid(100 - 1),
        sectors,
        change: 1,
        epoch: Epoch(3),
        deleted: false,
        read_only: true,
        of,
    }
}

/// Whatever a source's table says, the target lives.
#[test]
fn a_table_that_makes_no_sense_kills_nobody() {
    let [x, y, z] = [1000, 1003, 1006].map(VolumeId);
    let v = entry(VOLUME, 200_000, None);
    let v = VolumeEntry { change: 0, epoch: Epoch(0), read_only: false, ..v };
    let deleted = |entry: VolumeEntry| VolumeEntry { deleted: true, ..entry };
    let writable = |entry: VolumeEntry| VolumeEntry { read_only: false, ..entry };
    let tables: Vec<(&str, Vec<VolumeEntry>)> = vec![
        ("cut by a chain", vec![v, entry(x, 200_000, Some(VOLUME)), entry(y, 8, Some(x))]),
        ("of each other", vec![v, entry(x, 200_000, Some(y)), entry(y, 200_000, Some(x))]),
        ("of itself", vec![v, entry(x, 200_000, Some(x))]),
        ("twice", vec![v, entry(x, 200_000, Some(VOLUME)), entry(x, 200_000, Some(VOLUME))]),
        ("twice, other", vec![v, entry(x, 200_000, None), entry(x, 8, None)]),
        ("twice, cut", vec![v, entry(x, 200_000, Some(VOLUME)), entry(x, 8, None)]),
        ("deleted model", vec![deleted(v), entry(x, 200_000, Some(VOLUME))]),
        ("deleted clone", vec![v, deleted(entry(x, 200_000, Some(VOLUME)))]),
        (
            "deleted clone, used",
            vec![v, deleted(entry(x, 200_000, Some(VOLUME))), entry(y, 200_000, Some(x))],
        ),
        ("writable of no snapshot", vec![v, writable(entry(x, 200_000, Some(VOLUME)))]),
        ("linear model", vec![v, entry(x, 200_000, Some(LINEAR))]),
        ("missing model", vec![v, entry(x, 200_000, Some(z))]),
        ("no v", vec![entry(x, 200_000, Some(VOLUME))]),
        ("large", vec![v, entry(x, u64::MAX, Some(VOLUME))]),
        ("large, no model", vec![v, entry(x, u64::MAX, None)]),
    ];
    for (what, table) in tables {
        let mut pair = Pair::with(&[]);
        pair.write(A, 20_000, NEW).expect("written");
        pair.flush(A).expect("flushed");
        pair.crash(B);
        pair.until_phase(A, PeerPhase::Alone);
        pair.hold(B, said::be_target);
        pair.restart(B);
        pair.pass_millis(50);
        assert!(pair.under_way(B) > 0, "{what}");
        let epoch = epoch(&pair, A);
        pair.slip(B, Control::BeTarget { epoch, bases: vec![(x, Generation(5))], table });
        pair.pass_millis(1000);
        assert!(pair.phase(B).is_some(), "{what}");
    }
}

/// For a table that is refused nothing is deleted: what a person decides may be to keep this node's data.
#[test]
fn a_table_that_is_refused_costs_no_clone() {
    let short = |entry: VolumeEntry| VolumeEntry { change: 0, epoch: Epoch(0), read_only: false, ..entry };
    for (sectors, stays) in [(8, true), (200_000, false)] {
        let mut pair = Pair::with(&[]);
        pair.write(A, 20_000, NEW).expect("written");
        pair.flush(A).expect("flushed");
        assert_eq!(pair.make(A, vec![new(SNAPSHOT, VOLUME, true)]), Ok(()));
        pair.crash(B);
        pair.until_phase(A, PeerPhase::Alone);
        pair.hold(B, said::be_target);
        pair.restart(B);
        pair.pass_millis(50);
        assert!(pair.under_way(B) > 0);
        // Another of the snapshot's number.
        let table = vec![short(entry(VOLUME, sectors, None)), entry(SNAPSHOT, sectors, Some(VOLUME))];
        let epoch = epoch(&pair, A);
        pair.slip(B, Control::BeTarget { epoch, bases: vec![], table });
        pair.pass_millis(20);
        let view = pair.view(B).expect("it is open");
        assert_eq!(!view.deleted.contains(&SNAPSHOT), stays, "{sectors}");
    }
}

/// Whatever an order says.
#[test]
fn an_order_that_makes_no_sense_kills_nobody() {
    let [x, y] = [1000, 1003].map(VolumeId);
    let orders: Vec<(&str, Vec<NewClone>)> = vec![
        ("none", vec![]),
        ("itself", vec![new(x, x, true)]),
        ("volume itself", vec![new(VOLUME, VOLUME, true)]),
        ("chain", vec![new(x, VOLUME, true), new(y, x, false)]),
        ("twice", vec![new(x, VOLUME, true), new(x, VOLUME, true)]),
        ("linear", vec![new(x, LINEAR, true)]),
        ("over linear", vec![new(LINEAR, VOLUME, true)]),
        ("many", (0..300).map(|n| new(VolumeId(2000 + n), VOLUME, true)).collect()),
        ("long", vec![NewClone { name: "n".repeat(100_000), ..new(x, VOLUME, true) }]),
    ];
    for (what, clones) in orders {
        let mut pair = Pair::with(&[]);
        pair.write(A, 0, NEW).expect("written");
        let epoch = epoch(&pair, A);
        for to in NodeName::BOTH {
            pair.slip(to, Control::ClonesTake { epoch, id: 7, clones: clones.clone() });
            pair.slip(to, Control::ClonesAsk { epoch, id: 8, clones: clones.clone() });
            pair.slip(to, Control::ClonesTaken { epoch, id: 7 });
            let refusal = VolumeRefusal::Busy;
            pair.slip(to, Control::ClonesRefused { epoch, id: 7, refusal });
            pair.pass_millis(1000);
        }
        assert!(pair.phases().iter().all(Option::is_some), "{what}");
    }
}
