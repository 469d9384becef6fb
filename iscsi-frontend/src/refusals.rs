//! Logins that were refused, as an operator reads of them.
//!
//! Invariants: what an initiator says reaches a log as printable ASCII on one line, quotes and backslashes escaped; whoever
//! tries without end is told of once in [`REPEAT_MS`] for each reason, all together at most [`BURST`] times a second; what was
//! not told is counted, and the count told with the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

/// An address is told of again for the same reason after this time, in milliseconds.
const REPEAT_MS: u64 = 10_000;
/// Refusals told in one second, from wherever.
const BURST: u32 = 10;
/// Addresses and reasons remembered.
const REMEMBERED_MAX: usize = 256;

/// Why a login was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum RefusalReason {
    /// No host has this initiator name.
    UnknownInitiator,
    /// It did not show by CHAP who it is.
    NotProved,
    /// It came too soon after others that did not show who they are.
    Guessing,
    /// There is no target of the name it asked for.
    NoSuchTarget,
    /// Nothing at the target is mapped to its host.
    NothingMapped,
    /// The portals are closed, or about to be.
    Closed,
    /// The session it would join or replace is not there, or not like that.
    NoSuchSession,
    /// The login breaks the protocol, or its text has no initiator name.
    Malformed,
    /// This node has no random bytes or no session number left.
    Exhausted,
    /// Its initiator has as many sessions as it may.
    Crowded,
}

impl RefusalReason {
    fn text(self) -> &'static str {
        match self {
            RefusalReason::UnknownInitiator => "no host has this initiator name",
            RefusalReason::NotProved => {
                "it did not prove who it is; compare CHAP names and secrets on both sides"
            }
            RefusalReason::Guessing => "too many wrong secrets came from there; it may try again later",
            RefusalReason::NoSuchTarget => "there is no target of that name",
            RefusalReason::NothingMapped => "no volume at that target is mapped to its host",
            RefusalReason::Closed => "the portals are closed",
            RefusalReason::NoSuchSession => "it wants to go on with a session that is not there",
            RefusalReason::Malformed => "it breaks the protocol",
            RefusalReason::Exhausted => "this node has no random bytes or no session number left",
            RefusalReason::Crowded => {
                "it has as many sessions as one initiator may; have it close some, or allow more"
            }
        }
    }
}

/// A login that was refused. Its text is one line.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RefusedLogin {
    /// The initiator name it came with, empty if none; what is not plain is escaped.
    pub initiator: String,
    /// The target name it asked for, likewise.
    pub target: String,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Why it was refused.
    pub reason: RefusalReason,
    /// Refusals since the last one told that were not told: there were too many.
    pub untold: u64,
}

impl fmt::Display for RefusedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefusedLogin { initiator, target, peer, reason, untold } = self;
        let name = if initiator.is_empty() { "a nameless initiator" } else { initiator };
        write!(f, "refused the login of {name} from {peer}")?;
        if !target.is_empty() {
            write!(f, " to {target}")?;
        }
        write!(f, ": {}", reason.text())?;
        if *untold > 0 {
            write!(f, " ({untold} more refusals before it were not told)")?;
        }
        Ok(())
    }
}

/// A text from outside as it may stand in a log.
fn escaped(text: Option<&str>) -> String {
    text.unwrap_or_default().escape_default().to_string()
}

/// Decides which refusals are told.
#[derive(Default)]
pub(crate) struct Refusals {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When each was last told of.
    told_ms: BTreeMap<(IpAddr, RefusalReason), u64>,
    /// The second that `in_second` is about.
    second: u64,
    in_second: u32,
    untold: u64,
}

impl Refusals {
    /// The refusal, if it is to be told. `now_ms` is monotonic.
    pub(crate) fn note(
        &self,
        (initiator, target): (Option<&str>, Option<&str>),
        peer: SocketAddr,
        reason: RefusalReason,
        now_ms: u64,
    ) -> Option<RefusedLogin> {
        let untold = self.state.lock().admit((peer.ip().to_canonical(), reason), now_ms)?;
        let (initiator, target) = (escaped(initiator), escaped(target));
        Some(RefusedLogin { initiator, target, peer, reason, untold })
    }
}

impl State {
    /// How many were not told before this one, if this one is to be told.
    fn admit(&mut self, key: (IpAddr, RefusalReason), now_ms: u64) -> Option<u64> {
        if self.second != now_ms / 1000 {
            (self.second, self.in_second) = (now_ms / 1000, 0);
        }
        let lately =
            self.told_ms.get(&key).is_some_and(|told_ms| now_ms.saturating_sub(*told_ms) < REPEAT_MS);
        if lately || self.in_second >= BURST {
            self.untold += 1;
            return None;
        }
        self.in_second += 1;
        if self.told_ms.len() >= REMEMBERED_MAX {
            self.told_ms.retain(|_, told_ms| now_ms.saturating_sub(*told_ms) < REPEAT_MS);
        }
        // More of them than that within the time: the second's limit holds alone.
        if self.told_ms.len() < REMEMBERED_MAX {
            self.told_ms.insert(key, now_ms);
        }
        Some(core::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, last], port).into()
    }

    fn note(refusals: &Refusals, from: SocketAddr, now_ms: u64) -> Option<u64> {
        let names = (Some("iqn.2026-01.example:host"), None);
        refusals.note(names, from, RefusalReason::NotProved, now_ms).map(|told| told.untold)
    }

    #[test]
    fn who_tries_without_end_is_told_of_now_and_then() {
        let refusals = Refusals::default();
        let told: Vec<u64> =
            (0..25_000).filter_map(|now| note(&refusals, peer(1, now as u16), now)).collect();
        assert_eq!(told, [0, 9_999, 9_999]);
        assert_eq!(note(&refusals, peer(2, 1), 25_001), Some(4_999), "another address is another matter");
        let other = refusals.note((None, None), peer(1, 1), RefusalReason::Closed, 25_002);
        assert!(other.is_some(), "and so is another reason");
    }

    #[test]
    fn a_crowd_is_told_of_ten_times_a_second_and_remembered_in_bounds() {
        let refusals = Refusals::default();
        let mut told = 0;
        for now_ms in 0..60_000u64 {
            let from = SocketAddr::from(([10, 0, (now_ms >> 8) as u8, now_ms as u8], 1));
            told += u32::from(note(&refusals, from, now_ms).is_some());
            assert!(refusals.state.lock().told_ms.len() <= REMEMBERED_MAX);
        }
        assert_eq!(told, 60 * BURST);
    }

    #[test]
    fn hostile_text_cannot_forge_a_line() {
        let refusals = Refusals::default();
        let name = "iqn.evil\n\u{1b}[2Jtwinsand a: all is well\u{202e} \"\\";
        let told = refusals.note((Some(name), Some("\r")), peer(9, 5), RefusalReason::NoSuchTarget, 0);
        let line = told.expect("the first").to_string();
        assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{line}");
        assert!(line.starts_with("refused the login of iqn.evil\\n\\u{1b}[2Jtwinsand a"), "{line}");
        assert!(line.ends_with("from 192.0.2.9:5 to \\r: there is no target of that name"), "{line}");
    }
}
