//! Classes of holes that other targets had, by their names, over real sockets. Each test tries what worked there.

#[path = "common/chap.rs"]
mod chap;
#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use chap::{Login, hex, response, unhex};
use initiator::{Initiator, TARGET};
use twinsan_iscsi::chap::{Chap, Credentials, Secret};
use twinsan_iscsi::{Access, Host, Mapping, RefusalReason, Server, TargetConfig};

/// The host with CHAP, and the one without.
const PROVED: &str = "iqn.2026-01.example:proved";
const OPEN: &str = "iqn.2026-01.example:open";
const SECRET: &str = "the host's secret";

fn serve(change: impl FnOnce(&mut TargetConfig)) -> (Server, SocketAddr) {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    change(&mut config);
    let credentials = |name: &str, secret: &str| Credentials {
        name: name.to_owned(),
        secret: Secret::new(secret).expect("long enough"),
    };
    let target = Some(credentials("san", "the target's secret"));
    let chap = Some(Chap { host: credentials("esx1", SECRET), target });
    let hosts = vec![Host { chap, ..Host::new("proved", &[PROVED]) }, Host::new("open", &[OPEN])];
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let mappings = vec![Mapping::new("proved", 0, Arc::clone(&volume) as _), Mapping::new("open", 0, volume)];
    let server = Server::start(config, Access { hosts, mappings }).expect("a free port");
    let portal = server.local_addrs()[0];
    (server, portal)
}

fn to_target() -> String {
    format!("TargetName={TARGET}")
}

/// A session that means well still works.
fn still_serves(portal: SocketAddr) {
    let mut honest = Initiator::login(portal, OPEN);
    assert_eq!(honest.write(64, &[0x5a; 512]), 0);
    assert_eq!(honest.read(64, 1), [0x5a; 512]);
}

/// What comes until the target closes.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        // A reset is a close as well.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("it stays open: {error}"),
        _ => all,
    }
}

/// LIO, tgt and others: a length from the wire was used before it was checked.
#[test]
fn a_length_from_the_wire_is_checked_before_it_is_used() {
    let (server, portal) = serve(|_| ());
    for opcode in [0x43, 0x03, 0x01, 0x05, 0x04, 0x00] {
        for (length, ahs) in [([0xff; 3], 0), ([0, 0x20, 1], 0), ([0, 0, 0], 0xff), ([0xff; 3], 0xff)] {
            for logged_in in [false, true] {
                let mut stream = match logged_in {
                    true => Initiator::login(portal, OPEN).stream,
                    false => TcpStream::connect(portal).expect("the portal listens"),
                };
                let mut head = [0; 48];
                head[0] = opcode;
                head[1] = 0x80;
                head[4] = ahs;
                head[5..8].copy_from_slice(&length);
                stream.write_all(&head).expect("connected");
                stream.shutdown(std::net::Shutdown::Write).expect("connected");
                assert!(rest(&mut stream).len() < 4096, "{opcode:#x} {length:?} {ahs}");
            }
        }
    }
    // Lengths inside commands: what is asked for is not what is there.
    let mut initiator = Initiator::login(portal, OPEN);
    let longest = [0xa0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(initiator.command(0xc0, 64, &longest, &[]).1.len(), 16);
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
    // A list that is shorter than it says has no whole descriptor: nothing to do.
    assert_eq!(initiator.command(0xa0, 8, &unmap, &[0xff; 8]).0, 0);
    let write = [0x8a, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(initiator.command(0xa0, 512, &write, &[1; 512]).0, 2);
    still_serves(portal);
    server.stop();
}

/// LIO, CVE-2013-2850: a reply was built from the attacker's text, in a fixed buffer.
#[test]
fn a_reply_is_not_built_from_the_attackers_text() {
    let (server, portal) = serve(|_| ());
    let answer = |text: &str| {
        let mut login = Login::connect(portal);
        login.ask(0x00, &format!("InitiatorName={OPEN}\n{}\n{text}\n", to_target()))
    };
    let longest = "X".repeat(63);
    let found = answer(&format!("{longest}={}", "y".repeat(4000)));
    assert_eq!((found.status, found.value(&longest)), (0, "NotUnderstood"), "the value is not echoed");
    for key in ["X".repeat(64), "X".repeat(1000), "X".repeat(7000)] {
        assert_eq!(answer(&format!("{key}=1")).status, 0x0200);
        assert_eq!(answer(&key).status, 0x0200);
    }
    let many: String = (0..500).map(|n| format!("X{n}=1\n")).collect();
    assert_eq!(answer(&many).status, 0x0200);
    let passing: String = (0..500).map(|n| format!("X{n}=Reject\n")).collect();
    assert_eq!(answer(&passing).status, 0x0200);
    let long_name = format!("InitiatorName={}\n{}\n", "i".repeat(224), to_target());
    assert_eq!(Login::connect(portal).ask(0, &long_name).status, 0x0200);
    still_serves(portal);
    server.stop();
}

/// LIO, CVE-2018-14633: a CHAP response was decoded into a fixed buffer before its length was known.
#[test]
fn a_chap_response_of_any_length_is_refused_before_it_is_decoded() {
    let (server, portal) = serve(|_| ());
    for digits in [0, 1, 2, 62, 63, 65, 66, 128, 2048, 7000] {
        for prefix in ["0x", "0b", "0X", ""] {
            let mut login = Login::connect(portal);
            login.challenge(PROVED, &to_target());
            let text = format!("CHAP_N=esx1\nCHAP_R={prefix}{}\n", "f".repeat(digits));
            // From the fourth failure on it is not even looked at.
            assert!(matches!(login.ask(0x83, &text).status, 0x0201 | 0x0301), "{prefix} {digits}");
        }
    }
    still_serves(portal);
    server.stop();
    let (server, portal) = serve(|_| ());
    let mut login = Login::connect(portal);
    let challenge = login.challenge(PROVED, &to_target());
    let response = response(&challenge, SECRET);
    let text = format!("CHAP_N=esx1\nCHAP_R={response}\nCHAP_I=1\nCHAP_C={}\n", hex(&[7; 1025]));
    assert_eq!(login.ask(0x83, &text).status, 0x0201, "nor a challenge");
    server.stop();
}

/// tgt, CVE-2024-45751: challenges came from a generator that was never seeded.
#[test]
fn challenges_cannot_be_foreseen() {
    const DRAWN: usize = 256;
    let draw = || {
        let (server, portal) = serve(|_| ());
        let drawn: Vec<(Vec<u8>, String)> = (0..DRAWN / 2)
            .map(|_| {
                let answer = Login::connect(portal).challenge(PROVED, &to_target());
                (unhex(answer.value("CHAP_C")), answer.value("CHAP_I").to_owned())
            })
            .collect();
        server.stop();
        drawn
    };
    // The second server begins as the first did, and must not go on as it did.
    let drawn: Vec<_> = draw().into_iter().chain(draw()).collect();
    assert_eq!(drawn.iter().map(|(challenge, _)| challenge).collect::<BTreeSet<_>>().len(), DRAWN);
    assert!(
        drawn.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len() > DRAWN / 3,
        "identifiers vary too"
    );
    assert!(drawn.iter().all(|(challenge, _)| challenge.len() >= 16));
    for bit in 0..drawn[0].0.len() * 8 {
        let ones = drawn.iter().filter(|(challenge, _)| challenge[bit / 8] >> (bit % 8) & 1 == 1).count();
        // Seven standard deviations of 256 throws.
        assert!(ones.abs_diff(DRAWN / 2) < 56, "bit {bit} was set {ones} times");
    }
}

/// SPDK, CVE-2021-28361: a PDU without data where some was taken for granted.
#[test]
fn a_pdu_without_data_is_no_surprise() {
    let (server, portal) = serve(|_| ());
    for flags in [0x00, 0x40, 0x80, 0x81, 0x87] {
        let mut stream = TcpStream::connect(portal).expect("the portal listens");
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x43, flags]);
        stream.write_all(&head).expect("connected");
        stream.shutdown(std::net::Shutdown::Write).expect("connected");
        rest(&mut stream);
    }
    for opcode in [0x40, 0x42, 0x44, 0x05, 0x46, 0x43] {
        for tag in [0u32, 7, u32::MAX] {
            let mut initiator = Initiator::login(portal, OPEN);
            let mut head = [0; 48];
            head[..2].copy_from_slice(&[opcode, 0x80]);
            head[16..24].copy_from_slice(&[tag.to_be_bytes(), tag.to_be_bytes()].concat());
            initiator.send(head, &[]);
            initiator.stream.shutdown(std::net::Shutdown::Write).expect("connected");
            rest(&mut initiator.stream);
        }
    }
    // Commands that take data and are sent without any.
    for cdb in [
        &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0][..],
        &[0x2e, 0x02, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x2f, 0x02, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        &[0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        for flags in [0x80, 0xa0] {
            let mut initiator = Initiator::login(portal, OPEN);
            let (status, data) = initiator.command(flags, 0, cdb, &[]);
            assert!(matches!(status, 0 | 2) && data.is_empty(), "{cdb:02x?}");
        }
    }
    still_serves(portal);
    server.stop();
}

/// SPDK: discovery sessions were not authenticated.
#[test]
fn discovery_is_authenticated() {
    let (server, portal) = serve(|_| ());
    let discovery = "SessionType=Discovery";
    for text in ["", "AuthMethod=None\n"] {
        for flags in [0x83, 0x87] {
            let mut login = Login::connect(portal);
            let answer = login.ask(flags, &format!("InitiatorName={PROVED}\n{discovery}\n{text}"));
            assert!(answer.status == 0x0201 || answer.flags & 0x80 == 0, "{answer:?}");
        }
    }
    assert_eq!(Login::connect(portal).prove(PROVED, discovery, "esx1", "another secret").status, 0x0201);
    let stranger = "iqn.2026-01.example:stranger";
    assert_eq!(Login::connect(portal).prove(stranger, discovery, "esx1", SECRET).status, 0x0201);
    let mut login = Login::connect(portal);
    assert_eq!(login.prove(PROVED, discovery, "esx1", SECRET).status, 0);
    let mut head = [0; 48];
    head[..2].copy_from_slice(&[0x44, 0x80]);
    head[20..24].fill(0xff);
    login.initiator.send(head, b"SendTargets=All\0");
    assert!(String::from_utf8_lossy(&login.initiator.receive().1).contains(TARGET));
    server.stop();
}

/// LIO, CVE-2022-21546: WRITE SAME without the block that is to be repeated.
#[test]
fn write_same_without_its_block_writes_nothing() {
    let (server, portal) = serve(|_| ());
    let mut initiator = Initiator::login(portal, OPEN);
    assert_eq!(initiator.write(0, &[0x11; 4096]), 0);
    let ten = [0x41, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    let sixteen = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    for cdb in [&ten[..], &sixteen[..]] {
        for (flags, data) in [(0x80, 0), (0xa0, 0), (0xa0, 1), (0xa0, 511), (0xa0, 513)] {
            assert_eq!(initiator.command(flags, data, cdb, &vec![0x22; data]).0, 2, "{data} bytes");
        }
    }
    assert_eq!(initiator.read(0, 8), [0x11; 4096]);
    // Without a block is lawful where the command says so, and then it is zeros.
    let mut none = sixteen;
    none[1] = 0x01;
    assert_eq!(initiator.command(0x80, 0, &none, &[]).0, 0);
    assert_eq!(initiator.read(0, 8), [0; 4096]);
    server.stop();
}

/// FreeBSD, CVE-2024-8178: memory that was never written was sent.
#[test]
fn no_reply_has_bytes_of_an_earlier_one() {
    const MARK: u8 = 0xb7;
    let (server, portal) = serve(|_| ());
    let mut initiator = Initiator::login(portal, OPEN);
    // Pages and buffers that go round carry the mark now.
    for round in 0..64 {
        assert_eq!(initiator.write(round * 8, &[MARK; 4096]), 0);
    }
    let clear = [0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(initiator.command(0x80, 0, &clear, &[]).0, 0);
    let clean = |reply: &[u8]| assert!(!reply.contains(&MARK), "{reply:02x?}");
    // A write of one sector into a fresh page, and the page read whole.
    assert_eq!(initiator.write(1001, &[1; 512]), 0);
    clean(&initiator.read(1000, 8));
    clean(&initiator.read(0, 128));
    let commands: [&[u8]; 12] = [
        &[0x12, 0, 0, 0xff, 0xff, 0],
        &[0x12, 1, 0x83, 0xff, 0xff, 0],
        &[0x12, 1, 0xb0, 0xff, 0xff, 0],
        &[0x03, 0, 0, 0, 0xff, 0],
        &[0x1a, 0, 0x3f, 0, 0xff, 0],
        &[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0xff, 0xff, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
    ];
    for cdb in commands {
        let (status, reply) = initiator.command(0xc0, 65_536, cdb, &[]);
        assert!(status == 0 && !reply.is_empty() && reply.len() < 65_535, "{cdb:02x?}");
        clean(&reply);
    }
    // An echo is as long as what was sent, and no longer.
    let mut head = [0; 48];
    head[..2].copy_from_slice(&[0x40, 0x80]);
    initiator.send(head, &[1; 3]);
    assert_eq!(initiator.receive().1, [1; 3]);
    server.stop();
}

/// LIO, CVE-2025-38075: a timer fired for a connection that was being closed.
#[test]
fn timers_and_closes_may_meet() {
    let (server, portal) = serve(|config| {
        config.reactors = 2;
        config.login_time = Duration::from_millis(20);
        config.keep_alive_time = Duration::from_millis(10);
    });
    let mut state = 1u32;
    let mut open: Vec<TcpStream> = Vec::new();
    for number in 0..600 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut stream = TcpStream::connect(portal).expect("the portal listens");
        if number % 3 == 0 {
            // The whole login at once; the answer is not waited for.
            let text = format!("InitiatorName={OPEN}{number}\0{}\0", to_target());
            let mut pdu = [0; 48].to_vec();
            pdu[..2].copy_from_slice(&[0x43, 0x87]);
            pdu[7] = text.len() as u8;
            pdu.extend_from_slice(text.as_bytes());
            pdu.resize((pdu.len() + 3) & !3, 0);
            drop(stream.write_all(&pdu));
        }
        open.push(stream);
        // Some are closed at once, some as their time runs out, some long after.
        while open.len() > (state >> 28) as usize * 4 {
            open.swap_remove((state >> 8) as usize % open.len());
        }
    }
    drop(open);
    server.close_portals();
    assert_eq!(server.memory_bytes(), 0, "nothing is left of any of them");
    server.stop();
}

/// Ceph, CVE-2018-1128 and CVE-2020-25660: an answer to one challenge was taken for another.
#[test]
fn a_proof_cannot_be_replayed() {
    let (server, portal) = serve(|_| ());
    let mut login = Login::connect(portal);
    let challenge = login.challenge(PROVED, &to_target());
    let proof = format!("CHAP_N=esx1\nCHAP_R={}\n", response(&challenge, SECRET));
    assert_eq!(login.ask(0x83, &proof).status, 0);
    let mut again = Login::connect(portal);
    assert_ne!(again.challenge(PROVED, &to_target()).value("CHAP_C"), challenge.value("CHAP_C"));
    assert_eq!(again.ask(0x83, &proof).status, 0x0201);
    // Nor can this target be made to answer its own challenge for the attacker, on another connection.
    let (mut first, mut second) = (Login::connect(portal), Login::connect(portal));
    let asked = first.challenge(PROVED, &to_target());
    let own = second.challenge(PROVED, &to_target());
    let proof = format!("CHAP_N=esx1\nCHAP_R={}\n", response(&own, SECRET));
    let reflection = format!("{proof}CHAP_I={}\nCHAP_C={}\n", asked.value("CHAP_I"), asked.value("CHAP_C"));
    let answer = second.ask(0x83, &reflection);
    assert_eq!((answer.status, answer.pairs.len()), (0x0201, 0));
    server.stop();
}

/// Guesses are slowed down, and those who know the secret get in elsewhere.
#[test]
fn a_secret_cannot_be_guessed_fast() {
    let (server, portal) = serve(|_| ());
    let statuses: Vec<u16> = (0..40)
        .map(|n| {
            Login::connect(portal).prove(PROVED, &to_target(), "esx1", &format!("guess number {n}")).status
        })
        .collect();
    assert_eq!(statuses[..3], [0x0201; 3]);
    let judged = statuses.iter().filter(|status| **status == 0x0201).count();
    assert!(judged < 10 && statuses.iter().all(|status| matches!(status, 0x0201 | 0x0301)), "{statuses:x?}");
    still_serves(portal);
    server.stop();
}

/// The initiator learns a number, the operator who it was, from where, and what to do.
#[test]
fn the_operator_is_told_of_refused_logins() {
    let (told, refusals) = mpsc::channel();
    let (server, portal) = serve(|config| config.refused = Arc::new(move |login| drop(told.send(login))));
    let stranger = "iqn.2026-01.example:stranger\u{7}\r";
    let target = to_target();
    let ask = |flags, name: &str, more: &str| {
        Login::connect(portal).ask(flags, &format!("InitiatorName={name}\n{more}\n")).status
    };
    let next = || refusals.recv_timeout(Duration::from_secs(30)).expect("told");
    assert_eq!(Login::connect(portal).prove(stranger, &target, "esx1", SECRET).status, 0x0201);
    let first = next();
    assert_eq!((first.reason, first.untold), (RefusalReason::UnknownInitiator, 0));
    assert_eq!(first.initiator, "iqn.2026-01.example:stranger\\u{7}\\r");
    assert!(first.peer.ip().is_loopback() && first.to_string().contains(&first.peer.to_string()));
    assert_eq!(ask(0x87, PROVED, &target), 0x0201);
    let second = next();
    assert_eq!(
        (second.reason, &second.initiator[..], &second.target[..]),
        (RefusalReason::NotProved, PROVED, TARGET)
    );
    assert_eq!(ask(0x87, OPEN, "TargetName=iqn.2026-01.example:elsewhere"), 0x0203);
    assert_eq!(next().reason, RefusalReason::NoSuchTarget);
    // Very many in a row are a line in ten seconds, and the count with the next one.
    for _ in 0..50 {
        assert_eq!(ask(0x87, PROVED, &target), 0x0201);
    }
    assert_eq!(ask(0x8f, OPEN, &target), 0x0200);
    let mut counted = 0;
    loop {
        let told = next();
        counted += told.untold;
        if told.reason == RefusalReason::Malformed {
            break;
        }
        assert_eq!((told.reason, &told.initiator[..]), (RefusalReason::NotProved, PROVED));
        counted += 1;
    }
    assert_eq!(counted, 50, "each is told or counted");
    assert!(refusals.try_recv().is_err());
    server.stop();
}
