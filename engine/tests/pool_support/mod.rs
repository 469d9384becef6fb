//! Disks for pool tests: they remember what has been flushed, and can lose the rest in any combination.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use twinsan::block::{Block, Page, PagePool, Payload};
use twinsan::ids::{DiskId, NodeName, Uuid};
use twinsan::io::{DiskError, DiskOp, DiskResult, Geometry};
use twinsan::planted::Planted;
use twinsan::pool::{FormatIds, OpenError, OpenReport, Opening, Pool, PoolIo, PoolOptions, format};

pub(crate) const SECTOR: usize = 512;
pub(crate) type Sector = Arc<[u8; SECTOR]>;

/// One disk: what is durable, and per sector what was written since, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) geometry: Geometry,
    pub(crate) media: BTreeMap<u64, Sector>,
    pub(crate) unflushed: BTreeMap<u64, Vec<Sector>>,
}

impl Disk {
    pub(crate) fn new(bytes: u64) -> Disk {
        let geometry = Geometry { bytes, sector_bytes: 512 };
        Disk { geometry, media: BTreeMap::new(), unflushed: BTreeMap::new() }
    }

    fn sector(&self, at: u64) -> Option<&Sector> {
        self.unflushed.get(&at).and_then(|versions| versions.last()).or_else(|| self.media.get(&at))
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

    pub(crate) fn write(&mut self, offset: u64, data: &Payload) {
        for (b, block) in data.iter().enumerate() {
            for (n, chunk) in block.bytes().chunks(SECTOR).enumerate() {
                let at = offset / SECTOR as u64 + (b * 8 + n) as u64;
                let new: [u8; SECTOR] = chunk.try_into().expect("a sector");
                let old = self.sector(at).map_or([0; SECTOR], |sector| **sector);
                // Writing what is there already can be neither lost nor torn.
                if old != new {
                    self.unflushed.entry(at).or_default().push(Arc::new(new));
                }
            }
        }
    }

    pub(crate) fn flush(&mut self) {
        for (at, mut versions) in core::mem::take(&mut self.unflushed) {
            self.media.insert(at, versions.pop().expect("never empty"));
        }
    }

    /// Changes bytes on the medium, as rot does.
    pub(crate) fn rot(&mut self, offset: u64) {
        self.flush();
        let sector = self.media.entry(offset / SECTOR as u64).or_insert_with(|| Arc::new([0; SECTOR]));
        Arc::make_mut(sector)[offset as usize % SECTOR] ^= 0x40;
    }

    pub(crate) fn submit(&mut self, op: &DiskOp) -> DiskResult {
        let fits =
            |offset: u64, bytes: u64| offset.is_multiple_of(4096) && offset + bytes <= self.geometry.bytes;
        match op {
            DiskOp::Read { offset, blocks } => {
                if !fits(*offset, u64::from(*blocks) * 4096) {
                    return Err(DiskError::Invalid);
                }
                let pages = PagePool::new();
                Ok((0..u64::from(*blocks))
                    .map(|n| block_of(&pages, &self.block(offset + n * 4096)))
                    .collect())
            }
            DiskOp::Write { offset, data } => {
                if !fits(*offset, data.len() as u64 * 4096) {
                    return Err(DiskError::Invalid);
                }
                self.write(*offset, data);
                Ok(Payload::new())
            }
            DiskOp::Flush => {
                self.flush();
                Ok(Payload::new())
            }
        }
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

pub(crate) fn filled(byte: u8) -> Block {
    let mut page = PagePool::new().take();
    page.bytes_mut().fill(byte);
    let page: Page = page.freeze();
    Block::Data(page)
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
        disks[usize::from(write.disk.0)].write(write.offset, &write.data);
    }
    disks.iter_mut().for_each(Disk::flush);
    disks
}

pub(crate) fn open_with(disks: &mut [Disk], planted: Planted) -> Result<(Pool, OpenReport), OpenError> {
    let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry).collect();
    let mut opening = Opening::new(&geometries).planted(planted);
    loop {
        let mut asked = Vec::new();
        while let Some(io) = opening.poll_io() {
            asked.push(io);
        }
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
