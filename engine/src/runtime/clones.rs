//! Volumes that are made while an engine runs, and names.
//!
//! The number of a new volume is chosen here, by class: from [`FIRST`] on, what is left by division by three says whether it
//! is mirrored, linear of node a, or linear of node b. So two nodes that do not hear each other never give one number to
//! different volumes: mirrored ones are made by the one that serves, linear ones by the one that has them.

use std::collections::BTreeSet;

use super::engine::Engine;
use crate::backend;
use crate::ids::{ItemName, NUMBER_KINDS, NodeName, VolumeId};
use crate::mirror::message::{NAME_BYTES_MAX, NewClone, VolumeChange, VolumeRefusal};
use crate::node::view::View;
use crate::pool::CloneRefusal;

/// The least number of a volume that is made while an engine runs: smaller ones are for configurations.
const FIRST: u32 = 1000;
/// Numbers in use at the partner that are met before a question is given up.
const TRIES_MAX: usize = 64;

/// Why a volume was not made or named.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloneError {
    /// The nodes refuse it.
    #[error(transparent)]
    Refused(#[from] VolumeRefusal),
    /// Another volume has the name, here or in this node's configuration.
    #[error("volume {id} has the name {name} already; choose another")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: VolumeId,
    },
    /// The system has no random numbers.
    #[error("no random identity can be had: {0}")]
    Random(#[from] std::io::Error),
}

impl Engine {
    /// Takes snapshots of volumes, all at one moment: what was acknowledged of any of them before that is in its snapshot, and
    /// nothing that was asked for after it. All are made, or none. The volumes stay in use; their writes wait a moment.
    /// Snapshots of mirrored volumes are mirrored; mirrored and linear volumes have no moment in common. Returns their
    /// numbers, in the order asked for, when both nodes have them in writing, or the one that serves alone has: its partner
    /// takes them over when it comes back.
    ///
    /// A snapshot is a volume that is not written ([`VolumeInfo::read_only`](crate::guest::VolumeInfo::read_only)): see
    /// [`volume`](Self::volume). It goes with [`delete_volume`](Self::delete_volume). Names are 1 to 255 bytes, and no other
    /// volume has them. Not to be called by a [`Sink`](crate::guest::Sink).
    ///
    /// # Errors
    /// [`VolumeRefusal::Interrupted`] if it is not known whether it was done; the others say why it was not.
    pub fn snapshot(&self, volumes: &[(VolumeId, &str)]) -> Result<Vec<VolumeId>, CloneError> {
        self.make(volumes, true)
    }

    /// Makes a volume that begins as a snapshot is, and that hosts may write; the snapshot stays as it is. It takes space as it
    /// is written. Returns its number, when it is in writing as [`snapshot`](Self::snapshot) says. Not to be called by a
    /// [`Sink`](crate::guest::Sink).
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn clone_volume(&self, snapshot: VolumeId, name: &str) -> Result<VolumeId, CloneError> {
        let made = self.make(&[(snapshot, name)], false)?;
        Ok(made[0])
    }

    /// Gives a volume, any, another name. It is kept with the volume, on both nodes, and stands before the one in the
    /// configuration. Returns when both nodes have it in writing, or the one that serves alone has. Two who give one name to
    /// two volumes at the same moment, on the two nodes, may both succeed. Not to be called by a
    /// [`Sink`](crate::guest::Sink).
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot); [`VolumeRefusal::Changed`] if somebody else renamed it meanwhile.
    pub fn rename_volume(&self, id: VolumeId, name: &str) -> Result<(), CloneError> {
        self.check_name(name, Some(id))?;
        let items = self.handle.core.items(id);
        let expect = items.get(&ItemName::NAME).map_or(0, |item| item.revision);
        let what = VolumeChange::Keep { name: ItemName::NAME, expect, value: name.as_bytes().into() };
        Ok(self.handle.core.change_volume(id, what)?)
    }

    fn make(&self, volumes: &[(VolumeId, &str)], read_only: bool) -> Result<Vec<VolumeId>, CloneError> {
        volumes.iter().try_for_each(|(_, name)| self.check_name(name, None))?;
        let mut taken = BTreeSet::new();
        loop {
            match self.try_to_make(volumes, read_only, &taken) {
                // Somebody else was first, or the partner knows of a volume that this node does not: once more, above it.
                Err(CloneError::Refused(VolumeRefusal::Clone(CloneRefusal::Taken(id))))
                    if taken.len() < TRIES_MAX && taken.insert(id) => {}
                made => return made,
            }
        }
    }

    fn try_to_make(
        &self,
        volumes: &[(VolumeId, &str)],
        read_only: bool,
        taken: &BTreeSet<VolumeId>,
    ) -> Result<Vec<VolumeId>, CloneError> {
        let Some(&(first, _)) = volumes.first() else { return Err(VolumeRefusal::Many.into()) };
        let view = self.view().ok_or(VolumeRefusal::NotNow)?;
        let model = view.volumes.iter().find(|volume| volume.id == first);
        let class = class(model.ok_or(VolumeRefusal::Unknown(first))?.mirrored, view.name);
        let mut taken: BTreeSet<VolumeId> = taken | &ids(&view);
        taken.extend(self.handle.volumes.iter().map(|volume| volume.id));
        let mut clones = Vec::new();
        for &(of, name) in volumes {
            let volume = next(class, &taken).ok_or(VolumeRefusal::Many)?;
            taken.insert(volume);
            let (uuid, name) = (backend::random_uuid()?, name.to_owned());
            clones.push(NewClone { volume, of, uuid, name, read_only });
        }
        let made = clones.iter().map(|clone| clone.volume).collect();
        self.handle.core.make_clones(clones)?;
        Ok(made)
    }

    /// Can a volume, other than `own`, get this name? The configuration's names count also where a volume has another now: a
    /// mapping may still go by them.
    fn check_name(&self, name: &str, own: Option<VolumeId>) -> Result<(), CloneError> {
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return Err(VolumeRefusal::Name.into());
        }
        let names = self.volumes().into_iter().flat_map(|volume| {
            let info = volume.info();
            let configured = self.handle.volumes.iter().find(|volume| volume.id == info.id);
            [Some((info.id, info.name)), configured.map(|volume| (volume.id, volume.name.clone()))]
        });
        let mut others = names.flatten().filter(|(id, _)| Some(*id) != own);
        match others.find(|(_, other)| other == name) {
            Some((id, name)) => Err(CloneError::NameTaken { name, id }),
            None => Ok(()),
        }
    }
}

/// What the numbers of such volumes leave when they are divided.
fn class(mirrored: bool, of: NodeName) -> u32 {
    match (mirrored, of) {
        (true, _) => 0,
        (false, NodeName::A) => 1,
        (false, NodeName::B) => 2,
    }
}

/// Numbers of volumes that there are, or were.
fn ids(view: &View) -> BTreeSet<VolumeId> {
    view.volumes.iter().map(|volume| volume.id).chain(view.deleted.iter().copied()).collect()
}

/// The least number of a class above all of it that are taken; if there is none, the least that is not taken.
fn next(class: u32, taken: &BTreeSet<VolumeId>) -> Option<VolumeId> {
    let first = (FIRST..).find(|number| number % NUMBER_KINDS == class)?;
    let own = |id: &&VolumeId| id.0 >= first && id.0 % NUMBER_KINDS == class;
    let above = match taken.iter().rev().find(own) {
        Some(last) => last.0.checked_add(NUMBER_KINDS),
        None => Some(first),
    };
    let free = || {
        (first..=u32::MAX).step_by(NUMBER_KINDS as usize).find(|number| !taken.contains(&VolumeId(*number)))
    };
    above.or_else(free).map(VolumeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_by_class_and_above_all_that_were() {
        let taken = |ids: &[u32]| ids.iter().map(|id| VolumeId(*id)).collect::<BTreeSet<_>>();
        let cases: [(&[u32], [u32; 3]); 5] = [
            (&[], [1002, 1000, 1001]),
            (&[3, 999, 300], [1002, 1000, 1001]),
            (&[1002, 1001], [1005, 1000, 1004]),
            (&[1002, 1008], [1011, 1000, 1001]),
            // A configuration may name the largest.
            (&[u32::MAX, 1002], [1005, 1000, 1001]),
        ];
        assert_eq!(u32::MAX % NUMBER_KINDS, 0);
        for (ids, expected) in cases {
            let taken = taken(ids);
            let found = [(true, NodeName::A), (false, NodeName::A), (false, NodeName::B)]
                .map(|(mirrored, of)| next(class(mirrored, of), &taken).map(|id| id.0));
            assert_eq!(found, expected.map(Some), "{ids:?}");
        }
        assert_eq!(class(true, NodeName::B), class(true, NodeName::A));
    }
}
