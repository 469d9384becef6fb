//! The login phase (RFC 7143 section 6): security and operational stages in any number of PDUs.
//!
//! Invariants: an initiator that has to prove who it is learns of no target before it has (`security`); the whole text of a login is at most [`TEXT_BYTES_MAX`]; no session exists before the initiator
//! has a name and, unless it only discovers, this target's name; a connection whose login takes longer than
//! the login timer is closed by whoever owns the socket.

use crate::access::NAME_BYTES_MAX;
use crate::pdu::{Header, Response, text};
use crate::refusals::RefusalReason;
use crate::target::{Crowded, Nexus};

use super::keys::{Answer, Params, RECEIVE_BYTES_MAX};
use super::security::Security;
use super::{Awaited, Closing, Connection, Phase};

/// Text of one login, all PDUs together.
const TEXT_BYTES_MAX: usize = 8192;
/// Keys that this target does not know before it gives up (RFC 7143 leaves the number open).
const UNKNOWN_KEYS_MAX: u32 = 32;
/// PDUs of one login.
const PDUS_MAX: u32 = 64;
/// Keys of one login.
const KEYS_MAX: usize = 64;

pub(super) const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Login status: class and detail (RFC 7143 11.13.5).
pub(super) mod status {
    pub(crate) const SUCCESS: u16 = 0x0000;
    pub(crate) const INITIATOR_ERROR: u16 = 0x0200;
    pub(crate) const AUTHENTICATION: u16 = 0x0201;
    pub(crate) const NOT_FOUND: u16 = 0x0203;
    pub(crate) const VERSION: u16 = 0x0205;
    pub(crate) const TOO_MANY_CONNECTIONS: u16 = 0x0206;
    pub(crate) const MISSING_PARAMETER: u16 = 0x0207;
    pub(crate) const SESSION_TYPE: u16 = 0x0209;
    pub(crate) const NO_SESSION: u16 = 0x020a;
    pub(crate) const INVALID_REQUEST: u16 = 0x020b;
    pub(crate) const TARGET_ERROR: u16 = 0x0300;
    pub(crate) const UNAVAILABLE: u16 = 0x0301;
    pub(crate) const OUT_OF_RESOURCES: u16 = 0x0302;
}

/// A login in progress.
pub(super) struct Login {
    pub(super) stage: u8,
    /// Text of the PDUs so far that said "more follows", then of this one.
    text: Vec<u8>,
    text_total: usize,
    /// Hashes of the keys so far.
    keys: Vec<u64>,
    unknown: u32,
    pdus: u32,
    pub(super) initiator: Option<String>,
    target: Option<String>,
    discovery: bool,
    /// The place of the target that was found and may be used.
    site: Option<usize>,
    pub(super) security: Security,
    /// The portal group has been said.
    grouped: bool,
    /// What this target declares unasked has been said.
    declared: bool,
    params: Params,
    isid: [u8; 6],
    tsih: u16,
    /// The tag of the last request.
    itt: u32,
    /// It was one session too many of its initiator.
    crowded: bool,
}

impl Login {
    pub(super) fn new() -> Login {
        Login {
            stage: SECURITY,
            text: Vec::new(),
            text_total: 0,
            keys: Vec::new(),
            unknown: 0,
            pdus: 0,
            initiator: None,
            target: None,
            discovery: false,
            site: None,
            security: Security::default(),
            grouped: false,
            declared: false,
            params: Params::default(),
            isid: [0; 6],
            tsih: 0,
            itt: 0,
            crowded: false,
        }
    }

    fn header(&mut self, header: &Header) -> Result<(), u16> {
        let flags = header.flags();
        let (current, next) = (flags >> 2 & 3, flags & 3);
        let mut isid = [0; 6];
        isid.copy_from_slice(&header.0[8..14]);
        let tsih = header.half(14);
        if self.pdus == 0 {
            if header.0[3] != 0 {
                return Err(status::VERSION);
            }
            (self.isid, self.tsih, self.stage) = (isid, tsih, current);
        }
        self.pdus += 1;
        self.itt = header.itt();
        let both = flags & (TRANSIT | CONTINUE) == TRANSIT | CONTINUE;
        let forward = flags & TRANSIT == 0 || (next > current && next != 2);
        let known = current == SECURITY || current == OPERATIONAL;
        let same = current == self.stage && isid == self.isid && tsih == self.tsih;
        if both || !forward || !known || !same || self.pdus > PDUS_MAX {
            return Err(status::INITIATOR_ERROR);
        }
        Ok(())
    }

    fn append(&mut self, data: &[u8]) -> Result<(), u16> {
        self.text_total += data.len();
        if self.text_total > TEXT_BYTES_MAX {
            return Err(status::INITIATOR_ERROR);
        }
        self.text.reserve_exact(data.len());
        self.text.extend_from_slice(data);
        Ok(())
    }

    /// Would so many more bytes of text be taken?
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.text_total + bytes <= TEXT_BYTES_MAX
    }

    /// Bytes that this login holds.
    pub(super) fn bytes(&self) -> usize {
        let names =
            [&self.initiator, &self.target].into_iter().flatten().map(String::capacity).sum::<usize>();
        size_of::<Login>() + self.text.capacity() + 8 * self.keys.capacity() + names + self.security.bytes()
    }

    /// There are too many of its initiator: what it is told.
    fn turned_away(&mut self) -> u16 {
        self.crowded = true;
        status::OUT_OF_RESOURCES
    }

    /// Answers the keys gathered since the last answer.
    fn negotiate(&mut self) -> Result<Vec<u8>, u16> {
        let gathered = core::mem::take(&mut self.text);
        let mut reply = Vec::new();
        for pair in text::pairs(&gathered) {
            let (key, value) = pair.map_err(|_| status::INITIATOR_ERROR)?;
            // FNV-1a: whoever finds two keys with one hash loses its own login.
            let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            if self.keys.contains(&hash) || self.keys.len() >= KEYS_MAX {
                return Err(status::INITIATOR_ERROR);
            }
            self.keys.push(hash);
            self.declare(key, value)?;
            if !self.security.take(key, value) {
                self.answer(key, value, &mut reply)?;
            }
        }
        Ok(reply)
    }

    /// Keys that say who the initiator is and what it wants.
    fn declare(&mut self, key: &str, value: &str) -> Result<(), u16> {
        match key {
            "InitiatorName" | "TargetName" if value.is_empty() || value.len() > NAME_BYTES_MAX => {
                return Err(status::INITIATOR_ERROR);
            }
            "InitiatorName" => self.initiator = Some(value.to_owned()),
            "TargetName" => self.target = Some(value.to_owned()),
            "SessionType" => match value {
                "Discovery" => self.discovery = true,
                "Normal" => {}
                _ => return Err(status::SESSION_TYPE),
            },
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, key: &str, value: &str, reply: &mut Vec<u8>) -> Result<(), u16> {
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            return Ok(());
        }
        match self.params.offer(key, value, self.discovery) {
            Answer::Silent => {}
            Answer::Value(value) => text::put(reply, key, &value),
            Answer::Reject => text::put(reply, key, "Reject"),
            Answer::Unknown => {
                self.unknown += 1;
                if self.unknown > UNKNOWN_KEYS_MAX {
                    return Err(status::INITIATOR_ERROR);
                }
                text::put(reply, key, "NotUnderstood");
            }
        }
        Ok(())
    }
}

impl Connection {
    /// A whole login request, with its data.
    pub(super) fn take_login(&mut self, header: &Header, data: &[u8]) {
        let Phase::Login(mut login) = core::mem::replace(&mut self.phase, Phase::Ended) else {
            return;
        };
        if login.pdus == 0 {
            self.exp_cmd_sn = header.cmd_sn();
            self.cid = header.half(20);
        }
        let outcome = self.login_step(&mut login, header, data);
        match outcome {
            Ok(true) => {}
            Ok(false) => self.phase = Phase::Login(login),
            Err(status) => self.refuse_login(&login, status),
        }
    }

    /// True when the login is over, but perhaps waits for an earlier session to end.
    fn login_step(&mut self, login: &mut Login, header: &Header, data: &[u8]) -> Result<bool, u16> {
        login.header(header)?;
        login.append(data)?;
        let flags = header.flags();
        if flags & CONTINUE != 0 {
            self.answer_login(login, flags & 0x0c, &[]);
            return Ok(false);
        }
        let mut reply = login.negotiate()?;
        if login.initiator.is_none() {
            return Err(status::MISSING_PARAMETER);
        }
        if !self.target.is_open() {
            return Err(status::UNAVAILABLE);
        }
        self.have_proved(login, &mut reply)?;
        if login.security.is_settled() && login.site.is_none() {
            login.site = Some(self.find_target(login)?);
        }
        if !login.discovery && !login.grouped {
            login.grouped = true;
            text::put(&mut reply, "TargetPortalGroupTag", &self.target.config.portal_group.to_string());
        }
        if login.stage == OPERATIONAL && !login.declared {
            login.declared = true;
            login.params.receive_bytes_max = RECEIVE_BYTES_MAX;
            text::put(&mut reply, "MaxRecvDataSegmentLength", &RECEIVE_BYTES_MAX.to_string());
        }
        if flags & TRANSIT == 0 || !login.security.is_settled() {
            self.answer_login(login, flags & 0x0c, &reply);
            return Ok(false);
        }
        login.stage = flags & 3;
        if login.stage == FULL_FEATURE {
            self.enter(login, flags, reply)?;
            return Ok(true);
        }
        self.answer_login(login, flags & (TRANSIT | 0x0f), &reply);
        Ok(false)
    }

    /// The target's place, if this initiator may know of it.
    fn find_target(&self, login: &Login) -> Result<usize, u16> {
        if login.discovery {
            return Ok(0);
        }
        let (Some(initiator), Some(name)) = (&login.initiator, &login.target) else {
            return Err(status::MISSING_PARAMETER);
        };
        let site = self.target.site(name).filter(|site| self.target.admits(initiator, *site));
        site.ok_or(status::NOT_FOUND)
    }

    /// Enters the full-feature phase, after any earlier session of the same nexus has ended.
    fn enter(&mut self, login: &mut Login, flags: u8, reply: Vec<u8>) -> Result<(), u16> {
        let initiator = login.initiator.clone().ok_or(status::MISSING_PARAMETER)?;
        self.site = login.site.unwrap_or_default();
        self.proved = login.security.is_proved();
        if login.tsih != 0 {
            self.rejoin(&initiator, login)?;
        }
        login.params.settle();
        self.params = login.params;
        let (itt, isid, flags) = (login.itt, login.isid, flags & (TRANSIT | 0x0f));
        let response = |tsih| Response::Login { itt, flags, isid, tsih, status: status::SUCCESS };
        let address = self.address.clone();
        if login.discovery {
            let entered = self.target.enter_discovery(&initiator, address);
            entered.map_err(|Crowded| login.turned_away())?;
            self.initiator = initiator;
            self.begin_session(response(1), &reply, true);
            return Ok(());
        }
        let tsih = self.target.reserve_tsih().ok_or(status::OUT_OF_RESOURCES)?;
        let ticket = self.expect(Awaited::Enter { response: response(tsih), reply });
        let nexus = Nexus { initiator: initiator.clone(), isid, site: self.site, tsih, cid: self.cid };
        if let Err(Crowded) = self.target.enter(nexus, address, &ticket) {
            // The end of the ticket, which nobody else has, is no news.
            self.awaited.pop();
            return Err(login.turned_away());
        }
        (self.initiator, self.isid) = (initiator, isid);
        self.phase = Phase::Entering;
        Ok(())
    }

    /// A login that names a session: only to replace its one connection (RFC 7143 6.3.4).
    fn rejoin(&self, initiator: &str, login: &Login) -> Result<(), u16> {
        if login.discovery {
            return Err(status::INVALID_REQUEST);
        }
        match self.target.session_cid(initiator, login.isid, self.site, login.tsih) {
            None => Err(status::NO_SESSION),
            Some(cid) if cid != self.cid => Err(status::TOO_MANY_CONNECTIONS),
            Some(_) => Ok(()),
        }
    }

    /// The last login response, and from then on the digests.
    pub(super) fn begin_session(&mut self, response: Response, reply: &[u8], discovery: bool) {
        self.send(response, reply);
        self.phase = Phase::Full { discovery };
        self.digests.header = self.params.header_digest;
        self.digests.data = self.params.data_digest;
        self.framer.header_digest = self.params.header_digest;
        self.framer.data_digest = self.params.data_digest;
    }

    fn answer_login(&mut self, login: &Login, flags: u8, reply: &[u8]) {
        let (itt, isid, tsih) = (login.itt, login.isid, login.tsih);
        self.send(Response::Login { itt, flags, isid, tsih, status: status::SUCCESS }, reply);
    }

    fn refuse_login(&mut self, login: &Login, status: u16) {
        let names = (login.initiator.as_deref(), login.target.as_deref());
        self.target.tell_refusal(names, self.ends.peer, self.reason(login, status));
        let (itt, isid, tsih) = (login.itt, login.isid, login.tsih);
        self.send(Response::Login { itt, flags: 0, isid, tsih, status }, &[]);
        self.close(Closing::AfterSend);
    }

    /// What the operator is told of a refusal. The initiator learns less: only the status.
    fn reason(&self, login: &Login, status: u16) -> RefusalReason {
        let stranger = || {
            let access = self.target.access();
            login.initiator.as_deref().is_some_and(|name| access.host_of(name).is_none())
        };
        match status {
            status::AUTHENTICATION | status::NOT_FOUND if stranger() => RefusalReason::UnknownInitiator,
            status::AUTHENTICATION => RefusalReason::NotProved,
            status::NOT_FOUND
                if login.target.as_deref().and_then(|name| self.target.site(name)).is_none() =>
            {
                RefusalReason::NoSuchTarget
            }
            status::NOT_FOUND => RefusalReason::NothingMapped,
            status::UNAVAILABLE if self.target.is_open() => RefusalReason::Guessing,
            status::UNAVAILABLE => RefusalReason::Closed,
            status::NO_SESSION | status::TOO_MANY_CONNECTIONS => RefusalReason::NoSuchSession,
            status::OUT_OF_RESOURCES if login.crowded => RefusalReason::Crowded,
            status::TARGET_ERROR | status::OUT_OF_RESOURCES => RefusalReason::Exhausted,
            _ => RefusalReason::Malformed,
        }
    }
}
