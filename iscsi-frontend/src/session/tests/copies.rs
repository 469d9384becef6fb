//! EXTENDED COPY in sessions: masking, protection, what stops a copy and when its end is told, and what it holds.

use std::sync::Arc;

use twinsan::guest::{GuestError, VirtualVolume};

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu, answers, hosts};
use super::super::drive::HandVolume;
use crate::access::Mapping;
use crate::scsi::Identity;
use crate::scsi::copy::COPIES_MAX;
use crate::scsi::copy::sample::{cscd, list, segment};

/// Task management functions, as flags.
const ABORT_TASK: u8 = 0x81;
const ABORT_TASK_SET: u8 = 0x82;
const CLEAR_TASK_SET: u8 = 0x84;
const LOGICAL_UNIT_RESET: u8 = 0x85;

const FULL: u8 = 0x28;
const NOT_REACHABLE: (u8, u8, u8, u8) = (2, 0x0a, 0x0d, 0x02);
const DEVICE_FAILURE: (u8, u8, u8, u8) = (2, 0x0a, 0x0d, 0x01);
const GOOD: (u8, u8, u8, u8) = (0, 0, 0, 0);

fn naa(volume: &Arc<HandVolume>) -> [u8; 16] {
    Identity::of(&volume.info()).naa
}

/// Host one sees `bench.volume` at LUN 0 and `second` at LUN 1; host two `bench.volume` at LUN 5 and `third` at LUN 6.
struct Hosts {
    bench: Bench,
    link: usize,
    second: Arc<HandVolume>,
    third: Arc<HandVolume>,
}

impl Hosts {
    fn new() -> Hosts {
        let mut bench = Bench::new();
        let (second, third) = (HandVolume::new(2), HandVolume::new(3));
        let mut all = Hosts { link: 0, second, third, bench };
        let mappings = all.mappings();
        all.bench.set_access(hosts(), mappings);
        bench = all.bench;
        let link = bench.session();
        Hosts { bench, link, ..all }
    }

    fn mappings(&self) -> Vec<Mapping> {
        let map =
            |host: &str, lun, volume: &Arc<HandVolume>| Mapping::new(host, lun, Arc::clone(volume) as _);
        let first = &self.bench.volume;
        vec![
            map("one", 0, first),
            map("one", 1, &self.second),
            map("two", 5, first),
            map("two", 6, &self.third),
        ]
    }

    /// A second session, of the other host, with numbers of its own.
    fn other(&mut self) -> (usize, u32) {
        let own = std::mem::replace(&mut self.bench.cmd_sn, 1);
        let (link, _) = self.bench.login(OTHER, 1, "InitialR2T=No\0");
        (link, std::mem::replace(&mut self.bench.cmd_sn, own))
    }

    /// EXTENDED COPY at LUN 0 of host one, with this list.
    fn copy(&mut self, itt: u32, list: &[u8]) -> Vec<Answer> {
        let pdu = self.order(itt, list);
        self.bench.ask(self.link, &pdu)
    }

    fn order(&mut self, itt: u32, list: &[u8]) -> Pdu {
        let length = (list.len() as u32).to_be_bytes();
        let mut cdb = [0; 16];
        cdb[0] = 0x83;
        cdb[10..14].copy_from_slice(&length);
        self.bench.command(0xa0, itt, list.len() as u32, &cdb).data(list)
    }

    /// From the first volume to the second.
    fn list(&self, identifier: u8, blocks: u16) -> Vec<u8> {
        let named = [cscd(&naa(&self.bench.volume)), cscd(&naa(&self.second))];
        list(identifier, &named, &[segment((0, 1), blocks, 0, 64)])
    }

    fn results(&mut self, action: u8, identifier: u8) -> Vec<Answer> {
        let cdb = [0x84, action, identifier, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let pdu = self.bench.command(0xc0, 90, 256, &cdb);
        self.bench.ask(self.link, &pdu)
    }

    fn manage(&mut self, link: usize, function: u8, lun: u8, task: u32) -> Vec<Answer> {
        self.bench.ask(link, &Pdu::new(0x42, function, 50).byte(9, lun).word(20, task))
    }

    /// What came for host one by itself.
    fn told(&mut self) -> Vec<Answer> {
        self.bench.drive.deliver();
        answers(&self.bench.drive.drain(self.link))
    }

    /// Reads a block of host one's LUN 1, again if it is told something first.
    fn second_block(&mut self, lba: u8) -> Vec<u8> {
        for _ in 0..3 {
            let pdu = self.bench.command(0xc0, 91, 512, &[0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0]).byte(9, 1);
            let found = self.bench.ask(self.link, &pdu).remove(0);
            if found.opcode() == 0x25 {
                return found.data;
            }
            assert_eq!(found.sense().1, 6, "a unit attention");
        }
        panic!("attentions without end");
    }

    /// A copy whose read is under way; giving up is held too.
    fn reading(itt: u32) -> Hosts {
        let mut hosts = Hosts::new();
        assert_eq!(hosts.bench.write(hosts.link, 9, 0, &[7; 4096])[0].sense(), GOOD);
        for volume in [&hosts.bench.volume, &hosts.second] {
            let mut hand = volume.state.lock();
            (hand.hold, hand.hold_aborts) = (true, true);
        }
        let bytes = hosts.list(1, 8);
        assert!(hosts.copy(itt, &bytes).is_empty());
        assert_eq!((hosts.bench.volume.held(), hosts.second.held()), (1, 0));
        hosts
    }

    /// A copy whose write is under way, as [`reading`](Self::reading).
    fn writing(itt: u32) -> Hosts {
        let mut hosts = Hosts::reading(itt);
        hosts.bench.volume.answer(0);
        assert!(hosts.told().is_empty());
        assert_eq!((hosts.bench.volume.held(), hosts.second.held()), (0, 1));
        hosts
    }

    /// Lets go of everything; was the second volume written?
    fn second_is_written(&mut self) -> bool {
        for volume in [&self.bench.volume, &self.second] {
            volume.give_up();
            volume.state.lock().hold = false;
            (0..volume.held()).for_each(|_| volume.answer(0));
        }
        self.told();
        self.second_block(64) != [0; 512]
    }
}

fn is_complete(found: &[Answer]) -> bool {
    matches!(found, [answer] if answer.opcode() == 0x22 && answer.head[2] == 0)
}

#[test]
fn blocks_go_from_unit_to_unit() {
    let mut hosts = Hosts::new();
    let data: Vec<u8> = (0..4096).map(|n| (n / 512) as u8 + 1).collect();
    hosts.bench.write(hosts.link, 9, 0, &data);
    let bytes = hosts.list(1, 8);
    assert_eq!(hosts.copy(10, &bytes)[0].sense(), GOOD);
    assert_eq!((hosts.second_block(64), hosts.second_block(71)), (vec![1; 512], vec![8; 512]));
    let status = hosts.results(0, 1);
    assert_eq!(status[0].data, [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0x10, 0]);
    assert_eq!(hosts.results(0, 1)[0].sense(), (2, 5, 0x24, 0), "told once");
    // A copy without an identifier leaves nothing to ask for, and a list of no length is no error.
    let mut nameless = bytes.clone();
    (nameless[0], nameless[1]) = (0, 0x18);
    assert_eq!(hosts.copy(11, &nameless)[0].sense(), GOOD);
    assert_eq!(hosts.results(0, 0)[0].sense(), (2, 5, 0x24, 0));
    assert_eq!(hosts.copy(12, &[])[0].sense(), GOOD);
    let parameters = hosts.results(3, 0);
    assert_eq!(parameters[0].data[..12], [0, 0, 0, 42, 1, 0, 0, 0, 0, 16, 0, 32]);
    assert_eq!(parameters[0].data[44..], [0x02, 0xe4]);
}

#[test]
fn a_volume_of_another_host_is_answered_as_none() {
    let mut hosts = Hosts::new();
    hosts.third.state.lock().hold = true;
    let own = cscd(&naa(&hosts.bench.volume));
    for ends in [(0, 1), (1, 0), (1, 1)] {
        let mut told = Vec::new();
        for named in [naa(&hosts.third), [0x6f; 16]] {
            let bytes = list(1, &[own, cscd(&named)], &[segment(ends, 8, 0, 64)]);
            let found = hosts.copy(10, &bytes).remove(0);
            assert_eq!(found.sense(), NOT_REACHABLE);
            let details = hosts.results(4, 1).remove(0);
            told.push((found.data, found.head[36..].to_vec(), details.data));
            assert_eq!(hosts.results(0, 1)[0].data[4], 2, "completed with errors");
        }
        assert_eq!(told[0], told[1], "{ends:?}");
    }
    assert_eq!(hosts.third.held(), 0, "it was never asked anything");
}

#[test]
fn a_protected_destination_is_not_written() {
    let mut hosts = Hosts::new();
    let mut mappings = hosts.mappings();
    mappings[1].read_only = true;
    hosts.bench.set_access(super::super::bench::hosts(), mappings);
    is_read_and_not_written(hosts);
}

#[test]
fn a_snapshot_is_no_destination() {
    let mut hosts = Hosts::new();
    hosts.second.state.lock().read_only = true;
    // Seen anew: what is a snapshot was never anything else.
    let mappings = hosts.mappings();
    hosts.bench.set_access(super::super::bench::hosts(), vec![mappings[0].clone()]);
    hosts.bench.set_access(super::super::bench::hosts(), mappings);
    let flush = hosts.bench.command(0x80, 9, 0, &[0; 6]);
    assert_eq!(hosts.bench.ask(hosts.link, &flush)[0].sense(), (2, 6, 0x3f, 0x0e), "units have changed");
    is_read_and_not_written(hosts);
}

/// The second volume.
fn is_read_and_not_written(mut hosts: Hosts) {
    let bytes = hosts.list(1, 8);
    let found = hosts.copy(10, &bytes);
    assert_eq!(found[0].sense(), DEVICE_FAILURE);
    assert_eq!(found[0].data[2 + 18..2 + 18 + 4], [2, 0x70, 0, 7], "DATA PROTECT");
    assert_eq!(hosts.second.held(), 0);
    // The unit that the command goes to is the source here; as a destination it may be written.
    let named = [cscd(&naa(&hosts.second)), cscd(&naa(&hosts.bench.volume))];
    let bytes = list(1, &named, &[segment((0, 1), 8, 0, 64)]);
    assert_eq!(hosts.copy(11, &bytes)[0].sense(), GOOD);
}

#[test]
fn an_aborted_copy_writes_nothing_more_and_never_answers() {
    for (function, task) in
        [(ABORT_TASK, 21), (ABORT_TASK_SET, 0), (CLEAR_TASK_SET, 0), (LOGICAL_UNIT_RESET, 0)]
    {
        for start in [Hosts::reading, Hosts::writing] {
            let mut hosts = start(21);
            assert!(
                hosts.manage(hosts.link, function, 0, task).is_empty(),
                "{function:#x}: it may still act"
            );
            hosts.bench.volume.give_up();
            hosts.second.give_up();
            assert!(is_complete(&hosts.told()), "{function:#x}");
            assert_eq!((hosts.bench.volume.held(), hosts.second.held()), (0, 0));
            assert!(!hosts.second_is_written(), "{function:#x}");
        }
    }
}

#[test]
fn a_read_that_ends_while_its_copy_is_aborted_is_not_written() {
    let mut hosts = Hosts::reading(21);
    assert!(hosts.manage(hosts.link, ABORT_TASK, 0, 21).is_empty());
    hosts.bench.volume.answer(0);
    assert!(hosts.told().is_empty());
    hosts.bench.volume.give_up();
    assert!(is_complete(&hosts.told()));
    assert!(!hosts.second_is_written());
    assert_eq!(hosts.results(0, 1)[0].data[4], 2, "it did not complete");
}

#[test]
fn who_resets_a_unit_that_is_copied_to_stops_the_copy_and_its_host_is_told() {
    for function in [CLEAR_TASK_SET, LOGICAL_UNIT_RESET] {
        let mut hosts = Hosts::writing(21);
        let link = hosts.link;
        assert!(hosts.manage(link, function, 1, 0).is_empty(), "it may still act");
        assert_eq!(hosts.second.held(), 1);
        hosts.second.give_up();
        let found = hosts.told();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].sense(), found[0].word(16)), (DEVICE_FAILURE, 21), "{function:#x}");
        assert!(is_complete(&found[1..]));
        assert!(!hosts.second_is_written());
    }
    // Tasks of this host at that unit are none of the copy's.
    let mut hosts = Hosts::writing(21);
    assert!(is_complete(&hosts.manage(hosts.link, ABORT_TASK_SET, 1, 0)));
    assert_eq!(hosts.second.held(), 1);
}

#[test]
fn another_host_resets_the_source() {
    let mut hosts = Hosts::writing(21);
    let (other, _) = hosts.other();
    // The copy was sent to LUN 0, which is the other's LUN 5: it is in that task set.
    assert!(hosts.manage(other, LOGICAL_UNIT_RESET, 5, 0).is_empty());
    hosts.second.give_up();
    assert!(hosts.told().is_empty(), "silently: a unit attention tells of it");
    assert!(is_complete(&answers(&hosts.bench.drive.drain(other))));
    assert!(!hosts.second_is_written());

    // Sent to LUN 1, it merely reads LUN 0.
    let mut hosts = Hosts::new();
    hosts.bench.volume.state.lock().hold = true;
    let bytes = hosts.list(1, 8);
    let order = hosts.order(22, &bytes).byte(9, 1);
    assert!(hosts.bench.ask(hosts.link, &order).is_empty());
    let (other, _) = hosts.other();
    assert!(is_complete(&hosts.manage(other, LOGICAL_UNIT_RESET, 5, 0)));
    assert_eq!(hosts.told()[0].sense(), DEVICE_FAILURE);
    assert_eq!(hosts.bench.volume.held(), 0);
}

#[test]
fn a_copy_that_is_being_stopped_can_still_be_aborted() {
    let mut hosts = Hosts::writing(21);
    let link = hosts.link;
    assert!(hosts.manage(link, CLEAR_TASK_SET, 1, 0).is_empty());
    assert!(hosts.manage(link, ABORT_TASK, 0, 21).is_empty());
    hosts.second.give_up();
    let found = hosts.told();
    assert_eq!(
        found.iter().map(Answer::opcode).collect::<Vec<_>>(),
        [0x22, 0x22],
        "and is not answered then"
    );
    assert!(!hosts.second_is_written());
}

#[test]
fn a_session_that_ends_takes_its_copies_along() {
    let mut hosts = Hosts::writing(21);
    hosts.bench.cmd_sn = 1;
    let (new, found) = hosts.bench.login(HOST, 1, "");
    assert!(found.is_empty(), "the copy may still write");
    hosts.second.give_up();
    hosts.bench.drive.deliver();
    let found = answers(&hosts.bench.drive.drain(new));
    assert_eq!((found[0].opcode(), found[0].head[1]), (0x23, 0x87));
    assert_eq!(hosts.second.held(), 0);
}

#[test]
fn a_unit_that_is_unmapped_or_protected_is_left_at_once() {
    type Change = fn(&mut Vec<Mapping>);
    let cases: [(Change, _); 3] = [
        (|mappings| drop(mappings.remove(1)), NOT_REACHABLE),
        (|mappings| mappings[1].read_only = true, DEVICE_FAILURE),
        (|mappings| mappings[1].lun = 9, GOOD),
    ];
    for (change, expected) in cases {
        let mut hosts = Hosts::reading(21);
        let mut mappings = hosts.mappings();
        change(&mut mappings);
        hosts.bench.set_access(super::super::bench::hosts(), mappings);
        hosts.bench.volume.give_up();
        let mut found = hosts.told();
        if expected == GOOD {
            assert!(found.is_empty(), "the volume is still seen");
            hosts.second.state.lock().hold = false;
            hosts.bench.volume.answer(0);
            found = hosts.told();
        }
        assert_eq!(found[0].sense(), expected);
        assert_eq!(hosts.second.held(), 0);
    }
}

#[test]
fn a_volume_that_fails_half_way_fails_the_copy() {
    let mut hosts = Hosts::new();
    hosts.second.state.lock().hold = true;
    let bytes = hosts.list(3, 5000);
    assert!(hosts.copy(21, &bytes).is_empty());
    hosts.second.answer(0);
    hosts.bench.drive.deliver();
    let so_far = 2048 - 64u32;
    let status = hosts.results(0, 3);
    assert_eq!(
        (&status[0].data[..8], status[0].data[8..12].to_vec()),
        (&[0, 0, 0, 8, 0, 0, 1, 0][..], (so_far * 512).to_be_bytes().to_vec())
    );
    hosts.second.state.lock().failure = Some(GuestError::OutOfSpace);
    hosts.second.answer(0);
    let found = hosts.told();
    assert_eq!(found[0].sense(), DEVICE_FAILURE);
    let sense = &found[0].data[2..];
    assert_eq!((sense[0], &sense[3..7]), (0xf0, &(5000 - so_far).to_be_bytes()[..]));
    assert_eq!(
        (sense[9], sense[18], sense[21], sense[31], sense[32]),
        (18, 2, 7, 0x27, 7),
        "as the unit says it"
    );
    let details = hosts.results(4, 3);
    assert_eq!(details[0].data[60..], found[0].data[2..]);
}

#[test]
fn an_identifier_is_of_one_copy_at_a_time_and_copies_are_counted() {
    let mut hosts = Hosts::new();
    hosts.bench.volume.state.lock().hold = true;
    for identifier in 0..COPIES_MAX as u8 {
        let bytes = hosts.list(identifier, 8);
        assert!(hosts.copy(20 + u32::from(identifier), &bytes).is_empty());
    }
    let bytes = hosts.list(99, 8);
    let found = hosts.copy(40, &bytes);
    assert_eq!((found[0].head[3], found[0].data.len()), (FULL, 0));
    let memory = hosts.bench.drive.get(hosts.link).expect("open").memory_bytes();
    assert!((COPIES_MAX << 20..(COPIES_MAX + 1) << 20).contains(&memory), "{memory}");
    hosts.bench.volume.answer(0);
    assert_eq!(hosts.told()[0].sense(), GOOD);
    let bytes = hosts.list(1, 8);
    assert_eq!(hosts.copy(41, &bytes)[0].sense(), (2, 5, 0, 0x16), "OPERATION IN PROGRESS");
    let bytes = hosts.list(99, 8);
    assert!(hosts.copy(42, &bytes).is_empty());
    while hosts.bench.volume.held() > 0 {
        hosts.bench.volume.answer(0);
        hosts.told();
    }
    let memory = hosts.bench.drive.get(hosts.link).expect("open").memory_bytes();
    assert!(memory < 64 << 10, "{memory}");
}

#[test]
fn a_copy_that_waits_for_memory_is_given_up_without_having_begun() {
    let mut hosts = Hosts::new();
    hosts.bench.volume.state.lock().hold = true;
    // Reads that leave no room.
    let cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0];
    for itt in 0..4 {
        let read = hosts.bench.command(0xc0, itt, 8 << 20, &cdb);
        assert!(hosts.bench.ask(hosts.link, &read).is_empty());
    }
    let bytes = hosts.list(1, 8);
    assert!(hosts.copy(21, &bytes).is_empty() && hosts.copy(22, &hosts.list(2, 8)).is_empty());
    assert_eq!(hosts.bench.volume.held(), 4, "they wait");
    assert!(is_complete(&hosts.manage(hosts.link, ABORT_TASK, 0, 21)));
    let found = hosts.manage(hosts.link, CLEAR_TASK_SET, 1, 0);
    assert_eq!((found[0].sense(), found[0].word(16)), (DEVICE_FAILURE, 22));
    assert!(is_complete(&found[1..]));
}

#[test]
fn a_reset_forgets_what_became_of_copies() {
    let mut hosts = Hosts::new();
    let bytes = hosts.list(1, 8);
    assert_eq!(hosts.copy(10, &bytes)[0].sense(), GOOD);
    assert!(is_complete(&hosts.manage(hosts.link, LOGICAL_UNIT_RESET, 0, 0)));
    assert_eq!(hosts.results(0, 1)[0].sense(), (2, 6, 0x29, 3));
    assert_eq!(hosts.results(0, 1)[0].sense(), (2, 5, 0x24, 0));
}

#[test]
fn a_copy_that_dies_of_a_reset_says_nothing_of_a_later_one_with_its_identifier() {
    for own in [true, false] {
        let mut hosts = Hosts::reading(21);
        let (link, lun) = if own { (hosts.link, 0) } else { (hosts.other().0, 5) };
        assert!(hosts.manage(link, LOGICAL_UNIT_RESET, lun, 0).is_empty(), "the first may still act");
        assert_eq!(hosts.results(0, 1)[0].sense(), (2, 6, 0x29, 3));
        let bytes = hosts.list(1, 8);
        assert!(hosts.copy(22, &bytes).is_empty(), "the identifier is free again");
        assert_eq!(hosts.bench.volume.held(), 2);
        hosts.bench.volume.give_up();
        hosts.told();
        assert_eq!(hosts.bench.volume.held(), 1, "the first is dead");
        assert_eq!(hosts.results(0, 1)[0].data[4], 0, "and the second runs");
    }
}

#[test]
fn a_destination_that_has_grown_may_be_filled_and_its_growth_is_still_told() {
    let mut hosts = Hosts::new();
    let end = hosts.second.sectors();
    let named = [cscd(&naa(&hosts.bench.volume)), cscd(&naa(&hosts.second))];
    let bytes = list(1, &named, &[segment((0, 1), 8, 0, end)]);
    assert_eq!(hosts.copy(10, &bytes)[0].sense(), (2, 0x0a, 0, 0), "beyond the end");
    hosts.second.state.lock().sectors = end + 8;
    assert_eq!(hosts.copy(11, &bytes)[0].sense(), GOOD);
    let ready = hosts.bench.command(0x80, 12, 0, &[0; 6]).byte(9, 1);
    assert_eq!(hosts.bench.ask(hosts.link, &ready)[0].sense(), (2, 6, 0x2a, 9));
    // The unit that a copy is sent to tells first what it has to tell.
    hosts.bench.volume.state.lock().sectors = end + 8;
    assert_eq!(hosts.copy(13, &bytes)[0].sense(), (2, 6, 0x2a, 9));
    assert_eq!(hosts.copy(14, &bytes)[0].sense(), GOOD);
}
