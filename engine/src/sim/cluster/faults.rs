//! Counts what befalls the nodes, where the plan alone does not tell: how much a power cut took, whether both nodes
//! were down at once, and whether a pause outlived the lease. A fault that never happens shows nothing.

use super::Cluster;
use crate::ids::NodeName;
use crate::sim::disk::Lost;
use crate::time::Duration;

impl Cluster {
    /// A node has died, and with it went what its disks had not flushed.
    pub(super) fn count_death(&mut self, name: NodeName, lost: &[Lost]) {
        let sum = |part: fn(&Lost) -> u64| lost.iter().map(part).sum::<u64>();
        let (kept, gone, torn) = (sum(|lost| lost.kept), sum(|lost| lost.gone), sum(|lost| lost.torn));
        self.counters.power_cuts_in_part += u64::from(kept > 0 && gone + torn > 0);
        self.counters.blocks_torn += torn;
        if self.begun && !self.slots[name.partner().index()].alive() {
            self.counters.both_down += 1;
            self.died_first = Some(name.partner());
        }
    }

    /// A node starts. After both were down, the order matters: only one of them may know of the last writes.
    pub(super) fn count_return(&mut self, name: NodeName) {
        match self.died_first.take() {
            Some(first) if first == name => self.counters.first_dead_first_back += 1,
            Some(_) => self.counters.last_dead_first_back += 1,
            None => {}
        }
    }

    /// A node goes on after a pause.
    pub(super) fn count_pause(&mut self, name: NodeName) {
        let paused = self.now - self.slots[name.index()].paused_at;
        let lease = Duration::from_millis(self.setup.lease_ms);
        self.counters.pauses_past_lease += u64::from(paused >= lease);
    }
}
