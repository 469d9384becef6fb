//! What a node needs to know before it starts.

use crate::arbiter::Arbitration;
use crate::ids::{BootId, NodeName, Uuid, VolumeId};
use crate::planted::Planted;
use crate::time::Duration;

pub use crate::store::CacheConfig;

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
    /// Bytes of the pool that are kept for it, rounded up to whole extents; what it uses counts. Zero: none.
    pub reserved_bytes: u64,
    /// Blocks of zeros in writes are not stored, as if they had been cleared.
    pub detect_zeros: bool,
}

/// How full a pool is, as thresholds tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SpaceLevel {
    /// Below all thresholds.
    #[default]
    Normal,
    /// Worth knowing.
    Info,
    /// Something should be done.
    Warning,
    /// Writes will soon fail.
    Critical,
}

/// Thresholds of the pool's use, in percent of its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceConfig {
    /// Use from which on it is worth knowing.
    pub info_percent: u8,
    /// Use from which on something should be done.
    pub warning_percent: u8,
    /// Use from which on writes will soon fail.
    pub critical_percent: u8,
    /// A threshold counts as left when use is so far below it.
    pub hysteresis_percent: u8,
}

impl Default for SpaceConfig {
    fn default() -> SpaceConfig {
        SpaceConfig { info_percent: 75, warning_percent: 85, critical_percent: 95, hysteresis_percent: 2 }
    }
}

impl SpaceConfig {
    const LEVELS: [SpaceLevel; 4] =
        [SpaceLevel::Normal, SpaceLevel::Info, SpaceLevel::Warning, SpaceLevel::Critical];

    fn threshold(self, level: SpaceLevel) -> u8 {
        match level {
            SpaceLevel::Normal => 0,
            SpaceLevel::Info => self.info_percent,
            SpaceLevel::Warning => self.warning_percent,
            SpaceLevel::Critical => self.critical_percent,
        }
    }

    /// What is wrong with these thresholds, if something is.
    pub fn problem(self) -> Option<&'static str> {
        let SpaceConfig { info_percent, warning_percent, critical_percent, hysteresis_percent } = self;
        if !(info_percent < warning_percent && warning_percent < critical_percent && critical_percent <= 100)
        {
            return Some(
                "the thresholds of pool use must rise from info through warning to critical, to 100 percent at most",
            );
        }
        (hysteresis_percent >= info_percent)
            .then_some("the hysteresis of the thresholds of pool use must be less than the lowest of them")
    }

    /// From one level to the next, if use says so: a step up when it has reached the next threshold, a step down when
    /// it has fallen clear of the last.
    pub fn step(self, level: SpaceLevel, used: u64, bytes: u64) -> SpaceLevel {
        let at = level as usize;
        let reached = |percent: u8| u128::from(used) * 100 >= u128::from(bytes) * u128::from(percent);
        match Self::LEVELS.get(at + 1) {
            Some(&next) if reached(self.threshold(next)) => next,
            _ if at > 0 && !reached(self.threshold(level).saturating_sub(self.hysteresis_percent)) => {
                Self::LEVELS[at - 1]
            }
            _ => level,
        }
    }
}

/// What the owner of a mirrored volume does with a write for which its partner's pool has no space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The write fails; the mirror stays whole.
    #[default]
    Refuse,
    /// The partner is dropped as if it were lost, and the write is done here alone. Only where this node is sure to go on,
    /// or an arbiter decides; otherwise as `Refuse`.
    Degrade,
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
    /// What to do when the partner's pool is full.
    pub when_partner_full: WhenFull,
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
            when_partner_full: WhenFull::Refuse,
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
    /// Thresholds of the pool's use.
    pub space: SpaceConfig,
    /// Snapshots and clones may be made; the same on both nodes. What is not shown of them yet is in
    /// `engine/docs/snapshots.md`. What has been made is there without this too.
    pub experimental_snapshots: bool,
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
            space: SpaceConfig::default(),
            experimental_snapshots: false,
            planted: Planted::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_once_and_fall_with_a_margin() {
        let config = SpaceConfig::default();
        let mut level = SpaceLevel::Normal;
        let mut told = Vec::new();
        for used in [74, 75, 74, 73, 75, 96, 94, 93, 92, 83, 82, 72, 0] {
            while config.step(level, used, 100) != level {
                level = config.step(level, used, 100);
                told.push((used, level));
            }
        }
        use SpaceLevel::{Critical, Info, Normal, Warning};
        let expected = [(75, Info), (96, Warning), (96, Critical), (92, Warning), (82, Info), (72, Normal)];
        assert_eq!(told, expected);
    }

    #[test]
    fn thresholds_must_ascend() {
        let with = |info_percent, warning_percent, critical_percent, hysteresis_percent| {
            SpaceConfig { info_percent, warning_percent, critical_percent, hysteresis_percent }.problem()
        };
        assert_eq!(SpaceConfig::default().problem(), None);
        assert_eq!(with(10, 20, 100, 9), None);
        for bad in [with(75, 75, 95, 2), with(90, 85, 95, 2), with(75, 85, 101, 2), with(2, 85, 95, 2)] {
            assert!(bad.is_some());
        }
    }
}
