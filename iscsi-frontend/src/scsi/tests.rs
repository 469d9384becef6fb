//! The device server by CDB.

use std::sync::Arc;

use twinsan::block::PagePool;
use twinsan::guest::{Command, GuestError, TRANSFER_SECTORS_MAX, ZERO_SECTORS_MAX};

use super::opcodes::COMMANDS;
use super::reservations::Need;
use super::{Attention, Cdb, Kind, Plan, Port, Sense, Unit, Work, no_unit, plan_report_luns};
use crate::session::drive::{HandVolume, SECTORS, nexus};

fn port() -> Port {
    Port::new("iqn.2026-01.example:san", (2, 1), "VENDOR", "PRODUCT", "1")
}

fn unit() -> Unit {
    Unit::new(0, HandVolume::new(7), false, &nexus())
}

fn cdb(bytes: &[u8]) -> Cdb {
    let mut cdb = Cdb([0; 16]);
    cdb.0[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn plan(bytes: &[u8]) -> Plan {
    unit().plan(&cdb(bytes), &port())
}

fn reply(bytes: &[u8]) -> Vec<u8> {
    match plan(bytes) {
        Plan::Answer(reply) => reply,
        other => panic!("{bytes:02x?}: {other:?}"),
    }
}

fn failure(bytes: &[u8]) -> Sense {
    match plan(bytes) {
        Plan::Fail(sense) => sense,
        other => panic!("{bytes:02x?}: {other:?}"),
    }
}

fn vpd(page: u8) -> Vec<u8> {
    reply(&[0x12, 1, page, 0, 255])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn what_is_reported_as_supported_is_what_is_parsed() {
    for opcode in 0..=255u8 {
        let listed = COMMANDS.iter().any(|command| command.opcode == opcode);
        let known = Kind::parse(&cdb(&[opcode])) != Err(Sense::NO_SUCH_OPCODE);
        assert_eq!(known, listed, "opcode {opcode:#04x}");
    }
    for command in COMMANDS {
        assert_eq!(command.usage[0], command.opcode);
        let action = command.action.unwrap_or(0) as u8;
        let flags = if matches!(command.opcode, 0x15 | 0x55) { 0x10 } else { action };
        let mut bytes = [command.opcode, flags, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte &= command.usage.get(at).unwrap_or(&0);
        }
        assert!(Kind::parse(&cdb(&bytes)).is_ok(), "{:#04x}/{action:#04x}", command.opcode);
    }
}

#[test]
fn fua_is_heard_wherever_it_is_said_to_be() {
    for opcode in [0x28u8, 0x88, 0xa8] {
        let usage = COMMANDS.iter().find(|command| command.opcode == opcode).expect("listed").usage;
        assert_eq!(usage[1] & 0x08, 0x08, "{opcode:#04x}");
        for fua in [false, true] {
            match plan(&[opcode, u8::from(fua) << 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]) {
                Plan::Fetch { work: Work::StableRead { .. }, .. } => assert!(fua, "{opcode:#04x}"),
                Plan::Fetch { work: Work::Read { .. }, .. } => assert!(!fua, "{opcode:#04x}"),
                other => panic!("{opcode:#04x}: {other:?}"),
            }
        }
    }
}

#[test]
fn supported_operation_codes_have_three_forms() {
    let all = reply(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(word(&all, 0) as usize, COMMANDS.len() * 8);
    let timeouts = reply(&[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(timeouts.len(), 4 + COMMANDS.len() * 20);
    let one = reply(&[0xa3, 0x0c, 1, 0x28, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!((one[1], one[3], one[4]), (3, 10, 0x28));
    let none = reply(&[0xa3, 0x0c, 1, 0xee, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(none[1], 1);
    assert_eq!(failure(&[0xa3, 0x0c, 1, 0x9e, 0, 0, 0, 0, 1, 0]), Sense::cdb(2));
    assert_eq!(failure(&[0xa3, 0x0c, 2, 0x28, 0, 0, 0, 0, 1, 0]), Sense::cdb(2));
}

#[test]
fn every_listed_vpd_page_is_there_and_none_else() {
    let listed = vpd(0)[4..].to_vec();
    for page in 0..=255u8 {
        let found = matches!(plan(&[0x12, 1, page, 0, 255]), Plan::Answer(_));
        assert_eq!(found, listed.contains(&page), "page {page:#04x}");
    }
    for page in listed {
        let reply = reply(&[0x12, 1, page, 4, 0]);
        assert_eq!((reply[0], reply[1]), (0, page));
        assert_eq!(usize::from(u16::from_be_bytes([reply[2], reply[3]])), reply.len() - 4);
    }
}

#[test]
fn the_unit_is_the_same_on_both_nodes_and_the_port_is_not() {
    let identify = |port: &Port| match unit().plan(&cdb(&[0x12, 1, 0x83, 4, 0]), port) {
        Plan::Answer(reply) => reply,
        other => panic!("{other:?}"),
    };
    let other = Port { group: 1, partner_group: 2, ..port() };
    let (a, b) = (identify(&port()), identify(&other));
    let designators = |mut page: &[u8]| {
        let mut all = Vec::new();
        page = &page[4..];
        while !page.is_empty() {
            let (this, rest) = page.split_at(4 + usize::from(page[3]));
            all.push((this[1] & 0x3f, this[4..].to_vec()));
            page = rest;
        }
        all
    };
    for (a, b) in designators(&a).iter().zip(&designators(&b)) {
        let of_port = a.0 & 0x30 == 0x10;
        assert_eq!(a.1 != b.1, of_port, "designator {:#04x}", a.0);
    }
    assert_eq!(designators(&a)[0].1[0] >> 4, 6, "NAA 6");
}

#[test]
fn limits_are_those_of_the_volume() {
    let limits = vpd(0xb0);
    assert_eq!(u64::from(word(&limits, 8)), TRANSFER_SECTORS_MAX);
    assert_eq!(u64::from(word(&limits, 20)), ZERO_SECTORS_MAX);
    assert_eq!((word(&limits, 24), word(&limits, 28)), (256, 2048));
    let write = |blocks: u32| {
        let mut bytes = [0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[10..14].copy_from_slice(&blocks.to_be_bytes());
        plan(&bytes)
    };
    assert!(matches!(write(TRANSFER_SECTORS_MAX as u32), Plan::Store { .. }));
    assert!(matches!(write(TRANSFER_SECTORS_MAX as u32 + 1), Plan::Fail(Sense { asc: 0x24, .. })));
    assert!(matches!(write(SECTORS as u32 + 1), Plan::Fail(Sense { asc: 0x21, .. })));
}

#[test]
fn capacity_says_thin_and_zeroing() {
    let short = reply(&[0x25]);
    assert_eq!((u64::from(word(&short, 0)), word(&short, 4)), (SECTORS - 1, 512));
    let long = reply(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!((u64::from(word(&long, 4)), word(&long, 8), long[13], long[14]), (SECTORS - 1, 512, 3, 0xc0));
}

#[test]
fn no_reply_exceeds_its_allocation_length() {
    for length in 0..=40u8 {
        let cdbs: [&[u8]; 9] = [
            &[0x12, 1, 0x8f, 0, length],
            &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length],
            &[0x12, 0, 0, 0, length],
            &[0x12, 1, 0x83, 0, length],
            &[0x1a, 0, 0x3f, 0, length],
            &[0x03, 0, 0, 0, length],
            &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length],
            &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, length],
            &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, length],
        ];
        for bytes in cdbs {
            assert!(reply(bytes).len() <= usize::from(length), "{bytes:02x?}");
        }
    }
}

#[test]
fn mode_pages_say_that_writes_are_cached_and_nothing_changes() {
    let pages = reply(&[0x1a, 0x08, 0x3f, 0, 255]);
    assert_eq!((pages[2], pages[3]), (0x10, 0));
    assert_eq!((pages[4], pages[6] & 4, pages[24]), (0x08, 4, 0x0a));
    let changeable = reply(&[0x1a, 0x08, 0x48, 0, 255]);
    assert!(changeable[6..].iter().all(|byte| *byte == 0));
    assert_eq!(failure(&[0x1a, 0, 0xc8, 0, 255]), Sense::NOT_SAVED);
    let long = reply(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 1, 0]);
    assert_eq!((long[4], long[7], long.len()), (1, 16, 8 + 16 + 20));
}

#[test]
fn what_is_so_already_may_be_selected_and_nothing_else() {
    let pages = PagePool::new();
    let select = |ten: bool, list: &[u8]| {
        let length = list.len() as u8;
        let bytes: &[u8] =
            if ten { &[0x55, 0x10, 0, 0, 0, 0, 0, 0, length] } else { &[0x15, 0x10, 0, 0, length] };
        match unit().plan(&cdb(bytes), &port()) {
            Plan::Parameters { kind, .. } => unit().plan_parameters(kind, list, &pages),
            other => other,
        }
    };
    let six = reply(&[0x1a, 0, 0x3f, 0, 255]);
    let ten = reply(&[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 255]);
    assert!(matches!(select(false, &six), Plan::Good) && matches!(select(true, &ten), Plan::Good));
    assert!(matches!(select(false, &[]), Plan::Good));
    assert!(matches!(select(false, &[0, 0, 0, 0]), Plan::Good));
    let refused = |ten, list: &[u8], at: usize, byte: u8| {
        let mut list = list.to_vec();
        list[at] = byte;
        match select(ten, &list) {
            Plan::Fail(sense) => sense,
            other => panic!("{at}: {other:?}"),
        }
    };
    // WCE is the third byte of the first page, behind four bytes of header and eight of descriptor.
    assert_eq!(refused(false, &six, 4 + 8 + 2, 0), Sense::parameter(4 + 8 + 2));
    assert_eq!(refused(true, &ten, 8 + 16 + 20 + 2, 0x0e), Sense::parameter(8 + 16 + 20 + 2), "D_SENSE");
    assert_eq!(refused(false, &six, 4 + 8, 0x1c), Sense::parameter(4 + 8), "no such page");
    assert_eq!(refused(false, &six, 4 + 6, 0x10), Sense::parameter(4), "blocks of 4096");
    assert_eq!(refused(false, &six, 3, 7), Sense::parameter(3));
    assert_eq!(refused(true, &ten, 6, 1), Sense::PARAMETER_LENGTH);
    assert_eq!(refused(false, &six[..6], 3, 8), Sense::PARAMETER_LENGTH);
    assert_eq!(refused(false, &six[..20], 1, 0), Sense::PARAMETER_LENGTH, "half a page");
    assert_eq!(failure(&[0x15, 0x11, 0, 0, 24]), Sense::cdb(1), "nothing is saved");
    assert_eq!(failure(&[0x15, 0x00, 0, 0, 24]), Sense::cdb(1));
    assert_eq!(failure(&[0x55, 0x10, 0, 0, 0, 0, 0, 1, 0]), Sense::PARAMETER_LENGTH);
}

#[test]
fn an_attention_is_told_once_and_the_most_urgent_first() {
    let mut unit = unit();
    unit.attend(Attention::PathsChanged);
    unit.attend(Attention::Reset);
    unit.attend(Attention::Reset);
    let ready = |unit: &mut Unit| match unit.plan(&cdb(&[0]), &port()) {
        Plan::Fail(sense) => (sense.key, sense.asc, sense.ascq),
        Plan::Good => (0, 0, 0),
        other => panic!("{other:?}"),
    };
    assert!(matches!(unit.plan(&cdb(&[0x12, 0, 0, 0, 36]), &port()), Plan::Answer(_)));
    assert_eq!(ready(&mut unit), (6, 0x29, 3));
    let Plan::Answer(sense) = unit.plan(&cdb(&[3, 0, 0, 0, 18]), &port()) else { panic!("sense data") };
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x2a, 6));
    assert_eq!(ready(&mut unit), (0, 0, 0));
}

#[test]
fn growth_is_told() {
    let volume = HandVolume::new(1);
    let mut unit = Unit::new(0, Arc::clone(&volume) as _, false, &nexus());
    volume.state.lock().sectors = SECTORS * 2;
    assert!(matches!(unit.plan(&cdb(&[0x12, 0, 0, 0, 36]), &port()), Plan::Answer(_)), "INQUIRY passes");
    assert!(matches!(unit.plan(&cdb(&[0]), &port()), Plan::Fail(Sense { key: 6, asc: 0x2a, ascq: 9, .. })));
    assert!(matches!(unit.plan(&cdb(&[0]), &port()), Plan::Good));
    let Plan::Answer(capacity) = unit.plan(&cdb(&[0x25]), &port()) else { panic!("a capacity") };
    assert_eq!(capacity[..4], (SECTORS as u32 * 2 - 1).to_be_bytes());
    let [a, b, c, d] = (SECTORS as u32).to_be_bytes();
    let behind_the_old_end = [0x28, 0, a, b, c, d, 0, 0, 1];
    assert!(matches!(unit.plan(&cdb(&behind_the_old_end), &port()), Plan::Fetch { .. }));
}

#[test]
fn a_deleted_volume_is_no_unit_any_more() {
    let volume = HandVolume::new(1);
    let mut unit = Unit::new(0, Arc::clone(&volume) as _, false, &nexus());
    volume.state.lock().gone = true;
    for command in [&[0][..], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], &[0x25]] {
        let Plan::Fail(sense) = unit.plan(&cdb(command), &port()) else { panic!("refused") };
        assert_eq!((sense.key, sense.asc, sense.ascq), (5, 0x25, 0));
    }
    let Plan::Answer(inquiry) = unit.plan(&cdb(&[0x12, 0, 0, 0, 36]), &port()) else { panic!("an inquiry") };
    assert_eq!(inquiry[0], 0x7f, "no device there");
}

#[test]
fn write_same_gives_zeros_back_and_repeats_the_rest() {
    let ndob = [0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 64];
    let Plan::Run(mut work) = plan(&ndob) else { panic!("work") };
    assert!(matches!(work.step(), Some(Command::Zero { .. })));
    let mut unit = unit();
    let pages = twinsan::block::PagePool::new();
    let command = cdb(&[0x41, 0, 0, 0, 0, 3, 0, 0, 16]);
    let Plan::Parameters { kind, bytes: 512 } = unit.plan(&command, &port()) else { panic!("parameters") };
    let Plan::Run(mut work) = unit.plan_parameters(kind, &[0xab; 512], &pages) else { panic!("work") };
    let Some(Command::Write { at, data, .. }) = work.step() else { panic!("a write") };
    assert_eq!((at.start, at.count, data.len()), (3, 16, 3));
    assert!(data.iter().all(|block| *block.bytes() == [0xab; 4096]));
    assert!(work.step().is_none());
    assert_eq!(failure(&[0x93, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), Sense::cdb(1), "ANCHOR");
    assert_eq!(failure(&[0x41]), Sense::cdb(7), "no blocks");
    assert!(matches!(unit.plan_parameters(kind, &[0xab; 511], &pages), Plan::Fail(_)));
}

#[test]
fn a_comparison_takes_exactly_twice_its_blocks() {
    assert_eq!(vpd(0xb0)[5], 8, "MAXIMUM COMPARE AND WRITE LENGTH");
    let compare = |flags: u8, lba: u64, blocks: u8| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1], bytes[13]) = (0x89, flags, blocks);
        bytes[2..10].copy_from_slice(&lba.to_be_bytes());
        plan(&bytes)
    };
    for (lba, blocks) in [(0, 1), (5, 8), (SECTORS - 8, 8), (SECTORS, 0), (3, 0)] {
        let Plan::Store { bytes, head, whole: true, .. } = compare(0x18, lba, blocks) else {
            panic!("a comparison")
        };
        assert_eq!((bytes, head), (u32::from(blocks) * 1024, (lba % 8) as u32 * 512));
    }
    let refusal = |plan| if let Plan::Fail(sense) = plan { sense } else { panic!("{plan:?}") };
    for blocks in [9, 128, 255] {
        assert_eq!(refusal(compare(0, 0, blocks)), Sense::cdb(13));
    }
    for (lba, blocks) in [(SECTORS - 7, 8), (SECTORS, 1), (u64::MAX, 1), (SECTORS + 1, 0)] {
        assert_eq!(refusal(compare(0, lba, blocks)), Sense::OUT_OF_RANGE);
    }
    for protect in 1..8 {
        assert_eq!(refusal(compare(protect << 5, 0, 1)), Sense::cdb(1), "WRPROTECT");
    }
}

#[test]
fn whoever_may_only_read_compares_and_sets_nothing() {
    let mut unit = Unit::new(0, HandVolume::new(1), true, &nexus());
    for opcode in [0x89, 0x8b] {
        let mut bytes = [0; 16];
        (bytes[0], bytes[13]) = (opcode, 1);
        let Plan::Fail(sense) = unit.plan(&cdb(&bytes), &port()) else { panic!("refused") };
        assert_eq!(sense, Sense::WRITE_PROTECTED);
        let kind = Kind::parse(&cdb(&bytes)).expect("a command");
        assert_eq!(kind.need(), Need::Write);
    }
    let Plan::Store { bytes: 512, head: 0, whole: false, .. } =
        plan(&[0x8b, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    else {
        panic!("a write")
    };
    assert_eq!(failure(&[0x8b, 0x20]), Sense::cdb(1), "ORPROTECT");
}

#[test]
fn what_came_of_a_comparison_is_told() {
    let sense = Sense::from(GuestError::Miscompare { offset: 0x0102 });
    let fixed = sense.fixed();
    assert_eq!((fixed[0], fixed[2], fixed[12], fixed[13]), (0xf0, 0x0e, 0x1d, 0));
    assert_eq!(fixed[3..7], [0, 0, 1, 2]);
    let sense = Sense::from(GuestError::Uncertain);
    assert_eq!((sense.key, sense.asc, sense.ascq), (4, 0x44, 0), "not to be tried again by itself");
}

#[test]
fn an_atomic_write_is_one_block_of_the_volume() {
    let limits = vpd(0xb0);
    assert_eq!([44, 48, 52, 56, 60].map(|at| word(&limits, at)), [8, 8, 8, 0, 0]);
    let atomic = |lba: u64, boundary: u16, blocks: u16| {
        let mut bytes = [0; 16];
        bytes[0] = 0x9c;
        bytes[2..10].copy_from_slice(&lba.to_be_bytes());
        bytes[10..12].copy_from_slice(&boundary.to_be_bytes());
        bytes[12..14].copy_from_slice(&blocks.to_be_bytes());
        plan(&bytes)
    };
    for lba in [0, 8, SECTORS - 8] {
        let Plan::Store { mut work, bytes: 4096, head: 0, whole: true } = atomic(lba, 0, 8) else {
            panic!("a write")
        };
        work.supply(twinsan::block::zeros(1), 8, &twinsan::block::PagePool::new());
        assert!(matches!(work.step(), Some(Command::Write { at, fua: false, .. }) if at.is_aligned()));
    }
    assert!(matches!(atomic(0, 0, 0), Plan::Store { bytes: 0, .. }), "nothing is written whole too");
    let refusal = |plan| if let Plan::Fail(sense) = plan { sense } else { panic!("{plan:?}") };
    for (lba, blocks) in [(0, 1), (0, 7), (0, 9), (0, 16), (8, 0xffff)] {
        assert_eq!(refusal(atomic(lba, 0, blocks)), Sense::cdb(12), "{blocks} blocks");
    }
    assert_eq!(refusal(atomic(1, 0, 8)), Sense::cdb(2));
    assert_eq!(refusal(atomic(0, 8, 8)), Sense::cdb(10), "ATOMIC BOUNDARY");
    for (lba, blocks) in [(SECTORS - 8, 16), (SECTORS, 8), (1 << 63, 8), (SECTORS + 8, 0)] {
        assert_eq!(refusal(atomic(lba, 0, blocks)), Sense::OUT_OF_RANGE);
    }
    assert_eq!(failure(&[0x9c, 0x20]), Sense::cdb(1), "WRPROTECT");
}

#[test]
fn copies_are_advertised_as_they_are_done() {
    assert_eq!(reply(&[0x12, 0, 0, 0, 96])[5] & 0x08, 0x08, "3PC");
    let parameters = reply(&[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(word(&parameters, 0) as usize, parameters.len() - 4);
    let page = vpd(0x8f);
    let mut descriptors = std::collections::BTreeMap::new();
    let mut rest = &page[4..];
    while let [high, low, _, length, ..] = rest {
        let (this, after) = rest.split_at(4 + usize::from(*length));
        assert!(this.len().is_multiple_of(4), "{high:02x}{low:02x}");
        descriptors.insert(u16::from_be_bytes([*high, *low]), &this[4..]);
        rest = after;
    }
    assert_eq!(descriptors.keys().copied().collect::<Vec<_>>(), [0x0001, 0x0004, 0x0008, 0x000c, 0x8001]);
    assert_eq!(descriptors[&0x0004][4..12], parameters[8..16], "the same limits");
    assert_eq!(
        (&descriptors[&0x8001][8..12], descriptors[&0x8001][12]),
        (&parameters[16..20], parameters[37])
    );
    assert_eq!(descriptors[&0x0008][1..3], parameters[44..46]);
    let listed = |opcode: u8| COMMANDS.iter().filter(move |command| command.opcode == opcode);
    let actions = |opcode| listed(opcode).filter_map(|command| command.action).map(|action| action as u8);
    let commands = descriptors[&0x0001];
    assert_eq!(commands[3..4], actions(0x83).collect::<Vec<_>>());
    assert_eq!(commands[6..9], actions(0x84).collect::<Vec<_>>());
    assert_eq!(failure(&[0x83, 1]), Sense::cdb(1), "LID4");
    assert_eq!(failure(&[0x84, 1]), Sense::cdb(1), "no data is held");
    assert_eq!(failure(&[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), Sense::PARAMETER_LENGTH);
}

#[test]
fn a_lun_that_is_not_there_says_so() {
    let port = port();
    let Plan::Answer(inquiry) = no_unit(Kind::parse(&cdb(&[0x12, 0, 0, 0, 96])), &port) else {
        panic!("inquiry data")
    };
    assert_eq!(inquiry[0], 0x7f);
    assert!(matches!(no_unit(Kind::parse(&cdb(&[0])), &port), Plan::Fail(Sense::NO_SUCH_LUN)));
    assert!(matches!(no_unit(Kind::parse(&cdb(&[0x28])), &port), Plan::Fail(Sense::NO_SUCH_LUN)));
}

#[test]
fn luns_are_reported_in_both_addressings() {
    let request = cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64]);
    let Some(Plan::Answer(list)) = plan_report_luns(Kind::parse(&request), [5, 300].into_iter()) else {
        panic!("a list")
    };
    assert_eq!(word(&list, 0), 16);
    assert_eq!((list[8], list[9], list[16], list[17]), (0, 5, 0x41, 0x2c));
    let short = cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15]);
    assert!(matches!(plan_report_luns(Kind::parse(&short), [0].into_iter()), Some(Plan::Fail(_))));
}
