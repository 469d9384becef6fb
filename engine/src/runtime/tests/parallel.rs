//! Many volumes at once over real nodes and real threads: what the simulator takes one after the other happens at the same
//! time here. Caches are so small that volumes take room from each other all the time, and steps that have the node come
//! between those that go beside each other.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::super::*;
use super::story::wait_until;
use crate::arbiter::{Arbiter, Arbitration, MemoryArbiter};
use crate::backend::{BlockBackend, MemoryBackend};
use crate::block::{PagePool, Payload, SECTORS_PER_BLOCK, payload_from};
use crate::guest::{GuestError, Sectors};
use crate::ids::{NodeName, Uuid, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::config::{CacheConfig, NodeConfig, VolumeConfig};

const PARTNERSHIP: Uuid = Uuid(78);
const MIRRORED: u32 = 4;
const LINEAR: u32 = 2;
/// Blocks of a volume that are used: two areas, eight extents. Groups of eight belong to the thread at either node in turn.
const BLOCKS: u64 = 2048;
const GROUP: u64 = 8;
const OPS: u64 = 1_500;

fn config(name: NodeName) -> NodeConfig {
    let volume = |id: u32| VolumeConfig {
        id: VolumeId(id),
        name: format!("V{id}"),
        uuid: Uuid(u128::from(id)),
        sectors: BLOCKS * SECTORS_PER_BLOCK,
        mirrored: id <= MIRRORED,
        reserved_bytes: 0,
        detect_zeros: id.is_multiple_of(2),
    };
    NodeConfig {
        arbitration: Arbitration::Register,
        volumes: (1..=MIRRORED + LINEAR).map(volume).collect(),
        cache: CacheConfig { blocks_max: 1024, dirty_blocks_max: 256, ..CacheConfig::default() },
        ..NodeConfig::new(name, PARTNERSHIP)
    }
}

fn pair() -> ([Engine; 2], [Arc<InProcess>; 2]) {
    let (a, b) = in_process();
    let (wires, arbiter) = ([a, b], Arc::new(MemoryArbiter::new()));
    let engines = NodeName::BOTH.map(|name| {
        let disks: Vec<Arc<dyn BlockBackend>> = vec![Arc::new(MemoryBackend::new(256 << 20))];
        format_pool(&disks, &NewPool::new(PARTNERSHIP, name)).unwrap();
        let wire = Arc::clone(&wires[name.index()]) as Arc<dyn Transport>;
        let arbiter = Arc::clone(&arbiter) as Arc<dyn Arbiter>;
        Engine::builder(config(name)).disks(disks).transport(wire).arbiter(arbiter).start().unwrap()
    });
    for engine in &engines {
        wait_until("a pair", || {
            engine.view().is_some_and(|view| view.phase == PeerPhase::Paired && view.serving)
        });
    }
    (engines, wires)
}

/// Until the node has an answer: a cut of the link may cost a forwarded write its place.
fn insist(attempt: impl Fn() -> Result<Payload, GuestError>) -> Payload {
    let answer = RefCell::new(None);
    wait_until("an answer", || {
        let found = attempt();
        let over = !matches!(found, Err(GuestError::Transitioning | GuestError::Unavailable));
        *answer.borrow_mut() = Some(found);
        over
    });
    answer.into_inner().expect("asked at least once").unwrap()
}

/// A guest of one volume at one node, and what it knows to be in its sectors.
struct Guest<'a> {
    engine: &'a Engine,
    volume: VolumeId,
    /// 0 or 1: its groups are those that are so much more than an even number.
    side: u64,
    pages: PagePool,
    state: u64,
    known: Vec<u64>,
}

impl Guest<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    /// A run of sectors in one of its groups.
    fn run(&mut self) -> Sectors {
        let group = self.below(BLOCKS / GROUP / 2) * 2 + self.side;
        let whole = self.below(4) > 0;
        let unit = if whole { SECTORS_PER_BLOCK } else { 1 };
        let units = GROUP * SECTORS_PER_BLOCK / unit;
        let first = self.below(units);
        let count = 1 + self.below((units - first).min(8));
        Sectors::new(group * GROUP * SECTORS_PER_BLOCK + first * unit, count * unit)
    }

    fn payload(&self, at: Sectors, value: u64) -> Payload {
        let first = at.start / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
        let last = at.end().next_multiple_of(SECTORS_PER_BLOCK);
        let sector = |sector: u64| if at.start <= sector && sector < at.end() { value } else { 0 };
        let bytes: Vec<u8> = (first..last).flat_map(|at| sector(at).to_le_bytes().repeat(64)).collect();
        payload_from(&self.pages, &bytes)
    }

    fn check(&mut self, engine: &Engine, at: Sectors) {
        let data = insist(|| engine.read(self.volume, at));
        let first = at.start / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
        for sector in at.start..at.end() {
            let from = (sector - first) as usize;
            let bytes = &data[from / 8].bytes()[from % 8 * 512..][..8];
            let found = u64::from_le_bytes(bytes.try_into().unwrap());
            let (volume, known) = (self.volume, self.known[sector as usize]);
            assert_eq!(found, known, "sector {sector} of volume {volume}");
        }
    }

    fn act(&mut self, value: u64) {
        let (engine, volume, at) = (self.engine, self.volume, self.run());
        let value = match self.below(20) {
            0..8 => return self.check(engine, at),
            8 => return drop(insist(|| engine.flush(volume).map(|()| Payload::new()))),
            9 | 10 => {
                insist(|| engine.zero(volume, at).map(|()| Payload::new()));
                0
            }
            _ => {
                let data = self.payload(at, value);
                insist(|| engine.write(volume, at, data.clone()).map(|()| Payload::new()));
                value
            }
        };
        self.known[at.start as usize..at.end() as usize].fill(value);
    }
}

/// Nothing of what guests of six volumes write at once is lost or mixed up, whichever node they ask, whoever looks on, and
/// though the link comes and goes; and both nodes show the same in the end.
#[test]
#[expect(clippy::disallowed_methods, reason = "guests are threads")]
fn volumes_do_not_touch_each_other() {
    let (engines, wires) = pair();
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let places = (1..=MIRRORED).flat_map(|id| [(id, 0), (id, 1)]);
    let places: Vec<(u32, usize)> =
        places.chain((MIRRORED + 1..=MIRRORED + LINEAR).map(|id| (id, 0))).collect();
    let guests: Vec<Guest<'_>> = thread::scope(|scope| {
        let guests: Vec<_> = places
            .iter()
            .map(|&(id, node)| {
                let (engine, done) = (&engines[node], &done);
                scope.spawn(move || {
                    let mut guest = Guest {
                        engine,
                        volume: VolumeId(id),
                        side: node as u64,
                        pages: PagePool::new(),
                        state: u64::from(id) << 8 | node as u64,
                        known: vec![0; (BLOCKS * SECTORS_PER_BLOCK) as usize],
                    };
                    for n in 1..=OPS {
                        guest.act(u64::from(id) << 48 | (node as u64) << 40 | n);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    guest
                })
            })
            .collect();
        scope.spawn(|| {
            let all = Sectors::new(0, BLOCKS * SECTORS_PER_BLOCK);
            while !over.load(Ordering::Relaxed) {
                for engine in &engines {
                    let view = engine.view().expect("it lives");
                    assert!(view.dirty_blocks <= 256 && view.cached_blocks <= 1024, "{view:?}");
                    drop(engine.block_status(VolumeId(1), all));
                }
            }
        });
        scope.spawn(|| {
            let every = OPS * places.len() as u64 / 10;
            for cut in 1..10 {
                wait_until("progress", || done.load(Ordering::Relaxed) >= cut * every);
                wires[0].cut();
                wires[0].heal();
            }
        });
        let guests = guests.into_iter().map(|guest| guest.join());
        let guests: Vec<_> = guests.collect();
        over.store(true, Ordering::Relaxed);
        guests.into_iter().map(|guest| guest.expect("no guest fails")).collect()
    });
    for mut guest in guests {
        for group in (guest.side..BLOCKS / GROUP).step_by(2) {
            let at = Sectors::new(group * GROUP * SECTORS_PER_BLOCK, GROUP * SECTORS_PER_BLOCK);
            let mirrored = guest.volume.0 <= MIRRORED;
            engines.iter().take(if mirrored { 2 } else { 1 }).for_each(|engine| guest.check(engine, at));
        }
    }
}
