//! The scrub: reads every mapped extent from disk, in order of address and not faster than it may, and compares each
//! block with its checksum. In a pair, damage is put right from the partner; what cannot be is reported. The same pass,
//! over just the extents that a crash has put in doubt, runs by itself when a node that may serve has come back.
//!
//! It pauses while the node is neither in a pair nor alone, and goes on where it was. A node that restarts forgets it.

use core::ops::Range;

use super::Node;
use super::op::Reading;
use super::phase::Phase;
use crate::block::BLOCK_BYTES;
use crate::ids::VolumeId;
use crate::store::{Read, ReadToken};
use crate::time::{Duration, Instant};

/// Blocks read at once.
const CHUNK_BLOCKS: u64 = 64;
/// What could not be read for now is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Most blocks that a report names.
const UNREPAIRED_MAX: usize = 1000;

/// A scrub, running or the last one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Is it running?
    pub running: bool,
    /// Bytes of mapped extents when it began.
    pub bytes_total: u64,
    /// Bytes looked at.
    pub bytes_done: u64,
    /// Blocks that were damaged and put right.
    pub repaired: u64,
    /// Blocks that are damaged and have no good copy.
    pub unrepaired: u64,
    /// The first 1000 of them.
    pub unrepaired_blocks: Vec<(VolumeId, u64)>,
    /// Scrubs that reached the end, in this life.
    pub finished: u64,
}

/// Where a pass is.
#[derive(Debug)]
struct Pass {
    /// Only extents with blocks in doubt.
    doubt: bool,
    volume: VolumeId,
    extent: u32,
    /// Blocks of the extent that are done.
    at: u64,
    /// A chunk is being read.
    reading: bool,
    next_at: Instant,
}

/// The scrub of one node.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    pass: Option<Pass>,
    /// What a crash put in doubt has been looked at.
    doubt_done: bool,
    pub(super) report: ScrubReport,
}

impl Node {
    /// Begins a scrub from the start, or ends the one that runs.
    pub(super) fn scrub(&mut self, start: bool) {
        if self.scrub.pass.as_ref().is_some_and(|pass| !pass.doubt) {
            self.scrub.pass = None;
        }
        self.scrub.report.running = start;
        if start {
            let pool = self.store().pool();
            let bytes_total = pool.metadata().mapped() * pool.extent_blocks() * BLOCK_BYTES as u64;
            let finished = self.scrub.report.finished;
            self.scrub.report =
                ScrubReport { running: true, bytes_total, finished, ..ScrubReport::default() };
            self.begin_pass(false);
        }
    }

    fn begin_pass(&mut self, doubt: bool) {
        let (volume, extent, at) = (VolumeId(0), 0, 0);
        self.scrub.pass = Some(Pass { doubt, volume, extent, at, reading: false, next_at: self.now });
    }

    fn may_scrub(&self) -> bool {
        matches!(self.phase, Phase::Paired(_) | Phase::Alone(_))
    }

    /// Reads the next chunk if it is time to.
    pub(super) fn scrub_step(&mut self) {
        if !self.may_scrub() {
            return;
        }
        if !self.scrub.doubt_done && self.scrub.pass.is_none() {
            self.begin_pass(true);
        }
        let now = self.now;
        let Some(pass) = self.scrub.pass.as_ref().filter(|pass| !pass.reading && now >= pass.next_at) else {
            return;
        };
        let Some((volume, blocks)) = self.next_chunk(pass) else {
            self.end_pass();
            return;
        };
        let bytes = (blocks.end - blocks.start) * BLOCK_BYTES as u64;
        let rate = self.config.cache.scrub_bytes_per_second.max(1);
        let token = self.next_id();
        let size = self.store().pool().extent_blocks();
        if let Some(pass) = &mut self.scrub.pass {
            (pass.volume, pass.extent, pass.at) = (volume, (blocks.start / size) as u32, blocks.start % size);
            pass.next_at = now + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
            pass.reading = true;
        }
        match self.store_mut().scrub(volume, blocks.clone(), ReadToken(token)) {
            Read::Ready(..) => self.scrubbed(volume, blocks),
            Read::Pending => {
                self.reading.insert(token, Reading::Scrub { volume, blocks });
            }
        }
    }

    /// The next blocks of a pass, within one extent.
    fn next_chunk(&self, pass: &Pass) -> Option<(VolumeId, Range<u64>)> {
        let (size, mut from) = (self.store().pool().extent_blocks(), (pass.volume, pass.extent));
        let mut at = pass.at;
        loop {
            let (volume, extent) = self.next_extent(pass.doubt, from)?;
            if (volume, extent) != from {
                at = 0;
            }
            let end = self.volumes.get(&volume).map_or(0, |volume| volume.sectors.div_ceil(8));
            let first = u64::from(extent) * size;
            let blocks = first + at..(first + (at + CHUNK_BLOCKS).min(size)).min(end);
            if !blocks.is_empty() {
                return Some((volume, blocks));
            }
            (from, at) = ((volume, extent.checked_add(1)?), 0);
        }
    }

    fn next_extent(&self, doubt: bool, from: (VolumeId, u32)) -> Option<(VolumeId, u32)> {
        if doubt {
            return self.store().next_in_doubt(from);
        }
        let volumes = self.store().pool().metadata().volumes().filter(|(id, _)| *id >= from.0);
        volumes.into_iter().find_map(|(id, meta)| {
            let first = if id == from.0 { from.1 } else { 0 };
            meta.map.iter_from(first).next().map(|(extent, _)| (id, extent))
        })
    }

    fn end_pass(&mut self) {
        let Some(pass) = self.scrub.pass.take() else { return };
        if pass.doubt {
            self.scrub.doubt_done = true;
        } else {
            self.scrub.report.running = false;
            self.scrub.report.finished += 1;
        }
    }

    /// These blocks have been looked at.
    pub(super) fn scrubbed(&mut self, volume: VolumeId, blocks: Range<u64>) {
        let size = self.store().pool().extent_blocks();
        let Some(pass) = self.scrub.pass.as_mut().filter(|pass| pass.is_at(volume, &blocks, size)) else {
            return;
        };
        pass.reading = false;
        pass.at += blocks.end - blocks.start;
        if !pass.doubt {
            self.scrub.report.bytes_done += (blocks.end - blocks.start) * BLOCK_BYTES as u64;
        }
    }

    /// These blocks have to be looked at once more.
    pub(super) fn scrub_again(&mut self, volume: VolumeId, blocks: &Range<u64>, later: bool) {
        let (size, now) = (self.store().pool().extent_blocks(), self.now);
        if let Some(pass) = self.scrub.pass.as_mut().filter(|pass| pass.is_at(volume, blocks, size)) {
            pass.reading = false;
            pass.next_at = if later { now + RETRY } else { now };
        }
    }

    /// The scrub found a damaged block, and it was put right or could not be.
    pub(super) fn scrub_found(&mut self, volume: VolumeId, block: u64, repaired: bool) {
        if self.scrub.pass.as_ref().is_none_or(|pass| pass.doubt) {
            return;
        }
        let report = &mut self.scrub.report;
        if repaired {
            report.repaired += 1;
        } else if !report.unrepaired_blocks.contains(&(volume, block)) {
            report.unrepaired += 1;
            if report.unrepaired_blocks.len() < UNREPAIRED_MAX {
                report.unrepaired_blocks.push((volume, block));
            }
        }
    }

    pub(super) fn scrub_deadline(&self) -> Option<Instant> {
        let pass = self.scrub.pass.as_ref().filter(|pass| !pass.reading && self.may_scrub())?;
        Some(pass.next_at)
    }
}

impl Pass {
    /// Is this the chunk that it waits for? One of a pass that was ended is not.
    fn is_at(&self, volume: VolumeId, blocks: &Range<u64>, size: u64) -> bool {
        self.reading && self.volume == volume && u64::from(self.extent) * size + self.at == blocks.start
    }
}
