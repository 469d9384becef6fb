//! The edge that drives a node with real disks, links, clocks and threads: what an embedder uses.
//!
//! An [`Engine`] is one node of a pair. Requests come from any thread, through a
//! [`VirtualVolume`](crate::guest::VirtualVolume) with a [`Sink`](crate::guest::Sink) for the answers, or through calls
//! that wait. The calling thread steps the node itself, beside threads that step other volumes; besides there are a timer,
//! a thread that asks the arbiter, and the threads of the disks and the transport. There is no async runtime.
//!
//! Two nodes in one process, over disks in memory:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use twinsan::arbiter::{Arbitration, MemoryArbiter};
//! use twinsan::backend::{BlockBackend, MemoryBackend, random_uuid};
//! use twinsan::block::{PagePool, payload_from};
//! use twinsan::guest::Sectors;
//! use twinsan::ids::{NodeName, VolumeId};
//! use twinsan::node::config::{NodeConfig, VolumeConfig};
//! use twinsan::node::event::Notice;
//! use twinsan::runtime::{Engine, NewPool, Transport, format_pool, in_process};
//!
//! let partnership = random_uuid()?;
//! let volume = VolumeConfig {
//!     id: VolumeId(1),
//!     name: "VMFS-V1".into(),
//!     uuid: random_uuid()?,
//!     sectors: (2 << 40) / 512, // thin: takes space as it is written
//!     mirrored: true,
//!     reserved_bytes: 0, // of the pool, kept for it
//!     detect_zeros: false,
//! };
//! let arbiter = Arc::new(MemoryArbiter::new());
//! let start = |name, wire: Arc<dyn Transport>| {
//!     let disk: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(64 << 20));
//!     format_pool(&[Arc::clone(&disk)], &NewPool::new(partnership, name))?;
//!     let mut config = NodeConfig::new(name, partnership);
//!     config.arbitration = Arbitration::Register;
//!     config.volumes.push(volume.clone());
//!     let builder = Engine::builder(config).disk(disk).transport(wire).arbiter(arbiter.clone());
//!     Ok::<Engine, Box<dyn std::error::Error>>(builder.start()?)
//! };
//! let (wire_a, wire_b) = in_process();
//! let (a, b) = (start(NodeName::A, wire_a)?, start(NodeName::B, wire_b)?);
//! for engine in [&a, &b] {
//!     engine.notices().iter().find(|notice| matches!(notice, Notice::Paired(_))).ok_or("not paired")?;
//! }
//!
//! // Written at one, read at the other.
//! let data = payload_from(&PagePool::new(), b"acknowledged by both");
//! a.write(VolumeId(1), Sectors::new(2048, 8), data.clone())?;
//! assert!(b.read(VolumeId(1), Sectors::new(2048, 8))?[0].same(&data[0]));
//!
//! // One leaves, the other goes on.
//! a.stop(Duration::from_secs(10))?;
//! assert!(b.read(VolumeId(1), Sectors::new(2048, 8))?[0].same(&data[0]));
//! b.stop(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![expect(clippy::disallowed_methods, reason = "an edge: the threads live here")]

mod asker;
mod burst;
mod clock;
mod clones;
mod core;
mod engine;
mod format;
mod gate;
mod in_process;
mod lane;
mod lifecycle;
mod machine;
mod operators;
mod pool;
mod queue;
mod requests;
mod sizes;
#[cfg(test)]
mod tests;
mod timer;
mod transport;
mod volume;
mod world;

pub use burst::burst;
pub use clock::{BootClock, Clock};
pub use clones::CloneError;
pub use engine::{Engine, EngineBuilder, NotClean, StartError};
pub use format::{FormatError, NewPool, format_pool, open_pool, probe};
pub use in_process::{InProcess, in_process};
pub use pool::PoolChangeError;
pub use transport::{Inbox, Transport};

pub use crate::mirror::message::VolumeRefusal;
