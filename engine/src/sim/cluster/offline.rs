//! The offline check of a node's pool: what its disks show now is opened and checked by itself, as `twinsand check`
//! does after a crash, and its data are compared with their checksums. The node is not asked, and nothing is written.

use super::{Cluster, Slot};
use crate::block::Payload;
use crate::ids::NodeName;
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};
use crate::planted::Planted;
use crate::pool::{CheckReport, OpenError, Opening, check};
use crate::sim::disk::SimDisk;
use crate::store::{Damage, DataCheck, DataReport, Defect};

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
    /// Opens the pool that the disks show, and checks it and its data. Of the blocks that the disks have damaged nothing is
    /// told.
    fn check_pool(&self, planted: Planted) -> Result<(CheckReport, DataReport), OpenError> {
        let disks: Vec<&SimDisk> = self.marked().into_iter().map(|at| &self.disks[at]).collect();
        let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry()).collect();
        let mut opening = Opening::new(&geometries).planted(planted);
        while let Some(io) = opening.poll_io() {
            opening.io_done(io.token, answer(disks[usize::from(io.disk.0)], &io.op));
        }
        let ended = opening.done().expect("an opening that asks for nothing has ended");
        let (pool, _) = ended?;
        let mut data = DataCheck::new(&pool);
        while let Some(io) = data.poll_io() {
            data.io_done(io.token, answer(disks[usize::from(io.disk.0)], &io.op));
        }
        assert!(data.is_over(), "a check that asks for nothing has ended");
        let mut report = data.report().clone();
        report.defects.retain(|defect| match defect {
            Defect::Block { disk, offset, .. } => {
                !disks[usize::from(disk.0)].damaged().contains(&Cluster::disk_block(*offset))
            }
            Defect::Line { .. } => true,
        });
        Ok((check(&pool), report))
    }
}

impl Cluster {
    /// The pool of a node has nothing to repair, and all data match their checksums but what the disks have damaged and
    /// what a crash has put in doubt. Disks that fail writes tell nothing: they are given up.
    pub(super) fn check_pool(&mut self, node: NodeName) {
        let slot = &self.slots[node.index()];
        if slot.disk_failed || slot.disks.iter().any(SimDisk::is_failing) {
            return;
        }
        match slot.check_pool(self.planted) {
            Ok((report, data)) if report.is_clean() && report.between == 0 => {
                self.counters.pools_checked += 1;
                self.counters.data_checked += data.good;
                self.counters.data_in_doubt += data.in_doubt;
                // A block that was damaged on a disk is damaged where its extent is copied to.
                let goes_along = |defect: &&Defect| {
                    self.was_damaged() && matches!(defect, Defect::Block { damage: Damage::Lost, .. })
                };
                if let Some(defect) = data.defects.iter().find(|defect| !goes_along(defect)) {
                    self.fail(
                        13,
                        format!("an offline check of node {node} finds disk {}, {defect}", defect.disk().0),
                    );
                }
            }
            Ok((report, _)) => self.fail(9, format!("the pool of node {node} fails its check: {report:?}")),
            Err(error) => self.fail(9, format!("the pool of node {node} does not open offline: {error}")),
        }
    }
}
