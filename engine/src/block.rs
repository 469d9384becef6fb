//! Blocks: 4 KiB of data, counted, aligned for direct I/O, checksummed once.
//!
//! A [`Page`] is filled once, through [`PageMut`], and never changes. Its CRC32C is taken at that moment and
//! travels with it: over the mirror link, and to disk. Pages come from a [`PagePool`] and go back to it, so
//! the steady state allocates no data memory.

#![expect(unsafe_code, reason = "the aligned buffer: one allocation handed out in 4 KiB pieces")]

use core::fmt;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

/// Bytes in a sector, the unit of guest addresses.
pub const SECTOR_BYTES: usize = 512;
/// Bytes in a block, the unit of caching, checksums and disk requests.
pub const BLOCK_BYTES: usize = 4096;
/// Sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// CRC32C of 4096 zeros.
const ZEROS_CRC: u32 = 0x98F9_4189;
const SLAB_PAGES: usize = 64;

/// The shared free list. Slabs are never given back while the pool lives.
struct Shared {
    free: Mutex<FreeList>,
}

struct FreeList {
    pages: Vec<NonNull<u8>>,
    slabs: Vec<NonNull<u8>>,
}

// SAFETY: the pointers are to memory owned by the pool, each in one place at a time: the free list (under
// its lock) or one `Buffer`.
unsafe impl Send for FreeList {}

fn slab_layout() -> Layout {
    Layout::from_size_align(SLAB_PAGES * BLOCK_BYTES, BLOCK_BYTES).expect("a power of two")
}

impl FreeList {
    fn grow(&mut self) {
        let layout = slab_layout();
        // SAFETY: the layout has a size greater than zero.
        let Some(slab) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        self.slabs.push(slab);
        for index in 0..SLAB_PAGES {
            // SAFETY: inside the slab just allocated.
            self.pages.push(unsafe { slab.add(index * BLOCK_BYTES) });
        }
    }
}

impl Drop for FreeList {
    fn drop(&mut self) {
        for slab in &self.slabs {
            // SAFETY: allocated in `grow` with this layout; every page is back, for each holds the pool alive.
            unsafe { dealloc(slab.as_ptr(), slab_layout()) };
        }
    }
}

/// Where pages come from. Cheap to clone; all clones share one free list.
#[derive(Clone)]
pub struct PagePool(Arc<Shared>);

impl PagePool {
    /// An empty pool; it grows on demand. The callers' own limits (cache size, queue caps) bound it.
    pub fn new() -> PagePool {
        PagePool(Arc::new(Shared { free: Mutex::new(FreeList { pages: Vec::new(), slabs: Vec::new() }) }))
    }

    /// A page to fill. Its bytes are zero or those of an earlier page of this pool: fill all of it.
    pub fn take(&self) -> PageMut {
        let mut free = self.0.free.lock();
        if free.pages.is_empty() {
            free.grow();
        }
        let bytes = free.pages.pop().expect("just grown");
        drop(free);
        PageMut(Buffer { bytes, pool: Arc::clone(&self.0) })
    }

    /// A page to fill, all zero.
    pub fn take_zeroed(&self) -> PageMut {
        let mut page = self.take();
        page.bytes_mut().fill(0);
        page
    }

    /// Bytes held from the system, in use or free.
    pub fn bytes_held(&self) -> usize {
        self.0.free.lock().slabs.len() * SLAB_PAGES * BLOCK_BYTES
    }
}

impl Default for PagePool {
    fn default() -> PagePool {
        PagePool::new()
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PagePool({} bytes)", self.bytes_held())
    }
}

struct Buffer {
    bytes: NonNull<u8>,
    pool: Arc<Shared>,
}

// SAFETY: a buffer is the only owner of its bytes; shared access (through `Page`) only reads.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        // SAFETY: the pointer is to BLOCK_BYTES initialised bytes that this buffer owns.
        unsafe { self.bytes.cast::<[u8; BLOCK_BYTES]>().as_ref() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free.lock().pages.push(self.bytes);
    }
}

/// A page being filled.
pub struct PageMut(Buffer);

impl PageMut {
    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_BYTES] {
        // SAFETY: as in `Buffer::bytes`, and `self` is borrowed mutably.
        unsafe { self.0.bytes.cast::<[u8; BLOCK_BYTES]>().as_mut() }
    }

    /// Its bytes so far.
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        self.0.bytes()
    }

    /// Takes the checksum; from now on the page cannot change.
    pub fn freeze(self) -> Page {
        let crc = crc32c::crc32c(self.0.bytes());
        Page(Arc::new(Sealed { buffer: self.0, crc }))
    }

    /// As [`freeze`](Self::freeze), with a checksum that came with the bytes. `None` if it does not match.
    pub fn verify(self, crc: u32) -> Option<Page> {
        (crc32c::crc32c(self.0.bytes()) == crc).then(|| Page(Arc::new(Sealed { buffer: self.0, crc })))
    }
}

struct Sealed {
    buffer: Buffer,
    crc: u32,
}

/// 4 KiB of data that never changes, with its CRC32C. Clones share the bytes.
#[derive(Clone)]
pub struct Page(Arc<Sealed>);

impl Page {
    /// Its bytes, aligned to 4096.
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        self.0.buffer.bytes()
    }

    /// CRC32C (Castagnoli) of the bytes, as computed when the page was filled.
    pub fn crc(&self) -> u32 {
        self.0.crc
    }
}

/// CRC32C of 4 KiB of zeros.
const ZERO_CRC: u32 = 0x98f9_4189;

impl Page {
    /// Are all bytes zero? Looks at them only if the checksum says so too.
    pub fn is_zero(&self) -> bool {
        self.crc() == ZERO_CRC && *self.bytes() == ZEROS
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:08x})", self.crc())
    }
}

/// The content of one 4 KiB block. Zero blocks cost no memory.
#[derive(Clone, Debug, Default)]
pub enum Block {
    /// All bytes are zero: never written, unmapped, or cleared.
    #[default]
    Zero,
    /// Data.
    Data(Page),
}

impl Block {
    /// The bytes.
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        match self {
            Block::Zero => &ZEROS,
            Block::Data(page) => page.bytes(),
        }
    }

    /// Pages of nothing but zeros become [`Block::Zero`].
    pub fn detect_zero(self) -> Block {
        match self {
            Block::Data(page) if page.is_zero() => Block::Zero,
            other => other,
        }
    }

    /// CRC32C of the bytes, without looking at them.
    #[inline]
    pub fn crc(&self) -> u32 {
        match self {
            Block::Zero => ZEROS_CRC,
            Block::Data(page) => page.crc(),
        }
    }

    /// Are the bytes equal? Pages with different checksums are not compared.
    pub fn same(&self, other: &Block) -> bool {
        match (self, other) {
            (Block::Zero, Block::Zero) => true,
            (Block::Data(a), Block::Data(b)) => {
                Arc::ptr_eq(&a.0, &b.0) || (a.crc() == b.crc() && a.bytes() == b.bytes())
            }
            (a, b) => a.bytes() == b.bytes(),
        }
    }
}

/// A run of blocks. One block is held without an allocation.
pub type Payload = SmallVec<[Block; 1]>;

/// A payload of `count` zero blocks.
pub fn zeros(count: usize) -> Payload {
    smallvec::smallvec![Block::Zero; count]
}

/// Does the payload consist of [`Block::Zero`] alone?
pub fn is_all_zero(payload: &Payload) -> bool {
    payload.iter().all(|block| matches!(block, Block::Zero))
}

/// Copies `bytes` into blocks of `pool`; the last is filled up with zeros.
pub fn payload_from(pool: &PagePool, bytes: &[u8]) -> Payload {
    bytes
        .chunks(BLOCK_BYTES)
        .map(|chunk| {
            let mut page = pool.take();
            let (data, rest) = page.bytes_mut().split_at_mut(chunk.len());
            data.copy_from_slice(chunk);
            rest.fill(0);
            Block::Data(page.freeze())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_come_back() {
        let pool = PagePool::new();
        let pages: Vec<Page> = (0..200u8)
            .map(|n| {
                let mut page = pool.take();
                page.bytes_mut().fill(n);
                page.freeze()
            })
            .collect();
        for (n, page) in pages.iter().enumerate() {
            assert_eq!(page.bytes().as_ptr() as usize % BLOCK_BYTES, 0);
            assert!(page.bytes().iter().all(|byte| *byte == n as u8));
            assert_eq!(page.crc(), crc32c::crc32c(page.bytes()));
        }
        let held = pool.bytes_held();
        drop(pages);
        let _again: Vec<PageMut> = (0..200).map(|_| pool.take()).collect();
        assert_eq!(pool.bytes_held(), held);
    }

    #[test]
    fn a_page_outlives_its_pool() {
        let page = PagePool::new().take_zeroed().freeze();
        assert_eq!(page.bytes(), &ZEROS);
    }

    #[test]
    fn pages_of_zeros_are_told_from_others() {
        let pool = PagePool::new();
        assert!(pool.take_zeroed().freeze().is_zero());
        assert!(matches!(Block::Data(pool.take_zeroed().freeze()).detect_zero(), Block::Zero));
        let mut page = pool.take_zeroed();
        page.bytes_mut()[4095] = 1;
        assert!(matches!(Block::Data(page.freeze()).detect_zero(), Block::Data(_)));
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let pool = PagePool::new();
        assert!(pool.take_zeroed().verify(1).is_none());
        let crc = crc32c::crc32c(&ZEROS);
        assert!(pool.take_zeroed().verify(crc).is_some());
        assert_eq!(Block::Zero.crc(), crc);
    }
}
