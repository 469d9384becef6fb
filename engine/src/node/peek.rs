//! A look inside, for checkers and displays.

use super::Node;
use super::phase::Phase;
use super::view::{Peek, View, VolumeView};
use super::volume::right::Service;
use crate::block::Block;
use crate::ids::{DiskId, Epoch, Members, NodeName, VolumeId};
use crate::store::{Store, SumCounters};
use crate::time::Instant;

impl Node {
    /// A look inside. `now` is this node's clock, by which its lease is judged.
    pub fn view(&self, now: Instant) -> View {
        let expired = matches!(&self.phase, Phase::Paired(pair) if now >= pair.lease_until);
        let serving =
            !expired && matches!(self.service(), Service::Pair | Service::Alone | Service::AloneReads);
        let (record, store) =
            (self.store.as_ref().map(|store| store.pool().metadata().node), self.store.as_ref());
        let copied = self.volumes.values().filter(|_| self.is_copying());
        View {
            name: self.me(),
            phase: self.phase.peer_phase(),
            epoch: self.acting_epoch(),
            members: record.map_or(Members::BOTH, |record| record.members),
            up_to_date: record.is_some_and(|record| record.up_to_date),
            complete: record.is_some_and(|record| record.complete),
            serving,
            dirty_blocks: store.map_or(0, |store| store.unstable_blocks() as u64),
            cached_blocks: store.map_or(0, |store| store.cached_blocks() as u64),
            pool_bytes: store.map_or(0, |store| store.pool().bytes()),
            pool_bytes_used: store.map_or(0, |store| store.pool().bytes_used()),
            pool_bytes_kept: store.map_or(0, |store| store.pool().bytes_kept()),
            space_level: self.space_level,
            resync_regions_left: copied.map(|volume| volume.regions_left()).sum(),
            resync_regions_total: self.shared.copies.total,
            resync_bytes_copied: self.shared.copies.bytes_copied,
            mends: self.shared.damage,
            scrub: self.scrub.report.clone(),
            sums: store.map_or(SumCounters::default(), Store::sum_counters),
            sum_lines_in_doubt: store.map_or(0, Store::sum_lines_in_doubt),
            volumes: self.volume_views(),
            deleting: store.map_or_else(Vec::new, |store| store.purging().collect()),
            deleted: store.map_or_else(Vec::new, |store| {
                let all = store.pool().metadata().volumes().filter(|(_, meta)| meta.deleted);
                all.map(|(id, _)| id).collect()
            }),
            disks: self.disk_views(),
        }
    }

    pub(super) fn acting_epoch(&self) -> Epoch {
        match &self.phase {
            Phase::Paired(pair) => pair.epoch,
            Phase::Alone(alone) => alone.epoch,
            Phase::Deciding(deciding) => deciding.epoch,
            Phase::Waiting(waiting) => waiting.epoch,
            Phase::Recording(recording) => recording.epoch,
            Phase::Opening | Phase::Failed if self.store.is_none() => Epoch(0),
            _ => self.record().epoch,
        }
    }

    fn owner_of(&self, owner: NodeName) -> Option<NodeName> {
        match &self.phase {
            Phase::Paired(_) => Some(owner),
            Phase::Alone(_) => Some(self.me()),
            _ => None,
        }
    }

    fn volume_views(&self) -> Vec<VolumeView> {
        let Some(store) = &self.store else { return Vec::new() };
        let metadata = store.pool().metadata();
        self.volumes
            .iter()
            .filter_map(|(id, volume)| {
                let meta = metadata.volume(id)?;
                Some(VolumeView {
                    id,
                    mirrored: volume.mirrored,
                    owner: if volume.mirrored { self.owner_of(volume.owner) } else { Some(self.me()) },
                    hot: meta.hot.iter().copied().collect(),
                    log: meta.log.clone(),
                    extents: meta.map.len(),
                    sectors: volume.sectors,
                    sectors_shown: volume.shown,
                    change: meta.change,
                    of: meta.kin.map(|kin| kin.of),
                    read_only: meta.is_snapshot(),
                })
            })
            .collect()
    }

    /// Where a block of a volume lies, if its extent is mapped: disk and byte offset.
    pub fn locate(&self, volume: VolumeId, block: u64) -> Option<(DiskId, u64)> {
        self.store.as_ref()?.pool().locate(volume, block)
    }

    /// Has the block there a checksum, which no crash has put in doubt?
    pub fn is_beyond_doubt(&self, disk: DiskId, offset: u64) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_beyond_doubt(disk, offset))
    }

    /// Was the block of this content damaged where it lay before its extent was copied to where it is on disk? `read` reads a
    /// page of checksums of a disk.
    pub fn is_lost(
        &self,
        volume: VolumeId,
        block: u64,
        content: &Block,
        read: impl FnOnce(DiskId, u64) -> Block,
    ) -> bool {
        let Some(store) = &self.store else { return false };
        let device = self.locate(volume, block).and_then(|(disk, _)| store.pool().device(disk));
        device.is_some_and(|disk| store.is_lost(volume, block, content, |offset| read(disk, offset)))
    }

    /// Where a block of a volume would be read from now.
    pub fn peek(&self, volume: VolumeId, block: u64) -> Peek {
        let Some(store) = &self.store else { return Peek::Unmapped };
        if let Some(content) = store.look(volume, |cache| cache.peek(block).cloned()).flatten() {
            return Peek::Cached(content);
        }
        match store.pool().locate(volume, block) {
            Some((disk, offset)) => {
                Peek::OnDisk(store.pool().device(disk).expect("what is mapped is there"), offset)
            }
            None => Peek::Unmapped,
        }
    }
}
