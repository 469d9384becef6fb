//! Operations of a session on blocks that read as zero, and on a full pool.

use twinsan::ids::VolumeId;
use twinsan::planted::Bug;
use twinsan::pool::{Record, Slot};

use super::model::mark_blocks;
use super::session::{Next, Part, Session, Task, Writing};

impl Session<'_> {
    /// A store never has two writes to one place of a disk on their way.
    fn is_busy(&self, slot: Slot) -> bool {
        let at = |writing: &Writing| writing.slot == slot;
        self.tasks
            .iter()
            .any(|task| matches!(task, Task::Write(writing) | Task::Flush(writing) if at(writing)))
    }

    pub(super) fn zero_block(&mut self) {
        let Some((volume, extent, (slot, _))) = self.first_mapped() else { return };
        if self.is_busy(slot) {
            return;
        }
        let zeros = &self.model.volumes[&volume].zeros;
        let block = mark_blocks().into_iter().find(|block| !zeros.contains(&(extent, *block)));
        if let Some(first) = block {
            self.append(&[Record::ZeroAdd { volume, extent, first, count: 1 }], 0);
        }
    }

    /// As soon as all that has been recorded is durable: a store has one job on an extent at a time. Makes a block that
    /// reads as zero if there is none.
    pub(super) fn begin_write_zeroed(&mut self) {
        if self.zeroed().is_none() {
            self.zero_block();
        }
        let last = self.tasks.iter().filter_map(|task| match task {
            Task::Durable(lsn) => Some(*lsn),
            _ => None,
        });
        let last = last.max().unwrap_or(0);
        self.tasks.push(Task::Then(last, Next::WriteZeroed));
        self.go_on();
    }

    /// A marked block that reads as zero, in an extent with which nothing happens.
    fn zeroed(&self) -> Option<(VolumeId, (u32, u32), Slot)> {
        let all = self.model.volumes.iter();
        let mut marked =
            all.flat_map(|(id, volume)| volume.zeros.iter().map(|at| (*id, *at, volume.map[&at.0].0)));
        let is_marked = |block: u32| mark_blocks().contains(&block);
        marked.find(|(id, (of, block), slot)| {
            let shared = self.pool().is_some_and(|pool| pool.is_shared(*id, *of));
            is_marked(*block) && !shared && !self.is_busy(*slot) && !self.is_moving(*id, *of)
        })
    }

    fn write_zeroed(&mut self) {
        let Some((volume, (extent, block), slot)) = self.zeroed() else { return };
        let (content, value) = (self.value(), self.value());
        self.expected.contents.insert(content, vec![value]);
        if self.planted.has(Bug::ZeroBitClearedBeforeData) {
            self.append(&[Record::ZeroRemove { volume, extent, first: block, count: 1 }], content);
        }
        let part = Part::Zeroed(volume, extent, block);
        self.write(Writing { slot, content, value, map: None, abort: false, part, moved: None });
    }

    pub(super) fn full_write(&mut self) -> Result<(), String> {
        let Some((volume, extent, (slot, _))) = self.first_mapped() else { return Ok(()) };
        let pool = self.pool.as_mut().expect("an operation runs on an open pool");
        // One that others have frees nothing, and one that has to leave its disk frees the place kept for it at once.
        if pool.is_shared(volume, extent) || !pool.is_open(slot.disk) {
            return Ok(());
        }
        let hoard: Vec<u32> = (1000..2000).take_while(|hoarded| pool.reserve(volume, *hoarded)).collect();
        if pool.reserve(volume, 999) || pool.free_extents() != 0 {
            return Err("a full pool has space".into());
        }
        if !pool.reserve(volume, extent) {
            return Err("a full pool refuses an overwrite".into());
        }
        self.append(&[Record::Unmap { volume, extent }], 0);
        let pool = self.pool.as_mut().expect("as above");
        let lsn = pool.freeing().map_or(0, |lsn| lsn.0);
        if pool.failed().is_none() && pool.reserve(volume, extent) {
            return Err("space is given out before its unmapping is durable".into());
        }
        self.tasks.push(Task::Then(lsn, Next::Refill(volume, extent)));
        hoard.into_iter().for_each(|hoarded| pool.release(volume, hoarded));
        Ok(())
    }

    /// Operations that wait for a record go on when it is durable.
    pub(super) fn go_on(&mut self) {
        let durable = self.pool.as_ref().map_or(0, |pool| pool.durable().0);
        let due = |task: &Task| matches!(task, Task::Then(lsn, _) if *lsn <= durable);
        while let Some(at) = self.tasks.iter().position(due) {
            let Task::Then(_, next) = core::mem::replace(&mut self.tasks[at], Task::Done) else { return };
            match next {
                Next::WriteZeroed => self.write_zeroed(),
                Next::Refill(volume, extent) => {
                    let there = self.model.volumes.get(&volume);
                    let free = there.is_some_and(|volume| !volume.map.contains_key(&extent));
                    if free && !self.tasks.iter().any(|task| task.extent(volume) == Some(extent)) {
                        self.write_to(volume, extent, false, Part::First);
                    }
                }
            }
        }
    }
}
