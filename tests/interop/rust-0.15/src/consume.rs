//! The counterpart of `examples/consume.rs`: the same settings, the same lines, and
//! `{"checkpoint": {"partition": …, "sequence_number": …}}` after each checkpoint that the store has confirmed.
//!
//! The container comes as a URL with a signature, `CONTAINER_URL`: all that this store takes without TLS.

use std::env;
use std::pin::pin;
use std::sync::Arc;

use azure_core::http::Url;
use azure_core::time::Duration;
use azure_messaging_eventhubs::models::StartPositions;
use azure_messaging_eventhubs::processor::PartitionClient;
use azure_messaging_eventhubs::{EventProcessor, ProcessorStrategy, StartLocation, StartPosition};
use azure_messaging_eventhubs_checkpointstore_blob::BlobCheckpointStore;
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use futures::StreamExt as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};

use crate::features::{consumer, milliseconds};
use crate::namespace::{BoxError, print_line, required};

/// Before another processor is made.
const RESTART: std::time::Duration = std::time::Duration::from_millis(200);

/// A processor that has lost one partition to another has mostly lost its connection too, and does not get a new one:
/// it takes a new processor on a new client then, under the old name.
///
/// The streams of this SDK's processor are not `Send`, hence the local tasks.
pub async fn consume() -> Result<(), BoxError> {
    LocalSet::new().run_until(consume_here()).await
}

async fn consume_here() -> Result<(), BoxError> {
    let name = format!("rust-{}", std::process::id());
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let processor = match processor(&name).await {
            Ok(processor) => processor,
            // Seen: the session of the first request stops on a busy machine.
            Err(error) => {
                print_lifecycle("error", None, &error.to_string());
                tokio::time::sleep(RESTART).await;
                continue;
            }
        };
        let running = Arc::clone(&processor);
        let mut run = pin!(async move { running.run().await });
        let mut partitions = JoinSet::new();
        let reason = loop {
            tokio::select! {
                _ = terminate.recv() => {
                    processor.shutdown().await?;
                    // It neither ends the streams nor gives back the partitions.
                    partitions.shutdown().await;
                    return Ok(());
                }
                // One failed request to the store is enough.
                ended = &mut run => break format!("the processor ended: {ended:?}"),
                client = processor.next_partition_client() => {
                    partitions.spawn_local(read(client?));
                }
                Some(ended) = partitions.join_next() => match ended? {
                    Ended::Lost => {}
                    Ended::Broken(reason) => break reason,
                },
            }
        };
        print_lifecycle("error", None, &reason);
        partitions.shutdown().await;
        tokio::time::sleep(RESTART).await;
    }
}

async fn processor(name: &str) -> Result<Arc<EventProcessor>, BoxError> {
    let options = BlobContainerClientOptions {
        // INTEROP: Azurite 3.35 does not know the version that the client asks for by default.
        version: "2025-11-05".to_owned(),
        ..BlobContainerClientOptions::default()
    };
    let url = Url::parse(&required("CONTAINER_URL"))?;
    let store = BlobCheckpointStore::new(BlobContainerClient::new(url, None, Some(options))?);
    let start = StartPositions {
        default: StartPosition {
            location: StartLocation::Earliest,
            inclusive: false,
        },
        ..StartPositions::default()
    };
    let builder = EventProcessor::builder()
        .with_load_balancing_strategy(ProcessorStrategy::Balanced)
        .with_update_interval(milliseconds_of("LOAD_BALANCING_INTERVAL_MS", 30_000)?)
        .with_partition_expiration_duration(milliseconds_of("OWNERSHIP_EXPIRATION_MS", 60_000)?)
        .with_start_positions(start);
    Ok(builder.build(consumer(Some(name)).await?, store).await?)
}

fn milliseconds_of(name: &str, default: i64) -> Result<Duration, BoxError> {
    let value = env::var(name).ok().filter(|text| !text.is_empty());
    Ok(Duration::milliseconds(
        value.map_or(Ok(default), |text| text.parse())?,
    ))
}

/// Why the reading of a partition is over.
enum Ended {
    /// Another processor has the partition.
    Lost,
    Broken(String),
}

/// Reads a partition until it is lost or the task is aborted.
async fn read(client: Arc<PartitionClient>) -> Ended {
    let term = Term::begin(client.get_partition_id());
    let ended = read_events(&client, &term.0).await;
    // Takes it out of the processor's list, which would not give it out again otherwise.
    match Arc::into_inner(client) {
        Some(client) => match client.close().await {
            Ok(()) => ended,
            Err(error) => Ended::Broken(format!("{:?}", error.kind)),
        },
        None => ended,
    }
}

async fn read_events(client: &PartitionClient, partition: &str) -> Ended {
    let checkpoint_every: u64 = env::var("CHECKPOINT_EVERY")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut count = 0;
    let mut last = None;
    let mut events = client.stream_events();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let error = format!("{:?}", error.kind);
                let is_lost =
                    error.contains("ConsumerDisconnected") || error.contains("LinkStolen");
                return if is_lost {
                    Ended::Lost
                } else {
                    Ended::Broken(error)
                };
            }
        };
        // A receiver that is attached anew starts where it started at first.
        if last >= event.sequence_number() {
            return Ended::Broken(format!("partition {partition} starts again"));
        }
        last = event.sequence_number();
        let body = event.event_data().body().unwrap_or_default();
        print_line(&json!({ "event": {
            "owner": "rust",
            "partition": partition,
            "sequence_number": event.sequence_number(),
            "offset": event.offset(),
            "enqueued_time_ms": event.enqueued_time().map(milliseconds),
            "body": String::from_utf8_lossy(body),
        }}));
        count += 1;
        if count < checkpoint_every {
            continue;
        }
        if let Err(error) = client.update_checkpoint(&event).await {
            return Ended::Broken(format!("{:?}", error.kind));
        }
        count = 0;
        print_line(&json!({ "checkpoint": {
            "partition": partition,
            "sequence_number": event.sequence_number(),
        }}));
    }
    Ended::Lost
}

/// Says `initialize` and, however the reading ends, `close`.
struct Term(String);

impl Term {
    fn begin(partition: &str) -> Self {
        print_lifecycle("initialize", Some(partition), "");
        Self(partition.to_owned())
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        print_lifecycle("close", Some(&self.0), "Ended");
    }
}

fn print_lifecycle(what: &str, partition: Option<&str>, reason: &str) {
    print_line(&json!({ "lifecycle": what, "partition": partition, "reason": reason }));
}
