//! A big pool on a disk in memory, to be opened again and again.

use std::collections::BTreeMap;

use twinsan::block::{BLOCK_BYTES, Block, Payload};
use twinsan::ids::{DiskId, NodeName, Uuid, VolumeId};
use twinsan::io::{DiskOp, Geometry};
use twinsan::pool::{FormatIds, Opening, Pool, PoolOptions, Record, format};

/// Extents in one call of `append`.
const BATCH: u32 = 1000;
const EXTENT_BYTES: u64 = 1 << 20;

/// The disk: only its metadata are kept, for nothing else is read.
pub struct BigPool {
    blocks: BTreeMap<u64, Block>,
    geometry: Geometry,
}

impl BigPool {
    /// A pool with `extents` extents mapped, half of them scattered, in ten volumes; `in_log` of them are in the
    /// log, the others in the checkpoint.
    ///
    /// # Panics
    /// If the pool does not hold what was written to it.
    pub fn new(extents: u32, in_log: u32) -> BigPool {
        let geometry =
            Geometry { bytes: u64::from(extents) * EXTENT_BYTES * 5 / 4 + (1 << 30), sector_bytes: 512 };
        let mut big = BigPool { blocks: BTreeMap::new(), geometry };
        let ids = FormatIds { pool: Uuid(1), disks: vec![Uuid(2)], node: NodeName::A, partnership: Uuid(7) };
        let options = PoolOptions { extent_bytes: EXTENT_BYTES, log_bytes: 64 << 20 };
        for write in format(&ids, &options, &[geometry]).expect("the disk is large enough") {
            big.carry_out(DiskOp::Write { offset: write.offset, data: write.data });
        }
        let mut pool = big.open();
        big.fill(&mut pool, extents, in_log);
        assert_eq!(pool.metadata().mapped(), u64::from(extents));
        big
    }

    fn fill(&mut self, pool: &mut Pool, extents: u32, in_log: u32) {
        let volumes = (1..=10).map(VolumeId);
        let sectors = (64 << 40) / 512;
        let create = |volume| Record::VolumeCreate { volume, uuid: Uuid(9), sectors, mirrored: true };
        pool.append(&volumes.map(create).collect::<Vec<_>>());
        for first in (0..extents).step_by(BATCH as usize) {
            if in_log > 0 && (extents - in_log..extents - in_log + BATCH).contains(&first) {
                pool.checkpoint();
                self.settle(pool);
            }
            let records: Vec<Record> = (first..(first + BATCH).min(extents))
                .map(|n| {
                    let volume = VolumeId(n % 10 + 1);
                    // Every other volume is written here and there, the others from the beginning.
                    let extent = if n % 2 == 0 { n / 10 } else { (n / 10).wrapping_mul(40_503) % (1 << 24) };
                    assert!(pool.reserve(volume, extent), "there is space");
                    let slot = pool.allocate(volume, extent);
                    Record::Map { volume, extent, slot }
                })
                .collect();
            pool.append(&records);
            self.settle(pool);
        }
        if in_log == 0 {
            pool.checkpoint();
            self.settle(pool);
        }
    }

    fn settle(&mut self, pool: &mut Pool) {
        while let Some(io) = pool.poll_io() {
            let data = self.carry_out(io.op);
            pool.io_done(io.token, Ok(data));
        }
    }

    fn carry_out(&mut self, op: DiskOp) -> Payload {
        match op {
            DiskOp::Read { offset, blocks } => {
                let first = offset / BLOCK_BYTES as u64;
                (first..first + u64::from(blocks))
                    .map(|block| self.blocks.get(&block).cloned().unwrap_or_default())
                    .collect()
            }
            DiskOp::Write { offset, data } => {
                self.blocks.extend((offset / BLOCK_BYTES as u64..).zip(data));
                Payload::new()
            }
            DiskOp::Flush => Payload::new(),
        }
    }

    /// Opens the pool.
    ///
    /// # Panics
    /// If it does not open.
    pub fn open(&mut self) -> Pool {
        let mut opening = Opening::new(&[self.geometry]);
        loop {
            if let Some(outcome) = opening.done() {
                return outcome.expect("the pool is sound").0;
            }
            let io = opening.poll_io().expect("an opening asks until it is done");
            assert_eq!(io.disk, DiskId(0));
            let data = self.carry_out(io.op);
            opening.io_done(io.token, Ok(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_opens_with_all_its_extents() {
        assert_eq!(BigPool::new(5_000, 1_000).open().metadata().mapped(), 5_000);
    }
}
