//! Bad PDUs over real sockets, class by class: each is answered as RFC 7143 wants it, or the connection closed, and neither
//! the server nor a session beside it is any the worse for it.
//!
//! `TWINSAN_BAD_PDUS` says how many are sent; what is random about them follows from `TWINSAN_BAD_PDUS_SEED`.

#[path = "../common/initiator.rs"]
mod initiator;
#[path = "../common/memory.rs"]
mod memory;
#[path = "../common/ram.rs"]
mod ram;
#[path = "../common/random.rs"]
mod random;

mod class;
mod data;
mod logins;
mod requests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use class::Class;
use initiator::Initiator;
use memory::resident_bytes;
use random::Random;
use twinsan_iscsi::{Access, Host, Mapping, Server, TargetConfig};
use wire::{Peer, TARGET};

/// Sent if nobody asks for more.
const COUNT: u64 = 10_000;
/// Those who send.
const SENDERS: u64 = 2;
/// By which the process may grow after a quarter of them, in bytes: what the allocator keeps, not what is lost.
const GROWTH_BYTES_MAX: usize = 8 << 20;
/// A command of the session beside takes no longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(10);
const HONEST: &str = "iqn.2026-01.example:honest";

fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn classes() -> Vec<&'static Class> {
    [logins::CLASSES, requests::CLASSES, data::CLASSES].into_iter().flatten().collect()
}

/// The honest host and all others have a unit each, at the same LUN.
fn serve() -> (Server, SocketAddr) {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    config.reactors = 2;
    let volume = |id| Arc::new(ram::RamVolume::new(id, 1 << 17, config.pages.clone()));
    let hosts = vec![Host::new("honest", &[HONEST]), Host::new("others", &["*"])];
    let mappings = vec![Mapping::new("honest", 0, volume(1)), Mapping::new("others", 0, volume(2))];
    let server = Server::start(config, Access { hosts, mappings }).expect("a free port");
    let portal = server.local_addrs()[0];
    (server, portal)
}

/// Sends `count` bad PDUs, each class in its turn.
fn send(portal: SocketAddr, sender: u64, count: u64, sent: &AtomicU64) {
    let classes = classes();
    let mut random = Random(asked("TWINSAN_BAD_PDUS_SEED", 7) ^ sender << 32);
    // A session that goes on is used again by its class, which shows that it really does.
    let mut kept: BTreeMap<&str, Peer> = BTreeMap::new();
    for (number, class) in (0..count).zip(classes.iter().cycle()) {
        let name = format!("iqn.2026-01.example:evil-{sender}-{}", number % classes.len() as u64);
        if let Some(peer) = class.run(portal, &name, kept.remove(class.name), &mut random) {
            kept.insert(class.name, peer);
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes and reads until told to stop: commands done, and how long the longest took.
fn work(portal: SocketAddr, stop: &AtomicBool) -> (u64, Duration) {
    let mut honest = Initiator::login(portal, HONEST);
    honest.stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let (mut done, mut longest) = (0u64, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let (lba, fill) = ((done % 1024 * 8) as u32, done as u8);
        let begun = Instant::now();
        assert_eq!(honest.write(lba, &[fill; 4096]), 0);
        assert_eq!(honest.read(lba, 8), [fill; 4096]);
        longest = longest.max(begun.elapsed());
        done += 2;
    }
    (done, longest)
}

/// Ends the honest session however the senders end, lest their failure look like a hang.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn bad_pdus_are_answered_as_the_standard_wants_and_harm_nobody() {
    let (classes, count) = (classes(), asked("TWINSAN_BAD_PDUS", COUNT));
    let names: BTreeSet<&str> = classes.iter().map(|class| class.name).collect();
    assert!(names.len() == classes.len() && names.len() >= 40, "each class has a name of its own");
    let (server, portal) = serve();
    let (sent, stop) = (&AtomicU64::new(0), &AtomicBool::new(false));
    let begun = Instant::now();
    let half = |share: u64| {
        std::thread::scope(|scope| {
            let senders: Vec<_> =
                (0..SENDERS).map(|n| scope.spawn(move || send(portal, n, share / SENDERS, sent))).collect();
            senders.into_iter().for_each(|sender| sender.join().expect("as the standard wants it"));
        });
        resident_bytes()
    };
    let (growth, (done, longest)) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| work(portal, stop));
        let _end = StopAtEnd(stop);
        let warm = half(count / 4);
        let full = half(count - count / 4);
        stop.store(true, Ordering::Relaxed);
        (full.saturating_sub(warm), honest.join().expect("the session beside works on"))
    });
    let sent = sent.load(Ordering::Relaxed);
    let (seconds, kib) = (begun.elapsed().as_secs_f64(), growth >> 10);
    println!(
        "{sent} bad PDUs of {} classes in {seconds:.1} s: memory grew by {kib} KiB; beside them {done} commands, \
         the longest {} ms",
        classes.len(),
        longest.as_millis()
    );
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes");
    assert!(done >= 100 && longest < PATIENCE, "{done} commands, the longest took {longest:?}");
    // Closing waits until all connections are, so that what is held then is lost.
    server.close_portals();
    assert_eq!(server.memory_bytes(), 0, "nothing is left of any of them");
    server.stop();
}
