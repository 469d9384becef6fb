//! After all faults: everything must finish. All requests are answered, both nodes are a pair again, nothing is
//! left to resynchronise, the marks of what may differ drain, and the halves are equal.

use super::Cluster;
use super::clones::is_clone;
use super::invariants::say;
use super::slot::Slot;
use crate::block::{Block, SECTORS_PER_BLOCK};
use crate::guest::{BlockState, Sectors};
use crate::ids::{Members, NodeName, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::sim::history::Kind;
use crate::sim::hosts::Request;
use crate::sim::pattern::ZERO;
use crate::time::{Duration, Instant};

impl Cluster {
    /// All faults end.
    pub(super) fn heal_all(&mut self) {
        self.healing = true;
        self.hosts.hurry = true;
        self.on_network(|network, now, dues| network.heal(now, dues));
        self.network.set_delay(self.setup.link_delay_us);
        self.arbiter.heal(self.setup.arbiter_delay_us);
        for node in NodeName::BOTH {
            let now = self.now;
            let slot = &mut self.slots[node.index()];
            slot.clock.drift(now, 0);
            for disk in slot.disks.iter_mut().filter(|disk| !disk.is_failing()) {
                disk.heal();
            }
            let failing = slot.disks.iter().any(|disk| disk.is_failing());
            for disk in &mut slot.disks {
                disk.slow_down(1);
            }
            self.resume(node);
            if failing && !self.slots[node.index()].disk_failed {
                // It has not noticed yet: it will, at its next write.
                continue;
            }
            self.start_or_restart(node);
        }
        self.bring_back_all();
    }

    /// Runs until everything has converged, and checks all that must hold at rest.
    pub(super) fn converge(&mut self) {
        if !self.healing {
            self.apply_now(crate::sim::plan::Verb::HealAll);
        }
        let lease = Duration::from_millis(self.setup.lease_ms);
        let patience = lease * 60 + Duration::from_secs(60);
        let settled = |cluster: &mut Cluster| cluster.hosts.left == 0 && cluster.hosts.pending.is_empty();
        self.partner_full = false;
        if !self.run_while(patience, |cluster| !(settled(cluster) && cluster.is_whole())) {
            let excused = self.partner_full && self.violation.is_none();
            if excused && self.run_while(patience, |cluster| !settled(cluster)) {
                self.counters.partners_full += 1;
                self.verify_alone(patience);
                return;
            }
            if self.violation.is_none() && self.needs_a_person() {
                self.counters.service_lost += 1;
                return;
            }
            self.stuck("requests are open or the mirror is not whole");
            return;
        }
        self.verify_everything(&NodeName::BOTH);
        if !self.run_while(patience, |cluster| !settled(cluster)) {
            self.stuck("the last reads are not answered");
            return;
        }
        let patience = patience + Duration::from_millis(self.setup.hot_idle_ms) * 4;
        if !self.run_while(patience, |cluster| !cluster.is_drained()) {
            self.stuck("the hot sets or change logs do not drain");
            return;
        }
        if !self.run_while(patience, |cluster| cluster.is_emptying()) {
            self.stuck("a disk does not join or leave");
            return;
        }
        if !self.run_while(patience, |cluster| cluster.is_deleting()) {
            self.stuck("the space of a deleted volume does not come back");
            return;
        }
        self.verify_clones(patience);
        if self.violation.is_some() {
            return;
        }
        self.inspect();
        NodeName::BOTH.into_iter().for_each(|node| self.check_pool(node));
        self.compare_volumes();
        self.compare_halves();
    }

    /// The partner has no space: the half of the node that serves has everything.
    fn verify_alone(&mut self, patience: Duration) {
        let serves = |node: &NodeName| self.view(*node).is_some_and(|view| view.serving);
        let Some(server) = NodeName::BOTH.into_iter().find(serves) else {
            self.stuck("no node serves");
            return;
        };
        self.verify_everything(&[server]);
        if !self.run_while(patience, |cluster| !cluster.hosts.pending.is_empty()) {
            self.stuck("the last reads of the lone node are not answered");
            return;
        }
        self.inspect();
        NodeName::BOTH.into_iter().for_each(|node| self.check_pool(node));
    }

    /// The only current half is on failed disks, or was handed over to them.
    fn needs_a_person(&self) -> bool {
        let last = self.arbiter.register().map(|register| register.members);
        let heir = |slot: &Slot| {
            let left = self.view(slot.name.partner()).map(|view| view.members);
            left == Some(Members::only(slot.name))
        };
        let last = |slot: &Slot| last == Some(Members::only(slot.name)) || heir(slot);
        self.slots.iter().any(|slot| slot.disk_failed && last(slot))
    }

    fn stuck(&mut self, what: &str) {
        if self.violation.is_some() {
            return;
        }
        let mut text = format!("after healing, {what}");
        for node in NodeName::BOTH {
            let slot = &self.slots[node.index()];
            let state = self.view(node).map(|view| {
                let marks: Vec<(usize, u64)> = view.volumes.iter().map(|v| (v.hot.len(), v.log.len())).collect();
                format!(
                    "{:?}, epoch {}, members {:?}, up to date {}, {} dirty, {} of {} regions left, (hot, logged) {marks:?}",
                    view.phase,
                    view.epoch,
                    view.members,
                    view.up_to_date,
                    view.dirty_blocks,
                    view.resync_regions_left,
                    view.resync_regions_total
                )
            });
            text += &format!(
                "\n  {node}: {}",
                state.unwrap_or_else(|| format!("not open, alive {}", slot.alive()))
            );
        }
        text +=
            &format!("\n  register {:?}, link whole {}", self.arbiter.register(), self.network.is_whole());
        for (op, pending) in self.hosts.pending.iter().take(5) {
            text += &format!("\n  op {op} open: {pending:?}");
        }
        self.fail(15, text);
    }

    /// Runs while `busy`, for at most `patience`. True if it ended by itself.
    pub(super) fn run_while(&mut self, patience: Duration, busy: impl Fn(&mut Cluster) -> bool) -> bool {
        let end = self.now + patience;
        let slice = Duration::from_millis(self.setup.lease_ms) / 16;
        while busy(self) {
            if self.violation.is_some() || self.now >= end {
                return false;
            }
            let until = (self.now + slice).min(end);
            self.run_until(until);
            for node in NodeName::BOTH {
                if self.healing {
                    self.replace_disks(node);
                }
            }
        }
        true
    }

    /// Both nodes are a pair, with nothing left to bring up to date. Without mirrored volumes: both are up.
    pub fn is_whole(&self) -> bool {
        let views = NodeName::BOTH.map(|node| self.view(node));
        let [Some(a), Some(b)] = &views else { return false };
        let paired = a.phase == PeerPhase::Paired && b.phase == PeerPhase::Paired && a.epoch == b.epoch;
        paired && a.resync_regions_left + b.resync_regions_left == 0 && self.network.is_whole()
    }

    fn is_drained(&self) -> bool {
        let views = NodeName::BOTH.map(|node| self.view(node));
        let mut halves =
            views.iter().flatten().flat_map(|view| &view.volumes).filter(|volume| volume.mirrored);
        halves.all(|half| half.hot.is_empty() && half.log.is_empty())
    }

    /// Reads every block that was ever written, on these paths; what is not mirrored, where it is.
    fn verify_everything(&mut self, paths: &[NodeName]) {
        let there =
            paths.first().and_then(|path| self.view(*path)).map_or_else(Vec::new, |view| view.volumes);
        for volume in there.iter().map(|volume| volume.id).filter(|id| !is_clone(*id)) {
            let blocks: Vec<u64> = self.watch.blocks(volume).collect();
            let paths = if self.hosts.is_mirrored(volume) { paths } else { &NodeName::BOTH[..1] };
            for run in blocks.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(16)) {
                let at = Sectors::new(run[0] * SECTORS_PER_BLOCK, run.len() as u64 * SECTORS_PER_BLOCK);
                for path in paths {
                    self.request(
                        Request { kind: Kind::Read, volume, at, fua: false, expected: ZERO },
                        *path,
                        None,
                    );
                }
            }
        }
    }

    fn compare_halves(&mut self) {
        for volume in self.volumes(true) {
            let blocks: Vec<u64> = self.watch.blocks(volume).collect();
            for block in blocks {
                let [Some(a), Some(b)] = NodeName::BOTH.map(|node| self.content(node, volume, block)) else {
                    self.counters.blocks_lost_in_copies += 1;
                    continue;
                };
                let contents = [a, b];
                self.check_status(volume, block, &contents[0]);
                if !contents[0].same(&contents[1]) {
                    let [a, b] = contents.map(|content| say(volume, block, &content));
                    self.fail(4, format!("at rest, volume {volume} block {block} is {a} on a and {b} on b"));
                    return;
                }
            }
        }
    }

    /// What a node calls zero or unmapped reads as zero, and what is data for one is data for both.
    fn check_status(&mut self, volume: VolumeId, block: u64, content: &Block) {
        let states = NodeName::BOTH.map(|node| self.block_state(node, volume, block));
        for (node, state) in NodeName::BOTH.into_iter().zip(states) {
            let Some(state) = state else { continue };
            self.counters.zero_blocks_seen += u64::from(state == BlockState::Zero);
            if state != BlockState::Data && !content.same(&Block::Zero) {
                let text = format!(
                    "node {node} calls volume {volume} block {block} {state:?}: {}",
                    say(volume, block, content)
                );
                self.fail(10, text);
            }
        }
        if let [Some(a), Some(b)] = states {
            self.counters.states_compared += 1;
            self.counters.zeros_mapped_on_one += u64::from(a != b);
            if a != b && [a, b].contains(&BlockState::Data) {
                self.fail(4, format!("at rest, volume {volume} block {block} is {a:?} on a and {b:?} on b"));
            }
        }
    }

    /// What a node that may serve calls a block.
    fn block_state(&self, node: NodeName, volume: VolumeId, block: u64) -> Option<BlockState> {
        let at = Sectors::new(block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK);
        let slot = &self.slots[node.index()];
        let runs = slot.node.as_ref()?.block_status(slot.clock.at(self.now), volume, at).ok()?;
        runs.first().map(|run| run.state)
    }

    /// Virtual time by which a plan's own steps are over.
    pub(super) fn plan_end(&self) -> Instant {
        self.steps.back().map_or(self.now, |step| Instant::from_nanos(step.at_us * 1000).max(self.now))
    }
}
