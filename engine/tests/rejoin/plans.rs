//! One answer for the node out of the decisions about its volumes, and the relation of two generations.

use twinsan::arbiter::Register;
use twinsan::ids::{BootId, Epoch, Generation, Members, NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{HalfSummary, Hello, PROTOCOL_VERSION, PeerPhase};
use twinsan::mirror::rejoin::lineage::{Lineage, alone, lineage, whole};
use twinsan::mirror::rejoin::{Amount, Authority, Plan, Refusal, Role, decide_all};
use twinsan::pool::ANCESTORS_MAX;

fn half(volume: u32, generation: u128, ancestors: &[u128]) -> HalfSummary {
    HalfSummary {
        volume: VolumeId(volume),
        sectors: 8,
        generation: Generation(generation),
        ancestors: ancestors.iter().copied().map(Generation).collect(),
        log_intact: true,
        change: 0,
        of: None,
    }
}

fn hello(node: NodeName, phase: PeerPhase, epoch: u64, members: Members, halves: Vec<HalfSummary>) -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        partnership: Uuid(1),
        node,
        boot: BootId(7),
        phase,
        epoch: Epoch(epoch),
        members,
        up_to_date: true,
        complete: false,
        ready: true,
        pair_epoch: Epoch(0),
        halves,
        deleted: Vec::new(),
    }
}

/// `a` has served alone in epoch 2; `b` was lost in epoch 1.
fn alone_and_lost(mine: Vec<HalfSummary>, theirs: Vec<HalfSummary>) -> (Hello, Hello, Authority) {
    let a = hello(NodeName::A, PeerPhase::Alone, 2, Members::only(NodeName::A), mine);
    let b = hello(NodeName::B, PeerPhase::Starting, 1, Members::BOTH, theirs);
    let register = Register { epoch: Epoch(2), members: Members::only(NodeName::A), by: NodeName::A };
    (a, b, Authority::Register(register))
}

fn both_ways(mine: Vec<HalfSummary>, theirs: Vec<HalfSummary>) -> (Plan, Plan) {
    let (a, b, authority) = alone_and_lost(mine, theirs);
    (decide_all(&a, &b, authority), decide_all(&b, &a, authority))
}

#[test]
fn all_volumes_go_one_way_each_by_its_own_amount() {
    let (mine, theirs) =
        both_ways(vec![half(1, 5, &[4]), half(2, 9, &[])], vec![half(1, 4, &[]), half(2, 0, &[])]);
    let volumes = vec![(VolumeId(1), Amount::Delta), (VolumeId(2), Amount::Full)];
    assert_eq!(mine, Plan::Resync { role: Role::Source, volumes: volumes.clone() });
    assert_eq!(theirs, Plan::Resync { role: Role::Target, volumes });
}

#[test]
fn one_volume_that_needs_a_person_stops_all_and_is_named() {
    let refused = |volume, reason| Plan::Refused { volume: VolumeId(volume), reason };
    let sound = || (half(1, 5, &[4]), half(1, 4, &[]));
    for (mine, theirs, reason) in [
        (half(2, 9, &[4]), half(2, 8, &[4]), Refusal::SplitBrain),
        (half(2, 9, &[]), half(2, 8, &[]), Refusal::Unrelated),
        (half(2, 9, &[8]), HalfSummary { sectors: 16, ..half(2, 8, &[]) }, Refusal::SizeDiffers),
    ] {
        let (first, second) = sound();
        let plans = both_ways(vec![first, mine], vec![theirs, second]);
        assert_eq!(plans, (refused(2, reason), refused(2, reason)));
    }
    let (first, second) = sound();
    let plans = both_ways(vec![first], vec![second, half(3, 1, &[])]);
    assert_eq!(plans, (refused(3, Refusal::Missing), refused(3, Refusal::Missing)));
}

/// What one node alone has in writing: it is made at the other if the data stand where it is, and refused otherwise.
#[test]
fn a_volume_of_one_node_goes_the_way_of_the_data() {
    let changed = HalfSummary { change: 1, ..half(3, 1, &[]) };
    let sound = || (half(1, 5, &[4]), half(1, 4, &[]));
    let (first, second) = sound();
    let (mine, _) = both_ways(vec![first, changed.clone()], vec![second]);
    let volumes = vec![(VolumeId(1), Amount::Delta), (VolumeId(3), Amount::Full)];
    assert_eq!(mine, Plan::Resync { role: Role::Source, volumes });
    let (first, second) = sound();
    let missing = Plan::Refused { volume: VolumeId(3), reason: Refusal::Missing };
    assert_eq!(both_ways(vec![first], vec![second, changed]), (missing.clone(), missing));
}

/// A clone that the target can make of its own half is brought up by the log; one that it has deleted, or whose model it does
/// not have, or that its half has outlived, as a whole.
#[test]
fn a_clone_begins_as_what_the_target_has() {
    let clone = |volume, of, generation, ancestors: &[u128]| HalfSummary {
        of: Some(VolumeId(of)),
        change: 1,
        ..half(volume, generation, ancestors)
    };
    let amount = |clones: Vec<HalfSummary>, deleted: &[u32]| {
        let mine = [vec![half(1, 5, &[4])], clones].concat();
        let (a, b, authority) = alone_and_lost(mine, vec![half(1, 4, &[])]);
        let b = Hello { deleted: deleted.iter().copied().map(VolumeId).collect(), ..b };
        match decide_all(&a, &b, authority) {
            Plan::Resync { role: Role::Source, volumes } => volumes.last().copied(),
            other => panic!("{other:?}"),
        }
    };
    let is = |volume, amount| Some((VolumeId(volume), amount));
    let snapshot = || clone(1000, 1, 5, &[4]);
    assert_eq!(amount(vec![snapshot()], &[]), is(1000, Amount::Delta));
    assert_eq!(amount(vec![clone(1000, 1, 4, &[])], &[]), is(1000, Amount::Delta), "of before it went alone");
    assert_eq!(amount(vec![snapshot(), clone(1003, 1000, 5, &[4])], &[]), is(1003, Amount::Delta));
    assert_eq!(
        amount(vec![snapshot()], &[1000]),
        is(1000, Amount::Full),
        "deleted there: its model has gone on"
    );
    assert_eq!(
        amount(vec![clone(1000, 7, 5, &[4])], &[]),
        is(1000, Amount::Full),
        "of a volume that is nowhere"
    );
    assert_eq!(
        amount(vec![clone(1000, 1, 5, &[])], &[]),
        is(1000, Amount::Full),
        "its log reaches back to nothing"
    );
    // What only the target has of clones goes: it was never acknowledged.
    let (mine, theirs) = both_ways(vec![half(1, 5, &[4])], vec![half(1, 4, &[]), snapshot()]);
    let volumes = vec![(VolumeId(1), Amount::Delta)];
    assert_eq!(mine, Plan::Resync { role: Role::Source, volumes: volumes.clone() });
    assert_eq!(theirs, Plan::Resync { role: Role::Target, volumes });
}

#[test]
fn one_volume_that_cannot_be_decided_stops_all() {
    let (mine, theirs) =
        both_ways(vec![half(1, 5, &[4]), half(2, 0, &[])], vec![half(1, 4, &[]), half(2, 8, &[])]);
    assert_eq!((mine, theirs), (Plan::Retry, Plan::Retry));
}

#[test]
fn a_node_without_mirrored_volumes_has_a_direction_too() {
    let (mine, theirs) = both_ways(vec![], vec![]);
    assert_eq!(mine, Plan::Resync { role: Role::Source, volumes: vec![] });
    assert_eq!(theirs, Plan::Resync { role: Role::Target, volumes: vec![] });
}

#[test]
fn nothing_is_refused_while_a_question_is_open() {
    let (mut a, b, authority) = alone_and_lost(vec![half(1, 9, &[])], vec![half(1, 8, &[])]);
    a.ready = false;
    assert_eq!(decide_all(&a, &b, authority), Plan::Retry);
    assert_eq!(decide_all(&b, &a, authority), Plan::Retry);
}

#[test]
fn a_link_hiccup_leaves_the_pair_alone() {
    let pair = |node| {
        let halves = vec![half(1, 5, &[]), half(2, 6, &[])];
        Hello { pair_epoch: Epoch(3), ..hello(node, PeerPhase::Paired, 3, Members::BOTH, halves) }
    };
    let (a, b) = (pair(NodeName::A), pair(NodeName::B));
    assert_eq!(decide_all(&a, &b, Authority::Unknown), Plan::Nothing);
    let reborn = Hello { pair_epoch: Epoch(0), phase: PeerPhase::Starting, ..b };
    assert_eq!(decide_all(&a, &reborn, Authority::Unknown), Plan::Retry);
}

/// Every relation of two halves with up to two ancestors each, over generations few enough to collide.
#[test]
fn lineage_is_symmetric_and_says_what_it_means() {
    let pasts: Vec<Vec<u128>> =
        (0..5).flat_map(|x| (0..5).map(move |y| [x, y].into_iter().filter(|g| *g != 0).collect())).collect();
    let mut seen = Vec::new();
    for (mine, my_past) in (0..5).flat_map(|g| pasts.iter().map(move |past| (g, past))) {
        for (theirs, their_past) in (0..5).flat_map(|g| pasts.iter().map(move |past| (g, past))) {
            let (a, b) = (half(1, mine, my_past), half(1, theirs, their_past));
            let relation = lineage((a.generation, &a.ancestors), (b.generation, &b.ancestors));
            let back = lineage((b.generation, &b.ancestors), (a.generation, &a.ancestors));
            assert_eq!(back, relation.swapped());
            let related = mine == theirs
                || my_past.contains(&theirs)
                || their_past.contains(&mine)
                || my_past.iter().any(|g| their_past.contains(g));
            assert_eq!(relation == Lineage::Unrelated, mine != 0 && theirs != 0 && !related);
            if !seen.contains(&relation) {
                seen.push(relation);
            }
        }
    }
    assert_eq!(seen.len(), Lineage::ALL.len());
}

#[test]
fn a_history_grows_alone_and_ends_when_whole() {
    let mut mine = half(1, 1, &[]);
    let theirs = mine.clone();
    for generation in 2..100 {
        alone(&mut mine, Generation(generation));
        assert!(mine.ancestors.len() <= ANCESTORS_MAX);
        let relation = lineage((mine.generation, &mine.ancestors), (theirs.generation, &theirs.ancestors));
        assert_eq!(relation, Lineage::MineNewer, "what the partner still has is never forgotten");
    }
    let old = mine.clone();
    let generation = mine.generation;
    whole(&mut mine, generation);
    alone(&mut mine, Generation(200));
    let relation =
        |half: &HalfSummary| lineage((mine.generation, &mine.ancestors), (half.generation, &half.ancestors));
    assert_eq!(relation(&theirs), Lineage::Unrelated, "older than the log reaches back to");
    assert_eq!(relation(&HalfSummary { ancestors: vec![], ..old }), Lineage::MineNewer);
    let mut new = half(1, 0, &[]);
    alone(&mut new, Generation(3));
    assert_eq!((new.generation, new.ancestors.len()), (Generation(3), 0));
}
