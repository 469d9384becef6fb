//! From disks to a store: the pool is read, missing volumes are created, and the node begins.

use super::Node;
use super::event::{Action, Event, Notice, PoolAsk};
use super::machines::Known;
use super::phase::{Phase, Starting};
use crate::guest::GuestError;
use crate::io::{DiskRequest, IoId};
use crate::mirror::message::VolumeRefusal;
use crate::pool::{DiskRefusal, NodeRecord, OpenError, Pool, Record};
use crate::store::Store;

impl Node {
    /// Before the pool is open only its reads are answered.
    pub(super) fn handle_unopened(&mut self, event: Event) {
        match event {
            Event::Disk { id, result } => {
                if let Some(opening) = &mut self.opening {
                    opening.io_done(id.0, result);
                }
            }
            Event::Guest { id, .. } => {
                self.actions.push_back(Action::Complete { id, result: Err(GuestError::Transitioning) });
            }
            Event::Abort { id } => self.actions.push_back(Action::Aborted { id }),
            Event::Pool { id, ask } => {
                if let PoolAsk::Add(new) = ask {
                    self.actions.push_back(Action::Release { disk: new.device });
                }
                self.actions.push_back(Action::PoolAnswer { id, result: Err(DiskRefusal::NotOpen) });
            }
            Event::Volume { id, .. } | Event::Clones { id, .. } => {
                self.actions.push_back(Action::VolumeAnswer { id, result: Err(VolumeRefusal::NotNow) });
            }
            Event::LinkUp { link } => self.link = Some(link),
            Event::LinkDown { link } if self.link == Some(link) => self.link = None,
            // Nobody may be kept waiting for an answer that never comes: connect again when there is one.
            Event::Message { link, .. } if self.link == Some(link) => {
                self.actions.push_back(Action::Disconnect { link });
            }
            Event::Stop => {
                self.phase = Phase::Stopped;
                self.opening = None;
                self.notice(Notice::Stopped);
            }
            _ => {}
        }
        self.step_opening();
    }

    fn step_opening(&mut self) {
        let Some(opening) = &mut self.opening else { return };
        while let Some(io) = opening.poll_io() {
            self.last_io = self.last_io.max(io.token);
            self.actions.push_back(Action::Disk(DiskRequest {
                id: IoId(io.token),
                disk: io.disk,
                op: io.op,
            }));
        }
        match opening.done() {
            None => {}
            Some(Ok((pool, report))) => {
                self.opening = None;
                for disk in report.strays {
                    self.actions.push_back(Action::Release { disk });
                    self.notice(Notice::DiskNotOurs(disk));
                }
                self.opened(pool);
            }
            Some(Err(error)) => {
                self.opening = None;
                self.phase = Phase::Failed;
                if let OpenError::Io { disk, error, .. } = error {
                    self.notice(Notice::OpenDiskFailed { disk, error });
                }
                self.notice(Notice::OpenFailed(error.to_string()));
            }
        }
    }

    fn opened(&mut self, pool: Pool) {
        let mut store = Store::new(pool, &self.config.cache, self.last_io, self.config.planted);
        for volume in &self.config.volumes {
            if store.pool().metadata().volume(volume.id).is_none() {
                store.append(&[Record::VolumeCreate {
                    volume: volume.id,
                    uuid: volume.uuid,
                    sectors: volume.sectors,
                    mirrored: volume.mirrored,
                }]);
            }
        }
        for (id, meta) in store.pool().metadata().volumes().filter(|(_, meta)| !meta.deleted) {
            self.add_volume(id, Known::of(meta));
        }
        self.store = Some(store);
        if let Some(problem) = self.keep_space().or(self.config.space.problem().map(str::to_string)) {
            (self.store, self.phase) = (None, Phase::Failed);
            self.notice(Notice::OpenFailed(problem));
            return;
        }
        self.opened_at = self.now;
        self.show_linear();
        self.settle_linear();
        self.set_phase(Phase::Starting(Starting { register: None, ask_at: self.now, yielding: None }));
        self.notice(Notice::Opened);
        if let Some(link) = self.link {
            self.link_up(link);
        }
        self.pump();
        self.send_hello();
        self.hand_down();
    }

    pub(super) fn record(&self) -> NodeRecord {
        self.store().pool().metadata().node
    }

    /// Changes the phase; what was begun in the old one is judged again.
    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.clones.restless_since = None;
        self.term += 1;
        self.hello_due = true;
    }

    /// A disk of the pool failed for good: this life serves no more. The partner goes on.
    pub(super) fn disk_failed(&mut self) {
        self.refuse_everything(GuestError::Unavailable);
        self.refuse_disks();
        self.set_phase(Phase::Failed);
        self.notice(Notice::DiskFailed);
        self.send_hello();
        if let Some(link) = self.link {
            self.actions.push_back(Action::Disconnect { link });
        }
    }
}
