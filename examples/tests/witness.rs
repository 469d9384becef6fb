//! A pair of real nodes whose register a witness keeps, and what becomes of both when they are killed.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use common::pair::{DAEMON, Node, pair};
use common::wait_until;

const SECRETS: &str = "[office]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";

/// A directory that goes when the test has passed.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("twinsan-cli-witness-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        let place = Place(path);
        place.write_secrets("witness.toml", 0o600, SECRETS);
        place
    }

    fn write_secrets(&self, name: &str, mode: u32, text: &str) {
        std::fs::write(self.0.join(name), text).expect("written");
        std::fs::set_permissions(self.0.join(name), std::fs::Permissions::from_mode(mode))
            .expect("it is ours");
    }

    /// Two nodes that ask the witness.
    fn pair(&self, witness: &Witness) -> [Node; 2] {
        let named = format!("\nwitness = \"{}\"\nsecret_file = \"witness.toml\"", witness.address);
        pair(&self.0, |text| text.replace("\nfile = \"register\"", &named))
    }

    /// The same, at work.
    fn serving_pair(&self, witness: &Witness) -> [Node; 2] {
        let mut nodes = self.pair(witness);
        nodes.iter_mut().for_each(Node::start);
        nodes.iter().for_each(|node| node.told("serves in a pair", 1));
        nodes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

/// A witness that ends with its test.
struct Witness {
    directory: PathBuf,
    address: String,
    child: Option<Child>,
}

impl Witness {
    fn start(place: &Place) -> Witness {
        let mut witness = Witness { directory: place.0.clone(), address: "127.0.0.1:0".into(), child: None };
        witness.restart();
        witness
    }

    /// At the address that it had.
    fn restart(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("witness.log"));
        let before = self.log().matches("listens on").count();
        let mut command = self.command(&self.address);
        self.child = Some(command.stderr(log.expect("a log")).spawn().expect("the daemon runs"));
        self.address = wait_until("the witness listens", || {
            let log = self.log();
            let line = log.lines().filter_map(|line| line.split_once("listens on ")).nth(before)?;
            line.1.split_once(',').map(|(address, _)| address.to_owned())
        });
    }

    fn command(&self, listen: &str) -> Command {
        let mut command = Command::new(DAEMON);
        command.args(["witness", "--listen", listen, "--directory"]).arg(self.registers());
        command.arg("--secret-file").arg(self.directory.join("witness.toml"));
        command
    }

    fn registers(&self) -> PathBuf {
        self.directory.join("registers")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("witness.log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// No epoch was granted to one node and to another.
    fn assert_one_grant_per_epoch(&self) {
        let mut grants = BTreeMap::new();
        for line in self.log().lines().filter(|line| line.contains("may serve")) {
            let epoch =
                line.split_once("epoch ").and_then(|(_, rest)| rest.split_once(", ")).expect("an epoch");
            let who = epoch.1.split_once(" may serve").expect("somebody").0.to_owned();
            let before = grants.entry(epoch.0.to_owned()).or_insert(who.clone());
            assert_eq!(*before, who, "epoch {} twice", epoch.0);
        }
        assert!(!grants.is_empty());
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the daemon runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn status(node: &Node) -> Option<serde_json::Value> {
    let said = run(Command::new(DAEMON).args(["status", "--json", "--config"]).arg(node.config()));
    said.status.success().then(|| serde_json::from_slice(&said.stdout).expect("JSON"))
}

fn wait_for(node: &Node, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    wait_until(what, || status(node).filter(&is))
}

fn grow(node: &Node, size: &str) -> Output {
    run(Command::new(DAEMON).args(["volume", "grow", "vmfs-v2", size, "--config"]).arg(node.config()))
}

fn log_of(node: &Node) -> String {
    std::fs::read_to_string(node.log()).expect("a log")
}

#[test]
fn a_survivor_goes_on_with_the_witness_and_not_without() {
    let place = Place::new("survivor");
    let mut witness = Witness::start(&place);
    let [mut a, mut b] = place.serving_pair(&witness);
    for node in [&a, &b] {
        let arbiter = &wait_for(node, "a pair", |status| status["serving"] == true)["arbiter"];
        assert_eq!((&arbiter["kind"], &arbiter["answered"]), (&"witness".into(), &true.into()), "{arbiter}");
    }
    let table = said(&run(Command::new(DAEMON).args(["status", "--config"]).arg(a.config())));
    assert!(table.contains(&format!("arbiter: witness {}, answered", witness.address)), "{table}");

    // Killed, it is missed by nobody while there are two: a change that both nodes must make is made.
    witness.kill();
    let grown = grow(&a, "600GB");
    assert!(grown.status.success(), "{grown:?}");
    for node in [&a, &b] {
        assert_eq!(status(node).expect("it runs")["serving"], true);
    }

    // A survivor without it may not go on; it does as soon as the witness is back.
    b.kill();
    a.told("the arbiter does not answer: witness 127.0.0.1:", 1);
    let waiting =
        wait_for(&a, "a question without an answer", |status| status["arbiter"]["answered"] == false);
    assert_eq!((&waiting["serving"], &waiting["state"]), (&false.into(), &"deciding".into()), "{waiting}");
    assert!(!log_of(&a).contains("serves alone, epoch 3"));
    witness.restart();
    a.told("the arbiter answers again", 1);
    a.told("serves alone, epoch 3", 1);
    wait_for(&a, "a node that serves alone", |status| status["serving"] == true);

    // The other way round, with the witness there.
    b.start();
    b.told("serves in a pair, epoch 4", 1);
    a.kill();
    b.told("serves alone, epoch 5", 1);
    wait_for(&b, "a node that serves alone", |status| status["serving"] == true);
    witness.assert_one_grant_per_epoch();
}

/// The witness's directory goes back to a backup of when both served, while a serves alone.
#[test]
fn a_restored_backup_grants_no_epoch_twice() {
    let place = Place::new("backup");
    let mut witness = Witness::start(&place);
    let [mut a, mut b] = place.serving_pair(&witness);
    let backup: Vec<(PathBuf, Vec<u8>)> = registers(&witness.registers());
    assert_eq!(backup.len(), 1);
    b.kill();
    a.told("serves alone, epoch 3", 1);
    witness.kill();
    for (path, bytes) in backup {
        std::fs::write(path, bytes).expect("restored");
    }
    witness.restart();

    // Node b knows of nothing that came after, and takes itself out; a does not believe what it finds when it asks for a
    // pair, and holds service as while any such question is open.
    b.start();
    a.told("the register has gone back", 1);
    let alone =
        wait_for(&a, "an answer that is not believed", |status| status["arbiter"]["answered"] == false);
    assert_eq!(alone["state"], "alone", "{alone}");
    let other = status(&b).expect("it runs");
    assert_eq!(other["serving"], false, "{other}");
    assert!(!log_of(&b).contains("serves alone"));

    // What the text of the error says.
    b.kill();
    a.kill();
    a.start();
    a.told("serves alone, epoch", 3);
    b.start();
    b.told("serves in a pair", 2);
    witness.assert_one_grant_per_epoch();
}

fn registers(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(directory).expect("the witness made it").flatten().map(|file| file.path());
    let registers = files.filter(|path| path.extension().is_some_and(|kind| kind == "register"));
    registers.map(|path| (path.clone(), std::fs::read(path).expect("a register"))).collect()
}

#[test]
fn what_cannot_work_is_said() {
    let place = Place::new("refused");
    let witness = Witness::start(&place);
    let second = said(&run(&mut witness.command("127.0.0.1:0")));
    assert!(second.contains("in use by another witness"), "{second}");

    let [mut a, _] = place.pair(&witness);
    place.write_secrets("witness.toml", 0o644, SECRETS);
    let open = said(&run(&mut witness.command("127.0.0.1:0")));
    assert!(open.contains("`--secret-file`") && open.contains("chmod 600"), "{open}");
    let node = said(&run(Command::new(DAEMON).args(["run", "--config"]).arg(a.config())));
    assert!(node.contains("`arbiter.secret_file`") && node.contains("chmod 600"), "{node}");
    place.write_secrets("witness.toml", 0o600, include_str!("../witness.toml"));
    let example = said(&run(&mut witness.command("127.0.0.1:0")));
    assert!(example.contains("office.secret` is refused"), "the example's is no secret: {example}");

    // A node with another secret is told so, and serves nobody.
    place.write_secrets("witness.toml", 0o600, &SECRETS.replace("abcdef", "fedcba"));
    a.start();
    a.told("no such partnership, or another secret for it", 1);
    wait_until("the witness tells too", || witness.log().contains("refused 127.0.0.1:").then_some(()));
    assert_eq!(status(&a).expect("it runs")["serving"], false);
    assert!(registers(&witness.registers()).is_empty());
}
