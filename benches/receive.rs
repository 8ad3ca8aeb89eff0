//! What an event costs the client: processor time per event of this process, over AMQP from an emulator in a process of
//! its own.
//!
//! ```text
//! cargo bench --bench receive
//! ```
//!
//! Prints a table and asserts nothing. "receivers" is the transport alone, a task per partition that takes events and
//! drops them; "processor" is all of it, with a handler that does nothing but checkpoint every thousand events; each over
//! plain TCP, over TLS, and over a WebSocket with TLS. The time is that of this process alone, from `/proc`, so there is
//! none elsewhere than on Linux.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::transport::ReceiverOptions;
use eventhubs_processor::{
    AmqpOptions, AmqpTransport, EventHandler, EventPosition, EventProcessor, HandlerResult,
    InMemoryCheckpointStore, PartitionContext, ReceivedEvent, TlsOptions, Transport, TransportType,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const PARTITIONS: u32 = 4;
const EVENTS: u64 = 200_000;
const CHECKPOINT_EVERY: u64 = 1_000;
const ROUNDS: usize = 5;
const SERVE: &str = "--serve";

#[derive(Clone, Copy, Debug)]
enum Reader {
    Receivers,
    Processor(Option<NonZeroUsize>),
}

/// What AMQP is spoken over.
#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    Tls,
    WebSocket,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return serve(std::env::args().nth(2).unwrap().parse().unwrap());
    }
    println!(
        "{:28} {:10} {:>6} {:>12} {:>16}",
        "reader", "over", "bytes", "events/s", "CPU µs per event"
    );
    let readers = [
        ("receivers", Reader::Receivers),
        ("processor, one a call", Reader::Processor(None)),
        (
            "processor, batches of 300",
            Reader::Processor(NonZeroUsize::new(300)),
        ),
    ];
    for size in [100, 1024] {
        let mut server = Server::start(size);
        for (name, reader) in readers {
            for way in [Way::Plain, Way::Tls, Way::WebSocket] {
                let rounds = (0..ROUNDS).map(|_| measure(&server, reader, way));
                let mut rounds: Vec<_> = rounds.collect();
                rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
                let (rate, cpu) = rounds[ROUNDS / 2];
                let over = format!("{way:?}");
                println!("{name:28} {over:10} {size:>6} {rate:>12.0} {cpu:>16.2}");
            }
        }
        server.stop();
    }
}

/// Events per second and processor time per event.
fn measure(server: &Server, reader: Reader, way: Way) -> (f64, f64) {
    let runtime = Runtime::new().unwrap();
    let hub = server.hub(way);
    let (started, used) = (Instant::now(), processor_time());
    match reader {
        Reader::Receivers => runtime.block_on(receive(Arc::new(hub))),
        Reader::Processor(batch) => runtime.block_on(process(hub, batch)),
    }
    let events = EVENTS as f64;
    let used = processor_time() - used;
    let measured = (
        events / started.elapsed().as_secs_f64(),
        used.as_secs_f64() * 1e6 / events,
    );
    runtime.shutdown_background();
    measured
}

async fn receive(hub: Arc<AmqpTransport>) {
    let mut partitions = JoinSet::new();
    for partition in 0..PARTITIONS {
        let hub = Arc::clone(&hub);
        partitions.spawn(async move {
            let mut options = ReceiverOptions::new(
                "$Default",
                partition.to_string().into(),
                EventPosition::Earliest,
            );
            options.owner_level = Some(0);
            let mut receiver = hub.open_receiver(options).await.unwrap();
            let mut left = EVENTS / u64::from(PARTITIONS);
            while left > 0 {
                left -= receiver.receive(128).await.unwrap().len() as u64;
            }
        });
    }
    partitions.join_all().await;
}

/// Counts events, checkpoints now and then, and tells when all have come.
struct Counter {
    seen: AtomicU64,
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
        let every = i64::try_from(CHECKPOINT_EVERY)?;
        let due = |event: &&ReceivedEvent| event.sequence_number() % every == 0;
        if let Some(event) = events.iter().rev().find(due) {
            context.update_checkpoint(event).await?;
        }
        self.add(events.len() as u64);
        Ok(())
    }
}

async fn process(hub: AmqpTransport, batch: Option<NonZeroUsize>) {
    let done = Arc::new(Notify::new());
    let mut builder = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new())
        .with_default_starting_position(EventPosition::Earliest);
    if let Some(batch) = batch {
        builder = builder.with_max_batch_size(batch);
    }
    let counter = Counter {
        seen: AtomicU64::new(0),
        done: Arc::clone(&done),
    };
    let handle = builder.build(counter).unwrap().spawn();
    done.notified().await;
    drop(handle);
}

/// Time that this process was on a processor, its past threads included, in hundredths of a second.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may contain anything.
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The emulator, in a process of its own that ends with this one.
struct Server {
    child: Child,
    /// What it says of itself.
    told: Value,
}

impl Server {
    fn start(size: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([SERVE, &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            told: serde_json::from_str(&line).unwrap(),
        }
    }

    fn hub(&self, way: Way) -> AmqpTransport {
        let text = |name: &str| self.told[name].as_str().unwrap();
        // What the platform trusts would be read from its files in each round.
        let tls = TlsOptions::default()
            .with_ca_certificates(text("ca"))
            .unwrap()
            .with_platform_trust(false);
        let options = AmqpOptions::default().with_tls(tls);
        let (connection_string, options) = match way {
            Way::Plain => (text("plain").to_owned(), options),
            Way::Tls => (at(&self.told["tls_port"]), options),
            Way::WebSocket => (
                at(&self.told["web_port"]),
                options.with_transport_type(TransportType::AmqpWebSockets),
            ),
        };
        AmqpTransport::from_connection_string_with_options(&connection_string, "bench", options)
            .unwrap()
    }

    fn stop(&mut self) {
        // Its input ends, and with it the process.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// For a port with TLS. The emulator takes every key.
fn at(port: &Value) -> String {
    format!("Endpoint=sb://localhost:{port};SharedAccessKeyName=n;SharedAccessKey=k")
}

fn serve(size: usize) {
    let runtime = Runtime::new().unwrap();
    let emulator = runtime.block_on(async {
        let emulator = Emulator::builder()
            .with_hub("bench", PARTITIONS)
            .with_memory_budget(2 << 30)
            .with_retention(usize::MAX, usize::MAX)
            .with_tls_port(0)
            .with_wss_port(0)
            .start()
            .await
            .unwrap();
        for number in 0..EVENTS {
            let partition = (number % u64::from(PARTITIONS)).to_string();
            emulator
                .send("bench", Some(&partition), Event::new(vec![b'x'; size]))
                .unwrap();
        }
        emulator
    });
    let told = json!({
        "plain": emulator.event_hubs_connection_string(),
        "tls_port": emulator.tls_addr().unwrap().port(),
        "web_port": emulator.wss_addr().unwrap().port(),
        "ca": emulator.ca_certificate_pem().unwrap(),
    });
    println!("{told}");
    let _ = std::io::stdin().read(&mut [0]);
    runtime.block_on(emulator.stop());
}
