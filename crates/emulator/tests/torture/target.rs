//! The program under attack.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::measure::{self, Sample};

/// The event hub of the client, and the one that strangers may do as they like with. The names are equally long, so
/// that a copy of real traffic can be turned against the other.
pub(crate) const OURS: &str = "work";
pub(crate) const THEIRS: &str = "play";
pub(crate) const PARTITIONS: u32 = 4;

#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) amqp: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) wss: SocketAddr,
    pub(crate) blob: SocketAddr,
    pub(crate) control: SocketAddr,
}

pub(crate) struct Target {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) ports: Ports,
}

impl Target {
    pub(crate) async fn start() -> Self {
        let hub = |name: &str| format!("{name}:{PARTITIONS}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_eventhubs-emulator"))
            .args([
                "--port",
                "0",
                "--blob-port",
                "0",
                "--tls-port",
                "0",
                "--ws-port",
                "0",
            ])
            .args(["--wss-port", "0", "--control-port", "0", "--ready-json"])
            .args(["--hub", &hub(OURS), "--hub", &hub(THEIRS)])
            // Enough for minutes of backlog, and full after a few minutes, so that memory can be flat.
            .args(["--retention-events", "1500", "--retention-mib", "4"])
            .env("RUST_BACKTRACE", "1")
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<String>>::default();
        let mut stderr = child.stderr.take().unwrap();
        let sink = Arc::clone(&log);
        tokio::spawn(async move {
            let mut buf = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stderr.read(&mut buf).await {
                keep(
                    &mut sink.lock().unwrap(),
                    &String::from_utf8_lossy(&buf[..count]),
                );
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next_line().await.unwrap().expect("a line when ready");
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let address = |name: &str| {
            let port = ready[name].as_u64().unwrap().try_into().unwrap();
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        Self {
            child,
            log,
            ports: Ports {
                amqp: address("amqp_port"),
                tls: address("tls_port"),
                ws: address("ws_port"),
                wss: address("wss_port"),
                blob: address("blob_port"),
                control: address("control_port"),
            },
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample::of(self.child.id().expect("it runs"))
    }

    /// Panics if it has.
    pub(crate) fn is_well(&self) {
        assert!(
            self.child.id().is_some(),
            "the emulator has ended: {}",
            self.tail()
        );
        let log = self.log.lock().unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Waits until it has no more descriptors than that, give or take a listener's worth, and tells how many.
    pub(crate) async fn descriptors_at_most(&self, count: usize, limit: Duration) -> usize {
        const SLACK: usize = 4;
        let back = async {
            while self.sample().descriptors > count + SLACK {
                sleep(Duration::from_millis(200)).await;
            }
        };
        let is_back = timeout(limit, back).await.is_ok();
        let now = self.sample().descriptors;
        let ports = &self.ports;
        let sockets = measure::sockets(self.child.id().expect("it runs"));
        assert!(
            is_back,
            "{now} descriptors, {count} at rest; {ports:?}: {sockets:#?}"
        );
        now
    }

    /// Ends it politely.
    pub(crate) async fn stop(mut self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
        let status = timeout(Duration::from_secs(20), self.child.wait()).await;
        assert!(
            status.expect("an end in time").unwrap().success(),
            "{}",
            self.tail()
        );
        let log = self.log.lock().unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }

    fn tail(&self) -> String {
        let log = self.log.lock().unwrap();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.join("\n")
    }
}

/// Keeps the last of the log, and every line about a panic with what follows it.
fn keep(log: &mut String, text: &str) {
    const MOST: usize = 1 << 20;
    log.push_str(text);
    if log.len() > MOST && !log.contains("panicked") {
        let mut from = log.len() - MOST / 2;
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log.drain(..from);
    }
}
