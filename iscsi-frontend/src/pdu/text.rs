//! Key=value text (RFC 7143 section 6.1): pairs, each ended by a zero byte.

/// The longest key name (RFC 7143 6.1).
pub(crate) const KEY_BYTES_MAX: usize = 63;

/// The text breaks the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// The pairs of `text`, in order. A last pair without its zero byte is taken too, as tolerant targets do.
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = Result<(&str, &str), Malformed>> {
    text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(pair)
}

fn pair(bytes: &[u8]) -> Result<(&str, &str), Malformed> {
    let text = core::str::from_utf8(bytes).map_err(|_| Malformed)?;
    let (key, value) = text.split_once('=').ok_or(Malformed)?;
    let fits = !key.is_empty() && key.len() <= KEY_BYTES_MAX;
    if fits { Ok((key, value)) } else { Err(Malformed) }
}

/// Appends a pair.
pub(crate) fn put(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number in decimal or, after `0x`, in hexadecimal (RFC 7143 6.1).
pub(crate) fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // Rust would read a sign too.
    let sound = digits.chars().all(|digit| digit.is_digit(radix));
    if sound { u32::from_str_radix(digits, radix).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_in_order() {
        let text = b"A=1\0B=x=y\0C=";
        let all: Vec<_> = pairs(text).map(Result::unwrap).collect();
        assert_eq!(all, [("A", "1"), ("B", "x=y"), ("C", "")]);
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        assert_eq!(pairs(b"novalue\0").next(), Some(Err(Malformed)));
        assert_eq!(pairs(b"=v\0").next(), Some(Err(Malformed)));
        assert_eq!(pairs(b"\xff=v\0").next(), Some(Err(Malformed)));
        let long = [b'k'; 64];
        assert_eq!(pairs(&[&long[..], b"=v\0"].concat()).next(), Some(Err(Malformed)));
    }

    #[test]
    fn numbers_have_two_forms() {
        assert_eq!(number("8192"), Some(8192));
        assert_eq!(number("0x2000"), Some(8192));
        for none in ["-1", "+1", "0x+1", "0x", "", "1 ", "0x1g", "a"] {
            assert_eq!(number(none), None, "{none:?}");
        }
        assert_eq!(number("4294967296"), None);
    }
}
