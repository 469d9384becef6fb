//! Which clean block goes first: blocks seen once leave through a short queue, so that a scan cannot flush out
//! the ones that are used again (the idea of S3-FIFO, without its ghost list).

use std::collections::VecDeque;

use super::Place;
use crate::time::Instant;

/// What to do with a candidate.
pub(super) enum Verdict {
    /// The queue entry is stale; forget it.
    Void,
    /// It was used; give it another round.
    Keep,
    /// Take it.
    Evict,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: Place,
    birth: u32,
    /// When it came into its queue.
    since: Instant,
}

/// What the next candidate of a queue is worth: whether it is one of those that were used again, and since when it is in
/// its queue. The least goes first.
pub(super) type Worth = (bool, Instant);

/// Candidates for eviction.
#[derive(Debug)]
pub(super) struct CleanQueue {
    once: VecDeque<Candidate>,
    often: VecDeque<Candidate>,
    once_target: usize,
}

impl CleanQueue {
    pub(super) fn new(blocks_max: usize) -> CleanQueue {
        let mut queue = CleanQueue { once: VecDeque::new(), often: VecDeque::new(), once_target: 0 };
        queue.set_blocks_max(blocks_max);
        queue
    }

    /// The cache may hold this many blocks.
    pub(super) fn set_blocks_max(&mut self, blocks_max: usize) {
        self.once_target = (blocks_max / 10).max(1);
    }

    /// A block became clean.
    pub(super) fn push(&mut self, now: Instant, place: Place, birth: u32) {
        self.once.push_back(Candidate { place, birth, since: now });
    }

    /// Candidates, void ones too.
    pub(super) fn len(&self) -> usize {
        self.once.len() + self.often.len()
    }

    fn is_once_next(&self) -> bool {
        !self.once.is_empty() && (self.once.len() >= self.once_target || self.often.is_empty())
    }

    /// What would be looked at next.
    pub(super) fn next(&self) -> Option<Worth> {
        let once = self.is_once_next();
        let next = if once { self.once.front() } else { self.often.front() };
        next.map(|candidate| (!once, candidate.since))
    }

    /// Finds a victim among the next candidates; each takes one of the `looks`.
    pub(super) fn evict(
        &mut self,
        now: Instant,
        looks: &mut usize,
        mut judge: impl FnMut(Place, u32) -> Verdict,
    ) -> Option<Place> {
        while *looks > 0 {
            *looks -= 1;
            let next = if self.is_once_next() { self.once.pop_front() } else { self.often.pop_front() };
            let next = next?;
            match judge(next.place, next.birth) {
                Verdict::Void => {}
                Verdict::Keep => self.often.push_back(Candidate { since: now, ..next }),
                Verdict::Evict => return Some(next.place),
            }
        }
        None
    }

    /// Blocks have got other places, or are gone.
    pub(super) fn replace(&mut self, mut to: impl FnMut(Place, u32) -> Option<Place>) {
        for queue in [&mut self.once, &mut self.often] {
            queue.retain_mut(|candidate| match to(candidate.place, candidate.birth) {
                Some(place) => {
                    candidate.place = place;
                    true
                }
                None => false,
            });
            queue.shrink_to_fit();
        }
    }
}
