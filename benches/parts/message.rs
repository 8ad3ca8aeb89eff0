//! An event between the frame and the handler: the walk over it that every event pays, what single accessors decode after
//! that, and what decoding all of it with the AMQP library takes, which other clients pay.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

use eventhubs_processor::bench::EncodedEvent;

pub(crate) fn benches(criterion: &mut Criterion) {
    for (name, body, properties) in [
        ("100 B", 100, 0),
        ("1 KiB", 1024, 0),
        ("1 KiB, 10 properties", 1024, 10),
        ("1 MiB", 1 << 20, 0),
    ] {
        let encoded = EncodedEvent::new(body, properties);
        let event = encoded.receive();
        assert_eq!(
            (event.body().len(), event.properties().len()),
            (body, properties)
        );
        let mut group = criterion.benchmark_group(format!("message/{name}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("received", |bencher| {
            bencher.iter(|| black_box(&encoded).receive());
        });
        group.bench_function("received, body and place read", |bencher| {
            bencher.iter(|| {
                let event = black_box(&encoded).receive();
                black_box((
                    event.body().len(),
                    event.sequence_number(),
                    event.offset().as_str().len(),
                ));
            });
        });
        group.bench_function("received, all sections read", |bencher| {
            bencher.iter(|| {
                let event = black_box(&encoded).receive();
                black_box((event.properties(), event.system_properties()));
                black_box((event.message_properties(), event.last_enqueued()));
            });
        });
        group.bench_function("decoded by fe2o3-amqp", |bencher| {
            bencher.iter(|| black_box(&encoded).receive_by_library());
        });
        group.finish();
    }
}
