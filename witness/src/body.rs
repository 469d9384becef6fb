//! Questions and answers as 40 bytes: what a frame carries before it is sealed.
//!
//! Whatever is not said exactly as it is written here is no question and no answer: what decodes encodes to the same bytes.

#![deny(clippy::indexing_slicing)] // nothing from the wire is trusted to fit

use bytemuck::{Pod, Zeroable};
use twinsan::arbiter::{Answer, Ask, Register};
use twinsan::ids::{Epoch, Members, NodeName};
use twinsan::le::U64Le;

/// Bytes of a body.
pub(crate) const BODY_BYTES: usize = 40;
/// The bytes of a question or an answer.
pub(crate) type Body = [u8; BODY_BYTES];

const READ: u8 = 1;
const SWAP: u8 = 2;
const KEPT: u8 = 1;
const SWAPPED: u8 = 2;
const FAILED: u8 = 3;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    kind: u8,
    /// 1: `first` holds a register.
    first_there: u8,
    reserved: [u8; 6],
    first: Slot,
    second: Slot,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    epoch: U64Le,
    members: u8,
    by: u8,
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<Layout>() == BODY_BYTES);

/// The witness could not read or write the register. Its own log says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed;

/// What the witness has to say to a question.
pub(crate) type Told = Result<Answer, Failed>;

pub(crate) fn encode_ask(ask: Ask) -> Body {
    let layout = match ask {
        Ask::Read => blank(READ, None),
        Ask::Swap { expect, new } => Layout { second: slot(new), ..blank(SWAP, expect) },
    };
    bytemuck::cast(layout)
}

pub(crate) fn decode_ask(body: &Body) -> Option<Ask> {
    let layout: Layout = bytemuck::pod_read_unaligned(body);
    let ask = match layout.kind {
        READ => Ask::Read,
        SWAP => Ask::Swap { expect: first(&layout)?, new: register(&layout.second)? },
        _ => return None,
    };
    (encode_ask(ask) == *body).then_some(ask)
}

pub(crate) fn encode_told(told: Told) -> Body {
    bytemuck::cast(match told {
        Ok(Answer { swapped: false, register }) => blank(KEPT, register),
        Ok(Answer { swapped: true, register }) => blank(SWAPPED, register),
        Err(Failed) => blank(FAILED, None),
    })
}

pub(crate) fn decode_told(body: &Body) -> Option<Told> {
    let layout: Layout = bytemuck::pod_read_unaligned(body);
    let told = match layout.kind {
        KEPT => Ok(Answer { swapped: false, register: first(&layout)? }),
        SWAPPED => Ok(Answer { swapped: true, register: first(&layout)? }),
        FAILED => Err(Failed),
        _ => return None,
    };
    (encode_told(told) == *body).then_some(told)
}

fn blank(kind: u8, first: Option<Register>) -> Layout {
    Layout {
        kind,
        first_there: u8::from(first.is_some()),
        first: first.map_or(Slot::zeroed(), slot),
        ..Layout::zeroed()
    }
}

fn slot(register: Register) -> Slot {
    let Register { epoch, members, by } = register;
    Slot { epoch: epoch.0.into(), members: members.bits(), by: by as u8, ..Slot::zeroed() }
}

/// The outer `None`: what is there is no register.
fn first(layout: &Layout) -> Option<Option<Register>> {
    match layout.first_there {
        0 => Some(None),
        1 => register(&layout.first).map(Some),
        _ => None,
    }
}

fn register(slot: &Slot) -> Option<Register> {
    let by = NodeName::BOTH.into_iter().find(|node| *node as u8 == slot.by)?;
    Some(Register { epoch: Epoch(slot.epoch.get()), members: Members::from_bits(slot.members)?, by })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::hex;

    fn example() -> [Register; 2] {
        let before = Register { epoch: Epoch(0x0102_0304), members: Members::BOTH, by: NodeName::B };
        [before, Register { epoch: Epoch(0x0102_0305), members: Members::only(NodeName::A), by: NodeName::A }]
    }

    #[test]
    fn bytes_are_frozen() {
        let [before, after] = example();
        let swap = |expect| encode_ask(Ask::Swap { expect, new: after });
        let told = |swapped, register| encode_told(Ok(Answer { swapped, register }));
        let bodies = [
            encode_ask(Ask::Read),
            swap(None),
            swap(Some(before)),
            told(false, None),
            told(false, Some(before)),
            told(true, Some(after)),
            encode_told(Err(Failed)),
        ];
        assert_eq!(bodies.map(|body| hex(&body)), GOLDEN);
    }

    const GOLDEN: [&str; 7] = [
        "01000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "02000000000000000000000000000000000000000000000005030201000000000100000000000000",
        "02010000000000000403020100000000030100000000000005030201000000000100000000000000",
        "01000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "01010000000000000403020100000000030100000000000000000000000000000000000000000000",
        "02010000000000000503020100000000010000000000000000000000000000000000000000000000",
        "03000000000000000000000000000000000000000000000000000000000000000000000000000000",
    ];

    fn registers() -> impl Strategy<Value = Register> {
        (any::<u64>(), 1u8..=3, any::<bool>()).prop_map(|(epoch, members, b)| Register {
            epoch: Epoch(epoch),
            members: Members::from_bits(members).expect("one or both"),
            by: if b { NodeName::B } else { NodeName::A },
        })
    }

    proptest! {
        #[test]
        fn what_is_asked_and_told_is_understood(
            expect in proptest::option::of(registers()),
            new in registers(),
            swapped in any::<bool>(),
        ) {
            for ask in [Ask::Read, Ask::Swap { expect, new }] {
                prop_assert_eq!(decode_ask(&encode_ask(ask)), Some(ask));
            }
            for told in [Ok(Answer { swapped, register: expect }), Err(Failed)] {
                prop_assert_eq!(decode_told(&encode_told(told)), Some(told));
            }
        }

        #[test]
        fn what_decodes_is_written_as_it_must_be(bytes in proptest::collection::vec(0u8..4, BODY_BYTES)) {
            let body: Body = bytes.try_into().expect("40 bytes");
            if let Some(ask) = decode_ask(&body) {
                prop_assert_eq!(encode_ask(ask), body);
            }
            if let Some(told) = decode_told(&body) {
                prop_assert_eq!(encode_told(told), body);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let [before, after] = example();
        let good = encode_ask(Ask::Swap { expect: Some(before), new: after });
        // Kind, presence, reserved bytes, members, writer.
        for (at, value) in
            [(0, 3), (1, 2), (1, 0), (2, 1), (16, 0), (16, 4), (17, 2), (18, 1), (32, 0), (39, 1)]
        {
            let mut body = good;
            body[at] = value;
            assert_eq!(decode_ask(&body), None, "{value} at {at}");
        }
        let mut read = encode_ask(Ask::Read);
        read[39] = 1;
        assert_eq!(decode_ask(&read), None);
        assert_eq!(decode_told(&[0; BODY_BYTES]), None);
    }
}
