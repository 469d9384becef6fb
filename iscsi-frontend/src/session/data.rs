//! The data phases: Data-Out and R2T from the initiator, Data-In to it (RFC 7143 11.7, 11.8).

use twinsan::block::{BLOCK_BYTES, Payload};

use crate::pdu::{Header, NO_TAG, Residual, Response, reject};
use crate::scsi::{Sense, code};

use super::command::sense_segment;
use super::framer::Place;
use super::output::Piece;
use super::tasks::{State, Task};
use super::{Connection, Current};

impl Connection {
    /// The header of a Data-Out. Data of a task that is gone is dropped.
    pub(super) fn begin_data_out(&mut self, header: &Header) {
        let solicited = header.ttt() != NO_TAG;
        let first_burst = self.params.first_burst;
        let found = if solicited { u16::try_from(header.ttt()).ok() } else { self.tasks.find(header.itt()) };
        let task = found.and_then(|slot| self.tasks.get_mut(slot));
        let (Some(slot), Some(task)) = (found, task) else { return self.ignore() };
        if task.itt != header.itt() || task.state != State::Gathering {
            return self.ignore();
        }
        let bytes = header.data_bytes() as u32;
        let limit = if solicited { task.flow.burst_end } else { first_burst.min(task.expected) };
        if task.flow.unsolicited == solicited || (solicited && task.flow.came == task.flow.burst_end) {
            return self.protocol_error(reject::PROTOCOL);
        }
        if bytes > limit.saturating_sub(task.flow.came) {
            return self.protocol_error(reject::PROTOCOL);
        }
        let in_order = header.word(36) == task.flow.data_sn && header.word(40) == task.flow.came;
        if !in_order {
            task.flow.failed = Some(Sense::DATA_PHASE);
        }
        task.flow.data_sn = task.flow.data_sn.wrapping_add(1);
        let usable =
            if task.flow.failed.is_some() { 0 } else { task.flow.wanted.saturating_sub(task.flow.came) };
        task.flow.came += bytes;
        self.current = Current::DataOut(slot);
        self.framer.expect_data(Place::Task(slot), usable.min(bytes) as usize);
    }

    /// A Data-Out is complete.
    pub(super) fn data_out_here(&mut self, slot: u16, sound: bool, last: bool) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if !sound {
            task.flow.failed = Some(Sense::DATA_DIGEST);
        }
        if last {
            task.flow.unsolicited = false;
            if task.flow.came < task.flow.burst_end {
                task.flow.failed = Some(Sense::DATA_PHASE);
            }
            task.flow.burst_end = task.flow.came;
        }
        self.proceed(slot);
    }

    /// Asks for the next burst.
    pub(super) fn ask_for_data(&mut self, slot: u16) {
        let burst = self.params.max_burst;
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let flow = &mut task.flow;
        let offset = flow.came;
        let length = burst.min(flow.wanted - offset);
        flow.burst_end = offset + length;
        flow.data_sn = 0;
        let r2t_sn = flow.r2t_sn;
        flow.r2t_sn += 1;
        let (lun, itt) = (task.lun, task.itt);
        self.send(Response::R2t { lun, itt, ttt: u32::from(slot), r2t_sn, offset, length }, &[]);
    }

    /// Answers with a few bytes.
    pub(super) fn send_answer(&mut self, slot: u16, bytes: &[u8]) {
        let Some(task) = self.release(slot) else { return };
        let expected = if task.reads { task.expected } else { 0 };
        let bytes = bytes.get(..expected as usize).unwrap_or(bytes);
        let plan = Segments::new(&task, self.params.send_bytes_max, self.params.max_burst);
        for segment in plan {
            let data = &bytes[segment.from..segment.to];
            self.send(segment.response, data);
        }
        self.wake_waiting();
    }

    /// Answers with blocks.
    pub(super) fn send_data(&mut self, slot: u16, payload: &Payload) {
        let Some(task) = self.release(slot) else { return };
        if payload.len() * BLOCK_BYTES < (task.head + task.asked) as usize {
            return self.send_failure(&task);
        }
        let head = task.head as usize;
        let plan = Segments::new(&task, self.params.send_bytes_max, self.params.max_burst);
        for segment in plan {
            let header = segment.response.emit(self.numbers(), segment.to - segment.from);
            self.stat_sn = self.stat_sn.wrapping_add(u32::from(segment.response.counts()));
            let pieces = pieces(payload, head + segment.from, head + segment.to);
            self.output.push_pieces(&header, pieces, self.digests);
        }
        self.wake_waiting();
    }

    /// The volume answered with fewer blocks than were asked for: a bug, which must not become a panic.
    fn send_failure(&mut self, task: &Task) {
        let data = sense_segment(&Sense::INTERNAL);
        let residual = Residual::between(task.expected, 0);
        let status = code::CHECK_CONDITION;
        self.send(Response::Scsi { itt: task.itt, status, residual, data_in_pdus: 0 }, &data);
    }
}

/// The pieces of blocks that bytes `from..to` of a payload lie in.
fn pieces(payload: &Payload, from: usize, to: usize) -> impl Iterator<Item = Piece> {
    let first = from / BLOCK_BYTES;
    let last = to.div_ceil(BLOCK_BYTES);
    payload[first..last].iter().enumerate().map(move |(index, block)| {
        let base = (first + index) * BLOCK_BYTES;
        let piece_from = from.saturating_sub(base);
        Piece { block: block.clone(), from: piece_from, to: (to - base).min(BLOCK_BYTES) }
    })
}

/// A PDU of the answer and the bytes that go with it.
struct Segment {
    response: Response,
    from: usize,
    to: usize,
}

/// Cuts an answer into Data-In PDUs, or a response alone if no byte is to move. The last one carries the status.
struct Segments {
    itt: u32,
    residual: Residual,
    total: usize,
    next: usize,
    segment_max: usize,
    burst: usize,
    data_sn: u32,
    done: bool,
}

impl Segments {
    fn new(task: &Task, segment_max: u32, burst: u32) -> Segments {
        let expected = if task.reads { task.expected } else { 0 };
        let residual = match task.writes {
            // What the initiator would send is not what the command moves: nothing is.
            true => Residual::between(task.expected, 0),
            false => Residual::between(expected, u64::from(task.asked)),
        };
        Segments {
            itt: task.itt,
            residual,
            total: expected.min(task.asked) as usize,
            next: 0,
            segment_max: segment_max as usize,
            burst: burst as usize,
            data_sn: 0,
            done: false,
        }
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.done {
            return None;
        }
        let (itt, residual, from) = (self.itt, self.residual, self.next);
        if self.total == 0 {
            self.done = true;
            let response = Response::Scsi { itt, status: code::GOOD, residual, data_in_pdus: 0 };
            return Some(Segment { response, from, to: from });
        }
        let burst_left = self.burst - from % self.burst;
        let to = self.total.min(from + self.segment_max.min(burst_left));
        self.done = to == self.total;
        self.next = to;
        let last = self.done || to.is_multiple_of(self.burst);
        let status = self.done.then_some((code::GOOD, residual));
        let response = Response::DataIn { itt, last, status, data_sn: self.data_sn, offset: from as u32 };
        self.data_sn += 1;
        Some(Segment { response, from, to })
    }
}
