//! Which units a list of EXTENDED COPY names, among those that its host sees (SPC-4 5.17.7.4, 6.4.5.6, 6.4.6.1).
//!
//! Invariant: whatever a host sends, what it learns of a unit that it does not see is what it learns of one that is not
//! there: neither is found.

use std::fmt;
use std::sync::Arc;

use twinsan::guest::VirtualVolume;
use twinsan::ids::VolumeId;

use super::list::{self, Order};
use super::{SEGMENT_BLOCKS_MAX, THIS_UNIT, cscd_at};
use crate::scsi::sense::{AbortedCopy, Cause, Pointer};
use crate::scsi::{LOGICAL_BLOCK_BYTES, Sense, Unit};

/// Additional sense code and qualifier of COPY ABORTED.
pub(super) type Codes = (u8, u8);
const NOTHING_TO_ADD: Codes = (0x00, 0x00);
const UNREACHABLE_COPY_TARGET: Codes = (0x08, 0x04);
pub(super) const THIRD_PARTY_DEVICE_FAILURE: Codes = (0x0d, 0x01);
pub(super) const NOT_REACHABLE: Codes = (0x0d, 0x02);
const INCORRECT_DEVICE_TYPE: Codes = (0x0d, 0x03);
const INVALID_FIELD: Codes = (0x26, 0x00);

/// Where the fields of a segment descriptor are.
const SOURCE_AT: u16 = 4;
const DESTINATION_AT: u16 = 6;
const BLOCKS_AT: u16 = 10;
const FROM_AT: u16 = 12;
const TO_AT: u16 = 20;
/// And DISK BLOCK LENGTH of a CSCD descriptor.
const BLOCK_LENGTH_AT: u16 = 29;

/// Why a segment cannot be copied, or not to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Objection {
    codes: Codes,
    pointer: Pointer,
    cause: Option<Cause>,
}

impl Objection {
    pub(super) fn new(codes: Codes, pointer: Pointer) -> Objection {
        Objection { codes, pointer, cause: None }
    }

    /// What the unit would have told a host.
    pub(super) fn caused_by(self, cause: Cause) -> Objection {
        Objection { cause: Some(cause), ..self }
    }

    /// The destination may not be written by this host.
    fn protected(pointer: Pointer) -> Objection {
        let Sense { key, asc, ascq, .. } = Sense::WRITE_PROTECTED;
        let cause = Cause { destination: true, key, asc, ascq };
        Objection::new(THIRD_PARTY_DEVICE_FAILURE, pointer).caused_by(cause)
    }

    /// COPY ABORTED in segment `segment`.
    pub(super) fn sense(self, segment: u16) -> Sense {
        let copy = Some(AbortedCopy { segment, cause: self.cause });
        Sense { pointer: Some(self.pointer), copy, ..Sense::new(0x0a, self.codes.0, self.codes.1) }
    }
}

/// A unit that is read or written.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) volume: Arc<dyn VirtualVolume>,
    pub(super) id: VolumeId,
    naa: [u8; 16],
    /// What in the list named it.
    pub(super) named: Pointer,
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.id)
    }
}

/// Sectors to copy.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) source: Side,
    pub(super) destination: Side,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) count: u64,
}

/// The segments of an order that is sent to the unit at `own`, up to the first that cannot be copied, and why it cannot.
pub(super) fn segments(order: &Order, units: &[Unit], own: usize) -> (Vec<Segment>, Option<Sense>) {
    let finder = Finder { order, units, own };
    let mut found = Vec::with_capacity(order.segments.len());
    for (number, segment) in (0..).zip(&order.segments) {
        match finder.segment(segment) {
            Ok(segment) => found.push(segment),
            Err(objection) => return (found, Some(objection.sense(number))),
        }
    }
    (found, None)
}

/// Why these units do not let a segment be copied that others let.
pub(super) fn objection(segment: &Segment, units: &[Unit]) -> Option<Objection> {
    let Segment { source, destination, .. } = segment;
    let seen = |side: &Side, written| {
        choose(units.iter().filter(|unit| *unit.naa() == side.naa), written, side.named)
    };
    seen(source, false).err().or_else(|| seen(destination, true).err())
}

/// Of units that are one volume at several LUNs, one that may be used.
fn choose<'a>(
    units: impl Iterator<Item = &'a Unit> + Clone,
    written: bool,
    named: Pointer,
) -> Result<&'a Unit, Objection> {
    let any = units.clone().next().ok_or(Objection::new(NOT_REACHABLE, named))?;
    if !written {
        return Ok(any);
    }
    let mut writable = units.filter(|unit| !unit.is_read_only());
    writable.next().ok_or(Objection::protected(named))
}

struct Finder<'a> {
    order: &'a Order,
    units: &'a [Unit],
    own: usize,
}

impl Finder<'_> {
    fn segment(&self, segment: &list::Segment) -> Result<Segment, Objection> {
        let list::Segment { source, destination, blocks, from, to } = *segment;
        let source = self.side(source, SOURCE_AT, false)?;
        let destination = self.side(destination, DESTINATION_AT, true)?;
        let fault = |codes, at| Err(Objection::new(codes, Pointer::Segment(at)));
        if blocks > SEGMENT_BLOCKS_MAX {
            return fault(INVALID_FIELD, BLOCKS_AT);
        }
        let count = u64::from(blocks);
        let fits = |side: &Side, start: u64| {
            start.checked_add(count).is_some_and(|end| end <= side.volume.sectors())
        };
        if !fits(&source, from) {
            return fault(NOTHING_TO_ADD, FROM_AT);
        }
        if !fits(&destination, to) {
            return fault(NOTHING_TO_ADD, TO_AT);
        }
        Ok(Segment { source, destination, from, to, count })
    }

    /// The unit that a segment's field at `at` names by a number.
    fn side(&self, number: u16, at: u16, written: bool) -> Result<Side, Objection> {
        let field = Pointer::Segment(at);
        if number == THIS_UNIT {
            let unit = choose(self.units.get(self.own).into_iter(), written, field)?;
            return Ok(side(unit, field));
        }
        let Some(cscd) = self.order.cscds.get(usize::from(number)) else {
            return Err(Objection::new(UNREACHABLE_COPY_TARGET, field));
        };
        let place = cscd_at(number);
        let named = Pointer::List(place);
        if cscd.device_type != 0 {
            return Err(Objection::new(INCORRECT_DEVICE_TYPE, named));
        }
        if !matches!(cscd.block_bytes, 0 | LOGICAL_BLOCK_BYTES) {
            return Err(Objection::new(INVALID_FIELD, Pointer::List(place + BLOCK_LENGTH_AT)));
        }
        let is_meant = |unit: &&Unit| Some(*unit.naa()) == cscd.naa && !unit.volume.is_gone();
        let unit = choose(self.units.iter().filter(is_meant), written, named)?;
        Ok(side(unit, named))
    }
}

fn side(unit: &Unit, named: Pointer) -> Side {
    Side { volume: Arc::clone(&unit.volume), id: unit.volume_id(), naa: *unit.naa(), named }
}
