//! Binary values in login text (RFC 7143 6.1, "large-binary-value"): hexadecimal after `0x`, base64 after `0b`.
//!
//! Invariant: the length is known, and refused if too large, before anything is decoded.

/// The bytes of a value, if they are well formed, at least one, and at most `limit`.
pub(crate) fn decode(value: &str, limit: usize) -> Option<Vec<u8>> {
    let (kind, digits) = value.as_bytes().split_at_checked(2)?;
    match kind {
        b"0x" | b"0X" => hexadecimal(digits, limit),
        b"0b" | b"0B" => base64(digits, limit),
        _ => None,
    }
}

fn hexadecimal(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() / 2 > limit {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits.chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

fn base64(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 || digits.len() / 4 * 3 - padding > limit {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 - padding);
    let (mut bits, mut have) = (0u32, 0);
    for digit in &digits[..digits.len() - padding] {
        bits = bits << 6 | sextet(*digit)?;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    // What is left over says nothing, or the text is not one that an encoder makes.
    (bits == 0).then_some(bytes)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// A value in hexadecimal.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(half), 16));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(decode("0x00fFa7", 3), Some(vec![0, 0xff, 0xa7]));
        assert_eq!(decode("0Xab", 16), Some(vec![0xab]));
        // RFC 4648 section 10.
        for (text, bytes) in [
            ("0bZg==", "f"),
            ("0bZm8=", "fo"),
            ("0BZm9v", "foo"),
            ("0bZm9vYg==", "foob"),
            ("0bZm9vYmE=", "fooba"),
            ("0bZm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text, 6), Some(bytes.as_bytes().to_vec()), "{text}");
        }
        assert_eq!(decode("0b+/+/", 3), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(decode(&encode(&[0, 1, 0xfe]), 3), Some(vec![0, 1, 0xfe]));
    }

    #[test]
    fn what_is_malformed_or_too_long_is_refused() {
        for text in [
            "",
            "0",
            "0x",
            "0b",
            "x",
            "00",
            "0xa",
            "0xag",
            "0x-1",
            "0x 1",
            "ab",
            "0bZ",
            "0bZg=",
            "0b====",
            "0bZ===",
            "0bZh==",
            "0bZm9=",
            "0b=m9v",
            "0bZm 9",
            "0bZ\u{e9}g",
            "0x\u{e9}",
        ] {
            assert_eq!(decode(text, 64), None, "{text:?}");
        }
        assert_eq!(decode("0x001122", 2), None);
        assert_eq!(decode("0bZm9v", 2), None);
        assert_eq!(decode(&format!("0x{}", "00".repeat(4096)), 1024), None);
    }
}
