//! CHAP (RFC 1994; RFC 7143 12.1.3): who an initiator is, and who this target is to it.
//!
//! Invariants
//! - A challenge is unpredictable, serves one login, and is recognised when it comes back, on whatever connection.
//! - This target answers a challenge only after the initiator has answered its own.
//! - An unknown initiator, an unknown name and a wrong secret get the same answer after the same work.
//! - No secret serves in both directions, and none is ever shown: [`Secret`] has no `Debug`.
//! - Nothing is decoded beyond the length that its meaning allows.

mod challenge;
mod exchange;
mod secret;
mod text;
mod throttle;

pub use secret::{Secret, SecretError};

pub(crate) use challenge::Challenges;
pub(crate) use exchange::{Exchange, Keys, Refusal, Rules, Subject};
pub(crate) use text::{decode, encode};
pub(crate) use throttle::{Throttle, Verdict};

use md5::Md5;
use sha2::Sha256;
use sha3::{Digest, Sha3_256};

/// A name and the secret that proves it.
#[derive(Clone)]
pub struct Credentials {
    /// What CHAP_N says: 1 to 223 bytes.
    pub name: String,
    /// The secret.
    pub secret: Secret,
}

/// What a host must show, and what it is shown.
#[derive(Clone)]
pub struct Chap {
    /// The host's.
    pub host: Credentials,
    /// This target's, for hosts that ask for them. Another secret than that of any host.
    pub target: Option<Credentials>,
}

/// A hash function for CHAP (IANA, "iSCSI CHAP algorithms"). SHA-1 (6) is not offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Algorithm {
    /// 8.
    Sha3_256,
    /// 7.
    Sha256,
    /// 5: weak, and all that ESX and Windows know.
    Md5,
}

impl Algorithm {
    /// All, the strongest first.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha3_256, Algorithm::Sha256, Algorithm::Md5];

    /// Its number in CHAP_A.
    pub(crate) fn number(self) -> u32 {
        match self {
            Algorithm::Sha3_256 => 8,
            Algorithm::Sha256 => 7,
            Algorithm::Md5 => 5,
        }
    }

    /// The answer to a challenge: the hash of identifier, secret and challenge (RFC 1994 4.1).
    pub(crate) fn response(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update([id])
                .chain_update(secret.bytes())
                .chain_update(challenge)
                .finalize()
                .to_vec()
        }
        match self {
            Algorithm::Sha3_256 => hash::<Sha3_256>(id, secret, challenge),
            Algorithm::Sha256 => hash::<Sha256>(id, secret, challenge),
            Algorithm::Md5 => hash::<Md5>(id, secret, challenge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From an implementation that is not ours: Python's hashlib, over `07`, `twelve bytes`, `00..0f`.
    #[test]
    fn responses_are_the_hashes_of_identifier_secret_and_challenge() {
        let secret = Secret::new("twelve bytes").expect("long enough");
        let challenge: Vec<u8> = (0..16).collect();
        let found = Algorithm::ALL.map(|algorithm| hex(&algorithm.response(7, &secret, &challenge)));
        assert_eq!(found, VECTORS);
    }

    const VECTORS: [&str; 3] = [
        "63155781ab395bcfc02a0a048c6a7857d66ce823c843cefeb3133d4aa484b281",
        "e14f1e92467b23ae861230b5c343da0b4688d51e7f70ab4e4abcc52bbc89afab",
        "55d35c669732a1b5e02c5019ecda2f2f",
    ];
}
