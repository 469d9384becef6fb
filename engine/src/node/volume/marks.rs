//! The marks in the change log of writes that are done alone: the regions that the partner will lack.
//!
//! Invariant: a region is marked, durably, before a write to it is visible, and its mark stays while a write is between
//! the mark and the cache.

use core::ops::Range;

use super::context::Context;
use super::{Volume, regions};
use crate::planted::Bug;
use crate::pool::{Lsn, Record};

impl Volume {
    /// Logs the regions of a write that the partner will lack.
    pub(super) fn mark(&mut self, cx: &mut Context<'_>, blocks: Range<u64>) {
        let mut run = regions(blocks);
        if cx.has(Bug::MarkForgottenAcrossRegions) {
            run.end = run.start + 1;
        }
        let volume = self.id;
        let log = cx.store.pool().metadata().volume(volume).map(|meta| &meta.log);
        let missing: Vec<u64> =
            run.clone().filter(|&region| !log.is_some_and(|log| log.contains(region))).collect();
        for region in run {
            *self.marked.entry(region).or_default() += 1;
        }
        if missing.is_empty() {
            return;
        }
        let records: Vec<Record> =
            missing.iter().map(|&region| Record::LogAdd { volume, first: region, count: 1 }).collect();
        let lsn = cx.append(&records);
        for region in missing {
            self.marking.insert(region, lsn);
        }
    }

    /// The record that must be durable before a write to these marked blocks; `None` if all are.
    pub(super) fn mark_pending(&mut self, cx: &Context<'_>, blocks: Range<u64>) -> Option<Lsn> {
        if self.marking.is_empty() {
            return None;
        }
        let durable = cx.store.durable();
        let mut pending = None;
        for region in regions(blocks) {
            match self.marking.get(&region) {
                Some(&lsn) if lsn > durable => pending = pending.max(Some(lsn)),
                _ => {
                    self.marking.remove(&region);
                }
            }
        }
        pending
    }

    /// A write of these blocks is no longer between its mark and the cache.
    pub(super) fn unmark(&mut self, cx: &Context<'_>, blocks: Range<u64>) {
        let mut run = regions(blocks);
        if cx.has(Bug::MarkForgottenAcrossRegions) {
            run.end = run.start + 1;
        }
        for region in run {
            let count = self.marked.get_mut(&region).expect("unmark follows mark");
            *count -= 1;
            if *count == 0 {
                self.marked.remove(&region);
            }
        }
    }
}
