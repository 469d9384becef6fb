//! The offline check of a node's pool: what its disks show now is opened and checked by itself, as `twinsand check`
//! does after a crash. The node is not asked, and nothing is written.

use super::{Cluster, Slot};
use crate::block::Payload;
use crate::ids::NodeName;
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};
use crate::planted::Planted;
use crate::pool::{CheckReport, OpenError, Opening, check};
use crate::sim::disk::SimDisk;

fn answer(disk: &SimDisk, op: &DiskOp) -> DiskResult {
    match op {
        DiskOp::Read { offset, blocks } => {
            let first = Cluster::disk_block(*offset);
            Ok((first..first + u64::from(*blocks)).map(|number| disk.visible(number)).collect())
        }
        DiskOp::Flush => Ok(Payload::new()),
        DiskOp::Write { .. } => Err(DiskError::Failed),
    }
}

impl Slot {
    /// Opens the pool that the disks show, and checks it.
    fn check_pool(&self, planted: Planted) -> Result<CheckReport, OpenError> {
        let disks: Vec<&SimDisk> = self.marked().into_iter().map(|at| &self.disks[at]).collect();
        let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry()).collect();
        let mut opening = Opening::new(&geometries).planted(planted);
        while let Some(io) = opening.poll_io() {
            opening.io_done(io.token, answer(disks[usize::from(io.disk.0)], &io.op));
        }
        let ended = opening.done().expect("an opening that asks for nothing has ended");
        ended.map(|(pool, _)| check(&pool))
    }
}

impl Cluster {
    /// The pool of a node has nothing to repair. Disks that fail writes tell nothing: they are given up.
    pub(super) fn check_pool(&mut self, node: NodeName) {
        let slot = &self.slots[node.index()];
        if slot.disk_failed || slot.disks.iter().any(SimDisk::is_failing) {
            return;
        }
        match slot.check_pool(self.planted) {
            Ok(report) if report.is_clean() && report.between == 0 => self.counters.pools_checked += 1,
            Ok(report) => self.fail(9, format!("the pool of node {node} fails its check: {report:?}")),
            Err(error) => self.fail(9, format!("the pool of node {node} does not open offline: {error}")),
        }
    }
}
