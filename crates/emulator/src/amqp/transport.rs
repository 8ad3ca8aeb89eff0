//! What lies between a TCP connection and AMQP.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::fault_kinds::{ResetStage, TlsFault};
use super::fault_rules::Effect;
use super::limits::OPEN_DEADLINE;
use super::service::{Service, WebSocketOrders};
use super::tls::Identity;
use super::websocket::{self, ByteStream};

/// What clients of a port speak.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Plain,
    Tls(Arc<Identity>),
    WebSocket,
    TlsWebSocket(Arc<Identity>),
}

/// A stream that ends in a TCP socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;

    /// How faults of WebSockets reach it, if it is one.
    fn web_socket(&mut self) -> Option<WebSocketOrders> {
        None
    }
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

    fn web_socket(&mut self) -> Option<WebSocketOrders> {
        Some(self.orders())
    }
}

/// Greets a TLS client; None if that went wrong.
pub(crate) async fn tls(
    identity: &Identity,
    stream: TcpStream,
    service: &Service,
) -> Option<TlsStream<TcpStream>> {
    if is_reset(&stream, ResetStage::Tls, service).await {
        return None;
    }
    let fault = service.faults.take(None, None, |effect| match effect {
        Effect::DisturbTls(fault) => Some(*fault),
        _ => None,
    });
    let Some(fault) = fault else {
        return in_time(identity.acceptor.accept(stream), service).await;
    };
    match identity.flawed(fault) {
        Ok(Some(acceptor)) => in_time(acceptor.accept(stream), service).await,
        Ok(None) => in_time(answer_as_of_old(stream), service).await,
        Err(error) => {
            tracing::warn!(?fault, %error, "no certificate for a fault");
            None
        }
    }
}

/// Greets a WebSocket client; None if that went wrong.
pub(crate) async fn web_socket<S: Socket>(
    stream: S,
    service: &Arc<Service>,
) -> Option<ByteStream<S>> {
    if is_reset(stream.tcp(), ResetStage::Upgrade, service).await {
        return None;
    }
    in_time(websocket::accept(stream, service), service).await
}

/// Whether a fault wants the connection gone at this stage, as soon as the peer has said something.
async fn is_reset(stream: &TcpStream, stage: ResetStage, service: &Service) -> bool {
    if !service.faults.strikes(None, None, &Effect::ResetAt(stage)) {
        return false;
    }
    // An error ends the connection as well.
    let _ = timeout(OPEN_DEADLINE, stream.readable()).await;
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "no reset");
    }
    true
}

/// Answers as a server does that knows nothing newer than TLS 1.0. The library that serves TLS here
/// cannot, so this is the first record of one, after which a client has to give up (RFC 8446, 4.1.3
/// and appendix D).
async fn answer_as_of_old<T>(mut stream: TcpStream) -> io::Result<T> {
    const RECORD: [u8; 5] = [22, 3, 1, 0, 42];
    const HELLO: [u8; 6] = [2, 0, 0, 38, 3, 1];
    // No session id, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
    const CHOICE: [u8; 4] = [0, 0, 0x2f, 0];
    stream.read_u8().await?;
    let random = [0x2a; 32];
    let answer = [&RECORD[..], &HELLO, &random, &CHOICE].concat();
    stream.write_all(&answer).await?;
    // The client says what it thinks of it, and goes.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{:?} was answered", TlsFault::OldVersion),
    ))
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
