//! What becomes of a guest's request: validated, then served, held or refused by the right of the machine.

use super::Volume;
use super::context::Context;
use super::op::{Flusher, Origin, Reading, Wanted, Write};
use super::right::Service;
use crate::block::{Block, Payload, is_all_zero};
use crate::guest::{COMPARE_SECTORS_MAX, Command, GuestError, TRANSFER_SECTORS_MAX, ZERO_SECTORS_MAX};
use crate::ids::RequestId;
use crate::mirror::message::Manner;

/// Checks a request against the volume's size and the limits that were advertised.
fn validate(command: &Command, sectors: u64) -> Result<(), GuestError> {
    let Some(at) = command.sectors() else { return Ok(()) };
    let most = match command {
        Command::Zero { .. } => ZERO_SECTORS_MAX,
        Command::CompareAndWrite { .. } => COMPARE_SECTORS_MAX,
        _ => TRANSFER_SECTORS_MAX,
    };
    if at.start.checked_add(at.count).is_none_or(|end| end > sectors) {
        return Err(GuestError::OutOfRange);
    }
    let blocks = at.blocks();
    let is_whole = |data: &Payload| data.len() as u64 == blocks.end - blocks.start;
    let fits = match command {
        Command::Write { data, .. } | Command::OrWrite { data, .. } => is_whole(data),
        Command::CompareAndWrite { compare, data, .. } => is_whole(compare) && is_whole(data),
        Command::Read { .. } | Command::Zero { .. } | Command::Flush => true,
    };
    if at.count <= most && fits { Ok(()) } else { Err(GuestError::Invalid) }
}

impl Volume {
    /// A guest asks, or a held request gets another chance.
    pub(in crate::node) fn guest(&mut self, cx: &mut Context<'_>, id: RequestId, command: Command) {
        let service = self.service(cx.now);
        if self.leaving {
            // Of a mirrored one only a node that may serve can tell.
            let unsure = self.mirrored && matches!(service, Service::Hold | Service::Refuse);
            self.refuse(cx, id, if unsure { GuestError::Unavailable } else { GuestError::Gone });
            return;
        }
        // Only a node that may serve knows how large the volume is.
        if service == Service::Refuse {
            self.refuse(cx, id, GuestError::Unavailable);
            return;
        }
        match validate(&command, self.sectors) {
            Ok(()) => {}
            Err(GuestError::OutOfRange) if service == Service::Hold => {
                self.parked.push_back((id, command));
                return;
            }
            Err(error) => return self.refuse(cx, id, error),
        }
        if command.sectors().is_some_and(|at| at.count == 0) {
            self.complete(cx, id, Ok(Payload::new()));
            return;
        }
        if self.read_only && command.changes_data() {
            return self.refuse(cx, id, GuestError::ReadOnly);
        }
        match service {
            Service::Hold => self.parked.push_back((id, command)),
            Service::AloneReads if command.changes_data() => self.parked.push_back((id, command)),
            _ => self.serve(cx, id, command),
        }
    }

    /// What is parked gets another chance.
    pub(super) fn unpark(&mut self, cx: &mut Context<'_>) {
        for (id, command) in core::mem::take(&mut self.parked) {
            self.guest(cx, id, command);
        }
    }

    fn serve(&mut self, cx: &mut Context<'_>, id: RequestId, command: Command) {
        match Wanted::of(command) {
            Ok(wanted) => self.begin_guest_write(cx, id, wanted),
            Err(Command::Read { at }) => self.begin_read(cx, id, at),
            Err(_) => self.begin_flush(cx, Flusher::Guest(id)),
        }
    }

    fn begin_guest_write(&mut self, cx: &mut Context<'_>, id: RequestId, mut wanted: Wanted) {
        if self.detect_zeros && !wanted.zero && wanted.manner != Manner::Or {
            let data = core::mem::take(&mut wanted.data);
            wanted.data = data.into_iter().map(Block::detect_zero).collect();
            wanted.zero = wanted.at.is_aligned() && is_all_zero(&wanted.data);
            if wanted.zero {
                wanted.data.clear();
            }
        }
        if self.mirrored && self.service(cx.now) == Service::Pair && self.owner != cx.me() {
            self.forward(cx, id, wanted);
            return;
        }
        self.begin_write(cx, Write::new(Origin::Guest(id), wanted));
    }

    /// A guest gives a request up. It is answered when the request can no longer act. False if it is not of this volume,
    /// or over.
    pub(in crate::node) fn abort(&mut self, cx: &mut Context<'_>, id: RequestId) -> bool {
        self.aborting.insert(id);
        if let Some(at) = self.parked.iter().position(|(parked, _)| *parked == id) {
            self.parked.remove(at);
            self.refuse(cx, id, GuestError::Aborted);
            return true;
        }
        let write = self
            .writes
            .iter()
            .find(|(_, write)| write.origin == Origin::Guest(id) && !write.answered)
            .map(|(&id, _)| id);
        if let Some(write) = write {
            self.abort_write(cx, write, id);
            return true;
        }
        if let Some((&number, _)) = self.forwarded.iter().find(|(_, forwarded)| forwarded.request == id) {
            self.cancel_forwarded(cx, number);
            return true;
        }
        if self.is_in_hand(id) {
            return true; // reads, flushes and answers on their way finish by themselves
        }
        self.aborting.remove(&id);
        false
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

    /// Is nothing of this volume in hand?
    pub(in crate::node) fn is_idle(&self) -> bool {
        let reads = self.reading.values().chain(self.mends.readings());
        self.writes.is_empty()
            && self.incoming.is_empty()
            && self.forwarded.is_empty()
            && self.flushes.is_empty()
            && self.settling.is_empty()
            && self.held.is_empty()
            && self.parked.is_empty()
            // The write is in hand for which blocks are merged; a resync begins anew before the record, so what is read for it
            // by then goes nowhere.
            && reads
                .into_iter()
                .all(|reading| matches!(reading, Reading::Merge { .. } | Reading::Region { .. }))
    }

    /// Nothing new is begun of this volume; what has not been sent or logged is given up.
    pub(in crate::node) fn close(&mut self, cx: &mut Context<'_>) {
        self.leaving = true;
        for (id, _) in core::mem::take(&mut self.parked) {
            self.refuse(cx, id, GuestError::Gone);
        }
        self.give_up_writes(cx);
        self.give_up_forwarded(cx);
    }
}
