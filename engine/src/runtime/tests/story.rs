//! The story an embedder lives through: two engines in one process, over disks in memory or in files, joined by a wire
//! that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::RwLock;

use super::super::*;
use crate::arbiter::{Arbiter, Arbitration, MemoryArbiter};
use crate::backend::{
    self, BlockBackend, FileBackend, FileOptions, MemoryBackend, TempDir, boot_time, create_sparse,
};
use crate::block::{BLOCK_BYTES, PagePool, Payload, SECTORS_PER_BLOCK, payload_from, zeros};
use crate::guest::PathState::{NonOptimized, Optimized, Unavailable};
use crate::guest::{GuestError, Sectors};
use crate::ids::{BootId, NodeName, Uuid, VolumeId};
use crate::mirror::message::PeerPhase;
use crate::node::config::{CacheConfig, MirrorConfig, NodeConfig, SpaceConfig, VolumeConfig};
use crate::node::view::View;
use crate::planted::Planted;
use crate::time::Duration;

const PARTNERSHIP: Uuid = Uuid(77);
pub(super) const MIRRORED: VolumeId = VolumeId(1);
pub(super) const LINEAR: VolumeId = VolumeId(2);
pub(super) const OTHER: VolumeId = VolumeId(3);
pub(super) const BOUND: Duration = Duration::from_secs(30);

/// Waits until something holds; the only place that sleeps.
#[track_caller]
pub(super) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begin = boot_time();
    while !holds() {
        assert!(boot_time() - begin < BOUND, "not within {BOUND:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn config(name: NodeName) -> NodeConfig {
    let volume = |id, name: &str, mirrored| VolumeConfig {
        id,
        name: name.into(),
        uuid: Uuid(u128::from(id.0)),
        sectors: (1 << 30) / 512,
        mirrored,
        reserved_bytes: 0,
        detect_zeros: false,
    };
    NodeConfig {
        name,
        partnership: PARTNERSHIP,
        boot: BootId(0),
        arbitration: Arbitration::Register,
        preferred: NodeName::A,
        volumes: vec![volume(MIRRORED, "V1", true), volume(LINEAR, "V2", false), volume(OTHER, "V3", true)],
        cache: CacheConfig::default(),
        space: SpaceConfig::default(),
        experimental_snapshots: true,
        mirror: MirrorConfig {
            lease: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(100),
            link_grace: Duration::from_millis(100),
            arbiter_retry: Duration::from_millis(100),
            ..MirrorConfig::default()
        },
        planted: Planted::NONE,
    }
}

/// Two sites of a pair, of which either may be down.
pub(super) struct Pair {
    sites: [Site; 2],
    arbiter: Arc<dyn Arbiter>,
    pub(super) pages: PagePool,
}

pub(super) struct Site {
    disks: Vec<Arc<dyn BlockBackend>>,
    wire: Arc<InProcess>,
    engine: RwLock<Option<Engine>>,
}

impl Site {
    fn view(&self) -> Option<View> {
        self.engine.read().as_ref()?.view()
    }

    pub(super) fn is_in(&self, phase: PeerPhase) -> bool {
        self.view().is_some_and(|view| view.phase == phase)
    }

    /// Takes the engine away from whoever comes next; those who have it keep it.
    fn take(&self) -> Engine {
        self.engine.write().take().unwrap()
    }
}

impl Pair {
    pub(super) fn new() -> Pair {
        Pair::over([vec![memory()], vec![memory(), memory()]])
    }

    fn over(disks: [Vec<Arc<dyn BlockBackend>>; 2]) -> Pair {
        let (wire_a, wire_b) = in_process();
        let mut wires = [wire_a, wire_b].into_iter();
        let mut disks = disks.into_iter();
        let sites = NodeName::BOTH.map(|name| {
            let (disks, wire) = (disks.next().unwrap(), wires.next().unwrap());
            format_pool(&disks, &NewPool::new(PARTNERSHIP, name)).unwrap();
            Site { disks, wire, engine: RwLock::new(None) }
        });
        let pair = Pair { sites, arbiter: Arc::new(MemoryArbiter::new()), pages: PagePool::new() };
        pair.start(NodeName::A);
        pair.start(NodeName::B);
        pair.wait_whole();
        pair
    }

    pub(super) fn site(&self, name: NodeName) -> &Site {
        &self.sites[name.index()]
    }

    pub(super) fn engine_if_up(&self, name: NodeName) -> Option<Engine> {
        self.site(name).engine.read().clone()
    }

    pub(super) fn cut(&self) {
        self.site(NodeName::A).wire.cut();
    }

    pub(super) fn heal(&self) {
        self.site(NodeName::A).wire.heal();
    }

    /// That of a node that is up.
    pub(super) fn engine(&self, name: NodeName) -> Engine {
        self.site(name).engine.read().clone().unwrap()
    }

    pub(super) fn start(&self, name: NodeName) {
        self.start_over(name, self.site(name).disks.clone());
    }

    fn start_over(&self, name: NodeName, disks: Vec<Arc<dyn BlockBackend>>) {
        let site = self.site(name);
        let engine = Engine::builder(config(name))
            .disks(disks)
            .transport(Arc::clone(&site.wire) as Arc<dyn Transport>)
            .arbiter(Arc::clone(&self.arbiter))
            .start()
            .unwrap();
        *site.engine.write() = Some(engine);
    }

    pub(super) fn kill(&self, name: NodeName) {
        self.site(name).take().kill();
    }

    pub(super) fn stop(&self, name: NodeName) {
        self.site(name).take().stop(BOUND).unwrap();
    }

    #[track_caller]
    pub(super) fn wait_phase(&self, name: NodeName, phase: PeerPhase) {
        wait_until(&format!("{name} {phase:?}"), || self.site(name).is_in(phase));
    }

    #[track_caller]
    pub(super) fn wait_whole(&self) {
        for name in NodeName::BOTH {
            wait_until(&format!("{name} serves in a pair"), || {
                let view = self.site(name).view();
                view.is_some_and(|view| view.phase == PeerPhase::Paired && view.serving)
            });
        }
    }

    pub(super) fn data(&self, seed: u64, blocks: u64) -> Payload {
        let bytes: Vec<u8> = (0..blocks)
            .flat_map(|block| (seed << 20 | (block + 1)).to_le_bytes().repeat(BLOCK_BYTES / 8))
            .collect();
        payload_from(&self.pages, &bytes)
    }

    #[track_caller]
    fn write(&self, at: NodeName, block: u64, seed: u64, blocks: u64) {
        self.engine(at).write(MIRRORED, sectors(block, blocks), self.data(seed, blocks)).unwrap();
    }

    #[track_caller]
    fn expect(&self, at: NodeName, block: u64, expected: &Payload) {
        let found = self.engine(at).read(MIRRORED, sectors(block, expected.len() as u64)).unwrap();
        assert!(same(&found, expected), "blocks from {block} at {at}");
    }
}

fn memory() -> Arc<dyn BlockBackend> {
    Arc::new(MemoryBackend::new(256 << 20))
}

pub(super) fn sectors(block: u64, blocks: u64) -> Sectors {
    Sectors::new(block * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK)
}

pub(super) fn same(found: &Payload, expected: &Payload) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.same(expected))
}

#[test]
fn what_is_written_at_one_is_read_at_the_other() {
    let pair = Pair::new();
    for (round, (from, to)) in
        [(NodeName::A, NodeName::B), (NodeName::B, NodeName::A)].into_iter().enumerate()
    {
        let seed = round as u64 + 1;
        pair.write(from, 100, seed, 16);
        pair.expect(to, 100, &pair.data(seed, 16));
        pair.expect(from, 100, &pair.data(seed, 16));
        pair.engine(from).zero(MIRRORED, sectors(104, 2)).unwrap();
        pair.expect(to, 104, &zeros(2));
        pair.engine(to).flush(MIRRORED).unwrap();
    }
    // A linear volume is each node's own.
    pair.engine(NodeName::A).write(LINEAR, sectors(0, 1), pair.data(9, 1)).unwrap();
    assert!(same(&pair.engine(NodeName::B).read(LINEAR, sectors(0, 1)).unwrap(), &zeros(1)));
    assert!(same(&pair.engine(NodeName::A).read(LINEAR, sectors(0, 1)).unwrap(), &pair.data(9, 1)));
    let beyond = pair.engine(NodeName::A).read(MIRRORED, sectors(1 << 30, 1));
    assert_eq!(beyond.map(drop), Err(GuestError::OutOfRange));
}

#[test]
fn initiators_are_told_the_truth() {
    let pair = Pair::new();
    let states = |pair: &Pair, at, volume| {
        let volume = pair.engine(at).volume(volume).unwrap();
        (volume.path_state(), volume.partner_path_state())
    };
    let infos = NodeName::BOTH.map(|name| pair.engine(name).volumes()[0].info());
    assert_eq!(infos[0].uuid, infos[1].uuid);
    assert_eq!((infos[0].extent_sectors, infos[0].mirrored), (2048, true));
    assert!(pair.engine(NodeName::A).volume(VolumeId(9)).is_none());

    let (of_a, of_b) = (states(&pair, NodeName::A, MIRRORED), states(&pair, NodeName::B, MIRRORED));
    assert_eq!(of_a, (of_b.1, of_b.0));
    assert!(matches!(of_a, (Optimized, NonOptimized) | (NonOptimized, Optimized)), "{of_a:?}");
    assert_eq!(states(&pair, NodeName::B, LINEAR), (Optimized, Unavailable));

    pair.stop(NodeName::A);
    pair.wait_phase(NodeName::B, PeerPhase::Alone);
    assert_eq!(states(&pair, NodeName::B, MIRRORED), (Optimized, Unavailable));
}

#[test]
fn one_is_killed_the_other_goes_on_and_brings_it_up() {
    for victim in NodeName::BOTH {
        let survivor = victim.partner();
        let pair = Pair::new();
        pair.write(victim, 0, 1, 8);
        pair.write(survivor, 8, 2, 8);
        pair.kill(victim);
        // Held until it is decided, then answered.
        pair.expect(survivor, 0, &pair.data(1, 8));
        pair.write(survivor, 4, 3, 8);
        pair.wait_phase(survivor, PeerPhase::Alone);

        pair.start(victim);
        pair.wait_whole();
        for name in NodeName::BOTH {
            pair.expect(name, 4, &pair.data(3, 8));
            pair.expect(name, 12, &pair.data(2, 8)[4..].into());
        }
        pair.write(victim, 0, 4, 4);
        pair.expect(survivor, 0, &pair.data(4, 4));
    }
}

#[test]
fn a_cut_wire_leaves_one_and_heals() {
    let pair = Pair::new();
    pair.write(NodeName::A, 0, 1, 8);
    pair.site(NodeName::A).wire.cut();
    let phases = |first, second| {
        pair.site(NodeName::A).is_in(first) && pair.site(NodeName::B).is_in(second)
            || pair.site(NodeName::B).is_in(first) && pair.site(NodeName::A).is_in(second)
    };
    wait_until("one alone, one lost", || phases(PeerPhase::Alone, PeerPhase::Lost));
    let alone = NodeName::BOTH.into_iter().find(|name| pair.site(*name).is_in(PeerPhase::Alone)).unwrap();
    pair.write(alone, 0, 2, 4);
    let refused = pair.engine(alone.partner()).read(MIRRORED, sectors(0, 1));
    assert_eq!(refused.map(drop), Err(GuestError::Unavailable));
    pair.site(NodeName::B).wire.heal();
    pair.wait_whole();
    pair.expect(alone.partner(), 0, &pair.data(2, 4));
}

#[test]
fn a_clean_stop_hands_over_without_an_arbiter() {
    let pair = Pair::new();
    pair.write(NodeName::A, 0, 1, 64);
    pair.stop(NodeName::A);
    pair.expect(NodeName::B, 0, &pair.data(1, 64));
    pair.write(NodeName::B, 0, 2, 8);
    pair.stop(NodeName::B);
    pair.start(NodeName::A);
    pair.start(NodeName::B);
    pair.wait_whole();
    pair.expect(NodeName::A, 0, &pair.data(2, 8));
    pair.expect(NodeName::A, 8, &pair.data(1, 64)[8..].into());
}

#[test]
fn both_halves_are_equal_on_disk_after_a_stop() {
    let pair = Pair::new();
    for block in 0..200 {
        let at = NodeName::BOTH[block as usize % 2];
        pair.write(at, block * 37 % 1000, block, 1 + block % 9);
    }
    pair.stop(NodeName::A);
    pair.stop(NodeName::B);
    let halves = pair.sites.each_ref().map(|site| {
        let (pool, _) = open_pool(&site.disks).unwrap();
        assert!(crate::pool::check(&pool).is_clean());
        let read = |block| match pool.locate(MIRRORED, block) {
            Some((disk, offset)) => {
                let op = crate::io::DiskOp::Read { offset, blocks: 1 };
                backend::perform(&*site.disks[usize::from(disk.0)], op).unwrap().remove(0)
            }
            None => crate::block::Block::Zero,
        };
        (0..1100).map(read).collect::<Payload>()
    });
    assert!(same(&halves[0], &halves[1]));
    assert!(halves[0].iter().any(|block| !block.same(&crate::block::Block::Zero)));
}

/// Each thread owns some blocks, writes and reads them by turns on either path, and goes to the other path when one
/// refuses.
fn load(pair: &Pair, worker: u64, goes_on: impl Fn(u64) -> bool) {
    let blocks: Vec<u64> = (0..8).map(|index| 5_000 + index * 64 + worker).collect();
    let mut last = vec![zeros(1); blocks.len()];
    for round in (0..).take_while(|round| goes_on(*round)) {
        let slot = (round * 5 % 8) as usize;
        let data = pair.data(worker << 32 | (round + 1), 1);
        on_either_path(pair, round, |engine| {
            engine.write(MIRRORED, sectors(blocks[slot], 1), data.clone()).map(|()| Payload::new())
        });
        last[slot] = data;
        let probe = (round * 3 % 8) as usize;
        let found =
            on_either_path(pair, round / 2, |engine| engine.read(MIRRORED, sectors(blocks[probe], 1)));
        assert!(same(&found, &last[probe]), "worker {worker} round {round}");
    }
}

pub(super) fn on_either_path(
    pair: &Pair,
    first: u64,
    call: impl Fn(&Engine) -> crate::guest::GuestResult,
) -> Payload {
    let begin = boot_time();
    for path in first.. {
        let engine = pair.sites[path as usize % 2].engine.read().clone();
        match engine.map(|engine| call(&engine)) {
            Some(Ok(found)) => return found,
            None | Some(Err(GuestError::Unavailable | GuestError::Transitioning)) => thread::yield_now(),
            Some(Err(error)) => panic!("{error}"),
        }
        assert!(boot_time() - begin < BOUND, "no path serves");
    }
    unreachable!()
}

#[test]
fn many_threads_see_what_they_wrote_on_both_paths() {
    let pair = Pair::new();
    thread::scope(|scope| {
        for worker in 0..4 {
            let pair = &pair;
            scope.spawn(move || load(pair, worker, |round| round < 500));
        }
    });
}

/// Runs `trouble` under load, which ends when the trouble does.
fn under_load(pair: &Pair, trouble: impl FnOnce()) {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let over = &over;
            scope.spawn(move || load(pair, worker, |_| !over.load(Ordering::Relaxed)));
        }
        let _end = End(&over);
        trouble();
    });
}

#[test]
fn many_threads_live_through_cuts() {
    let pair = Pair::new();
    under_load(&pair, || {
        for _ in 0..2 {
            pair.site(NodeName::A).wire.cut();
            wait_until("one alone", || {
                NodeName::BOTH.iter().any(|name| pair.site(*name).is_in(PeerPhase::Alone))
            });
            pair.site(NodeName::A).wire.heal();
            pair.wait_whole();
        }
    });
}

#[test]
fn many_threads_live_through_kills_over_files() {
    let dir = TempDir::new();
    let paths = NodeName::BOTH.map(|name| dir.file(format!("disk-{name}")));
    for path in &paths {
        create_sparse(path, 256 << 20).unwrap();
    }
    // Opened anew for every life: a killed engine must have given up the lock, and every request.
    let open = |name: NodeName| {
        let disk = FileBackend::open(&paths[name.index()], &FileOptions::default()).unwrap();
        vec![Arc::new(disk) as Arc<dyn BlockBackend>]
    };
    let mut pair = Pair::over(NodeName::BOTH.map(open));
    pair.sites.iter_mut().for_each(|site| site.disks.clear());
    under_load(&pair, || {
        for victim in [NodeName::A, NodeName::B, NodeName::A] {
            pair.kill(victim);
            pair.wait_phase(victim.partner(), PeerPhase::Alone);
            pair.start_over(victim, open(victim));
            pair.wait_whole();
        }
    });
}
