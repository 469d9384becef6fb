//! What a session can do.

/// What a store does with its pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Op {
    /// First write to an extent.
    WriteNew,
    /// Write to a mapped extent.
    Overwrite,
    Unmap,
    /// Unmap, and write there again at once.
    Replace,
    VolumeCreate,
    /// Of one with mapped extents.
    VolumeDelete,
    /// A volume grows; another is to be deleted, and its extents are unmapped one after the other.
    VolumeChange,
    Node,
    Half,
    Hot,
    Log,
    /// Checksums may be old, or are not any more.
    Unsure,
    /// Several kinds of records that must not be torn apart.
    Together,
    /// Three calls of several KiB, the later undoing the earlier.
    Burst,
    /// A slot is allocated and written, and not mapped.
    Abort,
    /// First write to an extent, of its first block alone.
    WritePartial,
    /// A block of a mapped extent, the first or the last, reads as zero.
    ZeroBlock,
    /// Write to a block that reads as zero.
    WriteZeroed,
    /// All space is reserved; an extent is unmapped; what was refused before is written as soon as that is durable.
    FullWrite,
    Checkpoint,
    /// The node dies and comes back; the disks have power all the time.
    Restart,
    /// The same, a little later in the operation before.
    RestartLate,
    /// A blank disk joins.
    AddDisk,
    /// A disk is emptied and leaves.
    RemoveDisk,
    /// The disk with the metadata is.
    RemoveHome,
    /// A blank disk joins for which the metadata areas are too small.
    AddLarge,
    /// Of a volume that has mapped extents.
    Snapshot,
    /// Write to an extent that two volumes share, by the older one.
    WriteShared,
    /// One of two volumes unmaps an extent that they share, and the other writes to it at once.
    LetGo,
}

impl Op {
    /// All but those that move the metadata, which not every beginning has room for, and those that are about clones.
    pub(crate) const ALL: [Op; 24] = [
        Op::WriteNew,
        Op::Overwrite,
        Op::Unmap,
        Op::Replace,
        Op::VolumeCreate,
        Op::VolumeDelete,
        Op::VolumeChange,
        Op::Node,
        Op::Half,
        Op::Hot,
        Op::Log,
        Op::Unsure,
        Op::Together,
        Op::Burst,
        Op::Abort,
        Op::WritePartial,
        Op::ZeroBlock,
        Op::WriteZeroed,
        Op::FullWrite,
        Op::Checkpoint,
        Op::Restart,
        Op::RestartLate,
        Op::AddDisk,
        Op::RemoveDisk,
    ];

    /// Of a volume with a snapshot: what meets what they share.
    pub(crate) const CLONING: [Op; 18] = [
        Op::WriteNew,
        Op::Overwrite,
        Op::Unmap,
        Op::Replace,
        Op::VolumeDelete,
        Op::VolumeChange,
        Op::WritePartial,
        Op::ZeroBlock,
        Op::WriteZeroed,
        Op::FullWrite,
        Op::Checkpoint,
        Op::Restart,
        Op::RestartLate,
        Op::AddDisk,
        Op::RemoveDisk,
        Op::Snapshot,
        Op::WriteShared,
        Op::LetGo,
    ];
}
