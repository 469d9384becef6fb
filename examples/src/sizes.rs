//! Sizes as people write and read them.

/// The bytes of a size such as `64GiB`, `500GB`, `4096` or `1 TiB`: binary units are powers of 1024, the others of 1000.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Bytes for people: three digits and a binary unit.
pub(crate) fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(parse("64GiB"), Some(64 << 30));
        assert_eq!(parse("500 GB"), Some(500_000_000_000));
        assert_eq!(parse("4096"), Some(4096));
        assert_eq!(parse("1.5GiB"), None);
        assert_eq!(parse("GiB"), None);
        assert_eq!(parse("99999999TiB"), None);
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(show(512), "512 B");
        assert_eq!(show(1536), "1.5 KiB");
        assert_eq!(show(300 << 30), "300 GiB");
    }
}
