//! What a connection may hold for its initiator, and what it does when that is not enough.
//!
//! Three kinds of data: what came unasked with commands (`parked`), what commands have been given room for
//! (`reserved`), and what waits to be sent. A command that needs more room than there is waits for its turn; one that
//! brings data unasked when there is too much of it, or when the whole server holds too much, is answered TASK SET
//! FULL, which hosts take as "later, and less at once". Answers to pings and texts are no command's data: who leaves them
//! unread is not listened to. That is looked at between receives; in one there is room for very many requests whose answers
//! are far longer than they, and while too much waits those are turned away: texts and what is generated.
//!
//! Invariants: `parked` and `reserved` are the sums over all tasks; tasks with room go on without waiting for anyone,
//! so those that wait are woken in the end.

use crate::pdu::{Residual, Response};
use crate::scsi::{Plan, Work, code};

use super::tasks::{Into, Task};
use super::{Closing, Connection, Phase};

/// Data that commands have been given room for, in bytes. One command may exceed it alone.
const RESERVED_BYTES_MAX: usize = 32 << 20;
/// Data that came unasked, beyond which no more is let in, in bytes.
const PARKED_BYTES_MAX: usize = 16 << 20;
/// Unsent bytes beyond which nothing more is received, and in a login.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
const LOGIN_OUTPUT_BYTES_MAX: usize = 1024;
/// Generated answers that are given however much waits, in bytes: not much longer than a status.
const SMALL_ANSWER_BYTES_MAX: usize = 256;

impl Connection {
    /// Lets the data of a new task in, of which up to `unasked` bytes come by themselves, or turns the task away.
    pub(super) fn admit(&mut self, task: &mut Task, unasked: u32) {
        let generated = if let Plan::Answer(bytes) = &task.plan { bytes.len() } else { 0 };
        if generated.min(task.expected as usize) > SMALL_ANSWER_BYTES_MAX && self.is_clogged() {
            task.plan = Plan::Full;
            return;
        }
        let fetches = matches!(task.plan, Plan::Fetch { .. }) || plan_needs(&task.plan) > 0;
        if task.flow.wanted == 0 && !fetches {
            return;
        }
        let parked = self.parked + unasked as usize;
        if parked > PARKED_BYTES_MAX || !self.target.budget.admits(self.memory_bytes()) {
            task.plan = Plan::Full;
            task.flow.wanted = 0;
            task.flow.into = Into::Nowhere;
            return;
        }
        self.parked = parked;
        task.parked = unasked as usize;
    }

    /// Turns a task away: the initiator tries again, with fewer at once.
    pub(super) fn turn_away(&mut self, slot: u16) {
        let Some(task) = self.release(slot) else { return };
        let residual = Residual::between(task.expected, 0);
        let status = code::TASK_SET_FULL;
        self.send(Response::Scsi { itt: task.itt, status, residual, data_in_pdus: 0 }, &[]);
        self.wake_waiting();
    }

    /// Runs `work`, when there is room for what it reads on the way.
    pub(super) fn run_with_room(&mut self, slot: u16, work: Work) {
        match (work.needs(), self.tasks.get_mut(slot)) {
            (0, _) => self.run(slot, work),
            (needs, Some(task)) => {
                task.work = work;
                self.when_room(slot, needs);
            }
            (_, None) => {}
        }
    }

    /// Goes on when `bytes` fit into the connection's memory.
    pub(super) fn when_room(&mut self, slot: u16, bytes: usize) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        task.needs = bytes;
        let has_it = task.reserved >= bytes;
        let full = !self.waiting.is_empty() || !self.has_room(bytes);
        if full && !has_it {
            self.waiting.push_back(slot);
            return;
        }
        self.with_room(slot);
    }

    fn has_room(&self, bytes: usize) -> bool {
        let used = self.reserved + self.output.queued();
        used == 0 || used + bytes <= RESERVED_BYTES_MAX
    }

    fn with_room(&mut self, slot: u16) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        self.parked -= core::mem::take(&mut task.parked);
        self.reserved += task.needs.saturating_sub(task.reserved);
        task.reserved = task.reserved.max(task.needs);
        if task.flow.came < task.flow.wanted {
            self.ask_for_data(slot);
        } else {
            let work = core::mem::replace(&mut task.work, Work::Done);
            self.run(slot, work);
        }
    }

    /// Lets waiting tasks go on, first come first served.
    pub(super) fn wake_waiting(&mut self) {
        while let Some(slot) = self.waiting.front().copied() {
            let needs = self.tasks.get(slot).map(|task| task.needs);
            if needs.is_some_and(|needs| !self.may_send() || !self.has_room(needs)) {
                return;
            }
            self.waiting.pop_front();
            self.with_room(slot);
        }
    }

    /// Forgets a task and what it holds.
    pub(super) fn release(&mut self, slot: u16) -> Option<Task> {
        let task = self.tasks.remove(slot)?;
        self.forget_copy(&task);
        self.reserved -= task.reserved;
        self.parked -= task.parked;
        Some(task)
    }

    /// Does the initiator take what is sent to it?
    fn may_send(&self) -> bool {
        self.output.queued() <= OUTPUT_BYTES_MAX
    }

    /// Does so much wait to be sent that nothing long is to be added?
    pub(super) fn is_clogged(&self) -> bool {
        self.output.queued() >= OUTPUT_BYTES_MAX
    }

    /// May more be received?
    pub(crate) fn may_receive(&self) -> bool {
        let most = if self.is_logging_in() { LOGIN_OUTPUT_BYTES_MAX } else { OUTPUT_BYTES_MAX };
        self.closing == Closing::No && self.output.queued() < most && !self.choked
    }

    /// An initiator that does not take its answers is not listened to while the server holds too much. It is again when
    /// it takes some: [`sent`](Self::sent).
    pub(super) fn unchoke(&mut self) {
        self.choked &= !self.target.budget.admits(self.output.queued());
    }

    /// Bytes that this connection holds or has let commands reserve, without its fixed part.
    pub(crate) fn memory_bytes(&self) -> usize {
        let login = if let Phase::Login(login) = &self.phase { login.bytes() } else { 0 };
        let buffers = self.gathered.capacity() + self.text.bytes() + login;
        self.reserved + self.parked + self.output.queued() + buffers
    }

    /// Counts what this connection holds among what the server does. To be called when it has been served.
    pub(crate) fn account(&mut self) {
        let now = self.memory_bytes();
        if now != self.accounted {
            self.target.budget.change(self.accounted, now);
            self.accounted = now;
        }
        self.choked |= !self.target.budget.admits(self.output.queued());
    }
}

fn plan_needs(plan: &Plan) -> usize {
    if let Plan::Run(work) = plan { work.needs() } else { 0 }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.target.budget.change(self.accounted, 0);
    }
}
