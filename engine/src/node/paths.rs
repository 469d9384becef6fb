//! What initiators are told of the two paths to a volume (SPC-4 5.15.2.4).

use super::Node;
use super::membership::Service;
use super::phase::Phase;
use super::volume::Volume;
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::PathState;
use crate::ids::VolumeId;
use crate::mirror::message::PeerPhase;
use crate::time::Instant;

impl Node {
    /// The path state of this node for a volume at `now`, and that of the partner as far as this node knows.
    pub fn path_states(&self, now: Instant, volume: VolumeId) -> [PathState; 2] {
        match self.volumes.get(&volume) {
            Some(volume) if volume.mirrored => [self.own_path(now, volume), self.partners_path(volume)],
            Some(_) if !matches!(self.phase, Phase::Opening | Phase::Failed | Phase::Stopped) => {
                [PathState::Optimized, PathState::Unavailable]
            }
            _ => [PathState::Unavailable; 2],
        }
    }

    /// Size of the pool's extents in sectors, once it is open.
    pub fn extent_sectors(&self) -> Option<u64> {
        self.store.as_ref().map(|store| store.pool().extent_blocks() * SECTORS_PER_BLOCK)
    }

    fn own_path(&self, now: Instant, volume: &Volume) -> PathState {
        let expired = matches!(&self.phase, Phase::Paired(pair) if now >= pair.lease_until);
        match self.service() {
            _ if expired => PathState::Transitioning,
            Service::Pair if volume.owner == self.me() => PathState::Optimized,
            Service::Pair => PathState::NonOptimized,
            Service::Alone | Service::AloneReads => PathState::Optimized,
            Service::Hold => PathState::Transitioning,
            Service::Refuse => PathState::Unavailable,
        }
    }

    fn partners_path(&self, volume: &Volume) -> PathState {
        match &self.phase {
            Phase::Paired(_) if volume.owner == self.me() => PathState::NonOptimized,
            Phase::Paired(_) => PathState::Optimized,
            Phase::Deciding(_) | Phase::Waiting(_) | Phase::Recording(_) | Phase::Alone(_) => {
                PathState::Unavailable
            }
            _ if self.link.is_none() => PathState::Unavailable,
            _ => match self.peer.as_ref().map(|peer| peer.phase) {
                Some(PeerPhase::Alone) => PathState::Optimized,
                _ => PathState::Unavailable,
            },
        }
    }
}
