//! What steps have asked for is done here: answers lane by lane, all else in one sequence.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Sender, TrySendError};

use super::{Core, ROUNDS_MAX};
use crate::arbiter::{ArbiterError, Ask};
use crate::backend::{BackendRequest, BlockBackend, DiskSink};
use crate::ids::DiskId;
use crate::io::{DiskError, DiskRequest};
use crate::node::event::{Action, Event};
use crate::runtime::burst;
use crate::runtime::lane::{Lane, contain};
use crate::runtime::sizes::Facts;
use crate::runtime::transport::Transport;

/// What actions act on.
pub(in crate::runtime) struct Outside {
    /// By number; `None` for those that were let go.
    pub(in crate::runtime) disks: Vec<Option<Arc<dyn BlockBackend>>>,
    pub(in crate::runtime) transport: Option<Arc<dyn Transport>>,
    /// Questions for the arbiter's thread.
    pub(in crate::runtime) questions: Option<Sender<(u64, Ask)>>,
    /// The core itself, as the disks see it.
    pub(in crate::runtime) sink: Arc<dyn DiskSink>,
}

impl Core {
    /// Gives the answers of a lane, unless another thread is at it.
    pub(super) fn answer(&self, lane: &Arc<Lane>) {
        let relieve = || self.relieve(Some(lane));
        lane.answers.gate.run_at_most(ROUNDS_MAX, || self.answer_once(lane), relieve);
    }

    /// Gives the answers that are there now; the gate brings another round for those to come.
    pub(super) fn answer_once(&self, lane: &Lane) {
        let mut batch = lane.answers.take();
        for answer in batch.drain(..).take_while(|_| !self.closed.load(Ordering::Relaxed)) {
            lane.answer(answer);
        }
        drop(batch);
        if self.closed.load(Ordering::SeqCst) {
            lane.close();
            // The last lane to close brings the end of the rest.
            self.perform();
        }
    }

    /// Does what the node has asked for, unless another thread is at it.
    pub(super) fn perform(&self) {
        self.actions.gate.run_at_most(ROUNDS_MAX, || self.perform_once(), || self.relieve(None));
    }

    /// Performs the actions that are there now; the gate brings another round for those to come.
    pub(super) fn perform_once(&self) {
        let mut outside = self.outside.lock();
        let mut batch = self.actions.take();
        if let Some(outside) = &mut *outside {
            self.act_all(outside, &mut batch);
        }
        batch.clear();
        drop(batch);
        if self.closed.load(Ordering::SeqCst) && self.lanes.are_closed() {
            let last = outside.take();
            drop(outside);
            if let Some(outside) = last {
                self.let_go(outside);
            }
        }
    }

    fn act_all(&self, outside: &mut Outside, batch: &mut Vec<Action>) {
        let mut sent = false;
        for action in batch.drain(..).take_while(|_| !self.closed.load(Ordering::Relaxed)) {
            sent |= matches!(action, Action::Send { .. });
            contain(|| self.act(outside, action));
        }
        if let Some(transport) = outside.transport.as_ref().filter(|_| sent) {
            burst::flush(transport);
        }
    }

    /// Disks wait for their requests in progress when they are dropped, and those answer to this core: no lock here.
    fn let_go(&self, outside: Outside) {
        if let Some(transport) = &outside.transport {
            contain(|| transport.close());
        }
        contain(|| drop(outside));
        self.lifecycle.let_go();
    }

    fn act(&self, outside: &mut Outside, action: Action) {
        match action {
            Action::Disk(request) => self.start_io(outside, request),
            Action::Send { link, message } => {
                if let Some(transport) = &outside.transport {
                    transport.send(link, message);
                }
            }
            Action::Disconnect { link } => {
                if let Some(transport) = &outside.transport {
                    transport.disconnect(link);
                }
            }
            Action::Arbiter { id, ask } => self.ask(outside, id, ask),
            Action::Complete { .. } | Action::Aborted { .. } | Action::VolumeItems { .. } => {
                unreachable!("not left in this queue")
            }
            Action::Notice(notice) => self.lifecycle.notice(notice),
            Action::PoolAnswer { id, result } => self.operators.answer(id, result),
            Action::VolumeAnswer { id, result } => self.changers.answer(id, result),
            Action::VolumeIs { volume, uuid, mirrored, read_only } => {
                self.sizes.is(volume, Facts { uuid, mirrored, read_only });
            }
            Action::VolumeSize { volume, sectors } => {
                match sectors {
                    Some(_) => self.lanes.add(volume),
                    None => drop(self.items.write().remove(&volume)),
                }
                self.sizes.show(volume, sectors);
            }
            Action::Release { disk } => {
                let disk = outside.disks.get_mut(usize::from(disk.0)).and_then(Option::take);
                drop(disk);
            }
        }
    }

    /// Makes room for a disk more: its number from now on. `None` when closed, or when there were too many.
    pub(in crate::runtime) fn connect(&self, disk: Arc<dyn BlockBackend>) -> Option<DiskId> {
        let mut outside = self.outside.lock();
        let disks = &mut outside.as_mut()?.disks;
        let number = u16::try_from(disks.len()).ok()?;
        disks.push(Some(disk));
        Some(DiskId(number))
    }

    fn start_io(&self, outside: &Outside, request: DiskRequest) {
        match outside.disks.get(usize::from(request.disk.0)).and_then(Option::as_ref) {
            Some(disk) => disk.submit(BackendRequest::new(request.op, Arc::clone(&outside.sink), request.id)),
            None => self.happened(Event::Disk { id: request.id, result: Err(DiskError::Invalid) }),
        }
    }

    fn ask(&self, outside: &Outside, id: u64, ask: Ask) {
        let reason = match outside.questions.as_ref().map(|questions| questions.try_send((id, ask))) {
            Some(Ok(())) => return,
            Some(Err(TrySendError::Full(_))) => "earlier questions are not answered yet",
            Some(Err(TrySendError::Disconnected(_))) | None => "there is none",
        };
        self.happened(Event::Arbiter { id, result: Err(ArbiterError { reason: reason.into() }) });
    }
}
