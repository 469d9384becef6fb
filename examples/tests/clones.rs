//! Snapshots, clones and names as a person asks for them, on a running pair, and as hosts see them.

mod common;
#[allow(dead_code, reason = "of the demo's initiator these tests use a part")]
#[path = "../src/initiator.rs"]
mod initiator;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::pair::{DAEMON, Node, pair};
use common::wait_until;
use initiator::{Session, Trouble};

const TARGET: &str = "iqn.2026-01.example.office:san";
const HOST: &str = "iqn.2026-01.example:anyone";
const BYTES: usize = 8192;
/// A sector of all volumes.
const PLACE: u64 = 4096;

/// A directory that goes when the test has passed.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("twinsan-clones-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

fn volume(node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(DAEMON);
    command.args(["volume", arguments[0], "--config"]).arg(node.config()).args(&arguments[1..]);
    command.output().expect("the daemon runs")
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(node: &Node, arguments: &[&str]) -> String {
    let mut command = Command::new(DAEMON);
    command.args(["status", "--config"]).arg(node.config()).args(arguments);
    done(&command.output().expect("the daemon runs"))
}

/// What a node says of a volume.
fn told(node: &Node, name: &str) -> Option<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&status(node, &["--json"])).expect("JSON");
    status["volumes"].as_array()?.iter().find(|volume| volume["name"] == name).cloned()
}

fn session(node: &Node) -> Session {
    wait_until("a login", || Session::login(node.portal, TARGET, HOST, 1).ok())
}

#[track_caller]
fn write(node: &Node, lun: u8, byte: u8) {
    let mut session = session(node);
    session.write(lun, PLACE, &[byte; BYTES]).expect("written");
    // Both nodes are killed at once later.
    session.flush(lun).expect("flushed");
}

#[track_caller]
fn expect(nodes: &[Node], lun: u8, byte: u8) {
    for node in nodes {
        let mut found = [0; BYTES];
        session(node).read(lun, PLACE, &mut found).expect("read");
        assert!(found == [byte; BYTES], "LUN {lun}: {} instead of {byte}", found[0]);
    }
}

fn add_to(config: &Path, mappings: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(config).expect("a configuration");
    for (volume, lun) in mappings {
        text += &format!("\n[[mapping]]\nvolume = \"{volume}\"\nhost = \"any\"\n{lun}\n");
    }
    std::fs::write(config, text).expect("written");
}

#[test]
fn snapshots_and_clones_are_made_named_mapped_and_deleted_on_a_running_pair() {
    let place = Place::new("pair");
    let mut nodes = pair(&place.0, |text| text.replace("# experimental_snapshots", "experimental_snapshots"));
    nodes.iter_mut().for_each(Node::start);
    nodes.iter().for_each(|node| node.told("serves in a pair", 1));
    write(&nodes[0], 1, 1);

    let made = done(&volume(&nodes[0], &["snapshot", "vmfs-v1", "2", "--name", "monday"]));
    assert!(made.contains("vmfs-v1@monday is volume 1002, a snapshot of vmfs-v1\n"), "{made}");
    assert!(made.contains("vmfs-v2@monday is volume 1005, a snapshot of vmfs-v2\n"), "{made}");
    write(&nodes[1], 1, 2);
    wait_until("the snapshot at the other node", || told(&nodes[1], "vmfs-v2@monday"));
    let made = done(&volume(&nodes[1], &["clone", "vmfs-v2@monday", "test"]));
    assert!(made.contains("test is volume 1008, a clone of vmfs-v2@monday"), "{made}");
    refusals(&nodes);
    done(&volume(&nodes[1], &["rename", "1008", "lab"]));
    let made = done(&volume(&nodes[0], &["snapshot", "vmfs-v1"]));
    assert!(made.starts_with("vmfs-v1@2") && made.contains("Z is volume 1011"), "the time: {made}");
    nodes.iter().for_each(shows_what_there_is);

    map(&nodes);
    expect(&nodes, 10, 1);
    expect(&nodes, 11, 1);
    expect(&nodes, 1, 2);
    write(&nodes[1], 11, 3);
    for node in &nodes {
        let refused = session(node).write(10, PLACE, &[4; BYTES]);
        assert!(
            matches!(refused, Err(Trouble::Refused { key: 7, code: 0x27, qualifier: 0, .. })),
            "a snapshot is protected: {refused:?}"
        );
    }
    let all_as_they_were =
        |nodes: &[Node]| [(10, 1), (1, 2), (11, 3)].map(|(lun, byte)| expect(nodes, lun, byte));
    all_as_they_were(&nodes);

    // They are found again when the nodes start, and what is not there is left out.
    add_to(&nodes[0].config(), &[("nowhere", "lun = 12")]);
    nodes.iter_mut().for_each(Node::kill);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter().for_each(|node| node.told("serves in a pair", 2));
    nodes[0].told("a mapping is left out: `mapping.volume` \"nowhere\" is no [[volume]]", 1);
    all_as_they_were(&nodes);

    // Whatever it is called now, the LUN stays the same volume.
    done(&volume(&nodes[0], &["rename", "lab", "was lab"]));
    all_as_they_were(&nodes);
    let deleted = volume(&nodes[0], &["delete", "was lab", "--yes-delete", "was lab"]);
    assert!(deleted.status.success(), "{deleted:?}");
    for node in &nodes {
        wait_until("the end of the clone", || told(node, "was lab").is_none().then_some(()));
        let gone = || session(node).read(11, PLACE, &mut [0; BYTES]).is_err().then_some(());
        wait_until("the end of its LUN", gone);
    }
    expect(&nodes, 10, 1);
}

fn refusals(nodes: &[Node]) {
    for (arguments, expected) in [
        (&["rename", "test", "vmfs-v1"][..], "volume 1 has the name vmfs-v1 already"),
        (&["rename", "test", ""], "1 to 255 bytes"),
        (&["rename", "nowhere", "x"], "there is no volume nowhere"),
        (&["snapshot", "vmfs-v1", "vmfs-v2", "test", "--name", "x", "--name", "y"], "2 names for 3 volumes"),
        (&["snapshot", "vmfs-v1", "--name", "test"], "volume 1008 has the name test already"),
        (&["clone", "vmfs-v1", "x"], "is not a snapshot: take one of it, and clone that"),
        (&["grow", "vmfs-v1@monday", "1TB"], "is a snapshot: it does not change"),
    ] {
        let said = error(&volume(&nodes[0], arguments));
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// In status, as text and as JSON, and in the log.
fn shows_what_there_is(node: &Node) {
    wait_until("the name at the other node", || told(node, "lab"));
    let snapshot = told(node, "vmfs-v2@monday").expect("it is there");
    let clone = told(node, "lab").expect("it is there");
    assert_eq!((&snapshot["id"], &snapshot["of"]), (&1005.into(), &2.into()));
    assert_eq!((&clone["id"], &clone["of"]), (&1008.into(), &1005.into()));
    assert_eq!((&snapshot["read_only"], &clone["read_only"]), (&true.into(), &false.into()));
    assert_eq!((&snapshot["bytes"], &snapshot["extents"]), (&500_000_000_000_u64.into(), &1.into()));
    assert!(told(node, "vmfs-v2").expect("it is there")["of"].is_null());
    let table = status(node, &[]);
    for line in ["snapshot of vmfs-v2, read-only, 1 extents", "clone of vmfs-v2@monday, 1 extents"] {
        assert!(table.contains(line), "{line}: {table}");
    }
    node.told("volume 1005 is a snapshot of volume 2", 1);
    node.told("volume 1008 is a clone of snapshot 1005", 1);
}

/// Hosts see a snapshot and a clone when mappings name them and are read again.
fn map(nodes: &[Node]) {
    for node in nodes {
        let good = std::fs::read_to_string(node.config()).expect("a configuration");
        add_to(&node.config(), &[("vmfs-v2@tuesday", "lun = 10")]);
        node.signal("-HUP");
        node.told("stay as they were: `mapping.volume` \"vmfs-v2@tuesday\" is no [[volume]]", 1);
        std::fs::write(node.config(), &good).expect("written");
        add_to(&node.config(), &[("vmfs-v1@monday", ""), ("vmfs-v2@monday", "lun = 1002")]);
        node.signal("-HUP");
        node.told("stay as they were: `mapping.lun` 1002 is taken twice for \"any\"", 1);
        std::fs::write(node.config(), &good).expect("written");
        // Without a LUN it is the volume's number.
        let mappings = [("vmfs-v2@monday", "lun = 10"), ("lab", "lun = 11"), ("vmfs-v1@monday", "")];
        add_to(&node.config(), &mappings);
        node.signal("-HUP");
        node.told("hosts and mappings were read again", 1);
    }
}
