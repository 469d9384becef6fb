//! Opening a pool with a million mapped extents (1 TiB at the default extent size). Goal: at most one second.

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use twinsan_benches::pool::BigPool;

const EXTENTS: u32 = 1_000_000;

fn pool_open(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool open, a million extents");
    for (name, in_log) in
        [("in the checkpoint", 0), ("a tenth in the log", EXTENTS / 10), ("all in the log", EXTENTS)]
    {
        let mut big = BigPool::new(EXTENTS, in_log);
        group.bench_function(name, |b| b.iter(|| big.open()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
    targets = pool_open
}
criterion_main!(benches);
