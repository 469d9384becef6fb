//! The mirror: what the two nodes say to each other and how they decide.

pub mod message;
pub mod rejoin;
pub mod wire;
