//! Commands and the data that goes with them.

use crate::class::After::{Ends, GoesOn, IsLeft};
use crate::class::{CAREFUL, Class, DIGESTS, SHORT, Told};
use crate::wire::{NO_TAG, Pdu, Peer};

const NOTHING: &[Told] = &[];
const PROTOCOL: &[Told] = &[Told::Reject(0x04)];
const DATA_PHASE: &[Told] = &[Told::Sense(0x0b, 0x4b, 0x00)];
/// The expected length does not fit the command.
const INFORMATION_UNIT: &[Told] = &[Told::Sense(0x05, 0x0e, 0x03)];
const PARAMETER_LENGTH: &[Told] = &[Told::Sense(0x05, 0x1a, 0x00)];
const OUT_OF_RANGE: &[Told] = &[Told::Sense(0x05, 0x21, 0x00)];
/// As [`SHORT`](crate::class::SHORT) has them.
const FIRST_BURST_BYTES: u32 = 8192;
const BURST_BLOCKS: u8 = 32;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        "immediate data beyond the first burst",
        "13.14",
        SHORT,
        |peer, random| {
            let pdu = peer.write(random, 0xa0, 64);
            peer.send(&pdu.data(&vec![1; random.between(FIRST_BURST_BYTES + 1, 32 << 10) as usize]));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "immediate data beyond what was announced",
        "11.3.4",
        SHORT,
        |peer, random| {
            let pdu = peer.write(random, 0xa0, 1);
            peer.send(&pdu.data(&vec![1; random.between(513, 4096) as usize]));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "immediate data where none is agreed",
        "13.11",
        CAREFUL,
        |peer, random| {
            let pdu = peer.write(random, 0xa0, 1);
            peer.send(&pdu.data(&[1; 512]));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "unasked data where none is agreed",
        "13.10",
        CAREFUL,
        |peer, random| {
            let pdu = peer.write(random, 0x20, 8);
            peer.send(&pdu);
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "data along with a read",
        "11.3.1",
        SHORT,
        |peer, random| {
            let pdu = peer.command(0xc0, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            peer.send(&pdu.data(&vec![1; random.between(1, 512) as usize]));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "a read that more data follows",
        "11.3.1",
        SHORT,
        |peer, _| {
            let pdu = peer.command(0x40, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            peer.send(&pdu);
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "unasked data beyond the first burst",
        "13.14",
        SHORT,
        |peer, random| {
            let pdu = peer.write(random, 0x20, 64);
            let tag = u32::from_be_bytes(pdu.bytes(false)[16..20].try_into().expect("four bytes"));
            peer.send(&pdu);
            let data = vec![1; random.between(FIRST_BURST_BYTES + 1, 32 << 10) as usize];
            peer.send(&Pdu::new(0x05, 0x80).tag(tag).word(20, NO_TAG).data(&data));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "data out of number",
        "11.7.5",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer().word(36, random.between(1, u32::MAX)));
        },
        DATA_PHASE,
        GoesOn,
    ),
    Class::new(
        "data at another place",
        "11.7.6",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer().word(40, random.between(1, u32::MAX)));
        },
        DATA_PHASE,
        GoesOn,
    ),
    Class::new(
        "data that ends too soon",
        "11.7.1",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.part(0x80, random.below(asked.bytes)));
        },
        DATA_PHASE,
        GoesOn,
    ),
    Class::new(
        "more data than was asked for",
        "11.8",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.part(0x80, asked.bytes + random.between(1, 4096)));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "data for a transfer that nobody asked for",
        "11.7.4",
        SHORT,
        |peer, random| {
            let pdu = Pdu::new(0x05, 0x80).tag(peer.fresh_tag()).word(20, random.below(u32::MAX));
            let bytes = random.below(512);
            peer.send(&pdu.data(&random.bytes(bytes)));
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "unasked data of no command",
        "11.7.4",
        SHORT,
        |peer, random| {
            let pdu = Pdu::new(0x05, 0x80).tag(peer.fresh_tag()).word(20, NO_TAG);
            let bytes = random.below(512);
            peer.send(&pdu.data(&random.bytes(bytes)));
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "data of another command",
        "11.7.4",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer().tag(asked.itt ^ random.between(1, 255)));
        },
        NOTHING,
        IsLeft,
    ),
    Class::new(
        "data that was asked for, sent as unasked",
        "11.7.4",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer().word(20, NO_TAG));
        },
        PROTOCOL,
        Ends,
    ),
    Class::new(
        "a request for data answered twice",
        "11.8",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 2 * BURST_BLOCKS);
            peer.send(&asked.answer());
            peer.read_request();
            peer.send(&asked.answer());
        },
        DATA_PHASE,
        GoesOn,
    ),
    Class::new(
        "the last request for data answered twice",
        "11.8",
        SHORT,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer());
            let answer = peer.receive().expect("an answer");
            assert_eq!((answer.head[0], answer.head[3]), (0x21, 0));
            peer.send(&asked.answer());
        },
        NOTHING,
        GoesOn,
    ),
    Class::new(
        "a data digest that is wrong, of data",
        "7.8",
        DIGESTS,
        |peer, random| {
            let asked = peer.asked_for_data(random, 8);
            peer.send(&asked.answer().spoil_data_digest());
        },
        &[Told::Reject(0x02), Told::Sense(0x0b, 0x47, 0x05)],
        GoesOn,
    ),
    Class::new(
        "half the data",
        "7.7",
        SHORT,
        |peer, random| {
            let pdu = peer.write(random, 0xa0, 8).data(&[1; 4096]);
            peer.send_part(&pdu, 48 + random.below(4096) as usize);
        },
        NOTHING,
        Ends,
    ),
    Class::new(
        "both ways at once",
        "SPC-4 4.3",
        SHORT,
        |peer, _| {
            let pdu = peer.command(0xe0, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            peer.send(&pdu);
        },
        &[Told::Sense(0x05, 0x24, 0x00)],
        GoesOn,
    ),
    Class::new(
        "a unit that is not there",
        "SAM-5 4.7",
        SHORT,
        |peer, random| {
            let pdu = peer.command(0xc0, 512, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            peer.send(&pdu.byte(8, random.next() as u8).byte(9, random.between(1, 255) as u8));
        },
        &[Told::Sense(0x05, 0x25, 0x00)],
        GoesOn,
    ),
    Class::new(
        "an operation that is none",
        "SPC-4 4.3",
        SHORT,
        |peer, random| {
            let pdu = peer.command(0x80, 0, &[random.one_of(&[0x7f, 0xff, 0xc0, 0x02, 0x60])]);
            peer.send(&pdu);
        },
        &[Told::Sense(0x05, 0x20, 0x00)],
        GoesOn,
    ),
    Class::new(
        "blocks beyond the end",
        "SBC-3 4.2",
        SHORT,
        |peer, random| {
            let mut cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
            cdb[2..10].copy_from_slice(&(random.next() | 1 << 40).to_be_bytes());
            let pdu = peer.command(0xc0, 512, &cdb);
            peer.send(&pdu);
        },
        OUT_OF_RANGE,
        GoesOn,
    ),
    Class::new(
        "a write that says it reads",
        "11.3.1",
        SHORT,
        |peer, random| {
            let pdu = peer.write(random, 0xc0, 1);
            peer.send(&pdu);
        },
        INFORMATION_UNIT,
        GoesOn,
    ),
    Class::new(
        "a write that ends within a block",
        "11.3.4",
        SHORT,
        |peer, random| {
            let bytes = random.between(513, 1023);
            let pdu = peer.write(random, 0xa0, 8).word(20, bytes);
            peer.send(&pdu.data(&vec![1; bytes as usize]));
        },
        INFORMATION_UNIT,
        GoesOn,
    ),
    Class::new(
        "an UNMAP beyond the end",
        "SBC-3 5.28",
        SHORT,
        |peer, random| {
            let mut list = [0; 24];
            list[..8].copy_from_slice(&[0, 22, 0, 16, 0, 0, 0, 0]);
            list[8..16].copy_from_slice(&(random.next() | 1 << 40).to_be_bytes());
            list[16..20].copy_from_slice(&(random.next() as u32 | 1).to_be_bytes());
            let pdu = peer.command(0xa0, 24, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
            peer.send(&pdu.data(&list));
        },
        OUT_OF_RANGE,
        GoesOn,
    ),
    Class::new(
        "a repeated block that is none",
        "SBC-3 5.44",
        SHORT,
        |peer, random| {
            let bytes = random.one_of(&[1, 256, 511, 513, 1024]);
            let pdu = peer.command(0xa0, bytes, &[0x41, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
            peer.send(&pdu.data(&vec![1; bytes as usize]));
        },
        INFORMATION_UNIT,
        GoesOn,
    ),
    Class::new(
        "a copy of a volume that is not mapped",
        "SPC-4 5.17.7.4",
        SHORT,
        |peer, random| {
            let mut list = copy_list(random.next() as u8, (64, 28));
            list.extend_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 16]);
            list.extend_from_slice(&random.bytes(16));
            list.extend_from_slice(&[0; 8]);
            list.extend_from_slice(&[0xe4]);
            list.extend_from_slice(&[0; 31]);
            let ends: [u8; 4] = random.one_of(&[[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0xff, 0xff]]);
            list.extend_from_slice(&[&[2, 0, 0, 24][..], &ends, &[0, 0], &random.bytes(18)].concat());
            send_copy(peer, &list);
        },
        &[Told::Sense(0x0a, 0x0d, 0x02)],
        GoesOn,
    ),
    Class::new(
        "a list of copies whose lengths are lies",
        "SPC-4 6.4.3",
        SHORT,
        |peer, random| {
            let mut list = copy_list(1, (random.next() as u16 & 0xffe0, random.next() as u32 | 0x1_0000));
            let bytes = random.below(200);
            list.extend_from_slice(&random.bytes(bytes));
            send_copy(peer, &list);
        },
        PARAMETER_LENGTH,
        GoesOn,
    ),
    Class::new(
        "a list of copies without end",
        "SPC-4 6.22",
        SHORT,
        |peer, random| {
            let length = random.next() as u32 | 0x1000;
            let mut cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            cdb[10..14].copy_from_slice(&length.to_be_bytes());
            let pdu = peer.command(0xa0, 512, &cdb);
            peer.send(&pdu.data(&[0xe4; 512]));
        },
        PARAMETER_LENGTH,
        GoesOn,
    ),
];

/// The header of EXTENDED COPY's list: an identifier, and how many bytes of descriptors follow.
fn copy_list(identifier: u8, (cscds, segments): (u16, u32)) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[0] = identifier;
    list[2..4].copy_from_slice(&cscds.to_be_bytes());
    list[8..12].copy_from_slice(&segments.to_be_bytes());
    list
}

fn send_copy(peer: &mut Peer, list: &[u8]) {
    let mut cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    let pdu = peer.command(0xa0, list.len() as u32, &cdb);
    peer.send(&pdu.data(list));
}
