//! The parameter list of EXTENDED COPY (SPC-4 5.17.7.1, 6.5): checked for form, before anything is copied.

use super::{
    BLOCK_TO_BLOCK, CSCD_BYTES, CSCDS_MAX, DESCRIPTORS_BYTES_MAX, HEADER_BYTES, IDENTIFICATION,
    SEGMENT_BYTES, SEGMENTS_MAX, cscd_at,
};
use crate::scsi::Sense;

/// The longest designator that an E4h descriptor has room for.
const DESIGNATOR_BYTES_MAX: u8 = 20;

const TOO_MANY_CSCDS: Sense = Sense::new(0x05, 0x26, 0x06);
const UNSUPPORTED_CSCD: Sense = Sense::new(0x05, 0x26, 0x07);
const TOO_MANY_SEGMENTS: Sense = Sense::new(0x05, 0x26, 0x08);
const UNSUPPORTED_SEGMENT: Sense = Sense::new(0x05, 0x26, 0x09);
const INLINE_DATA: Sense = Sense::new(0x05, 0x26, 0x0b);

/// A copy source or destination, as the list names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cscd {
    /// `None`: a designator that no unit here has.
    pub(super) naa: Option<[u8; 16]>,
    pub(super) device_type: u8,
    /// 0: whatever the unit has.
    pub(super) block_bytes: u32,
}

/// From where to where, by numbers of CSCD descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) blocks: u16,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What a list of parameters asks for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// By which the host may ask for the result, if it is to be kept.
    pub(crate) list: Option<u8>,
    pub(super) cscds: Vec<Cscd>,
    pub(super) segments: Vec<Segment>,
}

impl Order {
    /// Parses a list. STR, PRIORITY, DC, CAT and PAD change nothing where all blocks have one size and copies go in order.
    pub(crate) fn parse(list: &[u8]) -> Result<Order, Sense> {
        let (header, rest) = list.split_at_checked(HEADER_BYTES).ok_or(Sense::PARAMETER_LENGTH)?;
        let cscd_bytes = usize::from(half(header, 2));
        let segment_bytes = word(header, 8) as usize;
        let identifier = identifier(header)?;
        if word(header, 12) > 0 {
            return Err(INLINE_DATA);
        }
        let descriptors = cscd_bytes.saturating_add(segment_bytes);
        if descriptors > DESCRIPTORS_BYTES_MAX || descriptors > rest.len() {
            return Err(Sense::PARAMETER_LENGTH);
        }
        let (cscds, rest) = rest.split_at(cscd_bytes);
        Ok(Order {
            list: identifier,
            cscds: parse_cscds(cscds)?,
            segments: parse_segments(&rest[..segment_bytes])?,
        })
    }
}

/// LIST IDENTIFIER and LIST ID USAGE (SPC-4 6.4.3.2). Held data is discarded either way: there is none.
fn identifier(header: &[u8]) -> Result<Option<u8>, Sense> {
    const RETAIN: u8 = 0b00;
    const DISCARD: u8 = 0b10;
    const NONE: u8 = 0b11;
    match (header[1] >> 3 & 3, header[0]) {
        (RETAIN | DISCARD, list) => Ok(Some(list)),
        (NONE, 0) => Ok(None),
        (NONE, _) => Err(Sense::parameter(0)),
        _ => Err(Sense::parameter(1)),
    }
}

fn parse_cscds(bytes: &[u8]) -> Result<Vec<Cscd>, Sense> {
    if !bytes.len().is_multiple_of(CSCD_BYTES) {
        return Err(Sense::parameter(2));
    }
    if bytes.len() > CSCDS_MAX * CSCD_BYTES {
        return Err(TOO_MANY_CSCDS);
    }
    (0..).zip(bytes.chunks_exact(CSCD_BYTES)).map(|(number, descriptor)| cscd(number, descriptor)).collect()
}

/// LU ID TYPE and RELATIVE INITIATOR PORT IDENTIFIER mean nothing here (SPC-4 6.4.5.6).
fn cscd(number: u16, descriptor: &[u8]) -> Result<Cscd, Sense> {
    const BINARY: u8 = 1;
    const UNIT_NAA: u8 = 0x03;
    if descriptor[0] != IDENTIFICATION {
        return Err(UNSUPPORTED_CSCD);
    }
    let length = descriptor[7];
    if length > DESIGNATOR_BYTES_MAX {
        return Err(Sense::parameter(cscd_at(number) + 7));
    }
    let is_naa = descriptor[4] & 0x0f == BINARY && descriptor[5] & 0x3f == UNIT_NAA && length == 16;
    let naa = descriptor[8..].first_chunk().filter(|_| is_naa).copied();
    let block_bytes = word(descriptor, 28) & 0xff_ffff;
    Ok(Cscd { naa, device_type: descriptor[1] & 0x1f, block_bytes })
}

fn parse_segments(mut bytes: &[u8]) -> Result<Vec<Segment>, Sense> {
    const LIST_LENGTH_AT: u16 = 8;
    let mut segments = Vec::new();
    while let Some(kind) = bytes.first() {
        if segments.len() == SEGMENTS_MAX {
            return Err(TOO_MANY_SEGMENTS);
        }
        if *kind != BLOCK_TO_BLOCK {
            return Err(UNSUPPORTED_SEGMENT);
        }
        let (this, rest) = bytes.split_at_checked(SEGMENT_BYTES).ok_or(Sense::parameter(LIST_LENGTH_AT))?;
        if usize::from(half(this, 2)) != SEGMENT_BYTES - 4 {
            return Err(Sense::FIELD_IN_PARAMETERS);
        }
        segments.push(Segment {
            source: half(this, 4),
            destination: half(this, 6),
            blocks: half(this, 10),
            from: long(this, 12),
            to: long(this, 20),
        });
        bytes = rest;
    }
    Ok(segments)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}
