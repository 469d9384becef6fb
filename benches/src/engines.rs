//! Two engines in one process, joined by the in-process transport, over disks in memory.

use std::sync::Arc;

use twinsan::arbiter::{Arbiter, MemoryArbiter};
use twinsan::backend::{BlockBackend, MemoryBackend, perform};
use twinsan::block::Payload;
use twinsan::guest::Sectors;
use twinsan::io::DiskOp;
use twinsan::node::event::Notice;
use twinsan::runtime::{Engine, Transport, in_process};

use crate::by_hand::{DISK, VOLUME, config, formatted};

/// Two engines that serve one mirrored volume.
pub struct Pair(
    /// Nodes a and b.
    pub [Engine; 2],
);

impl Pair {
    /// They serve when this returns.
    ///
    /// # Panics
    /// If an engine does not start.
    pub fn new() -> Pair {
        let (a, b) = in_process();
        let arbiter: Arc<dyn Arbiter> = Arc::new(MemoryArbiter::default());
        let ends: [Arc<dyn Transport>; 2] = [a, b];
        let mut n = 0;
        let engines = ends.map(|transport| {
            let disk = MemoryBackend::new(DISK.bytes);
            for (offset, data) in formatted(n) {
                perform(&disk, DiskOp::Write { offset, data }).expect("memory does not fail");
            }
            let builder = Engine::builder(config(n, 2, 0)).disk(Arc::new(disk) as Arc<dyn BlockBackend>);
            n += 1;
            builder.transport(transport).arbiter(Arc::clone(&arbiter)).start().expect("the engine starts")
        });
        for engine in &engines {
            let paired = engine.notices().iter().any(|notice| matches!(notice, Notice::Paired(_)));
            assert!(paired, "the engine ended before it was paired");
        }
        Pair(engines)
    }

    /// Writes one block by node `n`.
    ///
    /// # Panics
    /// If the write fails.
    pub fn write(&self, n: usize, block: u64, data: Payload) {
        self.0[n].write(VOLUME, Sectors::new(block * 8, 8), data).expect("a healthy pair writes");
    }
}

impl Default for Pair {
    fn default() -> Pair {
        Pair::new()
    }
}
