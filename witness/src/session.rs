//! The two ends of a connection without its sockets: a message comes in, a message goes out.
//!
//! ```text
//!  asker                                witness
//!    | hello: partnership, nonce           |
//!    |------------------------------------>|
//!    |<------------------------------------| challenge: nonce, whatever was named
//!    | question 0, sealed: proves the asker|
//!    |------------------------------------>|
//!    |<------------------------------------| answer 0, sealed: proves the witness
//!    | question 1, sealed ...              |
//! ```
//!
//! Invariants: nothing that the witness says before the first question opens depends on the partnership or on whether it
//! has it (whoever floods it with strangers can tell, by who keeps a place: `connections`); one message that does not fit
//! ends the connection; a question is answered before the next is looked at.

use std::collections::BTreeMap;

use twinsan::arbiter::Ask;
use twinsan::ids::Uuid;

use crate::body::{Told, decode_ask, decode_told, encode_ask, encode_told};
use crate::message::{self, Bytes, Hello, Nonce};
use crate::notice::Refusal;
use crate::seal::{self, Keys};
use crate::secret::Secret;

/// The asker's end, until the witness has answered the hello.
pub(crate) struct Greeting {
    pub(crate) hello: Bytes,
}

/// The asker's end.
pub(crate) struct Asker {
    send: Keys,
    receive: Keys,
    /// Of the next question.
    number: u64,
}

impl Greeting {
    pub(crate) fn new(hello: &Hello) -> Greeting {
        Greeting { hello: hello.encode() }
    }

    pub(crate) fn challenged(&self, secret: &Secret, challenge: &Bytes) -> Result<Asker, Refusal> {
        message::read_challenge(challenge)?;
        let (send, receive) = seal::keys(secret, &self.hello, challenge);
        Ok(Asker { send, receive, number: 0 })
    }
}

impl Asker {
    /// The next question. It must be answered before another is asked.
    pub(crate) fn ask(&self, ask: Ask) -> Bytes {
        self.send.seal(self.number, &encode_ask(ask))
    }

    /// The answer to it.
    pub(crate) fn answered(&mut self, frame: &Bytes) -> Result<Told, Refusal> {
        let Some(body) = self.receive.open(self.number, frame) else {
            return Err(message::read_refusal(frame).unwrap_or(Refusal::Garbage));
        };
        self.number += 1;
        decode_told(&body).ok_or(Refusal::Garbage)
    }
}

/// The secrets of all partnerships, and one that is used for those that are not among them.
pub(crate) struct Secrets {
    known: BTreeMap<Uuid, Secret>,
    decoy: Secret,
}

impl Secrets {
    pub(crate) fn new(known: BTreeMap<Uuid, Secret>) -> Result<Secrets, getrandom::Error> {
        Ok(Secrets { known, decoy: Secret::random()? })
    }

    fn of(&self, partnership: Uuid) -> &Secret {
        self.known.get(&partnership).unwrap_or(&self.decoy)
    }

    fn has(&self, partnership: Uuid) -> bool {
        self.known.contains_key(&partnership)
    }
}

/// The witness's end.
pub(crate) enum Host {
    /// Waits for the hello.
    Silent,
    /// Has sent its challenge, and waits for the proof.
    Challenged(Guest),
    /// The asker has proved that it knows the secret.
    Proved(Guest),
}

/// Who is at the other end, or says so.
pub(crate) struct Guest {
    pub(crate) hello: Hello,
    /// Its partnership is one of those that are kept.
    pub(crate) known: bool,
    send: Keys,
    receive: Keys,
    /// Of its next question.
    number: u64,
}

/// What the witness is to do about a message.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Send this.
    Send(Bytes),
    /// Carry this out, and send [`Guest::answer`].
    Question(Ask),
}

impl Host {
    /// A message has come. `fresh` is used for the challenge.
    pub(crate) fn hear(&mut self, bytes: &Bytes, secrets: &Secrets, fresh: Nonce) -> Result<Heard, Refusal> {
        match std::mem::replace(self, Host::Silent) {
            Host::Silent => {
                let hello = Hello::decode(bytes)?;
                let challenge = message::challenge(fresh);
                let (receive, send) = seal::keys(secrets.of(hello.partnership), bytes, &challenge);
                let known = secrets.has(hello.partnership);
                *self = Host::Challenged(Guest { hello, known, send, receive, number: 0 });
                Ok(Heard::Send(challenge))
            }
            Host::Challenged(guest) | Host::Proved(guest) => {
                let body = guest.receive.open(guest.number, bytes).filter(|_| guest.known);
                let body = body.ok_or(Refusal::Unproved)?;
                let ask = decode_ask(&body).ok_or(Refusal::Garbage)?;
                *self = Host::Proved(guest);
                Ok(Heard::Question(ask))
            }
        }
    }

    /// Who is there, once that is proved.
    pub(crate) fn proved(&self) -> Option<&Guest> {
        if let Host::Proved(guest) = self { Some(guest) } else { None }
    }

    /// The answer to the question that was heard.
    pub(crate) fn answer(&mut self, told: Told) -> Option<Bytes> {
        let Host::Proved(guest) = self else { return None };
        let frame = guest.send.seal(guest.number, &encode_told(told));
        guest.number += 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use twinsan::arbiter::{Answer, Register};
    use twinsan::ids::{Epoch, Members, NodeName};

    use super::*;
    use crate::body::Failed;

    const OURS: Uuid = Uuid(0xabcd);

    fn secret(first: char) -> Secret {
        Secret::new(&first.to_string().repeat(32)).unwrap()
    }

    fn secrets() -> Secrets {
        Secrets::new(BTreeMap::from([(OURS, secret('x'))])).unwrap()
    }

    fn hello(partnership: Uuid) -> Hello {
        Hello { partnership, nonce: [1; 16], asker: 5, attempt: 1 }
    }

    /// A connection, up to the first question.
    fn begin(partnership: Uuid, secret: &Secret) -> (Host, Asker) {
        let (mut host, greeting) = (Host::Silent, Greeting::new(&hello(partnership)));
        let Ok(Heard::Send(challenge)) = host.hear(&greeting.hello, &secrets(), [2; 16]) else {
            panic!("a hello is answered")
        };
        (host, greeting.challenged(secret, &challenge).unwrap())
    }

    fn swap() -> Ask {
        let new = Register { epoch: Epoch(1), members: Members::BOTH, by: NodeName::B };
        Ask::Swap { expect: None, new }
    }

    #[test]
    fn questions_are_answered_one_after_the_other() {
        let (mut host, mut asker) = begin(OURS, &secret('x'));
        for (ask, told) in [
            (Ask::Read, Ok(Answer { swapped: false, register: None })),
            (swap(), Err(Failed)),
            (swap(), Ok(swap().decide(None))),
        ] {
            let heard = host.hear(&asker.ask(ask), &secrets(), [3; 16]).unwrap();
            assert!(matches!(heard, Heard::Question(heard) if heard == ask));
            assert_eq!(asker.answered(&host.answer(told).unwrap()), Ok(told));
        }
    }

    #[test]
    fn whoever_does_not_know_the_secret_is_refused_after_the_same_steps() {
        for (partnership, secret) in [(OURS, secret('y')), (Uuid(1), secret('x'))] {
            let (mut host, mut asker) = begin(partnership, &secret);
            let refusal = host.hear(&asker.ask(swap()), &secrets(), [3; 16]).unwrap_err();
            assert_eq!(refusal, Refusal::Unproved);
            assert!(host.proved().is_none() && host.answer(Err(Failed)).is_none());
            assert_eq!(asker.answered(&message::refuse(refusal).unwrap()), Err(refusal));
        }
    }

    #[test]
    fn a_frame_serves_once() {
        let (mut host, asker) = begin(OURS, &secret('x'));
        let question = asker.ask(Ask::Read);
        host.hear(&question, &secrets(), [3; 16]).unwrap();
        let answer = host.answer(Err(Failed)).unwrap();
        assert_eq!(host.hear(&question, &secrets(), [3; 16]).unwrap_err(), Refusal::Unproved);
        // On another connection of the same asker; and the witness's own, reflected.
        let (mut again, mut next) = (Host::Silent, Greeting::new(&hello(OURS)));
        next.hello = Hello { nonce: [9; 16], ..hello(OURS) }.encode();
        assert!(again.hear(&next.hello, &secrets(), [2; 16]).is_ok());
        assert_eq!(again.hear(&question, &secrets(), [3; 16]).unwrap_err(), Refusal::Unproved);
        let (mut host, mut asker) = begin(OURS, &secret('x'));
        assert_eq!(host.hear(&answer, &secrets(), [3; 16]).unwrap_err(), Refusal::Unproved);
        assert_eq!(asker.answered(&asker.ask(Ask::Read)), Err(Refusal::Garbage));
    }

    #[test]
    fn a_late_answer_of_an_earlier_connection_is_none_on_the_next() {
        let (mut host, asker) = begin(OURS, &secret('x'));
        host.hear(&asker.ask(Ask::Read), &secrets(), [3; 16]).unwrap();
        let late = host.answer(Ok(swap().decide(None))).unwrap();
        let greeting = Greeting::new(&Hello { nonce: [9; 16], attempt: 2, ..hello(OURS) });
        let mut host = Host::Silent;
        let Ok(Heard::Send(challenge)) = host.hear(&greeting.hello, &secrets(), [4; 16]) else {
            panic!("a hello is answered")
        };
        let mut asker = greeting.challenged(&secret('x'), &challenge).unwrap();
        assert_eq!(asker.answered(&late), Err(Refusal::Garbage));
    }

    #[test]
    fn only_a_hello_begins() {
        let refused = |bytes: &Bytes| Host::Silent.hear(bytes, &secrets(), [3; 16]).unwrap_err();
        assert_eq!(refused(&[0x55; 64]), Refusal::Garbage);
        assert_eq!(refused(&message::challenge([1; 16])), Refusal::Garbage);
        assert_eq!(refused(&message::of_version(9)), Refusal::Version(9));
    }
}
