//! A look inside a node, for checkers and for status displays. It changes nothing.

use crate::bits::BitSet;
use crate::block::Block;
use crate::ids::{DiskId, Epoch, Members, NodeName, Uuid, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::config::SpaceLevel;
use crate::node::mend::MendCounters;
use crate::node::scrub::ScrubReport;
use crate::store::SumCounters;

/// What a node is and may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Who it is.
    pub name: NodeName,
    /// What it is doing.
    pub phase: PeerPhase,
    /// The epoch it acts in.
    pub epoch: Epoch,
    /// Its durable members record.
    pub members: Members,
    /// Its word that its half is not behind.
    pub up_to_date: bool,
    /// Its word that it stopped, after it had lost its partner, with everything of the pair on stable media.
    pub complete: bool,
    /// May it answer guests of mirrored volumes at this moment?
    pub serving: bool,
    /// Dirty 4 KiB blocks in the cache.
    pub dirty_blocks: u64,
    /// All 4 KiB blocks in the cache.
    pub cached_blocks: u64,
    /// Pool size in bytes.
    pub pool_bytes: u64,
    /// Bytes allocated to extents.
    pub pool_bytes_used: u64,
    /// Bytes kept for volumes that have not used them yet.
    pub pool_bytes_kept: u64,
    /// The highest threshold that the pool's use has reached and not fallen clear of.
    pub space_level: SpaceLevel,
    /// Regions still to be resynchronised, while a source.
    pub resync_regions_left: u64,
    /// Regions that the current resync began with.
    pub resync_regions_total: u64,
    /// Bytes of the log's regions copied by the current or last resync (guests' own new writes not counted).
    pub resync_bytes_copied: u64,
    /// Damaged blocks in this life.
    pub mends: MendCounters,
    /// The scrub, running or the last one.
    pub scrub: ScrubReport,
    /// What was done with block checksums in this life.
    pub sums: SumCounters,
    /// Lines of block checksums (64 KiB of data each) that are in doubt after a crash.
    pub sum_lines_in_doubt: u64,
    /// The volumes.
    pub volumes: Vec<VolumeView>,
    /// Volumes that are deleted and not gone yet, with the extents that are left of them.
    pub deleting: Vec<(VolumeId, u64)>,
    /// Volumes that are deleted.
    pub deleted: Vec<VolumeId>,
    /// The disks of the pool, by place.
    pub disks: Vec<DiskView>,
}

/// A disk of the pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskView {
    /// Its identity.
    pub uuid: Uuid,
    /// Its place in the pool.
    pub place: DiskId,
    /// Its number among the disks given.
    pub device: DiskId,
    /// Its size in bytes when it joined.
    pub bytes: u64,
    /// The unit that it wrote atomically when it joined.
    pub sector_bytes: u32,
    /// Does it hold the pool's metadata?
    pub home: bool,
    /// Extents that fit on it.
    pub extents: u32,
    /// Extents of it that are not free.
    pub extents_used: u32,
    /// What it is doing.
    pub state: DiskUse,
}

/// What a disk of a pool is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskUse {
    /// On its way in; its space does not count yet.
    Joining,
    /// In use.
    InUse,
    /// Being emptied.
    Leaving {
        /// Extents still on it.
        extents_left: u32,
        /// The operator has paused it.
        paused: bool,
        /// Blocks found unreadable, which keep their extents on it; counted up to 64.
        unmovable: u32,
    },
    /// Empty, and not let go yet: the superblocks may still name it. Without it the pool might not open.
    Departing,
}

/// One half, or a linear volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeView {
    /// The volume.
    pub id: VolumeId,
    /// Has it two halves?
    pub mirrored: bool,
    /// Who orders its writes, if known.
    pub owner: Option<NodeName>,
    /// Hot areas, as recorded in memory (a superset of what may differ, with `log`).
    pub hot: Vec<u32>,
    /// Logged regions.
    pub log: BitSet,
    /// Mapped extents.
    pub extents: u64,
    /// Size in 512-byte sectors that requests may reach to.
    pub sectors: u64,
    /// Size in 512-byte sectors that hosts see.
    pub sectors_shown: u64,
    /// Number of its last change.
    pub change: u64,
    /// What it began as, if that was another volume.
    pub of: Option<VolumeId>,
    /// Is it a snapshot, which is not written?
    pub read_only: bool,
}

/// Where a node would read a block from.
#[derive(Clone, Debug)]
pub enum Peek {
    /// The cache has it.
    Cached(Block),
    /// On disk, by its number among those given, at this byte offset.
    OnDisk(DiskId, u64),
    /// Not mapped, or remembered as zero.
    Unmapped,
}
