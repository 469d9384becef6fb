//! The frame: how records lie in the log and in a checkpoint. A 64-byte header, records, zeros up to the next
//! multiple of 4096 bytes.
//!
//! The header has a checksum of its own, so that a scan can tell that an entry *was written* without reading
//! the rest. The payload's checksum continues the header's, so it covers sequence and pool too: an entry of an
//! earlier lap of the log, or of another pool, is never taken for a current one.

use bytemuck::{Pod, Zeroable};

use super::FORMAT_VERSION;
use super::int::{U16Le, U32Le, U64Le, U128Le};
use crate::block::BLOCK_BYTES;

/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"TWFR";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Largest frame in the log.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Largest frame in a checkpoint.
pub const CHECKPOINT_FRAME_BYTES_MAX: usize = 64 * 1024;

/// What a frame is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum FrameKind {
    /// The log.
    Log = 1,
    /// A checkpoint.
    Checkpoint = 2,
}

/// The header.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FrameHeader {
    /// [`FRAME_MAGIC`].
    pub magic: [u8; 4],
    /// [`FORMAT_VERSION`].
    pub version: U16Le,
    /// A [`FrameKind`].
    pub kind: U16Le,
    /// Identity of the pool.
    pub pool: U128Le,
    /// Log: number of the entry, from 1, never used for two that both count. Checkpoint: its number.
    pub sequence: U64Le,
    /// Log: number of the first record. Checkpoint: index of the frame, from 0.
    pub place: U64Le,
    /// Log: entries up to this one had been flushed before this one was written. Checkpoint: 0.
    pub flushed: U64Le,
    /// Bytes of records.
    pub payload_bytes: U32Le,
    /// Number of records.
    pub records: U32Le,
    /// CRC32C of the header up to here.
    pub header_crc: U32Le,
    /// CRC32C of the records, continuing that of the header.
    pub payload_crc: U32Le,
}

/// Bytes on disk of a frame with `payload` bytes of records.
pub const fn frame_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(BLOCK_BYTES)
}

impl FrameHeader {
    /// A header for these records.
    pub fn seal(
        kind: FrameKind,
        pool: u128,
        sequence: u64,
        place: u64,
        flushed: u64,
        records: u32,
        payload: &[u8],
    ) -> FrameHeader {
        let mut header = FrameHeader {
            magic: FRAME_MAGIC,
            version: FORMAT_VERSION.into(),
            kind: (kind as u16).into(),
            pool: pool.into(),
            sequence: sequence.into(),
            place: place.into(),
            flushed: flushed.into(),
            payload_bytes: (payload.len() as u32).into(),
            records: records.into(),
            header_crc: 0.into(),
            payload_crc: 0.into(),
        };
        let crc = header.checksum();
        header.header_crc = crc.into();
        header.payload_crc = crc32c::crc32c_append(crc, payload).into();
        header
    }

    /// The header at the beginning of `bytes`, if there is a whole one of this pool and kind.
    pub fn parse(bytes: &[u8], kind: FrameKind, pool: u128) -> Option<FrameHeader> {
        let header: FrameHeader = bytemuck::pod_read_unaligned(bytes.get(..HEADER_BYTES)?);
        let good = header.magic == FRAME_MAGIC
            && header.version.get() == FORMAT_VERSION
            && header.kind.get() == kind as u16
            && header.pool.get() == pool
            && header.header_crc.get() == header.checksum();
        good.then_some(header)
    }

    /// Bytes that the whole frame takes on disk.
    pub fn bytes(&self) -> usize {
        frame_bytes(self.payload_bytes.get() as usize)
    }

    /// The records behind this header in `bytes`, if all are there and whole.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = HEADER_BYTES.checked_add(self.payload_bytes.get() as usize)?;
        let payload = bytes.get(HEADER_BYTES..end)?;
        (crc32c::crc32c_append(self.header_crc.get(), payload) == self.payload_crc.get()).then_some(payload)
    }

    /// Header and records of a frame that has been found whole.
    pub fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
        let header: FrameHeader = bytemuck::pod_read_unaligned(&frame[..HEADER_BYTES]);
        let payload = &frame[HEADER_BYTES..HEADER_BYTES + header.payload_bytes.get() as usize];
        (header, payload)
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&bytemuck::bytes_of(self)[..HEADER_BYTES - 8])
    }
}
