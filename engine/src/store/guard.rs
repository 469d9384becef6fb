//! What can be asked of the checksums of a store.

use super::Store;
use super::sums::{Address, Damage, SumCounters};
use crate::block::Block;
use crate::ids::{DiskId, VolumeId};

impl Store {
    /// What was done with block checksums in this life.
    pub fn sum_counters(&self) -> SumCounters {
        self.base.sums.counters()
    }

    /// Pages of checksums in memory, and how many there may be.
    pub fn sum_pages(&self) -> (usize, usize) {
        (self.base.sums.pages(), self.base.sums.pages_max())
    }

    /// Lines of checksums that are in doubt after a crash, or because they are damaged.
    pub fn sum_lines_in_doubt(&self) -> u64 {
        self.base.sums.doubtful()
    }

    /// Has the block that lies there a checksum that is not in doubt?
    pub fn is_beyond_doubt(&self, disk: DiskId, offset: u64) -> bool {
        self.base.sums.is_beyond_doubt(disk, offset)
    }

    /// Was the block damaged where it lay before its extent was copied to where it is? `content` is what lies there now;
    /// `read` reads a page of checksums of its disk, at this byte offset.
    pub fn is_lost(
        &self,
        volume: VolumeId,
        block: u64,
        content: &Block,
        read: impl FnOnce(u64) -> Block,
    ) -> bool {
        let address = Address { family: self.pool().family(volume), volume, block };
        let place = self.pool().locate(volume, block);
        place.is_some_and(|place| self.base.sums.is_spoiled(place, address, content, read))
    }

    /// The first extent from this one on with blocks that a crash has put in doubt.
    pub fn next_in_doubt(&self, from: (VolumeId, u32)) -> Option<(VolumeId, u32)> {
        self.base.sums.next_in_doubt(from)
    }

    /// Writes all checksums back, and goes on doing so at once: for a clean stop.
    pub fn close_sums(&mut self) {
        self.base.sums.close();
    }

    /// Are all checksums on stable media, and is that durable?
    pub fn are_sums_settled(&self) -> bool {
        self.base.are_sums_settled()
    }

    /// From now on (or no longer) what is in doubt of a mirrored volume can be asked of the partner.
    pub fn ask_in_doubt(&mut self, ask: bool) {
        self.base.ask = ask;
    }

    /// The partner has no better copy of a block in doubt: the next read takes it as it is.
    pub fn trust(&mut self, volume: VolumeId, block: u64) {
        self.base.sums.trust(volume, block);
    }
}

/// Blocks of a read that cannot be had from here, and the others.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// All blocks of the read; those that are damaged are zero.
    pub found: crate::block::Payload,
    /// The newest version among them that is not stable.
    pub version: u64,
    /// The damaged ones, ascending.
    pub blocks: Vec<(u64, Damage)>,
}
