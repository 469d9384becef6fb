//! The hosts' requests on their way to the nodes and back.

use super::{Cluster, Due};
use crate::block::{Block, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::guest::{Command, GuestError, GuestResult, TRANSFER_SECTORS_MAX};
use crate::ids::{NodeName, RequestId};
use crate::mirror::message::PeerPhase;
use crate::node::event::Event;
use crate::sim::history::Kind;
use crate::sim::hosts::{HostStep, Pending, Request};
use crate::sim::pattern;
use crate::sim::trace::Detail;
use crate::time::Instant;

/// A read is given up after so many answers that no good copy is left.
const MEDIUM_ERRORS_MAX: u32 = 4;

impl Cluster {
    pub(super) fn schedule_host(&mut self, at: Instant, step: HostStep) {
        self.schedule(at, Due::Host(step));
    }

    pub(super) fn host_step(&mut self, step: HostStep) {
        match step {
            HostStep::Next { stream } => self.next_request(stream),
            HostStep::Try { op } => self.attempt(op),
            HostStep::Timeout { attempt } => self.timed_out(attempt),
            HostStep::Reset { attempt } => self.lost(attempt),
        }
    }

    /// All streams of requests begin or go on.
    pub(super) fn wake_streams(&mut self) {
        for stream in 0..self.hosts.streams() {
            let busy = self.hosts.pending.values().any(|pending| pending.stream == Some(stream));
            if !busy {
                let at = self.now + self.hosts.think();
                self.schedule_host(at, HostStep::Next { stream });
            }
        }
    }

    fn next_request(&mut self, stream: usize) {
        if self.hosts.left == 0 || self.hosts.pending.values().any(|pending| pending.stream == Some(stream)) {
            return;
        }
        self.hosts.left -= 1;
        let request = self.hosts.choose();
        let path = self.hosts.first_path(request.volume);
        self.request(request, path, Some(stream));
    }

    /// A request begins; returns its number in the history.
    pub(super) fn request(&mut self, request: Request, path: NodeName, stream: Option<usize>) -> usize {
        let host = stream.map_or(u32::MAX, |stream| self.hosts.host_of(stream));
        let value = if matches!(request.kind, Kind::Write | Kind::Compare) {
            self.hosts.next_value()
        } else {
            pattern::ZERO
        };
        let op = self.history.begin(host, request.kind, request.volume, request.at, value);
        (self.history.ops[op].stable, self.history.ops[op].expected) = (request.fua, request.expected);
        self.counters.ops += 1;
        let late = self.is_deleted(request.volume);
        let pending =
            Pending { request, stream, path, attempt: None, aborting: false, medium_errors: 0, late };
        self.hosts.pending.insert(op, pending);
        self.attempt(op);
        op
    }

    fn attempt(&mut self, op: usize) {
        let Some(pending) = self.hosts.pending.get(&op) else { return };
        if pending.attempt.is_some() {
            return;
        }
        let (request, path) = (pending.request, pending.path);
        if !self.slots[path.index()].alive() {
            let other = self.hosts.other_path(request.volume, path);
            self.hosts.pending.get_mut(&op).expect("just seen").path = other;
            let at = self.now + self.hosts.backoff();
            self.schedule_host(at, HostStep::Try { op });
            return;
        }
        let attempt = self.hosts.next_attempt();
        let pending = self.hosts.pending.get_mut(&op).expect("just seen");
        (pending.attempt, pending.aborting) = (Some(attempt), false);
        self.hosts.attempts.insert(attempt, (op, path));
        self.history.attempt(op, path);
        self.counters.attempts += 1;
        let value = self.history.ops[op].value;
        let Request { kind, volume, at, fua, expected } = request;
        let command = match kind {
            Kind::Read => Command::Read { at },
            Kind::Write => Command::Write { at, data: pattern::payload(&self.pages, volume, at, value), fua },
            Kind::Compare => {
                let payload = |value| match value {
                    pattern::ZERO => self.zero_payload(at),
                    value => pattern::payload(&self.pages, volume, at, value),
                };
                let (compare, data) = (payload(expected), payload(value));
                Command::CompareAndWrite { at, compare, data, fua }
            }
            Kind::Zero if self.clears_by_writing(op, at) => {
                Command::Write { at, data: self.zero_payload(at), fua }
            }
            Kind::Zero => Command::Zero { at, fua },
            Kind::Flush => Command::Flush,
        };
        if kind.writes() {
            self.watch.touched(volume, at);
            self.changes(volume, at);
        }
        self.trace.line(Detail::Guests, self.now, "host", || {
            format!("op {op} as request {attempt}: value {value}")
        });
        let timeout = self.now + self.hosts.path_timeout();
        self.schedule_host(timeout, HostStep::Timeout { attempt });
        self.deliver(path, Event::Guest { id: attempt, volume, command });
    }

    fn zero_payload(&self, at: crate::guest::Sectors) -> Payload {
        at.blocks().map(|_| Block::Data(self.pages.take_zeroed().freeze())).collect()
    }

    /// Hosts clear some ranges by writing zeros. Each attempt does as the first.
    fn clears_by_writing(&mut self, op: usize, at: crate::guest::Sectors) -> bool {
        let dice = op.wrapping_mul(2_654_435_761) / 64 % 100;
        at.count <= TRANSFER_SECTORS_MAX && (dice as u32) < self.setup.zero_write_percent
    }

    /// The path did not answer in time. While it lives, the attempt is aborted first.
    fn timed_out(&mut self, attempt: RequestId) {
        let Some(&(op, path)) = self.hosts.attempts.get(&attempt) else { return };
        let slot = &self.slots[path.index()];
        let answers = slot.alive() && !slot.paused;
        let pending = self.hosts.pending.get_mut(&op).expect("an attempt belongs to a request");
        let asked = core::mem::replace(&mut pending.aborting, true);
        if asked && !answers {
            self.lost(attempt);
            return;
        }
        let again = self.now + self.hosts.path_timeout();
        self.schedule_host(again, HostStep::Timeout { attempt });
        if !asked {
            self.counters.timeouts += 1;
            self.deliver(path, Event::Abort { id: attempt });
        }
    }

    /// This attempt is over without an answer that counts: the other path.
    fn retry(&mut self, attempt: RequestId) {
        let Some((op, path)) = self.hosts.attempts.remove(&attempt) else { return };
        let volume = self.hosts.pending[&op].request.volume;
        let other = self.hosts.other_path(volume, path);
        let pending = self.hosts.pending.get_mut(&op).expect("an attempt belongs to a request");
        (pending.attempt, pending.path) = (None, other);
        self.counters.retries += 1;
        let at = self.now + self.hosts.backoff();
        self.schedule_host(at, HostStep::Try { op });
    }

    /// This attempt has no answer, and has had an effect or not: the other path, unless it compares. Then nobody can tell any
    /// more what to expect, and the host leaves it at that.
    fn lost(&mut self, attempt: RequestId) {
        let Some((op, _)) = self.hosts.attempts.get(&attempt) else { return };
        if self.hosts.pending[op].request.kind != Kind::Compare {
            return self.retry(attempt);
        }
        let op = *op;
        self.hosts.attempts.remove(&attempt);
        self.counters.compared_uncertainly += 1;
        self.finished(op);
    }

    /// All connections to a node are gone. What it had sent on the mirror link arrives before a host knows.
    pub(super) fn paths_died(&mut self, node: NodeName, silently: bool) {
        let drained = self.setup.link_delay_us.max(self.network_delay_us()) * 6;
        let lost: Vec<RequestId> =
            self.hosts.attempts.iter().filter(|(_, (_, path))| *path == node).map(|(id, _)| *id).collect();
        for attempt in lost {
            let after = self.fault_rng.micros(drained, drained + if silently { 1_000_000 } else { 20_000 });
            self.schedule_host(self.now + after, HostStep::Reset { attempt });
        }
    }

    pub(super) fn aborted(&mut self, attempt: RequestId) {
        // Its own answer came first, unless it was never handled or already gone.
        self.lost(attempt);
    }

    pub(super) fn completed(&mut self, node: NodeName, attempt: RequestId, result: GuestResult) {
        let Some(&(op, path)) = self.hosts.attempts.get(&attempt) else {
            return self.clone_answered(attempt, result);
        };
        if path != node {
            self.fail(16, format!("node {node} answers request {attempt}, which node {path} was asked"));
            return;
        }
        match result {
            Ok(data) => {
                self.hosts.attempts.remove(&attempt);
                self.answered(node, op, &data);
            }
            Err(GuestError::Unavailable | GuestError::Transitioning) => self.retry(attempt),
            Err(GuestError::Aborted) => self.lost(attempt),
            Err(GuestError::Uncertain) if self.hosts.pending[&op].request.kind == Kind::Compare => {
                self.lost(attempt);
            }
            Err(GuestError::Miscompare { offset }) if self.may_differ(op, offset) => {
                self.counters.mismatches += 1;
                let Request { volume, at, .. } = self.hosts.pending[&op].request;
                self.hosts.sees(volume, at, &[]);
                self.hosts.attempts.remove(&attempt);
                self.history.without_effect(op);
                self.finished(op);
            }
            Err(GuestError::Gone) => {
                let volume = self.hosts.pending[&op].request.volume;
                self.volume_is_gone(node, volume);
                self.hosts.attempts.remove(&attempt);
                self.history.refused(op);
                self.finished(op);
            }
            Err(GuestError::OutOfSpace) => {
                self.counters.out_of_space += 1;
                self.refused_space(node, op);
                self.hosts.attempts.remove(&attempt);
                self.history.refused(op);
                self.finished(op);
            }
            Err(GuestError::Medium) => {
                self.counters.medium_errors += 1;
                if !self.was_damaged() {
                    let request = self.hosts.pending[&op].request;
                    self.fail(
                        13,
                        format!("node {node} finds no good copy for {request:?}, and nothing was damaged"),
                    );
                    return;
                }
                let pending = self.hosts.pending.get_mut(&op).expect("an attempt belongs to a request");
                pending.medium_errors += 1;
                if pending.medium_errors < MEDIUM_ERRORS_MAX {
                    self.retry(attempt);
                } else {
                    self.hosts.attempts.remove(&attempt);
                    self.finished(op);
                }
            }
            Err(error) => {
                let request = self.hosts.pending[&op].request;
                self.fail(16, format!("node {node} refuses a proper request with {error:?}: {request:?}"));
            }
        }
    }

    /// Can a comparison have failed at this byte?
    fn may_differ(&self, op: usize, offset: u32) -> bool {
        let Request { kind, at, .. } = self.hosts.pending[&op].request;
        kind == Kind::Compare && u64::from(offset) < at.count * SECTOR_BYTES as u64
    }

    /// A node has no space for a write: not for one of a volume for which enough is kept.
    fn refused_space(&mut self, node: NodeName, op: usize) {
        let Request { kind, volume, at, .. } = self.hosts.pending[&op].request;
        let (kept, sectors) =
            (self.setup.volumes[volume.0 as usize - 1].reserved_bytes, self.hosts.sectors(volume));
        if kept >= sectors * SECTOR_BYTES as u64 {
            let text = format!(
                "node {node} has no space for a {kind:?} of {at:?} of volume {volume}, which has all of its kept"
            );
            self.fail(19, text);
        }
    }

    fn answered(&mut self, node: NodeName, op: usize, data: &[Block]) {
        let request = self.hosts.pending[&op].request;
        self.volume_is_there(node, request.volume, self.hosts.pending[&op].late);
        let mirrored = self.hosts.is_mirrored(request.volume);
        let alone = mirrored && self.slots[node.index()].phase == PeerPhase::Alone;
        let mut values = Vec::new();
        if request.kind == Kind::Read {
            let expected = request.at.count.div_ceil(SECTORS_PER_BLOCK);
            if (data.len() as u64) < expected {
                self.fail(1, format!("node {node} answers {request:?} with {} blocks", data.len()));
                return;
            }
            match pattern::values(request.volume, request.at, data) {
                Ok(found) => values = found,
                Err(foreign) => {
                    self.fail(13, format!("read at node {node}: {foreign}"));
                    return;
                }
            }
        }
        self.counters.answers += 1;
        self.counters.writes_acknowledged += u64::from(request.kind.writes());
        self.counters.compared += u64::from(request.kind == Kind::Compare);
        match request.kind {
            Kind::Flush => {}
            Kind::Read => self.hosts.sees(request.volume, request.at, &values),
            Kind::Write | Kind::Compare | Kind::Zero => {
                let value = self.history.ops[op].value;
                self.hosts.sees(request.volume, request.at, &vec![value; request.at.count as usize]);
            }
        }
        self.trace.line(Detail::Guests, self.now, "host", || format!("op {op} done at {node}: {values:?}"));
        self.history.done(op, alone, values);
        self.finished(op);
    }

    /// The request is over; its stream goes on.
    fn finished(&mut self, op: usize) {
        let Some(pending) = self.hosts.pending.remove(&op) else { return };
        if let Some(stream) = pending.stream {
            let at = self.now + self.hosts.think();
            self.schedule_host(at, HostStep::Next { stream });
        }
    }
}
