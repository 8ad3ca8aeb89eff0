//! A process that the system gives little: files, and a place for its log. Each test starts this binary once more, as a
//! consumer under that limit.
#![cfg(unix)]
#![allow(
    clippy::print_stdout,
    reason = "what the consumer says is read by the test"
)]

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, EventHandler, EventPosition, EventProcessor, HandlerResult,
    PartitionContext, ProcessingError, ReceivedEvent,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const HUB: &str = "hub";
const CONTAINER: &str = "checkpoints";
const CONSUMER: &str = "EHP_LIMITS_CONSUMER";
const STORAGE: &str = "EHP_LIMITS_STORAGE";
const PATIENCE: Duration = Duration::from_secs(30);

/// A consumer in a process of its own.
struct Consumer {
    child: Child,
    stdin: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Consumer {
    /// `within` is a piece of shell that ends with the program, `"$@"`.
    fn start(within: &str, emulator: &Emulator) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", within, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "limits::consumes", "--nocapture"])
            .env(CONSUMER, emulator.event_hubs_connection_string())
            .env(STORAGE, emulator.storage_connection_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            said: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    async fn tell(&mut self, word: &str) {
        self.stdin
            .write_all(format!("{word}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Waits for a line that begins like this.
    async fn says(&mut self, begin: &str) -> String {
        let saying = async {
            loop {
                match self.said.next_line().await.unwrap() {
                    Some(line) if line.starts_with(begin) => return line,
                    Some(_) => {}
                    None => panic!("it ended without a word of {begin:?}"),
                }
            }
        };
        let said = timeout(PATIENCE, saying).await;
        said.unwrap_or_else(|_| panic!("it says nothing of {begin:?}"))
    }

    /// Has it stop, and waits for its end.
    async fn stop(self) -> ExitStatus {
        let Self {
            mut child,
            stdin,
            mut said,
        } = self;
        drop(stdin);
        let ending = async {
            while said.next_line().await.unwrap().is_some() {}
            child.wait().await.unwrap()
        };
        timeout(PATIENCE, ending).await.unwrap()
    }
}

async fn emulator() -> Emulator {
    let builder = Emulator::builder()
        .with_hub(HUB, 1)
        .with_container(CONTAINER);
    builder.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_free_file_says_so_and_recovers() {
    let emulator = emulator().await;
    let mut consumer = Consumer::start(r#"ulimit -n 64; exec "$@""#, &emulator);
    emulator.send(HUB, Some("0"), Event::new("a")).unwrap();
    consumer.says("event 0").await;
    consumer.tell("take").await;
    consumer.says("taken").await;
    emulator.send(HUB, Some("0"), Event::new("b")).unwrap();
    consumer.says("event 1").await;
    // The file of the connection that is lost goes to the next one or to the taker, whoever comes first.
    let begun = Instant::now();
    loop {
        emulator.faults().drop_connections();
        let error = consumer.says("error").await;
        assert!(error.contains("ConnectionLost"), "{error}");
        if error.contains("Too many open files") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
    emulator.send(HUB, Some("0"), Event::new("c")).unwrap();
    consumer.tell("free").await;
    consumer.says("event 2").await;
    assert!(consumer.stop().await.success());
}

/// A logger that cannot write is the logger's business; nothing of ours may fall over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_log_cannot_be_written_works() {
    let emulator = emulator().await;
    for (number, within) in [r#"exec "$@" 2>/dev/full"#, r#"exec "$@" 2>&-"#]
        .into_iter()
        .enumerate()
    {
        let mut consumer = Consumer::start(within, &emulator);
        emulator.send(HUB, Some("0"), Event::new("a")).unwrap();
        consumer.says(&format!("event {number}")).await;
        emulator.faults().drop_connections();
        consumer.says("error").await;
        assert!(consumer.stop().await.success(), "{within}");
    }
}

struct Telling;

impl EventHandler for Telling {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        println!("event {}", event.sequence_number());
        context.update_checkpoint(&event).await?;
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        println!("error {error}: {error:?}");
    }
}

/// Nothing, unless started by another test. Logs everything, and does what it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumes() {
    let Ok(hub) = std::env::var(CONSUMER) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::stderr)
        // Its complaint about a full disk goes to the same disk, and panics.
        .log_internal_errors(false)
        .init();
    let hub = AmqpTransport::from_connection_string(&hub, HUB).unwrap();
    let storage = std::env::var(STORAGE).unwrap();
    let store = BlobCheckpointStore::from_connection_string(&storage, CONTAINER).unwrap();
    let processor = EventProcessor::builder(hub, "$Default", store)
        .with_load_balancing_interval(Duration::from_millis(500))
        .with_default_starting_position(EventPosition::Earliest)
        .with_retry_delay(Duration::from_millis(100), Duration::from_secs(1))
        .build(Telling)
        .unwrap();
    let processor = processor.spawn();
    let is_free = Arc::new(AtomicBool::new(false));
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    while let Some(word) = told.next_line().await.unwrap() {
        match &*word {
            "take" => take_all_files(Arc::clone(&is_free)),
            "free" => is_free.store(true, Ordering::Relaxed),
            word => panic!("what is {word:?}?"),
        }
    }
    processor.shutdown().await.unwrap();
}

/// Opens files until there are none left, and whatever becomes free.
fn take_all_files(is_free: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let (mut taken, mut is_told) = (Vec::new(), false);
        while !is_free.load(Ordering::Relaxed) {
            match File::open("/dev/null") {
                Ok(file) => taken.push(file),
                Err(_) if is_told => std::thread::sleep(Duration::from_micros(50)),
                Err(_) => {
                    println!("taken {}", taken.len());
                    is_told = true;
                }
            }
        }
    });
}
