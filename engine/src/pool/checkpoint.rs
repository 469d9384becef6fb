//! Writes the metadata as they were at one moment, frame by frame, while they go on changing: the maps are
//! shared copy-on-write, the rest is encoded at once.
//!
//! A change log that is too ragged for its room is written coarser: whole pages, then the whole volume. It may
//! name too much after a restart, never too little.

use std::sync::Arc;

use super::codec::{self, MAP_ENTRY_BYTES, TABLE_HEAD_BYTES};
use super::extent_map::ExtentMap;
use super::metadata::{Metadata, VolumeMeta};
use super::record::Record;
use super::validate::REGION_SECTORS;
use crate::bits::{BitSet, PAGE_BITS};
use crate::format::frame::{CHECKPOINT_FRAME_BYTES_MAX, FrameHeader, FrameKind, HEADER_BYTES, frame_bytes};
use crate::format::record::kind;
use crate::guest::Item;
use crate::ids::{DiskId, VolumeId};

const HOT_AREAS_PER_TABLE: usize = 1024;
/// Runs of a page of the change log that take as much room as the page itself.
const RUNS_PER_PAGE: usize = 21;

/// A checkpoint being written.
#[derive(Debug)]
pub(super) struct CheckpointWriter {
    pool: u128,
    number: u64,
    frame: u64,
    /// Bytes of the area used so far.
    bytes: u64,
    /// Records of everything but the maps.
    side: Vec<u8>,
    side_done: usize,
    maps: Vec<(VolumeId, ExtentMap)>,
    /// The next extent to write: index into `maps`, and extent.
    next: (usize, u64),
    /// The same for the blocks that read as zero: they follow the maps, for they need them.
    next_zeros: (usize, u64),
}

impl CheckpointWriter {
    /// Takes the metadata as they are now. `None` if what is not map does not fit into `side_bytes`.
    pub(super) fn new(
        pool: u128,
        number: u64,
        metadata: &Metadata,
        side_bytes: u64,
    ) -> Option<CheckpointWriter> {
        let fits = |side: &Vec<u8>| side.len() as u64 <= side_bytes;
        let side = (0..3).map(|level| side_records(metadata, level)).find(fits)?;
        let maps = metadata.volumes().filter(|(_, volume)| !volume.map.is_empty());
        let maps = maps.map(|(id, volume)| (id, volume.map.clone())).collect();
        let (next, next_zeros) = ((0, 0), (0, 0));
        Some(CheckpointWriter {
            pool,
            number,
            frame: 0,
            bytes: 0,
            side,
            side_done: 0,
            maps,
            next,
            next_zeros,
        })
    }

    /// Leaves the blocks that read as zero out (only a planted bug does that).
    pub(super) fn forget_zeros(&mut self) {
        self.next_zeros = (self.maps.len(), 0);
    }

    /// Bytes that the frames so far take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame: where it goes in the area, and its bytes.
    pub(super) fn next_frame(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut frame = vec![0; HEADER_BYTES];
        let mut records = 0;
        while let Some(length) = self.next_side_record() {
            if frame.len() + length > CHECKPOINT_FRAME_BYTES_MAX {
                break;
            }
            frame.extend_from_slice(&self.side[self.side_done..self.side_done + length]);
            self.side_done += length;
            records += 1;
        }
        if self.side_done == self.side.len() {
            while self.table(&mut frame) || self.zero_map(&mut frame) {
                records += 1;
            }
        }
        if records == 0 {
            return None;
        }
        let (header, payload) = frame.split_at_mut(HEADER_BYTES);
        let sealed =
            FrameHeader::seal(FrameKind::Checkpoint, self.pool, self.number, self.frame, 0, records, payload);
        header.copy_from_slice(bytemuck::bytes_of(&sealed));
        let at = self.bytes;
        self.bytes += frame_bytes(payload.len()) as u64;
        self.frame += 1;
        Some((at, frame))
    }

    fn next_side_record(&self) -> Option<usize> {
        let rest = &self.side[self.side_done..];
        (!rest.is_empty()).then(|| codec::length(rest).expect("the records were encoded here"))
    }

    /// Appends a table with as much of the current map as fits; false if nothing fits or nothing is left.
    fn table(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some((volume, map)) = self.maps.get(self.next.0) else { return false };
        let room =
            (CHECKPOINT_FRAME_BYTES_MAX - frame.len()).saturating_sub(TABLE_HEAD_BYTES + 8) / MAP_ENTRY_BYTES;
        if room == 0 {
            return false;
        }
        let mut entries = Vec::with_capacity(room * MAP_ENTRY_BYTES);
        let from = self.next.1 as u32;
        let mut rest = map.iter_from(from);
        for (extent, slot) in rest.by_ref().take(room) {
            entries.extend_from_slice(bytemuck::bytes_of(&codec::map_body(extent, slot)));
        }
        let following = rest.next().map(|(extent, _)| u64::from(extent));
        codec::encode_table(kind::MAP_TABLE, *volume, entries.len() / MAP_ENTRY_BYTES, &entries, frame);
        self.next = match following {
            Some(extent) => (self.next.0, extent),
            None => (self.next.0 + 1, 0),
        };
        true
    }
}

impl CheckpointWriter {
    /// Appends the next extent's blocks that read as zero; false if they do not fit or nothing is left. No map is left.
    fn zero_map(&mut self, frame: &mut Vec<u8>) -> bool {
        if self.next.0 < self.maps.len() {
            return false;
        }
        while let Some((volume, map)) = self.maps.get(self.next_zeros.0) {
            let Some((extent, bits)) = map.zeros_from(self.next_zeros.1 as u32).next() else {
                self.next_zeros = (self.next_zeros.0 + 1, 0);
                continue;
            };
            let length = codec::zero_map_bytes(bits.words().len() as u64 * 64);
            if frame.len() + length as usize > CHECKPOINT_FRAME_BYTES_MAX {
                return false;
            }
            codec::encode_zero_map(*volume, extent, bits, frame);
            self.next_zeros.1 = u64::from(extent) + 1;
            if self.next_zeros.1 > u64::from(u32::MAX) {
                self.next_zeros = (self.next_zeros.0 + 1, 0);
            }
            return true;
        }
        false
    }
}

/// Everything but the maps, with the change logs at this coarseness: 0 exact, 1 whole pages, 2 whole volumes.
fn side_records(metadata: &Metadata, coarseness: u32) -> Vec<u8> {
    let mut out = Vec::new();
    codec::encode(&Record::Node(metadata.node), &mut out);
    for (id, volume) in metadata.volumes() {
        let (uuid, sectors, mirrored) = (volume.uuid, volume.sectors, volume.mirrored);
        codec::encode(&Record::VolumeCreate { volume: id, uuid, sectors, mirrored }, &mut out);
        if volume.change > 0 {
            let (change, epoch, deleted) = (volume.change, volume.changed_in, volume.deleted);
            codec::encode(&Record::VolumeState { volume: id, sectors, change, epoch, deleted }, &mut out);
        }
        for (&name, Item { revision, value }) in &volume.items {
            let (revision, value) = (*revision, Arc::clone(value));
            codec::encode(&Record::VolumeItem { volume: id, name, revision, value }, &mut out);
        }
        let (generation, ancestors) = (volume.generation, volume.ancestors.clone());
        codec::encode(&Record::Half { volume: id, generation, ancestors }, &mut out);
        let areas: Vec<u8> = volume.hot.iter().flat_map(|area| area.to_le_bytes()).collect();
        for table in areas.chunks(4 * HOT_AREAS_PER_TABLE) {
            codec::encode_table(kind::HOT_TABLE, id, table.len() / 4, table, &mut out);
        }
        change_log(id, volume, coarseness, &mut out);
    }
    for (disk, lines) in metadata.unsure() {
        unsure(disk, lines, coarseness, &mut out);
    }
    out
}

/// Exact, or whole pages of 4096 lines up to the last, or one run: it may name too much after a restart, which is then
/// looked at.
fn unsure(disk: DiskId, lines: &BitSet, coarseness: u32, out: &mut Vec<u8>) {
    let runs = lines.runs();
    let end = runs.last().map_or(0, |(first, count)| first + count);
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, count) in runs {
        let (from, to) = match coarseness {
            0 => (first, first + count),
            1 => (first / PAGE_BITS * PAGE_BITS, (first + count).next_multiple_of(PAGE_BITS).min(end)),
            _ => (0, end),
        };
        match merged.last_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => merged.push((from, to)),
        }
    }
    for (mut first, to) in merged {
        while first < to {
            let count = u32::try_from(to - first).unwrap_or(u32::MAX);
            codec::encode(&Record::UnsureAdd { disk, first, count }, out);
            first += u64::from(count);
        }
    }
}

fn change_log(id: VolumeId, volume: &VolumeMeta, coarseness: u32, out: &mut Vec<u8>) {
    let regions = volume.sectors.div_ceil(REGION_SECTORS);
    if coarseness == 2 {
        let run = (!volume.log.is_empty()).then_some((0, regions));
        return flush_run(id, run, out);
    }
    let mut run: Option<(u64, u64)> = None;
    let mut add = |first: u64, end: u64, out: &mut Vec<u8>| match &mut run {
        Some((_, last)) if *last == first => *last = end,
        _ => flush_run(id, run.replace((first, end)), out),
    };
    for (index, pages, words) in volume.log.pages() {
        let Some(words) = words.filter(|_| coarseness == 0) else {
            add(index * PAGE_BITS, ((index + pages) * PAGE_BITS).min(regions), out);
            continue;
        };
        let mut page = BitSet::new();
        page.insert_page(index, words);
        let runs = page.runs();
        if runs.len() < RUNS_PER_PAGE {
            runs.iter().for_each(|(first, count)| add(*first, first + count, out));
        } else {
            codec::encode_log_page(id, index, words, out);
        }
    }
    flush_run(id, run, out);
}

fn flush_run(volume: VolumeId, run: Option<(u64, u64)>, out: &mut Vec<u8>) {
    if let Some((first, end)) = run {
        codec::encode(&Record::LogAdd { volume, first, count: end - first }, out);
    }
}
