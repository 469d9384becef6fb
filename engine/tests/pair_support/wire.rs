//! One direction of the link: messages arrive in order, heartbeats overtake, and a story can hold them.

use std::collections::VecDeque;

use twinsan::block::Block;
use twinsan::mirror::message::{Body, Message};

/// What was sent, without its blocks.
pub(super) struct Said {
    pub(super) body: Body,
    /// Blocks that are not zero.
    pub(super) data_blocks: u64,
}

impl Said {
    pub(super) fn of(message: &Message) -> Said {
        let data_blocks = message.data.iter().filter(|block| matches!(block, Block::Data(_))).count() as u64;
        Said { body: message.body.clone(), data_blocks }
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    urgent: VecDeque<Message>,
    messages: VecDeque<Message>,
    held: Option<fn(&Body) -> bool>,
    stalled: bool,
}

impl Inbox {
    pub(super) fn push(&mut self, message: Message) {
        if message.is_urgent() { self.urgent.push_back(message) } else { self.messages.push_back(message) }
    }

    pub(super) fn pop(&mut self) -> Option<Message> {
        if self.stalled {
            return None;
        }
        if let Some(message) = self.urgent.pop_front() {
            return Some(message);
        }
        let first = self.messages.front()?;
        if self.held.is_some_and(|held| held(&first.body)) { None } else { self.messages.pop_front() }
    }

    /// The first message, held or not.
    pub(super) fn force(&mut self) -> Option<Message> {
        self.urgent.pop_front().or_else(|| self.messages.pop_front())
    }

    pub(super) fn hold(&mut self, held: fn(&Body) -> bool) {
        self.held = Some(held);
    }

    pub(super) fn stall(&mut self) {
        self.stalled = true;
    }

    pub(super) fn release(&mut self) {
        (self.held, self.stalled) = (None, false);
    }

    pub(super) fn len(&self) -> usize {
        self.urgent.len() + self.messages.len()
    }

    pub(super) fn clear(&mut self) {
        self.urgent.clear();
        self.messages.clear();
    }
}

/// Names of messages, for [`hold`](super::Pair::hold) and [`has_said`](super::Pair::has_said).
pub(crate) mod said {
    use twinsan::mirror::message::{Body, Control};

    macro_rules! names {
        ($($(#[$doc:meta])* $name:ident: $pattern:pat,)*) => {
            $($(#[$doc])* pub(crate) fn $name(body: &Body) -> bool {
                matches!(body, $pattern)
            })*
        };
    }

    names! {
        /// Everything.
        anything: _,
        /// The owner gives a write its place.
        write: Body::Write { .. },
        /// The partner has it.
        write_done: Body::WriteDone { .. },
        /// All up to here that you asked for is stable.
        flush_done: Body::Control(Control::FlushDone { .. }),
        /// A write for the owner to order.
        forward: Body::Forward { .. },
        /// A forwarded write that is not done.
        forward_refused: Body::Control(Control::ForwardRefused { .. }),
        /// Who I am.
        hello: Body::Control(Control::Hello(_)),
        /// I am there.
        probe_reply: Body::Control(Control::ProbeReply { .. }),
        /// All up to here is stable.
        stable: Body::Control(Control::Stable { .. }),
        /// These areas are equal.
        cool: Body::Control(Control::Cool { .. }),
        /// What have you here?
        read_ask: Body::Control(Control::ReadAsk { .. }),
        /// Where may you differ?
        sets_ask: Body::Control(Control::SetsAsk { .. }),
        /// You are behind; this is the table.
        be_target: Body::Control(Control::BeTarget { .. }),
        /// A copy of a region, or a guest's new write for a target.
        copy: Body::Copy { .. },
        /// The copies are stable.
        copy_stable: Body::CopyStable { .. },
        /// Write down that we are both members.
        join: Body::Control(Control::Join { .. }),
        /// Written.
        joined: Body::Control(Control::Joined { .. }),
        /// Go on as a pair.
        go: Body::Control(Control::Go { .. }),
        /// I want to stop.
        stop_ask: Body::Control(Control::StopAsk { .. }),
        /// All is stable here.
        stop_ready: Body::Control(Control::StopReady { .. }),
        /// You go on.
        handed_over: Body::Control(Control::HandedOver { .. }),
        /// Write this change of a volume down.
        volume_change: Body::Control(Control::VolumeChange { .. }),
        /// Written.
        volume_changed: Body::Control(Control::VolumeChanged { .. }),
        /// Make these volumes of those.
        clones_take: Body::Control(Control::ClonesTake { .. }),
        /// Written.
        clones_taken: Body::Control(Control::ClonesTaken { .. }),
        /// Both have it.
        volume_shown: Body::Control(Control::VolumeShown { .. }),
    }
}
