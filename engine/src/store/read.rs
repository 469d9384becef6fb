//! Reading: from the cache where it can, from disk where it must.
//!
//! Blocks that a disk read is looking at are pinned: whatever is written to them meanwhile is still in the
//! cache when the read comes back, and wins. So a read never returns a mixture with a write-back that ran
//! beside it. Its slots are held: an extent that is moved meanwhile leaves its old slot to nobody before the read
//! has ended, so a read never returns what a later owner of the slot wrote.

use std::collections::BTreeMap;

use super::{Purpose, ReadDone, Store};
use crate::block::{Block, Payload};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskError, DiskOp, DiskResult};

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
}

#[derive(Debug)]
struct Job {
    volume: VolumeId,
    first: u64,
    found: Payload,
    parts: Vec<Part>,
    left: usize,
    error: Option<DiskError>,
}

/// Reads in progress.
#[derive(Debug, Default)]
pub(super) struct Reads {
    jobs: BTreeMap<ReadToken, Job>,
}

impl Store {
    /// Reads blocks. `token` must not be in use.
    pub fn read(&mut self, volume: VolumeId, blocks: core::ops::Range<u64>, token: ReadToken) -> Read {
        let mut found = Payload::with_capacity((blocks.end - blocks.start) as usize);
        let mut parts: Vec<Part> = Vec::new();
        for block in blocks.clone() {
            if let Some(content) = self.cache.get(volume, block) {
                found.push(content.clone());
                continue;
            }
            found.push(Block::Zero);
            let Some((disk, offset)) = self.pool.locate(volume, block) else { continue };
            match parts.last_mut() {
                Some(part)
                    if part.disk == disk
                        && part.first + part.blocks == block
                        && part.offset + part.blocks * 4096 == offset =>
                {
                    part.blocks += 1;
                }
                _ => parts.push(Part { first: block, blocks: 1, disk, offset }),
            }
        }
        if parts.is_empty() {
            let version = self.cache.unstable_version(volume, blocks);
            return Read::Ready(found, version);
        }
        for (index, part) in parts.iter().enumerate() {
            let op = DiskOp::Read { offset: part.offset, blocks: part.blocks as u32 };
            self.submit(part.disk, op, Purpose::Read { token, part: index });
        }
        for part in &parts {
            let bytes = part.offset..part.offset + part.blocks * 4096;
            self.pool.slots_in(part.disk, bytes).for_each(|slot| self.pool.hold(slot));
            for block in part.first..part.first + part.blocks {
                self.cache.pin(volume, block);
            }
        }
        let job = Job { volume, first: blocks.start, found, left: parts.len(), parts, error: None };
        let before = self.reads.jobs.insert(token, job);
        assert!(before.is_none(), "read tokens are used once");
        Read::Pending
    }

    pub(super) fn read_part_done(&mut self, token: ReadToken, part: usize, result: DiskResult) {
        let Some(job) = self.reads.jobs.get_mut(&token) else { return };
        let (volume, first) = (job.volume, job.first);
        let at = &job.parts[part];
        let blocks = at.first..at.first + at.blocks;
        match result {
            Ok(read) if read.len() as u64 == at.blocks => {
                for (block, content) in blocks.clone().zip(read) {
                    // What was written meanwhile is newer, and still here, for the block is pinned.
                    let slot = &mut job.found[(block - first) as usize];
                    match self.cache.peek(volume, block) {
                        Some(newer) => *slot = newer.clone(),
                        None => {
                            *slot = content.clone();
                            self.cache.keep(volume, block, content);
                        }
                    }
                }
            }
            Ok(_) => job.error = Some(DiskError::Failed),
            Err(error) => job.error = Some(error),
        }
        for block in blocks {
            self.cache.unpin(volume, block);
        }
        let bytes = at.offset..at.offset + at.blocks * 4096;
        self.pool.slots_in(at.disk, bytes).for_each(|slot| self.pool.unhold(slot));
        job.left -= 1;
        if job.left > 0 {
            return;
        }
        let job = self.reads.jobs.remove(&token).expect("found above");
        let all = job.first..job.first + job.found.len() as u64;
        let version = self.cache.unstable_version(job.volume, all);
        let result = match job.error {
            Some(error) => Err(error),
            None => Ok((job.found, version)),
        };
        self.done.push_back(ReadDone { token, result });
    }
}
