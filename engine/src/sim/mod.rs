//! The simulator: two nodes, their disks, their link, the arbiter and hosts with two paths, on virtual time.
//!
//! A seed expands to a [`plan`]; running a plan gives a [`history`] and a trace hash; the same seed and code
//! give the same hash. The [`checker`] tells whether the history is one that a set of disks could have had.
//! The nodes are the product's own code; only what is around them is simulated.

pub mod arbiter;
pub mod checker;
pub mod cluster;
pub mod disk;
pub mod generate;
pub mod history;
pub mod hosts;
pub mod network;
pub mod pattern;
pub mod plan;
pub mod rng;
pub mod trace;

pub use cluster::Cluster;
pub use generate::Scale;
pub use plan::{Plan, Setup, Step, Verb};
