//! The consistency check behind `twinsand check`: every slot has exactly one owner or is free, every extent lies
//! inside its volume and its disk, and the counts agree. It changes nothing.

use super::Pool;
use super::record::Slot;
use super::zero_bits::ZeroBits;
use crate::ids::VolumeId;

/// Most problems that are listed; the rest is counted.
const PROBLEMS_MAX: usize = 1000;

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A slot that two extents claim.
    #[error("{slot:?} belongs to extent {extent} of volume {volume} and to another")]
    TwoOwners {
        /// The slot.
        slot: Slot,
        /// One of them.
        volume: VolumeId,
        /// Its extent.
        extent: u32,
    },
    /// A slot that is free and mapped.
    #[error("{slot:?} belongs to extent {extent} of volume {volume} and is free")]
    FreeAndMapped {
        /// The slot.
        slot: Slot,
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
    },
    /// Slots that are neither free nor anyone's.
    #[error("{count} extents of space belong to nobody")]
    Leaked {
        /// How many.
        count: u64,
    },
    /// An extent beyond the end of its volume or disk.
    #[error("extent {extent} of volume {volume} lies outside its volume or disk, at {slot:?}")]
    Outside {
        /// The volume.
        volume: VolumeId,
        /// The extent.
        extent: u32,
        /// Where.
        slot: Slot,
    },
    /// A count that disagrees with what is counted.
    #[error("{what}: {counted} counted, {recorded} recorded")]
    Count {
        /// Of what.
        what: &'static str,
        /// What is there.
        counted: u64,
        /// What the count says.
        recorded: u64,
    },
}

/// What [`check`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Volumes.
    pub volumes: u64,
    /// Extents of space in the pool.
    pub extents: u64,
    /// Mapped ones, each counted once however many volumes share it.
    pub mapped: u64,
    /// Free ones.
    pub free: u64,
    /// Those in between: being mapped, or not yet free again.
    pub between: u64,
    /// What is wrong, at most the first 1000.
    pub problems: Vec<Problem>,
    /// How much is wrong.
    pub problem_count: u64,
}

impl CheckReport {
    /// Is all well?
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Checks an open pool. A freshly opened one shows what is on disk.
pub fn check(pool: &Pool) -> CheckReport {
    let mut report =
        CheckReport { extents: pool.space.slots(), free: pool.space.free(), ..CheckReport::default() };
    // One bit per slot: seen as somebody's.
    let mut owned: Vec<crate::bits::BitSet> = vec![crate::bits::BitSet::new(); pool.layout.disks.len()];
    let mut own = |slot: Slot| owned[usize::from(slot.disk.0)].insert(u64::from(slot.index));
    for (volume, meta) in pool.metadata.volumes() {
        report.volumes += 1;
        let (mut mapped, mut again) = (0, 0);
        for (extent, slot) in meta.map.iter() {
            mapped += 1;
            if !pool.layout.has(slot) || u64::from(extent) * (pool.layout.extent_bytes / 512) >= meta.sectors
            {
                report.add(Problem::Outside { volume, extent, slot });
                continue;
            }
            let first = own(slot);
            again += u64::from(!first);
            if !first && !pool.metadata.sharers(volume, extent, slot).any(|other| other < volume) {
                report.add(Problem::TwoOwners { slot, volume, extent });
            }
            if first && pool.space.has_shared() {
                let counted = pool.metadata.sharers(volume, extent, slot).count() as u64;
                let recorded = pool.space.owners(slot);
                if counted != recorded {
                    report.add(Problem::Count { what: "volumes that share an extent", counted, recorded });
                }
            }
            if pool.space.is_free(slot) {
                report.add(Problem::FreeAndMapped { slot, volume, extent });
            }
        }
        if mapped != meta.map.len() {
            let what = "mapped extents of a volume";
            report.add(Problem::Count { what, counted: mapped, recorded: meta.map.len() });
        }
        report.mapped += mapped - again;
        let (zeros, recorded) = (meta.map.zeros_from(0), meta.map.zero_extents());
        let inside = |bits: &ZeroBits| !bits.is_empty() && u64::from(bits.end()) <= pool.extent_blocks();
        let counted =
            zeros.filter(|(extent, bits)| meta.map.contains(*extent) && inside(bits)).count() as u64;
        if counted != recorded {
            report.add(Problem::Count { what: "extents with blocks that read as zero", counted, recorded });
        }
    }
    for slot in pool.space.between() {
        report.between += 1;
        if !own(slot) || pool.space.is_free(slot) {
            let what = "owners of a slot that is neither free nor mapped";
            report.add(Problem::Count { what, counted: 2, recorded: 1 });
        }
    }
    let extents = pool.space.slots();
    let (counted, recorded) = (pool.checkpoint_entries(), pool.layout.clones.entries(extents));
    if counted > recorded {
        report.add(Problem::Count { what: "places that a checkpoint names at most", counted, recorded });
    }
    if pool.layout.clones != pool.metadata.clone_room() {
        let what = "places that clones may need in a checkpoint";
        let (counted, recorded) = (pool.metadata.clone_room().entries(extents), recorded);
        report.add(Problem::Count { what, counted, recorded });
    }
    let known = report.mapped + report.between + report.free;
    if known < report.extents {
        report.add(Problem::Leaked { count: report.extents - known });
    } else if known > report.extents {
        report.add(Problem::Count { what: "extents of space", counted: known, recorded: report.extents });
    }
    report
}
