//! `twinsand pool`: the disks of a running node's pool, listed, added and removed while volumes are in use; and the
//! socket on which a node is asked for changes.
//!
//! The node listens on a unix socket in its directory, for its own user only: a line of JSON asks, a line answers. The
//! configuration stays the one place that says where disks are: a disk is added only if it is listed there, so that the
//! node finds it when it starts again.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use twinsan::block::PagePool;
use twinsan::ids::Uuid;
use twinsan::runtime::Engine;

use crate::Failure;
use crate::config::Config;
use crate::disks;
use crate::status::{Status, disk_table};
use crate::volumes;

/// How long a client may take to ask, and a node to take note.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to add a disk.
const ADD_BOUND: Duration = Duration::from_secs(600);
/// Longest request.
const LINE_MAX: u64 = 64 * 1024;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the disks: their use, and how far a removal is.
    Status {
        #[command(flatten)]
        node: Node,
        /// One line of JSON for each disk.
        #[arg(long)]
        json: bool,
    },
    /// Add a disk. Write it into `pool.disks` of the configuration first.
    AddDisk {
        #[command(flatten)]
        node: Node,
        /// The file or block device, as in the configuration.
        path: PathBuf,
        /// Erase this pool, which the disk is part of: 32 hexadecimal digits.
        #[arg(long, value_name = "POOL")]
        erase: Option<String>,
    },
    /// Remove a disk: its data move to the others, and so do the pool's metadata if it holds them. Returns when that has begun;
    /// `status` tells when it is done.
    RemoveDisk(Named),
    /// Keep a disk that is being removed.
    KeepDisk(Named),
    /// Pause the removal of a disk, until `resume-disk` or the node's next start.
    PauseDisk(Named),
    /// Go on with the removal of a disk.
    ResumeDisk(Named),
}

#[derive(Args)]
struct Node {
    /// The node's configuration.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Args)]
struct Named {
    #[command(flatten)]
    node: Node,
    /// The disk: its path, or its identity as `status` shows it.
    disk: String,
}

/// What is asked on the socket.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "command")]
pub(crate) enum Request {
    #[serde(rename = "add-disk")]
    Add { path: PathBuf, erase: Option<String> },
    #[serde(rename = "remove-disk")]
    Remove { disk: String },
    #[serde(rename = "keep-disk")]
    Keep { disk: String },
    #[serde(rename = "pause-disk")]
    Pause { disk: String },
    #[serde(rename = "resume-disk")]
    Resume { disk: String },
    #[serde(rename = "grow-volume")]
    Grow { volume: String, bytes: u64 },
    #[serde(rename = "delete-volume")]
    Delete { volume: String },
    #[serde(rename = "snapshot-volumes")]
    Snapshot { volumes: Vec<String>, names: Vec<String> },
    #[serde(rename = "clone-snapshot")]
    Clone { snapshot: String, name: String },
    #[serde(rename = "rename-volume")]
    Rename { volume: String, name: String },
}

/// What is answered.
#[derive(Serialize, Deserialize, Debug)]
struct Answer {
    done: bool,
    text: String,
}

/// Where the node's disks are, by their numbers in this life.
pub(crate) type Paths = Arc<Mutex<BTreeMap<u16, PathBuf>>>;

/// Runs a command of `twinsand pool`.
pub(crate) fn pool(options: &Options) -> Result<(), Failure> {
    let (node, request) = match &options.command {
        Command::Status { node, json } => return show(&node.config, *json),
        Command::AddDisk { node, path, erase } => {
            (node, Request::Add { path: path.clone(), erase: erase.clone() })
        }
        Command::RemoveDisk(Named { node, disk }) => (node, Request::Remove { disk: disk.clone() }),
        Command::KeepDisk(Named { node, disk }) => (node, Request::Keep { disk: disk.clone() }),
        Command::PauseDisk(Named { node, disk }) => (node, Request::Pause { disk: disk.clone() }),
        Command::ResumeDisk(Named { node, disk }) => (node, Request::Resume { disk: disk.clone() }),
    };
    tell(&node.config, &request)
}

/// Has the node of this configuration carry a request out, and prints what it says.
pub(crate) fn tell(config: &Path, request: &Request) -> Result<(), Failure> {
    let socket = Config::load(config)?.control_socket();
    let answer = ask(&socket, request)
        .map_err(|error| format!("no node answers at {}: {error}; is it running?", socket.display()))?;
    if !answer.done {
        return Err(answer.text.into());
    }
    println!("{}", answer.text);
    Ok(())
}

fn show(config: &Path, json: bool) -> Result<(), Failure> {
    let socket = Config::load(config)?.socket();
    let status = Status::ask(&socket)
        .map_err(|error| format!("no node answers at {}: {error}; is it running?", socket.display()))?;
    if json {
        for disk in &status.disks {
            println!("{}", serde_json::to_string(disk)?);
        }
    } else {
        print!("{}", disk_table(&status));
    }
    Ok(())
}

fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ADD_BOUND))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::other)
}

/// A node that can be asked; the socket is removed with it.
pub(crate) struct Control {
    socket: PathBuf,
}

/// What the node needs to carry out what it is asked.
pub(crate) struct Operator {
    /// Its configuration, read again when a disk is added.
    pub(crate) config: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) pages: PagePool,
    pub(crate) paths: Paths,
}

impl Control {
    /// Listens; requests are carried out one after the other.
    pub(crate) fn serve(socket: &Path, operator: Operator) -> io::Result<Control> {
        // One that a killed node left behind answers nobody.
        if socket.exists() && UnixStream::connect(socket).is_err() {
            std::fs::remove_file(socket)?;
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever asks badly, or does not listen, harms nobody.
                drop(operator.hear(stream));
            }
        })?;
        Ok(Control { socket: socket.to_path_buf() })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.socket));
    }
}

impl Operator {
    fn hear(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(Read::by_ref(&mut stream).take(LINE_MAX)).read_line(&mut line)?;
        let outcome = serde_json::from_str(&line).map_err(Failure::from).and_then(|asked| self.act(asked));
        let answer = match outcome {
            Ok(text) => Answer { done: true, text },
            Err(failure) => Answer { done: false, text: failure.to_string() },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        stream.write_all(&line)
    }

    fn act(&self, request: Request) -> Result<String, Failure> {
        let named = |disk: &str| self.find(disk);
        Ok(match request {
            Request::Add { path, erase } => self.add(&path, erase.as_deref())?,
            Request::Remove { disk } => {
                self.engine.remove_disk(named(&disk)?).map_err(|why| format!("{disk}: {why}"))?;
                format!(
                    "{disk} is being emptied; `pool status` tells how far it is; take it out of pool.disks when it is gone"
                )
            }
            Request::Keep { disk } => {
                self.engine.keep_disk(named(&disk)?).map_err(|why| format!("{disk}: {why}"))?;
                format!("{disk} stays")
            }
            Request::Pause { disk } => {
                self.engine.pause_removal(named(&disk)?, true).map_err(|why| format!("{disk}: {why}"))?;
                format!("the removal of {disk} is paused")
            }
            Request::Resume { disk } => {
                self.engine.pause_removal(named(&disk)?, false).map_err(|why| format!("{disk}: {why}"))?;
                format!("the removal of {disk} goes on")
            }
            Request::Grow { volume, bytes } => volumes::grow(&self.engine, &volume, bytes)?,
            Request::Delete { volume } => volumes::delete(&self.engine, &volume)?,
            Request::Snapshot { volumes, names } => volumes::snapshot(&self.engine, &volumes, &names)?,
            Request::Clone { snapshot, name } => volumes::clone(&self.engine, &snapshot, &name)?,
            Request::Rename { volume, name } => volumes::rename(&self.engine, &volume, &name)?,
        })
    }

    fn add(&self, path: &Path, erase: Option<&str>) -> Result<String, Failure> {
        let config = Config::load(&self.config)?;
        let path = config.node.directory.join(path);
        let listed = config.pool().disks.iter().find(|disk| disk.path == path).ok_or_else(|| {
            format!(
                "{} is not in pool.disks of {}; write it there first, so that the node finds it when it starts again",
                path.display(),
                self.config.display()
            )
        })?;
        let replaces = erase
            .map(|text| u128::from_str_radix(text, 16).map(Uuid))
            .transpose()
            .map_err(|_| "--erase takes the 32 hexadecimal digits of a pool's identity")?;
        let disk = disks::open_or_make(listed, &self.pages)?;
        let uuid =
            self.engine.add_disk(disk, replaces).map_err(|why| format!("{}: {why}", path.display()))?;
        if let Some(added) = self.engine.disks().iter().find(|disk| disk.uuid == uuid) {
            self.paths.lock().insert(added.device.0, path.clone());
        }
        Ok(format!("{} is disk {:032x} of the pool now", path.display(), uuid.0))
    }

    /// A disk by its path or its identity.
    fn find(&self, name: &str) -> Result<Uuid, Failure> {
        let config = Config::load(&self.config)?;
        let (path, paths) = (config.node.directory.join(name), self.paths.lock());
        let disks = self.engine.disks();
        let by_path = disks.iter().find(|disk| paths.get(&disk.device.0) == Some(&path));
        let named = u128::from_str_radix(name, 16).ok().map(Uuid);
        let found = by_path.or_else(|| disks.iter().find(|disk| Some(disk.uuid) == named));
        let found =
            found.ok_or_else(|| format!("the pool has no disk {name}; `pool status` lists its disks"))?;
        Ok(found.uuid)
    }
}
