//! Initiators that mean harm, over real sockets. After each attack an honest session still works.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use initiator::{Initiator, TARGET};
use twinsan_iscsi::{Access, Server, TargetConfig};

fn serve(change: impl FnOnce(&mut TargetConfig)) -> (Server, SocketAddr) {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    change(&mut config);
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let access = Access::for_anyone([(0, volume as _)]);
    let server = Server::start(config, access).expect("a free port");
    let portal = server.local_addrs()[0];
    (server, portal)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[test]
fn half_open_logins_are_closed_in_time_and_disturb_nobody() {
    let (server, portal) = serve(|config| config.login_time = Duration::from_millis(300));
    let mut honest = Initiator::login(portal, "iqn.2026-01.example:host");
    let mut idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(portal).expect("accepted")).collect();
    for (number, stream) in idle.iter_mut().enumerate() {
        // Some send nothing, some a part of a header, some a login that never ends.
        let head = [0x43, 0x40, 0, 0, 0, 0, 0, 0];
        stream.write_all(&head[..number % 9]).expect("connected");
    }
    assert_eq!(honest.write(0, &[1; 4096]), 0);
    wait_until("all half-open logins are closed", || idle.iter_mut().all(is_closed));
    assert_eq!(honest.read(0, 8), [1; 4096]);
    server.stop();
}

#[test]
fn connections_beyond_the_limit_are_refused_until_others_go() {
    let (server, portal) = serve(|config| config.connections_max = 2);
    let first = Initiator::login(portal, "iqn.2026-01.example:a");
    let _second = Initiator::login(portal, "iqn.2026-01.example:b");
    let mut third = TcpStream::connect(portal).expect("the kernel accepts");
    wait_until("the third is closed", || is_closed(&mut third));
    drop(first);
    wait_until("there is room again", || {
        let mut stream = TcpStream::connect(portal).expect("the kernel accepts");
        !is_closed(&mut stream)
    });
    server.stop();
}

#[test]
fn a_silent_initiator_is_dropped() {
    let (server, portal) = serve(|config| config.keep_alive_time = Duration::from_millis(100));
    let mut silent = Initiator::login(portal, "iqn.2026-01.example:silent");
    wait_until("it is dropped", || is_closed(&mut silent.stream));
    server.stop();
}

#[test]
fn a_reader_that_never_reads_holds_no_one_up() {
    let (server, portal) = serve(|_| {});
    let mut slow = Initiator::login(portal, "iqn.2026-01.example:slow");
    for sn in 1..=100u32 {
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x01, 0xc0]);
        head[16..20].copy_from_slice(&sn.to_be_bytes());
        head[20..24].copy_from_slice(&(8u32 << 20).to_be_bytes());
        head[24..28].copy_from_slice(&sn.to_be_bytes());
        head[32] = 0x88;
        head[32 + 12] = 0x40;
        slow.send(head, &[]);
    }
    let mut honest = Initiator::login(portal, "iqn.2026-01.example:host");
    for round in 0..200 {
        assert_eq!(honest.write(round, &[round as u8; 4096]), 0);
        assert_eq!(honest.read(round, 8), [round as u8; 4096]);
    }
    server.stop();
}

/// PDUs whose every field is drawn at random, some after a proper login: classes by opcode and by what lies.
#[test]
fn bad_pdus_break_nothing() {
    const PDUS: usize = 600;
    let (server, portal) = serve(|config| config.reactors = 2);
    let mut honest = Initiator::login(portal, "iqn.2026-01.example:host");
    assert_eq!(honest.write(800, &[0x77; 4096]), 0);
    let mut state = 7;
    let mut hostile: Option<TcpStream> = None;
    for number in 0..PDUS {
        let draw = random(&mut state);
        let stream = hostile.get_or_insert_with(|| match draw & 3 {
            0 => TcpStream::connect(portal).expect("the portal listens"),
            _ => Initiator::login(portal, &format!("iqn.2026-01.example:evil{number}")).stream,
        });
        if stream.write_all(&bad_pdu(&mut state, number)).is_err() || is_closed(stream) {
            hostile = None;
        }
        if number % 100 == 0 {
            clear_attentions(&mut honest);
            assert_eq!(honest.read(800, 8), [0x77; 4096]);
        }
    }
    server.stop();
}

/// A hostile reset of the unit they share is told to the honest one.
fn clear_attentions(honest: &mut Initiator) {
    wait_until("the unit is ready", || honest.command(0x80, 0, &[0; 6], &[]).0 == 0);
}

fn bad_pdu(state: &mut u64, number: usize) -> Vec<u8> {
    const OPCODES: [u8; 11] = [0x00, 0x01, 0x41, 0x02, 0x42, 0x03, 0x43, 0x04, 0x05, 0x06, 0x10];
    let mut pdu: Vec<u8> = (0..48).map(|_| random(state) as u8).collect();
    pdu[0] = OPCODES[number % OPCODES.len()];
    pdu[4] = if random(state).is_multiple_of(4) { random(state) as u8 } else { 0 };
    pdu[5] = if random(state).is_multiple_of(16) { random(state) as u8 } else { 0 };
    pdu[6] = (random(state) % 4) as u8;
    if random(state).is_multiple_of(2) {
        pdu[8..16].fill(0);
        pdu[24..28].copy_from_slice(&1u32.to_be_bytes());
    }
    // Reads alone: an honest block is looked at afterwards, and a random write may well be a valid one.
    pdu[1] &= !0x20;
    let claimed = u32::from_be_bytes([0, pdu[5], pdu[6], pdu[7]]) as usize;
    let sent = if random(state).is_multiple_of(8) { claimed / 2 } else { (claimed + 3) & !3 };
    pdu.extend((0..sent.min(4096) + usize::from(pdu[4]) * 4).map(|at| (at * 7) as u8));
    pdu
}
