//! What the metadata log records. Each record says what is so, not what changed, so that applying it again
//! does no harm.

use std::sync::Arc;

use crate::ids::{DiskId, Epoch, Generation, ItemName, Members, Uuid, VolumeId};

/// Most ancestors of a generation that are kept.
pub const ANCESTORS_MAX: usize = 8;
/// Most bytes of an item that is kept with a volume.
pub const ITEM_BYTES_MAX: usize = 32 << 10;

/// What the node durably says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who may serve in it.
    pub members: Members,
    /// An epoch that it has proposed and must never propose again; zero if none.
    pub proposed: Epoch,
    /// Its half is not behind.
    pub up_to_date: bool,
    /// It has lost its partner without going on itself, and then stopped cleanly: it has on stable media everything
    /// that the pair of its epoch acknowledged or showed.
    pub complete: bool,
}

impl Default for NodeRecord {
    /// That of a fresh pool.
    fn default() -> NodeRecord {
        NodeRecord {
            epoch: Epoch(0),
            members: Members::BOTH,
            proposed: Epoch(0),
            up_to_date: true,
            complete: false,
        }
    }
}

/// A place of the size of an extent on a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// The disk.
    pub disk: DiskId,
    /// In extents from the beginning of the disk's data area.
    pub index: u32,
}

/// Position in the stream of records: the number of the last one, from 1 in a fresh pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// One change of the metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// What the node says of itself.
    Node(NodeRecord),
    /// There is such a volume. Ignored if there is one of that id already.
    VolumeCreate {
        /// The volume.
        volume: VolumeId,
        /// Identity shown to hosts.
        uuid: Uuid,
        /// Size in 512-byte sectors, at most [`SECTORS_MAX`](super::SECTORS_MAX).
        sectors: u64,
        /// Has it a half on each node?
        mirrored: bool,
    },
    /// The volume is gone, with its map, hot set and change log.
    VolumeDelete {
        /// The volume.
        volume: VolumeId,
    },
    /// Identity of the data of this half.
    Half {
        /// The volume.
        volume: VolumeId,
        /// The generation.
        generation: Generation,
        /// Those before it, newest first; the first [`ANCESTORS_MAX`] are kept.
        ancestors: Vec<Generation>,
    },
    /// The extent lies there. Its former place, if it had another, becomes free.
    Map {
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
        /// The place, allocated before. What is written of it is on stable media; of a new extent, the blocks
        /// that are not written read as zero by a `ZeroAdd` of the same call.
        slot: Slot,
    },
    /// The extent reads as zero.
    Unmap {
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
    },
    /// The area may differ between the halves.
    HotAdd {
        /// The volume.
        volume: VolumeId,
        /// The area.
        area: u32,
    },
    /// The area does not differ.
    HotRemove {
        /// The volume.
        volume: VolumeId,
        /// The area.
        area: u32,
    },
    /// No area differs.
    HotClear {
        /// The volume.
        volume: VolumeId,
    },
    /// The partner lacks these regions.
    LogAdd {
        /// The volume.
        volume: VolumeId,
        /// The first region.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The partner has these regions.
    LogRemove {
        /// The volume.
        volume: VolumeId,
        /// The first region.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The partner has everything.
    LogClear {
        /// The volume.
        volume: VolumeId,
    },
    /// These blocks of a mapped extent read as zero, whatever their place holds. Ends with the extent's mapping.
    ZeroAdd {
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
        /// The first 4 KiB block, counted from the beginning of the extent.
        first: u32,
        /// How many.
        count: u32,
    },
    /// These blocks of an extent read as their place holds, whose data is on stable media.
    ZeroRemove {
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
        /// The first 4 KiB block, counted from the beginning of the extent.
        first: u32,
        /// How many.
        count: u32,
    },
    /// What has become of a volume since it was made. Hosts use it no more once it is deleted: its hot set, change log
    /// and generation end with this record, its map is taken apart by the `Unmap`s that follow. What remains is its
    /// number, so that it is not made again. Ignored if there is no such volume.
    VolumeState {
        /// The volume.
        volume: VolumeId,
        /// Size in 512-byte sectors, at most [`SECTORS_MAX`](super::SECTORS_MAX); nothing is mapped beyond it.
        sectors: u64,
        /// Number of its last change, from 1.
        change: u64,
        /// The epoch in which that was made.
        epoch: Epoch,
        /// Is it deleted?
        deleted: bool,
        /// May hosts not write it?
        read_only: bool,
    },
    /// What is kept under a name with a volume; empty: nothing any more. Ends with the volume.
    VolumeItem {
        /// The volume.
        volume: VolumeId,
        /// The name.
        name: ItemName,
        /// Number of the volume's change that put it there.
        revision: u64,
        /// At most [`ITEM_BYTES_MAX`] bytes.
        value: Arc<[u8]>,
    },
    /// There is such a volume, and it is what another one is at this place of the log: it shares the other's extents. If
    /// both are mirrored it has the other's generation, hot areas and change log too: what may differ between the halves
    /// of the one may differ between those of the other. Ignored if there is one of that id already, or none to begin as.
    VolumeClone {
        /// The new volume.
        volume: VolumeId,
        /// The volume that it begins as.
        of: VolumeId,
        /// Identity shown to hosts.
        uuid: Uuid,
        /// It is a snapshot: hosts may not write it. Only snapshots may be cloned into what hosts may write.
        read_only: bool,
        /// Has it a half on each node?
        mirrored: bool,
    },
    /// The extent lies there now, for all volumes that share the place where this one has it. That place becomes free.
    MapShared {
        /// One of the volumes.
        volume: VolumeId,
        /// The extent.
        extent: u32,
        /// The place, allocated before, with everything that the former one held on stable media.
        slot: Slot,
    },
    /// The block checksums in these lines of the disk's checksum area may not be those of the data.
    UnsureAdd {
        /// The disk.
        disk: DiskId,
        /// The first line.
        first: u64,
        /// How many.
        count: u32,
    },
    /// They are.
    UnsureRemove {
        /// The disk.
        disk: DiskId,
        /// The first line.
        first: u64,
        /// How many.
        count: u32,
    },
}
