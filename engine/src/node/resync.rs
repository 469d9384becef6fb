//! A resync at its source: which volume copies next. What is copied of a volume, and when its marks go, its machine
//! decides (`volume::regions`); what is with the target is counted for all of them together.

use super::Node;
use super::event::Notice;
use crate::ids::Epoch;
use crate::time::Instant;

impl Node {
    /// The machines take the log as what is to be copied.
    pub(super) fn begin_resync(&mut self) {
        self.shared.copies.begin();
        let zeros_first = self.target_was_full;
        let mut regions = 0;
        self.each_mirrored(|volume, cx| regions += volume.begin_regions(cx, zeros_first));
        self.shared.copies.total = regions;
        let source = self.me();
        self.notice(Notice::ResyncBegan { source, regions });
    }

    /// Reads ahead, and clears what is confirmed. True if something moved.
    pub(super) fn resync_step(&mut self) -> bool {
        if !self.is_copying() {
            return false;
        }
        let mut moved = false;
        self.each_mirrored(|volume, cx| moved |= volume.resync_step(cx));
        let limit = self.config.mirror.resync_blocks_in_flight;
        for first in [true, false] {
            self.each_mirrored(|volume, cx| {
                while cx.shared().copies.may_read(limit) && volume.copy_next(cx, first) {
                    moved = true;
                }
            });
        }
        moved
    }

    pub(super) fn copy_stable(&mut self, epoch: Epoch, tag: u64) {
        if self.is_copying() && self.acting_epoch() == epoch {
            self.shared.copies.confirm(tag);
        }
    }

    /// Has every region been sent?
    pub(super) fn is_copied(&self) -> bool {
        self.volumes.values().all(|volume| volume.is_copied())
    }

    /// And confirmed?
    pub(super) fn is_resync_settled(&self) -> bool {
        self.volumes.values().all(|volume| volume.is_settled())
    }

    /// When to try an unreadable region again.
    pub(super) fn resync_retry_at(&self) -> Option<Instant> {
        self.volumes.values().filter_map(|volume| volume.retry_at()).min()
    }
}
