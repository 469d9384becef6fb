//! The runtime: over a scripted machine, and as an embedder uses it, over real nodes.

mod scripted;
mod story;
