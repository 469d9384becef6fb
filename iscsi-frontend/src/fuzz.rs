//! Entry points for fuzzing, also run by ordinary tests over a committed corpus.

mod copies;
mod reservations;
mod values;

pub use copies::copy_list;
pub use reservations::reservations;
pub use values::{chap_decode, parameters, text_keys};

use std::sync::Arc;

use twinsan::block::BLOCK_BYTES;

use crate::access::{Access, Host, Mapping};
use crate::chap::{Algorithm, Chap, Credentials, Secret};
use crate::pdu::text;
use crate::scsi::{Cdb, LOGICAL_BLOCK_BYTES, Plan, Port, Unit};
use crate::session::Connection;
use crate::session::drive::{Drive, HandVolume, SECTORS, nexus};
use crate::target::{Target, TargetConfig};

/// What a connection may hold for an initiator that reads nothing: commands' data, unsent output, a large write
/// that is alone, and change.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// As long as it has not logged in: 16 KiB with its fixed part.
const LOGIN_BYTES_MAX: usize = (16 << 10) - size_of::<Connection>();
const INITIATOR: &str = "InitiatorName=iqn.2026-01.example:fuzz\0";
const TARGET: &str = "iqn.2026-01.example:san";

fn drive(volume: &Arc<HandVolume>) -> Drive {
    let volume = Arc::clone(volume);
    let access = Access::for_anyone([(0, volume as _)]);
    Drive::new(Target::new(TargetConfig::new(TARGET), access).expect("a good configuration"))
}

/// Feeds bytes from an initiator to a connection. The first byte chooses: bit 0 logs in first, bit 1 lets the
/// volume hold requests, bit 2 leaves output unsent, bit 3 asks for digests, the rest how the bytes are cut.
/// Returns how many bytes the target sent.
///
/// # Panics
/// If a limit on memory is broken, or by the bug that is being looked for.
pub fn pdu_stream(input: &[u8]) -> usize {
    let Some((&how, stream)) = input.split_first() else { return 0 };
    let volume = HandVolume::new(1);
    let mut drive = drive(&volume);
    let link = drive.connect();
    if how & 1 != 0 {
        drive.feed(link, &login(how & 8 != 0));
    }
    volume.state.lock().hold = how & 2 != 0;
    let mut sent = 0;
    for piece in stream.chunks(1 + usize::from(how >> 4) * 37) {
        drive.feed(link, piece);
        if how & 4 == 0 {
            sent += drive.drain(link).len();
        }
        if let Some(connection) = drive.get(link) {
            let most = if connection.is_logging_in() { LOGIN_BYTES_MAX } else { MEMORY_BYTES_MAX };
            assert!(connection.memory_bytes() <= most, "memory of a connection");
        }
        if piece.first().is_some_and(|byte| byte & 3 == 0) {
            volume.answer(volume.held() / 2);
        }
    }
    if let Some(connection) = drive.get(link) {
        connection.hang_up();
    }
    drive.deliver();
    assert!(drive.get(link).is_none(), "a connection that is over is forgotten");
    sent
}

fn login(digests: bool) -> Vec<u8> {
    let digests = if digests { "HeaderDigest=CRC32C\0DataDigest=CRC32C\0" } else { "" };
    let text = format!("{INITIATOR}TargetName={TARGET}\0InitialR2T=No\0{digests}");
    let mut pdu = vec![0; 48];
    pdu[0] = 0x43;
    pdu[1] = 0x87;
    pdu[7] = text.len() as u8;
    pdu.extend_from_slice(text.as_bytes());
    pdu.resize((pdu.len() + 3) & !3, 0);
    pdu
}

const SECRETS: [&str; 2] = ["the host's secret", "the target's secret"];

/// Logs in to a target that asks for CHAP: each line is the text of one request, its first byte the flags (bit 0 asks
/// to go on, bit 1 to the full-feature phase, bit 2 says that more text follows, bit 3 is the
/// operational stage). `;` stands for the zero between keys,
/// `@R` for the right response to the challenge of this login, `@C` for that challenge.
/// Returns whether the login got through.
///
/// # Panics
/// If a login gets through that has not proved who it is, or by the bug that is being looked for.
pub fn login_text(input: &[u8]) -> bool {
    let credentials = |name: &str, secret| Credentials {
        name: name.to_owned(),
        secret: Secret::new(secret).unwrap_or_else(|error| unreachable!("{error}")),
    };
    let [host, target] = SECRETS;
    let chap = Chap { host: credentials("esx1", host), target: Some(credentials("san", target)) };
    let hosts = vec![Host { chap: Some(chap), ..Host::new("fuzz", &["iqn.2026-01.example:fuzz"]) }];
    let mappings = vec![Mapping::new("fuzz", 0, HandVolume::new(1))];
    let target = Target::new(TargetConfig::new(TARGET), Access { hosts, mappings });
    let mut drive = Drive::new(target.expect("a good configuration"));
    let link = drive.connect();
    let (mut challenge, mut proved) = (Vec::new(), false);
    for line in input.split(|byte| *byte == b'\n') {
        let Some((&how, line)) = line.split_first() else { continue };
        let (response, asked) = (right_response(&challenge), value(&challenge, "CHAP_C"));
        proved |= !response.is_empty() && line.windows(2).any(|pair| pair == b"@R");
        let line: Vec<u8> = line.iter().map(|byte| if *byte == b';' { 0 } else { *byte }).collect();
        let line = replace(&replace(&line, b"@R", response.as_bytes()), b"@C", asked.as_bytes());
        drive.feed(link, &login_pdu(how, &line));
        challenge = drive.drain(link).get(48..).unwrap_or_default().to_vec();
        let Some(connection) = drive.get(link) else { return false };
        assert!(connection.memory_bytes() <= LOGIN_BYTES_MAX, "memory of a login");
        if !connection.is_logging_in() {
            assert!(proved, "a login got through without a proof");
            return true;
        }
    }
    false
}

fn login_pdu(how: u8, text: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0; 48];
    pdu[0] = 0x43;
    pdu[1] = (how & 1) << 7 | (how & 4) << 4 | (how & 8) >> 1 | if how & 2 != 0 { 3 } else { how & 1 };
    let length = (text.len() as u32).to_be_bytes();
    pdu[5..8].copy_from_slice(&length[1..]);
    pdu.extend_from_slice(text);
    pdu.resize((pdu.len() + 3) & !3, 0);
    pdu
}

fn value(reply: &[u8], key: &str) -> String {
    let mut pairs = text::pairs(reply).flatten();
    pairs.find(|(found, _)| *found == key).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// What proves the initiator to whoever sent this challenge; empty if it is none.
fn right_response(reply: &[u8]) -> String {
    let number = text::number(&value(reply, "CHAP_A"));
    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| Some(algorithm.number()) == number);
    let id = text::number(&value(reply, "CHAP_I")).and_then(|id| u8::try_from(id).ok());
    let challenge = crate::chap::decode(&value(reply, "CHAP_C"), 1024);
    let (Some(algorithm), Some(id), Some(challenge)) = (algorithm, id, challenge) else {
        return String::new();
    };
    let Ok(secret) = Secret::new(SECRETS[0]) else { return String::new() };
    crate::chap::encode(&algorithm.response(id, &secret, &challenge))
}

fn replace(text: &[u8], from: &[u8; 2], to: &[u8]) -> Vec<u8> {
    let Some(place) = text.windows(2).position(|pair| pair == from) else { return text.to_vec() };
    [&text[..place], to, &text[place + 2..]].concat()
}

/// Plans a command from a CDB (the first 16 bytes) and, if it takes any, the parameters that follow; data is zeros.
///
/// # Panics
/// If it asks for anything beyond the end of the unit or never comes to an end, or by the bug that is being looked for.
pub fn command(input: &[u8]) {
    let volume = HandVolume::new(1);
    let mut unit = Unit::new(0, volume, false, &nexus());
    let config = TargetConfig::new(TARGET);
    let port = Port::new(TARGET, (1, 2), &config.vendor, &config.product, &config.revision);
    let mut cdb = Cdb([0; 16]);
    let (head, parameters) = input.split_at(input.len().min(16));
    cdb.0[..head.len()].copy_from_slice(head);
    let mut plan = unit.plan(&cdb, &port);
    if let Plan::Parameters { kind, bytes } = plan {
        let list = &parameters[..parameters.len().min(bytes as usize)];
        plan = unit.plan_parameters(kind, list, &config.pages);
    }
    if let Plan::Store { work, bytes, head, .. } = &mut plan {
        let blocks = (*head as usize + *bytes as usize).div_ceil(BLOCK_BYTES);
        let sectors = u64::from(*bytes / LOGICAL_BLOCK_BYTES);
        work.supply(twinsan::block::zeros(blocks), sectors, &config.pages);
    }
    if let Plan::Run(mut work) | Plan::Fetch { mut work, .. } | Plan::Store { mut work, .. } = plan {
        let mut steps = 0;
        while let Some(command) = work.step() {
            steps += 1;
            assert!(steps <= 1024, "a command comes to finitely many requests");
            if let Some(at) = command.sectors() {
                assert!(at.end() <= SECTORS, "{at:?} is beyond the end");
            }
        }
    }
}
