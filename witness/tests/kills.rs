//! A witness process that is killed with SIGKILL, at any moment and at the worst one, under askers that race.

#[path = "common/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use twinsan::arbiter::{Answer, Arbiter, Ask, Register};
use twinsan::ids::{Epoch, Members, NodeName, Uuid};
use twinsan_witness::{Notice, Secret, Server, ServerConfig, Witness, WitnessConfig};
use wait::wait_until;

const OURS: Uuid = Uuid(0xabcd);
const CHILD_DIRECTORY: &str = "TWINSAN_TEST_WITNESS_DIRECTORY";
const CHILD_LISTENS: &str = "TWINSAN_TEST_WITNESS_LISTENS";
const CHILD_DIES: &str = "TWINSAN_TEST_WITNESS_DIES";

fn secret() -> Secret {
    Secret::new("0123456789abcdef0123456789abcdef").expect("it is there for the test")
}

/// Not a test of its own: the process that the others kill. It dies by itself when it has written a certain epoch and
/// not yet answered.
#[test]
fn witness_child() {
    let (Ok(directory), Ok(listen)) = (std::env::var(CHILD_DIRECTORY), std::env::var(CHILD_LISTENS)) else {
        return;
    };
    let dies = std::env::var(CHILD_DIES).ok().and_then(|epoch| epoch.parse().ok()).map(Epoch);
    let directory = PathBuf::from(directory);
    let server = Server::start(ServerConfig {
        listen: listen.parse().unwrap(),
        directory: directory.clone(),
        secrets: BTreeMap::from([(OURS, secret())]),
        notices: Arc::new(move |notice| {
            use rustix::process::{Signal, getpid, kill_process};
            if matches!(notice, Notice::Swapped { register, .. } if Some(register.epoch) == dies) {
                kill_process(getpid(), Signal::KILL).unwrap();
                thread::park();
            }
        }),
    })
    .unwrap();
    std::fs::write(directory.join("address.new"), server.address().to_string()).unwrap();
    std::fs::rename(directory.join("address.new"), directory.join("address")).unwrap();
    loop {
        thread::park();
    }
}

/// A witness in a process of its own, and its directory. Both go with it.
struct Process {
    directory: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Process {
    fn start(name: &str, dies: Option<u64>) -> Process {
        let directory = std::env::temp_dir().join(format!("twinsan-witness-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("it is there for the test");
        let any = "127.0.0.1:0".parse().expect("it is there for the test");
        let mut process = Process { child: spawn(&directory, any, dies), directory, address: any };
        process.wait();
        process
    }

    /// Waits until it listens.
    fn wait(&mut self) {
        let file = self.directory.join("address");
        wait_until("the witness listens", || file.exists());
        let text = std::fs::read_to_string(&file).expect("it is there for the test");
        self.address = text.parse().expect("it is there for the test");
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is there for the test");
        self.child.wait().expect("it is there for the test");
    }

    fn restart(&mut self) {
        std::fs::remove_file(self.directory.join("address")).expect("it is there for the test");
        self.child = spawn(&self.directory, self.address, None);
        self.wait();
    }

    fn asker(&self) -> Witness {
        asker(self.address)
    }
}

fn asker(at: SocketAddr) -> Witness {
    let within = Duration::from_secs(10);
    let config = WitnessConfig { address: at.to_string(), partnership: OURS, secret: secret(), within };
    Witness::new(config).expect("it is there for the test")
}

fn spawn(directory: &PathBuf, listen: SocketAddr, dies: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("it is there for the test"));
    command
        .args(["--exact", "witness_child"])
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_LISTENS, listen.to_string());
    if let Some(epoch) = dies {
        command.env(CHILD_DIES, epoch.to_string());
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is there for the test")
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn next(after: Option<Register>, by: NodeName) -> Register {
    Register { epoch: Epoch(after.map_or(0, |now| now.epoch.0) + 1), members: Members::only(by), by }
}

#[test]
fn a_witness_that_dies_between_writing_and_answering_has_written() {
    let mut process = Process::start("between", Some(2));
    let (a, b) = (process.asker(), process.asker());
    let first = next(None, NodeName::A);
    assert!(a.ask(Ask::Swap { expect: None, new: first }).unwrap().swapped);
    assert_eq!(b.ask(Ask::Read).unwrap().register, Some(first));
    let second = next(Some(first), NodeName::A);
    a.ask(Ask::Swap { expect: Some(first), new: second }).unwrap_err();
    let killed = process.child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9));
    b.ask(Ask::Read).unwrap_err();
    process.restart();
    // The other expects what was, and is refused; the one that asked finds that it has won.
    let other = Ask::Swap { expect: Some(first), new: next(Some(first), NodeName::B) };
    let expected = Answer { swapped: false, register: Some(second) };
    assert_eq!(b.ask(other).unwrap(), expected);
    assert_eq!(a.ask(Ask::Swap { expect: Some(first), new: second }).unwrap(), expected);
}

/// What the askers of a race have come to.
#[derive(Default)]
struct Race {
    over: AtomicBool,
    /// The highest epoch that anyone has seen.
    epoch: AtomicU64,
    /// Questions that were not answered: each hides at most one swap.
    errors: AtomicU64,
    wins: Mutex<Vec<(u64, usize)>>,
}

/// Swaps as fast as it can until the race is over, now and then as a new asker.
fn run(number: usize, race: &Race, at: SocketAddr) {
    let by = NodeName::BOTH[number % 2];
    let mut seen: Option<Register> = None;
    let epoch = |register: Option<Register>| register.map(|register| register.epoch);
    while !race.over.load(Ordering::Relaxed) {
        let witness = asker(at);
        for _ in 0..20 {
            let new = next(seen, by);
            match witness.ask(Ask::Swap { expect: seen, new }) {
                Ok(answer) => {
                    assert!(epoch(answer.register) >= epoch(seen), "{:?} after {seen:?}", answer.register);
                    seen = answer.register;
                    race.epoch.fetch_max(seen.map_or(0, |now| now.epoch.0), Ordering::Relaxed);
                    if answer.swapped {
                        race.wins.lock().push((new.epoch.0, number));
                    }
                }
                // Without a connection nothing was asked.
                Err(error) if error.reason.contains("no connection to") => thread::yield_now(),
                Err(_) => drop(race.errors.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

#[test]
fn eight_racing_askers_of_a_witness_that_is_killed_have_one_winner_per_epoch() {
    const RACERS: usize = 8;
    const KILLS: u64 = 40;
    let mut process = Process::start("race", None);
    let race = Race::default();
    thread::scope(|scope| {
        for number in 0..RACERS {
            let (race, at) = (&race, process.address);
            scope.spawn(move || run(number, race, at));
        }
        let mut random = 1u64;
        for _ in 0..KILLS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let goal = race.epoch.load(Ordering::Relaxed) + 1 + (random >> 61);
            wait_until("the race goes on", || race.epoch.load(Ordering::Relaxed) >= goal);
            process.kill();
            process.restart();
        }
        race.over.store(true, Ordering::Relaxed);
    });

    let last = process.asker().ask(Ask::Read).unwrap().register.map_or(0, |now| now.epoch.0);
    let (wins, errors) = (race.wins.into_inner(), race.errors.into_inner());
    let mut winners = BTreeMap::new();
    for (epoch, winner) in wins {
        assert!(epoch <= last, "epoch {epoch} won by {winner} was lost; the register is at {last}");
        assert_eq!(winners.insert(epoch, winner), None, "epoch {epoch} has two winners");
    }
    println!("{last} epochs, {} won, {errors} answers lost, {KILLS} kills", winners.len());
    assert!(last >= KILLS, "{last} epochs are no race");
    assert!(
        last - winners.len() as u64 <= errors,
        "{last} epochs, {} won, {errors} answers lost",
        winners.len()
    );
}
