//! Reservations by the tables of SPC-4.

use std::sync::Arc;

use super::*;
use crate::scsi::{Plan, Sense};
use crate::session::drive::HandVolume;

const PORTS: [u16; 2] = [1, 2];

fn nexus(host: u8, port: u16) -> Nexus {
    let initiator = Initiator::new(&format!("iqn.2026-01.example:host{host}"), [0x40, 0, 0, 1, 2, host]);
    Nexus { initiator, port, site: 0 }
}

fn list(key: u64, other: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), other.to_be_bytes()].concat();
    list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

/// A volume's reservations, and how they came about.
#[derive(Default)]
struct Bench(Reservations);

impl Bench {
    fn order(&mut self, from: &Nexus, action: u8, what: u8, list: &[u8]) -> Result<Vec<Nexus>, Refusal> {
        let order = Order::parse(action, what, list).map_err(Refusal::Fault)?;
        let (next, aborted) = self.0.apply(&order, from, &PORTS)?;
        let same = next == self.0;
        assert!(same || next.changes == self.0.changes + 1, "a change is counted");
        check(&next);
        self.0 = next;
        Ok(aborted)
    }

    fn register(&mut self, from: &Nexus, key: u64) {
        self.order(from, 6, 0, &list(0, key, 0)).expect("registered");
    }

    fn reserve(&mut self, from: &Nexus, key: u64, kind: Type) {
        self.order(from, 1, kind as u8, &list(key, 0, 0)).expect("reserved");
    }

    /// Registered by both, under 1 and 2, and reserved by the first.
    fn held(first: &Nexus, second: &Nexus, kind: Type) -> Bench {
        let mut bench = Bench::default();
        bench.register(first, 1);
        bench.register(second, 2);
        bench.reserve(first, 1, kind);
        bench
    }

    fn keys(&self) -> Vec<u64> {
        self.0.registrations.iter().map(|registration| registration.key).collect()
    }
}

/// The invariants of the module; and it survives being written down.
fn check(state: &Reservations) {
    assert!(state.is_sound(), "{state:?}");
    let bytes = state.encode().expect("not too many");
    assert_eq!(Reservations::decode(&bytes).as_ref(), Some(state));
}

#[test]
fn who_may_do_what_is_as_the_tables_say() {
    let (holder, registrant, stranger) = (nexus(1, 1), nexus(2, 1), nexus(3, 1));
    // Of each: may a registrant read and write, may a stranger.
    let cases = [
        (Type::WriteExclusive, [true, false], [true, false]),
        (Type::ExclusiveAccess, [false, false], [false, false]),
        (Type::WriteExclusiveRegistrantsOnly, [true, true], [true, false]),
        (Type::ExclusiveAccessRegistrantsOnly, [true, true], [false, false]),
        (Type::WriteExclusiveAllRegistrants, [true, true], [true, false]),
        (Type::ExclusiveAccessAllRegistrants, [true, true], [false, false]),
    ];
    for (kind, registrants, strangers) in cases {
        let mut bench = Bench::default();
        for nexus in [&registrant, &holder] {
            bench.register(nexus, 7);
        }
        assert!(bench.0.allow(Need::Write, &stranger), "registrations alone keep nobody out");
        bench.reserve(&holder, 7, kind);
        for (nexus, may) in [(&holder, [true, true]), (&registrant, registrants), (&stranger, strangers)] {
            let needs = [Need::Read, Need::Write];
            assert_eq!(needs.map(|need| bench.0.allow(need, nexus)), may, "{kind:?} {nexus:?}");
            assert!(bench.0.allow(Need::Nothing, nexus));
        }
        assert!(!bench.0.allow(Need::Write, &nexus(1, 2)), "another port is another nexus");
    }
}

#[test]
fn a_key_is_registered_changed_and_taken_back_by_who_knows_it() {
    let (mut bench, host) = (Bench::default(), nexus(1, 1));
    assert_eq!(bench.order(&host, 0, 0, &list(9, 1, 0)), Err(Refusal::Conflict), "it has no key yet");
    assert_eq!(bench.order(&host, 0, 0, &list(0, 0, 0)), Ok(vec![]));
    assert_eq!((bench.0.generation, bench.keys()), (0, vec![]), "nothing to do");
    bench.order(&host, 0, 0, &list(0, 1, 1)).unwrap();
    assert_eq!(bench.order(&host, 0, 0, &list(0, 2, 0)), Err(Refusal::Conflict), "another key is needed");
    bench.order(&host, 0, 0, &list(1, 2, 0)).unwrap();
    bench.order(&host, 6, 0, &list(99, 3, 0)).unwrap();
    assert_eq!((bench.0.generation, bench.keys()), (3, vec![3]));
    bench.order(&nexus(2, 1), 0, 0, &list(0, 3, 0)).unwrap();
    assert_eq!(bench.keys(), [3, 3], "keys are not unique");
    bench.order(&host, 0, 0, &list(3, 0, 0)).unwrap();
    bench.order(&nexus(2, 1), 6, 0, &list(3, 0, 0)).unwrap();
    assert_eq!((bench.0.generation, bench.keys()), (6, vec![]));
    for action in 1..=5 {
        let list = list(3, 3, 0);
        assert_eq!(bench.order(&host, action, 1, &list), Err(Refusal::Conflict), "{action}: not registered");
    }
}

#[test]
fn one_registration_may_be_for_all_ports_and_for_others() {
    let (mut bench, host, other) = (Bench::default(), nexus(1, 1), nexus(2, 1));
    bench.order(&host, 0, 0, &list(0, 5, 0x04)).unwrap();
    assert!(PORTS.iter().all(|port| bench.0.registration(&nexus(1, *port)).is_some()));
    let mut named = list(0, 6, 0x08);
    let id = nexus(3, 1).initiator.transport_id();
    named.extend_from_slice(&(id.len() as u32).to_be_bytes());
    named.extend_from_slice(&id);
    assert_eq!(bench.order(&host, 6, 0, &named), Err(Refusal::Fault(Sense::parameter(20))));
    assert_eq!(
        bench.order(&host, 0, 0, &[&5u64.to_be_bytes(), &named[8..]].concat()),
        Err(Refusal::Fault(Sense::parameter(20))),
        "not by one that is registered"
    );
    bench.order(&other, 0, 0, &named).unwrap();
    assert_eq!(bench.keys(), [5, 5, 6, 6]);
    assert!(bench.0.registration(&nexus(3, 1)).is_some());
    named.truncate(named.len() - 1);
    assert_eq!(bench.order(&nexus(4, 1), 0, 0, &named), Err(Refusal::Fault(Sense::PARAMETER_LENGTH)));
    *named.last_mut().unwrap() = b'x';
    let length = (named.len() - 28) as u32;
    named[24..28].copy_from_slice(&length.to_be_bytes());
    assert_eq!(bench.order(&nexus(4, 1), 0, 0, &named), Err(Refusal::Fault(Sense::parameter(28))));
}

#[test]
fn a_reservation_is_made_by_one_and_released_by_that_one() {
    let (a, b) = (nexus(1, 1), nexus(2, 1));
    for kind in Type::ALL {
        let mut bench = Bench::held(&a, &b, kind);
        let generation = bench.0.generation;
        let other = if kind == Type::WriteExclusive { 3 } else { 1 };
        bench.reserve(&a, 1, kind);
        assert_eq!(bench.order(&a, 1, other, &list(1, 0, 0)), Err(Refusal::Conflict));
        let shared = kind.is_held_by_all();
        let again = bench.order(&b, 1, kind as u8, &list(2, 0, 0));
        assert_eq!(again, if shared { Ok(vec![]) } else { Err(Refusal::Conflict) }, "{kind:?}");
        assert_eq!(bench.order(&a, 2, other, &list(1, 0, 0)), Err(Refusal::Fault(Sense::new(5, 0x26, 4))));
        assert_eq!(bench.order(&a, 2, kind as u8, &list(9, 0, 0)), Err(Refusal::Conflict));
        let before = bench.0.clone();
        bench.order(&b, 2, kind as u8, &list(2, 0, 0)).unwrap();
        assert_eq!(bench.0.held.is_none(), shared, "only a holder releases");
        bench.order(&a, 2, kind as u8, &list(1, 0, 0)).unwrap();
        assert!(bench.0.held.is_none() && bench.0.generation == generation);
        let told = kind.admits_registrants().then_some(Attention::ReservationsReleased);
        assert_eq!(bench.0.news(&before, &a), told, "{kind:?}");
        assert_eq!(bench.0.news(&before, &nexus(3, 1)), None);
        assert_eq!(bench.order(&a, 1, 0x10 | kind as u8, &list(1, 0, 0)), Err(Refusal::Fault(Sense::cdb(2))));
    }
}

#[test]
fn a_reservation_ends_with_its_holder() {
    let (a, b) = (nexus(1, 1), nexus(2, 1));
    for kind in Type::ALL {
        let mut bench = Bench::held(&a, &b, kind);
        let before = bench.0.clone();
        bench.order(&a, 0, 0, &list(1, 0, 0)).unwrap();
        let stays = kind.is_held_by_all();
        assert_eq!(bench.0.is_held_by(&b), stays, "{kind:?}");
        let released = kind.admits_registrants() && !stays;
        assert_eq!(bench.0.news(&before, &b), released.then_some(Attention::ReservationsReleased));
        bench.order(&b, 0, 0, &list(2, 0, 0)).unwrap();
        assert!(bench.0.held.is_none());
    }
}

#[test]
fn preempting_takes_registrations_and_what_they_hold() {
    let (a, b, c) = (nexus(1, 1), nexus(2, 1), nexus(3, 2));
    let start = |kind: Option<Type>| {
        let mut bench = Bench::default();
        for (nexus, key) in [(&a, 1), (&b, 2), (&c, 2)] {
            bench.register(nexus, key);
        }
        kind.into_iter().for_each(|kind| bench.reserve(&b, 2, kind));
        bench
    };
    for kind in [None, Some(Type::WriteExclusive), Some(Type::WriteExclusiveRegistrantsOnly)] {
        let mut bench = start(kind);
        let before = bench.0.clone();
        let wanted = Type::ExclusiveAccess;
        assert_eq!(bench.order(&a, 4, 3, &list(1, 0, 0)), Err(Refusal::Fault(Sense::parameter(8))));
        assert_eq!(bench.order(&a, 4, 3, &list(1, 8, 0)), Err(Refusal::Conflict), "nobody has that key");
        assert_eq!(bench.order(&a, 5, wanted as u8, &list(1, 2, 0)), Ok(vec![b.clone(), c.clone()]));
        assert_eq!((bench.keys(), bench.0.generation), (vec![1], before.generation + 1));
        assert_eq!(bench.0.held, kind.map(|_| Held { kind: wanted, by: a.clone() }));
        for nexus in [&b, &c] {
            assert_eq!(bench.0.news(&before, nexus), Some(Attention::RegistrationsPreempted));
        }
    }
    let mut bench = start(Some(Type::WriteExclusive));
    assert_eq!(bench.order(&b, 4, 1, &list(2, 1, 0)), Ok(vec![]), "nothing is aborted");
    assert_eq!(bench.keys(), [2, 2]);
    assert!(bench.0.is_held_by(&b), "whose reservation is not preempted keeps it");
    bench.order(&b, 4, 3, &list(2, 2, 0)).unwrap();
    assert_eq!(bench.keys(), [2], "not the own one");
    assert_eq!(bench.0.held, Some(Held { kind: Type::ExclusiveAccess, by: b.clone() }), "another type now");
}

#[test]
fn what_all_hold_is_preempted_from_all_at_once() {
    let (a, b, c) = (nexus(1, 1), nexus(2, 1), nexus(3, 1));
    let mut bench = Bench::default();
    for (nexus, key) in [(&a, 1), (&b, 2), (&c, 3)] {
        bench.register(nexus, key);
    }
    bench.reserve(&a, 1, Type::WriteExclusiveAllRegistrants);
    bench.order(&b, 4, 3, &list(2, 1, 0)).unwrap();
    assert_eq!(bench.keys(), [2, 3]);
    assert_eq!(bench.0.held.as_ref().map(|held| held.kind), Some(Type::WriteExclusiveAllRegistrants));
    assert_eq!(bench.order(&c, 5, 3, &list(3, 0, 0)), Ok(vec![b]));
    assert_eq!(bench.0.held, Some(Held { kind: Type::ExclusiveAccess, by: c }));
}

#[test]
fn clearing_is_told_all_others() {
    let (a, b) = (nexus(1, 1), nexus(2, 1));
    let mut bench = Bench::held(&a, &b, Type::ExclusiveAccess);
    let before = bench.0.clone();
    bench.order(&b, 3, 0, &list(2, 0, 0)).unwrap();
    assert!(bench.keys().is_empty() && bench.0.held.is_none());
    assert_eq!(bench.0.news(&before, &a), Some(Attention::ReservationsPreempted));
    // Somebody who comes back is not told of what was before.
    bench.register(&a, 1);
    let before = bench.0.clone();
    bench.register(&b, 2);
    assert_eq!(bench.0.news(&before, &a), None);
}

#[test]
fn a_reservation_is_moved_to_another_port() {
    let (a, to) = (nexus(1, 1), nexus(1, 2));
    let moved = |key: u64, port: u16, flags: u8, to: &Nexus| {
        let id = to.initiator.transport_id();
        let mut list = [1u64.to_be_bytes(), key.to_be_bytes()].concat();
        list.extend_from_slice(&[0, flags]);
        list.extend_from_slice(&port.to_be_bytes());
        list.extend_from_slice(&(id.len() as u32).to_be_bytes());
        list.extend_from_slice(&id);
        list
    };
    let mut bench = Bench::default();
    bench.register(&a, 1);
    assert_eq!(bench.order(&a, 7, 0, &moved(5, 2, 0, &to)), Err(Refusal::Conflict), "nothing is held");
    bench.reserve(&a, 1, Type::ExclusiveAccess);
    for (list, at) in [(moved(0, 2, 0, &to), 8), (moved(5, 9, 0, &to), 18), (moved(5, 1, 0, &a), 24)] {
        assert_eq!(bench.order(&a, 7, 0, &list), Err(Refusal::Fault(Sense::parameter(at))));
    }
    bench.order(&a, 7, 0, &moved(5, 2, 0, &to)).unwrap();
    assert!(bench.0.is_held_by(&to) && bench.keys() == [1, 5]);
    assert_eq!(
        bench.order(&a, 7, 0, &moved(5, 2, 2, &to)),
        Err(Refusal::Conflict),
        "it is not its own any more"
    );
    bench.order(&to, 7, 0, &[&5u64.to_be_bytes(), &moved(6, 1, 2, &a)[8..]].concat()).unwrap();
    assert!(bench.0.is_held_by(&a) && bench.keys() == [6]);
}

/// Any orders of three hosts over two ports, one after the other.
#[test]
fn no_row_of_orders_breaks_the_state() {
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut bench = Bench::default();
    let (mut done, mut held) = (0, 0);
    for _ in 0..50_000 {
        let from = nexus(next(3) as u8, 1 + next(2) as u16);
        let kind = Type::ALL[next(6) as usize] as u8;
        let own = bench.0.registration(&from).map_or(0, |registration| registration.key);
        let key = if next(4) == 0 { next(4) } else { own };
        let list = list(key, next(4), (next(2) * 4) as u8);
        done += u32::from(bench.order(&from, next(7) as u8, kind, &list).is_ok());
        held += u32::from(bench.0.held.is_some());
    }
    assert!(done > 10_000 && held > 10_000, "{done} {held}");
}

#[test]
fn what_is_kept_has_these_bytes() {
    let mut bench = Bench::default();
    bench.order(&nexus(1, 2), 0, 0, &list(0, 0x0102_0304_0506_0708, 0x05)).unwrap();
    bench.reserve(&nexus(1, 2), 0x0102_0304_0506_0708, Type::WriteExclusiveRegistrantsOnly);
    let bytes = bench.0.encode().unwrap();
    let name = b"iqn.2026-01.example:host1";
    let mut expected = vec![1, 1, 5, 0, 0, 0, 0, 1];
    for count in [2u64, 0, 0] {
        expected.extend_from_slice(&count.to_be_bytes());
    }
    expected.extend_from_slice(&[0, 1, 0, 2]);
    for port in [1, 2] {
        expected.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0, port, 0, 0, 0x40, 0, 0, 1, 2, 1, 1, 25]);
        expected.extend_from_slice(name);
    }
    assert_eq!(bytes, expected);
    for end in 0..bytes.len() {
        assert_eq!(Reservations::decode(&bytes[..end]), None);
    }
    for (at, byte) in [(0, 2), (2, 2), (3, 1), (33, 2), (35, 1), (35, 3), (55, 0)] {
        let mut other = bytes.clone();
        other[at] = byte;
        assert_eq!(Reservations::decode(&other), None, "{at}");
    }
}

#[test]
fn there_is_an_end_to_registrations() {
    let mut bench = Bench::default();
    for host in 0..400u16 {
        let initiator = Initiator::new(&"x".repeat(223), [0, 0, 0, 0, (host >> 8) as u8, host as u8]);
        let order = Order::parse(6, 0, &list(0, 1, 0)).unwrap();
        let from = Nexus { initiator, port: 1, site: 0 };
        (bench.0, _) = bench.0.apply(&order, &from, &PORTS).unwrap();
        if bench.0.encode().is_none() {
            assert_eq!(bench.keys().len(), 135);
            return;
        }
    }
    panic!("no end");
}

#[test]
fn replies_are_as_the_standard_lays_them_out() {
    let mut bench = Bench::default();
    bench.register(&nexus(1, 1), 0xaa);
    bench.register(&nexus(2, 2), 0xbb);
    bench.reserve(&nexus(2, 2), 0xbb, Type::ExclusiveAccessRegistrantsOnly);
    let report = |bench: &Bench, action, allocation| match bench.0.report(action, allocation) {
        Plan::Answer(reply) => reply,
        other => panic!("{other:?}"),
    };
    let keys = report(&bench, 0, 255);
    assert_eq!(keys, [0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0, 0, 0, 0, 0, 0, 0, 0xbb]);
    assert_eq!(report(&bench, 0, 9), keys[..9], "cut, with the whole length in it");
    let held = report(&bench, 1, 255);
    assert_eq!(held, [0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xbb, 0, 0, 0, 0, 0, 6, 0, 0]);
    assert_eq!(report(&bench, 2, 255), [0, 8, 0x0d, 0x80, 0xea, 0x01, 0, 0]);
    let full = report(&bench, 3, 4096);
    let id = b"\x45\0\0\x2ciqn.2026-01.example:host2,i,0x400000010202\0\0";
    let last = &full[full.len() - 24 - id.len()..];
    assert_eq!(last[..24], [0, 0, 0, 0, 0, 0, 0, 0xbb, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 2, 0, 0, 0, 48]);
    assert_eq!(last[24..], id[..]);
    assert_eq!(Initiator::read(id), Some((nexus(2, 2).initiator, 48)));
    for broken in [&id[..47], b"\x05\0\0\x14iqn.2026-01.example\0", b"\x45\0\0\x14iqn.2026,i,0x4000000\0"] {
        assert_eq!(Initiator::read(broken), None);
    }
    bench.order(&nexus(1, 1), 3, 0, &list(0xaa, 0, 0)).unwrap();
    assert_eq!(report(&bench, 1, 255), [0, 0, 0, 3, 0, 0, 0, 0]);
}

#[test]
fn a_list_has_the_length_that_its_flags_say() {
    assert_eq!(Order::parse(0, 0, &list(0, 1, 0)[..23]), Err(Sense::PARAMETER_LENGTH));
    for action in 0..=6 {
        let long = [list(0, 1, 0), vec![0]].concat();
        assert_eq!(Order::parse(action, 1, &long), Err(Sense::PARAMETER_LENGTH), "{action}");
    }
    assert_eq!(Order::parse(7, 0, &list(0, 1, 0)), Err(Sense::parameter(24)));
    assert_eq!(Order::parse(8, 0, &list(0, 1, 0)), Err(Sense::cdb(1)));
}

#[test]
fn a_unit_is_one_nexus_alone_until_it_lets_go() {
    let (a, b) = (nexus(1, 1), nexus(2, 1));
    let mut bench = Bench::default();
    let free = bench.0.clone();
    bench.0 = bench.0.take_unit(&a).unwrap();
    check(&bench.0);
    for need in [Need::Use, Need::Read, Need::Write] {
        assert!(bench.0.allow(need, &a) && !bench.0.allow(need, &b));
    }
    assert!(bench.0.allow(Need::Nothing, &b));
    assert_eq!(bench.0.take_unit(&b), Err(Refusal::Conflict));
    assert_eq!(bench.order(&a, 0, 0, &list(0, 1, 0)), Err(Refusal::Conflict), "not both kinds at once");
    assert_ne!(bench.0.take_unit(&a).unwrap(), bench.0, "once more is news to whoever wants to take it away");
    assert_eq!(bench.0.release_unit(&b).unwrap(), bench.0);
    bench.0 = bench.0.release_unit(&a).unwrap();
    assert_eq!(bench.0, Reservations { changes: 2, ..free });
    bench.register(&b, 1);
    assert_eq!(bench.0.take_unit(&b), Err(Refusal::Conflict));
    assert_eq!(bench.0.release_unit(&b), Err(Refusal::Conflict));
}

#[test]
fn a_key_is_taken_back_at_all_ports_if_that_is_wanted() {
    let (mut bench, host) = (Bench::default(), nexus(1, 1));
    bench.order(&host, 0, 0, &list(0, 5, 0x04)).unwrap();
    bench.reserve(&host, 5, Type::WriteExclusiveAllRegistrants);
    bench.order(&host, 0, 0, &list(5, 0, 0)).unwrap();
    assert!(bench.keys() == [5] && bench.0.held.is_some(), "at one port");
    bench.order(&host, 0, 0, &list(0, 5, 0)).unwrap();
    bench.order(&host, 0, 0, &list(5, 0, 0x04)).unwrap();
    assert!(bench.keys().is_empty() && bench.0.held.is_none(), "at both");
}

#[test]
fn names_are_no_longer_than_names_are() {
    let longest = Initiator::new(&"n".repeat(223), [1; 6]);
    assert_eq!(Initiator::read(&longest.transport_id()).map(|(read, _)| read), Some(longest.clone()));
    for length in [0, 224, 255, 256, 4000] {
        let initiator = Initiator::new(&"n".repeat(length), [1; 6]);
        assert_eq!(Initiator::read(&initiator.transport_id()), None, "{length}");
        let order = Order::parse(6, 0, &list(0, 1, 0)).unwrap();
        let from = Nexus { initiator, port: 1, site: 0 };
        let (state, _) = Reservations::default().apply(&order, &from, &PORTS).unwrap();
        assert_eq!(state.encode(), None, "what could not be read is not kept: {length}");
    }
}

#[test]
fn what_comes_with_the_end_of_an_order_is_told_from_what_the_order_made() {
    let (own, other) = (nexus(1, 1), nexus(2, 1));
    let volume = HandVolume::new(1);
    let keep = |state: &Reservations| {
        let mut hand = volume.state.lock();
        let revision = hand.items.get(&ITEM).map_or(0, |item| item.revision);
        hand.keep(ITEM, revision, &state.encode().unwrap()).unwrap();
    };
    let mut bench = Bench::held(&own, &other, Type::WriteExclusiveRegistrantsOnly);
    keep(&bench.0);
    let mut watch = Watch::new(&Arc::new(own.clone()), &*volume);
    watch.order_begun();
    bench.order(&own, 2, 5, &list(1, 0, 0)).unwrap();
    let made = bench.0.clone();
    keep(&made);
    bench.register(&nexus(3, 1), 3);
    keep(&bench.0);
    assert_eq!(watch.order_over(Some(&made), &*volume), None, "it was its own release");
    bench.order(&other, 3, 0, &list(2, 0, 0)).unwrap();
    keep(&bench.0);
    assert_eq!(watch.look(&*volume), Some(Attention::ReservationsPreempted));
    assert_eq!(watch.look(&*volume), None);
}
