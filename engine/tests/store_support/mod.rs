//! A store on disks that can lose what was not flushed, and what each of its blocks may hold.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, VecDeque};

use twinsan::block::{Block, PagePool, Payload};
use twinsan::format::superblock::{SUPERBLOCK_OFFSETS, Superblock};
use twinsan::ids::{DiskId, Epoch, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp, DiskRequest, Geometry};
use twinsan::node::config::CacheConfig;
use twinsan::planted::Planted;
use twinsan::pool::{NewDisk, PoolOptions, Record};
use twinsan::store::{Damage, Read, ReadToken, Store};
use twinsan::time::{Duration, Instant};

use crate::pool_support::disks::marked;
use crate::pool_support::{Disk, block_of, disk, formatted, open_with};

pub(crate) const V: VolumeId = VolumeId(1);
/// A snapshot of it.
pub(crate) const S: VolumeId = VolumeId(2);
/// Extents of two lines.
const EXTENT_BLOCKS: u64 = 32;
const EXTENTS: u64 = 6;
const OPTIONS: PoolOptions = PoolOptions { extent_bytes: EXTENT_BLOCKS << 12, log_bytes: 32 << 10 };
const IDLE: Duration = Duration::from_millis(100);

/// What is done with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Create,
    /// The first write to an extent: two blocks in different lines.
    WriteNew,
    /// One block of an extent that has data.
    Overwrite,
    /// Blocks of two extents, in several lines.
    OverwriteWide,
    /// A block becomes zero.
    Clear,
    /// An extent becomes zero, and its space free.
    Unmap,
    /// The same, and a new one begins in its place.
    Replace,
    /// Time passes, until all checksums are on disk.
    Idle,
    /// Everything is read.
    Read,
    /// A blank disk joins.
    AddDisk,
    /// The second disk leaves.
    RemoveDisk,
    /// As soon as nothing of the volume is in hand.
    Snapshot,
    /// A block of the snapshot, as a resync writes it: of an extent that it shares, if it does.
    OverwriteSnapshot,
    /// The snapshot is deleted, and its space comes back.
    DropSnapshot,
}

impl Op {
    /// Those that need no second disk.
    pub(crate) const ALL: [Op; 8] = [
        Op::WriteNew,
        Op::Overwrite,
        Op::OverwriteWide,
        Op::Clear,
        Op::Unmap,
        Op::Replace,
        Op::Idle,
        Op::Read,
    ];
    /// Of a volume with a snapshot.
    pub(crate) const WITH_SNAPSHOT: [Op; 8] = [
        Op::Overwrite,
        Op::OverwriteWide,
        Op::Clear,
        Op::Unmap,
        Op::Idle,
        Op::Snapshot,
        Op::OverwriteSnapshot,
        Op::DropSnapshot,
    ];
}

/// How requests in flight complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    First,
    Last,
}

/// What is known of the snapshot.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    /// It is to be taken.
    wanted: bool,
    /// The record that makes it; durable: it is there.
    made: Option<(u64, bool)>,
    /// It has been deleted, or will be.
    dropped: bool,
}

/// A store, its disks, and what is expected of them.
pub(crate) struct Bench {
    pub(crate) disks: Vec<Disk>,
    pub(crate) order: Order,
    pub(crate) requests: u64,
    /// This request fails.
    pub(crate) fail_at: Option<u64>,
    /// And was this.
    pub(crate) failed: Option<DiskRequest>,
    store: Option<Store>,
    now: Instant,
    in_flight: VecDeque<(DiskRequest, u64, bool)>,
    /// By volume and block: (version, value), the first of which is stable.
    may: BTreeMap<(VolumeId, u64), Vec<(u64, u64)>>,
    snapshot: Snapshot,
    next_value: u64,
    next_token: u64,
    idle: bool,
    planted: Planted,
    pages: PagePool,
    extents: u64,
    /// How old blocks become before they are written back, from the next opening on.
    pub(crate) destage_age: Duration,
}

type Witness<'a> = &'a mut dyn FnMut(&Bench) -> Result<(), String>;

impl Bench {
    pub(crate) fn new(planted: Planted) -> Bench {
        let mut bench = Bench::over(formatted(&OPTIONS, &[4 << 20]), planted);
        bench.restart();
        bench
    }

    /// On two disks, of which the first has the metadata.
    pub(crate) fn on_two_disks(planted: Planted) -> Bench {
        let mut bench = Bench::over(formatted(&OPTIONS, &[4 << 20, 2 << 20]), planted);
        bench.restart();
        bench
    }

    /// A blank disk joins, as the one of this number.
    pub(crate) fn add_disk(&mut self, number: u16) {
        let geometry = Geometry { bytes: 2 << 20, sector_bytes: 512 };
        self.disks.push(Disk::new(geometry.bytes));
        let new = NewDisk { device: DiskId(number), geometry, uuid: Uuid(0xADD), replaces: None };
        self.store_mut().add_disk(new);
    }

    /// With more data than its checksum pages cover: 2 GiB, in extents of 1 MiB.
    pub(crate) fn large() -> Bench {
        let options = PoolOptions { extent_bytes: 1 << 20, log_bytes: 0 };
        let mut bench = Bench::over(formatted(&options, &[3 << 30]), Planted::NONE);
        bench.extents = 2048 * 256 / EXTENT_BLOCKS;
        bench.restart();
        bench
    }

    /// Blocks of the volume.
    pub(crate) fn blocks(&self) -> u64 {
        self.extents * EXTENT_BLOCKS
    }

    /// Writes one block.
    pub(crate) fn write_some(&mut self, block: u64) {
        self.write(block, 1);
    }

    /// On a pool of before there were checksums.
    pub(crate) fn without_sums() -> Bench {
        let mut bench = Bench::over(formatted(&OPTIONS, &[4 << 20]), Planted::NONE);
        for offset in SUPERBLOCK_OFFSETS {
            let disk = &mut bench.disks[0];
            let mut block: Superblock = bytemuck::pod_read_unaligned(&disk.block(offset));
            (block.features, block.integrity) = (0.into(), [0.into(); 2]);
            disk.put(offset, &block.seal());
        }
        bench.restart();
        bench
    }

    fn over(disks: Vec<Disk>, planted: Planted) -> Bench {
        Bench {
            extents: EXTENTS,
            disks,
            order: Order::First,
            requests: 0,
            fail_at: None,
            failed: None,
            store: None,
            now: Instant::ZERO,
            in_flight: VecDeque::new(),
            may: BTreeMap::new(),
            snapshot: Snapshot::default(),
            next_value: 1,
            next_token: 0,
            idle: false,
            planted,
            pages: PagePool::new(),
            destage_age: Duration::ZERO,
        }
    }

    /// The same expectations over these disks, the store closed.
    pub(crate) fn fork(&self, disks: Vec<Disk>) -> Bench {
        let (may, next_value, now) = (self.may.clone(), self.next_value, self.now);
        let snapshot = Snapshot { wanted: false, ..self.snapshot };
        Bench { may, next_value, now, snapshot, ..Bench::over(disks, self.planted) }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn store_mut(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// Requests that have not completed.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = &DiskRequest> + Clone + '_ {
        self.in_flight.iter().map(|(request, ..)| request)
    }

    /// Lines that are unsure.
    pub(crate) fn unsure(&self) -> u64 {
        self.store().pool().metadata().unsure().map(|(_, lines)| lines.len()).sum()
    }

    pub(crate) fn in_doubt(&self) -> u64 {
        self.store().sum_lines_in_doubt()
    }

    /// Tells one expectation from another.
    pub(crate) fn fingerprint(&self) -> u64 {
        let may = self.may.iter().flat_map(|(at, may)| may.iter().map(move |(_, value)| (at, value)));
        let there = matches!(self.snapshot.made, Some((_, true))) && !self.snapshot.dropped;
        may.fold(u64::from(there), |hash, ((volume, block), value)| {
            (hash ^ u64::from(volume.0) << 60 ^ block << 32 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
    }

    /// The power fails: of the unflushed sectors those stay that `keep` says.
    pub(crate) fn cut_power(&mut self, keep: impl Fn(u64) -> bool) {
        self.in_flight.clear();
        self.store = None;
        for disk in &mut self.disks {
            disk.unflushed.retain(|at, _| keep(*at));
            disk.flush();
        }
    }

    /// The store is opened, over the disks that carry a mark. What a block held before and what it may hold count alike from now on.
    pub(crate) fn restart(&mut self) {
        self.disks = marked(&self.disks).into_iter().map(|at| self.disks[at].clone()).collect();
        let (pool, _) = open_with(&mut self.disks, self.planted).unwrap();
        let config = CacheConfig {
            blocks_max: 512,
            dirty_blocks_max: 256,
            destage_age: self.destage_age,
            destage_depth: 8,
            sum_pages_max: 64,
            sum_idle: IDLE,
            ..CacheConfig::default()
        };
        self.store = Some(Store::new(pool, &config, 0, self.planted));
        for may in self.may.values_mut() {
            may.iter_mut().for_each(|(version, _)| *version = 0);
        }
        self.snapshot.wanted = false;
        self.idle = false;
    }

    fn mapped(&self) -> Vec<u64> {
        let meta = self.store().pool().metadata().volume(V);
        meta.map_or(Vec::new(), |meta| meta.map.iter().map(|(extent, _)| u64::from(extent)).collect())
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self, op: Op) {
        let mapped = self.mapped();
        let first = mapped.first().copied().unwrap_or(0) * EXTENT_BLOCKS;
        match op {
            Op::Create => {
                let sectors = self.blocks() * 8;
                let create = Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors, mirrored: true };
                self.store_mut().append(&[create]);
            }
            Op::WriteNew => {
                let Some(extent) = (0..EXTENTS).find(|extent| !mapped.contains(extent)) else { return };
                self.write(extent * EXTENT_BLOCKS + 3, 2);
                self.write(extent * EXTENT_BLOCKS + 20, 1);
            }
            Op::Overwrite => self.write(first + 3, 1),
            Op::OverwriteWide => {
                for extent in mapped.iter().take(2) {
                    self.write(extent * EXTENT_BLOCKS + 15, 2);
                }
            }
            Op::Clear => self.zero(first + 3, 1),
            Op::Unmap => self.zero(first, EXTENT_BLOCKS),
            Op::Replace => {
                self.zero(first, EXTENT_BLOCKS);
                let spare = (0..EXTENTS).rev().find(|extent| !mapped.contains(extent)).unwrap_or(0);
                self.write(spare * EXTENT_BLOCKS + 4, 1);
            }
            Op::Idle => self.idle = true,
            Op::Read => self.read(0..self.blocks()),
            Op::AddDisk => {
                self.add_disk(self.disks.len() as u16);
                self.idle = true;
            }
            Op::RemoveDisk => {
                // After a crash it may have left already.
                drop(self.store_mut().remove_disk(DiskId(1)));
                self.idle = true;
            }
            Op::Snapshot => {
                self.snapshot.wanted = true;
                self.take_snapshot();
            }
            Op::OverwriteSnapshot => {
                let meta = self.store().pool().metadata().volume(S).filter(|meta| !meta.deleted);
                let mapped: Vec<u32> =
                    meta.map_or(Vec::new(), |meta| meta.map.iter().map(|(extent, _)| extent).collect());
                let shared = mapped.iter().find(|extent| self.store().pool().is_shared(S, **extent));
                if let Some(extent) = shared.or(mapped.first()) {
                    self.write_to(S, u64::from(*extent) * EXTENT_BLOCKS + 4, 1);
                }
            }
            Op::DropSnapshot => self.drop_snapshot(),
        }
    }

    /// Takes the snapshot that is wanted if nothing of the volume is in hand.
    fn take_snapshot(&mut self) {
        let store = self.store.as_mut().unwrap();
        let ready = store.is_at_rest(V) && !store.failed();
        if !self.snapshot.wanted || !ready || store.pool().may_clone(S, V, true).is_err() {
            return;
        }
        self.snapshot.wanted = false;
        let lsn = store.clone_volume(S, V, Uuid(2), (true, true));
        self.snapshot.made = Some((lsn.0, false));
        let of_volume = self.may.range((V, 0)..=(V, u64::MAX));
        let last =
            of_volume.map(|((_, block), may)| ((S, *block), vec![(0, may.last().map_or(0, |at| at.1))]));
        let last: Vec<_> = last.collect();
        self.may.extend(last);
    }

    fn drop_snapshot(&mut self) {
        let Some(meta) = self.store().pool().metadata().volume(S).filter(|meta| !meta.deleted) else {
            return;
        };
        let (sectors, change, epoch) = (meta.sectors, meta.change + 1, Epoch(1));
        let store = self.store_mut();
        let lsn = store.append(&[Record::VolumeState {
            volume: S,
            sectors,
            change,
            epoch,
            deleted: true,
            read_only: false,
        }]);
        store.purge(S, lsn);
        self.snapshot.dropped = true;
    }

    fn write(&mut self, first: u64, count: u64) {
        self.write_to(V, first, count);
    }

    fn write_to(&mut self, volume: VolumeId, first: u64, count: u64) {
        let store = self.store.as_mut().unwrap();
        if !store.reserve(volume, first..first + count) {
            return;
        }
        let value = self.next_value;
        self.next_value += 1;
        let data: Vec<Block> = (0..count).map(|_| content(&self.pages, value)).collect();
        let version = store.write(self.now, volume, first, &data);
        self.expect(volume, first..first + count, version, value);
    }

    /// Makes blocks zero.
    pub(crate) fn zero(&mut self, first: u64, count: u64) {
        let now = self.now;
        let version = self.store_mut().zero(now, V, first..first + count);
        self.expect(V, first..first + count, version, 0);
    }

    fn expect(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, version: u64, value: u64) {
        for block in blocks {
            self.may.entry((volume, block)).or_insert_with(|| vec![(0, 0)]).push((version, value));
        }
    }

    fn read(&mut self, blocks: core::ops::Range<u64>) {
        self.next_token += 1;
        let token = ReadToken(self.next_token);
        self.store_mut().read(V, blocks, token);
    }

    /// What is stable can no longer be lost.
    fn note_stable(&mut self) {
        let Some(store) = self.store.as_ref().filter(|store| !store.failed()) else { return };
        if let Some((lsn, durable)) = &mut self.snapshot.made {
            *durable |= *lsn <= store.durable().0;
        }
        let stable = [V, S].map(|volume| store.stable_through(volume));
        for ((volume, _), may) in &mut self.may {
            let stable = stable[usize::from(*volume == S)];
            let last = may.iter().rposition(|(version, _)| *version != 0 && *version <= stable);
            may.drain(..last.unwrap_or(0));
        }
    }

    /// Runs until nothing moves any more.
    pub(crate) fn run(&mut self, witness: Witness<'_>) -> Result<(), String> {
        for _ in 0..10_000 {
            if self.step(witness)? {
                continue;
            }
            let deadline = self.store().deadline();
            match deadline.filter(|_| self.idle) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.idle = false;
                    return Ok(());
                }
            }
        }
        Err("it never comes to rest".into())
    }

    /// Submits what there is to submit, and completes one request; false if there was none.
    pub(crate) fn step(&mut self, witness: Witness<'_>) -> Result<bool, String> {
        let now = self.now;
        self.store_mut().pump(now);
        while let Some(request) = self.store_mut().poll_io() {
            self.requests += 1;
            let fails = self.fail_at == Some(self.requests);
            let number = disk(&mut self.disks, request.disk).begin(&request.op);
            self.in_flight.push_back((request, number, fails));
        }
        self.note_stable();
        self.take_snapshot();
        while let Some(done) = self.store_mut().poll_read() {
            let first = done.result.as_ref().map_or(0, |(data, _)| data.len() as u64);
            if first == self.blocks() {
                // Read while it may have been written: whatever it may hold.
                let (data, _) = done.result.as_ref().unwrap();
                (0..).zip(data).try_for_each(|(block, content)| self.check((V, block), content))?;
            } else if self.fail_at.is_none() {
                return Err(format!("a read failed: {:?}", done.result));
            }
        }
        witness(self)?;
        let next = match self.order {
            Order::First => self.in_flight.pop_front(),
            Order::Last => self.in_flight.pop_back(),
        };
        let Some((request, number, fails)) = next else { return Ok(false) };
        let medium = disk(&mut self.disks, request.disk);
        let result = if fails {
            medium.fail(number, &request.op);
            self.failed = Some(request.clone());
            let read = matches!(request.op, DiskOp::Read { .. });
            Err(if read { DiskError::Unreadable } else { DiskError::Failed })
        } else {
            medium.end(number, &request.op)
        };
        self.store_mut().io_done(now, request.id, result);
        Ok(true)
    }

    /// Reads every block, one by one, from the disks as they are now.
    pub(crate) fn read_all(&mut self) -> Result<(), String> {
        self.read_these((0..self.blocks()).collect())?;
        if self.snapshot.dropped {
            return Ok(());
        }
        match (self.store().pool().metadata().volume(S), self.snapshot.made) {
            (None, Some((_, true))) => Err("the snapshot is gone".into()),
            (None, _) => Ok(()),
            (Some(_), None) => Err("there is a snapshot".into()),
            (Some(_), Some(_)) => self.read_these_of(S, (0..self.blocks()).collect()),
        }
    }

    /// Reads every block but this one, of which nothing is known.
    pub(crate) fn read_but(&mut self, skip: Option<u64>) -> Result<(), String> {
        self.read_these((0..self.blocks()).filter(|block| Some(*block) != skip).collect())
    }

    /// What a block was written with last.
    pub(crate) fn good(&self, block: u64) -> Block {
        content(&self.pages, self.may[&(V, block)].last().unwrap().1)
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Reads the blocks that were ever written.
    pub(crate) fn read_written(&mut self) -> Result<(), String> {
        self.read_these(self.may.keys().filter(|(volume, _)| *volume == V).map(|at| at.1).collect())
    }

    fn read_these(&mut self, blocks: Vec<u64>) -> Result<(), String> {
        self.read_these_of(V, blocks)
    }

    fn read_these_of(&mut self, volume: VolumeId, blocks: Vec<u64>) -> Result<(), String> {
        for block in blocks {
            let read = self.read_blocks(volume, block..block + 1);
            let data = read.map_err(|damaged| format!("block {block} of {volume}: {:?}", damaged[0].1))?;
            self.check((volume, block), &data[0])?;
        }
        Ok(())
    }

    /// Reads a block of the snapshot, alone.
    pub(crate) fn read_snapshot(&mut self, block: u64) -> Result<Block, Damage> {
        let read = self.read_blocks(S, block..block + 1);
        read.map(|mut data| data.pop().unwrap_or_default()).map_err(|damaged| damaged[0].1)
    }

    /// Reads a block, alone.
    pub(crate) fn read_one(&mut self, block: u64) -> Result<Block, Damage> {
        let read = self.read_blocks(V, block..block + 1);
        read.map(|mut data| data.pop().unwrap_or_default()).map_err(|damaged| damaged[0].1)
    }

    /// Reads several at once, and tells which of them are damaged.
    pub(crate) fn read_run(&mut self, blocks: core::ops::Range<u64>) -> Vec<(u64, Damage)> {
        self.read_blocks(V, blocks).err().unwrap_or_default()
    }

    fn read_blocks(
        &mut self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
    ) -> Result<Payload, Vec<(u64, Damage)>> {
        self.next_token += 1;
        let (token, now) = (ReadToken(self.next_token), self.now);
        let store = self.store.as_mut().unwrap();
        if let Read::Ready(data, _) = store.read(volume, blocks, token) {
            return Ok(data);
        }
        loop {
            let store = self.store.as_mut().unwrap();
            if let Some(done) = store.poll_read() {
                return done.result.map(|(data, _)| data).map_err(|damaged| damaged.blocks);
            }
            let request = store.poll_io().expect("a read that is pending waits for a disk");
            let medium = disk(&mut self.disks, request.disk);
            let number = medium.begin(&request.op);
            let result = medium.end(number, &request.op);
            self.store_mut().io_done(now, request.id, result);
        }
    }

    /// Is each word of the block one that it may hold?
    fn check(&self, (volume, block): (VolumeId, u64), content: &Block) -> Result<(), String> {
        let may = self.may.get(&(volume, block));
        let marked = |sector: usize| sector == 0 || sector == 7;
        for (at, word) in content.bytes().chunks_exact(8).enumerate() {
            let value = u64::from_le_bytes(word.try_into().unwrap());
            let zero = value == 0 && !(marked(at / 64) && may.is_some());
            let allowed = may.is_some_and(|may| may.iter().any(|(_, may)| *may == value));
            if !(zero || allowed && marked(at / 64)) {
                return Err(format!("block {block} of {volume} word {at} holds {value}, of {may:?}"));
            }
        }
        Ok(())
    }

    /// Where a block lies.
    pub(crate) fn place(&self, block: u64) -> (DiskId, u64) {
        self.store().pool().locate(V, block).unwrap()
    }
}

/// A block marked in its first and last sector.
fn content(pages: &PagePool, value: u64) -> Block {
    let mut bytes = [0; 4096];
    for sector in [0, 7] {
        let words = bytes[sector * 512..(sector + 1) * 512].chunks_exact_mut(8);
        words.for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    }
    block_of(pages, &bytes)
}
