//! Requests that mean harm, and what a connection does about them.

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu};

const TEXT_RESPONSE: u8 = 0x24;
const REJECT: u8 = 0x3f;
const INVALID_FIELD: u8 = 0x09;
const NO_TAG: u32 = u32::MAX;

/// An immediate text request; flag bits 0x80 F, 0x40 C.
fn text(flags: u8, ttt: u32, data: &str) -> Pdu {
    Pdu::new(0x44, flags, 7).word(20, ttt).data(data.as_bytes())
}

/// Opcode, flags or reason, tag.
fn told(found: &[Answer]) -> (u8, u8, u32) {
    assert_eq!(found.len(), 1);
    let about = if found[0].opcode() == REJECT { 2 } else { 1 };
    (found[0].opcode(), found[0].head[about], found[0].word(20))
}

fn reject(found: &[Answer]) -> u8 {
    assert_eq!((found.len(), found[0].opcode()), (1, REJECT));
    found[0].head[2]
}

fn is_alive(bench: &mut Bench, link: usize) -> bool {
    let echo = bench.ask(link, &Pdu::new(0x40, 0x80, 99).word(20, NO_TAG).data(b"alive"));
    echo.len() == 1 && echo[0].opcode() == 0x20 && echo[0].data == b"alive"
}

#[test]
fn a_text_answer_is_the_last_one_only_when_the_request_was() {
    let mut bench = Bench::new();
    let link = bench.session();
    let tag = 1;
    assert_eq!(told(&bench.ask(link, &text(0x40, NO_TAG, "SendTar"))), (TEXT_RESPONSE, 0, tag));
    let found = bench.ask(link, &text(0x00, tag, "gets=\0"));
    assert_eq!(told(&found), (TEXT_RESPONSE, 0, tag), "it has not said that it is done");
    assert!(found[0].text().contains("TargetAddress=127.0.0.1:3260,1"));
    assert_eq!(told(&bench.ask(link, &text(0x80, tag, ""))), (TEXT_RESPONSE, 0x80, NO_TAG));
}

#[test]
fn a_text_exchange_that_cannot_be_is_rejected_and_forgotten() {
    let mut bench = Bench::new();
    let link = bench.session();
    for (flags, ttt) in [(0xc0, NO_TAG), (0x80, 1), (0x80, 7), (0x40, 0)] {
        assert_eq!(reject(&bench.ask(link, &text(flags, ttt, "SendTargets=\0"))), INVALID_FIELD, "{ttt}");
    }
    bench.ask(link, &text(0x40, NO_TAG, "a"));
    assert_eq!(reject(&bench.ask(link, &text(0x80, 2, "=1\0"))), INVALID_FIELD, "another tag");
    assert_eq!(reject(&bench.ask(link, &text(0x80, 1, "=1\0"))), INVALID_FIELD, "it is over");
    let twice = "SendTargets=\0".repeat(2);
    assert_eq!(reject(&bench.ask(link, &text(0x80, NO_TAG, &twice))), INVALID_FIELD);
    assert!(is_alive(&mut bench, link));
}

#[test]
fn discovery_of_very_many_targets_takes_several_pdus() {
    let names: Vec<String> = (0..300).map(|n| format!("iqn.2026-01.example:san{n}")).collect();
    let wanted = names.clone();
    let mut bench = Bench::configured(|config| config.names = names);
    let mappings = wanted.iter().map(|name| {
        let volume = std::sync::Arc::clone(&bench.volume) as _;
        crate::access::Mapping { target: Some(name.clone()), ..crate::access::Mapping::new("one", 0, volume) }
    });
    let mappings = mappings.collect();
    bench.set_access(super::super::bench::hosts(), mappings);
    let link = bench.drive.connect();
    let login = format!("InitiatorName={HOST}\0SessionType=Discovery\0");
    bench.ask(link, &Pdu::new(0x43, 0x87, 1).data(login.as_bytes()));
    let (mut all, mut ttt, mut data) = (String::new(), NO_TAG, "SendTargets=All\0");
    loop {
        let found = bench.ask(link, &text(0x80, ttt, data));
        assert!(found[0].opcode() == TEXT_RESPONSE && found[0].data.len() <= 8192);
        all += &found[0].text();
        if found[0].head[1] == 0x80 {
            break;
        }
        assert_eq!(found[0].head[1], 0x40, "more of the text follows");
        (ttt, data) = (found[0].word(20), "");
    }
    assert!(all.len() > 8192 && wanted.iter().all(|name| all.contains(&format!("TargetName={name}\n"))));
}

/// A volume that gives nothing up for a while is when very many resets would be remembered.
#[test]
fn functions_that_wait_are_bounded() {
    let mut bench = Bench::new();
    let link = bench.session();
    {
        let mut volume = bench.volume.state.lock();
        (volume.hold, volume.hold_aborts) = (true, true);
    }
    assert!(bench.write(link, 50, 0, &[1; 512]).is_empty());
    let mut answers = Vec::new();
    for itt in 100..600 {
        answers.extend(bench.ask(link, &Pdu::new(0x42, 0x85, itt)));
    }
    assert_eq!(answers.len(), 500 - 16);
    assert!(answers.iter().all(|answer| (answer.opcode(), answer.head[2]) == (0x22, 255)), "rejected");
    let logouts: Vec<Answer> =
        (0..50).flat_map(|n| bench.ask(link, &Pdu::new(0x46, 0x80, 700 + n))).collect();
    assert!(logouts.is_empty(), "one waits too, and the others are too late");
    bench.volume.give_up();
    bench.drive.deliver();
    let found = super::super::bench::answers(&bench.drive.drain(link));
    assert_eq!(found.iter().filter(|answer| (answer.opcode(), answer.head[2]) == (0x22, 0)).count(), 16);
    assert_eq!(found.iter().filter(|answer| answer.opcode() == 0x26).count(), 1);
}

/// Hosts abort what is slow command by command, and reset the unit when that does not help.
#[test]
fn a_reset_gets_through_behind_very_many_aborts() {
    const FUNCTION_RESPONSE: u8 = 0x22;
    let mut bench = Bench::new();
    let link = bench.session();
    {
        let mut volume = bench.volume.state.lock();
        (volume.hold, volume.hold_aborts) = (true, true);
    }
    for itt in 0..40 {
        assert!(bench.write(link, itt, itt as u8, &[1; 512]).is_empty());
    }
    let manage = |function, itt, task| Pdu::new(0x42, function, itt).word(20, task);
    let code = |found: &[Answer]| {
        assert_eq!((found.len(), found[0].opcode()), (1, FUNCTION_RESPONSE));
        found[0].head[2]
    };
    for task in 0..40 {
        assert!(bench.ask(link, &manage(0x81, 100 + task, task)).is_empty(), "{task} may still act");
    }
    assert_eq!(code(&bench.ask(link, &manage(0x81, 200, 3))), 1, "it is being aborted already");
    for itt in 300..316 {
        assert!(bench.ask(link, &manage(0x85, itt, 0)).is_empty(), "a reset waits for them too");
    }
    for (pdu, own) in [
        (manage(0x81, 201, 77), 1),
        (manage(0x85, 202, 0).byte(9, 44), 2),
        (manage(0x88, 203, 0), 4),
        (manage(0x83, 204, 0), 5),
        (manage(0x85, 205, 0), 255),
        (manage(0x86, 206, 0), 255),
    ] {
        assert_eq!(code(&bench.ask(link, &pdu)), own, "however many wait");
    }
    bench.volume.give_up();
    bench.drive.deliver();
    let found = super::super::bench::answers(&bench.drive.drain(link));
    assert!(found.iter().all(|answer| (answer.opcode(), answer.head[2]) == (FUNCTION_RESPONSE, 0)));
    let mut answered: Vec<u32> = found.iter().map(|answer| answer.word(16)).collect();
    answered.sort_unstable();
    assert_eq!(answered, (100..140).chain(300..316).collect::<Vec<u32>>());
}

#[test]
fn aborts_of_tasks_whose_data_is_still_to_come_wait_for_nothing() {
    let mut bench = Bench::new();
    let link = bench.session();
    let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let mut flood = Vec::new();
    for itt in 0..500 {
        flood.extend(bench.command(0xa0, itt, 512, &cdb).bytes());
        flood.extend(Pdu::new(0x42, 0x81, 1000 + itt).word(20, itt).bytes());
    }
    bench.drive.get(link).expect("open").receive(&flood);
    let found = super::super::bench::answers(&bench.drive.drain(link));
    let aborted = |answer: &&Answer| (answer.opcode(), answer.head[2]) == (0x22, 0);
    assert_eq!(found.iter().filter(aborted).count(), 500);
    assert_eq!(found.iter().filter(|answer| answer.opcode() == 0x31).count(), 500);
    let late = Pdu::new(0x05, 0x80, 499).word(20, 0).data(&[1; 512]);
    assert!(bench.ask(link, &late).is_empty(), "data that was asked for before is dropped");
    assert_eq!(bench.read(link, 2000, 0, 1)[0].data, [0; 512]);
}

#[test]
fn after_a_logout_nothing_begins() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    assert!(bench.write(link, 50, 0, &[1; 512]).is_empty());
    bench.volume.state.lock().hold_aborts = true;
    let cdb = [0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0];
    let late = bench.command(0xa0, 51, 512, &cdb).data(&[2; 512]);
    let ping = Pdu::new(0x40, 0x80, 99).word(20, NO_TAG);
    let all = [Pdu::new(0x46, 0x80, 70).bytes(), late.bytes(), ping.bytes()].concat();
    bench.drive.feed(link, &all);
    assert!(bench.drive.drain(link).is_empty(), "the logout waits for the first write");
    assert_eq!(bench.volume.held(), 1, "the second never gets to the volume");
    bench.volume.give_up();
    bench.drive.deliver();
    let found = super::super::bench::answers(&bench.drive.drain(link));
    assert_eq!(found.iter().map(Answer::opcode).collect::<Vec<_>>(), [0x26]);
    assert!(bench.drive.get(link).is_none());
}

/// As a PDU with these additional header segments.
fn with_segments(mut pdu: Pdu, segments: &[u8]) -> Vec<u8> {
    pdu.head[4] = (segments.len() / 4) as u8;
    let data = pdu.bytes().split_off(48);
    [&pdu.head[..], segments, &data].concat()
}

#[test]
fn additional_header_segments_must_fill_their_place() {
    let cases: [(&[u8], bool); 7] = [
        (&[0, 1, 0, 0], true),
        (&[0, 5, 2, 0, 0, 0, 0, 0], true),
        (&[0, 2, 0, 0, 0, 0, 0, 0], true),
        (&[0, 5, 2, 0], false),
        (&[0xff, 0xff, 1, 0], false),
        (&[0, 1, 1, 0, 0, 9, 1, 0], false),
        (&[0, 0, 0, 0, 1, 0, 2, 0], false),
    ];
    for (segments, sound) in cases {
        let mut bench = Bench::new();
        let link = bench.session();
        let command = bench.command(0x80, 5, 0, &[0; 6]);
        bench.drive.feed(link, &with_segments(command, segments));
        let found = super::super::bench::answers(&bench.drive.drain(link));
        if sound {
            assert_eq!(found[0].sense(), (0, 0, 0, 0), "{segments:?}");
            assert!(is_alive(&mut bench, link));
        } else {
            assert_eq!(reject(&found), INVALID_FIELD, "{segments:?}");
            assert!(bench.drive.get(link).is_none(), "what follows cannot be trusted");
        }
    }
}

#[test]
fn the_tag_that_means_none_names_no_command() {
    let mut bench = Bench::new();
    let link = bench.session();
    let command = bench.command(0x80, NO_TAG, 0, &[0; 6]);
    assert_eq!(reject(&bench.ask(link, &command)), INVALID_FIELD);
    assert!(is_alive(&mut bench, link));
    let command = bench.command(0x80, 8, 0, &[0; 6]);
    assert_eq!(bench.ask(link, &command)[0].sense(), (0, 0, 0, 0), "the number was used up");
}

#[test]
fn a_write_that_says_it_reads_is_not_answered_good() {
    let mut bench = Bench::new();
    let link = bench.session();
    assert_eq!(bench.write(link, 1, 0, &[7; 512])[0].sense(), (0, 0, 0, 0));
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    for cdb in [&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &unmap, &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0]] {
        let command = bench.command(0xc0, 2, 512, cdb);
        assert_eq!(bench.ask(link, &command)[0].sense(), (2, 0x05, 0x0e, 0x03), "{cdb:x?}");
    }
    assert_eq!(bench.read(link, 3, 0, 1)[0].data, [7; 512]);
}

/// Answers to pings are no command's data, and could fill the server's memory from many connections.
#[test]
fn who_leaves_answers_unread_is_not_listened_to_while_the_server_holds_too_much() {
    let mut bench = Bench::configured(|config| config.memory_bytes_max = 6 << 20);
    let links = [bench.session(), bench.login(OTHER, 2, "").0];
    let ping = Pdu::new(0x40, 0x80, 1).word(20, NO_TAG).data(&[1; 8192]).bytes();
    let mut pings = 0;
    while links.iter().any(|link| bench.drive.get(*link).expect("open").may_receive()) {
        for link in links {
            bench.drive.feed(link, &ping);
        }
        pings += 1;
        assert!(pings < 8 << 20 >> 12, "together they hold more than there may be");
    }
    let held: usize = links.map(|link| bench.drive.get(link).expect("open").memory_bytes()).iter().sum();
    assert!(held <= 7 << 20, "{held} bytes");
    for link in links {
        bench.drive.drain(link);
        assert!(bench.drive.get(link).expect("open").may_receive(), "it has read them");
        assert!(is_alive(&mut bench, link));
    }
}
