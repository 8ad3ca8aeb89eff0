//! An emulator with a neighbour that works, and those who attack it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_emulator::Emulator;
use fe2o3_amqp::Receiver;
use peak_alloc::PeakAlloc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tracing::subscriber::DefaultGuard;

use super::raw::List;
use super::support::{Client, Reading, receive, text};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process, so one test runs at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// After that, a write that does not move counts as refused. Long, because a busy machine is slow too.
const STUCK: Duration = Duration::from_secs(4);

/// Bytes in use, from which the next peak is counted.
pub(crate) fn allocated() -> usize {
    ALLOCATOR.reset_peak_usage();
    ALLOCATOR.current_usage()
}

/// The most that was in use since `allocated`, above what it said.
pub(crate) fn peak_above(before: usize) -> usize {
    ALLOCATOR.peak_usage().saturating_sub(before)
}

/// A header, an open, and a begin on channel 0. They are answered by two frames.
pub(crate) fn open() -> Vec<u8> {
    let mut bytes = b"AMQP\x00\x01\x00\x00".to_vec();
    let mut open = List::new(0x10);
    open.string("attacker").null().uint(65_536);
    open.frame(&mut bytes);
    let mut begin = List::new(0x11);
    begin.null().uint(0).uint(u32::MAX).uint(u32::MAX);
    begin.frame(&mut bytes);
    bytes
}

pub(crate) struct Ports {
    pub(crate) amqp: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) wss: SocketAddr,
}

pub(crate) struct World {
    emulator: Emulator,
    neighbour: Receiver,
    _client: Client,
    log: Log,
    _subscriber: DefaultGuard,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let turn = TURN.lock().await;
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        let subscriber = tracing::subscriber::set_default(subscriber);
        let emulator = Emulator::builder()
            .with_hub("hub", 4)
            .with_tls_port(0)
            .with_ws_port(0)
            .with_wss_port(0)
            .with_control_port(0)
            .start()
            .await
            .unwrap();
        let mut client = Client::connect(&emulator).await;
        let neighbour = client.receiver("3", Reading::default()).await;
        Self {
            emulator,
            neighbour,
            _client: client,
            log,
            _subscriber: subscriber,
            _turn: turn,
        }
    }

    pub(crate) fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports {
            amqp: self.emulator.amqp_addr(),
            tls: self.emulator.tls_addr().unwrap(),
            ws: self.emulator.ws_addr().unwrap(),
            wss: self.emulator.wss_addr().unwrap(),
        }
    }

    pub(crate) async fn attacker(&self) -> Attacker {
        let stream = TcpStream::connect(self.emulator.amqp_addr()).await.unwrap();
        Attacker {
            stream,
            buf: Vec::new(),
            skip_header: true,
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Whoever was connected before gets events as before.
    pub(crate) async fn neighbour_is_fine(&mut self) {
        self.emulator.send("hub", Some("3"), "still here").unwrap();
        let event = receive(&mut self.neighbour).await;
        assert_eq!(text(&event), "still here");
    }

    /// And so does who comes now.
    pub(crate) async fn others_are_fine(&mut self) {
        self.neighbour_is_fine().await;
        let mut client = Client::connect(&self.emulator).await;
        self.emulator.send("hub", Some("2"), "new").unwrap();
        let mut receiver = client.receiver("2", Reading::default()).await;
        assert_eq!(text(&receive(&mut receiver).await), "new");
        client.close().await;
        let panicked = self.log().contains("panicked");
        assert!(!panicked, "{}", self.log());
    }

    /// Waits until the emulator has noticed who has gone.
    pub(crate) async fn connections_are(&self, expected: u64) {
        let url = format!("http://{}/status", self.emulator.control_addr().unwrap());
        let noticed = async {
            loop {
                let status = reqwest::get(&url).await.unwrap().text().await.unwrap();
                let status: serde_json::Value = serde_json::from_str(&status).unwrap();
                if status["connections"] == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, noticed).await.unwrap();
    }
}

/// A connection that is up to no good.
pub(crate) struct Attacker {
    stream: TcpStream,
    buf: Vec<u8>,
    skip_header: bool,
}

impl Attacker {
    /// Sends bytes; false if nobody takes them any more.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match timeout(STUCK, self.stream.write(bytes)).await {
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        true
    }

    /// Reads so many frames, behind a header if there was none yet.
    pub(crate) async fn swallow(&mut self, frames: usize) {
        let reading = async {
            if std::mem::take(&mut self.skip_header) {
                let mut header = [0; 8];
                self.stream.read_exact(&mut header).await.unwrap();
            }
            let mut left = frames;
            while left > 0 {
                let mut taken = 0;
                while let Some(size) = self.buf[taken..].first_chunk::<4>() {
                    let size = u32::from_be_bytes(*size) as usize;
                    if self.buf.len() - taken < size {
                        break;
                    }
                    taken += size;
                    // A heartbeat answers nothing.
                    left = left.saturating_sub(usize::from(size > 8));
                }
                self.buf.drain(..taken);
                if left > 0 {
                    let read = self.stream.read_buf(&mut self.buf).await.unwrap();
                    assert!(read > 0, "{left} frames short");
                }
            }
        };
        timeout(PATIENCE, reading).await.unwrap();
    }

    /// Reads until there is nothing to read any more.
    pub(crate) async fn until_cut_off(mut self) {
        let mut buf = vec![0; 64 * 1024];
        let reading = async { while let Ok(1..) = self.stream.read(&mut buf).await {} };
        timeout(PATIENCE, reading).await.unwrap();
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
