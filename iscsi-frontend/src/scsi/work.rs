//! Requests of the volume that one SCSI command comes to, one after the other.

use std::sync::Arc;

use smallvec::SmallVec;
use twinsan::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use twinsan::guest::{Command, GuestError, Sectors, StatusRun, TRANSFER_SECTORS_MAX, VirtualVolume};

use super::Sense;
use super::cdb::ByteCheck;
use super::copy::Copy;

/// What is left to ask of the volume.
#[derive(Debug)]
pub(crate) enum Work {
    /// Nothing.
    Done,
    /// One read, whose blocks go to the initiator or nowhere.
    Read { at: Sectors },
    /// A flush, then [`Work::Read`]: FUA reads what is on the medium, to which newer data in a cache go first
    /// (SBC-3 5.8, READ (10)). As with any command, what another one writes in the meantime may or may not be seen.
    StableRead { at: Sectors },
    /// One write; the data comes with [`Work::supply`].
    Write { at: Sectors, fua: bool, data: Payload },
    /// One write, if the medium holds what is expected.
    CompareAndWrite { at: Sectors, fua: bool, compare: Payload, data: Payload },
    /// One write of bits that are to be set.
    OrWrite { at: Sectors, fua: bool, data: Payload },
    /// A write to stable media, then [`Work::Verify`] of it.
    WriteVerify { at: Sectors, check: ByteCheck, data: Payload },
    /// A read, compared with the data if there is any.
    Verify { at: Sectors, check: ByteCheck, data: Payload },
    /// As [`Work::Verify`] with its read under way.
    Compare { at: Sectors, check: ByteCheck, data: Payload },
    /// A read, of which only matters which blocks hold data.
    Survey { at: Sectors, allocation: u32 },
    /// As [`Work::Survey`] with its read under way.
    Surveyed { at: Sectors, allocation: u32 },
    /// What to answer when nothing is left to ask.
    Answer { bytes: Vec<u8> },
    /// Ranges to clear, in reverse order.
    Zero { ranges: SmallVec<[Sectors; 1]> },
    /// One block's content, over and over.
    Pattern { at: Sectors, block: Block },
    /// One flush.
    Flush,
    /// Reads and writes of units that the command names.
    Copy(Box<Copy>),
}

impl Work {
    /// The next request, `None` when all is done.
    pub(crate) fn step(&mut self) -> Option<Command> {
        match core::mem::replace(self, Work::Done) {
            Work::Done | Work::Compare { .. } | Work::Surveyed { .. } => None,
            Work::Survey { at, allocation } => {
                let at = Sectors::new(at.start, at.count.min(super::status::SURVEY_READ_SECTORS_MAX));
                *self = Work::Surveyed { at, allocation };
                Some(Command::Read { at })
            }
            Work::Answer { bytes } => {
                *self = Work::Answer { bytes };
                None
            }
            Work::Read { at } => Some(Command::Read { at }),
            Work::StableRead { at } => {
                *self = Work::Read { at };
                Some(Command::Flush)
            }
            Work::Write { at, fua, data } => (at.count > 0).then_some(Command::Write { at, data, fua }),
            Work::CompareAndWrite { at, fua, compare, data } => {
                (at.count > 0).then_some(Command::CompareAndWrite { at, compare, data, fua })
            }
            Work::OrWrite { at, fua, data } => (at.count > 0).then_some(Command::OrWrite { at, data, fua }),
            Work::WriteVerify { at, check, data } => {
                if at.count == 0 {
                    return None;
                }
                *self = Work::Verify { at, check, data: data.clone() };
                Some(Command::Write { at, data, fua: true })
            }
            Work::Verify { at, check, data } => {
                *self = Work::Compare { at, check, data };
                (at.count > 0).then_some(Command::Read { at })
            }
            Work::Zero { mut ranges } => {
                let at = ranges.pop()?;
                *self = Work::Zero { ranges };
                Some(Command::Zero { at, fua: false })
            }
            Work::Pattern { at, block } => self.step_pattern(at, block),
            Work::Flush => Some(Command::Flush),
            Work::Copy(mut copy) => {
                let command = copy.step();
                *self = Work::Copy(copy);
                command
            }
        }
    }

    /// The copy that it is.
    pub(crate) fn copy(&self) -> Option<&Copy> {
        if let Work::Copy(copy) = self { Some(copy) } else { None }
    }

    /// Whom to ask what the last step says, if not the unit that the command was sent to.
    pub(crate) fn volume(&self) -> Option<&Arc<dyn VirtualVolume>> {
        self.copy().and_then(Copy::volume)
    }

    /// What to answer when a request failed.
    pub(crate) fn failure(&self, error: GuestError) -> Sense {
        self.copy().map_or_else(|| error.into(), |copy| copy.failure(error))
    }

    fn step_pattern(&mut self, at: Sectors, block: Block) -> Option<Command> {
        if at.count == 0 {
            return None;
        }
        let now = Sectors::new(at.start, at.count.min(TRANSFER_SECTORS_MAX));
        let blocks = now.blocks();
        let data = smallvec::smallvec![block.clone(); (blocks.end - blocks.start) as usize];
        *self = Work::Pattern { at: Sectors::new(now.end(), at.count - now.count), block };
        Some(Command::Write { at: now, data, fua: false })
    }

    /// Is the step under way the last?
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Work::Done)
    }

    /// If only matters which blocks hold data, the volume may say so at once: of which sectors.
    pub(crate) fn survey(&self) -> Option<Sectors> {
        if let Work::Survey { at, .. } = self { Some(*at) } else { None }
    }

    /// The volume has said so.
    pub(crate) fn surveyed(&mut self, found: &[StatusRun]) {
        if let Work::Survey { allocation, .. } = self {
            *self = Work::Answer { bytes: super::status::told(found, *allocation) };
        }
    }

    /// Bytes that it reads for itself, not counting what goes to the initiator.
    pub(crate) fn needs(&self) -> usize {
        match self {
            Work::Read { at } | Work::Verify { at, .. } | Work::Survey { at, .. } => {
                at.count.min(TRANSFER_SECTORS_MAX) as usize * SECTOR_BYTES
            }
            Work::Copy(copy) => copy.needs(),
            _ => 0,
        }
    }

    /// The answer to the last step.
    pub(crate) fn took(&mut self, found: &Payload) -> Result<(), Sense> {
        match self {
            Work::Compare { at, check: ByteCheck::Data, data } => compare(*at, data, found),
            Work::Copy(copy) => copy.took(found),
            Work::Surveyed { at, allocation } => {
                *self = Work::Answer { bytes: super::status::answer(*at, found, *allocation) };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is to be sent when nothing is left to ask.
    pub(crate) fn into_answer(self) -> Option<Vec<u8>> {
        match self {
            Work::Answer { bytes } => Some(bytes),
            _ => None,
        }
    }

    /// The data of a write or a comparison: the blocks, and how many whole sectors of them count.
    pub(crate) fn supply(&mut self, payload: Payload, sectors: u64, pages: &PagePool) {
        match self {
            Work::CompareAndWrite { at, compare, data, .. } => {
                debug_assert_eq!(sectors, 2 * at.count, "it takes all or nothing");
                *data = second_half(*at, &payload, pages);
                *compare = payload;
                compare.truncate(data.len());
            }
            Work::Write { at, data, .. }
            | Work::OrWrite { at, data, .. }
            | Work::WriteVerify { at, data, .. }
            | Work::Verify { at, data, .. } => {
                at.count = sectors;
                *data = payload;
            }
            _ => {}
        }
    }
}

/// Of two runs of sectors, one behind the other, of which the first lies where `at` does in its blocks, the second, laid so too.
fn second_half(at: Sectors, both: &Payload, pages: &PagePool) -> Payload {
    let base = at.start - at.start % SECTORS_PER_BLOCK;
    let sector = |number: u64| {
        let place = number + at.count - base;
        let from = (place % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
        &both[(place / SECTORS_PER_BLOCK) as usize].bytes()[from..from + SECTOR_BYTES]
    };
    at.blocks()
        .map(|block| {
            let mut page = pages.take_zeroed();
            let first = block * SECTORS_PER_BLOCK;
            for (number, to) in (first..).zip(page.bytes_mut().chunks_exact_mut(SECTOR_BYTES)) {
                if (at.start..at.end()).contains(&number) {
                    to.copy_from_slice(sector(number));
                }
            }
            Block::Data(page.freeze())
        })
        .collect()
}

/// Are the sectors `at` of both runs of blocks equal?
fn compare(at: Sectors, sent: &Payload, found: &Payload) -> Result<(), Sense> {
    let head = (at.start % 8) as usize * SECTOR_BYTES;
    let end = head + at.count as usize * SECTOR_BYTES;
    for (index, (sent, found)) in sent.iter().zip(found).enumerate() {
        let base = index * BLOCK_BYTES;
        let from = head.saturating_sub(base);
        let to = (end - base).min(BLOCK_BYTES);
        let (a, b) = (&sent.bytes()[from..to], &found.bytes()[from..to]);
        if a != b {
            let differs = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
            return Err(Sense::miscompare((base + from + differs - head) as u32));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsan::block::payload_from;

    fn steps(mut work: Work) -> Vec<Sectors> {
        let mut all = Vec::new();
        while let Some(command) = work.step() {
            match command {
                Command::Flush => all.push(Sectors::new(0, 0)),
                command => all.extend(command.sectors()),
            }
        }
        all
    }

    #[test]
    fn a_pattern_is_written_in_pieces_that_touch_the_right_blocks() {
        let page = PagePool::new().take_zeroed().freeze();
        let mut work =
            Work::Pattern { at: Sectors::new(7, TRANSFER_SECTORS_MAX + 2), block: Block::Data(page) };
        let Some(Command::Write { at, data, .. }) = work.step() else { panic!("a write") };
        let blocks = at.blocks();
        assert_eq!(data.len() as u64, blocks.end - blocks.start);
        assert_eq!(steps(work), [Sectors::new(7 + TRANSFER_SECTORS_MAX, 2)]);
    }

    #[test]
    fn what_is_to_be_written_lies_behind_what_is_expected() {
        let pool = PagePool::new();
        for (start, count) in [(0, 1), (3, 1), (0, 8), (5, 8), (7, 2), (6, 5)] {
            let at = Sectors::new(start, count);
            let (head, bytes) = (start as usize * SECTOR_BYTES, count as usize * SECTOR_BYTES);
            let mut sent = vec![0; head + 2 * bytes];
            sent[head..head + bytes].fill(1);
            sent[head + bytes..].fill(2);
            sent.resize(sent.len().next_multiple_of(BLOCK_BYTES), 0);
            let empty = Payload::new();
            let mut work = Work::CompareAndWrite { at, fua: true, compare: empty.clone(), data: empty };
            work.supply(payload_from(&pool, &sent), 2 * count, &pool);
            let Some(Command::CompareAndWrite { at: asked, compare, data, fua: true }) = work.step() else {
                panic!("a comparison")
            };
            assert!(asked == at && work.is_done());
            for (run, byte) in [(compare, 1), (data, 2)] {
                assert_eq!(run.len() as u64, at.blocks().end);
                let run: Vec<u8> = run.iter().flat_map(|block| block.bytes().to_vec()).collect();
                assert!(run[head..head + bytes].iter().all(|found| *found == byte), "{at:?}");
            }
        }
    }

    #[test]
    fn a_stable_read_is_a_flush_and_a_read() {
        let at = Sectors::new(5, 3);
        let mut work = Work::StableRead { at };
        assert!(matches!(work.step(), Some(Command::Flush)) && !work.is_done());
        assert!(matches!(work.step(), Some(Command::Read { at: read }) if read == at) && work.is_done());
    }

    #[test]
    fn a_comparison_looks_at_the_sectors_alone() {
        let pool = PagePool::new();
        let mut bytes = [0u8; 2 * BLOCK_BYTES];
        bytes[0] = 1; // before the first sector that counts
        let sent = payload_from(&pool, &bytes);
        let found = payload_from(&pool, &[0u8; 2 * BLOCK_BYTES]);
        assert_eq!(compare(Sectors::new(1, 15), &sent, &found), Ok(()));
        assert_eq!(compare(Sectors::new(0, 16), &sent, &found), Err(Sense::miscompare(0)));
        bytes[BLOCK_BYTES + 5] = 1;
        let sent = payload_from(&pool, &bytes);
        assert_eq!(compare(Sectors::new(1, 15), &sent, &found), Err(Sense::miscompare(4096 + 5 - 512)));
    }
}
