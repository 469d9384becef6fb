//! Which region is copied next, and when its mark goes.
//!
//! One pass over the log, ascending; if the target had no space last time, what reads as zero here goes first. A region
//! that was sent, or was never in the log, is *covered*: a guest's
//! new write there goes to the target too, behind what was sent before it. A region not yet sent is just
//! logged: the pass will come to it. A mark is cleared only when the target has confirmed the last thing sent of
//! the region on stable media, the source has it stable too, and nothing was written there since. So the pass
//! ends, whatever guests do, and a lost link loses nothing that was confirmed.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::event::Notice;
use super::op::Reading;
use super::phase::{Phase, Rejoin};
use super::volume::{REGION_BLOCKS, regions};
use crate::bits::BitSet;
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Body, Message};
use crate::planted::Bug;
use crate::pool::Record;
use crate::store::{Read, ReadToken};
use crate::time::{Duration, Instant};

/// Marks are taken off the log on disk this many at a time.
const CLEAR_BATCH: usize = 256;
/// A region that cannot be read is tried again after this.
const UNREADABLE_RETRY: Duration = Duration::from_secs(1);

/// What was sent of a region last.
#[derive(Clone, Copy, Debug)]
struct Sent {
    tag: u64,
    version: u64,
}

/// A resync in progress, at the source.
#[derive(Debug)]
pub(super) struct Resync {
    /// Regions that have not been sent on this link.
    to_copy: BTreeMap<VolumeId, BitSet>,
    /// Of those, the ones that go first: they free space at the target.
    first: BTreeMap<VolumeId, BitSet>,
    /// Regions being read.
    reading: BTreeSet<(VolumeId, u64)>,
    /// Not drained before this: the last attempt took too long.
    pub(super) drain_at: Instant,
    /// Regions that could not be read, and when to try again.
    unreadable: Vec<(Instant, VolumeId, u64)>,
    /// Regions sent and not cleared.
    sent: BTreeMap<(VolumeId, u64), Sent>,
    last_tag: u64,
    stable_tag: u64,
    blocks_in_flight: u64,
    /// Blocks by tag, to count what is in flight.
    in_flight: BTreeMap<u64, u64>,
}

/// Figures of the current or last resync.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) total: u64,
    pub(super) bytes_copied: u64,
}

impl Resync {
    /// Has every region been sent?
    pub(super) fn is_copied(&self) -> bool {
        self.reading.is_empty() && self.unreadable.is_empty() && self.to_copy.values().all(BitSet::is_empty)
    }

    /// And confirmed?
    pub(super) fn is_settled(&self) -> bool {
        self.is_copied() && self.sent.is_empty()
    }

    /// When to try an unreadable region again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.unreadable.iter().map(|(again, _, _)| *again).min()
    }

    pub(super) fn left(&self) -> u64 {
        self.to_copy.values().map(BitSet::len).sum::<u64>()
            + (self.reading.len() + self.unreadable.len() + self.sent.len()) as u64
    }

    /// The pass has to come by again. What is being read will be sent as it is then. A region is to be copied in one way
    /// only: else the confirmation of one copy clears the mark of a write that waits for the other.
    fn copy_again(&mut self, volume: VolumeId, region: u64) {
        if !self.reading.contains(&(volume, region)) {
            self.unreadable.retain(|&(_, at, unreadable)| (at, unreadable) != (volume, region));
            self.sent.remove(&(volume, region));
            self.to_copy.entry(volume).or_default().insert(region);
        }
    }

    fn is_covered(&self, volume: VolumeId, region: u64) -> bool {
        !self.reading.contains(&(volume, region))
            && !self.unreadable.iter().any(|&(_, at, unreadable)| (at, unreadable) == (volume, region))
            && !self.to_copy.get(&volume).is_some_and(|set| set.contains(region))
    }

    fn next_region(&mut self) -> Option<(VolumeId, u64)> {
        while let Some((volume, region)) = lowest(&self.first) {
            self.first.get_mut(&volume).expect("it came from there").remove(region);
            if self.to_copy.get(&volume).is_some_and(|set| set.contains(region)) {
                return Some((volume, region));
            }
        }
        lowest(&self.to_copy)
    }
}

fn lowest(sets: &BTreeMap<VolumeId, BitSet>) -> Option<(VolumeId, u64)> {
    sets.iter().find_map(|(&volume, set)| set.next_from(0).map(|region| (volume, region)))
}

impl Node {
    pub(super) fn resync_mut(&mut self) -> Option<(Epoch, &mut Resync)> {
        let Phase::Alone(alone) = &mut self.phase else { return None };
        match &mut alone.rejoin {
            Rejoin::Copying(resync) | Rejoin::Draining(resync, _) => Some((alone.epoch, resync)),
            _ => None,
        }
    }

    pub(super) fn begin_resync(&mut self) -> Resync {
        let metadata = self.store().pool().metadata();
        let mut to_copy: BTreeMap<VolumeId, BitSet> = self
            .mirrored()
            .into_iter()
            .filter_map(|id| metadata.volume(id).map(|meta| (id, meta.log.clone())))
            .collect();
        let total = to_copy.values().map(BitSet::len).sum();
        let first = if self.target_was_full { self.zero_regions(&to_copy) } else { BTreeMap::new() };
        self.resync = Progress { total, bytes_copied: 0 };
        let source = self.me();
        self.notice(Notice::ResyncBegan { source, regions: total });
        if self.has(Bug::ResyncCopiesAll) {
            for (&volume, set) in &mut to_copy {
                for (first, count) in self.mapped_regions(volume) {
                    set.insert_run(first, count);
                }
            }
        }
        Resync {
            to_copy,
            first,
            reading: BTreeSet::new(),
            drain_at: Instant::ZERO,
            unreadable: Vec::new(),
            sent: BTreeMap::new(),
            last_tag: 0,
            stable_tag: 0,
            blocks_in_flight: 0,
            in_flight: BTreeMap::new(),
        }
    }

    /// Those of the regions that read as zero, as far as the pool knows.
    fn zero_regions(&self, regions: &BTreeMap<VolumeId, BitSet>) -> BTreeMap<VolumeId, BitSet> {
        let mut zeros = regions.clone();
        for (&volume, set) in &mut zeros {
            for (first, count) in self.mapped_regions(volume) {
                set.remove_run(first, count);
            }
        }
        zeros
    }

    /// Reads ahead, and clears what is confirmed. True if something moved.
    pub(super) fn resync_step(&mut self) -> bool {
        if self.resync_mut().is_none() {
            return false;
        }
        let mut moved = self.clear_confirmed();
        let now = self.now;
        if let Some((_, resync)) = self.resync_mut() {
            let due: Vec<_> = resync.unreadable.extract_if(.., |(again, _, _)| now >= *again).collect();
            for (_, volume, region) in due {
                resync.to_copy.entry(volume).or_default().insert(region);
            }
        }
        let limit = self.config.mirror.resync_blocks_in_flight;
        while let Some((_, resync)) = self.resync_mut()
            && resync.blocks_in_flight + resync.reading.len() as u64 * REGION_BLOCKS < limit
            && let Some((volume, region)) = resync.next_region()
        {
            resync.to_copy.get_mut(&volume).expect("it came from there").remove(region);
            resync.reading.insert((volume, region));
            self.read_region(volume, region);
            moved = true;
        }
        moved
    }

    fn region_blocks(&self, volume: VolumeId, region: u64) -> core::ops::Range<u64> {
        let end = self.volumes.get(&volume).map_or(0, |volume| volume.sectors.div_ceil(8));
        let first = region * REGION_BLOCKS;
        first..(first + REGION_BLOCKS).min(end).max(first)
    }

    fn read_region(&mut self, volume: VolumeId, region: u64) {
        let blocks = self.region_blocks(volume, region);
        if blocks.is_empty() {
            self.send_region(volume, region, Payload::new());
            return;
        }
        let token = self.next_id();
        match self.store_mut().read(volume, blocks, ReadToken(token)) {
            Read::Ready(data, _) => self.send_region(volume, region, data),
            Read::Pending => {
                let link = self.link.unwrap_or(0);
                self.reading.insert(token, Reading::Region { volume, region, link });
            }
        }
    }

    /// A region came from disk. What was written to it meanwhile is in the cache: it is read once more, all from
    /// the cache now, so that what is sent is its content at this moment.
    pub(super) fn region_read(&mut self, volume: VolumeId, region: u64, link: u64, data: Option<Payload>) {
        let current = self.link == Some(link);
        let Some((_, resync)) = self.resync_mut().filter(|_| current) else { return };
        if !resync.reading.contains(&(volume, region)) {
            return;
        }
        match data {
            Some(data) if self.has(Bug::ResyncOverwritesNewer) => self.send_region(volume, region, data),
            Some(_) => self.read_region(volume, region),
            None => {
                // Its mark stays, and the mirror cannot become whole until it can be read, or is overwritten.
                let again = self.now + UNREADABLE_RETRY;
                self.notice(Notice::Unreadable { volume, region });
                if let Some((_, resync)) = self.resync_mut() {
                    resync.reading.remove(&(volume, region));
                    resync.unreadable.push((again, volume, region));
                }
            }
        }
    }

    fn send_region(&mut self, volume: VolumeId, region: u64, data: Payload) {
        let blocks = self.region_blocks(volume, region);
        let zero = data.iter().all(|block| matches!(block, Block::Zero));
        let bytes = data.iter().filter(|block| matches!(block, Block::Data(_))).count() * BLOCK_BYTES;
        self.resync.bytes_copied += bytes as u64;
        if let Some((_, resync)) = self.resync_mut() {
            resync.reading.remove(&(volume, region));
        }
        self.send_copy(volume, blocks, if zero { Payload::new() } else { data }, zero, false);
    }

    /// Sends blocks to the target and notes what confirms their regions.
    fn send_copy(
        &mut self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
        data: Payload,
        zero: bool,
        fresh: bool,
    ) {
        let version = self.store().version();
        let forgets = fresh && self.has(Bug::FreshCopyNotAwaited);
        let Some((epoch, resync)) = self.resync_mut() else { return };
        resync.last_tag += 1;
        let tag = resync.last_tag;
        for region in regions(blocks.clone()) {
            debug_assert!(resync.is_covered(volume, region), "region {region} is sent, and to be copied");
            if !(forgets && resync.sent.contains_key(&(volume, region))) {
                resync.sent.insert((volume, region), Sent { tag, version });
            }
        }
        let count = blocks.end - blocks.start;
        resync.blocks_in_flight += count;
        resync.in_flight.insert(tag, count);
        let body = Body::Copy { epoch, volume, tag, first: blocks.start, blocks: count as u32, zero, fresh };
        self.send(Message { body, data });
    }

    /// A guest's write was applied here: the target gets it where it has what was there before.
    pub(super) fn send_fresh(
        &mut self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
        data: &Payload,
        zero: bool,
    ) {
        let limit = self.config.mirror.resync_blocks_in_flight * 2;
        let Some((_, resync)) = self.resync_mut() else { return };
        if resync.blocks_in_flight > limit {
            // The target is slow: guests do not wait for it, the pass comes by again.
            regions(blocks).for_each(|region| resync.copy_again(volume, region));
            return;
        }
        let runs = covered_runs(resync, volume, blocks.clone());
        for run in runs {
            let part: Payload = if zero {
                Payload::new()
            } else {
                data[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize]
                    .iter()
                    .cloned()
                    .collect()
            };
            self.send_copy(volume, run, part, zero, true);
        }
    }

    pub(super) fn copy_stable(&mut self, epoch: Epoch, tag: u64) {
        let Some((mine, resync)) = self.resync_mut() else { return };
        if mine != epoch || tag > resync.last_tag {
            return;
        }
        resync.stable_tag = resync.stable_tag.max(tag);
        let later = resync.in_flight.split_off(&(tag + 1));
        let confirmed: u64 = core::mem::replace(&mut resync.in_flight, later).values().sum();
        resync.blocks_in_flight -= confirmed;
    }

    /// Takes the marks of regions that both have on stable media off the log.
    fn clear_confirmed(&mut self) -> bool {
        let early = self.has(Bug::LogClearedEarly);
        let Some((_, resync)) = self.resync_mut() else { return false };
        let stable = if early { resync.last_tag } else { resync.stable_tag };
        let candidates: Vec<((VolumeId, u64), u64)> = resync
            .sent
            .iter()
            .filter(|(_, sent)| sent.tag <= stable)
            .map(|(&key, sent)| (key, sent.version))
            .take(CLEAR_BATCH)
            .collect();
        let mut records = Vec::new();
        for ((volume, region), version) in candidates {
            let blocks = self.region_blocks(volume, region);
            if self.volumes.get(&volume).is_some_and(|volume| volume.marked.contains_key(&region)) {
                continue; // a write is between its mark and the cache
            }
            let stable_here = blocks.is_empty() || self.store().is_stable(volume, blocks, version);
            if stable_here || self.has(Bug::LogClearedUnstableHere) {
                records.push(Record::LogRemove { volume, first: region, count: 1 });
                if let Some((_, resync)) = self.resync_mut() {
                    resync.sent.remove(&(volume, region));
                }
            }
        }
        if records.is_empty() {
            return false;
        }
        self.append(&records);
        true
    }
}

/// The parts of a write that lie in covered regions, each whole run of them at once.
fn covered_runs(
    resync: &Resync,
    volume: VolumeId,
    blocks: core::ops::Range<u64>,
) -> Vec<core::ops::Range<u64>> {
    let mut runs: Vec<core::ops::Range<u64>> = Vec::new();
    for region in regions(blocks.clone()) {
        if !resync.is_covered(volume, region) {
            continue;
        }
        let first = (region * REGION_BLOCKS).max(blocks.start);
        let end = ((region + 1) * REGION_BLOCKS).min(blocks.end);
        match runs.last_mut() {
            Some(run) if run.end == first => run.end = end,
            _ => runs.push(first..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_could_not_be_read_and_is_written_is_copied_in_one_way() {
        let (volume, region) = (VolumeId(1), 38);
        let mut resync = Resync {
            to_copy: BTreeMap::new(),
            first: BTreeMap::new(),
            reading: BTreeSet::from([(volume, 40)]),
            drain_at: Instant::ZERO,
            unreadable: vec![(Instant::NEVER, volume, region), (Instant::NEVER, volume, 39)],
            sent: BTreeMap::new(),
            last_tag: 0,
            stable_tag: 0,
            blocks_in_flight: 0,
            in_flight: BTreeMap::new(),
        };
        resync.copy_again(volume, region);
        resync.copy_again(volume, 40);
        assert_eq!(resync.left(), 3, "each is in one place");
        resync.to_copy.clear();
        assert!(resync.is_covered(volume, region), "what is written now goes to the target");
        assert!(!resync.is_covered(volume, 39) && !resync.is_covered(volume, 40));
    }
}
