//! The checksum area: for each 4 KiB block of the data area, the CRC32C of its bytes with its address mixed in.
//!
//! The sums of 64 KiB make a *line* with a checksum of its own; 60 lines make a page of 4096 bytes, which is written
//! as a whole. Lines that did not change are written again as they were, so a write that tears damages no others.
//!
//! The line's checksum covers the pool, the disk and the number of the line: a page that was written to another
//! place, or belongs to an earlier pool on the same disk, is not believed.

use bytemuck::{Pod, Zeroable};

use super::int::U32Le;
use crate::block::BLOCK_BYTES;
use crate::ids::{Uuid, VolumeId};

/// Blocks whose sums make a line.
pub const LINE_BLOCKS: usize = 16;
/// Bytes of data that a line covers; extents are a multiple of it.
pub const LINE_DATA_BYTES: u64 = (LINE_BLOCKS * BLOCK_BYTES) as u64;
/// Lines in a page.
pub const PAGE_LINES: usize = 60;

/// The sums of 16 blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SumLine {
    /// One for each block, in order.
    pub sums: [U32Le; LINE_BLOCKS],
    /// CRC32C of pool, disk, number of the line (8 bytes) and the sums.
    pub crc: U32Le,
}

/// A page of the checksum area.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SumPage {
    /// The lines, in order.
    pub lines: [SumLine; PAGE_LINES],
    /// Zero.
    pub reserved: [u8; 16],
}

impl SumLine {
    /// The checksum that line `number` of the disk with this seed must have.
    pub fn checksum(&self, seed: u32, number: u64) -> u32 {
        let crc = crc32c::crc32c_append(seed, &number.to_le_bytes());
        crc32c::crc32c_append(crc, bytemuck::bytes_of(&self.sums))
    }
}

/// What the checksums of a disk's lines begin with: CRC32C of the identities of pool and disk.
pub fn line_seed(pool: Uuid, disk: Uuid) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&pool.0.to_le_bytes()), &disk.0.to_le_bytes())
}

/// Bytes of the checksum area for a data area of `bytes`.
pub const fn area_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(LINE_DATA_BYTES).div_ceil(PAGE_LINES as u64) * BLOCK_BYTES as u64
}

/// The address of a block as 32 bits, to be combined with the CRC of its bytes by exclusive or. Two blocks of one
/// volume less than 16 TiB apart differ, and so do blocks of the same number in two volumes.
#[inline]
pub const fn address(volume: VolumeId, block: u64) -> u32 {
    let low = (block as u32).wrapping_mul(0x9E37_79B1);
    let high = ((block >> 32) as u32).wrapping_mul(0x85EB_CA77);
    low ^ high.rotate_left(16) ^ volume.0.wrapping_mul(0xC2B2_AE3D).rotate_left(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbouring_addresses_differ() {
        let mut seen = BTreeSet::new();
        for block in (0..20_000).chain((1 << 34) - 50..(1 << 34)) {
            assert!(seen.insert(address(VolumeId(3), block)), "block {block}");
        }
        let mut seen = BTreeSet::new();
        for volume in 0..20_000 {
            assert!(seen.insert(address(VolumeId(volume), 77)), "volume {volume}");
        }
    }

    #[test]
    fn a_line_is_believed_in_its_own_place_only() {
        let line = SumLine::zeroed();
        let seed = line_seed(Uuid(1), Uuid(2));
        assert_ne!(line.checksum(seed, 5), line.checksum(seed, 6));
        assert_ne!(line.checksum(seed, 5), line.checksum(line_seed(Uuid(1), Uuid(3)), 5));
        assert_ne!(line.checksum(seed, 5), line.checksum(line_seed(Uuid(2), Uuid(2)), 5));
        assert_eq!(size_of::<SumPage>(), BLOCK_BYTES);
        assert_eq!([0, 1, 960 << 12, (960 << 12) + 1].map(area_bytes), [0, 4096, 4096, 8192]);
    }
}
