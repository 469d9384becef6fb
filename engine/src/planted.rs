//! Deliberate bugs, the exam of the simulator and of the named scenarios. A test is only as good as what it catches:
//! each of these is switched on in at least one test, which fails when the bug is no longer found. `tests/planted.rs`
//! lists which: a bug that is not in its list fails it. Without the feature `planted` the question is a constant
//! `false` and nothing of it is left in the product.

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
    /// A node that has lost its partner stops without writing down that it has everything.
    StoppedUnmarked,
    /// A winner goes on at once, though its partner's lease may still run.
    LeaseNotWaitedOut,
    /// A node that asks the arbiter goes on answering its partner's probes.
    ProbeAnsweredWhileDeciding,
    /// An abort of a forwarded write is answered before the owner has settled it.
    AbortNotSettled,
    /// A forwarded write is ordered however late it comes.
    ForwardDeadlineIgnored,
    /// A forwarded write that was not ordered outlives the pair.
    ForwardKeptAfterLoss,
    /// The partner of a leaver says that all is stable here before it is.
    HandedOverDirty,
    /// A restarted node swaps both members for itself.
    SwapsAfterRestart,
    /// The register's word is taken for the right to serve, without a swap of this life.
    RegisterReadIsGrant,
    /// Without an arbiter the preferred node goes on after a restart too.
    PreferredGoesOnAfterRestart,
    /// Without an arbiter the source keeps its right to serve alone when it proposes the join.
    RightKeptAtJoin,
    /// The register names both before the target has written that it is whole.
    RegisterBeforeTarget,
    /// A region is cleared when the target has it stable, whatever the source has.
    LogClearedUnstableHere,
    /// A region is cleared though a newer write to it is on its way to the target.
    FreshCopyNotAwaited,
    /// A delta resync copies all that is mapped.
    ResyncCopiesAll,
    /// A write that finds room takes it, whoever waits for room already.
    SmallWritesPassLarge,
    /// A block stops reading as zero before the data written to it is durable.
    ZeroBitClearedBeforeData,
    /// A new extent is mapped without a word about the blocks that were not written.
    UnwrittenBlocksForgotten,
    /// Which blocks of mapped extents read as zero is left out of the checkpoint.
    ZerosForgottenInCheckpoint,
    /// Space that is kept for a volume is given to others.
    ReservationIgnored,
    /// A block's checksum says nothing of its place.
    BlockChecksumWithoutAddress,
    /// After a crash the checksums are believed that may be older than the data.
    SumsTrustedAfterCrash,
    /// Data is overwritten before it is durable that its checksums may be old.
    UnsureNotAwaited,
    /// A new extent is mapped before its checksums are durable.
    MappedBeforeSums,
    /// What is read from disk is not compared with its checksum.
    ChecksumNotCompared,
    /// A flush at the owner leaves out what the partner has acknowledged and not yet confirmed.
    FlushMissesUnconfirmed,
    /// While nothing is dirty, writes go to the partner without a place here for when they come back.
    SentWithoutRoom,
    /// A second write moves on to wait for room before the first that did has its own.
    ManyMoveToRoom,
    /// A clean stop without a verdict, or with the swap to both overdue, does not wait for the disk.
    StoppedUndecidedDirty,
    /// An extent that leaves its disk is mapped to its new place before that is durable.
    EvacuatedWithoutFlush,
    /// New extents are put on a disk that is leaving.
    LeavingDiskAllocated,
    /// A disk that joins is used before the superblocks name it.
    DiskUsedBeforeItJoined,
    /// A disk that leaves is erased while the superblocks still name it.
    DiskErasedEarly,
    /// A disk that leaves is shown as gone while the superblocks still name it.
    DepartingDiskHidden,
    /// What leaves a disk is not compared with its checksums, and gets new ones.
    MovedUncompared,
    /// The first copy to a half that holds nothing names what is not mapped, too.
    NewHalfGetsAll,
    /// A node of a pair serves until it hears that the pair is over: no lease ends.
    LeaseNeverEnds,
    /// How far the partner is stable is said once, whatever becomes of the link.
    StableNotRepeated,
    /// A node that has joined does not look whether the source is still at it.
    JoinedUnlooked,
    /// A log entry counts before its second copy is flushed.
    SecondCopyNotAwaited,
    /// A copy of a log entry whose head is whole is preferred, whatever the rest of it.
    DamagedCopyPreferred,
    /// A damaged copy of the metadata is not written anew.
    DamagedCopyKept,
    /// Only one superblock copy names the checkpoint in force when the log before it is given up.
    SuperblockWrittenOnce,
    /// The log goes on while a copy of it moves, and after a crash in that.
    AppendedWhileCopyMoves,
    /// The space of a deleted volume is given out again before its delete is durable.
    DeletedSpaceReusedEarly,
    /// A volume grows for hosts before the partner has it in writing.
    GrownBeforePartner,
    /// A volume is deleted before the partner has it in writing.
    DeletedBeforePartner,
    /// A partner that comes back is not told what became of the volumes.
    AbsentPartnerNotTold,
    /// Something is kept with a volume before the partner has it in writing.
    KeptBeforePartner,
    /// What is kept is replaced whatever its revision.
    KeptUncompared,
    /// A volume is cloned though writes to it go on.
    ClonedUnderWrites,
    /// A clone is written down, and acknowledged, before the partner has it.
    ClonedBeforePartner,
    /// A region that could not be read waits to be read again though it is copied as it was written since.
    UnreadableCopiedTwice,
    /// After a step beside others nobody looks at the whole node, whatever it left.
    OwedLookForgotten,
    /// A disk is named as the one with the metadata before what is there is on stable media.
    HomeNamedBeforeWhole,
    /// The former home disk counts for nothing when one copy of the superblocks names the new one.
    OldHomeGivenUpEarly,
    /// Where a disk has yet to say that it is the home disk no more, the one that it is to be follows at once.
    NewHomeBelievedEarly,
    /// An extent that several volumes share is written where it is.
    SharedExtentOverwritten,
    /// An extent counts as one volume's alone before it is durable that the others have let go of it.
    PartingNotAwaited,
    /// What the partner's half lacked is not marked in a clone that the partner is to make of it.
    CloneMarksForgotten,
    /// A block that was lost when its extent was copied is taken as it is if its checksum is in doubt.
    LostTakenForData,
    /// A comparison that is read before its write has the range to itself.
    ComparedUnlocked,
    /// A comparison that may have had an effect is refused as if it had none.
    UncertainToldToRetry,
    /// Alone, that a comparison failed is told before what it tells of is stable.
    MismatchUnstableAlone,
}

/// Which bugs are planted in a node, if any. Some promises are kept twice: it takes two bugs to break them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bugs: [Option<Bug>; 2],
}

impl Planted {
    /// No bug.
    pub const NONE: Planted = Planted {
        #[cfg(feature = "planted")]
        bugs: [None; 2],
    };

    /// Just this bug.
    #[cfg(feature = "planted")]
    pub const fn only(bug: Bug) -> Planted {
        Planted { bugs: [Some(bug), None] }
    }

    /// These bugs.
    ///
    /// # Panics
    /// If there are more than two.
    #[cfg(feature = "planted")]
    pub fn these(bugs: &[Bug]) -> Planted {
        assert!(bugs.len() <= 2, "at most two bugs at a time");
        Planted { bugs: [bugs.first().copied(), bugs.get(1).copied()] }
    }

    /// Is any bug planted here?
    #[cfg(feature = "planted")]
    pub fn is_any(self) -> bool {
        self.bugs != [None; 2]
    }

    /// Is `bug` planted here?
    #[inline(always)]
    pub fn has(self, bug: Bug) -> bool {
        #[cfg(feature = "planted")]
        return self.bugs[0] == Some(bug) || self.bugs[1] == Some(bug);
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
    }
}
