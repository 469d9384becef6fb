//! Which disks these are: recognises the disks of a pool by what their superblocks say, and refuses by name
//! whatever does not belong together.

use super::error::OpenError;
use super::layout::{Commit, Identity, Layout};
use crate::format::superblock::{DISK_IN_USE, SUPERBLOCK_BYTES, Superblock, SuperblockFault};
use crate::ids::{DiskId, NodeName, Uuid};
use crate::io::Geometry;
use crate::planted::{Bug, Planted};

/// What was read where a copy of a superblock belongs; `None` if the place is unreadable.
pub(super) type Copy = Option<Box<[u8; SUPERBLOCK_BYTES]>>;

/// What the superblocks of all disks say together.
#[derive(Debug)]
pub(super) struct Recognised {
    pub(super) identity: Identity,
    pub(super) layout: Layout,
    pub(super) commit: Commit,
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

/// Recognises the disks in the order given.
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
    places(&blocks)?;
    let whose = identity(&blocks[0]).ok_or(OpenError::Layout { disk: DiskId(0), what: "its node" })?;
    if expected.is_some_and(|expected| expected != (whose.partnership, whose.node)) {
        return Err(OpenError::WrongNode { node: whose.node, partnership: whose.partnership });
    }
    for (at, (block, disk)) in blocks.iter().zip(disks).enumerate() {
        let expected = block.disks[at].bytes.get();
        if disk.bytes < expected {
            return Err(OpenError::Shrunk { disk: DiskId(at as u16), bytes: disk.bytes, expected });
        }
    }
    let (layout, commit) = Layout::read(&blocks).map_err(|(disk, what)| OpenError::Layout { disk, what })?;
    ages(&blocks, &layout, &damaged)?;
    Ok(Recognised { identity: whose, layout, commit, damaged })
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

/// Is each disk in its place, and none missing?
fn places(blocks: &[Superblock]) -> Result<(), OpenError> {
    for (at, block) in blocks.iter().enumerate() {
        let disk = DiskId(at as u16);
        if let Some(other) = blocks[..at].iter().position(|other| other.disk == block.disk) {
            return Err(OpenError::Cloned { disk, other: DiskId(other as u16) });
        }
        let count = usize::from(block.disk_count.get());
        if count == 0 || count > block.disks.len() || block.disk_index.get() >= block.disk_count.get() {
            return Err(OpenError::Layout { disk, what: "its place" });
        }
    }
    let table = &blocks[0].disks[..usize::from(blocks[0].disk_count.get())];
    for (at, entry) in table.iter().enumerate() {
        if !blocks.iter().any(|block| block.disk == entry.uuid) {
            return Err(OpenError::Missing { disk: DiskId(at as u16), uuid: Uuid(entry.uuid.get()) });
        }
    }
    for (at, block) in blocks.iter().enumerate() {
        let (disk, belongs) = (DiskId(at as u16), block.disk_index.get());
        if usize::from(belongs) != at {
            return Err(OpenError::Swapped { disk, belongs: DiskId(belongs) });
        }
        let entry = block.disks[at];
        if usize::from(block.disk_count.get()) != blocks.len()
            || entry.uuid != block.disk
            || entry.state != DISK_IN_USE
        {
            return Err(OpenError::Layout { disk, what: "its table of disks" });
        }
    }
    Ok(())
}

/// Is any disk an old copy? The others are written before the home disk, so each is at its generation or one
/// ahead; one behind only if its newer copy is damaged.
fn ages(blocks: &[Superblock], layout: &Layout, damaged: &[(DiskId, u8)]) -> Result<(), OpenError> {
    let expected = blocks[usize::from(layout.home.0)].generation.get();
    for (at, block) in blocks.iter().enumerate() {
        let (disk, found) = (DiskId(at as u16), block.generation.get());
        let excuse = u64::from(damaged.iter().any(|(bad, _)| *bad == disk));
        if found + excuse < expected {
            return Err(OpenError::Older { disk, found, expected });
        }
        let home_excuse = u64::from(damaged.iter().any(|(bad, _)| *bad == layout.home));
        if found > expected + 1 + home_excuse {
            return Err(OpenError::Older { disk: layout.home, found: expected, expected: found });
        }
    }
    Ok(())
}
