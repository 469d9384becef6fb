//! GET LBA STATUS (SBC-3 5.5): which blocks hold data.
//!
//! The volume says what its blocks are. One that cannot, or not now, is asked by a read: a block that it answers as
//! [`Block::Zero`] has never been written or was given back. Either way the answer is about a stretch of the volume at a
//! time, and initiators ask on from its end. Zeros that have a place are told as deallocated: both read as zero.

use twinsan::block::{Block, Payload, SECTORS_PER_BLOCK};
use twinsan::guest::{BlockState, Sectors, StatusRun};

use super::{Plan, Sense, Work};

/// Sectors that one answer looks at, at most: 128 MiB.
const SURVEY_SECTORS_MAX: u64 = 256 << 10;
/// Sectors of it that are read at most, if that is the way: 2 MiB.
pub(super) const SURVEY_READ_SECTORS_MAX: u64 = 4096;
const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;
/// Provisioning status (SBC-3 table 46).
const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;

pub(super) fn plan(lba: u64, allocation: u32, capacity: u64) -> Result<Plan, Sense> {
    if lba >= capacity {
        return Err(Sense::OUT_OF_RANGE);
    }
    let at = Sectors::new(lba, (capacity - lba).min(SURVEY_SECTORS_MAX));
    Ok(Plan::Run(Work::Survey { at, allocation }))
}

/// The reply, from the blocks that `at` touches: one descriptor a run of blocks of one kind.
pub(super) fn answer(at: Sectors, found: &Payload, allocation: u32) -> Vec<u8> {
    reply(runs(at, found), allocation)
}

/// The reply, from what the volume says.
pub(super) fn told(found: &[StatusRun], allocation: u32) -> Vec<u8> {
    let mut all: Vec<(Sectors, u8)> = Vec::new();
    for StatusRun { at, state } in found {
        let status = if *state == BlockState::Data { MAPPED } else { DEALLOCATED };
        match all.last_mut() {
            Some((run, of)) if *of == status => run.count += at.count,
            _ => all.push((*at, status)),
        }
    }
    reply(all, allocation)
}

fn reply(runs: Vec<(Sectors, u8)>, allocation: u32) -> Vec<u8> {
    let mut reply = vec![0; HEADER_BYTES];
    for (run, status) in runs {
        reply.extend_from_slice(&run.start.to_be_bytes());
        reply.extend_from_slice(&(run.count as u32).to_be_bytes());
        reply.extend_from_slice(&[status, 0, 0, 0]);
        if reply.len() + DESCRIPTOR_BYTES > allocation as usize {
            break;
        }
    }
    let length = (reply.len() - 4) as u32;
    reply[..4].copy_from_slice(&length.to_be_bytes());
    reply.truncate(allocation as usize);
    reply
}

fn runs(at: Sectors, found: &Payload) -> Vec<(Sectors, u8)> {
    let mut all: Vec<(Sectors, u8)> = Vec::new();
    for (number, block) in at.blocks().zip(found) {
        let status = if matches!(block, Block::Zero) { DEALLOCATED } else { MAPPED };
        let start = at.start.max(number * SECTORS_PER_BLOCK);
        let count = at.end().min((number + 1) * SECTORS_PER_BLOCK) - start;
        match all.last_mut() {
            Some((run, of)) if *of == status => run.count += count,
            _ => all.push((Sectors::new(start, count), status)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsan::block::PagePool;

    #[test]
    fn runs_begin_where_asked_and_meet_at_block_boundaries() {
        let data = || Block::Data(PagePool::new().take_zeroed().freeze());
        let found: Payload = smallvec::smallvec![data(), data(), Block::Zero, data()];
        let at = Sectors::new(3, 26);
        assert_eq!(
            runs(at, &found),
            [
                (Sectors::new(3, 13), MAPPED),
                (Sectors::new(16, 8), DEALLOCATED),
                (Sectors::new(24, 5), MAPPED)
            ]
        );
        let told = told(
            &[
                StatusRun { at: Sectors::new(3, 13), state: BlockState::Data },
                StatusRun { at: Sectors::new(16, 4), state: BlockState::Zero },
                StatusRun { at: Sectors::new(20, 4), state: BlockState::Unmapped },
                StatusRun { at: Sectors::new(24, 5), state: BlockState::Data },
            ],
            4096,
        );
        assert_eq!(told, answer(at, &found, 4096));
        assert_eq!(answer(at, &found, 24).len(), 24);
        let reply = answer(at, &found, 4096);
        assert_eq!((reply.len(), reply[3]), (8 + 3 * 16, 4 + 3 * 16));
    }
}
