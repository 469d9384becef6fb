//! Disks of a pool in use: added, removed, looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::Engine;
use crate::backend::{self, BlockBackend};
use crate::block::SECTOR_BYTES;
use crate::ids::Uuid;
use crate::node::event::PoolAsk;
use crate::node::view::DiskView;
use crate::pool::{DiskRefusal, NewDisk};

/// Why a disk was not added or is not removed. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolChangeError {
    /// The node refuses it.
    #[error(transparent)]
    Refused(#[from] DiskRefusal),
    /// The system has no random numbers.
    #[error("no random identity can be had: {0}")]
    Random(#[from] std::io::Error),
}

impl Engine {
    /// Adds a disk to the pool. It may be of any size and sector size. What it held before is lost, but for the mark
    /// of a pool: that is erased only if it is the pool that `replaces` names. Returns the disk's identity when its
    /// space counts; a crash before that leaves the pool with it or without it. Volumes go on.
    ///
    /// Give the disk to [`EngineBuilder::disk`](super::EngineBuilder::disk) too, from the next start on, after such a
    /// crash as well: a pool that has it does not open without it. If the pool does not have it,
    /// [`Notice::DiskNotOurs`](crate::node::event::Notice::DiskNotOurs) says so; or the pool refuses to open, for the
    /// disk carries no mark yet: then start without it. In both cases it may be added again. Not to be called by a
    /// [`Sink`](crate::guest::Sink).
    pub fn add_disk(
        &self,
        disk: Arc<dyn BlockBackend>,
        replaces: Option<Uuid>,
    ) -> Result<Uuid, PoolChangeError> {
        let (geometry, uuid) = (disk.geometry(), backend::random_uuid()?);
        let core = &self.handle.core;
        let device = core.connect(disk).ok_or(DiskRefusal::NotOpen)?;
        core.ask_pool(PoolAsk::Add(NewDisk { device, geometry, uuid, replaces }))?;
        Ok(uuid)
    }

    /// Begins to remove a disk from the pool: nothing new is put on it, and what is on it moves to the others while the
    /// volumes go on. Returns when that has begun; [`disks`](Self::disks) tells how far it is, and
    /// [`Notice::DiskLeft`](crate::node::event::Notice::DiskLeft) that the disk is no longer needed and has been let
    /// go; until then it is among them. A crash takes nothing back but the beginning, if it comes in the first moment; after a restart it goes on.
    ///
    /// The pool's metadata move to another disk that has room for them if they are on this one
    /// ([`DiskView::home`]); it is refused if there is none.
    pub fn remove_disk(&self, disk: Uuid) -> Result<(), PoolChangeError> {
        Ok(self.handle.core.ask_pool(PoolAsk::Remove { disk })?)
    }

    /// Keeps a disk that is being removed, with what is still on it. After a crash in the first moment it may be
    /// leaving again.
    pub fn keep_disk(&self, disk: Uuid) -> Result<(), PoolChangeError> {
        Ok(self.handle.core.ask_pool(PoolAsk::Keep { disk })?)
    }

    /// Pauses the removal of a disk, until it is resumed or the engine starts again; or resumes it.
    pub fn pause_removal(&self, disk: Uuid, paused: bool) -> Result<(), PoolChangeError> {
        Ok(self.handle.core.ask_pool(PoolAsk::Pause { disk, paused })?)
    }

    /// Bytes of an extent of the pool.
    pub fn extent_bytes(&self) -> u64 {
        self.handle.extent_sectors.load(Ordering::Relaxed) * SECTOR_BYTES as u64
    }

    /// The disks of the pool; empty when the engine has ended.
    pub fn disks(&self) -> Vec<DiskView> {
        self.view().map_or_else(Vec::new, |view| view.disks)
    }
}
