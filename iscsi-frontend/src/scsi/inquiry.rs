//! Standard INQUIRY data (SPC-4 6.6.2).

use super::{Plan, Port, answer};

/// SAM-5, SPC-4, SBC-3, iSCSI: version descriptors without a claim of a revision.
const VERSIONS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];
/// Peripheral qualifier 011b, device type 1Fh: no unit here.
pub(super) const NO_UNIT: u8 = 0x7f;

/// The data of a disk, or with `byte_0` = [`NO_UNIT`] of a LUN that is not there.
pub(super) fn standard(port: &Port, byte_0: u8, allocation: u32) -> Plan {
    let mut b = vec![0; 96];
    b[0] = byte_0;
    b[2] = 0x06; // SPC-4
    b[3] = 0x12; // HISUP, response data format 2
    b[4] = (b.len() - 5) as u8;
    b[5] = 0x18; // TPGS: implicit; 3PC
    b[6] = 0x10; // MULTIP
    b[7] = 0x02; // CMDQUE
    b[8..16].copy_from_slice(&port.vendor);
    b[16..32].copy_from_slice(&port.product);
    b[32..36].copy_from_slice(&port.revision);
    for (field, version) in b[58..74].chunks_exact_mut(2).zip(VERSIONS) {
        field.copy_from_slice(&version.to_be_bytes());
    }
    answer(b, allocation)
}
