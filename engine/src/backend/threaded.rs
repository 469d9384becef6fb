//! Makes a backend of a device whose calls block, with a few threads.
//!
//! Invariants:
//! - A flush covers every write that was answered before the flush was submitted: it runs after its submission,
//!   and a flush that waits for another to end begins its own afterwards.
//! - One flush runs at a time, and after a failed one all fail. The system reports a lost write once; of two
//!   flushes at the same time the second could be told that all is well.
//! - A call that unwinds is a failed request, not a lost one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::queue::Queue;
use super::{BackendRequest, BlockBackend, Completion, check};
use crate::block::{Block, Payload};
use crate::io::{DiskError, DiskOp, DiskResult, Geometry};

/// A disk whose calls block. They come from several threads at once, with places that lie within
/// [`geometry`](Self::geometry).
pub trait BlockingDevice: Send + Sync + 'static {
    /// Its size; never changes while it is open.
    fn geometry(&self) -> Geometry;

    /// Reads `blocks` 4 KiB blocks at byte `offset`.
    fn read(&self, offset: u64, blocks: u32) -> DiskResult;

    /// Writes `data` at byte `offset`.
    fn write(&self, offset: u64, data: &[Block]) -> Result<(), DiskError>;

    /// Makes all writes that have returned durable. Not called again after it has failed.
    fn flush(&self) -> Result<(), DiskError>;
}

/// A [`BlockBackend`] over a [`BlockingDevice`].
///
/// Dropping it answers what is queued with [`DiskError::Dropped`] and waits for the calls in progress: afterwards
/// nothing touches the device.
pub struct Threaded<D: BlockingDevice> {
    shared: Arc<Shared<D>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<D> {
    device: D,
    queue: Queue<BackendRequest>,
    flushes: Mutex<Flushes>,
}

#[derive(Default)]
struct Flushes {
    running: bool,
    failed: bool,
    waiting: Vec<Completion>,
}

impl<D: BlockingDevice> Threaded<D> {
    /// Starts `threads` threads (at least one), which is the number of requests in progress at once.
    pub fn new(device: D, threads: usize) -> std::io::Result<Threaded<D>> {
        let shared = Arc::new(Shared { device, queue: Queue::new(), flushes: Mutex::default() });
        let mut backend = Threaded { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&backend.shared);
            let thread =
                thread::Builder::new().name(format!("twinsan-disk-{number}")).spawn(move || shared.work())?;
            backend.threads.push(thread);
        }
        Ok(backend)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.shared.device
    }

    /// What dropping does; afterwards requests answer [`DiskError::Dropped`].
    pub(super) fn finish(&mut self) {
        // A request that no thread takes any more answers by being dropped, here and in `submit`.
        drop(self.shared.queue.close());
        for thread in self.threads.drain(..) {
            // The last owner may have let go in a completion, on one of these threads.
            if thread.thread().id() != thread::current().id() {
                // A thread that panicked has dropped, and so answered, its request.
                drop(thread.join());
            }
        }
    }
}

impl<D: BlockingDevice> BlockBackend for Threaded<D> {
    fn geometry(&self) -> Geometry {
        self.shared.device.geometry()
    }

    fn submit(&self, request: BackendRequest) {
        if let Err(error) = check(self.geometry(), request.op()) {
            return request.complete(Err(error));
        }
        drop(self.shared.queue.push(request));
    }
}

impl<D: BlockingDevice> Drop for Threaded<D> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<D: BlockingDevice> Shared<D> {
    fn work(&self) {
        while let Some(request) = self.queue.take() {
            // A sink that panics must not take the thread with it.
            drop(catch_unwind(AssertUnwindSafe(|| self.serve(request))));
        }
    }

    fn serve(&self, request: BackendRequest) {
        let (op, answer) = request.into_parts();
        match op {
            DiskOp::Read { offset, blocks } => {
                answer.complete(contained(|| self.device.read(offset, blocks)));
            }
            DiskOp::Write { offset, data } => {
                let result = contained(|| self.device.write(offset, &data));
                drop(data);
                answer.complete(result.map(|()| Payload::new()));
            }
            DiskOp::Flush => self.flush(answer),
        }
    }

    /// Flushes for `answer` and for those that come while it runs, or leaves it to the thread that is at it.
    fn flush(&self, answer: Completion) {
        let mut flushes = self.flushes.lock();
        flushes.waiting.push(answer);
        if std::mem::replace(&mut flushes.running, true) {
            return;
        }
        while !flushes.waiting.is_empty() {
            let served = std::mem::take(&mut flushes.waiting);
            let failed = flushes.failed;
            drop(flushes);
            let result = if failed { Err(DiskError::Failed) } else { contained(|| self.device.flush()) };
            if result.is_err() {
                self.flushes.lock().failed = true;
            }
            for answer in served {
                let result = result.map(|()| Payload::new());
                drop(catch_unwind(AssertUnwindSafe(|| answer.complete(result))));
            }
            flushes = self.flushes.lock();
        }
        flushes.running = false;
    }
}

fn contained<T>(call: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(DiskError::Failed))
}
