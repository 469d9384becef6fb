//! The secret that a partnership shares with its witness, in a type that is not printed.

use std::fmt;

use sha3::{Digest, Sha3_256};
use zeroize::Zeroizing;

/// Fewer could be guessed by whoever has heard one login.
const BYTES_MIN: usize = 32;
const BYTES_MAX: usize = 128;

/// A shared secret: 32 to 128 bytes, as random as hexadecimal digits of a random number are. What is kept is the key that
/// is made from it. Its memory is cleared when it goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

/// Why a text is no [`Secret`]. Does not say what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a secret of {bytes} bytes; take 32 to 128 random ones, for instance from: openssl rand -hex 32")]
pub struct SecretError {
    bytes: usize,
}

impl Secret {
    /// The secret that is this text.
    ///
    /// # Errors
    /// It is shorter than 32 bytes or longer than 128.
    pub fn new(text: &str) -> Result<Secret, SecretError> {
        let bytes = text.len();
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
            return Err(SecretError { bytes });
        }
        let hash = Sha3_256::new().chain_update(b"twinsan witness secret").chain_update(text).finalize();
        Ok(Secret(Zeroizing::new(hash.into())))
    }

    /// One that nobody knows.
    pub(crate) fn random() -> Result<Secret, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Secret(key))
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_is_not_shown() {
        assert!(Secret::new(&"x".repeat(31)).is_err() && Secret::new(&"x".repeat(129)).is_err());
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_ne!(secret.key(), Secret::new("0123456789abcdef0123456789abcdeF").unwrap().key());
        let error = Secret::new("hunter2").unwrap_err().to_string();
        assert!(error.contains("7 bytes") && !error.contains("hunter2"));
    }
}
