//! The bytes of every kind of message, frozen. A difference means that nodes of different builds do not
//! understand each other: raise `PROTOCOL_VERSION` and write new lines.

use core::fmt::Write as _;

use super::*;
use crate::guest::GuestError;
use crate::ids::{BootId, Generation, ItemName, Members, NodeName, Uuid};
use crate::mirror::message::{
    Control, HalfSummary, Hello, ItemEntry, NewClone, PROTOCOL_VERSION, PeerPhase, VolumeChange, VolumeEntry,
    VolumeRefusal,
};
use crate::mirror::wire::layout::HEADER_BYTES;
use crate::pool::CloneRefusal;

/// One line per message: a name, and the hexadecimal bytes of all its frames without pages.
const GOLDEN: &str = include_str!("golden.txt");

fn halves() -> Vec<HalfSummary> {
    vec![HalfSummary {
        volume: VolumeId(3),
        sectors: 1 << 27,
        generation: Generation(0xabcd << 100),
        ancestors: vec![Generation(5)],
        log_intact: true,
        change: 3,
        of: Some(VolumeId(2)),
    }]
}

fn data_path(pool: &PagePool) -> Vec<(&'static str, Message)> {
    let (epoch, volume) = (Epoch(0x0102_0304_0506_0708), VolumeId(0x0a0b_0c0d));
    let none = Payload::new();
    let write = |zero, origin| Body::Write {
        epoch,
        volume,
        order: 0x1112,
        first: 0x2122_2324_2526_2728,
        blocks: 9,
        zero,
        carried: false,
        origin,
    };
    let copy =
        |blocks, zero, fresh| Body::Copy { epoch, volume, tag: 0x31, first: 0x41, blocks, zero, fresh };
    vec![
        ("write", super::write(5, blocks(pool, [1, 0]))),
        ("write-zero", Message { body: write(true, None), data: none.clone() }),
        ("write-origin", Message { body: write(false, Some(0x51)), data: none.clone() }),
        ("write-17-zero-blocks", super::write(6, blocks(pool, [0; 17]))),
        (
            "write-done",
            Message { body: Body::WriteDone { epoch, volume, order: 7, stored: true }, data: none.clone() },
        ),
        (
            "write-refused",
            Message { body: Body::WriteDone { epoch, volume, order: 7, stored: false }, data: none.clone() },
        ),
        ("forward", forward(Sectors::new(6, 4), blocks(pool, [0, 2]))),
        ("forward-zero", forward(Sectors::new(6, 4), none.clone())),
        (
            "forward-compare",
            in_manner(forward(Sectors::new(6, 4), blocks(pool, [0, 2, 1, 0])), Manner::IfEqual, false),
        ),
        (
            "forward-zero-compare",
            in_manner(forward(Sectors::new(6, 4), blocks(pool, [1, 0])), Manner::IfEqual, true),
        ),
        ("forward-or", in_manner(forward(Sectors::new(6, 4), blocks(pool, [0, 2])), Manner::Or, false)),
        (
            "forward-mismatch",
            Message::control(Control::ForwardRefused {
                epoch,
                id: 9,
                error: GuestError::Miscompare { offset: 0x123 },
            }),
        ),
        ("copy", Message { body: copy(1, false, false), data: blocks(pool, [3]) }),
        ("copy-zero-fresh", Message { body: copy(4, true, true), data: none.clone() }),
        ("copy-stable", Message { body: Body::CopyStable { epoch, tag: 0x61 }, data: none }),
    ]
}

fn control() -> Vec<(&'static str, Control)> {
    let (epoch, volume, id) = (Epoch(300), VolumeId(3), 9);
    let hello = Hello {
        version: PROTOCOL_VERSION,
        partnership: Uuid(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        node: NodeName::B,
        boot: BootId(77),
        phase: PeerPhase::Stopped,
        epoch,
        members: Members::only(NodeName::B),
        up_to_date: true,
        complete: false,
        ready: false,
        pair_epoch: Epoch(299),
        halves: halves(),
        deleted: vec![VolumeId(11)],
    };
    let sent = Instant::from_nanos(1 << 40);
    let (uuid, change) = (Uuid(6), 4);
    let entry = VolumeEntry {
        volume,
        uuid,
        sectors: 4096,
        change,
        epoch,
        deleted: true,
        read_only: true,
        of: Some(VolumeId(2)),
    };
    let item = ItemEntry { name: ItemName(2), revision: 4, value: (*b"kept").into() };
    let clone =
        NewClone { volume: VolumeId(1000), of: volume, uuid, name: "evening".into(), read_only: true };
    let refusal = VolumeRefusal::Clone(CloneRefusal::NoSpace { missing: 7 });
    let clones = vec![clone];
    let grow = VolumeChange::Grow { sectors: 1 << 20 };
    vec![
        ("hello", Control::Hello(hello)),
        ("probe", Control::Probe { epoch, sent }),
        ("probe-reply", Control::ProbeReply { epoch, sent, clock: Instant::from_nanos(3) }),
        ("forward-refused", Control::ForwardRefused { epoch, id, error: GuestError::Aborted }),
        ("cancel", Control::Cancel { epoch, id }),
        ("cancelled", Control::Cancelled { epoch, id }),
        ("flush-ask", Control::FlushAsk { epoch, id, volume }),
        ("flush-done", Control::FlushDone { epoch, id }),
        ("stable", Control::Stable { epoch, volume, order: 1000 }),
        ("cool", Control::Cool { epoch, volume, areas: vec![0, 1, 70_000] }),
        ("read-ask", Control::ReadAsk { epoch, id, volume, first: 8, blocks: 2 }),
        ("read-reply", Control::ReadReply { epoch, id, error: Some(GuestError::Medium) }),
        ("sets-ask", Control::SetsAsk { epoch, full: vec![VolumeId(9)] }),
        ("sets", Control::Sets { epoch, volume, hot: vec![1], regions: vec![(2, 3)], mapped: vec![(4, 5)] }),
        ("sets-end", Control::SetsEnd { epoch }),
        (
            "be-target",
            Control::BeTarget { epoch, bases: vec![(VolumeId(9), Generation(7))], table: vec![entry] },
        ),
        ("target-ready", Control::TargetReady { epoch }),
        ("join", Control::Join { epoch, proposed: Epoch(301), halves: halves() }),
        ("joined", Control::Joined { proposed: Epoch(301) }),
        ("go", Control::Go { epoch }),
        ("stop-ask", Control::StopAsk { epoch }),
        ("stop-ready", Control::StopReady { epoch }),
        ("handed-over", Control::HandedOver { epoch }),
        ("yield", Control::Yield { epoch }),
        ("hot", Control::Hot { epoch, volume, areas: vec![3, 4] }),
        ("no-space", Control::NoSpace { epoch }),
        ("volume-change", Control::VolumeChange { epoch, volume, change: 5, what: grow }),
        ("volume-changed", Control::VolumeChanged { epoch, volume, change: 5 }),
        ("volume-shown", Control::VolumeShown { epoch, volume, change: 5 }),
        ("volume-ask", Control::VolumeAsk { epoch, id, volume, what: VolumeChange::Delete }),
        ("volume-answer", Control::VolumeAnswer { epoch, id, result: Err(VolumeRefusal::Interrupted) }),
        (
            "volume-refused",
            Control::VolumeRefused { epoch, volume, change: 5, refusal: VolumeRefusal::NoRoom },
        ),
        ("volume-items", Control::VolumeItems { epoch, volume, items: vec![item] }),
        ("clones-take", Control::ClonesTake { epoch, id, clones: clones.clone() }),
        ("clones-taken", Control::ClonesTaken { epoch, id }),
        ("clones-refused", Control::ClonesRefused { epoch, id, refusal }),
        ("clones-ask", Control::ClonesAsk { epoch, id, clones }),
    ]
}

/// The frames' bytes without the pages, which are the blocks' own bytes.
fn heads(bytes: &[u8], message: &Message) -> Vec<u8> {
    let pages = message.data.iter().filter(|block| matches!(block, Block::Data(_))).count();
    bytes[..bytes.len() - pages * BLOCK_BYTES].to_vec()
}

#[test]
fn bytes_are_frozen() {
    let pool = PagePool::new();
    let controls = control().into_iter().map(|(name, control)| (name, Message::control(control)));
    let mut lines = String::new();
    for (name, message) in data_path(&pool).into_iter().chain(controls) {
        let bytes = encode([message.clone()]);
        assert_same(std::slice::from_ref(&message), &decode(&pool, &bytes, &[100]).0);
        write!(lines, "{name} ").unwrap();
        for byte in heads(&bytes, &message) {
            write!(lines, "{byte:02x}").unwrap();
        }
        lines.push('\n');
    }
    assert!(lines == GOLDEN, "the bytes on the wire have changed:\n{lines}");
}

/// Every message has its line in the document, with the number that it has on the wire.
#[test]
fn control_messages_are_documented() {
    let document = include_str!("../../../../docs/protocol.md");
    for (number, (name, control)) in control().into_iter().enumerate() {
        let bytes = encode([Message::control(control)]);
        assert_eq!(usize::from(bytes[HEADER_BYTES]), number, "{name}");
        let line = format!("| {number} | {} |", camel(name));
        assert!(document.contains(&line), "{line} is missing");
    }
}

fn camel(name: &str) -> String {
    let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect()
}
