//! What became of copies, for RECEIVE COPY RESULTS (SPC-4 6.22, 6.23, 6.25), and what can be copied at all (7.8.17).
//!
//! Invariant: of a unit in a session at most [`RECORDS_MAX`] copies are remembered, those that run among them.

use super::{
    BLOCK_TO_BLOCK, COPIES_MAX, CSCDS_MAX, DESCRIPTORS_BYTES_MAX, IDENTIFICATION, SEGMENT_BLOCKS_MAX,
    SEGMENTS_MAX, THIS_UNIT,
};
use crate::scsi::{FixedSense, LOGICAL_BLOCK_BYTES, Plan, Sense, answer, code};

const RECORDS_MAX: usize = 2 * COPIES_MAX;
/// 512 bytes, as a power of two: what a segment is a multiple of.
const GRANULARITY: u8 = 9;

/// How a copy stands; the codes are those of COPY COMMAND STATUS (SPC-4 table 254).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running = 0,
    Good = 1,
    Failed = 2,
}

/// A copy that has a list identifier.
#[derive(Debug)]
struct Record {
    list: u8,
    state: State,
    /// Segments begun, and bytes written, in order.
    segments: u16,
    bytes: u64,
    /// Why it failed, until that was told.
    failure: Option<FixedSense>,
    /// That it is over was told.
    told: bool,
}

/// The copies that were sent to a unit in one session, the oldest first.
#[derive(Default, Debug)]
pub(crate) struct Copies(Vec<Record>);

impl Copies {
    /// A copy begins; what is known of an earlier one of that name is forgotten.
    pub(crate) fn begin(&mut self, list: u8) -> Result<(), Sense> {
        if self.running(list).is_some() {
            return Err(Sense::LIST_IN_USE);
        }
        self.0.retain(|record| record.list != list);
        if self.0.len() >= RECORDS_MAX
            && let Some(oldest) = self.0.iter().position(|record| record.state != State::Running)
        {
            self.0.remove(oldest);
        }
        let (state, failure) = (State::Running, None);
        self.0.push(Record { list, state, segments: 0, bytes: 0, failure, told: false });
        Ok(())
    }

    fn running(&mut self, list: u8) -> Option<&mut Record> {
        self.0.iter_mut().find(|record| record.list == list && record.state == State::Running)
    }

    pub(crate) fn progress(&mut self, list: u8, segments: u16, bytes: u64) {
        if let Some(record) = self.running(list) {
            (record.segments, record.bytes) = (segments, bytes);
        }
    }

    /// It is over, by itself if `failure` tells nothing else.
    pub(crate) fn conclude(&mut self, list: u8, failure: Option<&Sense>) {
        if let Some(record) = self.running(list) {
            record.state = if failure.is_some() { State::Failed } else { State::Good };
            record.failure = failure.map(Sense::fixed);
        }
    }

    /// It is gone; if it was not concluded, it was given up.
    pub(crate) fn end(&mut self, list: u8) {
        if let Some(record) = self.running(list) {
            record.state = State::Failed;
        }
    }

    /// RECEIVE COPY STATUS (LID1), told once of a copy that is over.
    pub(crate) fn status(&mut self, list: u8, allocation: u32) -> Result<Plan, Sense> {
        const BYTES: u8 = 0;
        let found = self.0.iter_mut().find(|record| record.list == list && !record.told);
        let record = found.ok_or(Sense::cdb(2))?;
        let mut b = vec![0, 0, 0, 8, record.state as u8];
        b.extend_from_slice(&record.segments.to_be_bytes());
        b.push(BYTES);
        b.extend_from_slice(&u32::try_from(record.bytes).unwrap_or(u32::MAX).to_be_bytes());
        record.told = record.state != State::Running;
        self.0.retain(|record| !record.told || record.failure.is_some());
        Ok(answer(b, allocation))
    }

    /// RECEIVE COPY FAILURE DETAILS (LID1), told once, if as a whole.
    pub(crate) fn failure(&mut self, list: u8, allocation: u32) -> Result<Plan, Sense> {
        let found = self.0.iter_mut().find(|record| record.list == list && record.state != State::Running);
        let record = found.ok_or(Sense::cdb(2))?;
        let mut b = vec![0; 4];
        if let Some(sense) = &record.failure {
            b.resize(60, 0);
            b[56] = code::CHECK_CONDITION;
            b[58..60].copy_from_slice(&(sense.len() as u16).to_be_bytes());
            b.extend_from_slice(sense);
            let length = (b.len() - 4) as u32;
            b[..4].copy_from_slice(&length.to_be_bytes());
        }
        if allocation == 0 || allocation as usize >= b.len() {
            record.failure = None;
        }
        self.0.retain(|record| !record.told || record.failure.is_some());
        Ok(answer(b, allocation))
    }
}

/// The limits that both RECEIVE COPY OPERATING PARAMETERS and VPD 8Fh tell.
fn limits() -> [u8; 8] {
    let mut b = [0; 8];
    b[..2].copy_from_slice(&(CSCDS_MAX as u16).to_be_bytes());
    b[2..4].copy_from_slice(&(SEGMENTS_MAX as u16).to_be_bytes());
    b[4..].copy_from_slice(&(DESCRIPTORS_BYTES_MAX as u32).to_be_bytes());
    b
}

fn segment_bytes_max() -> [u8; 4] {
    (u32::from(SEGMENT_BLOCKS_MAX) * LOGICAL_BLOCK_BYTES).to_be_bytes()
}

/// RECEIVE COPY OPERATING PARAMETERS (SPC-4 table 244).
pub(in crate::scsi) fn operating_parameters() -> Vec<u8> {
    const TYPES: [u8; 2] = [BLOCK_TO_BLOCK, IDENTIFICATION];
    let mut b = vec![0; 44];
    b[4] = 0x01; // SNLID: copies without a list identifier
    b[8..16].copy_from_slice(&limits());
    b[16..20].copy_from_slice(&segment_bytes_max());
    b[34..36].copy_from_slice(&(COPIES_MAX as u16).to_be_bytes());
    b[36] = COPIES_MAX as u8;
    b[37] = GRANULARITY;
    b[43] = TYPES.len() as u8;
    b.extend_from_slice(&TYPES);
    let length = (b.len() - 4) as u32;
    b[..4].copy_from_slice(&length.to_be_bytes());
    b
}

/// The descriptors of the Third-party Copy page, 8Fh (SPC-4 7.8.17).
pub(in crate::scsi) fn third_party(b: &mut Vec<u8>) {
    // Supported Commands: EXTENDED COPY (LID1); RECEIVE COPY STATUS, OPERATING PARAMETERS, FAILURE DETAILS.
    descriptor(b, 0x0001, &[8, 0x83, 1, 0x00, 0x84, 3, 0x00, 0x03, 0x04, 0, 0, 0]);
    let mut parameters = [0; 28];
    parameters[4..12].copy_from_slice(&limits());
    descriptor(b, 0x0004, &parameters);
    descriptor(b, 0x0008, &[2, BLOCK_TO_BLOCK, IDENTIFICATION, 0]);
    let [high, low] = THIS_UNIT.to_be_bytes();
    descriptor(b, 0x000c, &[0, 2, high, low]);
    let mut general = [0; 32];
    general[..4].copy_from_slice(&(COPIES_MAX as u32).to_be_bytes());
    general[4..8].copy_from_slice(&(COPIES_MAX as u32).to_be_bytes());
    general[8..12].copy_from_slice(&segment_bytes_max());
    general[12] = GRANULARITY;
    descriptor(b, 0x8001, &general);
}

fn descriptor(b: &mut Vec<u8>, kind: u16, parameters: &[u8]) {
    b.extend_from_slice(&kind.to_be_bytes());
    b.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
    b.extend_from_slice(parameters);
}
