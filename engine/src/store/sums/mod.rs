//! Block checksums: kept in pages of each disk's checksum area, a bounded number of them in memory.
//!
//! Data and sums lie in different places, so they are never written at once. What keeps the one from contradicting the
//! other is the *unsure* set, which the metadata log makes durable. Invariants:
//!
//! - Data of a mapped extent is overwritten only when it is durable that its lines are unsure.
//! - A line is sure again only when its page, written after the data was stable, is flushed, and no job has touched it
//!   since.
//! - A new extent is mapped only when its lines are flushed too.
//! - After a crash the blocks of unsure lines are *in doubt*: a sum that does not match says nothing. The block is
//!   asked of the partner or, where there is none, its sum is made anew.
//! - A line whose own checksum is wrong says nothing either: its blocks are in doubt. A line with blocks in doubt that
//!   is not unsure is written with a wrong checksum, so that it is not believed after a crash.
//!
//! `docs/checksums.md` goes through the crashes.

mod doubt;
mod page;
mod write_back;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::CacheConfig;
use crate::block::{BLOCK_BYTES, Block, PagePool};
use crate::format::sums::{LINE_DATA_BYTES, PAGE_LINES, SumPage, address};
use crate::ids::{DiskId, Uuid, VolumeId};
use crate::planted::{Bug, Planted};
use crate::pool::{Pool, SumArea};
use crate::time::{Duration, Instant};

use doubt::Doubt;
use page::Lines;
use page::Page;
pub(super) use write_back::Claim;
use write_back::DiskWrites;

/// Disk and number of the page.
pub(super) type PageKey = (DiskId, u64);

/// Fewest pages kept: a job on the largest extent needs 36.
const PAGES_MIN: usize = 64;
/// What the checksum of a block that was lost before it came to its place differs by from one that matches.
pub(super) const LOST: u32 = u32::MAX;
/// The same of a block that was in doubt before it came to its place.
const DOUBTED: u32 = 0x5a5a_5a5a;
/// A page that cannot be read is tried so often.
const LOADS_MAX: u32 = 2;

/// What the store did with checksums in this life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SumCounters {
    /// Blocks read from disk whose sum matched.
    pub verified: u64,
    /// Blocks whose sum did not match.
    pub bad: u64,
    /// Blocks in doubt, asked of the partner.
    pub asked: u64,
    /// Blocks in doubt whose sum was made anew from the data.
    pub remade: u64,
    /// Lines that were found damaged.
    pub lines_lost: u64,
    /// Pages read.
    pub page_reads: u64,
    /// Pages written.
    pub page_writes: u64,
    /// Lines that became unsure.
    pub unsure: u64,
}

/// Which block it is that lies somewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// The volume whose number is in the sum: see [`Pool::family`].
    pub(super) family: VolumeId,
    /// The volume that has it, or one of those that do.
    pub(super) volume: VolumeId,
    pub(super) block: u64,
}

/// What is wrong with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The disk cannot read it.
    Unreadable,
    /// The bytes are not those that were written there.
    Rotten,
    /// It was damaged where it lay before its extent was copied to this place, so it was not copied.
    Lost,
    /// The bytes may or may not be: after a crash its sum may be older, or its sum is damaged.
    Unsure,
}

/// The checksums of all disks of a pool.
#[derive(Debug)]
pub(super) struct SumTable {
    areas: Vec<Option<SumArea>>,
    /// The disk in each place, as far as known.
    known: Vec<Uuid>,
    pages: BTreeMap<PageKey, Page>,
    /// Candidates for eviction; each page is here once.
    order: VecDeque<PageKey>,
    /// Pages that have changed and are not on stable media so: write-back goes by this order.
    changed: BTreeSet<(Instant, PageKey)>,
    /// Pages of new extents, to be written at once.
    urgent: BTreeSet<PageKey>,
    /// Pages to be read, and how often that was tried.
    to_load: Vec<(PageKey, u32)>,
    disks: Vec<DiskWrites>,
    writes: usize,
    buffers: PagePool,
    doubt: Doubt,
    pages_max: usize,
    idle_after: Duration,
    /// Write everything back now.
    closing: bool,
    counters: SumCounters,
    planted: Planted,
}

impl SumTable {
    pub(super) fn new(pool: &Pool, config: &CacheConfig, planted: Planted) -> SumTable {
        let disks = (0..pool.disks().len() as u16).map(DiskId);
        SumTable {
            areas: disks.clone().map(|disk| pool.sum_area(disk)).collect(),
            known: pool.disks().iter().map(|disk| disk.uuid).collect(),
            pages: BTreeMap::new(),
            order: VecDeque::new(),
            changed: BTreeSet::new(),
            urgent: BTreeSet::new(),
            to_load: Vec::new(),
            disks: disks.map(|_| DiskWrites::default()).collect(),
            writes: 0,
            buffers: PagePool::new(),
            doubt: Doubt::new(pool, planted),
            pages_max: config.sum_pages_max.max(PAGES_MIN),
            idle_after: config.sum_idle,
            closing: false,
            counters: SumCounters::default(),
            planted,
        }
    }

    /// Takes notice of disks that have joined.
    pub(super) fn disks_change(&mut self, pool: &Pool) {
        for (at, disk) in pool.disks().iter().enumerate() {
            if self.known.get(at) == Some(&disk.uuid) {
                continue;
            }
            if at == self.known.len() {
                self.known.push(disk.uuid);
                self.areas.push(None);
                self.disks.push(DiskWrites::default());
            }
            (self.known[at], self.areas[at]) = (disk.uuid, pool.sum_area(DiskId(at as u16)));
        }
    }

    fn pages_of(disk: DiskId) -> core::ops::RangeInclusive<PageKey> {
        (disk, 0)..=(disk, u64::MAX)
    }

    /// Is nothing in flight to the checksums of this disk, and does nobody wait for them?
    pub(super) fn is_quiet(&self, disk: DiskId) -> bool {
        let in_use = |page: &Page| !page.loaded || page.in_flight || page.users != 0 || page.busy != 0;
        !self.pages.range(SumTable::pages_of(disk)).any(|(_, page)| in_use(page))
    }

    /// The disk has left, when all was [quiet](Self::is_quiet) there.
    pub(super) fn forget_disk(&mut self, disk: DiskId) {
        let at = usize::from(disk.0);
        (self.areas[at], self.disks[at]) = (None, DiskWrites::default());
        self.pages.retain(|key, _| key.0 != disk);
        self.order.retain(|key| key.0 != disk);
        self.changed.retain(|(_, key)| key.0 != disk);
        self.urgent.retain(|key| key.0 != disk);
        self.doubt.forget_disk(disk);
    }

    pub(super) fn counters(&self) -> SumCounters {
        self.counters
    }

    pub(super) fn area(&self, disk: DiskId) -> Option<SumArea> {
        self.areas[usize::from(disk.0)]
    }

    /// Pages in memory.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn pages_max(&self) -> usize {
        self.pages_max
    }

    fn seed(&self, disk: DiskId) -> u32 {
        self.areas[usize::from(disk.0)].map_or(0, |area| area.seed)
    }

    /// The checksum that a block has at its place.
    fn sum(&self, family: VolumeId, block: u64, content: &Block) -> u32 {
        let careless = self.planted.has(Bug::BlockChecksumWithoutAddress);
        content.crc() ^ if careless { 0 } else { address(family, block) }
    }

    /// The pages that cover these lines, with the lines in each.
    fn spread(lines: core::ops::Range<u64>) -> impl Iterator<Item = (u64, Lines)> {
        let per_page = PAGE_LINES as u64;
        (lines.start / per_page..lines.end.div_ceil(per_page)).map(move |page| {
            let from = lines.start.max(page * per_page) - page * per_page;
            let to = lines.end.min((page + 1) * per_page) - page * per_page;
            (page, (u64::MAX >> (64 - (to - from))) << from)
        })
    }

    /// The page of this key, to be loaded if it is not here.
    fn page(&mut self, key: PageKey) -> &mut Page {
        if !self.pages.contains_key(&key) {
            self.make_room();
            self.to_load.push((key, 0));
            self.order.push_back(key);
        }
        let page = self.pages.entry(key).or_insert_with(Page::new);
        page.used = true;
        page
    }

    /// Forgets pages until one more fits; if none can go, it is one more until some can.
    fn make_room(&mut self) {
        for _ in 0..2 * self.order.len() {
            if self.pages.len() < self.pages_max {
                return;
            }
            let Some(key) = self.order.pop_front() else { return };
            let page = self.pages.get_mut(&key).expect("each page is in the order once");
            if page.is_idle() && !core::mem::take(&mut page.used) {
                self.pages.remove(&key);
            } else {
                self.order.push_back(key);
            }
        }
    }

    /// A read wants to verify what lies there: the pages stay until [`unwant`](Self::unwant).
    pub(super) fn want(&mut self, disk: DiskId, offset: u64, bytes: u64) {
        let Some(area) = self.area(disk) else { return };
        for (page, _) in SumTable::spread(area.lines_of(offset, bytes)) {
            self.page((disk, page)).users += 1;
        }
    }

    pub(super) fn unwant(&mut self, disk: DiskId, offset: u64, bytes: u64) {
        let Some(area) = self.area(disk) else { return };
        for (page, _) in SumTable::spread(area.lines_of(offset, bytes)) {
            let page = self.pages.get_mut(&(disk, page)).expect("a wanted page stays");
            page.users -= 1;
        }
    }

    /// Are the sums for what lies there at hand?
    pub(super) fn is_loaded(&self, disk: DiskId, offset: u64, bytes: u64) -> bool {
        let Some(area) = self.area(disk) else { return true };
        SumTable::spread(area.lines_of(offset, bytes))
            .all(|(page, _)| self.pages.get(&(disk, page)).is_some_and(|page| page.loaded))
    }

    /// The next page to read: its key, where it lies, and how often that was tried.
    pub(super) fn next_load(&mut self) -> Option<(PageKey, u64, u32)> {
        while let Some((key, tries)) = self.to_load.pop() {
            // A page that is new as a whole need not be read.
            if self.pages.get(&key).is_some_and(|page| !page.loaded) {
                self.counters.page_reads += 1;
                return Some((key, self.offset(key), tries));
            }
        }
        None
    }

    fn offset(&self, key: PageKey) -> u64 {
        let area = self.areas[usize::from(key.0.0)].expect("pages are of disks with checksums");
        area.offset + key.1 * BLOCK_BYTES as u64
    }

    /// A page was read. One that cannot be read says nothing of its blocks.
    pub(super) fn load_done(&mut self, key: PageKey, tries: u32, read: Option<&Block>) {
        let seed = self.seed(key.0);
        let Some(page) = self.pages.get_mut(&key).filter(|page| !page.loaded) else { return };
        match read {
            Some(block) => page.load(block.bytes(), seed, key.1 * PAGE_LINES as u64),
            None if tries + 1 < LOADS_MAX => self.to_load.push((key, tries + 1)),
            None => page.loaded = true,
        }
    }

    /// Compares a block that was read from disk with its sum. Its page is loaded. `ask`: what is in doubt can be asked
    /// of the partner.
    pub(super) fn verify(
        &mut self,
        now: Instant,
        disk: DiskId,
        offset: u64,
        Address { family, volume, block }: Address,
        content: &Block,
        ask: bool,
    ) -> Result<(), Damage> {
        let careless = self.planted.has(Bug::ChecksumNotCompared);
        let Some(area) = self.area(disk).filter(|_| !careless) else { return Ok(()) };
        let sum = self.sum(family, block, content);
        let (line, at) = area.place(offset);
        let (key, bit) = ((disk, line / PAGE_LINES as u64), (line % PAGE_LINES as u64) as usize);
        let page = self.pages.get(&key).expect("a wanted page stays");
        if page.known >> bit & 1 == 0 && self.doubt.lose(disk, line) {
            self.counters.lines_lost += 1;
        }
        let found = (page.known >> bit & 1 == 1).then(|| page.sum(bit, at) ^ sum);
        let matches = found == Some(0);
        if found == Some(LOST) && !self.planted.has(Bug::LostTakenForData) {
            // That is beyond doubt: it is the checksum of what lies there, which is nothing that anybody wrote.
            if self.doubt.has(disk, line, at) {
                self.set(now, disk, offset, sum ^ LOST);
            }
            self.counters.bad += 1;
            return Err(Damage::Lost);
        }
        match (matches, self.doubt.has(disk, line, at)) {
            (true, false) => {}
            (false, false) => {
                self.counters.bad += 1;
                return Err(Damage::Rotten);
            }
            (false, true) if ask && !self.doubt.is_trusted(volume, block) => {
                self.counters.asked += 1;
                return Err(Damage::Unsure);
            }
            (_, true) => {
                self.counters.remade += u64::from(!matches);
                self.set(now, disk, offset, sum);
            }
        }
        self.counters.verified += 1;
        Ok(())
    }

    /// Sets the sum of the block that lies there; it is beyond doubt from now on.
    fn set(&mut self, now: Instant, disk: DiskId, offset: u64, sum: u32) {
        let Some(area) = self.area(disk) else { return };
        let (line, at) = area.place(offset);
        let (key, bit) = ((disk, line / PAGE_LINES as u64), (line % PAGE_LINES as u64) as usize);
        let page = self.pages.get_mut(&key).expect("a page is loaded before it is changed");
        if page.known >> bit & 1 == 0 && self.doubt.lose(disk, line) {
            self.counters.lines_lost += 1;
        }
        if page.unflushed() == 0 {
            page.queued_at = now;
            self.changed.insert((now, key));
        }
        page.set(bit, at, sum);
        page.changed_at = now;
        self.doubt.resolve(disk, line, at);
    }

    /// The block that lies there, with this content, is not what its volume has lost: whoever reads it is told so.
    pub(super) fn spoil(&mut self, now: Instant, place: (DiskId, u64), address: Address, content: &Block) {
        let sum = self.sum(address.family, address.block, content);
        self.set(now, place.0, place.1, sum ^ LOST);
    }

    /// Has the block that lies there, with this content, the checksum of one that was [spoiled](Self::spoil)? `read` reads a
    /// page of checksums that is not in memory.
    pub(super) fn is_spoiled(
        &self,
        (disk, offset): (DiskId, u64),
        address: Address,
        content: &Block,
        read: impl FnOnce(u64) -> Block,
    ) -> bool {
        let Some(area) = self.area(disk) else { return false };
        let (line, at) = area.place(offset);
        let (key, bit) = ((disk, line / PAGE_LINES as u64), (line % PAGE_LINES as u64) as usize);
        let sum = match self.pages.get(&key).filter(|page| page.known >> bit & 1 == 1) {
            Some(page) => page.sum(bit, at),
            None => {
                let page: SumPage = bytemuck::pod_read_unaligned(read(self.offset(key)).bytes());
                page.lines[bit].sums[at].get()
            }
        };
        sum ^ self.sum(address.family, address.block, content) == LOST
    }

    /// The block that lies there, with this content, of this extent, is in doubt, as it was where it comes from.
    pub(super) fn put_in_doubt(
        &mut self,
        now: Instant,
        (disk, offset): (DiskId, u64),
        (address, extent): (Address, u32),
        content: &Block,
    ) {
        let Some(area) = self.area(disk) else { return };
        let (sum, extent) = (self.sum(address.family, address.block, content), (address.volume, extent));
        self.set(now, disk, offset, sum ^ DOUBTED);
        let (line, at) = area.place(offset);
        self.doubt.add(disk, line, at, extent);
    }

    /// Nothing is said of the block that lies there.
    pub(super) fn forget_doubt(&mut self, disk: DiskId, offset: u64) {
        let Some(area) = self.area(disk) else { return };
        let (line, at) = area.place(offset);
        self.doubt.resolve(disk, line, at);
    }

    /// The blocks that are about to be written there have these sums; of the volume its [family](Pool::family) is given.
    pub(super) fn set_run(
        &mut self,
        now: Instant,
        disk: DiskId,
        mut offset: u64,
        (family, first): (VolumeId, u64),
        data: &[Block],
    ) {
        for (block, content) in (first..).zip(data) {
            let sum = self.sum(family, block, content);
            self.set(now, disk, offset, sum);
            offset += BLOCK_BYTES as u64;
        }
    }

    pub(super) fn next_in_doubt(&self, from: (VolumeId, u32)) -> Option<(VolumeId, u32)> {
        self.doubt.next_extent(from)
    }

    pub(super) fn is_beyond_doubt(&self, disk: DiskId, offset: u64) -> bool {
        let area = self.areas.get(usize::from(disk.0)).copied().flatten();
        let data = |area: &SumArea| area.data_offset..area.data_offset + area.lines * LINE_DATA_BYTES;
        area.filter(|area| data(area).contains(&offset))
            .is_some_and(|area| !self.doubt.has_line(disk, area.place(offset).0))
    }

    /// Lines with blocks in doubt.
    pub(super) fn doubtful(&self) -> u64 {
        self.doubt.lines()
    }

    /// The partner has no good copy of a block in doubt: it is taken as it is.
    pub(super) fn trust(&mut self, volume: VolumeId, block: u64) {
        self.doubt.trust(volume, block);
    }
}
