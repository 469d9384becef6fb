//! What becomes of a guest's request: validated, then served, held or refused by the node's phase.

use super::Node;
use super::event::Action;
use super::membership::Service;
use super::op::{Flusher, Origin, Reading, Write};
use crate::block::{Block, Payload, is_all_zero};
use crate::guest::{Command, GuestError, Sectors, TRANSFER_SECTORS_MAX, ZERO_SECTORS_MAX};
use crate::ids::{RequestId, VolumeId};
use crate::time::Instant;

/// Checks a request against the volume's size and the limits that were advertised.
fn validate(command: &Command, sectors: u64) -> Result<(), GuestError> {
    let (at, most) = match command {
        Command::Read { at } | Command::Write { at, .. } => (at, TRANSFER_SECTORS_MAX),
        Command::Zero { at, .. } => (at, ZERO_SECTORS_MAX),
        Command::Flush => return Ok(()),
    };
    if at.start.checked_add(at.count).is_none_or(|end| end > sectors) {
        return Err(GuestError::OutOfRange);
    }
    let blocks = at.blocks();
    match command {
        _ if at.count > most => Err(GuestError::Invalid),
        Command::Write { data, .. } if data.len() as u64 != blocks.end - blocks.start => {
            Err(GuestError::Invalid)
        }
        _ => Ok(()),
    }
}

impl Node {
    /// A guest asks, or a held request gets another chance.
    pub(super) fn guest(&mut self, id: RequestId, volume: VolumeId, command: Command) {
        let Some(state) = self.volumes.get(&volume).filter(|state| !state.leaving) else {
            self.refuse(id, self.why_gone(volume));
            return;
        };
        let (mirrored, sectors) = (state.mirrored, state.sectors);
        // Only a node that may serve knows how large the volume is.
        let service = self.service_of(mirrored);
        if service == Service::Refuse {
            self.refuse(id, GuestError::Unavailable);
            return;
        }
        match validate(&command, sectors) {
            Ok(()) => {}
            // It may be larger by now.
            Err(GuestError::OutOfRange) if service == Service::Hold => {
                self.parked.push_back((id, volume, command));
                return;
            }
            Err(error) => return self.refuse(id, error),
        }
        if matches!(&command, Command::Read { at } | Command::Write { at, .. } | Command::Zero { at, .. } if at.count == 0)
        {
            self.complete(id, Ok(Payload::new()));
            return;
        }
        match (service, &command) {
            (Service::Hold, _) | (Service::AloneReads, Command::Write { .. } | Command::Zero { .. }) => {
                self.parked.push_back((id, volume, command));
            }
            _ => self.serve(id, volume, command),
        }
    }

    /// There is no such volume here, or not much longer. Of a mirrored one only a node that may serve can tell.
    fn why_gone(&self, volume: VolumeId) -> GuestError {
        let known = self.store().pool().metadata().volume(volume);
        let mirrored = known.is_some_and(|meta| meta.mirrored);
        match self.service() {
            Service::Pair | Service::Alone | Service::AloneReads => GuestError::Gone,
            _ if mirrored => GuestError::Unavailable,
            _ => GuestError::Gone,
        }
    }

    pub(super) fn service_of(&self, mirrored: bool) -> Service {
        match mirrored {
            true => self.service(),
            false if matches!(self.phase, super::phase::Phase::Stopped | super::phase::Phase::Failed) => {
                Service::Refuse
            }
            // What a linear volume took after the last flush of a clean stop would be lost.
            false if self.stopping => Service::Refuse,
            false => Service::Alone,
        }
    }

    fn serve(&mut self, id: RequestId, volume: VolumeId, command: Command) {
        match command {
            Command::Read { at } => self.begin_read(id, volume, at),
            Command::Flush => self.begin_flush(Flusher::Guest(id), volume),
            Command::Write { at, data, fua } => self.begin_guest_write(id, volume, at, false, data, fua),
            Command::Zero { at, fua } => self.begin_guest_write(id, volume, at, true, Payload::new(), fua),
        }
    }

    fn begin_guest_write(
        &mut self,
        id: RequestId,
        volume: VolumeId,
        at: Sectors,
        mut zero: bool,
        mut data: Payload,
        fua: bool,
    ) {
        let state = &self.volumes[&volume];
        if state.detect_zeros && !zero {
            data = data.into_iter().map(Block::detect_zero).collect();
            zero = at.is_aligned() && is_all_zero(&data);
            if zero {
                data.clear();
            }
        }
        if state.mirrored && self.service() == Service::Pair && state.owner != self.me() {
            self.forward(id, volume, at, zero, data, fua);
            return;
        }
        let origin = Origin::Guest(id);
        self.begin_write(Write {
            volume,
            origin,
            at,
            zero,
            fua,
            data,
            locked: false,
            merged: false,
            merging: false,
            reserved: false,
            heated: false,
            marked: false,
            sent: None,
            answered: false,
            deadline: Instant::NEVER,
            waits: None,
        });
    }

    /// A guest gives a request up. It is answered when the request can no longer act.
    pub(super) fn abort(&mut self, id: RequestId) {
        self.aborting.insert(id);
        if let Some(at) = self.parked.iter().position(|(parked, _, _)| *parked == id) {
            self.parked.remove(at);
            self.refuse(id, GuestError::Aborted);
            return;
        }
        let write = self
            .writes
            .iter()
            .find(|(_, write)| write.origin == Origin::Guest(id) && !write.answered)
            .map(|(&id, _)| id);
        if let Some(write) = write {
            self.abort_write(write, id);
            return;
        }
        if let Some((&number, _)) = self.forwarded.iter().find(|(_, forwarded)| forwarded.request == id) {
            self.cancel_forwarded(number);
            return;
        }
        if self.is_in_hand(id) {
            return; // reads, flushes and answers on their way finish by themselves
        }
        self.aborting.remove(&id);
        self.actions.push_back(Action::Aborted { id });
    }

    fn is_in_hand(&self, id: RequestId) -> bool {
        self.reading
            .values()
            .chain(self.mends.readings())
            .any(|reading| matches!(reading, Reading::Guest { request, .. } if *request == id))
            || self.flushes.values().any(|flush| flush.for_whom == Flusher::Guest(id))
            || self.settling.iter().any(|settling| settling.request == id)
            || self.held.iter().any(|held| held.request == id)
    }

    /// Every guest of a mirrored volume is told to go elsewhere; nothing of theirs is executed later, but for
    /// writes that the partner may already show.
    pub(super) fn refuse_all(&mut self, error: GuestError) {
        let mirrored: Vec<VolumeId> = self.mirrored();
        self.refuse_volumes(&mirrored, error);
    }

    /// This life serves no more, linear volumes neither.
    pub(super) fn refuse_everything(&mut self, error: GuestError) {
        self.drop_partners_business();
        let all: Vec<VolumeId> = self.volumes.keys().copied().collect();
        self.refuse_volumes(&all, error);
    }

    fn refuse_volumes(&mut self, mirrored: &[VolumeId], error: GuestError) {
        let parked = core::mem::take(&mut self.parked);
        for (id, volume, command) in parked {
            if mirrored.contains(&volume) {
                self.refuse(id, error);
            } else {
                self.parked.push_back((id, volume, command));
            }
        }
        for settling in core::mem::take(&mut self.settling) {
            self.refuse(settling.request, error);
        }
        for held in core::mem::take(&mut self.held) {
            self.refuse(held.request, error);
        }
        self.refuse_flushes(mirrored, error);
        self.refuse_reads(mirrored, error);
        for (_, forwarded) in core::mem::take(&mut self.forwarded) {
            self.refuse(forwarded.request, error);
        }
        self.refuse_writes(mirrored, error);
    }

    /// Writes, reads and questions of the partner end with the pair. So do writes that it ordered and that are
    /// not in the cache here: it was never told that they were.
    pub(super) fn drop_partners_business(&mut self) {
        for ((volume, _), incoming) in core::mem::take(&mut self.incoming) {
            self.drop_incoming(volume, incoming);
        }
        for volume in self.volumes.values_mut() {
            volume.applied.retain(|(_, version)| version.is_some());
        }
        self.drop_unordered();
        self.flushes.retain(|_, flush| matches!(flush.for_whom, Flusher::Guest(_)));
        self.restart_remote_reads();
        for forwarded in self.forwarded.values_mut() {
            (forwarded.sent, forwarded.ordered) = (false, false);
        }
    }

    /// A node that becomes a target has nothing of the old life in hand.
    pub(super) fn forget_mirrored(&mut self) {
        self.drop_partners_business();
        self.refuse_all(GuestError::Unavailable);
        for volume in self.volumes.values_mut().filter(|volume| volume.mirrored) {
            volume.end_pair();
            volume.hot.clear();
        }
    }
}
