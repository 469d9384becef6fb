//! Text requests (RFC 7143 11.10): discovery, and keys negotiated in the full-feature phase.

use std::net::SocketAddr;

use crate::pdu::{Header, NO_TAG, Response, reject, text};

use super::keys::Answer;
use super::{Connection, Phase};

/// Text that one request may bring in all its PDUs.
const TEXT_BYTES_MAX: usize = 8192;
const CONTINUE: u8 = 0x40;
/// The tag of the one answer that may be in progress.
const ANSWER_TAG: u32 = 1;

/// A text exchange in progress.
#[derive(Default)]
pub(super) struct Text {
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
        if header.ttt() == NO_TAG {
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
                let (itt, lun) = (header.itt(), header.lun());
                return self.send(Response::Text { itt, ttt: ANSWER_TAG, last: false, lun }, &[]);
            }
            let request = core::mem::take(&mut text.request);
            match self.answer_text(&request) {
                Ok(answer) => self.text.answer = answer,
                Err(text::Malformed) => return self.send_reject(reject::INVALID_FIELD, header),
            }
        }
        self.send_text(header);
    }

    /// As much of the answer as fits a PDU.
    fn send_text(&mut self, header: &Header) {
        let mut answer = core::mem::take(&mut self.text.answer);
        let length = answer.len().min(self.params.send_bytes_max as usize);
        let rest = answer.split_off(length);
        let last = rest.is_empty();
        let ttt = if last { NO_TAG } else { ANSWER_TAG };
        self.text.answer = rest;
        self.send(Response::Text { itt: header.itt(), ttt, last, lun: header.lun() }, &answer);
    }

    fn answer_text(&mut self, request: &[u8]) -> Result<Vec<u8>, text::Malformed> {
        let discovery = matches!(self.phase, Phase::Full { discovery: true });
        let mut answer = Vec::new();
        for pair in text::pairs(request) {
            let (key, value) = pair?;
            match key {
                "SendTargets" if value == "All" && !discovery => text::put(&mut answer, key, "Reject"),
                "SendTargets" => self.send_targets(value, discovery, &mut answer),
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
        Ok(answer)
    }

    /// The targets that this initiator may see, with both nodes' portals (RFC 7143 appendix C). A session of one target
    /// is told of no other.
    fn send_targets(&self, wanted: &str, discovery: bool, answer: &mut Vec<u8>) {
        for (site, name) in self.target.config.names.iter().enumerate() {
            let named = wanted.eq_ignore_ascii_case(name)
                || if discovery { wanted == "All" } else { wanted.is_empty() };
            let open = discovery || site == self.site;
            if named && open && self.is_trusted() && self.target.admits(&self.initiator, site) {
                self.target_lines(name, answer);
            }
        }
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
