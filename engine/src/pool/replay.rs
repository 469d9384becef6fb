//! Turns what was read from a checkpoint and the log back into metadata. Bytes come in as they lie on disk, in
//! pieces; the answers say how far they were understood. Nothing here trusts a number that it read.

use super::codec::{self, Malformed, Stored};
use super::families;
use super::layout::Layout;
use super::metadata::Metadata;
use super::record::Record;
use super::validate;
use crate::bits::PAGE_BITS;
use crate::block::BLOCK_BYTES;
use crate::format::frame::{CHECKPOINT_FRAME_BYTES_MAX, ENTRY_BYTES_MAX, FrameHeader, FrameKind};
use crate::planted::{Bug, Planted};

/// Metadata being put together.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) metadata: Metadata,
    /// The last record contained.
    pub(super) lsn: u64,
    /// The next frame of the checkpoint.
    frame: u64,
    /// The next entry of the log.
    pub(super) sequence: u64,
    /// The number that its first record must have, once the first entry has been seen.
    next_record: Option<u64>,
    pub(super) entries: u64,
    pub(super) records: u64,
    planted: Planted,
}

/// What is at a place of the log, or of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// The entry or frame that belongs there, of this many bytes.
    Good(usize),
    /// It begins, but goes beyond the bytes given.
    Cut,
    /// Not the entry that belongs there. True: its header is, so it was torn.
    Bad(bool),
}

impl Replay {
    pub(super) fn new(lsn: u64, sequence: u64, planted: Planted) -> Replay {
        Replay {
            metadata: Metadata::new(),
            lsn,
            frame: 0,
            sequence,
            next_record: None,
            entries: 0,
            records: 0,
            planted,
        }
    }

    /// What is at the beginning of `bytes`: the next frame of checkpoint `number`?
    pub(super) fn look_frame(&self, bytes: &[u8], pool: u128, number: u64) -> Entry {
        let Some(header) = FrameHeader::parse(bytes, FrameKind::Checkpoint, pool) else {
            return Entry::Bad(false);
        };
        let fits = header.bytes() <= CHECKPOINT_FRAME_BYTES_MAX;
        if header.sequence.get() != number || header.place.get() != self.frame || !fits {
            return Entry::Bad(false);
        }
        if header.bytes() > bytes.len() {
            return Entry::Cut;
        }
        if header.payload(bytes).is_some() { Entry::Good(header.bytes()) } else { Entry::Bad(true) }
    }

    /// Takes that frame, which is whole.
    pub(super) fn take_frame(&mut self, bytes: &[u8], layout: &Layout) -> Result<(), &'static str> {
        let (header, payload) = FrameHeader::split(bytes);
        each_record(payload, header.records.get(), |record| self.apply_stored(record, layout))?;
        self.frame += 1;
        Ok(())
    }

    /// What is at the beginning of `bytes`: the next entry?
    pub(super) fn look_entry(&self, bytes: &[u8], pool: u128) -> Entry {
        let Some(header) = FrameHeader::parse(bytes, FrameKind::Log, pool) else {
            return Entry::Bad(false);
        };
        if header.sequence.get() != self.sequence && !self.planted.has(Bug::LogWithoutSequence) {
            return Entry::Bad(false);
        }
        if header.bytes() > ENTRY_BYTES_MAX {
            return Entry::Bad(true);
        }
        if header.bytes() > bytes.len() {
            return Entry::Cut;
        }
        if header.payload(bytes).is_some() { Entry::Good(header.bytes()) } else { Entry::Bad(true) }
    }

    /// Takes that entry, which is whole.
    pub(super) fn take_entry(&mut self, bytes: &[u8], layout: &Layout) -> Result<(), &'static str> {
        let careless = self.planted.has(Bug::LogWithoutSequence);
        let (header, payload) = FrameHeader::split(bytes);
        let first = header.place.get();
        let follows = match self.next_record {
            Some(expected) => first == expected,
            None => first != 0 && first <= self.lsn + 1,
        };
        if !follows && !careless {
            return Err("a log entry whose records do not follow those before");
        }
        let mut number = first;
        each_record(payload, header.records.get(), |stored| {
            // What the checkpoint contains is not applied again: a part of it would bring back what later records undid.
            if number > self.lsn || self.planted.has(Bug::ReplayNotIdempotent) || careless {
                self.apply_stored(stored, layout)?;
                self.lsn = self.lsn.max(number);
                self.records += 1;
            }
            number += 1;
            Ok(())
        })?;
        self.next_record = Some(number);
        self.sequence = header.sequence.get() + 1;
        self.entries += 1;
        Ok(())
    }

    /// Is there, anywhere in these bytes of the log beyond its end, proof that the entry missing there had been
    /// flushed?
    pub(super) fn proves_rot(&self, bytes: &[u8], pool: u128) -> bool {
        let later = |header: FrameHeader| {
            header.sequence.get() > self.sequence && header.flushed.get() >= self.sequence
        };
        bytes
            .chunks(BLOCK_BYTES)
            .any(|block| FrameHeader::parse(block, FrameKind::Log, pool).is_some_and(later))
    }

    fn apply_stored(&mut self, stored: Stored<'_>, layout: &Layout) -> Result<(), &'static str> {
        match stored {
            Stored::Record(record) => self.apply(&record, layout),
            Stored::MapTable(volume, entries) => {
                entries.chunks_exact(codec::MAP_ENTRY_BYTES).try_for_each(|entry| {
                    let (extent, slot) = codec::map_entry(entry).map_err(|Malformed(what)| what)?;
                    self.apply(&Record::Map { volume, extent, slot }, layout)
                })
            }
            Stored::HotTable(volume, areas) => areas.chunks_exact(4).try_for_each(|area| {
                let area = u32::from_le_bytes(area.try_into().expect("four bytes"));
                self.apply(&Record::HotAdd { volume, area }, layout)
            }),
            Stored::LogPage(volume, index, words) => {
                let first = index.checked_mul(PAGE_BITS).ok_or("a page of no change log")?;
                let beyond = words.iter().rev().take_while(|word| **word == 0).count() as u64 * 64;
                let last = words
                    .iter()
                    .rev()
                    .find(|word| **word != 0)
                    .map_or(0, |word| u64::from(word.leading_zeros()));
                let count = PAGE_BITS - (beyond + last).min(PAGE_BITS);
                validate::check(&Record::LogAdd { volume, first, count }, &self.metadata, layout)?;
                self.metadata.log_page(volume, index, &words);
                Ok(())
            }
            Stored::Kin(volume, kin) => {
                families::check_kin(&self.metadata, volume, &kin).map(|()| self.metadata.set_kin(volume, kin))
            }
            Stored::MapBase(volume, base) => families::check_base(&self.metadata, volume, base)
                .map(|()| self.metadata.map_base(volume, base, layout.extent_bytes / 512)),
            Stored::UnmapTable(volume, extents) => extents.chunks_exact(4).try_for_each(|extent| {
                let extent = u32::from_le_bytes(extent.try_into().expect("four bytes"));
                self.apply(&Record::Unmap { volume, extent }, layout)
            }),
            Stored::ZeroMap(volume, extent, bits) => {
                if !validate::zeros(&self.metadata, layout, volume, extent, (0, bits.end())) {
                    return Err("blocks that read as zero in an extent that is not mapped");
                }
                self.metadata.zero_map(volume, extent, bits);
                Ok(())
            }
        }
    }

    fn apply(&mut self, record: &Record, layout: &Layout) -> Result<(), &'static str> {
        validate::check(record, &self.metadata, layout)?;
        self.metadata.apply(record);
        Ok(())
    }
}

/// Walks the records of a frame, whose checksum was right: a wrong one is damage of another kind.
fn each_record(
    mut payload: &[u8],
    records: u32,
    mut take: impl FnMut(Stored<'_>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let mut count = 0;
    while !payload.is_empty() {
        let length = codec::length(payload).map_err(|Malformed(what)| what)?;
        let (record, rest) = payload.split_at(length);
        take(codec::decode(record).map_err(|Malformed(what)| what)?)?;
        payload = rest;
        count += 1;
    }
    if count == records { Ok(()) } else { Err("a frame with another number of records than it says") }
}
