//! Wire format of iSCSI (RFC 7143 section 11): a checked view of the 48-byte header, responses as plain
//! values, and key=value text.
//!
//! A [`Header`] is a copy of 48 bytes; no accessor can fail. Lengths that it claims are claims: the session
//! checks them against the negotiated limits before it acts on them.

#![deny(clippy::indexing_slicing)] // a length from the wire must never be trusted to fit

mod response;
pub(crate) mod text;

pub(crate) use response::{Numbers, Residual, Response};

/// Bytes in a basic header segment (RFC 7143 11.2).
pub(crate) const BHS_BYTES: usize = 48;
/// The tag that means "none" (RFC 7143 11.2.1.8).
pub(crate) const NO_TAG: u32 = 0xffff_ffff;
/// Bytes of a digest.
pub(crate) const DIGEST_BYTES: usize = 4;

/// Opcodes that initiators send (RFC 7143 11.2.1.2).
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
}

/// Reasons of a Reject (RFC 7143 11.17.1).
pub(crate) mod reject {
    pub(crate) const DATA_DIGEST: u8 = 0x02;
    pub(crate) const PROTOCOL: u8 = 0x04;
    pub(crate) const UNSUPPORTED: u8 = 0x05;
    pub(crate) const TOO_MANY_IMMEDIATE: u8 = 0x06;
    pub(crate) const TASK_IN_PROGRESS: u8 = 0x07;
    pub(crate) const INVALID_FIELD: u8 = 0x09;
    /// No tag can be given for a long operation: out of resources.
    pub(crate) const LONG_OPERATION: u8 = 0x0a;
}

/// The header of a PDU from the initiator.
#[derive(Clone, Copy)]
pub(crate) struct Header(pub(crate) [u8; BHS_BYTES]);

impl Header {
    pub(crate) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(crate) fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// The opcode-specific flags; the top bit is F (or T).
    pub(crate) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(crate) fn is_final(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// Bytes of additional header segments: at most 1020.
    pub(crate) fn ahs_bytes(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of data, without padding: at most 2^24 - 1.
    pub(crate) fn data_bytes(&self) -> usize {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]]) as usize
    }

    pub(crate) fn lun(&self) -> [u8; 8] {
        let mut lun = [0; 8];
        lun.copy_from_slice(&self.0[8..16]);
        lun
    }

    /// Initiator task tag.
    pub(crate) fn itt(&self) -> u32 {
        self.word(16)
    }

    /// Target transfer tag, or the field of another name in its place.
    pub(crate) fn ttt(&self) -> u32 {
        self.word(20)
    }

    /// CmdSN, in the PDUs that have one.
    pub(crate) fn cmd_sn(&self) -> u32 {
        self.word(24)
    }

    /// The big-endian word at `at`, a constant of the format below 45.
    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.field(at))
    }

    pub(crate) fn half(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.field(at))
    }

    /// Zeros beyond the end.
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
}

/// Bytes to add to `length` to reach a multiple of four.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}
