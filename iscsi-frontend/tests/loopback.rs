//! The server over real sockets: portals that close and open, many connections, half-open logins.

#[path = "common/ram.rs"]
mod ram;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use twinsan_iscsi::{ANY_INITIATOR, Mapping, Server, TargetConfig};

const TARGET: &str = "iqn.2026-01.example:san";

fn serve(reactors: usize) -> Server {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into(), "[::1]:0".parse().expect("an address")];
    config.reactors = reactors;
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let mapping = Mapping { initiators: vec![ANY_INITIATOR.to_owned()], lun: 0, volume };
    Server::start(config, vec![mapping]).expect("portals on free ports")
}

/// A small initiator: one command at a time.
struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
}

impl Initiator {
    fn login(portal: SocketAddr, name: &str) -> Initiator {
        let stream = TcpStream::connect(portal).expect("the portal listens");
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

    fn send(&mut self, mut head: [u8; 48], data: &[u8]) {
        head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(data);
        bytes.resize((bytes.len() + 3) & !3, 0);
        self.stream.write_all(&bytes).expect("connected");
    }

    fn receive(&mut self) -> ([u8; 48], Vec<u8>) {
        let mut head = [0; 48];
        self.stream.read_exact(&mut head).expect("an answer");
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut data = vec![0; (length + 3) & !3];
        self.stream.read_exact(&mut data).expect("its data");
        data.truncate(length);
        (head, data)
    }

    fn command(&mut self, flags: u8, expected: usize, cdb: &[u8], data: &[u8]) -> (u8, Vec<u8>) {
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x01, flags]);
        head[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        head[20..24].copy_from_slice(&(expected as u32).to_be_bytes());
        head[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        head[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(head, data);
        let mut all = Vec::new();
        loop {
            let (head, data) = self.receive();
            match head[0] {
                0x25 => all.extend_from_slice(&data),
                0x21 => {}
                other => panic!("opcode {other:#x}"),
            }
            if head[0] == 0x21 || head[1] & 1 != 0 {
                return (head[3], all);
            }
        }
    }

    fn write(&mut self, lba: u32, data: &[u8]) -> u8 {
        let mut cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, (data.len() / 512) as u8, 0];
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        self.command(0xa0, data.len(), &cdb, data).0
    }

    fn read(&mut self, lba: u32, blocks: u8) -> Vec<u8> {
        let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        let (status, data) = self.command(0xc0, usize::from(blocks) * 512, &cdb, &[]);
        assert_eq!(status, 0);
        data
    }

    /// Did the target close the connection, with nothing or an asynchronous message before?
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty() || rest[0] == 0x32,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 31 + n / 253 + seed) as u8).collect()
}

#[test]
fn data_crosses_the_wire_unchanged_at_every_size_and_alignment() {
    let server = serve(1);
    for portal in server.local_addrs() {
        let mut initiator = Initiator::login(portal, "iqn.2026-01.example:host");
        for (lba, blocks) in [(0, 1), (1, 1), (7, 2), (3, 8), (8, 8), (5, 100), (16, 128), (1, 128)] {
            let data = pattern(lba as usize, blocks * 512);
            assert_eq!(initiator.write(lba, &data), 0);
            assert!(initiator.read(lba, blocks as u8) == data, "{blocks} blocks at {lba}");
        }
    }
    server.stop();
}

#[test]
fn many_sessions_on_many_reactors_do_not_mix() {
    let server = serve(3);
    let portal = server.local_addrs()[0];
    std::thread::scope(|scope| {
        for host in 0..12u32 {
            scope.spawn(move || {
                let mut initiator = Initiator::login(portal, &format!("iqn.2026-01.example:host{host}"));
                for round in 0..50 {
                    let data = pattern((host * 1000 + round) as usize, 9 * 512);
                    assert_eq!(initiator.write(host * 1000 + 3, &data), 0);
                    assert!(initiator.read(host * 1000 + 3, 9) == data);
                }
            });
        }
    });
}

#[test]
fn a_session_that_comes_again_replaces_the_old_one() {
    let server = serve(2);
    let portal = server.local_addrs()[0];
    let mut old = Initiator::login(portal, "iqn.2026-01.example:host");
    assert_eq!(old.write(0, &[7; 512]), 0);
    let mut new = Initiator::login(portal, "iqn.2026-01.example:host");
    assert!(old.is_closed());
    assert_eq!(new.read(0, 1), [7; 512]);
}

#[test]
fn closed_portals_refuse_and_open_ones_serve_again() {
    let server = serve(2);
    let portals = server.local_addrs();
    let mut initiator = Initiator::login(portals[0], "iqn.2026-01.example:host");
    assert_eq!(initiator.write(0, &[9; 512]), 0);
    server.close_portals();
    assert!(initiator.is_closed());
    assert!(TcpStream::connect(portals[0]).is_err());
    server.open_portals().expect("the ports are still free");
    assert_eq!(server.local_addrs(), portals);
    let mut initiator = Initiator::login(portals[0], "iqn.2026-01.example:host");
    assert_eq!(initiator.read(0, 1), [9; 512]);
    server.stop();
    assert!(initiator.is_closed());
}

#[test]
fn a_portal_in_use_is_named() {
    let server = serve(1);
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![server.local_addrs()[0]];
    let error = Server::start(config, Vec::new()).err().expect("the port is taken");
    assert!(error.to_string().contains(&server.local_addrs()[0].to_string()), "{error}");
}
