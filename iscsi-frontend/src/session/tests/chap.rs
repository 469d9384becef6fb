//! Logins that have to prove who they are, and those that only claim to.

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu, TARGET};
use crate::access::{Access, Host, Mapping};
use crate::chap::{Algorithm, Chap, Credentials, Secret};

const SECRET: &str = "the host's secret";
const STRANGER: &str = "iqn.2026-01.example:stranger";

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret).expect("long enough") }
}

/// Host one has CHAP both ways, host two has none.
fn hosts() -> Vec<Host> {
    let target = Some(credentials("san", "the target's secret"));
    let chap = Some(Chap { host: credentials("esx1", SECRET), target });
    vec![Host { chap, ..Host::new("one", &[HOST]) }, Host::new("two", &[OTHER])]
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    let volume = std::sync::Arc::clone(&bench.volume);
    let mappings = vec![Mapping::new("one", 0, volume.clone() as _), Mapping::new("two", 5, volume)];
    bench.set_access(hosts(), mappings);
    bench
}

fn status(answer: &Answer) -> u16 {
    u16::from_be_bytes([answer.head[36], answer.head[37]])
}

fn value(answer: &Answer, key: &str) -> String {
    let text = answer.text();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    found.unwrap_or_else(|| panic!("{key} in {text}"))
}

fn response(challenge: &Answer, secret: &str) -> String {
    let hex = value(challenge, "CHAP_C");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (2..hex.len()).step_by(2).map(byte).collect();
    let id = value(challenge, "CHAP_I").parse().expect("a number");
    let number: u32 = value(challenge, "CHAP_A").parse().expect("a number");
    let algorithm = Algorithm::ALL.into_iter().find(|a| a.number() == number).expect("known");
    let hash = algorithm.response(id, &Secret::new(secret).expect("long enough"), &bytes);
    hash.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

impl Bench {
    /// A login request; the link is gone if it was refused.
    fn request(&mut self, link: usize, flags: u8, text: &str) -> Answer {
        let pdu = Pdu::new(0x43, flags, 1)
            .byte(13, 1)
            .word(24, self.cmd_sn)
            .data(text.replace('\n', "\0").as_bytes());
        self.ask(link, &pdu).remove(0)
    }

    /// As far as the challenge.
    fn challenged(&mut self, name: &str, more: &str) -> (usize, Answer) {
        let link = self.drive.connect();
        let text = format!("InitiatorName={name}\n{more}\nAuthMethod=CHAP,None\n");
        let found = self.request(link, 0x81, &text);
        assert_eq!((status(&found), found.head[1]), (0, 0), "no transit yet");
        assert_eq!(value(&found, "AuthMethod"), "CHAP");
        let found = self.request(link, 0x00, "CHAP_A=5,7\n");
        assert_eq!(value(&found, "CHAP_A"), "7");
        (link, found)
    }

    /// The status of a login that gets as far as its proof.
    fn proved(&mut self, name: &str, more: &str, user: &str, secret: &str) -> (usize, Answer) {
        let (link, challenge) = self.challenged(name, more);
        let text = format!("CHAP_N={user}\nCHAP_R={}\n", response(&challenge, secret));
        (link, self.request(link, 0x83, &text))
    }
}

fn target() -> String {
    format!("TargetName={TARGET}")
}

#[test]
fn a_host_with_chap_gets_in_by_proving_who_it_is() {
    let mut bench = bench();
    let (link, found) = bench.proved(HOST, &target(), "esx1", SECRET);
    assert_eq!((status(&found), found.head[1]), (0, 0x83));
    assert_eq!(bench.read(link, 3, 0, 1)[0].data, [0; 512]);
    bench.cmd_sn = 1;
    let (other, found) = bench.login(OTHER, 1, "AuthMethod=None\0");
    assert_eq!(status(&found[0]), 0, "the other host needs no proof");
    assert!(bench.drive.get(other).is_some());
}

#[test]
fn the_target_proves_who_it_is_too() {
    let mut bench = bench();
    let (link, challenge) = bench.challenged(HOST, &target());
    let response_text = response(&challenge, SECRET);
    let text = format!("CHAP_N=esx1\nCHAP_R={response_text}\nCHAP_I=9\nCHAP_C=0x0badcafe\n");
    let found = bench.request(link, 0x81, &text);
    assert_eq!((status(&found), found.head[1]), (0, 0x81));
    let own = Secret::new("the target's secret").expect("long enough");
    let expected = Algorithm::Sha256.response(9, &own, &[0x0b, 0xad, 0xca, 0xfe]);
    let expected = expected.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!((value(&found, "CHAP_N"), value(&found, "CHAP_R")), ("san".to_owned(), expected));
    let found = bench.request(link, 0x87, "InitialR2T=No\n");
    assert_eq!((status(&found), found.head[1]), (0, 0x87));
}

#[test]
fn nobody_gets_around_the_proof() {
    for (flags, text) in [
        (0x87, ""),
        (0x87, "AuthMethod=None\n"),
        (0x81, "AuthMethod=None\n"),
        (0x81, "AuthMethod=KRB5\n"),
        (0x81, "CHAP_A=5\n"),
        (0x81, "CHAP_N=esx1\nCHAP_R=0x00\n"),
    ] {
        let mut bench = bench();
        let link = bench.drive.connect();
        let text = format!("InitiatorName={HOST}\n{}\n{text}", target());
        let found = bench.request(link, flags, &text);
        // In the security stage the initiator may still agree; nowhere does it get on.
        let refused = status(&found) == 0x0201 && bench.drive.get(link).is_none();
        let waits = flags == 0x81 && text.ends_with("san\n") && found.head[1] == 0;
        assert!(refused || waits, "{flags:#x} {text}: {:#x}", status(&found));
    }
    // Asked for transit, with the proof still to come: it stays in the stage, for ever if need be.
    let mut bench = bench();
    let link = bench.drive.connect();
    let found = bench.request(link, 0x81, &format!("InitiatorName={HOST}\n{}\n", target()));
    assert_eq!((status(&found), found.head[1]), (0, 0));
    let found = bench.request(link, 0x83, "");
    assert_eq!((status(&found), found.head[1]), (0, 0));
    let mut rounds = 0;
    while bench.drive.get(link).is_some() {
        bench.request(link, 0x81, "");
        rounds += 1;
    }
    assert!(rounds <= 64, "a login has an end");
    // Straight into the operational stage.
    let link = bench.drive.connect();
    let found = bench.request(link, 0x87 | 0x04, &format!("InitiatorName={HOST}\n{}\n", target()));
    assert_eq!(status(&found), 0x0201);
}

#[test]
fn unknown_names_wrong_names_and_wrong_secrets_look_the_same() {
    let cases = [(STRANGER, "esx1", SECRET), (HOST, "esx2", SECRET), (HOST, "esx1", "another secret")];
    let mut transcripts = Vec::new();
    for (initiator, user, secret) in cases {
        let mut bench = bench();
        let (link, found) = bench.proved(initiator, &target(), user, secret);
        assert!(bench.drive.get(link).is_none());
        transcripts.push((status(&found), found.text(), found.head));
    }
    assert_eq!(transcripts[0].0, 0x0201);
    assert!(transcripts.iter().all(|transcript| *transcript == transcripts[0]));
}

#[test]
fn a_target_name_is_judged_only_after_the_proof() {
    let mut bench = bench();
    let other = "TargetName=iqn.2026-01.example:other";
    assert_eq!(status(&bench.proved(HOST, other, "esx1", "another secret").1), 0x0201);
    assert_eq!(status(&bench.proved(HOST, other, "esx1", SECRET).1), 0x0203);
}

#[test]
fn discovery_asks_for_the_same_proof() {
    let mut bench = bench();
    for (initiator, secret, sees) in
        [(HOST, SECRET, true), (HOST, "another secret", false), (STRANGER, SECRET, false)]
    {
        let (link, found) = bench.proved(initiator, "SessionType=Discovery", "esx1", secret);
        if !sees {
            assert_eq!(status(&found), 0x0201);
            continue;
        }
        let pdu = Pdu::new(0x44, 0x80, 2).word(20, u32::MAX).word(24, 1).data(b"SendTargets=All\0");
        assert!(bench.ask(link, &pdu)[0].text().contains(TARGET));
    }
    for auth in ["", "AuthMethod=None\n"] {
        let link = bench.drive.connect();
        let text = format!("InitiatorName={HOST}\nSessionType=Discovery\n{auth}");
        bench.request(link, 0x83, &text);
        let discovering = bench.drive.get(link).is_some_and(|connection| !connection.is_logging_in());
        assert!(!discovering, "{auth}");
    }
}

#[test]
fn guessing_is_slowed_down_until_the_clock_says_otherwise() {
    let mut bench = bench();
    for _ in 0..3 {
        assert_eq!(status(&bench.proved(HOST, &target(), "esx1", "another secret").1), 0x0201);
    }
    for secret in ["another secret", SECRET] {
        assert_eq!(status(&bench.proved(HOST, &target(), "esx1", secret).1), 0x0301, "not even looked at");
    }
    bench.drive.target().tick(std::time::Duration::from_millis(1001));
    assert_eq!(status(&bench.proved(HOST, &target(), "esx1", SECRET).1), 0);
}

#[test]
fn a_secret_that_serves_both_ways_is_refused() {
    let shown =
        Chap { host: credentials("esx2", "its own secret"), target: Some(credentials("san", SECRET)) };
    let mut hosts = hosts();
    hosts[1].chap = Some(shown);
    let bench = Bench::new();
    let access = Access { hosts, mappings: Vec::new() };
    let error = bench.drive.target().set_access(access).expect_err("refused").to_string();
    assert!(error.contains("give the target another") && !error.contains(SECRET), "{error}");
}

#[test]
fn a_session_from_before_its_host_had_chap_has_to_come_again() {
    let mut bench = Bench::new();
    let session = bench.session();
    let discovery = bench.drive.connect();
    bench.request(discovery, 0x87, &format!("InitiatorName={HOST}\nSessionType=Discovery\n"));
    let volume = std::sync::Arc::clone(&bench.volume);
    bench.set_access(
        hosts(),
        vec![Mapping::new("one", 0, volume.clone() as _), Mapping::new("one", 300, volume)],
    );
    let told = super::super::bench::answers(&bench.drive.drain(session));
    assert_eq!((told[0].opcode(), told[0].head[36]), (0x32, 2));
    assert!(bench.drive.get(session).is_none());
    let pdu = Pdu::new(0x44, 0x80, 2).word(20, u32::MAX).word(24, 1).data(b"SendTargets=All\0");
    assert_eq!(bench.ask(discovery, &pdu)[0].text(), "", "nor does discovery tell it anything");
    assert_eq!(status(&bench.proved(HOST, &target(), "esx1", SECRET).1), 0);
}
