//! The superblock: one 4096-byte block, in two copies per disk. It tells to which pool, node and partnership
//! the disk belongs, where its areas lie, and (on the home disk) which checkpoint and which place in the log
//! make up the metadata.
//!
//! Copy `generation % 2` is written with each new generation, so the other stays whole until that is flushed.

use bytemuck::{Pod, Zeroable};

use super::FORMAT_VERSION;
use super::int::{U16Le, U32Le, U64Le, U128Le};

/// Bytes of a superblock.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the two copies lie, in bytes from the beginning of the disk.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 64 * 1024];
/// The bytes at the beginning of a disk that belong to the superblocks.
pub const SUPERBLOCK_AREA_BYTES: u64 = 128 * 1024;
/// First bytes of a superblock.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"TWINSAN\x01";
/// Most disks of a pool.
pub const DISKS_MAX: usize = 64;
/// Feature: the disk has a block checksum area.
pub const FEATURE_SUMS: u32 = 1;
/// Feature: blocks inside mapped extents may read as zero whatever their place holds; the checkpoint areas have room
/// for the maps of them.
pub const FEATURE_ZEROS: u32 = 1 << 1;
/// Feature: log and checkpoints are written twice.
pub const FEATURE_COPIES: u32 = 1 << 4;
/// Feature: log and checkpoint areas have moved: they lie at the beginning of the home disk's spare area.
pub const FEATURE_MOVED: u32 = 1 << 5;
/// Features that this code knows.
pub const FEATURES_KNOWN: u32 = FEATURE_SUMS | FEATURE_ZEROS | FEATURE_COPIES | FEATURE_MOVED;
/// `Superblock::home_second` of a pool whose metadata are written once.
pub const NO_SECOND: u16 = 0xFFFF;
/// `DiskEntry::state` of a disk in use.
pub const DISK_IN_USE: u8 = 1;
/// `DiskEntry::state` of a disk that is being emptied: nothing new is put on it.
pub const DISK_LEAVING: u8 = 2;
/// `DiskEntry::state` of a disk that was removed. Its place is empty, those of the others stay.
pub const DISK_REMOVED: u8 = 3;

/// One disk in the table that every superblock carries.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct DiskEntry {
    /// Identity of the disk.
    pub uuid: U128Le,
    /// Capacity in bytes when it was formatted.
    pub bytes: U64Le,
    /// Extents in its data area.
    pub slots: U32Le,
    /// [`DISK_IN_USE`], [`DISK_LEAVING`] or [`DISK_REMOVED`]; 0 beyond the last place.
    pub state: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The superblock.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Superblock {
    /// [`SUPERBLOCK_MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`].
    pub version: U16Le,
    /// Which of the two copies this is: a copy in the wrong place is not believed.
    pub copy: u8,
    /// The node: 0 is `a`, 1 is `b`.
    pub node: u8,
    /// Bits of features that a reader must know, of [`FEATURES_KNOWN`].
    pub features: U32Le,
    /// Identity of the pool.
    pub pool: U128Le,
    /// Identity of the partnership that the pool serves.
    pub partnership: U128Le,
    /// Identity of this disk.
    pub disk: U128Le,
    /// Rises with every superblock of the pool.
    pub generation: U64Le,
    /// Place of this disk in the pool.
    pub disk_index: U16Le,
    /// Places of the pool, empty ones included.
    pub disk_count: U16Le,
    /// Place of the disk with the metadata.
    pub home: U16Le,
    /// Place of the disk in whose spare area the second copy of the metadata lies; [`NO_SECOND`]: there is none.
    pub home_second: U16Le,
    /// Bytes per extent, a power of two.
    pub extent_bytes: U32Le,
    /// Smallest unit that this disk wrote atomically when it was formatted.
    pub sector_bytes: U32Le,
    /// Beginning of this disk's data area.
    pub data_offset: U64Le,
    /// Beginning of the log, on the home disk.
    pub log_offset: U64Le,
    /// Bytes of the log, a multiple of 4096.
    pub log_bytes: U64Le,
    /// Beginnings of the two checkpoint areas, on the home disk.
    pub checkpoint_offsets: [U64Le; 2],
    /// Bytes of each checkpoint area, a multiple of 4096.
    pub checkpoint_area_bytes: U64Le,
    /// Number of the current checkpoint, from 1; it lies in area `number % 2`.
    pub checkpoint_number: U64Le,
    /// Bytes of the current checkpoint, a multiple of 4096.
    pub checkpoint_bytes: U64Le,
    /// The last record that the checkpoint contains.
    pub checkpoint_lsn: U64Le,
    /// Where in the log (bytes from its beginning) replay begins.
    pub log_start: U64Le,
    /// Sequence of the entry expected there.
    pub log_sequence: U64Le,
    /// The block checksum area of this disk: offset and bytes. Zero: none.
    pub integrity: [U64Le; 2],
    /// Room for a copy of the metadata on this disk: offset and bytes. Zero: none.
    pub spare: [U64Le; 2],
    /// Zero.
    pub reserved: [u8; 304],
    /// The disks of the pool, by place.
    pub disks: [DiskEntry; DISKS_MAX],
    /// Zero.
    pub reserved_tail: [u8; 1532],
    /// CRC32C of all bytes before.
    pub crc: U32Le,
}

/// Why a block is not a superblock to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockFault {
    /// It does not begin as a superblock does.
    Foreign,
    /// The checksum is wrong: torn or rotten.
    Corrupt,
    /// A version or a feature that this code does not know.
    Version,
}

impl Superblock {
    /// The superblock in `bytes`, found where copy `copy` belongs.
    pub fn parse(bytes: &[u8; SUPERBLOCK_BYTES], copy: u8) -> Result<Superblock, SuperblockFault> {
        let found: Superblock = bytemuck::pod_read_unaligned(bytes);
        if found.magic != SUPERBLOCK_MAGIC {
            return Err(SuperblockFault::Foreign);
        }
        if found.crc.get() != found.checksum() || found.copy != copy {
            return Err(SuperblockFault::Corrupt);
        }
        if found.version.get() != FORMAT_VERSION || found.features.get() & !FEATURES_KNOWN != 0 {
            return Err(SuperblockFault::Version);
        }
        Ok(found)
    }

    /// The bytes to write, with copy number (from the generation) and checksum set.
    pub fn seal(mut self) -> [u8; SUPERBLOCK_BYTES] {
        self.copy = self.place();
        self.crc = self.checksum().into();
        bytemuck::cast(self)
    }

    /// The copy that this generation is written to.
    pub fn place(&self) -> u8 {
        (self.generation.get() % 2) as u8
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&bytemuck::bytes_of(self)[..SUPERBLOCK_BYTES - 4])
    }
}
