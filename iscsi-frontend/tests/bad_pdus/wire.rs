//! An initiator that says what it likes: PDUs whose every field can be wrong, and a socket that reports what comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::random::Random;

pub(crate) const TARGET: &str = "iqn.2026-01.example:san";
pub(crate) const NO_TAG: u32 = u32::MAX;
/// A target that is silent for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A PDU in the making. Its lengths are right unless they are set afterwards.
#[derive(Clone)]
pub(crate) struct Pdu {
    head: [u8; 48],
    segments: Vec<u8>,
    data: Vec<u8>,
    spoilt: Spoilt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoilt {
    Nothing,
    HeaderDigest,
    DataDigest,
}

impl Pdu {
    pub(crate) fn new(opcode: u8, flags: u8) -> Pdu {
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[opcode, flags]);
        Pdu { head, segments: Vec::new(), data: Vec::new(), spoilt: Spoilt::Nothing }
    }

    pub(crate) fn byte(mut self, at: usize, byte: u8) -> Pdu {
        self.head[at] = byte;
        self
    }

    pub(crate) fn word(mut self, at: usize, word: u32) -> Pdu {
        self.head[at..at + 4].copy_from_slice(&word.to_be_bytes());
        self
    }

    pub(crate) fn tag(self, itt: u32) -> Pdu {
        self.word(16, itt)
    }

    /// The whole header but for opcode and flags.
    pub(crate) fn noise(mut self, random: &mut Random) -> Pdu {
        self.head[2..].copy_from_slice(&random.bytes(46));
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Pdu {
        self.data = data.to_vec();
        self.claim(data.len() as u32)
    }

    /// Says that there are so many bytes of data.
    pub(crate) fn claim(mut self, bytes: u32) -> Pdu {
        self.head[5..8].copy_from_slice(&bytes.to_be_bytes()[1..]);
        self
    }

    /// Additional header segments, whole words.
    pub(crate) fn segments(mut self, segments: &[u8]) -> Pdu {
        self.segments = segments.to_vec();
        self.head[4] = (segments.len() / 4) as u8;
        self
    }

    pub(crate) fn spoil_header_digest(mut self) -> Pdu {
        self.spoilt = Spoilt::HeaderDigest;
        self
    }

    pub(crate) fn spoil_data_digest(mut self) -> Pdu {
        self.spoilt = Spoilt::DataDigest;
        self
    }

    pub(crate) fn bytes(&self, digests: bool) -> Vec<u8> {
        let spoil = |what| u32::from(self.spoilt == what);
        let mut all = [&self.head[..], &self.segments].concat();
        if digests {
            let digest = crc32c::crc32c(&all) ^ spoil(Spoilt::HeaderDigest);
            all.extend_from_slice(&digest.to_le_bytes());
        }
        if !self.data.is_empty() {
            let mut data = self.data.clone();
            data.resize((data.len() + 3) & !3, 0);
            all.extend_from_slice(&data);
            if digests {
                let digest = crc32c::crc32c(&data) ^ spoil(Spoilt::DataDigest);
                all.extend_from_slice(&digest.to_le_bytes());
            }
        }
        all
    }
}

/// A PDU from the target.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: [u8; 48],
    pub(crate) data: Vec<u8>,
}

impl Answer {
    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
    }
}

/// A connection to the target.
pub(crate) struct Peer {
    stream: TcpStream,
    digests: bool,
    pub(crate) cmd_sn: u32,
    itt: u32,
}

impl Peer {
    pub(crate) fn connect(portal: SocketAddr) -> Peer {
        let stream = TcpStream::connect(portal).expect("the portal listens");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a socket");
        stream.set_write_timeout(Some(SILENCE_MAX)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Peer { stream, digests: false, cmd_sn: 1, itt: 1000 }
    }

    /// A session with these keys, or one of discovery.
    pub(crate) fn login(portal: SocketAddr, name: &str, keys: &str) -> Peer {
        let mut peer = Peer::connect(portal);
        let text = format!("InitiatorName={name}\0TargetName={TARGET}\0{keys}");
        peer.send(&Pdu::new(0x43, 0x87).word(24, 1).data(text.as_bytes()));
        let answer = peer.receive().expect("a login response");
        assert_eq!((answer.head[0], answer.word(36)), (0x23, 0), "{keys:?}");
        peer.digests = keys.contains("CRC32C");
        peer
    }

    /// A tag that is not in use.
    pub(crate) fn fresh_tag(&mut self) -> u32 {
        self.itt += 1;
        self.itt
    }

    /// The next SCSI command; flags 0xc0 reads, 0xa0 writes, without 0x80 more data follows by itself.
    pub(crate) fn command(&mut self, flags: u8, expected: u32, cdb: &[u8]) -> Pdu {
        let mut pdu = Pdu::new(0x01, flags).tag(self.fresh_tag()).word(20, expected).word(24, self.cmd_sn);
        pdu.head[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        pdu
    }

    /// A WRITE of so many blocks at a random place.
    pub(crate) fn write(&mut self, random: &mut Random, flags: u8, blocks: u8) -> Pdu {
        let mut cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
        cdb[4] = random.next() as u8;
        self.command(flags, u32::from(blocks) * 512, &cdb)
    }

    /// Sends a WRITE of so many blocks without data, and the target's request for it.
    pub(crate) fn asked_for_data(&mut self, random: &mut Random, blocks: u8) -> Asked {
        let write = self.write(random, 0xa0, blocks);
        self.send(&write);
        self.read_request()
    }

    /// The target's request for data that is due.
    pub(crate) fn read_request(&mut self) -> Asked {
        let answer = self.receive().expect("a request for data");
        assert_eq!(answer.head[0], 0x31, "{answer:?}");
        Asked { itt: answer.word(16), ttt: answer.word(20), offset: answer.word(40), bytes: answer.word(44) }
    }

    /// What cannot be sent is not missed: the target has closed, and that is looked at when reading.
    pub(crate) fn send(&mut self, pdu: &Pdu) {
        self.send_bytes(&pdu.bytes(self.digests));
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    /// Sends the beginning of a PDU, and nothing ever after.
    pub(crate) fn send_part(&mut self, pdu: &Pdu, bytes: usize) {
        let all = pdu.bytes(self.digests);
        self.send_bytes(&all[..bytes.min(all.len())]);
        self.say_no_more();
    }

    pub(crate) fn say_no_more(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// The next PDU, `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<Answer> {
        let mut head = [0; 48];
        self.read(&mut head)?;
        if self.digests {
            let mut digest = [0; 4];
            self.read(&mut digest)?;
            assert_eq!(digest, crc32c::crc32c(&head).to_le_bytes(), "the target's header digest");
        }
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut data = vec![0; (length + 3) & !3];
        self.read(&mut data)?;
        if self.digests && length > 0 {
            let mut digest = [0; 4];
            self.read(&mut digest)?;
            assert_eq!(digest, crc32c::crc32c(&data).to_le_bytes(), "the target's data digest");
        }
        data.truncate(length);
        Some(Answer { head, data })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the target hangs"),
            Err(_) => None,
        }
    }

    /// Is the next answer the echo of this ping? Then nothing was said before, and the session goes on.
    pub(crate) fn is_alive(&mut self) -> bool {
        let tag = self.fresh_tag();
        self.send(&Pdu::new(0x40, 0x80).tag(tag).word(20, NO_TAG).data(&tag.to_be_bytes()));
        let answer = self.receive();
        answer.is_some_and(|answer| {
            (answer.head[0], answer.word(16), &answer.data[..]) == (0x20, tag, &tag.to_be_bytes())
        })
    }
}

/// What the target asks for.
pub(crate) struct Asked {
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

impl Asked {
    /// The right answer: all of it in one PDU.
    pub(crate) fn answer(&self) -> Pdu {
        self.part(0x80, self.bytes)
    }

    /// So many bytes of it, the first.
    pub(crate) fn part(&self, flags: u8, bytes: u32) -> Pdu {
        let data = vec![0x3c; bytes as usize];
        Pdu::new(0x05, flags).tag(self.itt).word(20, self.ttt).word(40, self.offset).data(&data)
    }
}
