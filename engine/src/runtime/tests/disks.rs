//! Disks that are added to and removed from a pool in use, over real files, under load.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;

use parking_lot::Mutex;

use super::super::*;
use crate::arbiter::Arbitration;
use crate::backend::{
    BackendRequest, BlockBackend, FileBackend, FileOptions, MemoryBackend, TempDir, create_sparse,
};
use crate::block::{BLOCK_BYTES, PagePool, payload_from};
use crate::guest::Sectors;
use crate::ids::{NodeName, Uuid, VolumeId};
use crate::io::{DiskError, DiskOp, Geometry};
use crate::node::config::{NodeConfig, VolumeConfig};
use crate::node::event::Notice;
use crate::node::view::{DiskUse, DiskView};
use crate::pool::{DiskRefusal, check};
use crate::time::Duration;

const PARTNERSHIP: Uuid = Uuid(0x5157);
const VOLUME: VolumeId = VolumeId(1);
const MIB: u64 = 1 << 20;
/// Blocks that the load writes to: 24 MiB, 24 extents.
const BLOCKS: u64 = 24 * 256;

fn start(disks: &[Arc<dyn BlockBackend>]) -> Engine {
    let mut config = NodeConfig::new(NodeName::A, PARTNERSHIP);
    config.arbitration = Arbitration::StopBoth;
    config.cache.destage_age = Duration::from_millis(5);
    config.volumes.push(VolumeConfig {
        id: VOLUME,
        name: "V1".into(),
        uuid: Uuid(9),
        sectors: (1 << 30) / 512,
        mirrored: false,
        detect_zeros: false,
        reserved_bytes: 0,
    });
    Engine::builder(config).disks(disks.to_vec()).start().unwrap()
}

fn file(path: &Path) -> Arc<dyn BlockBackend> {
    Arc::new(FileBackend::open(path, &FileOptions::default()).unwrap())
}

fn new_file(dir: &TempDir, name: &str, mib: u64) -> (PathBuf, Arc<dyn BlockBackend>) {
    let path = dir.file(name);
    create_sparse(&path, mib * MIB).unwrap();
    let disk = file(&path);
    (path, disk)
}

/// What a volume holds, by block, written and read back by a few threads.
struct Load {
    engine: Engine,
    values: Vec<Mutex<u64>>,
    /// It goes to the first so many blocks.
    span: AtomicU64,
    writes: AtomicU64,
    pages: PagePool,
    stop: AtomicBool,
}

impl Load {
    fn new(engine: &Engine) -> Load {
        let (engine, pages) = (engine.clone(), PagePool::new());
        let values = (0..BLOCKS).map(|_| Mutex::new(0)).collect();
        let (span, writes) = (AtomicU64::new(BLOCKS / 4), AtomicU64::new(0));
        Load { engine, values, span, writes, pages, stop: AtomicBool::new(false) }
    }

    /// Writes a block or reads it; only one thread at a time has the block.
    fn touch(&self, block: u64, write: bool) {
        let mut value = self.values[block as usize].lock();
        let at = Sectors::new(block * 8, 8);
        if write {
            let next = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
            let data = payload_from(&self.pages, &next.to_le_bytes().repeat(BLOCK_BYTES / 8));
            self.engine.write(VOLUME, at, data).unwrap();
            *value = next;
            return;
        }
        let found = self.engine.read(VOLUME, at).unwrap();
        let words = found[0].bytes().chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        assert!(words.into_iter().all(|word| word == *value), "block {block} does not hold {}", *value);
    }

    fn run(&self, seed: u64) {
        let mut random = seed;
        while !self.stop.load(Ordering::Relaxed) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.touch((random >> 33) % self.span.load(Ordering::Relaxed), random >> 62 != 0);
        }
    }

    /// Runs `story` while four threads write and read.
    fn while_it_runs(&self, story: impl FnOnce()) {
        thread::scope(|scope| {
            for seed in 1..=4 {
                scope.spawn(move || self.run(seed));
            }
            // However the story ends, so do the threads.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&self.stop);
            story();
        });
    }

    fn verify(&self, engine: &Engine) {
        for (block, value) in self.values.iter().enumerate() {
            let found = engine.read(VOLUME, Sectors::new(block as u64 * 8, 8)).unwrap();
            assert_eq!(found[0].bytes()[..8], value.lock().to_le_bytes(), "block {block}");
        }
    }
}

fn disk(engine: &Engine, uuid: Uuid) -> Option<DiskView> {
    engine.disks().into_iter().find(|disk| disk.uuid == uuid)
}

fn left(notices: &Receiver<Notice>, uuid: Uuid) -> bool {
    let found = notices.iter().find_map(|notice| match notice {
        Notice::DiskLeft { disk, erased } if disk == uuid => Some(erased),
        _ => None,
    });
    found.expect("the engine runs on")
}

fn refused<T: std::fmt::Debug>(result: Result<T, PoolChangeError>) -> DiskRefusal {
    match result.unwrap_err() {
        PoolChangeError::Refused(why) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn disks_come_and_go_under_load() {
    let dir = TempDir::new();
    let (first, home) = new_file(&dir, "home", 64);
    format_pool(&[Arc::clone(&home)], &NewPool::new(PARTNERSHIP, NodeName::A)).unwrap();
    let engine = start(&[home]);
    let notices = engine.notices();
    let load = Load::new(&engine);
    let (second, added) = new_file(&dir, "second", 40);
    let (third, other) = new_file(&dir, "third", 56);
    let mut stays = Uuid(0);
    load.while_it_runs(|| {
        let before = engine.view().unwrap().pool_bytes;
        let leaves = engine.add_disk(added, None).unwrap();
        assert!(engine.view().unwrap().pool_bytes > before + 30 * MIB);
        load.span.store(BLOCKS, Ordering::Relaxed);
        while disk(&engine, leaves).unwrap().extents_used < 4 {
            thread::yield_now();
        }
        stays = engine.add_disk(other, None).unwrap();
        engine.remove_disk(leaves).unwrap();
        assert_eq!(refused(engine.remove_disk(leaves)), DiskRefusal::Leaving);
        assert!(left(&notices, leaves));
        assert!(disk(&engine, leaves).is_none());
        // It is let go, blank, and may come back.
        let again = file(&second);
        assert_eq!(probe(&*again).unwrap(), None);
        let back = engine.add_disk(again, None).unwrap();
        assert_ne!(back, leaves);
        engine.remove_disk(back).unwrap();
        assert!(left(&notices, back));
    });
    assert!(load.writes.load(Ordering::Relaxed) > 1000);
    load.verify(&engine);
    engine.stop(Duration::from_secs(30)).unwrap();

    // In another order, under other names; then without one of them.
    let moved = dir.file("somewhere-else");
    std::fs::rename(&first, &moved).unwrap();
    let engine = start(&[file(&third), file(&moved)]);
    assert_eq!(engine.disks().len(), 2);
    assert!(disk(&engine, stays).unwrap().extents_used > 0);
    load.verify(&engine);
    engine.stop(Duration::from_secs(30)).unwrap();
    let disks = [file(&third), file(&moved)];
    let (pool, report) = open_pool(&disks).unwrap();
    assert!(check(&pool).is_clean() && report.strays.is_empty());
    let error = open_pool(&disks[1..]).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_removal_goes_on_after_a_crash() {
    let dir = TempDir::new();
    let (home_path, home) = new_file(&dir, "home", 64);
    let (path, added) = new_file(&dir, "added", 64);
    format_pool(&[Arc::clone(&home), Arc::clone(&added)], &NewPool::new(PARTNERSHIP, NodeName::A)).unwrap();
    let engine = start(&[home, added]);
    let load = Load::new(&engine);
    (0..BLOCKS).step_by(64).for_each(|block| load.touch(block, true));
    engine.flush(VOLUME).unwrap();
    let leaves = engine.disks().into_iter().find(|disk| !disk.home && disk.extents_used > 4).unwrap().uuid;
    engine.remove_disk(leaves).unwrap();
    engine.kill();
    let marked = |path: &PathBuf| Some(file(path)).filter(|disk| probe(&**disk).unwrap().is_some());
    let engine = start(&[&home_path, &path].into_iter().filter_map(marked).collect::<Vec<_>>());
    let notices = engine.notices();
    match disk(&engine, leaves).map(|disk| disk.state) {
        Some(DiskUse::Leaving { .. } | DiskUse::Departing) => assert!(left(&notices, leaves)),
        // The crash was faster, or the removal was.
        Some(_) => {
            engine.remove_disk(leaves).unwrap();
            assert!(left(&notices, leaves));
        }
        None => {}
    }
    load.verify(&engine);
    engine.stop(Duration::from_secs(30)).unwrap();
    let disks = [file(&home_path)];
    assert!(check(&open_pool(&disks).unwrap().0).is_clean());
}

#[test]
fn what_may_not_join_or_leave_is_refused_by_name() {
    let dir = TempDir::new();
    let (home_path, home) = new_file(&dir, "home", 64);
    format_pool(&[Arc::clone(&home)], &NewPool::new(PARTNERSHIP, NodeName::A)).unwrap();
    let engine = start(&[home]);
    let own = engine.disks()[0].uuid;
    let alone = refused(engine.remove_disk(own));
    assert!(
        matches!(alone, DiskRefusal::Home { needed } if (1 << 20..64 << 20).contains(&needed)),
        "{alone}"
    );

    let (path, other) = new_file(&dir, "other", 64);
    let foreign = format_pool(&[Arc::clone(&other)], &NewPool::new(Uuid(1), NodeName::B)).unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    for wrong in [None, Some(Uuid(5))] {
        let why = refused(engine.add_disk(file(&path), wrong));
        assert_eq!(why, DiskRefusal::Occupied { pool: foreign.pool, node: NodeName::B });
        assert!(why.to_string().contains(&format!("{:032x}", foreign.pool.0)), "{why}");
        assert!(std::fs::read(&path).unwrap() == before, "nothing is written to it");
    }
    let added = engine.add_disk(file(&path), Some(foreign.pool)).unwrap();

    let copy = dir.file("copy");
    std::fs::copy(&home_path, &copy).unwrap();
    assert_eq!(refused(engine.add_disk(file(&copy), None)), DiskRefusal::Member { disk: own });
    let named = engine.view().map(|_| probe(&*file(&copy)).unwrap().unwrap().pool);
    assert_eq!(refused(engine.add_disk(file(&copy), named)), DiskRefusal::Member { disk: own });

    let (_, small) = new_file(&dir, "small", 1);
    assert!(matches!(refused(engine.add_disk(small, None)), DiskRefusal::Size(_)));
    assert_eq!(refused(engine.remove_disk(Uuid(4))), DiskRefusal::Unknown { disk: Uuid(4) });
    assert_eq!(refused(engine.keep_disk(added)), DiskRefusal::NotLeaving);
    assert_eq!(refused(engine.pause_removal(added, true)), DiskRefusal::NotLeaving);
    engine.kill();
    assert_eq!(refused(engine.remove_disk(added)), DiskRefusal::NotOpen);
}

/// A disk of 4 KiB sectors, some of whose places cannot be read, or all of them.
struct Flaky {
    inner: MemoryBackend,
    /// Byte ranges that cannot be read.
    bad: Mutex<Vec<std::ops::Range<u64>>>,
}

impl BlockBackend for Flaky {
    fn geometry(&self) -> Geometry {
        Geometry { sector_bytes: 4096, ..self.inner.geometry() }
    }

    fn submit(&self, request: BackendRequest) {
        if let DiskOp::Read { offset, blocks } = *request.op() {
            let end = offset + u64::from(blocks) * BLOCK_BYTES as u64;
            if self.bad.lock().iter().any(|bad| bad.start < end && offset < bad.end) {
                return request.complete(Err(DiskError::Unreadable));
            }
        }
        self.inner.submit(request);
    }
}

#[test]
fn what_cannot_be_read_stays_and_is_told_by_its_place() {
    let home: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(64 * MIB));
    format_pool(&[Arc::clone(&home)], &NewPool::new(PARTNERSHIP, NodeName::A)).unwrap();
    let flaky = Arc::new(Flaky { inner: MemoryBackend::new(96 * MIB), bad: Mutex::default() });
    let (engine, uuid) = {
        let engine = start(&[Arc::clone(&home)]);
        let uuid = engine.add_disk(Arc::clone(&flaky) as Arc<dyn BlockBackend>, None).unwrap();
        let load = Load::new(&engine);
        (0..BLOCKS).for_each(|block| load.touch(block, true));
        engine.stop(Duration::from_secs(30)).unwrap();
        // A new life, so that nothing is in the cache.
        (start(&[Arc::clone(&flaky) as Arc<dyn BlockBackend>, home]), uuid)
    };
    let notices = engine.notices();
    let before = disk(&engine, uuid).unwrap();
    assert!(before.extents_used > 8 && before.sector_bytes == 4096);
    // One block of its first extent, and all of its third.
    flaky.bad.lock().extend([MIB + 40_960..MIB + 45_056, 3 * MIB..4 * MIB]);
    engine.remove_disk(uuid).unwrap();
    let mut told: Vec<u64> = Vec::new();
    while told.len() < 2 {
        if let Notice::Unmovable { disk, offset, .. } = notices.recv().unwrap() {
            assert_eq!(disk, uuid);
            told.push(offset);
        }
    }
    told.sort_unstable();
    assert_eq!(told, [MIB + 40_960, 3 * MIB]);
    // Everything else moves; the disk stays with what is left.
    loop {
        match disk(&engine, uuid).unwrap().state {
            DiskUse::Leaving { extents_left: 2, unmovable, .. } => break assert_eq!(unmovable, 2),
            _ => thread::yield_now(),
        }
    }
    engine.pause_removal(uuid, true).unwrap();
    assert!(matches!(disk(&engine, uuid).unwrap().state, DiskUse::Leaving { paused: true, .. }));
    flaky.bad.lock().clear();
    engine.pause_removal(uuid, false).unwrap();
    assert!(left(&notices, uuid));
    for block in 0..BLOCKS {
        let found = engine.read(VOLUME, Sectors::new(block * 8, 8)).unwrap();
        assert_eq!(found[0].bytes()[..8], (block + 1).to_le_bytes());
    }
    engine.stop(Duration::from_secs(30)).unwrap();
}

/// A disk on its way in may fail as it likes.
#[test]
fn a_disk_that_fails_does_not_join_and_harms_nobody() {
    let home: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(64 * MIB));
    format_pool(&[Arc::clone(&home)], &NewPool::new(PARTNERSHIP, NodeName::A)).unwrap();
    let engine = start(&[home]);
    let flaky = Arc::new(Flaky { inner: MemoryBackend::new(64 * MIB), bad: Mutex::default() });
    flaky.bad.lock().push(64 << 10..128 << 10);
    let why = refused(engine.add_disk(Arc::clone(&flaky) as Arc<dyn BlockBackend>, None));
    assert_eq!(why, DiskRefusal::Failed(DiskError::Unreadable));
    flaky.bad.lock().clear();
    engine.add_disk(flaky, None).unwrap();
    assert_eq!(engine.failure(), None);
    engine.stop(Duration::from_secs(30)).unwrap();
}
