//! How much memory a processor takes whose handlers are stuck while every partition has more to read than fits.
//!
//! ```text
//! EHP_MEMORY_SECONDS=1800 cargo test --release --test memory -- --nocapture
//! ```
//!
//! Without the variable it looks for five seconds. Broker and processor are processes of their own, which this test starts
//! from itself, so that what is measured is the processor alone.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, EventPosition, EventProcessor, InMemoryCheckpointStore, handler_fn,
};
use tokio::time::sleep;

const HUB: &str = "hub";
const PARTITIONS: u32 = 32;
const ROLE: &str = "EHP_MEMORY_ROLE";
const SIZE: &str = "EHP_MEMORY_EVENT_SIZE";
const BROKER: &str = "EHP_MEMORY_BROKER";

#[test]
fn events_of_a_kibibyte() {
    let most = most_taken(1 << 10);
    assert!(most <= 64 << 10, "{} MiB", most >> 10);
}

#[test]
fn events_of_almost_a_mebibyte() {
    // The largest that may be sent.
    let most = most_taken((1 << 20) - 8);
    // The budget, one event for each partition, and what a processor takes anyway.
    assert!(most <= 352 << 10, "{} MiB", most >> 10);
}

/// The most memory that the processor took, in KiB.
fn most_taken(event_size: usize) -> u64 {
    let (mut broker, address) = start("broker", event_size, "");
    let (mut client, most) = start("client", event_size, &address);
    broker.kill().unwrap();
    broker.wait().unwrap();
    client.wait().unwrap();
    println!(
        "events of {event_size} bytes: {} MiB at most",
        most.parse::<u64>().unwrap() >> 10
    );
    most.parse().unwrap()
}

/// Starts this test as something else, and waits for the line in which it says what it has to say.
fn start(role: &str, event_size: usize, broker: &str) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_its_role", "--nocapture"])
        .env(ROLE, role)
        .env(SIZE, event_size.to_string())
        .env(BROKER, broker)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let said = lines.find_map(|line| line.strip_prefix("said: ").map(str::to_owned));
    let said = said.unwrap_or_else(|| panic!("the {role} ended without a word"));
    // Or its last words would find nobody.
    std::thread::spawn(move || lines.for_each(drop));
    (child, said)
}

/// Nothing, unless started by another test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plays_its_role() {
    match std::env::var(ROLE).as_deref() {
        Ok("broker") => serve(std::env::var(SIZE).unwrap().parse().unwrap()).await,
        Ok("client") => consume(&std::env::var(BROKER).unwrap()).await,
        _ => {}
    }
}

async fn serve(event_size: usize) {
    // Twice what a partition may hold.
    let events = (16 << 20) / event_size;
    let azure = Emulator::builder()
        .with_hub(HUB, PARTITIONS)
        .with_retention(events + 1, 64 << 20)
        .start()
        .await
        .unwrap();
    for partition in 0..PARTITIONS {
        for _ in 0..events {
            let event = Event::new(vec![7; event_size]);
            azure
                .send(HUB, Some(&partition.to_string()), event)
                .unwrap();
        }
    }
    println!("said: {}", azure.event_hubs_connection_string());
    // Until it is killed; not for ever, should nobody do that.
    sleep(Duration::from_secs(7200)).await;
}

async fn consume(broker: &str) {
    let seconds = std::env::var("EHP_MEMORY_SECONDS").map_or(5, |text| text.parse().unwrap());
    let hub = AmqpTransport::from_connection_string(broker, HUB).unwrap();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let handler = handler_fn(move |_context, _event| {
        let started = started.clone();
        async move {
            started.send(())?;
            std::future::pending().await
        }
    });
    let handle = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new())
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_default_starting_position(EventPosition::Earliest)
        .build(handler)
        .unwrap()
        .spawn();
    for _ in 0..PARTITIONS {
        starts.recv().await.unwrap();
    }
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        most = most.max(resident_kib());
        sleep(Duration::from_millis(50)).await;
    }
    println!("said: {most}");
    drop(handle);
}

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}
