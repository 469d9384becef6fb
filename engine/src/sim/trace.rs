//! A running hash of everything that happens, and, if asked for, a readable timeline of it.
//!
//! The hash covers every event and action with its time, so that two runs with the same hash took the same
//! way. The timeline holds what a person needs to follow the story.

use core::fmt::{self, Debug, Write};
use std::collections::VecDeque;

use super::rng::mix;
use crate::arbiter::{Ask, Register};
use crate::block::{Block, Payload};
use crate::guest::{Command, Sectors};
use crate::ids::NodeName;
use crate::io::{DiskOp, DiskResult};
use crate::mirror::message::{Body, Control, Message};
use crate::node::event::{Action, Event};
use crate::time::Instant;

/// How much the timeline tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// Faults, phases, links, the arbiter, control messages.
    Story,
    /// Guest requests too.
    Guests,
    /// Everything.
    All,
}

/// The hash and the timeline.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    detail: Detail,
    lines: Vec<String>,
    /// The last few texts: what is said again and again is left out of a story.
    recent: VecDeque<String>,
    scratch: Vec<u8>,
}

impl Trace {
    /// An empty trace.
    pub fn new(detail: Detail) -> Trace {
        Trace { detail, ..Trace::default() }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The timeline so far.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The timeline.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }

    /// Adds a number to the hash.
    pub fn number(&mut self, number: u64) {
        self.hash = mix(self.hash ^ number);
    }

    /// Adds a line, if the timeline tells that much.
    pub fn line(&mut self, detail: Detail, now: Instant, who: &str, text: impl FnOnce() -> String) {
        if detail > self.detail {
            return;
        }
        let text = format!("{who:<4} {}", text());
        if self.detail < Detail::All && self.recent.contains(&text) {
            return;
        }
        let micros = now.as_nanos() / 1000;
        self.lines.push(format!("{:>6}.{:06} {text}", micros / 1_000_000, micros % 1_000_000));
        self.recent.push_back(text);
        if self.recent.len() > 12 {
            self.recent.pop_front();
        }
    }

    /// An event reaches a node.
    pub fn event(&mut self, now: Instant, node: NodeName, event: &Event) {
        self.number(now.as_nanos() << 1 | node as u64);
        match event {
            Event::Guest { id, volume, command } => {
                self.number(id.0 ^ u64::from(volume.0) << 48);
                self.command(command);
            }
            Event::Abort { id } => self.number(id.0 ^ 2 << 60),
            Event::Disk { id, result } => {
                self.number(id.0 ^ 3 << 60);
                self.result(result);
            }
            Event::LinkUp { link } => self.number(link ^ 4 << 60),
            Event::LinkDown { link } => self.number(link ^ 5 << 60),
            Event::Message { link, message } => {
                self.number(link ^ 6 << 60);
                self.message(message);
            }
            Event::Arbiter { id, result } => {
                self.number(id ^ 7 << 60);
                self.value(result);
            }
            Event::Stop => self.number(8 << 60),
            Event::Pool { id, ask } => {
                self.number(id ^ 11 << 60);
                self.value(ask);
            }
            Event::Volume { id, volume, what } => {
                self.number(id ^ 12 << 60 ^ u64::from(volume.0) << 32);
                self.value(what);
            }
            Event::Clones { id, clones } => {
                self.number(id ^ 13 << 60);
                self.value(clones);
            }
            Event::Tick => self.number(9 << 60),
            Event::Scrub { start } => self.number(10 << 60 ^ u64::from(*start)),
        }
        let detail = match event {
            Event::Guest { .. } | Event::Abort { .. } => Detail::Guests,
            Event::Message { message, .. } => detail_of(message),
            Event::Disk { result: Err(_), .. } => Detail::Story,
            Event::Disk { .. } | Event::Tick => Detail::All,
            _ => Detail::Story,
        };
        self.line(detail, now, &format!("{node}  <"), || describe_event(event));
    }

    /// A node wants something done.
    pub fn action(&mut self, now: Instant, node: NodeName, action: &Action) {
        match action {
            Action::Disk(request) => {
                self.number(request.id.0 ^ u64::from(request.disk.0) << 48);
                match &request.op {
                    DiskOp::Read { offset, blocks } => self.number(offset ^ u64::from(*blocks)),
                    DiskOp::Write { offset, data } => {
                        self.number(*offset);
                        self.payload(data);
                    }
                    DiskOp::Flush => self.number(1),
                }
            }
            Action::Send { link, message } => {
                self.number(*link);
                self.message(message);
            }
            Action::Disconnect { link } => self.number(link ^ 1 << 60),
            Action::Arbiter { id, ask } => {
                self.number(id ^ 2 << 60);
                self.value(ask);
            }
            Action::Complete { id, result } => {
                self.number(id.0 ^ 3 << 60);
                match result {
                    Ok(data) => self.payload(data),
                    Err(error) => self.value(error),
                }
            }
            Action::Aborted { id } => self.number(id.0 ^ 4 << 60),
            Action::Notice(notice) => {
                self.number(5 << 60);
                self.value(notice);
            }
            Action::PoolAnswer { id, result } => {
                self.number(id ^ 6 << 60);
                self.value(result);
            }
            Action::Release { disk } => self.number(u64::from(disk.0) ^ 7 << 60),
            Action::VolumeAnswer { id, result } => {
                self.number(id ^ 8 << 60);
                self.value(result);
            }
            Action::VolumeItems { volume, items } => {
                self.number(u64::from(volume.0) << 48 ^ 9 << 60);
                self.value(items);
            }
            Action::VolumeIs { volume, uuid, mirrored, read_only } => {
                self.number(u64::from(volume.0) << 48 ^ 10 << 60);
                self.value(&(uuid, mirrored, read_only));
            }
            Action::VolumeSize { volume, sectors } => {
                self.number(u64::from(volume.0) << 48 ^ sectors.unwrap_or(0));
            }
        }
        let detail = match action {
            Action::Disk(_) => Detail::All,
            Action::Send { message, .. } => detail_of(message).max(Detail::All),
            Action::Complete { .. } | Action::Aborted { .. } => Detail::Guests,
            _ => Detail::Story,
        };
        self.line(detail, now, &format!("{node}  >"), || describe_action(action));
    }

    /// Adds all of a value that is rare, as it is told.
    fn value(&mut self, value: &impl Debug) {
        let mut text = Text(self.hash);
        write!(text, "{value:?}").expect("a hash takes all");
        self.number(text.0);
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Read { at } => self.sectors(at, 1),
            Command::Write { at, data, fua } => {
                self.sectors(at, 2 + u64::from(*fua));
                self.payload(data);
            }
            Command::Zero { at, fua } => self.sectors(at, 4 + u64::from(*fua)),
            Command::CompareAndWrite { at, compare, data, fua } => {
                self.sectors(at, 7 + u64::from(*fua));
                self.payload(compare);
                self.payload(data);
            }
            Command::OrWrite { at, data, fua } => {
                self.sectors(at, 9 + u64::from(*fua));
                self.payload(data);
            }
            Command::Flush => self.number(6),
        }
    }

    fn sectors(&mut self, at: &Sectors, kind: u64) {
        self.number(at.start << 16 ^ at.count ^ kind << 60);
    }

    fn payload(&mut self, data: &Payload) {
        for block in data {
            match block {
                Block::Zero => self.number(0),
                Block::Data(page) => self.number(u64::from(page.crc())),
            }
        }
    }

    fn result(&mut self, result: &DiskResult) {
        match result {
            Ok(data) => self.payload(data),
            Err(error) => self.number(*error as u64 + 1),
        }
    }

    fn message(&mut self, message: &Message) {
        match &message.body {
            Body::Write { epoch, volume, order, first, blocks, .. } => {
                self.number(epoch.0 ^ u64::from(volume.0) << 48 ^ order << 20);
                self.number(first ^ u64::from(*blocks) << 48);
            }
            Body::WriteDone { order, stored, .. } => self.number(order << 1 | u64::from(*stored)),
            Body::Forward { id, at, manner, .. } => {
                self.number(*id);
                self.sectors(at, 1 + *manner as u64);
            }
            Body::Copy { tag, first, blocks, .. } => {
                self.number(tag << 32 ^ first ^ u64::from(*blocks) << 48)
            }
            Body::CopyStable { tag, .. } => self.number(*tag),
            Body::Control(control) => self.control(control),
        }
        self.payload(&message.data);
    }

    fn control(&mut self, control: &Control) {
        self.scratch.clear();
        let bytes = postcard::to_extend(control, core::mem::take(&mut self.scratch));
        self.scratch = bytes.expect("control messages have plain values");
        let hash = fold(self.hash, &self.scratch);
        self.number(hash);
    }
}

/// FNV-1a, from this state on.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The hash of a text that is written piece by piece.
struct Text(u64);

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0 = fold(self.0, piece.as_bytes());
        Ok(())
    }
}

fn detail_of(message: &Message) -> Detail {
    match &message.body {
        _ if message.is_urgent() => Detail::All,
        Body::Control(Control::Stable { .. } | Control::FlushAsk { .. } | Control::FlushDone { .. }) => {
            Detail::All
        }
        Body::Control(Control::Cool { .. }) => Detail::Guests,
        Body::Control(_) => Detail::Story,
        Body::Copy { .. } | Body::CopyStable { .. } | Body::Write { .. } | Body::Forward { .. } => {
            Detail::Guests
        }
        Body::WriteDone { .. } => Detail::All,
    }
}

fn describe_message(message: &Message) -> String {
    match &message.body {
        Body::Control(Control::Hello(hello)) => format!(
            "hello: {:?}, epoch {}, {:?}{}{}{}, pair epoch {}, boot {:04x}",
            hello.phase,
            hello.epoch,
            hello.members,
            if hello.up_to_date { "" } else { ", behind" },
            if hello.complete { ", complete" } else { "" },
            if hello.ready { ", ready" } else { "" },
            hello.pair_epoch,
            hello.boot.0 & 0xffff
        ),
        Body::Control(control) => format!("{control:?}"),
        body => format!("{body:?} + {} blocks", message.data.len()),
    }
}

fn describe_register(register: Option<Register>) -> String {
    register.map_or("nothing".into(), |r| format!("({}, {:?}, by {})", r.epoch, r.members, r.by))
}

fn describe_command(command: &Command) -> String {
    match command {
        Command::Read { at } => format!("read {}+{}", at.start, at.count),
        Command::Write { at, fua, .. } => {
            format!("write{} {}+{}", if *fua { " fua" } else { "" }, at.start, at.count)
        }
        Command::Zero { at, .. } => format!("zero {}+{}", at.start, at.count),
        Command::CompareAndWrite { at, .. } => format!("compare and write {}+{}", at.start, at.count),
        Command::OrWrite { at, .. } => format!("or {}+{}", at.start, at.count),
        Command::Flush => "flush".into(),
    }
}

fn describe_event(event: &Event) -> String {
    match event {
        Event::Guest { id, volume, command } => {
            format!("request {id}: volume {volume} {}", describe_command(command))
        }
        Event::Message { link, message } => format!("[{link}] {}", describe_message(message)),
        Event::Disk { id, result: Ok(data) } => format!("disk io {} done, {} blocks", id.0, data.len()),
        Event::Arbiter { result: Ok(answer), .. } => {
            format!(
                "arbiter: {}, {}",
                if answer.swapped { "swapped" } else { "holds" },
                describe_register(answer.register)
            )
        }
        Event::Arbiter { result: Err(_), .. } => "arbiter: no answer".into(),
        other => format!("{other:?}"),
    }
}

fn describe_action(action: &Action) -> String {
    match action {
        Action::Disk(request) => match &request.op {
            DiskOp::Write { offset, data } => {
                format!(
                    "disk {} io {}: write {} blocks at {offset:#x}",
                    request.disk,
                    request.id.0,
                    data.len()
                )
            }
            op => format!("disk {} io {}: {op:?}", request.disk, request.id.0),
        },
        Action::Send { link, message } => format!("[{link}] send {}", describe_message(message)),
        Action::Complete { id, result: Ok(data) } => format!("request {id} done, {} blocks", data.len()),
        Action::Complete { id, result: Err(error) } => format!("request {id} failed: {error:?}"),
        Action::Arbiter { ask: Ask::Read, .. } => "asks the arbiter".into(),
        Action::Arbiter { ask: Ask::Swap { expect, new }, .. } => {
            format!(
                "asks the arbiter to swap {} to {}",
                describe_register(*expect),
                describe_register(Some(*new))
            )
        }
        Action::Notice(notice) => format!("*** {notice:?}"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DiskId, Uuid};
    use crate::node::event::{Notice, PoolAsk};
    use crate::pool::DiskRefusal;

    fn of_event(event: Event) -> u64 {
        let mut trace = Trace::new(Detail::None);
        trace.event(Instant::ZERO, NodeName::A, &event);
        trace.hash()
    }

    fn of_action(action: Action) -> u64 {
        let mut trace = Trace::new(Detail::None);
        trace.action(Instant::ZERO, NodeName::A, &action);
        trace.hash()
    }

    #[test]
    fn what_differs_has_another_hash() {
        let answer = |id, result| of_action(Action::PoolAnswer { id, result });
        assert_ne!(answer(2, Err(DiskRefusal::Busy)), answer(3, Ok(())));
        assert_ne!(answer(2, Err(DiskRefusal::Busy)), answer(2, Err(DiskRefusal::TooMany)));
        let disk = Uuid(1);
        let asked = |ask| of_event(Event::Pool { id: 1, ask });
        assert_ne!(asked(PoolAsk::Remove { disk }), asked(PoolAsk::Keep { disk }));
        assert_ne!(
            of_event(Event::Pool { id: 1, ask: PoolAsk::Keep { disk } }),
            of_event(Event::Scrub { start: true })
        );
        let told = |notice| of_action(Action::Notice(notice));
        assert_ne!(told(Notice::DiskNotOurs(DiskId(1))), told(Notice::DiskNotOurs(DiskId(2))));
        assert_ne!(told(Notice::Lost), told(Notice::Stopped));
    }
}
