//! Which blocks of one mapped extent read as zero, whatever their place on disk holds.
//!
//! Invariant: words behind the last bit are not kept, so equal sets are equal values.

use core::ops::Range;

use smallvec::SmallVec;

/// Most 4 KiB blocks of an extent: 128 MiB.
pub(super) const BLOCKS_MAX: u32 = 32 * 1024;

/// A set of blocks of one extent, counted from its beginning. Up to 256 of them (an extent of 1 MiB) take no
/// allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZeroBits(SmallVec<[u64; 4]>);

/// The words that a range touches, with the bits of it in each.
fn masks(blocks: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let words = if blocks.is_empty() { 0..0 } else { blocks.start / 64..blocks.end.div_ceil(64) };
    words.map(move |word| {
        let from = blocks.start.max(word * 64) - word * 64;
        let to = blocks.end.min(word * 64 + 64) - word * 64;
        (word as usize, u64::MAX >> (64 - (to - from)) << from)
    })
}

impl ZeroBits {
    /// From the words of [`words`](Self::words).
    pub(super) fn from_words(words: impl Iterator<Item = u64>) -> ZeroBits {
        let mut bits = ZeroBits(words.collect());
        bits.trim();
        bits
    }

    /// Of these blocks.
    pub fn from_runs(runs: &[Range<u64>]) -> ZeroBits {
        let mut bits = ZeroBits::default();
        runs.iter().for_each(|run| bits.insert(run.start as u32..run.end as u32));
        bits
    }

    /// Does no block read as zero?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does this block read as zero?
    #[inline]
    pub fn contains(&self, block: u32) -> bool {
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many blocks of the range read as zero.
    pub fn count(&self, blocks: Range<u32>) -> u32 {
        masks(blocks).map_while(|(word, mask)| Some((self.0.get(word)? & mask).count_ones())).sum()
    }

    /// This block reads as zero from now on.
    pub fn add(&mut self, block: u32) {
        self.insert(block..block + 1);
    }

    /// Only those read as zero that do so in the other, too.
    pub fn keep(&mut self, other: &ZeroBits) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
        self.trim();
    }

    /// All blocks of the range read as zero from now on.
    pub(super) fn insert(&mut self, blocks: Range<u32>) {
        for (word, mask) in masks(blocks) {
            if word >= self.0.len() {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= mask;
        }
    }

    /// No block of the range does any more.
    pub(super) fn remove(&mut self, blocks: Range<u32>) {
        for (word, mask) in masks(blocks) {
            let Some(word) = self.0.get_mut(word) else { break };
            *word &= !mask;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// Bit `n % 64` of word `n / 64` is block `n`.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// One past the last block that reads as zero.
    pub(super) fn end(&self) -> u32 {
        self.0.last().map_or(0, |last| self.0.len() as u32 * 64 - last.leading_zeros())
    }

    /// All blocks, as maximal runs, ascending.
    pub fn runs(&self) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for block in (0..self.end()).filter(|block| self.contains(*block)) {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set() {
        let (mut bits, mut model, mut x) = (ZeroBits::default(), BTreeSet::new(), 9u64);
        for _ in 0..5_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let from = (x >> 40) as u32 % 700;
            let range = from..from + (x >> 20) as u32 % 200;
            if x >> 63 == 0 {
                bits.insert(range.clone());
                model.extend(range.clone());
            } else {
                bits.remove(range.clone());
                model.retain(|block| !range.contains(block));
            }
            assert_eq!(bits.count(0..BLOCKS_MAX) as usize, model.len());
            assert_eq!(bits.count(range.clone()) as usize, model.range(range).count());
            assert_eq!(bits.contains(from), model.contains(&from));
            assert_eq!(bits.end(), model.last().map_or(0, |last| last + 1));
            assert!(bits.runs().into_iter().flatten().eq(model.iter().copied()));
            assert_eq!(ZeroBits::from_words(bits.words().iter().copied()), bits);
        }
    }
}
