//! The exam of the tests. Each deliberate bug has a place here: the test that plants it and fails when it is no longer
//! found. Most are told step by step, or met by an enumeration of crash states. Some the simulator must find as well,
//! by its ordinary generator and through a checker, while the same seed without the bug passes. A panic of the buggy
//! node does not count as found.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `TWINSAN_PLANTED_SEEDS` | how many seeds are tried for each bug | 100; 2,000 if optimised |
//! | `TWINSAN_PLANTED_BUG` | the bugs to look for, by name | those that must be found; all if optimised |
//!
//! What is demanded is that the seeds find the bugs of [`BY_SEEDS`]. Which others they find is printed: a random plan
//! hardly ever has the chain of events that some need.

#[path = "support/bugs.rs"]
mod bugs;
mod support;

use std::collections::BTreeSet;

use bugs::BY_CRASH_STATES;
use support::{Shared, run_seed, setting, spread, text};
use twinsan::planted::{Bug, Planted};
use twinsan::sim::Scale;
use twinsan::sim::trace::Detail;

/// Found by these tests, each of which fails if it does not find its bugs. Paths are relative to this file. Those of
/// `pool_crash.rs` are in [`BY_CRASH_STATES`].
const BY_TESTS: &[(&str, &[Bug])] = &[
    ("clones.rs", &[Bug::LostTakenForData]),
    ("disks.rs", &[Bug::LeavingDiskAllocated, Bug::EvacuatedWithoutFlush, Bug::DiskErasedEarly]),
    ("moves.rs", &[Bug::DepartingDiskHidden, Bug::MovedUncompared]),
    ("pair.rs", &[Bug::StoppedUnmarked]),
    ("pool_basic.rs", &[Bug::ReservationIgnored]),
    (
        "pool_copies.rs",
        &[
            Bug::SecondCopyNotAwaited,
            Bug::DamagedCopyPreferred,
            Bug::DamagedCopyKept,
            Bug::SuperblockWrittenOnce,
            Bug::AppendedWhileCopyMoves,
            Bug::OldHomeGivenUpEarly,
        ],
    ),
    ("stories/copies.rs", &[Bug::ResyncOverwritesNewer, Bug::NewHalfGetsAll, Bug::UnreadableCopiedTwice]),
    ("stories/compare.rs", &[Bug::ComparedUnlocked, Bug::UncertainToldToRetry, Bug::MismatchUnstableAlone]),
    ("stories/flush.rs", &[Bug::FlushMissesUnconfirmed]),
    (
        "stories/lease.rs",
        &[
            Bug::BothWin,
            Bug::PausedNodeAnswers,
            Bug::LeaseNotWaitedOut,
            Bug::ProbeAnsweredWhileDeciding,
            Bug::LeaseNeverEnds,
        ],
    ),
    (
        "stories/marks.rs",
        &[
            Bug::StableNotRepeated,
            Bug::LogClearedAtRejoin,
            Bug::MarkForgottenAcrossRegions,
            Bug::WholeTooEarly,
        ],
    ),
    ("stories/clones.rs", &[Bug::ClonedUnderWrites, Bug::ClonedBeforePartner, Bug::CloneMarksForgotten]),
    ("stories/preferred.rs", &[Bug::PreferredGoesOnAfterRestart, Bug::RightKeptAtJoin, Bug::JoinedUnlooked]),
    ("stories/rejoin.rs", &[Bug::MarkForgottenAtTakeover, Bug::TargetHotIgnored, Bug::RegisterBeforeTarget]),
    ("stories/restart.rs", &[Bug::GrantUsedAfterRestart, Bug::SwapsAfterRestart, Bug::RegisterReadIsGrant]),
    (
        "stories/resync.rs",
        &[
            Bug::AckBeforeStable,
            Bug::LogClearedEarly,
            Bug::StaleServesReads,
            Bug::ReadUnstableAlone,
            Bug::LogClearedUnstableHere,
            Bug::FreshCopyNotAwaited,
            Bug::ResyncCopiesAll,
        ],
    ),
    ("stories/room.rs", &[Bug::SmallWritesPassLarge, Bug::SentWithoutRoom, Bug::ManyMoveToRoom]),
    ("stories/space.rs", &[Bug::WriteWithoutSpace, Bug::UnwrittenBlocksForgotten]),
    ("stories/stop.rs", &[Bug::HandedOverDirty, Bug::StoppedUndecidedDirty]),
    (
        "stories/volumes.rs",
        &[
            Bug::GrownBeforePartner,
            Bug::DeletedBeforePartner,
            Bug::AbsentPartnerNotTold,
            Bug::KeptBeforePartner,
            Bug::KeptUncompared,
            Bug::DeletedSpaceReusedEarly,
        ],
    ),
    (
        "stories/writes.rs",
        &[
            Bug::AckBeforePartner,
            Bug::OwnerReadsUnacknowledged,
            Bug::ForwardAppliedTwice,
            Bug::PendingDroppedAtTakeover,
            Bug::CooledUnflushed,
            Bug::AbortNotSettled,
            Bug::ForwardDeadlineIgnored,
            Bug::ForwardKeptAfterLoss,
            Bug::OwedLookForgotten,
        ],
    ),
    ("sums.rs", &[Bug::BlockChecksumWithoutAddress]),
    (
        "sums_crash.rs",
        &[
            Bug::SumsTrustedAfterCrash,
            Bug::UnsureNotAwaited,
            Bug::MappedBeforeSums,
            Bug::SharedExtentOverwritten,
        ],
    ),
];

/// The seeds must find these, whatever else finds them.
const BY_SEEDS: &[Bug] = &[
    Bug::AckBeforePartner,
    Bug::AckBeforeStable,
    Bug::LogClearedAtRejoin,
    Bug::LogClearedEarly,
    Bug::MarkForgottenAcrossRegions,
    Bug::WholeTooEarly,
    Bug::StaleServesReads,
    Bug::BothWin,
    Bug::WriteWithoutSpace,
    Bug::ForwardAppliedTwice,
    Bug::PendingDroppedAtTakeover,
    Bug::LogWithoutSequence,
    Bug::ExtentAllocatedTwice,
    Bug::UnwrittenBlocksForgotten,
    Bug::ChecksumNotCompared,
    Bug::SumsTrustedAfterCrash,
    Bug::ComparedUnlocked,
    Bug::UncertainToldToRetry,
];

/// Of clones: seeds with clones find them.
const OF_CLONES: &[Bug] = &[
    Bug::SharedExtentOverwritten,
    Bug::PartingNotAwaited,
    Bug::ClonedUnderWrites,
    Bug::ClonedBeforePartner,
    Bug::CloneMarksForgotten,
    Bug::LostTakenForData,
];

/// How many seeds have to do, whatever is asked for: a seed of another generator finds another bug first.
const BY_SEEDS_WITHIN: u64 = 400;

struct Found {
    bug: Bug,
    seed: u64,
    invariant: u32,
    what: String,
}

/// The first seed that shows the bug and passes without it.
fn search(bug: Bug, seeds: u64) -> Option<Found> {
    let scale = Scale { ops: 2_000, snapshots: OF_CLONES.contains(&bug) };
    (1..=seeds).find_map(|seed| {
        let report = run_seed(seed, scale, Planted::only(bug), Detail::None).ok()?;
        let violation = report.failure?.violation;
        let sound = run_seed(seed, scale, Planted::NONE, Detail::None);
        let passes = sound.is_ok_and(|report| report.failure.is_none());
        let what = violation.text.lines().next().unwrap_or_default().chars().take(90).collect();
        passes.then_some(Found { bug, seed, invariant: violation.invariant, what })
    })
}

/// A bug without a place here is one that nobody has to find.
#[test]
#[expect(clippy::disallowed_methods, reason = "reads the tests that it names")]
fn every_bug_has_a_test_that_must_find_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut placed: BTreeSet<Bug> = BY_SEEDS.iter().copied().collect();
    assert_eq!(placed.len(), BY_SEEDS.len(), "each once");
    placed.extend(BY_CRASH_STATES);
    for &(file, bugs) in BY_TESTS {
        let source =
            std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        // What is only spoken of, or treated apart, is not planted.
        let code = source.lines().filter_map(|line| line.split("//").next());
        let planting = code.filter(|line| !line.contains("== Bug::"));
        let words: BTreeSet<&str> =
            planting.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != ':')).collect();
        for &bug in bugs {
            assert!(words.contains(&*format!("Bug::{bug:?}")), "{file} does not plant {bug:?}");
            placed.insert(bug);
        }
    }
    let missing: Vec<&Bug> = Bug::ALL.iter().filter(|bug| !placed.contains(bug)).collect();
    assert!(missing.is_empty(), "no test must find {missing:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tells the threads of seeds from those of tests")]
fn the_seeds_find_the_bugs_that_they_must() {
    let optimised = !cfg!(debug_assertions);
    let seeds = setting("TWINSAN_PLANTED_SEEDS", if optimised { 2_000 } else { 100 });
    let within = |bug: Bug| if BY_SEEDS.contains(&bug) { seeds.max(BY_SEEDS_WITHIN) } else { seeds };
    let names = text("TWINSAN_PLANTED_BUG");
    let asked = |bug: Bug| match &names {
        Some(names) => names.contains(&format!("{bug:?}")),
        None => optimised || BY_SEEDS.contains(&bug),
    };
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|&bug| asked(bug)).collect();
    let found: Shared<Vec<Found>> = Shared::default();
    let usual = std::panic::take_hook();
    // Panics of buggy nodes are expected. They run in threads without a name; tests have one.
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some() {
            usual(panic);
        }
    }));
    spread(0..bugs.len() as u64, |index| {
        if let Some(one) = search(bugs[index as usize], within(bugs[index as usize])) {
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
        let missing: Vec<Bug> =
            bugs.iter().copied().filter(|bug| found.iter().all(|one| one.bug != *bug)).collect();
        println!("{} of {} found; not found: {missing:?}", found.len(), bugs.len());
        let failed: Vec<&Bug> = missing.iter().filter(|bug| BY_SEEDS.contains(bug)).collect();
        assert!(failed.is_empty(), "not found within {} seeds: {failed:?}", seeds.max(BY_SEEDS_WITHIN));
    });
}
