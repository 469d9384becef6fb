//! Sense data (SPC-4 4.5): why a command failed, in the terms hosts act on.

use twinsan::guest::GuestError;

/// Sense key, additional code and qualifier, and what the fixed format has room for beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sense {
    pub(crate) key: u8,
    pub(crate) asc: u8,
    pub(crate) ascq: u8,
    /// The byte of the CDB at fault (SPC-4 4.5.2.4.2).
    cdb_byte: Option<u8>,
    /// The INFORMATION field, such as the offset of a miscompare.
    information: Option<u32>,
}

impl Sense {
    pub(crate) const NONE: Sense = Sense::new(0x00, 0x00, 0x00);
    pub(crate) const MEDIUM: Sense = Sense::new(0x03, 0x11, 0x00);
    pub(crate) const INTERNAL: Sense = Sense::new(0x04, 0x44, 0x00);
    pub(crate) const PARAMETER_LENGTH: Sense = Sense::new(0x05, 0x1a, 0x00);
    pub(crate) const NO_SUCH_OPCODE: Sense = Sense::new(0x05, 0x20, 0x00);
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
        Sense { key, asc, ascq, cdb_byte: None, information: None }
    }

    /// INVALID FIELD IN CDB, pointing at `byte`.
    pub(crate) const fn cdb(byte: u8) -> Sense {
        Sense { cdb_byte: Some(byte), ..Sense::FIELD_IN_CDB }
    }

    /// MISCOMPARE at `offset` bytes from the start of the data.
    pub(crate) const fn miscompare(offset: u32) -> Sense {
        Sense { information: Some(offset), ..Sense::MISCOMPARE }
    }

    /// Fixed format (SPC-4 4.5.3), what CHECK CONDITION carries with D_SENSE clear.
    pub(crate) fn fixed(&self) -> [u8; 18] {
        let mut b = [0; 18];
        b[0] = 0x70;
        b[2] = self.key;
        b[7] = 10;
        b[12] = self.asc;
        b[13] = self.ascq;
        if let Some(information) = self.information {
            b[0] |= 0x80;
            b[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some(byte) = self.cdb_byte {
            b[15] = 0xc0;
            b[17] = byte;
        }
        b
    }

    /// Descriptor format without descriptors (SPC-4 4.5.2), for REQUEST SENSE with DESC set.
    pub(crate) fn descriptor(&self) -> [u8; 8] {
        [0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0]
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
            _ => Sense::INTERNAL,
        }
    }
}
