//! Text requests (RFC 7143 11.10): discovery, and keys negotiated in the full-feature phase.
//!
//! Invariant: no answer is made for an initiator that leaves too much unread, so that short requests, very many of which
//! come in one receive, do not make very many long answers.

use std::net::SocketAddr;

use crate::pdu::{Header, NO_TAG, Response, reject, text};

use super::keys::Answer;
use super::{Connection, Phase};

/// Text that one request may bring in all its PDUs.
const TEXT_BYTES_MAX: usize = 8192;
const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
/// The tag of the one exchange that may be in progress.
const EXCHANGE_TAG: u32 = 1;

/// A text exchange in progress.
#[derive(Default)]
pub(super) struct Text {
    /// The initiator has been given the tag, and may go on with it.
    open: bool,
    request: Vec<u8>,
    /// What is left of the answer.
    answer: Vec<u8>,
}

impl Text {
    pub(super) fn bytes(&self) -> usize {
        self.request.capacity() + self.answer.capacity()
    }
}

impl Connection {
    pub(super) fn take_text(&mut self, header: &Header, data: &[u8]) {
        if self.is_clogged() {
            self.text = Text::default();
            return self.send_reject(reject::LONG_OPERATION, header);
        }
        let going_on = header.ttt() != NO_TAG;
        let both = header.flags() & (FINAL | CONTINUE) == FINAL | CONTINUE;
        if both || (going_on && !(self.text.open && header.ttt() == EXCHANGE_TAG)) {
            self.text = Text::default();
            return self.send_reject(reject::INVALID_FIELD, header);
        }
        if !going_on {
            self.text = Text::default();
        }
        let text = &mut self.text;
        if text.answer.is_empty() {
            if text.request.len() + data.len() > TEXT_BYTES_MAX {
                self.text = Text::default();
                return self.send_reject(reject::INVALID_FIELD, header);
            }
            text.request.extend_from_slice(data);
            if header.flags() & CONTINUE != 0 {
                return self.send_text(header, 0, &[]);
            }
            let request = core::mem::take(&mut text.request);
            match self.answer_text(&request) {
                Ok(answer) => self.text.answer = answer,
                Err(text::Malformed) => {
                    self.text = Text::default();
                    return self.send_reject(reject::INVALID_FIELD, header);
                }
            }
        }
        self.send_answer_text(header);
    }

    /// As much of the answer as fits a PDU. It is the last one only if the initiator has said that it is done as well
    /// (RFC 7143 11.11.1).
    fn send_answer_text(&mut self, header: &Header) {
        let mut answer = core::mem::take(&mut self.text.answer);
        let length = answer.len().min(self.params.send_bytes_max as usize);
        let rest = answer.split_off(length);
        let flags = match (rest.is_empty(), header.is_final()) {
            (false, _) => CONTINUE,
            (true, true) => FINAL,
            (true, false) => 0,
        };
        self.text.answer = rest;
        self.send_text(header, flags, &answer);
    }

    fn send_text(&mut self, header: &Header, flags: u8, data: &[u8]) {
        self.text.open = flags & FINAL == 0;
        let ttt = if self.text.open { EXCHANGE_TAG } else { NO_TAG };
        self.send(Response::Text { itt: header.itt(), ttt, flags, lun: header.lun() }, data);
    }

    fn answer_text(&mut self, request: &[u8]) -> Result<Vec<u8>, text::Malformed> {
        let discovery = matches!(self.phase, Phase::Full { discovery: true });
        let (mut answer, mut targets) = (Vec::new(), None);
        for pair in text::pairs(request) {
            let (key, value) = pair?;
            match key {
                // Once in a request: the targets may be many (RFC 7143 6.2 has no key twice).
                "SendTargets" if targets.is_some() => return Err(text::Malformed),
                "SendTargets" if value == "All" && !discovery => text::put(&mut answer, key, "Reject"),
                "SendTargets" => targets = Some(self.send_targets(value, discovery)),
                // The one operational key that may change now (RFC 7143 13.12).
                "MaxRecvDataSegmentLength" => {
                    if self.params.offer(key, value, false) != Answer::Silent {
                        text::put(&mut answer, key, "Reject");
                    }
                }
                _ => text::put(&mut answer, key, "NotUnderstood"),
            }
            if answer.len() > TEXT_BYTES_MAX {
                return Err(text::Malformed);
            }
        }
        answer.extend(targets.unwrap_or_default());
        Ok(answer)
    }

    /// The targets that this initiator may see, with both nodes' portals (RFC 7143 appendix C). A session of one target
    /// is told of no other.
    fn send_targets(&self, wanted: &str, discovery: bool) -> Vec<u8> {
        let mut answer = Vec::new();
        for (site, name) in self.target.config.names.iter().enumerate() {
            let named = wanted.eq_ignore_ascii_case(name)
                || if discovery { wanted == "All" } else { wanted.is_empty() };
            let open = discovery || site == self.site;
            if named && open && self.is_trusted() && self.target.admits(&self.initiator, site) {
                self.target_lines(name, &mut answer);
            }
        }
        answer
    }

    fn target_lines(&self, name: &str, answer: &mut Vec<u8>) {
        let config = &self.target.config;
        text::put(answer, "TargetName", name);
        for portal in self.target.bound.lock().iter() {
            portal_line(answer, self.reachable(*portal), config.portal_group);
        }
        for portal in &config.partner_portals {
            portal_line(answer, *portal, config.partner_portal_group);
        }
    }

    /// A portal bound to any address is reached as the initiator just did.
    fn reachable(&self, portal: SocketAddr) -> SocketAddr {
        let ip = if portal.ip().is_unspecified() { self.ends.local.ip() } else { portal.ip() };
        SocketAddr::new(ip, portal.port())
    }
}

fn portal_line(answer: &mut Vec<u8>, portal: SocketAddr, group: u16) {
    text::put(answer, "TargetAddress", &format!("{portal},{group}"));
}
