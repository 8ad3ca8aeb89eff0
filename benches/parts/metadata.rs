//! What stands in a record, to and from the metadata of a blob. A listing reads one record for each partition and kind,
//! a checkpoint writes one; next to a request to the store it should not matter.

use std::hint::black_box;

use criterion::Criterion;

use eventhubs_processor::{Checkpoint, OwnerId, PartitionId, bench as codec};

pub(crate) fn benches(criterion: &mut Criterion) {
    let owner = OwnerId::from("rs1-25000-6f0c1b7e4d2a4c5e9b8a7d6c5e4f3a2b");
    let partition = PartitionId::from("17");
    let checkpoint = Checkpoint {
        partition_id: partition.clone(),
        offset: Some("4398046511104".into()),
        sequence_number: Some(1_234_567),
        client_identifier: Some(owner.clone()),
    };
    let owned = codec::write_owner(Some(&owner));
    let stored = codec::write_checkpoint(&checkpoint).unwrap();
    assert_eq!(
        codec::read_checkpoint(&partition, &stored).unwrap(),
        checkpoint
    );
    assert_eq!(codec::read_owner(&owned), Some(owner.clone()));

    let mut group = criterion.benchmark_group("metadata");
    group.bench_function("read an owner", |bencher| {
        bencher.iter(|| codec::read_owner(black_box(&owned)));
    });
    group.bench_function("write an owner", |bencher| {
        bencher.iter(|| codec::write_owner(black_box(Some(&owner))));
    });
    group.bench_function("read a checkpoint", |bencher| {
        bencher.iter(|| codec::read_checkpoint(&partition, black_box(&stored)).unwrap());
    });
    group.bench_function("write a checkpoint", |bencher| {
        bencher.iter(|| codec::write_checkpoint(black_box(&checkpoint)).unwrap());
    });
    group.finish();
}
