//! What a target sends, as values, and the 48 bytes they become.

use super::{BHS_BYTES, NO_TAG};

/// The sequence numbers that nearly every PDU from the target carries.
#[derive(Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) stat_sn: u32,
    pub(crate) exp_cmd_sn: u32,
    pub(crate) max_cmd_sn: u32,
}

/// How the bytes that the command moves differ from those the initiator expected (RFC 7143 11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Residual {
    None,
    /// The command moves this many bytes fewer.
    Under(u32),
    /// The command would have moved this many bytes more.
    Over(u32),
}

impl Residual {
    /// From what the initiator expected and what the command asks for, both in bytes.
    pub(crate) fn between(expected: u32, asked: u64) -> Residual {
        let expected = u64::from(expected);
        match asked.cmp(&expected) {
            core::cmp::Ordering::Equal => Residual::None,
            core::cmp::Ordering::Less => Residual::Under((expected - asked) as u32),
            core::cmp::Ordering::Greater => {
                Residual::Over(u32::try_from(asked - expected).unwrap_or(u32::MAX))
            }
        }
    }

    fn emit(self, bytes: &mut [u8; BHS_BYTES]) {
        let (flag, count) = match self {
            Residual::None => return,
            Residual::Under(count) => (0x02, count),
            Residual::Over(count) => (0x04, count),
        };
        bytes[1] |= flag;
        put(bytes, 44, count);
    }
}

/// A PDU from the target, without its data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Response {
    NopIn {
        lun: [u8; 8],
        itt: u32,
        ttt: u32,
    },
    Scsi {
        itt: u32,
        status: u8,
        residual: Residual,
        data_in_pdus: u32,
    },
    DataIn {
        itt: u32,
        last: bool,
        status: Option<(u8, Residual)>,
        data_sn: u32,
        offset: u32,
    },
    R2t {
        lun: [u8; 8],
        itt: u32,
        ttt: u32,
        r2t_sn: u32,
        offset: u32,
        length: u32,
    },
    TaskManagement {
        itt: u32,
        response: u8,
    },
    /// `flags` has the transit bit and both stages; `status` is class and detail.
    Login {
        itt: u32,
        flags: u8,
        isid: [u8; 6],
        tsih: u16,
        status: u16,
    },
    /// `flags` has F, or C if the text is cut in two.
    Text {
        itt: u32,
        ttt: u32,
        flags: u8,
        lun: [u8; 8],
    },
    Logout {
        itt: u32,
        response: u8,
    },
    /// The target will close the connection (event 2: drop this connection).
    Dropping {
        cid: u16,
    },
    /// The initiator is to log out within so many seconds (event 1).
    LogoutRequested {
        seconds: u16,
    },
    Reject {
        reason: u8,
    },
}

impl Response {
    /// Does it use up a StatSN?
    pub(crate) fn counts(&self) -> bool {
        match self {
            Response::R2t { .. } => false,
            Response::DataIn { status, .. } => status.is_some(),
            Response::NopIn { itt, .. } => *itt != NO_TAG,
            _ => true,
        }
    }

    /// The header for `data` bytes of data segment.
    pub(crate) fn emit(&self, numbers: Numbers, data: usize) -> [u8; BHS_BYTES] {
        let mut b = [0; BHS_BYTES];
        put(&mut b, 24, numbers.stat_sn);
        put(&mut b, 28, numbers.exp_cmd_sn);
        put(&mut b, 32, numbers.max_cmd_sn);
        self.body(&mut b);
        let length = (data as u32).to_be_bytes();
        b[5..8].copy_from_slice(&length[1..]);
        b
    }

    fn body(&self, b: &mut [u8; BHS_BYTES]) {
        match *self {
            Response::NopIn { lun, itt, ttt } => {
                start(b, 0x20, 0x80, itt);
                b[8..16].copy_from_slice(&lun);
                put(b, 20, ttt);
            }
            Response::Scsi { itt, status, residual, data_in_pdus } => {
                start(b, 0x21, 0x80, itt);
                b[3] = status;
                put(b, 36, data_in_pdus);
                residual.emit(b);
            }
            Response::DataIn { itt, last, status, data_sn, offset } => {
                data_in(b, itt, last, status, data_sn);
                put(b, 40, offset);
            }
            Response::R2t { lun, itt, ttt, r2t_sn, offset, length } => {
                start(b, 0x31, 0x80, itt);
                b[8..16].copy_from_slice(&lun);
                put(b, 20, ttt);
                put(b, 36, r2t_sn);
                put(b, 40, offset);
                put(b, 44, length);
            }
            Response::TaskManagement { itt, response } => {
                start(b, 0x22, 0x80, itt);
                b[2] = response;
            }
            Response::Login { itt, flags, isid, tsih, status } => {
                start(b, 0x23, flags, itt);
                b[8..14].copy_from_slice(&isid);
                b[14..16].copy_from_slice(&tsih.to_be_bytes());
                b[36..38].copy_from_slice(&status.to_be_bytes());
            }
            Response::Text { itt, ttt, flags, lun } => {
                start(b, 0x24, flags, itt);
                b[8..16].copy_from_slice(&lun);
                put(b, 20, ttt);
            }
            Response::Logout { itt, response } => {
                start(b, 0x26, 0x80, itt);
                b[2] = response;
            }
            Response::Dropping { cid } => asynchronous(b, 2, [cid, 0, 0]),
            Response::LogoutRequested { seconds } => asynchronous(b, 1, [0, 0, seconds]),
            Response::Reject { reason } => {
                start(b, 0x3f, 0x80, NO_TAG);
                b[2] = reason;
            }
        }
    }
}

fn data_in(b: &mut [u8; BHS_BYTES], itt: u32, last: bool, status: Option<(u8, Residual)>, data_sn: u32) {
    start(b, 0x25, if last { 0x80 } else { 0 }, itt);
    put(b, 20, NO_TAG);
    put(b, 36, data_sn);
    match status {
        Some((status, residual)) => {
            b[1] |= 0x01;
            b[3] = status;
            residual.emit(b);
        }
        None => put(b, 24, 0),
    }
}

/// An asynchronous message (RFC 7143 11.9).
fn asynchronous(b: &mut [u8; BHS_BYTES], event: u8, parameters: [u16; 3]) {
    start(b, 0x32, 0x80, NO_TAG);
    b[36] = event;
    for (field, parameter) in b[38..44].chunks_exact_mut(2).zip(parameters) {
        field.copy_from_slice(&parameter.to_be_bytes());
    }
}

fn start(b: &mut [u8; BHS_BYTES], opcode: u8, flags: u8, itt: u32) {
    b[0] = opcode;
    b[1] = flags;
    put(b, 16, itt);
}

fn put(b: &mut [u8; BHS_BYTES], at: usize, word: u32) {
    let field = b.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    *field.expect("a constant of the format below 45") = word.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_are_exact() {
        assert_eq!(Residual::between(512, 512), Residual::None);
        assert_eq!(Residual::between(10_000, 512), Residual::Under(9_488));
        assert_eq!(Residual::between(200, 512), Residual::Over(312));
    }

    #[test]
    fn a_data_in_without_status_uses_no_stat_sn() {
        let pdu = Response::DataIn { itt: 7, last: false, status: None, data_sn: 3, offset: 4096 };
        assert!(!pdu.counts());
        let bytes = pdu.emit(Numbers { stat_sn: 9, exp_cmd_sn: 1, max_cmd_sn: 2 }, 0x01_02_03);
        assert_eq!(bytes[0], 0x25);
        assert_eq!(bytes[5..8], [1, 2, 3]);
        assert_eq!(bytes[24..28], [0; 4]);
        assert_eq!(bytes[40..44], 4096u32.to_be_bytes());
    }

    #[test]
    fn an_overflow_sets_its_flag() {
        let pdu = Response::Scsi { itt: 7, status: 0, residual: Residual::Over(312), data_in_pdus: 0 };
        let bytes = pdu.emit(Numbers::default(), 0);
        assert_eq!((bytes[1], &bytes[44..48]), (0x84, &312u32.to_be_bytes()[..]));
    }
}
