//! RESERVE and RELEASE in sessions: a unit is one session's alone until that lets go, or ends wherever it was.

use std::sync::Arc;

use twinsan::guest::VirtualVolume;
use twinsan::ids::ItemName;

use super::super::bench::{Bench, HOST, OTHER, Pdu, answers};
use super::super::exclusive::give_up_orphan;
use super::reservations::{CONFLICT, GOOD, Host, Pair, REGISTER, hold_all};

/// RESERVE (6), and RELEASE (6).
const TAKE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const LET_GO: [u8; 6] = [0x17, 0, 0, 0, 0, 0];

impl Pair {
    fn short(&mut self, host: usize, cdb: &[u8]) -> (u8, u8, u8, u8) {
        self.send(host, 0x80, 0, cdb, &[])[0].sense()
    }

    /// What is kept names the nexus of host 0, though at another target port if wanted.
    fn kept_of_first(&mut self, port: u8) {
        assert_eq!(self.short(0, &TAKE), GOOD);
        let mut hand = self.bench.volume.state.lock();
        let item = hand.items.get(&ItemName(1)).cloned().expect("kept");
        let mut value = item.value.to_vec();
        assert_eq!(value[36..38], [0, 1]);
        value[37] = port;
        assert_eq!(hand.keep(ItemName(1), item.revision, &value), Ok(()));
    }
}

#[test]
fn a_unit_is_one_sessions_alone_until_that_lets_go_or_ends() {
    let logout = |pair: &mut Pair| {
        let link = pair.hosts[0].link;
        assert_eq!(pair.bench.ask(link, &Pdu::new(0x46, 0x80, 51))[0].opcode(), 0x26);
    };
    let hang_up = |pair: &mut Pair| {
        let link = pair.hosts[0].link;
        pair.bench.drive.get(link).expect("open").hang_up();
        pair.bench.drive.deliver();
        assert!(pair.bench.drive.get(link).is_none());
    };
    let reset = |pair: &mut Pair| {
        let Host { link, lun, .. } = pair.hosts[1];
        let found = pair.bench.ask(link, &Pdu::new(0x42, 0x85, 50).byte(9, lun));
        assert_eq!((found[0].opcode(), found[0].head[2]), (0x22, 0));
        assert_eq!(pair.ready(1), (2, 6, 0x29, 3));
    };
    let let_go = |pair: &mut Pair| assert_eq!(pair.short(0, &LET_GO), GOOD);
    let ends: [&dyn Fn(&mut Pair); 4] = [&let_go, &logout, &hang_up, &reset];
    for end in ends {
        let mut pair = Pair::new();
        assert_eq!(pair.short(0, &TAKE), GOOD);
        assert_eq!(pair.short(0, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]), GOOD, "once more");
        assert_eq!((pair.short(1, &TAKE), pair.ready(1), pair.read(1).0), (CONFLICT, CONFLICT, 0x18));
        assert_eq!(pair.short(1, &LET_GO), GOOD, "it has nothing to let go");
        assert_eq!(pair.write(0)[0].sense(), GOOD);
        assert_eq!(pair.order(1, REGISTER, 0, [0, 1])[0].sense(), CONFLICT);
        end(&mut pair);
        assert_eq!((pair.write(1)[0].sense(), pair.short(1, &TAKE)), (GOOD, GOOD));
    }
    let mut pair = Pair::new();
    assert_eq!(pair.short(0, &[0x16, 0x11, 0, 0, 0, 0]), (2, 5, 0x24, 0), "no third parties");
}

#[test]
fn the_next_session_of_a_nexus_begins_when_the_last_has_let_go() {
    let mut pair = Pair::new();
    assert_eq!(pair.short(0, &TAKE), GOOD);
    pair.bench.volume.state.lock().hold_keeps = true;
    pair.bench.cmd_sn = 1;
    let (again, found) = pair.bench.login(HOST, 1, "InitialR2T=Yes\0");
    assert!(found.is_empty(), "the old one has the unit still");
    pair.bench.volume.keep_all();
    pair.bench.volume.state.lock().hold_keeps = false;
    pair.bench.drive.deliver();
    assert_eq!(answers(&pair.bench.drive.drain(again))[0].opcode(), 0x23);
    assert_eq!(pair.short(1, &TAKE), GOOD);
}

#[test]
fn what_a_session_of_an_earlier_life_had_stands_in_nobodys_way() {
    // A node is started anew: the sessions that it had are not there.
    let mut pair = Pair::new();
    pair.kept_of_first(1);
    let value = pair.bench.volume.state.lock().items[&ItemName(1)].value.to_vec();
    let again = |value: &[u8]| {
        let mut bench = Bench::new();
        bench.volume.state.lock().keep(ItemName(1), 0, value).expect("kept");
        let mut enter = |name, lun| {
            bench.cmd_sn = 1;
            Host { link: bench.login(name, 1, "").0, lun, cmd_sn: 1 }
        };
        let hosts = [OTHER, HOST].map(|name| enter(name, if name == HOST { 0 } else { 5 }));
        let [second, first] = hosts;
        Pair { bench, hosts: [first, second] }
    };
    let mut pair = again(&value);
    assert_eq!(pair.write(1)[0].sense(), GOOD, "its own next session had nothing");
    let version = pair.bench.volume.items_version();
    assert_eq!((pair.short(0, &TAKE), pair.short(1, &TAKE)), (GOOD, CONFLICT));
    assert!(pair.bench.volume.items_version() > version);
}

#[test]
fn what_a_session_of_the_partner_had_ends_with_the_partner() {
    let mut pair = Pair::new();
    pair.kept_of_first(2);
    assert_eq!(pair.write(1)[0].sense(), CONFLICT);
    assert_eq!(pair.ready(0), (2, 6, 0x29, 3));
    assert_eq!(pair.write(0)[0].sense(), CONFLICT, "another port is another nexus");
    pair.bench.volume.state.lock().partner = twinsan::guest::PathState::Unavailable;
    assert_eq!(pair.write(1)[0].sense(), GOOD);
    pair.bench.volume.state.lock().partner = twinsan::guest::PathState::NonOptimized;
    assert_eq!(pair.write(1)[0].sense(), GOOD, "it was taken away");
    assert_eq!(pair.short(0, &TAKE), GOOD);
}

#[test]
fn who_loses_a_unit_to_the_other_node_is_told() {
    let mut pair = Pair::new();
    assert_eq!(pair.short(0, &TAKE), GOOD);
    let changed = {
        // By a reset there.
        let mut hand = pair.bench.volume.state.lock();
        let item = hand.items.get(&ItemName(1)).cloned().expect("kept");
        let mut value = item.value[..36].to_vec();
        value[1] = 0;
        hand.keep(ItemName(1), item.revision, &value)
    };
    assert_eq!(changed, Ok(()));
    assert_eq!(pair.write(0)[0].sense(), (2, 6, 0x29, 3));
    assert_eq!(pair.write(0)[0].sense(), GOOD);
}

#[test]
fn a_unit_that_was_taken_by_a_session_that_is_gone_is_given_up() {
    let mut pair = Pair::new();
    pair.bench.volume.state.lock().hold_keeps = true;
    let taken = Pdu::new(0x01, 0x80, 77).word(24, 1).byte(32, 0x16);
    let link = pair.hosts[0].link;
    assert!(pair.bench.ask(link, &taken).is_empty());
    pair.bench.drive.get(link).expect("open").hang_up();
    pair.bench.drive.deliver();
    pair.bench.volume.keep_all();
    pair.bench.drive.deliver();
    assert!(pair.bench.drive.get(link).is_some(), "it lets go first");
    pair.bench.volume.keep_all();
    pair.bench.drive.deliver();
    assert!(pair.bench.drive.get(link).is_none());
    pair.bench.volume.state.lock().hold_keeps = false;
    assert_eq!(pair.write(1)[0].sense(), GOOD);
}

#[test]
fn a_unit_that_its_host_sees_no_more_is_free() {
    let mut pair = Pair::new();
    assert_eq!(pair.short(0, &TAKE), GOOD);
    let mappings = vec![
        crate::access::Mapping::new("one", 9, Arc::clone(&pair.bench.second) as _),
        crate::access::Mapping::new("two", 5, Arc::clone(&pair.bench.volume) as _),
    ];
    pair.bench.set_access(super::super::bench::hosts(), mappings);
    assert_eq!(pair.write(1)[0].sense(), GOOD);
}

#[test]
fn the_first_command_that_meets_a_dead_holder_goes_through() {
    for cdb in [&TAKE[..], &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]] {
        let mut pair = Pair::new();
        pair.kept_of_first(2);
        {
            let mut hand = pair.bench.volume.state.lock();
            (hand.partner, hand.hold_keeps) = (twinsan::guest::PathState::Unavailable, true);
        }
        let data = if cdb[0] == 0x2a { vec![7; 512] } else { Vec::new() };
        let flags = if data.is_empty() { 0x80 } else { 0xa0 };
        let mut found = pair.send(1, flags, data.len() as u32, cdb, &data);
        pair.bench.volume.keep_all();
        found.extend(pair.drain(1));
        pair.bench.volume.keep_all();
        found.extend(pair.drain(1));
        assert_eq!(found[0].sense(), GOOD, "{cdb:02x?}");
    }
}

/// Two reset the unit and come again with the same names before that is done: each of the new sessions holds what the other
/// old one waits for.
#[test]
fn two_who_reset_each_other_and_come_again_get_in() {
    let mut pair = Pair::new();
    hold_all(&pair);
    assert!(pair.write(0).is_empty() && pair.write(1).is_empty());
    let again = |pair: &mut Pair, name: &str| {
        pair.bench.cmd_sn = 1;
        pair.bench.login(name, 1, "").0
    };
    let reset = |pair: &mut Pair, host: usize| {
        let Host { link, lun, .. } = pair.hosts[host];
        pair.bench.ask(link, &Pdu::new(0x42, 0x85, 50).byte(9, lun))
    };
    let first = again(&mut pair, HOST);
    assert!(reset(&mut pair, 1).is_empty());
    let second = again(&mut pair, OTHER);
    pair.bench.volume.give_up();
    pair.bench.drive.deliver();
    for link in [first, second] {
        assert_eq!(answers(&pair.bench.drive.drain(link))[0].opcode(), 0x23);
    }
}

#[test]
fn what_cannot_be_given_up_now_is_given_up_later() {
    let mut pair = Pair::new();
    assert_eq!(pair.short(0, &TAKE), GOOD);
    pair.bench.volume.state.lock().keeps_nothing = true;
    let link = pair.hosts[0].link;
    pair.bench.drive.get(link).expect("open").hang_up();
    pair.bench.drive.deliver();
    assert!(pair.bench.drive.get(link).is_none(), "nobody waits for it");
    let flags = |pair: &Pair| pair.bench.volume.state.lock().items[&ItemName(1)].value[1];
    let target = Arc::clone(pair.bench.drive.target());
    let try_again = |seconds| {
        target.tick(std::time::Duration::from_secs(seconds));
        target.take_orphans().into_iter().for_each(|orphan| give_up_orphan(&target, orphan, 0));
    };
    try_again(1);
    assert_eq!(flags(&pair), 2, "not yet");
    pair.bench.volume.state.lock().keeps_nothing = false;
    try_again(1);
    assert_eq!(flags(&pair), 2, "not so soon");
    try_again(2);
    assert_eq!(flags(&pair), 0);
}

/// Somebody resets the unit while another change of the volume is on its way; the holder lives.
#[test]
fn a_reset_that_has_to_wait_is_answered_when_the_unit_is_free() {
    for again in [false, true] {
        let mut pair = Pair::new();
        assert_eq!(pair.short(0, &TAKE), GOOD);
        pair.bench.volume.state.lock().is_busy = true;
        let Host { link, lun, .. } = pair.hosts[1];
        assert!(pair.bench.ask(link, &Pdu::new(0x42, 0x85, 50).byte(9, lun)).is_empty());
        pair.bench.volume.state.lock().is_busy = false;
        if again {
            // The holder learns of the reset, and takes it once more: that is his.
            assert_eq!(pair.ready(0), (2, 6, 0x29, 3));
            assert_eq!(pair.short(0, &TAKE), GOOD);
        }
        let target = Arc::clone(pair.bench.drive.target());
        assert!(target.orphans_at().is_some(), "it is tried again");
        target.tick(std::time::Duration::from_secs(1));
        target.take_orphans().into_iter().for_each(|orphan| give_up_orphan(&target, orphan, 0));
        let found = pair.drain(1);
        assert_eq!((found.len(), found[0].opcode(), found[0].head[2]), (1, 0x22, 0));
        assert_eq!(pair.ready(1), (2, 6, 0x29, 3));
        assert_eq!(pair.write(1)[0].sense(), if again { CONFLICT } else { GOOD });
    }
}
