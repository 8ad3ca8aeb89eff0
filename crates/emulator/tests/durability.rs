//! What a killed emulator had accepted is there when it is started again.
//!
//! The long form, 20 kills during 50,000 sends each:
//! `cargo test --release -p eventhubs-emulator --test durability -- --ignored --nocapture`
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

mod raw;

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventhubs_emulator::{DataError, Emulator, EmulatorError, Event, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use raw::{DISPOSITION, FLOW, Raw, TRANSFER};

const PARTITIONS: usize = 2;

struct Program {
    child: Child,
    amqp: SocketAddr,
}

impl Program {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eventhubs-emulator"))
            .args(["--port", "0", "--blob-port", "0", "--ready-json"])
            .args(["--hub", &format!("hub:{PARTITIONS}"), "--data"])
            .arg(data)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let port: u16 = ready["amqp_port"].as_u64().unwrap().try_into().unwrap();
        Self {
            child,
            amqp: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }

    fn kill(mut self) {
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Numbered events sent to each partition, and how many of them are acknowledged.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    sent: u64,
    accepted: u64,
}

/// Sends numbered events to all partitions until so many are accepted.
fn send(
    address: SocketAddr,
    progress: &mut [Progress; PARTITIONS],
    until: u64,
    accepted: &AtomicU64,
) -> io::Result<()> {
    const IN_FLIGHT: usize = 400;
    let mut client = Raw::connect(address)?;
    let mut credit = [0_u64; PARTITIONS];
    for (handle, credit) in credit.iter_mut().enumerate() {
        client.attach_sender(handle as u32, &format!("hub/Partitions/{handle}"))?;
        client.wait_for(FLOW)?;
        *credit = 500;
    }
    // By delivery id: the partition.
    let mut deliveries: Vec<usize> = Vec::new();
    let mut sent_here = [0_u64; PARTITIONS];
    let mut open = 0;
    while accepted.load(Ordering::Relaxed) < until {
        let mut bytes = Vec::new();
        while open < IN_FLIGHT {
            let handle = deliveries.len() % PARTITIONS;
            if sent_here[handle] >= credit[handle] {
                break;
            }
            let number = progress[handle].sent;
            let id = deliveries.len() as u32;
            let body = format!("{number:>20}{}", "x".repeat(number as usize % 40));
            bytes.extend(raw::transfer(handle as u32, id, body.as_bytes()));
            deliveries.push(handle);
            progress[handle].sent += 1;
            sent_here[handle] += 1;
            open += 1;
        }
        client.send(&bytes)?;
        let (code, fields) = client.next()?;
        let fields = raw::numbers(fields);
        match code {
            DISPOSITION => {
                let first = fields[1].unwrap() as usize;
                let last = fields.get(2).copied().flatten().unwrap_or(first as u64) as usize;
                for handle in &deliveries[first..=last] {
                    progress[*handle].accepted += 1;
                    open -= 1;
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Of a link: handle, delivery count, credit.
            FLOW if fields.len() >= 7 => {
                let handle = fields[4].unwrap() as usize;
                credit[handle] = fields[5].unwrap() + fields[6].unwrap();
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a partition to its end and checks numbers and order; how many events there are.
fn verify(address: SocketAddr, partition: usize, at_least: u64) -> u64 {
    let mut client = Raw::connect(address).unwrap();
    let source = format!("hub/ConsumerGroups/$Default/Partitions/{partition}");
    client.attach_receiver(0, &source).unwrap();
    client.grant(0, u32::MAX).unwrap();
    let mut count = 0;
    loop {
        if count >= at_least {
            client.patience(Duration::from_millis(300)).unwrap();
        }
        match client.next() {
            Ok((TRANSFER, transfer)) => {
                let (sequence_number, body) = raw::event(transfer);
                assert_eq!(sequence_number, count as i64, "no gap in sequence numbers");
                let number = std::str::from_utf8(&body[..20]).unwrap().trim();
                assert_eq!(
                    number,
                    count.to_string(),
                    "events in the order they were sent"
                );
                count += 1;
            }
            Ok(_) => {}
            Err(_) if count >= at_least => return count,
            Err(error) => panic!("{count} of {at_least} acknowledged events: {error}"),
        }
    }
}

fn rounds(rounds: u64, sends: u64) {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let mut progress = [Progress::default(); PARTITIONS];
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = nanos.as_nanos() as u64 | 1;
    for round in 0..rounds {
        let program = Program::start(&data);
        let address = program.amqp;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // At some moment in the middle, while hundreds of events are under way.
        let kill_at = sends / 10 + (seed >> 33) % (sends * 8 / 10);
        let accepted = Arc::new(AtomicU64::new(0));
        let killer = {
            let accepted = Arc::clone(&accepted);
            std::thread::spawn(move || {
                while accepted.load(Ordering::Relaxed) < kill_at {
                    std::thread::sleep(Duration::from_micros(50));
                }
                program.kill();
            })
        };
        let ended = send(address, &mut progress, sends, &accepted);
        killer.join().unwrap();
        assert!(ended.is_err(), "killed before all were accepted");

        let program = Program::start(&data);
        for (partition, progress) in progress.iter_mut().enumerate() {
            let there = verify(program.amqp, partition, progress.accepted);
            assert!(there <= progress.sent);
            println!(
                "round {round}, partition {partition}: {} acknowledged, {there} there",
                progress.accepted
            );
            *progress = Progress {
                sent: there,
                accepted: there,
            };
        }
        program.kill();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_it_is_killed() {
    rounds(2, 3_000);
}

#[test]
#[ignore = "takes minutes; see the head of this file"]
fn nothing_acknowledged_is_lost_in_twenty_kills() {
    rounds(20, 50_000);
}

async fn emulator(data: &Path) -> Result<Emulator, StartError> {
    Emulator::builder()
        .with_hub("Hub", 2)
        .with_container("checkpoints")
        .with_data_dir(data)
        .start()
        .await
}

#[tokio::test]
async fn hubs_events_and_blobs_are_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path();
    let first = emulator(data).await.unwrap();
    let sent = first.send("hub", Some("1"), Event::new("one")).unwrap();
    first.add_partitions("hub", 1).unwrap();
    first.create_hub("other", 1).unwrap();
    let pairs = [("ownerid", ""), ("Other", "x")];
    first.put_blob("checkpoints", "a/b", &pairs).unwrap();
    assert!(matches!(
        emulator(data).await,
        Err(StartError::Data(DataError::InUse { .. }))
    ));
    let before = first.partition_properties("hub", "1").unwrap();
    first.stop().await;

    let second = emulator(data).await.unwrap();
    assert_eq!(second.partition_properties("hub", "1").unwrap(), before);
    assert!(second.partition_properties("hub", "2").unwrap().is_empty);
    assert!(matches!(
        second.create_hub("OTHER", 1),
        Err(EmulatorError::HubExists(_))
    ));
    let metadata = second.blob_metadata("checkpoints", "a/b").unwrap();
    assert_eq!(metadata.len(), 2);
    let next = second.send("hub", Some("1"), Event::new("two")).unwrap();
    assert_eq!(next.sequence_number, sent.sequence_number + 1);
}

#[tokio::test]
async fn a_stop_frees_the_data_although_a_control_connection_is_open() {
    let root = tempfile::tempdir().unwrap();
    let settings = || {
        Emulator::builder()
            .with_control_port(0)
            .with_data_dir(root.path())
    };
    let first = settings().start().await.unwrap();
    let address = first.control_addr().unwrap();
    let mut open = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n";
    open.write_all(request).await.unwrap();
    open.read_u8().await.unwrap();
    first.stop().await;
    settings().start().await.unwrap();
}
