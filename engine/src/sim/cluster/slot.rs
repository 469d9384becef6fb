//! One of the two servers: its clock, its disks, and the node in the current life of its memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::disks::Asked;
use crate::arbiter::Arbitration;
use crate::guest::Items;
use crate::ids::{BootId, NodeName, Uuid, VolumeId};
use crate::io::Geometry;
use crate::mirror::message::{PeerPhase, VolumeChange};
use crate::node::Node;
use crate::node::config::{CacheConfig, MirrorConfig, NodeConfig, SpaceConfig, VolumeConfig};
use crate::node::event::Event;
use crate::planted::Planted;
use crate::pool::{FormatIds, PoolOptions, format};
use crate::sim::disk::{DiskSpeed, SimDisk};
use crate::sim::plan::Setup;
use crate::sim::rng::{Rng, mix};
use crate::time::{Duration, Instant};

/// The partnership's identity in every run.
pub(super) const PARTNERSHIP: Uuid = Uuid(0x7477_696e_7361_6e00_0000_0000_0000_0001);

/// A clock that began anywhere and does not run quite true.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base: Instant,
    shows: Instant,
    ppm: i64,
}

impl Clock {
    pub(super) fn new(now: Instant, shows: Instant) -> Clock {
        Clock { base: now, shows, ppm: 0 }
    }

    pub(super) fn at(&self, now: Instant) -> Instant {
        let passed = i128::from((now - self.base).as_nanos() as u64);
        let scaled = passed + passed * i128::from(self.ppm) / 1_000_000;
        self.shows + Duration::from_nanos(scaled as u64)
    }

    /// When it will show `shows` or a little more.
    pub(super) fn when(&self, shows: Instant) -> Instant {
        let passed = i128::from((shows - self.shows).as_nanos() as u64);
        let scaled = passed * 1_000_000 / (1_000_000 + i128::from(self.ppm)) + 1;
        self.base + Duration::from_nanos(scaled as u64)
    }

    pub(super) fn drift(&mut self, now: Instant, ppm: i64) {
        *self = Clock { base: now, shows: self.at(now), ppm };
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: NodeName,
    pub(super) node: Option<Node>,
    /// Number of the current or last life.
    pub(super) life: u64,
    pub(super) clock: Clock,
    pub(super) disks: Vec<SimDisk>,
    /// Which of them the node of this life knows by each number.
    pub(super) devices: Vec<usize>,
    /// What the operator has asked of the pool, and waits for.
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) questions: u64,
    /// Changes of volumes that the operator waits for.
    pub(super) changes: BTreeMap<u64, (VolumeId, VolumeChange)>,
    /// What is kept with the volumes, as it is in force.
    pub(super) items: BTreeMap<VolumeId, Arc<Items>>,
    pub(super) paused: bool,
    /// When the last pause began.
    pub(super) paused_at: Instant,
    /// What waits for a paused node.
    pub(super) inbox: VecDeque<Event>,
    pub(super) tick_at: Option<Instant>,
    /// Which steps volumes take beside each other, and how long the node then waits to look.
    pub(super) step_rng: Rng,
    /// As its notices tell.
    pub(super) phase: PeerPhase,
    pub(super) opened: bool,
    pub(super) stopping: bool,
    /// Its disks failed for good; they are replaced when the partner serves alone.
    pub(super) disk_failed: bool,
    /// How often its pool was formatted.
    pub(super) pools: u64,
    pub(super) resyncing: bool,
    /// Its clean stop began while it served alone.
    pub(super) stopped_alone: bool,
    /// Times in a row that it was woken by its own deadline.
    pub(super) ticks: u32,
    /// Nothing is marked yet of what its new disks lack: they differ as a whole.
    pub(super) fresh: bool,
}

impl Slot {
    pub(super) fn new(name: NodeName, root: &Rng) -> Slot {
        Slot {
            name,
            node: None,
            life: 0,
            clock: Clock::new(Instant::ZERO, Instant::ZERO),
            disks: Vec::new(),
            devices: Vec::new(),
            asked: BTreeMap::new(),
            questions: 0,
            changes: BTreeMap::new(),
            items: BTreeMap::new(),
            paused: false,
            paused_at: Instant::ZERO,
            inbox: VecDeque::new(),
            tick_at: None,
            step_rng: root.fork(if name == NodeName::A { "steps a" } else { "steps b" }),
            phase: PeerPhase::Stopped,
            opened: false,
            stopping: false,
            disk_failed: false,
            pools: 0,
            resyncing: false,
            stopped_alone: false,
            ticks: 0,
            fresh: true,
        }
    }

    pub(super) fn alive(&self) -> bool {
        self.node.is_some()
    }

    /// New, empty disks with a fresh pool.
    pub(super) fn format(&mut self, setup: &Setup) {
        self.pools += 1;
        self.fresh = true;
        let small = setup.small_node == Some(self.name);
        let bytes = if small { setup.small_disk_bytes } else { setup.disk_bytes };
        let geometry = Geometry { bytes, sector_bytes: setup.sector_bytes };
        let geometries = vec![geometry; usize::from(setup.disks)];
        let speed = DiskSpeed { transfer_us: setup.transfer_us, flush_us: setup.flush_us };
        self.disks = geometries.iter().map(|geometry| SimDisk::new(*geometry, speed).with_junk()).collect();
        let uuid = |what: u64| {
            let seed = mix(setup.seed ^ what << 8 ^ self.pools << 32 ^ (self.name as u64) << 56);
            Uuid(u128::from(seed) << 64 | u128::from(mix(seed)))
        };
        let ids = FormatIds {
            pool: uuid(1),
            disks: (0..setup.disks).map(|index| uuid(2 + u64::from(index))).collect(),
            partnership: PARTNERSHIP,
            node: self.name,
        };
        let options = PoolOptions { extent_bytes: setup.extent_bytes, ..PoolOptions::default() };
        let writes = format(&ids, &options, &geometries).expect("the generated pools can be formatted");
        for write in writes {
            self.disks[usize::from(write.disk.0)].install(write.offset, &write.data);
        }
    }

    pub(super) fn config(&self, setup: &Setup, planted: Planted, rng: &mut Rng) -> NodeConfig {
        NodeConfig {
            name: self.name,
            partnership: PARTNERSHIP,
            boot: BootId(rng.bits() | 1),
            arbitration: setup.arbitration,
            preferred: setup.preferred,
            volumes: volumes(setup, self.name),
            cache: CacheConfig {
                blocks_max: setup.cache_blocks,
                dirty_blocks_max: setup.dirty_blocks,
                destage_age: Duration::from_millis(setup.destage_age_ms),
                destage_depth: setup.destage_depth,
                sum_pages_max: setup.sum_pages,
                sum_idle: Duration::from_millis(setup.sum_idle_ms),
                scrub_bytes_per_second: setup.scrub_bytes_per_second,
            },
            mirror: mirror(setup),
            space: SpaceConfig::default(),
            experimental_snapshots: true,
            planted,
        }
    }
}

fn volumes(setup: &Setup, node: NodeName) -> Vec<VolumeConfig> {
    let volumes = setup.volumes.iter().enumerate();
    let here = volumes.filter(|(_, volume)| volume.mirrored || node == NodeName::A);
    here.map(|(index, volume)| VolumeConfig {
        id: VolumeId(index as u32 + 1),
        name: format!("v{}", index + 1),
        uuid: Uuid(PARTNERSHIP.0 + 0x100 + index as u128),
        sectors: volume.sectors,
        mirrored: volume.mirrored,
        reserved_bytes: volume.reserved_bytes,
        detect_zeros: setup.detect_zeros,
    })
    .collect()
}

/// The times of a product, in proportion to the lease.
fn mirror(setup: &Setup) -> MirrorConfig {
    let lease = Duration::from_millis(setup.lease_ms);
    MirrorConfig {
        lease,
        heartbeat: lease / 8,
        lease_margin: lease / 20,
        link_grace: lease * 3 / 20,
        verdict_bound: lease * 10,
        arbiter_retry: lease / 4,
        forward_deadline: lease * 2,
        hot_areas_max: setup.hot_areas,
        hot_idle: Duration::from_millis(setup.hot_idle_ms),
        area_blocks: setup.area_blocks,
        resync_blocks_in_flight: setup.resync_blocks,
        write_blocks_in_flight: setup.write_blocks,
        when_partner_full: setup.when_partner_full,
    }
}

/// Does losing the partner need an answer from a third place?
pub(super) fn asks_arbiter(setup: &Setup) -> bool {
    setup.arbitration == Arbitration::Register
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drift_and_can_be_asked_when() {
        let mut clock = Clock::new(Instant::ZERO, Instant::from_nanos(5_000));
        clock.drift(Instant::from_nanos(1_000), 10_000);
        let second = Instant::from_nanos(1_000_001_000);
        assert_eq!(clock.at(second).as_nanos(), 6_000 + 1_010_000_000);
        for ppm in [-8_000, 0, 333, 8_000] {
            clock.drift(second, ppm);
            for nanos in [1u64, 77, 1_000_003, 9_999_999_999] {
                let goal = clock.at(second) + Duration::from_nanos(nanos);
                let when = clock.when(goal);
                assert!(clock.at(when) >= goal && clock.at(when) - goal <= Duration::from_nanos(4));
            }
        }
    }
}
