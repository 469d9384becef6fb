//! READ CAPACITY (SBC-3 5.15, 5.16) and READ DEFECT DATA (5.18, 5.19: a virtual volume has no defects).

use super::{LOGICAL_BLOCK_BYTES, Plan, Sense, answer};

/// Logical blocks in a 4 KiB block, as a power of two.
const PHYSICAL_EXPONENT: u8 = 3;

pub(super) fn read_capacity_10(sectors: u64) -> Plan {
    let last = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut b = Vec::with_capacity(8);
    b.extend_from_slice(&last.to_be_bytes());
    b.extend_from_slice(&LOGICAL_BLOCK_BYTES.to_be_bytes());
    Plan::Answer(b)
}

pub(super) fn read_capacity_16(sectors: u64, allocation: u32) -> Plan {
    let mut b = vec![0; 32];
    b[..8].copy_from_slice(&(sectors.saturating_sub(1)).to_be_bytes());
    b[8..12].copy_from_slice(&LOGICAL_BLOCK_BYTES.to_be_bytes());
    b[13] = PHYSICAL_EXPONENT;
    b[14] = 0xc0; // LBPME, LBPRZ; block 0 is aligned
    answer(b, allocation)
}

/// An empty list of the kind and format asked for.
pub(super) fn read_defects(twelve: bool, flags: u8, allocation: u32) -> Plan {
    // Formats 0..=5 are defined (SBC-3 table 58); bits 3 and 4 ask for the grown and primary lists.
    if flags & 0x07 > 5 {
        return Sense::cdb(if twelve { 1 } else { 2 }).into();
    }
    let mut b = vec![0; if twelve { 8 } else { 4 }];
    b[1] = flags;
    answer(b, allocation)
}
