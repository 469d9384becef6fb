//! The witness: a third machine that remembers, for any number of pairs, who was last allowed to serve.
//!
//! [`Server`] keeps one register per partnership in a directory and changes it by compare-and-swap. [`Witness`] is the
//! engine's [`Arbiter`](twinsan::arbiter::Arbiter) that asks such a server. `docs/protocol.md` has every byte between
//! them, `docs/operating.md` where to run a witness and what a restored backup can do.
//!
//! Invariants:
//! - What is answered is durable. The register's file is that of [`twinsan::backend::FileArbiter`], written and renamed
//!   by the same code.
//! - Nobody without the partnership's secret reads or changes its register, or has more looked at than a hello and
//!   one question.
//! - Every message has 64 bytes. No length comes over the wire, so none is trusted.
//! - Of one asker's questions none is carried out after a later one: the first question on a new connection ends the
//!   earlier ones.
//! - Connections, strangers, partnerships and the time of a login are bounded.

mod addresses;
mod body;
mod client;
mod connections;
mod exercise;
mod message;
mod notice;
mod registers;
mod seal;
mod secret;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use client::{Witness, WitnessConfig};
pub use exercise::exercise;
pub use notice::{Notice, Refusal, WitnessError};
pub use secret::{Secret, SecretError};
pub use server::{PARTNERSHIPS_MAX, Server, ServerConfig};
