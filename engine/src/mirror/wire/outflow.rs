//! Bytes on their way out: small heads in one buffer, pages by reference, gathered for one `writev`.
//!
//! Invariant: the bytes of `pieces`, less `sent` of the first, are what is still to be written, in order; the
//! heads among them lie one after another in `heads` from `at` on.

#![expect(
    clippy::indexing_slicing,
    reason = "places in this side's own buffer; nothing here came from the wire"
)]

use std::collections::VecDeque;
use std::io::IoSlice;

use smallvec::SmallVec;

use crate::block::{BLOCK_BYTES, Page};

/// More slices than this are not gathered at once.
const SLICES_MAX: usize = 64;

enum Piece {
    /// So many bytes of `heads`.
    Head(usize),
    Page(Page),
}

#[derive(Default)]
pub(super) struct Outflow {
    heads: Vec<u8>,
    at: usize,
    pieces: VecDeque<Piece>,
    sent: usize,
    bytes: usize,
}

impl Outflow {
    /// Bytes still to be written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends what `fill` appends to the buffer of heads, or nothing if it fails.
    pub(super) fn head<T, E>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Result<T, E>) -> Result<T, E> {
        let before = self.heads.len();
        let filled = fill(&mut self.heads);
        if filled.is_err() {
            self.heads.truncate(before);
        }
        let added = self.heads.len() - before;
        match self.pieces.back_mut() {
            Some(Piece::Head(bytes)) => *bytes += added,
            _ if added > 0 => self.pieces.push_back(Piece::Head(added)),
            _ => {}
        }
        self.bytes += added;
        filled
    }

    pub(super) fn page(&mut self, page: Page) {
        self.pieces.push_back(Piece::Page(page));
        self.bytes += BLOCK_BYTES;
    }

    /// The next bytes to write, in order.
    pub(super) fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_MAX]> {
        let (mut at, mut skip) = (self.at, self.sent);
        let mut slices = SmallVec::new();
        for piece in self.pieces.iter().take(SLICES_MAX) {
            let bytes = match piece {
                Piece::Head(bytes) => {
                    at += bytes;
                    &self.heads[at - bytes..at]
                }
                Piece::Page(page) => page.bytes().as_slice(),
            };
            slices.push(IoSlice::new(&bytes[skip..]));
            skip = 0;
        }
        slices
    }

    /// `bytes` more have been written.
    pub(super) fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "more written than there was");
        self.bytes -= bytes;
        self.sent += bytes;
        while let Some(piece) = self.pieces.front() {
            let (length, head) = match piece {
                Piece::Head(length) => (*length, *length),
                Piece::Page(_) => (BLOCK_BYTES, 0),
            };
            if self.sent < length {
                break;
            }
            self.sent -= length;
            self.at += head;
            self.pieces.pop_front();
        }
        self.forget_written();
    }

    fn forget_written(&mut self) {
        if self.pieces.is_empty() {
            self.heads.clear();
            self.at = 0;
        } else if self.at > 64 * 1024 {
            self.heads.drain(..self.at);
            self.at = 0;
        }
    }
}
