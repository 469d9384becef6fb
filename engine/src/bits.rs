//! A sparse set of small numbers, for the change log: pages of 4096 bits in an ordered map.
//!
//! A dense bitmap of 500 volumes of 2 TB would cost 2 GB; this costs 512 bytes for each 256 MiB touched, and
//! next to nothing for what is set from end to end, however long.

use std::collections::BTreeMap;

use bitvec::array::BitArray;
use bitvec::order::Lsb0;

/// Numbers per page of a set.
pub const PAGE_BITS: u64 = 4096;
/// The bits of a page, the lowest number in the lowest bit of the first word.
pub type PageWords = [u64; 64];
type BitPage = BitArray<PageWords, Lsb0>;

/// One page or more, with at least one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Page {
    /// This many pages with all their bits. Neighbours are always joined, and a page that has all its bits is
    /// always one of these, so that equal sets have equal pages.
    Full(u64),
    /// Some bits of one page, and how many.
    Some(u16, Box<BitPage>),
}

impl Page {
    fn len(&self) -> u64 {
        match self {
            Page::Full(pages) => pages * PAGE_BITS,
            Page::Some(ones, _) => u64::from(*ones),
        }
    }

    /// How many pages it spans.
    fn span(&self) -> u64 {
        if let Page::Full(pages) = self { *pages } else { 1 }
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
        let at = bit / PAGE_BITS;
        self.pages.range(..=at).next_back().is_some_and(|(index, page)| match page {
            Page::Full(pages) => at - index < *pages,
            Page::Some(_, bits) => *index == at && bits[(bit % PAGE_BITS) as usize],
        })
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
            Some(Page::Some(ones, bits)) if *ones > 1 => {
                let old = bits.replace((bit % PAGE_BITS) as usize, false);
                *ones -= u16::from(old);
                self.count -= u64::from(old);
                old
            }
            _ => self.set_run(bit, 1, false) == 1,
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
        let mut bits = self.take_page(index);
        *bits |= BitPage::new(*words);
        self.put_page(index, bits);
    }

    /// The pages that are not empty, ascending: the first, how many alike, and the bits unless all are set.
    pub fn pages(&self) -> impl Iterator<Item = (u64, u64, Option<&PageWords>)> + '_ {
        self.pages.iter().map(|(index, page)| match page {
            Page::Full(pages) => (*index, *pages, None),
            Page::Some(_, bits) => (*index, 1, Some(&bits.data)),
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
        let before = self.pages.range(..first).next_back();
        if before.is_some_and(|(index, page)| first - index < page.span()) {
            return Some(bit);
        }
        for (&index, page) in self.pages.range(first..) {
            let skip = if index == first { (bit % PAGE_BITS) as usize } else { 0 };
            let found = match page {
                Page::Full(_) => Some(0),
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

    /// Runs that end at borders of partial pages.
    fn runs_iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pages.iter().flat_map(|(index, page)| {
            let (base, mut at) = (index * PAGE_BITS, 0);
            core::iter::from_fn(move || {
                let (from, to) = match page {
                    Page::Full(_) if at != 0 => return None,
                    Page::Full(pages) => (0, pages * PAGE_BITS),
                    Page::Some(_, bits) => {
                        let from = at + bits[at..].first_one()?;
                        let to = bits[from..].first_zero().map_or(PAGE_BITS as usize, |length| from + length);
                        (from as u64, to as u64)
                    }
                };
                at = to as usize;
                Some((base + from, to - from))
            })
        })
    }

    fn set_run(&mut self, first: u64, count: u64, value: bool) -> u64 {
        let (mut at, end, before) = (first, first.saturating_add(count), self.count);
        while at < end {
            let (index, from) = (at / PAGE_BITS, at % PAGE_BITS);
            let whole = end / PAGE_BITS - index;
            if from == 0 && whole > 0 {
                self.carve(index, whole);
                if value {
                    self.put_full(index, whole);
                }
                at += whole * PAGE_BITS;
            } else {
                let to = PAGE_BITS.min(from + (end - at));
                let mut bits = self.take_page(index);
                bits[from as usize..to as usize].fill(value);
                self.put_page(index, bits);
                at += to - from;
            }
        }
        self.count.abs_diff(before)
    }

    /// Empties these pages.
    fn carve(&mut self, first: u64, pages: u64) {
        let end = first + pages;
        let before = self.pages.range(..first).next_back().map(|(index, page)| (*index, page.span()));
        if let Some((index, span)) = before.filter(|(index, span)| index + span > first) {
            self.pages.insert(index, Page::Full(first - index));
            self.pages.insert(first, Page::Full(index + span - first));
        }
        while let Some((&index, _)) = self.pages.range(first..end).next() {
            let page = self.pages.remove(&index).expect("just seen");
            self.count -= page.len();
            if index + page.span() > end {
                let rest = index + page.span() - end;
                self.count += rest * PAGE_BITS;
                self.pages.insert(end, Page::Full(rest));
            }
        }
    }

    /// Fills these pages, which are empty, and joins them with their neighbours.
    fn put_full(&mut self, first: u64, pages: u64) {
        self.count += pages * PAGE_BITS;
        let (mut from, mut span) = (first, pages);
        if let Some(Page::Full(after)) = self.pages.get(&(first + pages)) {
            span += after;
            self.pages.remove(&(first + pages));
        }
        if let Some((&index, Page::Full(before))) = self.pages.range(..first).next_back()
            && index + before == first
        {
            (from, span) = (index, span + before);
        }
        self.pages.insert(from, Page::Full(span));
    }

    /// Empties one page and tells what it held.
    fn take_page(&mut self, index: u64) -> Box<BitPage> {
        if let Some(Page::Some(..)) = self.pages.get(&index)
            && let Some(Page::Some(ones, bits)) = self.pages.remove(&index)
        {
            self.count -= u64::from(ones);
            return bits;
        }
        let full = self.contains(index * PAGE_BITS);
        self.carve(index, 1);
        Box::new(BitPage::new([if full { u64::MAX } else { 0 }; 64]))
    }

    /// Gives an empty page these bits.
    fn put_page(&mut self, index: u64, bits: Box<BitPage>) {
        match bits.data.iter().map(|word| u64::from(word.count_ones())).sum() {
            0 => {}
            PAGE_BITS => self.put_full(index, 1),
            ones => {
                self.count += ones;
                self.pages.insert(index, Page::Some(ones as u16, bits));
            }
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
            let (first, count) = ((x >> 40) % 30_000, (x >> 20) % [3, 100, 20_000][step % 3]);
            let (first, count) = if step % 5 == 0 { (first & !4095, count & !4095) } else { (first, count) };
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
        for (index, pages, words) in set.pages() {
            (0..pages).for_each(|page| copy.insert_page(index + page, words.unwrap_or(&[u64::MAX; 64])));
        }
        assert_eq!(copy, set);
    }

    #[test]
    fn runs_join_across_pages() {
        let set: BitSet = (4090..4100).chain([9000]).collect();
        assert_eq!(set.runs(), vec![(4090, 10), (9000, 1)]);
    }
}
