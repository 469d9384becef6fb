//! What goes into a node and what comes out.

use std::sync::Arc;

use crate::arbiter::{Answer, ArbiterError, Ask};
use crate::guest::{Command, GuestResult, Items};
use crate::ids::{DiskId, Epoch, NodeName, RequestId, Uuid, VolumeId};
use crate::io::{DiskError, DiskRequest, DiskResult, IoId};
use crate::mirror::message::{Message, NewClone, VolumeChange, VolumeRefusal};
use crate::node::config::SpaceLevel;
use crate::pool::{DiskRefusal, NewDisk};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A guest asks.
    Guest {
        /// Unique among the living requests of this node.
        id: RequestId,
        /// The volume.
        volume: VolumeId,
        /// What is asked.
        command: Command,
    },
    /// A guest's request shall be given up. Answered with [`Action::Aborted`] when it can no longer act.
    Abort {
        /// The request.
        id: RequestId,
    },
    /// A disk request finished.
    Disk {
        /// Which.
        id: IoId,
        /// How.
        result: DiskResult,
    },
    /// The link to the partner is up. `link` rises with every connection.
    LinkUp {
        /// Number of the connection.
        link: u64,
    },
    /// The link is down; nothing more comes from it.
    LinkDown {
        /// Number of the connection.
        link: u64,
    },
    /// A message came.
    Message {
        /// The connection it came on.
        link: u64,
        /// What it says.
        message: Message,
    },
    /// The arbiter answered, or could not be asked.
    Arbiter {
        /// Number of the question.
        id: u64,
        /// The answer.
        result: Result<Answer, ArbiterError>,
    },
    /// Begin a scrub of all extents from the start, or end the one that runs. What it finds is in the view.
    Scrub {
        /// Begin?
        start: bool,
    },
    /// Stop cleanly: hand over, then [`Notice::Stopped`].
    Stop,
    /// Time has passed.
    Tick,
    /// An operator asks something of the pool. Answered with [`Action::PoolAnswer`].
    Pool {
        /// Echoed in the answer.
        id: u64,
        /// What is asked.
        ask: PoolAsk,
    },
    /// An operator wants a volume changed. Answered with [`Action::VolumeAnswer`], a mirrored one's change when both
    /// halves have it in writing, or the survivor has.
    Volume {
        /// Echoed in the answer.
        id: u64,
        /// The volume.
        volume: VolumeId,
        /// What is to become of it.
        what: VolumeChange,
    },
    /// An operator wants volumes that begin as others are at one moment: snapshots of volumes, or clones of snapshots. All or
    /// none are made. Answered with [`Action::VolumeAnswer`], as a change of a volume.
    Clones {
        /// Echoed in the answer; of the numbers of [`Event::Volume`].
        id: u64,
        /// The volumes. Those of which they are made are all mirrored, or all linear.
        clones: Vec<NewClone>,
    },
}

/// What an operator asks of the pool. Disks are named by their identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolAsk {
    /// A disk joins, whose requests go to `device` from now on. Answered when its space counts, or when it is refused.
    Add(NewDisk),
    /// A disk is emptied and leaves. Answered when that has begun; [`Notice::DiskLeft`] tells when it is done. It goes
    /// on after a restart.
    Remove {
        /// The disk.
        disk: Uuid,
    },
    /// A disk that is being emptied stays, with what is still on it.
    Keep {
        /// The disk.
        disk: Uuid,
    },
    /// The emptying of a disk pauses, until further notice or a restart; or goes on.
    Pause {
        /// The disk.
        disk: Uuid,
        /// Pause, or go on?
        paused: bool,
    },
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Give a request to a disk.
    Disk(DiskRequest),
    /// Send a message on this connection; drop it if the connection is gone.
    Send {
        /// Number of the connection.
        link: u64,
        /// The message.
        message: Message,
    },
    /// Close this connection: what came on it cannot be answered.
    Disconnect {
        /// Number of the connection.
        link: u64,
    },
    /// Ask the arbiter.
    Arbiter {
        /// Echoed in the answer.
        id: u64,
        /// The question.
        ask: Ask,
    },
    /// Answer a guest.
    Complete {
        /// The request.
        id: RequestId,
        /// The answer.
        result: GuestResult,
    },
    /// An aborted request can no longer act.
    Aborted {
        /// The request.
        id: RequestId,
    },
    /// Tell the operator.
    Notice(Notice),
    /// Answer an operator.
    PoolAnswer {
        /// As in the request.
        id: u64,
        /// Done or begun, or why not.
        result: Result<(), DiskRefusal>,
    },
    /// Let this disk go: nothing more is asked of it.
    Release {
        /// Its number among the disks given.
        disk: DiskId,
    },
    /// Answer an operator who wanted a volume changed.
    VolumeAnswer {
        /// As in the request.
        id: u64,
        /// Done, or why not.
        result: Result<(), VolumeRefusal>,
    },
    /// From now on hosts see the volume with this size; or not at all, for it is deleted.
    VolumeSize {
        /// The volume.
        volume: VolumeId,
        /// Its size in 512-byte sectors; `None`: it is deleted.
        sectors: Option<u64>,
    },
    /// There is this volume, by the word of the pool, which stands before the configuration's. Comes before anything else is
    /// said of it.
    VolumeIs {
        /// The volume.
        volume: VolumeId,
        /// Identity shown to hosts.
        uuid: Uuid,
        /// Has it a half on each node?
        mirrored: bool,
        /// May hosts not write it?
        read_only: bool,
    },
    /// From now on this is what is kept with the volume.
    VolumeItems {
        /// The volume.
        volume: VolumeId,
        /// Everything, by name.
        items: Arc<Items>,
    },
}

/// Something an operator wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The pool is open and the volumes exist.
    Opened,
    /// The pool cannot be opened; the text says why and what to do.
    OpenFailed(String),
    /// The node serves in a pair of this epoch.
    Paired(Epoch),
    /// The node serves alone from this epoch.
    Alone(Epoch),
    /// The node may not serve.
    Lost,
    /// A resync from `source` began: this many regions.
    ResyncBegan {
        /// The node with the current data.
        source: NodeName,
        /// 64 KiB regions to look at.
        regions: u64,
    },
    /// The partner's pool has no space for the resync; guests go on here, it is tried again later.
    PartnerFull,
    /// A region of the change log cannot be read here, and the partner lacks it; it is tried again.
    Unreadable {
        /// The volume.
        volume: VolumeId,
        /// The 64 KiB region.
        region: u64,
    },
    /// A disk failed for good.
    DiskFailed,
    /// The halves cannot be joined without a person's decision.
    NeedsDecision(String),
    /// The clean stop is done.
    Stopped,
    /// The pool's use has risen to a threshold. Told once, until it has fallen clear of it.
    SpaceReached {
        /// The threshold.
        level: SpaceLevel,
        /// Bytes in use.
        bytes_used: u64,
        /// Size of the pool.
        bytes: u64,
    },
    /// The pool's use has fallen clear of a threshold.
    SpaceRegained {
        /// The threshold.
        level: SpaceLevel,
        /// Bytes in use.
        bytes_used: u64,
        /// Size of the pool.
        bytes: u64,
    },
    /// The partner's pool has no space for a write: it is dropped, as configured, and this node tries to go on alone.
    PartnerDropped,
    /// The pool has less left than it keeps for volumes: others had taken it before.
    ReservationShort {
        /// Bytes that are missing.
        bytes: u64,
    },
    /// A block on this node's disks is not what was written there, or cannot be read. It was put right from the partner,
    /// or no good copy is left.
    Damaged {
        /// The volume.
        volume: VolumeId,
        /// The 4 KiB block.
        block: u64,
        /// Was it put right?
        repaired: bool,
    },
    /// A disk has joined the pool.
    DiskJoined(Uuid),
    /// A disk has been emptied and is no longer part of the pool.
    DiskLeft {
        /// Its identity.
        disk: Uuid,
        /// Its mark was cleared; if not, it failed at that, and still looks like a disk of this pool.
        erased: bool,
    },
    /// A disk that was given, by its number, carries the pool's mark and is no part of it: it was removed, or its
    /// joining was cut short. It can be added.
    DiskNotOurs(DiskId),
    /// A volume has grown, and hosts may see it.
    VolumeGrown {
        /// The volume.
        volume: VolumeId,
        /// Its size in 512-byte sectors.
        sectors: u64,
    },
    /// A volume is deleted; its space is on its way back.
    VolumeDeleted(VolumeId),
    /// A volume was made that began as another one was.
    VolumeCloned {
        /// The volume.
        volume: VolumeId,
        /// What it began as.
        of: VolumeId,
        /// Is it a snapshot?
        read_only: bool,
    },
    /// A block on a disk that is being emptied cannot be read, or is not what was written; its extent stays. It is tried
    /// again.
    Unmovable {
        /// The disk.
        disk: Uuid,
        /// Byte offset on it.
        offset: u64,
        /// The volume.
        volume: VolumeId,
        /// Its 4 KiB block.
        block: u64,
    },
    /// A disk failed a request while the pool was being opened. [`Notice::OpenFailed`] follows.
    OpenDiskFailed {
        /// Its number among the disks given.
        disk: DiskId,
        /// How it failed.
        error: DiskError,
    },
}
