//! Bounds of the store: plain values, set by whoever configures the node and shown again as `node::config`.

use crate::time::Duration;

/// Bounds of the cache of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheConfig {
    /// Most 4 KiB blocks held, clean and dirty.
    pub blocks_max: usize,
    /// Most of them dirty; writers wait beyond it. At most two thirds of `blocks_max`.
    pub dirty_blocks_max: usize,
    /// A dirty block is written back when it is this old, however empty the cache is.
    pub destage_age: Duration,
    /// Most disk writes of the destager in flight.
    pub destage_depth: usize,
    /// Most pages of block checksums held, at least 64: each takes 4 KiB, and covers 3.75 MiB of data. While half of
    /// them suffice for what is being written, checksums cost no writes of their own.
    pub sum_pages_max: usize,
    /// Checksums that have not changed for this long are written back, so that a crash does not make them unsure.
    pub sum_idle: Duration,
    /// How fast a scrub reads.
    pub scrub_bytes_per_second: u64,
}

impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig {
            blocks_max: 64 * 1024,
            dirty_blocks_max: 32 * 1024,
            destage_age: Duration::from_millis(500),
            destage_depth: 16,
            sum_pages_max: 4096,
            sum_idle: Duration::from_secs(10),
            scrub_bytes_per_second: 64 << 20,
        }
    }
}
