//! Initiators that keep what they should give back: connections, logins, silence. Over real sockets; after each attack an
//! honest session still works.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;

use std::io::{ErrorKind, Read, Write};
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

/// Longer than anything here takes, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until the target closes the connection; false if it does not.
fn closes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
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
    assert!(idle.iter_mut().all(closes));
    assert_eq!(honest.read(0, 8), [1; 4096]);
    server.stop();
}

#[test]
fn for_one_login_too_many_the_oldest_is_closed() {
    let (server, portal) = serve(|config| config.logins_max = 10);
    let honest: Vec<Initiator> =
        (0..4).map(|n| Initiator::login(portal, &format!("iqn.2026-01.example:host{n}"))).collect();
    let mut idle: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(portal).expect("accepted")).collect();
    let mut late = Initiator::login(portal, "iqn.2026-01.example:late");
    assert!(idle[..20].iter_mut().all(closes));
    let youngest = idle.pop().expect("there are thirty");
    let mut youngest = Initiator::login_on(youngest, "iqn.2026-01.example:youngest");
    assert_eq!(late.write(0, &[1; 512]), 0);
    assert_eq!(youngest.read(0, 1), [1; 512], "it was let finish");
    for mut each in honest {
        assert_eq!(each.read(0, 1), [1; 512], "a session is no login");
    }
    server.stop();
}

#[test]
fn a_login_is_not_cut_off_for_those_that_are_over() {
    let (server, portal) = serve(|config| config.logins_max = 10);
    let slow = TcpStream::connect(portal).expect("accepted");
    for n in 0..30 {
        drop(Initiator::login(portal, &format!("iqn.2026-01.example:host{n}")));
        drop(TcpStream::connect(portal).expect("accepted"));
        // It is seen to be closed when the next one gets in.
        drop(Initiator::login(portal, "iqn.2026-01.example:again"));
    }
    let mut slow = Initiator::login_on(slow, "iqn.2026-01.example:slow");
    assert_eq!(slow.write(0, &[1; 512]), 0);
    server.stop();
}

#[test]
fn connections_beyond_the_limit_are_refused_until_others_go() {
    let (server, portal) = serve(|config| config.connections_max = 2);
    let first = Initiator::login(portal, "iqn.2026-01.example:a");
    let _second = Initiator::login(portal, "iqn.2026-01.example:b");
    let mut third = TcpStream::connect(portal).expect("the kernel accepts");
    assert!(closes(&mut third));
    drop(first);
    let begun = Instant::now();
    while !is_let_in(portal) {
        assert!(begun.elapsed() < PATIENCE, "there is room again");
    }
    server.stop();
}

/// Is a login answered, rather than the connection closed?
fn is_let_in(portal: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(portal).expect("the kernel accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut login = [0; 48];
    login[..2].copy_from_slice(&[0x43, 0x40]);
    drop(stream.write_all(&login));
    stream.read_exact(&mut login).is_ok()
}

#[test]
fn a_silent_initiator_is_dropped() {
    let (server, portal) = serve(|config| config.keep_alive_time = Duration::from_millis(100));
    let mut silent = Initiator::login(portal, "iqn.2026-01.example:silent");
    assert!(closes(&mut silent.stream));
    server.stop();
}
