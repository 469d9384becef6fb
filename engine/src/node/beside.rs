//! Steps of volumes beside each other. [`Node::handle`] has the node for itself; [`Node::handle_beside`] has one volume, and
//! may go on while others go on. What is common is asked of a guest's request in good times: a read of what is cached, a write
//! to blocks that have their space and are hot, and the partner's side of such a write.
//!
//! Invariants:
//! - A step beside others changes its own volume, and of what is common only the counts of room (`volume::room`) and of the
//!   caches (`store::beside`), each in one go. The phase, the pool and every other volume are as they were when it began, for
//!   what changes them has the node for itself. So steps beside each other are as good as one after the other.
//! - The machine has its newest right: rights change only in steps that have the node, and are handed down before they end.
//! - What such a step cannot do it leaves: the event is given back as it was, the request waits (`Cause::Whole`), or what it
//!   needs of the store is put off. The next step that has the node catches up first, before anything else is judged.

use std::collections::VecDeque;

use super::Node;
use super::config::NodeConfig;
use super::event::{Action, Event};
use super::volume::Volume;
use super::volume::context::{Context, Told};
use super::volume::forward::Wish;
use super::volume::partner::Ordered;
use super::volume::right::Service;
use super::volume::stock::Stock;
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::{Command, ZERO_SECTORS_MAX};
use crate::ids::VolumeId;
use crate::mirror::message::{Body, Message};
use crate::planted::Bug;
use crate::time::Instant;

/// What the control part has to catch up with.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    volumes: Vec<VolumeId>,
    told: VecDeque<(VolumeId, Told)>,
}

impl Node {
    /// Lets a volume take an event beside other volumes, each of which may do the same meanwhile. Its actions are added to
    /// `actions`, and `queue_up` is called with them before another step of this volume can begin: so what two steps of a
    /// volume ask for is queued in their order. True if [`handle`](Self::handle) with [`Event::Tick`] is to follow soon.
    ///
    /// # Errors
    /// The event, as it was, if it is for [`handle`](Self::handle). Nothing has changed, but that clean blocks of the volume
    /// may have left its cache.
    #[expect(clippy::result_large_err, reason = "what is given back is handled at once")]
    pub fn handle_beside(
        &self,
        now: Instant,
        event: Event,
        actions: &mut Vec<Action>,
        queue_up: &mut dyn FnMut(&mut Vec<Action>),
    ) -> Result<bool, Event> {
        let Some(id) = self.concerns(&event) else { return Err(event) };
        let Some(store) = &self.store else { return Err(event) };
        let Some(mut guard) = self.volumes.get(id) else { return Err(event) };
        let volume = &mut *guard;
        assert!(
            !volume.stepping,
            "a step of this volume has panicked: what it left half done is not built on"
        );
        if matches!(&event, Event::Message { message, .. } if !self.is_sane_for(&message.body, Some(volume)))
        {
            return Err(event);
        }
        let now = self.now.max(volume.now).max(now);
        if !volume.may_step_beside(now) {
            return Err(event);
        }
        let Some(mut stock) = store.beside(id) else { return Err(event) };
        volume.stepping = true;
        if !stock.make_place(now, volume.blocks_put_by(&event)) {
            volume.stepping = false;
            return Err(event);
        }
        volume.now = now;
        let confirms = matches!(&event, Event::Message { message, .. } if matches!(message.body, Body::WriteDone { .. }));
        let had_deadline = volume.deadline().is_some();
        let (mut told, mut asked) = (VecDeque::new(), core::mem::take(&mut volume.scratch));
        let mut cx = Context {
            now,
            config: &self.config,
            store: Stock::Beside(stock),
            pages: &self.pages,
            room: &self.room,
            shared: None,
            actions: &mut asked,
            told: &mut told,
        };
        volume.take(&mut cx, event);
        let wants_node = cx.store.wants_whole()
            || !cx.told.is_empty()
            || (volume.is_awake() && !volume.known_awake)
            || volume.has_ready(cx.store.durable())
            // What came back may be what another volume's write waits for.
            || (confirms && !self.room.is_free())
            || (!had_deadline && volume.deadline().is_some())
            || volume.is_due_earlier(&self.config);
        drop(cx);
        actions.extend(asked.drain(..));
        volume.scratch = asked;
        if !volume.stepped || !told.is_empty() {
            let mut stepped = self.stepped.lock();
            if !core::mem::replace(&mut volume.stepped, true) {
                stepped.volumes.push(id);
            }
            stepped.told.append(&mut told);
        }
        queue_up(actions);
        volume.stepping = false;
        Ok(wants_node && !self.has(Bug::OwedLookForgotten))
    }

    /// The volume of an event that a step beside others may be able to take.
    fn concerns(&self, event: &Event) -> Option<VolumeId> {
        match event {
            Event::Guest { volume, command, .. } => (!matches!(command, Command::Flush)).then_some(*volume),
            Event::Message { link, message } if self.link == Some(*link) && self.peer.is_some() => {
                match &message.body {
                    Body::Write { volume, .. }
                    | Body::WriteDone { volume, stored: true, .. }
                    | Body::Forward { volume, .. } => Some(*volume),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Takes notice of what volumes have done beside each other, and does what they left. True if there was something.
    pub(super) fn catch_up(&mut self) -> bool {
        let Stepped { volumes, told } = core::mem::take(self.stepped.get_mut());
        if volumes.is_empty() {
            return false;
        }
        for id in volumes {
            let now = self.now;
            self.store_mut().catch_up(now, id);
            self.note_step(id);
        }
        self.told.extend(told);
        self.hear();
        true
    }
}

impl Volume {
    /// Are these the times in which its steps can go beside others?
    fn may_step_beside(&self, now: Instant) -> bool {
        let expected = if self.mirrored { self.service_at(now) } else { self.right().linear };
        let good = if self.mirrored { Service::Pair } else { Service::Alone };
        !self.leaving && !self.right().stopping && expected == good
    }

    /// Is it to be tidied up before the control part has in mind to?
    fn is_due_earlier(&self, config: &NodeConfig) -> bool {
        match (self.tidy_seen, self.tidy_due(config)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(seen), Some(due)) => due < seen,
        }
    }

    /// How many blocks an event puts into the cache, at most.
    fn blocks_put_by(&self, event: &Event) -> u64 {
        match event {
            Event::Guest { command, .. } if command.changes_data() => {
                // A longer one is refused.
                let count = command.sectors().map_or(0, |at| at.count);
                if count > ZERO_SECTORS_MAX { 0 } else { count / SECTORS_PER_BLOCK + 2 }
            }
            Event::Message { message, .. } => match &message.body {
                Body::Write { blocks, .. } => u64::from(*blocks),
                Body::WriteDone { order, .. } => self.blocks_sent(*order),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Takes an event of this volume.
    fn take(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::Guest { id, command, .. } => self.guest(cx, id, command),
            Event::Message { message: Message { body, data }, .. } => match body {
                Body::Write { epoch, order, first, blocks, zero, carried, origin, .. } => {
                    let range = first..first + u64::from(blocks);
                    let data = carried.then_some(data);
                    self.write_received(cx, epoch, Ordered { order, range, zero, data, origin });
                }
                Body::WriteDone { epoch, order, stored, .. } => self.write_done(cx, epoch, order, stored),
                Body::Forward { epoch, id, at, manner, zero, deadline, .. } => {
                    let wish = Wish::new(id, at, manner, zero, data, deadline);
                    self.forward_received(cx, epoch, wish);
                }
                _ => unreachable!("Node::concerns"),
            },
            _ => unreachable!("Node::concerns"),
        }
    }
}
