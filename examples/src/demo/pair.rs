//! Two nodes as child processes over sparse files, and what can be done to them.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::status::Status;

/// The target's name on both nodes.
pub(crate) const TARGET: &str = "iqn.2026-01.example.twinsan:demo";
/// Names of the nodes.
const NAMES: [&str; 2] = ["a", "b"];

/// Waits until `reached` gives something, looking often; `None` if it takes longer than `bound`.
pub(crate) fn wait_until<T>(bound: Duration, mut reached: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(found) = reached() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One node.
pub(crate) struct Node {
    name: &'static str,
    directory: PathBuf,
    portal: SocketAddr,
    child: Option<Child>,
}

impl Node {
    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join(format!("{}.toml", self.name))
    }

    /// `a` or `b`.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Where it listens for initiators.
    pub(crate) fn portal(&self) -> SocketAddr {
        self.portal
    }

    /// What it says of itself, if it answers.
    pub(crate) fn status(&self) -> Option<Status> {
        Status::ask(&self.directory.join(self.name).join("status.sock")).ok()
    }

    /// Starts it. Called on the main thread: the node ends with the thread that started it.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--with-parent", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C is for the demo, which then stops one node after the other.
            .process_group(0)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Ends it as a power failure would (SIGKILL).
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop (SIGTERM), and waits. Did it stop cleanly?
    pub(crate) fn stop(&mut self) -> Result<bool, Failure> {
        use rustix::process::{Pid, Signal, kill_process};
        let Some(mut child) = self.child.take() else { return Ok(false) };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let ended = wait_until(Duration::from_secs(40), || child.try_wait().transpose());
        match ended {
            Some(status) => Ok(status?.success()),
            None => {
                self.child = Some(child);
                self.kill()?;
                Ok(false)
            }
        }
    }

    /// Has it ended by itself? Then the end of its log.
    pub(crate) fn fate(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        Some(format!(
            "node {} ended ({status}): {}",
            self.name,
            last.into_iter().rev().collect::<Vec<_>>().join(" | ")
        ))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// Two nodes and the directory of all that is theirs.
pub(crate) struct Pair {
    pub(crate) nodes: [Node; 2],
    directory: PathBuf,
    keep: bool,
}

/// A volume of the demo: name and size.
pub(crate) const VOLUMES: [(&str, &str); 2] = [("vmfs-v1", "64GiB"), ("vmfs-v2", "500GB")];

impl Pair {
    /// Writes the configurations, in a new directory of the system's temporary one if none is named.
    pub(crate) fn prepare(directory: Option<&Path>, keep: bool) -> Result<Pair, Failure> {
        let keep = keep || directory.is_some();
        let directory = match directory {
            Some(directory) => std::path::absolute(directory)?,
            None => std::env::temp_dir().join(format!("twinsan-demo-{}", std::process::id())),
        };
        std::fs::create_dir_all(&directory)?;
        let [link, portals @ ..] = free_addresses::<3>()?;
        let node =
            |n: usize| Node { name: NAMES[n], directory: directory.clone(), portal: portals[n], child: None };
        let pair = Pair { nodes: [node(0), node(1)], directory, keep };
        for n in [0, 1] {
            std::fs::write(pair.nodes[n].config(), configuration(n, link, portals))?;
        }
        Ok(pair)
    }

    /// Where everything is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts both and waits until they are a pair.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.until_paired(Duration::from_secs(60))
    }

    /// Waits until both serve in a pair, with their portals open.
    pub(crate) fn until_paired(&mut self, bound: Duration) -> Result<(), Failure> {
        let paired = wait_until(bound, || {
            if let Some(fate) = self.nodes.iter_mut().find_map(Node::fate) {
                return Some(Err(fate));
            }
            let paired = |node: &Node| {
                node.status().is_some_and(|status| status.state == "paired" && status.serving)
                    && std::net::TcpStream::connect(node.portal).is_ok()
            };
            self.nodes.iter().all(paired).then_some(Ok(()))
        });
        match paired {
            Some(outcome) => Ok(outcome?),
            None => Err(format!(
                "the nodes are no pair after {bound:?}; their logs are in {}",
                self.directory.display()
            )
            .into()),
        }
    }

    /// The URL of a volume on a node.
    pub(crate) fn url(&self, node: usize, lun: usize) -> String {
        format!("iscsi://{}/{TARGET}/{lun}", self.nodes[node].portal)
    }

    /// Stops both cleanly, one after the other. Were both clean?
    pub(crate) fn stop(&mut self) -> Result<bool, Failure> {
        let mut clean = true;
        for node in &mut self.nodes {
            clean &= node.stop()?;
        }
        Ok(clean)
    }

    /// What to remove if the process is to end at once; nothing, if it is kept.
    pub(crate) fn leftovers(&self) -> Option<PathBuf> {
        (!self.keep).then(|| self.directory.clone())
    }

    /// Keeps the directory when this ends.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.kill());
        }
        if !self.keep {
            drop(std::fs::remove_dir_all(&self.directory));
        }
    }
}

/// Loopback addresses that are free now.
fn free_addresses<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

fn configuration(n: usize, link: SocketAddr, portals: [SocketAddr; 2]) -> String {
    let (name, own, partners) = (NAMES[n], portals[n], portals[1 - n]);
    let mut text = format!(
        "[node]\nname = \"{name}\"\ndirectory = \"{name}\"\n\n\
         [partnership]\nname = \"demo\"\n\n\
         [[pool]]\nname = \"main\"\ndisks = [{{ path = \"disk0.img\", size = \"64GiB\" }}]\n\n\
         [[host]]\nname = \"any\"\niqns = [\"*\"]\n\n\
         [target]\niqn = \"{TARGET}\"\nportals = [\"{own}\"]\n\n\
         [partner]\nlink = \"{link}\"\nportals = [\"{partners}\"]\n\n\
         [arbiter]\nfile = \"register\"\n"
    );
    for (lun, (name, size)) in VOLUMES.iter().enumerate() {
        text += &format!(
            "\n[[volume]]\nid = {id}\nname = \"{name}\"\nsize = \"{size}\"\nmirrored = true\n\n\
             [[mapping]]\nvolume = \"{name}\"\nhost = \"any\"\nlun = {lun}\n",
            id = lun + 1,
        );
    }
    text
}
