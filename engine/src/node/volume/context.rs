//! What a volume's machine may use besides itself for one step. It holds nothing of the phase, of the partner or of another
//! volume.
//!
//! A step has the node for itself, or goes beside steps of other volumes. Then it has its own volume's part of the store, and
//! what needs more waits (`Cause::Whole`) or is left to be caught up with.
//!
//! Two things in it are still of the whole node: the queues for room, because the bound of dirty blocks is the node's
//! (`room`), and the window of a resync, because one sequence of tags confirms the copies of all volumes (`copies`).

use std::collections::VecDeque;

use super::copies::Copies;
use super::mend::MendCounters;
use super::room::Room;
use super::stock::Stock;
use crate::block::{PagePool, Payload};
use crate::ids::{NodeName, VolumeId};
use crate::node::config::NodeConfig;
use crate::node::event::{Action, Notice};
use crate::planted::Bug;
use crate::pool::{Lsn, Record};
use crate::time::Instant;

/// What the machines of a node share and no step beside others needs.
#[derive(Debug, Default)]
pub(in crate::node) struct Shared {
    pub(in crate::node) copies: Copies,
    /// Damaged blocks in this life.
    pub(in crate::node) damage: MendCounters,
}

/// What a machine tells the control part. It hears of it when the step is over.
#[derive(Debug)]
pub(in crate::node) enum Told {
    /// The partner has no space for a write, and is to be dropped.
    PartnerFull,
    /// So many blocks of the scrub's pass were looked at.
    Scrubbed { blocks: u64 },
    /// The blocks that the scrub asked for are to be looked at once more.
    ScrubAgain { later: bool },
    /// The scrub found a damaged block, and it was put right or could not be.
    ScrubFound { block: u64, repaired: bool },
}

/// For one step of one machine.
#[derive(Debug)]
pub(in crate::node) struct Context<'a> {
    pub(in crate::node) now: Instant,
    pub(in crate::node) config: &'a NodeConfig,
    pub(in crate::node) store: Stock<'a>,
    pub(in crate::node) pages: &'a PagePool,
    pub(in crate::node) room: &'a Room,
    /// Of a step that has the node for itself.
    pub(in crate::node) shared: Option<&'a mut Shared>,
    /// For the world, in order.
    pub(in crate::node) actions: &'a mut VecDeque<Action>,
    /// For the control part.
    pub(in crate::node) told: &'a mut VecDeque<(VolumeId, Told)>,
}

impl Context<'_> {
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.config.planted.has(bug)
    }

    pub(super) fn me(&self) -> NodeName {
        self.config.name
    }

    pub(super) fn append(&mut self, records: &[Record]) -> Lsn {
        self.store.whole().append(records)
    }

    /// What only a step has that has the node for itself.
    pub(in crate::node) fn shared(&mut self) -> &mut Shared {
        self.shared.as_mut().expect("a step beside others leaves this: handle_beside")
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }

    /// Puts blocks into the cache, visible from now on. Returns their version.
    pub(super) fn put(
        &mut self,
        volume: VolumeId,
        range: core::ops::Range<u64>,
        zero: bool,
        data: &Payload,
    ) -> u64 {
        match zero {
            true => self.store.zero(self.now, volume, range),
            false => self.store.write(self.now, volume, range.start, data),
        }
    }

    /// There is no space for something that was asked for when `waits` was noted, or just now: is some on its way back,
    /// freed by a record that is not durable yet?
    pub(super) fn awaits_space(&self, volume: VolumeId, waits: Option<Lsn>) -> Option<Lsn> {
        let pool = self.store.pool();
        let waits = waits.filter(|_| !pool.is_owed(volume));
        waits.or(pool.freeing()).filter(|lsn| *lsn > pool.durable())
    }
}
