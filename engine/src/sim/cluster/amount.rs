//! How much a resync may copy: once what was marked when it began, and once more what guests write meanwhile. However
//! often they write to a region, it is copied but once more until the next write: it counts anew when a copy of it is
//! under way. Linear volumes are not copied.

use core::ops::Range;
use std::collections::BTreeSet;

use super::Cluster;
use super::invariants::REGION_BLOCKS;
use crate::block::{BLOCK_BYTES, Block};
use crate::guest::Sectors;
use crate::ids::{NodeName, VolumeId};
use crate::mirror::message::{Body, Message};

const REGION_BYTES: u64 = REGION_BLOCKS * BLOCK_BYTES as u64;

/// The resync that goes on, or the last one.
#[derive(Debug, Default)]
pub(super) struct Amount {
    /// Bytes that were marked, or of regions that guests have asked to be written since.
    changed: u64,
    /// Regions that are counted as written, and of which no copy has been sent since.
    written: BTreeSet<(VolumeId, u64)>,
    /// Bytes copied of the log's regions; zeros cost nothing.
    copied: u64,
}

fn regions(blocks: Range<u64>) -> Range<u64> {
    blocks.start / REGION_BLOCKS..blocks.end.div_ceil(REGION_BLOCKS)
}

impl Cluster {
    /// A resync of so many marked regions begins.
    pub(super) fn resync_begins(&mut self, marked: u64) {
        self.amount = Amount::default();
        self.may_copy(marked);
        let pending = self.hosts.pending.values().map(|pending| pending.request);
        let open = pending.filter(|request| request.kind.writes());
        for request in open.collect::<Vec<_>>() {
            self.changes(request.volume, request.at);
        }
    }

    /// A guest writes here.
    pub(super) fn changes(&mut self, volume: VolumeId, at: Sectors) {
        if self.hosts.is_mirrored(volume) && self.slots.iter().any(|slot| slot.resyncing) {
            let written = &mut self.amount.written;
            let new = regions(at.blocks()).filter(|region| written.insert((volume, *region))).count();
            self.may_copy(new as u64);
        }
    }

    fn may_copy(&mut self, regions: u64) {
        self.amount.changed += regions * REGION_BYTES;
        self.counters.resync_bytes_changed += regions * REGION_BYTES;
    }

    /// Counts what a source copies. A guest's own new write is not a copy.
    pub(super) fn note_copy(&mut self, source: NodeName, message: &Message) {
        let Body::Copy { fresh: false, volume, first, blocks, .. } = message.body else { return };
        for region in regions(first..first + u64::from(blocks)) {
            self.amount.written.remove(&(volume, region));
        }
        let blocks = message.data.iter().filter(|block| matches!(block, Block::Data(_))).count();
        let bytes = (blocks * BLOCK_BYTES) as u64;
        self.amount.copied += bytes;
        self.counters.resync_bytes_copied += bytes;
        let Amount { changed, copied, .. } = self.amount;
        if copied * 10 > changed * 12 {
            self.fail(15, format!("node {source} has copied {copied} bytes in a resync of {changed}"));
        }
    }
}
