//! Entry points for fuzzing, also run by ordinary tests over a committed corpus.

use std::sync::Arc;

use crate::access::Access;
use crate::scsi::{Cdb, Plan, Port, Unit};
use crate::session::drive::{Drive, HandVolume};
use crate::target::{Target, TargetConfig};

/// What a connection may hold for an initiator that reads nothing: commands' data, unsent output, a large write
/// that is alone, and change.
const MEMORY_BYTES_MAX: usize = 64 << 20;
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
            assert!(connection.memory_bytes() <= MEMORY_BYTES_MAX, "memory of a connection");
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

/// Plans a command from a CDB (the first 16 bytes) and, if it takes any, the parameters that follow.
///
/// # Panics
/// By the bug that is being looked for.
pub fn command(input: &[u8]) {
    let volume = HandVolume::new(1);
    let mut unit = Unit::new(0, volume, false);
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
    if let Plan::Run(mut work) | Plan::Fetch { mut work, .. } = plan {
        let mut steps = 0;
        while work.step().is_some() {
            steps += 1;
            assert!(steps <= 1024, "a command comes to finitely many requests");
        }
    }
}
