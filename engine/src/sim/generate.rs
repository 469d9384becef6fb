//! A seed becomes a plan. Swarm testing: each seed switches kinds of faults on and off and scales them, so
//! that some seeds are all link cuts and others all crashes; what rarely meets by chance meets often.

use super::plan::{Plan, Setup, Verb, VolumeSetup};
use super::rng::Rng;
use crate::arbiter::Arbitration;
use crate::ids::{ItemName, NodeName, VolumeId};
use crate::node::config::WhenFull;

/// How large the generated runs are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Guest requests.
    pub ops: u64,
    /// Volumes are cloned in some plans.
    pub snapshots: bool,
}

impl Default for Scale {
    fn default() -> Scale {
        Scale { ops: 2_000, snapshots: true }
    }
}

/// Kinds of trouble. Each is an episode: it begins, lasts, and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    Crash,
    CrashBoth,
    CleanStop,
    Pause,
    Cut,
    CutOneWay,
    Flap,
    Delay,
    SlowDisk,
    ReadErrors,
    Drift,
    ArbiterDown,
    ArbiterSlow,
    BrokenResync,
    DiskFails,
    Rot,
}

const TROUBLES: [(Trouble, u32); 16] = [
    (Trouble::Crash, 10),
    (Trouble::CrashBoth, 4),
    (Trouble::CleanStop, 4),
    (Trouble::Pause, 6),
    (Trouble::Cut, 8),
    (Trouble::CutOneWay, 5),
    (Trouble::Flap, 4),
    (Trouble::Delay, 3),
    (Trouble::SlowDisk, 4),
    (Trouble::ReadErrors, 3),
    (Trouble::Drift, 2),
    (Trouble::ArbiterDown, 4),
    (Trouble::ArbiterSlow, 3),
    (Trouble::BrokenResync, 6),
    (Trouble::DiskFails, 6),
    (Trouble::Rot, 5),
];

/// The plan of this seed.
pub fn plan(seed: u64, scale: Scale) -> Plan {
    let root = Rng::new(seed);
    let setup = setup(seed, scale, &mut root.fork("setup"));
    let mut rng = root.fork("faults");
    let unit = setup.lease_ms * 1000;
    let mut plan = Plan { setup, steps: Vec::new() };
    plan.at(0, Verb::Load { ops: scale.ops });
    let weights = swarm(&mut rng);
    let episodes = rng.between(3, 9);
    // The first trouble comes when the pair stands; now and then before.
    let mut at = if rng.chance(0.1) { rng.below(unit) } else { unit * 2 + rng.below(unit * 2) };
    for _ in 0..episodes {
        let trouble = TROUBLES[rng.weighted(&weights)].0;
        let end = episode(&mut plan, &mut rng, trouble, at, unit);
        // Mostly one after the other with time to heal; now and then the next comes into the midst.
        at = match rng.below(10) {
            0..3 if trouble != Trouble::DiskFails => at + rng.below(end - at + 1),
            3..6 => end + rng.below(unit),
            _ => end + rng.between(unit, unit * 6),
        };
    }
    slow_copies(&mut plan, &mut root.fork("slow copies"), unit);
    disk_changes(&mut plan, &mut root.fork("disk changes"), unit);
    volume_changes(&mut plan, &mut root.fork("volume changes"), unit);
    item_changes(&mut plan, &mut root.fork("item changes"), unit);
    if scale.snapshots {
        snapshots(&mut plan, &mut root.fork("snapshots"), unit);
    }
    // Disks that are to fail wait for the pair to be whole: there is time for that.
    let over = plan.steps.iter().map(|step| match step.verb {
        Verb::FailWrites { .. } | Verb::FailFlushes { .. } => step.at_us + unit * 6,
        _ => step.at_us,
    });
    let last = over.max().unwrap_or(0);
    plan.at(last + rng.below(unit * 4) + 1, Verb::HealAll);
    plan.sort();
    plan
}

fn swarm(rng: &mut Rng) -> Vec<u32> {
    let weights: Vec<u32> = TROUBLES
        .iter()
        .map(|(trouble, weight)| {
            let share = if *trouble == Trouble::DiskFails { 0.3 } else { 0.5 };
            if rng.chance(share) { *weight * rng.pick(&[1, 1, 4]) } else { 0 }
        })
        .collect();
    if weights.iter().all(|weight| *weight == 0) {
        TROUBLES.iter().map(|trouble| trouble.1).collect()
    } else {
        weights
    }
}

fn setup(seed: u64, scale: Scale, rng: &mut Rng) -> Setup {
    let lease_ms = rng.pick(&[200, 500, 500, 1000, 2000]);
    let arbitration = match rng.below(10) {
        0..7 => Arbitration::Register,
        7..9 => Arbitration::Preferred,
        _ => Arbitration::StopBoth,
    };
    let extent_bytes = rng.pick(&[64u64 << 10, 64 << 10, 128 << 10, 1 << 20]);
    let volumes = rng.between(1, 3);
    let mut volumes: Vec<VolumeSetup> = (0..volumes)
        .map(|index| VolumeSetup {
            sectors: rng.pick(&[4u64, 8, 16]) << 11,
            mirrored: index < 2 || rng.chance(0.5),
            reserved_bytes: 0,
        })
        .collect();
    // Small, but several of the largest requests fit.
    let cache_blocks = rng.pick(&[192, 256, 512, 2048]).max(extent_bytes as usize / 4096 * 4);
    let mut space = Rng::new(seed).fork("space");
    let keeps = space.chance(0.3);
    if keeps {
        // All that the first volume can use is kept for it, and fits into the smallest of pools.
        (volumes[0].sectors, volumes[0].reserved_bytes) = (4 << 11, 4 << 20);
    }
    let small_node = space.chance(if keeps { 0.5 } else { 0.25 }).then(|| space.pick(&NodeName::BOTH));
    // A total of about `ops` requests over the time that the faults take.
    let (hosts, outstanding) = (rng.between(1, 4), rng.between(1, 6));
    let think_us = (lease_ms * 1000 * 40 / scale.ops.max(1) * 6).max(200);
    Setup {
        seed,
        arbitration,
        preferred: rng.pick(&NodeName::BOTH),
        volumes,
        extent_bytes,
        disks: rng.pick(&[1, 1, 2, 3]),
        disk_bytes: if rng.chance(0.15) { 12 << 20 } else { 48 << 20 },
        small_node,
        small_disk_bytes: if keeps { 8 << 20 } else { space.pick(&[5 << 20, 8 << 20]) },
        sector_bytes: rng.pick(&[512, 512, 4096]),
        cache_blocks,
        dirty_blocks: cache_blocks / rng.pick(&[2, 4]),
        destage_age_ms: rng.pick(&[5, 50, 500]),
        destage_depth: rng.pick(&[2, 8, 16]),
        sum_pages: 64,
        sum_idle_ms: rng.pick(&[20, 200, 5000]),
        scrub_bytes_per_second: rng.pick(&[4, 64, 1024]) << 20,
        lease_ms,
        hot_areas: rng.pick(&[8, 16, 64, 512]),
        area_blocks: rng.pick(&[16, 32, 256]),
        hot_idle_ms: rng.pick(&[20, 200, 2000]),
        resync_blocks: rng.pick(&[16, 64, 512]),
        write_blocks: rng.pick(&[64, 256, 2048]),
        when_partner_full: if space.chance(if small_node.is_some() { 0.9 } else { 0.3 }) {
            WhenFull::Degrade
        } else {
            WhenFull::Refuse
        },
        link_delay_us: rng.pick(&[20, 100, 1000]),
        late_share: rng.pick(&[0.0, 0.1, 0.5]),
        arbiter_delay_us: rng.pick(&[100, 1000, 20_000]),
        arbiter_loss: rng.pick(&[0.0, 0.0, 0.1, 0.4]),
        transfer_us: rng.pick(&[20, 80, 300]),
        flush_us: rng.pick(&[50, 300, 2000]),
        hosts: hosts as u32,
        outstanding: outstanding as u32,
        think_us,
        // Many requests for one block at a time tell no more than a few, and cost the checker much.
        hot_blocks: rng.pick(&[4, 48, 200]).max(hosts * outstanding * 2),
        read_percent: rng.pick(&[25, 45, 60]),
        zero_percent: rng.pick(&[0, 3, 8]),
        zero_write_percent: space.pick(&[0, 30, 60]),
        detect_zeros: space.chance(0.5),
        flush_percent: rng.pick(&[0, 2, 5]),
        fua_percent: rng.pick(&[0, 10, 50]),
        odd_percent: rng.pick(&[0, 20, 50]),
        compare_percent: Rng::new(seed).fork("compares").pick(&[0, 10, 30]),
    }
}

/// How long an episode lasts, in microseconds: from a blink to many leases.
fn span(rng: &mut Rng, unit: u64) -> u64 {
    match rng.below(10) {
        0..2 => rng.between(100, unit / 20),
        2..4 => rng.between(unit / 20, unit),
        4..8 => rng.between(unit, unit * 4),
        _ => rng.between(unit * 4, unit * 15),
    }
}

fn death(rng: &mut Rng, who: NodeName) -> Verb {
    if rng.chance(0.5) { Verb::Kill { who } } else { Verb::PowerCut { who } }
}

/// Adds an episode that begins at `at`; returns when it ends.
fn episode(plan: &mut Plan, rng: &mut Rng, trouble: Trouble, at: u64, unit: u64) -> u64 {
    let who = rng.pick(&NodeName::BOTH);
    let end = at + span(rng, unit);
    let (begin, undo) = match trouble {
        Trouble::Crash => (death(rng, who), Verb::Start { who }),
        Trouble::CleanStop => (Verb::Stop { who }, Verb::Start { who }),
        Trouble::Pause => (Verb::Pause { who }, Verb::Resume { who }),
        Trouble::Cut => (Verb::Cut, Verb::Heal),
        Trouble::CutOneWay => (Verb::CutOneWay { who }, Verb::Heal),
        Trouble::Delay => {
            let normal = plan.setup.link_delay_us;
            (Verb::Delay { us: rng.between(1_000, unit) }, Verb::Delay { us: normal })
        }
        Trouble::SlowDisk => {
            let factor = rng.pick(&[10, 100, 1000]);
            (Verb::SlowDisk { who, factor }, Verb::SlowDisk { who, factor: 1 })
        }
        Trouble::ReadErrors => {
            let (count, once) = (rng.between(1, 20) as u32, rng.chance(0.5));
            plan.at(at, Verb::ReadErrors { who, count, once });
            return at + 1;
        }
        Trouble::Rot => return rot(plan, rng, at, end),
        Trouble::Drift => {
            let ppm = rng.between(0, 16_000) as i64 - 8_000;
            plan.at(at, Verb::Drift { who, ppm });
            return at + 1;
        }
        Trouble::ArbiterDown => (Verb::ArbiterDown { who }, Verb::ArbiterUp { who }),
        Trouble::ArbiterSlow => {
            let normal = plan.setup.arbiter_delay_us;
            (Verb::ArbiterDelay { us: rng.between(10_000, unit * 2) }, Verb::ArbiterDelay { us: normal })
        }
        Trouble::CrashBoth => return crash_both(plan, rng, at, unit),
        Trouble::Flap => return flap(plan, rng, at, unit),
        Trouble::BrokenResync => return broken_resync(plan, rng, at, unit),
        Trouble::DiskFails => return disks_fail(plan, rng, at, unit),
    };
    plan.at(at, begin);
    plan.at(end, undo);
    if trouble == Trouble::ArbiterDown && rng.chance(0.4) {
        plan.at(at, Verb::ArbiterDown { who: who.partner() });
        plan.at(end + rng.below(unit), Verb::ArbiterUp { who: who.partner() });
    }
    if trouble == Trouble::ArbiterDown || trouble == Trouble::ArbiterSlow {
        // It matters only if somebody asks.
        let trouble = rng.pick(&[Trouble::Crash, Trouble::Cut, Trouble::CutOneWay, Trouble::Pause]);
        let begin = at + rng.below(end - at + 1);
        return episode(plan, rng, trouble, begin, unit).max(end + unit);
    }
    end
}

/// All disks of a node fail. Mostly it gets new ones before the end; always before the next failure.
fn disks_fail(plan: &mut Plan, rng: &mut Rng, at: u64, unit: u64) -> u64 {
    let end = at + unit * 6;
    let writes = rng.chance(0.5);
    if plan.setup.arbitration != Arbitration::Register {
        // Nobody could say that the other node goes on: a quiet time.
        return end;
    }
    let linear = plan.setup.volumes.iter().any(|volume| !volume.mirrored);
    // Linear volumes have no other copy.
    let who = if linear { NodeName::B } else { rng.pick(&NodeName::BOTH) };
    let last = plan.steps.iter().rev().find_map(|step| match step.verb {
        Verb::FailWrites { who } | Verb::FailFlushes { who } => Some(who),
        _ => None,
    });
    if let Some(who) = last {
        plan.at(at, Verb::NewDisks { who });
    }
    plan.at(at, if writes { Verb::FailWrites { who } } else { Verb::FailFlushes { who } });
    let replaced_at = at + rng.between(unit, unit * 6);
    if rng.chance(0.6) {
        plan.at(replaced_at, Verb::NewDisks { who });
    }
    end
}

/// In some plans the disk of the one that stayed is slow while the other catches up: guests write to regions that are
/// being read to be copied.
fn slow_copies(plan: &mut Plan, rng: &mut Rng, unit: u64) {
    if !rng.chance(0.3) {
        return;
    }
    let starts = plan.steps.iter().filter_map(|step| match step.verb {
        Verb::Start { who } => Some((step.at_us, who.partner())),
        _ => None,
    });
    for (at, who) in starts.collect::<Vec<_>>() {
        plan.at(at, Verb::SlowDisk { who, factor: rng.pick(&[10, 30, 100]) });
        plan.at(at + rng.between(unit, unit * 4), Verb::SlowDisk { who, factor: 1 });
    }
}

/// In some plans disks come and go, whatever else happens. Half of the changes are met by a crash.
fn disk_changes(plan: &mut Plan, rng: &mut Rng, unit: u64) {
    let last = plan.steps.iter().map(|step| step.at_us).max().unwrap_or(0).max(unit * 4);
    if !rng.chance(0.4) {
        return;
    }
    for _ in 0..rng.between(1, 3) {
        let who = rng.pick(&NodeName::BOTH);
        let at = unit * 2 + rng.below(last);
        let (bytes, sector_bytes) = (rng.pick(&[8u64, 16, 40]) << 20, rng.pick(&[512, 4096]));
        plan.at(at, Verb::AddDisk { who, bytes, sector_bytes });
        let removed_at = at + rng.between(unit / 10, unit * 4);
        if rng.chance(0.3) {
            // What leaves has places that cannot be read.
            let count = rng.between(5, 40) as u32;
            plan.at(removed_at, Verb::ReadErrors { who, count, once: false });
        }
        plan.at(removed_at, Verb::RemoveDisk { who, which: rng.below(4) as u32 });
        if rng.chance(0.5) {
            plan.at(removed_at + rng.below(3_000), Verb::KeepDisk { who, which: 0 });
        }
        if rng.chance(0.5) {
            let begin = if rng.chance(0.3) { at } else { removed_at };
            // A change takes some milliseconds.
            let within = rng.pick(&[2_000, 10_000, 30_000, unit]);
            let dies = begin + rng.below(within);
            plan.at(dies, death(rng, who));
            plan.at(dies + rng.between(1_000, unit * 3), Verb::Start { who });
        }
    }
}

/// A crash, a pause or a cut comes within one of these times, of which the last is a lease.
fn met_by_trouble(plan: &mut Plan, rng: &mut Rng, at: u64, within: [u64; 4]) {
    let unit = within[3];
    let within = rng.pick(&within);
    let hit = at + rng.below(within);
    let victim = rng.pick(&NodeName::BOTH);
    let (begin, undo) = match rng.below(4) {
        0 => (Verb::Cut, Verb::Heal),
        1 => (Verb::Pause { who: victim }, Verb::Resume { who: victim }),
        _ => (death(rng, victim), Verb::Start { who: victim }),
    };
    plan.at(hit, begin);
    plan.at(hit + rng.between(1_000, unit * 3), undo);
}

/// In some plans volumes grow and are deleted, whatever else happens. Half of the changes are met by a crash or a cut.
fn volume_changes(plan: &mut Plan, rng: &mut Rng, unit: u64) {
    let last = plan.steps.iter().map(|step| step.at_us).max().unwrap_or(0).max(unit * 4);
    if !rng.chance(0.4) {
        return;
    }
    let mut sizes: Vec<u64> = plan.setup.volumes.iter().map(|volume| volume.sectors).collect();
    for _ in 0..rng.between(1, 5) {
        let who = rng.pick(&NodeName::BOTH);
        let index = rng.below(sizes.len() as u64) as usize;
        let volume = VolumeId(index as u32 + 1);
        let at = unit * 2 + rng.below(last);
        let verb = if rng.chance(0.35) {
            Verb::Delete { who, volume }
        } else {
            sizes[index] += rng.between(1, 600) * 8;
            Verb::Grow { who, volume, sectors: sizes[index] }
        };
        plan.at(at, verb);
        if rng.chance(0.5) {
            // A change takes some messages and log writes.
            met_by_trouble(plan, rng, at, [500, 2_000, 10_000, unit]);
        }
    }
}

/// In some plans something is kept with volumes, at both nodes within moments, whatever else happens.
fn item_changes(plan: &mut Plan, rng: &mut Rng, unit: u64) {
    let last = plan.steps.iter().map(|step| step.at_us).max().unwrap_or(0).max(unit * 4);
    if !rng.chance(0.3) {
        return;
    }
    for _ in 0..rng.between(2, 12) {
        let mut at = unit * 2 + rng.below(last);
        let volume = VolumeId(rng.below(plan.setup.volumes.len() as u64) as u32 + 1);
        for _ in 0..rng.between(1, 4) {
            let (who, name) = (rng.pick(&NodeName::BOTH), ItemName(rng.below(3) as u32));
            let bytes = if rng.chance(0.15) { 0 } else { rng.pick(&[8, 100, 3_000, 12_000]) };
            plan.at(at, Verb::Keep { who, volume, name, seen: rng.chance(0.9), bytes });
            at += rng.below(3_000);
        }
        if rng.chance(0.2) {
            let victim = rng.pick(&NodeName::BOTH);
            plan.at(at, death(rng, victim));
            plan.at(at + rng.between(1_000, unit * 3), Verb::Start { who: victim });
        }
    }
}

/// In some plans volumes are cloned, whatever else happens. Half of these questions are met by a crash or a cut.
fn snapshots(plan: &mut Plan, rng: &mut Rng, unit: u64) {
    let last = plan.steps.iter().map(|step| step.at_us).max().unwrap_or(0).max(unit * 4);
    if !rng.chance(0.4) {
        return;
    }
    let kind = |mirrored: bool| {
        let volumes =
            plan.setup.volumes.iter().enumerate().filter(move |(_, volume)| volume.mirrored == mirrored);
        volumes.map(|(index, _)| VolumeId(index as u32 + 1)).collect::<Vec<_>>()
    };
    let (mirrored, linear) = (kind(true), kind(false));
    for _ in 0..rng.between(1, 6) {
        let who = rng.pick(&NodeName::BOTH);
        let at = unit * 2 + rng.below(last);
        let verb = match rng.below(10) {
            0..3 => Verb::Clone { who, which: rng.below(8) as u32 },
            3 => Verb::DropClone { who, which: rng.below(8) as u32 },
            4 if !linear.is_empty() => Verb::Snapshot { who, volumes: linear.clone() },
            5..8 if !mirrored.is_empty() => Verb::Snapshot { who, volumes: mirrored.clone() },
            _ => Verb::Snapshot {
                who,
                volumes: vec![VolumeId(rng.below(plan.setup.volumes.len() as u64) as u32 + 1)],
            },
        };
        let cloned = matches!(verb, Verb::Clone { .. });
        plan.at(at, verb);
        let mut begin = at;
        for _ in 0..if cloned { rng.between(4, 40) } else { rng.below(3) } {
            begin += rng.below(unit / 8 + 1);
            let (which, place) = (rng.below(8) as u32, rng.below(1 << 20) as u32);
            plan.at(begin, Verb::WriteClone { who: rng.pick(&NodeName::BOTH), which, place });
        }
        if rng.chance(0.5) {
            // What is dirty is written back first, then it takes some messages and log writes.
            met_by_trouble(plan, rng, at, [2_000, 10_000, 50_000, unit]);
        }
    }
}

/// Both nodes die, within a moment or one long after the other, and come back in either order.
fn crash_both(plan: &mut Plan, rng: &mut Rng, at: u64, unit: u64) -> u64 {
    let first = rng.pick(&NodeName::BOTH);
    let second_dies = at + if rng.chance(0.4) { 0 } else { span(rng, unit) };
    let begin = death(rng, first);
    plan.at(at, begin);
    let then = death(rng, first.partner());
    plan.at(second_dies, then);
    let back = second_dies + span(rng, unit);
    let other_back = back + if rng.chance(0.3) { 0 } else { span(rng, unit) };
    let returns = rng.pick(&NodeName::BOTH);
    plan.at(back, Verb::Start { who: returns });
    plan.at(other_back, Verb::Start { who: returns.partner() });
    other_back
}

fn flap(plan: &mut Plan, rng: &mut Rng, at: u64, unit: u64) -> u64 {
    let mut at = at;
    for _ in 0..rng.between(2, 6) {
        let verb = match rng.below(4) {
            0 => Verb::CutOneWay { who: NodeName::A },
            1 => Verb::CutOneWay { who: NodeName::B },
            _ => Verb::Cut,
        };
        plan.at(at, verb);
        at += rng.between(100, unit);
        plan.at(at, Verb::Heal);
        at += rng.between(100, unit * 2);
    }
    at
}

/// A disk is not to be trusted for a while: bits rot, writes are lost or go astray.
fn rot(plan: &mut Plan, rng: &mut Rng, at: u64, end: u64) -> u64 {
    let mut who = rng.pick(&NodeName::BOTH);
    for _ in 0..rng.between(1, 8) {
        // Mostly one node's: two bad copies of one block tell little.
        if rng.chance(0.1) {
            who = who.partner();
        }
        let verb = match rng.below(4) {
            0 => Verb::LoseWrite { who },
            1 => Verb::Misdirect { who },
            _ => Verb::Rot { who, count: rng.between(1, 12) as u32 },
        };
        plan.at(rng.between(at, end), verb);
    }
    if rng.chance(0.7) {
        plan.at(end, Verb::Scrub { who });
    }
    end
}

/// A node dies and comes back; while it catches up, it, its partner or the link fails again.
fn broken_resync(plan: &mut Plan, rng: &mut Rng, at: u64, unit: u64) -> u64 {
    let who = rng.pick(&NodeName::BOTH);
    let begin = death(rng, who);
    plan.at(at, begin);
    let mut at = at + rng.between(unit * 2, unit * 5);
    plan.at(at, Verb::Start { who });
    for _ in 0..rng.between(1, 3) {
        // A resync begins about a lease after the start, and lasts some milliseconds.
        at += if rng.chance(0.5) { rng.between(unit / 2, unit * 3) } else { rng.between(1_000, unit) };
        let victim = if rng.chance(0.7) { who } else { who.partner() };
        let (begin, undo) = match rng.below(3) {
            0 => (Verb::Cut, Verb::Heal),
            1 => (Verb::Pause { who: victim }, Verb::Resume { who: victim }),
            _ => (death(rng, victim), Verb::Start { who: victim }),
        };
        plan.at(at, begin);
        at += rng.between(1_000, unit * 2);
        plan.at(at, undo);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn seeds_differ_and_repeat() {
        let plans: Vec<String> = (0..50).map(|seed| plan(seed, Scale::default()).print()).collect();
        assert_eq!(plan(7, Scale::default()).print(), plans[7]);
        assert_eq!(plans.iter().collect::<BTreeSet<_>>().len(), 50);
        assert!(plans.iter().all(|text| Plan::parse(text).unwrap().print() == *text));
    }

    #[test]
    fn every_kind_of_verb_occurs() {
        let verbs: BTreeSet<String> = (0..300)
            .flat_map(|seed| plan(seed, Scale { snapshots: seed % 2 == 1, ..Scale::default() }).steps)
            .map(|step| format!("{:?}", step.verb).split([' ', '{']).next().unwrap_or_default().to_string())
            .collect();
        let generated = [
            "Load",
            "Kill",
            "PowerCut",
            "Start",
            "Stop",
            "Pause",
            "Resume",
            "Cut",
            "CutOneWay",
            "Heal",
            "Delay",
            "SlowDisk",
            "ReadErrors",
            "FailWrites",
            "FailFlushes",
            "Drift",
            "ArbiterDown",
            "ArbiterUp",
            "ArbiterDelay",
            "AddDisk",
            "RemoveDisk",
            "KeepDisk",
            "Grow",
            "Keep",
            "Delete",
            "Snapshot",
            "Clone",
            "DropClone",
            "WriteClone",
            "HealAll",
            "NewDisks",
            "Rot",
            "LoseWrite",
            "Misdirect",
            "Scrub",
        ];
        for verb in generated {
            assert!(verbs.contains(verb), "{verb}");
        }
    }
}
