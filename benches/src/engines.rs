//! Engines over disks in memory: one with linear volumes, or two in one process, joined by the in-process transport.

use std::sync::Arc;

use twinsan::arbiter::{Arbiter, MemoryArbiter};
use twinsan::backend::{BlockBackend, MemoryBackend, perform};
use twinsan::block::Payload;
use twinsan::guest::Sectors;
use twinsan::ids::{Uuid, VolumeId};
use twinsan::io::DiskOp;
use twinsan::node::config::VolumeConfig;
use twinsan::node::event::Notice;
use twinsan::runtime::{Engine, Transport, in_process};

use crate::by_hand::{DISK, VOLUME, config, formatted};

/// An engine that serves so many linear volumes, numbered from 1.
///
/// # Panics
/// If it does not start.
pub fn linear(volumes: u32) -> Engine {
    let disk = MemoryBackend::new(DISK.bytes);
    for (offset, data) in formatted(0) {
        perform(&disk, DiskOp::Write { offset, data }).expect("memory does not fail");
    }
    let mut config = config(0, 1, 0);
    let first = config.volumes[0].clone();
    config.volumes.extend((2..=volumes).map(|id| VolumeConfig {
        id: VolumeId(id),
        name: format!("bench {id}"),
        uuid: Uuid(98 + u128::from(id)),
        ..first.clone()
    }));
    let engine = Engine::builder(config).disk(Arc::new(disk) as Arc<dyn BlockBackend>).start();
    let engine = engine.expect("the engine starts");
    let opened = engine.notices().iter().any(|notice| matches!(notice, Notice::Opened));
    assert!(opened, "the engine ended before its pool was open");
    engine
}

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
