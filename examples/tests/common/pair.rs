//! Two nodes from the example, as processes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::wait_until;

pub(crate) const DAEMON: &str = env!("CARGO_BIN_EXE_twinsand");
const EXAMPLE: &str = include_str!("../../node.toml");

/// A node that ends with its test.
pub(crate) struct Node {
    directory: PathBuf,
    name: &'static str,
    pub(crate) portal: SocketAddr,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join(format!("{}.toml", self.name))
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log");
        let child = Command::new(DAEMON).args(["run", "--config"]).arg(self.config()).stderr(log).spawn();
        self.child = Some(child.expect("the daemon runs"));
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Waits until the log has said something so many times.
    pub(crate) fn told(&self, what: &str, times: usize) {
        let said = || std::fs::read_to_string(self.log()).unwrap_or_default().matches(what).count();
        wait_until(&format!("node {} says \"{what}\" {times} times", self.name), || {
            (said() >= times).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("running").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(crate) fn is_open(&self) -> bool {
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

/// Two nodes from the example, small, in a directory, with what is to be changed in their configurations.
pub(crate) fn pair(directory: &Path, change: impl Fn(String) -> String) -> [Node; 2] {
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
        std::fs::write(directory.join(format!("{name}.toml")), change(text)).expect("written");
        Node { directory: directory.to_path_buf(), name, portal, child: None }
    })
}
