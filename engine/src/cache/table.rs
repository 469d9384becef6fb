//! Block address → place in the cache, two levels: chunks of 256 blocks (1 MiB) in an ordered map.

use std::collections::BTreeMap;

use super::{NOWHERE, Place};

const CHUNK: u64 = 256;

#[derive(Debug)]
struct Chunk {
    places: [Place; CHUNK as usize],
    used: u32,
}

/// The blocks of one volume that are cached.
#[derive(Debug, Default)]
pub(super) struct Table {
    chunks: BTreeMap<u64, Box<Chunk>>,
}

impl Table {
    pub(super) fn get(&self, block: u64) -> Option<Place> {
        let place = self.chunks.get(&(block / CHUNK))?.places[(block % CHUNK) as usize];
        (place != NOWHERE).then_some(place)
    }

    /// `NOWHERE` removes.
    pub(super) fn set(&mut self, block: u64, place: Place) {
        let index = block / CHUNK;
        let chunk = self
            .chunks
            .entry(index)
            .or_insert_with(|| Box::new(Chunk { places: [NOWHERE; CHUNK as usize], used: 0 }));
        let slot = &mut chunk.places[(block % CHUNK) as usize];
        chunk.used += u32::from(*slot == NOWHERE && place != NOWHERE);
        chunk.used -= u32::from(*slot != NOWHERE && place == NOWHERE);
        *slot = place;
        if chunk.used == 0 {
            self.chunks.remove(&index);
        }
    }

    /// Cached blocks of a range, ascending.
    pub(super) fn range(&self, blocks: core::ops::Range<u64>) -> impl Iterator<Item = (u64, Place)> + '_ {
        let (start, end) = (blocks.start, blocks.end.max(blocks.start));
        let chunks = start / CHUNK..end.div_ceil(CHUNK).max(start / CHUNK);
        self.chunks.range(chunks).flat_map(move |(&index, chunk)| {
            let base = index * CHUNK;
            let from = start.saturating_sub(base).min(CHUNK);
            let to = (end - base).min(CHUNK);
            (from..to).filter_map(move |at| {
                let place = chunk.places[at as usize];
                (place != NOWHERE).then_some((base + at, place))
            })
        })
    }
}
