//! Very many half-open logins, readers that do not read, and commands without end: what they cost, and that a session in
//! use keeps its rate beside them.
//!
//! Rates are measured in turns with a server in the same process that has peace, a batch of commands at a time, because
//! other things on the machine come and go; they are printed, and fail only when far off what they should be: nine tenths.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/memory.rs"]
mod memory;
#[path = "common/ram.rs"]
mod ram;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use initiator::{Initiator, TARGET};
use memory::resident_bytes;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use twinsan_iscsi::{Access, Server, TargetConfig};

/// The tests of this file would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

const LOGINS: usize = 10_000;
/// Files that a process has open beside its sockets, and some.
const OTHER_FILES: usize = 300;
const LOGIN_TIME: Duration = Duration::from_secs(15);
/// What a busy machine may add: to the timer's tick, and to when the end is noticed.
const LATENESS: Duration = Duration::from_secs(3);
const LOGIN_BYTES_MAX: usize = 16 << 10;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tells the process that floods where to, by the portal's address.
const FLOOD: &str = "TWINSAN_TEST_FLOOD";
/// Tells the process that serves with few files that it is to.
const FEW_FILES: &str = "TWINSAN_TEST_FEW_FILES";
/// Beyond the noise of a machine that others use: what keeps nobody from his work keeps more than this.
const KEPT_MIN: f64 = 0.4;

fn serve() -> (Server, SocketAddr) {
    serve_on(2)
}

fn serve_on(reactors: usize) -> (Server, SocketAddr) {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    config.reactors = reactors;
    assert_eq!(config.login_time, LOGIN_TIME);
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let server = Server::start(config, Access::for_anyone([(0, volume as _)])).expect("a free port");
    let portal = server.local_addrs()[0];
    (server, portal)
}

/// Closing waits until all connections are, so that what is held then is lost.
fn forgets_everything(server: Server) {
    server.close_portals();
    assert_eq!(server.memory_bytes(), 0, "nothing is left of any of them");
    server.stop();
}

/// A batch of writes of 4 KiB, sent at once; how long until all are answered.
fn batch(initiator: &mut Initiator) -> Duration {
    const DEPTH: u32 = 32;
    let mut bytes = Vec::with_capacity(DEPTH as usize * (48 + 4096));
    for number in 0..DEPTH {
        let sn = initiator.cmd_sn.wrapping_add(number).to_be_bytes();
        let mut head = [0; 48];
        head[..8].copy_from_slice(&[0x01, 0xa0, 0, 0, 0, 0, 0x10, 0]);
        head[16..20].copy_from_slice(&sn);
        head[20..24].copy_from_slice(&4096u32.to_be_bytes());
        head[24..28].copy_from_slice(&sn);
        head[32] = 0x2a;
        head[37] = number as u8 * 8;
        head[40] = 8;
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&[number as u8; 4096]);
    }
    initiator.cmd_sn = initiator.cmd_sn.wrapping_add(DEPTH);
    let begun = Instant::now();
    initiator.stream.write_all(&bytes).expect("connected");
    for _ in 0..DEPTH {
        let (head, _) = initiator.receive();
        assert_eq!((head[0], head[3]), (0x21, 0));
    }
    begun.elapsed()
}

/// Which part of its rate a session at `portal` keeps, by the median of many batches.
fn kept(portal: SocketAddr) -> f64 {
    const BATCHES: usize = 601;
    let (calm, calm_portal) = serve();
    let mut sessions =
        [portal, calm_portal].map(|portal| Initiator::login(portal, "iqn.2026-01.example:host"));
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..BATCHES {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            times.push(batch(session));
        }
    }
    calm.stop();
    let [here, in_peace] = times.map(|mut times| {
        times.sort_unstable();
        times[BATCHES / 2].as_secs_f64()
    });
    in_peace / here
}

/// Lets this process, and those it starts, open so many files. A machine on which it may not skips, and says so loudly;
/// with `CI=true` that is a failure.
fn may_open(files: usize) -> bool {
    let files = files as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Only root may raise the hard limit as well.
    let raised = Rlimit { current: Some(files), maximum: maximum.map(|hard| hard.max(files)) };
    if current.is_none_or(|soft| soft >= files) || setrlimit(Resource::Nofile, raised).is_ok() {
        return true;
    }
    let what = format!("no more than {maximum:?} files may be open, and {files} are needed");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what}");
    // Past the capture of the test harness: nobody shall think that this ran.
    drop(writeln!(std::io::stderr(), "\n*** SKIPPED: {what}; raise `ulimit -Hn` ***\n"));
    false
}

/// Each login has as much text as a login may have, and no end. Both ends of the sockets would be too many files for one
/// process on many machines, so another one has the initiators' ends, and its memory does not count.
#[test]
fn ten_thousand_half_open_logins_are_cheap_slow_nobody_down_and_are_closed_in_time() {
    let _alone = ALONE.lock();
    if !may_open(LOGINS + OTHER_FILES) {
        return;
    }
    let (server, portal) = serve();
    let mut honest = Initiator::login(portal, "iqn.2026-01.example:other");
    let before = resident_bytes();
    let mut flood = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "flood_from_another_process", "--nocapture"])
        .env(FLOOD, portal.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test runs");
    let mut lines = BufReader::new(flood.stdout.take().expect("piped")).lines();
    let mut told = |what: &str| {
        let found = lines.find_map(|line| line.expect("text").strip_prefix(what).map(str::to_owned));
        found.unwrap_or_else(|| panic!("the flood ended before it said \"{what}\""))
    };
    let opening: f64 = told("opened in ").parse().expect("seconds");
    let begun = Instant::now();
    while server.memory_bytes() < LOGINS * 8192 {
        assert_eq!(honest.write(0, &[1; 512]), 0);
        let since_the_first = begun.elapsed().as_secs_f64() + opening;
        assert!(
            since_the_first < LOGIN_TIME.as_secs_f64(),
            "this machine is too slow or too busy for the test: the first logins are closed {LOGIN_TIME:?} after they \
             were opened, and {since_the_first:.1} s did not do to have all {LOGINS} open and received: opening them \
             took {opening:.1} s, and the server holds {} bytes",
            server.memory_bytes()
        );
    }
    let each = resident_bytes().saturating_sub(before) / LOGINS;
    let kept = kept(portal);
    let lasted = told("closed after ");
    let [shortest, longest] = [0, 1]
        .map(|at| lasted.split(' ').nth(at).and_then(|text| text.parse::<f64>().ok()).expect("seconds"));
    assert!(flood.wait().expect("it ends").success());
    println!(
        "{LOGINS} half-open logins within {opening:.1} s: {each} bytes each, {:.0} % of the rate kept, \
         closed after {shortest:.1} to {longest:.1} s",
        kept * 100.0
    );
    assert!(each <= LOGIN_BYTES_MAX, "{each} bytes each");
    assert!(kept > KEPT_MIN, "{kept} of the rate");
    let late = (LOGIN_TIME + LATENESS).as_secs_f64();
    assert!(longest <= late && shortest >= LOGIN_TIME.as_secs_f64() - 0.1, "{shortest} to {longest} s");
    forgets_everything(server);
}

/// Does nothing but in the process that the test above starts.
#[test]
fn flood_from_another_process() {
    let Some(portal) = std::env::var(FLOOD).ok() else { return };
    let portal: SocketAddr = portal.parse().expect("an address");
    let text = |bytes: usize| {
        let mut pdu = vec![0; 48 + bytes];
        pdu[..8].copy_from_slice(&[0x43, 0x40, 0, 0, 0, 0, 0x10, 0]);
        pdu
    };
    // A byte is missing at the end.
    let both = [text(4096), text(4095)].concat();
    let begun = Instant::now();
    let mut flood = Vec::with_capacity(LOGINS);
    for _ in 0..LOGINS {
        let mut stream = TcpStream::connect(portal).expect("accepted");
        let opened = Instant::now();
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(&both).expect("connected");
        flood.push((stream, opened));
    }
    for (stream, _) in &mut flood {
        stream.read_exact(&mut [0; 48]).expect("the first part is answered");
    }
    println!("\nopened in {}", begun.elapsed().as_secs_f64());
    let lasted = flood.into_iter().map(|(mut stream, opened)| {
        drop(stream.read_to_end(&mut Vec::new()));
        opened.elapsed().as_secs_f64()
    });
    let (shortest, longest) =
        lasted.fold((f64::MAX, 0.0f64), |(low, high), each| (low.min(each), high.max(each)));
    println!("closed after {shortest} {longest}");
}

/// A process that may open few files closes half-open logins for new ones, and sessions go on.
#[test]
fn without_a_file_left_sessions_go_on_and_half_open_logins_make_room() {
    let _alone = ALONE.lock();
    let mut server = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "server_in_another_process", "--nocapture"])
        .env(FEW_FILES, "64")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test runs");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let portal = lines.find_map(|line| line.expect("text").strip_prefix("serves ").map(str::to_owned));
    let portal: SocketAddr = portal.and_then(|text| text.parse().ok()).expect("an address");
    let mut honest = Initiator::login(portal, "iqn.2026-01.example:host");
    let mut idle = Vec::new();
    for round in 0..200u32 {
        let mut stream = TcpStream::connect(portal).expect("the kernel accepts");
        stream.write_all(&[0x43; 20]).expect("connected");
        idle.push(stream);
        assert_eq!(honest.write(round * 8, &[round as u8; 4096]), 0);
        assert_eq!(honest.read(round * 8, 8), [round as u8; 4096]);
    }
    let mut newcomer = Initiator::login(portal, "iqn.2026-01.example:newcomer");
    assert_eq!(newcomer.read(8, 8), [1; 4096]);
    drop(idle);
    let mut late = Initiator::login(portal, "iqn.2026-01.example:late");
    assert_eq!(late.read(8, 8), [1; 4096]);
    drop(server.stdin.take());
    assert!(server.wait().expect("it ends").success());
}

/// Does nothing but in the process that the test above starts: serves until its input ends.
#[test]
fn server_in_another_process() {
    let Some(files) = std::env::var(FEW_FILES).ok().and_then(|text| text.parse().ok()) else { return };
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).expect("fewer are always allowed");
    // The reactor that accepts can close its own logins alone; those of another end when their time is up.
    let (server, portal) = serve_on(1);
    println!("\nserves {portal}");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("an input");
    forgets_everything(server);
}

/// READ (16) of `blocks` blocks at 0.
fn read(sn: u32, immediate: bool, blocks: u32) -> [u8; 48] {
    let mut head = [0; 48];
    head[..2].copy_from_slice(&[if immediate { 0x41 } else { 0x01 }, 0xc0]);
    head[16..20].copy_from_slice(&sn.to_be_bytes());
    head[20..24].copy_from_slice(&(blocks * 512).to_be_bytes());
    head[24..28].copy_from_slice(&sn.to_be_bytes());
    head[32] = 0x88;
    head[42..46].copy_from_slice(&blocks.to_be_bytes());
    head
}

#[test]
fn readers_that_never_read_slow_nobody_down() {
    let _alone = ALONE.lock();
    let (server, portal) = serve();
    let slow: Vec<Initiator> = (0..4)
        .map(|number| {
            let mut slow = Initiator::login(portal, &format!("iqn.2026-01.example:slow{number}"));
            let pdus: Vec<u8> = (1..=100).flat_map(|sn| read(sn, false, 16_384)).collect();
            slow.stream.write_all(&pdus).expect("connected");
            slow
        })
        .collect();
    let kept = kept(portal);
    println!("beside {} readers that never read: {:.0} % of the rate kept", slow.len(), kept * 100.0);
    assert!(kept > KEPT_MIN, "{kept} of the rate");
    drop(slow);
    forgets_everything(server);
}

/// More commands than the window on each connection, some immediate, none of their answers read: until the target takes no
/// more of them.
#[test]
fn commands_without_end_slow_nobody_down() {
    let _alone = ALONE.lock();
    let (server, portal) = serve();
    let pdus: Vec<u8> = (1..=1000).flat_map(|sn| read(sn, sn % 3 == 0, 2048)).collect();
    let flood: Vec<Initiator> = (0..4)
        .map(|number| {
            let mut flood = Initiator::login(portal, &format!("iqn.2026-01.example:flood{number}"));
            flood.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
            while flood.stream.write_all(&pdus).is_ok() {}
            flood
        })
        .collect();
    let kept = kept(portal);
    println!("beside {} floods of commands: {:.0} % of the rate kept", flood.len(), kept * 100.0);
    assert!(kept > KEPT_MIN, "{kept} of the rate");
    drop(flood);
    forgets_everything(server);
}

/// Runs `neighbours` at `portal` as long as it takes to measure which part of its rate another session keeps.
fn kept_beside(neighbours: usize, portal: SocketAddr, turn: fn(&mut Initiator)) -> f64 {
    let (begun, measured) = (&Barrier::new(neighbours + 1), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        for host in 0..neighbours {
            scope.spawn(move || {
                let mut busy = Initiator::login(portal, &format!("iqn.2026-01.example:busy{host}"));
                turn(&mut busy);
                begun.wait();
                while !measured.load(Ordering::Relaxed) {
                    turn(&mut busy);
                }
            });
        }
        begun.wait();
        let kept = kept(portal);
        measured.store(true, Ordering::Relaxed);
        kept
    })
}

/// Those who read their answers, or whose commands are dropped and who go on sending, are busy neighbours: they have their
/// share, and others theirs. All of them, and the initiators, run on the processors of one machine here, so that nine
/// tenths is not what anyone can keep.
#[test]
fn busy_neighbours_leave_others_their_share() {
    let _alone = ALONE.lock();
    let (server, portal) = serve();
    let working = kept_beside(2, portal, |busy| {
        batch(busy);
    });
    let dropped = kept_beside(2, portal, |busy| {
        let pdus: Vec<u8> = (0..1000).flat_map(|number| read(number + 0x4000_0000, false, 1)).collect();
        busy.stream.write_all(&pdus).expect("connected");
    });
    println!(
        "beside 2 busy neighbours: {:.0} % of the rate kept; if their commands are all dropped: {:.0} %",
        working * 100.0,
        dropped * 100.0
    );
    assert!(working > 0.05 && dropped > 0.01, "{working} and {dropped} of the rate");
    forgets_everything(server);
}
