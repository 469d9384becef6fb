//! A virtual volume of a running engine, and calls that wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use super::core::Core;
use super::engine::Handle;
use super::lane::Lane;
use super::sizes::Size;
use crate::guest::{
    Command, GuestError, GuestResult, Items, PathState, Sectors, Sink, StatusRun, VirtualVolume, VolumeInfo,
};
use crate::ids::{ItemName, RequestId, VolumeId};
use crate::mirror::message::{VolumeChange, VolumeRefusal};
use crate::node::config::VolumeConfig;

/// Keeps its engine alive.
pub(super) struct Volume {
    handle: Arc<Handle>,
    config: VolumeConfig,
    lane: Arc<Lane>,
    size: Size,
}

impl Volume {
    pub(super) fn new(handle: Arc<Handle>, config: VolumeConfig) -> Volume {
        let (lane, size) = (handle.core.lane(config.id), handle.core.sizes.of(config.id));
        Volume { handle, config, lane, size }
    }
}

impl VirtualVolume for Volume {
    fn info(&self) -> VolumeInfo {
        let VolumeConfig { id, ref name, uuid, mirrored, .. } = self.config;
        let sectors = self.sectors();
        let extent_sectors = self.handle.extent_sectors.load(Ordering::Relaxed);
        VolumeInfo { id, name: name.clone(), uuid, sectors, extent_sectors, mirrored, read_only: false }
    }

    fn path_state(&self) -> PathState {
        let [own, _] = self.handle.core.path_states(self.config.id);
        own
    }

    fn partner_path_state(&self) -> PathState {
        let [_, partners] = self.handle.core.path_states(self.config.id);
        partners
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        self.handle.core.submit(&self.lane, self.config.id, command, (Arc::clone(sink), token))
    }

    fn block_status(&self, at: Sectors) -> Option<Result<Vec<StatusRun>, GuestError>> {
        match self.handle.core.block_status(self.config.id, at) {
            // A read is held until it is decided.
            Err(GuestError::Transitioning) => None,
            found => Some(found),
        }
    }

    fn sectors(&self) -> u64 {
        self.size.sectors().unwrap_or(self.config.sectors)
    }

    fn is_gone(&self) -> bool {
        self.size.is_deleted()
    }

    fn items_version(&self) -> u64 {
        self.size.items_version()
    }

    fn items(&self) -> Arc<Items> {
        self.handle.core.items(self.config.id)
    }

    fn keep(
        &self,
        name: ItemName,
        expect: u64,
        value: &[u8],
        done: Box<dyn FnOnce(Result<(), VolumeRefusal>) + Send>,
    ) {
        let what = VolumeChange::Keep { name, expect, value: value.into() };
        self.handle.core.begin_change(self.config.id, what, done);
    }

    fn abort(&self, request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        self.handle.core.abort(request, (Arc::clone(sink), token));
    }
}

/// Waits for one answer.
#[derive(Default)]
struct Waiter {
    answer: Mutex<Option<GuestResult>>,
    came: Condvar,
}

impl Sink for Waiter {
    fn complete(&self, _token: u64, result: GuestResult) {
        *self.answer.lock() = Some(result);
        self.came.notify_one();
    }
}

/// Carries out a command and waits for the answer.
pub(super) fn call(core: &Core, volume: VolumeId, command: Command) -> GuestResult {
    let waiter = Arc::new(Waiter::default());
    let caller = (Arc::clone(&waiter) as Arc<dyn Sink>, 0);
    core.submit(&core.lane(volume), volume, command, caller);
    let mut answer = waiter.answer.lock();
    loop {
        if let Some(result) = answer.take() {
            return result;
        }
        waiter.came.wait(&mut answer);
    }
}
