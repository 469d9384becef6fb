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
//!   [`RATE`], and each has at most [`PIECES_MAX`] requests in flight, so that guests keep the disks. These do not count
//!   as write-back: what guests wrote is not kept waiting by moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::destage::{Job, Key};
use super::plan::Plan;
use super::{Damage, Purpose, Store};
use crate::block::{Block, Payload, zeros};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskError, DiskOp, DiskResult};
use crate::planted::Bug;
use crate::pool::{DiskNews, DiskRefusal, DiskState, NewDisk, ZeroBits};
use crate::time::{Duration, Instant};

/// Most bytes of extents on the move at once.
const MOVING_BYTES_MAX: u64 = 16 << 20;
/// Bytes per second that begin to move at most.
const RATE: u64 = 256 << 20;
/// Longest single read or write of a move, in blocks (1 MiB).
const RUN_BLOCKS_MAX: u64 = 256;
/// Most reads or writes of one move in flight.
pub(super) const PIECES_MAX: usize = 4;
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

/// An extent being read for its move.
#[derive(Debug)]
struct Gathering {
    disk: DiskId,
    /// Byte offset of the extent on the disk.
    offset: u64,
    data: Payload,
    /// Pieces to be read, and in flight: first block in the extent, blocks.
    asks: VecDeque<(u64, u64)>,
    in_flight: usize,
    /// Blocks that read as zero by the map: they are not read.
    zeros: ZeroBits,
    /// Blocks that cannot be had from there, and why.
    bad: BTreeMap<u64, Damage>,
}

/// State of the evacuation.
#[derive(Debug, Default)]
pub(super) struct Evacuation {
    paused: BTreeSet<DiskId>,
    gathering: BTreeMap<Key, Gathering>,
    /// Those that have been read and wait for their checksums.
    unverified: Vec<Key>,
    /// Moves in progress.
    moves: usize,
    /// The search goes on here.
    cursor: Option<Key>,
    /// Something was left behind in this round.
    left_behind: bool,
    next_at: Option<Instant>,
    unmovable: BTreeMap<DiskId, BTreeSet<Unmovable>>,
    news: VecDeque<Unmovable>,
    /// Blocks that stood in the way of a move and have not been asked for.
    in_the_way: VecDeque<(VolumeId, u64)>,
}

impl Store {
    /// Lets a disk join the pool; see [`Pool::add_disk`](crate::pool::Pool::add_disk).
    pub fn add_disk(&mut self, new: NewDisk) {
        self.pool.add_disk(new);
    }

    /// Begins to empty a disk, which then leaves. [`poll_disk_news`](Self::poll_disk_news) tells when it has.
    pub fn remove_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        self.pool.remove_disk(disk)?;
        self.evacuation.paused.remove(&disk);
        self.evacuation.restart();
        Ok(())
    }

    /// A disk that is leaving stays.
    pub fn keep_disk(&mut self, disk: DiskId) -> Result<(), DiskRefusal> {
        self.pool.keep_disk(disk)?;
        self.evacuation.paused.remove(&disk);
        self.evacuation.unmovable.remove(&disk);
        Ok(())
    }

    /// No more extents leave this disk until further notice (or a restart); or they do again.
    pub fn pause_removal(&mut self, disk: DiskId, paused: bool) -> Result<(), DiskRefusal> {
        if self.pool.disks()[usize::from(disk.0)].state != DiskState::Leaving {
            return Err(DiskRefusal::NotLeaving);
        }
        if paused {
            self.evacuation.paused.insert(disk);
        } else {
            self.evacuation.paused.remove(&disk);
            self.evacuation.restart();
        }
        Ok(())
    }

    /// Is the emptying of this disk paused?
    pub fn is_paused(&self, disk: DiskId) -> bool {
        self.evacuation.paused.contains(&disk)
    }

    /// What is damaged on a leaving disk, as far as known, at most 64 places.
    pub fn unmovable(&self, disk: DiskId) -> impl Iterator<Item = Unmovable> + '_ {
        self.evacuation.unmovable.get(&disk).into_iter().flatten().copied()
    }

    /// What became of disks that were to join or to leave.
    pub fn poll_disk_news(&mut self) -> Option<DiskNews> {
        self.pool.poll_disk_news()
    }

    /// A block that was found damaged while its extent was to be moved; each is told once.
    pub fn poll_unmovable(&mut self) -> Option<Unmovable> {
        self.evacuation.news.pop_front()
    }

    /// A damaged block that keeps its extent on a leaving disk, told each time that it does: [`repair`](Self::repair)
    /// lets it go.
    pub fn poll_in_the_way(&mut self) -> Option<(VolumeId, u64)> {
        self.evacuation.in_the_way.pop_front()
    }

    /// Begins moves, and lets disks go that are empty.
    pub(super) fn evacuate(&mut self, now: Instant) {
        let places = 0..self.pool.disks().len() as u16;
        for disk in places.map(DiskId) {
            if self.is_leaving(disk) && self.is_quiet(disk) && self.drop_disk(disk) {
                self.evacuation.paused.remove(&disk);
                self.evacuation.unmovable.remove(&disk);
            }
        }
        while self.may_begin(now) {
            match self.find() {
                Search::Found(_) if !self.pool.has_room_to_move() => {
                    self.evacuation.restart();
                    self.evacuation.next_at = Some(now + ROUND_PAUSE);
                }
                Search::Found(key) => {
                    let bytes = self.pool.extent_blocks() * 4096;
                    let pause = Duration::from_nanos((bytes as u128 * 1_000_000_000 / RATE as u128) as u64);
                    self.evacuation.next_at = Some(now + pause);
                    self.gather(now, key);
                }
                Search::Later => {
                    self.evacuation.next_at = Some(now + Duration::from_micros(1));
                    return;
                }
                Search::End => {
                    let pause = if core::mem::take(&mut self.evacuation.left_behind) {
                        ROUND_PAUSE
                    } else {
                        Duration::from_millis(10)
                    };
                    self.evacuation.next_at = Some(now + pause);
                }
            }
        }
    }

    /// Lets a disk go if nothing is on it. Its checksums are of nothing any more, so none of them is unsure.
    fn drop_disk(&mut self, disk: DiskId) -> bool {
        if self.pool.extents_on(disk) != 0 {
            return false;
        }
        let records = self.sums.records_without(disk, self.pool.metadata());
        if !records.is_empty() {
            self.pool.append(&records);
        }
        let gone = self.pool.drop_disk(disk);
        if gone {
            self.forget_disk(disk);
        }
        gone
    }

    /// When the next move may begin, if there is something to move.
    pub(super) fn next_move(&self) -> Option<Instant> {
        let full = self.evacuation.moves >= self.moves_max();
        if full || !self.wants_moves() {
            None
        } else {
            Some(self.evacuation.next_at.unwrap_or(Instant::ZERO))
        }
    }

    fn is_leaving(&self, disk: DiskId) -> bool {
        self.pool.disks()[usize::from(disk.0)].state == DiskState::Leaving
    }

    fn is_moved_from(&self, disk: DiskId) -> bool {
        self.is_leaving(disk) && !self.evacuation.paused.contains(&disk)
    }

    fn wants_moves(&self) -> bool {
        let places = (0..self.pool.disks().len() as u16).map(DiskId);
        let left = places.filter(|disk| self.is_moved_from(*disk)).map(|disk| self.pool.extents_on(disk));
        left.map(u64::from).sum::<u64>() > self.evacuation.moves as u64
    }

    fn moves_max(&self) -> usize {
        (MOVING_BYTES_MAX / (self.pool.extent_blocks() * 4096)).clamp(1, 8) as usize
    }

    fn may_begin(&self, now: Instant) -> bool {
        self.evacuation.moves < self.moves_max()
            && self.evacuation.next_at.is_none_or(|at| now >= at)
            && self.wants_moves()
    }

    /// The next extent, from the cursor on, that has to leave its disk and that no job works on.
    fn find(&mut self) -> Search {
        let (volume, extent) = self.evacuation.cursor.unwrap_or((VolumeId(0), 0));
        let mut looked = 0;
        for (id, meta) in self.pool.metadata().volumes().filter(|(id, _)| *id >= volume) {
            let from = if id == volume { extent } else { 0 };
            for (at, slot) in meta.map.iter_from(from) {
                if looked == SCAN_MAX {
                    self.evacuation.cursor = Some((id, at));
                    return Search::Later;
                }
                looked += 1;
                if self.is_moved_from(slot.disk) && !self.destager.is_busy(id, at) {
                    self.evacuation.cursor = Some((id, at.saturating_add(1)));
                    return Search::Found((id, at));
                }
            }
        }
        self.evacuation.cursor = None;
        Search::End
    }

    fn gather(&mut self, now: Instant, key: Key) {
        let size = self.pool.extent_blocks();
        let (disk, offset) =
            self.pool.place(key.0, u64::from(key.1) * size).expect("it was found in the map");
        let zero_map = self.pool.zeros(key.0, key.1).cloned().unwrap_or_default();
        let mut asks = VecDeque::new();
        let mut next = 0;
        for run in zero_map.runs().into_iter().chain(core::iter::once(size as u32..size as u32)) {
            let (start, end) = (u64::from(run.start), u64::from(run.end));
            let pieces = (next..start).step_by(RUN_BLOCKS_MAX as usize);
            asks.extend(pieces.map(|at| (at, RUN_BLOCKS_MAX.min(start - at))));
            next = end;
        }
        let (data, zeros, bad) = (zeros(size as usize), zero_map, BTreeMap::new());
        self.evacuation.moves += 1;
        let gathering = Gathering { disk, offset, data, asks, in_flight: 0, zeros, bad };
        self.evacuation.gathering.insert(key, gathering);
        self.add_job(key.0, key.1, Job::moving(disk));
        self.sums.want(disk, offset, size * 4096);
        self.load_sums();
        self.go_on_gathering(now, key);
    }

    /// Asks for what is to be read; if all has been, it is compared with its checksums.
    fn go_on_gathering(&mut self, now: Instant, key: Key) {
        let Some(gathering) = self.evacuation.gathering.get(&key) else { return };
        if gathering.asks.is_empty() && gathering.in_flight == 0 {
            self.evacuation.unverified.push(key);
            self.verify_gathered(now);
        } else {
            self.ask(key);
        }
    }

    /// Pages of checksums have come, or an extent has been read.
    pub(super) fn verify_gathered(&mut self, now: Instant) {
        let bytes = self.pool.extent_blocks() * 4096;
        for key in core::mem::take(&mut self.evacuation.unverified) {
            let Gathering { disk, offset, .. } = self.evacuation.gathering[&key];
            if self.sums.is_loaded(disk, offset, bytes) {
                self.verify_extent(now, key);
                self.sums.unwant(disk, offset, bytes);
                self.move_gathered(now, key);
            } else {
                self.evacuation.unverified.push(key);
            }
        }
    }

    /// Compares what was read with its checksums.
    fn verify_extent(&mut self, now: Instant, (volume, extent): Key) {
        if self.planted.has(Bug::MovedUncompared) {
            return;
        }
        let ask = self.may_ask(volume);
        let first = u64::from(extent) * self.pool.extent_blocks();
        let cache = self.volumes.get(&volume).map_or(&self.nothing, |volume| &volume.cache);
        let gathering = self.evacuation.gathering.get_mut(&(volume, extent)).expect("found by the caller");
        for (block, content) in (0..).zip(&gathering.data) {
            // What the cache has is newer, or the same.
            let is_zero = gathering.zeros.contains(block as u32);
            if is_zero || gathering.bad.contains_key(&block) || cache.peek(first + block).is_some() {
                continue;
            }
            let place = gathering.offset + block * 4096;
            if let Err(damage) =
                self.sums.verify(now, gathering.disk, place, (volume, first + block), content, ask)
            {
                gathering.bad.insert(block, damage);
            }
        }
    }

    fn ask(&mut self, key: Key) {
        let Some(gathering) = self.evacuation.gathering.get_mut(&key) else { return };
        let (disk, offset) = (gathering.disk, gathering.offset);
        let count = gathering.asks.len().min(PIECES_MAX.saturating_sub(gathering.in_flight));
        let asks: Vec<(u64, u64)> = gathering.asks.drain(..count).collect();
        gathering.in_flight += count;
        for (at, blocks) in asks {
            let op = DiskOp::Read { offset: offset + at * 4096, blocks: blocks as u32 };
            self.submit(disk, op, Purpose::Gather { volume: key.0, extent: key.1, at, blocks });
        }
    }

    pub(super) fn gathered(&mut self, now: Instant, key: Key, at: u64, blocks: u64, result: DiskResult) {
        let Some(gathering) = self.evacuation.gathering.get_mut(&key) else { return };
        gathering.in_flight -= 1;
        let result = result
            .and_then(|data| if data.len() as u64 == blocks { Ok(data) } else { Err(DiskError::Failed) });
        match result {
            Ok(data) => {
                for (place, block) in gathering.data[at as usize..].iter_mut().zip(data) {
                    *place = block;
                }
            }
            // Which of them is it?
            Err(_) if blocks > 1 => {
                let half = blocks / 2;
                gathering.asks.extend([(at, half), (at + half, blocks - half)]);
            }
            Err(_) => drop(gathering.bad.insert(at, Damage::Unreadable)),
        }
        self.go_on_gathering(now, key);
    }

    /// All that can be had from there is here.
    fn move_gathered(&mut self, now: Instant, key: Key) {
        let (volume, extent) = key;
        let Gathering { disk, offset, data, zeros, bad, .. } =
            self.evacuation.gathering.remove(&key).expect("just read");
        let first = u64::from(extent) * self.pool.extent_blocks();
        let cache = self.volumes.get(&volume).map_or(&self.nothing, |volume| &volume.cache);
        let mut lost = bad.iter().filter(|(at, _)| cache.peek(first + **at).is_none());
        if let Some((at, damage)) = lost.next() {
            let all = core::iter::once((at, damage)).chain(lost);
            let damaged = all.filter(|(_, damage)| **damage != Damage::Unsure);
            let room = PLACES_MAX.saturating_sub(self.evacuation.in_the_way.len());
            self.evacuation.in_the_way.extend(damaged.map(|(at, _)| (volume, first + at)).take(room));
            let unmovable = Unmovable { volume, block: first + at, disk, offset: offset + at * 4096 };
            return self.leave_behind(now, key, unmovable, *damage);
        }
        let still = self.pool.place(volume, first) == Some((disk, offset)) && self.is_leaving(disk);
        let slot = if still { self.pool.allocate_move(volume, extent) } else { None };
        let Some(slot) = slot else {
            self.evacuation.left_behind |= still;
            return self.finish_job(now, key);
        };
        let cache = &mut self.volume(volume).cache;
        let mut blocks = cache.dirty_in(first..first + data.len() as u64);
        // New zeros are written as they are and stay dirty: the next job of the extent remembers them, or unmaps it.
        blocks.retain(|block| {
            let is_zero = matches!(cache.peek(*block), Some(Block::Zero));
            !is_zero || zeros.contains((block - first) as u32)
        });
        let mut contents: BTreeMap<u64, Block> = BTreeMap::new();
        for (at, content) in (0..).zip(data) {
            if !zeros.contains(at as u32) {
                let content = cache.peek(first + at).cloned().unwrap_or(content);
                contents.insert(at, content);
            }
        }
        for &block in &blocks {
            contents.insert(block - first, cache.issue(block));
        }
        let used = self.pool.blocks_in(volume, extent);
        let plan = Plan::mapped_extent(used, self.pool.zeros(volume, extent), contents.into_iter(), false);
        self.write_moved(now, key, slot, blocks, plan);
    }

    fn leave_behind(&mut self, now: Instant, key: Key, unmovable: Unmovable, damage: Damage) {
        self.evacuation.left_behind = true;
        if damage == Damage::Unsure {
            // The partner will tell; it is no damage before.
            return self.finish_job(now, key);
        }
        let known = self.evacuation.unmovable.entry(unmovable.disk).or_default();
        if known.len() < PLACES_MAX && known.insert(unmovable) {
            self.evacuation.news.push_back(unmovable);
        }
        self.finish_job(now, key);
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
