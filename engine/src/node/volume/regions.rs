//! Which region of a volume is copied next, and when its mark goes.
//!
//! One pass over the log, ascending; if the target had no space last time, what reads as zero here goes first. A region
//! that was sent, or was never in the log, is *covered*: a guest's new write there goes to the target too, behind what was
//! sent before it. A region not yet sent is just logged: the pass will come to it. What is written to one that is being
//! read is kept beside the read and laid over what the disk had; it is not looked for in the cache, which may be too small
//! to hold it. A mark is cleared only when the target has confirmed the last thing sent of the region on stable media, the
//! source has it stable too, and nothing was written there since. So the pass ends, whatever guests do, and a lost link
//! loses nothing that was confirmed.

use core::ops::Range;
use std::collections::BTreeMap;

use super::context::Context;
use super::op::Reading;
use super::{REGION_BLOCKS, Volume, regions};
use crate::bits::BitSet;
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::ids::VolumeId;
use crate::mirror::message::{Body, Message};
use crate::node::event::Notice;
use crate::planted::Bug;
use crate::pool::{Pool, Record};
use crate::store::{Read, ReadToken};
use crate::time::{Duration, Instant};

/// Marks are taken off the log on disk this many at a time.
const CLEAR_BATCH: usize = 256;
/// A region that cannot be read is tried again after this.
const UNREADABLE_RETRY: Duration = Duration::from_secs(1);

/// First region and number of regions.
pub(in crate::node) type RegionRun = (u64, u64);

/// What was sent of a region last.
#[derive(Clone, Copy, Debug)]
struct Sent {
    tag: u64,
    version: u64,
}

/// A region that is being read.
#[derive(Debug)]
struct Fetch {
    /// The read. What one of an earlier resync finds is not for this one.
    token: u64,
    /// What was written there since it began, by block.
    newer: BTreeMap<u64, Block>,
}

/// The regions of a volume in a resync, at the source. Each is in one of these at most, but for `first`.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Not sent on this link.
    to_copy: BitSet,
    /// Of those, the ones that go first: they free space at the target.
    first: BitSet,
    reading: BTreeMap<u64, Fetch>,
    /// Could not be read, and when to try again.
    unreadable: Vec<(Instant, u64)>,
    /// Sent and not cleared.
    sent: BTreeMap<u64, Sent>,
}

impl Regions {
    fn is_copied(&self) -> bool {
        self.reading.is_empty() && self.unreadable.is_empty() && self.to_copy.is_empty()
    }

    fn is_covered(&self, region: u64) -> bool {
        !self.reading.contains_key(&region)
            && !self.unreadable.iter().any(|&(_, unreadable)| unreadable == region)
            && !self.to_copy.contains(region)
    }

    /// These blocks were written: where a region is being read, they are newer than what will be found.
    fn note_newer(&mut self, blocks: &Range<u64>, data: &Payload, zero: bool) {
        for (&region, fetch) in self.reading.range_mut(regions(blocks.clone())) {
            let first = (region * REGION_BLOCKS).max(blocks.start);
            let end = ((region + 1) * REGION_BLOCKS).min(blocks.end);
            let content =
                |block| if zero { Block::Zero } else { data[(block - blocks.start) as usize].clone() };
            fetch.newer.extend((first..end).map(|block| (block, content(block))));
        }
    }

    /// The pass has to come by again. What is being read will be sent as it is then.
    fn copy_again(&mut self, region: u64, twice: bool) {
        if !self.reading.contains_key(&region) {
            self.unreadable.retain(|&(_, unreadable)| unreadable != region || twice);
            self.sent.remove(&region);
            self.to_copy.insert(region);
        }
    }

    /// The lowest region to copy, or the lowest of those that go first.
    fn next(&mut self, first: bool) -> Option<u64> {
        if !first {
            return self.to_copy.next_from(0);
        }
        while let Some(region) = self.first.next_from(0) {
            self.first.remove(region);
            if self.to_copy.contains(region) {
                return Some(region);
            }
        }
        None
    }

    /// The parts of a write that lie in covered regions, each whole run of them at once.
    fn covered_runs(&self, blocks: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for region in regions(blocks.clone()).filter(|&region| self.is_covered(region)) {
            let first = (region * REGION_BLOCKS).max(blocks.start);
            let end = ((region + 1) * REGION_BLOCKS).min(blocks.end);
            match runs.last_mut() {
                Some(run) if run.end == first => run.end = end,
                _ => runs.push(first..end),
            }
        }
        runs
    }
}

/// The regions in which some block does not read as zero. What is only in the cache lies in the hot set or in the
/// log.
pub(in crate::node) fn mapped_regions(pool: &Pool, volume: VolumeId) -> Vec<RegionRun> {
    let Some(meta) = pool.metadata().volume(volume) else { return Vec::new() };
    let per_extent = pool.extent_blocks() / REGION_BLOCKS;
    let mut runs: Vec<RegionRun> = Vec::new();
    let mut add = |first: u64, count: u64| match runs.last_mut() {
        Some((start, run)) if *start + *run == first => *run += count,
        _ => runs.push((first, count)),
    };
    for (extent, _) in meta.map.iter() {
        let first = u64::from(extent) * per_extent;
        let Some(zeros) = meta.map.zeros(extent) else {
            add(first, per_extent);
            continue;
        };
        for region in 0..per_extent {
            let blocks = (region * REGION_BLOCKS) as u32..((region + 1) * REGION_BLOCKS) as u32;
            if zeros.count(blocks) < REGION_BLOCKS as u32 {
                add(first + region, 1);
            }
        }
    }
    runs
}

impl Volume {
    /// A resync begins: the log is what is copied. Says how many regions that is.
    pub(in crate::node) fn begin_regions(&mut self, cx: &Context<'_>, zeros_first: bool) -> u64 {
        let metadata = cx.store.pool().metadata();
        let to_copy = metadata.volume(self.id).map_or_else(BitSet::default, |meta| meta.log.clone());
        let total = to_copy.len();
        let mut copied = Regions { to_copy, ..Regions::default() };
        if zeros_first {
            // Those that read as zero, as far as the pool knows.
            copied.first = copied.to_copy.clone();
            for (first, count) in mapped_regions(cx.store.pool(), self.id) {
                copied.first.remove_run(first, count);
            }
        }
        if cx.has(Bug::ResyncCopiesAll) {
            for (first, count) in mapped_regions(cx.store.pool(), self.id) {
                copied.to_copy.insert_run(first, count);
            }
        }
        self.regions = Some(copied);
        total
    }

    /// Has every region been sent?
    pub(in crate::node) fn is_copied(&self) -> bool {
        self.regions.as_ref().is_none_or(Regions::is_copied)
    }

    /// And confirmed?
    pub(in crate::node) fn is_settled(&self) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.is_copied() && regions.sent.is_empty())
    }

    /// When to try an unreadable region again.
    pub(in crate::node) fn retry_at(&self) -> Option<Instant> {
        self.regions.as_ref()?.unreadable.iter().map(|(again, _)| *again).min()
    }

    /// Regions that are not confirmed.
    pub(in crate::node) fn regions_left(&self) -> u64 {
        self.regions.as_ref().map_or(0, |regions| {
            let others = regions.reading.len() + regions.unreadable.len() + regions.sent.len();
            regions.to_copy.len() + others as u64
        })
    }

    /// Clears what is confirmed, and takes up again what could not be read. True if something moved.
    pub(in crate::node) fn resync_step(&mut self, cx: &mut Context<'_>) -> bool {
        let moved = self.clear_confirmed(cx);
        if let Some(regions) = &mut self.regions {
            for (_, region) in regions.unreadable.extract_if(.., |(again, _)| cx.now >= *again) {
                regions.to_copy.insert(region);
            }
        }
        moved
    }

    /// Begins to copy the next region, or the next of those that go first. False if there is none.
    pub(in crate::node) fn copy_next(&mut self, cx: &mut Context<'_>, first: bool) -> bool {
        let Some(regions) = &mut self.regions else { return false };
        let Some(region) = regions.next(first) else { return false };
        regions.to_copy.remove(region);
        self.read_region(cx, region);
        true
    }

    fn region_blocks(&self, region: u64) -> Range<u64> {
        let first = region * REGION_BLOCKS;
        first..(first + REGION_BLOCKS).min(self.blocks()).max(first)
    }

    fn read_region(&mut self, cx: &mut Context<'_>, region: u64) {
        let (blocks, token) = (self.region_blocks(region), self.next_id());
        let Some(regions) = &mut self.regions else { return };
        regions.reading.insert(region, Fetch { token, newer: BTreeMap::new() });
        cx.shared().copies.reading += 1;
        if blocks.is_empty() {
            self.send_region(cx, region, Payload::new());
            return;
        }
        match cx.store.read(self.id, blocks, ReadToken(token)) {
            Read::Ready(data, _) => self.send_region(cx, region, data),
            Read::Pending => {
                self.reading.insert(token, Reading::Region { region });
            }
        }
    }

    /// A region is not being read any more. What was written there meanwhile.
    fn region_is_read(&mut self, cx: &mut Context<'_>, region: u64) -> BTreeMap<u64, Block> {
        let fetch = self.regions.as_mut().and_then(|regions| regions.reading.remove(&region));
        cx.shared().copies.reading -= u64::from(fetch.is_some());
        fetch.map(|fetch| fetch.newer).unwrap_or_default()
    }

    /// A region came from disk, each of its blocks as it was at some moment since the read began.
    pub(super) fn region_read(
        &mut self,
        cx: &mut Context<'_>,
        region: u64,
        token: u64,
        data: Option<Payload>,
    ) {
        let fetch = self.regions.as_ref().and_then(|regions| regions.reading.get(&region));
        if fetch.is_none_or(|fetch| fetch.token != token) {
            return;
        }
        if let Some(data) = data {
            self.send_region(cx, region, data);
            return;
        }
        // Its mark stays, and the mirror cannot become whole until it can be read, or is overwritten.
        cx.notice(Notice::Unreadable { volume: self.id, region });
        self.region_is_read(cx, region);
        if let Some(regions) = &mut self.regions {
            regions.unreadable.push((cx.now + UNREADABLE_RETRY, region));
        }
    }

    /// Sends a region as it is at this moment.
    fn send_region(&mut self, cx: &mut Context<'_>, region: u64, mut data: Payload) {
        let blocks = self.region_blocks(region);
        let newer = self.region_is_read(cx, region);
        if !cx.has(Bug::ResyncOverwritesNewer) {
            for (block, content) in newer {
                data[(block - blocks.start) as usize] = content;
            }
        }
        let zero = data.iter().all(|block| matches!(block, Block::Zero));
        let bytes = data.iter().filter(|block| matches!(block, Block::Data(_))).count() * BLOCK_BYTES;
        cx.shared().copies.bytes_copied += bytes as u64;
        self.send_copy(cx, blocks, if zero { Payload::new() } else { data }, zero, false);
    }

    /// Sends blocks to the target and notes what confirms their regions.
    fn send_copy(
        &mut self,
        cx: &mut Context<'_>,
        blocks: Range<u64>,
        data: Payload,
        zero: bool,
        fresh: bool,
    ) {
        let version = cx.store.version(self.id);
        let forgets = fresh && cx.has(Bug::FreshCopyNotAwaited);
        let Some(copied) = &mut self.regions else { return };
        let count = blocks.end - blocks.start;
        let tag = cx.shared().copies.send(count);
        for region in regions(blocks.clone()) {
            // Else the next write here would not go to the target, and the confirmation of this would clear its mark.
            let sound = copied.is_covered(region) || cx.has(Bug::UnreadableCopiedTwice);
            debug_assert!(sound, "region {region} is sent, and to be copied");
            if !(forgets && copied.sent.contains_key(&region)) {
                copied.sent.insert(region, Sent { tag, version });
            }
        }
        let (epoch, volume) = (self.right.epoch, self.id);
        let body = Body::Copy { epoch, volume, tag, first: blocks.start, blocks: count as u32, zero, fresh };
        self.send(cx, Message { body, data });
    }

    /// A guest's write was applied here: the target gets it where it has what was there before.
    pub(super) fn send_fresh(
        &mut self,
        cx: &mut Context<'_>,
        blocks: Range<u64>,
        data: &Payload,
        zero: bool,
    ) {
        let limit = cx.config.mirror.resync_blocks_in_flight * 2;
        let Some(copied) = &mut self.regions else { return };
        copied.note_newer(&blocks, data, zero);
        if cx.shared().copies.exceeds(limit) {
            // The target is slow: guests do not wait for it, the pass comes by again.
            let twice = cx.has(Bug::UnreadableCopiedTwice);
            regions(blocks).for_each(|region| copied.copy_again(region, twice));
            return;
        }
        for run in copied.covered_runs(&blocks) {
            let part: Payload = if zero {
                Payload::new()
            } else {
                data[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize]
                    .iter()
                    .cloned()
                    .collect()
            };
            self.send_copy(cx, run, part, zero, true);
        }
    }

    /// Takes the marks of regions that both have on stable media off the log.
    fn clear_confirmed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(copied) = &self.regions else { return false };
        let early = cx.has(Bug::LogClearedEarly);
        let stable = cx.shared().copies.stable(early);
        let early = cx.has(Bug::LogClearedUnstableHere);
        let confirmed = copied.sent.iter().filter(|(_, sent)| sent.tag <= stable).take(CLEAR_BATCH);
        let cleared: Vec<u64> = confirmed
            .filter(|(region, sent)| {
                // A write may be between its mark and the cache.
                let blocks = self.region_blocks(**region);
                !self.marked.contains_key(region)
                    && (early || blocks.is_empty() || cx.store.is_stable(self.id, blocks, sent.version))
            })
            .map(|(&region, _)| region)
            .collect();
        let volume = self.id;
        let Some(copied) = self.regions.as_mut().filter(|_| !cleared.is_empty()) else { return false };
        copied.sent.retain(|region, _| cleared.binary_search(region).is_err());
        let records = cleared.iter().map(|&first| Record::LogRemove { volume, first, count: 1 });
        cx.append(&records.collect::<Vec<_>>());
        true
    }
}
