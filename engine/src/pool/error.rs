//! What can be wrong with a pool: when it is made, and when it is opened. The texts name the disk and say what
//! to do.

use crate::ids::{DiskId, Uuid};
use crate::io::DiskError;

/// Why a pool cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The extent size is no power of two from 64 KiB to 128 MiB.
    #[error("the extent size must be a power of two from 64 KiB to 128 MiB, not {0} bytes")]
    ExtentBytes(u64),
    /// The log is too small or not a multiple of 4096 bytes.
    #[error("the metadata log must be a multiple of 4096 bytes from 32 KiB on, not {0} bytes")]
    LogBytes(u64),
    /// No disk, more than 64, or not as many as identities.
    #[error(
        "a pool has 1 to 64 disks, each with its identity; {disks} disks and {uuids} identities were given"
    )]
    Disks {
        /// Disks given.
        disks: usize,
        /// Identities given.
        uuids: usize,
    },
    /// A disk has no room for the metadata and one extent.
    #[error("disk {disk} is too small: {bytes} bytes, {needed} needed; use a larger disk or smaller extents")]
    TooSmall {
        /// The disk.
        disk: DiskId,
        /// What it has.
        bytes: u64,
        /// What it must have.
        needed: u64,
    },
    /// A disk has more extents than can be counted.
    #[error("disk {disk} has more than 2^32 extents; use larger extents")]
    TooLarge {
        /// The disk.
        disk: DiskId,
    },
}

/// Why a pool does not open. Nothing has been written when one of these is returned. Disks have the numbers of the
/// order in which they were given; one that is missing has that of its place in the pool.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No disk or more than 64.
    #[error("a pool has 1 to 64 disks; {0} were given")]
    Disks(usize),
    /// The disk failed a request.
    #[error("disk {disk} failed at byte {offset}: {error}; check its cabling, then try again")]
    Io {
        /// The disk.
        disk: DiskId,
        /// Where; zero for a flush.
        offset: u64,
        /// How.
        error: DiskError,
    },
    /// The disk was never part of a pool.
    #[error("disk {disk} carries no pool; check its path, or format the pool")]
    NotFormatted {
        /// The disk.
        disk: DiskId,
    },
    /// Both superblocks of the disk are damaged.
    #[error("both superblocks of disk {disk} are damaged; bring the pool back from the partner")]
    SuperblocksCorrupt {
        /// The disk.
        disk: DiskId,
    },
    /// The disk was written by a version that this one does not know.
    #[error("disk {disk} was written by a newer version; update this node")]
    Version {
        /// The disk.
        disk: DiskId,
    },
    /// The disk is part of another pool.
    #[error("disk {disk} belongs to pool {found:?}, the others to pool {expected:?}; check its path")]
    Foreign {
        /// The disk.
        disk: DiskId,
        /// Its pool.
        found: Uuid,
        /// The pool of the others, or the one asked for.
        expected: Uuid,
    },
    /// The pool is that of another node or partnership.
    #[error("the pool belongs to node {node} of partnership {partnership:?}; check the paths of its disks")]
    WrongNode {
        /// The node that it belongs to.
        node: crate::ids::NodeName,
        /// The partnership that it belongs to.
        partnership: Uuid,
    },
    /// The disk is a copy of another.
    #[error("disks {disk} and {other} have the same identity: one is a copy; remove the copy")]
    Cloned {
        /// One of them.
        disk: DiskId,
        /// The other.
        other: DiskId,
    },
    /// A disk of the pool was not given.
    #[error("disk {disk} of the pool, {uuid:?}, is missing; connect it and add its path")]
    Missing {
        /// Its place.
        disk: DiskId,
        /// Its identity.
        uuid: Uuid,
    },
    /// The disk shows an earlier state than the others.
    #[error(
        "disk {disk} shows generation {found}, the pool is at {expected}: an old copy; use the current disk"
    )]
    Older {
        /// The disk.
        disk: DiskId,
        /// Its generation.
        found: u64,
        /// That of the pool.
        expected: u64,
    },
    /// The disk is smaller than it was.
    #[error("disk {disk} has {bytes} bytes and had {expected} when it was formatted; give it its size back")]
    Shrunk {
        /// The disk.
        disk: DiskId,
        /// Its size.
        bytes: u64,
        /// Its former size.
        expected: u64,
    },
    /// A superblock is whole, but what it says cannot be.
    #[error("the superblock of disk {disk} makes no sense ({what}); bring the pool back from the partner")]
    Layout {
        /// The disk.
        disk: DiskId,
        /// What is wrong.
        what: &'static str,
    },
    /// The metadata are damaged there: they had been written and flushed, and are not what was written.
    #[error(
        "the metadata on disk {disk} at byte {offset} are damaged ({what}); bring the pool back from the partner"
    )]
    Corrupt {
        /// The disk.
        disk: DiskId,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Both copies of the metadata are damaged at the same place of their contents.
    #[error(
        "both copies of the metadata are damaged ({what}): on disk {disk} at byte {offset} and on disk {other} at byte {other_offset}; bring the pool back from the partner"
    )]
    BothCopies {
        /// The disk of the first copy.
        disk: DiskId,
        /// Where on it.
        offset: u64,
        /// That of the second copy.
        other: DiskId,
        /// Where on it.
        other_offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}
