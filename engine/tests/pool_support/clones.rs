//! Operations of a session on volumes that share extents.

use twinsan::ids::{Uuid, VolumeId};
use twinsan::pool::Record;

use super::model::Call;
use super::session::{Part, Session, Task, Writing};

impl Session<'_> {
    /// A store takes a snapshot when it has nothing of the volume in hand.
    pub(super) fn snapshot(&mut self) -> Result<(), String> {
        let Some((of, _, _)) = self.first_mapped() else { return Ok(()) };
        while self.has_in_hand(of) {
            if !self.step()? {
                return Ok(());
            }
        }
        let volume = VolumeId(self.model.volumes.keys().last().map_or(1, |id| id.0 + 1));
        let Some(pool) = self.pool.as_mut().filter(|pool| pool.may_clone(volume, of, true).is_ok()) else {
            return Ok(());
        };
        let record = Record::VolumeClone { volume, of, uuid: Uuid(9), read_only: true, mirrored: true };
        let lsn = pool.append(core::slice::from_ref(&record)).0;
        let failed = pool.failed().is_some();
        self.model.apply(&record, 0);
        // It has the same values, and from now on its own: what is written to the one must not be found in the other.
        let mut map = self.model.volumes.get(&volume).map(|clone| clone.map.clone()).unwrap_or_default();
        for (_, contents) in map.values_mut() {
            let [first, last] = *contents;
            *contents = [self.own_content(first); 2];
            if last != first {
                contents[1] = self.own_content(last);
            }
        }
        if let Some(clone) = self.model.volumes.get_mut(&volume) {
            clone.map = map;
        }
        if !failed {
            self.expected.calls.push(Call { lsn, after: self.model.clone() });
        }
        self.tasks.push(Task::Durable(lsn));
        Ok(())
    }

    /// A content of its own with the same values.
    fn own_content(&mut self, of: u64) -> u64 {
        let own = self.value();
        let values = self.expected.contents.get(&of).cloned().unwrap_or_default();
        self.expected.contents.insert(own, values);
        own
    }

    /// Writes all of a mapped extent, where it is if nobody shares it.
    pub(super) fn overwrite_extent(&mut self, volume: VolumeId, extent: u32) {
        let (slot, [content, last]) = self.model.volumes[&volume].map[&extent];
        let has_zeros = self.model.volumes[&volume].zeros.iter().any(|(of, _)| *of == extent);
        if has_zeros || self.tasks.iter().any(|task| task.writes_zeroed(slot)) {
            return;
        }
        if self.pool.as_ref().is_some_and(|pool| pool.is_shared(volume, extent)) {
            if !self.tasks.iter().any(|task| task.extent(volume) == Some(extent)) {
                self.write_to(volume, extent, false, Part::All);
            }
            return;
        }
        if content != last {
            return;
        }
        let value = self.value();
        self.expected.contents.get_mut(&content).expect("each map has its contents").push(value);
        self.write(Writing { slot, content, value, map: None, abort: false, part: Part::All, moved: None });
    }

    /// Is something of this volume being written, or moved?
    fn has_in_hand(&self, of: VolumeId) -> bool {
        let Some(volume) = self.model.volumes.get(&of) else { return false };
        let ours = |slot| volume.map.values().any(|(own, _)| *own == slot);
        let writes = self.tasks.iter().any(|task| match task {
            Task::Write(writing) | Task::Flush(writing) => {
                writing.map.is_some_and(|(volume, _)| volume == of) || ours(writing.slot)
            }
            Task::Durable(_) | Task::Then(..) | Task::Moved(..) | Task::Done => false,
        });
        writes || volume.map.keys().any(|extent| self.is_moving(of, *extent))
    }

    pub(super) fn write_shared(&mut self) {
        if let Some((volume, extent)) = self.shared() {
            self.overwrite_extent(volume, extent);
        }
    }

    /// The first extent that several volumes share and that is not being moved.
    fn shared(&self) -> Option<(VolumeId, u32)> {
        let pool = self.pool()?;
        let all = pool.metadata().volumes();
        let mut all = all.flat_map(|(id, meta)| meta.map.iter().map(move |(extent, _)| (id, extent)));
        all.find(|at| pool.is_shared(at.0, at.1) && !self.is_moving(at.0, at.1))
    }

    /// One of two volumes unmaps an extent that they share. Until that is durable the other must not write to it there.
    pub(super) fn let_go(&mut self) {
        let Some((volume, extent)) = self.shared() else { return };
        let pool = self.pool().expect("there is a shared extent");
        let other = pool.sharers(volume, extent).find(|other| *other != volume);
        if self.tasks.iter().any(|task| task.extent(volume) == Some(extent)) {
            return;
        }
        self.append(&[Record::Unmap { volume, extent }], 0);
        if let Some(other) = other.filter(|other| !self.is_moving(*other, extent)) {
            self.overwrite_extent(other, extent);
        }
    }
}
