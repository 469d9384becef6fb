//! What is to be repaired of a pool that opens, and repairing it without a node. A node does the same by itself, as the
//! first thing it writes.
//!
//! Invariant: nothing of what counts is changed. A damaged copy is not patched: a new checkpoint is written to both copies,
//! then superblocks that name it, and then nothing that was damaged is needed.

use core::fmt;

use super::Pool;
use super::opening::OpenReport;
use super::reading::DamagedCopy;
use crate::ids::DiskId;

/// One thing to be put right. Its text says what is wrong and what is done about it, without the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Repair {
    /// A superblock copy is damaged, the other of the same disk is whole.
    Superblock {
        /// The disk: its number among those given.
        disk: DiskId,
        /// Which copy.
        copy: u8,
    },
    /// A copy of the checkpoint or of a log entry is damaged, the other is whole.
    Copy(DamagedCopy),
    /// The last log entry is whole in one copy only.
    Unfinished {
        /// The disk with the other copy.
        disk: DiskId,
        /// Where on it, in bytes.
        offset: u64,
    },
}

impl Repair {
    /// The disk that it is about: its number among those given.
    pub fn disk(&self) -> DiskId {
        match self {
            Repair::Superblock { disk, .. } | Repair::Unfinished { disk, .. } => *disk,
            Repair::Copy(copy) => copy.disk,
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repair::Superblock { copy, .. } => {
                write!(f, "superblock copy {copy} is damaged: it is written anew from the other")
            }
            Repair::Copy(DamagedCopy { offset, what, .. }) => write!(
                f,
                "byte {offset}: {what}; the other copy is whole: a new checkpoint is written to both copies"
            ),
            Repair::Unfinished { offset, .. } => write!(
                f,
                "byte {offset}: the last log entry is whole in the other copy only, as a crash leaves it: \
                 a new checkpoint is written to both copies"
            ),
        }
    }
}

impl OpenReport {
    /// What is to be put right.
    pub fn repairs(&self) -> Vec<Repair> {
        let blocks = self.damaged.iter().map(|(disk, copy)| Repair::Superblock { disk: *disk, copy: *copy });
        let copies = self.copies.iter().copied().map(Repair::Copy);
        let last = self.completed.map(|(disk, offset)| Repair::Unfinished { disk, offset });
        blocks.chain(copies).chain(last).collect()
    }
}

impl Pool {
    /// Begins to put right what [`OpenReport::repairs`] names. Carry out what [`poll_io`](Self::poll_io) asks for until
    /// [`is_idle`](Self::is_idle); the next opening tells what is left.
    pub fn repair(&mut self) {
        self.checkpoint_asked = true;
    }
}
