//! The server over real sockets: portals that close and open, many connections, half-open logins.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use initiator::{Initiator, TARGET};
use twinsan::guest::{Command, GuestResult, PathState, Sink, VirtualVolume, VolumeInfo};
use twinsan::ids::RequestId;
use twinsan_iscsi::{Access, Server, ServerError, TargetConfig};

fn serve(reactors: usize) -> Server {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into(), "[::1]:0".parse().expect("an address")];
    config.reactors = reactors;
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let access = Access::for_anyone([(0, volume as _)]);
    Server::start(config, access).expect("portals on free ports")
}

type Request = (Command, Arc<dyn Sink>, u64);

/// A volume whose requests finish on a thread of its own.
struct Elsewhere {
    inner: Arc<ram::RamVolume>,
    requests: mpsc::Sender<Request>,
}

impl Elsewhere {
    fn new(inner: Arc<ram::RamVolume>) -> Elsewhere {
        let (requests, work) = mpsc::channel::<Request>();
        let volume = Arc::clone(&inner);
        std::thread::spawn(move || {
            for (command, sink, token) in work {
                volume.submit(command, &sink, token);
            }
        });
        Elsewhere { inner, requests }
    }
}

impl VirtualVolume for Elsewhere {
    fn info(&self) -> VolumeInfo {
        self.inner.info()
    }

    fn path_state(&self) -> PathState {
        self.inner.path_state()
    }

    fn partner_path_state(&self) -> PathState {
        self.inner.partner_path_state()
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        self.requests.send((command, Arc::clone(sink), token)).expect("the thread lives as long as this");
        RequestId(token)
    }

    /// Behind everything submitted before, so that its completion comes first.
    fn abort(&self, _request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        struct Last(Arc<dyn Sink>);
        impl Sink for Last {
            fn complete(&self, token: u64, _result: GuestResult) {
                self.0.aborted(token);
            }
        }
        self.submit(Command::Flush, &(Arc::new(Last(Arc::clone(sink))) as Arc<dyn Sink>), token);
    }
}

#[test]
fn completions_from_another_thread_wake_the_reactor() {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    config.reactors = 2;
    let inner = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let volume = Arc::new(Elsewhere::new(inner));
    let access = Access::for_anyone([(0, volume as _)]);
    let server = Server::start(config, access).expect("a free port");
    let portal = server.local_addrs()[0];
    std::thread::scope(|scope| {
        for host in 0..4u32 {
            scope.spawn(move || {
                let mut initiator = Initiator::login(portal, &format!("iqn.2026-01.example:host{host}"));
                for round in 0..300 {
                    let data = pattern((host + round) as usize, 8 * 512);
                    assert_eq!(initiator.write(host * 64, &data), 0);
                    assert!(initiator.read(host * 64, 8) == data);
                }
            });
        }
    });
    let mut old = Initiator::login(portal, "iqn.2026-01.example:host");
    assert_eq!(old.write(0, &[3; 512]), 0);
    let mut new = Initiator::login(portal, "iqn.2026-01.example:host");
    assert_eq!(new.read(0, 1), [3; 512]);
    server.stop();
}

/// Is a connection refused, or closed at once? The portals may be open for a moment after an initiator was told to go.
fn refuses(portal: SocketAddr) -> bool {
    TcpStream::connect(portal).map_or(true, |stream| Initiator { stream, cmd_sn: 1 }.is_closed())
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
    let error = Server::start(config, Access::default()).err().expect("the port is taken");
    assert!(error.to_string().contains(&server.local_addrs()[0].to_string()), "{error}");
}

#[test]
fn a_planned_stop_asks_initiators_to_log_out_and_drops_those_that_stay() {
    let server = serve(2);
    let portals = server.local_addrs();
    let names = ["iqn.2026-01.example:polite", "iqn.2026-01.example:deaf"];
    let [mut polite, mut deaf] = names.map(|name| Initiator::login(portals[0], name));
    std::thread::scope(|scope| {
        scope.spawn(|| server.drain(Duration::from_secs(2)));
        let (head, _) = polite.receive();
        assert_eq!((head[0], head[36]), (0x32, 1), "a logout is requested");
        assert_eq!(polite.write(0, &[4; 512]), 0, "and until then all is served");
        assert!(refuses(portals[0]), "nobody comes in any more");
        let mut logout = [0; 48];
        logout[..2].copy_from_slice(&[0x46, 0x80]);
        polite.send(logout, &[]);
        assert_eq!(polite.receive().0[0], 0x26);
        assert!(polite.is_closed());
        assert!(deaf.is_closed());
    });
    // With nobody there it takes no time.
    let begun = Instant::now();
    server.drain(Duration::from_secs(600));
    assert!(begun.elapsed() < Duration::from_secs(60));
    server.open_portals().expect("the ports are still free");
    assert_eq!(Initiator::login(portals[0], names[0]).read(0, 1), [4; 512]);
    server.stop();
}

#[test]
fn any_address_of_both_families_can_be_a_portal_of_one_port() {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec!["0.0.0.0:0".parse().expect("an address")];
    let first = Server::start(config.clone(), Access::default()).expect("a free port");
    let port = first.local_addrs()[0].port();
    config.portals = vec![format!("[::]:{port}").parse().expect("an address")];
    let second = Server::start(config, Access::default()).expect("the other family's port is free");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(TcpStream::connect(("::1", port)).is_ok());
    drop((first, second));
}

/// A volume with a bug: it panics at one block. At another it never answers, and tells that a request came or was given up.
struct Cursed {
    inner: Arc<ram::RamVolume>,
    came: mpsc::Sender<()>,
    given_up: mpsc::Sender<()>,
    /// Giving up panics as well.
    twice: bool,
}

const CURSED_BLOCK: u64 = 13;
const SILENT_BLOCK: u64 = 14;
/// The id of no other request.
const SILENT: RequestId = RequestId(u64::MAX);

impl VirtualVolume for Cursed {
    fn info(&self) -> VolumeInfo {
        self.inner.info()
    }

    fn path_state(&self) -> PathState {
        self.inner.path_state()
    }

    fn partner_path_state(&self) -> PathState {
        self.inner.partner_path_state()
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        match &command {
            Command::Read { at } if at.start == CURSED_BLOCK => panic!("planted"),
            Command::Read { at } if at.start == SILENT_BLOCK => {
                self.came.send(()).expect("awaited");
                SILENT
            }
            _ => self.inner.submit(command, sink, token),
        }
    }

    fn abort(&self, request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        if request == SILENT {
            self.given_up.send(()).expect("awaited");
            assert!(!self.twice, "planted too");
        }
        self.inner.abort(request, sink, token);
    }
}

/// Hosts have another path, and take it if this one is cut off; one that is half alive would keep them waiting.
#[test]
fn a_panic_of_one_reactor_cuts_everyone_off_and_nobody_waits_for_it() {
    for unlucky in 0..2 {
        let mut config = TargetConfig::new(TARGET);
        config.portals = vec![([127, 0, 0, 1], 0).into()];
        config.reactors = 2;
        let (failed, failures) = mpsc::channel();
        config.failed = Arc::new(move || failed.send(()).expect("awaited"));
        let inner = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
        let ((came, arrivals), (given_up, abandoned)) = (mpsc::channel(), mpsc::channel());
        let volume = Arc::new(Cursed { inner, came, given_up, twice: unlucky == 1 });
        let access = Access::for_anyone([(0, volume as _)]);
        let server = Server::start(config, access).expect("a free port");
        let portal = server.local_addrs()[0];
        // They are dealt out to the reactors in turn.
        let mut all: Vec<Initiator> =
            (0..4).map(|n| Initiator::login(portal, &format!("iqn.2026-01.example:host{n}"))).collect();
        let read = |block: u64| {
            let mut read = [0; 48];
            read[..2].copy_from_slice(&[0x01, 0xc0]);
            read[20..28].copy_from_slice(&[0, 0, 2, 0, 0, 0, 0, 1]);
            (read[32], read[37], read[40]) = (0x28, block as u8, 1);
            read
        };
        let patience = Duration::from_secs(60);
        // One on each of the reactors.
        for silent in &mut all[2..] {
            silent.send(read(SILENT_BLOCK), &[]);
            arrivals.recv_timeout(patience).expect("it comes to the volume");
        }
        all[unlucky].send(read(CURSED_BLOCK), &[]);
        assert!(all.iter_mut().all(Initiator::is_closed));
        failures.recv_timeout(patience).expect("told");
        for _ in 0..2 {
            abandoned.recv_timeout(patience).expect("the dead one's are given up as the other's are");
        }
        assert!(refuses(portal), "nobody is left in the dark");
        assert!(matches!(server.open_portals(), Err(ServerError::Failed)));
        server.drain(Duration::from_secs(600));
        server.close_portals();
        server.stop();
    }
}
