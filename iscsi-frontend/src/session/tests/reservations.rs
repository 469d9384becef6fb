//! Persistent reservations in sessions: two hosts that share a volume.

use std::sync::Arc;

use twinsan::ids::ItemName;

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu, answers};
use crate::scsi::Identity;
use crate::scsi::copy::sample::{cscd, list as copy_list, segment};
use twinsan::guest::VirtualVolume;

pub(super) const GOOD: (u8, u8, u8, u8) = (0, 0, 0, 0);
const BUSY: (u8, u8, u8, u8) = (8, 0, 0, 0);
pub(super) const CONFLICT: (u8, u8, u8, u8) = (0x18, 0, 0, 0);
/// Service actions.
pub(super) const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
/// Types.
const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

/// A host's session.
pub(super) struct Host {
    pub(super) link: usize,
    pub(super) lun: u8,
    pub(super) cmd_sn: u32,
}

/// Two hosts, one volume.
pub(super) struct Pair {
    pub(super) bench: Bench,
    pub(super) hosts: [Host; 2],
}

impl Pair {
    pub(super) fn new() -> Pair {
        let mut bench = Bench::new();
        let mut enter = |name, lun| {
            bench.cmd_sn = 1;
            Host { link: bench.login(name, 1, "InitialR2T=Yes\0").0, lun, cmd_sn: 1 }
        };
        let hosts = [enter(HOST, 0), enter(OTHER, 5)];
        Pair { bench, hosts }
    }

    pub(super) fn send(
        &mut self,
        host: usize,
        flags: u8,
        expected: u32,
        cdb: &[u8],
        data: &[u8],
    ) -> Vec<Answer> {
        let Host { link, lun, cmd_sn } = &mut self.hosts[host];
        let mut pdu = Pdu::new(0x01, flags, 100 + *cmd_sn).byte(9, *lun).word(20, expected).word(24, *cmd_sn);
        pdu.head[32..32 + cdb.len()].copy_from_slice(cdb);
        *cmd_sn += 1;
        self.bench.ask(*link, &pdu.data(data))
    }

    pub(super) fn ready(&mut self, host: usize) -> (u8, u8, u8, u8) {
        self.send(host, 0x80, 0, &[0; 6], &[])[0].sense()
    }

    pub(super) fn write(&mut self, host: usize) -> Vec<Answer> {
        self.send(host, 0xa0, 512, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512])
    }

    pub(super) fn read(&mut self, host: usize) -> (u8, u32) {
        let found = self.send(host, 0xc0, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
        (found[0].head[3], found[0].word(44))
    }

    pub(super) fn order(&mut self, host: usize, action: u8, kind: u8, keys: [u64; 2]) -> Vec<Answer> {
        let mut list = [keys[0].to_be_bytes(), keys[1].to_be_bytes()].concat();
        list.resize(24, 0);
        self.send(host, 0xa0, 24, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
    }

    pub(super) fn done(&mut self, host: usize, action: u8, kind: u8, keys: [u64; 2]) {
        let found = self.order(host, action, kind, keys);
        assert_eq!(found[0].sense(), GOOD, "{action} of host {host}");
    }

    /// Both register, key 1 and 2, and the first one reserves.
    fn reserved(kind: u8) -> Pair {
        let mut pair = Pair::new();
        pair.done(0, REGISTER, 0, [0, 1]);
        pair.done(1, REGISTER, 0, [0, 2]);
        pair.done(0, RESERVE, kind, [1, 0]);
        pair
    }

    pub(super) fn drain(&mut self, host: usize) -> Vec<Answer> {
        self.bench.drive.deliver();
        answers(&self.bench.drive.drain(self.hosts[host].link))
    }
}

#[test]
fn a_reservation_keeps_others_out_until_it_is_released() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE);
    assert_eq!(pair.write(0)[0].sense(), GOOD);
    let refused = pair.write(1);
    assert_eq!((refused[0].sense(), refused[0].head[1]), (CONFLICT, 0x82), "nothing was taken: underflow");
    assert_eq!(refused[0].word(44), 512);
    assert_eq!(pair.read(1).0, 0);
    assert_eq!(pair.ready(1), GOOD);
    pair.done(0, RELEASE, WRITE_EXCLUSIVE, [1, 0]);
    assert_eq!(pair.write(1)[0].sense(), GOOD, "and is told nothing of that");
    pair.done(0, RESERVE, EXCLUSIVE_ACCESS, [1, 0]);
    assert_eq!(pair.read(1), (0x18, 512), "nothing was sent");
    let keys = pair.send(1, 0xc0, 255, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]);
    assert_eq!(keys[0].data, [0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
}

#[test]
fn the_others_are_told_and_who_did_it_is_not() {
    for (action, kind, keys, told) in [
        (RELEASE, WRITE_EXCLUSIVE_REGISTRANTS, [1, 0], 4),
        (CLEAR, 0, [1, 0], 3),
        (PREEMPT, EXCLUSIVE_ACCESS, [1, 2], 5),
        (REGISTER, 0, [1, 0], 4),
    ] {
        let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
        assert_eq!(pair.write(1)[0].sense(), GOOD);
        pair.done(0, action, kind, keys);
        assert_eq!(pair.ready(0), GOOD, "{action}");
        assert_eq!(pair.ready(1), (2, 6, 0x2a, told), "{action}");
        assert_eq!(pair.ready(1), GOOD);
    }
}

#[test]
fn writes_whose_data_come_too_late_are_refused() {
    for looks_first in [false, true] {
        let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
        let asked = [0, 1].map(|lba| {
            pair.send(1, 0xa0, 512, &[0x2a, 0, 0, 0, 0, lba, 0, 0, 1, 0], &[]).pop().expect("asked for data")
        });
        pair.done(0, PREEMPT, WRITE_EXCLUSIVE, [1, 2]);
        if looks_first {
            assert_eq!(pair.ready(1), (2, 6, 0x2a, 5));
        }
        for each in asked {
            assert_eq!(each.opcode(), 0x31);
            let data = Pdu::new(0x05, 0x80, each.word(16)).byte(9, 5).word(20, each.word(20)).data(&[9; 512]);
            let link = pair.hosts[1].link;
            assert_eq!(pair.bench.ask(link, &data)[0].sense(), CONFLICT);
        }
        let told = if looks_first { GOOD } else { (2, 6, 0x2a, 5) };
        assert_eq!(pair.ready(1), told);
    }
}

#[test]
fn preempt_and_abort_is_answered_when_the_others_tasks_are_dead() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    {
        let mut hand = pair.bench.volume.state.lock();
        (hand.hold, hand.hold_aborts) = (true, true);
    }
    assert!(pair.write(1).is_empty() && pair.write(0).is_empty());
    assert!(pair.order(0, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, [1, 2]).is_empty(), "it may still act");
    pair.bench.volume.give_up();
    assert_eq!(pair.drain(0)[0].sense(), GOOD);
    assert_eq!(pair.bench.volume.held(), 1, "the own write goes on");
    pair.bench.volume.answer(0);
    assert_eq!(pair.drain(0)[0].sense(), GOOD);
    assert!(pair.drain(1).is_empty());
    assert_eq!(pair.ready(1), (2, 6, 0x2a, 5));
}

#[test]
fn of_two_at_once_the_second_is_made_from_what_the_first_left() {
    let mut pair = Pair::new();
    pair.bench.volume.state.lock().hold_keeps = true;
    assert!(pair.order(0, REGISTER, 0, [0, 1]).is_empty());
    assert!(pair.order(1, REGISTER, 0, [0, 2]).is_empty());
    pair.bench.volume.keep_all();
    assert_eq!(pair.drain(0)[0].sense(), GOOD);
    assert!(pair.drain(1).is_empty(), "it tries again");
    pair.bench.volume.keep_all();
    assert_eq!(pair.drain(1)[0].sense(), GOOD);
    pair.bench.volume.state.lock().hold_keeps = false;
    pair.done(0, RESERVE, EXCLUSIVE_ACCESS, [1, 0]);
    assert_eq!(pair.read(1).0, 0x18);
}

#[test]
fn who_is_never_first_is_told_to_come_again() {
    let mut pair = Pair::new();
    pair.bench.volume.state.lock().hold_keeps = true;
    assert!(pair.order(1, REGISTER, 0, [0, 2]).is_empty());
    for key in 0..20 {
        // Somebody at the partner is always faster.
        let changed = {
            let mut hand = pair.bench.volume.state.lock();
            let item = hand.items.get(&ItemName(1)).cloned();
            let revision = item.as_ref().map_or(0, |item| item.revision);
            let value = item.map_or_else(
                || [vec![1, 0, 0, 0], vec![0; 28], vec![0xff, 0xff, 0, 0]].concat(),
                |item| item.value.to_vec(),
            );
            hand.keep(ItemName(1), revision, &value)
        };
        assert_eq!(changed, Ok(()));
        pair.bench.volume.keep_all();
        if let [answer] = &pair.drain(1)[..] {
            assert_eq!((answer.sense(), key), (BUSY, 8));
            return;
        }
    }
    panic!("no end");
}

#[test]
fn an_order_that_is_given_up_is_over_when_it_is_kept_or_not() {
    let mut pair = Pair::new();
    pair.bench.volume.state.lock().hold_keeps = true;
    assert!(pair.order(0, REGISTER, 0, [0, 1]).is_empty());
    let link = pair.hosts[0].link;
    assert!(pair.bench.ask(link, &Pdu::new(0x42, 0x81, 50).word(20, 101)).is_empty());
    pair.bench.volume.keep_all();
    let found = pair.drain(0);
    assert_eq!((found.len(), found[0].opcode()), (1, 0x22), "the abort, not the order");
    assert!(pair.order(0, REGISTER, 0, [1, 3]).is_empty());
    assert!(pair.bench.ask(link, &Pdu::new(0x46, 0x80, 51)).is_empty(), "a logout waits as well");
    pair.bench.volume.keep_all();
    assert_eq!(pair.drain(0)[0].opcode(), 0x26);
    assert!(pair.bench.drive.get(link).is_none());
}

#[test]
fn a_session_that_ends_while_others_die_is_forgotten() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    {
        let mut hand = pair.bench.volume.state.lock();
        (hand.hold, hand.hold_aborts) = (true, true);
    }
    assert!(pair.write(1).is_empty());
    assert!(pair.order(0, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, [1, 2]).is_empty());
    let link = pair.hosts[0].link;
    pair.bench.drive.get(link).expect("open").hang_up();
    pair.bench.drive.deliver();
    assert!(pair.bench.drive.get(link).is_none(), "its answer is nobody's");
    pair.bench.volume.give_up();
    pair.bench.drive.deliver();
    assert_eq!(pair.ready(1), (2, 6, 0x2a, 5));
}

#[test]
fn a_copy_is_no_way_around_a_reservation() {
    let naa = |pair: &Pair| Identity::of(&pair.bench.volume.info()).naa;
    for kind in [WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS] {
        let mut pair = Pair::reserved(kind);
        let list = copy_list(1, &[cscd(&naa(&pair))], &[segment((0, 0), 8, 0, 64)]);
        let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
        let found = pair.send(1, 0xa0, list.len() as u32, &cdb, &list);
        assert_eq!(found[0].sense(), CONFLICT);
    }
    // Sent to a unit that is not reserved, from one that is and to it.
    for (from, to, told) in [(1, 0, (2, 0x0a, 0x0d, 0x01)), (0, 1, (2, 0x0a, 0x0d, 0x01))] {
        let mut pair = Pair::reserved(EXCLUSIVE_ACCESS);
        pair.done(0, RELEASE, EXCLUSIVE_ACCESS, [1, 0]);
        pair.done(1, RESERVE, EXCLUSIVE_ACCESS, [2, 0]);
        let second = Arc::clone(&pair.bench.second);
        let list = copy_list(
            1,
            &[cscd(&naa(&pair)), cscd(&Identity::of(&second.info()).naa)],
            &[segment((from, to), 8, 0, 0)],
        );
        let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
        let Host { link, cmd_sn, .. } = &mut pair.hosts[0];
        let mut pdu =
            Pdu::new(0x01, 0xa0, 77).word(8, 0x412c_0000).word(20, list.len() as u32).word(24, *cmd_sn);
        pdu.head[32..48].copy_from_slice(&cdb);
        assert_eq!(pair.bench.ask(*link, &pdu.data(&list))[0].sense(), told, "{from} to {to}");
    }
}

#[test]
fn what_cannot_be_read_lets_nobody_in() {
    let mut pair = Pair::new();
    let changed = pair.bench.volume.state.lock().keep(ItemName(1), 0, &[2, 0, 0, 0]);
    assert_eq!(changed, Ok(()));
    assert_eq!(pair.write(0)[0].sense(), CONFLICT);
    assert_eq!(pair.read(0).0, 0x18);
    assert_eq!(pair.ready(0), GOOD);
    let keys = pair.send(0, 0xc0, 255, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[]);
    assert_eq!(keys[0].sense(), (2, 4, 0x44, 0));
}

/// Nothing of the volume is done or given up until it is told to.
pub(super) fn hold_all(pair: &Pair) {
    let mut hand = pair.bench.volume.state.lock();
    (hand.hold, hand.hold_aborts) = (true, true);
}

#[test]
fn an_order_that_was_given_up_and_kept_aborts_all_the_same() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    hold_all(&pair);
    assert!(pair.write(1).is_empty());
    pair.bench.volume.state.lock().hold_keeps = true;
    assert!(pair.order(0, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, [1, 2]).is_empty());
    let (link, task) = (pair.hosts[0].link, 100 + pair.hosts[0].cmd_sn - 1);
    assert!(pair.bench.ask(link, &Pdu::new(0x42, 0x81, 50).word(20, task)).is_empty());
    pair.bench.volume.keep_all();
    assert_eq!(pair.drain(0)[0].opcode(), 0x22);
    pair.bench.volume.give_up();
    pair.bench.drive.deliver();
    assert_eq!(pair.bench.volume.held(), 0, "what was under way was given up");
}

#[test]
fn the_tasks_of_a_session_that_is_being_replaced_are_waited_for() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    hold_all(&pair);
    assert!(pair.write(1).is_empty());
    let first_cmd_sn = pair.bench.cmd_sn;
    pair.bench.cmd_sn = 1;
    let (again, found) = pair.bench.login(OTHER, 1, "InitialR2T=Yes\0");
    assert!(found.is_empty(), "the old one still acts");
    pair.bench.cmd_sn = first_cmd_sn;
    assert!(pair.order(0, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, [1, 2]).is_empty());
    pair.bench.volume.give_up();
    assert_eq!(pair.drain(0)[0].sense(), GOOD);
    assert_eq!(answers(&pair.bench.drive.drain(again))[0].opcode(), 0x23);
}

#[test]
fn two_who_abort_each_other_do_not_wait_for_each_other() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    let order = |pair: &mut Pair, host: usize, action: u8, kind: u8, keys: [u64; 2]| {
        let Host { link, lun, cmd_sn } = &mut pair.hosts[host];
        let mut list = [keys[0].to_be_bytes(), keys[1].to_be_bytes()].concat();
        list.resize(24, 0);
        let mut pdu =
            Pdu::new(0x01, 0xa0, 100 + *cmd_sn).byte(9, *lun).word(20, 24).word(24, *cmd_sn).data(&list);
        pdu.head[32..42].copy_from_slice(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]);
        *cmd_sn += 1;
        // What comes of it is not delivered yet.
        pair.bench.drive.get(*link).expect("open").receive(&pdu.bytes());
    };
    order(&mut pair, 0, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, [1, 2]);
    order(&mut pair, 1, 6, 0, [0, 2]);
    order(&mut pair, 1, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, [2, 1]);
    // The first of these is told that its registration was taken away, and comes again.
    order(&mut pair, 1, 6, 0, [0, 2]);
    order(&mut pair, 1, PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, [2, 1]);
    pair.bench.drive.deliver();
    for host in [0, 1] {
        let link = pair.hosts[host].link;
        drop(pair.drain(host));
        let logged_out = pair.bench.ask(link, &Pdu::new(0x46, 0x80, 51));
        assert_eq!(logged_out.last().map(Answer::opcode), Some(0x26), "nothing hangs");
        assert!(pair.bench.drive.get(link).is_none());
    }
}

#[test]
fn nobody_is_told_of_what_he_did_himself() {
    for (action, kind, keys) in [
        (RELEASE, WRITE_EXCLUSIVE_REGISTRANTS, [1, 0]),
        (CLEAR, 0, [1, 0]),
        (PREEMPT, EXCLUSIVE_ACCESS, [1, 2]),
        (REGISTER, 0, [1, 0]),
    ] {
        let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
        pair.bench.volume.state.lock().hold_answers = true;
        assert!(pair.order(0, action, kind, keys).is_empty());
        assert_eq!(pair.ready(0), GOOD, "{action}: in force, and not answered yet");
        assert_ne!(pair.ready(1), GOOD, "{action}: the other is told at once");
        pair.bench.volume.keep_all();
        assert_eq!(pair.drain(0)[0].sense(), GOOD);
        assert_eq!((pair.ready(0), pair.ready(1)), (GOOD, GOOD), "{action}");
    }
    // But of what others did meanwhile.
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    pair.bench.volume.state.lock().hold_answers = true;
    assert!(pair.order(1, REGISTER, 0, [2, 3]).is_empty());
    assert!(pair.order(0, CLEAR, 0, [1, 0]).is_empty());
    assert_eq!(pair.ready(1), GOOD, "which of both it was is not known yet");
    pair.bench.volume.keep_all();
    assert_eq!(pair.drain(1)[0].sense(), GOOD);
    assert_eq!(pair.ready(1), (2, 6, 0x2a, 3));
}

#[test]
fn a_node_that_does_not_serve_changes_nothing_and_knows_nothing() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE_REGISTRANTS);
    let asked = pair.send(0, 0xa0, 24, &[0x5f, RESERVE, 5, 0, 0, 0, 0, 0, 24, 0], &[]);
    assert_eq!(asked[0].opcode(), 0x31);
    pair.bench.volume.state.lock().path = twinsan::guest::PathState::Unavailable;
    let mut list = 1u64.to_be_bytes().to_vec();
    list.resize(24, 0);
    let data = Pdu::new(0x05, 0x80, asked[0].word(16)).word(20, asked[0].word(20)).data(&list);
    let link = pair.hosts[0].link;
    assert_eq!(pair.bench.ask(link, &data)[0].sense(), (2, 2, 4, 0x0a), "not \"you have it already\"");
}

#[test]
fn a_node_that_serves_alone_sees_what_came_of_an_order() {
    let mut pair = Pair::new();
    pair.bench.volume.state.lock().interrupted = true;
    // The partner may not have it.
    assert_eq!(pair.order(0, REGISTER, 0, [0, 1])[0].sense(), (2, 2, 4, 0x0a));
    pair.bench.volume.state.lock().partner = twinsan::guest::PathState::Unavailable;
    pair.done(1, REGISTER, 0, [0, 2]);
}

#[test]
fn what_changes_nothing_is_kept_all_the_same() {
    let mut pair = Pair::reserved(WRITE_EXCLUSIVE);
    let version = pair.bench.volume.items_version();
    pair.done(0, RESERVE, WRITE_EXCLUSIVE, [1, 0]);
    assert!(pair.bench.volume.items_version() > version, "or it might be in force on this node only");
    assert_eq!((pair.ready(0), pair.ready(1)), (GOOD, GOOD));
}

#[test]
fn who_may_only_read_keeps_nobody_out() {
    let mut pair = Pair::new();
    let read_only = crate::access::Mapping {
        read_only: true,
        ..crate::access::Mapping::new("two", 5, Arc::clone(&pair.bench.volume) as _)
    };
    let first = crate::access::Mapping::new("one", 0, Arc::clone(&pair.bench.volume) as _);
    pair.bench.set_access(super::super::bench::hosts(), vec![first, read_only]);
    while pair.ready(1) != GOOD {}
    pair.done(1, 6, 0, [0, 1]);
    for action in [RESERVE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        assert_eq!(pair.order(1, action, 1, [1, 1])[0].sense(), (2, 7, 0x27, 0), "{action}");
    }
    assert_eq!(pair.send(1, 0x80, 0, &[0x16, 0, 0, 0, 0, 0], &[])[0].sense(), (2, 7, 0x27, 0));
    pair.done(1, RELEASE, 1, [1, 0]);
    pair.done(1, REGISTER, 0, [1, 0]);
}

#[test]
fn only_who_sees_the_volume_is_registered() {
    let mut pair = Pair::new();
    for (name, told) in [(OTHER, GOOD), ("iqn.2026-01.example:nobody", (2, 5, 0x26, 0))] {
        let text = format!("{name},i,0x400000000009\0");
        let length = text.len().next_multiple_of(4);
        let mut list = [0u64.to_be_bytes(), 1u64.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, 0x08, 0, 0, 0]);
        list.extend_from_slice(&(length as u32 + 4).to_be_bytes());
        list.extend_from_slice(&[0x45, 0, 0, length as u8]);
        list.extend_from_slice(text.as_bytes());
        list.resize(32 + length, 0);
        let bytes = list.len() as u32;
        let found = pair.send(0, 0xa0, bytes, &[0x5f, 0, 0, 0, 0, 0, 0, 0, bytes as u8, 0], &list);
        assert_eq!(found[0].sense(), told, "{name}");
        pair.done(0, 6, 0, [0, 0]);
    }
}
