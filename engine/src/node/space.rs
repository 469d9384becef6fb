//! Space: what a write that finds none does, and what the operator hears as the pool fills.
//!
//! Invariants: a write that does not fit is refused as a whole, unless space that had been given back before it is
//! still on its way; then it waits until that is free, and not longer; a volume that has used less than is kept for it
//! always waits, for what it lacks is its own. Each threshold is told once when use rises to it, and once when use has
//! fallen clear of it. A full partner is dropped, if the configuration wants that, by the way of a lost one and by no
//! other.

use super::Node;
use super::event::Notice;
use super::phase::Phase;
use crate::pool::Lsn;

impl Node {
    /// The partner has no space for a write: it leaves the pair in the ordinary way, so that whoever decides about lost
    /// partners decides about this one too. This node asks before the partner knows.
    pub(super) fn drop_full_partner(&mut self) {
        if !matches!(self.phase, Phase::Paired(_)) {
            return;
        }
        self.notice(Notice::PartnerDropped);
        self.leave_pair();
        if let Phase::Deciding(deciding) = &mut self.phase {
            deciding.quiet = true;
        }
    }

    /// Tells what the pool's use has come to since the last look.
    pub(super) fn watch_space(&mut self) {
        let pool = self.store().pool();
        let (used, bytes) = (pool.bytes_used(), pool.bytes());
        let config = self.config.space;
        loop {
            let next = config.step(self.space_level, used, bytes);
            if next == self.space_level {
                return;
            }
            let (rising, level) = (next > self.space_level, next.max(self.space_level));
            self.space_level = next;
            self.notice(match rising {
                true => Notice::SpaceReached { level, bytes_used: used, bytes },
                false => Notice::SpaceRegained { level, bytes_used: used, bytes },
            });
        }
    }

    /// Keeps the space that the configuration promises to volumes. What is wrong with that, if something is: a pool in
    /// which nothing was ever recorded must have what is promised. One that has been in use is opened for its data,
    /// however little it has by now, and what is missing is told.
    pub(super) fn keep_space(&mut self) -> Option<String> {
        let Some(store) = &mut self.store else { return None };
        let here = self.config.volumes.iter().filter(|volume| volume.reserved_bytes > 0);
        let here = here.filter(|volume| self.volumes.contains(volume.id));
        let promised: Vec<_> = here.map(|volume| (volume.id, volume.reserved_bytes)).collect();
        let extent = store.pool().extent_blocks() * 4096;
        let sum = promised
            .iter()
            .fold(0u64, |sum, (_, bytes)| sum.saturating_add(bytes.div_ceil(extent).saturating_mul(extent)));
        let bytes = store.pool().bytes();
        if sum > bytes && store.durable() == Lsn(0) {
            return Some(format!(
                "the volumes are promised {sum} bytes in whole extents, and the pool has {bytes}; reserve less, or add a disk"
            ));
        }
        promised.iter().for_each(|(volume, bytes)| store.keep_for(*volume, *bytes));
        let missing = store.pool().bytes_kept_missing();
        if missing > 0 {
            self.notice(Notice::ReservationShort { bytes: missing });
        }
        None
    }
}
