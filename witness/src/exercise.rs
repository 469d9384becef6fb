//! What a fuzzer runs.

use std::collections::BTreeMap;

use twinsan::arbiter::Ask;
use twinsan::ids::Uuid;

use crate::body::{BODY_BYTES, Failed, decode_ask, decode_told, encode_ask, encode_told};
use crate::message::{self, Bytes, Hello, MESSAGE_BYTES};
use crate::secret::Secret;
use crate::session::{Asker, Greeting, Heard, Host, Secrets};

const OURS: Uuid = Uuid(7);
const SECRET: &str = "a secret that everyone may know, of 32 bytes";

/// Gives `input`, 64 bytes at a time, to both ends of connections, at each step of them, and as bodies behind a seal.
/// Without the secret nothing may become a question or an answer; what decodes is written as it must be.
///
/// # Panics
/// If the protocol has a bug, or the system has no random numbers.
pub fn exercise(input: &[u8]) {
    let secret = Secret::new(SECRET).expect("long enough");
    let secrets = Secrets::new(BTreeMap::from([(OURS, secret.clone())])).expect("random numbers");
    let mut fresh = Host::Silent;
    for message in input.as_chunks::<MESSAGE_BYTES>().0 {
        if fresh.hear(message, &secrets, [1; 16]).is_ok() {
            assert!(fresh.proved().is_none(), "nobody proves anything without the secret");
        }
        if let Ok(hello) = Hello::decode(message) {
            assert_eq!(hello.encode(), *message);
        }
        assert!(message::read_refusal(message).is_none() || message::read_challenge(message).is_err());
        let (mut host, mut asker) = connected(&secrets, &secret);
        assert!(host.hear(message, &secrets, [2; 16]).is_err(), "a stranger's question");
        assert!(asker.answered(message).is_err(), "a stranger's answer");
        behind_the_seal(message, &secrets, &secret);
    }
}

fn connected(secrets: &Secrets, secret: &Secret) -> (Host, Asker) {
    let greeting = Greeting::new(&Hello { partnership: OURS, nonce: [3; 16], asker: 1, attempt: 1 });
    let mut host = Host::Silent;
    let Ok(Heard::Send(challenge)) = host.hear(&greeting.hello, secrets, [4; 16]) else {
        panic!("a hello is answered")
    };
    let asker = greeting.challenged(secret, &challenge).expect("a challenge");
    (host, asker)
}

fn behind_the_seal(message: &Bytes, secrets: &Secrets, secret: &Secret) {
    let body = message.first_chunk::<BODY_BYTES>().expect("40 of 64 bytes");
    if let Some(ask) = decode_ask(body) {
        assert_eq!(encode_ask(ask), *body);
        let (mut host, asker) = connected(secrets, secret);
        let heard = host.hear(&asker.ask(ask), secrets, [5; 16]);
        assert!(matches!(heard, Ok(Heard::Question(heard)) if heard == ask));
    }
    if let Some(told) = decode_told(body) {
        assert_eq!(encode_told(told), *body);
        let (mut host, mut asker) = connected(secrets, secret);
        host.hear(&asker.ask(Ask::Read), secrets, [5; 16]).expect("a question");
        let answer = host.answer(told).expect("it was asked");
        assert_eq!(asker.answered(&answer), Ok(told));
        assert_eq!(asker.answered(&answer), Err(crate::Refusal::Garbage), "an answer counts once");
        assert_ne!(host.answer(Err(Failed)), Some(answer));
    }
}
