//! The simulator's exam: each deliberate bug must be found by a checker within 2,000 seeds of the ordinary
//! generator, while the same seed without the bug passes. A panic of the buggy node does not count as found.
//!
//! `TWINSAN_PLANTED_SEEDS` sets the number of seeds; without optimisation only a few are tried, and nothing is
//! demanded. `TWINSAN_PLANTED_BUG` names the bugs to look for, instead of all. Some need a chain of events that a
//! random plan hardly ever has: those are told in `tests/stories`.

mod support;

use support::{Shared, run_seed, setting, spread, text};
use twinsan::planted::{Bug, Planted};
use twinsan::sim::Scale;
use twinsan::sim::trace::Detail;

/// At least so many must be found.
const FOUND_MIN: usize = 12;

const SCALE: Scale = Scale { ops: 2_000 };

struct Found {
    bug: Bug,
    seed: u64,
    invariant: u32,
    what: String,
}

/// The first seed that shows the bug and passes without it.
fn search(bug: Bug, seeds: u64) -> Option<Found> {
    (1..=seeds).find_map(|seed| {
        let report = run_seed(seed, SCALE, Planted::only(bug), Detail::None).ok()?;
        let violation = report.failure?.violation;
        let sound = run_seed(seed, SCALE, Planted::NONE, Detail::None);
        let passes = sound.is_ok_and(|report| report.failure.is_none());
        let what = violation.text.lines().next().unwrap_or_default().chars().take(90).collect();
        passes.then_some(Found { bug, seed, invariant: violation.invariant, what })
    })
}

/// The bugs of block checksums that the simulator's damaged disks show, within few seeds: without optimisation too.
#[test]
fn bugs_of_block_checksums_are_found() {
    std::panic::set_hook(Box::new(|_| {})); // as below
    let most = setting("TWINSAN_SUMS_SEEDS", 60);
    let found = [Bug::ChecksumNotCompared, Bug::SumsTrustedAfterCrash].map(|bug| (bug, search(bug, most)));
    let _ = std::panic::take_hook();
    for (bug, found) in found {
        let found = found.unwrap_or_else(|| panic!("{bug:?} is not found within {most} seeds"));
        println!("{bug:?} found by seed {}, invariant {}: {}", found.seed, found.invariant, found.what);
    }
}

#[test]
fn every_planted_bug_is_found() {
    let optimised = !cfg!(debug_assertions);
    let seeds = setting("TWINSAN_PLANTED_SEEDS", if optimised { 2_000 } else { 3 });
    let names = text("TWINSAN_PLANTED_BUG");
    let asked = |bug: Bug| names.as_ref().is_none_or(|names| names.contains(&format!("{bug:?}")));
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|&bug| asked(bug)).collect();
    let found: Shared<Vec<Found>> = Shared::default();
    std::panic::set_hook(Box::new(|_| {})); // panics of buggy nodes are expected, and told below
    spread(0..bugs.len() as u64, |index| {
        if let Some(one) = search(bugs[index as usize], seeds) {
            found.with(|found| found.push(one));
        }
    });
    let _ = std::panic::take_hook();
    found.with(|found| {
        found.sort_by_key(|one| one.bug);
        println!("{:<28} {:>5} {:>9}  what was seen", "bug", "seed", "invariant");
        for one in found.iter() {
            println!("{:<28} {:>5} {:>9}  {}", format!("{:?}", one.bug), one.seed, one.invariant, one.what);
        }
        let missing: Vec<&Bug> = bugs.iter().filter(|bug| found.iter().all(|one| one.bug != **bug)).collect();
        println!("{} of {} found; not found: {missing:?}", found.len(), bugs.len());
        assert!(found.len() >= FOUND_MIN || !optimised || names.is_some());
    });
}
