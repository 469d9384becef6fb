//! Which blocks of a volume hold data, for GET LBA STATUS and for whoever copies a volume; and what its path is.

use super::Volume;
use super::right::Service;
use crate::block::{Block, SECTORS_PER_BLOCK};
use crate::guest::{BlockState, GuestError, PathState, Sectors, StatusRun};
use crate::ids::NodeName;
use crate::store::Store;
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

impl Volume {
    /// What the blocks that `at` touches are, by a node that may serve: runs from its beginning on, each longer than none,
    /// neighbours unlike. The answer may end before `at` does.
    ///
    /// # Errors
    /// [`GuestError::OutOfRange`] if `at` is empty or begins behind the end of the volume.
    pub(in crate::node) fn status(&self, store: &Store, at: Sectors) -> Result<Vec<StatusRun>, GuestError> {
        let at = Sectors::new(at.start, at.count.min(self.sectors.saturating_sub(at.start)));
        if at.count == 0 {
            return Err(GuestError::OutOfRange);
        }
        let first = at.blocks().start;
        let end = at.blocks().end.min(first + BLOCKS_MAX);
        let mut runs = self.block_runs(store, first..end);
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

    /// The path of this node to it, a mirrored one, at `now`, as initiators are told (SPC-4 5.15.2.4).
    pub(in crate::node) fn path(&self, now: Instant, me: NodeName) -> PathState {
        if self.right.is_pair() && now >= self.right.lease_until {
            return PathState::Transitioning;
        }
        match self.service(now) {
            Service::Pair if self.owner != me => PathState::NonOptimized,
            Service::Pair | Service::Alone | Service::AloneReads => PathState::Optimized,
            Service::Hold => PathState::Transitioning,
            Service::Refuse => PathState::Unavailable,
        }
    }

    fn block_runs(&self, store: &Store, blocks: core::ops::Range<u64>) -> Vec<(u64, BlockState)> {
        let (pool, volume) = (store.pool(), self.id);
        let size = pool.extent_blocks();
        let mut runs = Vec::new();
        let mut next = blocks.start;
        while next < blocks.end && runs.len() <= RUNS_MAX {
            let end = ((next / size + 1) * size).min(blocks.end);
            let mapped = pool.place(volume, next).is_some();
            let kind = |(block, held): (u64, &Block)| (block, matches!(held, Block::Data(_)));
            let held = store.look(volume, |cache| cache.held_in(next..end).map(kind).collect::<Vec<_>>());
            let mut cached = held.unwrap_or_default().into_iter().peekable();
            let partial = mapped && pool.zeros(volume, (next / size) as u32).is_some();
            if cached.peek().is_none() && !partial {
                let state = if mapped { BlockState::Data } else { BlockState::Unmapped };
                add(&mut runs, end - next, state);
                next = end;
                continue;
            }
            for block in next..end {
                let state = match cached.next_if(|(held, _)| *held == block) {
                    Some((_, true)) => BlockState::Data,
                    Some((_, false)) if mapped => BlockState::Zero,
                    Some((_, false)) => BlockState::Unmapped,
                    None => pool.block_state(volume, block),
                };
                add(&mut runs, 1, state);
            }
            next = end;
        }
        runs
    }
}
