//! Commands that move or clear blocks: range and length checks, and the work they come to.

use twinsan::block::{BLOCK_BYTES, PagePool, SECTORS_PER_BLOCK};
use twinsan::guest::{Sectors, TRANSFER_SECTORS_MAX};

use super::cdb::{ByteCheck, Range};
use super::copy;
use super::status;
use super::unmap;
use super::vpd::{ATOMIC_BLOCKS, COMPARE_BLOCKS_MAX, WRITE_SAME_BLOCKS_MAX};
use super::{COMPARE_BLOCKS_BYTE, Kind, LOGICAL_BLOCK_BYTES, Plan, Sense, Work};

/// The sectors of `range` if the unit has them and there are at most `limit`.
fn check(range: Range, capacity: u64, limit: u64) -> Result<Sectors, Sense> {
    let at = Sectors::new(range.lba, u64::from(range.blocks));
    if range.lba >= capacity && !(range.blocks == 0 && range.lba == capacity) {
        return Err(Sense::OUT_OF_RANGE);
    }
    if at.end() > capacity {
        return Err(Sense::OUT_OF_RANGE);
    }
    if at.count > limit {
        return Err(Sense::FIELD_IN_CDB);
    }
    Ok(at)
}

fn bytes(at: Sectors) -> u32 {
    at.count as u32 * LOGICAL_BLOCK_BYTES
}

fn head(at: Sectors) -> u32 {
    (at.start % SECTORS_PER_BLOCK) as u32 * LOGICAL_BLOCK_BYTES
}

fn store(at: Sectors, work: Work) -> Plan {
    const { assert!(TRANSFER_SECTORS_MAX * LOGICAL_BLOCK_BYTES as u64 <= u32::MAX as u64 - BLOCK_BYTES as u64) };
    Plan::Store { work, bytes: bytes(at), head: head(at), whole: false }
}

/// Plans a command that moves or clears blocks on a unit of `capacity` sectors.
pub(super) fn plan(kind: Kind, capacity: u64) -> Result<Plan, Sense> {
    let transfer = |at| check(at, capacity, TRANSFER_SECTORS_MAX);
    let data = smallvec::SmallVec::new();
    Ok(match kind {
        Kind::Read { at, fua } => match transfer(at)? {
            at if at.count == 0 => Plan::Good,
            at => {
                let work = if fua { Work::StableRead { at } } else { Work::Read { at } };
                Plan::Fetch { work, bytes: bytes(at), head: head(at) }
            }
        },
        Kind::Write { at, fua } => {
            let at = transfer(at)?;
            store(at, Work::Write { at, fua, data })
        }
        Kind::WriteAtomic { at, fua } => {
            let at = atomic(at, capacity)?;
            let work = Work::Write { at, fua, data };
            Plan::Store { work, bytes: bytes(at), head: head(at), whole: true }
        }
        Kind::CompareAndWrite { at, fua } => compare_and_write(at, fua, capacity)?,
        Kind::OrWrite { at, fua } => {
            let at = transfer(at)?;
            store(at, Work::OrWrite { at, fua, data })
        }
        Kind::WriteVerify { at, check } => {
            let at = transfer(at)?;
            store(at, Work::WriteVerify { at, check, data })
        }
        Kind::Verify { at, check } => {
            let at = transfer(at)?;
            let work = Work::Verify { at, check, data };
            if check == ByteCheck::Medium { Plan::Run(work) } else { store(at, work) }
        }
        Kind::Prefetch { at } => prefetch(at, capacity)?,
        Kind::GetLbaStatus { lba, allocation } => status::plan(lba, allocation, capacity)?,
        Kind::SynchronizeCache { at } => {
            check(at, capacity, u64::MAX)?;
            Plan::Run(Work::Flush)
        }
        Kind::Unmap { parameters: 0 } | Kind::ExtendedCopy { parameters: 0 } => Plan::Good,
        Kind::ExtendedCopy { parameters } if parameters as usize > copy::LIST_BYTES_MAX => {
            return Err(Sense::PARAMETER_LENGTH);
        }
        Kind::ExtendedCopy { parameters } => Plan::Parameters { kind, bytes: parameters },
        Kind::Unmap { parameters } => Plan::Parameters { kind, bytes: parameters },
        Kind::WriteSame { at, no_data, .. } => {
            let at = check(at, capacity, u64::from(WRITE_SAME_BLOCKS_MAX))?;
            if no_data { unmap::zeros(at) } else { Plan::Parameters { kind, bytes: LOGICAL_BLOCK_BYTES } }
        }
        _ => return Err(Sense::INTERNAL),
    })
}

/// One block of the volume, or nothing (SBC-4 4.29.1): a volume's blocks are written whole or not at all, on both nodes and
/// whatever fails.
fn atomic(range: Range, capacity: u64) -> Result<Sectors, Sense> {
    const { assert!(ATOMIC_BLOCKS as u64 == SECTORS_PER_BLOCK) };
    const TRANSFER_LENGTH: u8 = 12;
    const ADDRESS: u8 = 2;
    let at = check(range, capacity, u64::MAX)?;
    if !at.start.is_multiple_of(SECTORS_PER_BLOCK) {
        return Err(Sense::cdb(ADDRESS));
    }
    if !matches!(at.count, 0 | SECTORS_PER_BLOCK) {
        return Err(Sense::cdb(TRANSFER_LENGTH));
    }
    Ok(at)
}

/// The data are what is expected, and behind that what is to be written (SBC-3 5.2).
fn compare_and_write(range: Range, fua: bool, capacity: u64) -> Result<Plan, Sense> {
    let at = check(range, capacity, u64::MAX)?;
    if at.count > u64::from(COMPARE_BLOCKS_MAX) {
        return Err(Sense::cdb(COMPARE_BLOCKS_BYTE));
    }
    let (compare, data) = Default::default();
    let work = Work::CompareAndWrite { at, fua, compare, data };
    Ok(Plan::Store { work, bytes: 2 * bytes(at), head: head(at), whole: true })
}

/// Reads the first 8 MiB at most: a hint, answered with GOOD because nothing promises that it stays cached.
fn prefetch(range: Range, capacity: u64) -> Result<Plan, Sense> {
    let at = check(range, capacity, u64::MAX)?;
    let count = if at.count == 0 { capacity - at.start } else { at.count };
    let at = Sectors::new(at.start, count.min(TRANSFER_SECTORS_MAX));
    Ok(if at.count == 0 { Plan::Good } else { Plan::Run(Work::Read { at }) })
}

/// Plans again with the parameter list that `kind` asked for.
pub(super) fn with_parameters(kind: Kind, list: &[u8], capacity: u64, pages: &PagePool) -> Plan {
    match kind {
        Kind::Unmap { .. } => unmap::unmap(list, capacity),
        Kind::WriteSame { at, .. } => {
            unmap::write_same(pages, Sectors::new(at.lba, u64::from(at.blocks)), list)
        }
        _ => Sense::INTERNAL.into(),
    }
}
