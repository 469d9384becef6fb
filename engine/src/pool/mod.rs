//! The thin pool of one node: which extent of which volume lies where, what the node and its halves are, and
//! how all of that survives a crash at any moment. Pure: it says which disk requests to make, and is told how
//! they ended.
//!
//! Everything is a [`Record`]. [`Pool::append`] applies records in memory at once and makes them durable in
//! order, through the metadata log; a checkpoint in the background keeps the log short. A crash leaves a prefix
//! of the calls to `append`, never a part of one.
//!
//! A new extent goes [`reserve`](Pool::reserve) → [`allocate`](Pool::allocate) → the caller writes what there is and
//! flushes its disk → `append(Map, ZeroAdd…)`, where the latter name what was not written. So a mapped extent never
//! shows what its slot held before. An unmapped extent's slot is free again when the record is durable and no I/O on
//! it is in flight.
//!
//! A metadata write or a flush that fails is final: nothing becomes durable any more, see [`Pool::failed`].

use std::collections::{BTreeMap, VecDeque};

use crate::block::{PagePool, payload_from};
use crate::ids::{DiskId, ItemName, VolumeId};
use crate::io::{DiskOp, DiskResult};
use crate::planted::{Bug, Planted};

mod arbitrary;
mod check;
mod checkpoint;
mod checkpoint_maps;
mod codec;
mod commit;
mod copies;
mod create;
mod error;
mod extent_map;
mod families;
mod free;
mod identify;
mod layout;
mod log;
mod metadata;
mod moving;
mod opening;
mod owners;
mod reading;
mod record;
mod repair;
mod replay;
mod sharing;
mod space;
mod sums;
mod table;
mod validate;
mod zero_bits;
mod zeros;

pub use arbitrary::open_arbitrary;
pub use check::{CheckReport, Problem, check};
pub use create::{FormatIds, FormatWrite, format};
pub use error::{OpenError, PoolError};
pub use extent_map::ExtentMap;
pub use families::{CloneRefusal, FAMILY_MAX};
pub use identify::probe;
pub use layout::{
    DiskState, EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, Identity, LOG_BYTES_MIN, PoolDisk, PoolOptions,
};
pub use metadata::{Freed, Kin, Metadata, VolumeMeta, item_room, room};
pub use opening::{OpenReport, Opening};
pub use reading::DamagedCopy;
pub use record::{ANCESTORS_MAX, ITEM_BYTES_MAX, Lsn, NodeRecord, Record, Slot};
pub use repair::Repair;
pub use sums::SumArea;
pub use table::{DiskNews, DiskRefusal, NewDisk};
pub use validate::REGION_SECTORS;
pub use zero_bits::ZeroBits;

use commit::{CommitWriter, Step};
use copies::disks_of;
use layout::{Commit, Layout};
use log::{Log, LogIo};
use space::Space;
use table::Table;

/// Largest volume: 64 TiB.
pub const SECTORS_MAX: u64 = (64 << 40) / 512;

/// A disk request of the pool.
#[derive(Clone, Debug)]
pub struct PoolIo {
    /// Echoed in [`Pool::io_done`].
    pub token: u64,
    /// The disk: its number among those given to [`Opening`] or [`Pool::add_disk`], which need not be its place.
    pub disk: DiskId,
    /// What to do.
    pub op: DiskOp,
}

/// What a request in flight is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    LogWrite,
    LogFlush,
    Frame,
    Step(Step),
    Chore,
    /// Nobody waits for it (only a planted bug does that).
    Unawaited,
}

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    identity: Identity,
    layout: Layout,
    /// By place: which of the disks given is there.
    devices: Vec<Option<DiskId>>,
    table: Table,
    /// Extents in which the caller is about to record zeros.
    zeros_coming: u64,
    extent_shift: u32,
    metadata: Metadata,
    space: Space,
    log: Log,
    /// What the superblocks on disk say.
    commit: Commit,
    committing: Option<CommitWriter>,
    /// A checkpoint was asked for.
    checkpoint_asked: bool,
    /// An entry that counts is whole in one copy only. Until the checkpoint that needs it no more is in force nothing is
    /// appended: a later entry would prove it, and could not be read without it.
    unequal: bool,
    /// The superblocks have not been written in this life.
    introduced: bool,
    /// A commit of this life is durable.
    agreed: bool,
    in_flight: BTreeMap<u64, (DiskId, Purpose)>,
    /// Requests that go out next: to the second copy what the first has been given.
    queued: VecDeque<(DiskId, DiskOp, Purpose)>,
    /// Requests that the log's state waits for.
    log_left: usize,
    next_token: u64,
    failed: Option<DiskId>,
    pages: PagePool,
    planted: Planted,
}

impl Pool {
    /// The metadata as they are in memory.
    #[inline]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Who the pool is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// 4 KiB blocks per extent.
    #[inline]
    pub fn extent_blocks(&self) -> u64 {
        self.layout.extent_blocks()
    }

    /// The places of the pool, by [`DiskId`]: disks, and empty ones of disks that were removed.
    pub fn disks(&self) -> &[PoolDisk] {
        &self.layout.disks
    }

    /// Which of the disks given is in this place; `None` if the place is empty.
    pub fn device(&self, place: DiskId) -> Option<DiskId> {
        self.devices.get(usize::from(place.0)).copied().flatten()
    }

    /// The disk with the metadata, or with their first copy. Another becomes it when this one leaves.
    pub fn home(&self) -> DiskId {
        self.layout.home
    }

    /// Most volumes of this pool. Items that are kept with volumes count too: see [`Metadata::volumes_room`].
    pub fn volumes_max(&self) -> usize {
        self.layout.volumes_max()
    }

    /// Can so many bytes be kept with a volume under this name, and be written down at one stroke, when as much room is
    /// taken as `pending` volumes count on? Items get a quarter of all room: the rest is for hot areas and change logs.
    pub fn has_room_for_item(&self, volume: VolumeId, name: ItemName, bytes: usize, pending: usize) -> bool {
        let room = self.metadata.volumes_room_with(volume, name, bytes) + pending;
        let items = room.saturating_sub(self.metadata.volumes().len());
        let fits = room <= self.volumes_max() && items * 4 <= self.volumes_max();
        bytes == 0 || (bytes <= self.item_bytes_max() && fits)
    }

    /// Most bytes of an item: with the record of its change it must fit into one entry of the log.
    pub fn item_bytes_max(&self) -> usize {
        ITEM_BYTES_MAX.min(self.log.payload_max() / 2)
    }

    /// Changes the metadata in memory at once, and on disk in the order of the calls; durable when
    /// [`durable`](Self::durable) reaches the number returned. After a crash either all records of a call count
    /// or none, as long as they take less than 64 KiB and the log has its usual size (256 KiB or more).
    ///
    /// # Panics
    /// If a record cannot be: beyond the end of its volume, more volumes than [`volumes_max`](Self::volumes_max),
    /// a volume with a number that a clone [names](Metadata::is_named), or a `Map` to a slot that was not allocated for that extent. Such a record must not reach the disk.
    pub fn append(&mut self, records: &[Record]) -> Lsn {
        let mut lsn = self.log.next_lsn();
        for record in records {
            if let Err(what) = validate::check_new(record, &self.metadata, &self.layout) {
                panic!("{what}: {record:?}");
            }
            self.apply(record, lsn);
            lsn.0 += 1;
        }
        if self.failed.is_some() {
            return lsn;
        }
        self.log.append(records);
        self.log.appended()
    }

    fn apply(&mut self, record: &Record, lsn: Lsn) {
        match record {
            Record::Map { volume, extent, slot } | Record::MapShared { volume, extent, slot } => {
                let now = self.metadata.volume(*volume).and_then(|volume| volume.map.get(*extent));
                if now == Some(*slot) {
                    return;
                }
                self.space.mapped((*volume, *extent), *slot);
            }
            Record::VolumeDelete { volume } => self.space.release_volume(*volume),
            _ => {}
        }
        let freed = self.apply_families(record, lsn);
        let deleted = |volume: &VolumeId| self.metadata.volume(*volume).is_some_and(|meta| meta.deleted);
        let early = self.planted.has(Bug::ExtentReusedEarly)
            || (self.planted.has(Bug::DeletedSpaceReusedEarly)
                && matches!(record, Record::Unmap { volume, .. } if deleted(volume)));
        self.space.unmapped(if early { Lsn(0) } else { lsn }, freed);
        if early {
            self.space.durable(&self.metadata, Lsn(0));
        }
    }

    /// All records up to this one are durable.
    pub fn durable(&self) -> Lsn {
        self.log.durable()
    }

    /// Where a slot lies, in bytes from the beginning of its disk.
    #[inline]
    pub fn slot_offset(&self, slot: Slot) -> u64 {
        self.layout.offset(slot)
    }

    /// Sees to it that writes to this extent will find space. True if it is mapped and not shared, has space already, or gets
    /// it now; false if the pool is full, or what is left is kept for other volumes. Unmapping the extent ends the
    /// promise: reserve again for later writes.
    #[inline]
    pub fn reserve(&mut self, volume: VolumeId, extent: u32) -> bool {
        match self.metadata.volume(volume) {
            Some(meta) if meta.map.contains(extent) && !self.is_shared(volume, extent) => true,
            _ => {
                let ignored = self.planted.has(Bug::ReservationIgnored);
                let kept = if ignored { 0 } else { self.space.kept(&self.metadata, Some(volume)) };
                self.space.reserve((volume, extent), kept)
            }
        }
    }

    /// Is this extent mapped and not shared, or reserved already?
    pub fn is_reserved(&self, volume: VolumeId, extent: u32) -> bool {
        let mapped = self.metadata.volume(volume).is_some_and(|meta| meta.map.contains(extent));
        mapped && !self.is_shared(volume, extent) || self.space.is_reserved((volume, extent))
    }

    /// Is space reserved for a new place of this extent?
    pub(crate) fn has_reservation(&self, volume: VolumeId, extent: u32) -> bool {
        self.space.is_reserved((volume, extent))
    }

    /// Gives a reservation back that was not used. Does nothing for an extent that is mapped or has a slot.
    pub fn release(&mut self, volume: VolumeId, extent: u32) {
        self.space.release((volume, extent));
    }

    /// Turns the reservation of an extent that is not mapped, or is shared, into a slot. Write it (of a shared one, all of it), flush its disk, then append `Map`, and
    /// `ZeroAdd` for what was not written, in one call. Until then [`reserve`](Self::reserve) goes on saying yes for
    /// this extent.
    ///
    /// # Panics
    /// If the extent has no reservation, or has a slot already.
    pub fn allocate(&mut self, volume: VolumeId, extent: u32) -> Slot {
        self.space.allocate((volume, extent), self.planted.has(Bug::LeavingDiskAllocated))
    }

    /// A slot for a mapped extent that has to leave its disk. As after [`allocate`](Self::allocate): write all of it,
    /// flush, then append `Map`, which frees the old one. `None` if the other disks have no room, or it is not mapped.
    pub fn allocate_move(&mut self, volume: VolumeId, extent: u32) -> Option<Slot> {
        let from = self.metadata.volume(volume)?.map.get(extent)?.disk;
        self.space.allocate_move((volume, extent), from, self.planted.has(Bug::LeavingDiskAllocated))
    }

    /// Would [`allocate_move`](Self::allocate_move) find room?
    pub fn has_room_to_move(&self) -> bool {
        self.space.has_room_to_move()
    }

    /// Gives back a slot that was allocated and not mapped, and its reservation. While the slot is
    /// [held](Self::hold) it is not given out again.
    ///
    /// # Panics
    /// If the slot was not allocated, or is mapped.
    pub fn unallocate(&mut self, slot: Slot) {
        self.space.unallocate(slot, self.planted.has(Bug::ExtentLeaked));
    }

    /// The slots that lie, in part or wholly, in these bytes of a disk's data area.
    pub fn slots_in(&self, disk: DiskId, bytes: core::ops::Range<u64>) -> impl Iterator<Item = Slot> + use<> {
        let begin = self.layout.disks[usize::from(disk.0)].data_offset;
        let (first, end) =
            ((bytes.start - begin) >> self.extent_shift, (bytes.end - 1 - begin) >> self.extent_shift);
        (first as u32..=end as u32).map(move |index| Slot { disk, index })
    }

    /// An I/O on this slot begins: whatever becomes of it, it is not given out again until the I/O has ended.
    pub fn hold(&mut self, slot: Slot) {
        self.space.hold(slot);
    }

    /// An I/O on this slot has ended.
    ///
    /// # Panics
    /// If it had not begun.
    pub fn unhold(&mut self, slot: Slot) {
        self.space.unhold(&self.metadata, slot);
    }

    /// Bytes of all data areas.
    pub fn bytes(&self) -> u64 {
        self.space.slots() * self.layout.extent_bytes
    }

    /// Bytes that are not free: mapped, being mapped, or not yet free again.
    pub fn bytes_used(&self) -> u64 {
        (self.space.slots() - self.space.free()) * self.layout.extent_bytes
    }

    /// Extents that can still be reserved.
    pub fn free_extents(&self) -> u64 {
        self.space.unreserved()
    }

    /// Free extents of one disk, reserved ones included.
    pub fn free_on(&self, disk: DiskId) -> u32 {
        self.space.free_on(disk)
    }

    /// The disk that failed a metadata write or a flush. Nothing becomes durable any more in this life, and no
    /// flush may be believed that completes after this one, not even if it was in flight before.
    pub fn failed(&self) -> Option<DiskId> {
        self.failed
    }

    /// The caller's own flush of a disk has failed: as if one of the pool's had.
    pub fn fail(&mut self, disk: DiskId) {
        self.failed.get_or_insert(disk);
        self.log.abandon();
        self.committing = None;
        self.queued.clear();
        self.table.abandon();
    }

    /// Asks for a checkpoint soon, so that the next opening has nothing to replay.
    pub fn checkpoint(&mut self) {
        self.checkpoint_asked |= !self.log.is_empty() || self.log.is_busy();
    }

    /// Is all on disk, and nothing in flight?
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && self.queued.is_empty()
            && !self.log.is_busy()
            && self.committing.is_none()
            && !self.checkpoint_asked
            && self.table.is_idle()
    }

    /// Switches a deliberate bug on.
    pub fn set_planted(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The next disk request; call until `None` after each change. Requests may be carried out in any order.
    pub fn poll_io(&mut self) -> Option<PoolIo> {
        if self.failed.is_some() {
            return None;
        }
        if let Some((disk, op, purpose)) = self.queued.pop_front() {
            return Some(self.request(disk, op, purpose));
        }
        let hold = self.log.is_busy() && (self.metadata_move() || self.unequal);
        if let Some(io) = self.log.poll(hold) {
            return Some(self.log_io(io));
        }
        if let Some(io) = self.poll_chore() {
            return Some(io);
        }
        self.begin_commit();
        match self.committing.as_mut()?.poll() {
            Ok(io) => Some(self.commit_io(io?)),
            Err(()) => {
                self.fail(self.layout.home);
                None
            }
        }
    }

    /// What the log does, both copies do.
    fn log_io(&mut self, io: LogIo) -> PoolIo {
        let sites = self.layout.sites(self.commit.second);
        let asks: Vec<(DiskId, DiskOp, Purpose)> = match io {
            LogIo::Write(at, bytes) => {
                let data = payload_from(&self.pages, &bytes);
                let write = |log: u64| DiskOp::Write { offset: log + at, data: data.clone() };
                sites.iter().map(|site| (site.disk, write(site.log), Purpose::LogWrite)).collect()
            }
            LogIo::Flush => disks_of(&sites).map(|disk| (disk, DiskOp::Flush, Purpose::LogFlush)).collect(),
        };
        self.log_left = asks.len();
        self.queued.extend(asks);
        if self.planted.has(Bug::SecondCopyNotAwaited) {
            self.log_left = 1;
            self.queued.iter_mut().skip(1).for_each(|(_, _, purpose)| *purpose = Purpose::Unawaited);
        }
        let (disk, op, purpose) = self.queued.pop_front().expect("there is a first copy");
        self.request(disk, op, purpose)
    }

    fn write(&mut self, disk: DiskId, offset: u64, bytes: &[u8], purpose: Purpose) -> PoolIo {
        let data = payload_from(&self.pages, bytes);
        self.request(disk, DiskOp::Write { offset, data }, purpose)
    }

    fn request(&mut self, disk: DiskId, op: DiskOp, purpose: Purpose) -> PoolIo {
        let token = self.next_token;
        self.next_token += 1;
        self.in_flight.insert(token, (disk, purpose));
        let disk = self.device(disk).expect("only disks that are there are asked");
        PoolIo { token, disk, op }
    }

    /// A request of [`poll_io`](Self::poll_io) has ended.
    pub fn io_done(&mut self, token: u64, result: DiskResult) {
        let Some((disk, purpose)) = self.in_flight.remove(&token) else { return };
        if self.failed.is_some() {
            return;
        }
        if purpose == Purpose::Chore {
            return self.chore_done(disk, result);
        }
        if result.is_err() {
            let flush = matches!(purpose, Purpose::LogFlush | Purpose::Step(Step::Flush(_)));
            if !(flush && self.planted.has(Bug::FailedFlushTrusted)) {
                return self.fail(disk);
            }
            return match (purpose, &mut self.committing) {
                (Purpose::Step(step), Some(commit)) => commit.step_again(step),
                _ => self.log.flush_again(),
            };
        }
        match (purpose, &mut self.committing) {
            (Purpose::LogWrite | Purpose::LogFlush, _) => self.log_done(purpose),
            (Purpose::Unawaited, _) => {}
            (Purpose::Frame, Some(commit)) => commit.frame_done(),
            (Purpose::Step(_), Some(commit)) => {
                if commit.step_done() {
                    self.committed();
                }
            }
            (Purpose::Chore, _) => unreachable!("seen to above"),
            (_, None) => unreachable!("a commit lives until its last request has ended"),
        }
        self.space.durable(&self.metadata, self.log.durable());
    }

    fn log_done(&mut self, purpose: Purpose) {
        self.log_left -= 1;
        match purpose {
            _ if self.log_left != 0 => {}
            Purpose::LogWrite => self.log.written(),
            _ => self.log.flushed(),
        }
    }
}
