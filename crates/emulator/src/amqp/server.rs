//! The listener: one task per connection, all owned by the accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{
    Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::driver::{self, Exit, Pace};
use super::errors::{AmqpError, condition};
use super::limits::{CLOSE_GRACE, MAX_CONNECTIONS};
use super::service::{Service, WebSocketOrders};
use super::signal::Signal;
use super::transport::{self, Socket, Transport};

/// Pause after an accept error, which usually means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an in-process connection buffers in each direction, about a socket's worth.
const IN_PROCESS_BUFFER: usize = 256 * 1024;

/// The running AMQP side. Dropping it aborts all connections.
#[derive(Debug)]
pub(crate) struct AmqpServer {
    shutdown: CancellationToken,
    connect: UnboundedSender<DuplexStream>,
    task: AbortOnDropHandle<()>,
}

impl AmqpServer {
    pub(crate) fn start(listeners: Vec<(TcpListener, Transport)>, service: Arc<Service>) -> Self {
        let shutdown = CancellationToken::new();
        let (connect, in_process) = unbounded_channel();
        let (clients, accepted) = channel(1);
        let mut listening = JoinSet::new();
        for (listener, transport) in listeners {
            let pace = service.pace.subscribe();
            listening.spawn(accept_on(listener, transport, clients.clone(), pace));
        }
        let task = tokio::spawn(accept_loop(
            listening,
            accepted,
            in_process,
            service,
            shutdown.clone(),
        ));
        Self {
            shutdown,
            connect,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Opens a connection that is no socket.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(IN_PROCESS_BUFFER);
        // An error means that the server has ended; the peer then reads the end of the stream.
        let _ = self.connect.send(theirs);
        ours
    }

    /// Closes all connections as the service does when it goes down, and waits for them.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        // An error means that the loop panicked; then there is nothing left to stop.
        let _ = self.task.await;
    }
}

/// A client of one of the ports.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    transport: Transport,
}

/// Hands the clients of one port to the loop that counts those of all. While a fault wants nobody
/// to listen, the port is closed, so that connections are refused by the system.
async fn accept_on(
    mut listener: TcpListener,
    transport: Transport,
    accepted: Sender<Accepted>,
    mut pace: watch::Receiver<Pace>,
) {
    loop {
        let is_down = pace.borrow_and_update().is_down;
        if is_down {
            match reopened(listener, &mut pace).await {
                Some(open) => listener = open,
                None => return,
            }
            continue;
        }
        let client = tokio::select! {
            changed = pace.changed() => match changed {
                Ok(()) => continue,
                // The service has ended.
                Err(_) => return,
            },
            client = listener.accept() => client,
        };
        match client {
            Ok((stream, peer)) => {
                let client = Accepted {
                    stream,
                    peer,
                    transport: transport.clone(),
                };
                if accepted.send(client).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Closes a port until it is wanted again; None if it never is.
async fn reopened(listener: TcpListener, pace: &mut watch::Receiver<Pace>) -> Option<TcpListener> {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => {
            tracing::warn!(%error, "a port that cannot be named stays open");
            pace.changed().await.ok()?;
            return Some(listener);
        }
    };
    drop(listener);
    pace.wait_for(|pace| !pace.is_down).await.ok()?;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) => {
                tracing::warn!(%address, %error, "the port is not free yet");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_loop(
    mut listening: JoinSet<()>,
    mut accepted: Receiver<Accepted>,
    mut in_process: UnboundedReceiver<DuplexStream>,
    service: Arc<Service>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(client) = accepted.recv() => {
                if connections.len() >= MAX_CONNECTIONS {
                    let peer = client.peer;
                    tracing::warn!(%peer, limit = MAX_CONNECTIONS, "too many connections");
                } else {
                    connections.spawn(serve_tcp(client, Arc::clone(&service)));
                }
            }
            Some(stream) = in_process.recv() => {
                // Dropping the stream is all a refusal can be here.
                if !service.pace.borrow().is_down {
                    let service = Arc::clone(&service);
                    connections.spawn(async move { drop(serve(stream, service, None).await) });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    listening.shutdown().await;
    drop(accepted);
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

async fn serve_tcp(client: Accepted, service: Arc<Service>) {
    let Accepted {
        stream,
        peer,
        transport,
    } = client;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    tracing::debug!(%peer, ?transport, "accepted");
    match transport {
        Transport::Plain => serve_socket(stream, service).await,
        Transport::Tls(identity) => {
            if let Some(stream) = Box::pin(transport::tls(&identity, stream, &service)).await {
                serve_socket(stream, service).await;
            }
        }
        Transport::WebSocket => {
            if let Some(stream) = Box::pin(transport::web_socket(stream, &service)).await {
                serve_socket(stream, service).await;
            }
        }
        Transport::TlsWebSocket(identity) => {
            if let Some(stream) = Box::pin(transport::tls(&identity, stream, &service)).await
                && let Some(stream) = Box::pin(transport::web_socket(stream, &service)).await
            {
                serve_socket(stream, service).await;
            }
        }
    }
}

async fn serve_socket<S: Socket>(mut stream: S, service: Arc<Service>) {
    let orders = stream.web_socket();
    let (stream, exit) = serve(stream, service, orders).await;
    // A reset instead of an orderly end.
    if matches!(exit, Exit::Cut | Exit::Stalled)
        && let Err(error) = stream.tcp().set_zero_linger()
    {
        tracing::debug!(%error, "no reset");
    }
}

async fn serve<IO>(io: IO, service: Arc<Service>, web_socket: Option<WebSocketOrders>) -> (IO, Exit)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (sender, receiver) = unbounded_channel();
    let entry = Entry {
        id: service.enter(sender.clone(), web_socket),
        service: Arc::clone(&service),
    };
    let connection = Connection::new(entry.id, Arc::clone(&service), sender, Instant::now());
    let pace = service.pace.subscribe();
    let (io, exit) = driver::run(io, connection, receiver, pace).await;
    tracing::debug!(connection = entry.id, "ended: {exit}");
    (io, exit)
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
