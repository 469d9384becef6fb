//! How the cost of a pool grows from ten thousand mapped extents to ten million (10 TiB at the default extent size): opening
//! it, finding a block, allocating an extent, and memory. Goals at ten million: open in at most five seconds, at most 16
//! bytes per extent; a look-up and an allocation cost about the same at each size.
//!
//! `TWINSAN_BENCH_EXTENTS` sets the largest size.

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use twinsan::ids::VolumeId;
use twinsan_benches::pool::BigPool;

const SIZES: [u32; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
/// Extents of the volumes that no pool here has mapped: all but the first 2^24 of 2^26.
const FREE: u32 = 1 << 25;

/// Memory that this process has touched, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn grow(c: &mut Criterion) {
    let most = std::env::var("TWINSAN_BENCH_EXTENTS").ok().and_then(|text| text.parse().ok());
    let mut group = c.benchmark_group("pool growth");
    for extents in SIZES.into_iter().filter(|extents| *extents <= most.unwrap_or(u32::MAX)) {
        let mut big = BigPool::new(extents, 0);
        // The first takes the memory that making the pool has left behind, so what the second touches is its own.
        let first = big.open();
        let before = resident();
        let mut pool = big.open();
        let touched = resident().saturating_sub(before);
        drop(first);
        let map: usize = pool.metadata().volumes().map(|(_, volume)| volume.map.bytes()).sum();
        println!(
            "{extents} extents: {:.1} bytes each in the maps, {:.1} in all that opening touched",
            map as f64 / f64::from(extents),
            touched as f64 / f64::from(extents)
        );
        group.bench_function(BenchmarkId::new("open", extents), |b| b.iter(|| big.open()));
        let mut at = 0u64;
        group.bench_function(BenchmarkId::new("locate", extents), |b| {
            b.iter(|| {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                black_box(pool.locate(VolumeId(2), (at >> 32) % (u64::from(extents) / 10 * 256)))
            });
        });
        let mut extent = FREE;
        group.bench_function(BenchmarkId::new("allocate", extents), |b| {
            b.iter(|| {
                extent = FREE + (extent + 1) % FREE;
                assert!(pool.reserve(VolumeId(1), extent), "there is space");
                let slot = pool.allocate(VolumeId(1), extent);
                pool.unallocate(black_box(slot));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
    targets = grow
}
criterion_main!(benches);
