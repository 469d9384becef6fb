//! `twinsand demo`: a pair of nodes on this machine to try things out with, and the whole story of a failover.

mod ledger;
mod load;
mod pair;
mod story;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Args;

use crate::Failure;
use crate::signals;
use crate::sizes::show;
use crate::status::Status;
use pair::{Pair, VOLUMES};

#[derive(Args)]
pub(crate) struct Options {
    /// Where the nodes' files go; kept. Without it: a temporary directory, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the files.
    #[arg(long)]
    keep: bool,
    /// Play a failover from start to end: load, kill -9, go on, restart, resync, compare. Exits 0 if nothing was lost.
    #[arg(long)]
    failover: bool,
}

/// Plays; did all go well?
pub(crate) fn demo(options: &Options) -> Result<bool, Failure> {
    let mut pair = Pair::prepare(options.dir.as_deref(), options.keep)?;
    if options.failover {
        return story::tell(&mut pair);
    }
    let (asked, stop) = channel();
    signals::watch(asked, || ())?;
    println!("two nodes over sparse files in {}", pair.directory().display());
    pair.start()?;
    for (lun, (name, size)) in VOLUMES.iter().enumerate() {
        println!("{name}, {size}, thin and mirrored:");
        for node in [0, 1] {
            println!("    {}", pair.url(node, lun));
        }
    }
    println!("kill -9 a node, or write through either; Ctrl-C stops both\n");
    let mut display = Display::default();
    loop {
        display.show(&pair);
        match stop.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(fate) = pair.nodes.iter_mut().find_map(pair::Node::fate) {
            println!("{fate}; starting it again");
            for node in &mut pair.nodes {
                if node.fate().is_some() {
                    node.start()?;
                }
            }
            display.lines = 0;
        }
    }
    println!("stopping both nodes");
    let clean = pair.stop()?;
    println!("{}", if clean { "both stopped cleanly" } else { "a node did not stop cleanly" });
    Ok(clean)
}

/// The live status.
#[derive(Default)]
struct Display {
    /// Lines on the screen that the next ones replace.
    lines: usize,
    /// When the resync that is running was first seen, and how much it had to do then.
    resync: Option<(Instant, u64)>,
}

impl Display {
    fn show(&mut self, pair: &Pair) {
        let lines: Vec<String> = pair
            .nodes
            .iter()
            .map(|node| match node.status() {
                Some(status) => self.line(&status),
                None => format!("{}  down", node.name()),
            })
            .collect();
        let mut out = std::io::stdout().lock();
        if out.is_terminal() && self.lines > 0 {
            drop(write!(out, "\x1b[{}A", self.lines));
        }
        for line in &lines {
            let clear = if out.is_terminal() { "\x1b[K" } else { "" };
            drop(writeln!(out, "{line}{clear}"));
        }
        self.lines = lines.len();
    }

    fn line(&mut self, status: &Status) -> String {
        let owns = status.volumes.iter().filter(|volume| volume.owner.as_deref() == Some(&status.node));
        let owned: Vec<&str> = owns.map(|volume| volume.name.as_str()).collect();
        let mut line = format!(
            "{}  {:<8} epoch {:<4} owns {:<16} dirty {:>9}  pool {:>9} of {}",
            status.node,
            status.state,
            status.epoch,
            if owned.is_empty() { "-".into() } else { owned.join(",") },
            show(status.dirty_bytes),
            show(status.pool_bytes_used),
            show(status.pool_bytes),
        );
        if status.resync.running {
            line += &self.progress(status);
        } else if status.state == "alone" {
            self.resync = None;
        }
        line
    }

    fn progress(&mut self, status: &Status) -> String {
        let (total, left) = (status.resync.regions_total.max(1), status.resync.regions_left);
        let (since, at_first) = *self.resync.get_or_insert((Instant::now(), left));
        let done = at_first.saturating_sub(left);
        let left_text = if done == 0 {
            "?".into()
        } else {
            format!("{:.0} s", since.elapsed().as_secs_f64() / done as f64 * left as f64)
        };
        format!("  resync {}%, {left_text} left", 100 - left.min(total) * 100 / total)
    }
}
