//! One virtual volume: a state machine of its own. It owns everything of the volume that is in hand, numbers it itself,
//! and is driven by the control part (`Node`) through the calls that are visible there. Each step gets a [`Context`];
//! what it has to say comes out of that, for the world and for the control part.
//!
//! Invariants: nothing here knows the phase of the node, the arbiter, the partner's hello or another volume; what it may
//! do is its [`Right`], handed down by the control part before a step. `tests/tidy.rs` holds the modules here to that.
//!
//! | module | what it decides |
//! |---|---|
//! | `right` | what the control part lets it do |
//! | `context`, `room`, `copies` | what it may use, and what is still shared with other volumes |
//! | `guest` | what becomes of a guest's request |
//! | `write`, `marks` | a write at the node that orders it; the marks of one that is done alone |
//! | `manner` | writes that look at what is there first |
//! | `waiting`, `lock` | who goes first |
//! | `partner`, `forward` | a write that the owner ordered; one that the owner is asked to order |
//! | `read`, `mend` | reads, and what becomes of damaged blocks |
//! | `flush` | what a host wants stable |
//! | `hot` | which areas may differ right now |
//! | `regions` | its part of a resync, at the source |
//! | `chunks` | its part of a scrub |
//! | `life` | what the control part makes of it: a pair begins or ends, it goes on alone, everything is refused |
//! | `status` | which blocks hold data; how its path is |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::guest::{Command, GuestError, GuestResult};
use crate::ids::{NodeName, RequestId, VolumeId};
use crate::mirror::message::{Control, Message};
use crate::node::event::Action;
use crate::pool::Lsn;
use crate::time::Instant;

mod chunks;
pub(super) mod context;
pub(super) mod copies;
mod flush;
pub(super) mod forward;
mod guest;
pub(super) mod hot;
mod life;
mod lock;
mod manner;
mod marks;
pub mod mend;
mod op;
pub(super) mod partner;
mod read;
mod regions;
pub(super) mod right;
pub(super) mod room;
mod status;
pub(super) mod stock;
mod waiting;
mod write;

use context::Context;
use lock::{Granted, RangeLock};
use op::{Flush, Forwarded, Held, HotArea, Incoming, Reading, Settling, Write};
pub(super) use regions::{RegionRun, mapped_regions};
use right::{Right, Service};

/// 4 KiB blocks in a region of the change log: 64 KiB.
pub(super) const REGION_BLOCKS: u64 = 16;

/// An id has the number of its machine above this bit: answers that name an id only find their volume by it.
const MACHINE_SHIFT: u32 = 48;

/// Most machines that a node can number.
pub(super) const MACHINES_MAX: usize = 1 << (u64::BITS - MACHINE_SHIFT);

/// Which machine of a node gave this id.
pub(super) fn machine_of(id: u64) -> usize {
    (id >> MACHINE_SHIFT) as usize
}

/// The first id of a machine; it gives those behind it.
pub(super) fn first_id(machine: usize) -> u64 {
    (machine as u64) << MACHINE_SHIFT
}

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) id: VolumeId,
    /// How far requests may reach, in 512-byte sectors.
    pub(super) sectors: u64,
    /// The size that hosts have been told.
    pub(super) shown: u64,
    /// Something is, or was, kept with it, and in force.
    pub(super) items_shown: bool,
    /// It is being deleted: nothing new is begun.
    pub(super) leaving: bool,
    /// It is to come to rest, so that it can be cloned: writes that have no space reserved wait.
    pub(super) resting: bool,
    /// It is a snapshot: guests do not write it.
    pub(super) read_only: bool,
    pub(super) mirrored: bool,
    /// Blocks of zeros in writes are not stored.
    pub(super) detect_zeros: bool,
    /// Who orders the writes, in a pair.
    pub(super) owner: NodeName,
    right: Right,
    /// As the control part last saw it.
    pub(super) known_awake: bool,
    /// The control part is to look at it: it has stepped beside others.
    pub(super) stepped: bool,
    /// The time of its last step beside others.
    pub(super) now: Instant,
    /// A step beside others is under way, or has panicked.
    pub(super) stepping: bool,
    /// For the actions of a step beside others: kept for its memory.
    pub(super) scratch: VecDeque<Action>,
    /// The last id that it gave. Ids never come back, so an answer never finds what it was not for.
    last_id: u64,

    lock: RangeLock,
    /// Lock waiters whose turn has come.
    granted: VecDeque<Granted>,
    waiting: waiting::Waiting,
    writes: BTreeMap<u64, Write>,
    reading: BTreeMap<u64, Reading>,
    forwarded: BTreeMap<u64, Forwarded>,
    /// Writes that the owner ordered, by their order.
    incoming: BTreeMap<u64, Incoming>,
    flushes: BTreeMap<u64, Flush>,
    settling: Vec<Settling>,
    held: Vec<Held>,
    parked: VecDeque<(RequestId, Command)>,
    aborting: BTreeSet<RequestId>,
    /// Comparing writes of guests that may have been done: nobody is told to try these again.
    uncertain: BTreeSet<RequestId>,
    /// Reads that wait for the partner's copy of damaged blocks.
    mends: mend::Mends,

    /// The last place in the order that was given (owner).
    last_order: u64,
    /// Writes sent to the partner and not answered: order → write.
    sent: BTreeMap<u64, u64>,
    /// Blocks of those.
    blocks_in_flight: u64,
    /// The partner has all writes up to this on stable media (owner).
    partner_stable: u64,
    /// The last write seen from the owner (partner).
    seen_order: u64,
    /// Writes refused for lack of space, in order of refusal, to answer resends (partner).
    refused: VecDeque<u64>,
    /// Writes in order of arrival with the version they got, until they are stable (partner).
    applied: VecDeque<(u64, Option<u64>)>,
    /// The last `Stable` told to the owner (partner).
    stable_told: u64,
    stable_known: u64,
    hot: BTreeMap<u32, HotArea>,
    /// When it tells how far it is stable (partner), or lets areas cool (owner).
    tidy_at: Instant,
    /// When that is, as the control part has it.
    pub(super) tidy_seen: Option<hot::TidyDue>,
    /// Regions whose mark in the change log is not durable yet.
    marking: BTreeMap<u64, Lsn>,
    /// Writes by region that are logged and not in the cache: their mark must stay.
    marked: BTreeMap<u64, u32>,
    /// While a target is being brought up to date.
    regions: Option<regions::Regions>,
    chunks: chunks::Chunks,
}

impl Volume {
    /// A machine that gives the ids behind `last_id`, and may do nothing yet.
    pub(super) fn new(id: VolumeId, last_id: u64, sectors: u64, mirrored: bool, owner: NodeName) -> Volume {
        Volume {
            id,
            sectors,
            shown: 0,
            items_shown: false,
            leaving: false,
            resting: false,
            read_only: false,
            mirrored,
            detect_zeros: false,
            owner,
            right: Right::default(),
            known_awake: false,
            stepped: false,
            now: Instant::ZERO,
            stepping: false,
            scratch: VecDeque::new(),
            last_id,
            lock: RangeLock::default(),
            granted: VecDeque::new(),
            waiting: waiting::Waiting::default(),
            writes: BTreeMap::new(),
            reading: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            incoming: BTreeMap::new(),
            flushes: BTreeMap::new(),
            settling: Vec::new(),
            held: Vec::new(),
            parked: VecDeque::new(),
            aborting: BTreeSet::new(),
            uncertain: BTreeSet::new(),
            mends: mend::Mends::default(),
            last_order: 0,
            sent: BTreeMap::new(),
            blocks_in_flight: 0,
            partner_stable: 0,
            seen_order: 0,
            refused: VecDeque::new(),
            applied: VecDeque::new(),
            stable_told: 0,
            stable_known: 0,
            hot: BTreeMap::new(),
            tidy_at: Instant::ZERO,
            tidy_seen: None,
            marking: BTreeMap::new(),
            marked: BTreeMap::new(),
            regions: None,
            chunks: chunks::Chunks::default(),
        }
    }

    /// The control part says what it may do from now on.
    pub(super) fn hand_down(&mut self, right: Right) {
        self.right = right;
        if !right.copying {
            self.regions = None;
        }
    }

    /// What it may do.
    pub(super) fn right(&self) -> &Right {
        &self.right
    }

    /// What a guest of this volume can expect at this time.
    pub(super) fn service_at(&self, now: Instant) -> Service {
        self.service(now)
    }

    /// The last id that it gave.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// How far it reaches, in 4 KiB blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.sectors.div_ceil(8)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What a guest of this volume can expect now.
    fn service(&self, now: Instant) -> Service {
        if self.mirrored { self.right.service(now) } else { self.right.linear }
    }

    fn lease_runs(&self, cx: &Context<'_>) -> bool {
        self.right.lease_runs(cx.now)
    }

    fn send(&self, cx: &mut Context<'_>, message: Message) {
        if let Some(link) = self.right.link {
            cx.actions.push_back(Action::Send { link, message });
        }
    }

    fn say(&self, cx: &mut Context<'_>, control: Control) {
        self.send(cx, Message::control(control));
    }

    fn complete(&mut self, cx: &mut Context<'_>, id: RequestId, result: GuestResult) {
        self.uncertain.remove(&id);
        cx.actions.push_back(Action::Complete { id, result });
        if self.aborting.remove(&id) {
            cx.actions.push_back(Action::Aborted { id });
        }
    }

    fn refuse(&mut self, cx: &mut Context<'_>, id: RequestId, error: GuestError) {
        let error = self.honest(cx, id, error);
        self.complete(cx, id, Err(error));
    }
}

/// The regions that blocks lie in.
pub(super) fn regions(blocks: core::ops::Range<u64>) -> core::ops::Range<u64> {
    blocks.start / REGION_BLOCKS..blocks.end.div_ceil(REGION_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_machine() {
        for machine in [0, 1, 500, MACHINES_MAX - 1] {
            for count in [1, (1 << MACHINE_SHIFT) - 1] {
                assert_eq!(machine_of(first_id(machine) + count), machine);
            }
        }
    }
}
