//! Disks for pool tests: they remember what has been flushed, and can lose the rest in any combination.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod clones;
pub(crate) mod crash;
pub(crate) mod disks;
pub(crate) mod golden;
pub(crate) mod model;
mod op;
pub(crate) mod plain_pool;
pub(crate) mod rot;
pub(crate) mod session;
mod space;

use std::collections::BTreeMap;
use std::sync::Arc;

use twinsan::block::{Block, PagePool, Payload};
use twinsan::ids::{DiskId, NodeName, Uuid};
use twinsan::io::{DiskError, DiskOp, DiskResult, Geometry};
use twinsan::planted::Planted;
use twinsan::pool::{FormatIds, OpenError, OpenReport, Opening, Pool, PoolIo, PoolOptions, format};

pub(crate) const SECTOR: usize = 512;
pub(crate) type Sector = Arc<[u8; SECTOR]>;

/// What a sector was given since its last flush, and whether that write has completed.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) bytes: Sector,
    write: u64,
    completed: bool,
}

/// One disk: what is durable, and per sector what was written since, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) geometry: Geometry,
    pub(crate) media: BTreeMap<u64, Sector>,
    pub(crate) unflushed: BTreeMap<u64, Vec<Version>>,
    /// Sectors that flushes on their way cover: flush, and per sector the last write covered.
    flushes: BTreeMap<u64, BTreeMap<u64, u64>>,
    next: u64,
    pages: PagePool,
}

impl Disk {
    pub(crate) fn new(bytes: u64) -> Disk {
        Disk {
            geometry: Geometry { bytes, sector_bytes: 512 },
            media: BTreeMap::new(),
            unflushed: BTreeMap::new(),
            flushes: BTreeMap::new(),
            next: 0,
            pages: PagePool::new(),
        }
    }

    fn sector(&self, at: u64) -> Option<&Sector> {
        let unflushed =
            self.unflushed.get(&at).and_then(|versions| versions.last()).map(|version| &version.bytes);
        unflushed.or_else(|| self.media.get(&at))
    }

    /// The 4 KiB at this offset as a reader sees them now.
    pub(crate) fn block(&self, offset: u64) -> [u8; 4096] {
        let mut bytes = [0; 4096];
        for (n, chunk) in bytes.chunks_mut(SECTOR).enumerate() {
            if let Some(sector) = self.sector(offset / SECTOR as u64 + n as u64) {
                chunk.copy_from_slice(&sector[..]);
            }
        }
        bytes
    }

    /// A request reaches the disk. A write may be on the medium from now on; the number says which it is.
    pub(crate) fn begin(&mut self, op: &DiskOp) -> u64 {
        self.next += 1;
        match op {
            DiskOp::Write { offset, data } => self.write(*offset, data, self.next),
            DiskOp::Flush => {
                let last = |versions: &Vec<Version>| {
                    versions.iter().rev().find(|version| version.completed).map(|version| version.write)
                };
                let covered =
                    self.unflushed.iter().filter_map(|(at, versions)| Some((*at, last(versions)?))).collect();
                self.flushes.insert(self.next, covered);
            }
            DiskOp::Read { .. } => {}
        }
        self.next
    }

    /// The request that [`begin`](Self::begin) numbered completes.
    pub(crate) fn end(&mut self, number: u64, op: &DiskOp) -> DiskResult {
        match op {
            DiskOp::Read { offset, blocks } => {
                if !offset.is_multiple_of(4096) || offset + u64::from(*blocks) * 4096 > self.geometry.bytes {
                    return Err(DiskError::Invalid);
                }
                let block = |n: u64| block_of(&self.pages, &self.block(offset + n * 4096));
                return Ok((0..u64::from(*blocks)).map(block).collect());
            }
            DiskOp::Write { .. } => {
                let versions = self.unflushed.values_mut().flatten();
                versions
                    .filter(|version| version.write == number)
                    .for_each(|version| version.completed = true);
            }
            DiskOp::Flush => {
                for (at, write) in self.flushes.remove(&number).unwrap_or_default() {
                    let Some(versions) = self.unflushed.get_mut(&at) else { continue };
                    if let Some(last) = versions.iter().rposition(|version| version.write <= write) {
                        self.media.insert(at, versions[last].bytes.clone());
                        versions.drain(..=last);
                    }
                    if versions.is_empty() {
                        self.unflushed.remove(&at);
                    }
                }
            }
        }
        Ok(Payload::new())
    }

    /// The request fails. Of a write any part may have been done; a flush loses what it should have made
    /// durable, as operating systems do.
    pub(crate) fn fail(&mut self, number: u64, op: &DiskOp) {
        match op {
            DiskOp::Flush => {
                self.flushes.remove(&number);
                self.unflushed.clear();
            }
            DiskOp::Write { .. } => {
                for (at, versions) in &mut self.unflushed {
                    versions
                        .retain(|version| version.write != number || !(at / 3 + number).is_multiple_of(3));
                    let rest = versions.iter_mut().filter(|version| version.write == number);
                    rest.for_each(|version| version.completed = true);
                }
                self.unflushed.retain(|_, versions| !versions.is_empty());
            }
            DiskOp::Read { .. } => {}
        }
    }

    fn write(&mut self, offset: u64, data: &Payload, write: u64) {
        assert!(offset.is_multiple_of(4096), "misaligned");
        assert!(offset + data.len() as u64 * 4096 <= self.geometry.bytes, "outside the disk");
        for (b, block) in data.iter().enumerate() {
            for (n, chunk) in block.bytes().chunks(SECTOR).enumerate() {
                let at = offset / SECTOR as u64 + (b * 8 + n) as u64;
                let new: [u8; SECTOR] = chunk.try_into().expect("a sector");
                // Writing what is durable already can be neither lost nor torn.
                let durable = !self.unflushed.contains_key(&at);
                if !durable || self.sector(at).map_or([0; SECTOR], |sector| **sector) != new {
                    let version = Version { bytes: Arc::new(new), write, completed: false };
                    self.unflushed.entry(at).or_default().push(version);
                }
            }
        }
    }

    /// Everything written becomes durable.
    pub(crate) fn flush(&mut self) {
        for (at, mut versions) in core::mem::take(&mut self.unflushed) {
            self.media.insert(at, versions.pop().expect("never empty").bytes);
        }
    }

    /// Puts a block on the medium, whatever was there.
    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8; 4096]) {
        for (at, sector) in (offset / SECTOR as u64..).zip(bytes.chunks(SECTOR)) {
            let sector: [u8; SECTOR] = sector.try_into().expect("a sector");
            self.media.insert(at, Arc::new(sector));
        }
    }

    /// Changes a bit on the medium, as rot does.
    pub(crate) fn rot(&mut self, offset: u64) {
        self.flush();
        let sector = self.media.entry(offset / SECTOR as u64).or_insert_with(|| Arc::new([0; SECTOR]));
        Arc::make_mut(sector)[offset as usize % SECTOR] ^= 0x40;
    }

    /// A request from beginning to end.
    pub(crate) fn submit(&mut self, op: &DiskOp) -> DiskResult {
        let number = self.begin(op);
        self.end(number, op)
    }
}

pub(crate) fn block_of(pages: &PagePool, bytes: &[u8; 4096]) -> Block {
    if bytes.iter().all(|byte| *byte == 0) {
        return Block::Zero;
    }
    let mut page = pages.take();
    page.bytes_mut().copy_from_slice(bytes);
    Block::Data(page.freeze())
}

pub(crate) fn ids(disks: usize) -> FormatIds {
    FormatIds {
        pool: Uuid(0x1111),
        disks: (0..disks).map(|n| Uuid(0xD0 + n as u128)).collect(),
        partnership: Uuid(0x2222),
        node: NodeName::A,
    }
}

/// Formatted disks.
pub(crate) fn formatted(options: &PoolOptions, bytes: &[u64]) -> Vec<Disk> {
    let mut disks: Vec<Disk> = bytes.iter().map(|bytes| Disk::new(*bytes)).collect();
    let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry).collect();
    for write in format(&ids(disks.len()), options, &geometries).expect("the options are sound") {
        disks[usize::from(write.disk.0)].write(write.offset, &write.data, 0);
    }
    disks.iter_mut().for_each(Disk::flush);
    disks
}

pub(crate) fn open_with(disks: &mut [Disk], planted: Planted) -> Result<(Pool, OpenReport), OpenError> {
    let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry).collect();
    let mut opening = Opening::new(&geometries).planted(planted);
    loop {
        let asked: Vec<PoolIo> = core::iter::from_fn(|| opening.poll_io()).collect();
        if let Some(outcome) = opening.done() {
            return outcome;
        }
        assert!(!asked.is_empty(), "the opening is stuck");
        for io in asked {
            assert!(!matches!(io.op, DiskOp::Write { .. }), "opening writes");
            let result = disk(disks, io.disk).submit(&io.op);
            opening.io_done(io.token, result);
        }
    }
}

/// As [`open_with`], given only the disks that carry a pool's mark; tells which those are.
pub(crate) fn open_marked(disks: &mut [Disk], planted: Planted) -> Result<(Pool, Vec<usize>), OpenError> {
    let devices = disks::marked(disks);
    let mut given: Vec<Disk> = devices.iter().map(|at| disks[*at].clone()).collect();
    let outcome = open_with(&mut given, planted);
    devices.iter().zip(given).for_each(|(at, disk)| disks[*at] = disk);
    outcome.map(|(pool, _)| (pool, devices))
}

pub(crate) fn open(disks: &mut [Disk]) -> Result<(Pool, OpenReport), OpenError> {
    open_with(disks, Planted::NONE)
}

pub(crate) fn disk(disks: &mut [Disk], id: DiskId) -> &mut Disk {
    &mut disks[usize::from(id.0)]
}

/// Carries out all the pool's requests until it has none.
pub(crate) fn settle(pool: &mut Pool, disks: &mut [Disk]) {
    loop {
        let asked: Vec<PoolIo> = core::iter::from_fn(|| pool.poll_io()).collect();
        if asked.is_empty() {
            return;
        }
        for io in asked {
            let result = disk(disks, io.disk).submit(&io.op);
            pool.io_done(io.token, result);
        }
    }
}
