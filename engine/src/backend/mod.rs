//! The edge to disks and to the system: block backends, the register in a shared file, clock and random source.
//!
//! A [`BlockBackend`] takes requests and never blocks. It answers each exactly once, from any thread, in any
//! order, possibly before `submit` returns: the answer travels with the request, and a request that is dropped
//! answers [`DiskError::Dropped`] by itself. What the engine relies on is written down in [`crate::io`].
//!
//! An embedder's own device is either a [`BlockBackend`], if it is asynchronous, or a [`BlockingDevice`] in a
//! [`Threaded`]:
//!
//! ```
//! use std::sync::Mutex;
//! use twinsan::backend::{self, BlockBackend, BlockingDevice, Threaded};
//! use twinsan::block::{BLOCK_BYTES, Block, PagePool, payload_from};
//! use twinsan::io::{DiskError, DiskOp, DiskResult, Geometry};
//!
//! struct Bytes(Mutex<Vec<u8>>, PagePool);
//!
//! impl BlockingDevice for Bytes {
//!     fn geometry(&self) -> Geometry {
//!         Geometry { bytes: self.0.lock().unwrap().len() as u64, sector_bytes: 512 }
//!     }
//!     fn read(&self, offset: u64, blocks: u32) -> DiskResult {
//!         let (start, length) = (offset as usize, blocks as usize * BLOCK_BYTES);
//!         Ok(payload_from(&self.1, &self.0.lock().unwrap()[start..start + length]))
//!     }
//!     fn write(&self, offset: u64, data: &[Block]) -> Result<(), DiskError> {
//!         let mut bytes = self.0.lock().unwrap();
//!         for (place, block) in bytes[offset as usize..].chunks_mut(BLOCK_BYTES).zip(data) {
//!             place.copy_from_slice(block.bytes());
//!         }
//!         Ok(())
//!     }
//!     fn flush(&self) -> Result<(), DiskError> {
//!         Ok(())
//!     }
//! }
//!
//! let pages = PagePool::new();
//! let disk = Threaded::new(Bytes(Mutex::new(vec![0; 1 << 20]), pages.clone()), 2)?;
//! let data = payload_from(&pages, b"written through a backend");
//! backend::perform(&disk, DiskOp::Write { offset: 8192, data: data.clone() })?;
//! let read = backend::perform(&disk, DiskOp::Read { offset: 8192, blocks: 1 })?;
//! assert!(read[0].same(&data[0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an edge: files, threads and clocks live here"
)]

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::block::BLOCK_BYTES;
use crate::io::{DiskError, DiskOp, DiskResult, Geometry, IoId};

mod arbiter_file;
mod file;
mod memory;
mod queue;
mod sys;
mod threaded;

pub use arbiter_file::FileArbiter;
pub use file::{FileBackend, FileOptions, OpenError, create_sparse};
pub use memory::MemoryBackend;
pub use sys::{boot_time, random_boot_id, random_uuid};
pub use threaded::{BlockingDevice, Threaded};

/// A disk of a pool.
pub trait BlockBackend: Send + Sync {
    /// Its size; never changes while it is open.
    fn geometry(&self) -> Geometry;

    /// Starts a request. Does not block.
    fn submit(&self, request: BackendRequest);
}

/// Takes the answers of disk requests. Called once per request, by any thread; it must not block.
pub trait DiskSink: Send + Sync {
    /// The request `id` has finished.
    fn complete(&self, id: IoId, result: DiskResult);
}

/// A request with the place its answer goes to.
pub struct BackendRequest {
    op: DiskOp,
    answer: Completion,
}

impl BackendRequest {
    /// Asks for `op`; the answer goes to `sink` with `id`.
    pub fn new(op: DiskOp, sink: Arc<dyn DiskSink>, id: IoId) -> BackendRequest {
        BackendRequest { op, answer: Completion { sink: Some(sink), id } }
    }

    /// What is asked.
    pub fn op(&self) -> &DiskOp {
        &self.op
    }

    /// Answers it.
    pub fn complete(self, result: DiskResult) {
        self.answer.complete(result);
    }

    /// What is asked, and the duty to answer.
    pub fn into_parts(self) -> (DiskOp, Completion) {
        (self.op, self.answer)
    }
}

/// The duty to answer one request. Dropped, it answers [`DiskError::Dropped`].
pub struct Completion {
    sink: Option<Arc<dyn DiskSink>>,
    id: IoId,
}

impl Completion {
    /// Answers.
    pub fn complete(mut self, result: DiskResult) {
        self.answer(result);
    }

    fn answer(&mut self, result: DiskResult) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.id, result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.answer(Err(DiskError::Dropped));
    }
}

/// Does `op` lie within the disk, on 4 KiB boundaries? [`DiskError::Invalid`] if not. For backends.
pub fn check(geometry: Geometry, op: &DiskOp) -> Result<(), DiskError> {
    let (offset, blocks) = match op {
        DiskOp::Read { offset, blocks } => (*offset, u64::from(*blocks)),
        DiskOp::Write { offset, data } => (*offset, data.len() as u64),
        DiskOp::Flush => return Ok(()),
    };
    let end = offset.checked_add(blocks * BLOCK_BYTES as u64).ok_or(DiskError::Invalid)?;
    if offset.is_multiple_of(BLOCK_BYTES as u64) && end <= geometry.bytes {
        Ok(())
    } else {
        Err(DiskError::Invalid)
    }
}

/// Carries out one request and waits for its answer: for formatting, tools and tests.
pub fn perform(backend: &dyn BlockBackend, op: DiskOp) -> DiskResult {
    struct Waiter {
        answer: Mutex<Option<DiskResult>>,
        came: Condvar,
    }
    impl DiskSink for Waiter {
        fn complete(&self, _id: IoId, result: DiskResult) {
            *self.answer.lock() = Some(result);
            self.came.notify_one();
        }
    }
    let waiter = Arc::new(Waiter { answer: Mutex::new(None), came: Condvar::new() });
    backend.submit(BackendRequest::new(op, Arc::clone(&waiter) as Arc<dyn DiskSink>, IoId(0)));
    let mut answer = waiter.answer.lock();
    loop {
        if let Some(result) = answer.take() {
            return result;
        }
        waiter.came.wait(&mut answer);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::TempDir;
