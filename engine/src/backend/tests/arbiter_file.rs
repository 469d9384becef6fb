//! The register file: its answers, its errors, and eight processes that race and are killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::super::FileArbiter;
use super::TempDir;
use crate::arbiter::{Answer, Arbiter, Ask, Register};
use crate::ids::{Epoch, Members, NodeName, Uuid};

const OURS: Uuid = Uuid(0xabcd);

fn next(after: Option<Register>, by: NodeName) -> Register {
    Register { epoch: Epoch(after.map_or(0, |now| now.epoch.0) + 1), members: Members::only(by), by }
}

#[test]
fn the_register_survives_its_user() {
    let dir = TempDir::new();
    let path = dir.file("register");
    let first = next(None, NodeName::A);
    let arbiter = FileArbiter::new(&path, OURS);
    assert_eq!(arbiter.ask(Ask::Read).unwrap(), Answer { swapped: false, register: None });
    assert!(arbiter.ask(Ask::Swap { expect: None, new: first }).unwrap().swapped);

    let arbiter = FileArbiter::new(&path, OURS);
    let second = next(Some(first), NodeName::B);
    assert_eq!(
        arbiter.ask(Ask::Swap { expect: None, new: second }).unwrap(),
        Answer { swapped: false, register: Some(first) }
    );
    assert!(arbiter.ask(Ask::Swap { expect: Some(first), new: second }).unwrap().swapped);
    assert_eq!(arbiter.ask(Ask::Read).unwrap().register, Some(second));
}

#[test]
fn damage_is_an_error_and_is_left_alone() {
    let dir = TempDir::new();
    let path = dir.file("register");
    let arbiter = FileArbiter::new(&path, OURS);
    let first = next(None, NodeName::A);
    arbiter.ask(Ask::Swap { expect: None, new: first }).unwrap();
    let good = fs::read(&path).unwrap();
    for bad in [Vec::new(), good[..63].to_vec(), vec![0; 64]] {
        fs::write(&path, &bad).unwrap();
        for ask in [Ask::Read, Ask::Swap { expect: None, new: first }] {
            let error = arbiter.ask(ask).unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains("stop both nodes"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

#[test]
fn another_partnership_is_refused() {
    let dir = TempDir::new();
    let path = dir.file("register");
    let new = next(None, NodeName::A);
    FileArbiter::new(&path, OURS).ask(Ask::Swap { expect: None, new }).unwrap();
    let error = FileArbiter::new(&path, Uuid(1)).ask(Ask::Read).unwrap_err().to_string();
    assert!(error.contains("000000000000abcd"), "{error}");
}

#[test]
fn an_absent_directory_is_an_error() {
    let dir = TempDir::new();
    let arbiter = FileArbiter::new(dir.file("absent/register"), OURS);
    assert!(arbiter.ask(Ask::Read).unwrap_err().to_string().contains("absent/register"));
}

const CHILD_DIR: &str = "TWINSAN_TEST_ARBITER_DIR";
const CHILD_LOG: &str = "TWINSAN_TEST_ARBITER_LOG";

/// Not a test of its own: what the children of the next one do until they are killed. They swap as fast as they can
/// and write down each epoch they won.
#[test]
fn racing_child() {
    let (Ok(dir), Ok(log)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_LOG)) else { return };
    let arbiter = FileArbiter::new(Path::new(&dir).join("register"), OURS);
    let by = if log.ends_with(['0', '2', '4', '6', '8']) { NodeName::A } else { NodeName::B };
    let mut log = fs::OpenOptions::new().append(true).create(true).open(Path::new(&dir).join(log)).unwrap();
    let mut seen = None;
    loop {
        let new = next(seen, by);
        let answer = arbiter.ask(Ask::Swap { expect: seen, new }).unwrap();
        let epoch = |register: Option<Register>| register.map(|register| register.epoch);
        assert!(epoch(answer.register) >= epoch(seen), "{:?} after {seen:?}", answer.register);
        seen = answer.register;
        if answer.swapped {
            log.write_all(format!("{}\n", new.epoch).as_bytes()).unwrap();
        }
    }
}

/// A child that is killed when it is dropped, whatever happens to the test.
struct Racer(Child);

impl Racer {
    fn start(dir: &TempDir, log: u32) -> Racer {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "backend::tests::arbiter_file::racing_child"])
            .env(CHILD_DIR, &dir.0)
            .env(CHILD_LOG, format!("log-{log}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Racer(child)
    }

    /// Kills it; it must have been alive: a child ends by itself only if its assertion fails.
    fn kill(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "a child found the register going back");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn eight_racing_processes_killed_in_between_lose_no_update() {
    const RACERS: u32 = 8;
    const KILLS: u32 = 64;
    let dir = TempDir::new();
    let arbiter = FileArbiter::new(dir.file("register"), OURS);
    let epoch = || arbiter.ask(Ask::Read).unwrap().register.map_or(0, |now| now.epoch.0);

    let mut racers: Vec<Racer> = (0..RACERS).map(|log| Racer::start(&dir, log)).collect();
    let mut random = 1u64;
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let goal = epoch() + 1 + (random >> 60);
        while epoch() < goal {}
        let victim = (random >> 33) as usize % racers.len();
        racers.swap_remove(victim).kill();
        racers.push(Racer::start(&dir, RACERS + kill));
    }
    racers.into_iter().for_each(Racer::kill);

    // Every log rises; no epoch was won twice; each death hides at most one win.
    let last = epoch();
    let mut winners = BTreeMap::new();
    for log in 0..RACERS + KILLS {
        let text = fs::read_to_string(dir.file(format!("log-{log}"))).unwrap_or_default();
        let won: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(won.is_sorted_by(|one, next| one < next), "log {log} falls: {won:?}");
        for epoch in won {
            assert!(epoch <= last, "epoch {epoch} won by {log} was lost; the register is at {last}");
            assert_eq!(winners.insert(epoch, log), None, "epoch {epoch} has two winners");
        }
    }
    assert!(last >= u64::from(KILLS), "{last} epochs are no race");
    assert!(last - winners.len() as u64 <= u64::from(RACERS + KILLS), "{last} epochs, {} won", winners.len());
}
