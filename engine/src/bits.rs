//! A sparse set of small numbers, for the change log: pages of 4096 bits in an ordered map.
//!
//! A dense bitmap of 500 volumes of 2 TB would cost 2 GB; this costs 512 bytes for each 256 MiB touched, and
//! next to nothing for what is set from end to end.

use std::collections::BTreeMap;

use bitvec::array::BitArray;
use bitvec::order::Lsb0;

/// Numbers per page of a set.
pub const PAGE_BITS: u64 = 4096;
/// The bits of a page, the lowest number in the lowest bit of the first word.
pub type PageWords = [u64; 64];
type BitPage = BitArray<PageWords, Lsb0>;

/// A page with at least one bit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Page {
    /// All of them. Always used when they are all set, so that equal sets have equal pages.
    Full,
    /// Some of them, and how many.
    Some(u16, Box<BitPage>),
}

impl Page {
    fn bit(&self, bit: u64) -> bool {
        match self {
            Page::Full => true,
            Page::Some(_, bits) => bits[(bit % PAGE_BITS) as usize],
        }
    }

    fn len(&self) -> u64 {
        match self {
            Page::Full => PAGE_BITS,
            Page::Some(ones, _) => u64::from(*ones),
        }
    }

    /// The page with these bits; `None` if there are none.
    fn of(bits: Box<BitPage>) -> Option<Page> {
        match bits.count_ones() as u64 {
            0 => None,
            PAGE_BITS => Some(Page::Full),
            ones => Some(Page::Some(ones as u16, bits)),
        }
    }

    fn into_bits(self) -> Box<BitPage> {
        match self {
            Page::Full => Box::new(BitPage::new([u64::MAX; 64])),
            Page::Some(_, bits) => bits,
        }
    }
}

/// A sparse, ordered set of `u64`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet {
    pages: BTreeMap<u64, Page>,
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
        self.pages.get(&(bit / PAGE_BITS)).is_some_and(|page| page.bit(bit))
    }

    /// Adds `bit`; true if it was not there.
    pub fn insert(&mut self, bit: u64) -> bool {
        if let Some(Page::Some(ones, bits)) = self.pages.get_mut(&(bit / PAGE_BITS))
            && u64::from(*ones) + 1 < PAGE_BITS
        {
            let new = !bits.replace((bit % PAGE_BITS) as usize, true);
            *ones += u16::from(new);
            self.count += u64::from(new);
            return new;
        }
        self.set_run(bit, 1, true) == 1
    }

    /// Removes `bit`; true if it was there.
    pub fn remove(&mut self, bit: u64) -> bool {
        match self.pages.get_mut(&(bit / PAGE_BITS)) {
            None => false,
            Some(Page::Some(ones, bits)) if *ones > 1 => {
                let old = bits.replace((bit % PAGE_BITS) as usize, false);
                *ones -= u16::from(old);
                self.count -= u64::from(old);
                old
            }
            Some(_) => self.set_run(bit, 1, false) == 1,
        }
    }

    /// Adds `count` numbers from `first` on; tells how many of them are new.
    pub fn insert_run(&mut self, first: u64, count: u64) -> u64 {
        self.set_run(first, count, true)
    }

    /// Removes `count` numbers from `first` on; tells how many of them were there.
    pub fn remove_run(&mut self, first: u64, count: u64) -> u64 {
        self.set_run(first, count, false)
    }

    /// Adds the numbers of page `index` (from `index * PAGE_BITS` on) whose bits are set in `words`.
    pub fn insert_page(&mut self, index: u64, words: &PageWords) {
        let mut bits = self.take_page(index).map_or_else(Default::default, Page::into_bits);
        *bits |= BitPage::new(*words);
        self.put_page(index, bits);
    }

    /// The pages that are not empty, ascending: index, and the bits unless all of them are set.
    pub fn pages(&self) -> impl Iterator<Item = (u64, Option<&PageWords>)> + '_ {
        self.pages.iter().map(|(index, page)| match page {
            Page::Full => (*index, None),
            Page::Some(_, bits) => (*index, Some(&bits.data)),
        })
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
            let found = match page {
                Page::Full => Some(0),
                Page::Some(_, bits) => bits[skip..].first_one(),
            };
            if let Some(found) = found {
                return Some(index * PAGE_BITS + (skip + found) as u64);
            }
        }
        None
    }

    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs_iter().flat_map(|(first, count)| first..first + count)
    }

    /// Maximal runs of consecutive numbers: (first, count), ascending.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, length) in self.runs_iter() {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == start => *count += length,
                _ => runs.push((start, length)),
            }
        }
        runs
    }

    /// Runs that end at page borders.
    fn runs_iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pages.iter().flat_map(|(index, page)| {
            let (base, mut at, full) = (index * PAGE_BITS, 0, matches!(page, Page::Full));
            core::iter::from_fn(move || {
                let (from, to) = match page {
                    Page::Full => (at, PAGE_BITS as usize),
                    Page::Some(_, bits) => {
                        let from = at + bits[at..].first_one()?;
                        (from, bits[from..].first_zero().map_or(PAGE_BITS as usize, |length| from + length))
                    }
                };
                if full && at != 0 {
                    return None;
                }
                at = to;
                Some((base + from as u64, (to - from) as u64))
            })
        })
    }

    fn set_run(&mut self, first: u64, count: u64, value: bool) -> u64 {
        let (mut at, end, before) = (first, first.saturating_add(count), self.count);
        while at < end {
            let (index, from) = (at / PAGE_BITS, at % PAGE_BITS);
            let to = PAGE_BITS.min(from + (end - at));
            let old = self.take_page(index);
            if to - from == PAGE_BITS {
                if value {
                    self.count += PAGE_BITS;
                    self.pages.insert(index, Page::Full);
                }
            } else if value || old.is_some() {
                let mut bits = old.map_or_else(Default::default, Page::into_bits);
                bits[from as usize..to as usize].fill(value);
                self.put_page(index, bits);
            }
            at += to - from;
        }
        self.count.abs_diff(before)
    }

    fn take_page(&mut self, index: u64) -> Option<Page> {
        let page = self.pages.remove(&index)?;
        self.count -= page.len();
        Some(page)
    }

    fn put_page(&mut self, index: u64, bits: Box<BitPage>) {
        if let Some(page) = Page::of(bits) {
            self.count += page.len();
            self.pages.insert(index, page);
        }
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
    fn runs_behave_like_single_numbers() {
        let (mut set, mut model, mut x) = (BitSet::new(), BTreeSet::new(), 7u64);
        for step in 0..400 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (first, count) = ((x >> 40) % 20_000, (x >> 20) % [3, 100, 9000][step % 3]);
            let before = model.len();
            if x >> 33 & 1 != 0 {
                model.extend(first..first + count);
                assert_eq!(set.insert_run(first, count), (model.len() - before) as u64);
            } else {
                model.retain(|bit| !(first..first + count).contains(bit));
                assert_eq!(set.remove_run(first, count), (before - model.len()) as u64);
            }
            assert_eq!(set.len(), model.len() as u64);
            assert_eq!(set.next_from(first), model.range(first..).next().copied());
            assert_eq!(set, model.iter().copied().collect::<BitSet>());
        }
        assert!(set.iter().eq(model.iter().copied()));
        let mut copy = BitSet::new();
        for (index, words) in set.pages() {
            copy.insert_page(index, words.unwrap_or(&[u64::MAX; 64]));
        }
        assert_eq!(copy, set);
    }

    #[test]
    fn runs_join_across_pages() {
        let set: BitSet = (4090..4100).chain([9000]).collect();
        assert_eq!(set.runs(), vec![(4090, 10), (9000, 1)]);
    }
}
