//! Copies by list: what is refused and how, what is read and written, and what is remembered.

use std::sync::Arc;

use twinsan::block::{Block, PagePool, Payload, zeros};
use twinsan::guest::{Command, GuestError, Sectors};

use super::sample::{cscd, list, segment};
use super::{COPIES_MAX, CSCDS_MAX, Copies, Copy, LIST_BYTES_MAX, Order, PIECE_SECTORS, SEGMENTS_MAX};
use crate::scsi::{Plan, Sense, Unit};
use crate::session::drive::{HandVolume, SECTORS, nexus};

const NOBODY: [u8; 16] = [0x60; 16];

/// Volume 1 at LUN 0, volume 2 at LUN 1, and volume 3 at LUN 2 for reading only.
fn units() -> Vec<Unit> {
    (1..4u16).map(|id| Unit::new(id - 1, HandVolume::new(u32::from(id)) as _, id == 3, &nexus())).collect()
}

fn cscds(units: &[Unit]) -> Vec<[u8; 32]> {
    units.iter().map(|unit| cscd(unit.naa())).collect()
}

fn copy_in(units: &[Unit], bytes: &[u8]) -> Result<Copy, Sense> {
    Copy::new(&Order::parse(bytes)?, units, 0, &PagePool::new())
}

/// What comes of segments between the units.
fn copy(segments: &[[u8; 28]]) -> Result<Copy, Sense> {
    let units = units();
    copy_in(&units, &list(1, &cscds(&units), segments))
}

/// Key, codes, kind of pointer, what it points at, and the segment.
type Told = (u8, (u8, u8), u8, u16, u8);

fn told(sense: &Sense) -> Told {
    let b = sense.fixed();
    (b[2], (b[12], b[13]), b[15], u16::from_be_bytes([b[16], b[17]]), b[11])
}

fn refusal(bytes: &[u8]) -> Told {
    told(&copy_in(&units(), bytes).map(drop).expect_err("refused"))
}

#[test]
fn a_list_of_the_wrong_form_is_refused_before_anything_is_copied() {
    const ILLEGAL: u8 = 5;
    const LENGTH: (u8, u8) = (0x1a, 0);
    const FIELD: (u8, u8) = (0x26, 0);
    let units = units();
    let good = list(1, &cscds(&units)[..2], &[segment((0, 1), 8, 0, 0)]);
    assert!(copy_in(&units, &good).is_ok());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        refusal(&bytes)
    };
    for length in [15, 16 + 31, 16 + 64 + 27] {
        assert_eq!(refusal(&good[..length]), (ILLEGAL, LENGTH, 0, 0, 0), "{length} bytes");
    }
    let cases: [(&str, Told, (usize, u8)); 11] = [
        ("a reserved LIST ID USAGE", (ILLEGAL, FIELD, 0x80, 1, 0), (1, 0x08)),
        ("an identifier where there shall be none", (ILLEGAL, FIELD, 0x80, 0, 0), (1, 0x18)),
        ("half a CSCD descriptor", (ILLEGAL, FIELD, 0x80, 2, 0), (3, 48)),
        ("more segments than come", (ILLEGAL, LENGTH, 0, 0, 0), (11, 29)),
        ("segments without end", (ILLEGAL, LENGTH, 0, 0, 0), (8, 0xff)),
        ("half a segment descriptor", (ILLEGAL, FIELD, 0x80, 8, 0), (11, 27)),
        ("inline data", (ILLEGAL, (0x26, 0x0b), 0, 0, 0), (15, 1)),
        ("a unit by Fibre Channel name", (ILLEGAL, (0x26, 0x07), 0, 0, 0), (16, 0xe0)),
        ("a designator too long for its place", (ILLEGAL, FIELD, 0x80, 16 + 32 + 7, 0), (16 + 32 + 7, 21)),
        ("a segment of streams", (ILLEGAL, (0x26, 0x09), 0, 0, 0), (16 + 64, 0x03)),
        ("a segment that is too long", (ILLEGAL, FIELD, 0, 0, 0), (16 + 64 + 3, 0x1c)),
    ];
    for (what, expected, (at, byte)) in cases {
        assert_eq!(changed(at, byte), expected, "{what}");
    }
}

#[test]
fn descriptors_are_counted() {
    let units = units();
    let disk = cscd(units[0].naa());
    let this = segment((0, 0), 1, 0, 8);
    let most = list(1, &[disk; CSCDS_MAX], &[this; SEGMENTS_MAX]);
    assert_eq!(most.len(), LIST_BYTES_MAX);
    assert!(copy_in(&units, &most).is_ok());
    let codes =
        |cscds: usize, segments: usize| refusal(&list(1, &vec![disk; cscds], &vec![this; segments])).1;
    assert_eq!(codes(CSCDS_MAX + 1, 1), (0x26, 0x06));
    assert_eq!(codes(1, SEGMENTS_MAX + 1), (0x26, 0x08));
    assert_eq!(codes(CSCDS_MAX + 1, SEGMENTS_MAX + 1), (0x1a, 0));
}

#[test]
fn a_segment_that_cannot_be_copied_is_named_with_its_reason() {
    let reason = |segments: &[[u8; 28]]| told(&copy(segments).map(drop).expect_err("refused"));
    let at = |codes, pointer, place| (0x0a, codes, pointer, place, 0);
    let (to_list, to_segment) = (0x80, 0xa0);
    assert_eq!(reason(&[segment((3, 1), 1, 0, 0)]), at((0x08, 0x04), to_segment, 4), "no such source");
    assert_eq!(reason(&[segment((0, 0xf800), 1, 0, 0)]), at((0x08, 0x04), to_segment, 6), "nor destination");
    assert_eq!(reason(&[segment((0, 1), 2, SECTORS - 1, 0)]), at((0, 0), to_segment, 12));
    assert_eq!(reason(&[segment((0, 1), 2, 0, SECTORS - 1)]), at((0, 0), to_segment, 20));
    assert_eq!(reason(&[segment((0, 1), 1, u64::MAX, 0)]), at((0, 0), to_segment, 12));
    assert_eq!(reason(&[segment((0, 1), 32_769, 0, 0)]), at((0x26, 0), to_segment, 10));
    let protected = copy(&[segment((0, 2), 1, 0, 0)]).map(drop).expect_err("read-only");
    assert_eq!(told(&protected), at((0x0d, 0x01), to_list, 16 + 64));
    assert_eq!(protected.fixed()[18..][..4], [0x02, 0x70, 0, 7], "what the unit would have told");
    assert!(copy(&[segment((2, 0), 1, 0, 0)]).is_ok(), "it may be read");
    assert!(
        copy(&[segment((0xffff, 0xffff), 1, 0, 8)]).is_ok(),
        "the unit it is sent to needs no descriptor"
    );
    assert!(copy(&[]).is_ok() && copy(&[segment((0, 1), 0, 0, 0)]).is_ok(), "nothing to copy is no error");
}

#[test]
fn a_designator_of_a_unit_that_is_not_seen_is_one_of_no_unit() {
    let all = units();
    let seen = &all[..1];
    let answers = |naa: &[u8; 16]| {
        let named = [cscd(all[0].naa()), cscd(naa)];
        [(0, 1), (1, 0)].map(|ends| {
            let bytes = list(1, &named, &[segment(ends, 1, 0, 0)]);
            copy_in(seen, &bytes).map(drop).expect_err("not reachable").fixed()
        })
    };
    let of_nobody = answers(&NOBODY);
    assert_eq!(answers(all[1].naa()), of_nobody);
    assert_eq!(
        (of_nobody[0][2], of_nobody[0][12], of_nobody[0][13], of_nobody[0][17]),
        (0x0a, 0x0d, 0x02, 48)
    );
    // The same bytes as another kind of designator name nobody either.
    for (at, byte) in [(4, 2), (5, 0x13), (5, 0x02), (7, 8)] {
        let mut named = cscd(all[0].naa());
        named[at] = byte;
        let bytes = list(1, &[named], &[segment((0, 0), 1, 0, 8)]);
        assert_eq!(refusal(&bytes).1, (0x0d, 0x02), "{at}: {byte}");
    }
}

#[test]
fn a_descriptor_that_contradicts_its_unit_is_refused() {
    let units = units();
    let with = |at: usize, byte: u8| {
        let mut named = cscd(units[0].naa());
        named[at] = byte;
        copy_in(&units, &list(1, &[named], &[segment((0, 0), 1, 0, 8)]))
    };
    assert_eq!(told(&with(1, 1).map(drop).expect_err("no tape")).1, (0x0d, 0x03));
    assert_eq!(
        told(&with(30, 0x10).map(drop).expect_err("blocks of 4096")),
        (0x0a, (0x26, 0), 0x80, 16 + 29, 0)
    );
    assert!(with(30, 0).is_ok(), "whatever it has");
    assert!(
        with(1, 0xe0).is_ok() && with(3, 7).is_ok(),
        "LU ID TYPE and the initiator port mean nothing here"
    );
    let gone = HandVolume::new(1);
    gone.state.lock().gone = true;
    let unit = [Unit::new(0, gone as _, false, &nexus())];
    let bytes = list(1, &[cscd(unit[0].naa())], &[segment((0, 0), 1, 0, 8)]);
    assert_eq!(told(&copy_in(&unit, &bytes).map(drop).expect_err("deleted")).1, (0x0d, 0x02));
}

/// Each request: reads as `(false, at)`, writes as `(true, at)`. All that is read is data.
fn requests(copy: &mut Copy) -> (Vec<(bool, Sectors)>, Result<(), Sense>) {
    let page = Block::Data(PagePool::new().take_zeroed().freeze());
    let mut all = Vec::new();
    while let Some(command) = copy.step() {
        let found: Payload = match command {
            Command::Read { at } => {
                all.push((false, at));
                at.blocks().map(|_| page.clone()).collect()
            }
            Command::Write { at, data, fua: false } => {
                assert_eq!(data.len() as u64, at.blocks().end - at.blocks().start);
                all.push((true, at));
                Payload::new()
            }
            other => panic!("{other:?}"),
        };
        if let Err(sense) = copy.took(&found) {
            return (all, Err(sense));
        }
    }
    (all, Ok(()))
}

#[test]
fn segments_are_copied_in_pieces_and_in_order() {
    let mut copy = copy(&[segment((0, 1), 5000, 100, 3), segment((1, 0), 8, 0, 80)]).expect("both");
    let (all, outcome) = requests(&mut copy);
    assert_eq!(outcome, Ok(()));
    let at = |start, count| Sectors::new(start, count);
    let first = PIECE_SECTORS - 3;
    let expected = [
        (at(100, first), at(3, first)),
        (at(100 + first, PIECE_SECTORS), at(PIECE_SECTORS, PIECE_SECTORS)),
        (at(100 + first + PIECE_SECTORS, 907), at(2 * PIECE_SECTORS, 907)),
        (at(0, 8), at(80, 8)),
    ];
    let pairs = expected.map(|(from, to)| [(false, from), (true, to)]).concat();
    assert_eq!(all, pairs);
    assert_eq!(copy.progress(), (2, 5008 * 512));
}

#[test]
fn a_fault_is_told_after_the_segments_before_it() {
    let mut copy =
        copy(&[segment((0, 1), 8, 0, 0), segment((0, 1), 0, 0, 0), segment((0, 9), 8, 0, 0)]).expect("one");
    let (all, outcome) = requests(&mut copy);
    assert_eq!(all.len(), 2);
    assert_eq!(told(&outcome.expect_err("the third")), (0x0a, (0x08, 0x04), 0xa0, 6, 2));
}

#[test]
fn overlapping_blocks_are_copied_as_if_all_were_read_first() {
    let starts = |from, to| {
        let mut copy = copy(&[segment((0, 0), 3000, from, to)]).expect("one");
        let writes: Vec<u64> =
            requests(&mut copy).0.iter().filter(|(write, _)| *write).map(|(_, at)| at.start).collect();
        writes
    };
    assert_eq!(starts(0, 8), [8 + 3000 - PIECE_SECTORS, 8], "upwards the last piece goes first");
    assert_eq!(starts(8, 0), [0, PIECE_SECTORS]);
    assert_eq!(starts(0, 3000), [3000, 2 * PIECE_SECTORS], "these do not overlap");
}

#[test]
fn holes_are_cleared_and_what_lies_askew_is_moved() {
    let mut copied = copy(&[segment((0, 1), 16, 0, 0)]).expect("one");
    copied.step().expect("a read");
    copied.took(&zeros(2)).expect("taken");
    assert!(matches!(copied.step(), Some(Command::Zero { at, fua: false }) if at == Sectors::new(0, 16)));

    let pages = PagePool::new();
    let numbered = |first: u8| {
        let mut page = pages.take();
        for (sector, bytes) in (first..).zip(page.bytes_mut().chunks_mut(512)) {
            bytes.fill(sector);
        }
        Block::Data(page.freeze())
    };
    // Sectors 6 to 25 of the source, of which block 1 is a hole, to sector 3 on.
    let mut askew = copy(&[segment((0, 1), 20, 6, 3)]).expect("one");
    assert_eq!(askew.needs(), 2 << 20);
    askew.step().expect("a read");
    let found: Payload = [numbered(0), Block::Zero, numbered(16), numbered(24)].into_iter().collect();
    askew.took(&found).expect("taken");
    let Some(Command::Write { at, data, .. }) = askew.step() else { panic!("a write") };
    assert_eq!((at, data.len()), (Sectors::new(3, 20), 3));
    let sectors: Vec<u8> = data.iter().flat_map(|block| block.bytes().iter().step_by(512).copied()).collect();
    assert_eq!(sectors, [0, 0, 0, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 0]);
    let mut hole = copy(&[segment((0, 1), 20, 6, 3)]).expect("one");
    hole.step().expect("a read");
    hole.took(&zeros(4)).expect("taken");
    assert!(matches!(hole.step(), Some(Command::Zero { .. })), "zeros stay zeros");
}

#[test]
fn a_failure_tells_side_reason_and_what_is_left() {
    let mut copy = copy(&[segment((0, 1), 5000, 0, 0)]).expect("one");
    copy.step().expect("a read");
    let sense = copy.failure(GuestError::Medium).fixed();
    assert_eq!((sense[0], sense[2], sense[12], sense[13]), (0x70, 0x0a, 0x0d, 0x01));
    assert_eq!((sense[8], sense[9], sense[17]), (18, 0, 16), "the source, which the first descriptor names");
    assert_eq!((sense[18], sense[21], sense[31], sense[32]), (2, 3, 0x11, 0), "MEDIUM ERROR");
    copy.took(&zeros(256)).expect("taken");
    copy.step().expect("a write");
    copy.took(&Payload::new()).expect("taken");
    copy.step().expect("a read");
    copy.took(&zeros(256)).expect("taken");
    copy.step().expect("a write");
    let sense = copy.failure(GuestError::OutOfSpace).fixed();
    assert_eq!((sense[0], sense[3..7].to_vec()), (0xf0, (5000u32 - 2048).to_be_bytes().to_vec()));
    assert_eq!((sense[8], sense[9], sense[17]), (0, 18, 48));
    assert_eq!((sense[21], sense[31], sense[32]), (7, 0x27, 7));
    assert_eq!(told(&copy.failure(GuestError::Gone)).1, (0x0d, 0x02), "deleted");
    assert!(matches!(copy.took(&Payload::new()), Ok(())));
    copy.step().expect("a read");
    assert_eq!(told(&copy.took(&zeros(3)).expect_err("too few blocks")).1, (0x0d, 0x04));
}

#[test]
fn a_change_of_units_stops_the_segment_under_way_and_faults_later_ones() {
    let all = units();
    let named = cscds(&all);
    let bytes = list(1, &named, &[segment((0, 1), 8, 0, 0), segment((1, 0), 8, 0, 0)]);
    let begun = || {
        let mut copy = copy_in(&all, &bytes).expect("both");
        copy.step().expect("a read");
        copy
    };
    assert_eq!(begun().remap(&all), None);
    assert_eq!(
        told(&begun().remap(&all[..1]).expect("the destination is gone")),
        (0x0a, (0x0d, 2), 0x80, 48, 0)
    );
    assert_eq!(told(&begun().remap(&all[1..]).expect("the source is gone")), (0x0a, (0x0d, 2), 0x80, 16, 0));
    let mut read_only = units();
    read_only[1].protect(true);
    assert_eq!(told(&begun().remap(&read_only).expect("protected")).1, (0x0d, 1));
    let mut later = units();
    later[0].protect(true);
    let mut copy = begun();
    assert_eq!(copy.remap(&later), None, "the source of the first may be read-only");
    copy.took(&zeros(1)).expect("taken");
    copy.step().expect("a write");
    let sense = copy.took(&Payload::new()).expect_err("but not the destination of the second");
    assert_eq!(told(&sense), (0x0a, (0x0d, 1), 0x80, 16, 1));
}

#[test]
fn of_two_mappings_of_a_volume_the_one_that_may_be_written_is() {
    let volume = HandVolume::new(5);
    let unit = |lun, read_only| Unit::new(lun, Arc::clone(&volume) as _, read_only, &nexus());
    let both = [unit(0, true), unit(1, false)];
    let bytes = list(1, &[cscd(both[0].naa())], &[segment((0, 0), 8, 0, 8)]);
    assert!(copy_in(&both, &bytes).is_ok());
    assert!(copy_in(&both[..1], &bytes).is_err());
}

fn reply(plan: Result<Plan, Sense>) -> Option<Vec<u8>> {
    match plan {
        Ok(Plan::Answer(bytes)) => Some(bytes),
        _ => None,
    }
}

#[test]
fn what_became_of_a_copy_is_told_once() {
    let mut copies = Copies::default();
    assert_eq!(copies.status(1, 64).map(drop), Err(Sense::cdb(2)));
    assert_eq!(copies.begin(1), Ok(()));
    assert_eq!(copies.begin(1), Err(Sense::LIST_IN_USE));
    copies.progress(1, 1, 1 << 20);
    for _ in 0..2 {
        assert_eq!(reply(copies.status(1, 64)), Some(vec![0, 0, 0, 8, 0, 0, 1, 0, 0, 0x10, 0, 0]), "it runs");
    }
    assert_eq!(copies.failure(1, 64).map(drop), Err(Sense::cdb(2)), "it runs");
    copies.conclude(1, None);
    assert_eq!(reply(copies.failure(1, 64)), Some(vec![0; 4]), "it did not fail");
    assert_eq!(reply(copies.status(1, 64)).expect("over")[4], 1);
    assert_eq!(copies.status(1, 64).map(drop), Err(Sense::cdb(2)), "told");
}

#[test]
fn why_a_copy_failed_is_told_as_a_whole() {
    let mut copies = Copies::default();
    let sense = Sense::new(0x0a, 0x0d, 0x02);
    copies.begin(7).expect("free");
    copies.conclude(7, Some(&sense));
    assert_eq!(reply(copies.status(7, 5)).expect("over")[4], 2);
    assert_eq!(reply(copies.failure(7, 20)).map(|b| b.len()), Some(20), "cut off, so it is kept");
    let details = reply(copies.failure(7, 255)).expect("there");
    assert_eq!((details[3], details[56], details[59], details.len()), (74, 2, 18, 78));
    assert_eq!(details[60..], sense.fixed()[..]);
    assert_eq!(copies.failure(7, 255).map(drop), Err(Sense::cdb(2)));
    copies.begin(7).expect("free");
    copies.end(7);
    assert_eq!(reply(copies.status(7, 12)).expect("given up")[4], 2);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut copies = Copies::default();
    for list in 0..=255 {
        copies.begin(list).expect("free");
        copies.conclude(list, None);
    }
    let known = (0..=255).filter(|list| copies.status(*list, 12).is_ok()).collect::<Vec<u8>>();
    assert_eq!(known, (256 - 2 * COPIES_MAX..256).map(|list| list as u8).collect::<Vec<_>>());
}
