//! The map of one volume: extent → slot, and which blocks of it read as zero whatever the slot holds.
//!
//! Chunks of 512 extents in an ordered map; a chunk is a bitmap of what is mapped and the slots of just those,
//! so a densely mapped chunk costs 8.3 bytes per extent. Chunks are shared and copied on write: a snapshot for
//! a checkpoint costs a pointer per chunk. Extents without such blocks take nothing more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::Slot;
use super::zero_bits::ZeroBits;
use crate::ids::DiskId;

const CHUNK_EXTENTS: u32 = 512;
const WORDS: usize = CHUNK_EXTENTS as usize / 64;

fn pack(slot: Slot) -> u64 {
    u64::from(slot.disk.0) << 32 | u64::from(slot.index)
}

fn unpack(packed: u64) -> Slot {
    Slot { disk: DiskId((packed >> 32) as u16), index: packed as u32 }
}

/// 512 consecutive extents, of which at least one is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chunk {
    mapped: [u64; WORDS],
    /// In order of the extents.
    slots: Vec<u64>,
    /// Of the extents in which some block reads as zero, by place in the chunk; never empty ones.
    zeros: BTreeMap<u16, ZeroBits>,
}

impl Chunk {
    /// Is extent `at` of the chunk mapped, and which place among the slots is or would be its?
    #[inline]
    fn find(&self, at: u32) -> (bool, usize) {
        let (word, bit) = (at as usize / 64, at % 64);
        let before = self.mapped[..word].iter().map(|word| word.count_ones()).sum::<u32>();
        let rank = before + (self.mapped[word] & ((1 << bit) - 1)).count_ones();
        (self.mapped[word] >> bit & 1 == 1, rank as usize)
    }

    fn insert(&mut self, at: u32, slot: Slot) -> Option<Slot> {
        let (found, rank) = self.find(at);
        if found {
            return Some(unpack(core::mem::replace(&mut self.slots[rank], pack(slot))));
        }
        if self.slots.len() == self.slots.capacity() {
            // Doubling would break the promise of 16 bytes per extent for half-full chunks.
            self.slots.reserve_exact(4 + self.slots.len() / 4);
        }
        self.slots.insert(rank, pack(slot));
        self.mapped[at as usize / 64] |= 1 << (at % 64);
        None
    }

    fn remove(&mut self, at: u32) -> Option<Slot> {
        let (found, rank) = self.find(at);
        if !found {
            return None;
        }
        self.mapped[at as usize / 64] &= !(1 << (at % 64));
        let slot = self.slots.remove(rank);
        if self.slots.len() + 64 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() + 4);
        }
        Some(unpack(slot))
    }

    fn extents(&self) -> impl Iterator<Item = u32> + '_ {
        self.mapped.iter().enumerate().flat_map(|(word, bits)| {
            let mut left = *bits;
            core::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(word as u32 * 64 + bit)
            })
        })
    }
}

/// Two ascending sequences as one; what both have is in it once.
fn merged(one: impl Iterator<Item = u16>, other: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    core::iter::from_fn(move || {
        let next = one.peek().into_iter().chain(other.peek()).min().copied()?;
        one.next_if_eq(&next);
        other.next_if_eq(&next);
        Some(next)
    })
}

/// An ordered map from extents to slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    chunks: BTreeMap<u32, Arc<Chunk>>,
    count: u64,
    zero_extents: u64,
}

impl ExtentMap {
    /// An empty map.
    pub fn new() -> ExtentMap {
        ExtentMap::default()
    }

    /// Mapped extents.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Is nothing mapped?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where the extent lies.
    #[inline]
    pub fn get(&self, extent: u32) -> Option<Slot> {
        let chunk = self.chunks.get(&(extent / CHUNK_EXTENTS))?;
        let (found, rank) = chunk.find(extent % CHUNK_EXTENTS);
        found.then(|| unpack(chunk.slots[rank]))
    }

    /// Is the extent mapped?
    #[inline]
    pub fn contains(&self, extent: u32) -> bool {
        let at = extent % CHUNK_EXTENTS;
        let chunk = self.chunks.get(&(extent / CHUNK_EXTENTS));
        chunk.is_some_and(|chunk| chunk.mapped[at as usize / 64] >> (at % 64) & 1 == 1)
    }

    /// The blocks of a mapped extent that read as zero; `None` if there are none.
    #[inline]
    pub fn zeros(&self, extent: u32) -> Option<&ZeroBits> {
        self.chunks.get(&(extent / CHUNK_EXTENTS))?.zeros.get(&((extent % CHUNK_EXTENTS) as u16))
    }

    /// Mapped extents in which some block reads as zero.
    pub fn zero_extents(&self) -> u64 {
        self.zero_extents
    }

    /// Those extents from `extent` on with their blocks, ascending.
    pub fn zeros_from(&self, extent: u32) -> impl Iterator<Item = (u32, &ZeroBits)> + '_ {
        self.chunks.range(extent / CHUNK_EXTENTS..).flat_map(move |(index, chunk)| {
            let base = index * CHUNK_EXTENTS;
            let skip = extent.saturating_sub(base).min(CHUNK_EXTENTS) as u16;
            chunk.zeros.range(skip..).map(move |(at, bits)| (base + u32::from(*at), bits))
        })
    }

    /// Changes which blocks of a mapped extent read as zero. Does nothing for one that is not mapped.
    pub(super) fn change_zeros(&mut self, extent: u32, change: impl FnOnce(&mut ZeroBits)) {
        let at = extent % CHUNK_EXTENTS;
        let Some(chunk) = self.chunks.get_mut(&(extent / CHUNK_EXTENTS)) else { return };
        if !chunk.find(at).0 {
            return;
        }
        let chunk = Arc::make_mut(chunk);
        let before = chunk.zeros.len() as u64;
        let bits = chunk.zeros.entry(at as u16).or_default();
        change(bits);
        if bits.is_empty() {
            chunk.zeros.remove(&(at as u16));
        }
        self.zero_extents = self.zero_extents + chunk.zeros.len() as u64 - before;
    }

    /// Maps the extent; tells where it lay before. What reads as zero in it goes on doing so.
    pub fn insert(&mut self, extent: u32, slot: Slot) -> Option<Slot> {
        let chunk = Arc::make_mut(self.chunks.entry(extent / CHUNK_EXTENTS).or_default());
        let old = chunk.insert(extent % CHUNK_EXTENTS, slot);
        self.count += u64::from(old.is_none());
        old
    }

    /// Unmaps the extent; tells where it lay.
    pub fn remove(&mut self, extent: u32) -> Option<Slot> {
        let index = extent / CHUNK_EXTENTS;
        let chunk = self.chunks.get_mut(&index)?;
        if !chunk.find(extent % CHUNK_EXTENTS).0 {
            return None;
        }
        let chunk = Arc::make_mut(chunk);
        self.zero_extents -= u64::from(chunk.zeros.remove(&((extent % CHUNK_EXTENTS) as u16)).is_some());
        let old = chunk.remove(extent % CHUNK_EXTENTS);
        if chunk.slots.is_empty() {
            self.chunks.remove(&index);
        }
        self.count -= 1;
        old
    }

    /// Unmaps what begins at this extent or behind it.
    pub(super) fn cut(&mut self, end: u32) {
        let beyond: Vec<u32> = self.iter_from(end).map(|(extent, _)| extent).collect();
        for extent in beyond {
            self.remove(extent);
        }
    }

    /// All mapped extents, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Slot)> + '_ {
        self.iter_from(0)
    }

    /// The mapped extents from `extent` on, ascending.
    pub fn iter_from(&self, extent: u32) -> impl Iterator<Item = (u32, Slot)> + '_ {
        let first = extent / CHUNK_EXTENTS;
        self.chunks.range(first..).flat_map(move |(index, chunk)| {
            let (base, skip) =
                (index * CHUNK_EXTENTS, if *index == first { extent % CHUNK_EXTENTS } else { 0 });
            let rank = if skip == 0 { 0 } else { chunk.find(skip).1 };
            let extents = chunk.extents().skip(rank).map(move |at| base + at);
            extents.zip(chunk.slots[rank..].iter().map(|slot| unpack(*slot)))
        })
    }

    /// The mapped extents from `extent` on that `base` has not, or elsewhere, ascending.
    pub(super) fn changed_from<'a>(
        &'a self,
        base: &'a ExtentMap,
        extent: u32,
    ) -> impl Iterator<Item = (u32, Slot)> + 'a {
        let other = self.chunks_unlike(base, extent);
        let entries = other.flat_map(|(index, chunk)| {
            let extents = chunk.extents().map(move |at| index * CHUNK_EXTENTS + at);
            extents.zip(chunk.slots.iter().map(|slot| unpack(*slot)))
        });
        entries.filter(move |(at, slot)| *at >= extent && base.get(*at) != Some(*slot))
    }

    /// The extents from `extent` on that are mapped in `base` and not here, ascending.
    pub(super) fn missing_from<'a>(
        &'a self,
        base: &'a ExtentMap,
        extent: u32,
    ) -> impl Iterator<Item = u32> + 'a {
        let other = base.chunks_unlike(self, extent);
        let extents =
            other.flat_map(|(index, chunk)| chunk.extents().map(move |at| index * CHUNK_EXTENTS + at));
        extents.filter(move |at| *at >= extent && !self.contains(*at))
    }

    /// The mapped extents from `extent` on of which other blocks read as zero than of those in `base`, with these blocks,
    /// ascending.
    pub(super) fn zeros_changed_from<'a>(
        &'a self,
        base: &'a ExtentMap,
        extent: u32,
    ) -> impl Iterator<Item = (u32, ZeroBits)> + 'a {
        let other = self.chunks_unlike(base, extent);
        let extents = other.flat_map(move |(index, chunk)| {
            // Not from the beginning of the chunk each time: one is asked for after the other.
            let skip = extent.saturating_sub(index * CHUNK_EXTENTS) as u16;
            let there = base.chunks.get(&index).map(|chunk| &chunk.zeros).into_iter();
            let there = there.flat_map(move |zeros| zeros.range(skip..)).map(|(at, _)| *at);
            let all = merged(chunk.zeros.range(skip..).map(|(at, _)| *at), there);
            all.map(move |at| index * CHUNK_EXTENTS + u32::from(at))
        });
        let unlike = move |at: &u32| self.contains(*at) && self.zeros(*at) != base.zeros(*at);
        extents.filter(unlike).map(|at| (at, self.zeros(at).cloned().unwrap_or_default()))
    }

    /// The chunks from that of `extent` on, but for those that are the same in `base`.
    fn chunks_unlike<'a>(
        &'a self,
        base: &'a ExtentMap,
        extent: u32,
    ) -> impl Iterator<Item = (u32, &'a Chunk)> + 'a {
        let chunks = self.chunks.range(extent / CHUNK_EXTENTS..);
        let same = |index, chunk| base.chunks.get(index).is_some_and(|base| Arc::ptr_eq(base, chunk));
        chunks.filter(move |(index, chunk)| !same(index, chunk)).map(|(index, chunk)| (*index, &**chunk))
    }

    /// Bytes of memory that the places take, without the allocator's own and without the blocks that read as zero.
    pub fn bytes(&self) -> usize {
        let chunk = size_of::<Chunk>() + 2 * size_of::<usize>() + 2 * size_of::<usize>();
        self.chunks.values().map(|each| chunk + each.slots.capacity() * 8).sum()
    }
}
