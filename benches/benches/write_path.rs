//! What a 4 KiB request costs: in the pure node, in a pair of them, and in two engines.
//!
//! Goals on one core: a cached write to a linear volume at most 1 µs, a mirrored one at most 2.5 µs, the work of
//! both nodes together. `ready` takes a payload that the front end has copied and checksummed already; `ingress`
//! includes that copy and checksum.

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinsan::block::{BLOCK_BYTES, payload_from};
use twinsan_benches::by_hand::{Scatter, World};
use twinsan_benches::engines::Pair;

/// Blocks written to: 64 MiB, all in the cache.
const WORKING_SET: u64 = 16 * 1024;
const BLOCKS: u64 = (1 << 30) / 4096;

fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    group.throughput(Throughput::Elements(1));
    let mut world = World::new(1);
    world.warm(WORKING_SET);
    let bytes = [0x77; BLOCK_BYTES];
    let data = payload_from(&world.pages, &bytes);
    let mut at = Scatter::new();
    group.bench_function("cached write, ready", |b| {
        b.iter(|| world.write(0, at.below(WORKING_SET), data.clone()));
    });
    group.bench_function("cached write, ingress", |b| {
        b.iter(|| {
            let data = payload_from(&world.pages, black_box(&bytes));
            world.write(0, at.below(WORKING_SET), data);
        });
    });
    group.bench_function("cached read", |b| b.iter(|| black_box(world.read(0, at.below(WORKING_SET)))));
    group.bench_function("write and its share of destage", |b| {
        b.iter(|| {
            world.tick(Duration::from_micros(1));
            world.write(0, at.below(BLOCKS), data.clone());
        });
    });
    group.finish();
}

fn mirrored(c: &mut Criterion) {
    let mut group = c.benchmark_group("mirrored");
    group.throughput(Throughput::Elements(1));
    let mut world = World::new(2);
    world.warm(WORKING_SET);
    let bytes = [0x77; BLOCK_BYTES];
    let data = payload_from(&world.pages, &bytes);
    let mut at = Scatter::new();
    for (n, path) in ["owner", "partner"].into_iter().enumerate() {
        group.bench_function(format!("cached write by the {path}, ready"), |b| {
            b.iter(|| world.write(n, at.below(WORKING_SET), data.clone()));
        });
        group.bench_function(format!("cached read by the {path}"), |b| {
            b.iter(|| black_box(world.read(n, at.below(WORKING_SET))));
        });
    }
    group.bench_function("cached write by the owner, ingress", |b| {
        b.iter(|| {
            let data = payload_from(&world.pages, black_box(&bytes));
            world.write(0, at.below(WORKING_SET), data);
        });
    });
    group.finish();
}

fn engines(c: &mut Criterion) {
    let mut group = c.benchmark_group("engines");
    group.throughput(Throughput::Elements(1));
    let pair = Pair::new();
    let pages = twinsan::block::PagePool::new();
    let data = payload_from(&pages, &[0x77; BLOCK_BYTES]);
    for block in 0..WORKING_SET {
        pair.write(0, block, data.clone());
    }
    let mut at = Scatter::new();
    for (n, path) in ["owner", "partner"].into_iter().enumerate() {
        group.bench_function(format!("mirrored write by the {path}, with destage"), |b| {
            b.iter(|| pair.write(n, at.below(WORKING_SET), data.clone()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = linear, mirrored, engines
}
criterion_main!(benches);
