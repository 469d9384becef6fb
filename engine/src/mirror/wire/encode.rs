//! Messages to bytes, a frame at a time.

use core::fmt;
use core::mem::offset_of;
use std::io::IoSlice;

use bytemuck::Zeroable;
use smallvec::SmallVec;

use super::body;
use super::layout::{Entry, HEADER_BYTES, Header, MAGIC, MORE, kind};
use super::outflow::Outflow;
use super::{FRAME_BLOCKS_MAX, Salt, WireError};
use crate::block::{Block, Payload};
use crate::mirror::message::{Message, PROTOCOL_VERSION};

/// Turns the messages of one direction of one connection into bytes.
///
/// [`push`](Self::push) a message, and while [`unfinished`](Self::unfinished) call [`go_on`](Self::go_on);
/// between two frames only an urgent message may be pushed. Write [`slices`](Self::slices), then
/// [`advance`](Self::advance).
pub struct Encoder {
    salt: Salt,
    sequence: u64,
    out: Outflow,
    rest: Rest,
}

/// The blocks of the message that are not in a frame yet.
#[derive(Default)]
struct Rest {
    data: Payload,
    next: usize,
}

impl Rest {
    fn left(&self) -> usize {
        self.data.len() - self.next
    }
}

impl Encoder {
    /// For a new connection.
    pub fn new(salt: Salt) -> Encoder {
        Encoder { salt, sequence: 0, out: Outflow::default(), rest: Rest::default() }
    }

    /// Encodes the first frame of `message`.
    ///
    /// # Errors
    /// The message is too long or contradicts itself. Nothing was encoded.
    pub fn push(&mut self, message: Message) -> Result<(), WireError> {
        assert!(!self.unfinished() || message.is_urgent(), "a message inside another");
        let Message { body, data } = message;
        if !body::check(&body)?.allows(data.len(), false) {
            return Err(WireError::Malformed("the blocks are not as many as the message says"));
        }
        if data.is_empty() {
            return self.frame(&mut Rest::default(), |out| body::encode(&body, out));
        }
        let mut rest = Rest { data, next: 0 };
        self.frame(&mut rest, |out| body::encode(&body, out))?;
        self.rest = rest;
        Ok(())
    }

    /// Has the last message blocks that are not encoded yet?
    pub fn unfinished(&self) -> bool {
        self.rest.left() > 0
    }

    /// Encodes the next frame of an unfinished message.
    pub fn go_on(&mut self) {
        let mut rest = core::mem::take(&mut self.rest);
        self.frame(&mut rest, |_| Ok(kind::REST)).expect("a frame without a body cannot fail");
        self.rest = rest;
    }

    /// Bytes encoded and not written.
    pub fn bytes(&self) -> usize {
        self.out.bytes()
    }

    /// The next bytes to write, in order; not always all.
    pub fn slices(&self) -> SmallVec<[IoSlice<'_>; 64]> {
        self.out.slices()
    }

    /// The first `bytes` of [`slices`](Self::slices) have been written.
    ///
    /// # Panics
    /// If there were not as many.
    pub fn advance(&mut self, bytes: usize) {
        self.out.advance(bytes);
    }

    fn frame(
        &mut self,
        rest: &mut Rest,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<u8, WireError>,
    ) -> Result<(), WireError> {
        let count = rest.left().min(FRAME_BLOCKS_MAX);
        let more = rest.left() > count;
        let blocks = rest.data.get_mut(rest.next..rest.next + count).ok_or(WireError::Length)?;
        let (salt, sequence) = (self.salt, self.sequence);
        self.out.head(|out| head(out, salt, sequence, more, blocks, fill))?;
        for block in blocks {
            if let Block::Data(page) = core::mem::take(block) {
                self.out.page(page);
            }
        }
        rest.next += count;
        self.sequence += 1;
        Ok(())
    }
}

/// Header, body and block table.
fn head(
    out: &mut Vec<u8>,
    salt: Salt,
    sequence: u64,
    more: bool,
    blocks: &[Block],
    fill: impl FnOnce(&mut Vec<u8>) -> Result<u8, WireError>,
) -> Result<(), WireError> {
    let at = out.len();
    out.extend_from_slice(bytemuck::bytes_of(&Header::zeroed()));
    let kind = fill(out)?;
    let body_bytes = out.len() - at - HEADER_BYTES;
    for block in blocks {
        let entry = match block {
            Block::Zero => Entry::zeroed(),
            Block::Data(page) => Entry { state: 1.into(), crc: page.crc().into() },
        };
        out.extend_from_slice(bytemuck::bytes_of(&entry));
    }
    let frame = out.get_mut(at..).and_then(|frame| frame.split_first_chunk_mut::<HEADER_BYTES>());
    let (head, tail) = frame.ok_or(WireError::Length)?;
    let header = Header {
        magic: MAGIC.into(),
        version: PROTOCOL_VERSION.into(),
        kind,
        more: if more { MORE } else { 0 },
        sequence: sequence.into(),
        body_bytes: (body_bytes as u32).into(),
        blocks: (blocks.len() as u32).into(),
        tail_crc: crc32c::crc32c(tail).into(),
        header_crc: 0.into(),
    };
    *head = bytemuck::cast(header.sealed(salt));
    Ok(())
}

impl Header {
    /// With its own checksum.
    pub(super) fn sealed(self, salt: Salt) -> Header {
        Header { header_crc: self.crc(salt).into(), ..self }
    }

    /// What its checksum must be.
    pub(super) fn crc(&self, salt: Salt) -> u32 {
        let (checked, _) = bytemuck::bytes_of(self).split_at(offset_of!(Header, header_crc));
        crc32c::crc32c_append(salt.0, checked)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder(frame {}, {} bytes waiting)", self.sequence, self.bytes())
    }
}
