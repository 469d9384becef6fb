//! Cuts the power at every moment of a session, with every interesting subset of what was not flushed, and
//! opens what is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use twinsan::io::DiskOp;
use twinsan::planted::Planted;
use twinsan::pool::Pool;

use super::model::Expected;
use super::session::Witness;
use super::{Disk, SECTOR, Sector, open_marked};

/// Up to this many unflushed sectors all subsets are tried.
const ALL_SUBSETS: usize = 6;

/// All sequences of up to so many of these operations, the shorter ones first; as many as `TWINSAN_CRASH_OPS` says, or
/// two: that is every pair.
#[expect(clippy::disallowed_methods, reason = "tests are set from outside")]
pub(crate) fn workloads<Op: Copy>(kinds: &[Op]) -> Vec<Vec<Op>> {
    let asked = std::env::var("TWINSAN_CRASH_OPS").ok().and_then(|text| text.parse().ok());
    let mut all: Vec<Vec<Op>> = vec![vec![]];
    let mut longest = 0..1;
    for _ in 0..asked.unwrap_or(2) {
        let longer = longest.flat_map(|at: usize| {
            let begin = all[at].clone();
            kinds.iter().map(move |op| begin.iter().copied().chain([*op]).collect())
        });
        let longer: Vec<Vec<Op>> = longer.collect();
        longest = all.len()..all.len() + longer.len();
        all.extend(longer);
    }
    all
}

/// A sector that was written and not flushed.
pub(crate) struct Loose {
    disk: usize,
    at: u64,
    /// What it may hold, oldest first; the first is what is durable.
    versions: Vec<Sector>,
}

impl Loose {
    pub(crate) fn newest(&self) -> usize {
        self.versions.len() - 1
    }
}

/// Which version each loose sector has, and which of them is torn.
pub(crate) struct Choice {
    pub(crate) versions: Vec<usize>,
    pub(crate) torn: Option<usize>,
}

/// Tries all crashes of each moment.
pub(crate) struct PowerCuts {
    planted: Planted,
    /// Different crash states tried.
    pub(crate) states: u64,
    /// Crashes of the recovery tried on top of them.
    pub(crate) again: u64,
    seen: BTreeSet<(u64, u64)>,
    /// Those of them from which the recovery was crashed.
    seen_deep: BTreeSet<u64>,
    random: u64,
    /// The recovery is crashed from one in so many of the states in which everything, or nothing, has been written.
    pub(crate) deep_one_in: u64,
}

impl PowerCuts {
    pub(crate) fn new(planted: Planted) -> PowerCuts {
        PowerCuts {
            planted,
            states: 0,
            again: 0,
            seen: BTreeSet::new(),
            seen_deep: BTreeSet::new(),
            random: 1,
            deep_one_in: 1,
        }
    }

    fn crash(&mut self, disks: &[Disk], expected: &Expected, deep: bool) -> Result<(), String> {
        let mut disks = disks.to_vec();
        let (mut pool, devices) =
            open_marked(&mut disks, self.planted).map_err(|error| format!("does not open: {error}"))?;
        expected.check(&pool, &disks, &devices)?;
        self.states += 1;
        if deep { self.crash_again(&mut disks, &devices, &mut pool, 2) } else { Ok(()) }
    }

    /// Crashes what the pool does after opening, at each request, again and again: the result stays the same.
    fn crash_again(
        &mut self,
        disks: &mut [Disk],
        devices: &[usize],
        pool: &mut Pool,
        depth: u32,
    ) -> Result<(), String> {
        while let Some(io) = pool.poll_io() {
            let id = devices[usize::from(io.disk.0)];
            let number = disks[id].begin(&io.op);
            if matches!(io.op, DiskOp::Write { .. }) {
                let loose = loose(disks);
                for choice in choices(&loose) {
                    let mut left = left(disks, &loose, &choice);
                    let (mut next, devices) =
                        open_marked(&mut left, self.planted).map_err(|error| format!("again: {error}"))?;
                    self.again += 1;
                    let same = next.disks() == pool.disks() && next.durable() == pool.durable();
                    if !same || next.metadata() != pool.metadata() {
                        return Err(format!("recovered {:?}, then {:?}", pool.metadata(), next.metadata()));
                    }
                    self.random =
                        self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if depth > 0 && self.random >> 60 == 0 {
                        self.crash_again(&mut left, &devices, &mut next, depth - 1)?;
                    }
                }
            }
            let result = disks[id].end(number, &io.op);
            pool.io_done(io.token, result);
        }
        Ok(())
    }
}

impl Witness for PowerCuts {
    fn moment(&mut self, disks: &[Disk], expected: &Expected) -> Result<(), String> {
        let loose = loose(disks);
        let tried: Vec<Choice> = choices(&loose).collect();
        let last = tried.len() - 1;
        let base = durable_hash(disks);
        for (at, choice) in tried.iter().enumerate() {
            let hash = state_hash(base, &loose, choice);
            let whole = at == last || at == 0 && disks.len() == 1;
            // A torn write may leave the same as a whole one, and come first.
            let deep = whole && hash.is_multiple_of(self.deep_one_in) && self.seen_deep.insert(hash);
            if self.seen.insert((hash, expected.fingerprint())) || deep {
                self.crash(&left(disks, &loose, choice), expected, deep).map_err(|what| {
                    format!("{what} (versions {:?}, torn {:?})", choice.versions, choice.torn)
                })?;
            }
        }
        Ok(())
    }
}

pub(crate) fn loose(disks: &[Disk]) -> Vec<Loose> {
    let mut all = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        for (at, versions) in &disk.unflushed {
            let durable = disk.media.get(at).cloned().unwrap_or_else(|| Arc::new([0; SECTOR]));
            let versions = [durable].into_iter().chain(versions.iter().map(|version| version.bytes.clone()));
            all.push(Loose { disk: n, at: *at, versions: versions.collect() });
        }
    }
    all
}

/// Up to six sectors: all subsets. Beyond: none, all, each missing, each alone, prefixes. With either: each torn,
/// the others before it written; and each older version alone.
pub(crate) fn choices(loose: &[Loose]) -> impl Iterator<Item = Choice> + '_ {
    let count = loose.len();
    let newest = |n: usize| loose[n].versions.len() - 1;
    let pick = move |has: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..count).map(|n| if has(n) { newest(n) } else { 0 }).collect()
    };
    let mut all: Vec<Choice> = Vec::new();
    let mut add = |versions: Vec<usize>, torn: Option<usize>| all.push(Choice { versions, torn });
    if count <= ALL_SUBSETS {
        (0..(1usize << count) - 1).for_each(|subset| add(pick(&|n| subset >> n & 1 == 1), None));
    } else {
        add(pick(&|_| false), None);
        for each in 0..count {
            add(pick(&|n| n != each), None);
            add(pick(&|n| n == each), None);
            add(pick(&|n| n < each), None);
        }
    }
    for each in 0..count {
        add(pick(&|n| n <= each), Some(each));
        add(pick(&|_| true), Some(each));
        for version in 1..newest(each) {
            let mut versions = pick(&|n| n < each);
            versions[each] = version;
            add(versions, None);
        }
    }
    all.push(Choice { versions: pick(&|_| true), torn: None });
    all.into_iter()
}

/// A torn sector has the first half of the new content.
fn chosen(loose: &Loose, version: usize, torn: bool) -> Sector {
    if !torn || version == 0 {
        return loose.versions[version].clone();
    }
    let mut bytes = *loose.versions[version - 1];
    bytes[..SECTOR / 2].copy_from_slice(&loose.versions[version][..SECTOR / 2]);
    Arc::new(bytes)
}

/// The disks after the power has come back.
pub(crate) fn left(disks: &[Disk], loose: &[Loose], choice: &Choice) -> Vec<Disk> {
    let mut left = disks.to_vec();
    left.iter_mut().for_each(|disk| disk.unflushed.clear());
    for (n, (each, version)) in loose.iter().zip(&choice.versions).enumerate() {
        if *version != 0 {
            left[each.disk].media.insert(each.at, chosen(each, *version, choice.torn == Some(n)));
        }
    }
    left
}

/// Tells what is durable on these disks from anything else.
pub(crate) fn durable_hash(disks: &[Disk]) -> u64 {
    disks.iter().enumerate().fold(0, |hash, (at, disk)| hash ^ media_hash(at, disk))
}

/// Tells one crash state from another; `base` is the hash of what is durable.
pub(crate) fn state_hash(base: u64, loose: &[Loose], choice: &Choice) -> u64 {
    loose.iter().enumerate().fold(base, |hash, (n, loose)| {
        let old = &loose.versions[0];
        let new = chosen(loose, choice.versions[n], choice.torn == Some(n));
        hash ^ sector_hash(loose.disk, loose.at, old) ^ sector_hash(loose.disk, loose.at, &new)
    })
}

fn sector_hash(disk: usize, at: u64, sector: &Sector) -> u64 {
    if sector.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let seed = crc32c::crc32c(&(at << 8 | disk as u64).to_le_bytes());
    let (low, high) = (crc32c::crc32c_append(seed, &sector[..]), crc32c::crc32c_append(!seed, &sector[8..]));
    (u64::from(high) << 32 | u64::from(low)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn media_hash(at: usize, disk: &Disk) -> u64 {
    disk.media.iter().fold(0, |hash, (sector, bytes)| hash ^ sector_hash(at, *sector, bytes))
}
