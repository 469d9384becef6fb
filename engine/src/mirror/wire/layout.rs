//! The fixed structs of the wire: little-endian, alignment 1, no padding. Their offsets are in
//! `engine/docs/protocol.md` and asserted below.

use bytemuck::{Pod, Zeroable};

use crate::le::{U16Le, U32Le, U64Le};

/// `TwMf`: Twinsan mirror frame.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"TwMf");

/// Kinds of frames. Zero is never used.
pub(super) mod kind {
    pub(in super::super) const WRITE: u8 = 1;
    pub(in super::super) const WRITE_DONE: u8 = 2;
    pub(in super::super) const FORWARD: u8 = 3;
    pub(in super::super) const COPY: u8 = 4;
    pub(in super::super) const COPY_STABLE: u8 = 5;
    pub(in super::super) const CONTROL: u8 = 6;
    /// Further blocks of the message begun before; no body.
    pub(in super::super) const REST: u8 = 7;
}

/// Flags of data-path bodies. A flag that its kind does not have must be zero.
pub(super) mod flag {
    /// Write, Forward, Copy: all blocks are zero.
    pub(in super::super) const ZERO: u32 = 1;
    /// Write: the blocks are in the frame.
    pub(in super::super) const CARRIED: u32 = 2;
    /// Write: `origin` counts.
    pub(in super::super) const ORIGIN: u32 = 4;
    /// WriteDone: the write is in the cache.
    pub(in super::super) const STORED: u32 = 8;
    /// Copy: a guest's new write.
    pub(in super::super) const FRESH: u32 = 16;
    /// Forward: only if the blocks are as expected; what is expected follows what is to be written.
    pub(in super::super) const COMPARE: u32 = 32;
    /// Forward: set bits.
    pub(in super::super) const OR: u32 = 64;
}

/// Bit in [`Header::more`].
pub(super) const MORE: u8 = 1;

/// Before every frame.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: U32Le,
    pub(super) version: U16Le,
    pub(super) kind: u8,
    /// [`MORE`]: the message's blocks go on in a later frame of kind [`kind::REST`].
    pub(super) more: u8,
    /// From 0, one more for each frame of the connection and direction.
    pub(super) sequence: U64Le,
    pub(super) body_bytes: U32Le,
    /// Entries in the block table.
    pub(super) blocks: U32Le,
    /// CRC32C of body and block table.
    pub(super) tail_crc: U32Le,
    /// CRC32C of the bytes before, begun with the salt.
    pub(super) header_crc: U32Le,
}

/// One entry of the block table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    /// 0: zero, no bytes follow. 1: a page follows.
    pub(super) state: U32Le,
    /// CRC32C of the page; 0 for a zero block.
    pub(super) crc: U32Le,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WriteBody {
    pub(super) epoch: U64Le,
    pub(super) order: U64Le,
    pub(super) first: U64Le,
    pub(super) origin: U64Le,
    pub(super) volume: U32Le,
    pub(super) blocks: U32Le,
    pub(super) flags: U32Le,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WriteDoneBody {
    pub(super) epoch: U64Le,
    pub(super) order: U64Le,
    pub(super) volume: U32Le,
    pub(super) flags: U32Le,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ForwardBody {
    pub(super) epoch: U64Le,
    pub(super) id: U64Le,
    pub(super) start: U64Le,
    pub(super) count: U64Le,
    pub(super) owner_clock: U64Le,
    pub(super) spent_nanos: U64Le,
    pub(super) left_nanos: U64Le,
    pub(super) volume: U32Le,
    pub(super) flags: U32Le,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CopyBody {
    pub(super) epoch: U64Le,
    pub(super) tag: U64Le,
    pub(super) first: U64Le,
    pub(super) volume: U32Le,
    pub(super) blocks: U32Le,
    pub(super) flags: U32Le,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CopyStableBody {
    pub(super) epoch: U64Le,
    pub(super) tag: U64Le,
}

pub(super) const HEADER_BYTES: usize = size_of::<Header>();
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();

const _: () = {
    assert!(HEADER_BYTES == 32 && ENTRY_BYTES == 8);
    assert!(size_of::<WriteBody>() == 44 && size_of::<WriteDoneBody>() == 24);
    assert!(
        size_of::<ForwardBody>() == 64 && size_of::<CopyBody>() == 36 && size_of::<CopyStableBody>() == 16
    );
};

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_documented() {
        assert_eq!(
            [
                offset_of!(Header, version),
                offset_of!(Header, kind),
                offset_of!(Header, more),
                offset_of!(Header, sequence),
                offset_of!(Header, body_bytes),
                offset_of!(Header, blocks),
                offset_of!(Header, tail_crc),
                offset_of!(Header, header_crc),
            ],
            [4, 6, 7, 8, 16, 20, 24, 28]
        );
        assert_eq!(offset_of!(Entry, crc), 4);
        assert_eq!(
            [
                offset_of!(WriteBody, order),
                offset_of!(WriteBody, first),
                offset_of!(WriteBody, origin),
                offset_of!(WriteBody, volume),
                offset_of!(WriteBody, blocks),
                offset_of!(WriteBody, flags),
            ],
            [8, 16, 24, 32, 36, 40]
        );
        assert_eq!(
            [
                offset_of!(WriteDoneBody, order),
                offset_of!(WriteDoneBody, volume),
                offset_of!(WriteDoneBody, flags)
            ],
            [8, 16, 20]
        );
        assert_eq!(
            [
                offset_of!(ForwardBody, id),
                offset_of!(ForwardBody, start),
                offset_of!(ForwardBody, count),
                offset_of!(ForwardBody, owner_clock),
                offset_of!(ForwardBody, spent_nanos),
                offset_of!(ForwardBody, left_nanos),
                offset_of!(ForwardBody, volume),
                offset_of!(ForwardBody, flags),
            ],
            [8, 16, 24, 32, 40, 48, 56, 60]
        );
        assert_eq!(
            [
                offset_of!(CopyBody, tag),
                offset_of!(CopyBody, first),
                offset_of!(CopyBody, volume),
                offset_of!(CopyBody, blocks),
                offset_of!(CopyBody, flags),
            ],
            [8, 16, 24, 28, 32]
        );
        assert_eq!(offset_of!(CopyStableBody, tag), 8);
    }
}
