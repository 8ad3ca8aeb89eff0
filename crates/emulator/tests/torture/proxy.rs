//! A proxy that remembers how clients began.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Of each connection.
const MOST_BYTES: usize = 32 * 1024;
/// The newest replace the oldest.
const MOST_CAPTURES: usize = 64;

/// What clients have sent, one entry per connection.
pub(crate) type Captures = Arc<Mutex<Vec<Vec<u8>>>>;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    captures: Captures,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let captures = Captures::default();
        let sink = Arc::clone(&captures);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, to, Arc::clone(&sink)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            captures,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn captures(&self) -> Captures {
        Arc::clone(&self.captures)
    }
}

async fn relay(client: TcpStream, to: SocketAddr, captures: Captures) {
    let Ok(server) = TcpStream::connect(to).await else {
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut capture = Vec::new();
    let up = async {
        let mut buf = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buf).await {
            let room = MOST_BYTES.saturating_sub(capture.len()).min(count);
            capture.extend_from_slice(&buf[..room]);
            if to_server.write_all(&buf[..count]).await.is_err() {
                break;
            }
        }
        to_server.shutdown().await.ok();
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await.ok();
    };
    // Either side's end ends both, as a reset does.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    if !capture.is_empty() {
        let mut captures = captures.lock().unwrap();
        if captures.len() >= MOST_CAPTURES {
            captures.remove(0);
        }
        captures.push(capture);
    }
}
