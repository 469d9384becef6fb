//! A sparse set of small numbers, for the change log: pages of 4096 bits in an ordered map.
//!
//! A dense bitmap of 500 volumes of 2 TB would cost 2 GB; this costs 512 bytes for each 256 MiB touched.

use std::collections::BTreeMap;

use bitvec::array::BitArray;
use bitvec::order::Lsb0;

const PAGE_BITS: u64 = 4096;
type BitPage = BitArray<[u64; 64], Lsb0>;

/// A sparse, ordered set of `u64`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet {
    pages: BTreeMap<u64, Box<BitPage>>,
    count: u64,
}

impl BitSet {
    /// The empty set.
    pub fn new() -> BitSet {
        BitSet::default()
    }

    /// How many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Is the set empty?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Is `bit` in the set?
    pub fn contains(&self, bit: u64) -> bool {
        self.pages.get(&(bit / PAGE_BITS)).is_some_and(|page| page[(bit % PAGE_BITS) as usize])
    }

    /// Adds `bit`; true if it was not there.
    pub fn insert(&mut self, bit: u64) -> bool {
        let page = self.pages.entry(bit / PAGE_BITS).or_default();
        let new = !page.replace((bit % PAGE_BITS) as usize, true);
        self.count += u64::from(new);
        new
    }

    /// Removes `bit`; true if it was there.
    pub fn remove(&mut self, bit: u64) -> bool {
        let Some(page) = self.pages.get_mut(&(bit / PAGE_BITS)) else { return false };
        let old = page.replace((bit % PAGE_BITS) as usize, false);
        self.count -= u64::from(old);
        if old && page.not_any() {
            self.pages.remove(&(bit / PAGE_BITS));
        }
        old
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.count = 0;
    }

    /// The smallest number in the set that is not below `bit`.
    pub fn next_from(&self, bit: u64) -> Option<u64> {
        let first = bit / PAGE_BITS;
        for (&index, page) in self.pages.range(first..) {
            let skip = if index == first { (bit % PAGE_BITS) as usize } else { 0 };
            if let Some(found) = page[skip..].first_one() {
                return Some(index * PAGE_BITS + (skip + found) as u64);
            }
        }
        None
    }

    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages
            .iter()
            .flat_map(|(index, page)| page.iter_ones().map(move |bit| index * PAGE_BITS + bit as u64))
    }

    /// Maximal runs of consecutive numbers: (first, count), ascending.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for bit in self.iter() {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == bit => *count += 1,
                _ => runs.push((bit, 1)),
            }
        }
        runs
    }
}

impl FromIterator<u64> for BitSet {
    fn from_iter<I: IntoIterator<Item = u64>>(bits: I) -> BitSet {
        let mut set = BitSet::new();
        for bit in bits {
            set.insert(bit);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set() {
        let (mut set, mut model, mut x) = (BitSet::new(), BTreeSet::new(), 1u64);
        for _ in 0..20_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bit = (x >> 40) % 50_000;
            if x >> 33 & 3 != 0 {
                assert_eq!(set.insert(bit), model.insert(bit));
            } else {
                assert_eq!(set.remove(bit), model.remove(&bit));
            }
            let from = (x >> 20) % 50_000;
            assert_eq!(set.next_from(from), model.range(from..).next().copied());
            assert_eq!(set.len(), model.len() as u64);
        }
        assert!(set.iter().eq(model.iter().copied()));
    }

    #[test]
    fn runs_join_across_pages() {
        let set: BitSet = (4090..4100).chain([9000]).collect();
        assert_eq!(set.runs(), vec![(4090, 10), (9000, 1)]);
    }
}
