//! The edge that drives a node with real disks, links, clocks and threads.

mod gate;
mod in_process;
mod transport;

pub use in_process::{InProcess, in_process};
pub use transport::{Inbox, Transport};
