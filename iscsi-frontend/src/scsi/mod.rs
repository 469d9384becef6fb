//! The SCSI device server (SPC-4, SBC-3), as values: a CDB in, a [`Plan`] out.
//!
//! Nothing here touches a socket or waits. What takes time is [`Work`]: requests of the volume, one after the
//! other, handed out by `step` and answered with `took`.
//!
//! Invariants: a reply's buffer is built by the reply, zero where nothing is said, and cut to the allocation
//! length; every length that a CDB names is checked before it means anything.

mod capacity;
mod cdb;
pub(crate) mod copy;
mod data;
mod identity;
mod inquiry;
mod mode;
mod opcodes;
mod ports;
pub(crate) mod reservations;
mod sense;
mod status;
mod unit;
mod unmap;
mod vpd;
mod work;

#[cfg(test)]
mod tests;

pub(crate) use cdb::{Cdb, Kind};
pub(crate) use identity::{Identity, Port};
use reservations::Change;
pub(crate) use reservations::{Initiator, Nexus};
pub(crate) use sense::{FixedSense, Sense};
pub(crate) use unit::{Attention, Unit, no_unit, plan_report_luns};
pub(crate) use work::Work;

/// SCSI status codes (SAM-5 5.3).
pub(crate) mod code {
    pub(crate) const GOOD: u8 = 0x00;
    pub(crate) const CHECK_CONDITION: u8 = 0x02;
    pub(crate) const BUSY: u8 = 0x08;
    pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;
    pub(crate) const TASK_SET_FULL: u8 = 0x28;
}

/// Bytes in a logical block.
pub(crate) const LOGICAL_BLOCK_BYTES: u32 = 512;

/// Where the CDB of COMPARE AND WRITE has its number of blocks.
pub(crate) const COMPARE_BLOCKS_BYTE: u8 = 13;

/// What a command comes to.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Answer with these bytes; they are cut to the allocation length already.
    Answer(Vec<u8>),
    /// Answer with GOOD and no data.
    Good,
    /// Answer with CHECK CONDITION.
    Fail(Sense),
    /// Ask the volume; `bytes` go to the initiator, the first at `head` bytes into a block.
    Fetch { work: Work, bytes: u32, head: u32 },
    /// Ask the volume; no data either way.
    Run(Work),
    /// Take `bytes` of data from the initiator into blocks, the first at `head` bytes into a block. Fewer than that are
    /// taken too, in whole logical blocks, unless they are to be `whole`.
    Store { work: Work, bytes: u32, head: u32, whole: bool },
    /// Take `bytes` of parameters from the initiator, then plan again with them.
    Parameters { kind: Kind, bytes: u32 },
    /// Answer with RESERVATION CONFLICT.
    Conflict,
    /// Keep what this makes of the reservations.
    Reserve(Box<Change>),
    /// Answer with TASK SET FULL: there is no room for its data.
    Full,
}

impl From<Sense> for Plan {
    fn from(sense: Sense) -> Plan {
        Plan::Fail(sense)
    }
}

/// A reply of at most `allocation` bytes.
fn answer(mut bytes: Vec<u8>, allocation: u32) -> Plan {
    bytes.truncate(allocation as usize);
    Plan::Answer(bytes)
}

/// ASCII, cut and filled with spaces to `N` bytes.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = if from.is_ascii_graphic() || from == b' ' { from } else { b'_' };
    }
    field
}
