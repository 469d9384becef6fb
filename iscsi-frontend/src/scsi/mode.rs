//! MODE SENSE (SPC-4 6.13, 6.14) and MODE SELECT (6.11, 6.12): the caching and control pages. Nothing is changeable or
//! saved, so of what hosts may set only that is taken which is so already.

use super::{Kind, LOGICAL_BLOCK_BYTES, Plan, Sense, answer};

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

/// The longest list of MODE SELECT: everything that MODE SENSE tells is shorter.
const SELECT_BYTES_MAX: u32 = 255;

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

/// MODE SELECT with a list of `parameters` bytes to come.
pub(super) fn select(kind: Kind, parameters: u32) -> Result<Plan, Sense> {
    match parameters {
        0 => Ok(Plan::Good),
        1..=SELECT_BYTES_MAX => Ok(Plan::Parameters { kind, bytes: parameters }),
        _ => Err(Sense::PARAMETER_LENGTH),
    }
}

/// GOOD if the list changes nothing.
pub(super) fn selected(list: &[u8], ten: bool, sectors: u64) -> Plan {
    unchanged(list, ten, sectors).map_or_else(Plan::Fail, |()| Plan::Good)
}

fn unchanged(list: &[u8], ten: bool, sectors: u64) -> Result<(), Sense> {
    let header_bytes = if ten { 8 } else { 4 };
    let (header, rest) = list.split_at_checked(header_bytes).ok_or(Sense::PARAMETER_LENGTH)?;
    let (medium_at, length_at) = if ten { (2, 7) } else { (1, 3) };
    if header[medium_at] != 0 {
        return Err(Sense::parameter(medium_at as u16));
    }
    // The list has at most 255 bytes: a higher byte of the length is too much of it.
    let length = if ten && header[6] != 0 { usize::MAX } else { usize::from(header[length_at]) };
    let (told, mut pages) = rest.split_at_checked(length).ok_or(Sense::PARAMETER_LENGTH)?;
    let long = ten && header[4] & 1 != 0;
    if !told.is_empty() && told.len() != descriptor(long, sectors).len() {
        return Err(Sense::parameter(length_at as u16));
    }
    if !told.is_empty() && !keeps(told, &descriptor(long, sectors)) {
        return Err(Sense::parameter(header_bytes as u16));
    }
    let mut at = header_bytes + length;
    while let Some(code) = pages.first() {
        // PS means nothing here.
        let current: &[u8] = match code & 0x7f {
            0x08 => &CACHING,
            0x0a => &CONTROL,
            _ => return Err(Sense::parameter(at as u16)),
        };
        let (page, rest) = pages.split_at_checked(current.len()).ok_or(Sense::PARAMETER_LENGTH)?;
        if let Some(differs) = (1..current.len()).find(|byte| page[*byte] != current[*byte]) {
            return Err(Sense::parameter((at + differs) as u16));
        }
        (pages, at) = (rest, at + current.len());
    }
    Ok(())
}

/// Does a block descriptor leave the unit as it is? No blocks means as many as there are (SBC-3 6.5.2).
fn keeps(told: &[u8], current: &[u8]) -> bool {
    let (blocks, length) = told.split_at(told.len() - 4);
    let (all, current_length) = current.split_at(current.len() - 4);
    length == current_length && (blocks == all || blocks.iter().all(|byte| *byte == 0))
}
