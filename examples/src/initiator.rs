//! A small iSCSI initiator (RFC 7143), for the demo's load: blocking, one command at a time on a session.
//!
//! It asks for no digests, sends what it may as immediate data and the rest as it is asked for. Whatever it does not
//! understand ends the session; the caller makes another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const HEADER_BYTES: usize = 48;
const NO_TAG: u32 = 0xffff_ffff;
/// The longest data segment that this initiator takes.
const SEGMENT_BYTES_MAX: usize = 256 << 10;
const CONNECT_BOUND: Duration = Duration::from_secs(2);
const ANSWER_BOUND: Duration = Duration::from_secs(15);

/// Opcodes (RFC 7143 11.2.1.2).
mod opcode {
    pub(super) const NOP_OUT: u8 = 0x00;
    pub(super) const COMMAND: u8 = 0x01;
    pub(super) const LOGIN: u8 = 0x03;
    pub(super) const DATA_OUT: u8 = 0x05;
    pub(super) const NOP_IN: u8 = 0x20;
    pub(super) const RESPONSE: u8 = 0x21;
    pub(super) const LOGIN_RESPONSE: u8 = 0x23;
    pub(super) const DATA_IN: u8 = 0x25;
    pub(super) const READY: u8 = 0x31;
    pub(super) const IMMEDIATE: u8 = 0x40;
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The session is gone: make another.
    #[error("the session failed: {0}")]
    Session(#[from] io::Error),
    /// The target refused: SCSI status, sense key, additional sense code and qualifier.
    #[error("status {status:02x}, sense {key:02x}/{code:02x}/{qualifier:02x}")]
    Refused { status: u8, key: u8, code: u8, qualifier: u8 },
}

fn broken(what: &str) -> Trouble {
    Trouble::Session(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// A PDU: its basic header and its data.
struct Pdu {
    header: [u8; HEADER_BYTES],
    data: Vec<u8>,
}

impl Pdu {
    fn new(opcode: u8, flags: u8) -> Pdu {
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (opcode, flags);
        Pdu { header, data: Vec::new() }
    }

    fn put(mut self, at: usize, value: u32) -> Pdu {
        self.header[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn put_bytes(mut self, at: usize, bytes: &[u8]) -> Pdu {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]])
    }
}

/// What a command moves.
enum Transfer<'a> {
    None,
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

/// A session with one connection.
pub(crate) struct Session {
    stream: TcpStream,
    command_number: u32,
    status_number: u32,
    tag: u32,
    /// The longest data segment that the target takes.
    segment_bytes: usize,
    /// How much data may go out unasked.
    first_burst: usize,
    immediate: bool,
}

impl Session {
    /// Logs in.
    pub(crate) fn login(
        portal: SocketAddr,
        target: &str,
        initiator: &str,
        isid: u32,
    ) -> Result<Session, Trouble> {
        let stream = TcpStream::connect_timeout(&portal, CONNECT_BOUND)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        let mut session = Session {
            stream,
            command_number: 1,
            status_number: 0,
            tag: 0,
            segment_bytes: 8192,
            first_burst: 64 << 10,
            immediate: true,
        };
        session.negotiate(target, initiator, isid)?;
        Ok(session)
    }

    fn negotiate(&mut self, target: &str, initiator: &str, isid: u32) -> Result<(), Trouble> {
        let keys = format!(
            "InitiatorName={initiator}\0TargetName={target}\0SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0\
             InitialR2T=Yes\0ImmediateData=Yes\0MaxRecvDataSegmentLength={SEGMENT_BYTES_MAX}\0\
             FirstBurstLength=262144\0MaxBurstLength=1048576\0MaxConnections=1\0ErrorRecoveryLevel=0\0"
        );
        // An ISID of the random format (RFC 7143 11.12.5).
        let isid = [0x80, 0, (isid >> 24) as u8, (isid >> 16) as u8, (isid >> 8) as u8, isid as u8];
        let mut text = keys.into_bytes();
        // The operational stage, and on to full feature at once.
        for _ in 0..4 {
            let mut pdu = Pdu::new(opcode::LOGIN | opcode::IMMEDIATE, 0x87).put_bytes(8, &isid);
            pdu = pdu.put(24, self.command_number).put(28, self.status_number);
            pdu.data = std::mem::take(&mut text);
            self.send(pdu)?;
            let answer = self.receive()?;
            if answer.header[0] != opcode::LOGIN_RESPONSE {
                return Err(broken("the answer to a login is none"));
            }
            if answer.header[36] != 0 {
                return Err(broken(&format!(
                    "login refused: {:02x}{:02x}",
                    answer.header[36], answer.header[37]
                )));
            }
            self.take_keys(&answer.data);
            if answer.header[1] & 0x83 == 0x83 {
                return Ok(());
            }
        }
        Err(broken("the login does not end"))
    }

    fn take_keys(&mut self, text: &[u8]) {
        for pair in String::from_utf8_lossy(text).split('\0') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            match (key, value.parse()) {
                ("MaxRecvDataSegmentLength", Ok(bytes)) => self.segment_bytes = bytes,
                ("FirstBurstLength", Ok(bytes)) => self.first_burst = bytes,
                ("ImmediateData", _) => self.immediate = value == "Yes",
                _ => {}
            }
        }
    }

    /// Reads whole 512-byte sectors.
    pub(crate) fn read(&mut self, lun: u8, sector: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let cdb = transfer_cdb(0x88, sector, into.len());
        self.command(lun, &cdb, Transfer::In(into))
    }

    /// Writes whole 512-byte sectors.
    pub(crate) fn write(&mut self, lun: u8, sector: u64, data: &[u8]) -> Result<(), Trouble> {
        let cdb = transfer_cdb(0x8a, sector, data.len());
        self.command(lun, &cdb, Transfer::Out(data))
    }

    /// SYNCHRONIZE CACHE of the whole unit.
    pub(crate) fn flush(&mut self, lun: u8) -> Result<(), Trouble> {
        let mut cdb = [0; 16];
        cdb[0] = 0x35;
        self.command(lun, &cdb, Transfer::None)
    }

    /// Carries out a command. A pending unit attention is taken note of, and the command given again.
    fn command(&mut self, lun: u8, cdb: &[u8; 16], mut transfer: Transfer<'_>) -> Result<(), Trouble> {
        for _ in 0..8 {
            match self.attempt(lun, cdb, &mut transfer) {
                Err(Trouble::Refused { key: 6, .. }) => {}
                outcome => return outcome,
            }
        }
        Err(broken("unit attentions without end"))
    }

    fn attempt(&mut self, lun: u8, cdb: &[u8; 16], transfer: &mut Transfer<'_>) -> Result<(), Trouble> {
        self.tag = if self.tag == NO_TAG - 1 { 1 } else { self.tag + 1 };
        let (direction, length) = match transfer {
            Transfer::None => (0, 0),
            Transfer::In(into) => (0x40, into.len()),
            Transfer::Out(data) => (0x20, data.len()),
        };
        // Final, simple task; what is not sent along is asked for.
        let mut pdu = Pdu::new(opcode::COMMAND, 0x81 | direction).put_bytes(9, &[lun]).put_bytes(32, cdb);
        pdu = pdu
            .put(16, self.tag)
            .put(20, length as u32)
            .put(24, self.command_number)
            .put(28, self.status_number);
        if let Transfer::Out(data) = transfer
            && self.immediate
        {
            pdu.data = data[..length.min(self.first_burst).min(self.segment_bytes)].to_vec();
        }
        self.command_number = self.command_number.wrapping_add(1);
        self.send(pdu)?;
        loop {
            let pdu = self.receive()?;
            match pdu.header[0] & 0x3f {
                opcode::NOP_IN => self.answer_nop(&pdu)?,
                opcode::READY => self.send_data(lun, &pdu, transfer)?,
                opcode::DATA_IN => {
                    take_data(&pdu, transfer)?;
                    if pdu.header[1] & 1 != 0 {
                        return outcome(pdu.header[3], &[]);
                    }
                }
                opcode::RESPONSE if pdu.header[2] == 0 => return outcome(pdu.header[3], &pdu.data),
                other => return Err(broken(&format!("the target sent PDU {other:02x}"))),
            }
        }
    }

    fn answer_nop(&mut self, ping: &Pdu) -> Result<(), Trouble> {
        if ping.word(20) == NO_TAG {
            return Ok(());
        }
        let pdu = Pdu::new(opcode::NOP_OUT | opcode::IMMEDIATE, 0x80).put_bytes(8, &ping.header[8..16]);
        let pdu = pdu
            .put(16, NO_TAG)
            .put(20, ping.word(20))
            .put(24, self.command_number)
            .put(28, self.status_number);
        self.send(pdu)
    }

    /// Sends what an R2T asks for (RFC 7143 11.8).
    fn send_data(&mut self, lun: u8, ready: &Pdu, transfer: &Transfer<'_>) -> Result<(), Trouble> {
        let Transfer::Out(data) = transfer else {
            return Err(broken("data asked for that there are none of"));
        };
        let (from, length) = (ready.word(40) as usize, ready.word(44) as usize);
        let wanted = data.get(from..from + length).ok_or_else(|| broken("data asked for beyond the end"))?;
        let pieces = wanted.chunks(self.segment_bytes);
        let last = pieces.len().saturating_sub(1);
        for (number, piece) in pieces.enumerate() {
            let flags = if number == last { 0x80 } else { 0 };
            let offset = from + number * self.segment_bytes;
            let mut pdu = Pdu::new(opcode::DATA_OUT, flags).put_bytes(9, &[lun]).put(16, self.tag);
            pdu = pdu
                .put(20, ready.word(20))
                .put(28, self.status_number)
                .put(36, number as u32)
                .put(40, offset as u32);
            pdu.data = piece.to_vec();
            self.send(pdu)?;
        }
        Ok(())
    }

    fn send(&mut self, mut pdu: Pdu) -> Result<(), Trouble> {
        let length = (pdu.data.len() as u32).to_be_bytes();
        pdu.header[5..8].copy_from_slice(&length[1..]);
        let mut bytes = pdu.header.to_vec();
        bytes.extend_from_slice(&pdu.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<Pdu, Trouble> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        if length > SEGMENT_BYTES_MAX || header[4] != 0 {
            return Err(broken("a PDU is longer than was agreed"));
        }
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(length);
        let pdu = Pdu { header, data };
        // A StatSN counts where there is a status: not in an R2T, nor in Data-In without one.
        let counts = match pdu.header[0] & 0x3f {
            opcode::READY => false,
            opcode::DATA_IN => pdu.header[1] & 1 != 0,
            opcode::NOP_IN => pdu.word(16) != NO_TAG,
            _ => true,
        };
        if counts {
            self.status_number = pdu.word(24).wrapping_add(1);
        }
        Ok(pdu)
    }
}

/// READ(16) or WRITE(16), SBC-3 5.11 and 5.34.
fn transfer_cdb(operation: u8, sector: u64, bytes: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[2..10].copy_from_slice(&sector.to_be_bytes());
    cdb[10..14].copy_from_slice(&((bytes / 512) as u32).to_be_bytes());
    cdb
}

fn take_data(pdu: &Pdu, transfer: &mut Transfer<'_>) -> Result<(), Trouble> {
    let Transfer::In(into) = transfer else { return Err(broken("data that nobody asked for")) };
    let from = pdu.word(40) as usize;
    let place = into.get_mut(from..from + pdu.data.len()).ok_or_else(|| broken("data beyond the end"))?;
    place.copy_from_slice(&pdu.data);
    Ok(())
}

/// The outcome that a SCSI status and fixed-format sense data tell.
fn outcome(status: u8, data: &[u8]) -> Result<(), Trouble> {
    if status == 0 {
        return Ok(());
    }
    // Two bytes of length come before the sense data (RFC 7143 11.4.7.2).
    let byte = |at: usize| data.get(2 + at).copied().unwrap_or_default();
    Err(Trouble::Refused { status, key: byte(2) & 0x0f, code: byte(12), qualifier: byte(13) })
}
