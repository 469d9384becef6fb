//! Disks of a node that fail for good, all of them, and new ones in their place.
//!
//! Only a pair that is whole can spare them: else the only copy of something would go, which no mirror survives. So the
//! failure waits until the pair is, and each that was asked for happens, unless the faults end before. New disks wait for
//! the partner to serve alone.

use super::{Cluster, Due, slot};
use crate::ids::NodeName;
use crate::mirror::message::PeerPhase;
use crate::sim::disk::{Crash, SimDisk};
use crate::time::Duration;

impl Cluster {
    /// The node's disks are to die.
    pub(super) fn ask_disk_failure(&mut self, node: NodeName, flushes: bool) {
        self.counters.disk_failures_asked += 1;
        if !self.fail_disks(node, flushes) {
            self.counters.disk_failures_put_off += 1;
            self.put_off_failure(node, flushes);
        }
    }

    pub(super) fn fail_disks_now(&mut self, node: NodeName, flushes: bool) {
        if !self.fail_disks(node, flushes) {
            self.put_off_failure(node, flushes);
        }
    }

    fn put_off_failure(&mut self, node: NodeName, flushes: bool) {
        let linear = node == NodeName::A && !self.volumes(false).is_empty();
        if self.healing || linear || !slot::asks_arbiter(&self.setup) {
            self.counters.disk_failures_void += 1;
            return;
        }
        let after = self.part_of_a_lease();
        self.schedule(self.now + after, Due::FailDisks { node, flushes });
    }

    /// The node's disks die, if the pair can spare them.
    fn fail_disks(&mut self, node: NodeName, flushes: bool) -> bool {
        let linear = node == NodeName::A && !self.volumes(false).is_empty();
        let failing = self.slots.iter().any(|slot| slot.disks.iter().any(SimDisk::is_failing));
        if self.healing || linear || failing || !slot::asks_arbiter(&self.setup) || !self.is_whole() {
            return false;
        }
        let counters = &mut self.counters;
        *if flushes { &mut counters.flush_failures } else { &mut counters.write_failures } += 1;
        for disk in &mut self.slots[node.index()].disks {
            if flushes { disk.fail_flushes() } else { disk.fail_writes() }
        }
        self.story(&node.to_string(), || "its disks fail".into());
        true
    }

    /// A node has found out that its disks have failed.
    pub(super) fn disks_failed(&mut self, node: NodeName) {
        let slot = &mut self.slots[node.index()];
        self.counters.disks_failed += u64::from(!slot.disk_failed);
        slot.disk_failed = true;
    }

    /// The node is to get new disks, if its own have failed.
    pub(super) fn ask_new_disks(&mut self, node: NodeName) {
        let failing = self.slots[node.index()].disks.iter().any(SimDisk::is_failing);
        if failing && !self.healing && !self.replace_disks(node) {
            let after = self.part_of_a_lease();
            self.schedule(self.now + after, Due::NewDisks { node });
        }
    }

    /// New disks for a node whose own failed, once the partner serves alone.
    pub(super) fn replace_disks(&mut self, node: NodeName) -> bool {
        let partner_serves = self.slots[node.partner().index()].phase == PeerPhase::Alone;
        if !self.slots[node.index()].disk_failed || !partner_serves {
            return false;
        }
        self.end_life(node, Crash::PowerCut);
        let slot = &mut self.slots[node.index()];
        slot.disk_failed = false;
        slot.format(&self.setup);
        self.counters.disks_replaced += 1;
        self.story(&node.to_string(), || "gets new disks".into());
        self.start(node);
        true
    }

    /// Nothing was asked of these disks since they failed.
    pub(super) fn count_unnoticed_failures(&mut self) {
        let unnoticed = |slot: &slot::Slot| !slot.disk_failed && slot.disks.iter().any(SimDisk::is_failing);
        self.counters.disk_failures_unnoticed +=
            self.slots.iter().filter(|slot| unnoticed(slot)).count() as u64;
    }

    fn part_of_a_lease(&mut self) -> Duration {
        let lease_us = self.setup.lease_ms * 1000;
        self.fault_rng.micros(lease_us / 16, lease_us / 2)
    }
}
