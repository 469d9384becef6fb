//! The story of a failover, played by itself: load through both paths, one node killed, the other goes on, the dead
//! one comes back and is resynchronised from the log under load, and in the end everything is compared.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::load::{Load, Shared};
use super::pair::{Node, Pair, wait_until};
use crate::Failure;
use crate::check;
use crate::signals;
use crate::sizes::show;

/// The load's volume.
const LUN: u8 = 0;
/// Blocks written before the story begins: 192 MiB.
const BLOCKS: usize = 48 * 1024;
/// Blocks that the load works on: 24 MiB.
const BUSY_BLOCKS: usize = 6 * 1024;
/// Blocks in an area of the hot set.
const AREA_BLOCKS: u64 = 1024;
/// Requests at once.
const WORKERS: u32 = 16;
/// The node that dies: the one that orders the writes.
const VICTIM: usize = 0;

/// What the summary says.
struct Outcome {
    pause: Duration,
    resync_bytes: u64,
    mapped_bytes: u64,
}

/// Plays it; true if nothing was lost and both halves are the same.
pub(crate) fn tell(pair: &mut Pair) -> Result<bool, Failure> {
    let begun = Instant::now();
    give_up_when_asked(pair)?;
    let outcome = play(pair, begun);
    if !matches!(outcome, Ok(true)) {
        pair.keep();
        println!("the nodes' files and logs are kept in {}", pair.directory().display());
    }
    outcome
}

/// A signal ends the story at once: the nodes end with this process, and their files go with them.
fn give_up_when_asked(pair: &Pair) -> Result<(), Failure> {
    let (asked, give_up) = channel();
    signals::watch(asked, || ())?;
    let leftovers = pair.leftovers();
    std::thread::Builder::new().name("give-up".into()).spawn(move || {
        if give_up.recv().is_ok() {
            if let Some(directory) = leftovers {
                drop(std::fs::remove_dir_all(directory));
            }
            std::process::exit(130);
        }
    })?;
    Ok(())
}

fn play(pair: &mut Pair, begun: Instant) -> Result<bool, Failure> {
    let say = |what: &str| println!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    pair.start()?;
    say("two nodes serve a mirrored volume of 64 GiB");
    let portals = [pair.nodes[0].portal(), pair.nodes[1].portal()];
    let shared = Arc::new(Shared::new(portals, LUN, BLOCKS, BUSY_BLOCKS));
    shared.fill_all()?;
    say(&format!("{} written and flushed", show(BLOCKS as u64 * 4096)));
    let load = Load::start(&shared, WORKERS)?;
    let outcome = fail_over(pair, &shared, &say);
    load.stop();
    let outcome = outcome?;
    if let Some(failure) = shared.failure() {
        return Err(failure.into());
    }
    say("load stopped; verifying every block through both nodes");
    for path in [0, 1] {
        shared.verify_all(path)?;
    }
    let clean = pair.stop()?;
    say(if clean {
        "both nodes stopped cleanly; comparing their halves offline"
    } else {
        "a node did not stop cleanly"
    });
    let same = check::compare_configs(&pair.nodes[0].config(), &pair.nodes[1].config())?;
    Ok(summary(&shared, &outcome, begun.elapsed()) && clean && same)
}

fn fail_over(pair: &mut Pair, shared: &Shared, say: &dyn Fn(&str)) -> Result<Outcome, Failure> {
    let (victim, survivor) = (VICTIM, 1 - VICTIM);
    work_for(shared, Duration::from_secs(2))?;
    // Where nothing is written for ten seconds the halves are known to be equal: then it need not be copied.
    let cool = wait_until(Duration::from_secs(20), || {
        let hot: u64 = pair.nodes[victim].status()?.volumes.iter().map(|volume| volume.areas_hot).sum();
        (hot <= BUSY_BLOCKS as u64 / AREA_BLOCKS).then_some(hot)
    });
    say(&format!("16 requests at a time on {}; the rest is at rest", show(BUSY_BLOCKS as u64 * 4096)));
    if cool.is_none() {
        say("(the hot set is larger than that still)");
    }
    let dirty = wait_until(Duration::from_secs(10), || {
        let dirty = pair.nodes[victim].status()?.dirty_bytes;
        (dirty > 0).then_some(dirty)
    });
    shared.take_longest();
    pair.nodes[victim].kill()?;
    say(&format!(
        "kill -9 of node {} under load, with {} dirty in its cache",
        pair.nodes[victim].name(),
        show(dirty.unwrap_or(0))
    ));
    until(&pair.nodes[survivor], "alone")?;
    work_for(shared, Duration::from_secs(4))?;
    let pause = shared.take_longest();
    say(&format!(
        "node {} serves alone; the longest pause was {} ms",
        pair.nodes[survivor].name(),
        pause.as_millis()
    ));
    let logged = pair.nodes[survivor]
        .status()
        .map(|status| status.volumes.iter().map(|volume| volume.regions_logged * 65536).sum::<u64>());
    say(&format!("node {} comes back; it lacks {}", pair.nodes[victim].name(), show(logged.unwrap_or(0))));
    pair.nodes[victim].start()?;
    pair.until_paired(Duration::from_secs(60))?;
    let status = pair.nodes[survivor].status().ok_or("the survivor does not answer")?;
    let outcome = Outcome {
        pause,
        resync_bytes: status.resync.bytes_copied,
        mapped_bytes: status.volumes.iter().map(|volume| volume.bytes_used).sum(),
    };
    say(&format!("a pair again: {} copied, under load", show(outcome.resync_bytes)));
    work_for(shared, Duration::from_secs(2))?;
    Ok(outcome)
}

/// Lets the load work; an error if it gave up.
fn work_for(shared: &Shared, span: Duration) -> Result<(), Failure> {
    match wait_until(span, || shared.failure()) {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

fn until(node: &Node, state: &str) -> Result<(), Failure> {
    let reached = wait_until(Duration::from_secs(30), || {
        node.status().filter(|status| status.state == state && status.serving)
    });
    reached.map(drop).ok_or_else(|| format!("node {} does not come to serve {state}", node.name()).into())
}

fn summary(shared: &Shared, outcome: &Outcome, took: Duration) -> bool {
    let counts = shared.counts();
    println!();
    println!("acknowledged writes  {}", counts.writes);
    println!("checked reads        {}", counts.reads);
    println!("lost or stale        {}", counts.wrong);
    println!("longest pause        {} ms", outcome.pause.as_millis());
    println!("retried requests     {}", counts.retries);
    println!("resync               {} of {} copied", show(outcome.resync_bytes), show(outcome.mapped_bytes));
    println!("took                 {:.0} s", took.as_secs_f64());
    counts.wrong == 0
}
