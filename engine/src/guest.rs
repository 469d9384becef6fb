//! What a guest asks of a virtual volume and what it is told.
//!
//! Addresses are 512-byte sectors. Data travels in 4 KiB [`Block`](crate::block::Block)s that lie on 4 KiB
//! boundaries of the volume: a request for sectors that do not begin or end on such a boundary carries the
//! first or last block whole, of which only the requested sectors count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::{Payload, SECTORS_PER_BLOCK};
use crate::ids::{ItemName, RequestId, Uuid, VolumeId};
use crate::mirror::message::VolumeRefusal;

/// Something small that is kept with a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Number of the volume's change that put it there.
    pub revision: u64,
    /// Its bytes; never none.
    pub value: Arc<[u8]>,
}

/// Everything that is kept with a volume, by name.
pub type Items = BTreeMap<ItemName, Item>;

/// A run of 512-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Sectors {
    /// First sector.
    pub start: u64,
    /// How many.
    pub count: u64,
}

impl Sectors {
    /// `count` sectors from `start`.
    pub const fn new(start: u64, count: u64) -> Sectors {
        Sectors { start, count }
    }

    /// The sector after the last; saturates.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.count)
    }

    /// The 4 KiB blocks touched: first and one past the last.
    pub const fn blocks(self) -> core::ops::Range<u64> {
        let first = self.start / SECTORS_PER_BLOCK;
        if self.count == 0 { first..first } else { first..self.end().div_ceil(SECTORS_PER_BLOCK) }
    }

    /// Does the run begin and end on 4 KiB boundaries?
    pub const fn is_aligned(self) -> bool {
        self.start.is_multiple_of(SECTORS_PER_BLOCK) && self.count.is_multiple_of(SECTORS_PER_BLOCK)
    }
}

/// A guest's request.
#[derive(Clone, Debug)]
pub enum Command {
    /// Read; answered with the blocks that the sectors touch.
    Read {
        /// What to read.
        at: Sectors,
    },
    /// Write. `data` has exactly the blocks that the sectors touch; bytes outside the sectors are ignored.
    Write {
        /// Where to write.
        at: Sectors,
        /// The blocks.
        data: Payload,
        /// Complete only when it is on stable media (SBC-3 5.31, FUA).
        fua: bool,
    },
    /// The sectors read as zero from now on; whole extents are given back to the pool (UNMAP, WRITE SAME of
    /// zeros). At most [`ZERO_SECTORS_MAX`] sectors.
    Zero {
        /// What to clear.
        at: Sectors,
        /// Complete only when it is on stable media.
        fua: bool,
    },
    /// Write if the sectors hold what is expected, as one step: no other write comes between. At most
    /// [`COMPARE_SECTORS_MAX`] sectors. If they do not, nothing is written: [`GuestError::Miscompare`]. To be tried again
    /// as it is only after an answer that says so; see [`GuestError::Uncertain`].
    CompareAndWrite {
        /// Where.
        at: Sectors,
        /// What is expected there: exactly the blocks that the sectors touch; bytes outside the sectors are ignored.
        compare: Payload,
        /// What to write there, in the same form.
        data: Payload,
        /// Complete only when it is on stable media.
        fua: bool,
    },
    /// Set in the sectors the bits that are set in `data`, as one step.
    OrWrite {
        /// Where.
        at: Sectors,
        /// The blocks, as for a write.
        data: Payload,
        /// Complete only when it is on stable media.
        fua: bool,
    },
    /// All writes completed before this one are on stable media of both nodes (SYNCHRONIZE CACHE).
    Flush,
}

impl Command {
    /// The sectors that it names.
    pub fn sectors(&self) -> Option<Sectors> {
        match self {
            Command::Read { at }
            | Command::Write { at, .. }
            | Command::Zero { at, .. }
            | Command::CompareAndWrite { at, .. }
            | Command::OrWrite { at, .. } => Some(*at),
            Command::Flush => None,
        }
    }

    /// May it change what a read returns?
    pub fn changes_data(&self) -> bool {
        !matches!(self, Command::Read { .. } | Command::Flush)
    }
}

/// What a 4 KiB block of a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// It has data of its own.
    Data,
    /// It reads as zero and has a place: a write to it needs no space.
    Zero,
    /// It reads as zero and has no place.
    Unmapped,
}

/// Sectors whose blocks are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRun {
    /// The sectors.
    pub at: Sectors,
    /// What their blocks are.
    pub state: BlockState,
}

/// The longest [`Command::Zero`]: 64 MiB. The front end advertises it as the UNMAP limit (VPD B0).
pub const ZERO_SECTORS_MAX: u64 = (64 << 20) / 512;
/// The longest read or write: 8 MiB, advertised as the maximum transfer length (VPD B0).
pub const TRANSFER_SECTORS_MAX: u64 = (8 << 20) / 512;

/// The longest [`Command::CompareAndWrite`]: as many sectors as a block has, so that one that is aligned is there as a whole or
/// not at all, whatever fails.
pub const COMPARE_SECTORS_MAX: u64 = SECTORS_PER_BLOCK;

/// Why a guest's request failed. The front end turns each into sense data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum GuestError {
    /// This node may not serve now; use the other path (02/04/0C).
    #[error("this node may not serve the volume now; use the path to its partner")]
    Unavailable,
    /// Who may serve is being decided (02/04/0A); try again soon or use the other path.
    #[error("the nodes are deciding who serves; try again or use the other path")]
    Transitioning,
    /// The pool has no space for this write (07/27/07). Nothing of it was written.
    #[error("the pool has no space for this write; add a disk or unmap something")]
    OutOfSpace,
    /// Beyond the end of the volume (05/21/00).
    #[error("the request goes beyond the end of the volume")]
    OutOfRange,
    /// The request is malformed: too long, or the wrong number of blocks (05/24/00).
    #[error("the request is too long or carries the wrong number of blocks")]
    Invalid,
    /// No good copy of the data is left (03/11/00).
    #[error("no good copy of the data is left")]
    Medium,
    /// Aborted on request.
    #[error("the request was aborted")]
    Aborted,
    /// The volume is deleted, or there is none such (05/25/00).
    #[error("there is no such volume any more")]
    Gone,
    /// The volume is a snapshot: it is not written (07/27/00).
    #[error("the volume is a snapshot, which does not change; make a clone of it to write to")]
    ReadOnly,
    /// The sectors do not hold what was expected (0E/1D/00). Nothing was written.
    #[error("the blocks differ from what was expected, first at byte {offset}")]
    Miscompare {
        /// The first byte that differs, from the beginning of the first sector.
        offset: u32,
    },
    /// It has been done, or will never be, and nobody here can tell which (04/44/00): look before trying again.
    #[error("it is not known whether it was done; look before trying again")]
    Uncertain,
}

/// Blocks for a read, an empty payload for the others.
pub type GuestResult = Result<Payload, GuestError>;

/// Takes the results of requests. Called once per request, by whichever thread finished it, possibly before
/// `submit` returns; it must not block.
pub trait Sink: Send + Sync {
    /// The request submitted with `token` has finished.
    fn complete(&self, token: u64, result: GuestResult);
    /// The request aborted with `token` can no longer act (its `complete` came first, if it was still alive).
    fn aborted(&self, token: u64) {
        let _ = token;
    }
}

/// May this node serve a volume, as its path state tells initiators (SPC-4 5.15.2.4)?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// Serves, and orders the writes.
    Optimized,
    /// Serves; writes are ordered by the partner.
    NonOptimized,
    /// Does not serve; use the other path.
    Unavailable,
    /// Being decided; requests are held.
    Transitioning,
}

/// What a volume is, as far as a front end needs to know.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Its id.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Identity shown to hosts, the same on both nodes.
    pub uuid: Uuid,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Extent size in 512-byte sectors: the granularity of unmapping.
    pub extent_sectors: u64,
    /// Is there a second path through a partner?
    pub mirrored: bool,
    /// Is it a snapshot? Then it is not written.
    pub read_only: bool,
}

/// A virtual volume as a front end sees it.
pub trait VirtualVolume: Send + Sync {
    /// What it is.
    fn info(&self) -> VolumeInfo;
    /// This node's path state now.
    fn path_state(&self) -> PathState;
    /// The partner's path state as far as known.
    fn partner_path_state(&self) -> PathState;
    /// Starts a request; `sink.complete(token, ..)` is called exactly once.
    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId;
    /// What the blocks of `at` are, from its beginning on; the answer may end before `at` does. `None` if that cannot be
    /// told without reading, or not now.
    fn block_status(&self, at: Sectors) -> Option<Result<Vec<StatusRun>, GuestError>> {
        let _ = at;
        None
    }
    /// Its size in 512-byte sectors now, cheaply: asked with every command.
    fn sectors(&self) -> u64 {
        self.info().sectors
    }
    /// Has it been deleted?
    fn is_gone(&self) -> bool {
        false
    }
    /// Another number whenever what is kept with it may be something else; cheaply: asked with every command.
    fn items_version(&self) -> u64 {
        0
    }
    /// What is kept with it: see [`keep`](Self::keep). On a node that serves this is never older than what was answered.
    fn items(&self) -> Arc<Items> {
        Arc::default()
    }
    /// Keeps something small with the volume, in place of what was kept under `name`, if that has the revision `expect`
    /// (zero: if nothing was); no bytes: nothing any more. `done` is called once, on whatever thread has the answer, when it
    /// is in writing on both nodes and in force there, or on the one that serves alone, or when it is refused. It must not wait
    /// for anything of the engine, nor add or remove disks.
    fn keep(
        &self,
        name: ItemName,
        expect: u64,
        value: &[u8],
        done: Box<dyn FnOnce(Result<(), VolumeRefusal>) + Send>,
    ) {
        let _ = (name, expect, value);
        done(Err(VolumeRefusal::NotNow));
    }
    /// Asks for a request to be given up. `sink.aborted(token)` is called when it can no longer act; the
    /// request's own completion has been called by then.
    fn abort(&self, request: RequestId, sink: &Arc<dyn Sink>, token: u64);
}
