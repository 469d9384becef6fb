//! Disks come and go while the pool is open.
//!
//! A disk joins: its superblock places are read and judged, then cleared; two commits write superblocks that name
//! it, to all disks, the home disk last; then it is used. A disk leaves: from now on nothing is put on it, its
//! extents are moved away by whoever owns the data, and when it is vacant two commits write superblocks with its
//! place empty; then its own superblocks are cleared. Of the others nobody changes place. A disk that is leaving stays
//! after all: two commits say so, then it is used again.
//!
//! Invariants:
//! - A change counts when the home disk's superblock says so. Two commits are made of each, so that both copies of
//!   every superblock say so before anything relies on it: rot of one takes nothing back.
//! - The first of these commits has a checkpoint. So no record that is replayed speaks of a disk that is not in the
//!   table, or of more volumes than the disks in the table leave room for.
//! - Nothing is written to a disk before it was judged. What fails on one while it is judged and cleared fails nothing
//!   else. From the commits that name it on it is a disk of the pool: if it fails at one of these, the pool has failed, for
//!   nobody knows which of the superblocks name it.

use std::collections::VecDeque;

use super::error::PoolError;
use super::identify::{Copy, may_join};
use super::layout::{DiskState, PoolDisk};
use super::moving::{Needs, Sizes};
use super::{Pool, PoolIo, Purpose};
use crate::block::{BLOCK_BYTES, zeros};
use crate::format::superblock::{DISKS_MAX, SUPERBLOCK_AREA_BYTES, SUPERBLOCK_OFFSETS};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};
use crate::planted::Bug;

/// A disk that shall join a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewDisk {
    /// Its number among the disks given, not in use.
    pub device: DiskId,
    /// Its size.
    pub geometry: Geometry,
    /// The identity that it gets: fresh, random, never used before.
    pub uuid: Uuid,
    /// The pool whose mark it may carry, and whose data on it may be lost.
    pub replaces: Option<Uuid>,
}

/// Why a disk does not join a pool, or does not leave it. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskRefusal {
    /// One disk joins at a time.
    #[error("another disk is being added; try again when that is done")]
    Busy,
    /// All places are taken.
    #[error("the pool has {DISKS_MAX} disks already; remove one first")]
    TooMany,
    /// It carries the mark of another pool.
    #[error(
        "it is part of pool {pool:032x} of node {node}; name that pool as the one to be erased, or another disk",
        pool = .pool.0
    )]
    Occupied {
        /// That pool.
        pool: Uuid,
        /// The node it is part of.
        node: NodeName,
    },
    /// It is in this pool already, or a copy of one that is.
    #[error("it is disk {disk:032x} of this pool, or a copy of it; check its path", disk = .disk.0)]
    Member {
        /// The identity that it shows.
        disk: Uuid,
    },
    /// It was written by a version that this one does not know.
    #[error("it was written by a newer version; update this node, or erase the disk")]
    Version,
    /// It failed.
    #[error("it failed: {0}")]
    Failed(DiskError),
    /// It is too small or too large.
    #[error("it does not fit this pool: {0}")]
    Size(PoolError),
    /// The metadata of so many extents have no room, and larger areas would take too much of this disk.
    #[error(
        "the metadata areas of the pool are too small for one disk more, and it is too small to hold larger ones; use a larger disk"
    )]
    MetadataFull,
    /// The pool has no such disk.
    #[error("the pool has no disk {disk:032x}; `status` lists its disks", disk = .disk.0)]
    Unknown {
        /// What was asked for.
        disk: Uuid,
    },
    /// It is leaving already.
    #[error("it is being removed already")]
    Leaving,
    /// It is not leaving, or cannot stay any more.
    #[error("it is not being removed, or it is empty and about to go")]
    NotLeaving,
    /// It holds the pool's metadata, and no other disk has room for them.
    #[error(
        "it holds the metadata of the pool, and no other disk has room for them; add a disk of {needed} bytes or more first"
    )]
    Home {
        /// Bytes of a disk that has the room if it is added.
        needed: u64,
    },
    /// The others have no room for what is on it, with what is kept for volumes.
    #[error(
        "the other disks have no room for its {extents} extents and what is kept for volumes; add a disk or free space first"
    )]
    NoRoom {
        /// Extents in use on it.
        extents: u32,
    },
    /// The pool would have room for fewer volumes than there are.
    #[error("the pool has {volumes} volumes, and without this disk room for {most}; remove volumes first")]
    Volumes {
        /// How many there are.
        volumes: usize,
        /// How many there may be without it.
        most: usize,
    },
    /// There is no open pool.
    #[error("the pool is not open; see why the node has not started")]
    NotOpen,
    /// The pool has failed.
    #[error("a disk of the pool has failed for good; restart the node first")]
    PoolFailed,
}

/// What became of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskNews {
    /// It has joined: from now on it is used.
    Joined {
        /// Its number among the disks given.
        device: DiskId,
        /// Its identity.
        uuid: Uuid,
    },
    /// It does not join. Nothing more is asked of it.
    Refused {
        /// Its number among the disks given.
        device: DiskId,
        /// Why.
        why: DiskRefusal,
    },
    /// It has left. Nothing more is asked of it.
    Left {
        /// Its number among the disks given.
        device: DiskId,
        /// Its identity.
        uuid: Uuid,
        /// Its mark was cleared; if not, the disk failed at that.
        erased: bool,
    },
}

/// A change of the table on its way to the superblocks.
#[derive(Clone, Copy, Debug)]
enum Change {
    Join { disk: DiskId, device: DiskId },
    Leave(DiskId),
    Stay(DiskId),
    Drop { device: DiskId, disk: DiskId, entry: PoolDisk },
}

impl Change {
    /// Which place it is about.
    fn disk(&self) -> DiskId {
        match *self {
            Change::Leave(disk) | Change::Stay(disk) => disk,
            Change::Join { disk, .. } | Change::Drop { disk, .. } => disk,
        }
    }
}

/// Requests to a disk that is not, or no longer, in the table; one after the other.
#[derive(Debug)]
struct Chore {
    device: DiskId,
    what: What,
    asks: VecDeque<DiskOp>,
    in_flight: bool,
}

#[derive(Debug)]
enum What {
    /// Reads what the disk carries.
    Judge(NewDisk, Vec<Copy>),
    /// Clears it, so that it can join.
    Prepare(NewDisk),
    /// Clears it, for it has left this place, where it was this.
    Erase(DiskId, PoolDisk),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Changes, and how many commits they still need.
    changes: VecDeque<(Change, u8)>,
    /// How many of them the commit in progress carries.
    carried: usize,
    chores: Vec<Chore>,
    news: VecDeque<DiskNews>,
}

/// Commits that a change needs: one for each copy of the superblocks.
const COMMITS: u8 = 2;

impl Table {
    fn change(&mut self, change: Change) {
        self.changes.push_back((change, COMMITS));
    }

    /// Is a commit due for a change?
    pub(super) fn is_due(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Is there a change that no commit has carried?
    pub(super) fn is_new(&self) -> bool {
        self.changes.iter().any(|(_, left)| *left == COMMITS)
    }

    /// A commit begins, with the table as it is.
    pub(super) fn begin(&mut self) {
        self.carried = self.changes.len();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.chores.is_empty()
    }

    /// Nothing becomes of it any more.
    pub(super) fn abandon(&mut self) {
        self.carried = 0;
        for (change, _) in core::mem::take(&mut self.changes) {
            if let Change::Join { device, .. } = change {
                self.news.push_back(DiskNews::Refused { device, why: DiskRefusal::PoolFailed });
            }
        }
        for chore in core::mem::take(&mut self.chores) {
            if let What::Judge(new, _) | What::Prepare(new) = chore.what {
                self.news.push_back(DiskNews::Refused { device: new.device, why: DiskRefusal::PoolFailed });
            }
        }
    }

    fn erase(&mut self, device: DiskId, disk: DiskId, entry: PoolDisk) {
        let (what, asks) = (What::Erase(disk, entry), clear());
        self.chores.push(Chore { device, what, asks, in_flight: false });
    }
}

/// What clears both superblocks of a disk.
fn clear() -> VecDeque<DiskOp> {
    let write = |offset| DiskOp::Write { offset, data: zeros(1) };
    SUPERBLOCK_OFFSETS.into_iter().map(write).chain([DiskOp::Flush]).collect()
}

impl Pool {
    /// Lets a disk join. [`poll_disk_news`](Self::poll_disk_news) tells what became of it; its space counts from then
    /// on. Nothing is written before it is known that it carries nothing that counts.
    pub fn add_disk(&mut self, new: NewDisk) {
        if let Err(why) = self.begin_join(new) {
            self.table.news.push_back(DiskNews::Refused { device: new.device, why });
        }
    }

    fn begin_join(&mut self, new: NewDisk) -> Result<(), DiskRefusal> {
        let joining = self.table.chores.iter().any(|chore| !matches!(chore.what, What::Erase(..)))
            || self.layout.disks.iter().any(|disk| disk.state == DiskState::Joining);
        if self.failed.is_some() {
            return Err(DiskRefusal::PoolFailed);
        }
        if joining {
            return Err(DiskRefusal::Busy);
        }
        self.plan_join(&new)?;
        let read = |offset| DiskOp::Read { offset, blocks: 1 };
        let asks = SUPERBLOCK_OFFSETS.into_iter().map(read).collect();
        let what = What::Judge(new, Vec::new());
        self.table.chores.push(Chore { device: new.device, what, asks, in_flight: false });
        Ok(())
    }

    fn plan_join(&self, new: &NewDisk) -> Result<(DiskId, (PoolDisk, Option<Sizes>)), DiskRefusal> {
        let place = self.free_place().ok_or(DiskRefusal::TooMany)?;
        if new.geometry.bytes < SUPERBLOCK_AREA_BYTES {
            let (disk, bytes, needed) = (new.device, new.geometry.bytes, SUPERBLOCK_AREA_BYTES);
            return Err(DiskRefusal::Size(PoolError::TooSmall { disk, bytes, needed }));
        }
        let (needs, copies) = self.needs();
        let planned = self.layout.plan_more(place, new.uuid, &new.geometry, needs, copies);
        let planned = planned.map_err(|error| {
            DiskRefusal::Size(match error {
                PoolError::TooSmall { bytes, needed, .. } => {
                    PoolError::TooSmall { disk: new.device, bytes, needed }
                }
                PoolError::TooLarge { .. } => PoolError::TooLarge { disk: new.device },
                other => other,
            })
        })?;
        Ok((place, planned.ok_or(DiskRefusal::MetadataFull)?))
    }

    /// What the checkpoint areas must have room for, and how many copies of them there are.
    pub(super) fn needs(&self) -> (Needs, u64) {
        let needs = (self.metadata.volumes_room(), self.metadata.zero_extents() + self.zeros_coming);
        // A commit on its way may be making the second copy.
        let commit = self.committing.as_ref().map_or(self.commit, |commit| commit.next);
        (needs, if commit.second.is_some() { 2 } else { 1 })
    }

    /// The first empty place that no change concerns any more, or the next.
    fn free_place(&self) -> Option<DiskId> {
        let going = self.table.changes.iter().any(|(change, _)| matches!(change, Change::Drop { .. }));
        let empty = |disk: &PoolDisk| disk.state == DiskState::Removed && !going;
        let at = self.layout.disks.iter().position(empty).unwrap_or(self.layout.disks.len());
        (at < DISKS_MAX).then_some(DiskId(at as u16))
    }

    /// Begins to empty a disk: nothing new is put on it, the extents on it ([`extents_on`](Self::extents_on)) are to be
    /// moved ([`allocate_move`](Self::allocate_move)), then it goes by [`drop_disk`](Self::drop_disk).
    pub fn remove_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        self.remove_disk_beside(disk, 0)
    }

    /// As [`remove_disk`](Self::remove_disk), with room left for what is to be kept with volumes and is not in writing yet:
    /// as much as so many volumes take.
    pub fn remove_disk_beside(&mut self, disk: DiskId, pending: usize) -> Result<(), DiskRefusal> {
        let entry = self.layout.disks[usize::from(disk.0)];
        if self.failed.is_some() {
            return Err(DiskRefusal::PoolFailed);
        }
        match entry.state {
            DiskState::InUse => {}
            DiskState::Joining => return Err(DiskRefusal::Busy),
            DiskState::Leaving => return Err(DiskRefusal::Leaving),
            DiskState::Removed => return Err(DiskRefusal::Unknown { disk: entry.uuid }),
        }
        self.may_home_leave(disk)?;
        let ignored = self.planted.has(Bug::ReservationIgnored);
        let kept = if ignored { 0 } else { self.space.kept(&self.metadata, None) };
        if !self.space.has_room_without(disk, kept) {
            return Err(DiskRefusal::NoRoom { extents: self.space.live_on(disk) });
        }
        let counted = if self.space.is_open(disk) { entry.bytes } else { 0 };
        let (volumes, most) =
            (self.metadata.volumes_room() + pending, self.layout.volumes_max_without(counted));
        if volumes > most {
            return Err(DiskRefusal::Volumes { volumes, most });
        }
        self.layout.disks[usize::from(disk.0)].state = DiskState::Leaving;
        self.space.close(disk);
        self.count_bytes();
        self.table.change(Change::Leave(disk));
        Ok(())
    }

    /// A disk that is leaving stays: what is still on it remains there. It takes new extents again when the superblocks
    /// say so ([`is_open`](Self::is_open)): after a crash before that it leaves, and the others must have the room.
    pub fn keep_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        if self.failed.is_some() {
            return Err(DiskRefusal::PoolFailed);
        }
        let entry = &mut self.layout.disks[usize::from(disk.0)];
        if entry.state != DiskState::Leaving {
            return Err(DiskRefusal::NotLeaving);
        }
        entry.state = DiskState::InUse;
        if self.planted.has(Bug::DiskUsedBeforeItJoined) {
            self.space.open(disk);
        }
        self.table.change(Change::Stay(disk));
        Ok(())
    }

    /// Takes a leaving disk out of the table if it is vacant, with no line of its checksums unsure; false if it is not,
    /// or not yet. The caller has no request to it in flight, and begins none.
    pub fn drop_disk(&mut self, disk: DiskId) -> bool {
        let at = usize::from(disk.0);
        let entry = self.layout.disks[at];
        let sure = self.metadata.unsure().all(|(of, _)| of != disk);
        let vacant = entry.state == DiskState::Leaving && sure && self.space.is_vacant(disk);
        let asked = self.in_flight.values().any(|(of, purpose)| *of == disk && *purpose != Purpose::Chore);
        // A commit on its way still writes to it, and so does the log if a copy of the metadata is there. The first of a life
        // makes the superblocks agree, and has no checkpoint: one for the sake of a table would go over what they still name.
        if self.failed.is_some()
            || !self.agreed
            || !vacant
            || self.committing.is_some()
            || self.commit.second == Some(disk)
            || self.layout.home == disk
            || asked
            || !self.queued.is_empty()
        {
            return false;
        }
        let device = self.devices[at].take().expect("a leaving disk is there");
        self.layout.disks[at] = PoolDisk::removed(entry.uuid);
        self.space.remove(disk);
        self.table.change(Change::Drop { device, disk, entry });
        if self.planted.has(Bug::DiskErasedEarly) {
            self.table.erase(device, disk, entry);
        }
        true
    }

    /// Disks that were dropped and are not let go yet: the superblocks may still name them, or their own are not cleared.
    /// Place, number among the disks given, and what they were.
    pub fn departing(&self) -> impl Iterator<Item = (DiskId, DiskId, PoolDisk)> + '_ {
        let dropped = self.table.changes.iter().filter_map(|(change, _)| match *change {
            Change::Drop { device, disk, entry } => Some((disk, device, entry)),
            _ => None,
        });
        let erased = self.table.chores.iter().filter_map(|chore| match chore.what {
            What::Erase(disk, entry) => Some((disk, chore.device, entry)),
            _ => None,
        });
        dropped.chain(erased).filter(|_| !self.planted.has(Bug::DepartingDiskHidden))
    }

    /// Are new extents put on this disk? They are not before it has joined, and not from when it is to leave until the
    /// superblocks say that it stays.
    pub fn is_open(&self, disk: DiskId) -> bool {
        self.space.is_open(disk)
    }

    /// What is put on a disk and the room for volumes that comes with it begin and end together.
    fn count_bytes(&mut self) {
        let open = self.layout.disks.iter().zip(0..).filter(|(_, at)| self.space.is_open(DiskId(*at)));
        self.layout.counted_bytes = open.fold(0, |sum, (disk, _)| sum.saturating_add(disk.bytes));
    }

    /// Slots of a disk that are allocated or mapped: what is left to be moved when it leaves.
    pub fn extents_on(&self, disk: DiskId) -> u32 {
        self.space.live_on(disk)
    }

    /// So many jobs of the caller may be about to record zeros in extents that have none yet: a disk joins only if there
    /// is room for theirs too.
    pub fn expect_zeros(&mut self, extents: u64) {
        self.zeros_coming = extents;
    }

    /// What became of disks that were to join or to leave.
    pub fn poll_disk_news(&mut self) -> Option<DiskNews> {
        self.table.news.pop_front()
    }

    /// The commit in progress is durable.
    pub(super) fn table_committed(&mut self) {
        let carried = core::mem::take(&mut self.table.carried);
        self.table.changes.iter_mut().take(carried).for_each(|(_, left)| *left -= 1);
        while let Some((change, 0)) = self.table.changes.front().copied() {
            self.table.changes.pop_front();
            self.settle_change(change);
        }
    }

    fn settle_change(&mut self, change: Change) {
        match change {
            Change::Join { disk, device } => {
                let entry = &mut self.layout.disks[usize::from(disk.0)];
                entry.state = DiskState::InUse;
                let uuid = entry.uuid;
                self.space.open(disk);
                self.count_bytes();
                self.table.news.push_back(DiskNews::Joined { device, uuid });
            }
            Change::Leave(_) => {}
            Change::Stay(disk) => {
                // Unless it is to leave again: the superblocks may say that already.
                if !self.table.changes.iter().any(|(later, _)| later.disk() == disk) {
                    self.space.open(disk);
                    self.count_bytes();
                }
            }
            Change::Drop { device, disk, entry } => {
                if !self.planted.has(Bug::DiskErasedEarly) {
                    self.table.erase(device, disk, entry);
                }
            }
        }
    }

    /// The next request to a disk that is not in the table.
    pub(super) fn poll_chore(&mut self) -> Option<PoolIo> {
        let chore = self.table.chores.iter_mut().find(|chore| !chore.in_flight && !chore.asks.is_empty())?;
        let (device, op) = (chore.device, chore.asks.pop_front()?);
        chore.in_flight = true;
        let token = self.next_token;
        self.next_token += 1;
        self.in_flight.insert(token, (device, Purpose::Chore));
        Some(PoolIo { token, disk: device, op })
    }

    pub(super) fn chore_done(&mut self, device: DiskId, result: DiskResult) {
        let Some(at) = self.table.chores.iter().position(|chore| chore.device == device && chore.in_flight)
        else {
            return;
        };
        let chore = &mut self.table.chores[at];
        chore.in_flight = false;
        match result {
            Ok(data) => {
                if let What::Judge(_, copies) = &mut chore.what {
                    copies.push(data.first().map(|block| Box::new(*block.bytes())));
                }
                if chore.asks.is_empty() {
                    let chore = self.table.chores.remove(at);
                    self.chore_ended(chore);
                }
            }
            Err(error) => match self.table.chores.remove(at).what {
                What::Judge(..) | What::Prepare(_) => {
                    let why = DiskRefusal::Failed(error);
                    self.table.news.push_back(DiskNews::Refused { device, why });
                }
                What::Erase(_, PoolDisk { uuid, .. }) => {
                    self.table.news.push_back(DiskNews::Left { device, uuid, erased: false });
                }
            },
        }
    }

    fn chore_ended(&mut self, chore: Chore) {
        let device = chore.device;
        match chore.what {
            What::Judge(new, copies) => {
                let copies: [Copy; 2] = copies.try_into().expect("both places were read");
                let departing: Vec<_> = self.departing().map(|(.., entry)| entry.uuid).collect();
                match may_join(&copies, self.identity.pool, &self.layout.disks, &departing, new.replaces) {
                    Ok(()) => self.table.chores.push(Chore {
                        device,
                        what: What::Prepare(new),
                        asks: clear(),
                        in_flight: false,
                    }),
                    Err(why) => self.table.news.push_back(DiskNews::Refused { device, why }),
                }
            }
            What::Prepare(new) => match self.plan_join(&new) {
                Ok((place, (disk, sizes))) => self.join(place, disk, sizes, device),
                Err(why) => self.table.news.push_back(DiskNews::Refused { device, why }),
            },
            What::Erase(_, PoolDisk { uuid, .. }) => {
                self.table.news.push_back(DiskNews::Left { device, uuid, erased: true });
            }
        }
    }

    /// The disk is in the table that the next commit writes; so are the larger areas that the metadata need with it.
    fn join(&mut self, place: DiskId, disk: PoolDisk, sizes: Option<Sizes>, device: DiskId) {
        let at = usize::from(place.0);
        self.layout.growing = sizes;
        if at == self.layout.disks.len() {
            self.layout.disks.push(disk);
            self.devices.push(Some(device));
        } else {
            (self.layout.disks[at], self.devices[at]) = (disk, Some(device));
        }
        self.space.add(place, disk.slots);
        if self.planted.has(Bug::DiskUsedBeforeItJoined) {
            self.space.open(place);
        }
        self.table.change(Change::Join { disk: place, device });
    }
}

/// The bytes that a disk must have so that its superblocks can be read at all.
const _: () = assert!(SUPERBLOCK_OFFSETS[1] + BLOCK_BYTES as u64 <= SUPERBLOCK_AREA_BYTES);
