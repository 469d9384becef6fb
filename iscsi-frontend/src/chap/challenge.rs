//! Challenges, from the system's random source.
//!
//! A challenge is 16 random bytes and 16 that only this process can make from them. So one that comes back as an
//! initiator's is known for what it is, on any connection and at any time, without a list of those in use.

use sha3::{Digest, Sha3_256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const RANDOM_BYTES: usize = 16;
const CHALLENGE_BYTES: usize = 32;

/// Makes challenges and recognises them.
pub(crate) struct Challenges {
    key: Zeroizing<[u8; 32]>,
}

/// What an initiator is to answer, once.
pub(crate) struct Challenge {
    pub(crate) id: u8,
    pub(crate) bytes: [u8; CHALLENGE_BYTES],
}

impl Challenges {
    pub(crate) fn new() -> Result<Challenges, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Challenges { key })
    }

    /// One that nobody can know before.
    pub(crate) fn fresh(&self) -> Result<Challenge, getrandom::Error> {
        let mut random = [0; RANDOM_BYTES + 1];
        getrandom::fill(&mut random)?;
        let (id, random) = (random[0], &random[1..]);
        let mut bytes = [0; CHALLENGE_BYTES];
        bytes[..RANDOM_BYTES].copy_from_slice(random);
        bytes[RANDOM_BYTES..].copy_from_slice(&self.mark(random));
        Ok(Challenge { id, bytes })
    }

    /// Is it one of those made here?
    pub(crate) fn is_own(&self, bytes: &[u8]) -> bool {
        if bytes.len() != CHALLENGE_BYTES {
            return false;
        }
        let (random, mark) = bytes.split_at(RANDOM_BYTES);
        self.mark(random).ct_eq(mark).into()
    }

    /// SHA-3 with the key in front is a sound keyed hash: it has no length to extend.
    fn mark(&self, random: &[u8]) -> [u8; CHALLENGE_BYTES - RANDOM_BYTES] {
        let hash = Sha3_256::new().chain_update(self.key.as_slice()).chain_update(random).finalize();
        let mut mark = [0; CHALLENGE_BYTES - RANDOM_BYTES];
        mark.copy_from_slice(&hash[..CHALLENGE_BYTES - RANDOM_BYTES]);
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_recognised_by_whoever_made_them() {
        let challenges = Challenges::new().expect("random bytes");
        let other = Challenges::new().expect("random bytes");
        let mut challenge = challenges.fresh().expect("random bytes");
        assert!(challenges.is_own(&challenge.bytes));
        assert!(!other.is_own(&challenge.bytes));
        assert!(!challenges.is_own(&challenge.bytes[1..]));
        challenge.bytes[3] ^= 1;
        assert!(!challenges.is_own(&challenge.bytes));
    }
}
