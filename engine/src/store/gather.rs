//! An extent that gets a new place is read and compared, and goes the way of a new one. It leaves its disk: what that keeps to
//! is said in `evacuate`, which chooses the extents. Or it gets a place of its own, apart from those with whom it was shared:
//! that is in `redirect`.

use std::collections::{BTreeMap, VecDeque};

use super::base::Base;
use super::evacuate::Unmovable;
use super::job::Job;
use super::plan::Plan;
use super::sums::Address;
use super::volume::VolumeStore;
use super::{Damage, Purpose};
use crate::block::{Block, Payload, zeros};
use crate::cache::Cache;
use crate::ids::DiskId;
use crate::io::{DiskError, DiskOp, DiskResult};
use crate::planted::Bug;
use crate::pool::ZeroBits;
use crate::time::Instant;

/// Longest single read or write of a move, in blocks (1 MiB).
const RUN_BLOCKS_MAX: u64 = 256;
/// A block that gets a place of its own is tried so often where it was.
const TRIES_MAX: u32 = 3;
/// Most reads or writes of one move in flight.
pub(super) const PIECES_MAX: usize = 4;

/// What an extent is read for.
#[derive(Debug)]
pub(super) enum Reason {
    /// It leaves its disk; true: several volumes have it, and all go along.
    Move(bool),
    /// It gets a place of its own, with these blocks written anew: counted from its beginning.
    Redirect(BTreeMap<u64, Block>),
}

/// An extent being read, to get a new place.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) disk: DiskId,
    /// Byte offset of the extent on the disk.
    pub(super) offset: u64,
    pub(super) data: Payload,
    /// Pieces to be read, and in flight: first block in the extent, blocks.
    asks: VecDeque<(u64, u64)>,
    in_flight: usize,
    /// Blocks that are not read: they read as zero by the map, or are written anew.
    pub(super) known: ZeroBits,
    /// Blocks that cannot be had from there, and why.
    pub(super) bad: BTreeMap<u64, Damage>,
    /// How often blocks were asked for in vain.
    tries: BTreeMap<u64, u32>,
    pub(super) reason: Reason,
}

impl Gathering {
    /// A block could not be read. Once it has a new place, what was there before is asked no more: so it is tried again.
    fn ask_again(&mut self, at: u64) {
        let tries = self.tries.entry(at).or_default();
        *tries += 1;
        if *tries < TRIES_MAX && matches!(self.reason, Reason::Redirect(_)) {
            self.asks.push_back((at, 1));
        } else {
            self.bad.insert(at, Damage::Unreadable);
        }
    }
}

impl VolumeStore {
    /// Begins the move of an extent.
    pub(super) fn gather(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let first = u64::from(extent) * base.pool.extent_blocks();
        let (disk, _) = base.pool.place(self.id, first).expect("it was found in the map");
        let shared = base.pool.is_shared(self.id, extent);
        let zeros = base.pool.zeros_of_all(self.id, extent);
        base.evacuation.moves += 1;
        let job = Job { shared, ..Job::moving(disk) };
        self.begin_gathering(base, now, extent, job, zeros, Reason::Move(shared));
    }

    /// Begins to read an extent but for the blocks that are known.
    pub(super) fn begin_gathering(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        job: Job,
        known: ZeroBits,
        reason: Reason,
    ) {
        let size = base.pool.extent_blocks();
        let (disk, offset) =
            base.pool.place(self.id, u64::from(extent) * size).expect("it was found in the map");
        let mut asks = VecDeque::new();
        let mut next = 0;
        for run in known.runs().into_iter().chain(core::iter::once(size as u32..size as u32)) {
            let (start, end) = (u64::from(run.start), u64::from(run.end));
            let pieces = (next..start).step_by(RUN_BLOCKS_MAX as usize);
            asks.extend(pieces.map(|at| (at, RUN_BLOCKS_MAX.min(start - at))));
            next = end;
        }
        if matches!(reason, Reason::Redirect(_)) {
            base.pool.slots_in(disk, offset..offset + size * 4096).for_each(|slot| base.pool.hold(slot));
        }
        let (data, in_flight) = (zeros(size as usize), 0);
        let (bad, tries) = (BTreeMap::new(), BTreeMap::new());
        let gathering = Gathering { disk, offset, data, asks, in_flight, known, bad, tries, reason };
        self.gathering.insert(extent, gathering);
        self.add_job(base, extent, job);
        base.sums.want(disk, offset, size * 4096);
        base.load_sums();
        self.go_on_gathering(base, now, extent);
    }

    /// Asks for what is to be read; if all has been, it is compared with its checksums.
    fn go_on_gathering(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let Some(gathering) = self.gathering.get(&extent) else { return };
        if gathering.asks.is_empty() && gathering.in_flight == 0 {
            self.verify_gathered(base, now, extent);
        } else {
            self.ask(base, extent);
        }
    }

    /// Compares what has been read with its checksums, when these are here, and goes on.
    pub(super) fn verify_gathered(&mut self, base: &mut Base, now: Instant, extent: u32) {
        let bytes = base.pool.extent_blocks() * 4096;
        let Gathering { disk, offset, .. } = self.gathering[&extent];
        if base.sums.is_loaded(disk, offset, bytes) {
            self.verify_extent(base, now, extent);
            base.sums.unwant(disk, offset, bytes);
            let gathering = self.gathering.remove(&extent).expect("just compared");
            match gathering.reason {
                Reason::Move(shared) => self.move_gathered(base, now, extent, gathering, shared),
                Reason::Redirect(_) => self.redirect_gathered(base, now, extent, gathering),
            }
        } else {
            base.evacuation.unverified.push((self.id, extent));
        }
    }

    /// Compares what was read with its checksums.
    fn verify_extent(&mut self, base: &mut Base, now: Instant, extent: u32) {
        if base.has(Bug::MovedUncompared) {
            return;
        }
        let (volume, ask, cache) = (self.id, base.may_ask(self.id), &self.cache);
        let family = base.pool.family(volume);
        let first = u64::from(extent) * base.pool.extent_blocks();
        let gathering = self.gathering.get_mut(&extent).expect("found by the caller");
        let alone = matches!(gathering.reason, Reason::Move(false));
        for (at, content) in (0..).zip(&gathering.data) {
            let block = first + at;
            let is_known = gathering.known.contains(at as u32);
            // What the cache has is newer, or the same.
            if is_known || gathering.bad.contains_key(&at) || alone && cache.peek(block).is_some() {
                continue;
            }
            let place = gathering.offset + at * 4096;
            let address = Address { family, volume, block };
            if let Err(damage) = base.sums.verify(now, gathering.disk, place, address, content, ask) {
                gathering.bad.insert(at, damage);
            }
        }
    }

    fn ask(&mut self, base: &mut Base, extent: u32) {
        let Some(gathering) = self.gathering.get_mut(&extent) else { return };
        let (disk, offset) = (gathering.disk, gathering.offset);
        let count = gathering.asks.len().min(PIECES_MAX.saturating_sub(gathering.in_flight));
        let asks: Vec<(u64, u64)> = gathering.asks.drain(..count).collect();
        gathering.in_flight += count;
        for (at, blocks) in asks {
            let op = DiskOp::Read { offset: offset + at * 4096, blocks: blocks as u32 };
            base.submit(disk, op, Purpose::Gather { volume: self.id, extent, at, blocks });
        }
    }

    /// A piece of the extent has come.
    pub(super) fn gathered(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        (at, blocks): (u64, u64),
        result: DiskResult,
    ) {
        let Some(gathering) = self.gathering.get_mut(&extent) else { return };
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
            Err(_) => gathering.ask_again(at),
        }
        self.go_on_gathering(base, now, extent);
    }

    /// All that can be had from there is here.
    fn move_gathered(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        gathering: Gathering,
        shared: bool,
    ) {
        let volume = self.id;
        let Gathering { disk, offset, data, known: zeros, bad, .. } = gathering;
        let first = u64::from(extent) * base.pool.extent_blocks();
        let cache = &mut self.cache;
        // What the cache has is this volume's alone.
        let has = |cache: &Cache, at: u64| !shared && cache.peek(first + at).is_some();
        let mut lost = bad.iter().filter(|(at, _)| !has(cache, **at));
        if let Some((at, damage)) = lost.next() {
            // Of a block in doubt too the partner can tell: of a clone nobody else may ask.
            let all = core::iter::once((at, damage)).chain(lost);
            base.evacuation.note_in_the_way(all.map(|(at, _)| (volume, first + at)));
            let unmovable = Unmovable { volume, block: first + at, disk, offset: offset + at * 4096 };
            base.evacuation.leave_behind(unmovable, *damage);
            return self.finish_job(base, now, extent);
        }
        let still = base.pool.place(volume, first) == Some((disk, offset)) && base.is_leaving(disk);
        let slot = if still { base.pool.allocate_move(volume, extent) } else { None };
        let Some(slot) = slot else {
            base.evacuation.left_behind |= still;
            return self.finish_job(base, now, extent);
        };
        let mut blocks = if shared { Vec::new() } else { cache.dirty_in(first..first + data.len() as u64) };
        // New zeros are written as they are and stay dirty: the next job of the extent remembers them, or unmaps it.
        blocks.retain(|block| {
            let is_zero = matches!(cache.peek(*block), Some(Block::Zero));
            !is_zero || zeros.contains((block - first) as u32)
        });
        let mut contents: BTreeMap<u64, Block> = BTreeMap::new();
        for (at, content) in (0..).zip(data) {
            if !zeros.contains(at as u32) {
                let newer = cache.peek(first + at).filter(|_| !shared).cloned();
                contents.insert(at, newer.unwrap_or(content));
            }
        }
        for &block in &blocks {
            contents.insert(block - first, cache.issue(block));
        }
        let used = base.pool.blocks_in(volume, extent);
        let now_zero = if shared { Some(&zeros) } else { base.pool.zeros(volume, extent) };
        let plan = Plan::mapped_extent(used, now_zero, contents.into_iter(), false);
        self.write_moved(base, now, extent, slot, blocks, plan);
    }
}
