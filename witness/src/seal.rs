//! Frames: a question or an answer, sealed so that only the two ends of this connection can read or make it.
//!
//! The keys come from the secret and from both messages that began the connection, with a nonce of each end in them. So
//! no frame of another connection, of the other direction, or with another number, opens. SHA-3 with the key in front is a
//! sound keyed hash: it has no length to extend; each hash here is over parts of fixed lengths, and named by its first 8 bytes.

#![deny(clippy::indexing_slicing)] // nothing from the wire is trusted to fit

use sha3::{Digest, Sha3_256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::body::{BODY_BYTES, Body};
use crate::message::{Bytes, MESSAGE_BYTES};
use crate::secret::Secret;

const NUMBER_BYTES: usize = 8;
const TAG_BYTES: usize = MESSAGE_BYTES - NUMBER_BYTES - BODY_BYTES;

type Key = Zeroizing<[u8; 32]>;

/// The keys of one direction of a connection.
pub(crate) struct Keys {
    hide: Key,
    prove: Key,
}

/// The keys of a connection: of what the asker sends, and of what the witness sends.
pub(crate) fn keys(secret: &Secret, hello: &Bytes, challenge: &Bytes) -> (Keys, Keys) {
    let key = |name: &[u8; 8]| Key::new(hash(name, secret.key(), &[hello, challenge]));
    let asker = Keys { hide: key(b"ask hide"), prove: key(b"ask tag ") };
    (asker, Keys { hide: key(b"ans hide"), prove: key(b"ans tag ") })
}

impl Keys {
    /// The frame with this number. A number is used once.
    pub(crate) fn seal(&self, number: u64, body: &Body) -> Bytes {
        let hidden = self.mask(number, body);
        let mut frame = [0; MESSAGE_BYTES];
        let (front, tag) = frame.split_at_mut(NUMBER_BYTES + BODY_BYTES);
        let (at, place) = front.split_at_mut(NUMBER_BYTES);
        at.copy_from_slice(&number.to_le_bytes());
        place.copy_from_slice(&hidden);
        tag.copy_from_slice(&self.tag(number, &hidden));
        frame
    }

    /// The body of the frame with this number; `None` if it is not what the other end sealed.
    pub(crate) fn open(&self, number: u64, frame: &Bytes) -> Option<Body> {
        let (at, rest) = frame.split_first_chunk::<NUMBER_BYTES>()?;
        let (hidden, tag) = rest.split_first_chunk::<BODY_BYTES>()?;
        let genuine = self.tag(number, hidden).ct_eq(tag) & number.to_le_bytes().ct_eq(at);
        bool::from(genuine).then(|| self.mask(number, hidden))
    }

    /// Hides a body, or shows what was hidden.
    fn mask(&self, number: u64, body: &Body) -> Body {
        let number = number.to_le_bytes();
        let halves = [hash(b"mask one", &self.hide, &[&number]), hash(b"mask two", &self.hide, &[&number])];
        let mut stream = halves.as_flattened().iter();
        body.map(|byte| byte ^ stream.next().expect("64 bytes for 40"))
    }

    fn tag(&self, number: u64, hidden: &Body) -> [u8; TAG_BYTES] {
        let hash = hash(b"tag     ", &self.prove, &[&number.to_le_bytes(), hidden]);
        *hash.first_chunk().expect("16 of 32 bytes")
    }
}

fn hash(name: &[u8; 8], key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let keyed = Sha3_256::new().chain_update(key).chain_update(name);
    parts.iter().fold(keyed, |hash, part| hash.chain_update(part)).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::hex;

    fn of(secret: &str, hello: u8, challenge: u8) -> (Keys, Keys) {
        let secret = Secret::new(secret).unwrap();
        keys(&secret, &[hello; MESSAGE_BYTES], &[challenge; MESSAGE_BYTES])
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// From an implementation that is not ours: Python's hashlib (the script is in `docs/protocol.md`).
    #[test]
    fn bytes_are_frozen() {
        let (asker, witness) = of(SECRET, 1, 2);
        let body: Body = std::array::from_fn(|at| at as u8);
        let frames = [asker.seal(0, &body), asker.seal(1, &body), witness.seal(0, &body)];
        assert_eq!(frames.map(|frame| hex(&frame)), GOLDEN);
    }

    const GOLDEN: [&str; 3] = [
        "0000000000000000e57db9c3c897445c5838f3f60b037ec6b1e5e5046bc9e1ca\
         6e5828cb56c7fa683912d10e4f9f7c9664a740df25c7b5dd5baf7eee770f68fa",
        "0100000000000000e8e05bfbfa9401bbf9e1cddc9e11afea843fba0d7d266d55\
         cb5a8a56bb5bd54c0c6eb377f970a2cb4a44a9b3e3cb84f1224546dc053a6bbc",
        "0000000000000000d9a2677a2faba9df42ceac1a333b4162892adf3b5ac79ce0\
         f37c2e29fcc55bc336bc70bf3686b2e844ab64f374a6f62968bd0db86a55160c",
    ];

    #[test]
    fn only_the_frame_itself_opens() {
        let (asker, witness) = of(SECRET, 1, 2);
        let body = [7; BODY_BYTES];
        let frame = asker.seal(5, &body);
        assert_eq!(asker.open(5, &frame), Some(body));
        assert_eq!(asker.open(6, &frame), None, "again");
        assert_eq!(witness.open(5, &frame), None, "reflected");
        for (secret, hello, challenge) in
            [("another secret, just as long as that", 1, 2), (SECRET, 3, 2), (SECRET, 1, 3)]
        {
            assert_eq!(of(secret, hello, challenge).0.open(5, &frame), None, "of another connection");
        }
        for bit in 0..MESSAGE_BYTES * 8 {
            let mut damaged = frame;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(asker.open(5, &damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_body_does_not_show() {
        let (asker, _) = of(SECRET, 1, 2);
        let (one, next) = (asker.seal(0, &[0; BODY_BYTES]), asker.seal(1, &[0; BODY_BYTES]));
        assert!(one[8..48].iter().filter(|byte| **byte == 0).count() < 8);
        assert_ne!(one[8..48], next[8..48]);
    }
}
