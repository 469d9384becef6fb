//! Writes that look at what is there first: COMPARE AND WRITE, ORWRITE.
//!
//! Invariants: what is compared is read under the lock that the write holds until it is in force, so nothing comes between; a
//! comparison that may have had an effect is not made again, and its guest is not told to try again (`volumes.md`).

use super::Volume;
use super::context::Context;
use super::op::{Mismatch, Origin, Wanted, Write};
use super::right::Service;
use crate::block::{BLOCK_BYTES, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::guest::{
    COMPARE_SECTORS_MAX, Command, GuestError, Sectors, TRANSFER_SECTORS_MAX, ZERO_SECTORS_MAX,
};
use crate::ids::RequestId;
use crate::mirror::message::Manner;
use crate::planted::Bug;
use crate::store::{Read, ReadToken};

impl Wanted {
    /// What a guest's command wants written; the command, if that is nothing.
    pub(super) fn of(command: Command) -> Result<Wanted, Command> {
        Ok(match command {
            Command::Write { at, data, fua } => Wanted { at, data, fua, ..Wanted::default() },
            Command::Zero { at, fua } => Wanted { at, zero: true, fua, ..Wanted::default() },
            Command::CompareAndWrite { at, compare, data, fua } => {
                Wanted { at, manner: Manner::IfEqual, compare, data, fua, ..Wanted::default() }
            }
            Command::OrWrite { at, data, fua } => {
                Wanted { at, manner: Manner::Or, data, fua, ..Wanted::default() }
            }
            Command::Read { .. } | Command::Flush => return Err(command),
        })
    }

    /// The command that it came from, or one that comes to the same.
    pub(super) fn into_command(self) -> Command {
        let Wanted { at, manner, zero, data, compare, fua } = self;
        match manner {
            Manner::Replace if zero => Command::Zero { at, fua },
            Manner::Replace => Command::Write { at, data, fua },
            Manner::IfEqual => {
                let data = if zero { crate::block::zeros(compare.len()) } else { data };
                Command::CompareAndWrite { at, compare, data, fua }
            }
            Manner::Or => Command::OrWrite { at, data, fua },
        }
    }

    /// The most sectors that it may have.
    pub(super) fn sectors_max(&self) -> u64 {
        match self.manner {
            Manner::IfEqual => COMPARE_SECTORS_MAX,
            Manner::Or => TRANSFER_SECTORS_MAX,
            Manner::Replace if self.zero => ZERO_SECTORS_MAX,
            Manner::Replace => TRANSFER_SECTORS_MAX,
        }
    }

    /// Has it the blocks that belong to its sectors?
    pub(super) fn is_complete(&self) -> bool {
        let blocks = (self.at.blocks().end - self.at.blocks().start) as usize;
        let compares = self.manner == Manner::IfEqual;
        self.data.len() == if self.zero { 0 } else { blocks }
            && self.compare.len() == if compares { blocks } else { 0 }
    }
}

impl Write {
    /// Must all of what is there be known before it is written?
    pub(super) fn looks_first(&self) -> bool {
        self.manner != Manner::Replace
    }

    /// Does it matter to it what this block holds?
    pub(super) fn depends_on(&self, block: u64) -> bool {
        self.looks_first()
            || self.at.start > block * SECTORS_PER_BLOCK
            || self.at.end() < (block + 1) * SECTORS_PER_BLOCK
    }
}

/// The first byte in the sectors `at` in which two runs of blocks differ, counted from the first sector.
fn first_difference(at: Sectors, expected: &Payload, found: &Payload) -> Option<u32> {
    let head = (at.start % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
    let end = head + at.count as usize * SECTOR_BYTES;
    expected.iter().zip(found).enumerate().find_map(|(index, (expected, found))| {
        let base = index * BLOCK_BYTES;
        let (from, to) = (head.saturating_sub(base), (end - base).min(BLOCK_BYTES));
        let (expected, found) = (&expected.bytes()[from..to], &found.bytes()[from..to]);
        let place = expected.iter().zip(found).position(|(expected, found)| expected != found)?;
        Some((base + from + place - head) as u32)
    })
}

impl Volume {
    /// Compares, if that is asked, with what is there. False if it differs: noted, to be answered.
    pub(super) fn is_as_expected(&mut self, id: u64, found: &Payload, version: u64) -> bool {
        let term = self.right.term;
        let Some(write) = self.writes.get_mut(&id).filter(|write| write.manner == Manner::IfEqual) else {
            return true;
        };
        let offset = first_difference(write.at, &write.compare, found);
        write.mismatch = offset.map(|offset| Mismatch { offset, version, term });
        offset.is_none()
    }

    /// A comparison has failed, and the node may answer. False if that was in another term: it is to be made again.
    pub(super) fn answer_mismatch(&mut self, cx: &mut Context<'_>, id: u64, found: Mismatch) -> bool {
        let Mismatch { offset, version, term } = found;
        let Some(write) = self.writes.get_mut(&id) else { return true };
        if term != self.right.term {
            write.mismatch = None;
            return false;
        }
        let error = GuestError::Miscompare { offset };
        let (blocks, origin) = (write.blocks(), write.origin);
        let hasty = cx.has(Bug::MismatchUnstableAlone);
        let alone = self.mirrored && self.service(cx.now) != Service::Pair;
        match origin {
            // What it tells of has to stay, as what a read tells.
            Origin::Guest(request)
                if alone
                    && version != 0
                    && !hasty
                    && !cx.store.is_stable(self.id, blocks.clone(), version) =>
            {
                self.drop_write(cx, id);
                self.settle(request, blocks, version, Err(error));
            }
            _ => self.fail_write(cx, id, error),
        }
        true
    }

    /// A comparison of a guest may have an effect from now on: it is not to be made again.
    pub(super) fn may_have_effect(&mut self, request: RequestId, manner: Manner) {
        if manner == Manner::IfEqual {
            self.uncertain.insert(request);
        }
    }

    /// It had none, and will have none.
    pub(super) fn had_no_effect(&mut self, request: RequestId) {
        self.uncertain.remove(&request);
    }

    /// What to tell a guest that is to be refused with `error`: what was sent, or done, may not be tried again for that.
    pub(super) fn honest(&self, cx: &Context<'_>, request: RequestId, error: GuestError) -> GuestError {
        let knows = !self.uncertain.contains(&request) || error == GuestError::Aborted;
        if knows || cx.has(Bug::UncertainToldToRetry) { error } else { GuestError::Uncertain }
    }

    /// What was found is to be compared again.
    pub(super) fn compare_later(&mut self, cx: &Context<'_>, request: RequestId, wanted: Wanted) {
        debug_assert!(!self.lease_runs(cx));
        self.parked.push_back((request, wanted.into_command()));
    }

    /// A planted bug: compares with what is there now, whoever has the range.
    pub(super) fn compare_unlocked(&mut self, cx: &mut Context<'_>, write: &mut Write) {
        let token = ReadToken(self.next_id());
        if let Read::Ready(found, _) = cx.store.read(self.id, write.blocks(), token)
            && first_difference(write.at, &write.compare, &found).is_none()
        {
            write.manner = Manner::Replace;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{PagePool, payload_from};

    #[test]
    fn only_the_sectors_are_compared() {
        let pool = PagePool::new();
        let found = payload_from(&pool, &[0; 2 * BLOCK_BYTES]);
        let mut bytes = [0; 2 * BLOCK_BYTES];
        (bytes[511], bytes[512 * 9]) = (1, 1);
        let expected = payload_from(&pool, &bytes);
        assert_eq!(first_difference(Sectors::new(1, 8), &expected, &found), None);
        assert_eq!(first_difference(Sectors::new(0, 8), &expected, &found), Some(511));
        assert_eq!(first_difference(Sectors::new(9, 7), &expected, &found), None);
        assert_eq!(first_difference(Sectors::new(2, 8), &expected, &found), Some(7 * 512));
    }
}
