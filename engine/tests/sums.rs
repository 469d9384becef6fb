//! What block checksums find, and what becomes of it, on one store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use pool_support::{Disk, open_with, settle};
use store_support::{Bench, Op, V};
use twinsan::ids::{DiskId, Uuid};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{Record, SumArea};
use twinsan::store::Damage;

/// One volume with two extents, in each of them blocks 3 and 20 written; everything settled, the store just opened.
fn settled(planted: Planted) -> Bench {
    let mut bench = Bench::new(planted);
    for op in [Op::Create, Op::WriteNew, Op::WriteNew, Op::Idle] {
        bench.begin(op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    bench.restart();
    bench
}

fn area(bench: &Bench) -> SumArea {
    bench.store().pool().sum_area(DiskId(0)).unwrap()
}

fn offset(bench: &Bench, block: u64) -> u64 {
    bench.place(block).1
}

/// Flips a bit on the medium.
fn rot(disk: &mut Disk, offset: u64) {
    let mut block = disk.block(offset / 4096 * 4096);
    block[(offset % 4096) as usize] ^= 4;
    disk.put(offset / 4096 * 4096, &block);
}

#[test]
fn every_flipped_bit_is_found_and_costs_one_block() {
    let bench = settled(Planted::NONE);
    for bit in 0..64 {
        let mut bench = bench.fork(bench.disks.clone());
        bench.restart();
        let at = offset(&bench, 3) + bit * 61;
        rot(&mut bench.disks[0], at);
        assert_eq!(bench.read_one(3).err(), Some(Damage::Rotten), "bit {bit}");
        bench.read_one(2).unwrap();
        bench.read_one(4).unwrap();
        assert_eq!(bench.store().sum_counters().bad, 1);
    }
}

#[test]
fn a_run_of_blocks_names_the_bad_ones() {
    let mut bench = settled(Planted::NONE);
    for block in [3, 20] {
        let at = offset(&bench, block);
        rot(&mut bench.disks[0], at);
    }
    assert_eq!(bench.read_run(0..32), vec![(3, Damage::Rotten), (20, Damage::Rotten)]);
}

#[test]
fn a_misdirected_write_is_found_at_both_places() {
    let mut bench = settled(Planted::NONE);
    // Block 3 of the first extent landed on block 3 of the second.
    let (from, to) = (offset(&bench, 3), offset(&bench, 35));
    let landed = bench.disks[0].block(from);
    bench.disks[0].put(to, &landed);
    bench.disks[0].put(from, &[0; 4096]);
    assert_eq!([3, 35].map(|block| bench.read_one(block).err()), [Some(Damage::Rotten); 2]);
}

/// Whatever a map says: data and checksums that were written for another block are not shown.
#[test]
fn the_bytes_of_another_block_are_not_shown() {
    let read_through_a_wrong_map = |planted| {
        let mut bench = settled(planted);
        let (mut pool, _) = open_with(&mut bench.disks, planted).unwrap();
        let create = Record::VolumeCreate { volume: V, uuid: Uuid(1), sectors: 1 << 10, mirrored: true };
        pool.append(&[Record::VolumeDelete { volume: V }, create]);
        settle(&mut pool, &mut bench.disks);
        assert!(pool.reserve(V, 1));
        let slot = pool.allocate(V, 1);
        assert_eq!(slot.index, 0, "that of extent 0 before");
        pool.append(&[Record::Map { volume: V, extent: 1, slot }]);
        settle(&mut pool, &mut bench.disks);
        bench.restart();
        bench.read_one(35).map(|block| block.bytes()[0])
    };
    assert_eq!(read_through_a_wrong_map(Planted::NONE), Err(Damage::Rotten));
    let bug = Planted::only(Bug::BlockChecksumWithoutAddress);
    assert_eq!(read_through_a_wrong_map(bug), Ok(1), "the planted bug is found");
}

#[test]
fn a_lost_write_is_found() {
    let mut bench = settled(Planted::NONE);
    let at = offset(&bench, 3);
    let before = bench.disks[0].block(at);
    bench.begin(Op::Overwrite);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.begin(Op::Idle);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.disks[0].put(at, &before);
    bench.restart();
    assert_eq!(bench.read_one(3).err(), Some(Damage::Rotten));
}

#[test]
fn writing_all_of_a_bad_block_heals_it() {
    let mut bench = settled(Planted::NONE);
    let at = offset(&bench, 3);
    rot(&mut bench.disks[0], at);
    assert_eq!(bench.read_one(3).err(), Some(Damage::Rotten));
    bench.begin(Op::Overwrite);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.restart();
    bench.read_all().unwrap();
}

#[test]
fn damaged_checksums_make_no_good_data_bad() {
    for hit in [0, 70, 4000] {
        let mut bench = settled(Planted::NONE);
        let page = area(&bench).offset;
        rot(&mut bench.disks[0], page + hit);
        bench.read_all().unwrap();
        let counters = bench.store().sum_counters();
        assert_eq!((counters.bad, counters.lines_lost), (0, u64::from(hit < 4000 && hit / 68 < 4)));
        // What was made anew is written back, and then counts.
        bench.begin(Op::Idle);
        bench.run(&mut |_| Ok(())).unwrap();
        bench.restart();
        assert_eq!(bench.in_doubt(), 0);
        let at = offset(&bench, 3);
        rot(&mut bench.disks[0], at);
        assert_eq!(bench.read_one(3).err(), Some(Damage::Rotten));
    }
}

#[test]
fn a_damaged_line_that_is_known_in_part_is_not_believed_after_a_crash() {
    let mut bench = settled(Planted::NONE);
    let page = area(&bench).offset;
    rot(&mut bench.disks[0], page);
    bench.read_one(3).unwrap();
    bench.begin(Op::Idle);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.restart();
    bench.read_all().unwrap();
    assert_eq!(bench.store().sum_counters().bad, 0);
}

#[test]
fn a_crash_puts_in_doubt_only_what_was_being_written() {
    let mut bench = settled(Planted::NONE);
    bench.begin(Op::Overwrite);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.cut_power(|_| true);
    bench.restart();
    assert_eq!(bench.in_doubt(), 1);
    let at = offset(&bench, 20);
    rot(&mut bench.disks[0], at);
    assert_eq!(bench.read_one(20).err(), Some(Damage::Rotten), "another line of the extent");
    bench.read_one(3).unwrap();
}

#[test]
fn what_the_partner_can_tell_is_not_taken_as_it_is() {
    let mut bench = settled(Planted::NONE);
    bench.begin(Op::Overwrite);
    bench.run(&mut |_| Ok(())).unwrap();
    bench.cut_power(|_| true);
    bench.restart();
    bench.store_mut().ask_in_doubt(true);
    let at = offset(&bench, 4);
    rot(&mut bench.disks[0], at);
    assert_eq!(bench.read_one(4).err(), Some(Damage::Unsure));
    bench.store_mut().trust(V, 4);
    bench.read_one(4).unwrap();
    assert_eq!(bench.store().sum_counters().remade, 1);
}

/// Pages come and go, within their bound; everything written is there, and sure.
#[test]
fn checksums_take_no_more_memory_than_they_may() {
    let mut bench = Bench::large();
    bench.begin(Op::Create);
    bench.run(&mut |_| Ok(())).unwrap();
    let blocks = bench.blocks();
    for round in 0..3u64 {
        let (mut at, mut written) = (round, 0);
        while written < 600 {
            bench.write_some(at % blocks);
            at += blocks / 600 + 7;
            written += 1;
            bench.run(&mut |_| Ok(())).unwrap();
            let (pages, most) = bench.store().sum_pages();
            assert!(pages <= most, "{pages} of {most} pages");
            assert!(bench.unsure() <= most as u64 * 60 / 2);
        }
    }
    let counters = bench.store().sum_counters();
    assert!(counters.page_reads > 200 && counters.page_writes > 100, "{counters:?}");
    bench.begin(Op::Idle);
    bench.run(&mut |_| Ok(())).unwrap();
    assert_eq!(bench.unsure(), 0);
    bench.restart();
    bench.read_written().unwrap();
    assert_eq!(bench.store().sum_counters().remade, 0);
}

/// A working set that fits costs nothing but its first marks.
#[test]
fn overwriting_what_is_unsure_costs_no_more_requests() {
    let mut bench = settled(Planted::NONE);
    bench.begin(Op::Overwrite);
    bench.run(&mut |_| Ok(())).unwrap();
    let (requests, counters) = (bench.requests, bench.store().sum_counters());
    for _ in 0..10 {
        bench.begin(Op::Overwrite);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    assert_eq!(bench.requests - requests, 20, "a write and a flush each");
    assert_eq!(bench.store().sum_counters().page_writes, counters.page_writes);
}

#[test]
fn a_pool_without_checksums_goes_on_without() {
    let mut bench = Bench::without_sums();
    assert_eq!(bench.store().pool().sum_area(DiskId(0)), None);
    for op in [Op::Create, Op::WriteNew, Op::WriteNew, Op::OverwriteWide, Op::Replace, Op::Idle] {
        bench.begin(op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    assert_eq!((bench.unsure(), bench.store().sum_counters()), (0, Default::default()));
    bench.restart();
    bench.read_all().unwrap();
}
