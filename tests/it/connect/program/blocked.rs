//! Nobody answers at all, as behind a firewall that drops packets: each attempt ends with the try timeout.
//!
//! A listener whose queue is full blocks a port without any rights: Linux drops what would begin another connection.
//! Attempts on it are counted by the kernel's list of connections.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Credential, KEY, World, troubles};

const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// By then a program on a busy machine has started, and told of it.
const LATE: Duration = Duration::from_secs(12);

/// A port at which packets are dropped.
struct Blocked {
    port: u16,
    /// Whoever tried, by address and port.
    attempts: Arc<Mutex<BTreeSet<String>>>,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
    _watch: AbortOnDropHandle<()>,
}

impl Blocked {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        // What fits into the queue the kernel takes at once.
        let patience = Duration::from_millis(500);
        while let Ok(taken) = timeout(patience, TcpStream::connect(address)).await {
            queue.push(taken.unwrap());
            assert!(queue.len() < 16, "the queue does not fill");
        }
        let attempts = Arc::default();
        let watch = watch(address.port(), Arc::clone(&attempts));
        Self {
            port: address.port(),
            attempts,
            _listener: listener,
            _queue: queue,
            _watch: AbortOnDropHandle::new(tokio::spawn(watch)),
        }
    }

    /// How many attempts there were since the last time.
    fn attempts(&self) -> usize {
        std::mem::take(&mut *self.attempts.lock().unwrap()).len()
    }
}

async fn watch(port: u16, seen: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let now = under_way(port);
        seen.lock().unwrap().extend(now);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Who waits for an answer from a port of this machine (proc(5), `tcp_states.h`).
fn under_way(port: u16) -> Vec<String> {
    const SYN_SENT: &str = "02";
    let remote = format!("0100007F:{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let attempt = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[2] == remote && fields[3] == SYN_SENT).then(|| fields[1].to_owned())
    };
    table.lines().skip(1).filter_map(attempt).collect()
}

/// Each of these ended with the try timeout, and was told in a line that says where to, and through what.
fn check(told: &[(Duration, String)], to: &str) {
    let mut before = Duration::ZERO;
    for (at, trouble) in told {
        assert!(trouble.contains("did not answer in time"), "{trouble}");
        assert!(
            trouble.contains(&format!("connecting to {to}")),
            "{trouble}"
        );
        let took = *at - before;
        assert!(took >= TRY_TIMEOUT && took < LATE, "{told:?}");
        before = *at;
    }
}

#[tokio::test]
async fn a_blocked_port_is_told_within_the_try_timeout_and_tried_again_without_haste() {
    let world = World::new(1, true).await;
    let blocked = Blocked::start().await;
    let proxy = format!(
        "http://canary-user:canary-password@127.0.0.1:{}",
        blocked.port
    );
    for transport in ["tcp", "websockets"] {
        for (way, port, to) in [
            ("none", blocked.port, format!("localhost:{}", blocked.port)),
            (
                &proxy,
                5671,
                format!(
                    "localhost:5671 through the proxy 127.0.0.1:{}",
                    blocked.port
                ),
            ),
        ] {
            let mut command = world.consume(0, port, &Credential::Key(KEY));
            command
                .env("TRANSPORT_TYPE", transport)
                .env("TRY_TIMEOUT_MS", TRY_TIMEOUT.as_millis().to_string())
                .env("PROXY", way);
            blocked.attempts();
            let told = troubles(command, 2).await;
            check(&told, &to);
            // One for each, and none but the next, which it may have begun.
            let attempts = blocked.attempts();
            assert!((2..=3).contains(&attempts), "{attempts}");
        }
    }
}

/// Connections are made, by the system, and then nobody says a word.
#[tokio::test]
async fn whoever_never_says_a_word_is_waited_for_as_long_and_no_longer() {
    let world = World::new(1, true).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let proxy = format!("http://canary-user:canary-password@127.0.0.1:{port}");
    for transport in ["tcp", "websockets"] {
        for (way, to) in [
            ("none", format!("localhost:{port}")),
            (
                &proxy,
                format!("localhost:{port} through the proxy 127.0.0.1:{port}"),
            ),
        ] {
            let mut command = world.consume(0, port, &Credential::Key(KEY));
            command
                .env("TRANSPORT_TYPE", transport)
                .env("TRY_TIMEOUT_MS", TRY_TIMEOUT.as_millis().to_string())
                .env("PROXY", way);
            let told = troubles(command, 2).await;
            check(&told, &to);
            let mut attempts = 0;
            while timeout(Duration::from_millis(100), silent.accept())
                .await
                .is_ok()
            {
                attempts += 1;
            }
            assert!((2..=3).contains(&attempts), "{attempts}");
        }
    }
}
