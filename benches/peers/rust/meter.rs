//! What every Rust client of this bench does: count events by partition, tell of the first one, and say what a sample
//! of the steady state cost. The counterparts in `../python/meter.py` and `../js/meter.mjs` print the same lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Set by the bench for each client.
pub fn setting(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the bench, not its parts"))
}

fn milliseconds(name: &str) -> Duration {
    Duration::from_millis(setting(name).parse().expect("milliseconds"))
}

pub struct Meter {
    events: Vec<Counter>,
    started: Instant,
    is_first_seen: tokio::sync::Notify,
}

/// A cache line of its own: partitions count at the same time.
#[repr(align(64))]
struct Counter(AtomicU64);

impl Meter {
    /// To be called right before the client is made: what it does from here on is its way to the first event.
    pub fn start() -> Self {
        let partitions = setting("PARTITIONS").parse().expect("a number");
        Self {
            events: (0..partitions)
                .map(|_| Counter(AtomicU64::new(0)))
                .collect(),
            started: Instant::now(),
            is_first_seen: tokio::sync::Notify::new(),
        }
    }

    /// Counts events of a partition. Returns how many it had before and has now.
    pub fn count(&self, partition: usize, events: u64) -> (u64, u64) {
        let before = self.events[partition]
            .0
            .fetch_add(events, Ordering::Relaxed);
        if before == 0 {
            self.is_first_seen.notify_one();
        }
        (before, before + events)
    }

    /// Prints the two lines that the bench waits for.
    pub async fn report(&self) {
        self.is_first_seen.notified().await;
        let since_run = self.started.elapsed().as_secs_f64() * 1e3;
        println!(r#"{{"first":{{"since_run_ms":{since_run:.3}}}}}"#);
        tokio::time::sleep(milliseconds("SETTLE_MS")).await;
        let (from, before, used) = (Instant::now(), self.total(), cpu_time());
        tokio::time::sleep(milliseconds("SAMPLE_MS")).await;
        let (seconds, events) = (from.elapsed().as_secs_f64(), self.total() - before);
        let cpu = (cpu_time() - used).as_secs_f64() * 1e6;
        let counts = || {
            self.events
                .iter()
                .map(|counter| counter.0.load(Ordering::Relaxed))
        };
        let (partitions, most) = (
            counts().filter(|&n| n > 0).count(),
            counts().max().unwrap_or(0),
        );
        println!(
            r#"{{"sample":{{"seconds":{seconds:.6},"events":{events},"cpu_us":{cpu:.0},"partitions":{partitions},"most":{most}}}}}"#
        );
    }

    fn total(&self) -> u64 {
        self.events
            .iter()
            .map(|counter| counter.0.load(Ordering::Relaxed))
            .sum()
    }
}

/// User and system time of all threads of this process, as `getrusage` has it, but to the nanosecond.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().expect("positive"),
        time.tv_nsec.try_into().expect("less than a second"),
    )
}

/// Whether a checkpoint is due between two counts: one for every so many events of a partition.
pub fn is_checkpoint_due((before, now): (u64, u64), every: u64) -> bool {
    before / every != now / every
}
