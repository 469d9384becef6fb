//! What hosts are told of the two paths to a volume (SPC-4 5.15.2.4), and of its blocks.

use super::Node;
use super::phase::Phase;
use super::volume::Volume;
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::{GuestError, PathState, Sectors, StatusRun};
use crate::ids::VolumeId;
use crate::mirror::message::PeerPhase;
use crate::time::Instant;

impl Node {
    /// The path state of this node for a volume at `now`, and that of the partner as far as this node knows.
    pub fn path_states(&self, now: Instant, volume: VolumeId) -> [PathState; 2] {
        match self.volumes.get(volume) {
            Some(volume) if volume.mirrored => [volume.path(now, self.me()), self.partners_path(&volume)],
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

    /// What the blocks that `at` touches are, at `now`: runs from its beginning on, each longer than none, neighbours
    /// unlike. The answer may end before `at` does; ask on from there. It is as good as a read: by a node that may
    /// serve, with every acknowledged write.
    ///
    /// # Errors
    /// [`GuestError::Unavailable`] or [`GuestError::Transitioning`] if the node may not serve the volume now,
    /// [`GuestError::OutOfRange`] if `at` is empty or begins behind the end of the volume.
    pub fn block_status(
        &self,
        now: Instant,
        volume: VolumeId,
        at: Sectors,
    ) -> Result<Vec<StatusRun>, GuestError> {
        let [path, _] = self.path_states(now, volume);
        match path {
            PathState::Optimized | PathState::NonOptimized => {}
            PathState::Transitioning => return Err(GuestError::Transitioning),
            PathState::Unavailable => return Err(GuestError::Unavailable),
        }
        let volume = self.volumes.get(volume).ok_or(GuestError::OutOfRange)?;
        if volume.stepping {
            // Its lock is to be had, so that step has panicked: what it left half done is no answer.
            return Err(GuestError::Unavailable);
        }
        volume.status(self.store(), at)
    }
}
