//! Reading: from the cache where it can, from disk where it must, compared with its checksums.
//!
//! Blocks that a disk read is looking at are pinned: whatever is written to them meanwhile is still in the
//! cache when the read comes back, and wins. So a read never returns a mixture with a write-back that ran
//! beside it; and a checksum is never that of newer data. Its slots are held: an extent that is moved meanwhile leaves its
//! old slot to nobody before the read has ended, so a read never returns what a later owner of the slot wrote.
//!
//! A disk that cannot read a run of blocks is asked for each of them, so that one bad block costs no others.

use super::base::Base;
use super::guard::Damaged;
use super::sums::{Address, Damage};
use super::volume::VolumeStore;
use super::{Purpose, ReadDone, Store};
use crate::block::{Block, Payload};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskError, DiskOp, DiskResult};
use crate::time::Instant;

/// Caller's number of a read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadToken(pub u64);

/// How a read began.
#[derive(Debug)]
pub enum Read {
    /// All blocks were at hand: the blocks, and the newest version among them that is not stable.
    Ready(Payload, u64),
    /// A [`ReadDone`] will follow.
    Pending,
}

/// A contiguous piece of one disk.
#[derive(Debug)]
struct Part {
    first: u64,
    blocks: u64,
    disk: DiskId,
    offset: u64,
    /// What the disk returned, while the checksums are on the way.
    read: Option<Payload>,
}

/// A read in progress.
#[derive(Debug)]
pub(super) struct Reading {
    first: u64,
    found: Payload,
    parts: Vec<Part>,
    left: usize,
    damaged: Vec<(u64, Damage)>,
    /// The version of the last write when the read began.
    began: u64,
    scrub: bool,
}

/// A part of a read of a volume.
pub(super) type PartKey = (VolumeId, ReadToken, usize);

impl Store {
    /// Reads blocks. `token` must not be in use.
    pub fn read(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, token: ReadToken) -> Read {
        self.with(volume, |volume, base| volume.begin_read(base, blocks, token, false))
    }

    /// Reads blocks from disk, whatever the cache has, to see whether they are what was written. What is not stable is
    /// left out. The cache does not change.
    pub fn scrub(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, token: ReadToken) -> Read {
        self.with(volume, |volume, base| volume.begin_read(base, blocks, token, true))
    }

    pub(super) fn read_part_done(&mut self, now: Instant, (id, token, part): PartKey, result: DiskResult) {
        let read = self.with(id, |volume, base| volume.part_read(base, token, part, result));
        if read {
            self.verify_part(now, (id, token, part));
        }
    }

    /// Pages of checksums have come.
    pub(super) fn verify_waiting(&mut self, now: Instant) {
        for part in core::mem::take(&mut self.base.unread) {
            self.verify_part(now, part);
        }
    }

    /// Compares a part with its checksums if they are here.
    fn verify_part(&mut self, now: Instant, (id, token, part): PartKey) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let Some(blocks) = volume.blocks_to_keep(token, part) else { return };
        // What does not fit takes the place of other blocks of its volume, as `keep` finds it right.
        let count = self.bounds.shares().portion().min(blocks);
        if volume.cache.lacks_place(count) {
            self.bounds.shares().make_place(now, self.volumes.map_mut(), id, count);
        }
        self.with(id, |volume, base| volume.verify_part(base, now, token, part));
    }
}

impl VolumeStore {
    /// Reads blocks if none has to be read from disk: the blocks, and the newest version among them that is not stable.
    pub(super) fn read_at_hand(
        &mut self,
        base: &Base,
        blocks: core::ops::Range<u64>,
    ) -> Option<(Payload, u64)> {
        let mut found = Payload::with_capacity((blocks.end - blocks.start) as usize);
        for block in blocks.clone() {
            match self.cache.get(block) {
                Some(content) => found.push(content.clone()),
                None if base.pool.locate(self.id, block).is_some() => return None,
                None => found.push(Block::Zero),
            }
        }
        Some((found, self.cache.unstable_version(blocks)))
    }

    pub(super) fn begin_read(
        &mut self,
        base: &mut Base,
        blocks: core::ops::Range<u64>,
        token: ReadToken,
        scrub: bool,
    ) -> Read {
        let mut found = Payload::with_capacity((blocks.end - blocks.start) as usize);
        let mut parts: Vec<Part> = Vec::new();
        let (volume, cache) = (self.id, &mut self.cache);
        for block in blocks.clone() {
            if !scrub && let Some(content) = cache.get(block) {
                found.push(content.clone());
                continue;
            }
            found.push(Block::Zero);
            if scrub && !cache.is_stable(block..block + 1, u64::MAX) {
                continue;
            }
            let Some((disk, offset)) = base.pool.locate(volume, block) else { continue };
            match parts.last_mut() {
                Some(part)
                    if part.disk == disk
                        && part.first + part.blocks == block
                        && part.offset + part.blocks * 4096 == offset =>
                {
                    part.blocks += 1;
                }
                _ => parts.push(Part { first: block, blocks: 1, disk, offset, read: None }),
            }
        }
        if parts.is_empty() {
            let version = cache.unstable_version(blocks);
            return Read::Ready(found, version);
        }
        let began = cache.version();
        for part in &parts {
            (part.first..part.first + part.blocks).for_each(|block| cache.pin(block));
        }
        let (left, damaged) = (parts.len(), Vec::new());
        for (index, part) in parts.iter().enumerate() {
            self.ask_disk(base, token, index, part);
        }
        let job = Reading { first: blocks.start, found, left, parts, damaged, began, scrub };
        let before = self.reads.insert(token, job);
        assert!(before.is_none(), "read tokens are used once");
        Read::Pending
    }

    fn ask_disk(&self, base: &mut Base, token: ReadToken, index: usize, part: &Part) {
        let bytes = part.blocks * 4096;
        base.pool.slots_in(part.disk, part.offset..part.offset + bytes).for_each(|slot| base.pool.hold(slot));
        base.sums.want(part.disk, part.offset, bytes);
        base.load_sums();
        let op = DiskOp::Read { offset: part.offset, blocks: part.blocks as u32 };
        base.submit(part.disk, op, Purpose::Read { part: (self.id, token, index) });
    }

    /// A disk has answered. True if the part is there, to be compared.
    fn part_read(&mut self, base: &mut Base, token: ReadToken, part: usize, result: DiskResult) -> bool {
        let Some(job) = self.reads.get_mut(&token) else { return false };
        let at = &mut job.parts[part];
        match result {
            Ok(read) if read.len() as u64 == at.blocks => {
                at.read = Some(read);
                return true;
            }
            Err(DiskError::Unreadable) if at.blocks > 1 => self.split(base, token, part),
            _ => {
                let blocks = at.first..at.first + at.blocks;
                let cache = &self.cache;
                // What was written meanwhile is here, and need not be read.
                let gone = blocks.filter(|block| match cache.peek(*block) {
                    Some(newer) if !job.scrub => {
                        job.found[(*block - job.first) as usize] = newer.clone();
                        false
                    }
                    newer => newer.is_none() || job.scrub,
                });
                job.damaged.extend(gone.map(|block| (block, Damage::Unreadable)));
                self.part_over(base, token, part);
            }
        }
        false
    }

    /// One of these blocks cannot be read: which?
    fn split(&mut self, base: &mut Base, token: ReadToken, part: usize) {
        let job = self.reads.get_mut(&token).expect("found by the caller");
        let (disk, offset, first, blocks) = {
            let whole = &mut job.parts[part];
            let blocks = core::mem::replace(&mut whole.blocks, 0);
            (whole.disk, whole.offset, whole.first, blocks)
        };
        let begin = job.parts.len();
        job.left += blocks as usize - 1;
        let single = |n| Part { first: first + n, blocks: 1, disk, offset: offset + n * 4096, read: None };
        job.parts.extend((0..blocks).map(single));
        for n in 0..blocks {
            let part = single(n);
            self.ask_disk(base, token, begin + n as usize, &part);
        }
        let_go(base, disk, offset, blocks);
    }

    /// How many blocks of a part may be kept when it has been compared.
    fn blocks_to_keep(&self, token: ReadToken, part: usize) -> Option<usize> {
        let job = self.reads.get(&token)?;
        Some(if job.scrub { 0 } else { job.parts[part].blocks as usize })
    }

    /// Compares what the disk returned with its checksums, or waits for them.
    fn verify_part(&mut self, base: &mut Base, now: Instant, token: ReadToken, part: usize) {
        let (volume, ask) = (self.id, base.may_ask(self.id));
        let family = base.pool.family(volume);
        let Some(job) = self.reads.get_mut(&token) else { return };
        let (first, cache) = (job.first, &mut self.cache);
        let at = &mut job.parts[part];
        let (disk, mut offset) = (at.disk, at.offset);
        if !base.sums.is_loaded(disk, offset, at.blocks * 4096) {
            base.unread.push((volume, token, part));
            return;
        }
        for (block, content) in (at.first..).zip(at.read.take().unwrap_or_default()) {
            let place = offset;
            offset += 4096;
            // What was written meanwhile is newer, and still here, for the block is pinned.
            match cache.peek(block) {
                Some(_) if job.scrub && cache.version_of(block) > job.began => continue,
                Some(newer) if !job.scrub => {
                    job.found[(block - first) as usize] = newer.clone();
                    continue;
                }
                _ => {}
            }
            match base.sums.verify(now, disk, place, Address { family, volume, block }, &content, ask) {
                Ok(()) if job.scrub => {}
                Ok(()) => {
                    job.found[(block - first) as usize] = content.clone();
                    cache.keep(now, block, content);
                }
                Err(damage) => job.damaged.push((block, damage)),
            }
        }
        let blocks = at.first..at.first + at.blocks;
        self.settle_zeros_of(base, blocks);
        self.part_over(base, token, part);
    }

    /// Blocks that read as zero are beyond doubt, where no job is about to change what does.
    fn settle_zeros_of(&self, base: &mut Base, blocks: core::ops::Range<u64>) {
        let size = base.pool.extent_blocks();
        let mut first = blocks.start;
        while base.sums.doubtful() > 0 && first < blocks.end {
            let (extent, end) = (first / size, blocks.end.min((first / size + 1) * size));
            if !self.is_busy(extent as u32) {
                base.settle_zeros((self.id, extent as u32), first - extent * size..end - extent * size);
            }
            first = end;
        }
    }

    fn part_over(&mut self, base: &mut Base, token: ReadToken, part: usize) {
        let job = self.reads.get_mut(&token).expect("found by the caller");
        let at = &job.parts[part];
        let (disk, offset, blocks) = (at.disk, at.offset, at.blocks);
        job.left -= 1;
        let over = job.left == 0;
        let_go(base, disk, offset, blocks);
        if !over {
            return;
        }
        let job = self.reads.remove(&token).expect("found above");
        let cache = &mut self.cache;
        let read = job.parts.iter().flat_map(|part| part.first..part.first + part.blocks);
        read.for_each(|block| cache.unpin(block));
        let all = job.first..job.first + job.found.len() as u64;
        let version = cache.unstable_version(all);
        let Reading { found, mut damaged, .. } = job;
        damaged.sort_unstable_by_key(|(block, _)| *block);
        let result = match damaged.is_empty() {
            true => Ok((found, version)),
            false => Err(Damaged { found, version, blocks: damaged }),
        };
        self.done.push_back(ReadDone { token, result });
    }
}

/// What was asked of a disk has come, or is asked for in other pieces.
fn let_go(base: &mut Base, disk: DiskId, offset: u64, blocks: u64) {
    let bytes = blocks * 4096;
    base.sums.unwant(disk, offset, bytes);
    base.pool.slots_in(disk, offset..offset + bytes).for_each(|slot| base.pool.unhold(slot));
}
