//! One connection, which is one session: bytes in, bytes out, requests of volumes out (RFC 7143).
//!
//! Invariants
//! - Nothing here reads a clock, waits or touches a socket. Whoever owns the socket feeds [`Connection::receive`],
//!   sends [`Connection::output`], hands back completions, and closes when [`Connection::is_over`].
//! - A task answers once, and not at all after it was aborted.
//! - At most [`WINDOW`] commands (and [`IMMEDIATE_MAX`] immediate ones) are in progress, holding no more than `memory`
//!   lets them.
//! - A session that ends is forgotten only when its last task is dead.

mod command;
mod copies;
mod data;
pub(crate) mod drive;
mod ending;
pub(crate) mod exclusive;
mod framer;
mod keys;
mod landing;
mod login;
mod management;
mod memory;
mod output;
mod reservations;
mod security;
mod tasks;
mod text;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use twinsan::block::{BLOCK_BYTES, PageMut};
use twinsan::guest::Sink;

use crate::pdu::{BHS_BYTES, DIGEST_BYTES, Header, NO_TAG, Numbers, Response, opcode, reject};
use crate::scsi::{Nexus, Unit};
use crate::target::{Address, Notice, Target, Ticket};

use framer::{Framer, Place, Stage};
pub(crate) use keys::Params;
pub(crate) use landing::Slices;
use login::Login;
use output::{Digests, Output};
use tasks::{Into, Tasks};

/// Commands in progress that the initiator is offered.
pub(crate) const WINDOW: u32 = 128;
/// Immediate commands in progress beside them.
const IMMEDIATE_MAX: usize = 16;
/// Data that is gathered in the small buffer: login, text and ping.
const GATHER_BYTES_MAX: usize = 8192;
/// When at least so much data of a PDU is still to come, it is received straight into its blocks.
const DIRECT_BYTES_MIN: usize = 4096;
/// After a data segment of this length the next one is expected to be long too.
const LONG_BYTES_MIN: usize = 16 << 10;

/// The addresses of a connection's ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// What a receive will probably bring, over and over.
pub(crate) struct Forecast {
    /// Bytes before the first block.
    pub(crate) before: usize,
    /// Bytes between the blocks of one PDU and those of the next.
    pub(crate) between: usize,
    /// Blocks of a PDU.
    pub(crate) blocks: usize,
}

enum Phase {
    Login(Box<Login>),
    /// The login is done but for the end of an earlier session.
    Entering,
    Full {
        discovery: bool,
    },
    /// The initiator has logged out; its last tasks are dying.
    Leaving,
    Ended,
}

/// Is the connection to be closed?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Closing {
    No,
    /// When everything queued has been sent.
    AfterSend,
    Now,
}

/// What to do when the last copy of a ticket is gone.
enum Awaited {
    /// Send the last login response.
    Enter { response: Response, reply: Vec<u8> },
    /// Answer a logout, or a function that ends many tasks.
    Answer { response: Response, closing: Closing },
    /// Conclude the PERSISTENT RESERVE OUT in this slot.
    Fenced { slot: u16 },
    /// Nothing: the session waits for its end.
    GivenUp,
    /// Answer ABORT TASK. One for each task that is dying, at most: no other can name it.
    Aborted { response: Response },
}

/// What the PDU in hand is for, once its header has been understood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Current {
    Ignored,
    Request,
    Command(u16),
    DataOut(u16),
}

/// A connection.
pub(crate) struct Connection {
    target: Arc<Target>,
    address: Address,
    sink: Arc<dyn Sink>,
    ends: Ends,
    framer: Framer,
    gathered: Vec<u8>,
    current: Current,
    output: Output,
    digests: Digests,
    phase: Phase,
    closing: Closing,
    params: Params,
    stat_sn: u32,
    exp_cmd_sn: u32,
    cid: u16,
    initiator: String,
    isid: [u8; 6],
    /// It has proved who it is.
    proved: bool,
    /// The place of the session's target.
    site: usize,
    units: Vec<Unit>,
    tasks: Tasks,
    /// Bytes that tasks have reserved, and that came with them unasked.
    reserved: usize,
    parked: usize,
    /// What the server has last counted for this connection.
    accounted: usize,
    /// Tasks that wait for memory, in order.
    waiting: VecDeque<u16>,
    awaited: Vec<(u32, Awaited)>,
    await_last: u32,
    /// Of sessions that wait for the end of this one.
    held: Vec<Arc<Ticket>>,
    /// Of those who ended tasks while an earlier session of this nexus, whose tasks they may be, is dying.
    early: Vec<Arc<Ticket>>,
    text: text::Text,
    /// The last data segment was long: the next one probably is.
    long_data: bool,
    /// Whole blocks that the last PDU brought, if it was not long.
    blocks_a_pdu: usize,
    /// A ping of ours has no answer yet.
    pinged: bool,
    /// Something came since the last [`keep_alive`](Self::keep_alive).
    heard: bool,
    /// Too much of what is to be sent waits, here and in the whole server.
    choked: bool,
    /// It has been waiting to close since the last keep-alive.
    lingered: bool,
}

impl Connection {
    /// A connection that was accepted. `sink` is the mailbox of `address`.
    pub(crate) fn new(target: Arc<Target>, address: Address, sink: Arc<dyn Sink>, ends: Ends) -> Self {
        Connection {
            target,
            address,
            sink,
            ends,
            framer: Framer::new(),
            gathered: Vec::new(),
            current: Current::Ignored,
            output: Output::default(),
            digests: Digests::default(),
            phase: Phase::Login(Box::new(Login::new())),
            closing: Closing::No,
            params: Params::default(),
            stat_sn: 1,
            exp_cmd_sn: 0,
            cid: 0,
            initiator: String::new(),
            isid: [0; 6],
            proved: false,
            site: 0,
            units: Vec::new(),
            tasks: Tasks::default(),
            reserved: 0,
            parked: 0,
            accounted: 0,
            waiting: VecDeque::new(),
            awaited: Vec::new(),
            await_last: 0,
            held: Vec::new(),
            early: Vec::new(),
            text: text::Text::default(),
            long_data: false,
            blocks_a_pdu: 0,
            pinged: false,
            heard: false,
            choked: false,
            lingered: false,
        }
    }

    /// Takes bytes from the initiator.
    pub(crate) fn receive(&mut self, mut input: &[u8]) {
        self.heard |= !input.is_empty();
        while !input.is_empty() && self.closing == Closing::No {
            match self.framer.stage {
                Stage::Header => {
                    if self.framer.take_header(&mut input) {
                        self.header_here(&mut input);
                    }
                }
                Stage::Extra => self.header_here(&mut input),
                Stage::Data => self.take_data(&mut input),
                Stage::Tail => {
                    if self.framer.take_tail(&mut input) {
                        self.pdu_here();
                    }
                }
            }
        }
    }

    /// The basic header is here; the rest of it may be.
    fn header_here(&mut self, input: &mut &[u8]) {
        match self.framer.take_extra(input) {
            Ok(false) => return,
            Ok(true) => {}
            Err(framer::Mismatch) => return self.close(Closing::Now),
        }
        let header = self.framer.header();
        if header.data_bytes() > self.params.receive_bytes_max as usize {
            return self.protocol_error(reject::PROTOCOL);
        }
        self.begin(&header);
        if self.closing == Closing::No && self.framer.is_whole() {
            self.pdu_here();
        }
    }

    /// Decides by the header what the PDU is for and where its data goes.
    fn begin(&mut self, header: &Header) {
        let bytes = header.data_bytes();
        self.long_data = bytes >= LONG_BYTES_MIN;
        let blocks = if bytes.is_multiple_of(BLOCK_BYTES) { bytes / BLOCK_BYTES } else { 0 };
        self.blocks_a_pdu = if self.long_data { 0 } else { blocks };
        match (&self.phase, header.opcode()) {
            (Phase::Login(_), opcode::LOGIN) => self.gather(header),
            (Phase::Full { discovery: false }, opcode::SCSI_COMMAND) => self.begin_command(header),
            (Phase::Full { discovery: false }, opcode::DATA_OUT) => self.begin_data_out(header),
            (Phase::Full { .. }, _) => self.gather(header),
            // Data of tasks that are dying may be on its way; nothing new may begin (RFC 7143 11.14).
            (Phase::Leaving, _) => self.ignore(),
            _ => self.close(Closing::Now),
        }
    }

    fn gather(&mut self, header: &Header) {
        let length = header.data_bytes();
        if length > GATHER_BYTES_MAX {
            // Only a ping may be longer; its echo is cut (RFC 7143 11.18.3 lets the target limit it).
            if header.opcode() != opcode::NOP_OUT {
                return self.protocol_error(reject::PROTOCOL);
            }
        }
        if let Phase::Login(login) = &self.phase
            && (header.ahs_bytes() > 0 || !login.has_room(length))
        {
            return self.close(Closing::Now);
        }
        self.gathered.clear();
        self.gathered.reserve_exact(length.min(GATHER_BYTES_MAX));
        self.current = Current::Request;
        self.framer.expect_data(Place::Gather, length.min(GATHER_BYTES_MAX));
    }

    fn ignore(&mut self) {
        self.current = Current::Ignored;
        self.framer.expect_data(Place::Discard, 0);
    }

    fn take_data(&mut self, input: &mut &[u8]) {
        if self.framer.keep == 0 {
            self.framer.take_skipped(input);
        } else {
            let place = self.framer.place;
            let bytes = self.framer.take_kept(input);
            self.put(place, bytes);
        }
        if self.framer.is_whole() {
            self.pdu_here();
        }
    }

    fn put(&mut self, place: Place, bytes: &[u8]) {
        match place {
            Place::Discard => {}
            Place::Gather => self.gathered.extend_from_slice(bytes),
            Place::Task(slot) => match self.tasks.get_mut(slot).map(|task| &mut task.flow.into) {
                Some(Into::Blocks(landing)) => landing.put(&self.target.config.pages, bytes),
                Some(Into::List(_, list)) => list.extend_from_slice(bytes),
                Some(Into::Nowhere) | None => {}
            },
        }
    }

    /// Room for data that can be received straight into blocks, and how many bytes it is; 0 if there is none.
    pub(crate) fn direct<'a>(&'a mut self, slices: &mut Slices<'a>) -> usize {
        let keep = self.framer.keep;
        if self.framer.stage != Stage::Data || keep < DIRECT_BYTES_MIN || self.framer.data_digest {
            return 0;
        }
        let Place::Task(slot) = self.framer.place else { return 0 };
        let Some(task) = self.tasks.get_mut(slot) else { return 0 };
        let Into::Blocks(landing) = &mut task.flow.into else { return 0 };
        landing.room(&self.target.config.pages, keep, slices);
        keep
    }

    /// `bytes` bytes came into the room that [`direct`](Self::direct) gave.
    pub(crate) fn direct_filled(&mut self, bytes: usize) {
        let Place::Task(slot) = self.framer.place else { return };
        if bytes == 0 {
            return;
        }
        self.heard = true;
        if let Some(task) = self.tasks.get_mut(slot)
            && let Into::Blocks(landing) = &mut task.flow.into
        {
            landing.filled(bytes);
        }
        self.framer.kept(bytes);
        if self.framer.is_whole() {
            self.pdu_here();
        }
    }

    /// If the coming PDUs are likely to be commands that bring whole blocks: what lies before the first block, what
    /// between the last one of a PDU and the first of the next, and how many blocks a PDU brings.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        let digest = |on: bool| if on { DIGEST_BYTES } else { 0 };
        let before = BHS_BYTES + digest(self.framer.header_digest);
        let between = before + digest(self.framer.data_digest);
        let likely = self.blocks_a_pdu > 0 && self.framer.is_between();
        likely.then_some(Forecast { before, between, blocks: self.blocks_a_pdu })
    }

    /// Takes a page that was filled with the next bytes of the stream, if those are a whole block of data. If not,
    /// gives it back, and its bytes are to be [`receive`](Self::receive)d.
    pub(crate) fn adopt(&mut self, page: PageMut) -> Option<PageMut> {
        let Place::Task(slot) = self.framer.place else { return Some(page) };
        if self.framer.stage != Stage::Data || self.framer.keep < BLOCK_BYTES || self.closing != Closing::No {
            return Some(page);
        }
        let into = self.tasks.get_mut(slot).map(|task| &mut task.flow.into);
        let Some(Into::Blocks(landing)) = into else { return Some(page) };
        if !landing.at_block() {
            return Some(page);
        }
        self.heard = true;
        self.framer.kept_bytes(page.bytes());
        landing.adopt(page);
        if self.framer.is_whole() {
            self.pdu_here();
        }
        None
    }

    /// Is the next data segment likely to be long, so that it is better to receive only headers at first?
    pub(crate) fn expects_long_data(&self) -> bool {
        self.long_data && self.framer.stage == Stage::Header
    }

    /// A PDU is complete.
    fn pdu_here(&mut self) {
        let header = self.framer.header();
        let current = core::mem::replace(&mut self.current, Current::Ignored);
        let sound = self.framer.end().is_ok();
        if !sound {
            self.send_reject(reject::DATA_DIGEST, &header);
        }
        match current {
            Current::Ignored => {}
            Current::Command(slot) => self.command_here(slot, sound),
            Current::DataOut(slot) => self.data_out_here(slot, sound, header.is_final()),
            Current::Request if !sound => {}
            Current::Request => {
                let data = core::mem::take(&mut self.gathered);
                self.request_here(&header, &data);
                // What logins need is not kept: there may be very many that never end.
                if !self.is_logging_in() {
                    self.gathered = data;
                }
            }
        }
    }

    fn request_here(&mut self, header: &Header, data: &[u8]) {
        let Phase::Full { discovery } = self.phase else { return self.take_login(header, data) };
        let numbered = matches!(
            header.opcode(),
            opcode::NOP_OUT | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT
        );
        if numbered && !self.take_cmd_sn(header) {
            return;
        }
        match header.opcode() {
            opcode::NOP_OUT => self.take_nop_out(header, data),
            opcode::TEXT => self.take_text(header, data),
            opcode::LOGOUT => self.take_logout(header),
            opcode::TASK_MANAGEMENT if !discovery => self.take_task_management(header),
            opcode::LOGIN | opcode::TASK_MANAGEMENT | opcode::SCSI_COMMAND | opcode::DATA_OUT => {
                self.send_reject(reject::PROTOCOL, header);
            }
            _ => self.send_reject(reject::UNSUPPORTED, header),
        }
    }

    /// Takes a request's CmdSN. False if it is outside the window, and the request to be dropped
    /// (RFC 7143 4.2.2.1). A number that was skipped never comes: there is one connection, and it is ordered.
    fn take_cmd_sn(&mut self, header: &Header) -> bool {
        if header.is_immediate() {
            return true;
        }
        let ahead = header.cmd_sn().wrapping_sub(self.exp_cmd_sn);
        if ahead >= self.window() {
            return false;
        }
        self.exp_cmd_sn = header.cmd_sn().wrapping_add(1);
        true
    }

    /// Commands that the initiator may still send.
    fn window(&self) -> u32 {
        let numbered = (self.tasks.len() - self.tasks.immediate()) as u32;
        WINDOW.saturating_sub(numbered)
    }

    fn take_nop_out(&mut self, header: &Header, data: &[u8]) {
        if header.itt() == NO_TAG {
            self.pinged = false;
            return;
        }
        let length = data.len().min(self.params.send_bytes_max as usize);
        let response = Response::NopIn { lun: header.lun(), itt: header.itt(), ttt: NO_TAG };
        self.send(response, &data[..length]);
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.exp_cmd_sn.wrapping_add(self.window()).wrapping_sub(1),
        }
    }

    /// Queues a PDU with a little data.
    fn send(&mut self, response: Response, data: &[u8]) {
        let header = response.emit(self.numbers(), data.len());
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(response.counts()));
        self.output.push(&header, data, self.digests);
    }

    fn send_reject(&mut self, reason: u8, header: &Header) {
        self.send(Response::Reject { reason }, &header.0);
    }

    /// The stream cannot be trusted any more: says why, then closes.
    fn protocol_error(&mut self, reason: u8) {
        if matches!(self.phase, Phase::Full { .. }) {
            let header = self.framer.header();
            self.send_reject(reason, &header);
            self.close(Closing::AfterSend);
        } else {
            self.close(Closing::Now);
        }
    }

    fn close(&mut self, closing: Closing) {
        self.closing = self.closing.max(closing);
    }

    /// Waits for what `awaited` says until all copies of the ticket are gone.
    fn expect(&mut self, awaited: Awaited) -> Arc<Ticket> {
        self.await_last = self.await_last.wrapping_add(1).max(1);
        self.awaited.push((self.await_last, awaited));
        Ticket::new(&self.address, self.await_last)
    }

    /// Takes word from another connection, or from an own ticket.
    pub(crate) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Terminate(ticket) => {
                self.held.push(ticket);
                self.close(Closing::Now);
            }
            Notice::Clear(_, ticket) | Notice::CutOff(_, ticket) if matches!(self.phase, Phase::Entering) => {
                self.early.push(ticket);
            }
            Notice::Clear(clear, ticket) => self.clear(&clear, &ticket),
            Notice::CutOff(volume, ticket) => self.cut_off(volume, &ticket),
            Notice::Kept(slot, result) => self.kept(slot, result),
            Notice::Remap => self.remap(),
            Notice::TicketGone(number) => self.ticket_gone(number),
        }
    }

    fn ticket_gone(&mut self, number: u32) {
        let Some(place) = self.awaited.iter().position(|(awaited, _)| *awaited == number) else { return };
        let (_, awaited) = self.awaited.swap_remove(place);
        if matches!(awaited, Awaited::Enter { .. }) {
            self.early.clear();
        }
        match awaited {
            Awaited::GivenUp => {}
            Awaited::Fenced { slot } => self.fenced(slot),
            _ if matches!(self.phase, Phase::Ended) => {}
            Awaited::Enter { .. } if !self.is_trusted() => self.close(Closing::Now),
            Awaited::Enter { response, reply } => {
                // As late as possible: mappings may have changed while an old session died.
                self.units = self.target.units(&self.nexus());
                self.disregard_old();
                self.begin_session(response, &reply, false);
            }
            Awaited::Aborted { response } => self.send(response, &[]),
            Awaited::Answer { response, closing } => {
                self.send(response, &[]);
                self.close(closing);
            }
        }
    }

    /// Who this is to reservations.
    fn nexus(&self) -> Arc<Nexus> {
        self.target.nexus(&self.initiator, self.isid, self.site)
    }

    /// Bytes to send.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Some output has gone: commands that wait for memory may go on.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.heard |= bytes > 0;
        self.output.sent(bytes);
        self.unchoke();
        self.wake_waiting();
    }

    /// Is the login not yet done?
    pub(crate) fn is_logging_in(&self) -> bool {
        matches!(self.phase, Phase::Login(_) | Phase::Entering)
    }
}
