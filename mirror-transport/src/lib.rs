//! The mirror link over TCP: an engine [`Transport`](twinsan::runtime::Transport) between two machines.
//!
//! Node `a` listens, node `b` connects, again and again until they are joined. Both exchange a greeting, and then
//! the frames of [`twinsan::mirror::wire`]. `engine/docs/protocol.md`, section "Wire", has the bytes.
//!
//! How it spends little:
//! - A sender writes on its own thread, all that is queued with one call, when the socket takes it. Only what the
//!   socket does not take goes to a writer thread.
//! - One thread per link receives, straight into pages, as much as there is with one call, and runs the engine's
//!   inbox with it. What the engine answers to one receive leaves with one call.
//!
//! Invariants:
//! - The inbox hears of a link: up, messages in order, down; then nothing more of it, and only then of the next.
//! - An urgent message waits for at most one batch of 64 KiB that has left the queue, and for what the kernel holds.
//! - Memory is bounded: the queue by its caps, strangers by a fixed number of 64-byte greetings.
//! - A connection that breaks a rule is closed; the data never shows it.
//!
//! Until nodes are paired with keys (mutual TLS), only loopback addresses are taken.

mod accept;
mod config;
mod connection;
mod dial;
mod greeting;
mod link;
mod notice;
#[cfg(test)]
mod tests;

pub use config::LinkConfig;
pub use link::TcpLink;
pub use notice::{LinkError, Notice, Refusal};
