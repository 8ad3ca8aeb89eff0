//! The listener: one task per connection, all owned by the accept loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::driver::{self, Exit};
use super::errors::{AmqpError, condition};
use super::limits::{CLOSE_GRACE, MAX_CONNECTIONS};
use super::service::Service;
use super::signal::Signal;

/// Pause after an accept error, which usually means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running AMQP side. Dropping it aborts all connections.
#[derive(Debug)]
pub(crate) struct AmqpServer {
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl AmqpServer {
    pub(crate) fn start(listener: TcpListener, service: Arc<Service>) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(accept_loop(listener, service, shutdown.clone()));
        Self {
            shutdown,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Closes all connections as the service does when it goes down, and waits for them.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        // An error means that the loop panicked; then there is nothing left to stop.
        let _ = self.task.await;
    }
}

async fn accept_loop(listener: TcpListener, service: Arc<Service>, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((_, peer)) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::warn!(%peer, limit = MAX_CONNECTIONS, "too many connections");
                }
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer, Arc::clone(&service)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    service.broadcast(|| {
        Signal::Close(AmqpError::new(
            condition::CONNECTION_FORCED,
            "The connection was closed by the service because it is going down.",
        ))
    });
    let all_gone = async { while connections.join_next().await.is_some() {} };
    if timeout(CLOSE_GRACE + CLOSE_GRACE / 2, all_gone)
        .await
        .is_err()
    {
        tracing::warn!("connections left over at stop are aborted");
    }
}

async fn serve(stream: TcpStream, peer: std::net::SocketAddr, service: Arc<Service>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let (sender, receiver) = unbounded_channel();
    let entry = Entry {
        id: service.enter(sender.clone()),
        service: Arc::clone(&service),
    };
    tracing::debug!(connection = entry.id, %peer, "accepted");
    let connection = Connection::new(entry.id, Arc::clone(&service), sender, Instant::now());
    let frozen = service.frozen.subscribe();
    let (stream, exit) = driver::run(stream, connection, receiver, frozen).await;
    match exit {
        Exit::Cut | Exit::Stalled => {
            // A reset instead of an orderly end.
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "no reset");
            }
        }
        Exit::Closed | Exit::Eof | Exit::Io(_) => {}
    }
    tracing::debug!(connection = entry.id, "ended: {exit}");
}

/// A connection's place in the register, freed also if its task is aborted.
struct Entry {
    id: u64,
    service: Arc<Service>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.service.leave(self.id);
    }
}
