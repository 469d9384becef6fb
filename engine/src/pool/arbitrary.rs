//! Opens pools made of any bytes at all, for the fuzz target: the outcome is a pool that passes its check or an
//! error, never a panic, and never more memory than the image is worth.
//!
//! Random bytes rarely have a right checksum. So the first byte chooses where the others go, and whether they are
//! sealed with the checksums that they would need. Its highest bit makes the disk large enough for two copies of the
//! metadata, of which the second stays as it was.

use super::check::{CheckReport, check};
use super::create::{FormatIds, format};
use super::error::OpenError;
use super::layout::PoolOptions;
use super::opening::Opening;
use super::record::Record;
use super::{Pool, PoolIo};
use crate::block::{BLOCK_BYTES, Block, PagePool, Payload, payload_from};
use crate::format::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::format::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, Superblock};
use crate::ids::{NodeName, Uuid};
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};

/// Of the disk, without and with a second copy of the metadata.
const IMAGE_BYTES: [usize; 2] = [1 << 20, 8 << 20];
const POOL: Uuid = Uuid(0x7001);

/// Opens a small pool with `data` in it, and if it opens, checks it, uses it, and opens it again.
///
/// # Panics
/// If the pool breaks a promise: that is what is looked for.
pub fn open_arbitrary(data: &[u8]) -> Result<CheckReport, OpenError> {
    let copies = data.first().is_some_and(|mode| mode & 0x80 != 0);
    let mut image = image(IMAGE_BYTES[usize::from(copies)]);
    if let Some((mode, rest)) = data.split_first() {
        match mode % 4 {
            0 => scatter(&mut image, rest),
            1 => superblock(&mut image, rest),
            2 => checkpoint(&mut image, rest),
            _ => log(&mut image, rest),
        }
    }
    let mut pool = open(&mut image)?;
    let report = check(&pool);
    assert!(report.is_clean(), "a pool that opens is sound: {report:?}");
    pool.append(&[Record::Node(pool.metadata().node)]);
    pool.checkpoint();
    while let Some(io) = pool.poll_io() {
        let result = submit(&mut image, &io.op);
        pool.io_done(io.token, result);
    }
    if pool.failed().is_none() {
        let again = open(&mut image)?;
        assert_eq!(again.durable(), pool.durable(), "what is durable is found again");
    }
    Ok(report)
}

/// A formatted disk.
fn image(bytes: usize) -> Vec<u8> {
    let (uuids, node) = (vec![Uuid(0x7002)], NodeName::A);
    let ids = FormatIds { pool: POOL, disks: uuids, partnership: Uuid(0x7003), node };
    let options = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };
    let geometry = Geometry { bytes: bytes as u64, sector_bytes: 512 };
    let mut image = vec![0; bytes];
    for write in format(&ids, &options, &[geometry]).expect("the options are sound") {
        let op = DiskOp::Write { offset: write.offset, data: write.data };
        submit(&mut image, &op).expect("it lies inside the image");
    }
    image
}

fn open(image: &mut [u8]) -> Result<Pool, OpenError> {
    let mut opening = Opening::new(&[Geometry { bytes: image.len() as u64, sector_bytes: 512 }]);
    while let Some(PoolIo { token, op, .. }) = opening.poll_io() {
        let result = submit(image, &op);
        opening.io_done(token, result);
    }
    opening.done().expect("an opening that asks for nothing has ended").map(|(pool, _)| pool)
}

fn submit(image: &mut [u8], op: &DiskOp) -> DiskResult {
    match op {
        DiskOp::Read { offset, blocks } => {
            let from = usize::try_from(*offset).map_err(|_| DiskError::Invalid)?;
            let bytes = from.checked_add(*blocks as usize * BLOCK_BYTES).and_then(|to| image.get(from..to));
            Ok(payload_from(&PagePool::new(), bytes.ok_or(DiskError::Invalid)?))
        }
        DiskOp::Write { offset, data } => {
            let from = usize::try_from(*offset).map_err(|_| DiskError::Invalid)?;
            let to = from.checked_add(data.len() * BLOCK_BYTES).ok_or(DiskError::Invalid)?;
            let place = image.get_mut(from..to).ok_or(DiskError::Invalid)?;
            let blocks = place.chunks_mut(BLOCK_BYTES).zip(data);
            blocks.for_each(|(place, block): (_, &Block)| place.copy_from_slice(block.bytes()));
            Ok(Payload::new())
        }
        DiskOp::Flush => Ok(Payload::new()),
    }
}

/// Pieces of up to 64 bytes, each at a place of its own in the metadata: 3 bytes of place, 1 of length, the bytes.
fn scatter(image: &mut [u8], mut data: &[u8]) {
    while let Some((head, rest)) = data.split_first_chunk::<4>() {
        let place = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize % image.len();
        let length = usize::from(head[3] % 65).min(rest.len()).min(image.len() - place);
        image[place..place + length].copy_from_slice(&rest[..length]);
        data = &rest[length..];
    }
}

/// Changes to the fields of both copies of the superblock: 1 byte of place in units of 4 bytes, 4 bytes to add.
fn superblock(image: &mut [u8], data: &[u8]) {
    for offset in SUPERBLOCK_OFFSETS {
        let offset = offset as usize;
        for change in data.chunks_exact(5) {
            let place = offset + usize::from(change[0]) * 4;
            for (byte, change) in image[place..place + 4].iter_mut().zip(&change[1..]) {
                *byte = byte.wrapping_add(*change);
            }
        }
        let block: Superblock = bytemuck::pod_read_unaligned(&image[offset..offset + SUPERBLOCK_BYTES]);
        image[offset..offset + SUPERBLOCK_BYTES].copy_from_slice(&block.seal());
    }
}

/// The bytes are the records of the checkpoint, sealed.
fn checkpoint(image: &mut [u8], data: &[u8]) {
    let offset = SUPERBLOCK_OFFSETS[0] as usize;
    let block: Superblock = bytemuck::pod_read_unaligned(&image[offset..offset + SUPERBLOCK_BYTES]);
    let payload = &data[..data.len().min(BLOCK_BYTES - HEADER_BYTES)];
    let frame = seal(FrameKind::Checkpoint, block.checkpoint_number.get(), 0, 0, payload);
    let area = block.checkpoint_offsets[(block.checkpoint_number.get() % 2) as usize].get() as usize;
    image[area..area + frame.len()].copy_from_slice(&frame);
}

/// The bytes are log entries: each with 2 bytes of length, and a sequence that may skip.
fn log(image: &mut [u8], mut data: &[u8]) {
    let offset = SUPERBLOCK_OFFSETS[0] as usize;
    let block: Superblock = bytemuck::pod_read_unaligned(&image[offset..offset + SUPERBLOCK_BYTES]);
    let (area, end) =
        (block.log_offset.get() as usize, (block.log_offset.get() + block.log_bytes.get()) as usize);
    let (mut place, mut sequence, mut record) = (area, 1, 1);
    while let Some((head, rest)) = data.split_first_chunk::<2>() {
        let word = u16::from_le_bytes(*head);
        let length = usize::from(word >> 3).min(rest.len());
        sequence += u64::from(word & 7 == 7);
        let payload = &rest[..length];
        let frame = seal(FrameKind::Log, sequence, record, sequence - 1, payload);
        if place + frame.len() > end {
            return;
        }
        image[place..place + frame.len()].copy_from_slice(&frame);
        record += u64::from(records(payload));
        sequence += 1;
        place += frame.len().next_multiple_of(BLOCK_BYTES);
        data = &rest[length..];
    }
}

fn seal(kind: FrameKind, sequence: u64, place: u64, flushed: u64, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader::seal(kind, POOL.0, sequence, place, flushed, records(payload), payload);
    [bytemuck::bytes_of(&header), payload].concat()
}

/// How many records these bytes look like.
fn records(mut payload: &[u8]) -> u32 {
    let mut count = 0;
    while let Ok(length) = super::codec::length(payload) {
        payload = &payload[length..];
        count += 1;
    }
    count
}
