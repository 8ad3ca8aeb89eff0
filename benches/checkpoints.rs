//! What a checkpoint costs over each client library that the blob store can use: checkpoints per second, processor time
//! of the client, and connections opened.
//!
//! ```text
//! cargo bench --bench checkpoints --features legacy-storage
//! ```
//!
//! Prints a table and asserts nothing. The emulator runs in a process of its own, so the processor time is the
//! client's alone; it is read from `/proc`, so there is none elsewhere than on Linux. Connections are counted in runs
//! of their own, by a forwarder between client and emulator.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore as _,
    WriteCondition, WriteOutcome,
};
use eventhubs_processor::{Checkpoint, ETag, GroupScope};
use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const CONTAINER: &str = "checkpoints";
const CHECKPOINTS: usize = 8_000;
const WARM_UP: usize = 500;
/// One after the other, as a handler that awaits each; and as many partitions at once.
const WRITERS: [usize; 2] = [1, 16];

fn main() {
    if std::env::args().any(|argument| argument == SERVE) {
        serve();
    } else {
        measure();
    }
}

fn measure() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut server = Server::start();
    println!("{CHECKPOINTS} conditional checkpoint writes to the emulator, one thread");
    println!("client library           writers  checkpoints/s  CPU us each  connections");
    for writers in WRITERS {
        for (name, backend) in [
            ("azure_storage_blob 1.1", BlobBackend::Supported),
            ("azure_storage_blobs 0.21", BlobBackend::Legacy),
        ] {
            let direct = store(&server.connection_string, backend);
            write(&runtime, &direct, writers, WARM_UP);
            let (started, used) = (Instant::now(), processor_time());
            write(&runtime, &direct, writers, CHECKPOINTS);
            let rate = CHECKPOINTS as f64 / started.elapsed().as_secs_f64();
            let used = processor_time()
                .zip(used)
                .map(|(after, before)| after - before);
            let cpu = used.map_or_else(
                || "-".to_owned(),
                |used| format!("{:.0}", used.as_secs_f64() * 1e6 / CHECKPOINTS as f64),
            );

            let before = server.connections();
            let counted = store(&server.counted_connection_string, backend);
            write(&runtime, &counted, writers, CHECKPOINTS);
            let opened = server.connections() - before;
            println!("{name:24} {writers:>7} {rate:>14.0} {cpu:>12} {opened:>12}");
        }
    }
}

fn store(connection_string: &str, backend: BlobBackend) -> BlobCheckpointStore {
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    BlobCheckpointStore::from_connection_string_with_options(connection_string, CONTAINER, options)
        .unwrap()
}

/// Writes as a processor does: each writer its partition, each write conditional on the one before.
fn write(runtime: &Runtime, store: &BlobCheckpointStore, writers: usize, checkpoints: usize) {
    let group = format!("g{}", uuid::Uuid::new_v4().simple());
    let scope = GroupScope::new("bench.servicebus.windows.net", "hub", group);
    let each = i64::try_from(checkpoints / writers).unwrap();
    runtime.block_on(join_all((0..writers).map(|partition| {
        let scope = &scope;
        async move {
            let mut version: Option<ETag> = None;
            for number in 0..each {
                let checkpoint = Checkpoint {
                    partition_id: partition.to_string().into(),
                    offset: Some((number * 100).to_string().into()),
                    sequence_number: Some(number),
                    client_identifier: None,
                };
                let condition = version.map_or(WriteCondition::Absent, WriteCondition::Matches);
                let outcome = store
                    .update_checkpoint(scope, &checkpoint, &condition)
                    .await;
                let WriteOutcome::Written(written) = outcome.unwrap() else {
                    panic!("nobody else writes");
                };
                version = Some(written.etag);
            }
        }
    })));
}

/// Time that this thread, the only one, was on a processor.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

const SERVE: &str = "--serve";

/// The emulator, in a process of its own that ends with this one.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    connection_string: String,
    /// The same by way of the forwarder.
    counted_connection_string: String,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            line.trim().to_owned()
        };
        let (connection_string, counted_connection_string) = (line(), line());
        Self {
            child,
            output,
            connection_string,
            counted_connection_string,
        }
    }

    /// How many connections came through the forwarder so far.
    fn connections(&mut self) -> u64 {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its input ends, and with it the process.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn serve() {
    let runtime = Runtime::new().unwrap();
    let emulator = runtime
        .block_on(Emulator::builder().with_container(CONTAINER).start())
        .unwrap();
    let direct = emulator.storage_connection_string();
    let address = direct.split("BlobEndpoint=http://").nth(1).unwrap();
    let address = address.split('/').next().unwrap().to_owned();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let counted = listener.local_addr().unwrap().to_string();
    println!("{direct}\n{}", direct.replace(&address, &counted));

    let connections = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&connections);
    let forwarder = runtime.spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let mut server = TcpStream::connect(&address).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                // Either side may end it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("{}", connections.load(Ordering::Relaxed));
    }
    forwarder.abort();
}
