//! Seeds of the ordinary generator: each a pair of nodes under load and faults, checked in every way we know.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `TWINSAN_SEEDS` | how many seeds | 500 |
//! | `TWINSAN_FIRST` | the first | 1 |
//! | `TWINSAN_OPS` | guest requests in each | 2,000 |
//! | `TWINSAN_SNAPSHOTS` | 0: none are taken | 1 |
//! | `TWINSAN_SEED` | `replay`: the seed | |
//! | `TWINSAN_PLAN` | `replay`: a file with a plan instead | |
//! | `TWINSAN_TRACE` | `replay`: `story`, `guests` or `all` | `story` |

mod support;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use support::{Shared, run_seed, setting, spread, text};
use twinsan::guest::Sectors;
use twinsan::ids::{NodeName, VolumeId};
use twinsan::planted::Planted;
use twinsan::sim::cluster::{Cluster, Counters, Failure, Origin, Report};
use twinsan::sim::trace::Detail;
use twinsan::sim::{Plan, Scale, Verb, generate};

fn scale() -> Scale {
    Scale { ops: setting("TWINSAN_OPS", 2_000), snapshots: setting("TWINSAN_SNAPSHOTS", 1) != 0 }
}

#[derive(Default)]
struct Tally {
    counters: Counters,
    failures: Vec<(u64, String)>,
    hashes: BTreeSet<u64>,
}

/// So many seeds run once, and one twice.
const AGAIN_EVERY: u64 = 50;

/// Runs a seed, some of them twice: it takes the same way, also when all is told.
fn run_twice(seed: u64, again: bool) -> Result<Report, String> {
    let run = |detail| {
        run_seed(seed, scale(), Planted::NONE, detail).map_err(|panic| format!("a node panics: {panic}"))
    };
    let report = run(Detail::None)?;
    if again {
        let told = run(Detail::All)?;
        if (told.trace_hash, told.counters) != (report.trace_hash, report.counters) {
            return Err("invariant 18: it takes another way the second time".into());
        }
    }
    Ok(report)
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the time of a test run is told")]
fn no_seed_breaks_a_promise() {
    let (first, count) = (setting("TWINSAN_FIRST", 1), setting("TWINSAN_SEEDS", 500));
    let tally: Shared<Tally> = Shared::default();
    let begun = std::time::Instant::now();
    spread(first..first + count, |seed| match run_twice(seed, (seed - first).is_multiple_of(AGAIN_EVERY)) {
        Ok(report) => tally.with(|tally| {
            tally.hashes.insert(report.trace_hash);
            tally.counters.add(&report.counters);
            if let Some(failure) = report.failure {
                tally.failures.push((seed, failure.to_string()));
            }
        }),
        Err(what) => {
            let text = format!("seed {seed}: {what}\nreplay: {}", Origin::Seed(seed, scale()));
            tally.with(|tally| tally.failures.push((seed, text)));
        }
    });
    let spent = begun.elapsed();
    tally.with(|tally| {
        println!("{count} seeds in {spent:.1?}");
        for (name, count) in tally.counters.list() {
            println!("{count:>12}  {name}");
        }
        tally.failures.sort();
        for (_, failure) in &tally.failures {
            println!("\n{failure}");
        }
        let seeds: Vec<u64> = tally.failures.iter().map(|failure| failure.0).collect();
        assert!(seeds.is_empty(), "{} of {count} seeds fail: {seeds:?}", seeds.len());
        assert_eq!(tally.hashes.len() as u64, count, "two seeds take the same way");
        enough_happened(&tally.counters, count);
    });
}

/// A run without trouble shows nothing.
fn enough_happened(counters: &Counters, seeds: u64) {
    let enough = [
        ("ops", counters.ops, seeds * scale().ops),
        ("answers", counters.answers, seeds * scale().ops * 9 / 10),
        ("kills", counters.kills, seeds / 2),
        ("power cuts", counters.power_cuts, seeds / 2),
        ("power cuts that took a part", counters.power_cuts_in_part, seeds / 50),
        ("blocks torn by power cuts", counters.blocks_torn, seeds / 7),
        ("times no node was up", counters.both_down, seeds / 10),
        ("returns in the order of death", counters.first_dead_first_back, seeds / 20),
        ("returns in the other order", counters.last_dead_first_back, seeds / 20),
        ("takeovers", counters.takeovers, seeds * 5 / 3),
        ("resyncs", counters.resyncs, seeds * 5 / 2),
        ("interrupted resyncs", counters.resyncs_interrupted, seeds),
        ("crashes during a resync", counters.deaths_in_resync, seeds / 12),
        ("links lost", counters.links_lost, seeds),
        ("cuts one way", counters.cuts_one_way, seeds / 5),
        ("slow links", counters.delays, seeds / 20),
        ("messages of old connections", counters.stragglers, seeds / 100),
        ("pauses", counters.pauses, seeds / 4),
        ("pauses past the lease", counters.pauses_past_lease, seeds / 10),
        ("clocks that drift", counters.drifts, seeds / 30),
        ("slow disks", counters.slow_disks, seeds / 10),
        ("unreadable blocks", counters.read_errors, seeds),
        ("disks that fail writes", counters.write_failures, seeds / 40),
        ("disks that fail flushes", counters.flush_failures, seeds / 40),
        ("nodes whose disks failed", counters.disks_failed, seeds / 12),
        ("nodes with new disks", counters.disks_replaced, seeds / 12),
        ("arbiter losses", counters.arbiter_losses, seeds / 10),
        ("crashes while another failure is outstanding", counters.losses, seeds / 10),
        ("clean stops", counters.clean_stops, seeds / 10),
        ("retries", counters.retries, seeds * 10),
        ("writes without space", counters.out_of_space, seeds),
        ("partners dropped for lack of space", counters.partners_dropped, seeds / 200),
        ("thresholds reached", counters.thresholds_reached, seeds / 4),
        ("thresholds left", counters.thresholds_left, seeds / 10),
        ("volumes grown", counters.volumes_grown, seeds / 10),
        ("volumes deleted", counters.volumes_deleted, seeds / 20),
        ("comparisons done", counters.compared, seeds * 20),
        ("comparisons that failed", counters.mismatches, seeds * 5),
        ("comparisons without an answer", counters.compared_uncertainly, seeds / 10),
        ("items kept", counters.items_kept, seeds),
        ("items refused for what was seen", counters.items_refused, seeds / 20),
        ("blocks of zeros inside extents", counters.zero_blocks_seen, seeds * 50),
        ("runs with space kept in a full pool", counters.kept_while_full, seeds / 100),
        ("snapshots and clones made", counters.clones_made, seeds / 5),
        ("snapshots and clones broken off", counters.clones_interrupted, seeds / 60),
        ("writes to clones", counters.clone_writes, seeds / 3),
        ("writes to snapshots refused", counters.snapshot_writes_refused, seeds / 5),
        ("moments of snapshots held against the history", counters.clone_moments_checked, seeds / 6),
        ("disks joined", counters.disks_joined, seeds / 5),
        ("removals cancelled", counters.removals_cancelled, seeds / 40),
        ("blocks that could not be moved", counters.unmovable_blocks, seeds / 20),
        ("disks emptied", counters.disks_left, seeds / 10),
        ("crashes while a disk comes or goes", counters.deaths_in_disk_changes, seeds / 50),
        ("blocks of which both told what they are", counters.states_compared, seeds * 280),
        ("blocks compared", counters.blocks_compared, seeds * 1_600),
        ("pools checked", counters.pools_checked, seeds * 4),
        ("blocks compared offline", counters.data_checked, seeds * 500),
        ("blocks in doubt offline", counters.data_in_doubt, seeds * 100),
        ("blocks rotted", counters.blocks_rotted, seeds),
        ("writes astray", counters.writes_astray, seeds / 10),
        ("blocks put right", counters.blocks_repaired, seeds),
        ("checksums made anew", counters.sums_remade, seeds),
        ("blocks scrubbed", counters.blocks_scrubbed, seeds * 100),
        ("blocks put right by scrubs", counters.scrub_repairs, seeds * 2 / 3),
    ];
    // What excuses a run from becoming whole is rare: 6 and 0.4 % of 500 seeds when this was written.
    let excuses = [
        ("mirrors not whole for lack of space", counters.partners_full, seeds / 8),
        ("halves that only failed disks had", counters.service_lost, seeds / 50),
    ];
    // Fewer seeds than these may lack what is rare, or have much of it, by chance.
    if seeds >= 200 {
        for (what, count, least) in enough {
            assert!(count >= least, "only {count} {what}, expected at least {least}");
        }
        for (what, count, most) in excuses {
            assert!(count <= most, "{count} {what}, expected at most {most}");
        }
    }
    // What is to fail fails, unless the pair cannot spare it up to the end: 7 in 8 when this was written.
    let (failed, asked) = (counters.write_failures + counters.flush_failures, counters.disk_failures_asked);
    assert!(failed * 5 >= asked * 4 || seeds < 200, "{failed} of {asked} disk failures took effect");
    let (copied, changed) = (counters.resync_bytes_copied, counters.resync_bytes_changed);
    assert!(copied > 0 && copied * 10 <= changed * 12, "{copied} bytes copied, {changed} bytes changed");
    // Most blocks of a marked region are zeros, or the resync is broken off: 11 % of 500 seeds when this was written.
    if seeds >= 200 {
        assert!(copied * 6 <= changed, "{copied} bytes copied, {changed} bytes changed");
    }
    let checked = counters.checked;
    let all = checked.by_zones + checked.by_configurations;
    // Sectors with too many writes at once for a verdict; the aim is one in a thousand.
    assert!(checked.undecided * 100 <= all, "{} of {all} sectors undecided", checked.undecided);
}

/// Plans that broke a promise once. Each is named for what it showed.
#[test]
#[expect(clippy::disallowed_methods, reason = "reads the plans from the disk")]
fn no_plan_breaks_a_promise_again() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the plans are part of the repository")
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let name = path.display();
        let text = std::fs::read_to_string(&path).expect("a plan can be read");
        let plan = Plan::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let (_, Err(what)) = tell(plan, Origin::File(name.to_string()), Detail::None) {
            panic!("{name}: {what}");
        }
    }
}

/// Not a test of its own: tells the story of one seed or plan.
#[test]
#[expect(clippy::disallowed_methods, reason = "a plan is read from the disk")]
fn replay() {
    let (plan, origin) = match (text("TWINSAN_PLAN"), text("TWINSAN_SEED")) {
        (Some(path), _) => {
            let plan = Plan::parse(&std::fs::read_to_string(&path).expect(&path)).expect(&path);
            (plan, Origin::File(path))
        }
        (_, Some(seed)) => {
            let seed = seed.parse().expect("TWINSAN_SEED is a number");
            (generate::plan(seed, scale()), Origin::Seed(seed, scale()))
        }
        _ => return,
    };
    let detail = match text("TWINSAN_TRACE").as_deref() {
        Some("all") => Detail::All,
        Some("guests") => Detail::Guests,
        _ => Detail::Story,
    };
    println!("{}", plan.print());
    let (timeline, ended) = tell(plan, origin, detail);
    println!("{timeline}\n");
    match ended {
        Ok(hash) => println!("no promise is broken; trace hash {hash:016x}"),
        Err(what) => panic!("{what}"),
    }
}

/// The timeline of a plan, up to the panic if a node panics; then how it ended.
fn tell(plan: Plan, origin: Origin, detail: Detail) -> (String, Result<u64, String>) {
    let mut cluster = Cluster::with(plan.clone(), Planted::NONE, detail);
    let ended = catch_unwind(AssertUnwindSafe(|| cluster.run_to_the_end()));
    let millis = cluster.now().as_nanos() / 1_000_000;
    let ended = match ended {
        Ok(None) => Ok(cluster.trace_hash()),
        Ok(Some(violation)) => Err(Failure { violation, plan, origin }.to_string()),
        Err(_) => Err(format!("a panic at {millis} ms of virtual time, told above\nreplay: {origin}")),
    };
    (cluster.timeline().join("\n"), ended)
}

#[test]
fn a_panic_is_told_with_what_led_to_it() {
    let mut plan = generate::plan(1, Scale { ops: 100, ..Scale::default() });
    let (at, volume) = (Sectors::new(0, 8), VolumeId(9));
    // There is no such volume: the hosts of the simulator stumble over it.
    plan.at(900_000, Verb::Write { via: NodeName::A, volume, at, fua: false });
    plan.sort();
    let (timeline, ended) = tell(plan, Origin::Made, Detail::Story);
    assert!(ended.expect_err("a panic").contains("a panic at 900 ms"));
    assert!(timeline.lines().count() > 10 && timeline.contains("starts"), "{timeline}");
}
