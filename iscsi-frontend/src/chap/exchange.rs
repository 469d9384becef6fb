//! The exchange of one login: the initiator's CHAP keys in, the target's out.

use subtle::{Choice, ConstantTimeEq};

use super::challenge::{Challenge, Challenges};
use super::text::{decode, encode};
use super::{Algorithm, Chap, Credentials, Secret};
use crate::pdu::text;

/// Bytes of the longest response.
const RESPONSE_BYTES_MAX: usize = 32;
/// Bytes of the longest challenge (RFC 7143 12.1.3).
const CHALLENGE_BYTES_MAX: usize = 1024;

/// Whom an initiator is to prove that it is.
pub(crate) struct Subject {
    host: Credentials,
    target: Option<Credentials>,
    /// There is such a host. If not, the exchange goes through the same motions and fails.
    known: bool,
}

impl Subject {
    /// A host.
    pub(crate) fn host(chap: &Chap) -> Subject {
        Subject { host: chap.host.clone(), target: chap.target.clone(), known: true }
    }

    /// Nobody.
    pub(crate) fn nobody(secret: &Secret) -> Subject {
        let host = Credentials { name: String::new(), secret: secret.clone() };
        Subject { host, target: None, known: false }
    }
}

/// What the target allows, and what it makes challenges with.
pub(crate) struct Rules<'a> {
    pub(crate) algorithms: &'a [Algorithm],
    pub(crate) challenges: &'a Challenges,
}

/// The CHAP keys of one or more login requests.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) algorithms: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) response: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) challenge: Option<String>,
}

impl Keys {
    /// The place of a key's value, if it is a CHAP key.
    pub(crate) fn place(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "CHAP_A" => Some(&mut self.algorithms),
            "CHAP_N" => Some(&mut self.name),
            "CHAP_R" => Some(&mut self.response),
            "CHAP_I" => Some(&mut self.id),
            "CHAP_C" => Some(&mut self.challenge),
            _ => None,
        }
    }

    fn all(&self) -> [&Option<String>; 5] {
        let Keys { algorithms, name, response, id, challenge } = self;
        [algorithms, name, response, id, challenge]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().iter().all(|value| value.is_none())
    }

    /// Bytes of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.all().into_iter().flatten().map(String::capacity).sum()
    }
}

/// Why an exchange ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The initiator has not proved who it is.
    Unproved,
    /// The system gives no random bytes.
    NoRandom,
}

enum State {
    AwaitsAlgorithm,
    AwaitsResponse(Algorithm, Challenge),
    Done,
    /// The initiator has failed, and there is no second try.
    Failed,
}

/// An exchange.
pub(crate) struct Exchange {
    subject: Subject,
    state: State,
}

impl Exchange {
    pub(crate) fn new(subject: Subject) -> Exchange {
        Exchange { subject, state: State::AwaitsAlgorithm }
    }

    /// Has the initiator proved who it is?
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Are the next keys to be judged, rather than answered with a challenge?
    pub(crate) fn is_judging(&self) -> bool {
        matches!(self.state, State::AwaitsResponse(..))
    }

    /// Takes the keys of a request and adds the answers. Without keys nothing happens.
    pub(crate) fn step(
        &mut self,
        keys: &Keys,
        rules: &Rules<'_>,
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if keys.is_empty() {
            return Ok(());
        }
        match core::mem::replace(&mut self.state, State::Failed) {
            State::AwaitsAlgorithm => self.challenge(keys, rules, reply),
            State::AwaitsResponse(algorithm, challenge) => {
                self.judge(keys, algorithm, &challenge)?;
                self.answer(keys, algorithm, rules.challenges, reply)?;
                self.state = State::Done;
                Ok(())
            }
            State::Done | State::Failed => Err(Refusal::Unproved),
        }
    }

    /// Chooses the strongest algorithm that both know.
    fn challenge(&mut self, keys: &Keys, rules: &Rules<'_>, reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let Keys { algorithms: Some(offered), name: None, response: None, id: None, challenge: None } = keys
        else {
            return Err(Refusal::Unproved);
        };
        let offers = |algorithm: &&Algorithm| {
            offered.split(',').any(|number| text::number(number) == Some(algorithm.number()))
        };
        let strongest =
            Algorithm::ALL.iter().filter(|algorithm| rules.algorithms.contains(algorithm)).find(offers);
        let algorithm = *strongest.ok_or(Refusal::Unproved)?;
        let challenge = rules.challenges.fresh().map_err(|_| Refusal::NoRandom)?;
        text::put(reply, "CHAP_A", &algorithm.number().to_string());
        text::put(reply, "CHAP_I", &challenge.id.to_string());
        text::put(reply, "CHAP_C", &encode(&challenge.bytes));
        self.state = State::AwaitsResponse(algorithm, challenge);
        Ok(())
    }

    /// Does the same work whatever is wrong.
    fn judge(&self, keys: &Keys, algorithm: Algorithm, challenge: &Challenge) -> Result<(), Refusal> {
        let host = &self.subject.host;
        let expected = algorithm.response(challenge.id, &host.secret, &challenge.bytes);
        let name = keys.name.as_deref().unwrap_or_default();
        let response = decode(keys.response.as_deref().unwrap_or_default(), RESPONSE_BYTES_MAX);
        let proved = expected.ct_eq(&response.unwrap_or_default())
            & host.name.as_bytes().ct_eq(name.as_bytes())
            & Choice::from(u8::from(self.subject.known));
        if proved.into() { Ok(()) } else { Err(Refusal::Unproved) }
    }

    /// Shows who this target is, if that was asked. Never to a challenge of its own.
    fn answer(
        &self,
        keys: &Keys,
        algorithm: Algorithm,
        challenges: &Challenges,
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (id, challenge) = match (&keys.id, &keys.challenge) {
            (None, None) => return Ok(()),
            (Some(id), Some(challenge)) => (id, challenge),
            _ => return Err(Refusal::Unproved),
        };
        let id = text::number(id).and_then(|id| u8::try_from(id).ok()).ok_or(Refusal::Unproved)?;
        let challenge = decode(challenge, CHALLENGE_BYTES_MAX).ok_or(Refusal::Unproved)?;
        let own = self.subject.target.as_ref().ok_or(Refusal::Unproved)?;
        if keys.algorithms.is_some() || challenges.is_own(&challenge) {
            return Err(Refusal::Unproved);
        }
        let response = algorithm.response(id, &own.secret, &challenge);
        text::put(reply, "CHAP_N", &own.name);
        text::put(reply, "CHAP_R", &encode(&response));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
