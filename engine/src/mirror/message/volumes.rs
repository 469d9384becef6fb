//! What the nodes say of volumes: their changes, their table, volumes that are made of others.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ItemName, Uuid, VolumeId};
use crate::pool::CloneRefusal;

/// Most volumes that are cloned at one moment.
pub(crate) const CLONES_MAX: usize = 64;
/// The longest name of a volume.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// A change of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VolumeChange {
    /// It gets this size. What it has more reads as zero.
    Grow {
        /// The new size in 512-byte sectors.
        sectors: u64,
    },
    /// It is no more, on either node; its space goes back to the pools.
    Delete,
    /// Something small is kept with it, in place of what was kept under this name.
    Keep {
        /// The name.
        name: ItemName,
        /// Only if what is kept now has this revision; zero: if nothing is.
        expect: u64,
        /// What; no bytes: nothing any more.
        value: Arc<[u8]>,
    },
}

/// Something that is kept with a volume, in the table of the node whose data stand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ItemEntry {
    /// The name.
    pub name: ItemName,
    /// Number of the volume's change that put it there.
    pub revision: u64,
    /// What is kept.
    pub value: Arc<[u8]>,
}

/// Why a volume is not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum VolumeRefusal {
    /// There is no such volume, or it is deleted.
    #[error("there is no volume {0}; `status` lists the volumes")]
    Unknown(VolumeId),
    /// Another change of it is on its way.
    #[error("another change of this volume is on its way; try again when that is done")]
    Busy,
    /// It has that size already, or a larger one.
    #[error("it has {sectors} sectors already, and volumes do not shrink; name a larger size")]
    NotLarger {
        /// Its size.
        sectors: u64,
    },
    /// Larger than volumes can be.
    #[error("a volume has at most {most} sectors; name a smaller size")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// The node may not serve the volume now.
    #[error("this node may not change the volume now; ask again when it serves, or ask its partner")]
    NotNow,
    /// The node lost its partner, or its right to serve, before it heard that it was done.
    #[error("the nodes lost each other before it was done; see whether it is with `status`, or ask again")]
    Interrupted,
    /// What is kept is not what the asker thinks.
    #[error("what is kept has revision {revision} by now; look at it and ask again")]
    Changed {
        /// The revision of what is kept.
        revision: u64,
    },
    /// It is too much to keep, here or at the partner.
    #[error("so much cannot be kept with a volume: keep less, or add a disk to both pools")]
    NoRoom,
    /// Hosts may not write it, so it does not change.
    #[error("volume {0} is a snapshot: it does not change; make a clone of it, or delete it")]
    Snapshot(VolumeId),
    /// Volumes of which only some are mirrored cannot be cloned at one moment.
    #[error("linear and mirrored volumes have no moment in common: ask for each kind by itself")]
    Mixed,
    /// Nothing is asked for, too much at once, or one volume twice.
    #[error("ask for one to {CLONES_MAX} volumes at once, each by a number and a name of its own")]
    Many,
    /// A name is too long, or none.
    #[error("a volume's name has 1 to {NAME_BYTES_MAX} bytes")]
    Name,
    /// The volume was not at rest for as long as writes may be held.
    #[error(
        "the volume did not come to rest in time, here or at the partner; try again when its disks do less"
    )]
    NotAtRest,
    /// The pool cannot do it, here or at the partner.
    #[error("{0}")]
    Clone(CloneRefusal),
    /// A node is not configured to make any.
    #[error(
        "snapshots and clones are not fully proven yet; to try them on data that you can lose, set \
         `experimental_snapshots = true` under [node] of both nodes and start them anew"
    )]
    Experimental,
}

/// A mirrored volume in the table of the node whose data stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// The volume.
    pub volume: VolumeId,
    /// Identity shown to hosts.
    pub uuid: Uuid,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Number of its last change.
    pub change: u64,
    /// The epoch in which that was made.
    pub epoch: Epoch,
    /// Is it deleted?
    pub deleted: bool,
    /// May hosts not write it?
    pub read_only: bool,
    /// To be made of this volume as the target has it: what that lacks of the clone is in the log.
    pub of: Option<VolumeId>,
}

/// A volume that begins as another one is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewClone {
    /// The volume to be.
    pub volume: VolumeId,
    /// What it begins as.
    pub of: VolumeId,
    /// Identity shown to hosts.
    pub uuid: Uuid,
    /// Shown to people, 1 to 255 bytes. It is kept with the volume.
    pub name: String,
    /// It is a snapshot: hosts may not write it. What they may write is made of a snapshot.
    pub read_only: bool,
}
