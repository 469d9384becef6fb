//! A small initiator over a real socket: one command at a time, no digests.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The target's name in all tests.
pub(crate) const TARGET: &str = "iqn.2026-01.example:san";

/// A small initiator: one command at a time.
pub(crate) struct Initiator {
    pub(crate) stream: TcpStream,
    pub(crate) cmd_sn: u32,
}

impl Initiator {
    pub(crate) fn login(portal: SocketAddr, name: &str) -> Initiator {
        Initiator::login_on(TcpStream::connect(portal).expect("the portal listens"), name)
    }

    /// A login on a connection that is there.
    pub(crate) fn login_on(stream: TcpStream, name: &str) -> Initiator {
        let mut initiator = Initiator { stream, cmd_sn: 1 };
        let text = format!("InitiatorName={name}\0TargetName={TARGET}\0InitialR2T=No\0");
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x43, 0x87]);
        head[24..28].copy_from_slice(&1u32.to_be_bytes());
        initiator.send(head, text.as_bytes());
        let (head, _) = initiator.receive();
        assert_eq!((head[0], head[36], head[37]), (0x23, 0, 0));
        initiator
    }

    pub(crate) fn send(&mut self, mut head: [u8; 48], data: &[u8]) {
        head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(data);
        bytes.resize((bytes.len() + 3) & !3, 0);
        self.stream.write_all(&bytes).expect("connected");
    }

    pub(crate) fn receive(&mut self) -> ([u8; 48], Vec<u8>) {
        let mut head = [0; 48];
        self.stream.read_exact(&mut head).expect("an answer");
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut data = vec![0; (length + 3) & !3];
        self.stream.read_exact(&mut data).expect("its data");
        data.truncate(length);
        (head, data)
    }

    /// A command at LUN 0: its status, and the data that came.
    pub(crate) fn command(&mut self, flags: u8, expected: usize, cdb: &[u8], data: &[u8]) -> (u8, Vec<u8>) {
        let (status, data, _) = self.command_at(0, flags, expected, cdb, data);
        (status, data)
    }

    /// A command at a LUN below 256: its status, the data that came, and the sense data.
    pub(crate) fn command_at(
        &mut self,
        lun: u8,
        flags: u8,
        expected: usize,
        cdb: &[u8],
        data: &[u8],
    ) -> (u8, Vec<u8>, Vec<u8>) {
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x01, flags]);
        head[9] = lun;
        head[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        head[20..24].copy_from_slice(&(expected as u32).to_be_bytes());
        head[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        head[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(head, data);
        let (mut all, mut sense) = (Vec::new(), Vec::new());
        loop {
            let (head, data) = self.receive();
            match head[0] {
                0x25 => all.extend_from_slice(&data),
                0x21 => sense = data.get(2..).unwrap_or_default().to_vec(),
                other => panic!("opcode {other:#x}"),
            }
            if head[0] == 0x21 || head[1] & 1 != 0 {
                return (head[3], all, sense);
            }
        }
    }

    pub(crate) fn write(&mut self, lba: u32, data: &[u8]) -> u8 {
        let mut cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, (data.len() / 512) as u8, 0];
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        self.command(0xa0, data.len(), &cdb, data).0
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u8) -> Vec<u8> {
        let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        let (status, data) = self.command(0xc0, usize::from(blocks) * 512, &cdb, &[]);
        assert_eq!(status, 0);
        data
    }

    /// Did the target close the connection, with nothing or an asynchronous message before?
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty() || rest[0] == 0x32,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
