//! Seeds of the ordinary generator: each a pair of nodes under load and faults, checked in every way we know.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `TWINSAN_SEEDS` | how many seeds | 500 |
//! | `TWINSAN_FIRST` | the first | 1 |
//! | `TWINSAN_OPS` | guest requests in each | 2,000 |
//! | `TWINSAN_SEED` | `replay`: the seed | |
//! | `TWINSAN_PLAN` | `replay`: a file with a plan instead | |
//! | `TWINSAN_TRACE` | `replay`: `story`, `guests` or `all` | `story` |

mod support;

use support::{Shared, run_seed, setting, spread, text};
use twinsan::planted::Planted;
use twinsan::sim::cluster::{Counters, run, run_plan};
use twinsan::sim::trace::Detail;
use twinsan::sim::{Plan, Scale, generate};

fn scale() -> Scale {
    Scale { ops: setting("TWINSAN_OPS", 2_000) }
}

#[derive(Default)]
struct Tally {
    counters: Counters,
    failures: Vec<(u64, String)>,
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the time of a test run is told")]
fn no_seed_breaks_a_promise() {
    let (first, count) = (setting("TWINSAN_FIRST", 1), setting("TWINSAN_SEEDS", 500));
    let tally: Shared<Tally> = Shared::default();
    let begun = std::time::Instant::now();
    spread(first..first + count, |seed| match run_seed(seed, scale(), Planted::NONE, Detail::None) {
        Ok(report) => tally.with(|tally| {
            tally.counters.add(&report.counters);
            if let Some(failure) = report.failure {
                tally.failures.push((seed, failure.to_string()));
            }
        }),
        Err(panic) => tally.with(|tally| tally.failures.push((seed, format!("seed {seed} panics: {panic}")))),
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
        ("takeovers", counters.takeovers, seeds / 2),
        ("resyncs", counters.resyncs, seeds / 2),
        ("interrupted resyncs", counters.resyncs_interrupted, seeds / 20),
        ("links lost", counters.links_lost, seeds),
        ("pauses", counters.pauses, seeds / 4),
        ("arbiter losses", counters.arbiter_losses, seeds / 10),
        ("crashes while another failure is outstanding", counters.losses, seeds / 10),
        ("clean stops", counters.clean_stops, seeds / 10),
        ("retries", counters.retries, seeds * 10),
        ("writes without space", counters.out_of_space, seeds),
        ("partners dropped for lack of space", counters.partners_dropped, seeds / 100),
        ("thresholds reached", counters.thresholds_reached, seeds / 4),
        ("thresholds left", counters.thresholds_left, seeds / 10),
        ("volumes grown", counters.volumes_grown, seeds / 10),
        ("volumes deleted", counters.volumes_deleted, seeds / 20),
        ("blocks of zeros inside extents", counters.zero_blocks_seen, seeds * 50),
        ("runs with space kept in a full pool", counters.kept_while_full, seeds / 100),
        ("disks joined", counters.disks_joined, seeds / 5),
        ("disks emptied", counters.disks_left, seeds / 10),
        ("crashes while a disk comes or goes", counters.deaths_in_disk_changes, seeds / 50),
        ("blocks compared", counters.blocks_compared, seeds * 100),
        ("blocks rotted", counters.blocks_rotted, seeds),
        ("writes astray", counters.writes_astray, seeds / 10),
        ("blocks put right", counters.blocks_repaired, seeds),
        ("checksums made anew", counters.sums_remade, seeds),
        ("blocks scrubbed", counters.blocks_scrubbed, seeds * 10),
        ("blocks put right by scrubs", counters.scrub_repairs, seeds / 10),
    ];
    if seeds >= 100 {
        for (what, count, least) in enough {
            assert!(count >= least, "only {count} {what}, expected at least {least}");
        }
    }
    let (copied, changed) = (counters.resync_bytes_copied, counters.resync_bytes_changed);
    assert!(copied > 0 && copied * 10 <= changed * 12, "{copied} bytes copied, {changed} bytes changed");
    let checked = counters.checked;
    let all = checked.by_zones + checked.by_configurations;
    // Sectors with too many writes at once for a verdict; the aim is one in a thousand.
    assert!(checked.undecided * 100 <= all, "{} of {all} sectors undecided", checked.undecided);
}

#[test]
fn the_same_seed_takes_the_same_way() {
    for seed in 1..=6 {
        let [first, second] = [(); 2].map(|()| run(seed, Scale { ops: 300 }, Planted::NONE, Detail::None));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.counters, second.counters, "seed {seed}");
        let told = run(seed, Scale { ops: 300 }, Planted::NONE, Detail::All);
        assert_eq!(told.trace_hash, first.trace_hash, "telling changes nothing");
        let other = run(seed + 1000, Scale { ops: 300 }, Planted::NONE, Detail::None);
        assert_ne!(other.trace_hash, first.trace_hash);
    }
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
        let report = run_plan(plan, Planted::NONE, Detail::None);
        if let Some(failure) = report.failure {
            panic!("{name}: {failure}");
        }
    }
}

/// Not a test of its own: tells the story of one seed or plan.
#[test]
#[expect(clippy::disallowed_methods, reason = "a plan is read from the disk")]
fn replay() {
    let plan = match (text("TWINSAN_PLAN"), text("TWINSAN_SEED")) {
        (Some(path), _) => Plan::parse(&std::fs::read_to_string(&path).expect(&path)).expect(&path),
        (_, Some(seed)) => generate::plan(seed.parse().expect("TWINSAN_SEED is a number"), scale()),
        _ => return,
    };
    let detail = match text("TWINSAN_TRACE").as_deref() {
        Some("all") => Detail::All,
        Some("guests") => Detail::Guests,
        _ => Detail::Story,
    };
    println!("{}", plan.print());
    let report = run_plan(plan, Planted::NONE, detail);
    println!("{}\n", report.timeline.join("\n"));
    match report.failure {
        Some(failure) => {
            println!("{failure}");
            panic!("the promise is broken");
        }
        None => println!("no promise is broken; trace hash {:016x}", report.trace_hash),
    }
}
