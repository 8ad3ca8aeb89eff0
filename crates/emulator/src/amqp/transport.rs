//! What lies between a TCP connection and AMQP.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::limits::OPEN_DEADLINE;
use super::service::Service;
use super::websocket::{self, ByteStream};

/// What clients of a port speak.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    Tls(TlsAcceptor),
    WebSocket,
    TlsWebSocket(TlsAcceptor),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
            Self::WebSocket => "WebSocket",
            Self::TlsWebSocket(_) => "TlsWebSocket",
        })
    }
}

/// A stream that ends in a TCP socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl<S: Socket> Socket for TlsStream<S> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }
}

impl<S: Socket> Socket for ByteStream<S> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().tcp()
    }
}

/// Greets a TLS client; None if that went wrong.
pub(crate) async fn tls(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    service: &Service,
) -> Option<TlsStream<TcpStream>> {
    in_time(acceptor.accept(stream), service).await
}

/// Greets a WebSocket client; None if that went wrong.
pub(crate) async fn web_socket<S: Socket>(stream: S, service: &Service) -> Option<ByteStream<S>> {
    in_time(websocket::accept(stream), service).await
}

async fn in_time<T, E>(
    greeting: impl Future<Output = Result<T, E>> + Send,
    service: &Service,
) -> Option<T>
where
    E: fmt::Display,
{
    // A fault may want the socket to be silent. An error means that the service has ended.
    let mut pace = service.pace.subscribe();
    pace.wait_for(|pace| !pace.is_frozen).await.ok()?;
    // Where a test drives the clock, time would jump to the end of the limit.
    let limit = match service.broker.clock().is_driven() {
        true => Duration::MAX,
        false => OPEN_DEADLINE,
    };
    match timeout(limit, greeting).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::warn!("refused a client before AMQP: {error}");
            None
        }
        Err(_) => {
            tracing::warn!("a client took more than {limit:?} before AMQP");
            None
        }
    }
}
