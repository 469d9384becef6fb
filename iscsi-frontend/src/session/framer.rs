//! Cuts the byte stream into PDUs without holding it: 48 bytes of header, additional header segments, and where
//! the data goes.
//!
//! Invariants: nothing is allocated by a length that has not been checked; data is never kept here.

use crate::pdu::{BHS_BYTES, DIGEST_BYTES, Header, padding};

/// Where in a PDU the next byte belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The basic header.
    Header,
    /// Additional header segments and the header digest.
    Extra,
    /// The data segment.
    Data,
    /// Padding and the data digest.
    Tail,
}

/// Where the data of the PDU in hand goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Nowhere.
    Discard,
    /// Into the connection's small buffer.
    Gather,
    /// To the task in this slot.
    Task(u16),
}

/// The state of the cutting.
pub(crate) struct Framer {
    pub(crate) stage: Stage,
    bytes: [u8; BHS_BYTES],
    have: usize,
    extra: Vec<u8>,
    pub(crate) place: Place,
    /// Bytes of the data segment that go to `place`, then bytes that go nowhere.
    pub(crate) keep: usize,
    pub(crate) skip: usize,
    tail: [u8; 8],
    tail_need: usize,
    /// CRC32C of the data so far, if it is to be checked.
    crc: u32,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
}

/// A digest does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mismatch;

impl Framer {
    pub(crate) fn new() -> Framer {
        Framer {
            stage: Stage::Header,
            bytes: [0; BHS_BYTES],
            have: 0,
            extra: Vec::new(),
            place: Place::Discard,
            keep: 0,
            skip: 0,
            tail: [0; 8],
            tail_need: 0,
            crc: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// The header in hand.
    pub(crate) fn header(&self) -> Header {
        Header(self.bytes)
    }

    /// Takes bytes of the header; true when it is whole.
    pub(crate) fn take_header(&mut self, input: &mut &[u8]) -> bool {
        let count = input.len().min(BHS_BYTES - self.have);
        let (now, later) = input.split_at(count);
        self.bytes[self.have..self.have + count].copy_from_slice(now);
        self.have += count;
        *input = later;
        if self.have < BHS_BYTES {
            return false;
        }
        self.have = 0;
        self.extra.clear();
        self.stage = Stage::Extra;
        true
    }

    /// Bytes that follow the basic header before the data: at most 1024.
    fn extra_need(&self) -> usize {
        self.header().ahs_bytes() + if self.header_digest { DIGEST_BYTES } else { 0 }
    }

    /// Do the additional header segments fill the place that the header gives them (RFC 7143 11.2.2)? For what the PDU
    /// in hand has brought before its data.
    pub(crate) fn has_sound_segments(&self) -> bool {
        let bytes = self.header().ahs_bytes();
        let mut rest = self.extra.get(..bytes).unwrap_or_default();
        while let [high, low, _kind, ..] = rest {
            // The length says nothing of itself and the type, and the segment is padded.
            let length = 3 + usize::from(u16::from_be_bytes([*high, *low]));
            let Some(after) = rest.get(length + padding(length)..) else { return false };
            rest = after;
        }
        rest.is_empty()
    }

    /// Takes additional header segments and the digest; true when they are whole.
    pub(crate) fn take_extra(&mut self, input: &mut &[u8]) -> Result<bool, Mismatch> {
        let need = self.extra_need();
        let count = input.len().min(need - self.extra.len());
        let (now, later) = input.split_at(count);
        self.extra.extend_from_slice(now);
        *input = later;
        if self.extra.len() < need {
            return Ok(false);
        }
        if self.header_digest {
            let (segments, digest) = self.extra.split_at(need - DIGEST_BYTES);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&self.bytes), segments);
            if digest != crc.to_le_bytes() {
                return Err(Mismatch);
            }
        }
        Ok(true)
    }

    /// The rest of the PDU: `keep` bytes to `place`, the others nowhere.
    pub(crate) fn expect_data(&mut self, place: Place, keep: usize) {
        let length = self.header().data_bytes();
        let digest = if self.data_digest && length > 0 { DIGEST_BYTES } else { 0 };
        self.place = place;
        self.keep = keep;
        self.skip = length - keep;
        self.tail_need = padding(length) + digest;
        self.crc = 0;
        self.have = 0;
        self.stage = if length > 0 { Stage::Data } else { Stage::Tail };
    }

    /// Bytes of `input` that are data to keep now.
    pub(crate) fn take_kept<'a>(&mut self, input: &mut &'a [u8]) -> &'a [u8] {
        let (now, later) = input.split_at(input.len().min(self.keep));
        *input = later;
        self.kept_bytes(now);
        now
    }

    /// `bytes` are data to keep, and are at their place already.
    pub(crate) fn kept_bytes(&mut self, bytes: &[u8]) {
        if self.data_digest {
            self.crc = crc32c::crc32c_append(self.crc, bytes);
        }
        self.kept(bytes.len());
    }

    /// Is the next byte the first of a PDU?
    pub(crate) fn is_between(&self) -> bool {
        self.stage == Stage::Header && self.have == 0
    }

    /// `bytes` bytes were received at their place.
    pub(crate) fn kept(&mut self, bytes: usize) {
        self.keep -= bytes;
        self.data_end();
    }

    pub(crate) fn take_skipped(&mut self, input: &mut &[u8]) {
        let (now, later) = input.split_at(input.len().min(self.skip));
        *input = later;
        if self.data_digest {
            self.crc = crc32c::crc32c_append(self.crc, now);
        }
        self.skip -= now.len();
        self.data_end();
    }

    fn data_end(&mut self) {
        if self.keep + self.skip == 0 {
            self.stage = Stage::Tail;
        }
    }

    /// The rest of the data in hand goes nowhere.
    pub(crate) fn discard(&mut self) {
        self.place = Place::Discard;
        self.skip += core::mem::take(&mut self.keep);
    }

    /// Is the PDU whole but for bytes that are not there?
    pub(crate) fn is_whole(&self) -> bool {
        self.stage == Stage::Tail && self.have == self.tail_need
    }

    /// Takes padding and digest; true when the PDU is whole.
    pub(crate) fn take_tail(&mut self, input: &mut &[u8]) -> bool {
        let count = input.len().min(self.tail_need - self.have);
        let (now, later) = input.split_at(count);
        self.tail[self.have..self.have + count].copy_from_slice(now);
        self.have += count;
        *input = later;
        self.is_whole()
    }

    /// Ends the PDU: the next byte begins a header. An error if the data digest does not match.
    pub(crate) fn end(&mut self) -> Result<(), Mismatch> {
        self.stage = Stage::Header;
        self.have = 0;
        if !self.data_digest || self.tail_need < DIGEST_BYTES {
            return Ok(());
        }
        let (pad, digest) = self.tail[..self.tail_need].split_at(self.tail_need - DIGEST_BYTES);
        let crc = crc32c::crc32c_append(self.crc, pad);
        if digest == crc.to_le_bytes() { Ok(()) } else { Err(Mismatch) }
    }
}
