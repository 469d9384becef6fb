//! How much a resync may copy: once what was marked when it began, and once more what guests write meanwhile.

use super::Cluster;
use super::invariants::REGION_BLOCKS;
use crate::block::{BLOCK_BYTES, Block};
use crate::guest::Sectors;
use crate::ids::NodeName;
use crate::mirror::message::{Body, Message};
use crate::sim::history::Kind;

const REGION_BYTES: u64 = REGION_BLOCKS * BLOCK_BYTES as u64;

/// The resync that goes on, or the last one.
#[derive(Debug, Default)]
pub(super) struct Amount {
    /// Bytes that were marked, or that guests have asked to be written since.
    changed: u64,
    /// Bytes copied of the log's regions; zeros cost nothing.
    copied: u64,
}

fn regions(at: Sectors) -> u64 {
    let blocks = at.blocks();
    blocks.end.div_ceil(REGION_BLOCKS) - blocks.start / REGION_BLOCKS
}

impl Cluster {
    /// A resync of so many marked regions begins.
    pub(super) fn resync_begins(&mut self, marked: u64) {
        self.amount = Amount::default();
        let pending = self.hosts.pending.values().map(|pending| pending.request);
        let open = pending.filter(|request| matches!(request.kind, Kind::Write | Kind::Zero));
        let changed = marked + open.map(|request| regions(request.at)).sum::<u64>();
        self.may_copy(changed);
    }

    /// A guest writes here.
    pub(super) fn changes(&mut self, at: Sectors) {
        if self.slots.iter().any(|slot| slot.resyncing) {
            self.may_copy(regions(at));
        }
    }

    fn may_copy(&mut self, regions: u64) {
        self.amount.changed += regions * REGION_BYTES;
        self.counters.resync_bytes_changed += regions * REGION_BYTES;
    }

    /// Counts what a source copies. A guest's own new write is not a copy.
    pub(super) fn note_copy(&mut self, source: NodeName, message: &Message) {
        let Body::Copy { fresh: false, .. } = message.body else { return };
        let blocks = message.data.iter().filter(|block| matches!(block, Block::Data(_))).count();
        let bytes = (blocks * BLOCK_BYTES) as u64;
        self.amount.copied += bytes;
        self.counters.resync_bytes_copied += bytes;
        let Amount { changed, copied } = self.amount;
        if copied * 10 > changed * 12 {
            self.fail(15, format!("node {source} has copied {copied} bytes in a resync of {changed}"));
        }
    }
}
