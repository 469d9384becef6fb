//! What a node needs to know before it starts.

use crate::arbiter::Arbitration;
use crate::ids::{BootId, NodeName, Uuid, VolumeId};
use crate::planted::Planted;
use crate::time::Duration;

/// A virtual volume as configured. Volumes that do not exist yet are created when the node starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Unique in the partnership.
    pub id: VolumeId,
    /// Shown to people.
    pub name: String,
    /// Shown to hosts; the same on both nodes.
    pub uuid: Uuid,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Has it a half on each node?
    pub mirrored: bool,
}

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
}

impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig {
            blocks_max: 64 * 1024,
            dirty_blocks_max: 32 * 1024,
            destage_age: Duration::from_millis(500),
            destage_depth: 16,
        }
    }
}

/// Times and limits of the mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MirrorConfig {
    /// A node serves only while it has heard from its partner within this.
    pub lease: Duration,
    /// How often it asks.
    pub heartbeat: Duration,
    /// Added to the partner's lease before a winner goes on, for clocks that drift.
    pub lease_margin: Duration,
    /// How long a link may be down before the arbiter is asked.
    pub link_grace: Duration,
    /// With no verdict after this, held I/O is answered "unavailable".
    pub verdict_bound: Duration,
    /// How long a question to the arbiter may take before it is asked again.
    pub arbiter_retry: Duration,
    /// How long a forwarded write may wait for its place.
    pub forward_deadline: Duration,
    /// Most areas in the hot set of one volume.
    pub hot_areas_max: usize,
    /// An area without writes for this long is cooled.
    pub hot_idle: Duration,
    /// Blocks per hot area, a power of two. Default 1024 (4 MiB).
    pub area_blocks: u64,
    /// Most resync blocks in flight to the target.
    pub resync_blocks_in_flight: u64,
    /// Most blocks of writes in flight to the partner.
    pub write_blocks_in_flight: u64,
}

impl Default for MirrorConfig {
    fn default() -> MirrorConfig {
        MirrorConfig {
            lease: Duration::from_secs(2),
            heartbeat: Duration::from_millis(250),
            lease_margin: Duration::from_millis(100),
            link_grace: Duration::from_millis(300),
            verdict_bound: Duration::from_secs(20),
            arbiter_retry: Duration::from_millis(500),
            forward_deadline: Duration::from_secs(4),
            hot_areas_max: 2048,
            hot_idle: Duration::from_secs(10),
            area_blocks: 1024,
            resync_blocks_in_flight: 2048,
            write_blocks_in_flight: 16 * 1024,
        }
    }
}

/// Everything a node needs to know before it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Which of the two it is.
    pub name: NodeName,
    /// The partnership; the same on both nodes.
    pub partnership: Uuid,
    /// This life of its memory; random, never zero. The runtime replaces zero by a random one.
    pub boot: BootId,
    /// Who decides when the nodes lose each other.
    pub arbitration: Arbitration,
    /// The node that goes on under [`Arbitration::Preferred`], and that forms a new partnership.
    pub preferred: NodeName,
    /// The volumes.
    pub volumes: Vec<VolumeConfig>,
    /// Cache bounds.
    pub cache: CacheConfig,
    /// Mirror times.
    pub mirror: MirrorConfig,
    /// For the simulator's exam.
    pub planted: Planted,
}

impl NodeConfig {
    /// A node with default bounds and times and without volumes, whose boot id the runtime chooses.
    pub fn new(name: NodeName, partnership: Uuid) -> NodeConfig {
        NodeConfig {
            name,
            partnership,
            boot: BootId(0),
            arbitration: Arbitration::default(),
            preferred: NodeName::A,
            volumes: Vec::new(),
            cache: CacheConfig::default(),
            mirror: MirrorConfig::default(),
            planted: Planted::NONE,
        }
    }
}
