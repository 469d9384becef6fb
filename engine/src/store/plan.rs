//! What a destage job writes, and what it only remembers: blocks of zeros cost a bit of the pool's map, not a write.
//!
//! Invariants: each dirty block of the extent is in just one of the lists; of a new extent, so is each block that is
//! not dirty. Zeros are written like data only where the pool cannot remember them, or where it would not pay.

use core::ops::Range;
use std::collections::BTreeMap;

use crate::block::{Block, Payload};
use crate::ids::VolumeId;
use crate::pool::{Record, ZeroBits};

/// Longest single write of the destager, in blocks (1 MiB).
const RUN_BLOCKS_MAX: usize = 256;
/// The records that map a new extent go into one log entry, however small the log is: at most so many gaps.
const GAPS_MAX: u64 = 256;

/// What becomes of the dirty blocks of one extent. Blocks are counted from the beginning of the extent.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Runs to write: the first block, and the data.
    pub(super) writes: Vec<(u64, Payload)>,
    pub(super) zeros: Zeros,
    /// No block of the extent has anything but zeros any more.
    pub(super) empties: bool,
}

/// What changes in the map when the data are on stable media.
#[derive(Clone, Debug, Default)]
pub(super) struct Zeros {
    /// Blocks that begin to read as zero.
    pub(super) add: Vec<Range<u64>>,
    /// Blocks that cease to.
    pub(super) remove: Vec<Range<u64>>,
}

impl Zeros {
    pub(super) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    pub(super) fn records(&self, volume: VolumeId, extent: u32) -> impl Iterator<Item = Record> + '_ {
        let parts = |run: &Range<u64>| (run.start as u32, (run.end - run.start) as u32);
        let added = self.add.iter().map(parts);
        let removed = self.remove.iter().map(parts);
        added
            .map(move |(first, count)| Record::ZeroAdd { volume, extent, first, count })
            .chain(removed.map(move |(first, count)| Record::ZeroRemove { volume, extent, first, count }))
    }
}

fn add_run(runs: &mut Vec<Range<u64>>, blocks: Range<u64>) {
    match runs.last_mut() {
        Some(run) if run.end == blocks.start => run.end = blocks.end,
        _ if blocks.is_empty() => {}
        _ => runs.push(blocks),
    }
}

impl Plan {
    fn write(&mut self, block: u64, content: Block) {
        match self.writes.last_mut() {
            Some((first, data)) if *first + data.len() as u64 == block && data.len() < RUN_BLOCKS_MAX => {
                data.push(content);
            }
            _ => self.writes.push((block, smallvec::smallvec![content])),
        }
    }

    /// For a new extent of `size` blocks. Unless `remembers`, all of it is written.
    pub(super) fn new_extent(size: u64, dirty: impl Iterator<Item = (u64, Block)>, remembers: bool) -> Plan {
        let mut plan = Plan::default();
        // Gaps of less than this are written: so many records are the most.
        let gap_min = if remembers { (size / GAPS_MAX).max(1) } else { u64::MAX };
        let mut next = 0;
        let skip = |plan: &mut Plan, to: u64, next: u64| {
            if to - next >= gap_min {
                plan.zeros.add.push(next..to);
            } else {
                (next..to).for_each(|block| plan.write(block, Block::Zero));
            }
        };
        for (block, content) in dirty.filter(|(_, content)| matches!(content, Block::Data(_))) {
            skip(&mut plan, block, next);
            plan.write(block, content);
            next = block + 1;
        }
        skip(&mut plan, size, next);
        plan
    }

    /// For a mapped extent of which `used` blocks lie in the volume and `zeros` read as zero.
    pub(super) fn mapped_extent(
        used: u64,
        zeros: Option<&ZeroBits>,
        dirty: impl Iterator<Item = (u64, Block)>,
        remembers: bool,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut left = zeros.map_or(0, |bits| u64::from(bits.count(0..used as u32)));
        let mut data = false;
        for (block, content) in dirty {
            let is_zero = zeros.is_some_and(|bits| bits.contains(block as u32));
            match &content {
                Block::Zero if is_zero => continue,
                Block::Zero => {
                    left += 1;
                    if remembers {
                        add_run(&mut plan.zeros.add, block..block + 1);
                        continue;
                    }
                }
                Block::Data(_) => {
                    data = true;
                    if is_zero {
                        add_run(&mut plan.zeros.remove, block..block + 1);
                    }
                }
            }
            plan.write(block, content);
        }
        plan.empties = !data && left == used;
        plan
    }
}

impl Plan {
    /// As [`mapped_extent`](Self::mapped_extent), for all blocks of an extent that gets another place. What it does not write there
    /// is told with the map, in one entry of the log: so it is not too much.
    pub(super) fn redirected_extent(
        used: u64,
        zeros: Option<&ZeroBits>,
        contents: &BTreeMap<u64, Block>,
        remembers: bool,
    ) -> Plan {
        let all = || contents.iter().map(|(block, content)| (*block, content.clone()));
        let plan = Plan::mapped_extent(used, zeros, all(), remembers);
        let fits = plan.zeros.add.len() as u64 <= GAPS_MAX;
        if fits { plan } else { Plan::mapped_extent(used, zeros, all(), false) }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of runs, of which there may be one")]
mod tests {
    use super::*;
    use crate::block::PagePool;

    fn data() -> Block {
        Block::Data(PagePool::new().take_zeroed().freeze())
    }

    fn writes(plan: &Plan) -> Vec<Range<u64>> {
        plan.writes.iter().map(|(first, data)| *first..first + data.len() as u64).collect()
    }

    #[test]
    fn of_a_new_extent_only_data_are_written() {
        let dirty = || [(3, data()), (4, data()), (7, Block::Zero), (200, data())].into_iter();
        let plan = Plan::new_extent(256, dirty(), true);
        assert_eq!(writes(&plan), [3..5, 200..201]);
        assert_eq!(plan.zeros.add, [0..3, 5..200, 201..256]);
        let plan = Plan::new_extent(256, dirty(), false);
        assert_eq!((writes(&plan), plan.zeros.is_empty()), (vec![0..256], true));
    }

    #[test]
    fn a_new_extent_never_takes_more_records_than_an_entry_holds() {
        for size in [16, 256, 4096, 32 * 1024] {
            let plan = Plan::new_extent(size, (0..size).step_by(2).map(|block| (block, data())), true);
            assert!(plan.zeros.add.len() as u64 <= GAPS_MAX + 1, "{}", plan.zeros.add.len());
            let covered: u64 =
                writes(&plan).iter().chain(&plan.zeros.add).map(|run| run.end - run.start).sum();
            assert_eq!(covered, size);
            let plan = Plan::new_extent(size, (0..size).step_by(500).map(|block| (block, data())), true);
            assert!(size < 32 || !plan.zeros.is_empty());
        }
    }

    /// Every other block is zero: what says so fits into one entry of the log, or is not said.
    #[test]
    fn nor_does_one_that_gets_another_place() {
        for size in [16u64, 256, 512, 2048, 32 * 1024] {
            let content = |block: u64| if block.is_multiple_of(2) { Block::Zero } else { data() };
            let contents: BTreeMap<u64, Block> = (0..size).map(|block| (block, content(block))).collect();
            let plan = Plan::redirected_extent(size, None, &contents, true);
            let told = plan.zeros.add.len() as u64;
            assert_eq!(told, if size / 2 <= GAPS_MAX { size / 2 } else { 0 });
            let written: u64 = writes(&plan).iter().map(|run| run.end - run.start).sum();
            assert_eq!(written, size - told);
        }
    }

    #[test]
    fn of_a_mapped_extent_zeros_are_remembered_and_data_end_them() {
        let plan = Plan::new_extent(16, [(0, data())].into_iter(), true);
        assert_eq!(plan.zeros.add, [1..16]);
        let bits = ZeroBits::from_runs(&plan.zeros.add);
        let dirty = || [(0, Block::Zero), (1, Block::Zero), (5, data())].into_iter();
        let plan = Plan::mapped_extent(16, Some(&bits), dirty(), true);
        assert_eq!((plan.zeros.add.clone(), plan.zeros.remove.clone()), (vec![0..1], vec![5..6]));
        assert_eq!((writes(&plan), plan.empties), (vec![5..6], false));
        let plan = Plan::mapped_extent(16, Some(&bits), dirty(), false);
        assert_eq!(writes(&plan), [0..1, 5..6]);
        let plan = Plan::mapped_extent(16, Some(&bits), [(0, Block::Zero)].into_iter(), false);
        assert!(plan.empties);
        let plan = Plan::mapped_extent(1, None, [(0, Block::Zero)].into_iter(), true);
        assert!(plan.empties, "the rest lies behind the end of the volume");
    }
}
