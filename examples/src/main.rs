//! `twinsand`: the reference daemon. One node of a pair (`run`), a pair to try out (`demo`), what a node does
//! (`status`), the disks of its pool (`pool`), its volumes (`volume`), the offline check of a pool (`check`), and the witness
//! of any number of pairs (`witness`).

mod arbiter;
mod check;
mod config;
mod demo;
mod disks;
mod initiator;
mod pool;
mod run;
mod signals;
mod sizes;
mod status;
mod volumes;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Why a command failed; its text says what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Two servers' disks as one highly available iSCSI SAN.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node until SIGTERM; it hands over before it ends. A second SIGTERM ends it at once.
    Run {
        /// The node's configuration; examples/node.toml shows every key.
        #[arg(long)]
        config: PathBuf,
        /// End with the process that started this one.
        #[arg(long, hide = true)]
        with_parent: bool,
    },
    /// Run a pair of nodes on this machine, over sparse files in a temporary directory.
    Demo(demo::Options),
    /// Show what a node does.
    Status(StatusOptions),
    /// The disks of a running node's pool: list, add and remove them while volumes are in use.
    Pool(pool::Options),
    /// The volumes of a running node: grow, delete, rename, snapshot and clone them while they are in use, on both nodes.
    Volume(volumes::Options),
    /// Check a pool offline: its structure, with --data whether its data match their checksums, and with --compare whether
    /// both halves of its mirrors read the same.
    Check(check::Options),
    /// Keep, on a third machine, the registers that say which node of a pair may serve. Until SIGTERM.
    Witness(witness::Options),
}

#[derive(Args)]
struct StatusOptions {
    /// The node's configuration.
    #[arg(long, conflicts_with = "socket", required_unless_present = "socket")]
    config: Option<PathBuf>,
    /// The node's status socket.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// One line of JSON, as the node says it.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config, with_parent } => {
            if with_parent {
                end_with_parent();
            }
            run::run(&config).map(|()| true)
        }
        Command::Demo(options) => demo::demo(&options),
        Command::Status(options) => show_status(&options).map(|()| true),
        Command::Pool(options) => pool::pool(&options).map(|()| true),
        Command::Volume(options) => volumes::volume(&options).map(|()| true),
        Command::Check(options) => check::check(&options),
        Command::Witness(options) => witness::witness(&options).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("twinsand: {failure}");
            ExitCode::from(2)
        }
    }
}

/// A demo that is killed leaves no nodes behind.
fn end_with_parent() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("twinsand: will not end with its parent: {error}");
    }
}

fn show_status(options: &StatusOptions) -> Result<(), Failure> {
    let socket = match (&options.socket, &options.config) {
        (Some(socket), _) => socket.clone(),
        (None, Some(config)) => config::Config::load(config)?.socket(),
        (None, None) => return Err("name the node: --config node.toml or --socket PATH".into()),
    };
    let status = status::Status::ask(&socket)
        .map_err(|error| format!("no node answers at {}: {error}; is it running?", socket.display()))?;
    if options.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print!("{}", status::table(&status));
    }
    Ok(())
}
