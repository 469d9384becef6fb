//! What guests write: sectors that say which write they are, where they belong, and that they are whole.

use crate::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::guest::Sectors;
use crate::ids::VolumeId;

const MAGIC: u64 = 0x5457_494e_4755_4553;
const WORDS: usize = SECTOR_BYTES / 8;

/// What one sector holds: 0 if it reads as zero, else the number of the write.
pub type Value = u64;

/// The value of a sector that was never written, or cleared.
pub const ZERO: Value = 0;

/// Bytes that no guest wrote there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume} sector {sector} holds bytes that were never written there: {found}")]
pub struct Foreign {
    /// The volume.
    pub volume: VolumeId,
    /// The sector.
    pub sector: u64,
    /// What they look like.
    pub found: String,
}

fn place(volume: VolumeId, sector: u64) -> u64 {
    u64::from(volume.0) << 48 | sector
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

/// Is this sector a guest's?
pub fn is_guest(sector: &[u8]) -> bool {
    word(sector, 0) == MAGIC
}

fn fill(sector: &mut [u8], volume: VolumeId, number: u64, value: Value) {
    let words = [MAGIC, value, place(volume, number), value ^ MAGIC];
    for (index, chunk) in sector.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&words[index % 4].to_le_bytes());
    }
}

/// The blocks of write `value` at `at`; bytes outside the sectors are junk that must never be seen.
pub fn payload(pages: &PagePool, volume: VolumeId, at: Sectors, value: Value) -> Payload {
    at.blocks()
        .map(|block| {
            let mut page = pages.take();
            for (index, sector) in page.bytes_mut().chunks_exact_mut(SECTOR_BYTES).enumerate() {
                let number = block * SECTORS_PER_BLOCK + index as u64;
                if number >= at.start && number < at.end() {
                    fill(sector, volume, number, value);
                } else {
                    sector.fill(0xee);
                }
            }
            Block::Data(page.freeze())
        })
        .collect()
}

/// Which write the sector at `number` comes from.
pub fn value_of(sector: &[u8], volume: VolumeId, number: u64) -> Result<Value, Foreign> {
    let foreign = |found: String| Foreign { volume, sector: number, found };
    let (first, value, at) = (word(sector, 0), word(sector, 1), word(sector, 2));
    if first == 0 {
        let clean = sector.iter().all(|byte| *byte == 0);
        return if clean { Ok(ZERO) } else { Err(foreign("zeros and something else".into())) };
    }
    if first != MAGIC {
        return Err(foreign(format!("{:02x?}", &sector[..16])));
    }
    if at != place(volume, number) {
        return Err(foreign(format!(
            "write {value} of volume {} sector {}",
            at >> 48,
            at & 0xffff_ffff_ffff
        )));
    }
    let words = [MAGIC, value, at, value ^ MAGIC];
    let whole = (0..WORDS).all(|index| word(sector, index) == words[index % 4]);
    if whole { Ok(value) } else { Err(foreign(format!("write {value}, torn"))) }
}

/// The values of the sectors `at`, from the blocks that they touch.
pub fn values(volume: VolumeId, at: Sectors, data: &[Block]) -> Result<Vec<Value>, Foreign> {
    let first = at.start / SECTORS_PER_BLOCK;
    (at.start..at.end())
        .map(|number| {
            let block = &data[(number / SECTORS_PER_BLOCK - first) as usize];
            match block {
                Block::Zero => Ok(ZERO),
                Block::Data(page) => {
                    let offset = (number % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
                    value_of(&page.bytes()[offset..offset + SECTOR_BYTES], volume, number)
                }
            }
        })
        .collect()
}

/// The values of a whole block.
pub fn block_values(volume: VolumeId, number: u64, block: &Block) -> Result<[Value; 8], Foreign> {
    let mut found = [ZERO; BLOCK_BYTES / SECTOR_BYTES];
    if let Block::Data(page) = block {
        for (index, sector) in page.bytes().chunks_exact(SECTOR_BYTES).enumerate() {
            found[index] = value_of(sector, volume, number * SECTORS_PER_BLOCK + index as u64)?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_damage_is_seen() {
        let (pages, volume, at) = (PagePool::new(), VolumeId(3), Sectors::new(13, 9));
        let data = payload(&pages, volume, at, 77);
        assert_eq!(values(volume, at, &data).unwrap(), vec![77; 9]);
        assert!(values(volume, Sectors::new(12, 1), &data).is_err(), "junk outside");
        assert!(values(VolumeId(4), at, &data).is_err(), "another volume's");
        let mut sector = data[0].bytes()[5 * 512..6 * 512].to_vec();
        sector[300] ^= 1;
        assert!(value_of(&sector, volume, 13).is_err(), "damaged");
        assert_eq!(value_of(&[0; 512], volume, 13), Ok(ZERO));
    }
}
