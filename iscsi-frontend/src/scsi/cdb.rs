//! CDBs (SPC-4 4.3, SBC-3 5): sixteen bytes in, a checked [`Kind`] out.
//!
//! A field that a command does not support is refused here, with a pointer to its byte, so that the rest never
//! sees it.

use super::reservations::{Need, Order, Reservations};
use super::sense::Sense;

/// A CDB of up to 16 bytes, the rest zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cdb(pub(crate) [u8; 16]);

impl Cdb {
    fn half(&self, at: usize) -> u32 {
        u32::from(u16::from_be_bytes([self.0[at], self.0[at + 1]]))
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at)) << 32 | u64::from(self.word(at + 4))
    }

    fn action(&self) -> u8 {
        self.0[1] & 0x1f
    }
}

/// Logical blocks that a command names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) lba: u64,
    pub(crate) blocks: u32,
}

/// What to compare with in VERIFY and WRITE AND VERIFY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ByteCheck {
    /// Only that the medium can be read.
    Medium,
    /// Byte by byte with the data sent.
    Data,
}

/// A command that this device server knows, its fields checked for form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ModeSense {
        ten: bool,
        no_descriptor: bool,
        long: bool,
        control: u8,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    ModeSelect {
        ten: bool,
        parameters: u32,
    },
    StartStop {
        start: bool,
    },
    PreventAllow,
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReportPortGroups {
        extended: bool,
        allocation: u32,
    },
    ReportOpcodes {
        timeouts: bool,
        how: u8,
        opcode: u8,
        action: u16,
        allocation: u32,
    },
    ReportTaskManagement {
        extended: bool,
        allocation: u32,
    },
    ReadDefects {
        twelve: bool,
        flags: u8,
        allocation: u32,
    },
    Read {
        at: Range,
        fua: bool,
    },
    Write {
        at: Range,
        fua: bool,
    },
    WriteVerify {
        at: Range,
        check: ByteCheck,
    },
    Verify {
        at: Range,
        check: ByteCheck,
    },
    Prefetch {
        at: Range,
    },
    SynchronizeCache {
        at: Range,
    },
    /// WRITE ATOMIC (16), all or nothing.
    WriteAtomic {
        at: Range,
        fua: bool,
    },
    /// COMPARE AND WRITE.
    CompareAndWrite {
        at: Range,
        fua: bool,
    },
    /// ORWRITE (16).
    OrWrite {
        at: Range,
        fua: bool,
    },
    Unmap {
        parameters: u32,
    },
    WriteSame {
        at: Range,
        unmap: bool,
        no_data: bool,
    },
    /// PERSISTENT RESERVE IN.
    ReserveIn {
        action: u8,
        allocation: u32,
    },
    /// PERSISTENT RESERVE OUT; `what` is scope and type.
    ReserveOut {
        action: u8,
        what: u8,
        parameters: u32,
    },
    /// RESERVE (6) and (10).
    ReserveUnit,
    /// RELEASE (6) and (10).
    ReleaseUnit,
    /// EXTENDED COPY (LID1).
    ExtendedCopy {
        parameters: u32,
    },
    /// RECEIVE COPY STATUS (LID1).
    CopyStatus {
        list: u8,
        allocation: u32,
    },
    /// RECEIVE COPY OPERATING PARAMETERS.
    CopyParameters {
        allocation: u32,
    },
    /// RECEIVE COPY FAILURE DETAILS (LID1).
    CopyFailure {
        list: u8,
        allocation: u32,
    },
}

impl Kind {
    /// Parses a CDB.
    pub(crate) fn parse(cdb: &Cdb) -> Result<Kind, Sense> {
        let b = &cdb.0;
        match b[0] {
            0x28 | 0xa8 | 0x88 | 0x08 => {
                let (at, fua) = medium(cdb)?;
                Ok(Kind::Read { at, fua })
            }
            0x2a | 0xaa | 0x8a | 0x0a => {
                let (at, fua) = medium(cdb)?;
                Ok(Kind::Write { at, fua })
            }
            0x2e | 0xae | 0x8e => Ok(Kind::WriteVerify { at: protected(cdb)?, check: check(cdb)? }),
            0x2f | 0xaf | 0x8f => Ok(Kind::Verify { at: protected(cdb)?, check: check(cdb)? }),
            0x34 | 0x90 => Ok(Kind::Prefetch { at: range(cdb) }),
            0x35 | 0x91 => Ok(Kind::SynchronizeCache { at: range(cdb) }),
            0x41 | 0x93 => write_same(cdb),
            0x42 if b[1] & 0x01 != 0 => Err(Sense::cdb(1)),
            0x42 => Ok(Kind::Unmap { parameters: cdb.half(7) }),
            0x16 | 0x56 => whole_unit(cdb).map(|()| Kind::ReserveUnit),
            0x17 | 0x57 => whole_unit(cdb).map(|()| Kind::ReleaseUnit),
            0x5e if Reservations::reports(cdb.action()) => {
                Ok(Kind::ReserveIn { action: cdb.action(), allocation: cdb.half(7) })
            }
            0x5f if Order::is_known(cdb.action()) => {
                Ok(Kind::ReserveOut { action: cdb.action(), what: b[2], parameters: cdb.word(5) })
            }
            0x5e | 0x5f => Err(Sense::cdb(1)),
            0x83 if cdb.action() == 0x00 => Ok(Kind::ExtendedCopy { parameters: cdb.word(10) }),
            0x83 => Err(Sense::cdb(1)),
            0x84 => copy_results(cdb),
            0x89 => {
                protect(cdb)?;
                let at = Range { lba: cdb.long(2), blocks: u32::from(b[13]) };
                Ok(Kind::CompareAndWrite { at, fua: b[1] & 0x08 != 0 })
            }
            0x8b => {
                let (at, fua) = medium(cdb)?;
                Ok(Kind::OrWrite { at, fua })
            }
            0x9c => write_atomic(cdb),
            _ => Kind::parse_other(cdb),
        }
    }

    fn parse_other(cdb: &Cdb) -> Result<Kind, Sense> {
        let b = &cdb.0;
        match b[0] {
            0x00 => Ok(Kind::TestUnitReady),
            0x03 => Ok(Kind::RequestSense { descriptor: b[1] & 1 != 0, allocation: u32::from(b[4]) }),
            0x12 => inquiry(cdb),
            0x15 | 0x55 => mode_select(cdb),
            0x1a | 0x5a => Ok(mode_sense(cdb)),
            0x1b => start_stop(cdb),
            0x1e => Ok(Kind::PreventAllow),
            0x25 => read_capacity_10(cdb),
            0x37 => Ok(Kind::ReadDefects { twelve: false, flags: b[2] & 0x1f, allocation: cdb.half(7) }),
            0xb7 => Ok(Kind::ReadDefects { twelve: true, flags: b[1] & 0x1f, allocation: cdb.word(6) }),
            0xa0 => Ok(Kind::ReportLuns { select: b[2], allocation: cdb.word(6) }),
            0x9e if cdb.action() == 0x10 => Ok(Kind::ReadCapacity16 { allocation: cdb.word(10) }),
            0x9e if cdb.action() == 0x12 => {
                Ok(Kind::GetLbaStatus { lba: cdb.long(2), allocation: cdb.word(10) })
            }
            0xa3 => maintenance_in(cdb),
            0x9e => Err(Sense::cdb(1)),
            _ => Err(Sense::NO_SUCH_OPCODE),
        }
    }

    /// May it be served while this path does not serve data (SPC-4 5.15.2.4.4)?
    pub(crate) fn serves_on_any_path(&self) -> bool {
        matches!(
            self,
            Kind::Inquiry { .. }
                | Kind::RequestSense { .. }
                | Kind::ReportLuns { .. }
                | Kind::ReportPortGroups { .. }
                | Kind::ReportOpcodes { .. }
                | Kind::ReportTaskManagement { .. }
                | Kind::ModeSense { .. }
        )
    }

    /// Is it refused on a unit that this initiator may only read? So is keeping those out who may write;
    /// what the initiator has it may give up. A copy is not: the unit that it is sent to may be the
    /// one it reads.
    pub(crate) fn changes_the_medium(&self) -> bool {
        matches!(
            self,
            Kind::Write { .. }
                | Kind::WriteVerify { .. }
                | Kind::WriteAtomic { .. }
                | Kind::CompareAndWrite { .. }
                | Kind::OrWrite { .. }
                | Kind::Unmap { .. }
                | Kind::WriteSame { .. }
                | Kind::ReserveUnit
                | Kind::ReserveOut { action: 1 | 3..=5 | 7, .. }
        )
    }

    /// What it wants of the unit, for reservations to say whether it may (SPC-4 table 65, SBC-3 table 13).
    pub(crate) fn need(&self) -> Need {
        match self {
            Kind::RequestSense { .. }
            | Kind::Inquiry { .. }
            | Kind::ReadCapacity10
            | Kind::ReadCapacity16 { .. }
            | Kind::ReportLuns { .. }
            | Kind::ReportPortGroups { .. }
            | Kind::ReportOpcodes { .. }
            | Kind::ReportTaskManagement { .. }
            | Kind::ReleaseUnit => Need::Nothing,
            Kind::TestUnitReady
            | Kind::StartStop { start: true }
            | Kind::PreventAllow
            | Kind::ReserveUnit
            | Kind::ReserveIn { .. }
            | Kind::ReserveOut { .. } => Need::Use,
            Kind::ModeSense { .. }
            | Kind::GetLbaStatus { .. }
            | Kind::ReadDefects { .. }
            | Kind::Read { .. }
            | Kind::Verify { .. }
            | Kind::Prefetch { .. } => Need::Read,
            Kind::ModeSelect { .. }
            | Kind::StartStop { start: false }
            | Kind::Write { .. }
            | Kind::WriteVerify { .. }
            | Kind::WriteAtomic { .. }
            // What keeps readers out keeps writers out too.
            | Kind::CompareAndWrite { .. }
            | Kind::OrWrite { .. }
            | Kind::SynchronizeCache { .. }
            | Kind::Unmap { .. }
            | Kind::WriteSame { .. }
            | Kind::ExtendedCopy { .. }
            | Kind::CopyStatus { .. }
            | Kind::CopyParameters { .. }
            | Kind::CopyFailure { .. } => Need::Write,
        }
    }

    /// Must the initiator send exactly the parameters that the command takes? A block that is repeated over the
    /// medium is not guessed at.
    pub(crate) fn takes_exactly(&self) -> bool {
        matches!(self, Kind::WriteSame { .. })
    }

    /// Is it answered although a unit attention waits (SAM-5 5.14)?
    pub(crate) fn passes_attention(&self) -> bool {
        matches!(self, Kind::Inquiry { .. } | Kind::ReportLuns { .. } | Kind::RequestSense { .. })
    }
}

/// The range of READ and WRITE, and FUA. The six-byte forms have neither FUA nor protection.
fn medium(cdb: &Cdb) -> Result<(Range, bool), Sense> {
    let b = &cdb.0;
    if b[0] < 0x20 {
        let lba = cdb.word(0) & 0x1f_ffff;
        let blocks = if b[4] == 0 { 256 } else { u32::from(b[4]) };
        return Ok((Range { lba: u64::from(lba), blocks }, false));
    }
    Ok((protected(cdb)?, b[1] & 0x08 != 0))
}

fn protected(cdb: &Cdb) -> Result<Range, Sense> {
    protect(cdb)?;
    Ok(range(cdb))
}

/// No protection information is stored, so none can be checked.
fn protect(cdb: &Cdb) -> Result<(), Sense> {
    if cdb.0[1] & 0xe0 == 0 { Ok(()) } else { Err(Sense::cdb(1)) }
}

/// Address and length by the size of the CDB, which the opcode's group gives (SPC-4 4.3.1).
fn range(cdb: &Cdb) -> Range {
    match cdb.0[0] >> 5 {
        1 | 2 => Range { lba: u64::from(cdb.word(2)), blocks: cdb.half(7) },
        5 => Range { lba: u64::from(cdb.word(2)), blocks: cdb.word(6) },
        _ => Range { lba: cdb.long(2), blocks: cdb.word(10) },
    }
}

fn check(cdb: &Cdb) -> Result<ByteCheck, Sense> {
    match cdb.0[1] >> 1 & 3 {
        0 => Ok(ByteCheck::Medium),
        1 => Ok(ByteCheck::Data),
        _ => Err(Sense::cdb(1)),
    }
}

fn write_same(cdb: &Cdb) -> Result<Kind, Sense> {
    protect(cdb)?;
    let flags = cdb.0[1];
    let no_data = cdb.0[0] == 0x93 && flags & 0x01 != 0;
    let at = range(cdb);
    if flags & 0x10 != 0 {
        return Err(Sense::cdb(1));
    }
    if at.blocks == 0 {
        return Err(Sense::cdb(if cdb.0[0] == 0x93 { 10 } else { 7 }));
    }
    Ok(Kind::WriteSame { at, unmap: flags & 0x08 != 0, no_data })
}

/// Third parties and parts of a unit are obsolete since SPC-3.
fn whole_unit(cdb: &Cdb) -> Result<(), Sense> {
    if cdb.0[1] & 0x1f == 0 { Ok(()) } else { Err(Sense::cdb(1)) }
}

/// No more than one block is written at a time, so there is no atomic boundary (SBC-4 4.29.1).
fn write_atomic(cdb: &Cdb) -> Result<Kind, Sense> {
    protect(cdb)?;
    if cdb.half(10) != 0 {
        return Err(Sense::cdb(10));
    }
    let at = Range { lba: cdb.long(2), blocks: cdb.half(12) };
    Ok(Kind::WriteAtomic { at, fua: cdb.0[1] & 0x08 != 0 })
}

/// RECEIVE COPY RESULTS by service action. No data is held for the host, so RECEIVE COPY DATA is not there.
fn copy_results(cdb: &Cdb) -> Result<Kind, Sense> {
    let (list, allocation) = (cdb.0[2], cdb.word(10));
    match cdb.action() {
        0x00 => Ok(Kind::CopyStatus { list, allocation }),
        0x03 => Ok(Kind::CopyParameters { allocation }),
        0x04 => Ok(Kind::CopyFailure { list, allocation }),
        _ => Err(Sense::cdb(1)),
    }
}

fn inquiry(cdb: &Cdb) -> Result<Kind, Sense> {
    let b = &cdb.0;
    let page = (b[1] & 1 != 0).then_some(b[2]);
    if b[1] & 0xfe != 0 {
        return Err(Sense::cdb(1));
    }
    if page.is_none() && b[2] != 0 {
        return Err(Sense::cdb(2));
    }
    Ok(Kind::Inquiry { page, allocation: cdb.half(3) })
}

fn mode_sense(cdb: &Cdb) -> Kind {
    let b = &cdb.0;
    let ten = b[0] == 0x5a;
    Kind::ModeSense {
        ten,
        no_descriptor: b[1] & 0x08 != 0,
        long: ten && b[1] & 0x10 != 0,
        control: b[2] >> 6,
        page: b[2] & 0x3f,
        subpage: b[3],
        allocation: if ten { cdb.half(7) } else { u32::from(b[4]) },
    }
}

/// Pages in the format of the standard (PF), and none of them saved (SP).
fn mode_select(cdb: &Cdb) -> Result<Kind, Sense> {
    let b = &cdb.0;
    let ten = b[0] == 0x55;
    if b[1] & 0x11 != 0x10 {
        return Err(Sense::cdb(1));
    }
    Ok(Kind::ModeSelect { ten, parameters: if ten { cdb.half(7) } else { u32::from(b[4]) } })
}

/// Only START_VALID is honoured: no power conditions, nothing to load or eject.
fn start_stop(cdb: &Cdb) -> Result<Kind, Sense> {
    let b = &cdb.0;
    if b[4] & 0xf0 != 0 || b[4] & 0x02 != 0 {
        return Err(Sense::cdb(4));
    }
    Ok(Kind::StartStop { start: b[4] & 0x01 != 0 })
}

fn read_capacity_10(cdb: &Cdb) -> Result<Kind, Sense> {
    if cdb.0[8] & 1 != 0 {
        return Err(Sense::cdb(8));
    }
    if cdb.word(2) != 0 {
        return Err(Sense::cdb(2));
    }
    Ok(Kind::ReadCapacity10)
}

fn maintenance_in(cdb: &Cdb) -> Result<Kind, Sense> {
    let b = &cdb.0;
    let allocation = cdb.word(6);
    match cdb.action() {
        0x0a => match b[1] >> 5 {
            0 => Ok(Kind::ReportPortGroups { extended: false, allocation }),
            1 => Ok(Kind::ReportPortGroups { extended: true, allocation }),
            _ => Err(Sense::cdb(1)),
        },
        0x0c => Ok(Kind::ReportOpcodes {
            timeouts: b[2] & 0x80 != 0,
            how: b[2] & 7,
            opcode: b[3],
            action: cdb.half(4) as u16,
            allocation,
        }),
        0x0d => Ok(Kind::ReportTaskManagement { extended: b[2] & 0x80 != 0, allocation }),
        _ => Err(Sense::cdb(1)),
    }
}
