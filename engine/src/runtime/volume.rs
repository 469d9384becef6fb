//! A virtual volume of a running engine, and calls that wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use super::core::Core;
use super::engine::Handle;
use super::lane::Lane;
use super::sizes::{Facts, Size};
use crate::guest::{
    Command, GuestError, GuestResult, Items, PathState, Sectors, Sink, StatusRun, VirtualVolume, VolumeInfo,
};
use crate::ids::{ItemName, RequestId, Uuid, VolumeId};
use crate::mirror::message::{VolumeChange, VolumeRefusal};
use crate::node::config::VolumeConfig;

/// Keeps its engine alive.
pub(super) struct Volume {
    handle: Arc<Handle>,
    id: VolumeId,
    /// `None` for one that the configuration does not name.
    config: Option<VolumeConfig>,
    lane: Arc<Lane>,
    size: Size,
}

impl Volume {
    pub(super) fn new(handle: Arc<Handle>, id: VolumeId, config: Option<VolumeConfig>) -> Volume {
        let (lane, size) = (handle.core.lane(id), handle.core.sizes.of(id));
        Volume { handle, id, config, lane, size }
    }

    /// The pool's word stands before the configuration's.
    fn facts(&self) -> Facts {
        let config = self.config.as_ref();
        self.size.facts().unwrap_or_else(|| Facts {
            uuid: config.map_or(Uuid(0), |config| config.uuid),
            mirrored: config.is_some_and(|config| config.mirrored),
            read_only: false,
        })
    }

    fn name(&self) -> String {
        match (self.items().get(&ItemName::NAME), &self.config) {
            (Some(item), _) => String::from_utf8_lossy(&item.value).into_owned(),
            (None, Some(config)) => config.name.clone(),
            (None, None) => format!("volume {}", self.id),
        }
    }
}

impl VirtualVolume for Volume {
    fn info(&self) -> VolumeInfo {
        let Facts { uuid, mirrored, read_only } = self.facts();
        let (id, name, sectors) = (self.id, self.name(), self.sectors());
        let extent_sectors = self.handle.extent_sectors.load(Ordering::Relaxed);
        VolumeInfo { id, name, uuid, sectors, extent_sectors, mirrored, read_only }
    }

    fn path_state(&self) -> PathState {
        let [own, _] = self.handle.core.path_states(self.id);
        own
    }

    fn partner_path_state(&self) -> PathState {
        let [_, partners] = self.handle.core.path_states(self.id);
        partners
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        self.handle.core.submit(&self.lane, self.id, command, (Arc::clone(sink), token))
    }

    fn block_status(&self, at: Sectors) -> Option<Result<Vec<StatusRun>, GuestError>> {
        match self.handle.core.block_status(self.id, at) {
            // A read is held until it is decided.
            Err(GuestError::Transitioning) => None,
            found => Some(found),
        }
    }

    fn sectors(&self) -> u64 {
        let configured = || self.config.as_ref().map_or(0, |config| config.sectors);
        self.size.sectors().unwrap_or_else(configured)
    }

    fn is_gone(&self) -> bool {
        self.size.is_deleted()
    }

    fn items_version(&self) -> u64 {
        self.size.items_version()
    }

    fn items(&self) -> Arc<Items> {
        self.handle.core.items(self.id)
    }

    fn keep(
        &self,
        name: ItemName,
        expect: u64,
        value: &[u8],
        done: Box<dyn FnOnce(Result<(), VolumeRefusal>) + Send>,
    ) {
        let what = VolumeChange::Keep { name, expect, value: value.into() };
        self.handle.core.begin_change(self.id, what, done);
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
