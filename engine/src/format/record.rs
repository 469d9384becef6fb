//! The records inside a frame. Each begins with a [`RecordHead`] that gives its length, a multiple of 8.

use bytemuck::{Pod, Zeroable};

use super::int::{U16Le, U32Le, U64Le, U128Le};

/// What a record says. Numbers are never reused; a reader refuses one that it does not know.
pub mod kind {
    /// [`NodeBody`](super::NodeBody).
    pub const NODE: u8 = 1;
    /// [`CreateBody`](super::CreateBody).
    pub const VOLUME_CREATE: u8 = 2;
    /// No body.
    pub const VOLUME_DELETE: u8 = 3;
    /// [`HalfBody`](super::HalfBody), then its ancestors, 16 bytes each.
    pub const HALF: u8 = 4;
    /// [`MapBody`](super::MapBody).
    pub const MAP: u8 = 5;
    /// [`IndexBody`](super::IndexBody): the extent.
    pub const UNMAP: u8 = 6;
    /// [`IndexBody`](super::IndexBody): the area.
    pub const HOT_ADD: u8 = 7;
    /// [`IndexBody`](super::IndexBody): the area.
    pub const HOT_REMOVE: u8 = 8;
    /// No body.
    pub const HOT_CLEAR: u8 = 9;
    /// [`RunBody`](super::RunBody).
    pub const LOG_ADD: u8 = 10;
    /// [`RunBody`](super::RunBody).
    pub const LOG_REMOVE: u8 = 11;
    /// No body.
    pub const LOG_CLEAR: u8 = 12;
    /// [`UnsureBody`](super::UnsureBody).
    pub const UNSURE_ADD: u8 = 13;
    /// [`UnsureBody`](super::UnsureBody).
    pub const UNSURE_REMOVE: u8 = 14;
    /// [`ZeroBody`](super::ZeroBody).
    pub const ZERO_ADD: u8 = 18;
    /// [`ZeroBody`](super::ZeroBody).
    pub const ZERO_REMOVE: u8 = 19;
    /// [`StateBody`](super::StateBody).
    pub const VOLUME_STATE: u8 = 24;
    /// [`ItemBody`](super::ItemBody), then its bytes, padded to 8.
    pub const VOLUME_ITEM: u8 = 25;
    /// [`CloneBody`](super::CloneBody).
    pub const VOLUME_CLONE: u8 = 28;
    /// [`MapBody`](super::MapBody).
    pub const MAP_SHARED: u8 = 29;
    /// Checkpoints only: [`TableBody`](super::TableBody), then as many [`MapBody`](super::MapBody).
    pub const MAP_TABLE: u8 = 32;
    /// Checkpoints only: [`TableBody`](super::TableBody), then as many areas, 4 bytes each, padded to 8.
    pub const HOT_TABLE: u8 = 33;
    /// Checkpoints only: index of a page of the change log (8 bytes), then its 4096 bits.
    pub const LOG_PAGE: u8 = 34;
    /// Checkpoints only: [`KinBody`](super::KinBody).
    pub const KIN: u8 = 35;
    /// Checkpoints only: [`IndexBody`](super::IndexBody): another volume, whose map this one's begins as.
    pub const MAP_BASE: u8 = 36;
    /// Checkpoints only: [`TableBody`](super::TableBody), then as many extents, 4 bytes each, padded to 8.
    pub const UNMAP_TABLE: u8 = 37;
    /// Checkpoints only: [`ZeroMapBody`](super::ZeroMapBody), then its words, 8 bytes each.
    pub const ZERO_MAP: u8 = 39;
}

/// The beginning of every record.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RecordHead {
    /// One of [`kind`].
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// Length of the whole record in units of 8 bytes.
    pub units: U16Le,
    /// The volume, or zero.
    pub volume: U32Le,
}

/// What the node says of itself.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NodeBody {
    /// Its epoch.
    pub epoch: U64Le,
    /// The epoch it has proposed, or zero.
    pub proposed: U64Le,
    /// Who may serve: bit 0 is `a`, bit 1 is `b`.
    pub members: u8,
    /// 1: its half is not behind.
    pub up_to_date: u8,
    /// 1: it stopped cleanly after it had lost its partner, with everything of the pair on stable media.
    pub complete: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// A new volume.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CreateBody {
    /// Identity shown to hosts.
    pub uuid: U128Le,
    /// Size in 512-byte sectors.
    pub sectors: U64Le,
    /// 1: it has a half on each node.
    pub mirrored: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Identity of the data of a half.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct HalfBody {
    /// The generation.
    pub generation: U128Le,
    /// Number of ancestors that follow, at most 8, newest first.
    pub ancestors: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Where an extent of a volume lies.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct MapBody {
    /// The extent of the volume.
    pub extent: U32Le,
    /// The place on the disk, in extents from the beginning of its data area.
    pub index: U32Le,
    /// The disk.
    pub disk: U16Le,
    /// Zero.
    pub flags: U16Le,
}

/// An extent or an area.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IndexBody {
    /// Which.
    pub index: U32Le,
    /// Zero.
    pub reserved: U32Le,
}

/// A run of regions of the change log.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RunBody {
    /// The first.
    pub first: U64Le,
    /// How many.
    pub count: U64Le,
}

/// A run of lines of a disk's checksum area.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct UnsureBody {
    /// The first.
    pub first: U64Le,
    /// How many.
    pub count: U32Le,
    /// The disk.
    pub disk: U16Le,
    /// Zero.
    pub reserved: U16Le,
}

/// The beginning of a table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TableBody {
    /// Entries that follow.
    pub count: U32Le,
    /// Zero.
    pub reserved: U32Le,
}

/// A run of blocks of one extent that read as zero, or no longer do.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ZeroBody {
    /// The extent.
    pub extent: U32Le,
    /// The first 4 KiB block, counted from the beginning of the extent.
    pub first: U32Le,
    /// How many.
    pub count: U32Le,
    /// Zero.
    pub reserved: U32Le,
}

/// All blocks of one extent that read as zero: bit `n % 64` of word `n / 64` is block `n`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ZeroMapBody {
    /// The extent.
    pub extent: U32Le,
    /// Words that follow.
    pub words: U32Le,
}

/// What is kept under a name with a volume.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ItemBody {
    /// Number of the volume's change that put it there.
    pub revision: U64Le,
    /// The name.
    pub name: U32Le,
    /// Bytes that follow; none: nothing is kept under this name any more.
    pub bytes: U32Le,
}

/// A volume that begins as another one is.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CloneBody {
    /// Identity shown to hosts.
    pub uuid: U128Le,
    /// The other volume.
    pub of: U32Le,
    /// 1: hosts may not write it.
    pub read_only: u8,
    /// 1: it has a half on each node.
    pub mirrored: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Whose clone a volume is.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct KinBody {
    /// The volume that it began as.
    pub of: U32Le,
    /// The first of its family, whose number is in the checksums of all of them.
    pub family: U32Le,
    /// 1: hosts may not write it.
    pub read_only: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Extents that it had when it was made.
    pub extents: U32Le,
}

/// What has become of a volume since it was made.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct StateBody {
    /// Size in 512-byte sectors.
    pub sectors: U64Le,
    /// Number of the volume's last change, from 1.
    pub change: U64Le,
    /// The epoch in which it was made.
    pub epoch: U64Le,
    /// 1: it is deleted; what is mapped of it is on its way back.
    pub deleted: u8,
    /// 1: hosts may not write it.
    pub read_only: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
