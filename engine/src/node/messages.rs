//! Whom a message of the partner concerns: the control part, or the machine of a volume. An answer that names no volume is
//! for the machine that gave its id.

use core::ops::Range;

use super::Node;
use super::event::Action;
use super::phase::Phase;
use super::target::Copy;
use super::volume::Volume;
use super::volume::forward::Wish;
use super::volume::partner::Ordered;
use crate::block::{Payload, SECTORS_PER_BLOCK};
use crate::guest::{GuestError, ZERO_SECTORS_MAX};
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Body, Control, Message};

impl Node {
    /// Routes a message of the partner. Nothing but its hello counts before it has introduced itself.
    pub(super) fn message(&mut self, message: Message) {
        let Message { body, data } = message;
        if self.peer.is_none() && !matches!(body, Body::Control(Control::Hello(_))) {
            return;
        }
        if !self.is_sane(&body) {
            if let Some(link) = self.link {
                self.actions.push_back(Action::Disconnect { link });
            }
            return;
        }
        match body {
            Body::Write { epoch, volume, order, first, blocks, zero, carried, origin } => {
                let range = first..first + u64::from(blocks);
                let write = Ordered { order, range, zero, data: carried.then_some(data), origin };
                self.with(volume, |volume, cx| volume.write_received(cx, epoch, write));
            }
            Body::WriteDone { epoch, volume, order, stored } => {
                self.with(volume, |volume, cx| volume.write_done(cx, epoch, order, stored));
            }
            Body::Forward { epoch, volume, id, at, manner, zero, deadline } => {
                let wish = Wish::new(id, at, manner, zero, data, deadline);
                let known = self.with(volume, |volume, cx| volume.forward_received(cx, epoch, wish));
                if known.is_none() && self.is_paired_in(epoch) {
                    self.say(Control::ForwardRefused { epoch, id, error: GuestError::Gone });
                }
            }
            Body::Copy { epoch, volume, tag, first, blocks, zero, fresh: _ } => {
                self.copy_received(epoch, Copy { volume, tag, first, blocks, zero, data });
            }
            Body::CopyStable { epoch, tag } => self.copy_stable(epoch, tag),
            Body::Control(control) => self.control(control, data),
        }
    }

    /// Is what a message of the partner names within a mirrored volume, and of a size that a guest may ask for?
    fn is_sane(&self, body: &Body) -> bool {
        let (Body::Write { volume, .. } | Body::Copy { volume, .. } | Body::Forward { volume, .. }) = body
        else {
            return true;
        };
        let state = self.volumes.get(*volume);
        self.is_sane_for(body, state.as_deref())
    }

    /// The same, where the volume that it names is at hand.
    pub(super) fn is_sane_for(&self, body: &Body, volume: Option<&Volume>) -> bool {
        let blocks_max = ZERO_SECTORS_MAX / SECTORS_PER_BLOCK + 1;
        let fits = |first: u64, blocks: u32| {
            let end = first.checked_add(u64::from(blocks));
            blocks > 0
                && u64::from(blocks) <= blocks_max
                && volume.is_some_and(|state| {
                    state.mirrored && end.is_some_and(|end| end <= state.sectors.div_ceil(SECTORS_PER_BLOCK))
                })
        };
        let (me, paired) = (self.me(), matches!(self.phase, Phase::Paired(_)));
        let mine = volume.is_some_and(|state| state.owner == me);
        match body {
            Body::Write { first, blocks, .. } => fits(*first, *blocks) && !(paired && mine),
            Body::Copy { first, blocks, .. } => fits(*first, *blocks),
            Body::Forward { at, .. } => {
                // One that was deleted meanwhile is refused to the guest.
                let mirrored = volume.is_none_or(|state| state.mirrored);
                mirrored && at.count > 0 && at.count <= ZERO_SECTORS_MAX
            }
            _ => true,
        }
    }

    fn control(&mut self, control: Control, data: Payload) {
        match control {
            Control::Hello(hello) => self.greeted(hello),
            Control::Probe { epoch, sent } => self.probed(epoch, sent),
            Control::ProbeReply { epoch, sent, clock } => self.probe_answered(epoch, sent, clock),
            Control::ForwardRefused { epoch, id, error } => {
                self.with_giver_of(id, |volume, cx| volume.forward_refused(cx, epoch, id, error));
            }
            Control::Cancel { epoch, id } => self.cancel_received(epoch, id),
            Control::Cancelled { epoch, id } => {
                self.with_giver_of(id, |volume, cx| volume.forward_cancelled(cx, epoch, id));
            }
            Control::FlushAsk { epoch, id, volume } => {
                self.with(volume, |volume, cx| volume.flush_asked(cx, epoch, id));
            }
            Control::FlushDone { epoch, id } => {
                self.with_giver_of(id, |volume, _| volume.partner_flushed(epoch, id));
            }
            Control::Stable { epoch, volume, order } => {
                self.with(volume, |volume, _| volume.partner_stable(epoch, order));
            }
            Control::Cool { epoch, volume, areas } => {
                self.with(volume, |volume, cx| volume.cooled(cx, epoch, &areas));
            }
            Control::ReadAsk { epoch, id, volume, first, blocks } => {
                let range = first..first.saturating_add(u64::from(blocks));
                self.read_asked(epoch, id, volume, range);
            }
            Control::ReadReply { epoch, id, error } => {
                self.with_giver_of(id, |volume, cx| volume.read_replied(cx, epoch, id, error, data));
            }
            Control::SetsAsk { epoch, full } => self.sets_asked(epoch, &full),
            Control::Sets { epoch, volume, hot, regions, mapped } => {
                self.sets_received(epoch, volume, hot, regions, mapped);
            }
            Control::SetsEnd { epoch } => self.sets_complete(epoch),
            Control::BeTarget { epoch, bases, table } => self.become_target(epoch, &bases, &table),
            Control::TargetReady { epoch } => self.target_ready(epoch),
            Control::Join { epoch, proposed, halves } => self.join_asked(epoch, proposed, halves),
            Control::Joined { proposed } => self.partner_joined(proposed),
            Control::Go { epoch } => self.told_to_go(epoch),
            Control::StopAsk { epoch } => self.stop_asked(epoch),
            Control::StopReady { epoch } => self.stop_ready(epoch),
            Control::HandedOver { epoch } => self.handed_over(epoch),
            Control::Yield { epoch } => self.yielded(epoch),
            Control::Hot { epoch, volume, areas } => {
                self.with(volume, |volume, cx| volume.only_hot(cx, epoch, &areas));
            }
            Control::NoSpace { epoch } => self.partner_full(epoch),
            Control::VolumeChange { epoch, volume, change, what } => {
                self.change_told(epoch, volume, change, what);
            }
            Control::VolumeChanged { epoch, volume, change } => self.change_written(epoch, volume, change),
            Control::VolumeShown { epoch, volume, change } => self.change_shown(epoch, volume, change),
            Control::VolumeAsk { epoch, id, volume, what } => self.change_asked(epoch, id, volume, what),
            Control::VolumeAnswer { epoch, id, result } => self.change_answered(epoch, id, result),
            Control::VolumeRefused { epoch, volume, change, refusal } => {
                self.change_refused(epoch, volume, change, refusal);
            }
            Control::VolumeItems { volume, items, .. } => self.items_received(volume, items),
            Control::ClonesTake { epoch, id, clones } => self.clones_told(epoch, id, clones),
            Control::ClonesTaken { epoch, id } => self.clones_taken(epoch, id),
            Control::ClonesRefused { epoch, id, refusal } => self.clones_refused(epoch, id, refusal),
            Control::ClonesAsk { epoch, id, clones } => self.clones_asked_by_partner(epoch, id, clones),
        }
    }

    /// The partner cannot read blocks of a volume.
    fn read_asked(&mut self, epoch: Epoch, id: u64, volume: VolumeId, range: Range<u64>) {
        let empty = range.is_empty();
        let known = self.with(volume, |volume, cx| volume.read_asked(cx, epoch, id, range));
        if known.is_none() && !empty && self.is_paired_in(epoch) {
            self.say(Control::ReadReply { epoch, id, error: Some(GuestError::Invalid) });
        }
    }
}
