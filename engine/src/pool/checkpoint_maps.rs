//! The part of a checkpoint that says where extents lie: volume by volume, a clone as what it has otherwise than a volume
//! before it.
//!
//! A volume comes before its clones; of its snapshots the newest comes first and begins as the volume, each older one
//! begins as the one that was taken after it; what hosts may write begins as the snapshot that it was made of. So what
//! neighbours share is written once, and shares its memory again when it has been read.

use std::collections::{BTreeMap, VecDeque};

use super::codec::{self, MAP_ENTRY_BYTES, TABLE_HEAD_BYTES};
use super::extent_map::ExtentMap;
use super::metadata::{Kin, Metadata};
use crate::format::frame::CHECKPOINT_FRAME_BYTES_MAX;
use crate::format::record::kind;
use crate::ids::VolumeId;

/// The map of a volume, and which one before it is the most like it.
#[derive(Debug)]
struct Part {
    volume: VolumeId,
    map: ExtentMap,
    base: Option<usize>,
    /// Extents that the volume has room for: of its base, a reader takes no others.
    end: u64,
}

/// What of a map comes next.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Base,
    Map,
    Unmap,
    Zeros,
}

/// The maps of all volumes, as they were when it was made.
#[derive(Debug)]
pub(super) struct MapWriter {
    parts: Vec<Part>,
    /// What is to be written of which of them.
    steps: VecDeque<(usize, Phase)>,
    /// The extent from which on the first step is to be done.
    from: u64,
    /// For a planted bug: blocks that read as zero are left out.
    pub(super) without_zeros: bool,
}

/// What became of a record.
enum Wrote {
    /// It goes on from here.
    Up(u64),
    /// There is no room in this frame.
    Full,
    /// Nothing is left to say.
    Nothing,
}

impl MapWriter {
    /// For extents of so many bytes.
    pub(super) fn new(metadata: &Metadata, extent_bytes: u64) -> MapWriter {
        let (parts, lone) = parts(metadata, extent_bytes / 512);
        let of_lone = |phase| (0..lone).map(move |at| (at, phase));
        let phases = [Phase::Base, Phase::Map, Phase::Unmap, Phase::Zeros];
        // A clone begins with the zeros of its base too, so these come first.
        let of_families = (lone..parts.len()).flat_map(|at| phases.map(|phase| (at, phase)));
        let steps = of_lone(Phase::Map).chain(of_lone(Phase::Zeros)).chain(of_families).collect();
        MapWriter { parts, steps, from: 0, without_zeros: false }
    }

    /// How many places it names at most, with three extents that are not mapped for one.
    pub(super) fn entries(&self) -> u64 {
        let nothing = ExtentMap::new();
        let of = |part: &Part| {
            let base = part.base.map_or(&nothing, |base| &self.parts[base].map);
            let missing = if part.base.is_some() { missing(part, base, 0).count() } else { 0 };
            part.map.changed_from(base, 0).count() + missing.div_ceil(3)
        };
        self.parts.iter().map(|part| of(part) as u64).sum()
    }

    /// Appends the next record to a frame; false if it does not fit or nothing is left.
    pub(super) fn next(&mut self, frame: &mut Vec<u8>) -> bool {
        while let Some(&(at, phase)) = self.steps.front() {
            match self.write(&self.parts[at], phase, frame) {
                Wrote::Up(from) => {
                    self.from = from;
                    return true;
                }
                Wrote::Full => return false,
                Wrote::Nothing => {
                    self.steps.pop_front();
                    self.from = 0;
                }
            }
        }
        false
    }

    fn write(&self, part: &Part, phase: Phase, frame: &mut Vec<u8>) -> Wrote {
        let nothing = ExtentMap::new();
        let base = part.base.map(|base| &self.parts[base]);
        let known = base.map_or(&nothing, |base| &base.map);
        // Extents end before 2^32: beyond that nothing is left.
        match (phase, u32::try_from(self.from), base) {
            (Phase::Base, Ok(0), Some(base)) => map_base(part.volume, base.volume, frame),
            (Phase::Map, Ok(from), _) => map_table(part, known, from, frame),
            (Phase::Unmap, Ok(from), Some(_)) => unmap_table(part, known, from, frame),
            (Phase::Zeros, Ok(from), _) if !self.without_zeros => zero_map(part, known, from, frame),
            _ => Wrote::Nothing,
        }
    }
}

/// All maps that say anything, each behind its base; and how many of them, the first, are of volumes without clones.
fn parts(metadata: &Metadata, extent_sectors: u64) -> (Vec<Part>, usize) {
    let mut clones: BTreeMap<VolumeId, Vec<(VolumeId, Kin)>> = BTreeMap::new();
    for (id, kin) in metadata.volumes().filter_map(|(id, meta)| Some((id, meta.kin?))) {
        clones.entry(kin.of).or_default().push((id, kin));
    }
    let mut families = Families { metadata, extent_sectors, parts: Vec::new(), clones };
    let alone = |id: VolumeId| metadata.family(id).nth(1).is_none();
    for (volume, _) in metadata.volumes().filter(|(id, _)| alone(*id)) {
        families.push(volume, None);
    }
    let lone = families.parts.len();
    // Of clones whose model is gone each begins as the next newer one.
    let mut newest: BTreeMap<VolumeId, usize> = BTreeMap::new();
    let ids: Vec<VolumeId> = metadata.volumes().map(|(id, _)| id).filter(|id| !alone(*id)).collect();
    for id in ids.into_iter().rev() {
        let kin = metadata.volume(id).and_then(|meta| meta.kin);
        let of = kin.map(|kin| kin.of).filter(|of| metadata.volume(*of).is_none());
        if kin.is_none() || of.is_some() {
            let base = of.and_then(|of| newest.get(&of).copied());
            let own = families.add(id, base);
            newest.extend(of.zip(own));
        }
    }
    (families.parts, lone)
}

/// Puts the maps of families in order.
struct Families<'a> {
    metadata: &'a Metadata,
    extent_sectors: u64,
    parts: Vec<Part>,
    /// What was made of each volume, by number.
    clones: BTreeMap<VolumeId, Vec<(VolumeId, Kin)>>,
}

impl Families<'_> {
    /// A volume, unless nothing is mapped of it. Returns what those after it may begin as: it, or else its own base.
    fn push(&mut self, volume: VolumeId, base: Option<usize>) -> Option<usize> {
        let Some(meta) = self.metadata.volume(volume).filter(|meta| !meta.map.is_empty()) else {
            return base;
        };
        let end = meta.sectors.div_ceil(self.extent_sectors);
        self.parts.push(Part { volume, map: meta.map.clone(), base, end });
        Some(self.parts.len() - 1)
    }

    /// A volume, then its snapshots, the newest first, each followed by what was made of it.
    fn add(&mut self, first: VolumeId, base: Option<usize>) -> Option<usize> {
        let own = self.push(first, base);
        let mut left = vec![(first, own)];
        while let Some((volume, own)) = left.pop() {
            let mut newer = own;
            for (id, kin) in self.clones.remove(&volume).unwrap_or_default().into_iter().rev() {
                let place = self.push(id, if kin.read_only { newer } else { own });
                newer = if kin.read_only { place } else { newer };
                left.push((id, place));
            }
        }
        own
    }
}

/// The extents that a reader would take over from the base, and that the volume has not.
fn missing<'a>(part: &'a Part, base: &'a ExtentMap, from: u32) -> impl Iterator<Item = u32> + 'a {
    part.map.missing_from(base, from).take_while(|extent| u64::from(*extent) < part.end)
}

fn map_base(volume: VolumeId, base: VolumeId, frame: &mut Vec<u8>) -> Wrote {
    if frame.len() + codec::MAP_BASE_BYTES > CHECKPOINT_FRAME_BYTES_MAX {
        return Wrote::Full;
    }
    codec::encode_map_base(volume, base, frame);
    Wrote::Up(1)
}

/// How many entries of a table fit into the frame.
fn room(frame: &[u8], entry_bytes: usize) -> usize {
    (CHECKPOINT_FRAME_BYTES_MAX - frame.len()).saturating_sub(TABLE_HEAD_BYTES + 8) / entry_bytes
}

/// As much of the map as fits.
fn map_table(part: &Part, base: &ExtentMap, from: u32, frame: &mut Vec<u8>) -> Wrote {
    let mut changed = part.map.changed_from(base, from).peekable();
    if changed.peek().is_none() {
        return Wrote::Nothing;
    }
    let (room, mut to) = (room(frame, MAP_ENTRY_BYTES), 0);
    let mut entries = Vec::with_capacity(room * MAP_ENTRY_BYTES);
    for (extent, slot) in changed.take(room) {
        entries.extend_from_slice(bytemuck::bytes_of(&codec::map_body(extent, slot)));
        to = u64::from(extent) + 1;
    }
    if entries.is_empty() {
        return Wrote::Full;
    }
    codec::encode_table(kind::MAP_TABLE, part.volume, entries.len() / MAP_ENTRY_BYTES, &entries, frame);
    Wrote::Up(to)
}

/// As many of the extents that only the base has as fit.
fn unmap_table(part: &Part, base: &ExtentMap, from: u32, frame: &mut Vec<u8>) -> Wrote {
    let mut missing = missing(part, base, from).peekable();
    if missing.peek().is_none() {
        return Wrote::Nothing;
    }
    let (mut entries, mut to) = (Vec::new(), 0);
    for extent in missing.take(room(frame, 4)) {
        entries.extend_from_slice(&extent.to_le_bytes());
        to = u64::from(extent) + 1;
    }
    if entries.is_empty() {
        return Wrote::Full;
    }
    codec::encode_table(kind::UNMAP_TABLE, part.volume, entries.len() / 4, &entries, frame);
    Wrote::Up(to)
}

/// The next extent's blocks that read as zero.
fn zero_map(part: &Part, base: &ExtentMap, from: u32, frame: &mut Vec<u8>) -> Wrote {
    let Some((extent, bits)) = part.map.zeros_changed_from(base, from).next() else { return Wrote::Nothing };
    let length = codec::zero_map_bytes(bits.words().len() as u64 * 64);
    if frame.len() + length as usize > CHECKPOINT_FRAME_BYTES_MAX {
        return Wrote::Full;
    }
    codec::encode_zero_map(part.volume, extent, &bits, frame);
    Wrote::Up(u64::from(extent) + 1)
}
