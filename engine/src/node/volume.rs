//! What a node knows of one volume while it runs.

use std::collections::{BTreeMap, VecDeque};

use super::lock::RangeLock;
use super::op::HotArea;
use crate::ids::NodeName;
use crate::pool::Lsn;

/// 4 KiB blocks in a region of the change log: 64 KiB.
pub(super) const REGION_BLOCKS: u64 = 16;

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    /// How far requests may reach.
    pub(super) sectors: u64,
    /// The size that hosts have been told.
    pub(super) shown: u64,
    /// Something is, or was, kept with it, and in force.
    pub(super) items_shown: bool,
    /// It is being deleted: nothing new is begun.
    pub(super) leaving: bool,
    pub(super) mirrored: bool,
    /// Blocks of zeros in writes are not stored.
    pub(super) detect_zeros: bool,
    /// Who orders the writes, in a pair.
    pub(super) owner: NodeName,
    pub(super) lock: RangeLock,
    /// The last place in the order that was given (owner).
    pub(super) last_order: u64,
    /// Writes sent to the partner and not answered: order → write.
    pub(super) sent: BTreeMap<u64, u64>,
    /// The partner has all writes up to this on stable media (owner).
    pub(super) partner_stable: u64,
    /// The last write seen from the owner (partner).
    pub(super) seen_order: u64,
    /// Writes refused for lack of space, in order of refusal, to answer resends (partner).
    refused: VecDeque<u64>,
    /// Writes in order of arrival with the version they got, until they are stable (partner).
    pub(super) applied: VecDeque<(u64, Option<u64>)>,
    /// The last `Stable` told to the owner (partner).
    pub(super) stable_told: u64,
    pub(super) stable_known: u64,
    pub(super) hot: BTreeMap<u32, HotArea>,
    /// Regions whose mark in the change log is not durable yet.
    pub(super) marking: BTreeMap<u64, Lsn>,
    /// Writes by region that are logged and not in the cache: their mark must stay.
    pub(super) marked: BTreeMap<u64, u32>,
}

impl Volume {
    pub(super) fn new(sectors: u64, mirrored: bool, owner: NodeName) -> Volume {
        Volume {
            sectors,
            shown: 0,
            items_shown: false,
            leaving: false,
            mirrored,
            detect_zeros: false,
            owner,
            lock: RangeLock::default(),
            last_order: 0,
            sent: BTreeMap::new(),
            partner_stable: 0,
            seen_order: 0,
            refused: VecDeque::new(),
            applied: VecDeque::new(),
            stable_told: 0,
            stable_known: 0,
            hot: BTreeMap::new(),
            marking: BTreeMap::new(),
            marked: BTreeMap::new(),
        }
    }

    /// Partner: remembers a refusal. The owner sends again only what was in flight when the link was lost, at most
    /// `in_flight_max` writes: those refused last.
    pub(super) fn refuse(&mut self, order: u64, in_flight_max: u64) {
        self.seen_order = self.seen_order.max(order);
        self.refused.push_back(order);
        while self.refused.len() as u64 > in_flight_max {
            self.refused.pop_front();
        }
    }

    pub(super) fn was_refused(&self, order: u64) -> bool {
        self.refused.contains(&order)
    }

    /// A new pair begins: the order starts over, nothing is hot.
    pub(super) fn begin_pair(&mut self, owner: NodeName) {
        self.owner = owner;
        self.end_pair();
        self.hot.clear();
        self.marking.clear();
    }

    /// The pair ended: nothing of its order counts any more.
    pub(super) fn end_pair(&mut self) {
        (self.last_order, self.partner_stable, self.seen_order) = (0, 0, 0);
        (self.stable_told, self.stable_known) = (0, 0);
        self.sent.clear();
        self.refused.clear();
        self.applied.clear();
    }
}

/// The regions that blocks lie in.
pub(super) fn regions(blocks: core::ops::Range<u64>) -> core::ops::Range<u64> {
    blocks.start / REGION_BLOCKS..blocks.end.div_ceil(REGION_BLOCKS)
}
