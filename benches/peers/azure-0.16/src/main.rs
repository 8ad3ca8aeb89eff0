//! The processor of the official Rust client 0.16, with the defaults of its builder but for the start position, the
//! strategy (`Greedy`, or it takes one partition in 30 s) and the checkpoint store.

#[path = "../../rust/meter.rs"]
mod meter;

use std::sync::Arc;
use std::time::Duration;

use azure_messaging_eventhubs::models::StartPositions;
use azure_messaging_eventhubs::processor::PartitionClient;
use azure_messaging_eventhubs::{
    ConsumerClient, EventProcessor, InMemoryCheckpointStore, ProcessorStrategy, StartLocation,
    StartPosition,
};
use futures::StreamExt as _;
use meter::{Meter, is_checkpoint_due, setting};
use tokio::task::LocalSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The streams of this client are not `Send`, hence the local tasks. Its connection has tasks of its own, which run on
/// all threads.
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    LocalSet::new().run_until(run()).await
}

async fn run() -> Result<(), BoxError> {
    let checkpoint_every: u64 = setting("CHECKPOINT_EVERY").parse()?;
    let meter = Arc::new(Meter::start());
    let reported = Arc::clone(&meter);
    tokio::spawn(async move { reported.report().await });

    // It overlooks the port and `UseDevelopmentEmulator` of the connection string.
    let consumer = ConsumerClient::builder()
        .with_custom_endpoint(format!("amqp://127.0.0.1:{}", setting("AMQP_PORT")))
        .open_with_connection_string(
            "Endpoint=sb://localhost;SharedAccessKeyName=any;SharedAccessKey=any",
            Some(&setting("HUB")),
        )
        .await?;
    let start = StartPositions {
        default: StartPosition {
            location: StartLocation::Earliest,
            inclusive: false,
        },
        ..StartPositions::default()
    };
    let processor = EventProcessor::builder()
        .with_load_balancing_strategy(ProcessorStrategy::Greedy)
        .with_start_positions(start)
        .build(consumer, Arc::new(InMemoryCheckpointStore::new()))
        .await?;
    let running = Arc::clone(&processor);
    let run = tokio::task::spawn_local(async move { running.run().await });
    let read = async {
        loop {
            let partition = processor.next_partition_client().await?;
            tokio::task::spawn_local(read(partition, Arc::clone(&meter), checkpoint_every));
        }
    };
    tokio::select! {
        ended = run => Ok(ended??),
        ended = read => ended,
    }
}

async fn read(partition: Arc<PartitionClient>, meter: Arc<Meter>, checkpoint_every: u64) {
    let handler_time = Duration::from_millis(setting("HANDLER_MS").parse().expect("a number"));
    let number = partition.get_partition_id().parse().expect("a number");
    let mut events = partition.stream_events();
    while let Some(event) = events.next().await {
        let event = event.expect("nobody disturbs it");
        std::hint::black_box(event.event_data().body());
        if !handler_time.is_zero() {
            tokio::time::sleep(handler_time).await;
        }
        if is_checkpoint_due(meter.count(number, 1), checkpoint_every) {
            partition
                .update_checkpoint(&event)
                .await
                .expect("a store in memory");
        }
    }
}
