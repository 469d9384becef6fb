//! Before the full-feature phase: logins that break a rule, and what is no login.

use crate::class::{Class, Told};
use crate::wire::{Pdu, TARGET};

const INITIATOR_ERROR: &[Told] = &[Told::Login(0x0200)];
const NAME: &str = "InitiatorName=iqn.2026-01.example:evil\0";

/// A login request with these flags: 0x80 goes on, 0x40 more text follows, then the stages.
fn request(flags: u8, text: &str) -> Pdu {
    Pdu::new(0x43, flags).word(24, 1).data(text.as_bytes())
}

/// One that would get in, with this text besides.
fn whole(text: &str) -> Pdu {
    request(0x87, &format!("{NAME}TargetName={TARGET}\0{text}"))
}

pub(crate) const CLASSES: &[Class] = &[
    Class::before_login("the first PDU is no login", "4.2.3", &[], |peer, random| {
        let opcode = random.one_of(&[0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1c, 0x3f]);
        peer.send(&Pdu::new(opcode | random.one_of(&[0, 0x40]), 0x80).tag(random.next() as u32));
    }),
    Class::before_login("a version that is none", "11.12.4", &[Told::Login(0x0205)], |peer, random| {
        peer.send(&whole("").byte(3, random.between(1, 255) as u8));
    }),
    Class::before_login("no initiator name", "6.3.1", &[Told::Login(0x0207)], |peer, _| {
        peer.send(&request(0x87, &format!("TargetName={TARGET}\0")));
    }),
    Class::before_login("no target name", "6.3.1", &[Told::Login(0x0207)], |peer, _| {
        peer.send(&request(0x87, NAME));
    }),
    Class::before_login("a target that is not there", "11.13.5", &[Told::Login(0x0203)], |peer, random| {
        let text = format!("{NAME}TargetName={TARGET}{}\0", random.next());
        peer.send(&request(0x87, &text));
    }),
    Class::before_login("goes on although more text follows", "11.12.2", INITIATOR_ERROR, |peer, _| {
        peer.send(&request(0xc7, NAME));
    }),
    Class::before_login("a stage that is none", "11.12.3", INITIATOR_ERROR, |peer, random| {
        peer.send(&request(random.one_of(&[0x08, 0x0c, 0x8b, 0x8f]), NAME));
    }),
    Class::before_login("goes back a stage", "11.12.3", INITIATOR_ERROR, |peer, random| {
        peer.send(&request(random.one_of(&[0x84, 0x85, 0x80]), NAME));
    }),
    Class::before_login("goes on to a stage that is none", "11.12.3", INITIATOR_ERROR, |peer, random| {
        peer.send(&request(random.one_of(&[0x82, 0x86]), NAME));
    }),
    Class::before_login("a key twice", "6.2", INITIATOR_ERROR, |peer, random| {
        let key = random.one_of(&["InitiatorName=iqn.2026-01.example:other", "HeaderDigest=None", "X=1"]);
        peer.send(&whole(&format!("{key}\0{key}\0")));
    }),
    Class::before_login("a key that is too long", "6.1", INITIATOR_ERROR, |peer, random| {
        peer.send(&whole(&format!("{}=1\0", "K".repeat(random.between(64, 7000) as usize))));
    }),
    Class::before_login("text that is no pair", "6.1", INITIATOR_ERROR, |peer, random| {
        peer.send(&whole(random.one_of(&["HeaderDigest\0", "=None\0", "\u{1}\0"])));
    }),
    Class::before_login("text that is no text", "6.1", INITIATOR_ERROR, |peer, random| {
        let mut text = [NAME.as_bytes(), b"X=\xff\xfe"].concat();
        text.extend(random.bytes(64));
        peer.send(&Pdu::new(0x43, 0x87).data(&text));
    }),
    Class::before_login("a name that is too long", "4.2.7.2", INITIATOR_ERROR, |peer, random| {
        let name = "i".repeat(random.between(224, 7000) as usize);
        peer.send(&request(0x87, &format!("InitiatorName={name}\0TargetName={TARGET}\0")));
    }),
    Class::before_login("keys that nobody knows, without end", "6.2", INITIATOR_ERROR, |peer, random| {
        let first = random.next() >> 16;
        let keys: String = (first..first + 33).map(|n| format!("X-{n}=1\0")).collect();
        peer.send(&whole(&keys));
    }),
    Class::before_login("requests without end", "6.1", INITIATOR_ERROR, |peer, _| {
        for _ in 0..65 {
            peer.send(&request(0x40, ""));
        }
        for _ in 0..64 {
            assert!(peer.receive().is_some_and(|answer| answer.word(36) == 0));
        }
    }),
    Class::before_login("text without end", "6.1", &[], |peer, random| {
        for _ in 0..2 {
            peer.send(&request(0x40, &"x".repeat(4096)));
            assert!(peer.receive().is_some_and(|answer| answer.word(36) == 0));
        }
        peer.send(&request(0x40, &"x".repeat(random.between(1, 4096) as usize)));
    }),
    Class::before_login("a login with header segments", "11.2.2", &[], |peer, random| {
        let words = random.between(1, 255);
        peer.send(&whole("").segments(&random.bytes(words * 4)));
    }),
    Class::before_login("a login longer than any may be", "13.12", &[], |peer, random| {
        peer.send(&request(0x87, "").claim(random.between(8193, 0xff_ffff)));
    }),
    Class::before_login("another session half way", "11.12.6", INITIATOR_ERROR, |peer, random| {
        peer.send(&request(0x40, NAME));
        assert!(peer.receive().is_some_and(|answer| answer.word(36) == 0));
        let at = random.one_of(&[8, 13, 15]);
        peer.send(&request(0x87, "").byte(at, random.between(1, 255) as u8));
    }),
    Class::before_login("another stage half way", "11.12.3", INITIATOR_ERROR, |peer, _| {
        peer.send(&request(0x44, NAME));
        assert!(peer.receive().is_some_and(|answer| answer.word(36) == 0));
        peer.send(&request(0x81, ""));
    }),
    Class::before_login("a session type that is none", "13.21", &[Told::Login(0x0209)], |peer, random| {
        peer.send(&whole(random.one_of(&["SessionType=\0", "SessionType=normal\0", "SessionType=Boot\0"])));
    }),
    Class::before_login(
        "joins a session that is not there",
        "11.13.5",
        &[Told::Login(0x020a)],
        |peer, random| {
            peer.send(&whole("").byte(13, 0xee).byte(14, random.between(1, 255) as u8));
        },
    ),
    Class::before_login(
        "a way to prove itself that is not offered",
        "12.1",
        &[Told::Login(0x0201)],
        |peer, random| {
            peer.send(&whole(random.one_of(&[
                "AuthMethod=KRB5\0",
                "AuthMethod=SRP,CHAP\0",
                "AuthMethod=\0",
            ])));
        },
    ),
    Class::before_login("a proof that nobody asked for", "12.1.3", &[Told::Login(0x0201)], |peer, random| {
        peer.send(&whole(&format!("CHAP_N=x\0CHAP_R=0x{:016x}\0", random.next())));
    }),
    Class::before_login("half a login", "7.7", &[], |peer, random| {
        peer.send_part(&whole(""), random.between(1, 100) as usize);
    }),
];
