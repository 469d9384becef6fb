//! PERSISTENT RESERVE OUT (SPC-4 6.16): CDB and parameter list.

use super::{Initiator, Type};
use crate::access::NAME_BYTES_MAX;
use crate::scsi::Sense;

/// The basic parameter list, and what is before the TransportID of REGISTER AND MOVE.
const BASIC_BYTES: usize = 24;
/// Where further TransportIDs begin.
const IDS_AT: usize = 28;
const ID_BYTES_MAX: usize = 4 + NAME_BYTES_MAX + 20;
/// Initiators that one REGISTER may name beside its own.
const IDS_MAX: usize = 32;
/// How long a parameter list may be.
pub(crate) const LIST_BYTES: std::ops::RangeInclusive<u32> =
    BASIC_BYTES as u32..=(IDS_AT + IDS_MAX * ID_BYTES_MAX) as u32;

/// Service actions.
mod action {
    pub(super) const REGISTER: u8 = 0;
    pub(super) const RESERVE: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const CLEAR: u8 = 3;
    pub(super) const PREEMPT: u8 = 4;
    pub(super) const PREEMPT_AND_ABORT: u8 = 5;
    pub(super) const REGISTER_AND_IGNORE: u8 = 6;
    pub(super) const REGISTER_AND_MOVE: u8 = 7;
}

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// The key that its sender says he has registered.
    pub(super) key: u64,
    pub(super) what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Registers, changes the key, or ends a registration.
    Register {
        key: u64,
        ignore: bool,
        others: Vec<Initiator>,
        all_ports: bool,
        aptpl: bool,
    },
    Reserve {
        kind: Type,
    },
    Release {
        kind: Type,
    },
    Clear,
    Preempt {
        key: u64,
        kind: Type,
        abort: bool,
    },
    Move {
        key: u64,
        to: Initiator,
        port: u16,
        unregister: bool,
        aptpl: bool,
    },
}

impl Order {
    /// Does the device server know the action (byte 1 of the CDB)?
    pub(crate) fn is_known(action: u8) -> bool {
        action <= action::REGISTER_AND_MOVE
    }

    /// The initiators that it names beside its sender, and where in the list.
    pub(crate) fn named(&self) -> Option<(&[Initiator], u16)> {
        match &self.what {
            What::Register { others, .. } => Some((others, IDS_AT as u16)),
            What::Move { to, .. } => Some((std::slice::from_ref(to), BASIC_BYTES as u16)),
            _ => None,
        }
    }

    /// `action` and `what` are bytes 1 and 2 of the CDB.
    pub(crate) fn parse(action: u8, what: u8, list: &[u8]) -> Result<Order, Sense> {
        if list.len() < BASIC_BYTES {
            return Err(Sense::PARAMETER_LENGTH);
        }
        let (key, other_key) = (long(list, 0), long(list, 8));
        let what = match action {
            action::REGISTER | action::REGISTER_AND_IGNORE => register(action, other_key, list)?,
            action::REGISTER_AND_MOVE => move_to(other_key, list)?,
            _ if list.len() != BASIC_BYTES => return Err(Sense::PARAMETER_LENGTH),
            action::RESERVE => What::Reserve { kind: kind(what)? },
            action::RELEASE => What::Release { kind: kind(what)? },
            action::CLEAR => What::Clear,
            action::PREEMPT => What::Preempt { key: other_key, kind: kind(what)?, abort: false },
            action::PREEMPT_AND_ABORT => What::Preempt { key: other_key, kind: kind(what)?, abort: true },
            _ => return Err(Sense::cdb(1)),
        };
        Ok(Order { key, what })
    }
}

fn long(list: &[u8], at: usize) -> u64 {
    list[at..at + 8].iter().fold(0, |long, byte| long << 8 | u64::from(*byte))
}

/// Scope and type; only the whole unit can be reserved.
fn kind(byte: u8) -> Result<Type, Sense> {
    let kind = if byte >> 4 == 0 { Type::of(byte & 0x0f) } else { None };
    kind.ok_or(Sense::cdb(2))
}

fn register(action: u8, key: u64, list: &[u8]) -> Result<What, Sense> {
    const SPEC_I_PT: u8 = 0x08;
    const ALL_TG_PT: u8 = 0x04;
    const APTPL: u8 = 0x01;
    let (flags, ignore) = (list[20], action == action::REGISTER_AND_IGNORE);
    let others = match flags & SPEC_I_PT {
        0 if list.len() != BASIC_BYTES => return Err(Sense::PARAMETER_LENGTH),
        0 => Vec::new(),
        _ if ignore => return Err(Sense::parameter(20)),
        _ => initiators(list)?,
    };
    Ok(What::Register { key, ignore, others, all_ports: flags & ALL_TG_PT != 0, aptpl: flags & APTPL != 0 })
}

/// Those that are to be registered beside the sender.
fn initiators(list: &[u8]) -> Result<Vec<Initiator>, Sense> {
    let length = list.get(BASIC_BYTES..IDS_AT).ok_or(Sense::PARAMETER_LENGTH)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let mut rest = &list[IDS_AT..];
    if length != rest.len() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let mut all = Vec::new();
    while !rest.is_empty() {
        let at = (list.len() - rest.len()) as u16;
        let (initiator, length) = Initiator::read(rest).ok_or(Sense::parameter(at))?;
        all.push(initiator);
        rest = &rest[length..];
    }
    Ok(all)
}

fn move_to(key: u64, list: &[u8]) -> Result<What, Sense> {
    const UNREGISTER: u8 = 0x02;
    const APTPL: u8 = 0x01;
    let (flags, port) = (list[17], u16::from_be_bytes([list[18], list[19]]));
    let length = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    if length != list.len() - BASIC_BYTES {
        return Err(Sense::PARAMETER_LENGTH);
    }
    match Initiator::read(&list[BASIC_BYTES..]) {
        Some((to, read)) if read == length => {
            let (unregister, aptpl) = (flags & UNREGISTER != 0, flags & APTPL != 0);
            Ok(What::Move { key, to, port, unregister, aptpl })
        }
        _ => Err(Sense::parameter(BASIC_BYTES as u16)),
    }
}
