//! The runtime: over a scripted machine, and as an embedder uses it, over real nodes.

mod beside;
mod burst;
mod clones;
mod disks;
mod parallel;
mod scripted;
mod story;
mod volumes;
