//! Golden images: pools as text.

use std::sync::Arc;

use super::Disk;

pub(crate) fn to_text(disks: &[Disk]) -> String {
    let mut text = String::new();
    for (n, disk) in disks.iter().enumerate() {
        text += &format!("disk {n} bytes {}\n", disk.geometry.bytes);
        for (at, sector) in &disk.media {
            let end = sector.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if end != 0 {
                let bytes: String = sector[..end].iter().map(|byte| format!("{byte:02x}")).collect();
                text += &format!("{at} {bytes}\n");
            }
        }
    }
    text
}

pub(crate) fn from_text(text: &str) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["disk", _, "bytes", bytes] = words[..] {
            disks.push(Disk::new(bytes.parse().expect("a size")));
            continue;
        }
        let mut sector = [0u8; 512];
        for (n, byte) in sector.iter_mut().take(words[1].len() / 2).enumerate() {
            *byte = u8::from_str_radix(&words[1][2 * n..2 * n + 2], 16).expect("two digits");
        }
        let at = words[0].parse().expect("a number");
        disks.last_mut().expect("a disk comes first").media.insert(at, Arc::new(sector));
    }
    disks
}

/// `TWINSAN_PRINT_GOLDEN` has the image printed instead, for tests/golden.
#[expect(clippy::disallowed_methods, reason = "the variable asks for the image")]
pub(crate) fn assert_written_as(disks: &[Disk], golden: &str) {
    let text = to_text(disks);
    if std::env::var_os("TWINSAN_PRINT_GOLDEN").is_some() {
        return print!("{text}");
    }
    assert!(text == golden, "the format has changed: see tests/golden/README.md");
}
