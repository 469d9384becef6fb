//! Blocks that this node's disks cannot give: rotten, unreadable, or in doubt after a crash. In a pair each is asked of
//! the partner, answered from there, and put in place of the damaged one; the rest of the read stays as it was found.
//! Alone there is nobody to ask: a medium error, and never other bytes than those that were written.
//!
//! - Only blocks that were compared with their checksums are answered, to guests and to the partner.
//! - A write that covers a part of a damaged block waits for the partner's copy, or fails.
//! - A block in doubt that the partner cannot give is taken as it is: its checksum may be older than its data.

use std::collections::{BTreeMap, BTreeSet};

use super::Volume;
use super::context::{Context, Told};
use super::op::Reading;
use crate::block::Payload;
use crate::guest::{Command, GuestError};
use crate::ids::Epoch;
use crate::mirror::message::Control;
use crate::node::event::Notice;
use crate::store::{Damage, Damaged};

/// Most blocks of a volume that are known to have no good copy.
const HOPELESS_MAX: usize = 1000;

/// Damaged blocks in this life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MendCounters {
    /// Blocks found damaged, each time they were read.
    pub damaged: u64,
    /// Blocks put right from the partner.
    pub repaired: u64,
    /// Answers that no good copy is left, by block.
    pub lost: u64,
}

/// A read that waits for blocks of the partner.
#[derive(Debug)]
struct Mending {
    reading: Reading,
    first: u64,
    found: Payload,
    version: u64,
    /// Blocks that have not been answered.
    left: usize,
    /// The partner has no good copy of one.
    lost: bool,
    /// One is to be taken as it is: all is read again.
    again: bool,
}

/// A block asked of the partner.
#[derive(Clone, Copy, Debug)]
struct Asked {
    mending: u64,
    block: u64,
    damage: Damage,
}

/// All reads of a volume that wait for blocks of the partner.
#[derive(Debug, Default)]
pub(super) struct Mends {
    open: BTreeMap<u64, Mending>,
    asked: BTreeMap<u64, Asked>,
    /// Blocks of which the partner has no good copy either, as far as found while the link is up.
    hopeless: BTreeSet<u64>,
}

impl Mends {
    pub(super) fn readings(&self) -> impl Iterator<Item = &Reading> + '_ {
        self.open.values().map(|mending| &mending.reading)
    }
}

impl Volume {
    /// Can the partner be asked for a block now?
    fn has_second_copy(&self, cx: &Context<'_>) -> bool {
        self.mirrored && self.right.is_linked_pair() && self.lease_runs(cx)
    }

    /// May the partner have a good copy of this block, and can it be asked for it now?
    pub(super) fn may_mend(&self, cx: &Context<'_>, block: u64) -> bool {
        self.has_second_copy(cx) && !self.mends.hopeless.contains(&block)
    }

    /// A read found damaged blocks.
    pub(super) fn mend(&mut self, cx: &mut Context<'_>, reading: Reading, mut damaged: Damaged) {
        let first = match &reading {
            Reading::Guest { at, .. } => at.blocks().start,
            Reading::Merge { write } => {
                let Some(write) = self.writes.get(write) else { return };
                // Of a write only those count that it covers in part, unless it looks at all of them first.
                damaged.blocks.retain(|(block, _)| write.depends_on(*block));
                write.at.blocks().start
            }
            Reading::Scrub { blocks } => blocks.start,
            Reading::Partner { .. } | Reading::Region { .. } => return,
        };
        let bad = damaged.blocks.iter().filter(|(_, damage)| *damage != Damage::Unsure).count();
        cx.shared().damage.damaged += bad as u64;
        let Damaged { found, version, blocks } = damaged;
        let (left, lost, again) = (blocks.len(), false, false);
        let mut mending = Mending { reading, first, found, version, left, lost, again };
        if blocks.is_empty() {
            return self.mended(cx, mending);
        }
        if self.has_second_copy(cx) {
            self.ask_partner(cx, mending, blocks);
        } else if self.mirrored && self.right.is_pair() {
            self.read_later(cx, mending.reading);
        } else {
            for (block, damage) in blocks {
                self.give_up(cx, &mut mending, block, damage);
            }
            self.mended(cx, mending);
        }
    }

    fn ask_partner(&mut self, cx: &mut Context<'_>, mending: Mending, blocks: Vec<(u64, Damage)>) {
        let (epoch, volume) = (self.right.epoch, self.id);
        let number = self.next_id();
        self.mends.open.insert(number, mending);
        for (block, damage) in blocks {
            let id = self.next_id();
            // What is written there meanwhile is newer than the answer.
            cx.store.whole().pin(volume, block..block + 1);
            self.mends.asked.insert(id, Asked { mending: number, block, damage });
            self.say(cx, Control::ReadAsk { epoch, id, volume, first: block, blocks: 1 });
        }
    }

    /// The partner's answer: a good copy, which also replaces the damaged one, or none.
    pub(in crate::node) fn read_replied(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        number: u64,
        error: Option<GuestError>,
        mut data: Payload,
    ) {
        if !self.right.is_pair_of(epoch) {
            return;
        }
        let Some(Asked { mending: id, block, damage }) = self.mends.asked.remove(&number) else { return };
        let mut mending = self.mends.open.remove(&id).expect("what was asked belongs to a read");
        let volume = self.id;
        cx.store.whole().unpin(volume, block..block + 1);
        match (error, data.pop()) {
            (None, Some(copy)) if data.is_empty() => {
                if cx.store.room(volume, 1) {
                    cx.store.whole().repair(cx.now, volume, block, core::slice::from_ref(&copy));
                    self.mends.hopeless.remove(&block);
                    if damage != Damage::Unsure {
                        self.tell_damaged(cx, &mending, block, true);
                    }
                }
                let newer = cx.store.whole().look(volume, |cache| cache.peek(block).cloned()).flatten();
                mending.found[(block - mending.first) as usize] = newer.unwrap_or(copy);
            }
            _ => self.give_up(cx, &mut mending, block, damage),
        }
        mending.left -= 1;
        if mending.left == 0 {
            self.mended(cx, mending);
        } else {
            self.mends.open.insert(id, mending);
        }
    }

    /// Nobody has a good copy of this block.
    fn give_up(&mut self, cx: &mut Context<'_>, mending: &mut Mending, block: u64, damage: Damage) {
        if damage == Damage::Unsure {
            mending.again = true;
            cx.store.whole().trust(self.id, block);
        } else {
            mending.lost = true;
            if self.has_second_copy(cx) && self.mends.hopeless.len() < HOPELESS_MAX {
                self.mends.hopeless.insert(block);
            }
            self.tell_damaged(cx, mending, block, false);
        }
    }

    /// A block was damaged, not just in doubt.
    fn tell_damaged(&self, cx: &mut Context<'_>, mending: &Mending, block: u64, repaired: bool) {
        let counters = &mut cx.shared().damage;
        if repaired {
            counters.repaired += 1
        } else {
            counters.lost += 1
        }
        cx.notice(Notice::Damaged { volume: self.id, block, repaired });
        if matches!(mending.reading, Reading::Scrub { .. }) {
            cx.told.push_back((self.id, Told::ScrubFound { block, repaired }));
        }
    }

    fn mended(&mut self, cx: &mut Context<'_>, mending: Mending) {
        let Mending { reading, found, version, lost, again, .. } = mending;
        match reading {
            Reading::Guest { request, .. } if lost => self.refuse(cx, request, GuestError::Medium),
            Reading::Merge { write } if lost => self.merge_read(cx, write, Err(GuestError::Medium)),
            Reading::Guest { request, at, .. } if again => self.guest(cx, request, Command::Read { at }),
            Reading::Merge { write } if again => self.merge_again(cx, write),
            Reading::Guest { request, at, term } => self.answer_read(cx, request, at, term, found, version),
            Reading::Merge { write } => self.merge_read(cx, write, Ok((found, version))),
            Reading::Scrub { blocks } if again => self.scrub_again(cx, &blocks, false),
            Reading::Scrub { blocks } => self.scrubbed(cx, blocks),
            Reading::Partner { .. } | Reading::Region { .. } => {}
        }
    }

    /// The link is away, or the lease: the pair is about to be judged.
    fn read_later(&mut self, cx: &mut Context<'_>, reading: Reading) {
        match reading {
            Reading::Guest { request, at, .. } => self.parked.push_back((request, Command::Read { at })),
            Reading::Merge { write } => self.merge_read(cx, write, Err(GuestError::Transitioning)),
            Reading::Scrub { blocks } => self.scrub_again(cx, &blocks, true),
            Reading::Partner { .. } | Reading::Region { .. } => {}
        }
    }

    fn drop_mends(&mut self, cx: &mut Context<'_>) -> impl Iterator<Item = Mending> + use<> {
        for Asked { block, .. } in core::mem::take(&mut self.mends.asked).into_values() {
            cx.store.whole().unpin(self.id, block..block + 1);
        }
        core::mem::take(&mut self.mends.open).into_values()
    }

    /// The link was lost: what was asked of the partner is read again from the start.
    pub(super) fn restart_remote_reads(&mut self, cx: &mut Context<'_>) {
        self.mends.hopeless.clear();
        for mending in self.drop_mends(cx) {
            match mending.reading {
                Reading::Merge { write } => self.merge_again(cx, write),
                reading => self.read_later(cx, reading),
            }
        }
        self.reading.retain(|_, reading| !matches!(reading, Reading::Partner { .. }));
    }

    /// What was asked of the partner is given up.
    pub(super) fn refuse_mends(&mut self, cx: &mut Context<'_>, error: GuestError) {
        for mending in self.drop_mends(cx) {
            match mending.reading {
                Reading::Guest { request, .. } => self.refuse(cx, request, error),
                reading @ Reading::Scrub { .. } => self.read_later(cx, reading),
                _ => {}
            }
        }
    }
}
