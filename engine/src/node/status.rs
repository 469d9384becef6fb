//! Which blocks of a volume hold data: for GET LBA STATUS, and for whoever copies a volume.

use super::Node;
use crate::block::{Block, SECTORS_PER_BLOCK};
use crate::guest::{BlockState, GuestError, PathState, Sectors, StatusRun};
use crate::ids::VolumeId;
use crate::time::Instant;

/// Most runs of an answer.
const RUNS_MAX: usize = 512;
/// Most blocks that an answer looks at: 128 MiB.
const BLOCKS_MAX: u64 = 32 * 1024;

fn add(runs: &mut Vec<(u64, BlockState)>, count: u64, state: BlockState) {
    match runs.last_mut() {
        Some((run, of)) if *of == state => *run += count,
        _ => runs.push((count, state)),
    }
}

impl Node {
    /// What the blocks that `at` touches are, at `now`: runs from its beginning on, each longer than none, neighbours
    /// unlike. The answer may end before `at` does; ask on from there. It is as good as a read: by a node that may
    /// serve, with every acknowledged write.
    ///
    /// # Errors
    /// [`GuestError::Unavailable`] or [`GuestError::Transitioning`] if the node may not serve the volume now,
    /// [`GuestError::OutOfRange`] if `at` is empty or begins behind the end of the volume.
    pub fn block_status(
        &self,
        now: Instant,
        volume: VolumeId,
        at: Sectors,
    ) -> Result<Vec<StatusRun>, GuestError> {
        let [path, _] = self.path_states(now, volume);
        match path {
            PathState::Optimized | PathState::NonOptimized => {}
            PathState::Transitioning => return Err(GuestError::Transitioning),
            PathState::Unavailable => return Err(GuestError::Unavailable),
        }
        let sectors = self.volumes.get(&volume).map_or(0, |state| state.sectors);
        let at = Sectors::new(at.start, at.count.min(sectors.saturating_sub(at.start)));
        if at.count == 0 {
            return Err(GuestError::OutOfRange);
        }
        let first = at.blocks().start;
        let end = at.blocks().end.min(first + BLOCKS_MAX);
        let mut runs = self.block_runs(volume, first..end);
        runs.truncate(RUNS_MAX);
        let mut next = first;
        Ok(runs
            .into_iter()
            .map(|(count, state)| {
                let from = at.start.max(next * SECTORS_PER_BLOCK);
                next += count;
                let to = at.end().min(next * SECTORS_PER_BLOCK);
                StatusRun { at: Sectors::new(from, to - from), state }
            })
            .collect())
    }

    fn block_runs(&self, volume: VolumeId, blocks: core::ops::Range<u64>) -> Vec<(u64, BlockState)> {
        let (cache, pool) = (self.store().cache(volume), self.store().pool());
        let size = pool.extent_blocks();
        let mut runs = Vec::new();
        let mut next = blocks.start;
        while next < blocks.end && runs.len() <= RUNS_MAX {
            let end = ((next / size + 1) * size).min(blocks.end);
            let mapped = pool.place(volume, next).is_some();
            let mut cached = cache.held_in(next..end).peekable();
            let partial = mapped && pool.zeros(volume, (next / size) as u32).is_some();
            if cached.peek().is_none() && !partial {
                let state = if mapped { BlockState::Data } else { BlockState::Unmapped };
                add(&mut runs, end - next, state);
                next = end;
                continue;
            }
            for block in next..end {
                let state = match cached.next_if(|(held, _)| *held == block) {
                    Some((_, Block::Data(_))) => BlockState::Data,
                    Some((_, Block::Zero)) if mapped => BlockState::Zero,
                    Some((_, Block::Zero)) => BlockState::Unmapped,
                    None => pool.block_state(volume, block),
                };
                add(&mut runs, 1, state);
            }
            next = end;
        }
        runs
    }
}
