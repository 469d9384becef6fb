//! Load through both paths: workers that write and read overlapping places, go on through the other node when one
//! fails, and check everything they see against a [`Ledger`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ledger::{Ledger, fill, id_of};
use super::pair::TARGET;
use crate::initiator::{Session, Trouble};

const BLOCK: usize = 4096;
/// A request that neither path has answered after this long is given up, and the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts when neither path serves.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest request of the load, in blocks.
const BLOCKS_MAX: usize = 16;
/// The longest request when everything is written or read in order.
const SWEEP_BLOCKS: usize = 64;

/// What all workers share.
pub(crate) struct Shared {
    portals: [SocketAddr; 2],
    lun: u8,
    ledger: Ledger,
    /// The load works on this many blocks, the first.
    busy: usize,
    stop: AtomicBool,
    writes: AtomicU64,
    reads: AtomicU64,
    wrong: AtomicU64,
    retries: AtomicU64,
    longest_us: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// What the load has done.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    /// Writes acknowledged.
    pub(crate) writes: u64,
    /// Reads answered.
    pub(crate) reads: u64,
    /// Blocks that read as they must not: lost writes and stale reads.
    pub(crate) wrong: u64,
    /// Attempts that failed and were made again.
    pub(crate) retries: u64,
}

impl Shared {
    /// For a volume at `lun` on both portals; its first `blocks` blocks are used, and the first `busy` of them by the
    /// load.
    pub(crate) fn new(portals: [SocketAddr; 2], lun: u8, blocks: usize, busy: usize) -> Shared {
        Shared {
            portals,
            lun,
            ledger: Ledger::new(blocks),
            busy,
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            writes: read(&self.writes),
            reads: read(&self.reads),
            wrong: read(&self.wrong),
            retries: read(&self.retries),
        }
    }

    /// The longest that a request has taken since this was last asked.
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Why a worker gave up, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Writes all blocks once, in order.
    pub(crate) fn fill_all(&self) -> Result<(), String> {
        let mut paths = Paths::new(self, 1000);
        for first in (0..self.ledger.blocks()).step_by(SWEEP_BLOCKS) {
            paths.write(first, SWEEP_BLOCKS.min(self.ledger.blocks() - first))?;
        }
        paths.flush()
    }

    /// Reads and checks all blocks through one of the nodes.
    pub(crate) fn verify_all(&self, path: usize) -> Result<(), String> {
        let mut paths = Paths::new(self, 2000 + path as u32);
        for first in (0..self.ledger.blocks()).step_by(SWEEP_BLOCKS) {
            paths.preferred = path;
            paths.read(first, SWEEP_BLOCKS.min(self.ledger.blocks() - first))?;
        }
        Ok(())
    }
}

/// Workers at work.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `workers` workers, each with one request at a time.
    pub(crate) fn start(shared: &Arc<Shared>, workers: u32) -> std::io::Result<Load> {
        let mut load = Load { shared: Arc::clone(shared), workers: Vec::new() };
        for number in 0..workers {
            let shared = Arc::clone(shared);
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            load.workers.push(thread.spawn(move || work(&shared, number))?);
        }
        Ok(load)
    }

    /// Ends it, and waits for the requests in progress.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if worker.join().is_err() {
                self.shared.failure.lock().get_or_insert("a worker of the load failed".into());
            }
        }
    }
}

fn work(shared: &Shared, number: u32) {
    let mut paths = Paths::new(shared, number);
    let mut dice = Dice(u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    while !shared.stop.load(Ordering::Relaxed) {
        let count = 1 + dice.below(BLOCKS_MAX);
        let first = dice.below(shared.busy - count + 1);
        paths.preferred = dice.below(2);
        let outcome = match dice.below(100) {
            0..60 => paths.write(first, count),
            60..99 => paths.read(first, count),
            _ => paths.flush(),
        };
        if let Err(why) = outcome {
            shared.failure.lock().get_or_insert(why);
            return;
        }
    }
}

/// A worker's two sessions.
struct Paths<'a> {
    shared: &'a Shared,
    sessions: [Option<Session>; 2],
    number: u32,
    preferred: usize,
}

impl Paths<'_> {
    fn new(shared: &Shared, number: u32) -> Paths<'_> {
        Paths { shared, sessions: [None, None], number, preferred: 0 }
    }

    fn write(&mut self, first: usize, count: usize) -> Result<(), String> {
        let id = self.shared.ledger.begin_write(first, count);
        let mut data = vec![0; count * BLOCK];
        for (block, bytes) in (first as u64..).zip(data.chunks_exact_mut(BLOCK)) {
            fill(bytes, id, block);
        }
        let (lun, sector) = (self.shared.lun, first as u64 * 8);
        self.until_done("write", |session| session.write(lun, sector, &data))?;
        self.shared.ledger.acknowledged(id, first, count);
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read(&mut self, first: usize, count: usize) -> Result<(), String> {
        let since = self.shared.ledger.begin_read();
        let mut data = vec![0; count * BLOCK];
        let (lun, sector) = (self.shared.lun, first as u64 * 8);
        self.until_done("read", |session| session.read(lun, sector, &mut data))?;
        let blocks = data.chunks_exact(BLOCK).zip(first as u64..);
        let ids: Vec<_> = blocks.map(|(bytes, block)| id_of(bytes, block)).collect();
        let wrong = self.shared.ledger.read(since, first, &ids);
        for block in wrong.iter().take(4) {
            eprintln!("block {block} of LUN {lun} reads {:?}, which is lost or stale", ids[block - first]);
        }
        self.shared.wrong.fetch_add(wrong.len() as u64, Ordering::Relaxed);
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let lun = self.shared.lun;
        self.until_done("flush", |session| session.flush(lun))
    }

    /// Makes a request until it succeeds, on one path and then the other.
    fn until_done(
        &mut self,
        what: &str,
        mut request: impl FnMut(&mut Session) -> Result<(), Trouble>,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut path = self.preferred;
        loop {
            let outcome = self.session(path).and_then(&mut request);
            let took = begun.elapsed();
            let Err(trouble) = outcome else {
                self.shared.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                return Ok(());
            };
            if took > PATIENCE {
                return Err(format!("a {what} was not answered for {took:?}: {trouble}"));
            }
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
            // A refusal leaves the session whole, but what the other end may still do with it is then unknown.
            self.sessions[path] = None;
            path = 1 - path;
            std::thread::sleep(PAUSE);
        }
    }

    fn session(&mut self, path: usize) -> Result<&mut Session, Trouble> {
        let session = match self.sessions[path].take() {
            Some(session) => session,
            None => {
                let initiator = "iqn.2026-01.example.host:demo";
                Session::login(self.shared.portals[path], TARGET, initiator, self.number << 1 | path as u32)?
            }
        };
        Ok(self.sessions[path].insert(session))
    }
}

/// A small random generator (xorshift); the load need not be the same twice.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}
