//! What a cached 4 KiB write to an engine costs when two threads write: to a volume each, or both to one. On a machine with two
//! cores or more a volume each should take little more than half the time of one thread that does it all; both to one is
//! what it would be with one lock for the node.

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinsan::block::{BLOCK_BYTES, PagePool, Payload, payload_from};
use twinsan::guest::Sectors;
use twinsan::ids::VolumeId;
use twinsan::runtime::Engine;
use twinsan_benches::by_hand::Scatter;
use twinsan_benches::engines::linear;

/// Blocks written to in each volume: 16 MiB, all in the cache.
const WORKING_SET: u64 = 4 * 1024;

fn write(engine: &Engine, volume: u32, block: u64, data: Payload) {
    engine.write(VolumeId(volume), Sectors::new(block * 8, 8), data).expect("a linear volume writes");
}

/// How long it takes until each thread has written `count` blocks to its volume.
fn race(engine: &Engine, volumes: &[u32], count: u64, data: &Payload) -> Duration {
    let begun = Instant::now();
    thread::scope(|scope| {
        for &volume in volumes {
            scope.spawn(move || {
                let mut at = Scatter::new();
                for _ in 0..count {
                    write(engine, volume, at.below(WORKING_SET), data.clone());
                }
            });
        }
    });
    begun.elapsed()
}

fn side_by_side(c: &mut Criterion) {
    let mut group = c.benchmark_group("side by side");
    group.throughput(Throughput::Elements(2));
    let engine = Arc::new(linear(2));
    let data = payload_from(&PagePool::new(), &[0x77; BLOCK_BYTES]);
    for volume in 1..=2 {
        (0..WORKING_SET).for_each(|block| write(&engine, volume, block, data.clone()));
    }
    for (name, volumes, rounds) in [
        ("two writes by one thread", &[1][..], 2),
        ("two threads, a volume each", &[1, 2][..], 1),
        ("two threads, one volume", &[1, 1][..], 1),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|count| race(&engine, volumes, count * rounds, &data));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = side_by_side
}
criterion_main!(benches);
