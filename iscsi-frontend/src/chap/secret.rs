//! Secrets, in a type of their own so that none is printed, compared or copied by accident.

use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// 96 bits (RFC 7143 9.2.1).
const BYTES_MIN: usize = 12;
const BYTES_MAX: usize = 128;

/// A CHAP secret: 12 to 128 bytes. Its memory is cleared when the last copy goes, as far as that can be had.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

/// Why a text is no [`Secret`]. Does not say what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a CHAP secret of {bytes} bytes; take 12 to 128 random ones (Windows takes at most 16)")]
pub struct SecretError {
    bytes: usize,
}

impl Secret {
    /// The bytes of a text, as initiators take them.
    pub fn new(text: &str) -> Result<Secret, SecretError> {
        let bytes = text.len();
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
            return Err(SecretError { bytes });
        }
        Ok(Secret(Arc::new(Zeroizing::new(text.as_bytes().to_vec()))))
    }

    /// One that nobody knows.
    pub(crate) fn random() -> Result<Secret, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut bytes)?;
        Ok(Secret(Arc::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Are they the same?
    pub(crate) fn same(&self, other: &Secret) -> bool {
        self.bytes().ct_eq(other.bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_at_least_96_bits() {
        assert!(Secret::new("elevenbytes").is_err());
        assert!(Secret::new(&"x".repeat(129)).is_err());
        let (a, b) = (Secret::new("twelve bytes"), Secret::new("Twelve bytes"));
        let (a, b) = (a.expect("long enough"), b.expect("long enough"));
        assert!(a.same(&a.clone()) && !a.same(&b));
    }

    #[test]
    fn the_text_of_a_refusal_does_not_tell_the_secret() {
        let error = Secret::new("hunter2").err().expect("too short");
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.to_string().contains("7 bytes"));
    }
}
