//! The messages that begin a connection, in the clear: 64 bytes each, laid out alike in every version.
//!
//! They prove nothing. What proves is that the frames that follow are sealed with keys made from them and from the
//! partnership's secret (`seal`).

#![deny(clippy::indexing_slicing)] // nothing from the wire is trusted to fit

use bytemuck::{Pod, Zeroable};
use twinsan::ids::Uuid;
use twinsan::le::{U16Le, U32Le, U64Le, U128Le};

use crate::notice::Refusal;

/// Bytes of every message, in both directions.
pub(crate) const MESSAGE_BYTES: usize = 64;
/// The version that is spoken.
pub(crate) const VERSION: u16 = 1;
/// The bytes before the checksum.
const CHECKED_BYTES: usize = MESSAGE_BYTES - 4;
const MAGIC: [u8; 8] = *b"TWINSANw";
const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const REFUSAL: u8 = 3;

/// The bytes of a message.
pub(crate) type Bytes = [u8; MESSAGE_BYTES];
/// What nobody can know before, and nobody uses twice.
pub(crate) type Nonce = [u8; 16];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    magic: [u8; 8],
    version: U16Le,
    kind: u8,
    verdict: u8,
    reserved: [u8; 4],
    partnership: U128Le,
    nonce: Nonce,
    asker: U64Le,
    attempt: U32Le,
    crc: U32Le,
}

const _: () = assert!(size_of::<Layout>() == MESSAGE_BYTES);

/// Whose register is asked for, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) partnership: Uuid,
    pub(crate) nonce: Nonce,
    /// This life of the asker, random.
    pub(crate) asker: u64,
    /// Counts its connections; a later one ends the earlier ones.
    pub(crate) attempt: u32,
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        sealed(Layout {
            partnership: self.partnership.0.into(),
            nonce: self.nonce,
            asker: self.asker.into(),
            attempt: self.attempt.into(),
            ..blank(HELLO)
        })
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Hello, Refusal> {
        let layout = read(bytes, HELLO)?;
        let Layout { partnership, nonce, asker, attempt, .. } = layout;
        let hello =
            Hello { partnership: Uuid(partnership.get()), nonce, asker: asker.get(), attempt: attempt.get() };
        if hello.encode() == *bytes { Ok(hello) } else { Err(Refusal::Garbage) }
    }
}

/// The witness's answer to a hello, whatever partnership it names.
pub(crate) fn challenge(nonce: Nonce) -> Bytes {
    sealed(Layout { nonce, ..blank(CHALLENGE) })
}

/// What the witness has answered to a hello.
pub(crate) fn read_challenge(bytes: &Bytes) -> Result<Nonce, Refusal> {
    if let Some(refusal) = read_refusal(bytes) {
        return Err(refusal);
    }
    let layout = read(bytes, CHALLENGE)?;
    if challenge(layout.nonce) == *bytes { Ok(layout.nonce) } else { Err(Refusal::Garbage) }
}

/// The witness's last word to one that is refused; nothing to one that does not speak the language.
pub(crate) fn refuse(refusal: Refusal) -> Option<Bytes> {
    let verdict = match refusal {
        Refusal::Version(_) => 1,
        Refusal::Unproved => 2,
        Refusal::Stale => 3,
        Refusal::Garbage | Refusal::Silent => return None,
    };
    Some(sealed(Layout { verdict, ..blank(REFUSAL) }))
}

/// Has the witness refused? Anyone on the way could say so: it ends the connection, and no more.
pub(crate) fn read_refusal(bytes: &Bytes) -> Option<Refusal> {
    let layout = match read(bytes, REFUSAL) {
        Ok(layout) => layout,
        Err(refusal @ Refusal::Version(_)) => return Some(refusal),
        Err(_) => return None,
    };
    match layout.verdict {
        1 => Some(Refusal::Version(0)),
        2 => Some(Refusal::Unproved),
        3 => Some(Refusal::Stale),
        _ => None,
    }
}

/// Does it begin as a message does? A stranger that does not is not answered.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    MAGIC.starts_with(bytes) || bytes.starts_with(&MAGIC)
}

fn read(bytes: &Bytes, kind: u8) -> Result<Layout, Refusal> {
    let layout: Layout = bytemuck::pod_read_unaligned(bytes);
    if layout.magic != MAGIC || layout.crc.get() != crc(bytes) {
        return Err(Refusal::Garbage);
    }
    if layout.version.get() != VERSION {
        return Err(Refusal::Version(layout.version.get()));
    }
    if layout.kind == kind { Ok(layout) } else { Err(Refusal::Garbage) }
}

fn blank(kind: u8) -> Layout {
    Layout { magic: MAGIC, version: VERSION.into(), kind, ..Layout::zeroed() }
}

fn crc(bytes: &Bytes) -> u32 {
    let (checked, _) = bytes.split_at(CHECKED_BYTES);
    crc32c::crc32c(checked)
}

fn sealed(layout: Layout) -> Bytes {
    let bytes: Bytes = bytemuck::cast(layout);
    bytemuck::cast(Layout { crc: crc(&bytes).into(), ..layout })
}

/// A hello of another version.
#[cfg(test)]
pub(crate) fn of_version(version: u16) -> Bytes {
    sealed(Layout { version: version.into(), ..blank(HELLO) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::hex;

    fn hello() -> Hello {
        Hello {
            partnership: Uuid(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            nonce: *b"nonce of asker 1",
            asker: 0x1112_1314_1516_1718,
            attempt: 7,
        }
    }

    #[test]
    fn bytes_are_frozen() {
        let messages = [
            hello().encode(),
            challenge(*b"nonce of witness"),
            refuse(Refusal::Version(9)).unwrap(),
            refuse(Refusal::Unproved).unwrap(),
            refuse(Refusal::Stale).unwrap(),
        ];
        assert_eq!(messages.map(|bytes| hex(&bytes)), GOLDEN);
    }

    const GOLDEN: [&str; 5] = [
        "5457494e53414e770100010000000000100f0e0d0c0b0a090807060504030201\
         6e6f6e6365206f662061736b65722031181716151413121107000000221b77c2",
        "5457494e53414e77010002000000000000000000000000000000000000000000\
         6e6f6e6365206f66207769746e657373000000000000000000000000bb099226",
        "5457494e53414e77010003010000000000000000000000000000000000000000\
         000000000000000000000000000000000000000000000000000000008e04e177",
        "5457494e53414e77010003020000000000000000000000000000000000000000\
         0000000000000000000000000000000000000000000000000000000079b0863a",
        "5457494e53414e77010003030000000000000000000000000000000000000000\
         000000000000000000000000000000000000000000000000000000007b0e00fd",
    ];

    #[test]
    fn what_is_sent_is_understood() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        assert_eq!(read_challenge(&challenge([5; 16])), Ok([5; 16]));
        for refusal in [Refusal::Unproved, Refusal::Stale] {
            assert_eq!(read_refusal(&refuse(refusal).unwrap()), Some(refusal));
            assert_eq!(read_challenge(&refuse(refusal).unwrap()), Err(refusal));
        }
        assert_eq!(read_challenge(&of_version(3)), Err(Refusal::Version(3)));
        assert_eq!(Hello::decode(&of_version(3)), Err(Refusal::Version(3)));
        assert_eq!(refuse(Refusal::Garbage), None, "a stranger is not answered");
    }

    #[test]
    fn no_damaged_message_is_accepted() {
        for good in [hello().encode(), challenge([5; 16])] {
            for bit in 0..MESSAGE_BYTES * 8 {
                let mut bytes = good;
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Hello::decode(&bytes), Err(Refusal::Garbage));
                assert_eq!(read_challenge(&bytes), Err(Refusal::Garbage));
                assert_eq!(read_refusal(&bytes), None);
            }
            assert!(may_begin(&good[..3]) && may_begin(&good));
        }
        assert!(!may_begin(b"GET") && !may_begin(b"TWINSANm"));
    }

    #[test]
    fn reserved_bytes_are_zero() {
        for (message, reserved) in [(hello().encode(), 11..16), (challenge([5; 16]), 11..32)] {
            for at in reserved {
                let mut layout: [u8; MESSAGE_BYTES] = message;
                layout[at] = 1;
                let sum = crc32c::crc32c(&layout[..CHECKED_BYTES]).to_le_bytes();
                layout[CHECKED_BYTES..].copy_from_slice(&sum);
                assert_eq!(Hello::decode(&layout), Err(Refusal::Garbage));
                assert_eq!(read_challenge(&layout), Err(Refusal::Garbage));
            }
        }
    }
}
