//! What the lines of a plan do.

use super::Cluster;
use crate::block::BLOCK_BYTES;
use crate::guest::Sectors;
use crate::ids::{DiskId, NodeName, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::event::Event;
use crate::sim::disk::{Crash, Mishap, ReadFault};
use crate::sim::history::Kind;
use crate::sim::hosts::Request;
use crate::sim::pattern;
use crate::sim::plan::Verb;
use crate::time::Duration;

impl Cluster {
    pub(super) fn apply(&mut self, verb: Verb) {
        if !matches!(verb, Verb::Read { .. } | Verb::Write { .. }) {
            self.story("plan", || format!("{verb:?}"));
        }
        match verb {
            Verb::Load { ops } => {
                self.hosts.left += ops;
                self.wake_streams();
            }
            Verb::Write { via, volume, at, fua } => self.ask(via, volume, at, Kind::Write, fua),
            Verb::Read { via, volume, at } => self.ask(via, volume, at, Kind::Read, false),
            Verb::Zero { via, volume, at } => self.ask(via, volume, at, Kind::Zero, false),
            Verb::Flush { via, volume } => self.ask(via, volume, Sectors::new(0, 0), Kind::Flush, false),
            Verb::Kill { who } => self.crash(who, Crash::Kill),
            Verb::PowerCut { who } => self.crash(who, Crash::PowerCut),
            Verb::Start { who } => self.start_or_restart(who),
            Verb::Stop { who } => self.stop(who),
            Verb::Pause { who } => self.pause(who),
            Verb::Resume { who } => self.resume(who),
            Verb::Cut => self.cut(&NodeName::BOTH),
            Verb::CutOneWay { who } => {
                self.counters.cuts_one_way += 1;
                self.cut(&[who]);
            }
            Verb::Heal => self.on_network(|network, now, dues| network.heal(now, dues)),
            Verb::Delay { us } => {
                self.counters.delays += u64::from(us > self.setup.link_delay_us);
                self.network.set_delay(us);
            }
            Verb::SlowDisk { who, factor } => {
                self.counters.slow_disks += u64::from(factor > 1);
                for disk in &mut self.slots[who.index()].disks {
                    disk.slow_down(factor);
                }
            }
            Verb::ReadErrors { who, count, once } => self.read_errors(who, count, once),
            Verb::Rot { who, count } => self.rot(who, count),
            Verb::Scrub { who } => {
                if self.slots[who.index()].opened {
                    self.deliver(who, Event::Scrub { start: true });
                }
            }
            Verb::LoseWrite { who } => self.arm(who, false),
            Verb::Misdirect { who } => self.arm(who, true),
            Verb::FailWrites { who } => self.ask_disk_failure(who, false),
            Verb::FailFlushes { who } => self.ask_disk_failure(who, true),
            Verb::Drift { who, ppm } => {
                let now = self.now;
                self.counters.drifts += u64::from(ppm != 0);
                self.slots[who.index()].clock.drift(now, ppm);
                let soon = self.now + Duration::from_micros(1);
                let slot = &mut self.slots[who.index()];
                slot.tick_at = (slot.alive() && !slot.paused).then_some(soon);
            }
            Verb::ArbiterDown { who } => {
                self.counters.arbiter_losses += 1;
                self.arbiter.set_reachable(who, false);
            }
            Verb::ArbiterUp { who } => self.arbiter.set_reachable(who, true),
            Verb::ArbiterDelay { us } => self.arbiter.set_delay(us),
            Verb::AddDisk { who, bytes, sector_bytes } => self.add_disk(who, bytes, sector_bytes),
            Verb::RemoveDisk { who, which } => self.remove_disk(who, which),
            Verb::KeepDisk { who, which } => self.keep_disk(who, which),
            Verb::Grow { who, volume, sectors } => self.grow_volume(who, volume, sectors),
            Verb::Keep { who, volume, name, seen, bytes } => {
                self.keep_item(who, volume, name, seen, bytes);
            }
            Verb::Delete { who, volume } => self.delete_volume(who, volume),
            Verb::Snapshot { who, volumes } => self.take_snapshots(who, &volumes),
            Verb::Clone { who, which } => self.make_clone(who, which),
            Verb::DropClone { who, which } => self.drop_clone(who, which),
            Verb::WriteClone { who, which, place } => self.write_clone(who, which, place),
            Verb::Check => {
                self.check_history();
                self.inspect();
            }
            Verb::HealAll => self.heal_all(),
            Verb::NewDisks { who } => self.ask_new_disks(who),
        }
    }

    fn ask(&mut self, via: NodeName, volume: VolumeId, at: Sectors, kind: Kind, fua: bool) {
        self.request(Request { kind, volume, at, fua, expected: pattern::ZERO }, via, None);
    }

    pub(super) fn network_delay_us(&self) -> u64 {
        self.network.delay_us()
    }

    pub(super) fn crash(&mut self, who: NodeName, crash: Crash) {
        if !self.slots[who.index()].alive() {
            return;
        }
        match crash {
            Crash::Kill => self.counters.kills += 1,
            Crash::PowerCut => self.counters.power_cuts += 1,
        }
        self.counters.deaths_in_resync += u64::from(self.slots.iter().any(|slot| slot.resyncing));
        self.count_disk_crash(who);
        self.crash_may_lose(who);
        self.end_life(who, crash);
    }

    /// Starts a dead node. One that hangs in its clean stop is killed first, as an operator would.
    pub(super) fn start_or_restart(&mut self, who: NodeName) {
        let slot = &self.slots[who.index()];
        if slot.disk_failed {
            return; // replaced when the partner serves
        }
        if slot.alive() && slot.phase == PeerPhase::Stopped {
            self.exit_may_lose(who);
            self.end_life(who, Crash::Kill);
        } else if slot.stopping {
            self.crash(who, Crash::Kill);
        }
        self.start(who);
    }

    fn stop(&mut self, who: NodeName) {
        let slot = &mut self.slots[who.index()];
        if slot.alive() && !slot.stopping {
            slot.stopping = true;
            self.deliver(who, Event::Stop);
        }
    }

    fn pause(&mut self, who: NodeName) {
        let now = self.now;
        let slot = &mut self.slots[who.index()];
        if slot.alive() && !slot.paused {
            (slot.paused, slot.paused_at) = (true, now);
            slot.tick_at = None;
            self.counters.pauses += 1;
        }
    }

    pub(super) fn resume(&mut self, who: NodeName) {
        let slot = &mut self.slots[who.index()];
        if !core::mem::take(&mut slot.paused) {
            return;
        }
        let (life, inbox) = (slot.life, core::mem::take(&mut slot.inbox));
        self.count_pause(who);
        for event in inbox {
            if self.slots[who.index()].life == life {
                self.deliver(who, event);
            }
        }
        // What it owed when it was paused is still owed.
        let now = self.now;
        let slot = &mut self.slots[who.index()];
        slot.tick_at = slot.alive().then(|| now + Duration::from_micros(1));
    }

    fn cut(&mut self, from: &[NodeName]) {
        self.counters.cuts += 1;
        self.degraded = true;
        self.on_network(|network, now, dues| network.cut(now, from, dues));
    }

    /// Blocks with guests' data become unreadable, chosen at random.
    fn read_errors(&mut self, who: NodeName, count: u32, once: bool) {
        let fault = if once { ReadFault::Once } else { ReadFault::UntilRewritten };
        for disk in &mut self.slots[who.index()].disks {
            let guests: Vec<u64> = disk
                .written()
                .into_iter()
                .filter(|number| disk.visible(*number).bytes().chunks(512).any(pattern::is_guest))
                .collect();
            if guests.is_empty() {
                continue;
            }
            for _ in 0..count {
                let number = self.fault_rng.pick(&guests);
                disk.make_unreadable(number, fault);
                self.counters.read_errors += 1;
            }
        }
    }

    /// Blocks that guests have written, where they lie on this node's disks, if rot there would be found: not those
    /// whose checksums are in doubt after a crash, which a lone node can but take as they are.
    fn guarded(&self, who: NodeName) -> Vec<(usize, u64)> {
        let Some(node) = self.slots[who.index()].node.as_ref() else { return Vec::new() };
        let volumes = (1..=self.setup.volumes.len() as u32).map(VolumeId);
        let blocks = volumes.flat_map(|volume| self.watch.blocks(volume).map(move |block| (volume, block)));
        let places = blocks.filter_map(|(volume, block)| node.locate(volume, block));
        places
            .filter(|(disk, offset)| node.is_beyond_doubt(*disk, *offset))
            .map(|(disk, offset)| (usize::from(disk.0), Cluster::disk_block(offset)))
            .collect()
    }

    fn rot(&mut self, who: NodeName, count: u32) {
        let guarded = self.guarded(who);
        for _ in 0..if guarded.is_empty() { 0 } else { count } {
            let (disk, number) = self.fault_rng.pick(&guarded);
            let hit = self.slots[who.index()].disks[disk].rot(number, &mut self.disk_rng);
            self.counters.blocks_rotted += u64::from(hit);
        }
    }

    fn arm(&mut self, who: NodeName, misdirect: bool) {
        let guarded = self.guarded(who);
        if guarded.is_empty() {
            return;
        }
        let (disk, number) = self.fault_rng.pick(&guarded);
        let mishap = if misdirect { Mishap::Misdirected(number) } else { Mishap::Lost };
        self.slots[who.index()].disks[disk].arm(mishap);
    }

    /// A node has read its pool. Damaged blocks that a crash has put in doubt it could not tell from sound ones.
    pub(super) fn forgive_doubtful(&mut self, who: NodeName) {
        let slot = &mut self.slots[who.index()];
        let Some(node) = slot.node.as_ref() else { return };
        for (index, disk) in slot.disks.iter_mut().enumerate() {
            for number in disk.damaged() {
                if !node.is_beyond_doubt(DiskId(index as u16), number * BLOCK_BYTES as u64) {
                    disk.forgive(number);
                }
            }
        }
    }

    /// Has any disk damaged anything?
    pub(super) fn was_damaged(&self) -> bool {
        self.counters.read_errors + self.counters.blocks_rotted + self.writes_astray() > 0
    }

    /// Byte offset of a block on a disk, as its number.
    pub(super) fn disk_block(offset: u64) -> u64 {
        offset / BLOCK_BYTES as u64
    }
}
