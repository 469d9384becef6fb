//! A small store over a pool. It does what a real one does: a new extent's data are written and flushed before
//! the extent is mapped, and a block's before it ceases to read as zero.

use std::collections::VecDeque;

use twinsan::block::{PagePool, Payload};
use twinsan::ids::{DiskId, Epoch, Generation, ItemName, Members, Uuid, VolumeId};
use twinsan::io::{DiskError, DiskOp, DiskResult, Geometry};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{DiskState, NodeRecord, Opening, Pool, PoolIo, Record, Slot};

use super::disks::marked;
use super::model::{Call, Expected, Plain, marks};
pub(crate) use super::op::Op;
use super::{Disk, block_of};

/// Volumes of the prologue.
pub(crate) const V: VolumeId = VolumeId(1);
pub(crate) const W: VolumeId = VolumeId(2);
/// Sectors of a volume: 32 extents of 64 KiB.
const SECTORS: u64 = 32 * 128;

/// How requests in flight complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    First,
    Last,
}

/// Whose a request in flight is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Pool(u64),
    Opening(u64),
    Task(usize),
}

/// An operation on its way, and what it waits for.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Waits for its data write.
    Write(Writing),
    /// Waits for the flush of its data.
    Flush(Writing),
    /// Waits for this record to be durable.
    Durable(u64),
    /// The same, and then goes on.
    Then(u64, Next),
    /// An extent is at its new place when this record is durable.
    Moved(u64, (VolumeId, u32)),
    Done,
}

/// What an operation does when a record is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Writes to the extent that was unmapped.
    Refill(VolumeId, u32),
    /// Writes to a block that reads as zero.
    WriteZeroed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    pub(crate) slot: Slot,
    pub(crate) content: u64,
    pub(crate) value: u64,
    /// To be mapped there, unless it is mapped already.
    pub(crate) map: Option<(VolumeId, u32)>,
    pub(crate) abort: bool,
    pub(crate) part: Part,
    /// It leaves another disk; then this is the value of its last mark.
    pub(crate) moved: Option<u64>,
}

/// Which blocks of an extent are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    All,
    /// The first; the others read as zero.
    First,
    /// One that reads as zero, of this mapped extent.
    Zeroed(VolumeId, u32, u32),
}

/// Sees each moment at which the power may fail.
pub(crate) trait Witness {
    fn moment(&mut self, disks: &[Disk], expected: &Expected) -> Result<(), String>;
}

/// A store with its pool and disks.
pub(crate) struct Session<'a> {
    pub(crate) disks: Vec<Disk>,
    pub(crate) expected: Expected,
    /// Requests submitted so far.
    pub(crate) requests: u64,
    /// This one fails.
    pub(crate) fail_at: Option<u64>,
    pub(crate) order: Order,
    /// Which of the disks the pool knows by each number.
    pub(crate) devices: Vec<usize>,
    /// A disk that failed was kept out of the pool, or left it unerased.
    pub(crate) refused: bool,
    pub(crate) write_while_joining: bool,
    pub(crate) pool: Option<Pool>,
    opening: Option<Opening>,
    pub(crate) tasks: Vec<Task>,
    in_flight: VecDeque<(Owner, usize, DiskOp, u64, bool)>,
    pub(crate) model: Plain,
    next_value: u64,
    pub(super) planted: Planted,
    pages: PagePool,
    witness: Option<&'a mut dyn Witness>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(disks: Vec<Disk>, planted: Planted) -> Session<'a> {
        let model = Plain::default();
        let calls = vec![Call { lsn: 0, after: model.clone() }];
        Session {
            disks,
            expected: Expected { calls, ..Expected::default() },
            requests: 0,
            fail_at: None,
            order: Order::First,
            devices: Vec::new(),
            refused: false,
            write_while_joining: false,
            pool: None,
            opening: None,
            tasks: Vec::new(),
            in_flight: VecDeque::new(),
            model,
            next_value: 1,
            planted,
            pages: PagePool::new(),
            witness: None,
        }
    }

    /// A session with the same disks and expectations, the node down, watched.
    pub(crate) fn fork<'b>(&self, witness: Option<&'b mut dyn Witness>) -> Session<'b> {
        let (disks, planted) = (self.disks.clone(), self.planted);
        let (expected, model) = (self.expected.clone(), self.model.clone());
        let (order, next_value) = (self.order, self.next_value);
        Session { expected, model, order, next_value, witness, ..Session::new(disks, planted) }
    }

    /// The power fails: of the unflushed sectors, those that `keep` says survive. The node is down.
    pub(crate) fn cut_power(&mut self, keep: impl Fn(u64) -> bool) {
        self.in_flight.clear();
        (self.pool, self.opening) = (None, None);
        for disk in &mut self.disks {
            disk.unflushed.retain(|at, _| keep(*at));
            disk.flush();
        }
    }

    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// Has a request failed for good?
    pub(crate) fn failed(&self) -> bool {
        self.pool.as_ref().is_none_or(|pool| pool.failed().is_some())
    }

    /// The node dies; what the disks were asked to do they do; it comes back.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        for (_, id, op, number, _) in core::mem::take(&mut self.in_flight) {
            let done = self.disks[id].end(number, &op);
            drop(done);
        }
        self.pool = None;
        self.tasks.clear();
        self.devices = marked(&self.disks);
        let geometries: Vec<Geometry> = self.devices.iter().map(|at| self.disks[*at].geometry).collect();
        self.opening = Some(Opening::new(&geometries).planted(self.planted));
        self.run()
    }

    /// Opened: from now on the pool stands by what it has found.
    fn opened(&mut self, pool: Pool) -> Result<(), String> {
        self.expected.check(&pool, &self.disks, &self.devices)?;
        self.expected.tables.settle(&pool);
        let found = pool.durable().0;
        self.expected.calls.retain(|call| call.lsn <= found);
        self.expected.durable = found;
        self.model = self.expected.calls.last().expect("the one found").after.clone();
        self.pool = Some(pool);
        Ok(())
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self, op: Op) -> Result<(), String> {
        if self.pool.is_none() {
            return Ok(());
        }
        match op {
            Op::WriteNew => self.write_new(false),
            Op::Abort => self.write_new(true),
            Op::Overwrite => self.overwrite(),
            Op::WritePartial => {
                if let Some((volume, extent)) = self.unmapped() {
                    self.write_to(volume, extent, false, Part::First);
                }
            }
            Op::ZeroBlock => self.zero_block(),
            Op::WriteZeroed => self.begin_write_zeroed(),
            Op::FullWrite => self.full_write()?,
            Op::Unmap => {
                if let Some((volume, extent, _)) = self.first_mapped() {
                    self.append(&[Record::Unmap { volume, extent }], 0);
                }
            }
            Op::Replace => {
                if let Some((volume, extent, _)) = self.first_mapped() {
                    self.append(&[Record::Unmap { volume, extent }], 0);
                    self.write_to(volume, extent, false, Part::All);
                }
            }
            Op::VolumeCreate => {
                let id = VolumeId(self.model.volumes.keys().last().map_or(1, |id| id.0 + 1));
                self.append(&[create(id)], 0);
            }
            Op::VolumeDelete => {
                if let Some(volume) = self.model.volumes.keys().next().copied() {
                    self.append(&[Record::VolumeDelete { volume }], 0);
                }
            }
            Op::VolumeChange => self.change_volumes(),
            Op::Restart | Op::RestartLate => {
                for _ in 0..if op == Op::Restart { 1 } else { 3 } {
                    self.step()?;
                }
                return self.restart();
            }
            Op::Checkpoint => self.pool.as_mut().expect("looked").checkpoint(),
            Op::Burst => self.burst(),
            Op::Snapshot => self.snapshot()?,
            Op::WriteShared => self.write_shared(),
            Op::LetGo => self.let_go(),
            Op::AddDisk | Op::AddLarge => self.add_disk(op),
            Op::RemoveDisk | Op::RemoveHome => self.remove_disk(op),
            simple => {
                let records = self.records(simple);
                self.append(&records, 0);
            }
        }
        Ok(())
    }

    fn change_volumes(&mut self) {
        let (change, name) = (self.value(), ItemName(0));
        let state = |volume, sectors, deleted| {
            let (epoch, read_only) = (Epoch(1), false);
            Record::VolumeState { volume, sectors, change, epoch, deleted, read_only }
        };
        if let Some(volume) = self.model.volumes.keys().last().copied() {
            let value = vec![change as u8; (change % 3) as usize * 700].into();
            let item = Record::VolumeItem { volume, name, revision: change, value };
            self.append(&[state(volume, SECTORS + change, false), item], 0);
        }
        let Some((volume, _, _)) = self.first_mapped() else { return };
        self.append(&[state(volume, SECTORS + change, true)], 0);
        let extents: Vec<u32> = self.model.volumes[&volume].map.keys().copied().collect();
        extents.into_iter().for_each(|extent| self.append(&[Record::Unmap { volume, extent }], 0));
    }

    fn records(&mut self, op: Op) -> Vec<Record> {
        let value = self.value();
        let volume = self.model.volumes.keys().last().copied().unwrap_or(V);
        let (members, proposed) = (Members::only(twinsan::ids::NodeName::A), Epoch(value + 1));
        let node = Record::Node(NodeRecord {
            epoch: Epoch(value),
            members,
            proposed,
            up_to_date: value.is_multiple_of(2),
            complete: value.is_multiple_of(3),
        });
        let ancestors = vec![Generation(1), Generation(u128::from(value) << 64)];
        let half = Record::Half { volume, generation: Generation(u128::from(value)), ancestors };
        let area = (value % 60) as u32;
        match op {
            Op::Node => vec![node],
            Op::Half => vec![half],
            Op::Hot => vec![Record::HotRemove { volume, area: 1 }, Record::HotAdd { volume, area }],
            Op::Log => vec![
                Record::LogAdd { volume, first: 3, count: 9 },
                Record::LogRemove { volume, first: value % 12, count: 1 },
            ],
            Op::Unsure => {
                let (disk, first) = (DiskId(0), value % 7);
                vec![
                    Record::UnsureRemove { disk, first: 1, count: 2 },
                    Record::UnsureAdd { disk, first, count: 1 },
                    Record::UnsureAdd { disk, first: 5, count: 3 },
                ]
            }
            _ => vec![
                Record::HotClear { volume },
                node,
                Record::LogClear { volume },
                Record::LogAdd { volume, first: value % 30, count: 2 },
                half,
            ],
        }
    }

    fn burst(&mut self) {
        let volume = self.model.volumes.keys().last().copied().unwrap_or(V);
        let area = |n: u32| n % 500;
        self.append(&(0..250).map(|n| Record::HotAdd { volume, area: area(n) }).collect::<Vec<_>>(), 0);
        self.append(&(200..500).map(|n| Record::HotAdd { volume, area: area(n) }).collect::<Vec<_>>(), 0);
        self.append(&(20..500).map(|n| Record::HotRemove { volume, area: area(n) }).collect::<Vec<_>>(), 0);
    }

    pub(crate) fn append(&mut self, records: &[Record], content: u64) {
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        let lsn = pool.append(records).0;
        records.iter().for_each(|record| self.model.apply(record, content));
        if pool.failed().is_none() {
            self.expected.calls.push(Call { lsn, after: self.model.clone() });
        }
        self.tasks.push(Task::Durable(lsn));
    }

    pub(super) fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    pub(super) fn first_mapped(&self) -> Option<(VolumeId, u32, (Slot, [u64; 2]))> {
        let mut all =
            self.model.volumes.iter().flat_map(|(id, volume)| volume.map.iter().map(|at| (*id, at)));
        all.find(|(id, (extent, _))| !self.is_moving(*id, **extent))
            .map(|(id, (extent, at))| (id, *extent, *at))
    }

    pub(crate) fn unmapped(&self) -> Option<(VolumeId, u32)> {
        let volume = self.model.volumes.keys().last().copied()?;
        let busy: Vec<u32> = self.tasks.iter().filter_map(|task| task.extent(volume)).collect();
        let mapped = &self.model.volumes[&volume].map;
        let extent = (0..32).find(|extent| !mapped.contains_key(extent) && !busy.contains(extent));
        Some((volume, extent.expect("32 extents are more than two operations take")))
    }

    pub(crate) fn write_new(&mut self, abort: bool) {
        if let Some((volume, extent)) = self.unmapped() {
            self.write_to(volume, extent, abort, Part::All);
        }
    }

    pub(super) fn write_to(&mut self, volume: VolumeId, extent: u32, abort: bool, part: Part) {
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        if !pool.reserve(volume, extent) {
            return;
        }
        let slot = pool.allocate(volume, extent);
        let (content, value) = (self.value(), self.value());
        self.expected.contents.insert(content, vec![value]);
        self.write(Writing { slot, content, value, map: Some((volume, extent)), abort, part, moved: None });
    }

    fn overwrite(&mut self) {
        let Some((volume, extent, _)) = self.first_mapped() else { return };
        self.overwrite_extent(volume, extent);
    }

    /// Writes an extent, marked in its first and last sector, or one block of it.
    pub(crate) fn write(&mut self, writing: Writing) {
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        pool.hold(writing.slot);
        let mut bytes = vec![0u8; 64 << 10];
        for (mark, value) in marks().into_iter().zip([writing.value, writing.moved.unwrap_or(writing.value)])
        {
            bytes[mark as usize..][..512]
                .chunks_mut(8)
                .for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
        }
        let data: Payload = bytes
            .chunks(4096)
            .map(|block| block_of(&self.pages, block.try_into().expect("a block")))
            .collect();
        let offset = pool.slot_offset(writing.slot);
        let (skip, count) = match writing.part {
            Part::All => (0, data.len()),
            Part::First => (0, 1),
            Part::Zeroed(_, _, block) => (block as usize, 1),
        };
        let data = data.into_iter().skip(skip).take(count).collect();
        let offset = offset + skip as u64 * 4096;
        self.tasks.push(Task::Write(writing));
        let task = Owner::Task(self.tasks.len() - 1);
        let device = self.device(writing.slot.disk);
        self.request(task, device, DiskOp::Write { offset, data });
    }

    /// The number of the disk in this place.
    fn device(&self, place: DiskId) -> DiskId {
        self.pool.as_ref().and_then(|pool| pool.device(place)).expect("there is a disk")
    }

    fn request(&mut self, owner: Owner, device: DiskId, op: DiskOp) {
        self.requests += 1;
        let fails = self.fail_at == Some(self.requests);
        let id = self.devices[usize::from(device.0)];
        let number = self.disks[id].begin(&op);
        self.in_flight.push_back((owner, id, op, number, fails));
    }

    fn moment(&mut self) -> Result<(), String> {
        if let Some(pool) = &self.pool {
            self.expected.durable = self.expected.durable.max(pool.durable().0);
        }
        match &mut self.witness {
            Some(witness) => witness.moment(&self.disks, &self.expected),
            None => Ok(()),
        }
    }

    /// Runs until nothing moves any more.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while self.step()? {}
        Ok(())
    }

    /// Submits what there is to submit and completes one request; false if there was none.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        self.see_to_disks();
        while let Some(PoolIo { token, disk, op }) = self.pool.as_mut().and_then(Pool::poll_io) {
            self.request(Owner::Pool(token), disk, op);
        }
        while let Some(PoolIo { token, disk, op }) = self.opening.as_mut().and_then(Opening::poll_io) {
            self.request(Owner::Opening(token), disk, op);
        }
        self.moment()?;
        let next = match self.order {
            Order::First => self.in_flight.pop_front(),
            Order::Last => self.in_flight.pop_back(),
        };
        let Some((owner, id, op, number, fails)) = next else { return Ok(false) };
        let disk = &mut self.disks[id];
        let result = if fails {
            disk.fail(number, &op);
            Err(DiskError::Failed)
        } else {
            disk.end(number, &op)
        };
        self.completed(owner, result)?;
        self.go_on();
        Ok(true)
    }

    fn completed(&mut self, owner: Owner, result: DiskResult) -> Result<(), String> {
        match owner {
            Owner::Pool(token) => {
                if let Some(pool) = &mut self.pool {
                    pool.io_done(token, result);
                }
            }
            Owner::Opening(token) => {
                if let Some(opening) = &mut self.opening {
                    opening.io_done(token, result);
                }
                match self.opening.as_mut().and_then(Opening::done) {
                    None => {}
                    Some(Ok((pool, _))) => {
                        self.opening = None;
                        self.opened(pool)?;
                    }
                    Some(Err(error)) => {
                        self.opening = None;
                        let planned = self.fail_at.is_some_and(|at| at <= self.requests);
                        return if planned { Ok(()) } else { Err(error.to_string()) };
                    }
                }
            }
            Owner::Task(task) => self.advance(task, result),
        }
        Ok(())
    }

    fn advance(&mut self, task: usize, result: DiskResult) {
        let Some(pool) = &mut self.pool else { return };
        // Once a flush has failed, those that were in flight with it prove nothing.
        let result = if pool.failed().is_some() { Err(DiskError::Failed) } else { result };
        match (self.tasks[task].clone(), result) {
            (Task::Write(writing) | Task::Flush(writing), Err(_)) => {
                pool.unhold(writing.slot);
                pool.fail(writing.slot.disk);
                self.tasks[task] = Task::Done;
            }
            (Task::Write(writing), Ok(_)) => {
                self.tasks[task] = Task::Flush(writing);
                let bug =
                    if writing.moved.is_some() { Bug::EvacuatedWithoutFlush } else { Bug::MapBeforeData };
                if self.planted.has(bug) {
                    self.mapped(task, writing);
                } else {
                    let device = self.device(writing.slot.disk);
                    self.request(Owner::Task(task), device, DiskOp::Flush);
                }
            }
            (Task::Flush(writing), Ok(_)) => self.mapped(task, writing),
            (Task::Durable(_) | Task::Then(..) | Task::Moved(..) | Task::Done, _) => {}
        }
    }

    /// The data are on stable media.
    fn mapped(&mut self, task: usize, writing: Writing) {
        let pool = self.pool.as_mut().expect("looked");
        pool.unhold(writing.slot);
        self.tasks[task] = Task::Done;
        match (writing.map, writing.part) {
            (Some(_), _) if writing.moved.is_some() => self.moved(writing),
            (Some(_), _) if writing.abort => pool.unallocate(writing.slot),
            (Some((volume, extent)), part) => {
                let map = Record::Map { volume, extent, slot: writing.slot };
                let records = [map, Record::ZeroAdd { volume, extent, first: 1, count: 15 }];
                self.append(&records[..if part == Part::First { 2 } else { 1 }], writing.content);
            }
            (None, Part::Zeroed(volume, extent, block)) => {
                // An unmapping or the volume's end may have come first.
                let there = self.model.volumes.get(&volume).and_then(|volume| volume.map.get(&extent));
                if there.is_some_and(|(slot, _)| *slot == writing.slot)
                    && !self.planted.has(Bug::ZeroBitClearedBeforeData)
                {
                    self.append(
                        &[Record::ZeroRemove { volume, extent, first: block, count: 1 }],
                        writing.content,
                    );
                }
            }
            (None, _) => {
                let may =
                    self.expected.contents.get_mut(&writing.content).expect("each map has its contents");
                let at = may.iter().position(|value| *value == writing.value);
                may.drain(..at.unwrap_or(0));
            }
        }
    }

    /// At the end of a run without failures: everything is done, and nothing is lost or leaked.
    pub(crate) fn check_rest(&self) -> Result<(), String> {
        let Some(pool) = &self.pool else { return Err("the pool is not open".into()) };
        let stuck = |task: &Task| match task {
            Task::Durable(lsn) | Task::Then(lsn, _) | Task::Moved(lsn, _) => *lsn > pool.durable().0,
            Task::Done => false,
            Task::Write(_) | Task::Flush(_) => true,
        };
        if self.tasks.iter().any(stuck) || !pool.is_idle() {
            return Err(format!("something is stuck: {:?}", self.tasks));
        }
        let changing =
            pool.disks().iter().any(|disk| matches!(disk.state, DiskState::Joining | DiskState::Leaving));
        if changing && pool.failed().is_none() {
            return Err(format!("a disk is stuck: {:?}", pool.disks()));
        }
        self.expected.check(pool, &self.disks, &self.devices)
    }

    /// Is this extent leaving its disk? Then nothing else works on it.
    pub(crate) fn is_moving(&self, volume: VolumeId, extent: u32) -> bool {
        let durable = self.pool.as_ref().map_or(0, |pool| pool.durable().0);
        self.tasks.iter().any(|task| match task {
            Task::Write(writing) | Task::Flush(writing) => {
                writing.moved.is_some() && writing.map == Some((volume, extent))
            }
            Task::Moved(lsn, at) => *at == (volume, extent) && *lsn > durable,
            Task::Durable(_) | Task::Then(..) | Task::Done => false,
        })
    }
}

impl Task {
    pub(super) fn extent(&self, of: VolumeId) -> Option<u32> {
        match self {
            Task::Write(Writing { map: Some((volume, extent)), .. })
            | Task::Flush(Writing { map: Some((volume, extent)), .. })
                if *volume == of =>
            {
                Some(*extent)
            }
            _ => None,
        }
    }

    pub(super) fn writes_zeroed(&self, to: Slot) -> bool {
        let zeroed = |writing: &Writing| writing.slot == to && matches!(writing.part, Part::Zeroed(..));
        matches!(self, Task::Write(writing) | Task::Flush(writing) if zeroed(writing))
    }
}

pub(crate) fn create(volume: VolumeId) -> Record {
    Record::VolumeCreate { volume, uuid: Uuid(u128::from(volume.0)), sectors: SECTORS, mirrored: true }
}
