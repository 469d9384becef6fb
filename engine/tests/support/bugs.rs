//! The bugs that an enumeration of a pool's crash states must find: `pool_crash.rs` plants each of them, and the exam
//! counts them as placed.

use twinsan::planted::Bug;

/// In the order in which they are tried.
pub(crate) const BY_CRASH_STATES: &[Bug] = &[
    Bug::FlushSkippedBeforeSuperblock,
    Bug::TornSuperblockPicksOlder,
    Bug::ExtentReusedEarly,
    Bug::MapBeforeData,
    Bug::FailedFlushTrusted,
    Bug::ReplayNotIdempotent,
    Bug::LogWithoutSequence,
    Bug::ExtentAllocatedTwice,
    Bug::ExtentLeaked,
    Bug::OpenedWithoutFlush,
    Bug::ZeroBitClearedBeforeData,
    Bug::ZerosForgottenInCheckpoint,
    Bug::EvacuatedWithoutFlush,
    Bug::DiskUsedBeforeItJoined,
    Bug::DiskErasedEarly,
    Bug::HomeNamedBeforeWhole,
    Bug::NewHomeBelievedEarly,
    Bug::PartingNotAwaited,
];
