//! Half an hour of a bad neighbourhood in less: random bytes, disfigured copies of real traffic and faults of every
//! kind against all ports of the program, while an unmodified Python client produces and consumes through it.
//!
//! ```text
//! EHP_TORTURE_SECONDS=600 EHP_PYTHON=target/tools/venv/bin/python \
//!     cargo test -p eventhubs-emulator --test torture -- --nocapture
//! ```
//!
//! `EHP_TORTURE_SEED` repeats what a run has thrown, though not when.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

mod attack;
mod faults;
mod measure;
mod proxy;
mod python;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use self::attack::Attack;
use self::measure::Series;
use self::proxy::Proxy;
use self::python::Python;
use self::target::Target;

/// How often memory and descriptors are looked at.
const SAMPLE: Duration = Duration::from_secs(1);
/// Attacks at the same time.
const ATTACKERS: u64 = 12;
/// How long the client may take for what is left once peace has come.
const DRAIN: Duration = Duration::from_secs(120);
/// Growth that a long run may show, fitted to its second half, when the event hubs are full. Real leaks of a connection, a frame or a fault are a
/// hundred times more at this rate.
const MAX_SLOPE_KIB_PER_MIN: f64 = 512.0;
/// Shorter runs say nothing about a slope.
const LONG: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_outlives_a_bad_neighbourhood() {
    let (Some(seconds), Some(python)) = (
        std::env::var("EHP_TORTURE_SECONDS").ok(),
        std::env::var_os("EHP_PYTHON"),
    ) else {
        println!("skipped: EHP_TORTURE_SECONDS or EHP_PYTHON is not set");
        return;
    };
    let time = Duration::from_secs(seconds.parse().unwrap());
    let seed: u64 = match std::env::var("EHP_TORTURE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::rng().random(),
    };
    println!("EHP_TORTURE_SEED={seed}");

    let target = Target::start().await;
    let at_rest = target.sample();
    let amqp = Proxy::start(target.ports.amqp).await;
    let blob = Proxy::start(target.ports.blob).await;
    let mut client = Python::start(&python, &target, &amqp, &blob);
    client.has_received(50, Duration::from_secs(60)).await;

    let peace = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|n| {
            let rng = SmallRng::seed_from_u64(seed.wrapping_add(n));
            let attack = Attack::new(target.ports.clone(), amqp.captures(), blob.captures(), rng);
            tokio::spawn(attack.run(Arc::clone(&peace)))
        })
        .collect();
    let rng = SmallRng::seed_from_u64(!seed);
    let troublemaker = tokio::spawn(faults::run(target.ports.control, rng, Arc::clone(&peace)));

    let mut series = Series::default();
    let started = Instant::now();
    while started.elapsed() < time {
        sleep(SAMPLE).await;
        series.push(started.elapsed(), target.sample());
        target.is_well();
    }
    peace.store(true, Ordering::Relaxed);
    let mut thrown = attack::Thrown::default();
    for attacker in attackers {
        thrown += attacker.await.unwrap();
    }
    let faults = troublemaker.await.unwrap();

    client.stop_producing(Duration::from_secs(60)).await;
    client.has_received_all_acked(DRAIN).await;
    println!("{}", client.summary());
    client.end().await;
    drop((amqp, blob));

    println!("{thrown}, {faults} faults");
    print!("{series}");
    let fitted = series.slope_kib_per_min();
    println!("slope of the second half: {fitted:.1} KiB/min");
    let end = target
        .descriptors_at_most(at_rest.descriptors, Duration::from_secs(30))
        .await;
    println!(
        "descriptors: {} at rest, {end} at the end",
        at_rest.descriptors
    );
    if time >= LONG {
        assert!(
            fitted < MAX_SLOPE_KIB_PER_MIN,
            "memory grows by {fitted:.1} KiB/min"
        );
    }
    target.stop().await;
}
