//! Two nodes driven by hand: disks answer at once, messages arrive at once, time moves when told. The shortest
//! stories of the mirror, before the simulator makes them hard.

mod pair_support;

use pair_support::{A, B, Pair};
use twinsan::arbiter::Arbitration;
use twinsan::block::{BLOCK_BYTES, PagePool, payload_from, zeros};
use twinsan::guest::{Command, Sectors};
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;
use twinsan::time::Duration;

#[test]
fn two_new_nodes_become_a_pair_and_serve_on_both_paths() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    pair.write(A, 5, 0x11).expect("written at a");
    assert_eq!(pair.read(B, 5), 0x11);
    pair.write(B, 6, 0x22).expect("written at b");
    assert_eq!((pair.read(A, 6), pair.read(B, 6)), (0x22, 0x22));
    let id = pair.ask(B, Command::Flush);
    pair.finish(id).expect("flushed");
}

#[test]
fn a_killed_node_is_taken_over_and_resynchronised() {
    for arbitration in [Arbitration::Register, Arbitration::Preferred] {
        for victim in NodeName::BOTH {
            if arbitration == Arbitration::Preferred && victim == A {
                continue; // the other one stops, as configured
            }
            let survivor = victim.partner();
            let mut pair = Pair::new(arbitration);
            pair.until_paired();
            for block in 0..50 {
                pair.write(NodeName::BOTH[block as usize % 2], block * 7, block as u8 + 1).expect("written");
            }
            pair.crash(victim);
            for block in 0..50 {
                assert_eq!(pair.read(survivor, block * 7), block as u8 + 1);
            }
            for block in 0..10 {
                pair.write(survivor, block * 21, 0x99).expect("written alone");
            }
            pair.start(victim);
            pair.heal();
            pair.until_paired();
            for block in 0..10 {
                assert_eq!(pair.read(victim, block * 21), 0x99);
            }
            assert_eq!(pair.read(victim, 7), 2);
        }
    }
}

#[test]
fn a_cut_link_leaves_one_and_heals_to_two() {
    for arbitration in [Arbitration::Register, Arbitration::Preferred, Arbitration::StopBoth] {
        let mut pair = Pair::new(arbitration);
        pair.until_paired();
        pair.write(B, 3, 3).expect("written");
        pair.cut();
        pair.pass(Duration::from_secs(6));
        let alone = pair.phases().iter().filter(|phase| **phase == Some(PeerPhase::Alone)).count();
        assert_eq!(alone, usize::from(arbitration != Arbitration::StopBoth));
        pair.heal();
        pair.until_paired();
        assert_eq!((pair.read(A, 3), pair.read(B, 3)), (3, 3));
    }
}

#[test]
fn a_short_cut_changes_nothing() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    let epoch = pair.register.map(|register| register.epoch);
    pair.cut();
    pair.pass(Duration::from_millis(100));
    pair.heal();
    pair.write(B, 3, 3).expect("written");
    assert_eq!(pair.register.map(|register| register.epoch), epoch);
}

#[test]
fn a_clean_stop_hands_over_without_the_arbiter() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    pair.write(A, 1, 1).expect("written");
    pair.stop(A);
    pair.pass(Duration::from_millis(500));
    assert_eq!(pair.phases(), [Some(PeerPhase::Stopped), Some(PeerPhase::Alone)]);
    assert_eq!(pair.read(B, 1), 1);
    pair.write(B, 1, 2).expect("written alone");
    pair.crash(A);
    pair.start(A);
    pair.heal();
    pair.until_paired();
    assert_eq!(pair.read(A, 1), 2);
}

/// The preferred node dies with a write in memory that the other one had too; that one is stopped before it returns.
/// What a host reads when both are back.
fn read_after_the_survivor_was_stopped(bugs: &[Bug]) -> u8 {
    let mut pair = Pair::preferring_a(bugs);
    pair.write(A, 1, 7).expect("written");
    pair.crash(A);
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.phases(), [None, Some(PeerPhase::Lost)]);
    pair.stop(B);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.phases(), [None, Some(PeerPhase::Stopped)]);
    pair.crash(B);
    pair.start(A);
    pair.pass(Duration::from_secs(5));
    pair.restart(B);
    pair.until_paired();
    assert_eq!(pair.read(A, 1), pair.read(B, 1));
    pair.read(A, 1)
}

#[test]
fn a_survivor_that_may_not_go_on_and_is_stopped_is_known_to_have_everything() {
    assert_eq!(read_after_the_survivor_was_stopped(&[]), 7);
    assert_eq!(read_after_the_survivor_was_stopped(&[Bug::StoppedUnmarked]), 0);
}

#[test]
fn an_unaligned_write_keeps_its_neighbours_and_a_cleared_range_reads_zero() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    for node in NodeName::BOTH {
        pair.write(node, 8, 0x55).expect("written");
        let data = payload_from(&PagePool::new(), &[0xaa; BLOCK_BYTES]);
        let id = pair.ask(node, Command::Write { at: Sectors::new(8 * 8 + 2, 3), data, fua: true });
        pair.finish(id).expect("written");
        for path in NodeName::BOTH {
            let id = pair.ask(path, Command::Read { at: Sectors::new(64, 8) });
            let data = pair.finish(id).expect("reads");
            let bytes = data[0].bytes();
            assert_eq!(
                (bytes[0], bytes[1023], bytes[1024], bytes[2559], bytes[2560]),
                (0x55, 0x55, 0xaa, 0xaa, 0x55)
            );
        }
        let id = pair.ask(node.partner(), Command::Zero { at: Sectors::new(0, 4096), fua: true });
        pair.finish(id).expect("cleared");
        assert_eq!((pair.read(A, 8), pair.read(B, 8)), (0, 0));
    }
    assert_eq!(zeros(1).len(), 1);
}

#[test]
fn both_down_and_back_in_either_order() {
    for order in [[A, B], [B, A]] {
        let mut pair = Pair::new(Arbitration::Register);
        pair.until_paired();
        pair.write(A, 2, 2).expect("written");
        let id = pair.ask(A, Command::Flush);
        pair.finish(id).expect("flushed");
        pair.crash(A);
        pair.crash(B);
        pair.start(order[0]);
        pair.pass(Duration::from_secs(5));
        pair.start(order[1]);
        pair.heal();
        pair.until_paired();
        assert_eq!((pair.read(A, 2), pair.read(B, 2)), (2, 2));
    }
}
