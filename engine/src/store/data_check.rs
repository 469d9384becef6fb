//! Compares all data of a pool with their checksums, offline: what `twinsand check --data` does. It says which disk
//! requests to make, and is told how they ended, as a pool that is being opened does; it writes nothing.
//!
//! Disk by disk, in order of place, whatever the volumes: the reads are long and go in one direction. Invariants:
//!
//! - Every block of every mapped extent is counted once, and each but those that read as zero by the map is read.
//! - A block of a line that the log calls unsure is never called damaged: its sum may be older or newer than it.
//! - In memory are the owners of the extents of one disk (12 bytes each), one batch of checksum pages (256 KiB), and what
//!   the caller has in flight.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sums::{Damage, LOST};
use crate::block::{BLOCK_BYTES, Block, Payload};
use crate::format::sums::{LINE_BLOCKS, PAGE_LINES, SumLine, SumPage, address};
use crate::ids::{DiskId, VolumeId};
use crate::io::{DiskError, DiskOp, DiskResult};
use crate::pool::{Pool, PoolIo, Slot, SumArea};

/// Most defects that are named; the others are counted.
const DEFECTS_MAX: usize = 1000;
/// Longest read, in blocks: 1 MiB.
const READ_BLOCKS: u64 = 256;
/// Shorter gaps are read through: that costs less than a second read.
const GAP_BLOCKS: u64 = 16;
/// Pages of checksums at hand: for 240 MiB of data.
const BATCH_PAGES: u64 = 64;
const BATCH_BLOCKS: u64 = BATCH_PAGES * (PAGE_LINES * LINE_BLOCKS) as u64;
const BYTES: u64 = BLOCK_BYTES as u64;

/// Something that is not as it was written. Its text leaves the disk out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Defect {
    /// A block.
    Block {
        /// The disk: its number among those given when the pool was opened.
        disk: DiskId,
        /// Where on it, in bytes.
        offset: u64,
        /// Whose.
        volume: VolumeId,
        /// Its number in the volume.
        block: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// The checksums of up to 16 blocks are damaged themselves, or cannot be read, so those blocks were not compared.
    Line {
        /// The disk: its number among those given when the pool was opened.
        disk: DiskId,
        /// Where on it, in bytes.
        offset: u64,
        /// Where the data lie, in bytes.
        data_offset: u64,
    },
}

impl Defect {
    /// The disk: its number among those given when the pool was opened.
    pub fn disk(&self) -> DiskId {
        match self {
            Defect::Block { disk, .. } | Defect::Line { disk, .. } => *disk,
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Defect::Block { offset, volume, block, damage, .. } => {
                let what = match damage {
                    Damage::Unreadable => "the disk cannot read it",
                    Damage::Lost => "it was damaged where it lay before, and not copied",
                    Damage::Rotten | Damage::Unsure => "it is not what was written there",
                };
                write!(f, "byte {offset}: block {block} of volume {volume}: {what}")
            }
            Defect::Line { offset, data_offset, .. } => write!(
                f,
                "byte {offset}: the checksums of the 64 KiB at byte {data_offset} are damaged; these blocks were not compared"
            ),
        }
    }
}

/// What a [`DataCheck`] found. Counts are of 4 KiB blocks where nothing else is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataReport {
    /// They match their checksums.
    pub good: u64,
    /// They read as zero by the map, so nobody asks what the disk holds.
    pub zeros: u64,
    /// Their checksums may be older or newer, for the node was not stopped cleanly. Next it runs it settles them.
    pub in_doubt: u64,
    /// Of those: they differ from what the checksum says.
    pub in_doubt_unlike: u64,
    /// They do not match, or cannot be read.
    pub bad: u64,
    /// Lines of checksums that are damaged.
    pub bad_lines: u64,
    /// In such lines: not compared.
    pub unjudged: u64,
    /// On disks without checksums, which pools of before have: not compared.
    pub without_sums: u64,
    /// What is bad, at most the first 1000.
    pub defects: Vec<Defect>,
}

impl DataReport {
    /// Is nothing damaged?
    pub fn is_clean(&self) -> bool {
        self.bad == 0 && self.bad_lines == 0
    }

    fn name(&mut self, defect: Defect) {
        match defect {
            Defect::Block { .. } => self.bad += 1,
            Defect::Line { .. } => self.bad_lines += 1,
        }
        if self.defects.len() < DEFECTS_MAX {
            self.defects.push(defect);
        }
    }
}

/// An extent on the disk at hand.
#[derive(Clone, Copy, Debug)]
struct Owner {
    index: u32,
    volume: VolumeId,
    extent: u32,
}

/// Blocks that lie together, are one volume's, and are not zero by the map.
#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: u64,
    volume: VolumeId,
    first: u64,
    blocks: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.blocks * BYTES
    }
}

/// What is read at once. Between the pieces may lie blocks that say nothing.
#[derive(Clone, Debug)]
struct Run {
    pieces: Vec<Piece>,
}

impl Run {
    fn begin(&self) -> u64 {
        self.pieces[0].offset
    }

    fn end(&self) -> u64 {
        self.pieces.last().expect("never empty").end()
    }

    fn blocks(&self) -> u64 {
        (self.end() - self.begin()) / BYTES
    }
}

#[derive(Debug)]
enum Ask {
    /// Pages of the batch, from this one on.
    Sums(u64, u64),
    Data(Run),
}

/// Checksum pages of one stretch of the disk at hand. A page that could not be read is not there.
#[derive(Debug)]
struct Batch {
    number: u64,
    pages: Vec<Option<Box<SumPage>>>,
    /// Reads that have not ended.
    coming: usize,
    /// Damaged lines that were named.
    named: BTreeSet<u64>,
}

/// The disk at hand.
#[derive(Debug)]
struct Disk {
    place: DiskId,
    device: DiskId,
    area: SumArea,
    owners: std::vec::IntoIter<Owner>,
    /// The extent being cut into pieces, and the next block of it.
    at: Option<(Owner, u64)>,
    /// The piece that begins the next run.
    ahead: Option<Piece>,
    batch: Option<Batch>,
}

/// See the module. Carry out what [`poll_io`](Self::poll_io) asks for, several at a time if you like, until
/// [`is_over`](Self::is_over).
#[derive(Debug)]
pub struct DataCheck<'a> {
    pool: &'a Pool,
    next_place: u16,
    disk: Option<Disk>,
    queue: VecDeque<Ask>,
    in_flight: BTreeMap<u64, Ask>,
    next_token: u64,
    blocks_total: u64,
    blocks_done: u64,
    report: DataReport,
}

/// Blocks of an extent that are zero by the map, for all who have it there.
fn zeros_in(pool: &Pool, volume: VolumeId, extent: u32) -> u64 {
    u64::from(pool.zeros_of_all(volume, extent).count(0..pool.extent_blocks() as u32))
}

impl<'a> DataCheck<'a> {
    /// Begins to check the data of an open pool, which must not change meanwhile.
    pub fn new(pool: &'a Pool) -> DataCheck<'a> {
        let mut report = DataReport::default();
        let mut blocks = 0;
        for (volume, meta) in pool.metadata().volumes() {
            for (extent, _) in meta.map.iter().filter(|(extent, _)| pool.is_first_sharer(volume, *extent)) {
                blocks += pool.extent_blocks();
                report.zeros += zeros_in(pool, volume, extent);
            }
        }
        DataCheck {
            pool,
            next_place: 0,
            disk: None,
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_token: 0,
            blocks_total: blocks - report.zeros,
            blocks_done: 0,
            report,
        }
    }

    /// Bytes of data to compare in all.
    pub fn bytes_total(&self) -> u64 {
        self.blocks_total * BYTES
    }

    /// Bytes of them that are done.
    pub fn bytes_done(&self) -> u64 {
        self.blocks_done * BYTES
    }

    /// The next read; `None` until one in flight has ended, or when all is over.
    pub fn poll_io(&mut self) -> Option<PoolIo> {
        loop {
            if let Some(ask) = self.queue.pop_front() {
                return Some(self.submit(ask));
            }
            if self.disk.is_none() && !self.next_disk() {
                return None;
            }
            let disk = self.disk.as_mut().expect("looked");
            let Some(piece) = disk.peek(self.pool) else {
                if !self.in_flight.is_empty() {
                    return None;
                }
                self.disk = None;
                continue;
            };
            let number = disk.batch_of(piece.offset);
            match &disk.batch {
                Some(batch) if batch.number == number => {
                    if batch.coming > 0 {
                        return None;
                    }
                    let run = disk.next_run(self.pool);
                    self.queue.push_back(Ask::Data(run));
                }
                _ if !self.in_flight.is_empty() => return None,
                _ => {
                    let ask = disk.begin_batch(number);
                    self.queue.push_back(ask);
                }
            }
        }
    }

    /// How a read ended.
    pub fn io_done(&mut self, token: u64, result: DiskResult) {
        match self.in_flight.remove(&token) {
            Some(Ask::Sums(first, count)) => self.sums_read(first, count, result),
            Some(Ask::Data(run)) => self.data_read(run, result),
            None => {}
        }
    }

    /// Is all done?
    pub fn is_over(&self) -> bool {
        self.disk.is_none()
            && usize::from(self.next_place) == self.pool.disks().len()
            && self.in_flight.is_empty()
    }

    /// What was found so far.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    fn submit(&mut self, ask: Ask) -> PoolIo {
        let disk = self.disk.as_ref().expect("asks are of the disk at hand");
        let (offset, blocks) = match &ask {
            Ask::Sums(first, count) => (disk.area.offset + first * BYTES, *count),
            Ask::Data(run) => (run.begin(), run.blocks()),
        };
        let token = self.next_token;
        self.next_token += 1;
        self.in_flight.insert(token, ask);
        PoolIo { token, disk: disk.device, op: DiskOp::Read { offset, blocks: blocks as u32 } }
    }

    /// Goes on with the next disk on which something lies and that has checksums; false if there is none.
    fn next_disk(&mut self) -> bool {
        while usize::from(self.next_place) < self.pool.disks().len() {
            let place = DiskId(self.next_place);
            self.next_place += 1;
            let mut owners = Vec::new();
            for (volume, meta) in self.pool.metadata().volumes() {
                let first = |extent| self.pool.is_first_sharer(volume, extent);
                let here = meta.map.iter().filter(|(extent, slot)| slot.disk == place && first(*extent));
                owners.extend(here.map(|(extent, slot)| Owner { index: slot.index, volume, extent }));
            }
            if owners.is_empty() {
                continue;
            }
            owners.sort_unstable_by_key(|owner| owner.index);
            let (device, area) = (self.pool.device(place), self.pool.sum_area(place));
            if let (Some(device), Some(area)) = (device, area) {
                let owners = owners.into_iter();
                self.disk = Some(Disk { place, device, area, owners, at: None, ahead: None, batch: None });
                return true;
            }
            let zeros = |owner: &Owner| zeros_in(self.pool, owner.volume, owner.extent);
            let data: u64 = owners.iter().map(|owner| self.pool.extent_blocks() - zeros(owner)).sum();
            self.report.without_sums += data;
            self.blocks_done += data;
        }
        false
    }

    fn sums_read(&mut self, first: u64, count: u64, result: DiskResult) {
        let batch = self.disk.as_mut().and_then(|disk| disk.batch.as_mut()).expect("it stays while it comes");
        batch.coming -= 1;
        match result {
            Ok(read) if read.len() as u64 == count => {
                for (page, block) in (first..).zip(&read) {
                    let bytes: SumPage = bytemuck::pod_read_unaligned(block.bytes());
                    batch.pages[(page % BATCH_PAGES) as usize] = Some(Box::new(bytes));
                }
            }
            Err(DiskError::Unreadable) if count > 1 => {
                batch.coming += count as usize;
                self.queue.extend((first..first + count).map(|page| Ask::Sums(page, 1)));
            }
            _ => {}
        }
    }

    fn data_read(&mut self, run: Run, result: DiskResult) {
        match result {
            Ok(read) if read.len() as u64 == run.blocks() => self.compare(&run, &read),
            // One of these blocks cannot be read: which?
            Err(DiskError::Unreadable) if run.blocks() > 1 => {
                let single = |piece: &Piece, n: u64| {
                    let (offset, first) = (piece.offset + n * BYTES, piece.first + n);
                    Ask::Data(Run { pieces: vec![Piece { offset, first, blocks: 1, ..*piece }] })
                };
                let pieces = run.pieces.iter();
                self.queue.extend(pieces.flat_map(|piece| (0..piece.blocks).map(move |n| single(piece, n))));
            }
            _ => {
                let disk = self.disk.as_ref().expect("reads are of the disk at hand").device;
                for piece in run.pieces {
                    for n in 0..piece.blocks {
                        let (offset, block) = (piece.offset + n * BYTES, piece.first + n);
                        let (volume, damage) = (piece.volume, Damage::Unreadable);
                        self.report.name(Defect::Block { disk, offset, volume, block, damage });
                    }
                    self.blocks_done += piece.blocks;
                }
            }
        }
    }

    fn compare(&mut self, run: &Run, read: &Payload) {
        let disk = self.disk.as_mut().expect("reads are of the disk at hand");
        for piece in &run.pieces {
            let from = ((piece.offset - run.begin()) / BYTES) as usize;
            let blocks = (piece.first..).zip(&read[from..from + piece.blocks as usize]);
            for (offset, (block, content)) in (piece.offset..).step_by(BLOCK_BYTES).zip(blocks) {
                disk.judge(self.pool, &mut self.report, offset, (piece.volume, block), content);
            }
            self.blocks_done += piece.blocks;
        }
    }
}

impl Disk {
    /// The batch with the checksums of what lies there.
    fn batch_of(&self, offset: u64) -> u64 {
        (offset - self.area.data_offset) / BYTES / BATCH_BLOCKS
    }

    fn begin_batch(&mut self, number: u64) -> Ask {
        let (first, end) = (number * BATCH_PAGES, self.area.lines.div_ceil(PAGE_LINES as u64));
        let count = BATCH_PAGES.min(end.saturating_sub(first)).max(1);
        let pages = core::iter::repeat_with(|| None).take(BATCH_PAGES as usize).collect();
        self.batch = Some(Batch { number, pages, coming: 1, named: BTreeSet::new() });
        Ask::Sums(first, count)
    }

    /// What comes next, at most as much as one read takes.
    fn peek(&mut self, pool: &Pool) -> Option<Piece> {
        if self.ahead.is_none() {
            self.ahead = self.cut(pool);
        }
        self.ahead
    }

    fn cut(&mut self, pool: &Pool) -> Option<Piece> {
        loop {
            let (owner, from) = match self.at.take() {
                Some(at) => at,
                None => (self.owners.next()?, 0),
            };
            let zeros = pool.zeros_of_all(owner.volume, owner.extent);
            let is_data = |block: &u64| !zeros.contains(*block as u32);
            let Some(first) = (from..pool.extent_blocks()).find(is_data) else { continue };
            let base = pool.slot_offset(Slot { disk: self.place, index: owner.index });
            let offset = base + first * BYTES;
            let batch_left = BATCH_BLOCKS - (offset - self.area.data_offset) / BYTES % BATCH_BLOCKS;
            let end = pool.extent_blocks().min(first + READ_BLOCKS.min(batch_left));
            let blocks = (first..end).take_while(is_data).count() as u64;
            self.at = Some((owner, first + blocks));
            let first = u64::from(owner.extent) * pool.extent_blocks() + first;
            return Some(Piece { offset, volume: owner.volume, first, blocks });
        }
    }

    /// As many pieces as one read takes. There is one ahead.
    fn next_run(&mut self, pool: &Pool) -> Run {
        let mut run = Run { pieces: self.ahead.take().into_iter().collect() };
        let batch = self.batch_of(run.begin());
        while let Some(piece) = self.peek(pool) {
            let near = piece.offset >= run.end() && piece.offset - run.end() <= GAP_BLOCKS * BYTES;
            let fits = piece.end() - run.begin().min(piece.end()) <= READ_BLOCKS * BYTES;
            if !near || !fits || self.batch_of(piece.offset) != batch {
                break;
            }
            run.pieces.push(piece);
            self.ahead = None;
        }
        run
    }

    /// Compares a block with its checksum.
    fn judge(
        &mut self,
        pool: &Pool,
        report: &mut DataReport,
        offset: u64,
        (volume, block): (VolumeId, u64),
        content: &Block,
    ) {
        let (line, at) = self.area.place(offset);
        let sums = self.line(line);
        let due = content.crc() ^ address(pool.family(volume), block);
        let is = |sum: u32| sums.is_some_and(|sums| sums.sums[at].get() == sum);
        let (matches, lost) = (is(due), is(due ^ LOST));
        let batch = self.batch.as_mut().expect("data are read when their checksums are here");
        if pool.metadata().is_unsure(self.place, line) {
            report.in_doubt += 1;
            report.in_doubt_unlike += u64::from(!matches);
        } else if sums.is_none() {
            report.unjudged += 1;
            if batch.named.insert(line) {
                let (page, within) = (line / PAGE_LINES as u64, line % PAGE_LINES as u64);
                let place = self.area.offset + page * BYTES + within * size_of::<SumLine>() as u64;
                let data_offset = offset - at as u64 * BYTES;
                report.name(Defect::Line { disk: self.device, offset: place, data_offset });
            }
        } else if matches {
            report.good += 1;
        } else {
            let (disk, damage) = (self.device, if lost { Damage::Lost } else { Damage::Rotten });
            report.name(Defect::Block { disk, offset, volume, block, damage });
        }
    }

    /// The checksums of this line, if they are to be believed.
    fn line(&self, line: u64) -> Option<SumLine> {
        let page = line / PAGE_LINES as u64 % BATCH_PAGES;
        let page = self.batch.as_ref()?.pages[page as usize].as_ref()?;
        let sums = page.lines[(line % PAGE_LINES as u64) as usize];
        (sums.crc.get() == sums.checksum(self.area.seed, line)).then_some(sums)
    }
}
