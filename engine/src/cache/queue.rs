//! Which clean block goes first: blocks seen once leave through a short queue, so that a scan cannot flush out
//! the ones that are used again (the idea of S3-FIFO, without its ghost list).

use std::collections::VecDeque;

use super::Place;

/// What to do with a candidate.
pub(super) enum Verdict {
    /// The queue entry is stale; forget it.
    Void,
    /// It was used; give it another round.
    Keep,
    /// Take it.
    Evict,
}

/// Candidates for eviction, as (place, birth).
#[derive(Debug)]
pub(super) struct CleanQueue {
    once: VecDeque<(Place, u32)>,
    often: VecDeque<(Place, u32)>,
    once_target: usize,
}

impl CleanQueue {
    pub(super) fn new(blocks_max: usize) -> CleanQueue {
        CleanQueue { once: VecDeque::new(), often: VecDeque::new(), once_target: (blocks_max / 10).max(1) }
    }

    /// A block became clean.
    pub(super) fn push(&mut self, place: Place, birth: u32) {
        self.once.push_back((place, birth));
    }

    /// Finds a victim; looks at each candidate at most twice.
    pub(super) fn evict(&mut self, mut judge: impl FnMut(Place, u32) -> Verdict) -> Option<Place> {
        for _ in 0..2 * (self.once.len() + self.often.len()) {
            let from_once =
                !self.once.is_empty() && (self.once.len() >= self.once_target || self.often.is_empty());
            let next = if from_once { self.once.pop_front() } else { self.often.pop_front() };
            let (place, birth) = next.or_else(|| self.once.pop_front())?;
            match judge(place, birth) {
                Verdict::Void => {}
                Verdict::Keep => self.often.push_back((place, birth)),
                Verdict::Evict => return Some(place),
            }
        }
        None
    }
}
