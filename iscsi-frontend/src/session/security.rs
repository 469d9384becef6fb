//! The security stage of a login (RFC 7143 6.3.2, 12.1): whether an initiator has to prove who it is, and that it does.
//!
//! Invariants: whoever says the name of a host with CHAP proves it, in discovery too, before anything but the portal
//! group is said; once any host has CHAP, a name of no host is asked for a proof as well, and fails, so that names
//! cannot be probed.

use crate::chap::{Exchange, Keys, Refusal, Rules, Subject, Verdict};
use crate::pdu::text;

use super::Connection;
use super::login::{Login, SECURITY, status};

/// Where the proof stands.
#[derive(Default)]
enum Proof {
    /// It is not known yet who logs in.
    #[default]
    Unasked,
    /// None is needed.
    Waived,
    /// It is to be CHAP; the initiator has not agreed yet.
    Demanded(Exchange),
    /// CHAP, under way or done.
    Chap(Exchange),
}

/// The security of a login.
#[derive(Default)]
pub(super) struct Security {
    proof: Proof,
    /// What the request in hand says.
    methods: Option<String>,
    keys: Keys,
}

impl Security {
    /// Takes a key of the security stage; false if it is another.
    pub(super) fn take(&mut self, key: &str, value: &str) -> bool {
        let place = if key == "AuthMethod" { Some(&mut self.methods) } else { self.keys.place(key) };
        let Some(place) = place else { return false };
        *place = Some(value.to_owned());
        true
    }

    /// Bytes of the keys that wait to be looked at.
    pub(super) fn bytes(&self) -> usize {
        self.methods.as_ref().map_or(0, String::capacity) + self.keys.bytes()
    }

    /// May the login go on to anything else?
    pub(super) fn is_settled(&self) -> bool {
        match &self.proof {
            Proof::Waived => true,
            Proof::Chap(exchange) => exchange.is_done(),
            Proof::Unasked | Proof::Demanded(_) => false,
        }
    }

    /// Has the initiator proved who it is?
    pub(super) fn is_proved(&self) -> bool {
        matches!(&self.proof, Proof::Chap(exchange) if exchange.is_done())
    }

    /// Settles on a method, if the initiator offers any now.
    fn agree(&mut self, stage: u8, reply: &mut Vec<u8>) -> Result<(), u16> {
        let methods = self.methods.take();
        let offers = |name| methods.as_ref().is_some_and(|list| list.split(',').any(|method| method == name));
        self.proof = match core::mem::take(&mut self.proof) {
            Proof::Demanded(exchange) if stage == SECURITY && offers("CHAP") => {
                text::put(reply, "AuthMethod", "CHAP");
                Proof::Chap(exchange)
            }
            Proof::Demanded(exchange) if stage == SECURITY && methods.is_none() => Proof::Demanded(exchange),
            Proof::Waived if offers("None") => {
                text::put(reply, "AuthMethod", "None");
                Proof::Waived
            }
            proof if methods.is_none() && !matches!(proof, Proof::Demanded(_)) => proof,
            _ => return Err(status::AUTHENTICATION),
        };
        Ok(())
    }
}

impl Connection {
    /// Has the initiator of a login prove who it is, as far as that is asked of it.
    pub(super) fn have_proved(&self, login: &mut Login, reply: &mut Vec<u8>) -> Result<(), u16> {
        let initiator = login.initiator.as_deref().unwrap_or_default();
        let security = &mut login.security;
        if let Proof::Unasked = security.proof {
            security.proof = self.demand(initiator);
        }
        security.agree(login.stage, reply)?;
        let keys = core::mem::take(&mut security.keys);
        if keys.is_empty() {
            return Ok(());
        }
        let Proof::Chap(exchange) = &mut security.proof else { return Err(status::AUTHENTICATION) };
        self.exchange(initiator, exchange, &keys, reply)
    }

    /// Has it proved who it is, if that is asked of its host now? It may not have been when it logged in.
    pub(super) fn is_trusted(&self) -> bool {
        let access = self.target.access();
        self.proved || access.host_of(&self.initiator).is_none_or(|host| host.chap.is_none())
    }

    fn demand(&self, initiator: &str) -> Proof {
        let access = self.target.access();
        let subject = match access.host_of(initiator) {
            Some(host) => host.chap.as_ref().map(Subject::host),
            None => access.asks_for_proof().then(|| Subject::nobody(&self.target.nobodys_secret)),
        };
        subject.map_or(Proof::Waived, |subject| Proof::Demanded(Exchange::new(subject)))
    }

    /// Guesses are slowed down: one that comes too soon is told to come later, and not whether it was right.
    fn exchange(
        &self,
        initiator: &str,
        exchange: &mut Exchange,
        keys: &Keys,
        reply: &mut Vec<u8>,
    ) -> Result<(), u16> {
        let algorithms = &self.target.config.chap_algorithms;
        let rules = Rules { algorithms, challenges: &self.target.challenges };
        let outcome = if exchange.is_judging() {
            let (source, now_ms) = (self.ends.peer.ip(), self.target.now_ms());
            let judge = || exchange.step(keys, &rules, reply);
            match self.target.throttle.attempt(source, initiator, now_ms, judge) {
                Verdict::Judged(outcome) => outcome,
                Verdict::TooSoon => return Err(status::UNAVAILABLE),
            }
        } else {
            exchange.step(keys, &rules, reply)
        };
        outcome.map_err(|refusal| match refusal {
            Refusal::Unproved => status::AUTHENTICATION,
            Refusal::NoRandom => status::TARGET_ERROR,
        })
    }
}
