//! Where a disk's block checksums lie. What they say is the store's business.

use super::Pool;
use crate::block::BLOCK_BYTES;
use crate::format::sums::{LINE_BLOCKS, LINE_DATA_BYTES, line_seed};
use crate::ids::DiskId;

/// The checksum area of one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumArea {
    /// Where it begins, in bytes from the beginning of the disk.
    pub offset: u64,
    /// Where the data begin that it is for.
    pub data_offset: u64,
    /// Lines in it.
    pub lines: u64,
    /// What the checksums of its lines begin with.
    pub seed: u32,
}

impl SumArea {
    /// The line, and the place in it, of the block at this byte offset of the disk.
    #[inline]
    pub fn place(&self, offset: u64) -> (u64, usize) {
        let block = (offset - self.data_offset) / BLOCK_BYTES as u64;
        (block / LINE_BLOCKS as u64, (block % LINE_BLOCKS as u64) as usize)
    }

    /// Lines that `bytes` at this byte offset of the disk touch.
    pub fn lines_of(&self, offset: u64, bytes: u64) -> core::ops::Range<u64> {
        let from = offset - self.data_offset;
        from / LINE_DATA_BYTES..(from + bytes).div_ceil(LINE_DATA_BYTES)
    }
}

impl Pool {
    /// The checksum area of a disk. Pools of before there were any have none.
    pub fn sum_area(&self, disk: DiskId) -> Option<SumArea> {
        let own = self.layout.disks.get(usize::from(disk.0)).filter(|own| own.sums[1] != 0)?;
        let seed = line_seed(self.identity.pool, own.uuid);
        let lines = self.layout.lines(disk);
        Some(SumArea { offset: own.sums[0], data_offset: own.data_offset, lines, seed })
    }
}
