//! Empties disks that leave: their extents are moved to others, a few at a time, while guests go on.
//!
//! A move is one more kind of write-back job, so nothing else works on its extent meanwhile: read all of the extent
//! → compare it with its checksums → what the cache has that is newer wins → write it to a new slot, with new
//! checksums → flush → map it there → the map is durable → the old slot is free. A crash before that leaves the
//! extent where it was. Blocks that read as zero by the map are neither read nor written: the map says so of the
//! extent, wherever it lies. What became zero and is not written back yet is none of the move's business: it is written
//! like data, and stays dirty.
//!
//! Invariants:
//! - What is written to the new slot is what a read would have returned: a block that cannot be read, or is not what
//!   was written there, and that the cache does not have, keeps its extent where it is. It is told, and tried again
//!   later. In a pair the node asks the partner for it meanwhile (`node::disks`). So it does with blocks in doubt.
//! - A disk goes only when nothing is in flight to its checksums, and none of them is unsure.
//! - The data of moves in progress take at most [`MOVING_BYTES_MAX`], or one extent; moves begin at most at
//!   [`RATE`], and each has at most [`PIECES_MAX`](super::gather::PIECES_MAX) requests in flight, so that guests keep the
//!   disks. These do not count as write-back: what guests wrote is not kept waiting by moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::base::Base;
use super::destage::Key;
use super::{Damage, Store};
use crate::ids::{DiskId, VolumeId};
use crate::pool::{DiskNews, DiskRefusal, DiskState, NewDisk};
use crate::time::{Duration, Instant};

/// Most bytes of extents on the move at once.
const MOVING_BYTES_MAX: u64 = 16 << 20;
/// Bytes per second that begin to move at most.
const RATE: u64 = 256 << 20;
/// Map entries that are looked at in one go.
const SCAN_MAX: usize = 4096;
/// After a round that left something behind, or found no room, the next begins this much later.
const ROUND_PAUSE: Duration = Duration::from_secs(10);
/// Unreadable places that are kept for display.
const PLACES_MAX: usize = 64;

/// A block that could not be read, or is not what was written, and so keeps its extent on a leaving disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Unmovable {
    /// The volume.
    pub volume: VolumeId,
    /// Its 4 KiB block.
    pub block: u64,
    /// The disk's place in the pool.
    pub disk: DiskId,
    /// Byte offset on it.
    pub offset: u64,
}

/// State of the evacuation.
#[derive(Debug, Default)]
pub(super) struct Evacuation {
    paused: BTreeSet<DiskId>,
    /// Extents that have been read and wait for their checksums.
    pub(super) unverified: Vec<Key>,
    /// Moves in progress.
    pub(super) moves: usize,
    /// The search goes on here.
    cursor: Option<Key>,
    /// Something was left behind in this round.
    pub(super) left_behind: bool,
    next_at: Option<Instant>,
    unmovable: BTreeMap<DiskId, BTreeSet<Unmovable>>,
    news: VecDeque<Unmovable>,
    /// Blocks that stood in the way of a move and have not been asked for.
    in_the_way: VecDeque<(VolumeId, u64)>,
}

impl Store {
    /// Lets a disk join the pool; see [`Pool::add_disk`](crate::pool::Pool::add_disk).
    pub fn add_disk(&mut self, new: NewDisk) {
        self.base.pool.add_disk(new);
    }

    /// Begins to empty a disk, which then leaves. [`poll_disk_news`](Self::poll_disk_news) tells when it has.
    pub fn remove_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        self.remove_disk_beside(disk, 0)
    }

    /// As [`Pool::remove_disk_beside`](crate::pool::Pool::remove_disk_beside).
    pub fn remove_disk_beside(&mut self, disk: DiskId, pending: usize) -> Result<(), DiskRefusal> {
        self.base.pool.remove_disk_beside(disk, pending)?;
        self.base.evacuation.paused.remove(&disk);
        self.base.evacuation.restart();
        Ok(())
    }

    /// A disk that is leaving stays.
    pub fn keep_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        self.base.pool.keep_disk(disk)?;
        self.base.evacuation.paused.remove(&disk);
        self.base.evacuation.unmovable.remove(&disk);
        Ok(())
    }

    /// No more extents leave this disk until further notice (or a restart); or they do again.
    pub fn pause_removal(&mut self, disk: DiskId, paused: bool) -> Result<(), DiskRefusal> {
        if self.base.pool.disks()[usize::from(disk.0)].state != DiskState::Leaving {
            return Err(DiskRefusal::NotLeaving);
        }
        if paused {
            self.base.evacuation.paused.insert(disk);
        } else {
            self.base.evacuation.paused.remove(&disk);
            self.base.evacuation.restart();
        }
        Ok(())
    }

    /// Is the emptying of this disk paused?
    pub fn is_paused(&self, disk: DiskId) -> bool {
        self.base.evacuation.paused.contains(&disk)
    }

    /// What is damaged on a leaving disk, as far as known, at most 64 places.
    pub fn unmovable(&self, disk: DiskId) -> impl Iterator<Item = Unmovable> + '_ {
        self.base.evacuation.unmovable.get(&disk).into_iter().flatten().copied()
    }

    /// What became of disks that were to join or to leave.
    pub fn poll_disk_news(&mut self) -> Option<DiskNews> {
        self.base.pool.poll_disk_news()
    }

    /// A block that was found damaged while its extent was to be moved; each is told once.
    pub fn poll_unmovable(&mut self) -> Option<Unmovable> {
        self.base.evacuation.news.pop_front()
    }

    /// A block, damaged or in doubt, that keeps its extent on a leaving disk, told each time that it does: [`repair`](Self::repair)
    /// lets it go.
    pub fn poll_in_the_way(&mut self) -> Option<(VolumeId, u64)> {
        self.base.evacuation.in_the_way.pop_front()
    }

    /// Begins moves, and lets disks go that are empty.
    pub(super) fn evacuate(&mut self, now: Instant) {
        let places = 0..self.base.pool.disks().len() as u16;
        for disk in places.map(DiskId) {
            if self.base.is_leaving(disk) && self.base.is_quiet(disk) && self.drop_disk(disk) {
                self.base.evacuation.paused.remove(&disk);
                self.base.evacuation.unmovable.remove(&disk);
            }
        }
        while self.may_begin(now) {
            match self.find() {
                Search::Found(_) if !self.base.pool.has_room_to_move() => {
                    self.base.evacuation.restart();
                    self.base.evacuation.next_at = Some(now + ROUND_PAUSE);
                }
                Search::Found(key) => {
                    let bytes = self.base.pool.extent_blocks() * 4096;
                    let pause = Duration::from_nanos((bytes as u128 * 1_000_000_000 / RATE as u128) as u64);
                    self.base.evacuation.next_at = Some(now + pause);
                    self.with(key.0, |volume, base| volume.gather(base, now, key.1));
                }
                Search::Later => {
                    self.base.evacuation.next_at = Some(now + Duration::from_micros(1));
                    return;
                }
                Search::End => {
                    let pause = if core::mem::take(&mut self.base.evacuation.left_behind) {
                        ROUND_PAUSE
                    } else {
                        Duration::from_millis(10)
                    };
                    self.base.evacuation.next_at = Some(now + pause);
                }
            }
        }
    }

    /// Lets a disk go if nothing is on it. Its checksums are of nothing any more, so none of them is unsure.
    fn drop_disk(&mut self, disk: DiskId) -> bool {
        if self.base.pool.extents_on(disk) != 0 {
            return false;
        }
        let records = self.base.sums.records_without(disk, self.base.pool.metadata());
        if !records.is_empty() {
            self.base.pool.append(&records);
        }
        let gone = self.base.pool.drop_disk(disk);
        if gone {
            self.base.forget_disk(disk);
        }
        gone
    }

    /// When the next move may begin, if there is something to move.
    pub(super) fn next_move(&self) -> Option<Instant> {
        let full = self.base.evacuation.moves >= self.moves_max();
        if full || !self.wants_moves() {
            None
        } else {
            Some(self.base.evacuation.next_at.unwrap_or(Instant::ZERO))
        }
    }

    fn is_moved_from(&self, disk: DiskId) -> bool {
        self.base.is_leaving(disk) && !self.base.evacuation.paused.contains(&disk)
    }

    fn wants_moves(&self) -> bool {
        let places = (0..self.base.pool.disks().len() as u16).map(DiskId);
        let left =
            places.filter(|disk| self.is_moved_from(*disk)).map(|disk| self.base.pool.extents_on(disk));
        left.map(u64::from).sum::<u64>() > self.base.evacuation.moves as u64
    }

    fn moves_max(&self) -> usize {
        (MOVING_BYTES_MAX / (self.base.pool.extent_blocks() * 4096)).clamp(1, 8) as usize
    }

    fn may_begin(&self, now: Instant) -> bool {
        self.base.evacuation.moves < self.moves_max()
            && self.base.evacuation.next_at.is_none_or(|at| now >= at)
            && self.wants_moves()
    }

    /// The next extent, from the cursor on, that has to leave its disk and that no job works on.
    fn find(&mut self) -> Search {
        let (volume, extent) = self.base.evacuation.cursor.unwrap_or((VolumeId(0), 0));
        let mut looked = 0;
        let busy =
            |volume: VolumeId, extent| self.volumes.get(volume).is_some_and(|volume| volume.is_busy(extent));
        let resting = |volume: VolumeId| self.volumes.get(volume).is_some_and(|volume| volume.resting);
        for (id, meta) in self.base.pool.metadata().volumes().filter(|(id, _)| *id >= volume) {
            let from = if id == volume { extent } else { 0 };
            for (at, slot) in meta.map.iter_from(from) {
                if looked == SCAN_MAX {
                    self.base.evacuation.cursor = Some((id, at));
                    return Search::Later;
                }
                looked += 1;
                // What several volumes share moves for the first of them.
                let first = || self.base.pool.is_first_sharer(id, at);
                if self.is_moved_from(slot.disk) && !busy(id, at) && !resting(id) && first() {
                    self.base.evacuation.cursor = Some((id, at.saturating_add(1)));
                    return Search::Found((id, at));
                }
            }
        }
        self.base.evacuation.cursor = None;
        Search::End
    }

    /// Extents have been read, or pages of checksums have come.
    pub(super) fn verify_gathered(&mut self, now: Instant) {
        for (id, extent) in core::mem::take(&mut self.base.evacuation.unverified) {
            self.with(id, |volume, base| volume.verify_gathered(base, now, extent));
        }
    }
}

impl Base {
    /// Is this disk being emptied?
    pub(super) fn is_leaving(&self, disk: DiskId) -> bool {
        self.pool.disks()[usize::from(disk.0)].state == DiskState::Leaving
    }

    /// A move is over, done or not.
    pub(super) fn move_ended(&mut self, key: Key) {
        self.evacuation.moves -= 1;
        let size = self.pool.extent_blocks();
        let first = u64::from(key.1) * size;
        let now_on = self.pool.place(key.0, first).map(|(disk, _)| disk);
        for (disk, known) in &mut self.evacuation.unmovable {
            if now_on != Some(*disk) {
                known.retain(|each| each.volume != key.0 || each.block / size != u64::from(key.1));
            }
        }
    }
}

impl Evacuation {
    /// Blocks that keep their extent where it is.
    pub(super) fn note_in_the_way(&mut self, blocks: impl Iterator<Item = (VolumeId, u64)>) {
        let room = PLACES_MAX.saturating_sub(self.in_the_way.len());
        self.in_the_way.extend(blocks.take(room));
    }

    /// An extent stays for now, for the sake of this block.
    pub(super) fn leave_behind(&mut self, unmovable: Unmovable, damage: Damage) {
        self.left_behind = true;
        if damage == Damage::Unsure {
            // The partner will tell; it is no damage before.
            return;
        }
        let known = self.unmovable.entry(unmovable.disk).or_default();
        if known.len() < PLACES_MAX && known.insert(unmovable) {
            self.news.push_back(unmovable);
        }
    }

    /// Looks through everything again, now.
    fn restart(&mut self) {
        (self.cursor, self.next_at, self.left_behind) = (None, None, false);
    }
}

/// What the search for an extent to move has found.
enum Search {
    Found(Key),
    /// Nothing yet.
    Later,
    /// Nothing up to the end.
    End,
}
