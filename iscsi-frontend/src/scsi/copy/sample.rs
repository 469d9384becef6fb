//! Lists of parameters for tests.

/// A CSCD descriptor of a disk with blocks of 512 bytes and this NAA designator.
pub(crate) fn cscd(naa: &[u8; 16]) -> [u8; 32] {
    let mut b = [0; 32];
    b[0] = 0xe4;
    (b[4], b[5], b[7]) = (1, 3, 16);
    b[8..24].copy_from_slice(naa);
    b[30] = 2;
    b
}

/// A segment descriptor: `blocks` from block `from` of CSCD `ends.0` to block `to` of CSCD `ends.1`.
pub(crate) fn segment(ends: (u16, u16), blocks: u16, from: u64, to: u64) -> [u8; 28] {
    let mut b = [0; 28];
    (b[0], b[3]) = (0x02, 0x18);
    b[4..6].copy_from_slice(&ends.0.to_be_bytes());
    b[6..8].copy_from_slice(&ends.1.to_be_bytes());
    b[10..12].copy_from_slice(&blocks.to_be_bytes());
    b[12..20].copy_from_slice(&from.to_be_bytes());
    b[20..28].copy_from_slice(&to.to_be_bytes());
    b
}

/// A list with this identifier, its result retained.
pub(crate) fn list(identifier: u8, cscds: &[[u8; 32]], segments: &[[u8; 28]]) -> Vec<u8> {
    let mut b = vec![0; 16];
    b[0] = identifier;
    b[2..4].copy_from_slice(&((cscds.len() * 32) as u16).to_be_bytes());
    b[8..12].copy_from_slice(&((segments.len() * 28) as u32).to_be_bytes());
    b.extend(cscds.concat());
    b.extend(segments.concat());
    b
}
