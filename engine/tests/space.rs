//! Thin provisioning as hosts and operators see it: what writes cost, what is given back, what a full pool still does.
//! First on one node whose disks answer at once, and hold junk where nothing was written; then on the pair.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

use twinsan::arbiter::Arbitration;
use twinsan::block::{BLOCK_BYTES, Block, PagePool, Payload, payload_from};
use twinsan::format::superblock::{FEATURE_ZEROS, SUPERBLOCK_OFFSETS, Superblock};
use twinsan::guest::BlockState::{Data, Unmapped, Zero};
use twinsan::guest::{BlockState, Command, GuestError, GuestResult, Sectors};
use twinsan::ids::{BootId, NodeName, RequestId, Uuid, VolumeId};
use twinsan::io::{DiskOp, DiskResult, Geometry};
use twinsan::mirror::message::PeerPhase;
use twinsan::node::Node;
use twinsan::node::config::{NodeConfig, SpaceConfig, SpaceLevel, VolumeConfig, WhenFull};
use twinsan::node::event::{Action, Event, Notice};
use twinsan::pool::{FormatIds, Opening, PoolOptions, format};
use twinsan::sim::Cluster;
use twinsan::sim::cluster::ApiError;
use twinsan::sim::plan::{Setup, Verb, VolumeSetup};
use twinsan::time::{Duration, Instant};

const V: VolumeId = VolumeId(1);
const W: VolumeId = VolumeId(2);
const EXTENT: u64 = 256;

fn at(block: u64, blocks: u64) -> Sectors {
    Sectors::new(block * 8, blocks * 8)
}

/// One node with linear volumes and one disk.
struct Solo {
    node: Option<Node>,
    config: NodeConfig,
    geometry: Geometry,
    blocks: BTreeMap<u64, Block>,
    /// Blocks of the data area; how many of them were written and read.
    data: Range<u64>,
    written: u64,
    read: u64,
    now: Instant,
    requests: u64,
    answers: BTreeMap<u64, GuestResult>,
    notices: Vec<Notice>,
    pages: PagePool,
}

impl Solo {
    /// With 1 MiB extents, so many of them.
    fn new(extents: u64, change: impl FnOnce(&mut NodeConfig)) -> Solo {
        let mut config = NodeConfig::new(NodeName::A, Uuid(7));
        config.boot = BootId(1);
        let volume = |id: VolumeId| VolumeConfig {
            id,
            name: format!("v{id}"),
            uuid: Uuid(u128::from(id.0)),
            sectors: 100 * EXTENT * 8 + 24,
            mirrored: false,
            reserved_bytes: 0,
            detect_zeros: false,
        };
        config.volumes = vec![volume(V), volume(W)];
        change(&mut config);
        let ids = FormatIds { pool: Uuid(1), disks: vec![Uuid(2)], node: NodeName::A, partnership: Uuid(7) };
        let mut bytes = (extents + 2) << 20;
        let geometry = |bytes| Geometry { bytes, sector_bytes: 512 };
        let data_from = |bytes| {
            let writes = format(&ids, &PoolOptions::default(), &[geometry(bytes)]).unwrap();
            let block = Superblock::parse(writes.last().unwrap().data[0].bytes(), 0).unwrap();
            (block.data_offset.get() / 4096, u64::from(block.disks[0].slots.get()))
        };
        while data_from(bytes).1 < extents {
            bytes += 1 << 20;
        }
        assert_eq!(data_from(bytes).1, extents);
        let mut solo = Solo {
            node: None,
            config,
            geometry: geometry(bytes),
            blocks: BTreeMap::new(),
            data: data_from(bytes).0..data_from(bytes).0 + extents * EXTENT,
            written: 0,
            read: 0,
            now: Instant::from_nanos(1),
            requests: 0,
            answers: BTreeMap::new(),
            notices: Vec::new(),
            pages: PagePool::new(),
        };
        for write in format(&ids, &PoolOptions::default(), &[solo.geometry]).unwrap() {
            solo.carry_out(DiskOp::Write { offset: write.offset, data: write.data }).unwrap();
        }
        solo
    }

    fn started(extents: u64) -> Solo {
        let mut solo = Solo::new(extents, |_| {});
        solo.restart();
        solo
    }

    /// As if the process had died: what the disk was given is there.
    fn restart(&mut self) {
        self.config.boot.0 += 1;
        self.node = Some(Node::new(self.config.clone(), &[self.geometry]));
        self.handle(Event::Tick);
    }

    fn carry_out(&mut self, op: DiskOp) -> DiskResult {
        let junk = || payload_from(&self.pages, &[0xdb; BLOCK_BYTES]).remove(0);
        Ok(match op {
            DiskOp::Read { offset, blocks } => {
                let first = offset / 4096;
                self.read += if self.data.contains(&first) { u64::from(blocks) } else { 0 };
                let block = |n: u64| self.blocks.get(&(first + n)).cloned().unwrap_or_else(junk);
                (0..u64::from(blocks)).map(block).collect()
            }
            DiskOp::Write { offset, data } => {
                let first = offset / 4096;
                self.written += if self.data.contains(&first) { data.len() as u64 } else { 0 };
                self.blocks.extend((first..).zip(data));
                Payload::new()
            }
            DiskOp::Flush => Payload::new(),
        })
    }

    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.node.as_mut().unwrap().handle(self.now, event);
            while let Some(action) = self.node.as_mut().unwrap().poll() {
                match action {
                    Action::Disk(request) => {
                        let result = self.carry_out(request.op);
                        events.push_back(Event::Disk { id: request.id, result });
                    }
                    Action::Complete { id, result } => drop(self.answers.insert(id.0, result)),
                    Action::Notice(notice) => self.notices.push(notice),
                    _ => {}
                }
            }
        }
    }

    fn ask(&mut self, volume: VolumeId, command: Command) -> GuestResult {
        self.requests += 1;
        let id = self.requests;
        self.handle(Event::Guest { id: RequestId(id), volume, command });
        for _ in 0..100 {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.pass();
        }
        panic!("request {id} has no answer");
    }

    fn pass(&mut self) {
        self.now += Duration::from_millis(100);
        self.handle(Event::Tick);
    }

    fn write(&mut self, volume: VolumeId, block: u64, fill: &[u8]) -> Result<(), GuestError> {
        let bytes: Vec<u8> = fill.iter().flat_map(|fill| [*fill; BLOCK_BYTES]).collect();
        let data = payload_from(&self.pages, &bytes);
        let at = at(block, fill.len() as u64);
        self.ask(volume, Command::Write { at, data, fua: false }).map(drop)
    }

    /// Clears, and waits until that is stable.
    fn zero(&mut self, volume: VolumeId, block: u64, blocks: u64) {
        self.ask(volume, Command::Zero { at: at(block, blocks), fua: true }).unwrap();
    }

    fn flush(&mut self) {
        [V, W].into_iter().for_each(|volume| drop(self.ask(volume, Command::Flush).unwrap()));
    }

    /// What each block is filled with.
    fn content(&mut self, volume: VolumeId, block: u64, blocks: u64) -> Vec<u8> {
        let data = self.ask(volume, Command::Read { at: at(block, blocks) }).unwrap();
        let filled = |block: &Block| block.bytes().iter().all(|byte| *byte == block.bytes()[0]);
        assert!(data.iter().all(filled));
        data.iter().map(|block| block.bytes()[0]).collect()
    }

    fn status(&self, volume: VolumeId, block: u64, blocks: u64) -> Vec<(u64, u64, BlockState)> {
        let runs = self.node.as_ref().unwrap().block_status(self.now, volume, at(block, blocks)).unwrap();
        runs.into_iter().map(|run| (run.at.start / 8, run.at.count / 8, run.state)).collect()
    }

    /// Changes the superblocks of a pool that was just made.
    fn change_superblocks(&mut self, change: impl Fn(&mut Superblock)) {
        for (copy, offset) in (0..).zip(SUPERBLOCK_OFFSETS) {
            let mut block = Superblock::parse(self.blocks[&(offset / 4096)].bytes(), copy).unwrap();
            change(&mut block);
            let sealed = payload_from(&self.pages, &block.seal());
            self.blocks.extend((offset / 4096..).zip(sealed));
        }
    }

    /// In how many extents the pool can remember zeros, as it is on disk.
    fn zero_extents_max(&mut self) -> u64 {
        let mut opening = Opening::new(&[self.geometry]);
        while let Some(io) = opening.poll_io() {
            opening.io_done(io.token, self.carry_out(io.op));
        }
        opening.done().unwrap().unwrap().0.zero_extents_max()
    }

    fn used(&self) -> u64 {
        self.node.as_ref().unwrap().view(self.now).pool_bytes_used >> 20
    }

    fn levels(&mut self) -> Vec<(SpaceLevel, bool)> {
        let told = core::mem::take(&mut self.notices);
        let level = |notice: Notice| match notice {
            Notice::SpaceReached { level, .. } => Some((level, true)),
            Notice::SpaceRegained { level, .. } => Some((level, false)),
            _ => None,
        };
        told.into_iter().filter_map(level).collect()
    }
}

#[test]
fn a_small_write_to_a_new_extent_costs_what_it_writes() {
    let mut solo = Solo::started(8);
    for block in [3, 4, 200] {
        solo.write(V, block, &[7]).unwrap();
    }
    solo.flush();
    assert_eq!((solo.written, solo.used()), (3, 1));
    for life in 0..2 {
        let mut expected = vec![0; EXTENT as usize];
        [3, 4, 200].into_iter().for_each(|block: usize| expected[block] = 7);
        assert_eq!(solo.content(V, 0, EXTENT), expected);
        assert_eq!(solo.read, if life == 0 { 0 } else { 3 }, "zeros are known without reading");
        solo.restart();
    }
    let runs =
        vec![(0, 3, Zero), (3, 2, Data), (5, 195, Zero), (200, 1, Data), (201, 55, Zero), (256, 4, Unmapped)];
    assert_eq!(solo.status(V, 0, 260), runs);
}

#[test]
fn zeros_inside_an_extent_are_remembered_not_written() {
    let mut solo = Solo::started(8);
    solo.write(V, 0, &[5; 64]).unwrap();
    solo.flush();
    let written = solo.written;
    solo.zero(V, 10, 20);
    assert_eq!(solo.written, written, "not a block is written");
    let expected: Vec<u8> = (0..64).map(|block| if (10..30).contains(&block) { 0 } else { 5 }).collect();
    assert_eq!(solo.content(V, 0, 64), expected);
    solo.restart();
    assert_eq!(solo.content(V, 0, 64), expected);
    solo.write(V, 12, &[6]).unwrap();
    solo.flush();
    solo.restart();
    assert_eq!(solo.content(V, 10, 4), [0, 0, 6, 0]);
    assert_eq!(solo.status(V, 9, 5), [(9, 1, Data), (10, 2, Zero), (12, 1, Data), (13, 1, Zero)]);
}

#[test]
fn an_extent_is_free_when_the_rest_of_it_was_zero_already() {
    let mut solo = Solo::started(8);
    solo.write(V, 100, &[1, 2, 3]).unwrap();
    // The last extent has three blocks in the volume.
    solo.write(W, 100 * EXTENT + 1, &[4]).unwrap();
    solo.flush();
    assert_eq!(solo.used(), 2);
    solo.zero(V, 100, 2);
    assert_eq!(solo.used(), 2);
    solo.zero(V, 102, 1);
    solo.zero(W, 100 * EXTENT + 1, 1);
    solo.flush();
    assert_eq!((solo.used(), solo.content(V, 99, 5)), (0, vec![0; 5]));
    // Whoever gets the places next never sees what they held.
    solo.write(W, 7, &[9]).unwrap();
    solo.flush();
    solo.restart();
    assert_eq!(solo.content(W, 0, 9), [0, 0, 0, 0, 0, 0, 0, 9, 0]);
    assert_eq!(solo.content(W, 90, 20), [0; 20]);
}

#[test]
fn zeros_in_writes_are_found_if_asked_for() {
    for detect_zeros in [false, true] {
        let mut solo = Solo::new(8, |config| config.volumes[0].detect_zeros = detect_zeros);
        solo.restart();
        solo.write(V, 0, &[0; 16]).unwrap();
        solo.flush();
        assert_eq!(solo.used(), u64::from(!detect_zeros));
        solo.write(V, 0, &[1, 0, 1]).unwrap();
        solo.flush();
        let second = solo.status(V, 1, 1)[0].2;
        assert_eq!(second, if detect_zeros { Zero } else { Data });
        assert_eq!(solo.content(V, 0, 4), [1, 0, 1, 0]);
    }
}

#[test]
fn what_is_only_in_the_cache_counts_in_the_status() {
    let mut solo = Solo::started(8);
    solo.write(V, 1, &[1]).unwrap();
    assert_eq!(solo.status(V, 0, 3), [(0, 1, Unmapped), (1, 1, Data), (2, 1, Unmapped)]);
    solo.flush();
    solo.ask(V, Command::Zero { at: at(1, 1), fua: false }).unwrap();
    assert_eq!(solo.status(V, 0, 2), [(0, 2, Zero)]);
    let node = solo.node.as_ref().unwrap();
    let odd = node.block_status(solo.now, V, Sectors::new(13, 5)).unwrap();
    assert_eq!(odd.iter().map(|run| run.at).collect::<Vec<_>>(), [Sectors::new(13, 5)]);
    let end = 100 * EXTENT * 8 + 24;
    assert_eq!(
        node.block_status(solo.now, V, Sectors::new(end - 1, 9)).unwrap()[0].at,
        Sectors::new(end - 1, 1)
    );
    for beyond in [Sectors::new(end, 1), Sectors::new(u64::MAX, u64::MAX), Sectors::new(5, 0)] {
        assert_eq!(node.block_status(solo.now, V, beyond), Err(GuestError::OutOfRange));
    }
}

#[test]
fn a_full_pool_refuses_what_does_not_fit_and_serves_the_rest() {
    let mut solo = Solo::started(20);
    for extent in 0..20 {
        solo.write(V, extent * EXTENT, &[1]).unwrap();
        solo.flush();
    }
    let rising = [SpaceLevel::Info, SpaceLevel::Warning, SpaceLevel::Critical].map(|level| (level, true));
    assert_eq!(solo.levels(), rising);
    assert_eq!(solo.node.as_ref().unwrap().view(solo.now).space_level, SpaceLevel::Critical);
    // Half of this one would fit: nothing of it is written.
    assert_eq!(solo.write(V, 20 * EXTENT - 1, &[8, 8]), Err(GuestError::OutOfSpace));
    assert_eq!(solo.write(W, 0, &[8]), Err(GuestError::OutOfSpace));
    assert_eq!((solo.content(V, 20 * EXTENT - 1, 2), solo.content(W, 0, 1)), (vec![0; 2], vec![0]));
    // Overwrites, writes to zeros that have a place, reads, and clearing where nothing is, go on.
    solo.write(V, 0, &[2, 2, 2]).unwrap();
    solo.zero(W, 0, 2 * EXTENT);
    solo.flush();
    assert_eq!(solo.content(V, 0, 4), [2, 2, 2, 0]);
    // Freeing lets the next write through at once: it waits until the space is really there.
    solo.ask(V, Command::Zero { at: at(5 * EXTENT, EXTENT), fua: true }).unwrap();
    solo.write(W, 0, &[3]).unwrap();
    assert_eq!(solo.write(W, EXTENT, &[3]), Err(GuestError::OutOfSpace));
    solo.flush();
    assert!(solo.levels().is_empty(), "still above the highest threshold");
    for extent in (0..20).filter(|extent| *extent != 5) {
        solo.zero(V, extent * EXTENT, EXTENT);
    }
    solo.flush();
    let falling = [SpaceLevel::Critical, SpaceLevel::Warning, SpaceLevel::Info].map(|level| (level, false));
    assert_eq!((solo.levels(), solo.used()), (falling.to_vec(), 1));
    solo.restart();
    assert_eq!((solo.content(W, 0, 2), solo.content(V, 0, 4)), (vec![3, 0], vec![0; 4]));
}

#[test]
fn kept_space_is_there_for_its_volume_alone() {
    let mut solo = Solo::new(20, |config| config.volumes[0].reserved_bytes = (4 << 20) - 5);
    solo.restart();
    let taken = (0..100).take_while(|extent| solo.write(W, extent * EXTENT, &[1]).is_ok()).count();
    assert_eq!(taken, 16);
    assert_eq!(solo.node.as_ref().unwrap().view(solo.now).pool_bytes_kept, 4 << 20);
    for extent in 0..4 {
        solo.write(V, extent * EXTENT, &[2]).unwrap();
    }
    assert_eq!(solo.write(V, 4 * EXTENT, &[2]), Err(GuestError::OutOfSpace));
    solo.flush();
    // Its own space comes back to it, at once.
    solo.zero(V, 0, EXTENT);
    assert_eq!(solo.write(W, 16 * EXTENT, &[1]), Err(GuestError::OutOfSpace));
    solo.write(V, 4 * EXTENT, &[2]).unwrap();
    // More kept than is left is told, and holds from then on. Even more than there is keeps no pool in use from opening.
    solo.notices.clear();
    solo.flush();
    solo.config.volumes[0].reserved_bytes = 6 << 20;
    solo.restart();
    assert!(solo.notices.contains(&Notice::ReservationShort { bytes: 2 << 20 }));
    solo.zero(W, 0, EXTENT);
    assert_eq!(solo.write(W, 16 * EXTENT, &[1]), Err(GuestError::OutOfSpace));
    solo.write(V, 5 * EXTENT, &[2]).unwrap();
    solo.config.volumes[0].reserved_bytes = 60 << 20;
    solo.restart();
    assert_eq!(solo.content(V, EXTENT, 1), [2]);
}

#[test]
fn what_cannot_be_kept_or_told_is_refused_when_the_node_starts() {
    let refused = |change: &dyn Fn(&mut NodeConfig)| {
        let mut solo = Solo::new(20, change);
        solo.restart();
        let failed = solo.notices.iter().find_map(|notice| match notice {
            Notice::OpenFailed(reason) => Some(reason.clone()),
            _ => None,
        });
        assert!(failed.is_none() || !solo.notices.contains(&Notice::Opened));
        failed
    };
    assert_eq!(refused(&|config| config.volumes[0].reserved_bytes = 20 << 20), None);
    let both = refused(&|config| {
        (config.volumes[0].reserved_bytes, config.volumes[1].reserved_bytes) = (10 << 20, (10 << 20) + 1);
    });
    let says = |part| both.as_ref().is_some_and(|reason| reason.contains(part));
    assert!(says("promised 22020096 bytes") && says("has 20971520"), "{both:?}");
    assert!(refused(&|config| config.volumes[0].reserved_bytes = u64::MAX).is_some());
    let thresholds = SpaceConfig { info_percent: 90, ..SpaceConfig::default() };
    assert!(refused(&|config| config.space = thresholds).is_some_and(|reason| reason.contains("must rise")));
}

/// A pool from before zeros were remembered has no room for them: they are written.
#[test]
fn without_room_zeros_are_written() {
    let mut solo = Solo::new(8, |_| {});
    solo.change_superblocks(|block| block.features = (block.features.get() & !FEATURE_ZEROS).into());
    solo.restart();
    solo.write(V, 3, &[7]).unwrap();
    solo.flush();
    assert_eq!((solo.written, solo.used()), (EXTENT, 1));
    solo.zero(V, 3, 1);
    assert_eq!((solo.written, solo.used()), (EXTENT + 1, 1));
    assert_eq!(solo.content(V, 0, EXTENT), vec![0; EXTENT as usize]);
    solo.zero(V, 0, EXTENT);
    assert_eq!(solo.used(), 0);
}

/// When the room in the checkpoint is used up, zeros are written again: nothing else changes.
#[test]
fn when_the_room_is_used_up_zeros_are_written() {
    let mut solo = Solo::new(300, |_| {});
    // What the pool could grow by goes first, then what everything else can spare, then the room for zeros.
    let mut room = solo.zero_extents_max();
    assert!(room >= 300, "{room}");
    while room >= 100 {
        solo.change_superblocks(|block| {
            block.checkpoint_area_bytes = (block.checkpoint_area_bytes.get() - 4096).into();
        });
        room = solo.zero_extents_max();
    }
    assert!(room >= 10, "{room}");
    solo.restart();
    // The volumes have 100 extents each.
    for extent in 0..100 {
        solo.write(V, extent * EXTENT + 5, &[7]).unwrap();
        solo.write(W, extent * EXTENT + 9, &[8]).unwrap();
    }
    solo.flush();
    assert_eq!(solo.used(), 200);
    let partial = |solo: &Solo, volume| {
        let first = (0..100).map(|extent| solo.status(volume, extent * EXTENT, 1)[0].2);
        first.filter(|state| *state == Zero).count()
    };
    let remembered = partial(&solo, V) + partial(&solo, W);
    // Jobs beside each other leave room for one another.
    assert!((room / 2..=room).contains(&(remembered as u64)), "{remembered} of {room}");
    assert_eq!(solo.written, 200 * EXTENT - remembered as u64 * (EXTENT - 1));
    solo.restart();
    for extent in 0..100 {
        assert_eq!(solo.content(V, extent * EXTENT + 4, 3), [0, 7, 0]);
        assert_eq!(solo.content(W, extent * EXTENT + 8, 3), [0, 8, 0]);
    }
    // One that is given back makes room for another.
    (0..100).for_each(|extent| solo.zero(V, extent * EXTENT, EXTENT));
    let written = solo.written;
    solo.write(V, 0, &[1]).unwrap();
    solo.flush();
    assert_eq!((solo.written, solo.used()), (written + 1, 101));
}

fn pair(change: impl FnOnce(&mut Setup)) -> Cluster {
    let volume = VolumeSetup { sectors: 16 << 11, mirrored: true, reserved_bytes: 0 };
    let mut setup = Setup { volumes: vec![volume; 2], disk_bytes: 24 << 20, ..Setup::default() };
    change(&mut setup);
    let mut cluster = Cluster::by_hand(setup);
    cluster.until_paired().unwrap();
    cluster
}

/// Writes one block of each 64 KiB extent until there is no space; how many.
fn fill(cluster: &mut Cluster, via: NodeName, volume: VolumeId) -> u64 {
    let extents = 0..256;
    let mut written = 0;
    for extent in extents {
        match cluster.write(via, volume, at(extent * 16 + extent % 16, 1)) {
            Ok(_) => written += 1,
            Err(ApiError::Refused) => return written,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn either_half_without_space_refuses_for_both_and_is_freed_for_both() {
    for small in NodeName::BOTH {
        let mut cluster = pair(|setup| (setup.small_node, setup.small_disk_bytes) = (Some(small), 8 << 20));
        let written = fill(&mut cluster, small.partner(), V);
        assert!((50..256).contains(&written), "{written}");
        let room = cluster.view(small.partner()).unwrap();
        assert!(room.pool_bytes_used < room.pool_bytes / 2, "the other half has space");
        for via in NodeName::BOTH {
            assert!(matches!(cluster.write(via, W, at(0, 40)), Err(ApiError::Refused)));
            assert_eq!(cluster.read(via, W, at(0, 40)).unwrap(), vec![0; 320], "nothing of it is visible");
            let value = cluster.write(via, V, at(0, 16)).unwrap();
            assert_eq!(cluster.read(via.partner(), V, at(3, 2)).unwrap(), vec![value; 16]);
        }
        cluster.zero(small, V, at(0, 64 * 16)).unwrap();
        cluster.flush(small, V).unwrap();
        let value = cluster.write(small.partner(), W, at(0, 40)).unwrap();
        assert_eq!(cluster.read(small, W, at(0, 40)).unwrap(), vec![value; 320]);
        assert_eq!(cluster.read(small, V, at(0, 64)).unwrap(), vec![0; 512]);
        cluster.check().unwrap();
    }
}

#[test]
fn kept_space_is_kept_on_both_halves() {
    let mut cluster = pair(|setup| {
        (setup.small_node, setup.small_disk_bytes) = (Some(NodeName::B), 8 << 20);
        (setup.volumes[1].sectors, setup.volumes[1].reserved_bytes) = (4 << 11, 4 << 20);
    });
    let written = fill(&mut cluster, NodeName::A, V);
    assert!((20..100).contains(&written), "{written}");
    for extent in 0..64 {
        cluster.write(NodeName::BOTH[extent as usize % 2], W, at(extent * 16, 3)).unwrap();
    }
    cluster.check().unwrap();
}

#[test]
fn zeros_stay_zeros_when_a_node_dies_and_when_extents_are_used_again() {
    let mut cluster = pair(|setup| (setup.disk_bytes, setup.extent_bytes) = (16 << 20, 1 << 20));
    let values: Vec<u64> =
        (0..8).map(|extent| cluster.write(NodeName::A, V, at(extent * 256 + 5, 4)).unwrap()).collect();
    cluster.flush(NodeName::A, V).unwrap();
    cluster.zero(NodeName::B, V, at(6, 2)).unwrap();
    cluster.zero(NodeName::B, V, at(256, 256)).unwrap();
    cluster.flush(NodeName::B, V).unwrap();
    cluster.apply_now(Verb::PowerCut { who: NodeName::A });
    cluster.until_alone(NodeName::B).unwrap();
    let expect = |cluster: &mut Cluster, via| {
        let found = cluster.read(via, V, at(4, 6)).unwrap();
        let blocks: Vec<u64> = found.chunks(8).map(|block| block[0]).collect();
        assert_eq!(blocks, [0, values[0], 0, 0, values[0], 0]);
        assert_eq!(cluster.read(via, V, at(256, 256)).unwrap(), vec![0; 2048]);
    };
    expect(&mut cluster, NodeName::B);
    // The place that was given back goes to another volume, of which one block is written.
    for extent in 0..4 {
        cluster.write(NodeName::B, W, at(extent * 256 + 9, 1)).unwrap();
    }
    cluster.apply_now(Verb::Start { who: NodeName::A });
    cluster.until_paired().unwrap();
    expect(&mut cluster, NodeName::A);
    cluster.apply_now(Verb::PowerCut { who: NodeName::B });
    cluster.until_alone(NodeName::A).unwrap();
    expect(&mut cluster, NodeName::A);
    assert_eq!(cluster.read(NodeName::A, W, at(0, 9)).unwrap(), vec![0; 72]);
    cluster.check().unwrap();
}

#[test]
fn a_full_partner_is_dropped_if_that_is_wanted_and_comes_back_when_it_has_space() {
    for small in NodeName::BOTH {
        let mut cluster = pair(|setup| {
            (setup.small_node, setup.small_disk_bytes) = (Some(small), 8 << 20);
            (setup.preferred, setup.when_partner_full) = (small.partner(), WhenFull::Degrade);
        });
        let full = cluster.view(small).unwrap().pool_bytes / (64 << 10);
        // From the end to the beginning: what is given back lies behind what does not fit.
        for extent in 0..full + 20 {
            let via = if extent < full { small } else { small.partner() };
            cluster.write(via, V, at((255 - extent) * 16, 1)).unwrap();
        }
        assert_eq!(cluster.counters().partners_dropped, 1);
        assert_eq!(cluster.state(small.partner()).phase, PeerPhase::Alone);
        cluster.run(Duration::from_secs(10));
        assert_eq!(cluster.state(small.partner()).phase, PeerPhase::Alone, "it still does not fit");
        // What is cleared is copied first, so that there is space for the rest.
        cluster.zero(small.partner(), V, at((255 - 30) * 16, 29 * 16)).unwrap();
        cluster.until_paired().unwrap();
        cluster.check().unwrap();
    }
}

#[test]
fn a_full_partner_is_not_dropped_by_a_node_that_would_stop() {
    let mut cluster = pair(|setup| {
        (setup.small_node, setup.small_disk_bytes) = (Some(NodeName::B), 8 << 20);
        (setup.arbitration, setup.when_partner_full) = (Arbitration::StopBoth, WhenFull::Degrade);
    });
    assert!((50..256).contains(&fill(&mut cluster, NodeName::A, V)));
    assert_eq!(cluster.counters().partners_dropped, 0);
    cluster.check().unwrap();
}
