//! Deliberate bugs, the simulator's exam. A simulator is only as good as what it catches: each of these is
//! switched on alone in a test, and must be found by a checker. Without the feature `planted` the question is
//! a constant `false` and nothing of it is left in the product.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One deliberate bug.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Bug { $($(#[$doc])* $name),* }
        impl Bug {
            /// Every bug.
            pub const ALL: &'static [Bug] = &[$(Bug::$name),*];
        }
    };
}

bugs! {
    /// A write is acknowledged before the partner has it.
    AckBeforePartner,
    /// A degraded write is acknowledged before it is stable.
    AckBeforeStable,
    /// No flush between the metadata log and the superblock that drops it.
    FlushSkippedBeforeSuperblock,
    /// The torn superblock is not told from the whole one: the older wins.
    TornSuperblockPicksOlder,
    /// A resync block overwrites a newer write.
    ResyncOverwritesNewer,
    /// The change log is cleared when the partner rejoins.
    LogClearedAtRejoin,
    /// A region is cleared when the partner has it in its cache, not on disk.
    LogClearedEarly,
    /// The mark of a write in flight is forgotten when the partner is lost.
    MarkForgottenAtTakeover,
    /// Only the first region of a write across a region border is marked.
    MarkForgottenAcrossRegions,
    /// The mirror is called whole before the last block is durable.
    WholeTooEarly,
    /// A half that is behind serves reads.
    StaleServesReads,
    /// The arbiter's refusal is ignored: both sides go on.
    BothWin,
    /// A grant that was won in an earlier life is used after a restart.
    GrantUsedAfterRestart,
    /// A node that was paused past its lease answers at once.
    PausedNodeAnswers,
    /// An extent is given out again before its unmapping is durable.
    ExtentReusedEarly,
    /// A new extent is mapped before its data is durable.
    MapBeforeData,
    /// A cached write has no space reserved.
    WriteWithoutSpace,
    /// The owner reads a write that the partner lacks.
    OwnerReadsUnacknowledged,
    /// A forwarded write that is sent again is applied again.
    ForwardAppliedTwice,
    /// Writes in flight to the partner are dropped at takeover.
    PendingDroppedAtTakeover,
    /// A failed flush is retried and then trusted.
    FailedFlushTrusted,
    /// An area cools before both nodes have flushed it.
    CooledUnflushed,
    /// Alone, a read returns what is not yet stable.
    ReadUnstableAlone,
    /// The target's own hot set is not merged when it rejoins.
    TargetHotIgnored,
    /// A replay applies records again that the checkpoint contains already.
    ReplayNotIdempotent,
    /// A log entry is believed whatever its sequence.
    LogWithoutSequence,
    /// After a crash, what the log mapped since the checkpoint counts as free.
    ExtentAllocatedTwice,
    /// A slot that was allocated and not used is not given back.
    ExtentLeaked,
    /// A pool is opened without a flush: what was read may still be lost.
    OpenedWithoutFlush,
    /// An extent that leaves its disk is mapped to its new place before that is durable.
    EvacuatedWithoutFlush,
    /// New extents are put on a disk that is leaving.
    LeavingDiskAllocated,
    /// A disk that joins is used before the superblocks name it.
    DiskUsedBeforeItJoined,
    /// A disk that leaves is erased while the superblocks still name it.
    DiskErasedEarly,
}

/// Which bug is planted in a node, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Planted {
    /// No bug.
    pub const NONE: Planted = Planted {
        #[cfg(feature = "planted")]
        bug: None,
    };

    /// Just this bug.
    #[cfg(feature = "planted")]
    pub const fn only(bug: Bug) -> Planted {
        Planted { bug: Some(bug) }
    }

    /// Is `bug` planted here?
    #[inline(always)]
    pub fn has(self, bug: Bug) -> bool {
        #[cfg(feature = "planted")]
        return self.bug == Some(bug);
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
    }
}
