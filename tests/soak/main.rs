//! A consumer service over a long time: handlers that are slow, fail and panic, links that break and stall, a store that
//! is away, processors that are replaced. Nothing may be lost, no key reordered, nothing stall unsaid, and memory
//! stay what it is.
//!
//! ```text
//! EHP_SOAK_SECONDS=1800 cargo test --release --test soak -- --nocapture
//! ```
//!
//! Without the variable it runs for ten seconds. `EHP_SOAK_SEED` repeats the choices of a run, though not its moments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

mod handler;
mod trouble;
mod truth;

use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, CheckpointPolicy, EventPosition, EventProcessor,
    FailurePolicy, ProcessorHandle,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use self::handler::Clumsy;
use self::truth::{PARTITIONS, Truth};

pub(crate) const HUB: &str = "telemetry";
/// Events that are sent a second, over all partitions.
const RATE: u64 = 600;
/// How long everything may take that is left once peace has come.
const DRAIN: Duration = Duration::from_secs(90);
/// How often a processor is replaced by another.
const REPLACE_EVERY: Duration = Duration::from_secs(45);
/// Growth that a long run may show, fitted to its second half.
const MAX_SLOPE_KIB_PER_MIN: f64 = 256.0;
/// Shorter runs say nothing about a slope.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_outlives_a_bad_neighbourhood() {
    let seconds = std::env::var("EHP_SOAK_SECONDS").map_or(10, |text| text.parse().unwrap());
    let seed = std::env::var("EHP_SOAK_SEED")
        .map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    println!("EHP_SOAK_SEED={seed}");
    let time = Duration::from_secs(seconds);
    // The handler panics on purpose; a backtrace for each would be all that one sees.
    std::panic::set_hook(Box::new(|info| {
        if !handler::is_on_purpose(info) {
            println!("{info}");
        }
    }));

    let azure = Emulator::builder()
        .with_hub(HUB, PARTITIONS)
        .with_container("checkpoints")
        // More than is ever unread, and so little that it is full soon: then memory should stay what it is.
        .with_retention(5_000, 16 << 20)
        .start()
        .await
        .unwrap();
    let truth = Arc::new(Truth::new(RATE * (seconds + 60)));
    let mut members = vec![
        member(&azure, &truth, seed),
        member(&azure, &truth, seed + 1),
    ];
    let peace = Arc::new(AtomicBool::new(false));
    let trouble = tokio::spawn(trouble::run(
        azure.faults(),
        azure.blob_faults(),
        StdRng::seed_from_u64(!seed),
        Arc::clone(&peace),
    ));

    let started = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut memory = Vec::new();
    let (mut sent, mut replaced, mut said) = (0, Instant::now(), 0);
    while started.elapsed() < time {
        let due = (started.elapsed().as_millis() as u64 * RATE) / 1000;
        while sent < due {
            let partition = rng.random_range(0..PARTITIONS);
            let (key, body) = truth.next(partition, rng.random_range(0..truth::KEYS));
            let event = Event::new(body).with_partition_key(key);
            azure
                .send(HUB, Some(&partition.to_string()), event)
                .unwrap();
            sent += 1;
        }
        truth.check_for_silence();
        if replaced.elapsed() > REPLACE_EVERY {
            replaced = Instant::now();
            members.push(member(&azure, &truth, seed + sent));
            let old = members.remove(0);
            tokio::spawn(async move { old.shutdown().await.unwrap() });
        }
        if started.elapsed().as_secs() / 5 > said {
            said = started.elapsed().as_secs() / 5;
            memory.push((started.elapsed().as_secs_f64(), resident_kib()));
            if said % 6 == 0 {
                println!(
                    "{:5} s  {}  {} MiB",
                    said * 5,
                    truth.summary(),
                    resident_kib() / 1024
                );
            }
        }
        sleep(Duration::from_millis(20)).await;
    }

    peace.store(true, Ordering::Relaxed);
    trouble.await.unwrap();
    let begun = Instant::now();
    while truth.unprocessed() > 0 && begun.elapsed() < DRAIN {
        sleep(Duration::from_millis(100)).await;
    }
    println!("at the end: {}", truth.summary());
    println!("faults: {:?}", azure.faults().counts());
    println!("blob faults: {:?}", azure.blob_faults().counts());
    for member in members {
        assert_eq!(member.shutdown().await.unwrap().cut_partitions, []);
    }
    assert_eq!(truth.unprocessed(), 0, "lost: {:?}", truth.lost());
    assert_eq!(truth.faults(), Vec::<String>::new());
    let slope = slope(&memory[memory.len() / 2..]);
    println!("memory grew by {slope:.0} KiB a minute in the second half");
    if time >= LONG {
        assert!(slope < MAX_SLOPE_KIB_PER_MIN, "{memory:?}");
    }
    azure.stop().await;
}

fn member(azure: &Emulator, truth: &Arc<Truth>, seed: u64) -> ProcessorHandle {
    let hub =
        AmqpTransport::from_connection_string(&azure.event_hubs_connection_string(), HUB).unwrap();
    let store = BlobCheckpointStore::from_connection_string(
        &azure.storage_connection_string(),
        "checkpoints",
    )
    .unwrap();
    EventProcessor::builder(hub, "$Default", store)
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_retry_delay(Duration::from_millis(20), Duration::from_secs(1))
        .with_default_starting_position(EventPosition::Earliest)
        .with_checkpoint_policy(CheckpointPolicy::Automatic)
        .with_concurrency(NonZeroUsize::new(8).unwrap())
        .with_failure_policy(FailurePolicy::retry(2))
        .build(Clumsy::new(Arc::clone(truth), seed))
        .unwrap()
        .spawn()
}

fn resident_kib() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}

/// Least squares, in KiB a minute.
fn slope(samples: &[(f64, u64)]) -> f64 {
    let count = samples.len() as f64;
    let mean_x = samples.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = samples.iter().map(|(_, y)| *y as f64).sum::<f64>() / count;
    let (mut upper, mut lower) = (0.0, f64::EPSILON);
    for (x, y) in samples {
        upper += (x - mean_x) * (*y as f64 - mean_y);
        lower += (x - mean_x) * (x - mean_x);
    }
    upper / lower * 60.0
}
