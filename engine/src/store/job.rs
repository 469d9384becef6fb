//! A job of the destager: what it writes, and where it stands.

use super::destage::Key;
use super::plan::Zeros;
use super::sums::Claim;
use crate::block::Payload;
use crate::ids::DiskId;
use crate::pool::{Lsn, Record, Slot};
use crate::time::Instant;

/// Where a job stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// The extent is read, to be moved.
    Gathering,
    /// Waits for its checksums' pages, and for this record, which says that they may be old.
    Preparing(Lsn),
    /// This many writes have not completed.
    Writing(usize),
    /// The data is written and waits for a flush of this disk.
    Written,
    /// Its map entry, or its removal, is durable when the log is.
    Logging(Lsn),
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) blocks: Vec<u64>,
    pub(super) disk: DiskId,
    /// The new place, until it is mapped.
    pub(super) slot: Option<Slot>,
    /// What the map says of zeros when the data are on stable media.
    pub(super) zeros: Zeros,
    pub(super) stage: Stage,
    /// The lines of checksums that it changes, if the disk has any.
    pub(super) claim: Option<Claim>,
    /// What is still to be submitted: the first block, from the beginning of the extent, and the data. All of it while the
    /// job prepares; of a move, the rest while it writes, the next one last.
    pub(super) runs: Vec<(u64, Payload)>,
    /// Where the extent lies, in bytes from the beginning of the disk.
    pub(super) offset: u64,
    /// Blocks of the extent became dirty meanwhile, the first of them then.
    pub(super) more: Option<Instant>,
    /// The extent leaves its disk.
    pub(super) moves: bool,
    /// Other volumes have it too: they go along.
    pub(super) shared: bool,
    /// It gets a place of its own, beside those with whom it was shared.
    pub(super) redirects: bool,
    /// Blocks that could not be had from the former place, counted from the beginning of the extent.
    pub(super) spoiled: Vec<u64>,
    /// Blocks that were in doubt there.
    pub(super) doubtful: Vec<u64>,
}

impl Job {
    /// A job that moves an extent, before anything is written.
    pub(super) fn moving(disk: DiskId) -> Job {
        Job { stage: Stage::Gathering, moves: true, ..Job::new(Vec::new(), disk, None, Zeros::default()) }
    }

    /// A job that gives an extent a place of its own with these blocks, before anything is written.
    pub(super) fn redirecting(disk: DiskId, blocks: Vec<u64>) -> Job {
        Job { stage: Stage::Gathering, redirects: true, ..Job::new(blocks, disk, None, Zeros::default()) }
    }

    pub(super) fn new(blocks: Vec<u64>, disk: DiskId, slot: Option<Slot>, zeros: Zeros) -> Job {
        let (stage, claim, runs, offset, more) = (Stage::Written, None, Vec::new(), 0, None);
        let (moves, shared, redirects) = (false, false, false);
        let (spoiled, doubtful) = (Vec::new(), Vec::new());
        Job {
            blocks,
            disk,
            slot,
            zeros,
            stage,
            claim,
            runs,
            offset,
            more,
            moves,
            shared,
            redirects,
            spoiled,
            doubtful,
        }
    }

    /// What is to be recorded when the data are on stable media.
    pub(super) fn records(&self, (volume, extent): Key) -> Vec<Record> {
        let map = self.slot.map(|slot| match self.shared {
            true => Record::MapShared { volume, extent, slot },
            false => Record::Map { volume, extent, slot },
        });
        map.into_iter().chain(self.zeros.records(volume, extent)).collect()
    }
}
