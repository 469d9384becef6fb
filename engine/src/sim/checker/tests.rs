//! The fast checkers against brute force, and against histories whose verdict is plain.

use super::*;
use crate::guest::Sectors;
use crate::ids::NodeName;
use crate::sim::rng::Rng;

/// Tries every order: at each point either the next event happens or any operation in progress takes effect.
struct Brute<'a> {
    entries: &'a [Entry],
    events: Vec<(Moment, Event)>,
}

#[derive(Clone, Copy)]
enum Event {
    Start(usize),
    End(usize),
    Flushed(Moment),
    Lost { partly: bool },
}

#[derive(Clone)]
struct State {
    event: usize,
    open: Vec<usize>,
    done: Vec<bool>,
    /// Writes since the last stable one; `None` is the initial zero.
    writes: Vec<Option<usize>>,
}

impl Brute<'_> {
    fn possible(entries: &[Entry], barriers: &[Barrier]) -> bool {
        let mut events = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            events.push((entry.start, Event::Start(index)));
            if entry.end != NEVER {
                events.push((entry.end, Event::End(index)));
            }
        }
        events.extend(barriers.iter().map(|barrier| match barrier {
            Barrier::Flushed { start, end } => (*end, Event::Flushed(*start)),
            Barrier::Lost { at, partly } => (*at, Event::Lost { partly: *partly }),
        }));
        events.sort_by_key(|event| event.0);
        let done = vec![false; entries.len()];
        Brute { entries, events }.search(State { event: 0, open: Vec::new(), done, writes: vec![None] })
    }

    fn value(&self, write: Option<usize>) -> Value {
        write.map_or(ZERO, |index| self.entries[index].value)
    }

    fn search(&self, state: State) -> bool {
        let Some((_, event)) = self.events.get(state.event) else { return true };
        for index in state.open.iter().copied().filter(|index| !state.done[*index]) {
            let entry = self.entries[index];
            let current = self.value(*state.writes.last().expect("never empty"));
            if entry.write || entry.value == current {
                let mut next = state.clone();
                next.done[index] = true;
                if entry.write {
                    next.writes.push(Some(index));
                }
                if self.search(next) {
                    return true;
                }
            }
        }
        let mut next = state;
        next.event += 1;
        match *event {
            Event::Start(index) => next.open.push(index),
            Event::End(index) => {
                if !next.done[index] && !self.entries[index].optional {
                    return false;
                }
                next.open.retain(|open| *open != index);
                let entry = self.entries[index];
                if entry.stable {
                    let place = if entry.write {
                        next.writes.iter().rposition(|write| *write == Some(index))
                    } else {
                        next.writes.iter().position(|write| self.value(*write) == entry.value)
                    };
                    next.writes.drain(..place.unwrap_or(0));
                }
            }
            Event::Flushed(start) => {
                let acknowledged =
                    |write: &Option<usize>| write.is_none_or(|write| self.entries[write].end < start);
                let place = next.writes.iter().rposition(acknowledged).unwrap_or(0);
                next.writes.drain(..place);
            }
            Event::Lost { partly } => return self.lose(&next, partly),
        }
        self.search(next)
    }

    /// The register goes back to any of its writes. What was before that is stable now, unless the loss was `partly`. Of those
    /// in progress up to that one any may have happened for good.
    fn lose(&self, state: &State, partly: bool) -> bool {
        (0..state.writes.len()).any(|place| {
            let mut next = state.clone();
            next.writes.truncate(place + 1);
            if !partly {
                next.writes.drain(..place);
            }
            for index in &state.open {
                next.done[*index] &= !self.entries[*index].write;
            }
            let left = state.writes[..=place].iter().flatten().copied();
            let left: Vec<usize> = left.filter(|index| state.open.contains(index)).collect();
            (0..1u32 << left.len()).any(|chosen| {
                let mut kept = next.clone();
                for (bit, index) in left.iter().enumerate() {
                    kept.done[*index] |= chosen >> bit & 1 == 1;
                }
                self.search(kept)
            })
        })
    }
}

/// A random small history. Values read are those a register could have had, mostly.
fn random_history(rng: &mut Rng, zeros: bool, losses: bool, attempts: bool) -> (Vec<Entry>, Vec<Barrier>) {
    let (least, most) = if losses { (3, 4) } else { (2, 6) };
    let count = rng.between(least, most) as usize;
    let mut moments: Vec<Moment> = (1..60).collect();
    let mut draw = |rng: &mut Rng| moments.swap_remove(rng.below(moments.len() as u64) as usize);
    let mut entries = Vec::new();
    for index in 0..count {
        let (first, second) = (draw(rng), draw(rng));
        let (start, mut end) = (first.min(second), first.max(second));
        let write = index == 0 || rng.chance(0.5);
        let value = if zeros && rng.chance(0.3) { ZERO } else { index as u64 + 1 };
        if write && rng.chance(0.15) {
            end = NEVER;
        }
        let stable = losses && rng.chance(0.2);
        let optional = attempts && write && rng.chance(0.3);
        entries.push(Entry { write, value, start, end, stable, optional });
    }
    let written: Vec<Value> = entries.iter().filter(|entry| entry.write).map(|entry| entry.value).collect();
    for entry in entries.iter_mut().filter(|entry| !entry.write) {
        entry.value = if rng.chance(0.2) { ZERO } else { rng.pick(&written) };
    }
    let mut barriers = Vec::new();
    if losses {
        for _ in 0..rng.between(1, 2) {
            barriers.push(Barrier::Lost { at: draw(rng), partly: rng.chance(0.5) });
        }
        for _ in 0..rng.below(3) {
            let (first, second) = (draw(rng), draw(rng));
            barriers.push(Barrier::Flushed { start: first.min(second), end: first.max(second) });
        }
        barriers.sort_by_key(|barrier| barrier.moment());
    }
    (entries, barriers)
}

/// Both verdicts must be common, or the comparison shows nothing.
fn compare(
    runs: u64,
    zeros: bool,
    losses: bool,
    attempts: bool,
    fast: impl Fn(&[Entry], &[Barrier]) -> bool,
) {
    let mut rng = Rng::new(20_000 + u64::from(zeros) * 2 + u64::from(losses));
    let mut possible = 0;
    for run in 0..runs {
        let (entries, barriers) = random_history(&mut rng, zeros, losses, attempts);
        let expected = Brute::possible(&entries, &barriers);
        assert_eq!(
            fast(&entries, &barriers),
            expected,
            "run {run}: {}",
            describe(&entries, &barriers, NEVER)
        );
        possible += u64::from(expected);
    }
    assert!(possible > runs / 10 && possible < runs * 9 / 10, "{possible} of {runs} were possible");
}

fn followed(entries: &[Entry], barriers: &[Barrier]) -> bool {
    let verdict = configurations::check(entries, barriers);
    assert_ne!(verdict, configurations::Verdict::Undecided);
    verdict == configurations::Verdict::Possible
}

#[test]
fn zones_agree_with_brute_force() {
    compare(40_000, false, false, false, |entries, _| zones::check(entries).is_ok());
}

#[test]
fn configurations_agree_with_brute_force() {
    compare(20_000, false, false, false, followed);
    compare(20_000, true, false, false, followed);
    compare(20_000, true, false, true, followed);
    compare(10_000, false, true, false, followed);
    compare(10_000, true, true, true, followed);
}

fn volume() -> VolumeId {
    VolumeId(1)
}

fn block() -> Sectors {
    Sectors::new(0, 8)
}

fn write(history: &mut History, value: Value) {
    let op = history.begin(0, Kind::Write, volume(), block(), value);
    history.done(op, false, Vec::new());
}

fn read(history: &mut History, value: Value) {
    let op = history.begin(0, Kind::Read, volume(), block(), 0);
    history.done(op, false, vec![value; 8]);
}

#[test]
fn an_old_value_after_a_newer_one_is_found() {
    let mut history = History::default();
    write(&mut history, 1);
    write(&mut history, 2);
    read(&mut history, 2);
    assert!(check(&history).is_ok());
    read(&mut history, 1);
    let violation = check(&history).unwrap_err();
    assert!(violation.text.contains("value 2"), "{violation:?}");
}

#[test]
fn a_write_that_failed_may_appear_late_but_not_twice() {
    let mut history = History::default();
    write(&mut history, 1);
    history.begin(0, Kind::Write, volume(), block(), 2);
    read(&mut history, 1);
    write(&mut history, 3);
    read(&mut history, 2);
    assert!(check(&history).is_ok());
    read(&mut history, 3);
    assert!(check(&history).is_err());
}

#[test]
fn a_failed_attempt_may_take_effect_too_but_not_after_the_answer_to_the_retry() {
    let build = |late: bool| {
        let mut history = History::default();
        let op = history.begin(0, Kind::Write, volume(), block(), 1);
        history.attempt(op, NodeName::A);
        read(&mut history, 1);
        write(&mut history, 2);
        history.attempt(op, NodeName::B);
        history.done(op, false, Vec::new());
        read(&mut history, 1);
        write(&mut history, 3);
        read(&mut history, if late { 1 } else { 3 });
        check(&history).is_ok()
    };
    assert!(build(false) && !build(true));
}

#[test]
fn a_retried_read_tells_of_the_time_of_its_last_attempt() {
    let mut history = History::default();
    write(&mut history, 1);
    let op = history.begin(0, Kind::Read, volume(), block(), 0);
    history.attempt(op, NodeName::A);
    write(&mut history, 2);
    history.attempt(op, NodeName::B);
    history.done(op, false, vec![1; 8]);
    assert!(check(&history).is_err());
}

#[test]
fn a_refused_write_must_not_appear() {
    let mut history = History::default();
    let op = history.begin(0, Kind::Write, volume(), block(), 2);
    history.attempt(op, NodeName::A);
    history.refused(op);
    read(&mut history, 0);
    assert!(check(&history).is_ok());
    read(&mut history, 2);
    assert!(check(&history).is_err());
}

fn compare_and_write(history: &mut History, expected: Value, value: Value, done: bool) {
    let op = history.begin(0, Kind::Compare, volume(), block(), value);
    history.ops[op].expected = expected;
    history.attempt(op, NodeName::A);
    if done { history.done(op, false, Vec::new()) } else { history.without_effect(op) }
}

#[test]
fn a_comparison_that_was_done_has_seen_what_it_expected() {
    let build = |expected, then| {
        let mut history = History::default();
        write(&mut history, 1);
        write(&mut history, 2);
        compare_and_write(&mut history, expected, 3, true);
        read(&mut history, then);
        check(&history).is_ok()
    };
    assert_eq!([build(2, 3), build(1, 3), build(2, 2)], [true, false, false]);
}

#[test]
fn a_comparison_that_failed_must_not_appear() {
    let build = |then| {
        let mut history = History::default();
        write(&mut history, 1);
        compare_and_write(&mut history, 1, 2, false);
        read(&mut history, then);
        check(&history).is_ok()
    };
    assert!(build(1) && !build(2));
}

/// Both began before the other was over, and each could have read first and written afterwards.
#[test]
fn two_comparisons_do_not_replace_the_same_write() {
    let build = |second| {
        let mut history = History::default();
        write(&mut history, 1);
        let ops = [(1, 2), (second, 3)].map(|(expected, value)| {
            let op = history.begin(0, Kind::Compare, volume(), block(), value);
            history.ops[op].expected = expected;
            history.attempt(op, NodeName::A);
            op
        });
        ops.into_iter().for_each(|op| history.done(op, false, Vec::new()));
        check(&history).is_ok()
    };
    assert!(build(2) && !build(1));
}

#[test]
fn after_a_loss_only_what_was_stable_must_be_there() {
    let build = |flushed: bool, then: Value| {
        let mut history = History::default();
        write(&mut history, 1);
        if flushed {
            let op = history.begin(0, Kind::Flush, volume(), Sectors::new(0, 0), 0);
            history.done(op, false, Vec::new());
        }
        write(&mut history, 2);
        history.lose(vec![volume()], Default::default(), false);
        read(&mut history, then);
        check(&history).is_ok()
    };
    assert!(build(true, 2) && build(true, 1) && !build(true, 0));
    assert!(build(false, 0));
}

#[test]
fn a_loss_spares_what_is_known_to_be_stable() {
    let mut history = History::default();
    write(&mut history, 1);
    history.lose(vec![volume()], [(volume(), 0)].into_iter().collect(), false);
    read(&mut history, 0);
    assert!(check(&history).is_err());
}

/// A write waits for its place on a disk when another one overwrites it, and its node dies. What the other node has in memory is
/// the later one, which lies over the first: the first is answered there, and does not happen again.
#[test]
fn a_loss_may_leave_a_write_in_progress_under_a_later_one() {
    let build = |first: Value, second: Value| {
        let mut history = History::default();
        let open = history.begin(0, Kind::Write, volume(), block(), 1);
        history.attempt(open, NodeName::A);
        write(&mut history, 2);
        history.lose(vec![volume()], Default::default(), true);
        history.done(open, true, vec![]);
        read(&mut history, first);
        read(&mut history, second);
        check(&history).is_ok()
    };
    assert!(build(2, 2) && build(1, 1));
    assert!(!build(2, 1) && !build(1, 2) && !build(0, 0), "it happens once");
}

#[test]
fn what_a_loss_left_in_memory_may_be_lost_later_but_does_not_come_back() {
    let build = |partly: bool, first: Value, second: Value| {
        let mut history = History::default();
        write(&mut history, 1);
        write(&mut history, 2);
        history.lose(vec![volume()], Default::default(), partly);
        read(&mut history, first);
        history.lose(vec![volume()], Default::default(), false);
        read(&mut history, second);
        check(&history).is_ok()
    };
    assert!(build(true, 2, 1) && build(true, 1, 0));
    assert!(!build(true, 1, 2) && !build(true, 0, 1));
    assert!(!build(false, 2, 1) && !build(false, 1, 0));
}
