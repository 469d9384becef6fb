//! Every byte on disk, as fixed, little-endian structs of alignment 1. `engine/docs/format.md` documents the
//! offsets; `engine/tests/pool_format.rs` asserts them.
//!
//! Nothing here decides anything: what the bytes mean is the pool's business. What is read is checked before
//! it is believed: magic, version, length, checksum, and the identity of the pool.

pub mod frame;
pub mod int;
pub mod record;
pub mod sums;
pub mod superblock;

/// Version of the format that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;
