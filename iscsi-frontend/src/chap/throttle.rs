//! Guessing slowed down: after some failures, attempts from one place in one name are not even looked at for a while.
//!
//! Invariants: a place that fails slows down nobody elsewhere, and, while it uses few names, no other name; it cannot
//! have its failures forgotten by trying more names; at most [`SOURCES_MAX`] places are remembered.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use parking_lot::Mutex;

/// Places remembered.
const SOURCES_MAX: usize = 4096;
/// Names remembered of a place; the others share one memory.
const NAMES_MAX: usize = 8;
/// Failures that cost nothing: people mistype.
const FREE_FAILURES: u32 = 3;
/// The first penalty and the longest, in milliseconds. It doubles with each failure.
const PENALTY_MIN_MS: u64 = 1_000;
const PENALTY_MAX_MS: u64 = 32_000;
/// After so long without a failure all is forgotten, in milliseconds.
const MEMORY_MS: u64 = 600_000;

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict<T> {
    /// It was looked at.
    Judged(T),
    /// It came too soon after others that failed, and was not.
    TooSoon,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    last_ms: u64,
    until_ms: u64,
}

impl Backoff {
    fn fail(&mut self, now_ms: u64) {
        let stale = now_ms.saturating_sub(self.last_ms) > MEMORY_MS;
        self.failures = if stale { 1 } else { self.failures.saturating_add(1) };
        self.last_ms = now_ms;
        if let Some(doublings) = self.failures.checked_sub(FREE_FAILURES) {
            self.until_ms = now_ms + (PENALTY_MIN_MS << doublings.min(16)).min(PENALTY_MAX_MS);
        }
    }
}

#[derive(Default)]
struct Record {
    names: Vec<(String, Backoff)>,
    /// Of all names beyond the first few.
    rest: Backoff,
    last_ms: u64,
}

impl Record {
    fn find(&mut self, name: &str) -> &mut Backoff {
        match self.names.iter().position(|(known, _)| known == name) {
            Some(place) => &mut self.names[place].1,
            None if self.names.len() < NAMES_MAX => {
                self.names.push((name.to_owned(), Backoff::default()));
                let last = self.names.len() - 1;
                &mut self.names[last].1
            }
            None => &mut self.rest,
        }
    }
}

/// What is remembered.
#[derive(Default)]
pub(crate) struct Throttle {
    sources: Mutex<BTreeMap<IpAddr, Record>>,
}

impl Throttle {
    /// Has an attempt from `source` in the name of `initiator` judged, if it does not come too soon. `now_ms` is
    /// monotonic. The judgement is made under a lock, so that many attempts at once are as many in a row.
    pub(crate) fn attempt<T, E>(
        &self,
        source: IpAddr,
        initiator: &str,
        now_ms: u64,
        judge: impl FnOnce() -> Result<T, E>,
    ) -> Verdict<Result<T, E>> {
        let (source, name) = (place(source), initiator.to_ascii_lowercase());
        let mut sources = self.sources.lock();
        if let Some(record) = sources.get_mut(&source)
            && record.find(&name).until_ms > now_ms
        {
            return Verdict::TooSoon;
        }
        let outcome = judge();
        match outcome {
            Ok(_) => forgive(&mut sources, &source, &name),
            Err(_) => note(&mut sources, source, &name, now_ms),
        }
        Verdict::Judged(outcome)
    }
}

/// Whoever has an IPv6 address has its whole /64.
fn place(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

fn forgive(sources: &mut BTreeMap<IpAddr, Record>, source: &IpAddr, name: &str) {
    if let Some(record) = sources.get_mut(source) {
        record.names.retain(|(known, _)| known != name);
        if record.names.is_empty() && record.rest.failures == 0 {
            sources.remove(source);
        }
    }
}

fn note(sources: &mut BTreeMap<IpAddr, Record>, source: IpAddr, name: &str, now_ms: u64) {
    if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
        let oldest = sources.iter().min_by_key(|(_, record)| record.last_ms).map(|(source, _)| *source);
        oldest.and_then(|oldest| sources.remove(&oldest));
    }
    let record = sources.entry(source).or_default();
    record.last_ms = now_ms;
    record.find(name).fail(now_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "iqn.2026-01.example:host";

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn fail(throttle: &Throttle, source: IpAddr, name: &str, now_ms: u64) -> bool {
        throttle.attempt(source, name, now_ms, || Err::<(), ()>(())) == Verdict::Judged(Err(()))
    }

    fn pass(throttle: &Throttle, source: IpAddr, name: &str, now_ms: u64) -> bool {
        throttle.attempt(source, name, now_ms, || Ok::<(), ()>(())) == Verdict::Judged(Ok(()))
    }

    #[test]
    fn guessing_gets_slower_and_slower() {
        let throttle = Throttle::default();
        let judged = (0..3_600_000).filter(|now| fail(&throttle, address(1), HOST, *now)).count();
        // Three at once, five while the penalty doubles, then one in 32 s.
        assert!((100..=125).contains(&judged), "{judged} guesses in an hour");
    }

    #[test]
    fn a_right_secret_after_the_penalty_wipes_it_out() {
        let throttle = Throttle::default();
        assert!((0..3).all(|_| fail(&throttle, address(1), HOST, 0)));
        assert!(!pass(&throttle, address(1), HOST, 999), "not even the right one is looked at");
        assert!(pass(&throttle, address(1), &HOST.to_uppercase(), 1_000));
        assert!((0..3).all(|_| fail(&throttle, address(1), HOST, 1_001)));
        assert_eq!(throttle.sources.lock().len(), 1);
    }

    #[test]
    fn others_are_not_slowed_down() {
        let throttle = Throttle::default();
        assert!((0..3).all(|_| fail(&throttle, address(1), HOST, 0)));
        assert!(!pass(&throttle, address(1), HOST, 1));
        assert!(pass(&throttle, address(2), HOST, 1));
        assert!(pass(&throttle, address(1), "iqn.2026-01.example:neighbour", 1));
        let six = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!((0..3).all(|_| fail(&throttle, six("2001:db8::1"), HOST, 0)));
        assert!(!pass(&throttle, six("2001:db8::2"), HOST, 1), "the same network");
        assert!(pass(&throttle, six("2001:db8:0:1::2"), HOST, 1));
        assert!(!pass(&throttle, six("::ffff:192.0.2.1"), HOST, 1), "the same address in other words");
    }

    #[test]
    fn more_names_and_more_places_are_no_way_around() {
        let throttle = Throttle::default();
        let names: Vec<String> = (0..1000).map(|n| format!("iqn.2026-01.example:{n}")).collect();
        let judged = names.iter().filter(|name| fail(&throttle, address(1), name, 0)).count();
        assert_eq!(judged, NAMES_MAX + FREE_FAILURES as usize);
        assert!(!fail(&throttle, address(1), HOST, 0));
        for last in 0..=u8::MAX {
            for middle in 0..20 {
                fail(&throttle, IpAddr::from([198, middle, 100, last]), HOST, 1);
            }
        }
        assert_eq!(throttle.sources.lock().len(), SOURCES_MAX);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let throttle = Throttle::default();
        assert!((0..20).filter(|n| fail(&throttle, address(1), HOST, n * 100_000)).count() == 20);
        let later = 2_000_000 + MEMORY_MS;
        assert!((0..3).all(|_| fail(&throttle, address(1), HOST, later)));
        assert!(!fail(&throttle, address(1), HOST, later));
    }
}
