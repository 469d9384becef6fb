//! Disks that come and go in the simulator, by hand: the power fails at every moment of a change.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use twinsan::guest::Sectors;
use twinsan::ids::{NodeName, VolumeId};
use twinsan::planted::{Bug, Planted};
use twinsan::sim::plan::{Setup, Verb, VolumeSetup};
use twinsan::sim::trace::Detail;
use twinsan::sim::{Cluster, Plan};
use twinsan::time::Duration;

const VOLUME: VolumeId = VolumeId(1);
const A: NodeName = NodeName::A;

fn cluster(seed: u64, planted: Planted) -> Cluster {
    let setup = Setup {
        seed,
        volumes: vec![VolumeSetup { sectors: 8 << 11, mirrored: false, reserved_bytes: 0 }],
        disks: 2,
        disk_bytes: 16 << 20,
        ..Setup::default()
    };
    Cluster::with(Plan { setup, steps: Vec::new() }, planted, Detail::None)
}

/// Where the story's data lie: one request in each of some extents.
fn places() -> impl Iterator<Item = Sectors> {
    (0..12).map(|n| Sectors::new(n * 8 * 128, 16))
}

/// Data are written and flushed; then comes the change; so much later the power fails; then all must be there.
fn power_fails_after(micros: u64, change: &Verb, planted: Planted) -> Result<Cluster, String> {
    let mut cluster = cluster(micros, planted);
    let failed = |what: twinsan::sim::cluster::ApiError| format!("{micros} us after {change:?}: {what}");
    cluster.run(Duration::from_millis(20));
    let mut values = Vec::new();
    for at in places() {
        values.push(cluster.write(A, VOLUME, at).map_err(failed)?);
    }
    cluster.flush(A, VOLUME).map_err(failed)?;
    cluster.apply_now(change.clone());
    cluster.run(Duration::from_micros(micros));
    cluster.apply_now(Verb::PowerCut { who: A });
    cluster.apply_now(Verb::Start { who: A });
    for (at, value) in places().zip(values) {
        let found = cluster.read(A, VOLUME, at).map_err(failed)?;
        if found.iter().any(|each| *each != value) {
            return Err(format!("{micros} us after {change:?}: {found:?} instead of {value}"));
        }
    }
    Ok(cluster)
}

const REMOVE: Verb = Verb::RemoveDisk { who: A, which: 0 };
const ADD: Verb = Verb::AddDisk { who: A, bytes: 24 << 20, sector_bytes: 4096 };

fn moments() -> impl Iterator<Item = u64> {
    (0..12_000).step_by(20)
}

#[test]
fn nothing_flushed_is_lost_whenever_the_power_fails_while_a_disk_is_emptied() {
    let (mut left, mut met) = (0, 0);
    for micros in moments() {
        // The one with the pool's metadata, and the other.
        let remove = Verb::RemoveDisk { who: A, which: (micros / 20 % 2) as u32 };
        let mut cluster =
            power_fails_after(micros, &remove, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        met += cluster.counters().deaths_in_disk_changes;
        // It goes on after the crash, unless that was faster than the request.
        cluster.check().unwrap();
        left += cluster.counters().disks_left;
    }
    println!("{met} power cuts while a disk was leaving; {left} disks left all the same");
    assert!(met > 100 && left > 100, "{met} {left}");
}

#[test]
fn a_pool_opens_whenever_the_power_fails_while_a_disk_joins() {
    let mut met = 0;
    for micros in moments() {
        let mut cluster =
            power_fails_after(micros, &ADD, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        met += cluster.counters().deaths_in_disk_changes;
        cluster.check().unwrap();
    }
    println!("{met} power cuts while a disk was joining");
    assert!(met > 100, "{met}");
}

/// Its metadata areas are too small for such a disk: it holds larger ones when it has joined.
#[test]
fn a_pool_opens_whenever_the_power_fails_while_its_metadata_grow() {
    let add = Verb::AddDisk { who: A, bytes: 16 << 30, sector_bytes: 512 };
    let (mut met, mut moved) = (0, 0);
    for micros in moments().step_by(6) {
        let mut cluster =
            power_fails_after(micros, &add, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        met += cluster.counters().deaths_in_disk_changes;
        let view = cluster.view(A).unwrap();
        moved += u64::from(view.disks.iter().any(|disk| disk.home && disk.bytes == 16 << 30));
        cluster.check().unwrap();
    }
    println!("{met} power cuts while a disk joined; {moved} times it then held the metadata");
    assert!(met > 15 && moved > 30, "{met} {moved}");
}

/// What is kept for a volume takes more than one of the two disks: none leaves, and the volume gets all of it, after a
/// restart too.
#[test]
fn a_disk_does_not_leave_with_what_is_kept_for_a_volume() {
    let setup = Setup {
        seed: 1,
        volumes: vec![VolumeSetup { sectors: 20 << 11, mirrored: false, reserved_bytes: 20 << 20 }],
        disks: 2,
        disk_bytes: 16 << 20,
        ..Setup::default()
    };
    let mut cluster = Cluster::with(Plan { setup, steps: Vec::new() }, Planted::NONE, Detail::None);
    cluster.run(Duration::from_millis(20));
    cluster.apply_now(REMOVE);
    cluster.run(Duration::from_millis(20));
    assert_eq!((cluster.counters().disk_refusals, cluster.counters().removals), (1, 0));
    cluster.apply_now(Verb::PowerCut { who: A });
    cluster.apply_now(Verb::Start { who: A });
    for at in (0..20 << 11).step_by(128) {
        cluster.write(A, VOLUME, Sectors::new(at, 8)).unwrap();
    }
    cluster.check().unwrap();
}

/// On both nodes of a pair a disk joins and another leaves, while hosts write; now and then the power fails.
fn a_pair_changes_its_disks(seed: u64, planted: Planted) -> Result<Cluster, String> {
    let setup = Setup { seed, disks: 2, disk_bytes: 16 << 20, hot_blocks: 400, ..Setup::default() };
    let mut cluster = Cluster::with(Plan { setup, steps: Vec::new() }, planted, Detail::None);
    let failed = |what: twinsan::sim::cluster::ApiError| format!("seed {seed}: {what}");
    cluster.until_paired().map_err(failed)?;
    cluster.apply_now(Verb::Load { ops: 1_000 });
    cluster.run(Duration::from_millis(100));
    for (who, sector_bytes) in [(A, 512), (A.partner(), 4096)] {
        cluster.apply_now(Verb::AddDisk { who, bytes: 24 << 20, sector_bytes });
    }
    cluster.run(Duration::from_millis(30));
    for who in NodeName::BOTH {
        cluster.apply_now(Verb::RemoveDisk { who, which: 0 });
    }
    cluster.run(Duration::from_micros(seed * 300));
    if seed.is_multiple_of(2) {
        let who = NodeName::BOTH[(seed / 2 % 2) as usize];
        cluster.apply_now(Verb::PowerCut { who });
        cluster.run(Duration::from_millis(seed));
        cluster.apply_now(Verb::Start { who });
    }
    cluster.run(Duration::from_millis(100));
    cluster.check().map_err(failed)?;
    Ok(cluster)
}

#[test]
fn both_nodes_of_a_pair_change_their_disks_under_load() {
    let (mut joined, mut left, mut met) = (0, 0, 0);
    for seed in 1..=60 {
        let cluster = a_pair_changes_its_disks(seed, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        let counters = cluster.counters();
        (joined, left) = (joined + counters.disks_joined, left + counters.disks_left);
        met += counters.deaths_in_disk_changes;
    }
    println!(
        "{joined} disks joined, {left} left, {met} power cuts in between: nothing lost, the halves are equal"
    );
    assert!(joined >= 100 && left >= 80 && met >= 3, "{joined} {left} {met}");
}

#[test]
fn a_leaving_disk_that_takes_extents_is_found() {
    let planted = Planted::only(Bug::LeavingDiskAllocated);
    let found = (1..=60).find_map(|seed| a_pair_changes_its_disks(seed, planted).err());
    let found = found.expect("not found");
    println!("{found}");
    assert!(found.contains("invariant 20"), "{found}");
}

#[test]
fn planted_bugs_of_the_store_are_found() {
    let bugs = [(Bug::EvacuatedWithoutFlush, &REMOVE), (Bug::DiskErasedEarly, &REMOVE)];
    for (bug, change) in bugs {
        let found = moments().find_map(|micros| power_fails_after(micros, change, Planted::only(bug)).err());
        println!("{bug:?}: {}", found.unwrap_or_else(|| panic!("{bug:?} was not found")));
    }
}

/// A pair with its data on disk only; then blocks of node a rot, and a disk leaves it. Nobody reads meanwhile.
fn rot_is_met_on_the_way(seed: u64, planted: Planted) -> Result<Cluster, String> {
    let setup = Setup { seed, disks: 2, disk_bytes: 16 << 20, ..Setup::default() };
    let mut cluster = Cluster::with(Plan { setup, steps: Vec::new() }, planted, Detail::None);
    let failed = |what: twinsan::sim::cluster::ApiError| format!("seed {seed}: {what}");
    cluster.until_paired().map_err(failed)?;
    for at in places() {
        cluster.write(A, VOLUME, at).map_err(failed)?;
    }
    cluster.flush(A, VOLUME).map_err(failed)?;
    // No checksum is unsure any more; then the cache is forgotten.
    cluster.run(Duration::from_secs(60));
    cluster.apply_now(Verb::PowerCut { who: A });
    cluster.apply_now(Verb::Start { who: A });
    cluster.until_paired().map_err(failed)?;
    cluster.run(Duration::from_secs(10));
    cluster.apply_now(Verb::Rot { who: A, count: 12 });
    cluster.apply_now(REMOVE);
    cluster.run(Duration::from_secs(60));
    Ok(cluster)
}

#[test]
fn rot_on_a_disk_that_leaves_is_put_right_from_the_partner() {
    let mut repaired = 0;
    for seed in 1..=20 {
        let mut cluster = rot_is_met_on_the_way(seed, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        assert_eq!(cluster.counters().disks_left, 1, "seed {seed}: rot keeps its disk");
        repaired += cluster.view(A).map_or(0, |view| view.mends.repaired);
        cluster.check().unwrap();
    }
    println!("{repaired} blocks repaired on their way");
    assert!(repaired > 20, "{repaired}");
}

#[test]
fn rot_that_is_given_a_checksum_is_found() {
    let planted = Planted::only(Bug::MovedUncompared);
    let found = (1..=20).find_map(|seed| {
        let cluster = rot_is_met_on_the_way(seed, planted);
        cluster.and_then(|mut cluster| cluster.check().map_err(|what| what.to_string())).err()
    });
    println!("{}", found.expect("not found"));
}
