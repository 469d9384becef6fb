//! A volume's part of a scrub's pass: reads its mapped extents from disk, in order of address, a chunk at a time, when the
//! control part says so; and single blocks of it that stand in the way of a move.

use core::ops::Range;

use super::Volume;
use super::context::{Context, Told};
use super::op::Reading;
use crate::store::{Read, ReadToken};

/// Blocks read at once.
const CHUNK_BLOCKS: u64 = 64;

/// Where the pass is in this volume.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The block at which it goes on.
    at: u64,
    /// A chunk is being read.
    reading: bool,
}

impl Volume {
    /// A pass begins.
    pub(in crate::node) fn begin_chunks(&mut self) {
        self.chunks = Chunks::default();
    }

    /// Reads the next chunk of the pass; of one for what is in `doubt` only where there is some. Says how many blocks that
    /// is; `None`: the volume is done. What became of it is told.
    pub(in crate::node) fn next_chunk(&mut self, cx: &mut Context<'_>, doubt: bool) -> Option<u64> {
        let blocks = self.find_chunk(cx, doubt)?;
        (self.chunks.at, self.chunks.reading) = (blocks.start, true);
        self.scrub(cx, blocks.clone());
        Some(blocks.end - blocks.start)
    }

    /// The next blocks of a pass, within one extent.
    fn find_chunk(&self, cx: &mut Context<'_>, doubt: bool) -> Option<Range<u64>> {
        let size = cx.store.pool().extent_blocks();
        let mut from = u32::try_from(self.chunks.at / size).ok()?;
        let mut at = self.chunks.at % size;
        loop {
            let extent = self.next_extent(cx, doubt, from)?;
            if extent != from {
                at = 0;
            }
            let first = u64::from(extent) * size;
            let blocks = first + at..(first + (at + CHUNK_BLOCKS).min(size)).min(self.blocks());
            if !blocks.is_empty() {
                return Some(blocks);
            }
            (from, at) = (extent.checked_add(1)?, 0);
        }
    }

    fn next_extent(&self, cx: &mut Context<'_>, doubt: bool, from: u32) -> Option<u32> {
        if doubt {
            let found = cx.store.whole().next_in_doubt((self.id, from));
            return found.filter(|(volume, _)| *volume == self.id).map(|(_, extent)| extent);
        }
        let meta = cx.store.pool().metadata().volume(self.id)?;
        meta.map.iter_from(from).next().map(|(extent, _)| extent)
    }

    fn scrub(&mut self, cx: &mut Context<'_>, blocks: Range<u64>) {
        let token = self.next_id();
        match cx.store.whole().scrub(self.id, blocks.clone(), ReadToken(token)) {
            Read::Ready(..) => self.scrubbed(cx, blocks),
            Read::Pending => {
                self.reading.insert(token, Reading::Scrub { blocks });
            }
        }
    }

    /// A damaged block stands in the way of a move: with a good copy of the partner's in the cache its extent can go. It
    /// is read once more, for meanwhile it may have been overwritten. Where there is nobody to ask, it is met again in the
    /// next round.
    pub(in crate::node) fn clear_the_way(&mut self, cx: &mut Context<'_>, block: u64) {
        if self.may_mend(cx, block) {
            self.scrub(cx, block..block + 1);
        }
    }

    /// Is this the chunk that the pass waits for? One of a pass that was ended is not.
    fn is_at(&self, blocks: &Range<u64>) -> bool {
        self.chunks.reading && self.chunks.at == blocks.start
    }

    /// These blocks have been looked at.
    pub(super) fn scrubbed(&mut self, cx: &mut Context<'_>, blocks: Range<u64>) {
        if self.is_at(&blocks) {
            self.chunks = Chunks { at: blocks.end, reading: false };
            cx.told.push_back((self.id, Told::Scrubbed { blocks: blocks.end - blocks.start }));
        }
    }

    /// These blocks have to be looked at once more.
    pub(super) fn scrub_again(&mut self, cx: &mut Context<'_>, blocks: &Range<u64>, later: bool) {
        if self.is_at(blocks) {
            self.chunks.reading = false;
            cx.told.push_back((self.id, Told::ScrubAgain { later }));
        }
    }
}
