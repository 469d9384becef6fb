//! MODE SENSE (SPC-4 6.13, 6.14): the caching and control pages. Nothing is changeable or saved.

use super::{LOGICAL_BLOCK_BYTES, Plan, Sense, answer};

/// Page control: which values (SPC-4 table 151).
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;
const DPOFUA: u8 = 0x10;
/// Write protected (SBC-3 6.5.1).
const WP: u8 = 0x80;

/// Caching (SBC-3 6.5.5): WCE, for a write is in both nodes' memory, not on disk, when it is answered.
const CACHING: [u8; 20] = [0x08, 0x12, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Control (SPC-4 7.5.8): fixed-format sense, unrestricted reordering, unlimited busy timeout.
const CONTROL: [u8; 12] = [0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];

/// What the CDB asks for.
pub(super) struct Request {
    pub(super) ten: bool,
    pub(super) no_descriptor: bool,
    pub(super) long: bool,
    pub(super) control: u8,
    pub(super) page: u8,
    pub(super) subpage: u8,
    pub(super) allocation: u32,
}

pub(super) fn sense(request: &Request, sectors: u64, read_only: bool) -> Plan {
    if request.control == SAVED {
        return Sense::NOT_SAVED.into();
    }
    let mut pages = Vec::with_capacity(CACHING.len() + CONTROL.len());
    match (request.page, request.subpage) {
        (0x08, 0x00 | 0xff) => put(&mut pages, &CACHING, request.control),
        (0x0a, 0x00 | 0xff) => put(&mut pages, &CONTROL, request.control),
        (0x3f, 0x00 | 0xff) => {
            put(&mut pages, &CACHING, request.control);
            put(&mut pages, &CONTROL, request.control);
        }
        (0x08 | 0x0a | 0x3f, _) => return Sense::cdb(3).into(),
        _ => return Sense::cdb(2).into(),
    }
    let descriptor = if request.no_descriptor { Vec::new() } else { descriptor(request.long, sectors) };
    let specific = DPOFUA | if read_only { WP } else { 0 };
    answer(whole(request, specific, &descriptor, &pages), request.allocation)
}

fn put(pages: &mut Vec<u8>, page: &[u8], control: u8) {
    let from = pages.len();
    pages.extend_from_slice(page);
    if control == CHANGEABLE {
        pages[from + 2..].fill(0);
    }
}

fn descriptor(long: bool, sectors: u64) -> Vec<u8> {
    let mut b = Vec::with_capacity(16);
    if long {
        b.extend_from_slice(&sectors.to_be_bytes());
        b.extend_from_slice(&[0; 4]);
    } else {
        b.extend_from_slice(&u32::try_from(sectors).unwrap_or(u32::MAX).to_be_bytes());
    }
    b.extend_from_slice(&LOGICAL_BLOCK_BYTES.to_be_bytes());
    b
}

fn whole(request: &Request, specific: u8, descriptor: &[u8], pages: &[u8]) -> Vec<u8> {
    let rest = descriptor.len() + pages.len();
    let mut b = Vec::with_capacity(8 + rest);
    if request.ten {
        b.extend_from_slice(&((6 + rest) as u16).to_be_bytes());
        b.extend_from_slice(&[0, specific, u8::from(request.long), 0]);
        b.extend_from_slice(&(descriptor.len() as u16).to_be_bytes());
    } else {
        b.extend_from_slice(&[(3 + rest) as u8, 0, specific, descriptor.len() as u8]);
    }
    b.extend_from_slice(descriptor);
    b.extend_from_slice(pages);
    b
}
