//! What waits to be sent: headers in one growing buffer, data in the blocks where it lies.
//!
//! Invariant: `queued` is the sum of all chunks. Nothing is copied but headers, digests and small replies.

use std::collections::VecDeque;
use std::io::IoSlice;

use twinsan::block::Block;

use crate::pdu::{BHS_BYTES, DIGEST_BYTES, padding};

/// Bytes already sent that are kept before the header buffer is moved up.
const SENT_MAX: usize = 32 << 10;

enum Chunk {
    /// The next so many bytes of the header buffer.
    Head(usize),
    /// Bytes of a block.
    Data { block: Block, from: u16, to: u16 },
}

/// A connection's send queue.
#[derive(Default)]
pub(crate) struct Output {
    heads: Vec<u8>,
    heads_sent: usize,
    chunks: VecDeque<Chunk>,
    queued: usize,
}

/// Which digests to add.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

/// A piece of a block that is part of a data segment.
pub(crate) struct Piece {
    pub(crate) block: Block,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.block.bytes()[self.from..self.to]
    }
}

impl Output {
    /// Bytes waiting.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Queues a PDU whose data is small enough to copy.
    pub(crate) fn push(&mut self, header: &[u8; BHS_BYTES], data: &[u8], digests: Digests) {
        self.header(header, digests);
        self.head(data);
        let crc = if digests.data { crc32c::crc32c(data) } else { 0 };
        self.tail(data.len(), crc, digests);
    }

    /// Queues a PDU whose data lies in blocks.
    pub(crate) fn push_pieces(
        &mut self,
        header: &[u8; BHS_BYTES],
        pieces: impl Iterator<Item = Piece>,
        digests: Digests,
    ) {
        self.header(header, digests);
        let (mut length, mut crc) = (0, 0);
        for piece in pieces {
            length += piece.to - piece.from;
            if digests.data {
                crc = crc32c::crc32c_append(crc, piece.bytes());
            }
            self.queued += piece.to - piece.from;
            let (from, to) = (piece.from as u16, piece.to as u16);
            self.chunks.push_back(Chunk::Data { block: piece.block, from, to });
        }
        self.tail(length, crc, digests);
    }

    fn header(&mut self, header: &[u8; BHS_BYTES], digests: Digests) {
        self.head(header);
        if digests.header {
            self.head(&crc32c::crc32c(header).to_le_bytes());
        }
    }

    /// Padding and digest after `length` bytes of data. Padding counts in the digest (RFC 7143 11.7.4).
    fn tail(&mut self, length: usize, crc: u32, digests: Digests) {
        if length == 0 {
            return;
        }
        let pad = &[0; 3][..padding(length)];
        self.head(pad);
        if digests.data {
            let digest: [u8; DIGEST_BYTES] = crc32c::crc32c_append(crc, pad).to_le_bytes();
            self.head(&digest);
        }
    }

    fn head(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.heads.extend_from_slice(bytes);
        self.queued += bytes.len();
        match self.chunks.back_mut() {
            Some(Chunk::Head(length)) => *length += bytes.len(),
            _ => self.chunks.push_back(Chunk::Head(bytes.len())),
        }
    }

    /// Fills `slices` from the front of the queue; returns how many it filled.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.heads_sent;
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = match chunk {
                Chunk::Head(length) => {
                    at += length;
                    IoSlice::new(&self.heads[at - length..at])
                }
                Chunk::Data { block, from, to } => {
                    IoSlice::new(&block.bytes()[usize::from(*from)..usize::from(*to)])
                }
            };
            count += 1;
        }
        count
    }

    /// `sent` bytes, at most those queued, have gone.
    pub(crate) fn sent(&mut self, mut sent: usize) {
        self.queued -= sent;
        while let Some(chunk) = self.chunks.front_mut() {
            let length = match chunk {
                Chunk::Head(length) => *length,
                Chunk::Data { from, to, .. } => usize::from(*to - *from),
            };
            let gone = length.min(sent);
            sent -= gone;
            match chunk {
                Chunk::Head(left) => {
                    self.heads_sent += gone;
                    *left -= gone;
                }
                Chunk::Data { from, .. } => *from += gone as u16,
            }
            if gone < length {
                break;
            }
            self.chunks.pop_front();
        }
        self.move_up();
    }

    fn move_up(&mut self) {
        if self.chunks.is_empty() {
            self.heads.clear();
            self.heads_sent = 0;
        } else if self.heads_sent > SENT_MAX.max(self.heads.len() / 2) {
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Output::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsan::block::{PagePool, payload_from};

    fn drain(output: &mut Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = output.gather(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            let sent = bytes.len().min(step);
            all.extend_from_slice(&bytes[..sent]);
            output.sent(sent);
        }
        all
    }

    #[test]
    fn any_way_of_sending_gives_the_same_bytes() {
        let pool = PagePool::new();
        let blocks = payload_from(&pool, &(0..8192).map(|n| (n / 7) as u8).collect::<Vec<u8>>());
        let fill = || {
            let mut output = Output::default();
            let digests = Digests { header: true, data: true };
            output.push(&[1; BHS_BYTES], b"hello", digests);
            let pieces = blocks.iter().map(|block| Piece { block: block.clone(), from: 512, to: 4096 });
            output.push_pieces(&[2; BHS_BYTES], pieces, digests);
            output.push(&[3; BHS_BYTES], &[], digests);
            output
        };
        let whole = drain(&mut fill(), usize::MAX);
        assert_eq!(whole.len(), fill().queued());
        assert_eq!(whole.len(), 52 + 8 + 4 + 52 + 2 * 3584 + 4 + 52);
        for step in [1, 47, 53, 4096] {
            assert_eq!(drain(&mut fill(), step), whole);
        }
    }

    #[test]
    fn a_full_block_fits_the_offsets() {
        let mut output = Output::default();
        let piece = Piece { block: Block::Zero, from: 0, to: 4096 };
        output.push_pieces(&[0; BHS_BYTES], std::iter::once(piece), Digests::default());
        assert_eq!(drain(&mut output, 1000).len(), 48 + 4096);
    }
}
