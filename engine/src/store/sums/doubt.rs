//! Blocks whose sums say nothing: those of lines that were unsure when the last life ended, and of lines that are
//! damaged.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::sums::LINE_BLOCKS;
use crate::ids::{DiskId, VolumeId};
use crate::planted::{Bug, Planted};
use crate::pool::{Pool, Record};

const WHOLE: u16 = u16::MAX;
const _: () = assert!(LINE_BLOCKS == 16, "a line's blocks in doubt are bits of 16");

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// By line: the blocks in doubt.
    lines: BTreeMap<(DiskId, u64), u16>,
    /// Lines that were found damaged; they have been counted.
    lost: BTreeSet<(DiskId, u64)>,
    /// Extents with lines that were unsure at the beginning.
    extents: BTreeSet<(VolumeId, u32)>,
    /// Blocks that the partner cannot tell.
    trusted: BTreeSet<(VolumeId, u64)>,
}

impl Doubt {
    /// Everything that was unsure when the last life ended and belongs to an extent.
    pub(super) fn new(pool: &Pool, planted: Planted) -> Doubt {
        let mut doubt = Doubt::default();
        let metadata = pool.metadata();
        if metadata.unsure().next().is_none() || planted.has(Bug::SumsTrustedAfterCrash) {
            return doubt;
        }
        let per_extent = pool.extent_blocks() / LINE_BLOCKS as u64;
        for (volume, meta) in metadata.volumes() {
            for (extent, slot) in meta.map.iter() {
                let first = u64::from(slot.index) * per_extent;
                let zeros = meta.map.zeros(extent);
                for line in (first..first + per_extent).filter(|line| metadata.is_unsure(slot.disk, *line)) {
                    let block = ((line - first) * LINE_BLOCKS as u64) as u32;
                    // What reads as zero has no sum that anybody asks for.
                    let data = (0..LINE_BLOCKS as u32)
                        .filter(|at| !zeros.is_some_and(|zeros| zeros.contains(block + at)))
                        .fold(0, |data, at| data | 1 << at);
                    if data != 0 {
                        // What one volume has as zero may be data to another that shares the extent.
                        *doubt.lines.entry((slot.disk, line)).or_default() |= data;
                        doubt.extents.insert((volume, extent));
                    }
                }
            }
        }
        doubt
    }

    /// Records that drop what is unsure and belongs to no extent.
    pub(super) fn leftovers(&self, pool: &Pool) -> Vec<Record> {
        let mut records = Vec::new();
        for (disk, lines) in pool.metadata().unsure() {
            for (mut first, count) in lines.runs() {
                let end = first + count;
                let kept = self.lines.range((disk, first)..(disk, end)).map(|((_, line), _)| *line);
                for line in kept.chain([end]) {
                    if let Ok(count @ 1..) = u32::try_from(line - first) {
                        records.push(Record::UnsureRemove { disk, first, count });
                    }
                    first = line + 1;
                }
            }
        }
        records
    }

    pub(super) fn has(&self, disk: DiskId, line: u64, at: usize) -> bool {
        self.lines.get(&(disk, line)).is_some_and(|blocks| blocks >> at & 1 == 1)
    }

    pub(super) fn has_line(&self, disk: DiskId, line: u64) -> bool {
        self.lines.contains_key(&(disk, line))
    }

    /// The line is damaged: all of its blocks are in doubt. False if that was known.
    pub(super) fn lose(&mut self, disk: DiskId, line: u64) -> bool {
        self.lines.insert((disk, line), WHOLE);
        self.lost.insert((disk, line))
    }

    /// A block of this extent is in doubt.
    pub(super) fn add(&mut self, disk: DiskId, line: u64, at: usize, extent: (VolumeId, u32)) {
        *self.lines.entry((disk, line)).or_default() |= 1 << at;
        self.extents.insert(extent);
    }

    /// The line belongs to a new extent from now on.
    pub(super) fn forget(&mut self, disk: DiskId, line: u64) {
        self.lines.remove(&(disk, line));
        self.lost.remove(&(disk, line));
    }

    /// The disk has left.
    pub(super) fn forget_disk(&mut self, disk: DiskId) {
        self.lines.retain(|(of, _), _| *of != disk);
        self.lost.retain(|(of, _)| *of != disk);
    }

    /// The block's sum is right.
    pub(super) fn resolve(&mut self, disk: DiskId, line: u64, at: usize) {
        if let Some(blocks) = self.lines.get_mut(&(disk, line)) {
            *blocks &= !(1 << at);
            if *blocks == 0 {
                self.lines.remove(&(disk, line));
                self.lost.remove(&(disk, line));
            }
        }
    }

    /// Lines with blocks in doubt.
    pub(super) fn lines(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The first extent from this one on that had lines in doubt at the beginning.
    pub(super) fn next_extent(&self, from: (VolumeId, u32)) -> Option<(VolumeId, u32)> {
        self.extents.range(from..).next().copied()
    }

    pub(super) fn trust(&mut self, volume: VolumeId, block: u64) {
        self.trusted.insert((volume, block));
    }

    pub(super) fn is_trusted(&mut self, volume: VolumeId, block: u64) -> bool {
        self.trusted.remove(&(volume, block))
    }
}
