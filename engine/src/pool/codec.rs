//! Records to bytes and back. Whatever the bytes, decoding ends with a record or an error, and allocates no more than the
//! bytes it was given.

#![deny(clippy::indexing_slicing)] // a length from a disk must never be trusted to fit

use bytemuck::{Pod, bytes_of, pod_read_unaligned};

use super::metadata::Kin;
use super::record::{ANCESTORS_MAX, ITEM_BYTES_MAX, NodeRecord, Record, Slot};
use super::zero_bits::{BLOCKS_MAX, ZeroBits};
use crate::bits::PageWords;
use crate::format::record::{
    CloneBody, CreateBody, HalfBody, IndexBody, ItemBody, KinBody, MapBody, NodeBody, RecordHead, RunBody,
    StateBody, TableBody, UnsureBody, ZeroBody, ZeroMapBody, kind,
};
use crate::ids::{DiskId, Epoch, Generation, ItemName, Members, Uuid, VolumeId};

/// Bytes of a record's head.
pub(super) const HEAD_BYTES: usize = size_of::<RecordHead>();
/// Bytes of one entry of a map table.
pub(super) const MAP_ENTRY_BYTES: usize = size_of::<MapBody>();
/// Bytes of the record that says which map another begins as.
pub(super) const MAP_BASE_BYTES: usize = HEAD_BYTES + size_of::<IndexBody>();
/// Bytes of a table before its entries.
pub(super) const TABLE_HEAD_BYTES: usize = HEAD_BYTES + size_of::<TableBody>();

/// What a frame contains: a record, or one of the tables that only checkpoints have.
#[derive(Debug)]
pub(super) enum Stored<'a> {
    /// A record.
    Record(Record),
    /// Places of extents: [`MapBody`] after [`MapBody`].
    MapTable(VolumeId, &'a [u8]),
    /// Hot areas, 4 bytes each.
    HotTable(VolumeId, &'a [u8]),
    /// A page of the change log.
    LogPage(VolumeId, u64, Box<PageWords>),
    /// All blocks of an extent that read as zero.
    ZeroMap(VolumeId, u32, ZeroBits),
    /// Whose clone a volume is.
    Kin(VolumeId, Kin),
    /// A volume's map begins as that of another.
    MapBase(VolumeId, VolumeId),
    /// Extents that are not mapped, unlike those of the base: 4 bytes each.
    UnmapTable(VolumeId, &'a [u8]),
}

/// The bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// Starts a record in `out`; [`finish`] sets its length.
fn begin(out: &mut Vec<u8>, kind: u8, volume: VolumeId) -> usize {
    let at = out.len();
    out.extend_from_slice(bytes_of(&RecordHead {
        kind,
        reserved: 0,
        units: 0.into(),
        volume: volume.0.into(),
    }));
    at
}

fn finish(out: &mut Vec<u8>, at: usize) {
    out.resize(at + (out.len() - at).next_multiple_of(8), 0);
    let units = u16::try_from((out.len() - at) / 8).expect("a record is far shorter than 512 KiB");
    let field = out.get_mut(at + 2..at + 4).expect("a record begins with its head");
    field.copy_from_slice(&units.to_le_bytes());
}

fn put(out: &mut Vec<u8>, kind: u8, volume: VolumeId, body: &[u8]) {
    let at = begin(out, kind, volume);
    out.extend_from_slice(body);
    finish(out, at);
}

fn put_index(out: &mut Vec<u8>, kind: u8, volume: VolumeId, index: u32) {
    put(out, kind, volume, bytes_of(&IndexBody { index: index.into(), reserved: 0.into() }));
}

fn put_run(out: &mut Vec<u8>, kind: u8, volume: VolumeId, first: u64, count: u64) {
    put(out, kind, volume, bytes_of(&RunBody { first: first.into(), count: count.into() }));
}

fn put_zeros(out: &mut Vec<u8>, kind: u8, volume: VolumeId, [extent, first, count]: [u32; 3]) {
    let (extent, first, count) = (extent.into(), first.into(), count.into());
    put(out, kind, volume, bytes_of(&ZeroBody { extent, first, count, reserved: 0.into() }));
}

fn put_lines(out: &mut Vec<u8>, kind: u8, disk: DiskId, first: u64, count: u32) {
    let (first, count, disk) = (first.into(), count.into(), disk.0.into());
    put(out, kind, VolumeId(0), bytes_of(&UnsureBody { first, count, disk, reserved: 0.into() }));
}

/// The place of an extent, as it is stored.
pub(super) fn map_body(extent: u32, slot: Slot) -> MapBody {
    MapBody { extent: extent.into(), index: slot.index.into(), disk: slot.disk.0.into(), flags: 0.into() }
}

/// Appends a record's bytes.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Node(node) => {
            let body = NodeBody {
                epoch: node.epoch.0.into(),
                proposed: node.proposed.0.into(),
                members: node.members.bits(),
                up_to_date: u8::from(node.up_to_date),
                complete: u8::from(node.complete),
                reserved: [0; 5],
            };
            put(out, kind::NODE, VolumeId(0), bytes_of(&body));
        }
        Record::VolumeCreate { volume, uuid, sectors, mirrored } => {
            let (uuid, sectors) = (uuid.0.into(), (*sectors).into());
            let body = CreateBody { uuid, sectors, mirrored: u8::from(*mirrored), reserved: [0; 7] };
            put(out, kind::VOLUME_CREATE, *volume, bytes_of(&body));
        }
        Record::VolumeState { volume, sectors, change, epoch, deleted, read_only } => {
            let (sectors, change, epoch) = ((*sectors).into(), (*change).into(), epoch.0.into());
            let (deleted, read_only) = (u8::from(*deleted), u8::from(*read_only));
            let body = StateBody { sectors, change, epoch, deleted, read_only, reserved: [0; 6] };
            put(out, kind::VOLUME_STATE, *volume, bytes_of(&body));
        }
        Record::VolumeItem { volume, name, revision, value } => {
            let bytes = (value.len() as u32).into();
            let at = begin(out, kind::VOLUME_ITEM, *volume);
            out.extend_from_slice(bytes_of(&ItemBody {
                revision: (*revision).into(),
                name: name.0.into(),
                bytes,
            }));
            out.extend_from_slice(value);
            finish(out, at);
        }
        Record::VolumeDelete { volume } => put(out, kind::VOLUME_DELETE, *volume, &[]),
        Record::VolumeClone { volume, of, uuid, read_only, mirrored } => {
            let (uuid, of) = (uuid.0.into(), of.0.into());
            let (read_only, mirrored) = (u8::from(*read_only), u8::from(*mirrored));
            let body = CloneBody { uuid, of, read_only, mirrored, reserved: [0; 2] };
            put(out, kind::VOLUME_CLONE, *volume, bytes_of(&body));
        }
        Record::MapShared { volume, extent, slot } => {
            put(out, kind::MAP_SHARED, *volume, bytes_of(&map_body(*extent, *slot)))
        }
        Record::Half { volume, generation, ancestors } => {
            let (kept, _) = ancestors.split_at(ancestors.len().min(ANCESTORS_MAX));
            let (generation, count) = (generation.0.into(), kept.len() as u8);
            let at = begin(out, kind::HALF, *volume);
            out.extend_from_slice(bytes_of(&HalfBody { generation, ancestors: count, reserved: [0; 7] }));
            kept.iter().for_each(|ancestor| out.extend_from_slice(&ancestor.0.to_le_bytes()));
            finish(out, at);
        }
        Record::Map { volume, extent, slot } => {
            put(out, kind::MAP, *volume, bytes_of(&map_body(*extent, *slot)))
        }
        Record::Unmap { volume, extent } => put_index(out, kind::UNMAP, *volume, *extent),
        Record::HotAdd { volume, area } => put_index(out, kind::HOT_ADD, *volume, *area),
        Record::HotRemove { volume, area } => put_index(out, kind::HOT_REMOVE, *volume, *area),
        Record::HotClear { volume } => put(out, kind::HOT_CLEAR, *volume, &[]),
        Record::LogAdd { volume, first, count } => put_run(out, kind::LOG_ADD, *volume, *first, *count),
        Record::LogRemove { volume, first, count } => put_run(out, kind::LOG_REMOVE, *volume, *first, *count),
        Record::LogClear { volume } => put(out, kind::LOG_CLEAR, *volume, &[]),
        Record::ZeroAdd { volume, extent, first, count } => {
            put_zeros(out, kind::ZERO_ADD, *volume, [*extent, *first, *count]);
        }
        Record::ZeroRemove { volume, extent, first, count } => {
            put_zeros(out, kind::ZERO_REMOVE, *volume, [*extent, *first, *count]);
        }
        Record::UnsureAdd { disk, first, count } => put_lines(out, kind::UNSURE_ADD, *disk, *first, *count),
        Record::UnsureRemove { disk, first, count } => {
            put_lines(out, kind::UNSURE_REMOVE, *disk, *first, *count);
        }
    }
}

/// Appends whose clone a volume is.
pub(super) fn encode_kin(volume: VolumeId, kin: &Kin, out: &mut Vec<u8>) {
    let (of, family, read_only) = (kin.of.0.into(), kin.family.0.into(), u8::from(kin.read_only));
    let body = KinBody { of, family, read_only, reserved: [0; 3], extents: kin.extents.into() };
    put(out, kind::KIN, volume, bytes_of(&body));
}

/// Appends which map a volume's begins as.
pub(super) fn encode_map_base(volume: VolumeId, base: VolumeId, out: &mut Vec<u8>) {
    put_index(out, kind::MAP_BASE, volume, base.0);
}

/// Appends a table: `entries` are the bytes of `count` entries.
pub(super) fn encode_table(kind: u8, volume: VolumeId, count: usize, entries: &[u8], out: &mut Vec<u8>) {
    let at = begin(out, kind, volume);
    out.extend_from_slice(bytes_of(&TableBody { count: (count as u32).into(), reserved: 0.into() }));
    out.extend_from_slice(entries);
    finish(out, at);
}

/// Appends a page of the change log.
pub(super) fn encode_log_page(volume: VolumeId, index: u64, words: &PageWords, out: &mut Vec<u8>) {
    let at = begin(out, kind::LOG_PAGE, volume);
    out.extend_from_slice(&index.to_le_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    finish(out, at);
}

/// Bytes that the blocks of an extent of `blocks` blocks that read as zero take at most.
pub(super) const fn zero_map_bytes(blocks: u64) -> u64 {
    (HEAD_BYTES + size_of::<ZeroMapBody>()) as u64 + blocks.div_ceil(64) * 8
}

/// Appends the blocks of an extent that read as zero.
pub(super) fn encode_zero_map(volume: VolumeId, extent: u32, bits: &ZeroBits, out: &mut Vec<u8>) {
    let at = begin(out, kind::ZERO_MAP, volume);
    let words = (bits.words().len() as u32).into();
    out.extend_from_slice(bytes_of(&ZeroMapBody { extent: extent.into(), words }));
    bits.words().iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    finish(out, at);
}

/// Length of the record at the beginning of `bytes`, as its head tells.
pub(super) fn length(bytes: &[u8]) -> Result<usize, Malformed> {
    let head: RecordHead = body(bytes)?;
    let length = usize::from(head.units.get()) * 8;
    if length < HEAD_BYTES || length > bytes.len() {
        return Err(Malformed("a record's length is wrong"));
    }
    Ok(length)
}

/// The record that `bytes` are, from the first to the last.
pub(super) fn decode(bytes: &[u8]) -> Result<Stored<'_>, Malformed> {
    let (head, rest) = split::<RecordHead>(bytes)?;
    let volume = VolumeId(head.volume.get());
    match head.kind {
        kind::ZERO_MAP => zero_map(volume, rest),
        kind::MAP_TABLE => Ok(Stored::MapTable(volume, table(rest, MAP_ENTRY_BYTES)?)),
        kind::HOT_TABLE => Ok(Stored::HotTable(volume, table(rest, 4)?)),
        kind::LOG_PAGE => log_page(volume, rest),
        kind::KIN => {
            let kin: KinBody = body(rest)?;
            let (of, family) = (VolumeId(kin.of.get()), VolumeId(kin.family.get()));
            let (read_only, extents) = (kin.read_only != 0, kin.extents.get());
            Ok(Stored::Kin(volume, Kin { of, family, read_only, extents }))
        }
        kind::MAP_BASE => Ok(Stored::MapBase(volume, VolumeId(index(rest)?))),
        kind::UNMAP_TABLE => Ok(Stored::UnmapTable(volume, table(rest, 4)?)),
        kind => record(kind, volume, rest).map(Stored::Record),
    }
}

/// What may be in the log and in a checkpoint.
fn record(kind: u8, volume: VolumeId, rest: &[u8]) -> Result<Record, Malformed> {
    Ok(match kind {
        kind::NODE => {
            let node: NodeBody = body(rest)?;
            Record::Node(NodeRecord {
                epoch: Epoch(node.epoch.get()),
                proposed: Epoch(node.proposed.get()),
                members: Members::from_bits(node.members).ok_or(Malformed("no such set of nodes"))?,
                up_to_date: node.up_to_date != 0,
                complete: node.complete != 0,
            })
        }
        kind::VOLUME_CREATE => {
            let create: CreateBody = body(rest)?;
            let (uuid, sectors) = (Uuid(create.uuid.get()), create.sectors.get());
            Record::VolumeCreate { volume, uuid, sectors, mirrored: create.mirrored != 0 }
        }
        kind::VOLUME_DELETE => Record::VolumeDelete { volume },
        kind::VOLUME_STATE => {
            let state: StateBody = body(rest)?;
            Record::VolumeState {
                volume,
                sectors: state.sectors.get(),
                change: state.change.get(),
                epoch: Epoch(state.epoch.get()),
                deleted: state.deleted != 0,
                read_only: state.read_only != 0,
            }
        }
        kind::VOLUME_ITEM => item(volume, rest)?,
        kind::VOLUME_CLONE => {
            let clone: CloneBody = body(rest)?;
            let (of, uuid) = (VolumeId(clone.of.get()), Uuid(clone.uuid.get()));
            let (read_only, mirrored) = (clone.read_only != 0, clone.mirrored != 0);
            Record::VolumeClone { volume, of, uuid, read_only, mirrored }
        }
        kind::MAP_SHARED => {
            let (extent, slot) = map_entry(rest)?;
            Record::MapShared { volume, extent, slot }
        }
        kind::HALF => half(volume, rest)?,
        kind::MAP => {
            let (extent, slot) = map_entry(rest)?;
            Record::Map { volume, extent, slot }
        }
        kind::UNMAP => Record::Unmap { volume, extent: index(rest)? },
        kind::HOT_ADD => Record::HotAdd { volume, area: index(rest)? },
        kind::HOT_REMOVE => Record::HotRemove { volume, area: index(rest)? },
        kind::HOT_CLEAR => Record::HotClear { volume },
        kind::LOG_ADD => {
            let (first, count) = run(rest)?;
            Record::LogAdd { volume, first, count }
        }
        kind::LOG_REMOVE => {
            let (first, count) = run(rest)?;
            Record::LogRemove { volume, first, count }
        }
        kind::LOG_CLEAR => Record::LogClear { volume },
        kind::UNSURE_ADD => {
            let (disk, first, count) = lines(rest)?;
            Record::UnsureAdd { disk, first, count }
        }
        kind::UNSURE_REMOVE => {
            let (disk, first, count) = lines(rest)?;
            Record::UnsureRemove { disk, first, count }
        }
        kind::ZERO_ADD => {
            let [extent, first, count] = zeros(rest)?;
            Record::ZeroAdd { volume, extent, first, count }
        }
        kind::ZERO_REMOVE => {
            let [extent, first, count] = zeros(rest)?;
            Record::ZeroRemove { volume, extent, first, count }
        }
        _ => return Err(Malformed("a record of a kind that this version does not know")),
    })
}

/// One entry of a map table, or the body of a map record.
pub(super) fn map_entry(bytes: &[u8]) -> Result<(u32, Slot), Malformed> {
    let map: MapBody = body(bytes)?;
    if map.flags.get() != 0 {
        return Err(Malformed("a map entry with flags that this version does not know"));
    }
    Ok((map.extent.get(), Slot { disk: DiskId(map.disk.get()), index: map.index.get() }))
}

fn body<T: Pod>(bytes: &[u8]) -> Result<T, Malformed> {
    split(bytes).map(|(body, _)| body)
}

/// A struct, and the bytes after it.
fn split<T: Pod>(bytes: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let (body, rest) = bytes.split_at_checked(size_of::<T>()).ok_or(Malformed("a record is too short"))?;
    Ok((pod_read_unaligned(body), rest))
}

fn index(bytes: &[u8]) -> Result<u32, Malformed> {
    Ok(body::<IndexBody>(bytes)?.index.get())
}

fn run(bytes: &[u8]) -> Result<(u64, u64), Malformed> {
    let run: RunBody = body(bytes)?;
    Ok((run.first.get(), run.count.get()))
}

fn zeros(bytes: &[u8]) -> Result<[u32; 3], Malformed> {
    let run: ZeroBody = body(bytes)?;
    Ok([run.extent.get(), run.first.get(), run.count.get()])
}

fn zero_map(volume: VolumeId, bytes: &[u8]) -> Result<Stored<'static>, Malformed> {
    let (head, rest) = split::<ZeroMapBody>(bytes)?;
    let count = head.words.get() as usize;
    let words = rest.get(..count.saturating_mul(8));
    let words =
        words.filter(|_| count <= BLOCKS_MAX as usize / 64).ok_or(Malformed("a map of zeros is too long"))?;
    let words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    Ok(Stored::ZeroMap(volume, head.extent.get(), ZeroBits::from_words(words)))
}

fn lines(bytes: &[u8]) -> Result<(DiskId, u64, u32), Malformed> {
    let run: UnsureBody = body(bytes)?;
    Ok((DiskId(run.disk.get()), run.first.get(), run.count.get()))
}

fn item(volume: VolumeId, bytes: &[u8]) -> Result<Record, Malformed> {
    let (head, rest) = split::<ItemBody>(bytes)?;
    let count = head.bytes.get() as usize;
    let value = rest.get(..count).filter(|_| count <= ITEM_BYTES_MAX);
    let value = value.ok_or(Malformed("an item is too long"))?.into();
    Ok(Record::VolumeItem { volume, name: ItemName(head.name.get()), revision: head.revision.get(), value })
}

fn half(volume: VolumeId, bytes: &[u8]) -> Result<Record, Malformed> {
    let (head, rest) = split::<HalfBody>(bytes)?;
    let count = usize::from(head.ancestors);
    if count > ANCESTORS_MAX || rest.len() < count * 16 {
        return Err(Malformed("a generation with more ancestors than there can be"));
    }
    let ancestors = rest.chunks_exact(16).take(count);
    let ancestors =
        ancestors.map(|bytes| Generation(u128::from_le_bytes(bytes.try_into().expect("16 bytes"))));
    Ok(Record::Half { volume, generation: Generation(head.generation.get()), ancestors: ancestors.collect() })
}

fn table(bytes: &[u8], entry_bytes: usize) -> Result<&[u8], Malformed> {
    let (head, rest) = split::<TableBody>(bytes)?;
    let length = (head.count.get() as usize).checked_mul(entry_bytes);
    let length = length.ok_or(Malformed("a table is too long"))?;
    rest.get(..length).ok_or(Malformed("a table is longer than its record"))
}

fn log_page(volume: VolumeId, bytes: &[u8]) -> Result<Stored<'static>, Malformed> {
    let (index, rest) = split::<crate::format::int::U64Le>(bytes)?;
    let mut words = Box::new([0; 64]);
    let rest = rest.get(..512).ok_or(Malformed("a page of the change log is too short"))?;
    for (word, bytes) in words.iter_mut().zip(rest.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    Ok(Stored::LogPage(volume, index.get(), words))
}
