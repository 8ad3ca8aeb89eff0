//! Our own processor. `event` leaves the options as they are, but for the start position; `batch` sets
//! `max_batch_size` to 300, `keyed` sets `concurrency` to 64. With `tls` behind it, over TLS.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../../rust/meter.rs"]
#[allow(unreachable_pub, reason = "shared with programs of other workspaces")]
mod meter;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventhubs_processor::{
    AmqpTransport, BoxError, EventHandler, EventPosition, EventProcessor, HandlerResult,
    InMemoryCheckpointStore, PartitionContext, ProcessingError, ReceivedEvent,
};
use meter::{Meter, is_checkpoint_due, setting};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let endpoint = if has("tls") {
        format!(
            "Endpoint=sb://localhost:{};SharedAccessKeyName=any;SharedAccessKey=any",
            setting("TLS_PORT")
        )
    } else {
        format!(
            "Endpoint=sb://127.0.0.1:{};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true",
            setting("AMQP_PORT")
        )
    };
    let checkpoint_every = setting("CHECKPOINT_EVERY").parse()?;

    let meter = Arc::new(Meter::start());
    let reported = Arc::clone(&meter);
    tokio::spawn(async move { reported.report().await });
    let hub = AmqpTransport::from_connection_string(&endpoint, setting("HUB").as_str())?;
    let mut builder = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new())
        .with_default_starting_position(EventPosition::Earliest);
    if has("batch") {
        builder = builder.with_max_batch_size(NonZeroUsize::new(300).expect("not zero"));
    }
    if has("keyed") {
        builder = builder.with_concurrency(NonZeroUsize::new(64).expect("not zero"));
    }
    let handler = Counting {
        meter,
        checkpoint_every,
        handler_time: Duration::from_millis(setting("HANDLER_MS").parse()?),
        last_of_key: Mutex::default(),
    };
    builder
        .build(handler)?
        .run(CancellationToken::new())
        .await?;
    Ok(())
}

struct Counting {
    meter: Arc<Meter>,
    checkpoint_every: u64,
    /// How long the work of the application takes that is not there.
    handler_time: Duration,
    last_of_key: Mutex<HashMap<String, i64>>,
}

impl Counting {
    /// The work, and a look whether events of a key still come in order.
    async fn work(&self, event: &ReceivedEvent) -> HandlerResult {
        if self.handler_time.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(self.handler_time).await;
        let Some(key) = event.partition_key() else {
            return Ok(());
        };
        let mut last_of_key = self
            .last_of_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = last_of_key.insert(key.to_owned(), event.sequence_number());
        match before {
            Some(before) if before >= event.sequence_number() => {
                Err(format!("{key}: {} after {before}", event.sequence_number()).into())
            }
            _ => Ok(()),
        }
    }

    async fn counted(
        &self,
        context: &PartitionContext,
        events: usize,
        last: &ReceivedEvent,
    ) -> HandlerResult {
        let partition = context.partition_id().as_str().parse()?;
        let counts = self.meter.count(partition, events as u64);
        if is_checkpoint_due(counts, self.checkpoint_every) {
            context.update_checkpoint(last).await?;
        }
        Ok(())
    }
}

impl EventHandler for Counting {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        std::hint::black_box(event.body());
        self.work(&event).await?;
        self.counted(context, 1, &event).await
    }

    async fn on_event_batch(
        &self,
        context: &PartitionContext,
        events: Vec<ReceivedEvent>,
    ) -> HandlerResult {
        for event in &events {
            std::hint::black_box(event.body());
            self.work(event).await?;
        }
        match events.last() {
            Some(last) => self.counted(context, events.len(), last).await,
            None => Ok(()),
        }
    }

    async fn on_error(&self, _context: Option<&PartitionContext>, error: &ProcessingError) {
        eprintln!("{error}: {error:?}");
        std::process::exit(1);
    }
}
