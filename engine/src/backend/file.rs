//! A disk that is a file or a block device.
//!
//! Requests go straight between the pages and the medium (`O_DIRECT`), past the page cache: an acknowledged write
//! is not counted twice in memory, and a media error comes back as an error of that request. Where the file
//! system does not support that, the page cache is used and [`FileBackend::is_direct`] says so.
//!
//! Invariant: while a pool disk is open, no other process (or part of this one) has it open as such.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::threaded::{BlockingDevice, Threaded};
use super::{BackendRequest, BlockBackend, sys};
use crate::block::{BLOCK_BYTES, Block, PageMut, PagePool};
use crate::io::{DiskError, DiskResult, Geometry};

/// How a [`FileBackend`] is opened.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Requests in progress at once; each has a thread.
    pub threads: usize,
    /// Go past the page cache if the file system can.
    pub direct: bool,
    /// Where the pages for reads come from; share it with the engine.
    pub pages: PagePool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions { threads: 4, direct: true, pages: PagePool::new() }
    }
}

/// Why a pool disk could not be opened or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Someone else has it.
    #[error("{path} is in use: another node has it open, or the system has it mounted; stop that first")]
    InUse {
        /// The file or device.
        path: PathBuf,
    },
    /// It holds not a single block.
    #[error("{path} is smaller than 4096 bytes; make the file larger or name another device")]
    Empty {
        /// The file or device.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path} cannot be opened: {error}; check the path and its permissions")]
    System {
        /// The file or device.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A disk that is a file or a block device, with a few threads for its I/O.
///
/// Dropping it answers what is queued with [`DiskError::Dropped`], waits for the calls in progress, and gives up
/// the lock.
pub struct FileBackend {
    threads: Threaded<FileDevice>,
}

impl FileBackend {
    /// Opens a disk and locks it. The file's size is taken now, rounded down to whole blocks.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<FileBackend, OpenError> {
        let path = path.as_ref();
        let device = FileDevice::open(path, options)?;
        let threads = Threaded::new(device, options.threads)
            .map_err(|error| OpenError::System { path: path.to_path_buf(), error })?;
        Ok(FileBackend { threads })
    }

    /// Does I/O go past the page cache? If not, written data is in memory twice, and the system decides when it
    /// reaches the medium; flushes are honoured all the same.
    pub fn is_direct(&self) -> bool {
        self.threads.device().direct
    }
}

impl BlockBackend for FileBackend {
    fn geometry(&self) -> Geometry {
        self.threads.geometry()
    }

    fn submit(&self, request: BackendRequest) {
        self.threads.submit(request);
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        // The thread that drops may be a disk thread, which holds the file open for a moment longer.
        self.threads.finish();
        drop(self.threads.device().file.unlock());
    }
}

/// Makes a file of `bytes` bytes that takes no space yet. Refuses one that exists.
pub fn create_sparse(path: impl AsRef<Path>, bytes: u64) -> Result<(), OpenError> {
    let path = path.as_ref();
    let failed = |error| OpenError::System { path: path.to_path_buf(), error };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let filled = file.set_len(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    filled.map_err(|error| {
        // It is of no use, and in the way of the next attempt.
        drop(std::fs::remove_file(path));
        failed(error)
    })
}

/// Makes the name `path` itself durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

struct FileDevice {
    file: File,
    geometry: Geometry,
    direct: bool,
    pages: PagePool,
}

impl FileDevice {
    fn open(path: &Path, options: &FileOptions) -> Result<FileDevice, OpenError> {
        let failed = |error: io::Error| {
            let path = path.to_path_buf();
            if error.kind() == io::ErrorKind::ResourceBusy {
                OpenError::InUse { path }
            } else {
                OpenError::System { path, error }
            }
        };
        // An exclusive open of a block device fails while the system has it mounted.
        let is_device = std::fs::metadata(path).map_err(failed)?.file_type().is_block_device();
        let exclusive = if is_device { libc::O_EXCL } else { 0 };
        let (file, direct) = open_direct(path, exclusive, options.direct).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let (bytes, sector_bytes) = if is_device {
            sys::device_size(&file).map_err(failed)?
        } else {
            (file.metadata().map_err(failed)?.len(), 512)
        };
        let bytes = bytes - bytes % BLOCK_BYTES as u64;
        if bytes == 0 {
            return Err(OpenError::Empty { path: path.to_path_buf() });
        }
        let geometry = Geometry { bytes, sector_bytes };
        Ok(FileDevice { file, geometry, direct, pages: options.pages.clone() })
    }

    fn pages(&self, count: usize) -> Vec<PageMut> {
        (0..count).map(|_| self.pages.take()).collect()
    }
}

/// Opens for direct I/O if wanted and possible; else through the page cache.
fn open_direct(path: &Path, flags: libc::c_int, wanted: bool) -> io::Result<(File, bool)> {
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let unsupported = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    if wanted {
        match open(flags | libc::O_DIRECT) {
            Ok(file) => {
                // Some file systems take the flag and refuse the I/O.
                let probe = sys::read_vectored(&file, 0, &mut [PagePool::new().take()]);
                if !probe.is_err_and(|error| unsupported(&error)) {
                    return Ok((file, true));
                }
            }
            Err(error) if unsupported(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((open(flags)?, false))
}

impl BlockingDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, blocks: u32) -> DiskResult {
        let mut pages = self.pages(blocks as usize);
        in_pieces(pages.len(), |done, count| {
            let place = offset + (done * BLOCK_BYTES) as u64;
            sys::read_vectored(&self.file, place, &mut pages[done..done + count])
        })
        .map_err(|_| DiskError::Unreadable)?;
        Ok(pages.into_iter().map(|page| Block::Data(page.freeze())).collect())
    }

    fn write(&self, offset: u64, data: &[Block]) -> Result<(), DiskError> {
        in_pieces(data.len(), |done, count| {
            let place = offset + (done * BLOCK_BYTES) as u64;
            sys::write_vectored(&self.file, place, &data[done..done + count])
        })
        .map_err(|_| DiskError::Failed)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|_| DiskError::Failed)
    }
}

/// Calls `transfer(done, count)` until all `blocks` are done. It answers with the bytes it moved; a block that was
/// moved in part is moved again.
fn in_pieces(blocks: usize, mut transfer: impl FnMut(usize, usize) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    while done < blocks {
        match transfer(done, (blocks - done).min(sys::PIECES_MAX)) {
            Ok(bytes) if bytes < BLOCK_BYTES => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => done += bytes / BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_transfers_go_on_from_the_last_whole_block() {
        let mut calls = Vec::new();
        let mut answers =
            [Ok(3 * 4096 + 512), Err(io::ErrorKind::Interrupted.into()), Ok(2 * 4096)].into_iter();
        in_pieces(5, |done, count| {
            calls.push((done, count));
            answers.next().unwrap()
        })
        .unwrap();
        assert_eq!(calls, [(0, 5), (3, 2), (3, 2)]);
    }

    #[test]
    fn a_transfer_without_progress_fails() {
        assert!(in_pieces(1, |_, _| Ok(512)).is_err());
        assert!(in_pieces(1, |_, _| Err(io::Error::other("broken"))).is_err());
    }

    #[test]
    fn long_transfers_are_split() {
        let mut counts = Vec::new();
        in_pieces(2500, |_, count| {
            counts.push(count);
            Ok(count * BLOCK_BYTES)
        })
        .unwrap();
        assert_eq!(counts, [1024, 1024, 452]);
    }
}
