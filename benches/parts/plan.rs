//! One decision of a processor: which partitions to renew, claim and steal. It is made every `load_balancing_interval`,
//! in a burst every 50 ms, on the task that also hears of the pumps, so it should stay short next to that.
//!
//! `cold`: the first decision of the first processor, nothing is owned. `steady`: ten members with their shares, and the
//! decision of one of them, which renews what it has.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use eventhubs_processor::bench::Group;

const MEMBERS: usize = 10;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for partitions in [32, 128, 1024] {
        let mut cold = Group::new(partitions, 0);
        assert_eq!(cold.decide(), [0, 1, 0]);
        group.bench_function(BenchmarkId::new("cold", partitions), |bencher| {
            bencher.iter(|| {
                cold.forget();
                black_box(cold.decide())
            });
        });
        let mut steady = Group::new(partitions, MEMBERS);
        steady.decide();
        let [renewed, claimed, stolen] = steady.decide();
        assert!(renewed > 0 && claimed == 0 && stolen == 0);
        group.bench_function(BenchmarkId::new("steady", partitions), |bencher| {
            bencher.iter(|| black_box(steady.decide()));
        });
    }
    group.finish();
}
