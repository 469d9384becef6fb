//! Task management and the ends of sessions: what is answered only when the tasks concerned can no longer act, and who
//! learns of it.

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu, answers};

/// Task management functions, as flags.
const ABORT_TASK: u8 = 0x81;
const ABORT_TASK_SET: u8 = 0x82;
const CLEAR_TASK_SET: u8 = 0x84;
const LOGICAL_UNIT_RESET: u8 = 0x85;
const TARGET_WARM_RESET: u8 = 0x86;
const TARGET_COLD_RESET: u8 = 0x87;

fn manage(function: u8, task: u32) -> Pdu {
    Pdu::new(0x42, function, 50).word(20, task)
}

fn is_complete(found: &[Answer]) -> bool {
    matches!(found, [answer] if answer.opcode() == 0x22 && answer.head[2] == 0)
}

/// Sessions of two hosts that share a volume, each with a write under way on it.
fn two_writers() -> (Bench, usize, usize) {
    let mut bench = Bench::new();
    let link = bench.session();
    let own_cmd_sn = bench.cmd_sn;
    bench.cmd_sn = 1;
    let (other, _) = bench.login(OTHER, 1, "InitialR2T=No\0");
    {
        let mut hand = bench.volume.state.lock();
        (hand.hold, hand.hold_aborts) = (true, true);
    }
    let write = bench.command(0xa0, 9, 512, &[0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0]).byte(9, 5).data(&[2; 512]);
    assert!(bench.ask(other, &write).is_empty());
    bench.cmd_sn = own_cmd_sn;
    assert!(bench.write(link, 21, 0, &[1; 512]).is_empty());
    assert_eq!(bench.volume.held(), 2);
    (bench, link, other)
}

/// The sense of the other host's next command.
fn others_ready(bench: &mut Bench, other: usize, cmd_sn: u32) -> (u8, u8, u8, u8) {
    bench.ask(other, &Pdu::new(0x01, 0x80, 10).byte(9, 5).word(24, cmd_sn))[0].sense()
}

#[test]
fn a_function_is_answered_when_its_tasks_can_no_longer_act() {
    for (function, left) in [
        (ABORT_TASK, 1),
        (ABORT_TASK_SET, 1),
        (CLEAR_TASK_SET, 0),
        (LOGICAL_UNIT_RESET, 0),
        (TARGET_WARM_RESET, 0),
        (TARGET_COLD_RESET, 0),
    ] {
        let (mut bench, link, _) = two_writers();
        assert!(bench.ask(link, &manage(function, 21)).is_empty(), "{function:#x}: they may still act");
        // What completes nevertheless is not answered any more.
        bench.volume.give_up();
        bench.drive.deliver();
        assert_eq!(bench.volume.held(), left, "{function:#x}");
        assert!(is_complete(&answers(&bench.drive.drain(link))), "{function:#x}");
        let open = bench.drive.get(link).is_some();
        assert_eq!(open, function != TARGET_COLD_RESET, "{function:#x}: the connection stays");
    }
}

#[test]
fn a_task_that_finishes_while_it_is_aborted_stays_silent() {
    let (mut bench, link, _) = two_writers();
    assert!(bench.ask(link, &manage(ABORT_TASK, 21)).is_empty());
    bench.volume.answer(1);
    bench.drive.deliver();
    assert!(bench.drive.drain(link).is_empty(), "its completion is not told, and the abort is not over");
    bench.volume.give_up();
    bench.drive.deliver();
    assert!(is_complete(&answers(&bench.drive.drain(link))));
}

#[test]
fn others_learn_what_became_of_their_tasks() {
    for (function, sense) in [
        (ABORT_TASK_SET, (0, 0, 0, 0)),
        (CLEAR_TASK_SET, (2, 6, 0x2f, 0)),
        (LOGICAL_UNIT_RESET, (2, 6, 0x29, 3)),
        (TARGET_WARM_RESET, (2, 6, 0x29, 3)),
    ] {
        let (mut bench, link, other) = two_writers();
        bench.volume.give_up();
        assert!(is_complete(&bench.ask(link, &manage(function, 0))), "{function:#x}");
        assert!(bench.drive.drain(other).is_empty(), "{function:#x}: an aborted task never answers");
        assert_eq!(others_ready(&mut bench, other, 2), sense, "{function:#x}");
        let own = bench.command(0x80, 3, 0, &[0; 6]);
        let reset = sense == (2, 6, 0x29, 3);
        assert_eq!(
            bench.ask(link, &own)[0].sense() == sense && reset,
            reset,
            "{function:#x}: a reset is told to all"
        );
    }
}

#[test]
fn one_who_lost_nothing_is_told_of_no_cleared_commands() {
    let (mut bench, link, other) = two_writers();
    bench.volume.give_up();
    // The other's write goes first.
    bench.volume.answer(0);
    bench.drive.deliver();
    assert_eq!(answers(&bench.drive.drain(other))[0].sense(), (0, 0, 0, 0));
    assert!(is_complete(&bench.ask(link, &manage(CLEAR_TASK_SET, 0))));
    assert_eq!(others_ready(&mut bench, other, 2), (0, 0, 0, 0));
}

#[test]
fn a_cold_reset_ends_the_sessions_that_share_a_unit() {
    let (mut bench, link, other) = two_writers();
    bench.volume.give_up();
    let stranger = {
        let mut hosts = super::super::bench::hosts();
        hosts.push(crate::access::Host::new("three", &["iqn.2026-01.example:host3"]));
        let volume = std::sync::Arc::clone(&bench.volume);
        let map =
            |host: &str, lun| crate::access::Mapping::new(host, lun, std::sync::Arc::clone(&volume) as _);
        let apart = crate::access::Mapping::new("three", 0, super::super::drive::HandVolume::new(9));
        bench.set_access(hosts, vec![map("one", 0), map("two", 5), apart]);
        bench.login("iqn.2026-01.example:host3", 1, "").0
    };
    assert!(is_complete(&bench.ask(link, &manage(TARGET_COLD_RESET, 0))));
    let told = answers(&bench.drive.drain(other));
    assert_eq!((told[0].opcode(), told[0].head[36]), (0x32, 2), "the target drops this connection");
    assert!(bench.drive.get(link).is_none() && bench.drive.get(other).is_none());
    assert!(bench.drive.get(stranger).is_some(), "a host that shares nothing is left alone");
}

#[test]
fn functions_that_cannot_be_say_so() {
    let mut bench = Bench::new();
    let link = bench.session();
    for (pdu, response) in [
        (manage(ABORT_TASK, 77), 1),
        (manage(LOGICAL_UNIT_RESET, 0).byte(9, 44), 2),
        (manage(CLEAR_TASK_SET, 0).byte(9, 44), 2),
        (manage(0x88, 0), 4),
        (manage(0x83, 0), 5),
        (manage(0xff, 0), 5),
    ] {
        let found = bench.ask(link, &pdu);
        assert_eq!((found[0].opcode(), found[0].head[2]), (0x22, response));
    }
}

#[test]
fn a_session_begins_again_only_when_the_old_ones_tasks_are_dead() {
    let mut bench = Bench::new();
    let old = bench.session();
    {
        let mut hand = bench.volume.state.lock();
        (hand.hold, hand.hold_aborts) = (true, true);
    }
    assert!(bench.write(old, 21, 0, &[1; 512]).is_empty());
    bench.cmd_sn = 1;
    let (new, found) = bench.login(HOST, 1, "");
    assert!(found.is_empty(), "the old write may still act");
    // A third comes while the second waits, and takes its place.
    let (third, found) = bench.login(HOST, 1, "");
    assert!(found.is_empty());
    // A session of another ISID is another session, and begins at once.
    let (beside, found) = bench.login(HOST, 2, "");
    assert_eq!(found[0].head[36..38], [0, 0]);
    bench.volume.give_up();
    bench.drive.deliver();
    assert_eq!(bench.volume.held(), 0);
    let found = answers(&bench.drive.drain(third));
    assert_eq!((found[0].opcode(), found[0].head[1]), (0x23, 0x87));
    assert!(bench.drive.get(old).is_none() && bench.drive.get(new).is_none());
    bench.volume.state.lock().hold = false;
    assert_eq!(bench.read(third, 3, 0, 1)[0].data, [0; 512], "the old write never acted");
    assert!(bench.drive.get(beside).is_some());
}

#[test]
fn a_logout_is_answered_when_the_sessions_tasks_are_dead() {
    let (mut bench, link, other) = two_writers();
    assert!(bench.ask(link, &Pdu::new(0x46, 0x80, 60)).is_empty());
    bench.volume.give_up();
    bench.drive.deliver();
    let found = answers(&bench.drive.drain(link));
    assert_eq!((found[0].opcode(), found[0].head[2]), (0x26, 0));
    assert_eq!(bench.volume.held(), 1, "the other's task is none of its business");
    assert!(bench.drive.get(link).is_none() && bench.drive.get(other).is_some());
}

#[test]
fn an_initiator_that_is_asked_to_log_out_is_served_until_it_does() {
    let mut bench = Bench::new();
    let link = bench.session();
    let half = bench.drive.connect();
    for each in [link, half] {
        bench.drive.get(each).expect("open").ask_to_log_out(5);
    }
    bench.drive.deliver();
    let told = answers(&bench.drive.drain(link));
    assert_eq!((told[0].opcode(), told[0].word(16), told[0].head[36]), (0x32, u32::MAX, 1));
    assert_eq!(told[0].head[38..44], [0, 0, 0, 0, 0, 5]);
    assert!(bench.drive.get(half).is_none(), "a login is cut off");
    assert_eq!(bench.read(link, 3, 0, 1)[0].data, [0; 512]);
    let found = bench.ask(link, &Pdu::new(0x46, 0x80, 60));
    assert_eq!((found[0].opcode(), found[0].head[2]), (0x26, 0));
    assert!(bench.drive.get(link).is_none());
}
