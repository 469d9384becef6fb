//! Writes to extents that other volumes share: the extent gets a place of its own, with what was written and the rest of what
//! was there. And what must be so before a volume is cloned.
//!
//! A redirect is one more kind of write-back job: the blocks that are not written anew are read from the shared place →
//! compared with their checksums → written with the others to a new slot, like a new extent → flush → mapped there → the
//! map is durable → stable. The others keep the old place. It is held meanwhile: whatever becomes of it, nothing else
//! lies there before it has been read. Blocks that read as zero are neither read nor written.
//!
//! A block that cannot be had from the shared place does not keep the others from stable media: in the new place it has
//! a checksum that says so, whatever a crash makes of it: it is found damaged there as it was before. One in doubt is in doubt there too.
//!
//! `engine/docs/snapshots.md` has the whole.

use std::collections::BTreeMap;

use super::Damage;
use super::Store;
use super::base::Base;
use super::gather::{Gathering, Reason};
use super::job::Job;
use super::plan::{Plan, Zeros};
use super::volume::VolumeStore;
use crate::block::{Block, PagePool};
use crate::ids::{DiskId, Uuid, VolumeId};
use crate::pool::{Lsn, Record};
use crate::time::Instant;

/// What lies where a block was lost. A host that writes zeros there must not be told that they are lost, so it is nothing that a
/// host writes.
fn in_place_of_lost() -> Block {
    let mut page = PagePool::new().take_zeroed();
    let text =
        b"twinsan: lost where it lay before, and not copied; ask the partner, or write it anew.          \n";
    page.bytes_mut().iter_mut().zip(text.iter().cycle()).for_each(|(byte, text)| *byte = *text);
    Block::Data(page.freeze())
}

impl Store {
    /// Until further notice no extent of the volume begins to move, so that it comes to rest when nobody writes to it.
    pub fn keep_at_rest(&mut self, volume: VolumeId, resting: bool) {
        self.volume(volume).resting = resting;
    }

    /// Is everything of the volume on stable media, and nothing of it in hand? Then it may be cloned.
    pub fn is_at_rest(&self, volume: VolumeId) -> bool {
        self.volumes.get(volume).is_none_or(|volume| volume.is_at_rest())
    }

    /// Makes a volume that is what another one is now: see [`Record::VolumeClone`].
    ///
    /// # Panics
    /// If the other is not [at rest](Self::is_at_rest), or may not be cloned
    /// ([`Pool::may_clone`](crate::pool::Pool::may_clone)).
    pub fn clone_volume(
        &mut self,
        volume: VolumeId,
        of: VolumeId,
        uuid: Uuid,
        (read_only, mirrored): (bool, bool),
    ) -> Lsn {
        assert!(self.is_at_rest(of), "volume {of} is cloned while it is written");
        if let Err(refusal) = self.base.pool.may_clone(volume, of, read_only) {
            panic!("a clone was not asked for before it was made: {refusal}");
        }
        self.base.pool.append(&[Record::VolumeClone { volume, of, uuid, read_only, mirrored }])
    }

    /// What found no place is tried again when there is more space than then.
    pub(super) fn feed_starved(&mut self) {
        let seen = self.base.space_seen();
        if self.base.jobs.starved.is_empty() || self.base.jobs.starved_at == seen {
            return;
        }
        for ((id, _), block, since) in core::mem::take(&mut self.base.jobs.starved) {
            if self.volumes.contains(id) {
                self.with(id, |volume, _| volume.cache.push_dirty_front(block, since));
            }
        }
    }
}

impl Base {
    /// What a job needs that found no place: it changes when there is more of it.
    fn space_seen(&self) -> [u64; 4] {
        let zeros = self.pool.metadata().zero_extents();
        [self.pool.free_extents(), self.pool.shared_extents(), zeros, self.jobs.count]
    }

    /// May a job on this shared extent begin? What is written has a place reserved; zeros that cannot be remembered need
    /// one.
    fn has_place(&mut self, volume: VolumeId, extent: u32) -> bool {
        self.pool.reserve(volume, extent)
    }
}

impl VolumeStore {
    /// Writes dirty blocks of an extent that others share. Nothing of it has been issued yet.
    pub(super) fn write_shared(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        (disk, offset): (DiskId, u64),
        blocks: Vec<u64>,
    ) {
        let size = base.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let zeros = base.pool.zeros(self.id, extent).cloned().unwrap_or_default();
        let only_zeros = blocks.iter().all(|block| matches!(self.cache.peek(*block), Some(Block::Zero)));
        let remembered = only_zeros && base.remembers_zeros(self.id, extent);
        if only_zeros && !remembered && self.is_all_zero(base, extent, &blocks) && !self.is_promised(extent) {
            blocks.iter().for_each(|block| drop(self.cache.issue(*block)));
            return self.unmap(base, extent, Job::new(blocks, disk, None, Zeros::default()));
        }
        if !remembered && !base.has_place(self.id, extent) {
            base.jobs.starved_at = base.space_seen();
            base.jobs.starved.extend(blocks.first().map(|block| ((self.id, extent), *block, now)));
            return;
        }
        let issued: BTreeMap<u64, Block> =
            blocks.iter().map(|&block| (block - first, self.cache.issue(block))).collect();
        if remembered {
            let contents = issued.into_values().collect();
            return self.write_mapped(base, now, extent, (disk, offset), (blocks, contents));
        }
        let mut known = zeros;
        issued.keys().for_each(|block| known.add(*block as u32));
        let slot = Some(base.pool.allocate(self.id, extent));
        let job = Job { slot, ..Job::redirecting(disk, blocks) };
        base.jobs.redirects += 1;
        self.begin_gathering(base, now, extent, job, known, Reason::Redirect(issued));
    }

    /// Will the extent be zero from end to end when these blocks are?
    fn is_all_zero(&self, base: &Base, extent: u32, blocks: &[u64]) -> bool {
        let used = base.pool.blocks_in(self.id, extent);
        let first = u64::from(extent) * base.pool.extent_blocks();
        let mut zeros = base.pool.zeros(self.id, extent).cloned().unwrap_or_default();
        blocks.iter().for_each(|block| zeros.add((block - first) as u32));
        u64::from(zeros.count(0..used as u32)) == used
    }

    /// What was not written anew has been read.
    pub(super) fn redirect_gathered(
        &mut self,
        base: &mut Base,
        now: Instant,
        extent: u32,
        gathering: Gathering,
    ) {
        let Gathering { disk, offset, data, known, bad, reason, .. } = gathering;
        let Reason::Redirect(issued) = reason else { unreachable!("asked for by its caller") };
        let size = base.pool.extent_blocks();
        let first = u64::from(extent) * size;
        let bytes = size * 4096;
        base.pool.slots_in(disk, offset..offset + bytes).for_each(|slot| base.pool.unhold(slot));
        let mut contents: BTreeMap<u64, Block> = issued;
        let (mut spoiled, mut doubtful) = (Vec::new(), Vec::new());
        for (at, content) in (0..).zip(data).filter(|(at, _)| !known.contains(*at as u32)) {
            let cached = self
                .cache
                .peek(first + at)
                .filter(|_| self.cache.is_stable(first + at..first + at + 1, u64::MAX));
            let content = match (bad.get(&at), cached) {
                (None, _) => content,
                (Some(_), Some(cached)) => cached.clone(),
                (Some(Damage::Unsure), None) => {
                    doubtful.push(at);
                    content
                }
                (Some(Damage::Unreadable | Damage::Rotten | Damage::Lost), None) => {
                    spoiled.push(at);
                    in_place_of_lost()
                }
            };
            contents.insert(at, content);
        }
        let job = self.jobs.remove(&extent).expect("its extent was read for it");
        base.jobs.count -= 1;
        let (used, zeros) = (base.pool.blocks_in(self.id, extent), base.pool.zeros(self.id, extent));
        let remembers = base.remembers_zeros(self.id, extent);
        let plan = Plan::redirected_extent(used, zeros, &contents, remembers && doubtful.is_empty());
        let slot = job.slot.expect("it was allocated before the extent was read");
        let job = Job { disk: slot.disk, zeros: plan.zeros, spoiled, doubtful, ..job };
        let offset = base.pool.slot_offset(slot);
        self.prepare(base, now, extent, job, offset, plan.writes);
    }
}
