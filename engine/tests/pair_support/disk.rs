//! A disk that answers at once, unless requests are held in it, and that knows what a power cut would lose.

use std::collections::{BTreeMap, VecDeque};

use twinsan::block::{BLOCK_BYTES, Block, Payload};
use twinsan::format::superblock::Superblock;
use twinsan::ids::{NodeName, Uuid};
use twinsan::io::{DiskError, DiskOp, DiskRequest, Geometry};
use twinsan::node::event::Event;
use twinsan::pool::{FormatIds, PoolOptions, format};

/// Which requests stay in a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskHold {
    /// None.
    Nothing,
    /// Writes to the data area: metadata goes on, guests' data does not reach the medium.
    Data,
    /// Flushes: what is written can be read, and would be lost.
    Flushes,
    /// Reads: what is not in memory stays unknown.
    Reads,
}

pub(super) struct Disk {
    durable: BTreeMap<u64, Block>,
    /// Completed writes that no flush has covered, in order.
    unflushed: VecDeque<(u64, Block)>,
    /// How many blocks have ever left `unflushed`.
    flushed: u64,
    hold: DiskHold,
    /// Held requests; with a flush, how much it covers.
    held: Vec<(DiskRequest, u64)>,
    /// The data area, in bytes.
    data: core::ops::Range<u64>,
}

impl Disk {
    pub(super) fn formatted(name: NodeName, geometry: Geometry) -> Disk {
        let n = name.index() as u128;
        let ids =
            FormatIds { pool: Uuid(10 + n), disks: vec![Uuid(20 + n)], node: name, partnership: Uuid(7) };
        let writes = format(&ids, &PoolOptions::default(), &[geometry]).expect("formats");
        let mut disk = Disk {
            durable: BTreeMap::new(),
            unflushed: VecDeque::new(),
            flushed: 0,
            hold: DiskHold::Nothing,
            held: Vec::new(),
            data: 0..0,
        };
        for write in writes {
            disk.carry_out(DiskOp::Write { offset: write.offset, data: write.data }, 0);
        }
        let superblock = disk.visible(0);
        let superblock: &Superblock = bytemuck::from_bytes(superblock.bytes());
        let (from, slots) = (superblock.data_offset.get(), u64::from(superblock.disks[0].slots.get()));
        disk.data = from..from + slots * u64::from(superblock.extent_bytes.get());
        disk.power_cut(true);
        disk
    }

    /// The answer, unless the request is held.
    pub(super) fn submit(&mut self, request: DiskRequest) -> Option<Event> {
        let covers = self.flushed + self.unflushed.len() as u64;
        let held = match (self.hold, &request.op) {
            (DiskHold::Data, DiskOp::Write { offset, .. }) => self.data.contains(offset),
            (DiskHold::Flushes, DiskOp::Flush) | (DiskHold::Reads, DiskOp::Read { .. }) => true,
            _ => false,
        };
        if held {
            self.held.push((request, covers));
            return None;
        }
        Some(self.answer(request, covers))
    }

    fn answer(&mut self, request: DiskRequest, covers: u64) -> Event {
        Event::Disk { id: request.id, result: Ok(self.carry_out(request.op, covers)) }
    }

    pub(super) fn hold(&mut self, hold: DiskHold) {
        self.hold = hold;
    }

    /// Carries out what was held; holds nothing any more.
    pub(super) fn release(&mut self) -> Vec<Event> {
        self.hold = DiskHold::Nothing;
        let held = core::mem::take(&mut self.held);
        held.into_iter().map(|(request, covers)| self.answer(request, covers)).collect()
    }

    /// Carries out the oldest held request.
    pub(super) fn release_one(&mut self) -> Option<Event> {
        if self.held.is_empty() {
            return None;
        }
        let (request, covers) = self.held.remove(0);
        Some(self.answer(request, covers))
    }

    /// Every request that is held fails.
    pub(super) fn fail_held(&mut self) -> Vec<Event> {
        let failed =
            |(request, _): (DiskRequest, u64)| Event::Disk { id: request.id, result: Err(DiskError::Failed) };
        core::mem::take(&mut self.held).into_iter().map(failed).collect()
    }

    /// Unflushed writes are lost, or happen to be there.
    pub(super) fn power_cut(&mut self, keep: bool) {
        self.held.clear();
        self.hold = DiskHold::Nothing;
        if keep {
            self.flush(u64::MAX);
        }
        self.flushed += self.unflushed.len() as u64;
        self.unflushed.clear();
    }

    /// What was written to the data area and not flushed happens to be there; of the metadata nothing is.
    pub(super) fn power_cut_keeping_data(&mut self) {
        let kept = |(at, _): &&(u64, Block)| self.data.contains(&(at * BLOCK_BYTES as u64));
        let data: Vec<_> = self.unflushed.iter().filter(kept).cloned().collect();
        self.durable.extend(data);
        self.power_cut(false);
    }

    fn flush(&mut self, covers: u64) {
        while self.flushed < covers
            && let Some((at, block)) = self.unflushed.pop_front()
        {
            self.flushed += 1;
            self.durable.insert(at, block);
        }
    }

    fn carry_out(&mut self, op: DiskOp, covers: u64) -> Payload {
        let at = |offset: u64| offset / BLOCK_BYTES as u64;
        match op {
            DiskOp::Read { offset, blocks } => {
                (0..u64::from(blocks)).map(|n| self.visible(at(offset) + n)).collect()
            }
            DiskOp::Write { offset, data } => {
                self.unflushed.extend((at(offset)..).zip(data));
                Payload::new()
            }
            DiskOp::Flush => {
                self.flush(covers);
                Payload::new()
            }
        }
    }

    /// What a read of this block of the disk returns.
    pub(super) fn visible(&self, at: u64) -> Block {
        let unflushed = self.unflushed.iter().rev().find(|(place, _)| *place == at).map(|(_, block)| block);
        unflushed.or_else(|| self.durable.get(&at)).cloned().unwrap_or_default()
    }

    /// The medium holds this there, though nobody wrote it.
    pub(super) fn replace(&mut self, at: u64, block: Block) {
        self.durable.insert(at, block);
    }

    /// Is there, in the data area, a block of this byte?
    pub(super) fn has_block_of(&self, fill: u8) -> bool {
        let from = self.data.start / BLOCK_BYTES as u64;
        let unflushed = self.unflushed.iter().filter(|(at, _)| *at >= from).map(|(_, block)| block);
        let mut all = unflushed.chain(self.durable.range(from..).map(|(_, block)| block));
        all.any(|block| block.bytes().iter().all(|byte| *byte == fill))
    }
}
