//! Messages as bytes. `engine/docs/protocol.md`, section "Wire", has every offset.
//!
//! A message is one frame, or several when it carries many blocks: a fixed header, the body, a table with one
//! entry per block, and the 4 KiB pages of the blocks that are not zero. Pure: bytes in, messages out, and back.
//!
//! Invariants:
//! - Nothing that came from the wire is used before its checksum was right, and no length of it before it was
//!   compared with its cap.
//! - A message is handed out only when all of it has been verified; after an error nothing more comes.
//! - The frames of a connection are numbered, and every header's checksum is salted with the connection and its
//!   direction: a frame that is repeated, dropped, reordered, reflected, or of another connection is refused.
//! - The pages' checksums are those taken at ingress; sending computes none.
//! - An urgent message never waits for more than one frame ([`FRAME_BLOCKS_MAX`] blocks).

#![deny(clippy::indexing_slicing)] // a length from the wire must never be trusted to fit

use crate::block::SECTORS_PER_BLOCK;
use crate::guest::TRANSFER_SECTORS_MAX;

mod body;
mod decode;
mod encode;
mod exercise;
mod inflow;
mod layout;
mod outflow;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::Encoder;
pub use exercise::exercise;

/// Most blocks in one frame; a longer message goes on in further frames.
pub const FRAME_BLOCKS_MAX: usize = 16;
/// Most blocks of one message: the longest guest transfer, not aligned.
pub const MESSAGE_BLOCKS_MAX: usize = (TRANSFER_SECTORS_MAX / SECTORS_PER_BLOCK) as usize + 1;
/// Most bytes of a control message's body.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Distinguishes each direction of each connection; mixed into the checksum of every header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(pub u32);

impl Salt {
    /// For what the sender of `from` sends to the sender of `to`, over the connection that these two greetings
    /// opened. They must come without checksums of their own: a CRC over data and its own CRC is always the same.
    pub fn of(from: &[u8], to: &[u8]) -> Salt {
        Salt(crc32c::crc32c_append(crc32c::crc32c(from), to))
    }
}

/// Bytes that are not messages of this connection, or a message that cannot be sent. The link must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A header's checksum is wrong: corrupted, or not of this connection.
    #[error("the header of a frame is damaged or belongs to another connection")]
    Header,
    /// A header that the sender meant, of another protocol or version.
    #[error("a frame of another protocol or version {0}; both nodes need the same version")]
    Version(u16),
    /// A frame is missing, repeated or out of place.
    #[error("frame {found} came instead of frame {expected}")]
    Sequence {
        /// Number of the frame that had to come.
        expected: u64,
        /// Number of the frame that came.
        found: u64,
    },
    /// A kind of frame that this version does not know, or one that may not come here.
    #[error("a frame of kind {0} may not come here")]
    Kind(u8),
    /// A length beyond its cap, or another than the kind has.
    #[error("a frame or message of impossible length")]
    Length,
    /// The body or the block table does not have its checksum.
    #[error("the body of a frame is damaged")]
    Body,
    /// The body has its checksum, but makes no sense.
    #[error("a message makes no sense: {0}")]
    Malformed(&'static str),
    /// A block does not have its checksum.
    #[error("a block of a message is damaged")]
    Block,
}
