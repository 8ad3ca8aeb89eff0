//! What an event costs: the processor alone (over an event hub in memory, on one thread), and the whole way over AMQP
//! from the emulator in the same process.
//!
//! ```text
//! cargo bench --bench processor
//! cargo bench --bench processor -- memory
//! ```
//!
//! Time per iteration is that of `EVENTS` events of one partition from the first to the last, without the start of the
//! processor; criterion prints events per second as "elem/s". Over memory that is the overhead of the pump. Over AMQP the
//! emulator's share is part of it, so it is an upper bound of what the client costs; `benches/peers` tells them apart.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::transport::fake::FakeEventHub;
use eventhubs_processor::{
    AmqpTransport, EventHandler, EventPosition, EventProcessor, HandlerResult,
    InMemoryCheckpointStore, PartitionContext, ReceivedEvent, Transport,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

const EVENTS: u64 = 50_000;
const CHECKPOINT_EVERY: u64 = 1_000;

/// Counts events, checkpoints now and then, and tells when all have come.
#[derive(Default)]
struct Counter {
    seen: AtomicU64,
    first: OnceLock<Instant>,
    took: OnceLock<Duration>,
    done: Notify,
}

impl Counter {
    fn add(&self, events: u64) {
        let first = *self.first.get_or_init(Instant::now);
        if self.seen.fetch_add(events, Ordering::Relaxed) + events >= EVENTS {
            self.took.get_or_init(|| first.elapsed());
            self.done.notify_one();
        }
    }
}

/// What the processor has of it.
struct Counting(Arc<Counter>);

impl EventHandler for Counting {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        if event.sequence_number() % i64::try_from(CHECKPOINT_EVERY)? == 0 {
            context.update_checkpoint(&event).await?;
        }
        self.0.add(1);
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
        self.0.add(events.len() as u64);
        Ok(())
    }
}

/// Runs a processor until it has seen all events. Returns the time from the first of them to the last.
async fn process(transport: impl Transport, batch: Option<NonZeroUsize>) -> Duration {
    let counter = Arc::new(Counter::default());
    let mut builder =
        EventProcessor::builder(transport, "$Default", InMemoryCheckpointStore::new())
            .with_default_starting_position(EventPosition::Earliest);
    if let Some(batch) = batch {
        builder = builder.with_max_batch_size(batch);
    }
    let processor = builder.build(Counting(Arc::clone(&counter))).unwrap();
    let handle = processor.spawn();
    counter.done.notified().await;
    drop(handle);
    *counter.took.get().unwrap()
}

fn pump(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let hub = runtime.block_on(async { FakeEventHub::new(1) });
    for _ in 0..EVENTS {
        hub.send("0", vec![b'x'; 100]);
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
                .with_hub("bench", 1)
                .start()
                .await
                .unwrap();
            for _ in 0..EVENTS {
                emulator
                    .send("bench", Some("0"), Event::new(vec![b'x'; size]))
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
