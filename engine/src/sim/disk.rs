//! A disk that loses what it may lose.
//!
//! - A completed write is visible, but *volatile* until a flush that was submitted after its completion
//!   completes.
//! - A power cut keeps of each unflushed 512-byte sector any of the contents written to it since the last
//!   flush, or the flushed one, or (bytes that are no guest's) a torn mixture. What was in flight counts as
//!   unflushed.
//! - A process crash keeps what had completed, still volatile, and any subset of what was in flight.
//! - A failed flush may have dropped what it should have kept, for ever: a later flush does not bring it back.
//!
//! - A block may rot, a write may be lost though it was answered, or land on another place. What should be there is
//!   remembered, and comes back when the damage is forgiven or the place is written: only blocks without unflushed
//!   writes are damaged, so that a power cut never mixes rot with what was written over it.
//!
//! Contents are shared [`Block`]s, never copied but where a block is put together from sectors.

use std::collections::BTreeMap;

use super::pattern;
use super::rng::Rng;
use crate::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::io::{DiskError, DiskOp, DiskRequest, DiskResult, Geometry, IoId};
use crate::time::Duration;

const SECTORS: usize = SECTORS_PER_BLOCK as usize;

/// How a node died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process was killed; the operating system's cache lives on.
    Kill,
    /// The power failed.
    PowerCut,
}

/// How long a place stays unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFault {
    /// One read fails.
    Once,
    /// Reads fail until the place is written.
    UntilRewritten,
}

/// What happens to a write that is answered as if all were well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// Nothing is written.
    Lost,
    /// It lands on this block.
    Misdirected(u64),
}

/// Blocks that were not flushed when the power failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Their newest contents are there.
    pub kept: u64,
    /// They fell back, as wholes.
    pub gone: u64,
    /// They are put together from several writes.
    pub torn: u64,
}

/// Times of a disk, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpeed {
    /// A read or write takes about this.
    pub transfer_us: u64,
    /// A flush takes about this.
    pub flush_us: u64,
}

#[derive(Clone, Debug)]
struct Version {
    sequence: u64,
    block: Block,
    /// A failed flush dropped it: visible, but no flush will keep it.
    doomed: bool,
}

#[derive(Debug)]
enum InFlight {
    Read { first: u64, blocks: u32 },
    Write { first: u64, data: Payload },
    Flush { covers: u64 },
    Invalid,
}

/// One simulated disk.
#[derive(Debug)]
pub struct SimDisk {
    geometry: Geometry,
    speed: DiskSpeed,
    pages: PagePool,
    /// What blocks hold that were never written.
    blank: Block,
    stable: BTreeMap<u64, Block>,
    unflushed: BTreeMap<u64, Vec<Version>>,
    in_flight: BTreeMap<IoId, InFlight>,
    sequence: u64,
    unreadable: BTreeMap<u64, ReadFault>,
    /// What should be where something else is.
    damaged: BTreeMap<u64, Block>,
    mishap: Option<Mishap>,
    mishaps: u64,
    slow_factor: u64,
    failing_writes: bool,
    failing_flushes: bool,
}

impl SimDisk {
    /// An empty disk: all zeros, all stable.
    pub fn new(geometry: Geometry, speed: DiskSpeed) -> SimDisk {
        SimDisk {
            geometry,
            speed,
            pages: PagePool::new(),
            blank: Block::Zero,
            stable: BTreeMap::new(),
            unflushed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            unreadable: BTreeMap::new(),
            damaged: BTreeMap::new(),
            mishap: None,
            mishaps: 0,
            slow_factor: 1,
            failing_writes: false,
            failing_flushes: false,
        }
    }

    /// A used disk: what was never written to it reads as junk, that nobody must ever see.
    pub fn with_junk(mut self) -> SimDisk {
        let mut page = self.pages.take();
        page.bytes_mut().fill(0xdb);
        self.blank = Block::Data(page.freeze());
        self
    }

    /// Its size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Puts blocks on the medium at byte `offset`, as a formatter does before the node starts.
    pub fn install(&mut self, offset: u64, data: &[Block]) {
        for (index, block) in data.iter().enumerate() {
            let number = offset / BLOCK_BYTES as u64 + index as u64;
            self.unflushed.remove(&number);
            self.stable.insert(number, block.clone());
        }
    }

    /// Takes a request; it finishes after the returned time, through [`finish`](Self::finish).
    pub fn submit(&mut self, request: DiskRequest, rng: &mut Rng) -> Duration {
        let DiskRequest { id, op, .. } = request;
        let (flight, span) = match op {
            DiskOp::Read { offset, blocks } => match self.place(offset, u64::from(blocks)) {
                Some(first) => (InFlight::Read { first, blocks }, self.speed.transfer_us),
                None => (InFlight::Invalid, 1),
            },
            DiskOp::Write { offset, data } => match self.place(offset, data.len() as u64) {
                Some(first) => (InFlight::Write { first, data }, self.speed.transfer_us),
                None => (InFlight::Invalid, 1),
            },
            DiskOp::Flush => (InFlight::Flush { covers: self.sequence }, self.speed.flush_us),
        };
        self.in_flight.insert(id, flight);
        rng.micros_around(span * self.slow_factor)
    }

    fn place(&self, offset: u64, blocks: u64) -> Option<u64> {
        let bytes = BLOCK_BYTES as u64;
        let inside = blocks > 0 && offset.checked_add(blocks * bytes)? <= self.geometry.bytes;
        (inside && offset.is_multiple_of(bytes)).then_some(offset / bytes)
    }

    /// The request is done: what it does happens now, and this is its answer. `None` if it was lost in a crash.
    pub fn finish(&mut self, id: IoId, rng: &mut Rng) -> Option<DiskResult> {
        Some(match self.in_flight.remove(&id)? {
            InFlight::Invalid => Err(DiskError::Invalid),
            InFlight::Read { first, blocks } => self.read(first, blocks),
            InFlight::Write { first, data } if self.failing_writes => {
                self.apply_some(first, &data, rng);
                Err(DiskError::Failed)
            }
            InFlight::Write { first, data } => {
                self.write(first, data);
                Ok(Payload::new())
            }
            InFlight::Flush { covers } if self.failing_flushes => {
                self.doom(covers, rng);
                Err(DiskError::Failed)
            }
            InFlight::Flush { covers } => {
                self.flush(covers);
                Ok(Payload::new())
            }
        })
    }

    fn read(&mut self, first: u64, blocks: u32) -> DiskResult {
        let range = first..first + u64::from(blocks);
        if !self.unreadable.is_empty() {
            let bad = self.unreadable.range(range.clone()).next().map(|(place, fault)| (*place, *fault));
            if let Some((place, fault)) = bad {
                if fault == ReadFault::Once {
                    self.unreadable.remove(&place);
                }
                return Err(DiskError::Unreadable);
            }
        }
        Ok(range.map(|number| self.visible(number)).collect())
    }

    fn write(&mut self, first: u64, data: Payload) {
        self.sequence += 1;
        for (number, block) in (first..).zip(data) {
            self.unreadable.remove(&number);
            self.forgive(number);
            if self.has_mishap(number, &block) {
                continue;
            }
            let version = Version { sequence: self.sequence, block, doomed: false };
            self.unflushed.entry(number).or_default().push(version);
        }
    }

    /// What was asked for, if anything, happens to this write instead of it.
    fn has_mishap(&mut self, number: u64, block: &Block) -> bool {
        let settled =
            |number: &u64| !self.unflushed.contains_key(number) && !self.damaged.contains_key(number);
        let fits = settled(&number) && block.bytes().chunks(SECTOR_BYTES).any(pattern::is_guest);
        match self.mishap {
            Some(Mishap::Lost) if fits => {}
            Some(Mishap::Misdirected(to)) if fits && to != number && settled(&to) => {
                let there = self.visible(to);
                self.damaged.insert(to, there);
                self.stable.insert(to, block.clone());
            }
            _ => return false,
        }
        self.mishap = None;
        self.mishaps += 1;
        self.damaged.insert(number, block.clone());
        true
    }

    /// Any subset of the sectors of a write happens.
    fn apply_some(&mut self, first: u64, data: &[Block], rng: &mut Rng) {
        let share = rng.pick(&[0.0, 0.5, 0.9, 1.0]);
        for (number, block) in (first..).zip(data) {
            let keep: [bool; SECTORS] = core::array::from_fn(|_| rng.chance(share));
            if keep.contains(&true) {
                let old = self.truth(number);
                let mixed = self.mix(|sector| if keep[sector] { (block, None) } else { (&old, None) });
                self.write(number, [mixed].into_iter().collect());
            }
        }
    }

    fn flush(&mut self, covers: u64) {
        let stable = &mut self.stable;
        self.unflushed.retain(|number, versions| {
            if let Some(last) =
                versions.iter().rposition(|version| version.sequence <= covers && !version.doomed)
            {
                stable.insert(*number, versions[last].block.clone());
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
    }

    fn doom(&mut self, covers: u64, rng: &mut Rng) {
        for version in self.unflushed.values_mut().flatten() {
            if version.sequence <= covers && rng.chance(0.5) {
                version.doomed = true;
            }
        }
    }

    /// What a read of block `number` returns now.
    pub fn visible(&self, number: u64) -> Block {
        match self.unflushed.get(&number).and_then(|versions| versions.last()) {
            Some(version) => version.block.clone(),
            None => self.stable.get(&number).unwrap_or(&self.blank).clone(),
        }
    }

    /// Is what a read of block `number` returns sure to survive a power cut?
    pub fn is_stable(&self, number: u64) -> bool {
        !self.unflushed.contains_key(&number)
    }

    /// What a read of block `number` would return if the disk were sound.
    pub fn truth(&self, number: u64) -> Block {
        self.damaged.get(&number).cloned().unwrap_or_else(|| self.visible(number))
    }

    /// Blocks that are not what they should be.
    pub fn damaged(&self) -> Vec<u64> {
        self.damaged.keys().copied().collect()
    }

    /// The block is what it should be again.
    pub fn forgive(&mut self, number: u64) {
        if let Some(truth) = self.damaged.remove(&number) {
            self.stable.insert(number, truth);
        }
    }

    /// A bit of block `number` flips, if nothing is on its way there. Was it so?
    pub fn rot(&mut self, number: u64, rng: &mut Rng) -> bool {
        if self.unflushed.contains_key(&number) || self.damaged.contains_key(&number) {
            return false;
        }
        let truth = self.visible(number);
        let mut page = self.pages.take();
        page.bytes_mut().copy_from_slice(truth.bytes());
        page.bytes_mut()[rng.below(BLOCK_BYTES as u64) as usize] ^= 1 << rng.below(8);
        self.damaged.insert(number, truth);
        self.stable.insert(number, Block::Data(page.freeze()));
        true
    }

    /// This happens to the next write of a guest's block.
    pub fn arm(&mut self, mishap: Mishap) {
        self.mishap = Some(mishap);
    }

    /// How many writes it has happened to.
    pub fn mishaps(&self) -> u64 {
        self.mishaps
    }

    /// The node on top of it died. What a power cut took.
    pub fn crash(&mut self, crash: Crash, rng: &mut Rng) -> Lost {
        self.mishap = None;
        for flight in core::mem::take(&mut self.in_flight).into_values() {
            if let InFlight::Write { first, data } = flight {
                self.apply_some(first, &data, rng);
            }
        }
        if crash == Crash::PowerCut { self.lose(rng) } else { Lost::default() }
    }

    /// Unflushed sectors fall back to any of their contents since the last flush.
    fn lose(&mut self, rng: &mut Rng) -> Lost {
        let mut lost = Lost::default();
        let manner = rng.below(5);
        for (number, versions) in core::mem::take(&mut self.unflushed) {
            let base = self.stable.get(&number).unwrap_or(&self.blank).clone();
            let count = versions.len() as u64 + 1;
            let content = |index: u64| if index == 0 { &base } else { &versions[index as usize - 1].block };
            let whole = rng.below(count);
            let picks: [(u64, Option<(u64, usize)>); SECTORS] = core::array::from_fn(|_| match manner {
                0 => (0, None),
                1 => (count - 1, None),
                2 => (whole, None),
                _ if self.geometry.sector_bytes as usize >= BLOCK_BYTES => (whole, None),
                _ => {
                    let torn = rng.chance(0.02);
                    let cut = rng.between(1, SECTOR_BYTES as u64 - 1) as usize;
                    (rng.below(count), torn.then(|| (rng.below(count), cut)))
                }
            });
            match picks[0] {
                first if picks.iter().any(|pick| *pick != first) => lost.torn += 1,
                (newest, None) if newest + 1 == count => lost.kept += 1,
                _ => lost.gone += 1,
            }
            let result = self.mix(|sector| {
                let (pick, torn) = picks[sector];
                (content(pick), torn.map(|(other, cut)| (content(other), cut)))
            });
            self.stable.insert(number, result);
        }
        lost
    }

    /// A block put together of sectors: each from one block, or the first bytes from one and the rest from
    /// another. A guest's sector is never torn: its owner could not tell, nor could any disk's user.
    fn mix<'a>(&self, choose: impl Fn(usize) -> (&'a Block, Option<(&'a Block, usize)>)) -> Block {
        let (first, torn) = choose(0);
        if torn.is_none() && (1..SECTORS).all(|s| choose(s).1.is_none() && choose(s).0.same(first)) {
            return first.clone();
        }
        let mut page = self.pages.take();
        for sector in 0..SECTORS {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            let (block, torn) = choose(sector);
            let bytes = &block.bytes()[range.clone()];
            page.bytes_mut()[range.clone()].copy_from_slice(bytes);
            if let Some((other, cut)) = torn {
                let rest = &other.bytes()[range.clone()];
                if !pattern::is_guest(bytes) && !pattern::is_guest(rest) {
                    page.bytes_mut()[range][cut..].copy_from_slice(&rest[cut..]);
                }
            }
        }
        Block::Data(page.freeze())
    }

    /// Requests take this many times as long, until set back to 1.
    pub fn slow_down(&mut self, factor: u64) {
        self.slow_factor = factor.max(1);
    }

    /// Reads of block `number` fail.
    pub fn make_unreadable(&mut self, number: u64, fault: ReadFault) {
        self.unreadable.insert(number, fault);
    }

    /// All writes fail from now on.
    pub fn fail_writes(&mut self) {
        self.failing_writes = true;
    }

    /// All flushes fail from now on.
    pub fn fail_flushes(&mut self) {
        self.failing_flushes = true;
    }

    /// Does it fail writes or flushes?
    pub fn is_failing(&self) -> bool {
        self.failing_writes || self.failing_flushes
    }

    /// Ends all faults but what they have already done.
    pub fn heal(&mut self) {
        self.slow_factor = 1;
        self.unreadable.clear();
        self.mishap = None;
        for number in self.damaged() {
            self.forgive(number);
        }
        self.failing_writes = false;
        self.failing_flushes = false;
    }

    /// Numbers of blocks that hold something.
    pub fn written(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.stable.keys().chain(self.unflushed.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DiskId;

    struct Bench {
        disk: SimDisk,
        rng: Rng,
        next: u64,
    }

    impl Bench {
        fn new(seed: u64) -> Bench {
            let geometry = Geometry { bytes: 1 << 20, sector_bytes: 512 };
            let disk = SimDisk::new(geometry, DiskSpeed { transfer_us: 100, flush_us: 1000 });
            Bench { disk, rng: Rng::new(seed), next: 0 }
        }

        fn block(&self, fill: u8) -> Block {
            let mut page = self.disk.pages.take();
            page.bytes_mut().fill(fill);
            Block::Data(page.freeze())
        }

        fn submit(&mut self, op: DiskOp) -> IoId {
            self.next += 1;
            let id = IoId(self.next);
            self.disk.submit(DiskRequest { id, disk: DiskId(0), op }, &mut self.rng);
            id
        }

        fn write(&mut self, number: u64, fill: u8) -> IoId {
            let data = [self.block(fill)].into_iter().collect();
            self.submit(DiskOp::Write { offset: number * 4096, data })
        }

        fn finish(&mut self, id: IoId) -> DiskResult {
            self.disk.finish(id, &mut self.rng).expect("in flight")
        }

        fn bytes(&self, number: u64) -> Vec<u8> {
            self.disk.visible(number).bytes().to_vec()
        }
    }

    #[test]
    fn a_flush_covers_only_what_had_completed_when_it_was_submitted() {
        let mut lost = 0;
        for seed in 0..200 {
            let mut bench = Bench::new(seed);
            let first = bench.write(0, 1);
            bench.finish(first).unwrap();
            let second = bench.write(1, 2);
            let flush = bench.submit(DiskOp::Flush);
            bench.finish(second).unwrap();
            bench.finish(flush).unwrap();
            assert!(bench.disk.is_stable(0) && !bench.disk.is_stable(1));
            bench.disk.crash(Crash::PowerCut, &mut bench.rng);
            assert_eq!(bench.bytes(0), vec![1; 4096]);
            lost += u32::from(bench.bytes(1) != vec![2; 4096]);
        }
        assert!((20..200).contains(&lost), "{lost}");
    }

    #[test]
    fn a_power_cut_leaves_any_unflushed_content_per_sector_and_tears() {
        let (mut mixed, mut torn) = (0, 0);
        for seed in 0..500 {
            let mut bench = Bench::new(seed);
            for fill in [1, 2, 3] {
                let write = bench.write(5, fill);
                bench.finish(write).unwrap();
            }
            bench.disk.crash(Crash::PowerCut, &mut bench.rng);
            let bytes = bench.bytes(5);
            assert!(bytes.iter().all(|byte| *byte <= 3));
            let same = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
            torn += u32::from(!bytes.chunks(512).all(same));
            mixed += u32::from(bytes.chunks(512).any(|sector| sector[0] != bytes[0]));
            assert!(bench.disk.is_stable(5));
        }
        assert!(mixed > 100 && torn > 10, "{mixed} {torn}");
    }

    #[test]
    fn a_kill_keeps_what_had_completed_and_some_of_what_was_in_flight() {
        let mut some = 0;
        for seed in 0..200 {
            let mut bench = Bench::new(seed);
            let done = bench.write(0, 1);
            bench.finish(done).unwrap();
            let open = bench.write(1, 2);
            bench.disk.crash(Crash::Kill, &mut bench.rng);
            assert_eq!(bench.bytes(0), vec![1; 4096]);
            assert!(!bench.disk.is_stable(0));
            assert!(bench.disk.finish(open, &mut bench.rng).is_none());
            some += u32::from(bench.bytes(1).contains(&2));
        }
        assert!((50..200).contains(&some), "{some}");
    }

    #[test]
    fn what_a_failed_flush_dropped_stays_lost() {
        let mut lost = 0;
        for seed in 0..200 {
            let mut bench = Bench::new(seed);
            let write = bench.write(0, 1);
            bench.finish(write).unwrap();
            bench.disk.fail_flushes();
            let flush = bench.submit(DiskOp::Flush);
            assert_eq!(bench.finish(flush).unwrap_err(), DiskError::Failed);
            bench.disk.heal();
            let again = bench.submit(DiskOp::Flush);
            bench.finish(again).unwrap();
            assert_eq!(bench.bytes(0), vec![1; 4096]);
            bench.disk.crash(Crash::PowerCut, &mut bench.rng);
            lost += u32::from(bench.bytes(0) == vec![0; 4096]);
        }
        assert!(lost > 20, "{lost}");
    }

    #[test]
    fn unreadable_places_heal_by_rewriting() {
        let mut bench = Bench::new(1);
        bench.disk.make_unreadable(3, ReadFault::UntilRewritten);
        bench.disk.make_unreadable(4, ReadFault::Once);
        for expected in [false, false] {
            let read = bench.submit(DiskOp::Read { offset: 3 * 4096, blocks: 1 });
            assert_eq!(bench.finish(read).is_ok(), expected);
        }
        let write = bench.write(3, 9);
        bench.finish(write).unwrap();
        for expected in [false, true] {
            let read = bench.submit(DiskOp::Read { offset: 3 * 4096, blocks: 2 });
            assert_eq!(bench.finish(read).is_ok(), expected);
        }
        let outside = bench.submit(DiskOp::Read { offset: 1 << 20, blocks: 1 });
        assert_eq!(bench.finish(outside).unwrap_err(), DiskError::Invalid);
    }
}
