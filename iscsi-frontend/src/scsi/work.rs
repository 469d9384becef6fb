//! Requests of the volume that one SCSI command comes to, one after the other.

use std::sync::Arc;

use smallvec::SmallVec;
use twinsan::block::{BLOCK_BYTES, Block, Payload, SECTOR_BYTES};
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
    pub(crate) fn supply(&mut self, payload: Payload, sectors: u64) {
        match self {
            Work::Write { at, data, .. }
            | Work::WriteVerify { at, data, .. }
            | Work::Verify { at, data, .. } => {
                at.count = sectors;
                *data = payload;
            }
            _ => {}
        }
    }
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
    use twinsan::block::{PagePool, payload_from};

    fn steps(mut work: Work) -> Vec<Sectors> {
        let mut all = Vec::new();
        while let Some(command) = work.step() {
            match command {
                Command::Zero { at, .. } | Command::Write { at, .. } | Command::Read { at } => all.push(at),
                Command::Flush => all.push(Sectors::new(0, 0)),
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
