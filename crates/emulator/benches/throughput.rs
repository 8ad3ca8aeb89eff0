//! How fast the emulator is, so that nobody measures it when measuring something else:
//!
//! `cargo bench -p eventhubs-emulator --bench throughput`
//!
//! Behind `--`, one or more of `start`, `read`, `send` and `many` leave the others out.
//!
//! It prints a line per figure with the aim behind it, and fails on none: figures of a busy
//! machine say little.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints")]

#[path = "../tests/raw/mod.rs"]
mod raw;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eventhubs_emulator::{Emulator, Event};

use raw::{FLOW, Raw, TRANSFER};

const RUNS: usize = 5;
const SOURCE: &str = "hub/ConsumerGroups/$Default/Partitions/0";

#[tokio::main]
async fn main() {
    // `cargo test` also starts benches, and has no time for them.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let parts: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|wanted| *wanted == part);
    if wants("start") {
        start_and_idle();
    }
    if wants("read") {
        for (size, count) in [(100, 1_000_000), (1024, 400_000)] {
            reading(size, count).await;
        }
    }
    if wants("send") {
        for is_stored in [false, true] {
            sending(is_stored).await;
        }
    }
    if wants("many") {
        many_receivers().await;
        open_and_close().await;
    }
}

/// One reader over loopback that takes what comes.
async fn reading(size: usize, count: u64) {
    let emulator = Emulator::builder()
        .with_hub("hub", 1)
        .with_retention(usize::MAX, usize::MAX)
        .start()
        .await
        .unwrap();
    for _ in 0..count {
        emulator
            .send("hub", Some("0"), Event::new(vec![b'x'; size]))
            .unwrap();
    }
    let address = emulator.amqp_addr();
    let rates = blocking(move || {
        let mut client = Raw::connect(address).unwrap();
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            client.attach_receiver(0, SOURCE).unwrap();
            let start = Instant::now();
            client.grant(0, u32::MAX).unwrap();
            let mut seen = 0;
            while seen < count {
                seen += client.count_transfers().unwrap();
            }
            rates.push(count as f64 / start.elapsed().as_secs_f64());
            client.detach(0).unwrap();
            client.wait_for(0x16).unwrap();
        }
        rates
    })
    .await;
    let best = rates.iter().copied().fold(0.0, f64::max);
    let worst = rates.iter().copied().fold(f64::MAX, f64::min);
    println!(
        "read {size:>4} B: {:.2} to {:.2} M events/s, {:.2} to {:.2} GB/s of bodies{}",
        worst / 1e6,
        best / 1e6,
        worst * size as f64 / 1e9,
        best * size as f64 / 1e9,
        if size == 100 {
            " (aim: 1 M events/s)"
        } else {
            " (aim: 1 GB/s)"
        },
    );
}

/// One sender of single events, as many under way as credit allows.
async fn sending(is_stored: bool) {
    const COUNT: u32 = 200_000;
    let root = tempfile::tempdir().unwrap();
    let mut builder = Emulator::builder().with_hub("hub", 1);
    if is_stored {
        builder = builder.with_data_dir(root.path());
    }
    let emulator = builder.start().await.unwrap();
    let address = emulator.amqp_addr();
    let rate = blocking(move || {
        let mut client = Raw::connect(address).unwrap();
        client.attach_sender(0, "hub/Partitions/0").unwrap();
        client.wait_for(FLOW).unwrap();
        let start = Instant::now();
        let (mut sent, mut settled, mut limit) = (0, 0, 900_u64);
        while settled < COUNT {
            let mut bytes = Vec::new();
            while sent < COUNT && u64::from(sent) < limit && bytes.len() < 64 * 1024 {
                bytes.extend(raw::transfer(0, sent, &[b'x'; 100]));
                sent += 1;
            }
            client.send(&bytes).unwrap();
            let (code, fields) = client.next().unwrap();
            let fields = raw::numbers(fields);
            if code == raw::DISPOSITION {
                let last = fields.get(2).copied().flatten().or(fields[1]).unwrap();
                settled = last as u32 + 1;
            } else if code == FLOW && fields.len() >= 7 {
                limit = fields[5].unwrap() + fields[6].unwrap();
            }
        }
        f64::from(COUNT) / start.elapsed().as_secs_f64()
    })
    .await;
    let place = if is_stored {
        "with --data"
    } else {
        "in memory"
    };
    println!(
        "send  100 B: {:.0} k events/s acknowledged, {place}",
        rate / 1e3
    );
}

/// Each on a connection of its own.
async fn many_receivers() {
    const RECEIVERS: u32 = 1000;
    raise_limit();
    let emulator = Emulator::builder()
        .with_hub("hub", RECEIVERS)
        .start()
        .await
        .unwrap();
    let address = emulator.amqp_addr();
    let start = Instant::now();
    let mut clients = blocking(move || {
        (0..RECEIVERS)
            .map(|partition| {
                let mut client = Raw::connect(address).unwrap();
                let source = format!("hub/ConsumerGroups/$Default/Partitions/{partition}");
                client.attach_receiver(0, &source).unwrap();
                client.grant(0, 300).unwrap();
                client
            })
            .collect::<Vec<_>>()
    })
    .await;
    let attached = start.elapsed();
    let start = Instant::now();
    for partition in 0..RECEIVERS {
        emulator
            .send("hub", Some(&partition.to_string()), "event")
            .unwrap();
    }
    blocking(move || {
        for client in &mut clients {
            client.wait_for(TRANSFER).unwrap();
        }
    })
    .await;
    println!(
        "{RECEIVERS} receivers: attached in {attached:.0?}, an event to each in {:.0?}",
        start.elapsed()
    );
}

async fn open_and_close() {
    const ROUNDS: usize = 10_000;
    let emulator = Emulator::start().await.unwrap();
    let address = emulator.amqp_addr();
    let round = move |count: usize| {
        move || {
            for _ in 0..count {
                let mut client = Raw::connect(address).unwrap();
                let source = "eventhub/ConsumerGroups/$Default/Partitions/0";
                client.attach_receiver(0, source).unwrap();
                client.close().unwrap();
            }
        }
    };
    // What is allocated once is so after these.
    blocking(round(500)).await;
    let before = (rss_kib("self"), open_files());
    let start = Instant::now();
    blocking(round(ROUNDS)).await;
    let took = start.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!(
        "{ROUNDS} connections: {:.0} opened and closed a second, {} left, memory {} to {} KiB, \
         open files {} to {}",
        ROUNDS as f64 / took.as_secs_f64(),
        emulator.connection_count(),
        before.0,
        rss_kib("self"),
        before.1,
        open_files(),
    );
}

/// Of the program as it is installed.
fn start_and_idle() {
    let mut fastest = Duration::MAX;
    let mut slowest = Duration::ZERO;
    let mut idle = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        let (mut child, address) = program();
        while TcpStream::connect(address).is_err() {}
        let took = start.elapsed();
        fastest = fastest.min(took);
        slowest = slowest.max(took);
        std::thread::sleep(Duration::from_millis(200));
        idle = rss_kib(&child.id().to_string()).max(idle);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    println!("start to first connection: {fastest:.0?} to {slowest:.0?} (aim: 50 ms)");
    println!("idle memory: {:.1} MiB (aim: 20 MiB)", idle as f64 / 1024.0);
}

fn program() -> (Child, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eventhubs-emulator"))
        .args(["--port", "0", "--blob-port", "0", "--ready-json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let port: u16 = ready["amqp_port"].as_u64().unwrap().try_into().unwrap();
    (child, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Resident memory of a process; 0 where the system does not tell.
fn rss_kib(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Of this process; 0 where the system does not tell.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Both ends of every connection are in this process.
fn raise_limit() {
    #[cfg(unix)]
    rlimit::increase_nofile_limit(8192).unwrap();
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
