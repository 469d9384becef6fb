//! The register of a partnership as a file in a directory that both nodes see.
//!
//! Invariants:
//! - The lock is held over read, compare, write, fsync, rename and the fsync of the directory. It is on a file of
//!   its own (`NAME.lock`), which is never replaced and never removed; the system gives it up when its holder dies.
//! - The register file is replaced whole, by a rename: whoever dies in between leaves the old one or the new one.
//! - What is answered is durable: a reader makes the name durable too, for the writer may have died before it did.
//! - Bytes that are not this partnership's register are an error, never an empty register.
//!
//! The directory must be on a file system whose locks (`flock`) and renames hold between the nodes: NFS 4, or a
//! cluster file system.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::sync_parent;
use crate::arbiter::{Answer, Arbiter, ArbiterError, Ask, Register, image};
use crate::ids::Uuid;

/// A register in a shared file. `engine/docs/format.md` has its bytes; so has [`image`].
#[derive(Clone, Debug)]
pub struct FileArbiter {
    path: PathBuf,
    partnership: Uuid,
}

impl FileArbiter {
    /// The register of `partnership` at `path`, made by the first swap. Nothing is touched yet: a node must be able
    /// to start while the directory is away. [`Ask::Read`] tells whether it is there and ours.
    pub fn new(path: impl Into<PathBuf>, partnership: Uuid) -> FileArbiter {
        FileArbiter { path: path.into(), partnership }
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(suffix);
        name.into()
    }

    /// Waits for the lock; it is held until the file is dropped.
    fn lock(&self) -> io::Result<File> {
        let path = self.sibling(".lock");
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            // A lock on a file that someone has removed in the meantime excludes nobody.
            if is_at(&file, &path)? {
                return Ok(file);
            }
        }
    }

    fn read(&self) -> Result<Option<Register>, String> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", self.path.display())),
        };
        image::decode(self.partnership, &bytes)
            .map(Some)
            .map_err(|error| format!("{} is no register of this pair: {error}", self.path.display()))
    }

    fn replace(&self, register: Register) -> io::Result<()> {
        let new = self.sibling(".new");
        let mut file = File::create(&new)?;
        file.write_all(&image::encode(self.partnership, register))?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Arbiter for FileArbiter {
    fn ask(&self, ask: Ask) -> Result<Answer, ArbiterError> {
        let failed = |reason| ArbiterError { reason };
        let lock = self.lock().map_err(|error| {
            failed(format!(
                "{} cannot be locked: {error}; check the path and its permissions",
                self.path.display()
            ))
        })?;
        let answer = ask.decide(self.read().map_err(failed)?);
        let settled = match answer {
            Answer { swapped: true, register: Some(register) } => self.replace(register),
            _ => Ok(()),
        };
        settled
            .and_then(|()| sync_parent(&self.path))
            .map_err(|error| failed(format!("{} cannot be written: {error}", self.path.display())))?;
        drop(lock);
        Ok(answer)
    }
}
