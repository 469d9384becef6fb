//! A virtual volume in memory, as simple as its contract allows: every request completes within `submit`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use twinsan::block::{BLOCK_BYTES, Block, PagePool, Payload, SECTOR_BYTES, SECTORS_PER_BLOCK};
use twinsan::guest::{
    COMPARE_SECTORS_MAX, Command, GuestError, GuestResult, PathState, Sectors, Sink, TRANSFER_SECTORS_MAX,
    VirtualVolume, VolumeInfo, ZERO_SECTORS_MAX,
};
use twinsan::ids::{RequestId, Uuid, VolumeId};

const SHARD_BLOCKS: usize = 1024;
const EXTENT_SECTORS: u64 = 2048;

/// The volume.
pub(crate) struct RamVolume {
    id: u32,
    sectors: AtomicU64,
    path: AtomicU8,
    mirrored: bool,
    pages: PagePool,
    shards: Vec<Mutex<Vec<Block>>>,
    turn: RwLock<()>,
}

impl RamVolume {
    /// A volume of `sectors` sectors that reads as zero.
    pub(crate) fn new(id: u32, sectors: u64, pages: PagePool) -> RamVolume {
        let blocks = sectors.div_ceil(SECTORS_PER_BLOCK) as usize;
        let shards = (0..blocks.div_ceil(SHARD_BLOCKS)).map(|_| Mutex::new(Vec::new())).collect();
        RamVolume {
            id,
            sectors: AtomicU64::new(sectors),
            path: AtomicU8::new(0),
            mirrored: true,
            pages,
            shards,
            turn: RwLock::new(()),
        }
    }

    /// Changes the path state.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn set_path(&self, state: PathState) {
        let code = match state {
            PathState::Optimized => 0,
            PathState::NonOptimized => 1,
            PathState::Unavailable => 2,
            PathState::Transitioning => 3,
        };
        self.path.store(code, Ordering::SeqCst);
    }

    fn run(&self, command: Command) -> GuestResult {
        let (at, limit) = match &command {
            Command::Read { at } | Command::Write { at, .. } | Command::OrWrite { at, .. } => {
                (*at, TRANSFER_SECTORS_MAX)
            }
            Command::CompareAndWrite { at, .. } => (*at, COMPARE_SECTORS_MAX),
            Command::Zero { at, .. } => (*at, ZERO_SECTORS_MAX),
            Command::Flush => return Ok(Payload::new()),
        };
        if at.end() > self.sectors.load(Ordering::Relaxed) {
            return Err(GuestError::OutOfRange);
        }
        if at.count > limit {
            return Err(GuestError::Invalid);
        }
        // Those that look at what is there have the volume to themselves.
        let (_shared, _alone);
        if matches!(command, Command::CompareAndWrite { .. } | Command::OrWrite { .. }) {
            _alone = self.turn.write();
        } else {
            _shared = self.turn.read();
        }
        match command {
            Command::CompareAndWrite { compare, data, .. } => {
                if let Some(offset) = self.differs(at, &compare) {
                    return Err(GuestError::Miscompare { offset });
                }
                self.write(at, data)
            }
            Command::OrWrite { data, .. } => {
                let blocks = at.blocks().zip(data).map(|(number, bits)| self.set(&self.block(number), &bits));
                let data = blocks.collect();
                self.write(at, data)
            }
            Command::Read { .. } => Ok(at.blocks().map(|block| self.block(block)).collect()),
            Command::Write { data, .. } => self.write(at, data),
            _ => {
                let blocks = at.blocks();
                self.write(at, twinsan::block::zeros((blocks.end - blocks.start) as usize))
            }
        }
    }

    /// The first byte of the sectors that differs.
    fn differs(&self, at: Sectors, expected: &Payload) -> Option<u32> {
        let found: Vec<u8> = at.blocks().flat_map(|block| *self.block(block).bytes()).collect();
        let expected: Vec<u8> = expected.iter().flat_map(|block| *block.bytes()).collect();
        let head = (at.start % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
        let pairs = found[head..].iter().zip(&expected[head..]).take(at.count as usize * SECTOR_BYTES);
        pairs.enumerate().find(|(_, (found, expected))| found != expected).map(|(place, _)| place as u32)
    }

    fn set(&self, old: &Block, bits: &Block) -> Block {
        let mut page = self.pages.take();
        page.bytes_mut().copy_from_slice(old.bytes());
        page.bytes_mut().iter_mut().zip(bits.bytes()).for_each(|(byte, bits)| *byte |= bits);
        Block::Data(page.freeze())
    }

    fn block(&self, block: u64) -> Block {
        let shard = self.shards[block as usize / SHARD_BLOCKS].lock();
        shard.get(block as usize % SHARD_BLOCKS).cloned().unwrap_or_default()
    }

    fn write(&self, at: Sectors, data: Payload) -> GuestResult {
        if data.len() as u64 != at.blocks().end - at.blocks().start {
            return Err(GuestError::Invalid);
        }
        for (number, block) in at.blocks().zip(data) {
            let mut shard = self.shards[number as usize / SHARD_BLOCKS].lock();
            if shard.is_empty() {
                shard.resize(SHARD_BLOCKS, Block::Zero);
            }
            let slot = &mut shard[number as usize % SHARD_BLOCKS];
            *slot = self.merge(number, at, slot, block);
        }
        Ok(Payload::new())
    }

    /// The sectors of `at` from `new`, the others from `old`.
    fn merge(&self, number: u64, at: Sectors, old: &Block, new: Block) -> Block {
        let base = number * SECTORS_PER_BLOCK;
        let from = at.start.saturating_sub(base) as usize * SECTOR_BYTES;
        let to = ((at.end() - base) as usize * SECTOR_BYTES).min(BLOCK_BYTES);
        if from == 0 && to == BLOCK_BYTES {
            return new;
        }
        let mut page = self.pages.take();
        page.bytes_mut().copy_from_slice(old.bytes());
        page.bytes_mut()[from..to].copy_from_slice(&new.bytes()[from..to]);
        Block::Data(page.freeze())
    }
}

impl VirtualVolume for RamVolume {
    fn info(&self) -> VolumeInfo {
        VolumeInfo {
            id: VolumeId(self.id),
            name: format!("ram{}", self.id),
            uuid: Uuid(0x5eed_0000_0000_0000_0000_0000_0000_0000 | u128::from(self.id)),
            sectors: self.sectors.load(Ordering::Relaxed),
            extent_sectors: EXTENT_SECTORS,
            mirrored: self.mirrored,
            read_only: false,
        }
    }

    fn path_state(&self) -> PathState {
        match self.path.load(Ordering::Relaxed) {
            0 => PathState::Optimized,
            1 => PathState::NonOptimized,
            2 => PathState::Unavailable,
            _ => PathState::Transitioning,
        }
    }

    fn partner_path_state(&self) -> PathState {
        PathState::NonOptimized
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        sink.complete(token, self.run(command));
        RequestId(token)
    }

    fn abort(&self, _request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        sink.aborted(token);
    }
}
