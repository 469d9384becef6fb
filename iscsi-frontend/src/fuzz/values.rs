//! Entry points below the stream: what an initiator says in text, in CHAP values, and in parameter lists.

use std::sync::Arc;

use twinsan::guest::{Command, Sectors, ZERO_SECTORS_MAX};

use super::{INITIATOR, TARGET, drive};
use crate::chap::{decode, encode};
use crate::pdu::text;
use crate::scsi::{Cdb, Plan, Port, Unit, Work};
use crate::session::Params;
use crate::session::drive::{Drive, HandVolume, SECTORS, nexus};
use crate::target::TargetConfig;

/// The longest text that is made of an input: what a login takes.
const TEXT_BYTES_MAX: usize = 8192;
/// Answers to a text of that length stay below this, in bytes.
const REPLY_BYTES_MAX: usize = 16 << 10;

/// Negotiates the keys of a text, in which `;` stands for the zero between them. The first byte chooses: bit 0 a
/// discovery session, bit 1 says it all again in the full-feature phase, in pieces as long as the rest of the byte tells.
/// Returns how many keys were pairs.
///
/// # Panics
/// If what was negotiated is beyond what this target can, if the answer to a text is out of proportion, or by the bug that
/// is being looked for.
pub fn text_keys(input: &[u8]) -> usize {
    let Some((&how, text)) = input.split_first() else { return 0 };
    let text: Vec<u8> =
        text.iter().take(TEXT_BYTES_MAX).map(|byte| if *byte == b';' { 0 } else { *byte }).collect();
    let discovery = how & 1 != 0;
    let mut params = Params::default();
    let mut known = 0;
    for (key, value) in text::pairs(&text).flatten() {
        params.offer(key, value, discovery);
        known += 1;
        let mut again = Vec::new();
        text::put(&mut again, key, value);
        assert_eq!(
            text::pairs(&again).collect::<Vec<_>>(),
            [Ok((key, value))],
            "a pair is read as it was put"
        );
    }
    params.settle();
    assert!(params.first_burst <= params.max_burst && params.max_burst <= 1 << 20, "{params:?}");
    assert!((512..1 << 24).contains(&params.send_bytes_max) && params.first_burst >= 512, "{params:?}");
    if how & 2 != 0 {
        say_again(&text, discovery, 1 + usize::from(how >> 2) * 16);
    }
    known
}

/// The text in the full-feature phase, in pieces of `piece` bytes.
fn say_again(text: &[u8], discovery: bool, piece: usize) {
    const WAITS: u8 = 0;
    let mut drive = drive(&HandVolume::new(1));
    let link = drive.connect();
    let kind = if discovery { "SessionType=Discovery\0" } else { "" };
    let login = format!("{INITIATOR}TargetName={TARGET}\0{kind}");
    ask(&mut drive, link, [0x43, 0x87], u32::MAX, login.as_bytes());
    let mut ttt = u32::MAX;
    let mut pieces = text.chunks(piece).peekable();
    while let Some(data) = pieces.next() {
        let flags = if pieces.peek().is_some() { 0x40 } else { 0x80 };
        let reply = ask(&mut drive, link, [0x44, flags], ttt, data);
        assert!(reply.len() <= REPLY_BYTES_MAX, "{} bytes for {}", reply.len(), text.len());
        let Some(head) = reply.get(..48) else { return };
        if pieces.peek().is_some() && (head[0], head[1]) != (0x24, WAITS) {
            assert_eq!(head[0], 0x3f, "more text is waited for, or none is taken");
            return;
        }
        ttt = u32::from_be_bytes([head[20], head[21], head[22], head[23]]);
    }
}

fn ask(drive: &mut Drive, link: usize, start: [u8; 2], ttt: u32, data: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0; 48];
    pdu[..2].copy_from_slice(&start);
    pdu[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    pdu[20..24].copy_from_slice(&ttt.to_be_bytes());
    pdu.extend_from_slice(data);
    pdu.resize((pdu.len() + 3) & !3, 0);
    drive.feed(link, &pdu);
    drive.drain(link)
}

/// Decodes a value of CHAP_R or CHAP_C: the first byte and one give the most bytes it may have. Returns its bytes.
///
/// # Panics
/// If more is decoded than may be, or what was decoded is not what the text says, or by the bug that is being looked for.
pub fn chap_decode(input: &[u8]) -> Option<Vec<u8>> {
    let (&limit, value) = input.split_first()?;
    let limit = usize::from(limit) + 1;
    let value = core::str::from_utf8(value).ok()?;
    let bytes = decode(value, limit)?;
    assert!((1..=limit).contains(&bytes.len()), "{} bytes of at most {limit}", bytes.len());
    let (kind, digits) = value.split_at(2);
    let same = match kind {
        "0x" | "0X" => encode(&bytes)[2..] == digits.to_ascii_lowercase(),
        _ => base64(&bytes) == digits,
    };
    assert!(same, "{value} is not {bytes:02x?}");
    assert_eq!(decode(&encode(&bytes), limit).as_deref(), Some(&bytes[..]), "a value is read as it was put");
    Some(bytes)
}

/// RFC 4648, as an encoder of another hand would do it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or_default()));
        for digit in 0..4 {
            let sextet = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[sextet]) } else { '=' });
        }
    }
    text
}

/// Plans a command with a parameter list. The first byte chooses: UNMAP, WRITE SAME 10 or 16, near the beginning or the end
/// of the unit; the rest is the list. Returns how many requests of the volume come of it.
///
/// # Panics
/// If any of them is beyond the end, or all are more than one command may clear, or by the bug that is being looked for.
pub fn parameters(input: &[u8]) -> usize {
    let Some((&how, list)) = input.split_first() else { return 0 };
    let blocks = 1 + u32::from(how >> 3) * 1000;
    let lba = if how & 4 != 0 { SECTORS as u32 - blocks } else { 0 };
    let mut cdb = Cdb([0; 16]);
    match how & 3 {
        0 | 1 => {
            cdb.0[0] = 0x42;
            cdb.0[7..9].copy_from_slice(&(list.len().min(0xffff) as u16).to_be_bytes());
        }
        2 => {
            cdb.0[0] = 0x41;
            cdb.0[2..6].copy_from_slice(&lba.to_be_bytes());
            cdb.0[7..9].copy_from_slice(&(blocks as u16).to_be_bytes());
        }
        _ => {
            cdb.0[0] = 0x93;
            cdb.0[6..10].copy_from_slice(&lba.to_be_bytes());
            cdb.0[10..14].copy_from_slice(&blocks.to_be_bytes());
        }
    }
    let config = TargetConfig::new(TARGET);
    let port = Port::new(TARGET, (1, 2), &config.vendor, &config.product, &config.revision);
    let mut unit = Unit::new(0, Arc::clone(&HandVolume::new(1)) as _, false, &nexus());
    let Plan::Parameters { kind, bytes } = unit.plan(&cdb, &port) else { return 0 };
    let list = &list[..list.len().min(bytes as usize)];
    match unit.plan_parameters(kind, list, &config.pages) {
        Plan::Run(work) => judge(work, how & 3 < 2),
        Plan::Good | Plan::Fail(_) => 0,
        other => unreachable!("parameters come to {other:?}"),
    }
}

/// How many requests `work` is, all within the volume.
fn judge(mut work: Work, clears: bool) -> usize {
    let (mut requests, mut total) = (0, 0);
    while let Some(command) = work.step() {
        let (at, blocks): (Sectors, Option<usize>) = match &command {
            Command::Zero { at, .. } => (*at, None),
            Command::Write { at, data, .. } => (*at, Some(data.len())),
            other => unreachable!("a list comes to {other:?}"),
        };
        assert!(at.count > 0 && at.end() <= SECTORS, "{at:?} is beyond the end");
        let touched = at.blocks();
        assert!(
            blocks.is_none_or(|blocks| blocks as u64 == touched.end - touched.start),
            "{at:?}: {blocks:?}"
        );
        requests += 1;
        total += at.count;
    }
    assert!(!clears || total <= ZERO_SECTORS_MAX, "{total} sectors in one command");
    requests
}
