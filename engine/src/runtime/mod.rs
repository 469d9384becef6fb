//! The edge that drives a node with real disks, links, clocks and threads.

#![expect(clippy::disallowed_methods, reason = "an edge: the threads live here")]

mod clock;
mod core;
mod engine;
mod gate;
mod in_process;
mod lifecycle;
mod machine;
mod requests;
#[cfg(test)]
mod tests;
mod timer;
mod transport;
mod volume;

pub use clock::{BootClock, Clock};
pub use engine::{Engine, EngineBuilder, NotClean, StartError};
pub use in_process::{InProcess, in_process};
pub use transport::{Inbox, Transport};
