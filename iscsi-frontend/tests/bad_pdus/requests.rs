//! In the full-feature phase: framing, digests, numbers, and requests other than data.

use crate::class::After::{Ends, GoesOn, IsAnything, IsLeft};
use crate::class::{Class, DIGESTS, DISCOVERY, SHORT, Start, Told};
use crate::random::Random;
use crate::wire::{NO_TAG, Pdu, Peer};

const NOTHING: &[Told] = &[];
const DATA_DIGEST: &[Told] = &[Told::Reject(0x02)];
const PROTOCOL: &[Told] = &[Told::Reject(0x04)];
const UNSUPPORTED: &[Told] = &[Told::Reject(0x05)];
const INVALID_FIELD: &[Told] = &[Told::Reject(0x09)];
const READY: [u8; 6] = [0; 6];

/// An immediate request that has no data.
fn request(peer: &mut Peer, opcode: u8, flags: u8) -> Pdu {
    Pdu::new(opcode | 0x40, flags).tag(peer.fresh_tag()).word(20, NO_TAG)
}

/// A CmdSN from `low` to `high` away from the next one.
fn number(peer: &Peer, random: &mut Random, low: u32, high: u32) -> u32 {
    peer.cmd_sn.wrapping_add(random.between(low, high))
}

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        "a login in the full-feature phase",
        "6.3",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x03, random.one_of(&[0x87, 0x81, 0x40]));
            peer.send(&pdu.data(b"InitiatorName=iqn.2026-01.example:evil\0"));
        },
        PROTOCOL,
        GoesOn,
    ),
    Class::new(
        "an opcode that is none",
        "11.17.1",
        SHORT,
        |peer, random| {
            let opcode = random.one_of(&[0x07, 0x0f, 0x11, 0x1b, 0x1c, 0x1e, 0x1f, 0x2a]);
            let (pdu, bytes) = (request(peer, opcode, random.next() as u8), random.below(512));
            peer.send(&pdu.data(&random.bytes(bytes)));
        },
        UNSUPPORTED,
        GoesOn,
    ),
    Class::new(
        "an opcode of targets",
        "11.2.1.2",
        SHORT,
        |peer, random| {
            let opcode = random.one_of(&[0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f]);
            let pdu = request(peer, opcode, 0x80);
            peer.send(&pdu);
        },
        UNSUPPORTED,
        GoesOn,
    ),
    Class::new(
        "a request for what was never lost",
        "11.16",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x10, 0x80 | random.below(4) as u8);
            peer.send(&pdu.word(40, random.next() as u32));
        },
        UNSUPPORTED,
        GoesOn,
    ),
    Class::new(
        "more data than a segment may have",
        "13.12",
        SHORT,
        |peer, random| {
            let opcode = random.one_of(&[0x00, 0x01, 0x04, 0x05, 0x06, 0x1f]);
            let pdu = request(peer, opcode, 0x80).claim(random.between((256 << 10) + 1, 0xff_ffff));
            peer.send(&pdu);
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "more text than a request may have",
        "11.10",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x04, 0x80).claim(random.between(8193, 256 << 10));
            peer.send(&pdu);
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "header segments beyond their place",
        "11.2.2",
        SHORT,
        |peer, random| {
            let [high, low] = (random.between(6, 65_535) as u16).to_be_bytes();
            let pdu = peer.command(0x80, 0, &READY);
            peer.send(&pdu.segments(&[high, low, random.between(1, 2) as u8, 0, 0, 0, 0, 0]));
        },
        INVALID_FIELD,
        Ends,
    ),
    Class::new(
        "a header digest that is wrong",
        "7.8",
        DIGESTS,
        |peer, random| {
            let opcode = random.one_of(&[0x00, 0x01, 0x02, 0x04, 0x05, 0x06]);
            let pdu = request(peer, opcode, 0x80);
            peer.send(&pdu.spoil_header_digest());
        },
        NOTHING,
        Ends,
    ),
    Class::new(
        "a data digest that is wrong, of a request",
        "7.8",
        DIGESTS,
        |peer, random| {
            let opcode = random.one_of(&[0x00, 0x04]);
            let (pdu, bytes) = (request(peer, opcode, 0x80), random.between(1, 512));
            peer.send(&pdu.data(&random.bytes(bytes)).spoil_data_digest());
        },
        DATA_DIGEST,
        GoesOn,
    ),
    Class::new(
        "a data digest that is wrong, of a command",
        "7.8",
        DIGESTS,
        |peer, random| {
            let pdu = peer.write(random, 0xa0, 1);
            peer.send(&pdu.data(&[1; 512]).spoil_data_digest());
        },
        &[Told::Reject(0x02), Told::Sense(0x0b, 0x47, 0x05)],
        GoesOn,
    ),
    Class::new(
        "a command beyond the window",
        "4.2.2.1",
        SHORT,
        |peer, random| {
            let number = number(peer, random, 128, 0x7fff_fffe);
            peer.send(&Pdu::new(0x01, 0x80).tag(7).word(24, number));
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "a command from before the window",
        "4.2.2.1",
        SHORT,
        |peer, random| {
            let number = number(peer, random, 0x8000_0000, u32::MAX);
            peer.send(&Pdu::new(0x01, 0x80).tag(7).word(24, number));
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "a request beyond the window",
        "4.2.2.1",
        SHORT,
        |peer, random| {
            let opcode = random.one_of(&[0x00, 0x02, 0x04, 0x06]);
            let number = number(peer, random, 128, u32::MAX - 1);
            peer.send(&Pdu::new(opcode, 0x80).tag(7).word(20, NO_TAG).word(24, number));
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "a command with the tag that is none",
        "11.2.1.8",
        SHORT,
        |peer, _| {
            let pdu = peer.command(0x80, 0, &READY);
            peer.send(&pdu.tag(NO_TAG));
        },
        INVALID_FIELD,
        GoesOn,
    ),
    Class::new(
        "a command with a tag in use",
        "11.2.1.8",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            let pdu = peer.command(0x80, 0, &READY);
            peer.send(&pdu.tag(asked.itt));
        },
        &[Told::Reject(0x07)],
        IsLeft,
    ),
    Class::new(
        "immediate commands without end",
        "4.2.2.1",
        SHORT,
        |peer, random| {
            for round in 0..17 {
                let pdu = peer.write(random, 0xa0, 1).byte(0, 0x41);
                peer.cmd_sn -= 1;
                peer.send(&pdu);
                if round < 16 {
                    peer.read_request();
                }
            }
        },
        &[Told::Reject(0x06)],
        IsLeft,
    ),
    Class::new(
        "a function that is none",
        "11.6.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x02, 0x80 | random.between(9, 127) as u8);
            peer.send(&pdu);
        },
        &[Told::Response(0x22, 5)],
        GoesOn,
    ),
    Class::new(
        "a task given to another connection",
        "11.6.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x02, 0x88);
            peer.send(&pdu.word(20, random.next() as u32));
        },
        &[Told::Response(0x22, 4)],
        GoesOn,
    ),
    Class::new(
        "the end of a task that is not there",
        "11.6.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x02, 0x81);
            peer.send(&pdu.word(20, random.next() as u32 | 1 << 31));
        },
        &[Told::Response(0x22, 1)],
        GoesOn,
    ),
    Class::new(
        "a reset of a unit that is not there",
        "11.6.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x02, random.one_of(&[0x82, 0x84, 0x85]));
            peer.send(&pdu.byte(8, random.next() as u8).byte(9, random.between(1, 255) as u8));
        },
        &[Told::Response(0x22, 2)],
        GoesOn,
    ),
    Class::new(
        "a text that is no text",
        "6.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x04, 0x80);
            peer.send(&pdu.data(random.one_of(&[&b"SendTargets"[..], b"=All\0", b"\xff=1\0"])));
        },
        INVALID_FIELD,
        GoesOn,
    ),
    Class::new(
        "a text continued without end",
        "6.2",
        SHORT,
        |peer, random| {
            let mut tag = NO_TAG;
            let piece = [b'x'; 4096];
            for _ in 0..2 {
                let pdu = request(peer, 0x04, 0x40).word(20, tag).data(&piece);
                peer.send(&pdu);
                let answer = peer.receive().expect("more is waited for");
                assert_eq!((answer.head[0], answer.head[1]), (0x24, 0));
                tag = answer.word(20);
            }
            let pdu = request(peer, 0x04, random.one_of(&[0x40, 0x80, 0x00])).word(20, tag);
            peer.send(&pdu.data(&piece[..random.between(1, 4096) as usize]));
        },
        INVALID_FIELD,
        GoesOn,
    ),
    Class::new(
        "a text that goes on with nothing",
        "11.10.4",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x04, 0x80).word(20, random.below(u32::MAX));
            peer.send(&pdu.data(b"SendTargets=\0"));
        },
        INVALID_FIELD,
        GoesOn,
    ),
    Class::new(
        "a text that ends and goes on",
        "11.10.2",
        SHORT,
        |peer, _| {
            let pdu = request(peer, 0x04, 0xc0);
            peer.send(&pdu.data(b"SendTargets=\0"));
        },
        INVALID_FIELD,
        GoesOn,
    ),
    Class::new(
        "a logout of another connection",
        "11.15.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x06, 0x81);
            peer.send(&pdu.word(20, random.next() as u32 | 1 << 16));
        },
        &[Told::Response(0x26, 1)],
        GoesOn,
    ),
    Class::new(
        "a logout to recover what cannot be",
        "11.15.1",
        SHORT,
        |peer, random| {
            let pdu = request(peer, 0x06, 0x80 | random.between(2, 127) as u8);
            peer.send(&pdu);
        },
        &[Told::Response(0x26, 2)],
        GoesOn,
    ),
    Class::new(
        "a command in a discovery session",
        "4.3",
        DISCOVERY,
        |peer, random| {
            let pdu = match random.below(3) {
                0 => request(peer, 0x02, 0x85),
                1 => request(peer, 0x05, 0x80),
                _ => peer.command(0xc0, 36, &[0x12, 0, 0, 0, 36, 0]),
            };
            // Task management is numbered, and refused like the others.
            peer.send(&pdu);
        },
        PROTOCOL,
        GoesOn,
    ),
    Class::new(
        "requests after the logout",
        "11.14",
        SHORT,
        |peer, random| {
            let logout = request(peer, 0x06, 0x80 | random.below(2) as u8).word(20, 0);
            let late = [request(peer, 0x00, 0x80), request(peer, 0x06, 0x80), peer.write(random, 0xa0, 1)];
            let all: Vec<u8> = [&logout].into_iter().chain(&late).flat_map(|pdu| pdu.bytes(false)).collect();
            peer.send_bytes(&all);
        },
        &[Told::Response(0x26, 0)],
        Ends,
    ),
    Class::new(
        "half a header",
        "7.7",
        SHORT,
        |peer, random| {
            let pdu = request(peer, random.one_of(&[0x00, 0x01, 0x04, 0x05]), 0x80);
            peer.send_part(&pdu, random.between(1, 47) as usize);
        },
        NOTHING,
        Ends,
    ),
    Class::new(
        "noise in every field",
        "7.7",
        SHORT,
        |peer, random| {
            // Without the bit that writes, and without functions that others would notice.
            let opcode = random.one_of(&[0x00, 0x01, 0x03, 0x04, 0x05, 0x06, 0x10]);
            let flags = random.next() as u8 & !0x20;
            let (pdu, bytes) = (Pdu::new(opcode | random.one_of(&[0, 0x40]), flags), random.below(4096));
            peer.send_bytes(&pdu.noise(random).bytes(false));
            peer.send_bytes(&random.bytes(bytes));
        },
        NOTHING,
        IsAnything,
    ),
    Class::new(
        "noise instead of a login",
        "7.7",
        Start::Connection,
        |peer, random| {
            let bytes = random.between(1, 4096);
            peer.send_bytes(&random.bytes(bytes));
        },
        NOTHING,
        IsAnything,
    ),
];
