//! The consumer client of azeventhubs 0.20 with its defaults: one for each partition, since its streams borrow it. It
//! has no processor and no checkpoints, and speaks TLS only.

#[path = "../../rust/meter.rs"]
#[allow(dead_code, reason = "it has no checkpoints")]
mod meter;

use std::sync::Arc;

use azeventhubs::EventHubConnectionOptions;
use azeventhubs::consumer::{
    EventHubConsumerClient, EventHubConsumerClientOptions, EventPosition, ReadEventOptions,
};
use futures_util::StreamExt as _;
use meter::{Meter, setting};
use tokio::task::JoinSet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let partitions: usize = setting("PARTITIONS").parse()?;
    let meter = Arc::new(Meter::start());
    let reported = Arc::clone(&meter);
    tokio::spawn(async move { reported.report().await });

    let mut readers = JoinSet::new();
    for partition in 0..partitions {
        readers.spawn(read(partition, Arc::clone(&meter)));
    }
    match readers.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

async fn read(partition: usize, meter: Arc<Meter>) -> Result<(), BoxError> {
    let endpoint = url::Url::parse(&format!("amqps://localhost:{}", setting("TLS_PORT")))?;
    let options = EventHubConsumerClientOptions {
        connection_options: EventHubConnectionOptions {
            custom_endpoint_address: Some(endpoint),
            ..EventHubConnectionOptions::default()
        },
        ..EventHubConsumerClientOptions::default()
    };
    let mut client = EventHubConsumerClient::new_from_connection_string(
        EventHubConsumerClient::DEFAULT_CONSUMER_GROUP_NAME,
        "Endpoint=sb://localhost;SharedAccessKeyName=any;SharedAccessKey=any",
        setting("HUB"),
        options,
    )
    .await?;
    let mut events = client
        .read_events_from_partition(
            &partition.to_string(),
            EventPosition::earliest(),
            ReadEventOptions::default(),
        )
        .await?;
    while let Some(event) = events.next().await {
        std::hint::black_box(event?.body()?);
        meter.count(partition, 1);
    }
    Err(format!("partition {partition} ended").into())
}
