//! Bytes on their way in: received straight into the places where they are wanted.
//!
//! Before each receive the decoder tells what it expects: so many bytes of heads, so many pages, and so on. The
//! bytes are scattered over a flat buffer and over pages accordingly. Where it expected right, and under load it
//! does, a page is never copied; where it was wrong, the bytes are gathered from wherever they lie.
//!
//! Invariant: the unread parts of `pieces`, in order, are the bytes received and not consumed, `held` of them;
//! the flat pieces lie in `flat` in ascending order without overlap.

#![expect(
    clippy::indexing_slicing,
    reason = "places in this side's own buffers, each bounded by the piece it belongs to; no length of the wire"
)]

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};

use smallvec::SmallVec;

use crate::block::{BLOCK_BYTES, PageMut, PagePool};

/// What the decoder expects next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// So many bytes that are no page.
    Flat(usize),
    /// So many pages.
    Pages(usize),
}

/// Most slots of one receive.
pub(super) type Plan = SmallVec<[Slot; 64]>;

enum Place {
    /// In `flat`, from this offset on.
    Flat(usize),
    Page(PageMut),
}

/// A place with `start..end` of it received and unread, and room up to `room`.
struct Piece {
    place: Place,
    start: usize,
    end: usize,
    room: usize,
}

pub(super) struct Inflow {
    pool: PagePool,
    flat: Vec<u8>,
    pieces: VecDeque<Piece>,
    held: usize,
    /// Pages that were laid out and not needed.
    spare: Vec<PageMut>,
    gathered: Vec<u8>,
    /// Pages whose bytes came where they were not expected.
    pub(super) copied: u64,
}

impl Inflow {
    pub(super) fn new(pool: PagePool) -> Inflow {
        Inflow {
            pool,
            flat: Vec::new(),
            pieces: VecDeque::new(),
            held: 0,
            spare: Vec::new(),
            gathered: Vec::new(),
            copied: 0,
        }
    }

    /// Receives once, with `read`, into places for `plan`. The first slot is the item that is incomplete now and
    /// holds more than the unread bytes.
    pub(super) fn receive(
        &mut self,
        plan: &[Slot],
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.lay_out(plan);
        let count = read(&mut slices(&mut self.flat, &mut self.pieces))?;
        let mut rest = count;
        for piece in &mut self.pieces {
            let here = rest.min(piece.room - piece.end);
            piece.end += here;
            rest -= here;
        }
        assert!(rest == 0, "more received than there was room for");
        self.held += count;
        Ok(count)
    }

    fn lay_out(&mut self, plan: &[Slot]) {
        self.settle(plan.first().copied());
        let mut at = match self.pieces.front() {
            Some(Piece { place: Place::Flat(_), room, .. }) => *room,
            _ => 0,
        };
        for (index, slot) in plan.iter().enumerate() {
            let begun = usize::from(index == 0 && !self.pieces.is_empty());
            match *slot {
                Slot::Flat(bytes) if begun == 0 => {
                    self.pieces.push_back(Piece { place: Place::Flat(at), start: 0, end: 0, room: bytes });
                    at += bytes;
                }
                Slot::Flat(_) => {}
                Slot::Pages(count) => {
                    for _ in begun..count {
                        let place = Place::Page(self.page());
                        self.pieces.push_back(Piece { place, start: 0, end: 0, room: BLOCK_BYTES });
                    }
                }
            }
        }
        if self.flat.len() < at {
            self.flat.resize(at, 0);
        }
    }

    /// Puts the unread bytes, if any, at the beginning of the first slot.
    fn settle(&mut self, first: Option<Slot>) {
        self.drop_empty();
        match (first, self.pieces.front_mut()) {
            (_, None) => {}
            (Some(Slot::Pages(_)), Some(Piece { place: Place::Page(_), start: 0, end, .. }))
                if *end == self.held => {}
            (Some(Slot::Pages(_)), _) => {
                let (mut page, held) = (self.page(), self.held);
                self.gather(held);
                page.bytes_mut()[..held].copy_from_slice(&self.gathered);
                self.restart(Place::Page(page), BLOCK_BYTES);
            }
            (Some(Slot::Flat(bytes)), Some(piece @ Piece { place: Place::Flat(0), start: 0, .. }))
                if piece.end == self.held =>
            {
                piece.room = bytes;
            }
            (Some(Slot::Flat(bytes)), _) => {
                let held = self.held;
                self.gather(held);
                if self.flat.len() < bytes {
                    self.flat.resize(bytes, 0);
                }
                self.flat[..held].copy_from_slice(&self.gathered);
                self.restart(Place::Flat(0), bytes);
            }
            (None, _) => {}
        }
    }

    fn restart(&mut self, place: Place, room: usize) {
        while let Some(piece) = self.pieces.pop_front() {
            self.recycle(piece);
        }
        self.pieces.push_back(Piece { place, start: 0, end: self.held, room });
    }

    /// Drops the pieces that hold nothing unread.
    fn drop_empty(&mut self) {
        for _ in 0..self.pieces.len() {
            let piece = self.pieces.pop_front().expect("counted");
            if piece.start == piece.end { self.recycle(piece) } else { self.pieces.push_back(piece) }
        }
    }

    fn recycle(&mut self, piece: Piece) {
        if let Place::Page(page) = piece.place {
            self.spare.push(page);
        }
    }

    fn page(&mut self) -> PageMut {
        self.spare.pop().unwrap_or_else(|| self.pool.take())
    }

    /// Copies the first `bytes` unread bytes to `gathered`.
    fn gather(&mut self, bytes: usize) {
        self.gathered.clear();
        for piece in &self.pieces {
            let part = unread(&self.flat, piece);
            let here = part.len().min(bytes - self.gathered.len());
            self.gathered.extend_from_slice(&part[..here]);
        }
    }

    /// The next `bytes` bytes, if they are here.
    pub(super) fn peek(&mut self, bytes: usize) -> Option<&[u8]> {
        if self.held < bytes {
            return None;
        }
        while self.pieces.front().is_some_and(|piece| piece.start == piece.end) {
            let piece = self.pieces.pop_front().expect("just seen");
            self.recycle(piece);
        }
        if self.pieces.front().is_none_or(|piece| piece.end - piece.start < bytes) {
            self.gather(bytes);
            return Some(&self.gathered);
        }
        self.pieces.front().map(|piece| &unread(&self.flat, piece)[..bytes])
    }

    /// Consumes `bytes` bytes that [`peek`](Self::peek) showed.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.held -= bytes;
        let mut rest = bytes;
        while rest > 0 {
            let piece = self.pieces.front_mut().expect("as many are held");
            let here = rest.min(piece.end - piece.start);
            piece.start += here;
            rest -= here;
            if piece.start == piece.end {
                let piece = self.pieces.pop_front().expect("just seen");
                self.recycle(piece);
            }
        }
    }

    /// The next 4096 bytes as a page, if they are here.
    pub(super) fn take_page(&mut self) -> Option<PageMut> {
        self.peek(BLOCK_BYTES)?;
        if let Some(Piece { place: Place::Page(_), start: 0, end: BLOCK_BYTES, .. }) = self.pieces.front() {
            self.held -= BLOCK_BYTES;
            let piece = self.pieces.pop_front()?;
            let Place::Page(page) = piece.place else { return None };
            return Some(page);
        }
        self.copied += 1;
        let mut page = self.page();
        let bytes = page.bytes_mut();
        let mut at = 0;
        for piece in &self.pieces {
            let part = unread(&self.flat, piece);
            let here = part.len().min(BLOCK_BYTES - at);
            bytes[at..at + here].copy_from_slice(&part[..here]);
            at += here;
        }
        self.consume(BLOCK_BYTES);
        Some(page)
    }
}

fn unread<'a>(flat: &'a [u8], piece: &'a Piece) -> &'a [u8] {
    match &piece.place {
        Place::Flat(at) => &flat[at + piece.start..at + piece.end],
        Place::Page(page) => &page.bytes()[piece.start..piece.end],
    }
}

/// The room of the pieces, in order.
fn slices<'a>(flat: &'a mut [u8], pieces: &'a mut VecDeque<Piece>) -> SmallVec<[IoSliceMut<'a>; 64]> {
    let (mut flat, mut passed) = (flat, 0);
    let mut slices = SmallVec::new();
    for piece in pieces {
        let (end, room) = (piece.end, piece.room);
        match &mut piece.place {
            Place::Flat(at) => {
                let (mine, rest) = core::mem::take(&mut flat)[*at - passed..].split_at_mut(room);
                passed = *at + room;
                flat = rest;
                slices.push(IoSliceMut::new(&mut mine[end..]));
            }
            Place::Page(page) => slices.push(IoSliceMut::new(&mut page.bytes_mut()[end..])),
        }
    }
    slices
}
