//! Initiators that mean harm, over real sockets. After each attack an honest session still works.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Pages of this process in memory, in bytes.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

/// How many sockets this process may open, within reason; both ends count.
fn sockets_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let files: usize = files.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(1024);
    (files.saturating_sub(400) / 2).min(8000)
}

/// Writes a second, one at a time.
fn rate(initiator: &mut Initiator) -> f64 {
    let begun = Instant::now();
    for round in 0..1000u32 {
        assert_eq!(initiator.write(round % 64 * 8, &[round as u8; 4096]), 0);
    }
    1000.0 / begun.elapsed().as_secs_f64()
}

/// As many logins as fit, each with as much text as a login may have and without an end.
#[test]
fn a_flood_of_half_open_logins_is_cheap_and_slows_nobody_down() {
    let (server, portal) = serve(|config| {
        config.reactors = 2;
        config.login_time = Duration::from_secs(600);
        config.keep_alive_time = Duration::from_secs(600);
    });
    // Measured in turns with a server that has peace, because other things on the machine come and go.
    let (calm, calm_portal) = serve(|config| config.reactors = 2);
    let [mut honest, mut undisturbed] =
        [portal, calm_portal].map(|portal| Initiator::login(portal, "iqn.2026-01.example:host"));
    let (count, before) = (sockets_max(), resident_bytes());
    let mut first = [0; 48 + 4096].to_vec();
    first[..8].copy_from_slice(&[0x43, 0x40, 0, 0, 0, 0, 0x10, 0]);
    let mut second = [0; 48 + 4095].to_vec();
    second[..8].copy_from_slice(&[0x43, 0x40, 0, 0, 0, 0, 0x10, 0]);
    let mut flood = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(portal).expect("accepted");
        stream.write_all(&first).expect("connected");
        stream.write_all(&second).expect("connected");
        flood.push(stream);
    }
    wait_until("all of it has been received", || server.memory_bytes() >= count * 8192);
    let each = resident_bytes().saturating_sub(before) / count;
    let rates: Vec<[f64; 2]> = (0..15).map(|_| [rate(&mut honest), rate(&mut undisturbed)]).collect();
    let best = |which: usize| rates.iter().map(|pair| pair[which]).fold(0.0, f64::max);
    let kept = best(0) / best(1);
    println!("{count} half-open logins: {each} bytes each, {:.0} % of the rate", kept * 100.0);
    assert!(each <= 16 << 10, "{each} bytes each");
    // On which core a thread happens to run makes three times more or less; a cost for each login would be far more.
    assert!(kept > 0.05, "{kept} of the rate");
    drop(flood);
    wait_until("all of it is forgotten", || server.memory_bytes() < 1 << 20);
    server.stop();
    calm.stop();
}

#[test]
fn for_one_login_too_many_the_oldest_is_closed() {
    let (server, portal) = serve(|config| config.logins_max = 10);
    let honest: Vec<Initiator> =
        (0..4).map(|n| Initiator::login(portal, &format!("iqn.2026-01.example:host{n}"))).collect();
    let mut idle: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(portal).expect("accepted")).collect();
    let mut late = Initiator::login(portal, "iqn.2026-01.example:late");
    wait_until("the oldest are closed", || idle[..20].iter_mut().all(is_closed));
    assert!(!is_closed(&mut idle[29]));
    assert_eq!(late.write(0, &[1; 512]), 0);
    for mut each in honest {
        assert_eq!(each.read(0, 1), [1; 512], "a session is no login");
    }
    server.stop();
}

/// Commands without end, more than the window, on several connections; another host has its answers all the same.
#[test]
fn a_flood_of_commands_holds_no_one_up() {
    let (server, portal) = serve(|config| config.memory_bytes_max = 64 << 20);
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for host in 0..4 {
            scope.spawn(move || {
                let mut flood = Initiator::login(portal, &format!("iqn.2026-01.example:flood{host}"));
                flood.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket");
                let mut pdus = Vec::new();
                for sn in 1..=1000u32 {
                    let mut head = [0; 48];
                    // Every third one is immediate.
                    head[..2].copy_from_slice(&[if sn % 3 == 0 { 0x41 } else { 0x01 }, 0xc0]);
                    head[16..20].copy_from_slice(&sn.to_be_bytes());
                    head[20..24].copy_from_slice(&(1u32 << 20).to_be_bytes());
                    head[24..28].copy_from_slice(&sn.to_be_bytes());
                    head[32] = 0x88;
                    head[32 + 12] = 0x08;
                    pdus.extend_from_slice(&head);
                }
                // It reads nothing, so it is stopped by the target sooner or later, and starts again.
                while !stop.load(Ordering::Relaxed) {
                    if flood.stream.write_all(&pdus).is_err() {
                        flood = Initiator::login(portal, &format!("iqn.2026-01.example:flood{host}"));
                        flood.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket");
                    }
                }
            });
        }
        let mut honest = Initiator::login(portal, "iqn.2026-01.example:host");
        for round in 0..200 {
            assert_eq!(honest.write(round, &[round as u8; 4096]), 0);
            assert_eq!(honest.read(round, 8), [round as u8; 4096]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_until("all of it is forgotten", || server.memory_bytes() < 1 << 20);
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
