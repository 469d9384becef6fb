//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 6.5, 6.22 to 6.25): a host has the target copy from volume to volume.
//!
//! What a list of parameters says is parsed by `list`; `find` looks for the units it names, `run` copies, `results` remembers
//! what became of it. Copies from block device to block device (segment descriptor 02h) between units named by their NAA
//! designator (E4h) are offered, which is what VMware's full clone uses; nothing is held for the host.
//!
//! Invariants: a copy reaches only units that the host sees in its session, and a designator of any other is answered as
//! one of no unit at all; of a copy one request of one volume is under way at a time, of at most [`PIECE_SECTORS`], so that
//! whoever gives that one up has stopped the copy; what was read is written as it was read, and holes stay holes.

mod find;
mod list;
mod results;
mod run;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use twinsan::block::SECTORS_PER_BLOCK;

pub(crate) use list::Order;
pub(crate) use results::Copies;
pub(super) use results::{operating_parameters, third_party};
pub(crate) use run::Copy;

/// Descriptor type codes (SPC-4 tables 131, 146): block device to block device, and a unit by a designator.
const BLOCK_TO_BLOCK: u8 = 0x02;
const IDENTIFICATION: u8 = 0xe4;
const HEADER_BYTES: usize = 16;
const CSCD_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
/// CSCD descriptors and segment descriptors in one list.
const CSCDS_MAX: usize = 16;
const SEGMENTS_MAX: usize = 32;
const DESCRIPTORS_BYTES_MAX: usize = CSCDS_MAX * CSCD_BYTES + SEGMENTS_MAX * SEGMENT_BYTES;
/// The longest list of parameters.
pub(crate) const LIST_BYTES_MAX: usize = HEADER_BYTES + DESCRIPTORS_BYTES_MAX;
/// Blocks of one segment: 16 MiB.
const SEGMENT_BLOCKS_MAX: u16 = 32_768;
/// Copies of one session at once.
pub(crate) const COPIES_MAX: usize = 8;
/// What is read and written at a time: 1 MiB, as large as the extents of most pools.
const PIECE_SECTORS: u64 = 2048;
const _: () = assert!(PIECE_SECTORS.is_multiple_of(SECTORS_PER_BLOCK));
/// In place of the number of a CSCD descriptor: the unit that the command was sent to (SPC-4 table 148).
const THIS_UNIT: u16 = 0xffff;

/// Where the CSCD descriptor of this number begins in the list (SPC-4 table 148).
fn cscd_at(number: u16) -> u16 {
    HEADER_BYTES as u16 + number * CSCD_BYTES as u16
}
