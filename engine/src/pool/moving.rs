//! Where log and checkpoint areas go: to another disk when the home disk leaves, and to larger ones when a disk joins for
//! which they are too small. They go to the beginning of the spare area of their new home disk, and never back.
//!
//! How, in one commit (`commit`): the log comes to rest, the new places are cleared and get a checkpoint, then the
//! superblocks name them, twice. In the first round the old home disk is last, so what it says counts until it names the
//! new one; in the second the new one is, as ever after.
//!
//! Invariants:
//! - Nothing is written over what either copy of a superblock names: a place that is new to a copy of the metadata is free,
//!   and nothing is appended, nor is the old home disk let go, before both copies of every superblock name the new places.
//! - Whenever the home disk is in use or joins, the metadata stay on it. One that leaves has found another to go to.
//! - Areas grow with the commit that lets the disk join that needs it, so none that opens is too small for its disks.

use super::Pool;
use super::copies::Sites;
use super::error::PoolError;
use super::layout::{
    DiskState, GROWTH, LOG_BYTES, Layout, PoolDisk, SPARE_SHARE, checkpoint_area_bytes, log_bytes, plan_disk,
    side_bytes, zero_bytes, zero_map_room,
};
use super::metadata::VOLUME_BYTES;
use super::table::DiskRefusal;
use crate::format::superblock::{FEATURE_ZEROS, SUPERBLOCK_AREA_BYTES};
use crate::ids::{DiskId, Uuid};
use crate::io::Geometry;
use crate::planted::Bug;

/// Sizes of log and checkpoint areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub(super) log_bytes: u64,
    /// Of each checkpoint area.
    pub(super) area_bytes: u64,
}

impl Sizes {
    /// Bytes of a copy.
    pub(super) fn copy_bytes(self) -> u64 {
        self.area_bytes.saturating_mul(2).saturating_add(self.log_bytes)
    }
}

/// What a pool must have room for: so many volumes, and so many extents in which some block reads as zero.
pub(super) type Needs = (usize, u64);

impl Layout {
    pub(super) fn sizes(&self) -> Sizes {
        Sizes { log_bytes: self.log_bytes, area_bytes: self.checkpoint_area_bytes }
    }

    /// Have the metadata moved from where they lay when the pool was made?
    pub(super) fn is_moved(&self) -> bool {
        let [from, bytes] = self.disks[usize::from(self.home.0)].spare;
        bytes != 0 && self.log_offset == from
    }

    /// Do log and checkpoint areas lie at the beginning of this spare area, as they do when they have moved?
    pub(super) fn lies_in(&self, [from, bytes]: [u64; 2]) -> bool {
        let aligned = |number: u64| number.is_multiple_of(4096);
        aligned(self.log_bytes)
            && aligned(self.checkpoint_area_bytes)
            && bytes != 0
            && self.copy_bytes() <= bytes
            && self.log_offset == from
            && self.checkpoint_offsets
                == [0, 1].map(|area| from + self.log_bytes + area * self.checkpoint_area_bytes)
    }

    /// The disk that becomes the home disk, the second copy being there: the one with that, else the largest. `None` if the
    /// metadata stay where they are, or have nowhere to go.
    fn choose_home(&self, second: Option<DiskId>) -> Option<DiskId> {
        match self.disks[usize::from(self.home.0)].state {
            DiskState::InUse | DiskState::Joining => None,
            DiskState::Leaving | DiskState::Removed => {
                let fit =
                    (0..self.disks.len() as u16).rev().map(DiskId).filter(|disk| self.may_be_home(*disk));
                fit.max_by_key(|disk| (Some(*disk) == second, self.disks[usize::from(disk.0)].bytes))
            }
        }
    }

    /// Could the metadata move to this disk?
    fn may_be_home(&self, disk: DiskId) -> bool {
        let PoolDisk { state, spare, .. } = self.disks[usize::from(disk.0)];
        disk != self.home && state == DiskState::InUse && spare[1] != 0 && spare[1] >= self.copy_bytes()
    }

    /// The same with the metadata on this disk, in areas of these sizes.
    fn moved_to(&self, home: DiskId, sizes: Sizes) -> Layout {
        let [from, _] = self.disks[usize::from(home.0)].spare;
        let Sizes { log_bytes, area_bytes } = sizes;
        Layout {
            home,
            log_offset: from,
            log_bytes,
            checkpoint_offsets: [0, 1].map(|area| from + log_bytes + area * area_bytes),
            checkpoint_area_bytes: area_bytes,
            growing: None,
            ..self.clone()
        }
    }

    /// Where the metadata belong, and on which disk their second copy.
    pub(super) fn settled(&self, second: Option<DiskId>) -> (Layout, Option<DiskId>) {
        if let Some(sizes) = self.growing
            && let Some(at) = self.disks.iter().position(|disk| disk.state == DiskState::Joining)
        {
            // On no other disk yet: there may still be what is given up.
            let home = DiskId(at as u16);
            let grown = self.moved_to(home, sizes);
            let second = Some(home).filter(|home| grown.may_be_second(*home));
            return (grown, second);
        }
        let layout = match self.choose_home(second) {
            Some(home) => self.moved_to(home, self.sizes()),
            None => self.clone(),
        };
        let second = layout.choose_second(second);
        (layout, second)
    }

    /// Do the metadata, or their second copy, belong elsewhere?
    pub(super) fn is_out_of_place(&self, second: Option<DiskId>) -> bool {
        self.growing.is_some() || self.choose_home(second).is_some() || self.choose_second(second) != second
    }

    /// From now on the metadata are where `other` says.
    pub(super) fn follow(&mut self, other: &Layout) {
        self.home = other.home;
        (self.log_offset, self.log_bytes) = (other.log_offset, other.log_bytes);
        self.checkpoint_offsets = other.checkpoint_offsets;
        self.checkpoint_area_bytes = other.checkpoint_area_bytes;
        self.growing = self.growing.filter(|sizes| *sizes != other.sizes());
    }

    /// Sizes for so many bytes and as many times the extents. A log smaller than any that a pool gets unasked was asked for,
    /// and stays.
    fn sizes_for(&self, bytes: u64, times: u64) -> Sizes {
        let zeros = if self.features & FEATURE_ZEROS == 0 { 0 } else { zero_bytes(bytes, self.extent_bytes) };
        let extents = (bytes / self.extent_bytes).saturating_mul(times);
        let area = checkpoint_area_bytes(self.clones.entries(extents), side_bytes(bytes) + zeros);
        let log = if self.log_bytes < LOG_BYTES.0 { 0 } else { log_bytes(bytes, self.extent_bytes) };
        Sizes { log_bytes: log.max(self.log_bytes), area_bytes: area.max(self.checkpoint_area_bytes) }
    }

    /// Is there enough room in the checkpoint areas with this disk: for what is needed, and for a quarter of what a new pool
    /// of that size would have for everything else?
    fn has_room_for(&self, disk: &PoolDisk, (volumes, zero_extents): Needs) -> bool {
        let counted = self.counted_bytes.saturating_add(disk.bytes);
        let left = self.side_bytes_with(counted, Some(disk));
        let zeros = self.zeros_room(Some(disk)) / zero_map_room(self.extent_blocks());
        left >= side_bytes(counted) / GROWTH
            && (left / VOLUME_BYTES) as usize >= volumes
            && zeros >= zero_extents
    }

    /// Plans a disk more, in this place, and the sizes to which the areas must grow for it, on that disk itself: there is
    /// room on it for all copies. `Ok(None)` if that takes more of it than they may.
    pub(super) fn plan_more(
        &self,
        place: DiskId,
        uuid: Uuid,
        disk: &Geometry,
        needs: Needs,
        copies: u64,
    ) -> Result<Option<(PoolDisk, Option<Sizes>)>, PoolError> {
        let plan = |spares: &[u64]| {
            let planned = plan_disk(place, uuid, disk, (SUPERBLOCK_AREA_BYTES, spares), self.extent_bytes)?;
            Ok(PoolDisk { state: DiskState::Joining, ..planned })
        };
        let bytes = self.disks.iter().fold(disk.bytes, |sum, disk| sum.saturating_add(disk.bytes));
        let (own, coming) = (self.copy_bytes(), self.sizes_for(bytes, GROWTH).copy_bytes());
        let planned = plan(&[coming.saturating_mul(2), own.saturating_mul(2), own])?;
        if self.has_room_for(&planned, needs) {
            return Ok(Some((planned, None)));
        }
        for times in [GROWTH, 2, 1] {
            let sizes = self.sizes_for(bytes, times);
            let copy = sizes.copy_bytes();
            let planned = plan(&[copy.saturating_mul(2), copy])?;
            let larger = Layout { checkpoint_area_bytes: sizes.area_bytes, ..self.clone() };
            let holds = planned.spare[1] >= copy.saturating_mul(copies) && planned.spare[1] != 0;
            if holds && larger.has_room_for(&planned, needs) {
                return Ok(Some((planned, Some(sizes))));
            }
        }
        Ok(None)
    }
}

impl Pool {
    /// Where the copies of the metadata will be when the commit in progress is durable, if elsewhere.
    fn moving_to(&self) -> Option<Sites> {
        let commit = self.committing.as_ref()?;
        let sites = commit.layout.sites(commit.next.second);
        (sites != self.layout.sites(self.commit.second)).then_some(sites)
    }

    /// Do the metadata move, or are they about to? Then no log entry begins. Nor does one before all superblocks of a pool
    /// whose metadata have moved name the same places: a crash may have come between the two of the move.
    pub(super) fn metadata_move(&self) -> bool {
        let careless = self.planted.has(Bug::AppendedWhileCopyMoves);
        let moves = self.moving_to().is_some()
            || self.committing.is_none() && self.layout.is_out_of_place(self.commit.second);
        (moves || self.layout.is_moved() && !self.agreed) && !careless
    }

    /// If this disk leaves, is there another for the metadata?
    pub(super) fn may_home_leave(&self, disk: DiskId) -> Result<(), DiskRefusal> {
        if self.layout.growing.is_some() {
            // They are on their way to a disk that joins.
            return Ok(());
        }
        let home = self.committing.as_ref().map_or(self.layout.home, |commit| commit.layout.home);
        let stays = home != disk && self.layout.disks[usize::from(home.0)].state != DiskState::Leaving;
        let mut others = (0..self.layout.disks.len() as u16).map(DiskId).filter(|other| *other != disk);
        let after = Layout { home, ..self.layout.clone() };
        if stays || others.any(|other| after.may_be_home(other)) {
            return Ok(());
        }
        Err(DiskRefusal::Home { needed: self.disk_for_metadata() })
    }

    /// Bytes of a disk that has room for the metadata if it is added, also if they have to grow for it.
    fn disk_for_metadata(&self) -> u64 {
        let (needs, copies) = self.needs();
        let fits = |bytes: &u64| {
            let disk = Geometry { bytes: *bytes, sector_bytes: 512 };
            let planned = self.layout.plan_more(DiskId(0), Uuid(0), &disk, needs, copies);
            planned.is_ok_and(|planned| {
                planned.is_some_and(|(disk, sizes)| {
                    disk.spare[1] >= sizes.unwrap_or(self.layout.sizes()).copy_bytes()
                })
            })
        };
        let least = self.layout.copy_bytes().saturating_mul(SPARE_SHARE);
        let sizes = core::iter::successors(Some(least), |bytes| bytes.checked_add(bytes / 4));
        sizes.take(64).find(fits).unwrap_or(least)
    }
}
