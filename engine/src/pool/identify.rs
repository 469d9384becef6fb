//! Which disks these are: recognises the disks of a pool by what their superblocks say, in whatever order they are
//! given, and refuses by name whatever does not belong together.
//!
//! The table of disks in the superblock of the home disk counts. It is written last, so the others may already
//! know of a change that the home disk does not: a disk that it does not name is none of the pool's. Such a disk
//! was removed, or its joining was cut short; it is left alone.
//!
//! So it is with the home disk itself: the others may name another one already. What the former home disk says counts until
//! it names the new one, which said so before it.

use super::error::OpenError;
use super::layout::{Commit, DiskState, Identity, Layout, PoolDisk};
use super::table::DiskRefusal;
use crate::format::superblock::{
    DISK_IN_USE, DISK_LEAVING, DISK_REMOVED, SUPERBLOCK_BYTES, Superblock, SuperblockFault,
};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::{DiskError, Geometry};
use crate::planted::{Bug, Planted};

/// What was read where a copy of a superblock belongs; `None` if the place is unreadable.
pub(super) type Copy = Option<Box<[u8; SUPERBLOCK_BYTES]>>;

/// What the superblocks of all disks say together.
#[derive(Debug)]
pub(super) struct Recognised {
    pub(super) identity: Identity,
    pub(super) layout: Layout,
    pub(super) commit: Commit,
    /// Which of the disks given is in which place; `None` for empty places.
    pub(super) devices: Vec<Option<DiskId>>,
    /// Disks given that carry the pool's mark and are not in its table.
    pub(super) strays: Vec<DiskId>,
    /// Copies of superblocks that are damaged: disk and copy. The other copy serves.
    pub(super) damaged: Vec<(DiskId, u8)>,
}

/// Does a disk belong to a pool? `copies` are the blocks at the two superblock offsets.
pub fn probe(copies: [&[u8; SUPERBLOCK_BYTES]; 2]) -> Option<Identity> {
    let found = copies.iter().zip(0..).find_map(|(bytes, copy)| Superblock::parse(bytes, copy).ok())?;
    identity(&found)
}

fn identity(block: &Superblock) -> Option<Identity> {
    let node = *NodeName::BOTH.get(usize::from(block.node))?;
    Some(Identity { pool: Uuid(block.pool.get()), partnership: Uuid(block.partnership.get()), node })
}

/// Recognises the disks, in whatever order they are given.
pub(super) fn recognise(
    copies: &[[Copy; 2]],
    disks: &[Geometry],
    expected: Option<(Uuid, NodeName)>,
    planted: Planted,
) -> Result<Recognised, OpenError> {
    let mut damaged = Vec::new();
    let mut blocks = Vec::new();
    for (at, copies) in copies.iter().enumerate() {
        let disk = DiskId(at as u16);
        blocks.push(newest(disk, copies, &mut damaged, planted)?);
    }
    let pool = common_pool(&blocks);
    for (at, block) in blocks.iter().enumerate() {
        let found = Uuid(block.pool.get());
        if found != pool {
            return Err(OpenError::Foreign { disk: DiskId(at as u16), found, expected: pool });
        }
    }
    no_clones(&blocks)?;
    let whose = identity(&blocks[0]).ok_or(OpenError::Layout { disk: DiskId(0), what: "its node" })?;
    if expected.is_some_and(|expected| expected != (whose.partnership, whose.node)) {
        return Err(OpenError::WrongNode { node: whose.node, partnership: whose.partnership });
    }
    let (home, main) = find_home(&blocks, &damaged, planted)?;
    let devices = places(&blocks, main, home)?;
    for (place, device) in devices.iter().enumerate() {
        let Some(device) = *device else { continue };
        let (bytes, expected) = (disks[usize::from(device.0)].bytes, main.disks[place].bytes.get());
        if bytes < expected {
            return Err(OpenError::Shrunk { disk: device, bytes, expected });
        }
    }
    let by_place: Vec<Option<Superblock>> =
        devices.iter().map(|device| device.map(|device| blocks[usize::from(device.0)])).collect();
    let (layout, commit) = Layout::read(main, &by_place).map_err(|(place, what)| {
        let disk = devices.get(usize::from(place.0)).copied().flatten().unwrap_or(DiskId(home as u16));
        OpenError::Layout { disk, what }
    })?;
    let strays: Vec<DiskId> =
        (0..blocks.len() as u16).map(DiskId).filter(|disk| !devices.contains(&Some(*disk))).collect();
    ages(&blocks, (DiskId(home as u16), main), &strays, &damaged)?;
    Ok(Recognised { identity: whose, layout, commit, devices, strays, damaged })
}

/// The newer whole copy of one disk.
fn newest(
    disk: DiskId,
    copies: &[Copy; 2],
    damaged: &mut Vec<(DiskId, u8)>,
    planted: Planted,
) -> Result<Superblock, OpenError> {
    let mut whole: Vec<Superblock> = Vec::new();
    let mut faults = Vec::new();
    for (bytes, copy) in copies.iter().zip(0u8..) {
        let parsed =
            bytes.as_ref().map_or(Err(SuperblockFault::Corrupt), |bytes| Superblock::parse(bytes, copy));
        match parsed {
            Ok(block) => whole.push(block),
            Err(fault) => faults.push((copy, fault)),
        }
    }
    if faults.iter().any(|(_, fault)| *fault == SuperblockFault::Version) {
        return Err(OpenError::Version { disk });
    }
    let oldest_first = planted.has(Bug::TornSuperblockPicksOlder);
    whole.sort_by_key(|block| if oldest_first { !block.generation.get() } else { block.generation.get() });
    let Some(block) = whole.pop() else {
        let foreign = faults.iter().all(|(_, fault)| *fault == SuperblockFault::Foreign);
        return Err(if foreign {
            OpenError::NotFormatted { disk }
        } else {
            OpenError::SuperblocksCorrupt { disk }
        });
    };
    damaged.extend(faults.into_iter().map(|(copy, _)| (disk, copy)));
    Ok(block)
}

/// The pool that most of the disks name.
fn common_pool(blocks: &[Superblock]) -> Uuid {
    let votes = |block: &Superblock| blocks.iter().filter(|other| other.pool == block.pool).count();
    let winner = blocks.iter().rev().max_by_key(|block| votes(block)).expect("at least one disk");
    Uuid(winner.pool.get())
}

fn no_clones(blocks: &[Superblock]) -> Result<(), OpenError> {
    for (at, block) in blocks.iter().enumerate() {
        if let Some(other) = blocks[..at].iter().position(|other| other.disk == block.disk) {
            return Err(OpenError::Cloned { disk: DiskId(at as u16), other: DiskId(other as u16) });
        }
    }
    Ok(())
}

/// The disk that this superblock names as the home disk.
fn named(block: &Superblock) -> u128 {
    block.disks[usize::from(block.home.get())].uuid.get()
}

/// Which of the disks given is the home disk, and the superblock that counts. They all name it, but for those that know of
/// a move of the metadata that is not over, or were removed before one.
fn find_home<'a>(
    blocks: &'a [Superblock],
    damaged: &[(DiskId, u8)],
    planted: Planted,
) -> Result<(usize, &'a Superblock), OpenError> {
    for (at, block) in blocks.iter().enumerate() {
        let (count, home) = (usize::from(block.disk_count.get()), usize::from(block.home.get()));
        if count == 0 || count > block.disks.len() || block.disk_index.get() >= block.disk_count.get() {
            return Err(OpenError::Layout { disk: DiskId(at as u16), what: "its place" });
        }
        if home >= count || ![DISK_IN_USE, DISK_LEAVING].contains(&block.disks[home].state) {
            return Err(OpenError::Layout { disk: DiskId(at as u16), what: "its home disk" });
        }
    }
    // Any of the newest: what was removed is never newer than the others, nor does it name one that they do not know. Of
    // equals one that names itself: two lives may have given the same number, the later of them to a commit that did not get
    // as far as the disk to which the earlier one was about to move the metadata.
    let age = |block: &&Superblock| (block.generation.get(), named(block) == block.disk.get());
    let newest = blocks.iter().rev().max_by_key(age).expect("at least one disk");
    let is_in_table = |disk: &Superblock| {
        let entries = &newest.disks[..usize::from(newest.disk_count.get())];
        entries.iter().any(|entry| entry.uuid == disk.disk && entry.state != DISK_REMOVED)
    };
    let former = |block: &Superblock| {
        let itself = named(block) == block.disk.get();
        itself && named(newest) != block.disk.get() && is_in_table(block)
    };
    let undecided = (0..blocks.len()).filter(|at| former(&blocks[*at]));
    if let Some(at) = undecided.min_by_key(|at| blocks[*at].generation.get())
        && !planted.has(Bug::NewHomeBelievedEarly)
    {
        return Ok((at, &blocks[at]));
    }
    let at = blocks.iter().position(|block| block.disk.get() == named(newest));
    let home = DiskId(newest.home.get());
    let at = at.ok_or(OpenError::Missing { disk: home, uuid: Uuid(named(newest)) })?;
    if named(&blocks[at]) == blocks[at].disk.get() {
        return Ok((at, &blocks[at]));
    }
    // The first that it said of itself is lost. Nothing has become of that generation but this.
    let (disk, found, expected) = (DiskId(at as u16), blocks[at].generation.get(), newest.generation.get());
    if damaged.iter().all(|(bad, _)| *bad != disk) {
        return Err(OpenError::Older { disk, found, expected });
    }
    Ok((at, newest))
}

/// Which disk is in which place of the table that counts. None may be missing.
fn places(blocks: &[Superblock], main: &Superblock, home: usize) -> Result<Vec<Option<DiskId>>, OpenError> {
    let mut devices = Vec::new();
    for (place, entry) in main.disks[..usize::from(main.disk_count.get())].iter().enumerate() {
        let mistaken =
            |disk: usize| OpenError::Layout { disk: DiskId(disk as u16), what: "its table of disks" };
        devices.push(match entry.state {
            DISK_REMOVED => None,
            DISK_IN_USE | DISK_LEAVING => {
                let found = blocks.iter().position(|block| block.disk == entry.uuid);
                let missing = OpenError::Missing { disk: DiskId(place as u16), uuid: Uuid(entry.uuid.get()) };
                let at = found.ok_or(missing)?;
                if usize::from(blocks[at].disk_index.get()) != place {
                    return Err(mistaken(at));
                }
                Some(DiskId(at as u16))
            }
            _ => return Err(mistaken(home)),
        });
    }
    if devices.get(usize::from(main.home.get())) != Some(&Some(DiskId(home as u16))) {
        return Err(OpenError::Layout { disk: DiskId(home as u16), what: "its home disk" });
    }
    Ok(devices)
}

/// Is any disk an old copy? The others are written before the home disk, so each is at its generation or one
/// ahead; one behind only if its newer copy is damaged. What is not in the table may be of any age, but not from
/// the home disk's future. That is not known if another's superblock stands in for what the home disk has lost: each life
/// that ends before it has written the home disk's is one generation more.
fn ages(
    blocks: &[Superblock],
    (home, main): (DiskId, &Superblock),
    strays: &[DiskId],
    damaged: &[(DiskId, u8)],
) -> Result<(), OpenError> {
    let expected = blocks[usize::from(home.0)].generation.get();
    let stood_in = main.disk != blocks[usize::from(home.0)].disk;
    let excuse = |disk: DiskId| u64::from(damaged.iter().any(|(bad, _)| *bad == disk));
    for (at, block) in blocks.iter().enumerate() {
        let (disk, found) = (DiskId(at as u16), block.generation.get());
        if found.saturating_add(excuse(disk)) < expected && !strays.contains(&disk) {
            return Err(OpenError::Older { disk, found, expected });
        }
        if found > expected.saturating_add(1 + excuse(home)) && !stood_in {
            return Err(OpenError::Older { disk: home, found: expected, expected: found });
        }
    }
    Ok(())
}

/// Why a disk may not join the pool, if something speaks against it. `copies` are the blocks at its two superblock
/// offsets, `departing` those that have left the table and are not let go yet, `replaces` the pool whose mark it may carry.
pub(super) fn may_join(
    copies: &[Copy; 2],
    pool: Uuid,
    table: &[PoolDisk],
    departing: &[Uuid],
    replaces: Option<Uuid>,
) -> Result<(), DiskRefusal> {
    let there = table.iter().filter(|entry| entry.state != DiskState::Removed).map(|entry| entry.uuid);
    let counts = there.chain(departing.iter().copied());
    let mut holds = Vec::new();
    for (bytes, copy) in copies.iter().zip(0u8..) {
        let bytes = bytes.as_ref().ok_or(DiskRefusal::Failed(DiskError::Unreadable))?;
        match Superblock::parse(bytes, copy) {
            Ok(block) => holds.push(block),
            Err(SuperblockFault::Version) => return Err(DiskRefusal::Version),
            Err(SuperblockFault::Foreign) => {}
            // An erasure that was cut short leaves such a one. Whose it was is all that matters.
            Err(SuperblockFault::Corrupt) => {
                let torn: Superblock = bytemuck::pod_read_unaligned(&bytes[..]);
                holds.push(Superblock { disk: 0.into(), ..torn });
            }
        }
    }
    for block in holds {
        let (disk, other) = (Uuid(block.disk.get()), Uuid(block.pool.get()));
        let ours = other == pool;
        if ours && counts.clone().any(|uuid| uuid == disk) {
            return Err(DiskRefusal::Member { disk });
        }
        // What was removed, or never got in, holds nothing that counts.
        if !ours && replaces != Some(other) {
            let node = identity(&block).map_or(NodeName::A, |identity| identity.node);
            return Err(DiskRefusal::Occupied { pool: other, node });
        }
    }
    Ok(())
}
