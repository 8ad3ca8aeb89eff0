//! How much memory a processor takes whose handlers are stuck while every partition has more to read than fits.
//!
//! ```text
//! EHP_MEMORY_SECONDS=1800 cargo test --release --test memory -- --nocapture
//! ```
//!
//! Without the variable it looks for five seconds. Broker and processor are processes of their own, which this test starts
//! from itself, so that what is measured is the processor alone. Then the same where the system gives no more than that, and
//! ends a process that takes more.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::{
    AmqpTransport, EventPosition, EventProcessor, InMemoryCheckpointStore, MemoryBudget, handler_fn,
};
use tokio::time::sleep;

const HUB: &str = "hub";
const PARTITIONS: u32 = 32;
const ROLE: &str = "EHP_MEMORY_ROLE";
const SIZE: &str = "EHP_MEMORY_EVENT_SIZE";
const BROKER: &str = "EHP_MEMORY_BROKER";
const HANDLER: &str = "EHP_MEMORY_HANDLER";
const BUDGET: &str = "EHP_MEMORY_BUDGET";
/// The largest that may be sent.
const LARGEST: usize = (1 << 20) - 8;
const DEFAULT_BUDGET: usize = MemoryBudget::DEFAULT_BYTES;
const NO_LIMIT: &str = r#"exec "$@""#;

#[test]
fn events_of_a_kibibyte() {
    let most = most_taken(1 << 10, Handler::Stuck, DEFAULT_BUDGET, NO_LIMIT);
    assert!(most <= 64 << 10, "{} MiB", most >> 10);
}

#[test]
fn events_of_almost_a_mebibyte() {
    let most = most_taken(LARGEST, Handler::Stuck, DEFAULT_BUDGET, NO_LIMIT);
    // The budget, one event for each partition, and what a processor takes anyway.
    assert!(most <= 352 << 10, "{} MiB", most >> 10);
}

#[test]
fn an_address_space_of_352_mebibytes() {
    // An arena of glibc's reserves 64 MiB, whatever it holds.
    let within = r#"ulimit -v 360448 && export MALLOC_ARENA_MAX=1 && exec "$@""#;
    most_taken(LARGEST, Handler::Slow, DEFAULT_BUDGET, within);
}

/// Half of it for the events that are being handled.
#[test]
fn a_control_group_of_64_mebibytes() {
    let group = match Group::new(64 << 20) {
        Ok(group) => group,
        Err(error) => return println!("skipped, no control group can be made: {error}"),
    };
    let within = format!(
        r#"echo $$ > {}/cgroup.procs && exec "$@""#,
        group.0.display()
    );
    most_taken(LARGEST, Handler::Slow, 8 << 20, &within);
}

/// A control group of the system's, in either of its two generations.
struct Group(PathBuf);

impl Group {
    fn new(bytes: usize) -> io::Result<Self> {
        let generations = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        let (root, limit) = if Path::new(generations[0].0).exists() {
            generations[0]
        } else {
            generations[1]
        };
        let name = format!("eventhubs-processor-{}", std::process::id());
        let group = Self(Path::new(root).join(name));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join(limit), bytes.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has been waited for, and is out of it.
        let removed = fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Handler {
    /// It is never done.
    Stuck,
    /// It takes its time, and the next one comes.
    Slow,
}

/// The most memory that the processor took, in KiB: while its handlers were stuck, or until it had read everything.
/// `within` is a piece of shell that ends with the program, `"$@"`.
fn most_taken(event_size: usize, handler: Handler, budget: usize, within: &str) -> u64 {
    let mut broker = program(NO_LIMIT);
    broker.env(ROLE, "broker").env(SIZE, event_size.to_string());
    let (broker, address) = start(broker);
    let mut client = program(within);
    client
        .env(ROLE, "client")
        .env(SIZE, event_size.to_string())
        .env(BROKER, address)
        .env(HANDLER, format!("{handler:?}"))
        .env(BUDGET, budget.to_string());
    let (mut client, most) = start(client);
    drop(broker);
    assert!(client.0.wait().unwrap().success());
    let most = most.parse().unwrap();
    println!("events of {event_size} bytes: {} MiB at most", most >> 10);
    most
}

/// This test as something else.
fn program(within: &str) -> Command {
    let mut program = Command::new("sh");
    program
        .args(["-c", within, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "plays_its_role", "--nocapture"]);
    program
}

/// Starts a program, and waits for the line in which it says what it has to say.
fn start(mut program: Command) -> (Started, String) {
    let mut started = Started(program.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(started.0.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let said = lines.find_map(|line| line.strip_prefix("said: ").map(str::to_owned));
    let said = said.unwrap_or_else(|| panic!("it ended without a word: {program:?}"));
    // Or its last words would find nobody.
    std::thread::spawn(move || lines.for_each(drop));
    (started, said)
}

/// Ends with the test, however that ends.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nothing, unless started by another test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plays_its_role() {
    match std::env::var(ROLE).as_deref() {
        Ok("broker") => serve(number(SIZE)).await,
        Ok("client") => consume().await,
        _ => {}
    }
}

fn number(variable: &str) -> usize {
    std::env::var(variable).unwrap().parse().unwrap()
}

async fn serve(event_size: usize) {
    let events = events_in_a_partition(event_size);
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

/// Twice what a partition may hold.
fn events_in_a_partition(event_size: usize) -> usize {
    (16 << 20) / event_size
}

async fn consume() {
    let seconds = std::env::var("EHP_MEMORY_SECONDS").map_or(5, |text| text.parse().unwrap());
    let is_stuck = std::env::var(HANDLER).unwrap() == format!("{:?}", Handler::Stuck);
    let hub = AmqpTransport::from_connection_string(&std::env::var(BROKER).unwrap(), HUB).unwrap();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let handler = handler_fn(move |_context, _event| {
        let started = started.clone();
        async move {
            started.send(())?;
            if is_stuck {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(50)).await;
            Ok(())
        }
    });
    let handle = EventProcessor::builder(hub, "$Default", InMemoryCheckpointStore::new())
        .with_memory_budget(MemoryBudget::new(number(BUDGET)))
        .with_load_balancing_interval(Duration::from_secs(1))
        .with_partition_ownership_expiration(Duration::from_secs(20))
        .with_default_starting_position(EventPosition::Earliest)
        .build(handler)
        .unwrap()
        .spawn();
    let events = if is_stuck {
        1
    } else {
        events_in_a_partition(number(SIZE))
    };
    let mut most = 0;
    for _ in 0..PARTITIONS as usize * events {
        starts.recv().await.unwrap();
        most = most.max(resident_kib());
    }
    let begun = Instant::now();
    while is_stuck && begun.elapsed() < Duration::from_secs(seconds) {
        most = most.max(resident_kib());
        sleep(Duration::from_millis(50)).await;
    }
    println!("said: {most}");
    drop(handle);
}

fn resident_kib() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}
