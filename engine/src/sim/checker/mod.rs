//! Is the history one that a set of disks could have had?
//!
//! Every sector is a register of its own (linearizability is local), with values that tell which write they
//! come from. A request over many sectors is one operation on each of them. Two algorithms:
//!
//! - [`zones`]: near-linear, for sectors whose values are unique.
//! - [`configurations`]: exact for all, for sectors that were cleared (zero is not unique) or that may have
//!   lost what was not stable when both nodes failed.
//!
//! A write without an answer may take effect at any later time, or never. Of a write that was tried several
//! times, the attempt that was answered takes effect between its own beginning and the answer; each earlier
//! attempt may have taken effect as well, or not, but never after that answer.

use std::collections::BTreeMap;

use super::history::{History, Kind, Moment, Op, Outcome};
use super::pattern::{Value, ZERO};
use crate::block::SECTORS_PER_BLOCK;
use crate::ids::VolumeId;

pub mod configurations;
pub mod zones;

/// A moment that never comes.
pub const NEVER: Moment = Moment::MAX;

/// One operation on one sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Write or read?
    pub write: bool,
    /// What it wrote or returned.
    pub value: Value,
    /// When it began.
    pub start: Moment,
    /// When it ended; [`NEVER`] for a write without an answer.
    pub end: Moment,
    /// Its answer promises stability.
    pub stable: bool,
    /// An attempt that failed, of a write that another attempt ended: it may have taken effect by `end`.
    pub optional: bool,
}

/// Events that concern all sectors of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// A flush that began at `start` ended now: what had been acknowledged by then is stable.
    Flushed {
        /// When it began.
        start: Moment,
        /// When it ended.
        end: Moment,
    },
    /// What is not stable may be lost.
    Lost {
        /// When.
        at: Moment,
        /// Some of it may be left in a memory that lives on, and be lost later.
        partly: bool,
    },
}

impl Barrier {
    /// When it takes effect.
    pub fn moment(self) -> Moment {
        match self {
            Barrier::Flushed { end, .. } => end,
            Barrier::Lost { at, .. } => at,
        }
    }
}

/// A sector that no disk could have shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The volume.
    pub volume: VolumeId,
    /// The sector.
    pub sector: u64,
    /// What is wrong, with the operations on the sector.
    pub text: String,
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Sectors (or blocks, where all sectors saw the same) checked by zones.
    pub by_zones: u64,
    /// Those checked by configurations.
    pub by_configurations: u64,
    /// Those with too many concurrent operations for a verdict.
    pub undecided: u64,
    /// Operations on them.
    pub operations: u64,
}

/// Checks a whole history.
pub fn check(history: &History) -> Result<Checked, Box<Violation>> {
    let mut checked = Checked::default();
    one_replaces(history)?;
    for ((volume, block), ops) in by_block(history) {
        let barriers = barriers(history, volume, block);
        let all_equal = ops.iter().all(|op| is_uniform(history, *op));
        let sectors = if all_equal { 1 } else { SECTORS_PER_BLOCK };
        for sector in block * SECTORS_PER_BLOCK..block * SECTORS_PER_BLOCK + sectors {
            let entries = entries(history, &ops, sector);
            checked.operations += entries.len() as u64;
            check_sector(&entries, &barriers, &mut checked).map_err(|(problem, moment)| {
                let text = format!("{problem}\n{}", describe(&entries, &barriers, moment));
                Box::new(Violation { volume, sector, text })
            })?;
        }
    }
    Ok(checked)
}

/// Checks one sector. The error says what is wrong, and when.
pub fn check_sector(
    entries: &[Entry],
    barriers: &[Barrier],
    checked: &mut Checked,
) -> Result<(), (String, Moment)> {
    let loses = barriers.iter().any(|barrier| matches!(barrier, Barrier::Lost { .. }));
    if !loses && entries.iter().all(|entry| !entry.write || entry.value != ZERO) {
        // Mostly no failed attempt has had any effect. If that does not explain it, the other way decides.
        let certain: Vec<Entry> = entries.iter().filter(|entry| !entry.optional).copied().collect();
        let found = zones::check(&certain);
        if found.is_ok() || certain.len() == entries.len() {
            checked.by_zones += 1;
            return found;
        }
    }
    checked.by_configurations += 1;
    match configurations::check(entries, barriers) {
        configurations::Verdict::Possible => Ok(()),
        configurations::Verdict::Undecided => {
            checked.undecided += 1;
            Ok(())
        }
        configurations::Verdict::Impossible(moment) => {
            Err((format!("no order of the operations explains the answer given at moment {moment}"), moment))
        }
    }
}

fn by_block(history: &History) -> BTreeMap<(VolumeId, u64), Vec<usize>> {
    let mut blocks: BTreeMap<(VolumeId, u64), Vec<usize>> = BTreeMap::new();
    for (index, op) in history.ops.iter().enumerate() {
        let counts = match op.kind {
            Kind::Read => op.outcome == Outcome::Done,
            Kind::Write | Kind::Compare | Kind::Zero => op.outcome != Outcome::Refused,
            Kind::Flush => false,
        };
        if counts {
            for block in op.at.blocks() {
                blocks.entry((op.volume, block)).or_default().push(index);
            }
        }
    }
    blocks
}

/// Two comparisons that were done have not both replaced the same write: that would have been lost. A failure may bring it back.
fn one_replaces(history: &History) -> Result<(), Box<Violation>> {
    let mut replaced: BTreeMap<(VolumeId, u64, Value), &Op> = BTreeMap::new();
    let done = |op: &&Op| op.kind == Kind::Compare && op.outcome == Outcome::Done && op.expected != ZERO;
    for op in history.ops.iter().filter(done) {
        for sector in op.at.start..op.at.end() {
            let Some(other) = replaced.insert((op.volume, sector, op.expected), op) else { continue };
            let (start, end) = (op.start.min(other.start), op.end.max(other.end));
            let back = history.losses.iter().any(|loss| {
                loss.volumes.contains(&op.volume) && loss.at >= start && end.is_some_and(|end| loss.at <= end)
            });
            if !back {
                let text = format!("both have replaced write {}:\n{other:?}\n{op:?}", op.expected);
                return Err(Box::new(Violation { volume: op.volume, sector, text }));
            }
        }
    }
    Ok(())
}

/// Does the operation see all sectors of each block alike?
fn is_uniform(history: &History, op: usize) -> bool {
    let op = &history.ops[op];
    let alike = |values: &[Value]| values.iter().all(|value| *value == values[0]);
    op.at.is_aligned() && op.values.chunks(SECTORS_PER_BLOCK as usize).all(alike)
}

fn entries(history: &History, ops: &[usize], sector: u64) -> Vec<Entry> {
    let ops = ops.iter().map(|index| &history.ops[*index]);
    let mut entries = Vec::new();
    for op in ops.filter(|op| op.at.start <= sector && sector < op.at.end()) {
        let end = op.end.unwrap_or(NEVER);
        let write = op.kind != Kind::Read;
        let value = if write { op.value } else { op.values[(sector - op.at.start) as usize] };
        let certain =
            Entry { write, value, start: op.answered_from(), end, stable: op.stable, optional: false };
        if op.kind == Kind::Compare {
            // One that was done has read what it expected: first, which spares many ways of doing the rest.
            if op.outcome == Outcome::Done {
                entries.push(Entry { write: false, value: op.expected, stable: false, ..certain });
            }
            // It is not tried again unless it had no effect.
            entries.push(certain);
            continue;
        }
        entries.push(certain);
        let certain = op.end.map_or(0, |_| op.attempts.len().saturating_sub(1));
        for (index, (start, _)) in op.attempts.iter().enumerate().filter(|_| write) {
            if index != certain {
                entries.push(Entry { write, value, start: *start, end, stable: false, optional: true });
            }
        }
    }
    entries
}

fn barriers(history: &History, volume: VolumeId, block: u64) -> Vec<Barrier> {
    let losses = history.losses.iter();
    let mut barriers: Vec<Barrier> = losses
        .filter(|loss| loss.volumes.contains(&volume) && !loss.kept.contains(&(volume, block)))
        .map(|loss| Barrier::Lost { at: loss.at, partly: loss.partly })
        .collect();
    if barriers.is_empty() {
        return barriers; // flushes matter only to losses
    }
    let flushes = history.ops.iter().filter(|op| op.kind == Kind::Flush && op.volume == volume);
    barriers.extend(
        flushes.filter_map(|op| op.end.map(|end| Barrier::Flushed { start: op.answered_from(), end })),
    );
    barriers.sort_by_key(|barrier| barrier.moment());
    barriers
}

/// The operations on one sector in order, for people: those before the moment at which something is wrong, and
/// a few after.
fn describe(entries: &[Entry], barriers: &[Barrier], moment: Moment) -> String {
    let mut lines: Vec<(Moment, String)> = entries
        .iter()
        .map(|entry| {
            let what = if entry.write { "write" } else { "read " };
            let end = if entry.end == NEVER { "never".to_string() } else { entry.end.to_string() };
            let stable = if entry.stable { "  stable" } else { "" };
            let stable = if entry.optional { "  perhaps" } else { stable };
            (entry.start, format!("  {:>8} .. {end:>8}  {what} {}{stable}", entry.start, entry.value))
        })
        .collect();
    lines.extend(barriers.iter().map(|barrier| (barrier.moment(), format!("  {barrier:?}"))));
    lines.sort();
    let end = (lines.partition_point(|line| line.0 <= moment) + 5).min(lines.len());
    let begin = end.saturating_sub(45);
    let text: Vec<&str> = lines[begin..end].iter().map(|line| line.1.as_str()).collect();
    format!(
        "operations on the sector, {begin} before and {} after these:\n{}",
        lines.len() - end,
        text.join("\n")
    )
}

#[cfg(test)]
mod tests;
