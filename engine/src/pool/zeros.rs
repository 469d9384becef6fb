//! Blocks inside mapped extents that read as zero, and space that is kept for a volume: what a pool answers about
//! them.

use super::Pool;
use super::record::Lsn;
use super::zero_bits::ZeroBits;
use crate::block::BLOCK_BYTES;
use crate::guest::BlockState;
use crate::ids::{DiskId, VolumeId};

impl Pool {
    /// Where the data of a block lies: disk and byte offset. `None` if it reads as zero.
    #[inline]
    pub fn locate(&self, volume: VolumeId, block: u64) -> Option<(DiskId, u64)> {
        let (extent, within) = self.split(block)?;
        let map = &self.metadata.volume(volume)?.map;
        let slot = map.get(extent)?;
        if map.zero_extents() != 0 && map.zeros(extent).is_some_and(|bits| bits.contains(within)) {
            return None;
        }
        Some((slot.disk, self.layout.offset(slot) + u64::from(within) * BLOCK_BYTES as u64))
    }

    /// Where a block of a mapped extent lies, whether it reads as zero or not: disk and byte offset.
    #[inline]
    pub fn place(&self, volume: VolumeId, block: u64) -> Option<(DiskId, u64)> {
        let (extent, within) = self.split(block)?;
        let slot = self.metadata.volume(volume)?.map.get(extent)?;
        Some((slot.disk, self.layout.offset(slot) + u64::from(within) * BLOCK_BYTES as u64))
    }

    /// What a block is.
    pub fn block_state(&self, volume: VolumeId, block: u64) -> BlockState {
        match (self.place(volume, block), self.locate(volume, block)) {
            (None, _) => BlockState::Unmapped,
            (Some(_), None) => BlockState::Zero,
            (Some(_), Some(_)) => BlockState::Data,
        }
    }

    /// The extent of a block, and its place in it.
    fn split(&self, block: u64) -> Option<(u32, u32)> {
        let shift = self.extent_shift - BLOCK_BYTES.trailing_zeros();
        Some((u32::try_from(block >> shift).ok()?, (block & ((1 << shift) - 1)) as u32))
    }

    /// The blocks of a mapped extent that read as zero; `None` if there are none.
    #[inline]
    pub fn zeros(&self, volume: VolumeId, extent: u32) -> Option<&ZeroBits> {
        self.metadata.volume(volume)?.map.zeros(extent)
    }

    /// Most extents in which some block may read as zero without being written: what the checkpoints have room for.
    /// None in a pool that was made before there was such room.
    pub fn zero_extents_max(&self) -> u64 {
        self.layout.zero_extents_max()
    }

    /// May blocks of this extent be remembered as zero, if those of `others` more extents will be? If not, zeros must be
    /// written like other data.
    pub fn may_remember_zeros(&self, volume: VolumeId, extent: u32, others: u64) -> bool {
        let taken = self.metadata.zero_extents() + others;
        self.zeros(volume, extent).is_some() || taken < self.zero_extents_max()
    }

    /// Blocks of an extent that lie inside its volume.
    pub fn blocks_in(&self, volume: VolumeId, extent: u32) -> u64 {
        let sectors = self.metadata.volume(volume).map_or(0, |volume| volume.sectors);
        let first = u64::from(extent) * self.extent_blocks();
        sectors.div_ceil(8).saturating_sub(first).min(self.extent_blocks())
    }

    /// Keeps so many bytes for a volume, rounded up to whole extents: others cannot take them. What it has mapped counts.
    pub fn keep_for(&mut self, volume: VolumeId, bytes: u64) {
        self.space.keep_for(volume, bytes.div_ceil(self.layout.extent_bytes));
    }

    /// Gives back what is reserved and kept for a volume that is deleted. What is being mapped for it stays.
    pub fn release_volume(&mut self, volume: VolumeId) {
        self.space.release_volume(volume);
    }

    /// Bytes that are kept for volumes and not used by them yet.
    pub fn bytes_kept(&self) -> u64 {
        self.space.kept(&self.metadata, None) * self.layout.extent_bytes
    }

    /// Bytes kept for volumes that the pool does not have: others took them before they were kept.
    pub fn bytes_kept_missing(&self) -> u64 {
        let (kept, left) = (self.space.kept(&self.metadata, None), self.space.unreserved());
        kept.saturating_sub(left) * self.layout.extent_bytes
    }

    /// Has the volume used less than is kept for it?
    pub fn is_owed(&self, volume: VolumeId) -> bool {
        self.space.is_owed(&self.metadata, volume)
    }

    /// Space is on its way back: slots whose unmapping is durable when this record is. `None` if there are none.
    pub fn freeing(&self) -> Option<Lsn> {
        self.space.freeing()
    }
}
