//! `twinsand check --data`: all data of a pool are read and compared with their checksums. What is judged how is the
//! engine's to say (`store::DataCheck`); here is the reading, several pieces at a time, and what a person is told.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use twinsan::backend::{BackendRequest, DiskSink};
use twinsan::io::{DiskResult, IoId};
use twinsan::pool::Pool;
use twinsan::store::{DataCheck, DataReport};

use crate::Failure;
use crate::disks::Disks;
use crate::sizes::show;

/// Reads in flight: enough for the disk to go on while the last one is compared.
const DEPTH: usize = 4;
/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(500);

struct Answers(Sender<(IoId, DiskResult)>);

impl DiskSink for Answers {
    fn complete(&self, id: IoId, result: DiskResult) {
        // Nobody listens only when the check has ended early.
        drop(self.0.send((id, result)));
    }
}

/// Compares everything, and tells what is damaged. True if nothing is.
pub(super) fn check(pool: &Pool, disks: &Disks, paths: &[PathBuf]) -> Result<bool, Failure> {
    let mut check = DataCheck::new(pool);
    let mut progress = Progress::new();
    let (sender, answers) = channel();
    let sink: Arc<dyn DiskSink> = Arc::new(Answers(sender));
    let mut in_flight = 0;
    while !check.is_over() {
        while in_flight < DEPTH {
            let Some(io) = check.poll_io() else { break };
            let request = BackendRequest::new(io.op, Arc::clone(&sink), IoId(io.token));
            disks[usize::from(io.disk.0)].submit(request);
            in_flight += 1;
        }
        if in_flight == 0 {
            if check.is_over() {
                break;
            }
            return Err(
                "the check of the data has ended before all were compared: this is a bug, please report it"
                    .into(),
            );
        }
        let (id, result) = answers.recv()?;
        in_flight -= 1;
        check.io_done(id.0, result);
        progress.show(&check);
    }
    progress.end();
    let report = check.report();
    for defect in &report.defects {
        println!("  damaged: {}: {defect}", paths[usize::from(defect.disk().0)].display());
    }
    let unnamed = report.bad + report.bad_lines - report.defects.len() as u64;
    if unnamed > 0 {
        println!("  and {unnamed} more");
    }
    tell(report);
    Ok(report.is_clean())
}

fn tell(report: &DataReport) {
    let DataReport { good, zeros, bad, bad_lines, .. } = report;
    let size = |blocks: &u64| show(blocks * 4096);
    println!(
        "  data: {} match their checksums, {} read as zero; {bad} blocks damaged, {bad_lines} lines of checksums damaged",
        size(good),
        size(zeros)
    );
    if report.in_doubt > 0 {
        println!(
            "  data: {} blocks in doubt after a crash, {} of them unlike their checksums: no damage, the node settles them",
            report.in_doubt, report.in_doubt_unlike
        );
    }
    if report.unjudged > 0 {
        println!("  data: {} blocks under damaged checksums were not compared", report.unjudged);
    }
    if report.without_sums > 0 {
        println!("  data: {} on disks without checksums were not compared", size(&report.without_sums));
    }
    if !report.is_clean() {
        println!(
            "  data are not repaired offline: a node of a pair takes them from its partner, when they are read"
        );
    }
}

/// How far it is, on a terminal.
struct Progress {
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, check: &DataCheck<'_>) {
        if !self.on || self.shown.is_some_and(|shown| shown.elapsed() < SHOWN_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let (done, total) = (check.bytes_done(), check.bytes_total().max(1));
        eprint!("\r  {} of {} compared ({} %)\x1b[K", show(done), show(total), done * 100 / total);
        drop(std::io::stderr().flush());
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
