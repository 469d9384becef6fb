//! Writes the metadata as they were at one moment, frame by frame, while they go on changing: the maps are
//! shared copy-on-write, the rest is encoded at once.
//!
//! A change log that is too ragged for its room is written coarser: whole pages, then the whole volume. It may
//! name too much after a restart, never too little.

use std::sync::Arc;

use super::checkpoint_maps::MapWriter;
use super::codec;
use super::layout::Layout;
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
    maps: MapWriter,
}

impl CheckpointWriter {
    /// Takes the metadata as they are now. `None` if what is not map does not fit into its room.
    pub(super) fn new(
        pool: u128,
        number: u64,
        metadata: &Metadata,
        layout: &Layout,
    ) -> Option<CheckpointWriter> {
        let (side_bytes, extent_bytes) = (layout.side_bytes(), layout.extent_bytes);
        let fits = |side: &Vec<u8>| side.len() as u64 <= side_bytes;
        let side = (0..3).map(|level| side_records(metadata, level)).find(fits)?;
        let maps = MapWriter::new(metadata, extent_bytes);
        Some(CheckpointWriter { pool, number, frame: 0, bytes: 0, side, side_done: 0, maps })
    }

    /// Leaves the blocks that read as zero out (only a planted bug does that).
    pub(super) fn forget_zeros(&mut self) {
        self.maps.without_zeros = true;
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
            while self.maps.next(&mut frame) {
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
}

/// Everything but the maps, with the change logs at this coarseness: 0 exact, 1 whole pages, 2 whole volumes.
fn side_records(metadata: &Metadata, coarseness: u32) -> Vec<u8> {
    let mut out = Vec::new();
    codec::encode(&Record::Node(metadata.node), &mut out);
    for (id, volume) in metadata.volumes() {
        let (uuid, sectors, mirrored) = (volume.uuid, volume.sectors, volume.mirrored);
        codec::encode(&Record::VolumeCreate { volume: id, uuid, sectors, mirrored }, &mut out);
        if let Some(kin) = &volume.kin {
            codec::encode_kin(id, kin, &mut out);
        }
        if volume.change > 0 {
            codec::encode(&volume.state_record(id), &mut out);
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
