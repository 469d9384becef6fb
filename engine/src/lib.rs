//! Twinsan: a storage engine that turns the disks of two servers into one highly available SAN.
//!
//! The core is a pure state machine, [`node::Node`]: events in, actions out. It knows no clock, thread, file
//! or socket. Two edges drive it: [`runtime`] with real disks, clocks and links, and `sim` with simulated
//! ones. Both run the same code.
//!
//! Dependencies point one way: `runtime`, `sim`, `backend` → `node` → the parts (`store`, `cache`, `pool`,
//! `mirror`, `arbiter`) → `format`, `block`, `bits`, `io`, `time`.

pub mod arbiter;
pub mod backend;
pub mod bits;
pub mod block;
pub mod cache;
mod cells;
pub mod format;
pub mod guest;
pub mod ids;
pub mod io;
pub mod le;
pub mod mirror;
pub mod node;
pub mod planted;
pub mod pool;
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod time;
