//! Blocks that this node's disks cannot give: rotten, unreadable, or in doubt after a crash. In a pair each is asked of
//! the partner, answered from there, and put in place of the damaged one; the rest of the read stays as it was found.
//! Alone there is nobody to ask: a medium error, and never other bytes than those that were written.
//!
//! - Only blocks that were compared with their checksums are answered, to guests and to the partner.
//! - A write that covers a part of a damaged block waits for the partner's copy, or fails.
//! - A block in doubt that the partner cannot give is taken as it is: its checksum may be older than its data.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::event::Notice;
use super::op::Reading;
use super::phase::Phase;
use crate::block::Payload;
use crate::guest::{Command, GuestError};
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::Control;
use crate::store::{Damage, Damaged};

/// Most blocks that are known to have no good copy.
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
    volume: VolumeId,
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

/// All reads that wait for blocks of the partner.
#[derive(Debug, Default)]
pub(super) struct Mends {
    open: BTreeMap<u64, Mending>,
    asked: BTreeMap<u64, Asked>,
    /// Blocks of which the partner has no good copy either, as far as found while the link is up.
    hopeless: BTreeSet<(VolumeId, u64)>,
    pub(super) counters: MendCounters,
}

impl Mends {
    pub(super) fn readings(&self) -> impl Iterator<Item = &Reading> + '_ {
        self.open.values().map(|mending| &mending.reading)
    }
}

impl Node {
    /// Can the partner be asked for a block now?
    fn has_second_copy(&self) -> bool {
        let linked = matches!(&self.phase, Phase::Paired(pair) if pair.link_lost.is_none());
        linked && self.link.is_some() && self.lease_runs()
    }

    /// May the partner have a good copy of this block, and can it be asked for it now?
    pub(super) fn may_mend(&self, volume: VolumeId, block: u64) -> bool {
        let mirrored = self.volumes.get(&volume).is_some_and(|volume| volume.mirrored);
        mirrored && self.has_second_copy() && !self.mends.hopeless.contains(&(volume, block))
    }

    /// A read found damaged blocks.
    pub(super) fn mend(&mut self, reading: Reading, mut damaged: Damaged) {
        let (volume, first) = match &reading {
            Reading::Guest { volume, at, .. } => (*volume, at.blocks().start),
            Reading::Merge { write } => {
                let Some(write) = self.writes.get(write) else { return };
                // Of a write only those count that it covers in part.
                let at = write.at;
                damaged.blocks.retain(|(block, _)| at.start > block * 8 || at.end() < (block + 1) * 8);
                (write.volume, at.blocks().start)
            }
            Reading::Scrub { volume, blocks } => (*volume, blocks.start),
            Reading::Partner { .. } | Reading::Region { .. } => return,
        };
        let bad = damaged.blocks.iter().filter(|(_, damage)| *damage != Damage::Unsure).count();
        self.mends.counters.damaged += bad as u64;
        let Damaged { found, version, blocks } = damaged;
        let (left, lost, again) = (blocks.len(), false, false);
        let mut mending = Mending { reading, volume, first, found, version, left, lost, again };
        if blocks.is_empty() {
            return self.mended(mending);
        }
        let mirrored = self.volumes.get(&volume).is_some_and(|volume| volume.mirrored);
        if mirrored && self.has_second_copy() {
            self.ask_partner(mending, blocks);
        } else if mirrored && matches!(self.phase, Phase::Paired(_)) {
            self.read_later(mending.reading);
        } else {
            for (block, damage) in blocks {
                self.give_up(&mut mending, block, damage);
            }
            self.mended(mending);
        }
    }

    fn ask_partner(&mut self, mending: Mending, blocks: Vec<(u64, Damage)>) {
        let Phase::Paired(pair) = &self.phase else { return };
        let (epoch, volume) = (pair.epoch, mending.volume);
        let number = self.next_id();
        self.mends.open.insert(number, mending);
        for (block, damage) in blocks {
            let id = self.next_id();
            // What is written there meanwhile is newer than the answer.
            self.store_mut().pin(volume, block..block + 1);
            self.mends.asked.insert(id, Asked { mending: number, block, damage });
            self.say(Control::ReadAsk { epoch, id, volume, first: block, blocks: 1 });
        }
    }

    /// The partner's answer: a good copy, which also replaces the damaged one, or none.
    pub(super) fn read_replied(
        &mut self,
        epoch: Epoch,
        number: u64,
        error: Option<GuestError>,
        mut data: Payload,
    ) {
        if !matches!(&self.phase, Phase::Paired(pair) if pair.epoch == epoch) {
            return;
        }
        let Some(Asked { mending: id, block, damage }) = self.mends.asked.remove(&number) else { return };
        let mut mending = self.mends.open.remove(&id).expect("what was asked belongs to a read");
        let (now, volume) = (self.now, mending.volume);
        self.store_mut().unpin(volume, block..block + 1);
        match (error, data.pop()) {
            (None, Some(copy)) if data.is_empty() => {
                if self.store_mut().room(volume, 1) {
                    self.store_mut().repair(now, volume, block, core::slice::from_ref(&copy));
                    self.mends.hopeless.remove(&(volume, block));
                    if damage != Damage::Unsure {
                        self.tell_damaged(&mending, block, true);
                    }
                }
                let newer = self.store().cache(volume).peek(block).cloned();
                mending.found[(block - mending.first) as usize] = newer.unwrap_or(copy);
            }
            _ => self.give_up(&mut mending, block, damage),
        }
        mending.left -= 1;
        if mending.left == 0 {
            self.mended(mending);
        } else {
            self.mends.open.insert(id, mending);
        }
    }

    /// Nobody has a good copy of this block.
    fn give_up(&mut self, mending: &mut Mending, block: u64, damage: Damage) {
        let volume = mending.volume;
        if damage == Damage::Unsure {
            mending.again = true;
            self.store_mut().trust(volume, block);
        } else {
            mending.lost = true;
            if self.has_second_copy() && self.mends.hopeless.len() < HOPELESS_MAX {
                self.mends.hopeless.insert((volume, block));
            }
            self.tell_damaged(mending, block, false);
        }
    }

    /// A block was damaged, not just in doubt.
    fn tell_damaged(&mut self, mending: &Mending, block: u64, repaired: bool) {
        let volume = mending.volume;
        let counters = &mut self.mends.counters;
        if repaired {
            counters.repaired += 1
        } else {
            counters.lost += 1
        }
        self.notice(Notice::Damaged { volume, block, repaired });
        if matches!(mending.reading, Reading::Scrub { .. }) {
            self.scrub_found(volume, block, repaired);
        }
    }

    fn mended(&mut self, mending: Mending) {
        let Mending { reading, volume, found, version, lost, again, .. } = mending;
        match reading {
            Reading::Guest { request, .. } if lost => self.refuse(request, GuestError::Medium),
            Reading::Merge { write } if lost => self.merge_read(write, Err(GuestError::Medium)),
            Reading::Guest { request, at, .. } if again => self.guest(request, volume, Command::Read { at }),
            Reading::Merge { write } if again => self.merge_again(write),
            Reading::Guest { request, at, term, .. } => {
                self.answer_read(request, volume, at, term, found, version);
            }
            Reading::Merge { write } => self.merge_read(write, Ok(found)),
            Reading::Scrub { volume, blocks } if again => self.scrub_again(volume, &blocks, false),
            Reading::Scrub { volume, blocks } => self.scrubbed(volume, blocks),
            Reading::Partner { .. } | Reading::Region { .. } => {}
        }
    }

    /// The link is away, or the lease: the pair is about to be judged.
    fn read_later(&mut self, reading: Reading) {
        match reading {
            Reading::Guest { request, volume, at, .. } => {
                self.parked.push_back((request, volume, Command::Read { at }));
            }
            Reading::Merge { write } => self.merge_read(write, Err(GuestError::Transitioning)),
            Reading::Scrub { volume, blocks } => self.scrub_again(volume, &blocks, true),
            Reading::Partner { .. } | Reading::Region { .. } => {}
        }
    }

    fn drop_mends(&mut self) -> impl Iterator<Item = Mending> + use<> {
        for Asked { mending, block, .. } in core::mem::take(&mut self.mends.asked).into_values() {
            let volume = self.mends.open[&mending].volume;
            self.store_mut().unpin(volume, block..block + 1);
        }
        core::mem::take(&mut self.mends.open).into_values()
    }

    /// The link was lost: what was asked of the partner is read again from the start.
    pub(super) fn restart_remote_reads(&mut self) {
        self.mends.hopeless.clear();
        for mending in self.drop_mends() {
            match mending.reading {
                Reading::Merge { write } => self.merge_again(write),
                reading => self.read_later(reading),
            }
        }
        self.reading.retain(|_, reading| !matches!(reading, Reading::Partner { .. }));
    }

    /// What was asked of the partner is given up.
    pub(super) fn refuse_mends(&mut self, error: GuestError) {
        for mending in self.drop_mends() {
            match mending.reading {
                Reading::Guest { request, .. } => self.refuse(request, error),
                reading @ Reading::Scrub { .. } => self.read_later(reading),
                _ => {}
            }
        }
    }
}
