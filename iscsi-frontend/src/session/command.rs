//! SCSI commands: from the PDU to the plan, from the plan to the volume, from the volume to the answer.

use smallvec::SmallVec;
use twinsan::block::Payload;
use twinsan::guest::GuestResult;
use twinsan::ids::RequestId;

use crate::pdu::{Header, NO_TAG, Residual, Response, reject};
use crate::scsi::reservations::Need;
use crate::scsi::{self, Attention, Cdb, FixedSense, Kind, Plan, Sense, Work, code};

use super::framer::Place;
use super::landing::Landing;
use super::tasks::{Flow, Into, State, Task};
use super::{Connection, Current, IMMEDIATE_MAX};

const READS: u8 = 0x40;
const WRITES: u8 = 0x20;

impl Connection {
    /// The header of a SCSI command.
    pub(super) fn begin_command(&mut self, header: &Header) {
        if !self.take_cmd_sn(header) {
            return self.ignore();
        }
        if header.is_immediate() && self.tasks.immediate() >= IMMEDIATE_MAX {
            self.send_reject(reject::TOO_MANY_IMMEDIATE, header);
            return self.ignore();
        }
        if header.itt() == NO_TAG {
            self.send_reject(reject::INVALID_FIELD, header);
            return self.ignore();
        }
        if header.ahs_bytes() > 0 && !self.framer.has_sound_segments() {
            return self.protocol_error(reject::INVALID_FIELD);
        }
        if self.tasks.find(header.itt()).is_some() {
            self.send_reject(reject::TASK_IN_PROGRESS, header);
            return self.ignore();
        }
        let mut task = self.plan_task(header);
        let immediate = header.data_bytes() as u32;
        let first_burst = self.params.first_burst.min(task.expected);
        let unsolicited_ok = header.is_final() || (task.writes && !self.params.initial_r2t);
        let immediate_ok = immediate == 0 || (task.writes && self.params.immediate_data);
        if immediate > first_burst || !unsolicited_ok || !immediate_ok {
            return self.protocol_error(reject::PROTOCOL);
        }
        let unasked = if header.is_final() { immediate } else { first_burst };
        let unasked = unasked.min(task.flow.wanted);
        self.admit(&mut task, unasked);
        let keep = task.flow.wanted.min(immediate);
        let slot = self.tasks.insert(task);
        self.current = Current::Command(slot);
        self.framer.expect_data(Place::Task(slot), keep as usize);
    }

    fn plan_task(&mut self, header: &Header) -> Task {
        let mut cdb = Cdb([0; 16]);
        cdb.0.copy_from_slice(&header.0[32..48]);
        let flags = header.flags();
        let (reads, writes) = (flags & READS != 0, flags & WRITES != 0);
        let kind = Kind::parse(&cdb);
        let (unit, plan) = self.plan(header.lun(), kind);
        let expected = if reads || writes { header.word(20) } else { 0 };
        let mut task = Task {
            itt: header.itt(),
            need: kind.map_or(Need::Nothing, |kind| kind.need()),
            lun: header.lun(),
            unit,
            state: State::Gathering,
            immediate: header.is_immediate(),
            reads: reads && !writes,
            writes: writes && !reads,
            expected,
            asked: 0,
            plan,
            work: Work::Done,
            fetches: false,
            head: 0,
            flow: Flow {
                into: Into::Nowhere,
                wanted: 0,
                came: 0,
                unsolicited: !header.is_final(),
                burst_end: 0,
                data_sn: 0,
                r2t_sn: 0,
                failed: None,
            },
            request: RequestId::default(),
            keeping: None,
            list: None,
            needs: 0,
            reserved: 0,
            parked: 0,
            tickets: SmallVec::new(),
        };
        if reads && writes {
            task.plan = Sense::FIELD_IN_CDB.into(); // no bidirectional command is supported
        }
        self.prepare_data(&mut task);
        task
    }

    fn plan(&mut self, lun: [u8; 8], kind: Result<Kind, Sense>) -> (usize, Plan) {
        if let Some(plan) = scsi::plan_report_luns(kind, self.units.iter().map(|unit| unit.lun)) {
            // Whoever asks knows them (SPC-4 6.33).
            self.units.iter_mut().for_each(|unit| unit.forget(Attention::UnitsChanged));
            return (usize::MAX, plan);
        }
        let Some(index) = self.unit_of(lun) else {
            return (usize::MAX, scsi::no_unit(kind, self.target.port(self.site)));
        };
        match self.units[index].plan_parsed(kind, self.target.port(self.site)) {
            Plan::Conflict if self.disregard_dead(index) => {
                (index, self.units[index].plan_parsed(kind, self.target.port(self.site)))
            }
            plan => (index, plan),
        }
    }

    /// The unit at `lun` (SAM-5 4.7: peripheral or flat space addressing, one level).
    pub(super) fn unit_of(&self, lun: [u8; 8]) -> Option<usize> {
        let number = match lun[0] >> 6 {
            0 if lun[0] == 0 => u16::from(lun[1]),
            1 => u16::from_be_bytes([lun[0] & 0x3f, lun[1]]),
            _ => return None,
        };
        if lun[2..] != [0; 6] {
            return None;
        }
        self.units.binary_search_by_key(&number, |unit| unit.lun).ok()
    }

    /// How many bytes the command asks for, and where those from the initiator go.
    fn prepare_data(&mut self, task: &mut Task) {
        let sends = if task.writes { task.expected } else { 0 };
        match &mut task.plan {
            Plan::Answer(bytes) => task.asked = bytes.len() as u32,
            Plan::Fetch { bytes, .. } => task.asked = *bytes,
            // It says that it will read where the command writes: to answer GOOD would be a lie.
            Plan::Store { bytes, .. } | Plan::Parameters { bytes, .. } if task.reads && *bytes > 0 => {
                task.plan = Sense::INFORMATION_UNIT.into();
            }
            // 256 blocks do not fit into the CDB's field: to do nothing and answer GOOD would be a lie.
            Plan::Store { work: Work::CompareAndWrite { .. }, bytes: 0, .. } if sends > 0 => {
                task.plan = Sense::cdb(scsi::COMPARE_BLOCKS_BYTE).into();
            }
            Plan::Store { bytes, whole: true, .. } if sends != *bytes => {
                task.asked = *bytes;
                task.plan = Sense::INFORMATION_UNIT.into();
            }
            Plan::Store { bytes, head, .. } => {
                task.asked = *bytes;
                let short = sends.min(*bytes);
                let whole = short - short % scsi::LOGICAL_BLOCK_BYTES;
                if whole < short {
                    task.plan = Sense::INFORMATION_UNIT.into();
                } else {
                    task.flow.wanted = whole;
                    task.flow.into = Into::Blocks(Landing::new(*head as usize, whole as usize));
                }
            }
            Plan::Parameters { kind, bytes } if kind.takes_exactly() && sends != *bytes => {
                task.asked = *bytes;
                task.plan = Sense::INFORMATION_UNIT.into();
            }
            Plan::Parameters { kind, bytes } => {
                task.asked = *bytes;
                task.flow.wanted = sends.min(*bytes);
                task.flow.into = Into::List(*kind, Vec::new());
            }
            Plan::Good | Plan::Fail(_) | Plan::Run(_) | Plan::Conflict | Plan::Reserve(_) | Plan::Full => {}
        }
    }

    /// A command and its immediate data are complete.
    pub(super) fn command_here(&mut self, slot: u16, sound: bool) {
        let bytes = self.framer.header().data_bytes() as u32;
        let Some(task) = self.tasks.get_mut(slot) else { return };
        task.flow.came = bytes;
        task.flow.burst_end = bytes;
        if !sound {
            task.flow.failed = Some(Sense::DATA_DIGEST);
        }
        self.proceed(slot);
    }

    /// Goes on with a task whose state may have changed: asks for data, or does what it is for.
    pub(super) fn proceed(&mut self, slot: u16) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if task.flow.unsolicited || task.flow.came < task.flow.burst_end {
            return;
        }
        if let Some(sense) = task.flow.failed {
            return self.fail(slot, sense);
        }
        if task.flow.came < task.flow.wanted {
            let more = task.flow.wanted as usize;
            return self.when_room(slot, more);
        }
        match core::mem::replace(&mut task.plan, Plan::Good) {
            Plan::Answer(bytes) => self.send_answer(slot, &bytes),
            Plan::Good => self.finish(slot, code::GOOD),
            Plan::Fail(sense) => self.fail(slot, sense),
            Plan::Run(work) => self.run_with_room(slot, work),
            Plan::Conflict => self.finish(slot, code::RESERVATION_CONFLICT),
            Plan::Reserve(change) => self.reserve(slot, *change),
            Plan::Full => self.turn_away(slot),
            Plan::Fetch { work, bytes, head } => {
                task.fetches = true;
                task.head = head;
                task.work = work;
                self.when_room(slot, bytes as usize);
            }
            Plan::Store { work, .. } => self.store(slot, work),
            Plan::Parameters { .. } => self.with_parameters(slot),
        }
    }

    fn store(&mut self, slot: u16, mut work: Work) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if let Into::Blocks(landing) = core::mem::replace(&mut task.flow.into, Into::Nowhere) {
            let sectors = task.flow.wanted / scsi::LOGICAL_BLOCK_BYTES;
            work.supply(landing.into_payload(), u64::from(sectors), &self.target.config.pages);
        }
        self.run(slot, work);
    }

    fn with_parameters(&mut self, slot: u16) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let Into::List(kind, list) = core::mem::replace(&mut task.flow.into, Into::Nowhere) else { return };
        let pages = &self.target.config.pages;
        let plan = match self.units.get_mut(task.unit) {
            Some(_) if matches!(kind, Kind::ExtendedCopy { .. }) => self.plan_copy(slot, &list),
            Some(unit) => unit.plan_parameters(kind, &list, pages),
            None => Sense::NO_SUCH_LUN.into(),
        };
        if let Some(task) = self.tasks.get_mut(slot) {
            task.plan = plan;
            self.proceed(slot);
        }
    }

    /// Asks the volume for what `work` says next; answers when there is nothing left to ask.
    pub(super) fn run(&mut self, slot: u16, mut work: Work) {
        let unit = self.tasks.get_mut(slot).map(|task| task.unit).and_then(|unit| self.units.get(unit));
        match work.survey().zip(unit).and_then(|(at, unit)| unit.volume.block_status(at)) {
            Some(Ok(found)) => work.surveyed(&found),
            Some(Err(error)) => return self.fail(slot, error.into()),
            None => {}
        }
        let step = work.step();
        if !step.as_ref().is_none_or(|command| self.may_go_on(slot, &work, command)) {
            return self.conflict(slot, &work);
        }
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let (Some(command), Some(unit)) = (step, self.units.get(task.unit)) else {
            return match work.into_answer() {
                Some(bytes) => {
                    task.asked = bytes.len() as u32;
                    self.send_answer(slot, &bytes);
                }
                None => self.finish(slot, code::GOOD),
            };
        };
        task.work = work;
        task.state = State::Running;
        let token = self.address.key | u64::from(slot);
        let volume = task.work.volume().unwrap_or(&unit.volume);
        task.request = volume.submit(command, &self.sink, token);
    }

    /// The volume has answered.
    pub(crate) fn completed(&mut self, slot: u16, result: GuestResult) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        if task.state != State::Running {
            return;
        }
        match result {
            Err(error) => {
                let sense = task.work.failure(error);
                self.fail(slot, sense);
            }
            Ok(payload) if task.fetches && task.work.is_done() => self.send_data(slot, &payload),
            Ok(payload) => self.step(slot, &payload),
        }
    }

    fn step(&mut self, slot: u16, payload: &Payload) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let mut work = core::mem::replace(&mut task.work, Work::Done);
        match work.took(payload) {
            Ok(()) => {
                self.note_progress(slot, &work);
                self.run(slot, work);
            }
            Err(sense) => self.fail(slot, sense),
        }
    }

    /// Answers without data.
    pub(super) fn finish(&mut self, slot: u16, status: u8) {
        self.note_outcome(slot, None);
        let Some(task) = self.release(slot) else { return };
        let residual = Residual::between(task.expected, u64::from(task.asked));
        self.send(Response::Scsi { itt: task.itt, status, residual, data_in_pdus: 0 }, &[]);
        self.wake_waiting();
    }

    /// Answers with CHECK CONDITION. No data has gone to the initiator.
    pub(super) fn fail(&mut self, slot: u16, sense: Sense) {
        self.note_outcome(slot, Some(&sense));
        let Some(task) = self.release(slot) else { return };
        let asked = if task.writes { task.asked } else { 0 };
        let residual = Residual::between(task.expected, u64::from(asked));
        let response =
            Response::Scsi { itt: task.itt, status: code::CHECK_CONDITION, residual, data_in_pdus: 0 };
        self.send(response, &sense_segment(&sense));
        self.wake_waiting();
    }
}

/// The data segment of a response with sense data (RFC 7143 11.4.7.2).
pub(super) fn sense_segment(sense: &Sense) -> FixedSense {
    let fixed = sense.fixed();
    let mut data = FixedSense::from_slice(&(fixed.len() as u16).to_be_bytes());
    data.extend_from_slice(&fixed);
    data
}
