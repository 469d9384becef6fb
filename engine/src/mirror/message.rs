//! Messages between the nodes. `engine/docs/protocol.md` tells when each is sent.
//!
//! Messages on the data path ([`Body::Write`] to [`Body::CopyStable`]) have a fixed layout on the wire; the
//! rest ([`Control`]) is postcard inside the same versioned, checksummed frame. Blocks travel behind either,
//! with the checksums they were given at ingress.

use serde::{Deserialize, Serialize};

use crate::block::Payload;
use crate::guest::{GuestError, Sectors};
use crate::ids::{BootId, Epoch, Generation, Members, NodeName, Uuid, VolumeId};
use crate::time::Instant;

mod volumes;
pub(crate) use volumes::{CLONES_MAX, NAME_BYTES_MAX};
pub use volumes::{ItemEntry, NewClone, VolumeChange, VolumeEntry, VolumeRefusal};

/// Version of the protocol. A partner with another one is refused.
pub const PROTOCOL_VERSION: u16 = 5;

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it says.
    pub body: Body,
    /// Blocks that go with it.
    pub data: Payload,
}

impl Message {
    /// A message without blocks.
    pub fn control(control: Control) -> Message {
        Message { body: Body::Control(control), data: Payload::new() }
    }

    /// Must it overtake data that waits in the sender's queue? True for heartbeats only.
    pub fn is_urgent(&self) -> bool {
        matches!(self.body, Body::Control(Control::Probe { .. } | Control::ProbeReply { .. }))
    }
}

/// How a forwarded command's remaining time is told to the owner, who judges it by its own clock. What the
/// partner sends is a lower bound: the owner's clock when it last spoke, plus what has passed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deadline {
    /// The owner's clock as last heard by the partner.
    pub owner_clock: Instant,
    /// Nanoseconds that have passed at the partner since it heard that.
    pub spent_nanos: u64,
    /// Nanoseconds left to the command.
    pub left_nanos: u64,
}

impl Deadline {
    /// On the owner's clock: the command must not be ordered after this.
    pub fn at_owner(self) -> Instant {
        Instant::from_nanos(
            self.owner_clock.as_nanos().saturating_add(self.spent_nanos).saturating_add(self.left_nanos),
        )
    }
}

/// What a write makes of what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manner {
    /// Its blocks take the place of the old ones.
    #[default]
    Replace,
    /// The same, if the old ones are as expected.
    IfEqual,
    /// Its bits are set in the old ones.
    Or,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Body {
    /// Owner to partner: this write is next. Its blocks are in `data`, or (`carried == false`) are zeros or
    /// those of the partner's own forwarded write `origin`.
    Write {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Its place in the owner's order, from 1 in each epoch and volume; resends repeat it.
        order: u64,
        /// First 4 KiB block.
        first: u64,
        /// Number of blocks.
        blocks: u32,
        /// All blocks become zero.
        zero: bool,
        /// Are the blocks in `data`?
        carried: bool,
        /// The forwarded write that this is, if it came from the partner.
        origin: Option<u64>,
    },
    /// Partner to owner: the write is in the cache and visible, or there was no space and it is not.
    WriteDone {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// The write.
        order: u64,
        /// False: the partner's pool has no space for it.
        stored: bool,
    },
    /// Partner to owner: give this write of my guest its place.
    Forward {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// The partner's number of it, never used twice in one life of the partner.
        id: u64,
        /// Where.
        at: Sectors,
        /// What is to become of what is there. What is expected there follows the blocks to be written.
        manner: Manner,
        /// Clear instead of write.
        zero: bool,
        /// Until when it may be ordered.
        deadline: Deadline,
    },
    /// Source to target during resync: content of blocks, copied or newly written.
    Copy {
        /// Epoch of the source.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Rises with every copy message of this link.
        tag: u64,
        /// First 4 KiB block.
        first: u64,
        /// Number of blocks.
        blocks: u32,
        /// All blocks are zero; none in `data`.
        zero: bool,
        /// A guest's new write, not a copy of the log's.
        fresh: bool,
    },
    /// Target to source: everything up to this tag is on stable media.
    CopyStable {
        /// Epoch of the source.
        epoch: Epoch,
        /// The last tag covered.
        tag: u64,
    },
    /// Anything else.
    Control(Control),
}

/// What one half of a mirrored volume is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HalfSummary {
    /// The volume.
    pub volume: VolumeId,
    /// Size in sectors.
    pub sectors: u64,
    /// Identity of the data; zero if it never held any.
    pub generation: Generation,
    /// Earlier generations since the halves were last whole, newest first: those the change log reaches back to.
    pub ancestors: Vec<Generation>,
    /// Hot set and change log can be trusted. Both nodes must know it: they take the same decision.
    pub log_intact: bool,
    /// Number of the volume's last change; zero if it is as it was made.
    pub change: u64,
    /// What it was made of while nodes ran, if it was: the configuration need not name it, nor the partner have it.
    pub of: Option<VolumeId>,
}

/// What a node is doing, as it tells its partner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PeerPhase {
    /// Just started.
    Starting,
    /// In a pair.
    Paired,
    /// Wants to serve alone; not decided.
    Deciding,
    /// Serves alone.
    Alone,
    /// Lost; wants to rejoin.
    Lost,
    /// Being resynchronised.
    Target,
    /// Whole again, waiting for the word to go.
    Joined,
    /// Stopping or failed: will not serve in this life.
    Stopped,
}

/// A node introduces itself, first thing on every link and whenever what it says changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub version: u16,
    /// The partnership.
    pub partnership: Uuid,
    /// Who speaks.
    pub node: NodeName,
    /// This life of its memory.
    pub boot: BootId,
    /// What it is doing.
    pub phase: PeerPhase,
    /// Its durable epoch.
    pub epoch: Epoch,
    /// Its durable members record.
    pub members: Members,
    /// Its durable word that its half is not behind.
    pub up_to_date: bool,
    /// Its durable word that it stopped cleanly after it had lost its partner, with everything of the pair of its
    /// epoch on stable media.
    pub complete: bool,
    /// It has no question open at the arbiter and may become a target.
    pub ready: bool,
    /// The epoch of the pair it is in or was in, with unbroken memory; zero if none in this life.
    pub pair_epoch: Epoch,
    /// The mirrored volumes.
    pub halves: Vec<HalfSummary>,
    /// Mirrored volumes that it knows to be deleted.
    pub deleted: Vec<VolumeId>,
}

/// Everything that is not on the data path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Control {
    /// Who I am.
    Hello(Hello),
    /// Are you there, in this epoch?
    Probe {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The asker's clock; the lease counts from it.
        sent: Instant,
    },
    /// I am, in this epoch.
    ProbeReply {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Echo of the probe.
        sent: Instant,
        /// The answerer's clock, for deadlines of forwarded commands.
        clock: Instant,
    },
    /// Owner to partner: the forwarded write will not be done.
    ForwardRefused {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Its number.
        id: u64,
        /// Why.
        error: GuestError,
    },
    /// Partner to owner: forget this forwarded write if it is not ordered.
    Cancel {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Its number.
        id: u64,
    },
    /// Owner to partner: it is forgotten, or was ordered before (then its `Write` came first).
    Cancelled {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Its number.
        id: u64,
    },
    /// Make everything you have of this volume stable.
    FlushAsk {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// The volume.
        volume: VolumeId,
    },
    /// It is.
    FlushDone {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
    },
    /// Partner to owner: all writes up to `order` are on my stable media.
    Stable {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// The last write covered.
        order: u64,
    },
    /// Owner to partner: these areas are equal and stable on both; they leave the hot set.
    Cool {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// The areas.
        areas: Vec<u32>,
    },
    /// I cannot read these blocks from my disk; what do you have?
    ReadAsk {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// The volume.
        volume: VolumeId,
        /// First 4 KiB block.
        first: u64,
        /// Number of blocks.
        blocks: u32,
    },
    /// The blocks are in `data`, or I have no good copy either.
    ReadReply {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// What went wrong.
        error: Option<GuestError>,
    },
    /// Source to returning node: tell me where you may differ.
    SetsAsk {
        /// Epoch of the source.
        epoch: Epoch,
        /// Volumes of which all mapped extents are wanted, for a full resync.
        full: Vec<VolumeId>,
    },
    /// Target to source: part of its hot set and change log.
    Sets {
        /// Epoch of the source.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Hot areas.
        hot: Vec<u32>,
        /// Runs of logged regions: (first, count).
        regions: Vec<(u64, u64)>,
        /// Mapped extents as runs of regions, for a full resync only.
        mapped: Vec<(u64, u64)>,
    },
    /// Target to source: that was all.
    SetsEnd {
        /// Epoch of the source.
        epoch: Epoch,
    },
    /// Source to returning node: your marks are merged and durable here; you are behind, write it down.
    BeTarget {
        /// Epoch of the source.
        epoch: Epoch,
        /// New halves: the generation from which they are a delta, now that the source has logged all that
        /// they lack.
        bases: Vec<(VolumeId, Generation)>,
        /// All mirrored volumes as the source has them, deleted ones too: so it shall be at the target.
        table: Vec<VolumeEntry>,
    },
    /// Target to source: written; send.
    TargetReady {
        /// Epoch of the source.
        epoch: Epoch,
    },
    /// Source to target: the set is empty; write down that we are both members of `proposed`.
    Join {
        /// Epoch of the source.
        epoch: Epoch,
        /// The epoch to be.
        proposed: Epoch,
        /// Identity of the data of each volume, with its ancestors.
        halves: Vec<HalfSummary>,
    },
    /// Target to source: written.
    Joined {
        /// The epoch to be.
        proposed: Epoch,
    },
    /// Source to target: the register says so too; go on as a pair. Grants no lease.
    Go {
        /// Epoch of the pair.
        epoch: Epoch,
    },
    /// I want to stop cleanly: hold new writes and flush everything, as I do.
    StopAsk {
        /// Epoch of the pair.
        epoch: Epoch,
    },
    /// All is stable here.
    StopReady {
        /// Epoch of the pair.
        epoch: Epoch,
    },
    /// I have written down that you go on, and have stopped serving.
    HandedOver {
        /// Epoch of the pair.
        epoch: Epoch,
    },
    /// Without an arbiter, both of us stopped or restarted with equal rights: go on, I follow.
    Yield {
        /// The yielding node's durable epoch.
        epoch: Epoch,
    },
    /// Owner to partner, after a link came back: these are all the hot areas; what was said to cool meanwhile may
    /// have been lost.
    Hot {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// The areas, ascending.
        areas: Vec<u32>,
    },
    /// Target to source: my pool has no space for what you send. I stay behind until there is.
    NoSpace {
        /// Epoch of the source.
        epoch: Epoch,
    },
    /// Owner to partner: write this change of the volume down.
    VolumeChange {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Number of the change: one more than that of the last.
        change: u64,
        /// What is to become of it.
        what: VolumeChange,
    },
    /// Partner to owner: it is in writing here.
    VolumeChanged {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Number of the change.
        change: u64,
    },
    /// Owner to partner: it is in writing on both; hosts may see it.
    VolumeShown {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Number of the change.
        change: u64,
    },
    /// Partner to owner: an operator asks here for this change.
    VolumeAsk {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// The volume.
        volume: VolumeId,
        /// What is to become of it.
        what: VolumeChange,
    },
    /// Owner to partner: what came of it.
    VolumeAnswer {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// Done, or why not.
        result: Result<(), VolumeRefusal>,
    },
    /// Partner to owner: this change cannot be written down here.
    VolumeRefused {
        /// Epoch of the pair.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Number of the change.
        change: u64,
        /// Why not.
        refusal: VolumeRefusal,
    },
    /// Source to returning partner, before `BeTarget`: what is kept with a volume, if anything is.
    VolumeItems {
        /// Epoch of the source.
        epoch: Epoch,
        /// The volume.
        volume: VolumeId,
        /// Everything that is kept with it, by name.
        items: Vec<ItemEntry>,
    },
    /// Owner to partner: these volumes begin as those others are, of which nothing is in hand; write that down.
    ClonesTake {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Number of the order, rising in each epoch.
        id: u64,
        /// The volumes, all or none.
        clones: Vec<NewClone>,
    },
    /// Partner to owner: they are in writing here.
    ClonesTaken {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Number of the order.
        id: u64,
    },
    /// Partner to owner: they cannot be written down here, and are not.
    ClonesRefused {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Number of the order.
        id: u64,
        /// Why not.
        refusal: VolumeRefusal,
    },
    /// Partner to owner: an operator asks here for these. Answered with [`Control::VolumeAnswer`].
    ClonesAsk {
        /// Epoch of the pair.
        epoch: Epoch,
        /// Asker's number.
        id: u64,
        /// The volumes.
        clones: Vec<NewClone>,
    },
}
