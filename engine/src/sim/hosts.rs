//! Hosts with two paths to each mirrored volume, as multipath initiators have: several requests in flight,
//! over a small working set with overlaps and a thin spread over everything.
//!
//! A request that one path refuses, or that dies with a node, or takes longer than the path's timeout, is
//! tried again on the other path: same write, new attempt. Before a host leaves a path that still answers, it
//! aborts the attempt and waits until it is told that it can no longer act.

use std::collections::{BTreeMap, BTreeSet};

use super::history::Kind;
use super::pattern::{Value, ZERO};
use super::plan::Setup;
use super::rng::Rng;
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::Sectors;
use crate::ids::{NodeName, RequestId, VolumeId};
use crate::time::Duration;

/// What a host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Read, write, clear or flush.
    pub kind: Kind,
    /// Of which volume.
    pub volume: VolumeId,
    /// Of which sectors.
    pub at: Sectors,
    /// Only stable.
    pub fua: bool,
    /// What a comparison expects.
    pub expected: Value,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What is asked.
    pub request: Request,
    /// The stream that waits for it, if any.
    pub stream: Option<usize>,
    /// The path of the current or next attempt.
    pub path: NodeName,
    /// The attempt in flight.
    pub attempt: Option<RequestId>,
    /// The path has been asked to abort it.
    pub aborting: bool,
    /// Answers "no good copy" so far.
    pub medium_errors: u32,
    /// It began after the volume was deleted.
    pub late: bool,
}

/// What a host does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostStep {
    /// A stream makes its next request.
    Next {
        /// The stream.
        stream: usize,
    },
    /// An operation is tried (again).
    Try {
        /// Its number in the history.
        op: usize,
    },
    /// An attempt takes too long.
    Timeout {
        /// The attempt.
        attempt: RequestId,
    },
    /// The connection of an attempt was reset.
    Reset {
        /// The attempt.
        attempt: RequestId,
    },
}

/// All hosts.
#[derive(Debug)]
pub struct Hosts {
    rng: Rng,
    /// For what may compare.
    compare_rng: Rng,
    /// What hosts have last seen in a block, if all of its sectors were alike.
    seen: BTreeMap<(VolumeId, u64), Value>,
    volumes: Vec<(VolumeId, u64, bool)>,
    /// Volumes that are deleted.
    gone: BTreeSet<VolumeId>,
    extent_blocks: u64,
    setup: Setup,
    /// Requests in progress, by number in the history.
    pub pending: BTreeMap<usize, Pending>,
    /// Attempts in flight: their operation and path.
    pub attempts: BTreeMap<RequestId, (usize, NodeName)>,
    last_attempt: u64,
    last_value: u64,
    /// Requests still to be made by the streams.
    pub left: u64,
    /// Think no longer than this: set when the run shall come to its end.
    pub hurry: bool,
}

impl Hosts {
    /// The hosts of this setup; volume ids count from 1.
    pub fn new(setup: &Setup, rng: Rng) -> Hosts {
        let volumes = setup.volumes.iter().enumerate();
        Hosts {
            compare_rng: rng.fork("compares"),
            seen: BTreeMap::new(),
            rng,
            volumes: volumes.map(|(index, v)| (VolumeId(index as u32 + 1), v.sectors, v.mirrored)).collect(),
            gone: BTreeSet::new(),
            extent_blocks: setup.extent_bytes / 4096,
            setup: setup.clone(),
            pending: BTreeMap::new(),
            attempts: BTreeMap::new(),
            last_attempt: 0,
            last_value: 0,
            left: 0,
            hurry: false,
        }
    }

    /// How many streams of requests there are.
    pub fn streams(&self) -> usize {
        (self.setup.hosts * self.setup.outstanding) as usize
    }

    /// The host of a stream.
    pub fn host_of(&self, stream: usize) -> u32 {
        stream as u32 / self.setup.outstanding.max(1)
    }

    /// How long a path may take. Longer than a forwarded write may wait for its place.
    pub fn path_timeout(&self) -> Duration {
        Duration::from_millis(self.setup.lease_ms * 26 / 10)
    }

    /// Has this volume two paths?
    pub fn is_mirrored(&self, volume: VolumeId) -> bool {
        self.volumes.iter().any(|(id, _, mirrored)| *id == volume && *mirrored)
    }

    /// The size of a volume, as far as hosts know.
    pub fn sectors(&self, volume: VolumeId) -> u64 {
        self.volumes.iter().find(|(id, ..)| *id == volume).map_or(0, |(_, sectors, _)| *sectors)
    }

    /// A volume has grown: from now on hosts use all of it.
    pub fn grow(&mut self, volume: VolumeId, to: u64) {
        for (_, sectors, _) in self.volumes.iter_mut().filter(|(id, ..)| *id == volume) {
            *sectors = to.max(*sectors);
        }
    }

    /// A volume is deleted: hosts begin nothing more there.
    pub fn forget(&mut self, volume: VolumeId) {
        self.gone.insert(volume);
    }

    /// A number that no other write has.
    pub fn next_value(&mut self) -> u64 {
        self.last_value += 1;
        self.last_value
    }

    /// A number that no other attempt has.
    pub fn next_attempt(&mut self) -> RequestId {
        self.last_attempt += 1;
        RequestId(self.last_attempt)
    }

    /// The pause before a stream's next request.
    pub fn think(&mut self) -> Duration {
        if self.hurry {
            return self.rng.micros(0, 500);
        }
        // Bursts with pauses between.
        let mean = if self.rng.chance(0.8) { self.setup.think_us / 4 } else { self.setup.think_us * 4 };
        self.rng.micros(0, mean * 2)
    }

    /// The pause before an attempt on another path.
    pub fn backoff(&mut self) -> Duration {
        let lease_us = self.setup.lease_ms * 1000;
        if self.rng.chance(0.3) {
            self.rng.micros(50, 2_000)
        } else {
            self.rng.micros(lease_us / 100, lease_us / 5)
        }
    }

    /// The path that a new request takes first.
    pub fn first_path(&mut self, volume: VolumeId) -> NodeName {
        if self.is_mirrored(volume) { self.rng.pick(&NodeName::BOTH) } else { NodeName::A }
    }

    /// The path after one that failed.
    pub fn other_path(&self, volume: VolumeId, path: NodeName) -> NodeName {
        if self.is_mirrored(volume) { path.partner() } else { path }
    }

    /// What a stream asks for next.
    pub fn choose(&mut self) -> Request {
        let there: Vec<_> = self.volumes.iter().filter(|(id, ..)| !self.gone.contains(id)).copied().collect();
        let (volume, sectors, _) = there[self.rng.below(there.len() as u64) as usize];
        let dice = self.rng.below(100) as u32;
        let setup = &self.setup;
        let (read, zero, flush) = (setup.read_percent, setup.zero_percent, setup.flush_percent);
        let fua = self.rng.below(100) < u64::from(self.setup.fua_percent);
        let (kind, at) = if dice < flush {
            (Kind::Flush, Sectors::new(0, 0))
        } else if dice < flush + zero {
            (Kind::Zero, self.zero_range(sectors))
        } else if dice < flush + zero + read {
            (Kind::Read, self.range(sectors))
        } else {
            (Kind::Write, self.range(sectors))
        };
        let request = Request { kind, volume, at, fua: fua && kind.writes(), expected: ZERO };
        if kind == Kind::Write { self.perhaps_compare(request) } else { request }
    }

    /// Some writes compare a block, or a part of it, first: if nobody has been faster it holds what was last seen there.
    fn perhaps_compare(&mut self, write: Request) -> Request {
        let block = write.at.blocks().start;
        if self.compare_rng.below(100) >= u64::from(self.setup.compare_percent) {
            return write;
        }
        let start = block * SECTORS_PER_BLOCK;
        let whole = Request { at: Sectors::new(start, SECTORS_PER_BLOCK), ..write };
        let Some(&seen) = self.seen.get(&(write.volume, block)) else { return whole };
        // Now and then it is something old.
        let old = self.compare_rng.chance(0.1);
        let expected = if old { self.compare_rng.below(self.last_value + 1) } else { seen };
        let at = if self.compare_rng.chance(0.2) {
            let from = self.compare_rng.below(SECTORS_PER_BLOCK);
            Sectors::new(start + from, self.compare_rng.between(1, SECTORS_PER_BLOCK - from))
        } else {
            whole.at
        };
        Request { kind: Kind::Compare, at, expected, ..write }
    }

    /// A host has seen, or written, these values.
    pub fn sees(&mut self, volume: VolumeId, at: Sectors, values: &[Value]) {
        for block in at.blocks() {
            let first = block * SECTORS_PER_BLOCK;
            let whole = at.start <= first && first + SECTORS_PER_BLOCK <= at.end();
            let of_block = |sector: u64| values.get((sector - at.start) as usize).copied();
            let value = if whole { of_block(first) } else { None };
            let alike = (first..first + SECTORS_PER_BLOCK).all(|sector| whole && of_block(sector) == value);
            match value {
                Some(value) if alike => self.seen.insert((volume, block), value),
                _ => self.seen.remove(&(volume, block)),
            };
        }
    }

    /// Mostly a block of the working set, which is strewn over the volume in clumps.
    fn place(&mut self, blocks: u64) -> u64 {
        let hot = self.setup.hot_blocks.max(1);
        match self.rng.below(20) {
            0 => self.rng.below(blocks),
            1..3 => self.rng.below(hot.min(blocks)),
            _ => {
                let index = self.rng.below(hot);
                (index / 4 * 61 + index % 4) % blocks
            }
        }
    }

    fn range(&mut self, sectors: u64) -> Sectors {
        let blocks = sectors / SECTORS_PER_BLOCK;
        let first = self.place(blocks);
        let count = match self.rng.below(20) {
            0..13 => 1,
            13..17 => self.rng.between(2, 4),
            17..19 => self.rng.between(5, 8),
            _ => self.rng.between(9, 16),
        };
        let count = count.min(blocks - first);
        let (mut start, mut end) = (first * SECTORS_PER_BLOCK, (first + count) * SECTORS_PER_BLOCK);
        if self.rng.below(100) < u64::from(self.setup.odd_percent) {
            start += self.rng.below(SECTORS_PER_BLOCK);
            end -= self.rng.below(SECTORS_PER_BLOCK);
            end = end.max(start + 1);
        }
        Sectors::new(start, end - start)
    }

    /// Whole extents, parts of them, or a few blocks.
    fn zero_range(&mut self, sectors: u64) -> Sectors {
        if self.rng.chance(0.5) {
            return self.range(sectors);
        }
        let blocks = sectors / SECTORS_PER_BLOCK;
        let extent = self.place(blocks) / self.extent_blocks;
        let first = extent * self.extent_blocks;
        let end = (first + self.extent_blocks).min(blocks);
        let (first, end) = if self.rng.chance(0.6) {
            (first, end)
        } else {
            let first = self.rng.between(first, end - 1);
            (first, self.rng.between(first + 1, end))
        };
        Sectors::new(first * SECTORS_PER_BLOCK, (end - first) * SECTORS_PER_BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_lie_inside_their_volumes_and_every_kind_occurs() {
        let setup = Setup { hosts: 2, zero_percent: 5, compare_percent: 50, ..Setup::default() };
        let mut hosts = Hosts::new(&setup, Rng::new(4));
        let (mut kinds, mut odd) = ([0u32; 5], 0);
        for _ in 0..5_000 {
            let request = hosts.choose();
            hosts.sees(request.volume, request.at, &vec![1; request.at.count as usize]);
            kinds[request.kind as usize] += 1;
            if request.kind != Kind::Flush {
                assert!(request.at.count > 0 && request.at.end() <= setup.volumes[0].sectors, "{request:?}");
                odd += u32::from(!request.at.is_aligned());
            }
        }
        assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
        assert!(odd > 500, "{odd}");
    }
}
