//! `twinsand check --data` on a real file: what is damaged is named, exactly that, and what a kill leaves is no damage.

mod common;

use common::pool::{Place, said};
use twinsan::backend::{self, FileBackend};
use twinsan::block::{Block, PagePool};
use twinsan::ids::{DiskId, Uuid, VolumeId};
use twinsan::io::Geometry;
use twinsan::planted::Planted;
use twinsan::pool::{Opening, Pool, Record, SumArea};
use twinsan::store::{CacheConfig, Store};
use twinsan::time::{Duration, Instant};

const V: VolumeId = VolumeId(7);

fn open(disk: &FileBackend) -> Pool {
    let geometry: Geometry = backend::BlockBackend::geometry(disk);
    let mut opening = Opening::new(&[geometry]);
    loop {
        while let Some(io) = opening.poll_io() {
            opening.io_done(io.token, backend::perform(disk, io.op));
        }
        if let Some(outcome) = opening.done() {
            return outcome.expect("it opens").0;
        }
    }
}

/// A store over the pool's disk.
struct Writer {
    disk: FileBackend,
    store: Store,
    now: Instant,
    pages: PagePool,
}

impl Writer {
    fn new(place: &Place) -> Writer {
        let disk = place.open();
        let config = CacheConfig {
            blocks_max: 4096,
            dirty_blocks_max: 2048,
            destage_age: Duration::ZERO,
            ..CacheConfig::default()
        };
        let store = Store::new(open(&disk), &config, 0, Planted::NONE);
        Writer { disk, store, now: Instant::ZERO, pages: PagePool::new() }
    }

    fn create(&mut self) {
        let create = Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors: 32 << 11, mirrored: true };
        self.store.append(&[create]);
    }

    fn write(&mut self, first: u64, count: u64, fill: u8) {
        assert!(self.store.reserve(V, first..first + count), "there is room");
        let block = |n: u64| {
            let mut page = self.pages.take();
            page.bytes_mut().fill(fill);
            page.bytes_mut()[..8].copy_from_slice(&n.to_le_bytes());
            Block::Data(page.freeze())
        };
        let data: Vec<Block> = (first..first + count).map(block).collect();
        self.store.write(self.now, V, first, &data);
    }

    /// Carries out what there is to do now.
    fn run(&mut self) {
        self.store.pump(self.now);
        while let Some(request) = self.store.poll_io() {
            let result = backend::perform(&self.disk, request.op);
            self.store.io_done(self.now, request.id, result);
            self.store.pump(self.now);
        }
    }

    /// Everything is done, the checksums too; where they lie, and where the blocks do.
    fn settle(mut self) -> (SumArea, impl Fn(u64) -> u64) {
        self.run();
        while let Some(at) = self.store.deadline() {
            self.now = self.now.max(at);
            self.run();
        }
        let area = self.store.pool().sum_area(DiskId(0)).expect("new pools have checksums");
        let pool = open(&self.disk);
        (area, move |block| pool.locate(V, block).expect("data").1)
    }
}

/// Three extents with data: 300 blocks in one piece, and one alone.
fn written(place: &Place) -> (SumArea, impl Fn(u64) -> u64) {
    let mut writer = Writer::new(place);
    writer.create();
    writer.write(100, 300, 1);
    writer.write(1000, 1, 2);
    writer.settle()
}

/// The lines that name damage.
fn damaged(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("  damaged: ")).collect()
}

#[test]
fn data_are_compared_when_asked_and_what_is_damaged_is_named() {
    let place = Place::new("rot");
    let (area, offset) = written(&place);
    let sound = place.check(&["--data"]);
    assert!(sound.status.success() && said(&sound).contains("1.2 MiB match"), "{}", said(&sound));

    // A block, two others that have changed places, and the checksums of a third place.
    place.damage(offset(123) + 4000);
    let mut image = place.image();
    let (a, b) = (offset(200) as usize, offset(201) as usize);
    let both = [image[a..a + 4096].to_vec(), image[b..b + 4096].to_vec()];
    image[a..a + 4096].copy_from_slice(&both[1]);
    image[b..b + 4096].copy_from_slice(&both[0]);
    std::fs::write(place.disk(), image).expect("written");
    let (line, _) = area.place(offset(1000));
    let sums = area.offset + line / 60 * 4096 + line % 60 * 68;
    place.damage(sums + 30);

    let before = place.image();
    assert!(place.check(&[]).status.success(), "without --data nothing is read of them");
    let told = place.check(&["--data"]);
    let text = said(&told);
    assert_eq!(told.status.code(), Some(1), "{text}");
    assert!(place.image() == before, "a check writes nothing");
    let mut expected: Vec<String> = [123, 200, 201]
        .map(|block| format!("byte {}: block {block} of volume 7: it is not what", offset(block)))
        .to_vec();
    expected.push(format!("byte {sums}: the checksums of the 64 KiB at byte"));
    let named = damaged(&text);
    assert_eq!(named.len(), expected.len(), "{text}");
    for each in &expected {
        assert!(named.iter().any(|line| line.contains("disk0.img") && line.contains(each)), "{each}: {text}");
    }
    assert!(text.contains("3 blocks damaged, 1 lines of checksums damaged"), "{text}");
    assert!(text.contains("1 blocks under damaged checksums were not compared"), "{text}");
}

#[test]
fn what_a_kill_leaves_in_doubt_is_no_damage() {
    let place = Place::new("kill");
    let (_, offset) = written(&place);
    let mut writer = Writer::new(&place);
    writer.write(150, 3, 9);
    writer.run();
    // The data are there, their checksums in memory only.
    drop(writer);
    let told = place.check(&["--data"]);
    let text = said(&told);
    assert!(told.status.success() && damaged(&text).is_empty(), "{text}");
    assert!(text.contains("blocks in doubt after a crash, 3 of them unlike their checksums"), "{text}");

    // What is not in doubt is compared as ever.
    place.damage(offset(300));
    let told = place.check(&["--data"]);
    assert_eq!((told.status.code(), damaged(&said(&told)).len()), (Some(1), 1), "{}", said(&told));

    // The node that comes back settles it. Here: overwritten, and stopped cleanly.
    let mut writer = Writer::new(&place);
    writer.write(100, 300, 5);
    drop(writer.settle());
    let told = place.check(&["--data"]);
    assert!(told.status.success() && !said(&told).contains("in doubt"), "{}", said(&told));
}
