//! Reading: from the cache where it can, from disk where it must, compared with its checksums.
//!
//! Blocks that a disk read is looking at are pinned: whatever is written to them meanwhile is still in the
//! cache when the read comes back, and wins. So a read never returns a mixture with a write-back that ran
//! beside it; and a checksum is never that of newer data. Its slots are held: an extent that is moved meanwhile leaves its
//! old slot to nobody before the read has ended, so a read never returns what a later owner of the slot wrote.
//!
//! A disk that cannot read a run of blocks is asked for each of them, so that one bad block costs no others.

use std::collections::BTreeMap;

use super::guard::Damaged;
use super::sums::Damage;
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

#[derive(Debug)]
struct Job {
    volume: VolumeId,
    first: u64,
    found: Payload,
    parts: Vec<Part>,
    left: usize,
    damaged: Vec<(u64, Damage)>,
    /// The version of the last write when the read began.
    began: u64,
    scrub: bool,
}

/// Reads in progress.
#[derive(Debug, Default)]
pub(super) struct Reads {
    jobs: BTreeMap<ReadToken, Job>,
    /// Parts whose checksums are on the way.
    waiting: Vec<(ReadToken, usize)>,
}

impl Store {
    /// Reads blocks. `token` must not be in use.
    pub fn read(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, token: ReadToken) -> Read {
        self.begin_read(volume, blocks, token, false)
    }

    /// Reads blocks from disk, whatever the cache has, to see whether they are what was written. What is not stable is
    /// left out. The cache does not change.
    pub fn scrub(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, token: ReadToken) -> Read {
        self.begin_read(volume, blocks, token, true)
    }

    fn begin_read(
        &mut self,
        volume: VolumeId,
        blocks: core::ops::Range<u64>,
        token: ReadToken,
        scrub: bool,
    ) -> Read {
        let mut found = Payload::with_capacity((blocks.end - blocks.start) as usize);
        let mut parts: Vec<Part> = Vec::new();
        self.volume(volume);
        let cache = &mut self.volumes.get_mut(&volume).expect("made if it was not there").cache;
        for block in blocks.clone() {
            if !scrub && let Some(content) = cache.get(block) {
                found.push(content.clone());
                continue;
            }
            found.push(Block::Zero);
            if scrub && !cache.is_stable(block..block + 1, u64::MAX) {
                continue;
            }
            let Some((disk, offset)) = self.pool.locate(volume, block) else { continue };
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
            self.ask_disk(token, index, part);
        }
        let job = Job { volume, first: blocks.start, found, left, parts, damaged, began, scrub };
        let before = self.reads.jobs.insert(token, job);
        assert!(before.is_none(), "read tokens are used once");
        Read::Pending
    }

    fn ask_disk(&mut self, token: ReadToken, index: usize, part: &Part) {
        let bytes = part.blocks * 4096;
        self.pool.slots_in(part.disk, part.offset..part.offset + bytes).for_each(|slot| self.pool.hold(slot));
        self.sums.want(part.disk, part.offset, bytes);
        self.load_sums();
        let op = DiskOp::Read { offset: part.offset, blocks: part.blocks as u32 };
        self.submit(part.disk, op, Purpose::Read { token, part: index });
    }

    pub(super) fn read_part_done(&mut self, now: Instant, token: ReadToken, part: usize, result: DiskResult) {
        let Some(job) = self.reads.jobs.get_mut(&token) else { return };
        let at = &mut job.parts[part];
        match result {
            Ok(read) if read.len() as u64 == at.blocks => {
                at.read = Some(read);
                if self.sums.is_loaded(at.disk, at.offset, at.blocks * 4096) {
                    self.verify_part(now, token, part);
                } else {
                    self.reads.waiting.push((token, part));
                }
            }
            Err(DiskError::Unreadable) if at.blocks > 1 => self.split(token, part),
            _ => {
                let blocks = at.first..at.first + at.blocks;
                let cache = self.volumes.get(&job.volume).map_or(&self.nothing, |volume| &volume.cache);
                // What was written meanwhile is here, and need not be read.
                let gone = blocks.filter(|block| match cache.peek(*block) {
                    Some(newer) if !job.scrub => {
                        job.found[(*block - job.first) as usize] = newer.clone();
                        false
                    }
                    newer => newer.is_none() || job.scrub,
                });
                job.damaged.extend(gone.map(|block| (block, Damage::Unreadable)));
                self.part_over(token, part);
            }
        }
    }

    /// One of these blocks cannot be read: which?
    fn split(&mut self, token: ReadToken, part: usize) {
        let job = self.reads.jobs.get_mut(&token).expect("found by the caller");
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
            self.ask_disk(token, begin + n as usize, &part);
        }
        self.let_go(disk, offset, blocks);
    }

    /// Pages of checksums have come.
    pub(super) fn verify_waiting(&mut self, now: Instant) {
        for (token, part) in core::mem::take(&mut self.reads.waiting) {
            let Some(job) = self.reads.jobs.get(&token) else { continue };
            let at = &job.parts[part];
            if self.sums.is_loaded(at.disk, at.offset, at.blocks * 4096) {
                self.verify_part(now, token, part);
            } else {
                self.reads.waiting.push((token, part));
            }
        }
    }

    /// Compares what the disk returned with its checksums.
    fn verify_part(&mut self, now: Instant, token: ReadToken, part: usize) {
        let ask = self.reads.jobs.get(&token).is_some_and(|job| self.may_ask(job.volume));
        let Some(job) = self.reads.jobs.get_mut(&token) else { return };
        let (volume, first) = (job.volume, job.first);
        let at = &mut job.parts[part];
        // What does not fit takes the place of other blocks of its volume, as `keep` finds it right.
        let count = self.shares.portion().min(at.blocks as usize);
        if !job.scrub && self.volumes[&volume].cache.lacks_place(count) {
            self.shares.make_place(now, &mut self.volumes, volume, count);
        }
        let cache = &mut self.volumes.get_mut(&volume).expect("its blocks are pinned").cache;
        let (disk, mut offset) = (at.disk, at.offset);
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
            match self.sums.verify(now, disk, place, (volume, block), &content, ask) {
                Ok(()) if job.scrub => {}
                Ok(()) => {
                    job.found[(block - first) as usize] = content.clone();
                    cache.keep(now, block, content);
                }
                Err(damage) => job.damaged.push((block, damage)),
            }
        }
        let blocks = at.first..at.first + at.blocks;
        self.settle_zeros_of(volume, blocks);
        self.part_over(token, part);
    }

    /// What [`ask_disk`](Self::ask_disk) asked for has come, or is asked for in other pieces.
    fn let_go(&mut self, disk: DiskId, offset: u64, blocks: u64) {
        let bytes = blocks * 4096;
        self.sums.unwant(disk, offset, bytes);
        self.pool.slots_in(disk, offset..offset + bytes).for_each(|slot| self.pool.unhold(slot));
    }

    fn part_over(&mut self, token: ReadToken, part: usize) {
        let job = self.reads.jobs.get_mut(&token).expect("found by the caller");
        let at = &job.parts[part];
        let (disk, offset, blocks) = (at.disk, at.offset, at.blocks);
        job.left -= 1;
        let over = job.left == 0;
        self.let_go(disk, offset, blocks);
        if !over {
            return;
        }
        let job = self.reads.jobs.remove(&token).expect("found above");
        let cache = &mut self.volume(job.volume).cache;
        let read = job.parts.iter().flat_map(|part| part.first..part.first + part.blocks);
        read.for_each(|block| cache.unpin(block));
        let all = job.first..job.first + job.found.len() as u64;
        let version = cache.unstable_version(all);
        let Job { found, mut damaged, .. } = job;
        damaged.sort_unstable_by_key(|(block, _)| *block);
        let result = match damaged.is_empty() {
            true => Ok((found, version)),
            false => Err(Damaged { found, version, blocks: damaged }),
        };
        self.done.push_back(ReadDone { token, result });
    }
}
