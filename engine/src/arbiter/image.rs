//! The register as 64 bytes: what a file or a witness keeps. Numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `TWINREG\0` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | partnership |
//! | 32 | 8 | epoch |
//! | 40 | 1 | members: bit 0 is `a`, bit 1 is `b` |
//! | 41 | 1 | written by: 0 is `a`, 1 is `b` |
//! | 42 | 18 | zero |
//! | 60 | 4 | CRC32C of bytes 0 to 59 |

use super::Register;
use crate::ids::{Epoch, Members, NodeName, Uuid};

/// Bytes of an image.
pub const IMAGE_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"TWINREG\0";
const VERSION: u32 = 1;
const CRC_AT: usize = 60;

/// Why bytes are not the register of a partnership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not 64 bytes, another magic, a wrong checksum, or a value that cannot be.
    #[error(
        "it is damaged and is not taken for empty; stop both nodes, remove it, and start first the node that served last"
    )]
    Damaged,
    /// A later version wrote it.
    #[error("it was written by a newer version ({0}); upgrade this node")]
    Version(u32),
    /// Another pair's.
    #[error("it belongs to partnership {0:032x}; give each partnership its own")]
    Foreign(u128),
}

/// The bytes for a register.
pub fn encode(partnership: Uuid, register: Register) -> [u8; IMAGE_BYTES] {
    let mut image = [0; IMAGE_BYTES];
    image[0..8].copy_from_slice(&MAGIC);
    image[8..12].copy_from_slice(&VERSION.to_le_bytes());
    image[16..32].copy_from_slice(&partnership.0.to_le_bytes());
    image[32..40].copy_from_slice(&register.epoch.0.to_le_bytes());
    image[40] = register.members.bits();
    image[41] = register.by as u8;
    let crc = crc32c::crc32c(&image[..CRC_AT]);
    image[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    image
}

/// The register in these bytes.
pub fn decode(partnership: Uuid, bytes: &[u8]) -> Result<Register, ImageError> {
    let image: &[u8; IMAGE_BYTES] = bytes.try_into().map_err(|_| ImageError::Damaged)?;
    if image[0..8] != MAGIC || crc32c::crc32c(&image[..CRC_AT]) != u32::from_le_bytes(field(image, CRC_AT)) {
        return Err(ImageError::Damaged);
    }
    let version = u32::from_le_bytes(field(image, 8));
    if version != VERSION {
        return Err(ImageError::Version(version));
    }
    let owner = u128::from_le_bytes(field(image, 16));
    if owner != partnership.0 {
        return Err(ImageError::Foreign(owner));
    }
    let by = NodeName::BOTH.into_iter().find(|node| *node as u8 == image[41]);
    Ok(Register {
        epoch: Epoch(u64::from_le_bytes(field(image, 32))),
        members: Members::from_bits(image[40]).ok_or(ImageError::Damaged)?,
        by: by.ok_or(ImageError::Damaged)?,
    })
}

fn field<const N: usize>(image: &[u8; IMAGE_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| image[at + index])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

    fn register() -> Register {
        Register { epoch: Epoch(0x1112), members: Members::BOTH, by: NodeName::B }
    }

    #[test]
    fn the_bytes_are_where_the_table_says() {
        let image = encode(OURS, register());
        let mut expected = [0; 60];
        expected[..12].copy_from_slice(b"TWINREG\0\x01\0\0\0");
        expected[16..32].copy_from_slice(&[16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        expected[32..34].copy_from_slice(&[0x12, 0x11]);
        expected[40..42].copy_from_slice(&[3, 1]);
        assert_eq!(image[..60], expected);
        assert_eq!(decode(OURS, &image), Ok(register()));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let image = encode(OURS, register());
        for bit in 0..IMAGE_BYTES * 8 {
            let mut broken = image;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(OURS, &broken), Err(ImageError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn any_other_length_is_damage() {
        let image = encode(OURS, register());
        for length in 0..IMAGE_BYTES {
            assert_eq!(decode(OURS, &image[..length]), Err(ImageError::Damaged));
        }
        assert_eq!(decode(OURS, &[image.as_slice(), &[0]].concat()), Err(ImageError::Damaged));
    }

    #[test]
    fn another_partnership_is_refused_by_name() {
        let error = decode(Uuid(7), &encode(OURS, register())).unwrap_err();
        assert_eq!(error, ImageError::Foreign(OURS.0));
        assert!(error.to_string().contains("0102030405060708090a0b0c0d0e0f10"));
    }
}
