//! Disks that come and go in a session: what may be found of them after a crash, and the moving of extents off one
//! that leaves.

use std::collections::BTreeMap;

use twinsan::format::superblock::SUPERBLOCK_OFFSETS;
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::pool::{DiskNews, DiskState, NewDisk, Pool, PoolDisk, Record, Slot, probe};

use super::Disk;
use super::model::marks;
use super::session::{Op, Part, Session, Task, Writing};

/// What a disk can be after a crash: `None` is "not in the table".
type Found = Option<DiskState>;

/// What each disk may be, the oldest first; what is surely past is gone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tables(BTreeMap<Uuid, Vec<Found>>);

impl Tables {
    /// The disk may be this from now on.
    pub(crate) fn may(&mut self, disk: Uuid, found: Found) {
        self.0.entry(disk).or_insert_with(|| vec![None]).push(found);
    }

    /// The disk surely is this, or what came after.
    pub(crate) fn surely(&mut self, disk: Uuid, found: Found) {
        if let Some(may) = self.0.get_mut(&disk) {
            let at = may.iter().rposition(|one| *one == found).expect("it was asked for");
            may.drain(..at);
        }
    }

    /// Takes what was found as what is. What was leaving goes on leaving.
    pub(crate) fn settle(&mut self, pool: &Pool) {
        self.0 = present(pool).map(|disk| (disk.uuid, vec![Some(disk.state)])).collect();
        for may in self.0.values_mut().filter(|may| may[0] == Some(DiskState::Leaving)) {
            may.push(None);
        }
    }

    pub(crate) fn check(&self, pool: &Pool) -> Result<(), String> {
        for disk in present(pool) {
            let may = self.0.get(&disk.uuid);
            // Before the first opening nothing is known.
            if !self.0.is_empty() && may.is_none() {
                return Err(format!("there is a disk {:?}", disk.uuid));
            }
        }
        for (uuid, may) in &self.0 {
            let found = present(pool).find(|disk| disk.uuid == *uuid).map(|disk| disk.state);
            if !may.contains(&found) {
                return Err(format!("disk {uuid:?} is {found:?}, of {may:?}"));
            }
        }
        Ok(())
    }
}

fn present(pool: &Pool) -> impl Iterator<Item = &PoolDisk> + '_ {
    pool.disks().iter().filter(|disk| disk.state != DiskState::Removed)
}

/// Which of these disks carry the mark of a pool: a node is given those.
pub(crate) fn marked(disks: &[Disk]) -> Vec<usize> {
    let carries = |disk: &Disk| {
        let copies = SUPERBLOCK_OFFSETS.map(|offset| disk.block(offset));
        probe([&copies[0], &copies[1]]).is_some()
    };
    (0..disks.len()).filter(|at| carries(&disks[*at])).collect()
}

impl Session<'_> {
    /// The disk in this place of the pool.
    pub(crate) fn at_place(&mut self, place: DiskId) -> &mut Disk {
        let number = self.pool.as_ref().and_then(|pool| pool.device(place)).expect("there is a disk");
        let at = self.devices[usize::from(number.0)];
        &mut self.disks[at]
    }

    /// A blank disk joins. While it is on its way in, an extent is written.
    pub(crate) fn add_disk(&mut self, op: Op) {
        // As large as the first, if that is large: then there is room on it for a copy of the metadata.
        let bytes = self.disks[0].geometry.bytes.max(2 << 20);
        let bytes = if op == Op::AddLarge { 1 << 30 } else { bytes };
        let geometry = Geometry { bytes, sector_bytes: 4096 };
        self.write_while_joining = true;
        let uuid = Uuid(0xADD0 + self.disks.len() as u128);
        let number = DiskId(self.devices.len() as u16);
        self.devices.push(self.disks.len());
        self.disks.push(Disk { geometry, ..Disk::new(geometry.bytes) });
        self.expected.tables.may(uuid, Some(DiskState::InUse));
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        pool.add_disk(NewDisk { device: number, geometry, uuid, replaces: None });
    }

    /// The last disk that is in use and can go leaves, or the one with the metadata.
    pub(crate) fn remove_disk(&mut self, op: Op) {
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        let places = (0..pool.disks().len() as u16).rev().map(DiskId);
        let fits = |place: &DiskId| pool.disks()[usize::from(place.0)].state == DiskState::InUse;
        let asked = |place: &DiskId| (*place == pool.home()) == (op == Op::RemoveHome);
        let Some(place) = places.filter(fits).find(asked) else { return };
        let uuid = pool.disks()[usize::from(place.0)].uuid;
        if pool.remove_disk(place).is_ok() {
            self.expected.tables.may(uuid, Some(DiskState::Leaving));
            self.expected.tables.may(uuid, None);
        }
    }

    /// Moves what is on disks that leave, lets them go when they are empty, and hears what became of others.
    pub(crate) fn see_to_disks(&mut self) {
        let Some(pool) = &mut self.pool else { return };
        while let Some(news) = pool.poll_disk_news() {
            match news {
                DiskNews::Joined { uuid, .. } => {
                    self.expected.tables.surely(uuid, Some(DiskState::InUse));
                }
                DiskNews::Refused { .. } => self.refused = true,
                DiskNews::Left { uuid, erased, .. } => {
                    self.expected.tables.surely(uuid, None);
                    self.refused |= !erased;
                }
            }
        }
        if pool.failed().is_some() {
            return;
        }
        let joining = pool.disks().iter().any(|disk| disk.state == DiskState::Joining);
        if joining && core::mem::take(&mut self.write_while_joining) {
            self.write_new(false);
        }
        let pool = self.pool.as_mut().expect("looked");
        let leaving =
            |pool: &Pool, place: DiskId| pool.disks()[usize::from(place.0)].state == DiskState::Leaving;
        for place in (0..pool.disks().len() as u16).map(DiskId) {
            let _ = pool.drop_disk(place);
        }
        let all = pool.metadata().volumes().flat_map(|(id, meta)| meta.map.iter().map(move |at| (id, at)));
        let first = |(volume, (extent, _)): &(VolumeId, (u32, Slot))| {
            pool.sharers(*volume, *extent).min() == Some(*volume)
        };
        let there: Vec<(VolumeId, (u32, Slot))> =
            all.filter(|(_, (_, slot))| leaving(pool, slot.disk)).filter(first).collect();
        for (volume, (extent, slot)) in there {
            self.move_extent(volume, extent, slot);
        }
    }

    fn move_extent(&mut self, volume: VolumeId, extent: u32, from: Slot) {
        if self.is_worked_on(volume, extent, from) {
            return;
        }
        let Some(&(_, [content, _])) =
            self.model.volumes.get(&volume).and_then(|volume| volume.map.get(&extent))
        else {
            return;
        };
        let offset = self.pool.as_ref().expect("looked").slot_offset(from);
        let disk = self.at_place(from.disk);
        let [value, last] = marks().map(|mark| {
            let block = disk.block(offset + mark / 4096 * 4096);
            u64::from_le_bytes(block[mark as usize % 4096..][..8].try_into().expect("8 bytes"))
        });
        let slot = self.pool.as_mut().expect("looked").allocate_move(volume, extent);
        let Some(slot) = slot else { return };
        let (map, moved) = (Some((volume, extent)), Some(last));
        self.write(Writing { slot, content, value, map, abort: false, part: Part::All, moved });
    }

    /// Does something work on this extent, which lies there? Then nothing else may.
    fn is_worked_on(&self, volume: VolumeId, extent: u32, from: Slot) -> bool {
        let durable = self.pool.as_ref().map_or(0, |pool| pool.durable().0);
        self.tasks.iter().any(|task| match task {
            Task::Write(writing) | Task::Flush(writing) => {
                writing.slot == from || writing.map == Some((volume, extent))
            }
            Task::Moved(lsn, at) => *at == (volume, extent) && *lsn > durable,
            Task::Durable(_) | Task::Then(..) | Task::Done => false,
        })
    }

    /// The data of a moved extent are on stable media.
    pub(crate) fn moved(&mut self, writing: Writing) {
        let Some((volume, extent)) = writing.map else { return };
        let (slot, shared) =
            (writing.slot, self.pool.as_ref().is_some_and(|pool| pool.is_shared(volume, extent)));
        let map = Record::Map { volume, extent, slot };
        let record = if shared { Record::MapShared { volume, extent, slot } } else { map };
        self.append(&[record], writing.content);
        let lsn = self.expected.calls.last().map_or(0, |call| call.lsn);
        self.tasks.push(Task::Moved(lsn, (volume, extent)));
    }
}

/// Does a slot show one of these values in this mark?
pub(crate) fn shows(disk: &Disk, offset: u64, mark: usize, may: &[u64]) -> Result<(), String> {
    let at = marks()[mark];
    let block = disk.block(offset + at / 4096 * 4096);
    for word in block[at as usize % 4096..][..512].chunks(8) {
        let value = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        if !may.contains(&value) {
            return Err(format!("mark {mark} holds {value}, of {may:?}"));
        }
    }
    Ok(())
}
