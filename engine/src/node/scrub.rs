//! The scrub: reads every mapped extent from disk, in order of address and not faster than it may, and compares each
//! block with its checksum. In a pair, damage is put right from the partner; what cannot be is reported. The same pass,
//! over just the extents that a crash has put in doubt, runs by itself when a node that may serve has come back.
//!
//! Each volume's machine reads its own extents (`volume::chunks`); here is which volume is next, and when.
//!
//! It pauses while the node is neither in a pair nor alone, and goes on where it was. A node that restarts forgets it.

use super::Node;
use super::phase::Phase;
use crate::block::BLOCK_BYTES;
use crate::ids::VolumeId;
use crate::time::{Duration, Instant};

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
        self.scrub.pass = Some(Pass { doubt, volume: VolumeId(0), reading: false, next_at: self.now });
        self.each(|volume, _| volume.begin_chunks());
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
        let Some(pass) = self.scrub.pass.as_mut().filter(|pass| !pass.reading && now >= pass.next_at) else {
            return;
        };
        // What it tells comes back while the step is done.
        pass.reading = true;
        let Some(blocks) = self.next_chunk() else {
            self.end_pass();
            return;
        };
        let rate = self.config.cache.scrub_bytes_per_second.max(1);
        let nanos = (blocks * BLOCK_BYTES as u64).saturating_mul(1_000_000_000) / rate;
        if let Some(pass) = &mut self.scrub.pass {
            pass.next_at = now + Duration::from_nanos(nanos);
        }
    }

    /// The next volume that has something to look at reads it; how many blocks that is.
    fn next_chunk(&mut self) -> Option<u64> {
        let Pass { doubt, volume: mut from, .. } = *self.scrub.pass.as_ref()?;
        loop {
            let volume = self.volumes.ids_in(from..).next()?;
            if let Some(pass) = &mut self.scrub.pass {
                pass.volume = volume;
            }
            if let Some(blocks) = self.with(volume, |volume, cx| volume.next_chunk(cx, doubt)).flatten() {
                return Some(blocks);
            }
            from = VolumeId(volume.0.checked_add(1)?);
        }
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

    /// The pass at this volume, while it waits for a chunk.
    fn pass_at(&mut self, volume: VolumeId) -> Option<&mut Pass> {
        self.scrub.pass.as_mut().filter(|pass| pass.reading && pass.volume == volume)
    }

    /// So many blocks of the volume have been looked at.
    pub(super) fn scrubbed(&mut self, volume: VolumeId, blocks: u64) {
        let Some(pass) = self.pass_at(volume) else { return };
        pass.reading = false;
        if !pass.doubt {
            self.scrub.report.bytes_done += blocks * BLOCK_BYTES as u64;
        }
    }

    /// They have to be looked at once more.
    pub(super) fn scrub_again(&mut self, volume: VolumeId, later: bool) {
        let now = self.now;
        if let Some(pass) = self.pass_at(volume) {
            pass.reading = false;
            pass.next_at = if later { now + RETRY } else { now };
        }
    }

    /// The volume is no more: the pass does not wait for it.
    pub(super) fn scrub_leaves(&mut self, volume: VolumeId) {
        if let Some(pass) = self.pass_at(volume) {
            pass.reading = false;
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
