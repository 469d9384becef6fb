//! A logical unit as one initiator sees it: the volume, its identity, and what the initiator has not been told.

use std::sync::Arc;

use smallvec::SmallVec;
use twinsan::block::PagePool;
use twinsan::guest::{PathState, VirtualVolume, VolumeInfo};
use twinsan::ids::VolumeId;

use super::copy::{self, Copies};
use super::reservations::{Change, LIST_BYTES, Need, Nexus, Order, Reservations, Watch};
use super::{Cdb, Identity, Kind, Plan, Port, Sense, answer};
use super::{capacity, data, inquiry, mode, opcodes, ports, vpd};

/// Something that an initiator learns with its next command (SAM-5 5.14), the least urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Attention {
    /// 2A/09: the volume has grown.
    CapacityChanged,
    /// 2A/01: the unit became read-only, or writable.
    ModeChanged,
    /// 3F/0E: units were mapped or unmapped.
    UnitsChanged,
    /// 2A/04: a reservation that admitted this initiator was released, or is of another type now.
    ReservationsReleased,
    /// 2A/05: its registration was taken away.
    RegistrationsPreempted,
    /// 2A/03: all registrations were.
    ReservationsPreempted,
    /// 2A/06: path states have changed.
    PathsChanged,
    /// 2F/00: another initiator cleared the task set.
    CommandsCleared,
    /// 29/03: the unit was reset.
    Reset,
}

impl Attention {
    fn sense(self) -> Sense {
        match self {
            Attention::CapacityChanged => Sense::new(0x06, 0x2a, 0x09),
            Attention::ModeChanged => Sense::new(0x06, 0x2a, 0x01),
            Attention::UnitsChanged => Sense::new(0x06, 0x3f, 0x0e),
            Attention::ReservationsReleased => Sense::new(0x06, 0x2a, 0x04),
            Attention::RegistrationsPreempted => Sense::new(0x06, 0x2a, 0x05),
            Attention::ReservationsPreempted => Sense::new(0x06, 0x2a, 0x03),
            Attention::PathsChanged => Sense::new(0x06, 0x2a, 0x06),
            Attention::CommandsCleared => Sense::new(0x06, 0x2f, 0x00),
            Attention::Reset => Sense::new(0x06, 0x29, 0x03),
        }
    }
}

/// A mapped logical unit.
pub(crate) struct Unit {
    pub(crate) lun: u16,
    pub(crate) volume: Arc<dyn VirtualVolume>,
    info: VolumeInfo,
    identity: Identity,
    path: PathState,
    read_only: bool,
    /// Sorted, each at most once.
    attentions: SmallVec<[Attention; 6]>,
    /// Of the copies that were sent here.
    pub(crate) copies: Copies,
    pub(crate) reservations: Watch,
}

impl Unit {
    /// As the initiator of `nexus` sees it, who may only read if `read_only`; a snapshot is not written by anyone.
    pub(crate) fn new(lun: u16, volume: Arc<dyn VirtualVolume>, read_only: bool, nexus: &Arc<Nexus>) -> Unit {
        let info = volume.info();
        let read_only = read_only || info.read_only;
        let identity = Identity::of(&info);
        let path = volume.path_state();
        let (attentions, copies) = (SmallVec::new(), Copies::default());
        let reservations = Watch::new(nexus, &*volume);
        Unit { lun, volume, info, identity, path, read_only, attentions, copies, reservations }
    }

    /// Is it the same volume at the same LUN?
    pub(crate) fn is_same(&self, other: &Unit) -> bool {
        let same = |a: &VolumeInfo, b: &VolumeInfo| (a.id, a.uuid) == (b.id, b.uuid);
        self.lun == other.lun && same(&self.info, &other.info)
    }

    pub(crate) fn volume_id(&self) -> VolumeId {
        self.info.id
    }

    /// The name by which it is found among all units (VPD 83h).
    pub(crate) fn naa(&self) -> &[u8; 16] {
        &self.identity.naa
    }

    /// The initiator is to learn of `attention`.
    pub(crate) fn attend(&mut self, attention: Attention) {
        if attention == Attention::Reset {
            self.copies = Copies::default();
        }
        if let Err(place) = self.attentions.binary_search(&attention) {
            self.attentions.insert(place, attention);
        }
    }

    /// The initiator knows already.
    pub(crate) fn forget(&mut self, attention: Attention) {
        self.attentions.retain(|waiting| *waiting != attention);
    }

    pub(crate) fn is_mirrored(&self) -> bool {
        self.info.mirrored
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// From now on the initiator may only read, or write too; a change is told.
    pub(crate) fn protect(&mut self, read_only: bool) {
        if self.read_only != read_only {
            self.read_only = read_only;
            self.attend(Attention::ModeChanged);
        }
    }

    /// Learns what others have done to the reservations, which is told the initiator.
    pub(crate) fn look(&mut self) {
        if let Some(attention) = self.reservations.look(&*self.volume) {
            self.attend(attention);
        }
    }

    /// May a command that was planned go on? The reservations may have changed since.
    pub(crate) fn still_allows(&mut self, need: Need) -> bool {
        if self.reservations.is_behind(&*self.volume) {
            self.look();
        }
        self.reservations.allows(need)
    }

    /// An order of the initiator to change the reservations is over; `made` is what came of it, if something did.
    pub(crate) fn order_over(&mut self, made: Option<&Reservations>) {
        if let Some(attention) = self.reservations.order_over(made, &*self.volume) {
            self.attend(attention);
        }
    }

    /// Does this node serve it, and its partner not?
    pub(crate) fn serves_alone(&self) -> bool {
        self.serves() && (!self.info.mirrored || self.volume.partner_path_state() == PathState::Unavailable)
    }

    /// Does this node serve it? Otherwise what is kept may be old here.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.volume.path_state(), PathState::Optimized | PathState::NonOptimized)
    }

    /// What `cdb` comes to.
    pub(crate) fn plan(&mut self, cdb: &Cdb, port: &Port) -> Plan {
        self.plan_parsed(Kind::parse(cdb), port)
    }

    /// What a command comes to.
    pub(crate) fn plan_parsed(&mut self, kind: Result<Kind, Sense>, port: &Port) -> Plan {
        if self.volume.is_gone() {
            return no_unit(kind, port);
        }
        if self.volume.sectors() != self.info.sectors {
            self.refresh();
        }
        let path = self.volume.path_state();
        if path != self.path {
            self.path = path;
            self.attend(Attention::PathsChanged);
        }
        if self.reservations.is_behind(&*self.volume) {
            self.look();
        }
        if !self.attentions.is_empty() && !kind.is_ok_and(|kind| kind.passes_attention()) {
            return self.attentions.pop().map_or(Sense::NONE, Attention::sense).into();
        }
        match kind {
            Err(sense) => sense.into(),
            Ok(kind) if path == PathState::Unavailable && !kind.serves_on_any_path() => {
                Sense::UNAVAILABLE.into()
            }
            // What is kept may be old here.
            Ok(kind) if path == PathState::Transitioning && !self.reservations.allows(kind.need()) => {
                Sense::TRANSITIONING.into()
            }
            Ok(kind) if !self.reservations.allows(kind.need()) => Plan::Conflict,
            Ok(kind) if self.read_only && kind.changes_the_medium() => Sense::WRITE_PROTECTED.into(),
            Ok(kind) => match self.plan_kind(kind, port) {
                // It may have grown on the partner, unknown to this node.
                Err(Sense::OUT_OF_RANGE) if path == PathState::Transitioning => Sense::TRANSITIONING.into(),
                plan => plan.unwrap_or_else(Plan::Fail),
            },
        }
    }

    fn plan_kind(&mut self, kind: Kind, port: &Port) -> Result<Plan, Sense> {
        match kind {
            Kind::Read { .. }
            | Kind::Write { .. }
            | Kind::WriteVerify { .. }
            | Kind::Verify { .. }
            | Kind::Prefetch { .. }
            | Kind::SynchronizeCache { .. }
            | Kind::WriteAtomic { .. }
            | Kind::CompareAndWrite { .. }
            | Kind::OrWrite { .. }
            | Kind::Unmap { .. }
            | Kind::GetLbaStatus { .. }
            | Kind::ExtendedCopy { .. }
            | Kind::WriteSame { .. } => data::plan(kind, self.info.sectors),
            Kind::ModeSelect { parameters, .. } => mode::select(kind, parameters),
            Kind::ReserveIn { .. } | Kind::ReserveOut { .. } | Kind::ReserveUnit | Kind::ReleaseUnit => {
                self.reserve(kind)
            }
            Kind::CopyStatus { list, allocation } => self.copies.status(list, allocation),
            Kind::CopyFailure { list, allocation } => self.copies.failure(list, allocation),
            Kind::CopyParameters { allocation } => Ok(answer(copy::operating_parameters(), allocation)),
            Kind::TestUnitReady => Ok(self.ready()),
            Kind::ReadCapacity10 | Kind::ReadCapacity16 { .. } => Ok(self.capacity(kind)),
            _ => Ok(self.describe(kind, port)),
        }
    }

    /// PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE.
    fn reserve(&mut self, kind: Kind) -> Result<Plan, Sense> {
        if self.path == PathState::Transitioning {
            return Err(Sense::TRANSITIONING);
        }
        match (kind, self.reservations.state()) {
            (_, None) => Err(Sense::INTERNAL),
            (Kind::ReserveIn { action, allocation }, Some((state, _))) => {
                Ok(state.report(action, allocation))
            }
            (Kind::ReserveOut { parameters, .. }, _) if LIST_BYTES.contains(&parameters) => {
                Ok(Plan::Parameters { kind, bytes: parameters })
            }
            (Kind::ReserveUnit, _) => Ok(Plan::Reserve(Box::new(Change::TakeUnit))),
            (Kind::ReleaseUnit, _) => Ok(Plan::Reserve(Box::new(Change::ReleaseUnit))),
            _ => Err(Sense::PARAMETER_LENGTH),
        }
    }

    fn ready(&mut self) -> Plan {
        match self.path {
            PathState::Transitioning => Sense::TRANSITIONING.into(),
            PathState::Unavailable => Sense::UNAVAILABLE.into(),
            PathState::Optimized | PathState::NonOptimized => Plan::Good,
        }
    }

    fn capacity(&mut self, kind: Kind) -> Plan {
        match kind {
            Kind::ReadCapacity16 { allocation } => capacity::read_capacity_16(self.info.sectors, allocation),
            _ => capacity::read_capacity_10(self.info.sectors),
        }
    }

    /// The volume has changed its size.
    fn refresh(&mut self) {
        self.info = self.volume.info();
        self.attend(Attention::CapacityChanged);
    }

    fn describe(&mut self, kind: Kind, port: &Port) -> Plan {
        match kind {
            Kind::Inquiry { page: None, allocation } => inquiry::standard(port, 0, allocation),
            Kind::Inquiry { page: Some(page), allocation } => {
                vpd::page(port, &self.identity, &self.info, page, allocation)
            }
            Kind::RequestSense { descriptor, allocation } => self.request_sense(descriptor, allocation),
            Kind::ModeSense { ten, no_descriptor, long, control, page, subpage, allocation } => {
                let request = mode::Request { ten, no_descriptor, long, control, page, subpage, allocation };
                mode::sense(&request, self.info.sectors, self.read_only)
            }
            Kind::ReportPortGroups { extended, allocation } => {
                let partner = self.info.mirrored.then(|| self.volume.partner_path_state());
                ports::report(port, self.path, partner, extended, allocation)
            }
            Kind::ReportOpcodes { timeouts, how, opcode, action, allocation } => {
                opcodes::report(timeouts, how, opcode, action, allocation)
            }
            Kind::ReportTaskManagement { extended, allocation } => {
                opcodes::task_management(extended, allocation)
            }
            Kind::ReadDefects { twelve, flags, allocation } => {
                capacity::read_defects(twelve, flags, allocation)
            }
            // A stop makes nothing unready: the volume is shared, and no host may take it from the others.
            Kind::StartStop { start: true } | Kind::PreventAllow => Plan::Good,
            Kind::StartStop { start: false } => Plan::Run(super::Work::Flush),
            _ => Sense::INTERNAL.into(),
        }
    }

    fn request_sense(&mut self, descriptor: bool, allocation: u32) -> Plan {
        let waiting = self.attentions.pop().map(Attention::sense);
        let state = match self.path {
            PathState::Transitioning => Sense::TRANSITIONING,
            PathState::Unavailable => Sense::UNAVAILABLE,
            PathState::Optimized | PathState::NonOptimized => Sense::NONE,
        };
        sense_data(waiting.unwrap_or(state), descriptor, allocation)
    }

    /// What the parameter list `list` of `kind` comes to.
    pub(crate) fn plan_parameters(&mut self, kind: Kind, list: &[u8], pages: &PagePool) -> Plan {
        match kind {
            Kind::ModeSelect { ten, .. } => mode::selected(list, ten, self.info.sectors),
            Kind::ReserveOut { action, what, .. } => match Order::parse(action, what, list) {
                Ok(order) => Plan::Reserve(Box::new(Change::Order(order))),
                Err(sense) => sense.into(),
            },
            _ => data::with_parameters(kind, list, self.info.sectors, pages),
        }
    }
}

fn sense_data(sense: Sense, descriptor: bool, allocation: u32) -> Plan {
    let bytes = if descriptor { sense.descriptor().to_vec() } else { sense.fixed().to_vec() };
    answer(bytes, allocation)
}

/// REPORT LUNS (SPC-4 6.33) of an initiator that sees `luns`.
fn report_luns(luns: impl Iterator<Item = u16>, select: u8, allocation: u32) -> Plan {
    let mut b = vec![0; 8];
    match select {
        0x00 | 0x02 => {
            for lun in luns {
                // Peripheral addressing below 256, flat space above (SAM-5 4.7.7).
                let address = if lun < 256 { lun } else { lun | 0x4000 };
                b.extend_from_slice(&address.to_be_bytes());
                b.extend_from_slice(&[0; 6]);
            }
        }
        0x01 => {}
        _ => return Sense::cdb(2).into(),
    }
    let length = (b.len() - 8) as u32;
    b[..4].copy_from_slice(&length.to_be_bytes());
    answer(b, allocation)
}

/// What REPORT LUNS, which is about the target and not a unit, comes to; `None` for other commands.
pub(crate) fn plan_report_luns(kind: Result<Kind, Sense>, luns: impl Iterator<Item = u16>) -> Option<Plan> {
    match kind {
        Ok(Kind::ReportLuns { allocation, .. }) if allocation < 16 => Some(Sense::cdb(6).into()),
        Ok(Kind::ReportLuns { select, allocation }) => Some(report_luns(luns, select, allocation)),
        _ => None,
    }
}

/// What a command comes to on a LUN that is not mapped (SPC-4 6.6.1, 6.33, 6.39).
pub(crate) fn no_unit(kind: Result<Kind, Sense>, port: &Port) -> Plan {
    match kind {
        Ok(Kind::Inquiry { page: None, allocation }) => inquiry::standard(port, inquiry::NO_UNIT, allocation),
        Ok(Kind::Inquiry { page: Some(page), allocation }) => {
            vpd::no_unit(inquiry::NO_UNIT, page, allocation)
        }
        Ok(Kind::RequestSense { descriptor, allocation }) => {
            sense_data(Sense::NO_SUCH_LUN, descriptor, allocation)
        }
        _ => Sense::NO_SUCH_LUN.into(),
    }
}
