//! A disk in memory: for tests, benches and demonstrations. It keeps the pages it is given, uncopied, and answers
//! before `submit` returns.

use parking_lot::RwLock;

use super::{BackendRequest, BlockBackend, check};
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::io::{DiskOp, DiskResult, Geometry};

const CHUNK_BLOCKS: usize = 512;
type Chunk = Box<[Block; CHUNK_BLOCKS]>;

/// A disk in memory. What was never written reads as zeros and takes no memory.
pub struct MemoryBackend {
    geometry: Geometry,
    chunks: RwLock<Vec<Option<Chunk>>>,
}

impl MemoryBackend {
    /// A disk of `bytes` bytes, rounded down to whole blocks.
    pub fn new(bytes: u64) -> MemoryBackend {
        let blocks = bytes / BLOCK_BYTES as u64;
        let chunks = blocks.div_ceil(CHUNK_BLOCKS as u64) as usize;
        MemoryBackend {
            geometry: Geometry { bytes: blocks * BLOCK_BYTES as u64, sector_bytes: 512 },
            chunks: RwLock::new((0..chunks).map(|_| None).collect()),
        }
    }

    fn read(&self, offset: u64, blocks: u32) -> Payload {
        let chunks = self.chunks.read();
        places(offset, blocks as usize)
            .map(|(chunk, within)| {
                chunks[chunk].as_ref().map_or(Block::Zero, |blocks| blocks[within].clone())
            })
            .collect()
    }

    fn write(&self, offset: u64, data: Payload) {
        let mut chunks = self.chunks.write();
        for ((chunk, within), block) in places(offset, data.len()).zip(data) {
            let blocks = chunks[chunk].get_or_insert_with(|| Box::new([const { Block::Zero }; CHUNK_BLOCKS]));
            blocks[within] = block;
        }
    }
}

/// Chunk and place in the chunk of each of `blocks` blocks from `offset`.
fn places(offset: u64, blocks: usize) -> impl Iterator<Item = (usize, usize)> {
    let first = (offset / BLOCK_BYTES as u64) as usize;
    (first..first + blocks).map(|block| (block / CHUNK_BLOCKS, block % CHUNK_BLOCKS))
}

impl BlockBackend for MemoryBackend {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&self, request: BackendRequest) {
        let (op, answer) = request.into_parts();
        let result: DiskResult = check(self.geometry, &op).map(|()| match op {
            DiskOp::Read { offset, blocks } => self.read(offset, blocks),
            DiskOp::Write { offset, data } => {
                self.write(offset, data);
                Payload::new()
            }
            DiskOp::Flush => Payload::new(),
        });
        answer.complete(result);
    }
}
