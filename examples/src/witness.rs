//! `twinsand witness`: the third machine, which remembers for any number of pairs who may serve.
//!
//! What it is told lies in its directory and nowhere else; it may be killed and started again at any time. A log that
//! takes no lines does not hold it up: lines are dropped then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};

use clap::Args;
use twinsan::ids::Uuid;
use twinsan_witness::{Notice, Server, ServerConfig};

use crate::Failure;
use crate::config::witness::read_pairs;
use crate::run::{allow_many_files, log};
use crate::signals;

/// What lines of the log begin with.
const NAME: &str = "witness";
/// Lines that wait for the log.
const LINES_MAX: usize = 1024;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the nodes reach it, such as 192.0.2.3:7270; with port 0, one that is free.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the registers are; made if it is not there. Of this witness alone.
    #[arg(long)]
    directory: PathBuf,
    /// The pairs and their secrets; examples/witness.toml shows its form. Read at the start.
    #[arg(long)]
    secret_file: PathBuf,
}

/// Why the main loop goes on.
enum Event {
    Stop,
    Ended(String),
}

/// Serves until it is stopped.
pub(crate) fn witness(options: &Options) -> Result<(), Failure> {
    let pairs = read_pairs("--secret-file", &options.secret_file)
        .map_err(|(key, problem)| format!("`{key}` {problem}"))?;
    let count = pairs.len();
    let (names, secrets) =
        pairs.into_iter().map(|(uuid, pair)| ((uuid, pair.name), (uuid, pair.secret))).unzip();
    allow_many_files(NAME);
    let (events, inbox) = channel();
    signals::watch(events.clone(), || Event::Stop)?;
    let (lines, written) = sync_channel::<String>(LINES_MAX);
    std::thread::Builder::new().name("log".into()).spawn(move || {
        for line in written {
            log(NAME, &line);
        }
    })?;
    let tell = move |notice: Notice| match notice {
        Notice::Ended { reason } => drop(events.send(Event::Ended(reason))),
        notice => drop(lines.try_send(describe(&notice, &names))),
    };
    let server = Server::start(ServerConfig {
        listen: options.listen,
        directory: options.directory.clone(),
        secrets,
        notices: Arc::new(tell),
    })?;
    let directory = options.directory.display();
    log(
        NAME,
        &format!("listens on {}, keeps the registers of {count} pairs in {directory}", server.address()),
    );
    match inbox.recv()? {
        Event::Stop => {
            server.stop();
            log(NAME, "stopped");
            Ok(())
        }
        Event::Ended(reason) => Err(format!("the witness ended by itself: {reason}").into()),
    }
}

/// A line for the log, with the pair's name.
fn describe(notice: &Notice, names: &BTreeMap<Uuid, String>) -> String {
    let pair = match notice {
        Notice::Swapped { partnership, .. } | Notice::Failed { partnership, .. } => names.get(partnership),
        _ => None,
    };
    match pair {
        Some(name) => format!("{name}, {notice}"),
        None => notice.to_string(),
    }
}
