//! `twinsand check --repair` as a person uses it: first told, then done, and nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use twinsan::backend::{self, FileBackend, FileOptions, create_sparse};
use twinsan::format::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, Superblock};
use twinsan::ids::{NodeName, Uuid};
use twinsan::io::{DiskOp, Geometry};
use twinsan::pool::{FormatIds, PoolOptions, format};

const BYTES: u64 = 64 << 20;

/// A directory with the one disk of a pool. It goes when the test has passed.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("twinsan-repair-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        let place = Place(path);
        create_sparse(place.disk(), BYTES).expect("a file");
        let disk = FileBackend::open(place.disk(), &FileOptions::default()).expect("it opens");
        let (pool, partnership, node) = (Uuid(0x51), Uuid(0x52), NodeName::A);
        let ids = FormatIds { pool, disks: vec![Uuid(0x53)], partnership, node };
        let geometry = Geometry { bytes: BYTES, sector_bytes: 512 };
        for write in format(&ids, &PoolOptions::default(), &[geometry]).expect("the options are sound") {
            let op = DiskOp::Write { offset: write.offset, data: write.data };
            backend::perform(&disk, op).expect("written");
        }
        backend::perform(&disk, DiskOp::Flush).expect("flushed");
        place
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk0.img")
    }

    /// The superblock that counts.
    fn superblock(&self) -> Superblock {
        let image = std::fs::read(self.disk()).expect("the image");
        let parse = |copy: usize| {
            let from = SUPERBLOCK_OFFSETS[copy] as usize;
            let block: [u8; SUPERBLOCK_BYTES] =
                image[from..from + SUPERBLOCK_BYTES].try_into().expect("4096 bytes");
            Superblock::parse(&block, copy as u8).ok()
        };
        [0, 1].into_iter().filter_map(parse).max_by_key(|block| block.generation.get()).expect("a superblock")
    }

    /// Where the checkpoint lies: in the first copy, and in the second.
    fn checkpoint(&self) -> [u64; 2] {
        let block = self.superblock();
        let area = block.checkpoint_number.get() % 2;
        let second = block.spare[0].get() + block.log_bytes.get() + area * block.checkpoint_area_bytes.get();
        [block.checkpoint_offsets[area as usize].get(), second]
    }

    fn damage(&self, offset: u64) {
        let mut image = std::fs::read(self.disk()).expect("the image");
        image[offset as usize] ^= 0x10;
        std::fs::write(self.disk(), image).expect("written");
    }

    fn check(&self, arguments: &[&str]) -> Output {
        check(&self.0, arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

fn check(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinsand"));
    command.arg("check").arg(directory).args(arguments).output().expect("the daemon runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn what_is_damaged_is_told_and_repaired_only_when_asked() {
    let place = Place::new("copies");
    assert!(place.check(&[]).status.success());
    let [first, second] = place.checkpoint();
    for (offset, what) in [(second, "checkpoint"), (first, "checkpoint"), (64 << 10, "superblock copy 1")] {
        // After each repair the checkpoint lies in the other area.
        let offset =
            if what == "checkpoint" { place.checkpoint()[usize::from(offset == second)] } else { offset };
        place.damage(offset + 20);
        let before = std::fs::read(place.disk()).expect("the image");
        let told = place.check(&[]);
        assert_eq!(told.status.code(), Some(1), "{}", said(&told));
        assert!(said(&told).contains("disk0.img") && said(&told).contains(what), "{}", said(&told));
        assert!(what != "checkpoint" || said(&told).contains(&format!("byte {offset}")), "{}", said(&told));
        assert!(said(&told).contains("nothing was changed"), "{}", said(&told));
        assert!(std::fs::read(place.disk()).expect("the image") == before, "a check writes nothing");
        let repaired = place.check(&["--repair"]);
        assert!(
            repaired.status.success() && said(&repaired).contains("1 repaired, 0 left"),
            "{}",
            said(&repaired)
        );
        let clean = place.check(&[]);
        assert!(clean.status.success() && !said(&clean).contains("damaged"), "{}", said(&clean));
    }
}

#[test]
fn a_sound_pool_is_left_alone() {
    let place = Place::new("sound");
    let before = std::fs::read(place.disk()).expect("the image");
    assert!(place.check(&["--repair"]).status.success());
    assert!(std::fs::read(place.disk()).expect("the image") == before);
}

#[test]
fn what_cannot_be_repaired_is_named_and_left_alone() {
    let place = Place::new("beyond");
    let both = place.checkpoint();
    both.iter().for_each(|offset| place.damage(offset + 20));
    let before = std::fs::read(place.disk()).expect("the image");
    let refused = place.check(&["--repair"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    for offset in both {
        assert!(said(&refused).contains(&format!("byte {offset}")), "{}", said(&refused));
    }
    assert!(std::fs::read(place.disk()).expect("the image") == before);
}
