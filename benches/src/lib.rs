//! What the benches measure, ready to be driven: nodes fed by hand over disks in memory, two engines in one
//! process, histories for the checker, and a big pool to open.
//!
//! Nothing here waits: disks answer at once, messages arrive at once, and time moves when told. So a bench
//! counts the work of the product and little else.

pub mod by_hand;
pub mod engines;
pub mod history;
pub mod pool;
