//! What tests drive connections with: hand-made PDUs, and two hosts' mappings of two volumes.

use std::sync::Arc;

use super::drive::{Drive, HandVolume};
use crate::access::{Access, Host, Mapping};
use crate::target::{Target, TargetConfig};

pub(super) const TARGET: &str = "iqn.2026-01.example:san";
pub(super) const HOST: &str = "iqn.2026-01.example:host1";
pub(super) const OTHER: &str = "iqn.2026-01.example:host2";

/// A PDU from an initiator.
pub(super) struct Pdu {
    pub(super) head: [u8; 48],
    pub(super) data: Vec<u8>,
}

impl Pdu {
    pub(super) fn new(opcode: u8, flags: u8, itt: u32) -> Pdu {
        let mut head = [0; 48];
        head[0] = opcode;
        head[1] = flags;
        head[16..20].copy_from_slice(&itt.to_be_bytes());
        Pdu { head, data: Vec::new() }
    }

    pub(super) fn word(mut self, at: usize, word: u32) -> Pdu {
        self.head[at..at + 4].copy_from_slice(&word.to_be_bytes());
        self
    }

    pub(super) fn byte(mut self, at: usize, byte: u8) -> Pdu {
        self.head[at] = byte;
        self
    }

    pub(super) fn data(mut self, data: &[u8]) -> Pdu {
        self.data = data.to_vec();
        self.head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut all = self.head.to_vec();
        all.extend_from_slice(&self.data);
        all.resize((all.len() + 3) & !3, 0);
        all
    }
}

/// A PDU from the target.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Answer {
    pub(super) fn opcode(&self) -> u8 {
        self.head[0]
    }

    pub(super) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.head[at..at + 4].try_into().expect("four bytes"))
    }

    /// Status, key, code and qualifier of a SCSI response.
    pub(super) fn sense(&self) -> (u8, u8, u8, u8) {
        assert_eq!(self.opcode(), 0x21);
        match self.data.get(2..) {
            Some(sense) if sense.len() >= 18 => (self.head[3], sense[2] & 15, sense[12], sense[13]),
            _ => (self.head[3], 0, 0, 0),
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).replace('\0', "\n")
    }
}

/// Splits what the target sent, without digests.
pub(super) fn answers(bytes: &[u8]) -> Vec<Answer> {
    let mut rest = bytes;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(48);
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let (data, after) = after.split_at((length + 3) & !3);
        all.push(Answer { head: head.to_vec(), data: data[..length].to_vec() });
        rest = after;
    }
    all
}

pub(super) fn hosts() -> Vec<Host> {
    vec![Host::new("one", &[HOST]), Host::new("two", &[OTHER])]
}

pub(super) struct Bench {
    pub(super) drive: Drive,
    pub(super) volume: Arc<HandVolume>,
    /// At LUN 300 of host one.
    pub(super) second: Arc<HandVolume>,
    pub(super) cmd_sn: u32,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::configured(|_| ())
    }

    pub(super) fn configured(change: impl FnOnce(&mut TargetConfig)) -> Bench {
        let volume = HandVolume::new(1);
        let second = HandVolume::new(2);
        let mut config = TargetConfig::new(TARGET);
        config.partner_portals = vec!["10.0.0.2:3260".parse().expect("an address")];
        change(&mut config);
        let mappings = vec![
            Mapping::new("one", 0, Arc::clone(&volume) as _),
            Mapping::new("one", 300, Arc::clone(&second) as _),
            Mapping::new("two", 5, Arc::clone(&volume) as _),
        ];
        let target = Target::new(config, Access { hosts: hosts(), mappings }).expect("good");
        target.bound.lock().push("127.0.0.1:3260".parse().expect("an address"));
        Bench { drive: Drive::new(target), volume, second, cmd_sn: 1 }
    }

    pub(super) fn ask(&mut self, link: usize, pdu: &Pdu) -> Vec<Answer> {
        self.drive.feed(link, &pdu.bytes());
        answers(&self.drive.drain(link))
    }

    pub(super) fn login(&mut self, host: &str, isid: u8, keys: &str) -> (usize, Vec<Answer>) {
        let link = self.drive.connect();
        let text = format!("InitiatorName={host}\0TargetName={TARGET}\0{keys}");
        let pdu = Pdu::new(0x43, 0x87, 1).byte(13, isid).word(24, self.cmd_sn).data(text.as_bytes());
        let answers = self.ask(link, &pdu);
        (link, answers)
    }

    pub(super) fn set_access(&mut self, hosts: Vec<Host>, mappings: Vec<Mapping>) {
        self.drive.target().set_access(Access { hosts, mappings }).expect("good");
        self.drive.deliver();
    }

    pub(super) fn session(&mut self) -> usize {
        self.login(HOST, 1, "InitialR2T=No\0MaxRecvDataSegmentLength=65536\0").0
    }

    /// A SCSI command on LUN 0; flags 0xc0 reads, 0xa0 writes.
    pub(super) fn command(&mut self, flags: u8, itt: u32, expected: u32, cdb: &[u8]) -> Pdu {
        let mut pdu = Pdu::new(0x01, flags, itt).word(20, expected).word(24, self.cmd_sn);
        pdu.head[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        pdu
    }

    pub(super) fn read(&mut self, link: usize, itt: u32, lba: u8, blocks: u8) -> Vec<Answer> {
        let cdb = [0x28, 0, 0, 0, 0, lba, 0, 0, blocks, 0];
        let pdu = self.command(0xc0, itt, u32::from(blocks) * 512, &cdb);
        self.ask(link, &pdu)
    }

    pub(super) fn write(&mut self, link: usize, itt: u32, lba: u8, data: &[u8]) -> Vec<Answer> {
        let cdb = [0x2a, 0, 0, 0, 0, lba, 0, 0, (data.len() / 512) as u8, 0];
        let pdu = self.command(0xa0, itt, data.len() as u32, &cdb).data(data);
        self.ask(link, &pdu)
    }
}
