//! The first, second, third, … disk request fails, until none does, in every operation of a pool and of the store over
//! it: [`OPERATIONS`] is the table. Whatever fails, nothing panics; then the node dies, with what was not flushed or
//! without it, the disk is healthy again, and there is everything that was acknowledged, no byte that should not be, a
//! pool without a flaw and data that match their checksums; and the store goes on.
//!
//! `pool_crash.rs` and `sums_crash.rs` let each request of pairs of operations fail, by the pool and by the store alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pool_support;
mod store_support;

use std::collections::BTreeMap;

use pool_support::disks::marked;
use pool_support::rot::copies;
use pool_support::{Disk, disk, formatted, ids, open, open_with, settle};
use store_support::{Bench, Op, Order, V};
use twinsan::ids::{DiskId, Epoch, ItemName, Uuid};
use twinsan::io::{DiskError, DiskOp, DiskResult, Geometry};
use twinsan::planted::{Bug, Planted};
use twinsan::pool::{
    DiskNews, DiskState, Lsn, OpenError, OpenReport, Opening, Pool, PoolIo, PoolOptions, Record, check,
    format,
};
use twinsan::store::{DataCheck, Defect, ReadToken};
use twinsan::time::Duration;

/// What holds of the pool, once a record is durable.
type Holds = fn(&Pool) -> bool;

/// What an operation is to come to.
#[derive(Default)]
struct Begun {
    promises: Vec<(Lsn, Holds)>,
    /// All checksums are to be settled in the end.
    settles: bool,
    /// This block is damaged, and written again as it was.
    repairs: Option<u64>,
}

struct Operation {
    name: &'static str,
    /// On two disks, of which the second can leave.
    two_disks: bool,
    prepare: fn(&mut Bench),
    begin: fn(&mut Bench) -> Begun,
}

const fn operation(name: &'static str, two_disks: bool, begin: fn(&mut Bench) -> Begun) -> Operation {
    Operation { name, two_disks, prepare: |_| {}, begin }
}

const OPERATIONS: &[Operation] = &[
    operation("append and flush", false, |bench| {
        let (first, count) = (3, 2);
        promise(bench, Record::LogAdd { volume: V, first, count }, |pool| {
            pool.metadata().volume(V).is_some_and(|meta| meta.log.contains(3))
        })
    }),
    operation("checkpoint", false, |bench| {
        // More than half of the log.
        (0..9).for_each(|n| drop(keep(bench, n, 2_500)));
        keep(bench, 9, 100)
    }),
    operation("keep", false, |bench| keep(bench, 9, 900)),
    operation("grow", false, |bench| {
        let (sectors, change, epoch) = (bench.blocks() * 8 + 800, 1, Epoch(1));
        let grown =
            Record::VolumeState { volume: V, sectors, change, epoch, deleted: false, read_only: false };
        promise(bench, grown, |pool| pool.metadata().volume(V).is_some_and(|meta| meta.sectors % 1536 == 800))
    }),
    operation("delete", false, |bench| {
        let (sectors, change, epoch) = (bench.blocks() * 8, 1, Epoch(1));
        let deleted =
            Record::VolumeState { volume: V, sectors, change, epoch, deleted: true, read_only: false };
        let begun = promise(bench, deleted, |pool| pool.metadata().volume(V).is_none_or(|meta| meta.deleted));
        bench.store_mut().purge(V, begun.promises[0].0);
        begun
    }),
    operation("allocate and map", true, |bench| does(bench, &[Op::WriteNew])),
    operation("overwrite", false, |bench| does(bench, &[Op::OverwriteWide])),
    operation("zero a block", false, |bench| does(bench, &[Op::Clear])),
    operation("unmap", false, |bench| does(bench, &[Op::Unmap])),
    operation("unmap and write elsewhere", true, |bench| does(bench, &[Op::Replace])),
    operation("read", true, |bench| does(bench, &[Op::Read])),
    operation("scrub", true, |bench| {
        for (n, first) in (0..bench.blocks()).step_by(32).enumerate() {
            bench.store_mut().scrub(V, first..first + 32, ReadToken(1 << 40 | n as u64));
        }
        Begun::default()
    }),
    Operation {
        name: "repair",
        two_disks: false,
        prepare: |bench| {
            bench.restart();
            let (disk, offset) = bench.place(3);
            bench.disks[usize::from(disk.0)].rot(offset);
        },
        begin: |bench| {
            let (now, good) = (bench.now(), bench.good(3));
            bench.store_mut().repair(now, V, 3, &[good]);
            bench.begin(Op::Idle);
            Begun { repairs: Some(3), ..Begun::default() }
        },
    },
    operation("add a disk", false, |bench| {
        bench.add_disk(1);
        bench.begin(Op::Idle);
        Begun::default()
    }),
    operation("remove a disk", true, |bench| {
        bench.store_mut().remove_disk(DiskId(1)).unwrap();
        bench.begin(Op::Idle);
        Begun::default()
    }),
    operation("keep a disk", true, |bench| {
        bench.store_mut().remove_disk(DiskId(1)).unwrap();
        (0..12).for_each(|_| drop(bench.step(&mut |_| Ok(()))));
        // It may have left or failed by then.
        drop(bench.store_mut().keep_disk(DiskId(1)));
        bench.begin(Op::Idle);
        Begun::default()
    }),
    Operation {
        name: "stop cleanly",
        two_disks: true,
        prepare: |bench| bench.destage_age = Duration::from_secs(20),
        begin: |bench| {
            bench.begin(Op::OverwriteWide);
            bench.begin(Op::WriteNew);
            bench.store_mut().urge();
            bench.store_mut().close_sums();
            Begun { settles: true, ..Begun::default() }
        },
    },
];

fn does(bench: &mut Bench, ops: &[Op]) -> Begun {
    ops.iter().for_each(|op| bench.begin(*op));
    bench.begin(Op::Idle);
    Begun::default()
}

fn promise(bench: &mut Bench, record: Record, holds: Holds) -> Begun {
    let lsn = bench.store_mut().append(&[record]);
    Begun { promises: vec![(lsn, holds)], ..Begun::default() }
}

fn keep(bench: &mut Bench, name: u32, bytes: usize) -> Begun {
    let value = vec![7; bytes].into();
    promise(bench, Record::VolumeItem { volume: V, name: ItemName(name), revision: 1, value }, |pool| {
        pool.metadata().volume(V).is_some_and(|meta| meta.items.contains_key(&ItemName(9)))
    })
}

/// Three extents with data, all settled, the store closed.
fn beginning(operation: &Operation, planted: Planted) -> Bench {
    let mut bench = match operation.two_disks {
        true => Bench::on_two_disks(planted),
        false => Bench::new(planted),
    };
    for op in [Op::Create, Op::WriteNew, Op::WriteNew, Op::WriteNew, Op::Idle] {
        bench.begin(op);
        bench.run(&mut |_| Ok(())).unwrap();
    }
    bench
}

/// What was acknowledged before the end of a run.
struct Acknowledged {
    promises: Vec<Holds>,
    settled: bool,
    repaired: bool,
    joined: Option<Uuid>,
    left: Option<Uuid>,
}

fn acknowledged(bench: &mut Bench, begun: &Begun) -> Acknowledged {
    let (mut joined, mut left) = (None, None);
    while let Some(news) = bench.store_mut().poll_disk_news() {
        match news {
            DiskNews::Joined { uuid, .. } => joined = Some(uuid),
            DiskNews::Left { uuid, .. } => left = Some(uuid),
            DiskNews::Refused { .. } => {}
        }
    }
    let store = bench.store();
    let (durable, works) = (store.durable(), !store.failed());
    let promises = begun.promises.iter().filter(|(lsn, _)| *lsn <= durable).map(|(_, holds)| *holds);
    Acknowledged {
        promises: promises.collect(),
        settled: begun.settles && works && store.are_sums_settled() && store.unstable_blocks() == 0,
        repaired: begun.repairs.is_some() && works && store.unstable_blocks() == 0,
        joined,
        left,
    }
}

/// The node died; the disks are healthy.
fn reopen(bench: &Bench, keep: bool, begun: &Begun, told: &Acknowledged) -> Result<(), String> {
    let mut after = bench.fork(bench.disks.clone());
    after.cut_power(|_| keep);
    let defects = data_defects(&after.disks);
    let allowed = |defect: &Defect| match defect {
        Defect::Block { block, .. } => begun.repairs == Some(*block) && !told.repaired,
        _ => false,
    };
    if let Some(defect) = defects.iter().find(|defect| !allowed(defect)) {
        return Err(format!("offline: {defect}"));
    }
    after.restart();
    let pool = after.store().pool();
    let report = check(pool);
    if !report.is_clean() || report.between != 0 {
        return Err(format!("the pool has a flaw: {report:?}"));
    }
    if !told.promises.iter().all(|holds| holds(pool)) {
        return Err("what was durable is gone".into());
    }
    if told.settled && pool.metadata().unsure().any(|(_, lines)| !lines.is_empty()) {
        return Err("a clean stop leaves lines unsure".into());
    }
    let is_there =
        |uuid: Uuid| pool.disks().iter().any(|disk| disk.uuid == uuid && disk.state != DiskState::Removed);
    if told.joined.is_some_and(|uuid| !is_there(uuid)) || told.left.is_some_and(is_there) {
        return Err(format!("a change of the disks is undone: {:?}", pool.disks()));
    }
    let deleted = pool.metadata().volume(V).is_none_or(|meta| meta.deleted);
    if deleted {
        after.begin(Op::Idle);
        after.run(&mut |_| Ok(()))?;
        let left = after.store().pool().metadata().volume(V).map_or(0, |meta| meta.map.len());
        return if left == 0 { Ok(()) } else { Err(format!("{left} extents of a deleted volume stay")) };
    }
    let skip = begun.repairs.filter(|_| !told.repaired);
    after.read_but(skip)?;
    for op in [Op::WriteNew, Op::Idle] {
        after.begin(op);
        after.run(&mut |_| Ok(()))?;
    }
    if after.store().failed() {
        return Err("it does not go on".into());
    }
    after.read_but(skip)
}

/// What the offline comparison of data and checksums finds.
fn data_defects(disks: &[Disk]) -> Vec<Defect> {
    // A node is given what carries a mark.
    let mut disks: Vec<Disk> = marked(disks).into_iter().map(|at| disks[at].clone()).collect();
    let (pool, _) = open(&mut disks).unwrap();
    let mut data = DataCheck::new(&pool);
    while let Some(io) = data.poll_io() {
        data.io_done(io.token, disk(&mut disks, io.disk).submit(&io.op));
    }
    data.report().defects.clone()
}

/// Requests that failed, by what they were.
#[derive(Clone, Copy, Default)]
struct Failed {
    reads: u64,
    writes: u64,
    flushes: u64,
}

impl Failed {
    fn add(&mut self, op: &DiskOp) {
        match op {
            DiskOp::Read { .. } => self.reads += 1,
            DiskOp::Write { .. } => self.writes += 1,
            DiskOp::Flush => self.flushes += 1,
        }
    }
}

/// The operation with its n-th request failing; false if it has fewer.
fn fail(
    begin: &Bench,
    operation: &Operation,
    order: Order,
    n: u64,
    failed: &mut Failed,
) -> Result<bool, String> {
    let mut bench = begin.fork(begin.disks.clone());
    (operation.prepare)(&mut bench);
    bench.order = order;
    bench.restart();
    bench.fail_at = Some(n);
    let begun = (operation.begin)(&mut bench);
    // While something cannot be moved it never comes to rest.
    let rests = bench.run(&mut |_| Ok(()));
    rests.or_else(|what| if what.contains("comes to rest") { Ok(()) } else { Err(what) })?;
    let hit = bench.requests >= n;
    if let Some(request) = &bench.failed {
        failed.add(&request.op);
        // One that is not in the table, no more or not yet, is kept out, or left unerased.
        let pool = bench.store().pool();
        let is_there =
            (0..pool.disks().len() as u16).any(|place| pool.device(DiskId(place)) == Some(request.disk));
        let stops = !matches!(request.op, DiskOp::Read { .. });
        if stops && is_there && !bench.store().failed() {
            return Err(format!("the store goes on after {request:?}"));
        }
    }
    if !hit && bench.store().failed() {
        return Err("it fails though nothing has failed".into());
    }
    let told = acknowledged(&mut bench, &begun);
    if !hit && (told.promises.len() != begun.promises.len() || begun.settles && !told.settled) {
        return Err("not all is done in the end".into());
    }
    for keep in [true, false] {
        reopen(&bench, keep, &begun, &told)?;
    }
    Ok(hit)
}

/// Each request of the operation fails once, in both orders.
fn fail_each(operation: &Operation, planted: Planted) -> Result<Failed, String> {
    let begin = beginning(operation, planted);
    let mut failed = Failed::default();
    for order in [Order::First, Order::Last] {
        for n in 1.. {
            let named = |what| format!("{}, request {n} fails, {order:?}: {what}", operation.name);
            if !fail(&begin, operation, order, n, &mut failed).map_err(named)? {
                break;
            }
        }
    }
    Ok(failed)
}

#[test]
fn whatever_request_fails_nothing_acknowledged_is_lost() {
    let mut all = BTreeMap::new();
    for operation in OPERATIONS {
        let failed = fail_each(operation, Planted::NONE).unwrap_or_else(|what| panic!("{what}"));
        println!(
            "{:<26} {:>4} reads, {:>4} writes, {:>4} flushes failed",
            operation.name, failed.reads, failed.writes, failed.flushes
        );
        all.insert(operation.name, failed);
    }
    for (name, failed) in &all {
        let only_reads = ["read", "scrub"].contains(name);
        assert!(
            if only_reads { failed.reads > 0 } else { failed.writes > 0 && failed.flushes > 0 },
            "{name}"
        );
    }
    let total: u64 = all.values().map(|failed| failed.reads + failed.writes + failed.flushes).sum();
    println!("{total} failed requests of {} operations: nothing lost", all.len());
    assert!(total > 400, "{total}");
}

#[test]
fn a_planted_bug_is_found() {
    let planted = Planted::only(Bug::FailedFlushTrusted);
    let found = OPERATIONS.iter().find_map(|operation| fail_each(operation, planted).err());
    println!("{}", found.expect("a failed flush that is trusted is found"));
}

const OPTIONS: PoolOptions = PoolOptions { extent_bytes: 64 << 10, log_bytes: 32 << 10 };

/// A request from beginning to end, or to this error.
fn submit(disks: &mut [Disk], io: &PoolIo, error: Option<DiskError>) -> DiskResult {
    let medium = disk(disks, io.disk);
    let number = medium.begin(&io.op);
    match error {
        Some(error) => {
            medium.fail(number, &io.op);
            Err(error)
        }
        None => medium.end(number, &io.op),
    }
}

/// Opens a pool while the n-th request fails; how many there were.
fn open_failing(disks: &mut [Disk], n: u64) -> (Result<(Pool, OpenReport), OpenError>, u64) {
    let geometries: Vec<Geometry> = disks.iter().map(|disk| disk.geometry).collect();
    let mut opening = Opening::new(&geometries);
    let mut requests = 0;
    loop {
        while let Some(io) = opening.poll_io() {
            requests += 1;
            let error =
                if matches!(io.op, DiskOp::Flush) { DiskError::Failed } else { DiskError::Unreadable };
            let result = submit(disks, &io, (requests == n).then_some(error));
            opening.io_done(io.token, result);
        }
        if let Some(outcome) = opening.done() {
            return (outcome, requests);
        }
    }
}

/// Carries out what the pool asks for; the n-th request fails. How many there were.
fn settle_failing(pool: &mut Pool, disks: &mut [Disk], n: u64) -> u64 {
    let mut requests = 0;
    while let Some(io) = pool.poll_io() {
        requests += 1;
        let result = submit(disks, &io, (requests == n).then_some(DiskError::Failed));
        pool.io_done(io.token, result);
    }
    requests
}

/// Pools with something in checkpoint and log: with one copy of the metadata, with two on one disk, and on two.
fn pools() -> Vec<Vec<Disk>> {
    let sizes: [&[u64]; 3] = [&[2 << 20], &[8 << 20], &[1 << 20, 9 << 20, 8 << 20]];
    let filled = |sizes: &&[u64]| {
        let mut disks = formatted(&OPTIONS, sizes);
        let (mut pool, _) = open(&mut disks).unwrap();
        for n in 0..3 {
            let (volume, uuid) = (twinsan::ids::VolumeId(n + 1), Uuid(u128::from(n)));
            pool.append(&[Record::VolumeCreate { volume, uuid, sectors: 4096, mirrored: true }]);
            settle(&mut pool, &mut disks);
        }
        disks.iter_mut().for_each(Disk::flush);
        disks
    };
    sizes.iter().map(filled).collect()
}

#[test]
fn a_pool_that_is_being_opened_loses_nothing() {
    let (mut opened, mut refused) = (0, 0);
    for begin in pools() {
        let whole = open(&mut begin.clone()).unwrap().0;
        for n in 1.. {
            let mut disks = begin.clone();
            let (outcome, requests) = open_failing(&mut disks, n);
            if requests < n {
                break;
            }
            match outcome {
                // What could not be read is in another place too.
                Ok((mut pool, _)) => {
                    opened += 1;
                    assert_eq!(pool.metadata(), whole.metadata(), "request {n}");
                    settle(&mut pool, &mut disks);
                }
                Err(_) => refused += 1,
            }
            for keep in [true, false] {
                let mut disks = disks.clone();
                for disk in &mut disks {
                    disk.unflushed.retain(|_, _| keep);
                    disk.flush();
                }
                let (pool, _) = open(&mut disks).unwrap_or_else(|error| panic!("request {n}: {error}"));
                assert_eq!(pool.metadata(), whole.metadata(), "request {n}");
                assert!(check(&pool).is_clean());
            }
        }
    }
    println!("{opened} times another place was read, {refused} times the pool did not open; nothing lost");
    assert!(opened > 10 && refused > 5);
}

#[test]
fn a_pool_that_is_being_repaired_loses_nothing() {
    let mut failures = 0;
    for begin in pools().into_iter().skip(1) {
        let whole = open(&mut begin.clone()).unwrap().0;
        for copy in copies(&begin) {
            let mut damaged = begin.clone();
            // The log, of either copy.
            damaged[copy.disk].rot(copy.areas[0].start + 100);
            for n in 1.. {
                let mut disks = damaged.clone();
                let (mut pool, report) = open(&mut disks).unwrap();
                assert!(!report.repairs().is_empty(), "something is to be repaired");
                pool.repair();
                let requests = settle_failing(&mut pool, &mut disks, n);
                if requests < n {
                    let (_, report) = open(&mut disks).unwrap();
                    assert_eq!(report.repairs(), [], "it is repaired");
                    break;
                }
                failures += 1;
                assert!(pool.failed().is_some(), "request {n}: the pool goes on");
                for keep in [true, false] {
                    let mut disks = disks.clone();
                    for disk in &mut disks {
                        disk.unflushed.retain(|_, _| keep);
                        disk.flush();
                    }
                    let (mut pool, _) =
                        open(&mut disks).unwrap_or_else(|error| panic!("request {n}: {error}"));
                    assert_eq!(pool.metadata(), whole.metadata(), "request {n}");
                    pool.repair();
                    settle(&mut pool, &mut disks);
                    let (pool, report) = open(&mut disks).unwrap();
                    assert_eq!((report.repairs(), pool.metadata()), (vec![], whole.metadata()));
                }
            }
        }
    }
    println!("{failures} failed requests: nothing lost");
    assert!(failures > 20);
}

#[test]
fn a_pool_that_is_being_made_is_there_or_not() {
    let sizes = [1 << 20, 9 << 20];
    let geometries = sizes.map(|bytes| Geometry { bytes, sector_bytes: 512 });
    let writes = format(&ids(2), &OPTIONS, &geometries).unwrap();
    for n in 0..=writes.len() {
        let mut disks = sizes.map(Disk::new);
        for (at, write) in writes.iter().enumerate() {
            let op = DiskOp::Write { offset: write.offset, data: write.data.clone() };
            let medium = disk(&mut disks, write.disk);
            let number = medium.begin(&op);
            if at == n {
                medium.fail(number, &op);
                break;
            }
            medium.end(number, &op).unwrap();
        }
        disks.iter_mut().for_each(Disk::flush);
        match open_with(&mut disks.clone(), Planted::NONE) {
            // What was not written, or in part, has another copy.
            Ok((pool, _)) => assert!(check(&pool).is_clean() && pool.metadata().volumes().len() == 0),
            Err(error) => assert!(n < writes.len(), "all is written: {error}"),
        }
        // Whoever makes it again has it.
        for write in format(&ids(2), &OPTIONS, &geometries).unwrap() {
            disk(&mut disks, write.disk)
                .submit(&DiskOp::Write { offset: write.offset, data: write.data })
                .unwrap();
        }
        assert!(open(&mut disks).is_ok());
    }
    // A disk that cannot even be read is no pool.
    let mut blank = [Disk::new(1 << 20)];
    assert!(open_failing(&mut blank, 1).0.is_err());
}
