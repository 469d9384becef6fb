//! Parameter lists that come with UNMAP (SBC-3 5.28) and WRITE SAME (5.43, 5.44).

use smallvec::SmallVec;
use twinsan::block::{BLOCK_BYTES, Block, PagePool};
use twinsan::guest::{Sectors, ZERO_SECTORS_MAX};

use super::vpd::UNMAP_DESCRIPTORS_MAX;
use super::{LOGICAL_BLOCK_BYTES, Plan, Sense, Work};

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;

/// The ranges of an UNMAP on a unit of `capacity` sectors.
pub(super) fn unmap(list: &[u8], capacity: u64) -> Plan {
    match ranges(list, capacity) {
        Ok(ranges) if ranges.is_empty() => Plan::Good,
        Ok(ranges) => Plan::Run(Work::Zero { ranges }),
        Err(sense) => Plan::Fail(sense),
    }
}

fn ranges(list: &[u8], capacity: u64) -> Result<SmallVec<[Sectors; 1]>, Sense> {
    if list.is_empty() {
        return Ok(SmallVec::new());
    }
    let (header, rest) = list.split_at_checked(HEADER_BYTES).ok_or(Sense::PARAMETER_LENGTH)?;
    let claimed = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let (descriptors, _partial) = rest.get(..claimed).unwrap_or(rest).as_chunks::<DESCRIPTOR_BYTES>();
    if descriptors.len() > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::FIELD_IN_PARAMETERS);
    }
    let mut ranges = SmallVec::new();
    let mut total = 0;
    for descriptor in descriptors {
        let (lba, blocks) = (long(descriptor), word(&descriptor[8..]));
        let end = lba.checked_add(blocks).ok_or(Sense::OUT_OF_RANGE)?;
        if end > capacity {
            return Err(Sense::OUT_OF_RANGE);
        }
        total += blocks;
        if blocks > 0 {
            ranges.push(Sectors::new(lba, blocks));
        }
    }
    if total > ZERO_SECTORS_MAX {
        return Err(Sense::FIELD_IN_PARAMETERS);
    }
    ranges.reverse();
    Ok(ranges)
}

fn long(bytes: &[u8]) -> u64 {
    word(bytes) << 32 | word(&bytes[4..])
}

fn word(bytes: &[u8]) -> u64 {
    u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A WRITE SAME of one logical block. Zeros are given back to the pool; anything else is one page, shared.
pub(super) fn write_same(pages: &PagePool, at: Sectors, block: &[u8]) -> Plan {
    const BLOCK: usize = LOGICAL_BLOCK_BYTES as usize;
    if block.len() != BLOCK {
        return Sense::INFORMATION_UNIT.into();
    }
    if block.iter().all(|byte| *byte == 0) {
        return zeros(at);
    }
    let mut page = pages.take();
    for copy in page.bytes_mut().chunks_exact_mut(BLOCK) {
        copy.copy_from_slice(block);
    }
    const { assert!(BLOCK_BYTES.is_multiple_of(BLOCK)) };
    Plan::Run(Work::Pattern { at, block: Block::Data(page.freeze()) })
}

/// A WRITE SAME without data, or with zeros.
pub(super) fn zeros(at: Sectors) -> Plan {
    Plan::Run(Work::Zero { ranges: smallvec::smallvec![at] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
        let bytes = descriptors.len() * DESCRIPTOR_BYTES;
        let mut list = Vec::new();
        list.extend_from_slice(&((bytes + 6) as u16).to_be_bytes());
        list.extend_from_slice(&(bytes as u16).to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        for (lba, blocks) in descriptors {
            list.extend_from_slice(&lba.to_be_bytes());
            list.extend_from_slice(&blocks.to_be_bytes());
            list.extend_from_slice(&[0; 4]);
        }
        list
    }

    #[test]
    fn descriptors_become_ranges() {
        let found = ranges(&list(&[(8, 16), (0, 0), (100, 1)]), 1000).unwrap();
        assert_eq!(found.as_slice(), [Sectors::new(100, 1), Sectors::new(8, 16)]);
    }

    #[test]
    fn every_limit_is_checked() {
        assert_eq!(ranges(&[], 10), Ok(SmallVec::new()));
        assert_eq!(ranges(&[0; 7], 10), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(ranges(&list(&[(8, 3)]), 10), Err(Sense::OUT_OF_RANGE));
        assert_eq!(ranges(&list(&[(u64::MAX, 3)]), 10), Err(Sense::OUT_OF_RANGE));
        let big = ZERO_SECTORS_MAX as u32;
        assert_eq!(ranges(&list(&[(0, big), (0, 1)]), u64::MAX), Err(Sense::FIELD_IN_PARAMETERS));
        assert_eq!(ranges(&list(&[(0, 1); 257]), 10), Err(Sense::FIELD_IN_PARAMETERS));
    }
}
