//! Nothing of a damaged, foreign, repeated or impossible frame is handed out.

use super::*;
use crate::ids::{BootId, Generation, Members, NodeName, Uuid};
use crate::mirror::message::{Control, HalfSummary, Hello, PROTOCOL_VERSION, PeerPhase};
use crate::mirror::wire::layout::{Entry, HEADER_BYTES, Header, MAGIC, kind};

/// A frame with right checksums around anything.
fn frame(sequence: u64, kind: u8, more: u8, body: &[u8], table: &[Entry]) -> Vec<u8> {
    let mut tail = body.to_vec();
    tail.extend_from_slice(bytemuck::cast_slice(table));
    let header = Header {
        magic: MAGIC.into(),
        version: PROTOCOL_VERSION.into(),
        kind,
        more,
        sequence: sequence.into(),
        body_bytes: (body.len() as u32).into(),
        blocks: (table.len() as u32).into(),
        tail_crc: crc32c::crc32c(&tail).into(),
        header_crc: 0.into(),
    };
    let mut bytes = bytemuck::bytes_of(&header.sealed(SALT)).to_vec();
    bytes.extend(tail);
    bytes
}

fn refused(bytes: &[u8]) -> WireError {
    let (messages, error) = decode(&PagePool::new(), bytes, &[usize::MAX]);
    assert!(messages.is_empty(), "{messages:?}");
    error.expect("refused")
}

const ZERO: Entry = Entry { state: crate::le::U32Le::new(0), crc: crate::le::U32Le::new(0) };

#[test]
fn every_flipped_bit_is_noticed() {
    let pool = PagePool::new();
    let good = encode([write(1, blocks(&pool, [1, 0, 2]))]);
    assert_eq!(decode(&pool, &good, &[usize::MAX]).0.len(), 1);
    for bit in 0..good.len() * 8 {
        if bit > 200 * 8 && bit % 61 != 0 {
            continue;
        }
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refused(&bytes);
    }
}

#[test]
fn a_message_before_the_damage_is_delivered_and_none_after() {
    let pool = PagePool::new();
    let mut bytes = encode((0..10).map(|n| write(n, blocks(&pool, [1]))));
    let each = bytes.len() / 10;
    bytes[each * 4 + 2000] ^= 4;
    let (messages, error) = decode(&pool, &bytes, &[usize::MAX]);
    assert_eq!((messages.len(), error), (4, Some(WireError::Block)));
}

#[test]
fn a_repeated_dropped_or_reordered_frame_is_refused() {
    let pool = PagePool::new();
    let bytes = encode((0..3).map(|n| write(n, blocks(&pool, [1]))));
    let frames: Vec<&[u8]> = bytes.chunks(bytes.len() / 3).collect();
    for (order, delivered) in [(vec![0, 0], 1), (vec![0, 2], 1), (vec![1, 0], 0), (vec![0, 1, 1, 2], 2)] {
        let stream: Vec<u8> = order.iter().flat_map(|n| frames[*n].iter().copied()).collect();
        let (messages, error) = decode(&pool, &stream, &[usize::MAX]);
        assert_eq!(messages.len(), delivered);
        assert!(matches!(error, Some(WireError::Sequence { .. })), "{error:?}");
    }
}

#[test]
fn a_frame_of_another_connection_or_reflected_is_refused() {
    let mut encoder = Encoder::new(Salt::of(b"a greets", b"b greets"));
    encoder.push(write(1, Payload::new())).unwrap();
    let mut bytes = Vec::new();
    drain(&mut encoder, &mut bytes, usize::MAX);
    assert_eq!(refused(&bytes), WireError::Header);
    assert_ne!(Salt::of(b"a greets", b"b greets"), Salt::of(b"b greets", b"a greets"));
}

#[test]
fn lengths_are_refused_by_the_header_alone() {
    let mut longest = frame(0, kind::CONTROL, 0, &[], &[]);
    for (field, value) in [(16, u32::MAX), (16, (1 << 20) + 1), (20, 17), (20, u32::MAX)] {
        let mut header: Header = bytemuck::pod_read_unaligned(&longest[..HEADER_BYTES]);
        match field {
            16 => header.body_bytes = value.into(),
            _ => header.blocks = value.into(),
        }
        longest[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header.sealed(SALT)));
        assert_eq!(refused(&longest[..HEADER_BYTES]), WireError::Length);
        longest = frame(0, kind::CONTROL, 0, &[], &[]);
    }
    for (kind, right) in [(1, 44), (2, 24), (3, 64), (4, 36), (5, 16), (7, 0)] {
        for length in [right + 1, right + 8] {
            assert_eq!(refused(&frame(0, kind, 0, &vec![0; length], &[])[..HEADER_BYTES]), WireError::Length);
        }
    }
    assert_eq!(refused(&frame(0, kind::CONTROL, 1, &[0], &[ZERO])), WireError::Length);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let flags_at = |length: usize, at: usize, flags: u8| {
        let mut body = vec![0u8; length];
        body[at] = flags;
        body
    };
    let bad: [(&str, Vec<u8>); 12] = [
        ("kind 0", frame(0, 0, 0, &[], &[])),
        ("kind 8", frame(0, 8, 0, &[], &[])),
        ("more than more", frame(0, kind::REST, 2, &[], &[])),
        ("rest of nothing", frame(0, kind::REST, 0, &[], &[])),
        ("unknown flag", frame(0, kind::WRITE, 0, &flags_at(44, 40, 8), &[])),
        ("zero and carried", frame(0, kind::WRITE, 0, &flags_at(44, 40, 3), &[])),
        ("origin without flag", frame(0, kind::WRITE, 0, &flags_at(44, 24, 1), &[])),
        ("blocks not announced", frame(0, kind::WRITE, 0, &[0; 44], &[ZERO])),
        ("blocks that stay away", frame(0, kind::COPY, 0, &flags_at(36, 28, 1), &[])),
        ("not a control message", frame(0, kind::CONTROL, 0, &[200], &[])),
        ("more than a control message", frame(0, kind::CONTROL, 0, &[18, 0, 0], &[])),
        (
            "odd table entry",
            frame(0, kind::COPY, 0, &flags_at(36, 28, 1), &[Entry { state: 2.into(), ..ZERO }]),
        ),
    ];
    for (name, bytes) in bad {
        let error = refused(&bytes);
        assert!(!matches!(error, WireError::Header | WireError::Body), "{name}: {error:?}");
    }
    let mut far = [0u8; 64];
    far[16..32].fill(0xff);
    assert!(matches!(refused(&frame(0, kind::FORWARD, 0, &far, &[])), WireError::Malformed(_)));
    let mut other = frame(0, kind::REST, 0, &[], &[]);
    let header: Header = bytemuck::pod_read_unaligned(&other);
    other.copy_from_slice(bytemuck::bytes_of(&Header { version: 9.into(), ..header }.sealed(SALT)));
    assert_eq!(refused(&other), WireError::Version(9));
}

#[test]
fn only_an_urgent_message_may_come_inside_another() {
    let mut body = [0u8; 36];
    body[28] = 20;
    let begun = frame(0, kind::COPY, 1, &body, &[ZERO; 16]);
    let then = |frame: Vec<u8>| [begun.clone(), frame].concat();
    let urgent = postcard::to_allocvec(&Control::Probe { epoch: Epoch(1), sent: Instant::ZERO }).unwrap();
    let plain = postcard::to_allocvec(&Control::Go { epoch: Epoch(1) }).unwrap();
    let decoded = |frame| decode(&PagePool::new(), &then(frame), &[usize::MAX]);
    assert_eq!(decoded(frame(1, kind::CONTROL, 0, &urgent, &[])).0.len(), 1);
    assert_eq!(decoded(frame(1, kind::REST, 0, &[], &[ZERO; 4])).0.len(), 1);
    for bad in [
        frame(1, kind::CONTROL, 0, &plain, &[]),
        frame(1, kind::COPY_STABLE, 0, &[0; 16], &[]),
        frame(1, kind::REST, 0, &[], &[ZERO; 5]),
        frame(1, kind::REST, 0, &[], &[ZERO; 3]),
        frame(1, kind::REST, 1, &[], &[ZERO; 16]),
    ] {
        assert!(matches!(decoded(bad), (messages, Some(_)) if messages.is_empty()));
    }
}

/// A list whose claimed length is far beyond its bytes must not be allocated for.
#[test]
fn a_list_that_claims_more_than_it_has_is_refused() {
    let hello = Hello {
        version: PROTOCOL_VERSION,
        partnership: Uuid(1),
        node: NodeName::A,
        boot: BootId(1),
        phase: PeerPhase::Starting,
        epoch: Epoch(1),
        members: Members::BOTH,
        up_to_date: true,
        complete: false,
        ready: true,
        pair_epoch: Epoch(0),
        halves: vec![HalfSummary {
            volume: VolumeId(1),
            sectors: 8,
            generation: Generation(1),
            ancestors: vec![],
            log_intact: true,
            change: 0,
            of: Some(VolumeId(2)),
        }],
        deleted: vec![],
    };
    let body = postcard::to_allocvec(&Control::Hello(hello)).unwrap();
    let claim = [0xff, 0xff, 0xff, 0xff, 0x7f];
    for at in 0..body.len() {
        let lying = [&body[..at], &claim].concat();
        refused(&frame(0, kind::CONTROL, 0, &lying, &[]));
    }
}
