//! The greeting that begins every connection, in each direction: 64 bytes, the same in every version.

#![deny(clippy::indexing_slicing)] // a length from the wire must never be trusted to fit

use bytemuck::{Pod, Zeroable};
use twinsan::ids::NodeName;
use twinsan::le::{U16Le, U32Le, U64Le, U128Le};
use twinsan::mirror::message::PROTOCOL_VERSION;
use twinsan::mirror::wire::Salt;

use crate::config::LinkConfig;
use crate::notice::Refusal;

pub(crate) const GREETING_BYTES: usize = 64;
/// The bytes before the checksum.
const CHECKED_BYTES: usize = GREETING_BYTES - 4;
const MAGIC: [u8; 8] = *b"TWINSANm";

/// The bytes of a greeting.
pub(crate) type GreetingBytes = [u8; GREETING_BYTES];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    magic: [u8; 8],
    version: U16Le,
    node: u8,
    verdict: u8,
    reserved: [u8; 4],
    partnership: U128Le,
    boot: U64Le,
    connection: U64Le,
    reserved_too: [u8; 12],
    crc: U32Le,
}

const _: () = assert!(size_of::<Layout>() == GREETING_BYTES);

/// What a valid greeting of the partner tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Greeting {
    pub(crate) boot: u64,
    pub(crate) connection: u64,
}

/// This node's greeting for its attempt number `connection`.
pub(crate) fn greet(config: &LinkConfig, connection: u64) -> GreetingBytes {
    sealed(Layout {
        partnership: config.partnership.0.into(),
        boot: config.boot.0.into(),
        connection: connection.into(),
        ..blank(config)
    })
}

/// The answer to a greeting that is refused; it tells nothing else.
pub(crate) fn refuse(config: &LinkConfig, refusal: Refusal) -> Option<GreetingBytes> {
    let verdict = match refusal {
        Refusal::Version(_) => 1,
        Refusal::Partnership => 2,
        Refusal::SameNode(_) => 3,
        Refusal::Stale => 4,
        Refusal::NoGreeting => return None,
    };
    Some(sealed(Layout { verdict, ..blank(config) }))
}

/// Reads what the other end sent.
pub(crate) fn read(config: &LinkConfig, bytes: &GreetingBytes) -> Result<Greeting, Refusal> {
    let layout: Layout = bytemuck::pod_read_unaligned(bytes);
    if layout.magic != MAGIC || layout.crc.get() != crc(bytes) {
        return Err(Refusal::NoGreeting);
    }
    if layout.version.get() != PROTOCOL_VERSION {
        return Err(Refusal::Version(layout.version.get()));
    }
    match layout.verdict {
        0 => {}
        1 => return Err(Refusal::Version(0)),
        2 => return Err(Refusal::Partnership),
        3 => return Err(Refusal::SameNode(config.node)),
        4 => return Err(Refusal::Stale),
        _ => return Err(Refusal::NoGreeting),
    }
    if layout.partnership.get() != config.partnership.0 {
        return Err(Refusal::Partnership);
    }
    if layout.node == config.node as u8 {
        return Err(Refusal::SameNode(config.node));
    }
    let clean = layout.reserved == [0; 4] && layout.reserved_too == [0; 12];
    if layout.node != config.node.partner() as u8 || !clean {
        return Err(Refusal::NoGreeting);
    }
    Ok(Greeting { boot: layout.boot.get(), connection: layout.connection.get() })
}

/// Does it begin as a greeting does? A stranger that does not is not answered.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    MAGIC.starts_with(bytes) || bytes.starts_with(&MAGIC)
}

/// The salts of a connection: for what this node sends, and for what it receives. Of the greetings without their
/// checksums: a CRC over data and its own CRC is always the same number.
pub(crate) fn salts(mine: &GreetingBytes, theirs: &GreetingBytes) -> (Salt, Salt) {
    let (mine, theirs) = (&mine[..CHECKED_BYTES], &theirs[..CHECKED_BYTES]);
    (Salt::of(mine, theirs), Salt::of(theirs, mine))
}

fn blank(config: &LinkConfig) -> Layout {
    Layout {
        magic: MAGIC,
        version: PROTOCOL_VERSION.into(),
        node: match config.node {
            NodeName::A => 0,
            NodeName::B => 1,
        },
        ..Layout::zeroed()
    }
}

/// A greeting of another version of the protocol.
#[cfg(test)]
pub(crate) fn of_version(config: &LinkConfig, version: u16) -> GreetingBytes {
    sealed(Layout { version: version.into(), partnership: config.partnership.0.into(), ..blank(config) })
}

fn crc(bytes: &GreetingBytes) -> u32 {
    crc32c::crc32c(&bytes[..CHECKED_BYTES])
}

fn sealed(layout: Layout) -> GreetingBytes {
    let bytes: GreetingBytes = bytemuck::cast(layout);
    bytemuck::cast(Layout { crc: crc(&bytes).into(), ..layout })
}

#[cfg(test)]
mod tests {
    use twinsan::block::PagePool;
    use twinsan::ids::{BootId, Uuid};

    use super::*;

    fn config(node: NodeName, partnership: u128) -> LinkConfig {
        let address = "127.0.0.1:1".parse().unwrap();
        LinkConfig::new(node, Uuid(partnership), BootId(0x0b00), address, PagePool::new())
    }

    #[test]
    fn bytes_are_frozen() {
        let bytes = greet(&config(NodeName::B, 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), 7);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "5457494e53414e6d0500010000000000100f0e0d0c0b0a090807060504030201\
             000b0000000000000700000000000000000000000000000000000000633aa8d6"
        );
    }

    #[test]
    fn partners_understand_each_other() {
        let (a, b) = (config(NodeName::A, 5), config(NodeName::B, 5));
        assert_eq!(read(&a, &greet(&b, 3)), Ok(Greeting { boot: 0x0b00, connection: 3 }));
        assert_eq!(read(&b, &greet(&a, 4)), Ok(Greeting { boot: 0x0b00, connection: 4 }));
    }

    #[test]
    fn others_are_refused_by_name() {
        let (a, b, other) = (config(NodeName::A, 5), config(NodeName::B, 5), config(NodeName::B, 6));
        assert_eq!(read(&a, &greet(&other, 1)), Err(Refusal::Partnership));
        assert_eq!(read(&a, &greet(&a, 1)), Err(Refusal::SameNode(NodeName::A)));
        assert_eq!(read(&a, &of_version(&b, 9)), Err(Refusal::Version(9)));
        for refusal in
            [Refusal::Version(0), Refusal::Partnership, Refusal::SameNode(NodeName::B), Refusal::Stale]
        {
            let answer = refuse(&a, refusal).unwrap();
            assert_eq!(read(&b, &answer), Err(refusal));
            assert_eq!(answer[16..60], [0; 44], "a stranger learns nothing");
        }
    }

    #[test]
    fn salts_differ_between_connections_and_directions() {
        let (a, b) = (config(NodeName::A, 5), config(NodeName::B, 5));
        let mut all = Vec::new();
        for (of_a, of_b) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let (greeting_a, greeting_b) = (greet(&a, of_a), greet(&b, of_b));
            let ((send, receive), seen) = (salts(&greeting_a, &greeting_b), salts(&greeting_b, &greeting_a));
            assert_eq!(seen, (receive, send));
            all.extend([send.0, receive.0]);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn no_damaged_greeting_is_accepted() {
        let (a, b) = (config(NodeName::A, 5), config(NodeName::B, 5));
        let good = greet(&b, 1);
        for bit in 0..GREETING_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&a, &bytes), Err(Refusal::NoGreeting));
        }
        assert!(may_begin(&good[..3]) && may_begin(&good) && !may_begin(b"GET"));
    }
}
