//! The system calls that the standard library does not offer, each behind a safe function.

#![expect(
    unsafe_code,
    reason = "vectored direct I/O, the sector size of a device and the boot-time clock are not in the standard library"
)]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use crate::block::{BLOCK_BYTES, Block, PageMut};
use crate::ids::{BootId, Uuid};
use crate::time::Instant;

/// The most pieces of one vectored call (`UIO_MAXIOV`).
pub(super) const PIECES_MAX: usize = 1024;

#[repr(align(4096))]
struct Aligned([u8; BLOCK_BYTES]);
/// What is written for [`Block::Zero`]: direct I/O wants its memory aligned.
static ZEROS: Aligned = Aligned([0; BLOCK_BYTES]);

type Pieces = smallvec::SmallVec<[libc::iovec; 64]>;

/// Reads into the pages one after another from `offset`; at most [`PIECES_MAX`] pages. Returns the bytes read.
pub(super) fn read_vectored(file: &File, offset: u64, pages: &mut [PageMut]) -> io::Result<usize> {
    let pieces: Pieces = pages
        .iter_mut()
        .map(|page| libc::iovec { iov_base: page.bytes_mut().as_mut_ptr().cast(), iov_len: BLOCK_BYTES })
        .collect();
    let count = pieces.len().min(PIECES_MAX) as libc::c_int;
    // SAFETY: each piece is a page borrowed mutably for the whole call; `count` of them exist.
    let got = unsafe { libc::preadv(file.as_raw_fd(), pieces.as_ptr(), count, offset as libc::off_t) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes the blocks one after another at `offset`; at most [`PIECES_MAX`] blocks. Returns the bytes written.
pub(super) fn write_vectored(file: &File, offset: u64, blocks: &[Block]) -> io::Result<usize> {
    let pieces: Pieces = blocks
        .iter()
        .map(|block| {
            let bytes = match block {
                Block::Zero => &ZEROS.0,
                Block::Data(page) => page.bytes(),
            };
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: BLOCK_BYTES }
        })
        .collect();
    let count = pieces.len().min(PIECES_MAX) as libc::c_int;
    // SAFETY: each piece is borrowed for the whole call and only read; `count` of them exist.
    let put = unsafe { libc::pwritev(file.as_raw_fd(), pieces.as_ptr(), count, offset as libc::off_t) };
    usize::try_from(put).map_err(|_| io::Error::last_os_error())
}

/// Size of a block device in bytes, and its logical sector size.
pub(super) fn device_size(mut file: &File) -> io::Result<(u64, u32)> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let mut sector: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to the pointer, which is to one.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET as _, &raw mut sector) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((bytes, sector as u32))
}

/// The monotonic clock that goes on while the machine is suspended (`CLOCK_BOOTTIME`).
pub fn boot_time() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec to the pointer, which is to one.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(failed, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A random identity, never zero.
pub fn random_uuid() -> io::Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    // Version 4, variant 1 (RFC 9562, 5.4).
    let random = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62);
    Ok(Uuid(random | 0x4 << 76 | 0x2 << 62))
}

/// A random name for one life of a node's memory, never zero.
pub fn random_boot_id() -> io::Result<BootId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(BootId(u64::from_be_bytes(bytes).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let first = boot_time();
        assert!(first > Instant::ZERO);
        assert!(boot_time() >= first);
    }

    #[test]
    fn identities_are_random_and_well_formed() {
        let (one, other) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.0 >> 76 & 0xf, 4);
        assert_eq!(one.0 >> 62 & 0x3, 2);
        assert_ne!(random_boot_id().unwrap(), random_boot_id().unwrap());
    }
}
