//! What an event costs: the processor alone (over an event hub in memory), and the whole way over AMQP from the
//! emulator in the same process.
//!
//! ```text
//! cargo bench --bench processor
//! ```
//!
//! Time per iteration is that of `EVENTS` events; criterion prints events per second as "elem/s". The emulator's share
//! is part of the second figure, so it is an upper bound of what the client costs.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::{
    AmqpTransport, EventHandler, EventPosition, EventProcessor, HandlerResult,
    InMemoryCheckpointStore, PartitionContext, ReceivedEvent, Transport,
};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const PARTITIONS: u64 = 4;
const EVENTS: u64 = 40_000;
const CHECKPOINT_EVERY: u64 = 1_000;

/// Counts events, checkpoints now and then, and tells when all have come.
struct Counter {
    seen: Arc<AtomicU64>,
    done: Arc<Notify>,
}

impl Counter {
    fn add(&self, events: u64) {
        if self.seen.fetch_add(events, Ordering::Relaxed) + events >= EVENTS {
            self.done.notify_one();
        }
    }
}

impl EventHandler for Counter {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        if event.sequence_number() % i64::try_from(CHECKPOINT_EVERY)? == 0 {
            context.update_checkpoint(&event).await?;
        }
        self.add(1);
        Ok(())
    }

    async fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> HandlerResult {
        if let Some(last) = events.last() {
            context.update_checkpoint(last).await?;
        }
        self.add(events.len() as u64);
        Ok(())
    }
}

/// Runs a processor until it has seen all events. The time counts from the start of the processor.
async fn process(transport: impl Transport, batch: Option<NonZeroUsize>) -> Duration {
    let (seen, done) = (Arc::default(), Arc::new(Notify::new()));
    let mut builder =
        EventProcessor::builder(transport, "$Default", InMemoryCheckpointStore::new())
            .with_default_starting_position(EventPosition::Earliest);
    if let Some(batch) = batch {
        builder = builder.with_max_batch_size(batch);
    }
    let processor = builder
        .build(Counter {
            seen,
            done: Arc::clone(&done),
        })
        .unwrap();
    let started = Instant::now();
    let handle = processor.spawn();
    done.notified().await;
    let took = started.elapsed();
    drop(handle);
    took
}

fn pump(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let hub = runtime.block_on(async { FakeEventHub::new(PARTITIONS as usize) });
    for number in 0..EVENTS {
        hub.send((number % PARTITIONS).to_string(), vec![b'x'; 100]);
    }
    let mut group = criterion.benchmark_group("processor over memory");
    group
        .throughput(Throughput::Elements(EVENTS))
        .sample_size(10);
    for (name, batch) in [
        ("one event a call", None),
        ("batches of 300", NonZeroUsize::new(300)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|iterations| {
                let hub = hub.clone();
                async move {
                    let mut total = Duration::ZERO;
                    for _ in 0..iterations {
                        total += process(hub.clone(), batch).await;
                    }
                    total
                }
            });
        });
    }
    group.finish();
}

fn amqp(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("processor over AMQP");
    group
        .throughput(Throughput::Elements(EVENTS))
        .sample_size(10);
    for size in [100, 1024] {
        let emulator = runtime.block_on(async {
            let emulator = Emulator::builder()
                .with_hub("bench", PARTITIONS as u32)
                .start()
                .await
                .unwrap();
            for number in 0..EVENTS {
                let partition = (number % PARTITIONS).to_string();
                emulator
                    .send("bench", Some(&partition), Event::new(vec![b'x'; size]))
                    .unwrap();
            }
            emulator
        });
        group.bench_function(format!("{size} B, one event a call"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|iterations| {
                let connection_string = emulator.event_hubs_connection_string();
                async move {
                    let mut total = Duration::ZERO;
                    for _ in 0..iterations {
                        let hub =
                            AmqpTransport::from_connection_string(&connection_string, "bench")
                                .unwrap();
                        total += process(hub, None).await;
                    }
                    total
                }
            });
        });
        runtime.block_on(emulator.stop());
    }
    group.finish();
}

criterion_group!(benches, pump, amqp);
criterion_main!(benches);
