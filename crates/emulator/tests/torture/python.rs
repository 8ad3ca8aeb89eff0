//! The client that has to get through.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::proxy::Proxy;
use super::target::{OURS, Target};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/client.py");
/// The well-known key of storage emulators.
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[derive(Default)]
struct Seen {
    acked: BTreeSet<u64>,
    got: BTreeSet<u64>,
    deliveries: u64,
    errors: u64,
    restarts: u64,
    last_error: String,
    has_stopped: bool,
}

pub(crate) struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<Mutex<Seen>>,
    changes: watch::Receiver<()>,
}

impl Python {
    pub(crate) fn start(python: &OsStr, _: &Target, amqp: &Proxy, blob: &Proxy) -> Self {
        let event_hubs = format!(
            "Endpoint=sb://{};SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;",
            amqp.address
        );
        let storage = format!(
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};\
             BlobEndpoint=http://{}/devstoreaccount1;",
            blob.address
        );
        let mut child = Command::new(python)
            .arg(CLIENT)
            .env("EVENTHUBS_CONNECTION_STRING", event_hubs)
            .env("STORAGE_CONNECTION_STRING", storage)
            .env("EVENTHUB_NAME", OURS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It warns about every fault.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let (changed, changes) = watch::channel(());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sink = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                note(
                    &mut sink.lock().unwrap(),
                    &serde_json::from_str(&line).unwrap(),
                );
                changed.send_replace(());
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            seen,
            changes,
        }
    }

    pub(crate) async fn has_received(&mut self, count: usize, limit: Duration) {
        self.wait("its first events", limit, |seen| seen.got.len() >= count)
            .await;
    }

    pub(crate) async fn stop_producing(&mut self, limit: Duration) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(b"stop\n").await.unwrap();
        self.wait("its producer's end", limit, |seen| seen.has_stopped)
            .await;
    }

    pub(crate) async fn has_received_all_acked(&mut self, limit: Duration) {
        let started = Instant::now();
        self.wait("every acknowledged event", limit, |seen| {
            seen.acked.is_subset(&seen.got)
        })
        .await;
        println!("drained in {:.1} s", started.elapsed().as_secs_f64());
    }

    pub(crate) fn summary(&self) -> String {
        let seen = self.seen.lock().unwrap();
        format!(
            "client: {} events acknowledged, {} received ({} deliveries), {} errors, {} restarts",
            seen.acked.len(),
            seen.got.len(),
            seen.deliveries,
            seen.errors,
            seen.restarts
        )
    }

    /// It may hang by now, and has done its work.
    pub(crate) async fn end(mut self) {
        self.child.kill().await.unwrap();
    }

    async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&Seen) -> bool + Send + Sync,
    ) {
        let waiting = async {
            while !is_so(&self.seen.lock().unwrap()) {
                self.changes.changed().await.expect("the client goes on");
            }
        };
        if timeout(limit, waiting).await.is_err() {
            let seen = self.seen.lock().unwrap();
            let missing: Vec<_> = seen.acked.difference(&seen.got).take(20).collect();
            panic!(
                "not within {limit:?}: {what}; {} acknowledged, {} received, missing {missing:?}, \
                 {} errors, the last: {}",
                seen.acked.len(),
                seen.got.len(),
                seen.errors,
                seen.last_error
            );
        }
    }
}

fn note(seen: &mut Seen, line: &Value) {
    if let Some(range) = line["acked"].as_array() {
        seen.acked
            .extend(range[0].as_u64().unwrap()..=range[1].as_u64().unwrap());
    }
    if let Some(number) = line["got"].as_u64() {
        seen.got.insert(number);
        seen.deliveries += 1;
    }
    if let Some(error) = line["error"].as_str() {
        seen.errors += 1;
        error.clone_into(&mut seen.last_error);
    }
    if let Some(count) = line["restart"].as_u64() {
        seen.restarts = count;
    }
    seen.has_stopped |= line["stopped"] == true;
}
