//! Sense data (SPC-4 4.5): why a command failed, in the terms hosts act on.

use smallvec::SmallVec;
use twinsan::guest::GuestError;

use super::code;

/// A response's sense data in the fixed format: at most a copy's, with that of the unit that failed it.
pub(crate) type FixedSense = SmallVec<[u8; 64]>;

const FIXED_BYTES: usize = 18;

/// The byte at fault (SPC-4 4.5.2.4.2, 4.5.2.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pointer {
    /// Of the CDB.
    Cdb(u8),
    /// Of the parameter list.
    List(u16),
    /// Of a segment descriptor in it.
    Segment(u16),
}

/// What failed a copy of its own accord: the unit that was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cause {
    pub(crate) destination: bool,
    pub(crate) key: u8,
    pub(crate) asc: u8,
    pub(crate) ascq: u8,
}

/// What COPY ABORTED has in the COMMAND-SPECIFIC INFORMATION field (SPC-4 5.17.7.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AbortedCopy {
    pub(crate) segment: u16,
    pub(crate) cause: Option<Cause>,
}

/// Sense key, additional code and qualifier, and what the fixed format has room for beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sense {
    pub(crate) key: u8,
    pub(crate) asc: u8,
    pub(crate) ascq: u8,
    pub(crate) pointer: Option<Pointer>,
    /// The INFORMATION field, such as the offset of a miscompare.
    pub(crate) information: Option<u32>,
    pub(crate) copy: Option<AbortedCopy>,
}

impl Sense {
    pub(crate) const NONE: Sense = Sense::new(0x00, 0x00, 0x00);
    pub(crate) const MEDIUM: Sense = Sense::new(0x03, 0x11, 0x00);
    pub(crate) const INTERNAL: Sense = Sense::new(0x04, 0x44, 0x00);
    pub(crate) const PARAMETER_LENGTH: Sense = Sense::new(0x05, 0x1a, 0x00);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub(crate) const NO_MORE_REGISTRATIONS: Sense = Sense::new(0x05, 0x55, 0x04);
    pub(crate) const NO_SUCH_OPCODE: Sense = Sense::new(0x05, 0x20, 0x00);
    /// OPERATION IN PROGRESS: the list identifier is taken.
    pub(crate) const LIST_IN_USE: Sense = Sense::new(0x05, 0x00, 0x16);
    pub(crate) const OUT_OF_RANGE: Sense = Sense::new(0x05, 0x21, 0x00);
    pub(crate) const FIELD_IN_CDB: Sense = Sense::new(0x05, 0x24, 0x00);
    pub(crate) const NO_SUCH_LUN: Sense = Sense::new(0x05, 0x25, 0x00);
    pub(crate) const FIELD_IN_PARAMETERS: Sense = Sense::new(0x05, 0x26, 0x00);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT: the expected length cuts a block in two.
    pub(crate) const INFORMATION_UNIT: Sense = Sense::new(0x05, 0x0e, 0x03);
    pub(crate) const NOT_SAVED: Sense = Sense::new(0x05, 0x39, 0x00);
    pub(crate) const WRITE_PROTECTED: Sense = Sense::new(0x07, 0x27, 0x00);
    pub(crate) const OUT_OF_SPACE: Sense = Sense::new(0x07, 0x27, 0x07);
    pub(crate) const TRANSITIONING: Sense = Sense::new(0x02, 0x04, 0x0a);
    pub(crate) const UNAVAILABLE: Sense = Sense::new(0x02, 0x04, 0x0c);
    pub(crate) const ABORTED: Sense = Sense::new(0x0b, 0x00, 0x06);
    /// PROTOCOL SERVICE CRC ERROR: a data digest did not match.
    pub(crate) const DATA_DIGEST: Sense = Sense::new(0x0b, 0x47, 0x05);
    /// DATA PHASE ERROR: data out of order or not where it was asked for.
    pub(crate) const DATA_PHASE: Sense = Sense::new(0x0b, 0x4b, 0x00);
    pub(crate) const MISCOMPARE: Sense = Sense::new(0x0e, 0x1d, 0x00);

    pub(crate) const fn new(key: u8, asc: u8, ascq: u8) -> Sense {
        Sense { key, asc, ascq, pointer: None, information: None, copy: None }
    }

    /// INVALID FIELD IN CDB, pointing at `byte`.
    pub(crate) const fn cdb(byte: u8) -> Sense {
        Sense { pointer: Some(Pointer::Cdb(byte)), ..Sense::FIELD_IN_CDB }
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at `byte`.
    pub(crate) const fn parameter(byte: u16) -> Sense {
        Sense { pointer: Some(Pointer::List(byte)), ..Sense::FIELD_IN_PARAMETERS }
    }

    /// MISCOMPARE at `offset` bytes from the start of the data.
    pub(crate) const fn miscompare(offset: u32) -> Sense {
        Sense { information: Some(offset), ..Sense::MISCOMPARE }
    }

    /// Fixed format (SPC-4 4.5.3), what CHECK CONDITION carries with D_SENSE clear.
    pub(crate) fn fixed(&self) -> FixedSense {
        let mut b = FixedSense::from_elem(0, FIXED_BYTES);
        b[0] = 0x70;
        b[2] = self.key;
        b[7] = FIXED_BYTES as u8 - 8;
        b[12] = self.asc;
        b[13] = self.ascq;
        if let Some(information) = self.information {
            b[0] |= 0x80;
            b[3..7].copy_from_slice(&information.to_be_bytes());
        }
        let (kind, at) = match self.pointer {
            None => (0, 0),
            Some(Pointer::Cdb(byte)) => (0xc0, u16::from(byte)),
            Some(Pointer::List(byte)) => (0x80, byte),
            Some(Pointer::Segment(byte)) => (0xa0, byte),
        };
        b[15] = kind;
        b[16..18].copy_from_slice(&at.to_be_bytes());
        if let Some(copy) = self.copy {
            copy.put(&mut b);
        }
        b
    }

    /// Descriptor format without descriptors (SPC-4 4.5.2), for REQUEST SENSE with DESC set.
    pub(crate) fn descriptor(&self) -> [u8; 8] {
        [0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0]
    }
}

impl AbortedCopy {
    /// Into sense data, behind which goes what the unit would have told.
    fn put(self, b: &mut FixedSense) {
        b[10..12].copy_from_slice(&self.segment.to_be_bytes());
        let Some(Cause { destination, key, asc, ascq }) = self.cause else { return };
        b[8 + usize::from(destination)] = FIXED_BYTES as u8;
        b.push(code::CHECK_CONDITION);
        b.extend_from_slice(&Sense::new(key, asc, ascq).fixed());
        b[7] = (b.len() - 8) as u8;
    }
}

impl From<GuestError> for Sense {
    fn from(error: GuestError) -> Sense {
        match error {
            GuestError::Unavailable => Sense::UNAVAILABLE,
            GuestError::Transitioning => Sense::TRANSITIONING,
            GuestError::OutOfSpace => Sense::OUT_OF_SPACE,
            GuestError::OutOfRange => Sense::OUT_OF_RANGE,
            GuestError::Invalid => Sense::FIELD_IN_CDB,
            GuestError::Medium => Sense::MEDIUM,
            GuestError::Aborted => Sense::ABORTED,
            GuestError::Gone => Sense::NO_SUCH_LUN,
            GuestError::ReadOnly => Sense::WRITE_PROTECTED,
            GuestError::Miscompare { offset } => Sense::miscompare(offset),
            // Initiators try again by themselves what is not ready or aborted, and would compare with what they wrote.
            GuestError::Uncertain => Sense::INTERNAL,
            _ => Sense::INTERNAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_unit_failed_tells_what_the_unit_told() {
        let copy = Some(AbortedCopy { segment: 3, cause: None });
        let plain = Sense { pointer: Some(Pointer::List(48)), copy, ..Sense::new(0x0a, 0x0d, 2) }.fixed();
        assert_eq!(plain.len(), 18);
        assert_eq!(plain[..], [0x70, 0, 10, 0, 0, 0, 0, 10, 0, 0, 0, 3, 0x0d, 2, 0, 0x80, 0, 48]);
        let cause = Some(Cause { destination: true, key: 7, asc: 0x27, ascq: 7 });
        let copy = Some(AbortedCopy { segment: 259, cause });
        let pointer = Some(Pointer::Segment(6));
        let sense = Sense { information: Some(5), pointer, copy, ..Sense::new(0x0a, 0x0d, 1) };
        let told = sense.fixed();
        assert_eq!(told[..18], [0xf0, 0, 10, 0, 0, 0, 5, 29, 0, 18, 1, 3, 0x0d, 1, 0, 0xa0, 0, 6]);
        assert_eq!((told.len(), told[18]), (37, 0x02));
        assert_eq!(told[19..], Sense::OUT_OF_SPACE.fixed()[..]);
    }
}
