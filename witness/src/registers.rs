//! The registers of a witness: a file for each partnership in one directory.
//!
//! Invariants: the directory has one user, by a lock that the system gives up when its holder dies; its name is durable
//! before any register in it is; the files are read, replaced and made durable by [`FileArbiter`] alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use twinsan::arbiter::{Answer, Arbiter, ArbiterError, Ask};
use twinsan::backend::FileArbiter;
use twinsan::ids::Uuid;

use crate::notice::WitnessError;

pub(crate) struct Registers {
    directory: PathBuf,
    /// Held as long as the directory is used.
    _lock: File,
}

impl Registers {
    /// Makes the directory if it is not there, and takes it.
    pub(crate) fn open(directory: &Path) -> Result<Registers, WitnessError> {
        let failed = |source| WitnessError::Directory { path: directory.to_path_buf(), source };
        let directory = std::path::absolute(directory).map_err(failed)?;
        make(&directory).map_err(failed)?;
        let lock = directory.join("witness.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Registers { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(WitnessError::InUse(directory)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Carries out one request; its outcome is durable when this returns.
    pub(crate) fn ask(&self, partnership: Uuid, ask: Ask) -> Result<Answer, ArbiterError> {
        let path = self.directory.join(format!("{:032x}.register", partnership.0));
        FileArbiter::new(path, partnership).ask(ask)
    }
}

/// A directory whose name could go with the power would take its registers with it: what is above it is made durable, up
/// to what was there before.
fn make(directory: &Path) -> io::Result<()> {
    let above = || directory.ancestors().skip(1);
    let old = above().find(|path| path.exists());
    std::fs::create_dir_all(directory)?;
    for path in above() {
        match File::open(path) {
            Ok(open) => open.sync_all()?,
            // One that may not be read was not made here.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        if Some(path) == old {
            break;
        }
    }
    Ok(())
}
