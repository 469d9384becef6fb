//! Linearizability of a register by following all states that it could be in (just-in-time linearization:
//! Lowe, "Testing for linearizability", 2017), with losses.
//!
//! A configuration is one possible past: which of the operations in progress have taken effect, and the
//! writes since the last that is surely stable, in order. Effects are put off until an answer demands them.
//! A loss takes the register back to any of those writes. A write in progress then has to happen again, unless what is left
//! is it, or lies over it. The number of configurations depends on how many operations overlap, not on the length of the history.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use smallvec::{SmallVec, smallvec};

use super::{Barrier, Entry, NEVER};
use crate::sim::history::Moment;
use crate::sim::pattern::{Value, ZERO};

/// More configurations than this and the sector stays undecided.
const CONFIGURATIONS_MAX: usize = 16_000;
/// Most concurrent writes that are tried in every order.
const WRITES_MAX: usize = 12;
/// With more than this, a failed attempt that is overwritten at once counts as not having happened, though a
/// loss might bring it back.
const EXACT_MAX: usize = 5;
/// Stands for the initial zero in the list of writes.
const INITIAL: u32 = u32::MAX;

/// The result for one sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Some order explains it.
    Possible,
    /// No order explains the answer given at this moment.
    Impossible(Moment),
    /// Too many possibilities.
    Undecided,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Configuration {
    /// Bit per slot: this operation in progress has taken effect.
    done: u64,
    /// Writes since the last stable one, oldest first; the last is what the register holds.
    writes: SmallVec<[u32; 6]>,
}

#[derive(Clone, Copy)]
enum Happening {
    Start(usize),
    End(usize),
    Barrier(Barrier),
}

struct Search<'a> {
    entries: &'a [Entry],
    /// Remember the order of the writes: only losses need it.
    ordered: bool,
    /// Slot of an operation in progress.
    slots: Vec<Option<usize>>,
    /// In order, each once.
    configurations: Vec<Configuration>,
    exceeded: bool,
}

/// Checks one sector that initially reads zero. Barriers are in order.
pub fn check(entries: &[Entry], barriers: &[Barrier]) -> Verdict {
    let entries = without_traceless(entries);
    let mut happenings: Vec<(Moment, Happening)> = Vec::with_capacity(entries.len() * 2 + barriers.len());
    for (index, entry) in entries.iter().enumerate() {
        happenings.push((entry.start, Happening::Start(index)));
        if entry.end != NEVER {
            happenings.push((entry.end, Happening::End(index)));
        }
    }
    happenings.extend(barriers.iter().map(|barrier| (barrier.moment(), Happening::Barrier(*barrier))));
    happenings.sort_by_key(|happening| happening.0);
    let spans = ordered_spans(&entries, barriers);
    let configurations = vec![Configuration { done: 0, writes: smallvec![INITIAL] }];
    let mut search =
        Search { entries: &entries, ordered: false, slots: Vec::new(), configurations, exceeded: false };
    for (moment, happening) in happenings {
        search.remember_order(spans.iter().any(|span| span.contains(&moment)));
        search.step(happening);
        if search.exceeded || search.configurations.len() > CONFIGURATIONS_MAX {
            return Verdict::Undecided;
        }
        if search.configurations.is_empty() {
            return Verdict::Impossible(moment);
        }
    }
    Verdict::Possible
}

/// When the order of writes matters: only until a loss, and only since the last flush before it began. Whatever had happened by
/// then is stable, and of that only the last counts; so are writes that had begun before, if none of those was still in
/// progress when the flush began.
fn ordered_spans(entries: &[Entry], barriers: &[Barrier]) -> Vec<RangeInclusive<Moment>> {
    let mut spans = Vec::new();
    let mut flushed: Option<Moment> = None;
    for barrier in barriers {
        match *barrier {
            Barrier::Flushed { start, .. } => flushed = flushed.max(Some(start)),
            Barrier::Lost { at, .. } => {
                let from = flushed.map(|start| {
                    let open = entries.iter().filter(|entry| entry.start < start && entry.end >= start);
                    open.map(|entry| entry.start).min().map_or(start, |open| open.min(start))
                });
                spans.push(from.unwrap_or_default()..=at);
            }
        }
    }
    spans
}

/// Leaves out failed attempts and writes without an answer whose value nobody read: they need not have happened.
fn without_traceless(entries: &[Entry]) -> Cow<'_, [Entry]> {
    let certain = |entry: &Entry| !entry.optional && entry.end != NEVER;
    if entries.iter().all(certain) {
        return Cow::Borrowed(entries);
    }
    let mut read: Vec<Value> = entries.iter().filter(|entry| !entry.write).map(|entry| entry.value).collect();
    read.sort_unstable();
    let matters = |entry: &&Entry| certain(entry) || read.binary_search(&entry.value).is_ok();
    Cow::Owned(entries.iter().filter(matters).copied().collect())
}

/// Puts them in order, each once.
fn tidy(configurations: &mut Vec<Configuration>) {
    if configurations.len() > 1 {
        configurations.sort_unstable();
        configurations.dedup();
    }
}

impl Search<'_> {
    /// From now on the order of writes is remembered, or not.
    fn remember_order(&mut self, ordered: bool) {
        if core::mem::replace(&mut self.ordered, ordered) && !ordered {
            self.change(|_, mut configuration| {
                let last = configuration.writes.pop().expect("never empty");
                configuration.writes = smallvec![last];
                configuration
            });
        }
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Start(index) => self.start(index),
            Happening::End(index) => self.end(index),
            Happening::Barrier(Barrier::Flushed { start, .. }) => self.flushed(start),
            Happening::Barrier(Barrier::Lost { partly, .. }) => self.lost(partly),
        }
    }

    fn value(&self, write: u32) -> Value {
        if write == INITIAL { ZERO } else { self.entries[write as usize].value }
    }

    fn current(&self, configuration: &Configuration) -> Value {
        self.value(*configuration.writes.last().expect("never empty"))
    }

    fn slot_of(&self, index: usize) -> Option<usize> {
        self.slots.iter().position(|slot| *slot == Some(index))
    }

    fn start(&mut self, index: usize) {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        if slot >= 64 {
            self.exceeded = true;
            return;
        }
        self.slots[slot] = Some(index);
        if !self.entries[index].write {
            self.change(|search, configuration| search.satisfied(configuration));
        }
    }

    /// Each becomes another, or the same.
    fn change(&mut self, change: impl Fn(&Self, Configuration) -> Configuration) {
        let old = core::mem::take(&mut self.configurations);
        self.configurations = old.into_iter().map(|configuration| change(self, configuration)).collect();
        tidy(&mut self.configurations);
    }

    /// Reads in progress that return what the register holds take effect now: it costs nothing.
    fn satisfied(&self, mut configuration: Configuration) -> Configuration {
        let current = self.current(&configuration);
        for (slot, index) in self.slots.iter().enumerate() {
            if index.is_some_and(|index| !self.entries[index].write && self.entries[index].value == current) {
                configuration.done |= 1 << slot;
            }
        }
        configuration
    }

    fn applied(&self, configuration: &Configuration, slot: usize) -> Configuration {
        let mut next = configuration.clone();
        if !self.ordered {
            next.writes.clear();
        }
        next.writes.push(self.slots[slot].expect("in progress") as u32);
        next.done |= 1 << slot;
        self.satisfied(next)
    }

    fn end(&mut self, index: usize) {
        let Some(slot) = self.slot_of(index) else { return };
        let entry = self.entries[index];
        let old = core::mem::take(&mut self.configurations);
        let mut found = Vec::with_capacity(old.len());
        for configuration in old {
            if configuration.done >> slot & 1 == 1 {
                found.push(configuration);
            } else {
                self.explore(&configuration, slot, 0, &mut found);
                if entry.optional {
                    found.push(configuration);
                }
            }
            if self.exceeded {
                return;
            }
        }
        self.slots[slot] = None;
        self.configurations = found;
        self.change(|search, mut configuration| {
            configuration.done &= !(1 << slot);
            if entry.stable {
                search.keep_from(&mut configuration, index);
            }
            configuration
        });
    }

    /// All ways to let writes in progress take effect so that the operation in `goal` takes effect last.
    fn explore(&mut self, from: &Configuration, goal: usize, lowest: usize, found: &mut Vec<Configuration>) {
        let goal_entry = self.entries[self.slots[goal].expect("in progress")];
        let open: Vec<usize> = (0..self.slots.len())
            .filter(|slot| from.done >> slot & 1 == 0)
            .filter(|slot| self.slots[*slot].is_some_and(|index| self.entries[index].write))
            .collect();
        if found.len() > CONFIGURATIONS_MAX {
            tidy(found);
        }
        if open.len() > WRITES_MAX || found.len() > CONFIGURATIONS_MAX {
            self.exceeded = true;
            return;
        }
        for slot in &open {
            let value = self.entries[self.slots[*slot].expect("in progress")].value;
            let reaches = if goal_entry.write { *slot == goal } else { value == goal_entry.value };
            if reaches {
                found.push(self.applied(from, *slot));
            }
            // Without losses the order of overwritten writes does not matter: take them by rising slot.
            let in_turn = self.ordered || *slot >= lowest;
            if *slot != goal
                && in_turn
                && (self.may_matter(from, *slot) || self.ordered && open.len() <= EXACT_MAX)
            {
                let next = self.applied(from, *slot);
                self.explore(&next, goal, slot + 1, found);
            }
        }
    }

    /// Can it matter that this write takes effect only to be overwritten at once? Always, if it must take effect
    /// some time; else only to a read in progress that returns its value.
    fn may_matter(&self, configuration: &Configuration, slot: usize) -> bool {
        let entry = self.entries[self.slots[slot].expect("in progress")];
        let wanted = |(slot, index): (usize, &Option<usize>)| {
            let open = configuration.done >> slot & 1 == 0;
            open && index
                .is_some_and(|index| !self.entries[index].write && self.entries[index].value == entry.value)
        };
        !(entry.optional || entry.end == NEVER) || self.slots.iter().enumerate().any(wanted)
    }

    /// The answer to operation `index` promises that what it wrote or read is stable.
    fn keep_from(&self, configuration: &mut Configuration, index: usize) {
        let entry = self.entries[index];
        let place = if entry.write {
            configuration.writes.iter().rposition(|write| *write == index as u32)
        } else {
            configuration.writes.iter().position(|write| self.value(*write) == entry.value)
        };
        configuration.writes.drain(..place.unwrap_or(0));
    }

    fn flushed(&mut self, start: Moment) {
        self.change(|search, mut configuration| {
            let acknowledged = |write: &u32| *write == INITIAL || search.entries[*write as usize].end < start;
            let place = configuration.writes.iter().rposition(acknowledged).unwrap_or(0);
            configuration.writes.drain(..place);
            configuration
        });
    }

    /// All sets, as bits of their slots, of those of these writes that are in progress and must take effect. One that need not
    /// take effect may as well not have.
    fn subsets(&self, writes: &[u32]) -> SmallVec<[u64; 8]> {
        let mut all: SmallVec<[u64; 8]> = smallvec![0];
        for write in writes {
            let Some(slot) = self.slot_of(*write as usize) else { continue };
            let entry = self.entries[*write as usize];
            if !entry.optional && entry.end != NEVER && all.len() <= CONFIGURATIONS_MAX {
                let more: SmallVec<[u64; 8]> = all.iter().map(|set| set | 1 << slot).collect();
                all.extend(more);
            }
        }
        all
    }

    /// What is left is stable from then on, as far as it comes from a disk; `partly`, it may be lost another time.
    fn lost(&mut self, partly: bool) {
        let reads = self.slots.iter().enumerate().fold(0u64, |mask, (slot, index)| {
            let read = index.is_some_and(|index| !self.entries[index].write);
            mask | u64::from(read) << slot
        });
        let mut found = Vec::new();
        for mut configuration in core::mem::take(&mut self.configurations) {
            // All that is in progress may have happened just before, been seen, and be lost or kept. This
            // allows whatever any choice of them would.
            for slot in 0..self.slots.len() {
                let write = self.slots[slot].is_some_and(|index| self.entries[index].write);
                if write && configuration.done >> slot & 1 == 0 {
                    configuration = self.applied(&configuration, slot);
                }
            }
            for place in 0..configuration.writes.len() {
                let done = configuration.done & reads;
                let first = if partly { 0 } else { place };
                let writes = configuration.writes[first..=place].iter().copied().collect();
                let back = Configuration { done, writes };
                for chosen in self.subsets(&configuration.writes[..=place]) {
                    let kept = Configuration { done: back.done | chosen, ..back.clone() };
                    found.push(self.satisfied(kept));
                }
            }
            if found.len() > CONFIGURATIONS_MAX {
                tidy(&mut found);
            }
            if found.len() > CONFIGURATIONS_MAX {
                self.exceeded = true;
                return;
            }
        }
        tidy(&mut found);
        self.configurations = found;
    }
}
