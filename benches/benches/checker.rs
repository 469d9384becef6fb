//! What it costs to judge a history: near-linear in its length.

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twinsan::sim::checker::check;
use twinsan_benches::history::linearizable;

fn checker(c: &mut Criterion) {
    let mut group = c.benchmark_group("checker");
    for ops in [2_000, 20_000, 200_000] {
        let history = linearizable(ops);
        group.throughput(Throughput::Elements(ops));
        group.bench_with_input(BenchmarkId::new("zones", ops), &history, |b, history| {
            b.iter(|| check(history).expect("it is linearizable"));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(10);
    targets = checker
}
criterion_main!(benches);
