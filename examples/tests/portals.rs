//! The portals of two real nodes: open while a node may serve, closed while it may not for long.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use common::wait_until;

const DAEMON: &str = env!("CARGO_BIN_EXE_twinsand");
const EXAMPLE: &str = include_str!("../node.toml");

/// A node that ends with its test.
struct Node {
    directory: PathBuf,
    name: &'static str,
    portal: SocketAddr,
    child: Option<Child>,
}

impl Node {
    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log");
        let config = self.directory.join(format!("{}.toml", self.name));
        let child = Command::new(DAEMON).args(["run", "--config"]).arg(config).stderr(log).spawn();
        self.child = Some(child.expect("the daemon runs"));
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Waits until the log has said something so many times.
    fn told(&self, what: &str, times: usize) {
        let said = || std::fs::read_to_string(self.log()).unwrap_or_default().matches(what).count();
        wait_until(&format!("node {} says \"{what}\" {times} times", self.name), || {
            (said() >= times).then_some(())
        });
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("running").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn is_open(&self) -> bool {
        TcpStream::connect(self.portal).is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Two nodes from the example, small, in a directory.
fn pair(directory: &Path) -> [Node; 2] {
    let (link, portals) = (free_port(), [free_port(), free_port()]);
    [("a", 0), ("b", 1)].map(|(name, number)| {
        let portal = portals[number];
        let text = EXAMPLE
            .replace("name = \"a\"", &format!("name = \"{name}\""))
            .replace("directory = \"san1\"", &format!("directory = \"{name}\""))
            .replace("size = \"64GiB\" },", "size = \"1GiB\" },")
            .replace("\"127.0.0.1:3260\", \"[::1]:3260\"", &format!("\"{portal}\""))
            .replace("127.0.0.1:3261", &portals[1 - number].to_string())
            .replace("127.0.0.1:7260", &link.to_string());
        std::fs::write(directory.join(format!("{name}.toml")), text).expect("written");
        Node { directory: directory.to_path_buf(), name, portal, child: None }
    })
}

const STRANGER: &str = "iqn.2026-01.example:stranger\n";
/// In the log, on one line.
const STRANGER_REFUSED: &str =
    "twinsand a: refused the login of iqn.2026-01.example:stranger\\n from 127.0.0.1:";

/// A login to a target that is not there, with a name that would begin a new line in the log.
fn log_in_as_a_stranger(portal: SocketAddr) {
    let mut stream = TcpStream::connect(portal).expect("the portal is open");
    let text = format!("InitiatorName={STRANGER}\0SessionType=Normal\0TargetName=iqn.2026-01.example:none\0");
    let mut pdu = [0; 48].to_vec();
    (pdu[0], pdu[1], pdu[7]) = (0x43, 0x87, text.len() as u8);
    pdu.extend_from_slice(text.as_bytes());
    pdu.resize((pdu.len() + 3) & !3, 0);
    stream.write_all(&pdu).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!((answer[0], answer[36]), (0x23, 2), "refused");
}

/// `a` sleeps past its lease, `b` goes on and dies: `a` may not serve, and hosts shall not wait for it.
#[test]
fn portals_close_while_a_node_may_not_serve_and_open_when_it_may() {
    let directory = std::env::temp_dir().join(format!("twinsan-portals-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let [mut a, mut b] = pair(&directory);
    a.start();
    b.start();
    for node in [&a, &b] {
        node.told("serves vmfs-v1: iscsi://", 1);
        assert!(node.is_open());
    }
    log_in_as_a_stranger(a.portal);
    a.told(STRANGER_REFUSED, 1);
    a.signal("-STOP");
    b.told("serves alone", 1);
    b.kill();
    a.signal("-CONT");
    a.told("may not serve", 1);
    assert!(a.is_open(), "it says NOT READY first");
    a.told("closed its portals until it may serve again", 1);
    assert!(!a.is_open());
    b.start();
    a.told("opened its portals again", 1);
    assert!(a.is_open());
    b.told("serves in a pair", 2);
    assert!(b.is_open());
    drop((a, b));
    std::fs::remove_dir_all(directory).unwrap();
}
