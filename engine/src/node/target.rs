//! The target of a resync, and what nodes tell each other about themselves.
//!
//! Invariants: a target serves nothing. Its own hot set and log stay on disk until the join is durable. It
//! confirms a copy only when it is on stable media.

use std::collections::VecDeque;

use super::Node;
use super::event::Action;
use super::phase::{Joined, Phase, Target};
use super::source::whole_record;
use super::volume::copies::Copied;
use super::volume::{mapped_regions, regions};
use crate::block::Payload;
use crate::ids::{Epoch, Generation, Members, VolumeId};
use crate::mirror::message::{Body, Control, HalfSummary, Hello, Message, PROTOCOL_VERSION, VolumeEntry};
use crate::pool::{NodeRecord, Record};

/// A received copy.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) volume: VolumeId,
    pub(super) tag: u64,
    pub(super) first: u64,
    pub(super) blocks: u32,
    pub(super) zero: bool,
    pub(super) data: Payload,
}

/// Entries of each list in one message: what the wire takes is bounded.
const SETS_PART: usize = 4096;

fn slice<T: Clone>(list: &[T], part: usize) -> Vec<T> {
    list.chunks(SETS_PART).nth(part).map(<[T]>::to_vec).unwrap_or_default()
}

impl Node {
    /// The hello goes out first on a link, and again when what it says has changed.
    pub(super) fn send_hello(&mut self) {
        if self.link.is_none() || matches!(&self.phase, Phase::Deciding(deciding) if deciding.quiet) {
            return;
        }
        let ready = self.ready_to_rejoin();
        if !self.hello_due && ready == self.ready_said {
            return;
        }
        (self.hello_due, self.ready_said) = (false, ready);
        let hello = self.hello(ready);
        self.say(Control::Hello(hello));
    }

    /// What this node says of itself now.
    pub(super) fn hello(&self, ready: bool) -> Hello {
        let record = self.record();
        Hello {
            version: PROTOCOL_VERSION,
            partnership: self.config.partnership,
            node: self.me(),
            boot: self.config.boot,
            phase: self.phase.peer_phase(),
            epoch: record.epoch,
            members: record.members,
            up_to_date: record.up_to_date,
            complete: record.complete,
            ready,
            pair_epoch: self.pair_epoch,
            halves: self.halves(),
            deleted: self.deleted_volumes(),
        }
    }

    pub(super) fn greeted(&mut self, hello: Hello) {
        let foreign = hello.version != PROTOCOL_VERSION
            || hello.partnership != self.config.partnership
            || hello.node != self.me().partner();
        if foreign {
            if let Some(link) = self.link {
                self.actions.push_back(Action::Disconnect { link });
            }
            return;
        }
        self.peer_boot = hello.boot;
        self.peer = Some(hello);
        self.consider_peer();
    }

    pub(super) fn sets_asked(&mut self, epoch: Epoch, full: &[VolumeId]) {
        if !self.ready_to_rejoin() {
            return;
        }
        for volume in self.mirrored() {
            let metadata = self.store().pool().metadata();
            let Some(meta) = metadata.volume(volume) else { continue };
            let hot: Vec<u32> = meta.hot.iter().copied().collect();
            let regions = meta.log.runs();
            let mapped = match full.contains(&volume) {
                true => mapped_regions(self.store().pool(), volume),
                false => Vec::new(),
            };
            let parts = [hot.len(), regions.len(), mapped.len()].map(|len| len.div_ceil(SETS_PART));
            for part in 0..parts.into_iter().max().unwrap_or(0) {
                let (hot, regions, mapped) = (slice(&hot, part), slice(&regions, part), slice(&mapped, part));
                self.say(Control::Sets { epoch, volume, hot, regions, mapped });
            }
        }
        self.say(Control::SetsEnd { epoch });
    }

    /// The source has all marks: write down that this half is behind, and who has the data.
    pub(super) fn become_target(
        &mut self,
        epoch: Epoch,
        bases: &[(VolumeId, Generation)],
        table: &[VolumeEntry],
    ) {
        // A volume that has to be made again is made when its old extents are gone: the source asks again.
        if !self.ready_to_rejoin()
            || self.must_purge_first(table)
            || self.makes_way(table)
            || !self.may_take_over(table)
        {
            return;
        }
        // The source goes on, so what was sent to it and has not come back is no business of this node any more. Nothing would
        // come to rest as long as that is in hand.
        let idle = matches!(self.phase, Phase::Starting(_) | Phase::Lost(_));
        if idle {
            self.forget_mirrored();
        }
        // A clone is made when nothing is in hand of what it is made of: the source asks again.
        if !self.may_clone_for(table) {
            return;
        }
        if !idle && !matches!(self.phase, Phase::Target(_)) {
            self.forget_mirrored();
        }
        let record = self.record();
        let members = Members::only(self.me().partner());
        // First of all that it is behind: nothing of the rest counts without that.
        let behind = NodeRecord { members, up_to_date: false, complete: false, ..record };
        let mut records = vec![Record::Node(behind)];
        records.extend(self.take_over_table(table));
        records.extend(bases.iter().map(|&(volume, generation)| Record::Half {
            volume,
            generation,
            ancestors: Vec::new(),
        }));
        let lsn = self.append(&records);
        self.purge_deleted(lsn);
        self.set_phase(Phase::Target(Target {
            epoch,
            lsn,
            ready_told: false,
            received: VecDeque::new(),
            full: false,
            waiting: VecDeque::new(),
            told: 0,
            joining: None,
        }));
        self.store_mut().set_eager(true);
    }

    pub(super) fn copy_received(&mut self, epoch: Epoch, copy: Copy) {
        let Phase::Target(target) = &mut self.phase else { return };
        // A source that asked twice may begin on the first answer: a copy that it will count as sent must not be
        // dropped, only wait until the record that this node is behind is durable.
        if target.epoch == epoch && !target.full {
            target.waiting.push_back(copy);
        }
    }

    pub(super) fn target_step(&mut self) {
        let Phase::Target(target) = &self.phase else { return };
        let (lsn, epoch, joining) = (target.lsn, target.epoch, target.joining);
        if self.is_durable(lsn) {
            let Phase::Target(target) = &mut self.phase else { return };
            if !target.ready_told {
                target.ready_told = true;
                self.hello_due = true;
                self.say(Control::TargetReady { epoch });
            }
        } else {
            return;
        }
        if let Some((proposed, lsn)) = joining {
            if self.is_durable(lsn) {
                self.set_phase(Phase::Joined(Joined { proposed, link_lost: None }));
                let link_lost = self.link.is_none().then_some(self.now);
                if let Phase::Joined(joined) = &mut self.phase {
                    joined.link_lost = link_lost;
                }
                self.say(Control::Joined { proposed });
                if !self.has(crate::planted::Bug::JoinedUnlooked) {
                    // The source may have said meanwhile that it is no longer at it.
                    self.consider_peer();
                }
            }
            return;
        }
        self.apply_copies();
        self.confirm_copies(epoch);
    }

    /// Is this a target to which copies have come that are not in its cache?
    pub(super) fn has_copies(&self) -> bool {
        matches!(&self.phase, Phase::Target(target)
            if !target.waiting.is_empty() && target.joining.is_none() && self.is_durable(target.lsn))
    }

    /// Puts copies into the cache, as far as there is room. True if none waits any more.
    pub(super) fn apply_copies(&mut self) -> bool {
        loop {
            let Phase::Target(target) = &mut self.phase else { return true };
            let Some(copy) = target.waiting.pop_front() else { return true };
            let applied = self.apply_copy(&copy);
            let Phase::Target(target) = &mut self.phase else { return true };
            match applied {
                Copied::At(version) => target.received.push_back((copy.tag, copy.volume, version)),
                Copied::NoRoom => {
                    target.waiting.push_front(copy);
                    return false;
                }
                Copied::NoSpace => {
                    let epoch = target.epoch;
                    target.full = true;
                    target.waiting.clear();
                    self.say(Control::NoSpace { epoch });
                    return true;
                }
            }
        }
    }

    fn apply_copy(&mut self, copy: &Copy) -> Copied {
        let range = copy.first..copy.first + u64::from(copy.blocks);
        let copied = self.with(copy.volume, |volume, cx| volume.take_copy(cx, range, copy.zero, &copy.data));
        copied.unwrap_or(Copied::At(0))
    }

    fn confirm_copies(&mut self, epoch: Epoch) {
        let store = self.store.as_ref().expect("the pool is open");
        let Phase::Target(target) = &mut self.phase else { return };
        let mut last = target.told;
        while let Some(&(tag, volume, version)) = target.received.front() {
            if version > store.stable_through(volume) {
                break;
            }
            last = tag;
            target.received.pop_front();
        }
        if last > target.told {
            target.told = last;
            self.send(Message { body: Body::CopyStable { epoch, tag: last }, data: Payload::new() });
        }
    }

    /// Everything the source sent is confirmed: write down that both are members of `proposed`.
    pub(super) fn join_asked(&mut self, epoch: Epoch, proposed: Epoch, halves: Vec<HalfSummary>) {
        let early = self.has(crate::planted::Bug::WholeTooEarly);
        let Phase::Target(target) = &self.phase else { return };
        let settled = target.received.is_empty() && target.waiting.is_empty() && !target.full;
        if target.epoch != epoch || target.joining.is_some() || !(settled || early) {
            return;
        }
        let mut records: Vec<Record> = halves.into_iter().map(whole_record).collect();
        for volume in self.mirrored() {
            records.push(Record::HotClear { volume });
            records.push(Record::LogClear { volume });
        }
        let members = Members::BOTH;
        records.push(Record::Node(NodeRecord {
            epoch: proposed,
            members,
            proposed,
            up_to_date: true,
            complete: false,
        }));
        let lsn = self.append(&records);
        if let Phase::Target(target) = &mut self.phase {
            target.joining = Some((proposed, lsn));
        }
    }

    pub(super) fn told_to_go(&mut self, epoch: Epoch) {
        let Phase::Joined(joined) = &self.phase else { return };
        if joined.proposed != epoch {
            return;
        }
        let partner = self.me().partner();
        let register = self.has_arbiter().then_some(crate::arbiter::Register {
            epoch,
            members: Members::BOTH,
            by: partner,
        });
        self.enter_pair(epoch, partner, register, self.peer_boot);
    }

    /// The regions of a volume's hot set, as marks for the log.
    pub(super) fn hot_as_regions(&self) -> Vec<Record> {
        let area_blocks = self.config.mirror.area_blocks;
        let metadata = self.store().pool().metadata();
        let mut records = Vec::new();
        for id in self.mirrored() {
            let Some(meta) = metadata.volume(id) else { continue };
            let end = regions(0..meta.sectors.div_ceil(8)).end;
            for &area in &meta.hot {
                let run = regions(u64::from(area) * area_blocks..(u64::from(area) + 1) * area_blocks);
                let count = run.end.min(end).saturating_sub(run.start);
                if count > 0 {
                    records.push(Record::LogAdd { volume: id, first: run.start, count });
                }
            }
        }
        records
    }
}
