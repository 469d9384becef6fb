//! Where the copies of log and checkpoints lie. The first is on the home disk. The second, byte for byte the same, is in
//! the spare area of another disk if one has room for it, else in that of the home disk: behind the first if that has moved
//! there (`moving`), else at its beginning.
//!
//! Invariants (`engine/docs/metadata.md`):
//! - An entry or a checkpoint counts when both copies of it are flushed, so either of them is enough.
//! - While a copy moves, nothing is appended to the log: where it was and where it will be agree.
//! - Both superblock copies of each disk name the checkpoint in force, and the place in the log that goes with it,
//!   before anything that an earlier one names is overwritten.

use smallvec::SmallVec;

use super::Pool;
use super::layout::{DiskState, Layout};
use crate::ids::DiskId;

/// One copy: its disk, and where it begins there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Site {
    pub(super) disk: DiskId,
    /// Of the log, in bytes from the beginning of the disk.
    pub(super) log: u64,
    /// Of the checkpoint areas.
    areas: [u64; 2],
}

impl Site {
    /// Where a checkpoint of this number begins.
    pub(super) fn checkpoint(&self, number: u64) -> u64 {
        self.areas[(number % 2) as usize]
    }
}

/// The copies in force, the first one first.
pub(super) type Sites = SmallVec<[Site; 2]>;

impl Layout {
    /// Bytes of log and checkpoint areas.
    pub(super) fn copy_bytes(&self) -> u64 {
        self.sizes().copy_bytes()
    }

    /// Where the copies lie.
    pub(super) fn sites(&self, second: Option<DiskId>) -> Sites {
        let first = Site { disk: self.home, log: self.log_offset, areas: self.checkpoint_offsets };
        let second = second.map(|disk| {
            let [from, _] = self.disks[usize::from(disk.0)].spare;
            let log = from + self.before_second(disk);
            let areas = [0, 1].map(|area| log + self.log_bytes + area * self.checkpoint_area_bytes);
            Site { disk, log, areas }
        });
        [first].into_iter().chain(second).collect()
    }

    /// Bytes of the disk's spare area that the first copy takes.
    fn before_second(&self, disk: DiskId) -> u64 {
        if disk == self.home && self.is_moved() { self.copy_bytes() } else { 0 }
    }

    /// Is there room on this disk for the second copy?
    pub(super) fn may_be_second(&self, disk: DiskId) -> bool {
        self.disks.get(usize::from(disk.0)).is_some_and(|own| {
            let needed = self.before_second(disk).saturating_add(self.copy_bytes());
            own.state != DiskState::Removed && own.spare[1] != 0 && own.spare[1] >= needed
        })
    }

    /// Where the second copy belongs if it lies on `now`: on another disk than the first, the largest; else apart on the
    /// same; not on one that leaves. It stays where it is well.
    pub(super) fn choose_second(&self, now: Option<DiskId>) -> Option<DiskId> {
        let state = |disk: DiskId| self.disks[usize::from(disk.0)].state;
        if now.is_some_and(|disk| disk != self.home && state(disk) == DiskState::InUse) {
            return now;
        }
        let places = (0..self.disks.len() as u16).rev().map(DiskId);
        // Metadata that have grown are on a disk that joins.
        let stays = |disk: DiskId| {
            state(disk) == DiskState::InUse || disk == self.home && state(disk) == DiskState::Joining
        };
        let fit = places.filter(|disk| stays(*disk) && self.may_be_second(*disk));
        fit.max_by_key(|disk| (*disk != self.home, self.disks[usize::from(disk.0)].bytes))
    }
}

/// The disks of these copies, each once.
pub(super) fn disks_of(sites: &Sites) -> impl Iterator<Item = DiskId> + '_ {
    sites
        .iter()
        .enumerate()
        .filter(|(at, site)| sites[..*at].iter().all(|other| other.disk != site.disk))
        .map(|(_, site)| site.disk)
}

impl Pool {
    /// The place of the disk with the second copy of the metadata; `None`: there is one copy only.
    pub fn second_copy(&self) -> Option<DiskId> {
        self.commit.second
    }
}
