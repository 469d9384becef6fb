//! Where the data of a write lands: blocks, at the place within them where the volume wants it.
//!
//! Invariants: bytes arrive in order and each once; a block is sealed (its checksum taken) when its last byte
//! is there; bytes of the first and last block that the write does not cover are zero, so nothing of an earlier
//! page is ever passed on.

use std::io::IoSliceMut;

use smallvec::SmallVec;
use twinsan::block::{BLOCK_BYTES, Block, PageMut, PagePool, Payload};

/// Room for a receive: the longest data segment, not aligned, and what follows it, without an allocation.
pub(crate) type Slices<'a> = SmallVec<[IoSliceMut<'a>; 96]>;

/// A run of blocks being filled.
pub(crate) struct Landing {
    sealed: Payload,
    /// Taken and not yet full.
    open: SmallVec<[PageMut; 1]>,
    /// Offset of the next byte from the start of the first block.
    next: usize,
    head: usize,
    end: usize,
}

impl Landing {
    /// For `bytes` bytes that begin `head` bytes into a block.
    pub(crate) fn new(head: usize, bytes: usize) -> Landing {
        Landing { sealed: SmallVec::new(), open: SmallVec::new(), next: head, head, end: head + bytes }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> usize {
        self.end - self.next
    }

    /// Takes pages until `bytes` more fit.
    fn reserve(&mut self, pages: &PagePool, bytes: usize) {
        let blocks = (self.next + bytes).div_ceil(BLOCK_BYTES);
        while self.sealed.len() + self.open.len() < blocks {
            let base = (self.sealed.len() + self.open.len()) * BLOCK_BYTES;
            let mut page = pages.take();
            if base < self.head {
                page.bytes_mut()[..self.head - base].fill(0);
            }
            if self.end - base < BLOCK_BYTES {
                page.bytes_mut()[self.end - base..].fill(0);
            }
            self.open.push(page);
        }
    }

    /// Copies `bytes`, at most [`left`](Self::left), from a receive buffer.
    pub(crate) fn put(&mut self, pages: &PagePool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.next % BLOCK_BYTES;
            let count = bytes.len().min(BLOCK_BYTES - at);
            self.reserve(pages, count);
            let (now, later) = bytes.split_at(count);
            if let Some(page) = self.open.first_mut() {
                page.bytes_mut()[at..at + count].copy_from_slice(now);
            }
            self.filled(count);
            bytes = later;
        }
    }

    /// Would the next byte be the first of a block of which all is still to come?
    pub(crate) fn at_block(&self) -> bool {
        self.next.is_multiple_of(BLOCK_BYTES) && self.left() >= BLOCK_BYTES && self.open.is_empty()
    }

    /// Takes a page that holds the next whole block; only [`at_block`](Self::at_block).
    pub(crate) fn adopt(&mut self, page: PageMut) {
        debug_assert!(self.at_block());
        self.open.push(page);
        self.filled(BLOCK_BYTES);
    }

    /// Adds room for the next `bytes` bytes to `slices`, for a receive straight into the blocks.
    pub(crate) fn room<'a>(&'a mut self, pages: &PagePool, mut bytes: usize, slices: &mut Slices<'a>) {
        self.reserve(pages, bytes);
        let mut at = self.next % BLOCK_BYTES;
        for page in &mut self.open {
            let count = bytes.min(BLOCK_BYTES - at);
            if count == 0 {
                break;
            }
            slices.push(IoSliceMut::new(&mut page.bytes_mut()[at..at + count]));
            bytes -= count;
            at = 0;
        }
    }

    /// The next `bytes` bytes are in place.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.next += bytes;
        let full =
            if self.next == self.end { self.end.div_ceil(BLOCK_BYTES) } else { self.next / BLOCK_BYTES };
        let count = full - self.sealed.len();
        self.sealed.extend(self.open.drain(..count).map(|page| Block::Data(page.freeze())));
    }

    /// The blocks, all of whose bytes have come.
    pub(crate) fn into_payload(self) -> Payload {
        debug_assert_eq!(self.left(), 0);
        self.sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(payload: &Payload) -> Vec<u8> {
        payload.iter().flat_map(|block| block.bytes().iter().copied()).collect()
    }

    #[test]
    fn copied_and_received_bytes_meet_at_their_place() {
        let pages = PagePool::new();
        drop((0..4).map(|_| pages.take()).map(|mut p| p.bytes_mut().fill(0xee)).collect::<Vec<_>>());
        let bytes: Vec<u8> = (0..9000).map(|n| n as u8 | 1).collect();
        let mut landing = Landing::new(512, bytes.len());
        landing.put(&pages, &bytes[..100]);
        let mut slices: Slices<'_> = SmallVec::new();
        landing.room(&pages, 5000, &mut slices);
        let mut from = 100;
        for slice in &mut slices {
            let count = slice.len();
            slice.copy_from_slice(&bytes[from..from + count]);
            from += count;
        }
        assert_eq!(from, 5100);
        drop(slices);
        landing.filled(4000); // fewer than there was room for
        landing.put(&pages, &bytes[4100..]);
        assert_eq!(landing.left(), 0);
        let found = content(&landing.into_payload());
        assert_eq!(found.len(), 3 * BLOCK_BYTES);
        assert!(found[..512].iter().all(|byte| *byte == 0));
        assert_eq!(found[512..512 + 9000], bytes[..]);
        assert!(found[512 + 9000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_empty_landing_is_done() {
        assert!(Landing::new(1024, 0).into_payload().is_empty());
    }
}
