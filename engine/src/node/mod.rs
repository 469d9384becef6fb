//! The node: a pure state machine that routes events to the parts and their wishes back out as actions.

pub mod config;
pub mod event;
