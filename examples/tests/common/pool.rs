//! A pool of one disk in a directory of its own, and `twinsand check` of it.

use std::path::PathBuf;
use std::process::{Command, Output};

use twinsan::backend::{self, FileBackend, FileOptions, create_sparse};
use twinsan::ids::{NodeName, Uuid};
use twinsan::io::{DiskOp, Geometry};
use twinsan::pool::{FormatIds, PoolOptions, format};

const BYTES: u64 = 64 << 20;

/// A directory with the one disk of a pool. It goes when the test has passed.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("twinsan-check-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        let place = Place(path);
        create_sparse(place.disk(), BYTES).expect("a file");
        let disk = place.open();
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

    pub(crate) fn disk(&self) -> PathBuf {
        self.0.join("disk0.img")
    }

    pub(crate) fn open(&self) -> FileBackend {
        FileBackend::open(self.disk(), &FileOptions::default()).expect("it opens")
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        std::fs::read(self.disk()).expect("the image")
    }

    /// Flips a bit.
    pub(crate) fn damage(&self, offset: u64) {
        let mut image = self.image();
        image[offset as usize] ^= 0x10;
        std::fs::write(self.disk(), image).expect("written");
    }

    pub(crate) fn check(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twinsand"));
        command.arg("check").arg(&self.0).args(arguments).output().expect("the daemon runs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
