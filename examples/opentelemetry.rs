//! The trace goes on where the event is processed: a span of OpenTelemetry for each event, child of the span in which it was
//! sent, printed as an exporter would send it. Everything runs in this process, against the emulator:
//!
//! ```text
//! cargo run --example opentelemetry
//! ```
#![allow(missing_docs, clippy::print_stdout, reason = "an example")]

use std::collections::HashMap;

use eventhubs_emulator::{Emulator, Event, PropertyValue};
use eventhubs_processor::{
    AmqpTransport, BoxError, EventHandler, EventPosition, EventProcessor, HandlerResult,
    InMemoryCheckpointStore, PartitionContext, ReceivedEvent,
};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::mpsc;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

struct Traced {
    done: mpsc::Sender<()>,
}

impl EventHandler for Traced {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        // The names are those of OpenTelemetry's conventions for messaging.
        let span = tracing::info_span!(
            "process telemetry",
            otel.kind = "consumer",
            messaging.system = "eventhubs",
            messaging.destination.name = "telemetry",
            messaging.destination.partition.id = %context.partition_id(),
        );
        span.set_parent(sender(&event))?;
        self.process(context, &event).instrument(span).await
    }
}

impl Traced {
    async fn process(&self, context: &PartitionContext, event: &ReceivedEvent) -> HandlerResult {
        println!("processing {:?}", event.body_as_str());
        context.update_checkpoint(event).await?;
        self.done.send(()).await?;
        Ok(())
    }
}

/// Where the event comes from, for OpenTelemetry; a root if it does not say.
fn sender(event: &ReceivedEvent) -> Context {
    let mut carrier = HashMap::new();
    if let Some(trace) = event.trace_context() {
        carrier.insert("traceparent".to_owned(), trace.trace_parent().to_owned());
        if let Some(state) = trace.trace_state() {
            carrier.insert("tracestate".to_owned(), state.to_owned());
        }
    }
    TraceContextPropagator::new().extract(&carrier)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("telemetry"));
    // Spans of this program alone; with `eventhubs_processor=debug` those of the library come, too.
    tracing_subscriber::registry()
        .with(spans.with_filter(EnvFilter::new("opentelemetry=info")))
        .init();

    let emulator = Emulator::builder().with_hub("telemetry", 1).start().await?;
    // What an instrumented sender does.
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let event = Event::new("21.5 °C")
        .with_property("traceparent", PropertyValue::String(traceparent.to_owned()));
    emulator.send("telemetry", None, event)?;

    let hub = emulator.event_hubs_connection_string();
    let hub = AmqpTransport::from_connection_string(&hub, "telemetry")?;
    let (done, mut processed) = mpsc::channel(1);
    let processor = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new())
        .with_default_starting_position(EventPosition::Earliest)
        .build(Traced { done })?
        .spawn();
    processed.recv().await;
    processor.shutdown().await?;
    provider.shutdown()?;
    emulator.stop().await;
    Ok(())
}
