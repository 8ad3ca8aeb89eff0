//! A TCP proxy that stops passing bytes at a chosen point.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What happens to a connection when its bytes are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Both sides see the end of the stream.
    Cut,
    /// Nothing passes any more, and nobody is told.
    Stall,
}

/// Passes bytes between clients and `upstream`, one listener on this machine.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A proxy whose first `limited` connections pass `bytes` bytes from the upstream, and the others all.
    pub(crate) async fn start(
        upstream: SocketAddr,
        limited: usize,
        bytes: usize,
        then: Then,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let limit = (number < limited).then_some(bytes);
                connections.spawn(async move {
                    let upstream = TcpStream::connect(upstream).await.unwrap();
                    let (client_read, client_write) = client.into_split();
                    let (upstream_read, upstream_write) = upstream.into_split();
                    tokio::select! {
                        () = pass(client_read, upstream_write, None, then) => {}
                        () = pass(upstream_read, client_write, limit, then) => {}
                    }
                });
            }
        });
        Self {
            addr,
            accepted,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    limit: Option<usize>,
    then: Then,
) {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut buf = [0; 4096];
    while left > 0 {
        let max = left.min(buf.len());
        let Ok(len @ 1..) = from.read(&mut buf[..max]).await else {
            return;
        };
        if to.write_all(&buf[..len]).await.is_err() {
            return;
        }
        left -= len;
    }
    if then == Then::Stall {
        std::future::pending::<()>().await;
    }
}
