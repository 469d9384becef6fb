//! Vital product data (SPC-4 7.8, SBC-3 6.6).

use super::{Identity, Plan, Port, Sense, answer, copy};
use twinsan::guest::{COMPARE_SECTORS_MAX, TRANSFER_SECTORS_MAX, VolumeInfo, ZERO_SECTORS_MAX};

/// The pages there are.
const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2];
/// Block descriptors that one UNMAP may carry.
pub(super) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// Blocks of one WRITE SAME: 16 MiB.
pub(super) const WRITE_SAME_BLOCKS_MAX: u32 = 32_768;
const _: () = assert!(WRITE_SAME_BLOCKS_MAX as u64 <= ZERO_SECTORS_MAX);
/// Blocks in 4 KiB: what transfers should be a multiple of.
const TRANSFER_GRANULARITY: u16 = 8;
/// WRITE ATOMIC writes so many blocks, no more, no fewer, at a multiple of it: what the engine writes whole or not at all.
pub(super) const ATOMIC_BLOCKS: u32 = 8;
/// Blocks of one COMPARE AND WRITE.
pub(super) const COMPARE_BLOCKS_MAX: u8 = COMPARE_SECTORS_MAX as u8;
const _: () = assert!(COMPARE_SECTORS_MAX <= u8::MAX as u64);
/// 1 MiB in blocks: longer transfers gain nothing.
const TRANSFER_OPTIMAL: u32 = 2048;

/// Page `page` of a unit.
pub(super) fn page(port: &Port, identity: &Identity, info: &VolumeInfo, page: u8, allocation: u32) -> Plan {
    let mut b = vec![0, page, 0, 0];
    match page {
        0x00 => b.extend_from_slice(&PAGES),
        0x80 => b.extend_from_slice(identity.serial.as_bytes()),
        0x83 => identification(port, identity, &mut b),
        0x86 => extended_inquiry(&mut b),
        0x8f => copy::third_party(&mut b),
        0xb0 => block_limits(info, &mut b),
        0xb1 => characteristics(&mut b),
        0xb2 => provisioning(&mut b),
        _ => return Sense::cdb(2).into(),
    }
    let length = (b.len() - 4) as u16;
    b[2..4].copy_from_slice(&length.to_be_bytes());
    answer(b, allocation)
}

/// Designators of the unit, of this port, and of the target device.
fn identification(port: &Port, identity: &Identity, b: &mut Vec<u8>) {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    const UNIT: u8 = 0x00;
    const PORT: u8 = 0x90; // PIV, association 01b
    const DEVICE: u8 = 0xa0; // PIV, association 10b
    const ISCSI: u8 = 0x50;

    designator(b, BINARY, UNIT | 0x03, &identity.naa);
    let vendor = [&port.vendor[..], identity.serial.as_bytes()].concat();
    designator(b, ASCII, UNIT | 0x01, &vendor);
    let [high, low] = port.group.to_be_bytes();
    designator(b, ISCSI | BINARY, PORT | 0x04, &[0, 0, high, low]);
    designator(b, ISCSI | BINARY, PORT | 0x05, &[0, 0, high, low]);
    designator(b, ISCSI | UTF8, PORT | 0x08, &name(&format!("{},t,0x{:04x}", port.target, port.group)));
    designator(b, ISCSI | UTF8, DEVICE | 0x08, &name(&port.target));
}

fn designator(b: &mut Vec<u8>, code_set: u8, kind: u8, bytes: &[u8]) {
    let bytes = bytes.get(..252).unwrap_or(bytes);
    b.extend_from_slice(&[code_set, kind, 0, bytes.len() as u8]);
    b.extend_from_slice(bytes);
}

/// A SCSI name string: ended by a zero, filled to a multiple of four.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((bytes.len() + 4) & !3, 0);
    bytes
}

fn extended_inquiry(b: &mut Vec<u8>) {
    b.resize(64, 0);
    b[5] = 0x01; // SIMPSUP
    b[6] = 0x01; // V_SUP: a volatile cache
}

fn block_limits(info: &VolumeInfo, b: &mut Vec<u8>) {
    b.resize(64, 0);
    let granularity = u32::try_from(info.extent_sectors).unwrap_or(u32::MAX);
    b[4] = 0x01; // WSNZ: WRITE SAME of "the rest of the medium" is not offered
    b[5] = COMPARE_BLOCKS_MAX;
    b[6..8].copy_from_slice(&TRANSFER_GRANULARITY.to_be_bytes());
    b[8..12].copy_from_slice(&(TRANSFER_SECTORS_MAX as u32).to_be_bytes());
    b[12..16].copy_from_slice(&TRANSFER_OPTIMAL.to_be_bytes());
    b[20..24].copy_from_slice(&(ZERO_SECTORS_MAX as u32).to_be_bytes());
    b[24..28].copy_from_slice(&UNMAP_DESCRIPTORS_MAX.to_be_bytes());
    b[28..32].copy_from_slice(&granularity.to_be_bytes());
    b[32] = 0x80; // UGAVALID: extents are aligned to block 0
    b[36..44].copy_from_slice(&u64::from(WRITE_SAME_BLOCKS_MAX).to_be_bytes());
    // Maximum, alignment, granularity (SBC-4 6.6.4); no boundary within a command.
    for field in b[44..56].chunks_exact_mut(4) {
        field.copy_from_slice(&ATOMIC_BLOCKS.to_be_bytes());
    }
}

fn characteristics(b: &mut Vec<u8>) {
    b.resize(64, 0);
    b[5] = 0x01; // a medium that does not rotate
}

fn provisioning(b: &mut Vec<u8>) {
    // LBPU, LBPWS, LBPWS10, LBPRZ 001b; thin.
    b.extend_from_slice(&[0, 0xe4, 0x02, 0]);
}

/// The page list of a LUN that is not there: only page 00h, empty but for itself (SPC-4 6.6.1).
pub(super) fn no_unit(byte_0: u8, page: u8, allocation: u32) -> Plan {
    if page != 0 {
        return Sense::cdb(2).into();
    }
    answer(vec![byte_0, 0, 0, 1, 0], allocation)
}
