//! An Azurite of a test's own, to be stopped and started again, and a proxy that writes down the checkpoints written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::setup::{START, poll};

/// An Azurite that keeps its records on disk and always listens on the same port.
#[derive(Debug)]
pub(crate) struct Azurite {
    program: PathBuf,
    location: PathBuf,
    pub(crate) addr: SocketAddr,
    child: Option<Child>,
}

impl Azurite {
    pub(crate) async fn start(program: &Path) -> Self {
        // Free a moment ago; nothing else on this machine asks for a port by number.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let name = format!("azurite-{}", Uuid::new_v4().simple());
        let mut azurite = Self {
            program: program.to_owned(),
            location: std::env::temp_dir().join(name),
            addr,
            child: None,
        };
        std::fs::create_dir_all(&azurite.location).unwrap();
        azurite.start_again().await;
        azurite
    }

    pub(crate) async fn start_again(&mut self) {
        let port = self.addr.port().to_string();
        let child = Command::new("node")
            .arg(&self.program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port])
            .args(["--silent", "--disableTelemetry", "--location"])
            .arg(&self.location)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let addr = self.addr;
        let connects = async || TcpStream::connect(addr).await.ok();
        assert!(
            poll(START, connects).await.is_some(),
            "Azurite did not start"
        );
    }

    /// Ends it as an operator does, with its records written to disk.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let id = child.id().unwrap().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(status.unwrap().success());
        let ended = tokio::time::timeout(START, child.wait()).await;
        assert!(ended.is_ok(), "Azurite did not end");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // The process ends with its handle; what it leaves behind is of no use.
        let _ = std::fs::remove_dir_all(&self.location);
    }
}

/// A request that writes a checkpoint, whatever became of it.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) at: Instant,
    pub(crate) partition: String,
    pub(crate) sequence_number: i64,
}

/// Passes requests on to an Azurite. While that is away, connections are closed as soon as they are made.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    writes: Arc<Mutex<Vec<Write>>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let writes = Arc::<Mutex<Vec<Write>>>::default();
        let all = Arc::clone(&writes);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(pass(client, upstream, Arc::clone(&all)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            addr,
            writes,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The requests to write a checkpoint that were passed on so far.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.writes.lock().unwrap().clone()
    }
}

async fn pass(client: TcpStream, upstream: SocketAddr, writes: Arc<Mutex<Vec<Write>>>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    // Whichever side ends first ends both.
    tokio::select! {
        () = requests(&mut from_client, to_server, &writes) => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Passes requests on one by one. Those of a checkpoint store have no body, and no other comes here.
async fn requests(
    client: &mut (impl AsyncRead + Unpin),
    mut server: OwnedWriteHalf,
    writes: &Mutex<Vec<Write>>,
) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = client.read(&mut buffer).await else {
            return;
        };
        pending.extend_from_slice(&buffer[..read]);
        while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = pending.drain(..end + 4).collect::<Vec<_>>();
            if let Some(write) = checkpoint_write(&String::from_utf8_lossy(&head)) {
                writes.lock().unwrap().push(write);
            }
            if server.write_all(&head).await.is_err() {
                return;
            }
        }
    }
}

fn checkpoint_write(head: &str) -> Option<Write> {
    let mut lines = head.lines();
    let target = lines.next()?.strip_prefix("PUT ")?.split(' ').next()?;
    let path = target.split('?').next()?.replace("%2F", "/");
    let (_, partition) = path.split_once("/checkpoint/")?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, number) =
        fields.find(|(name, _)| name.eq_ignore_ascii_case("x-ms-meta-sequencenumber"))?;
    Some(Write {
        at: Instant::now(),
        partition: partition.to_owned(),
        sequence_number: number.trim().parse().unwrap(),
    })
}

/// How long the storage of a test stays away.
pub(crate) const OUTAGE: Duration = Duration::from_secs(60);
