//! From nothing to a stream of AMQP bytes: TCP, a proxy, TLS, a WebSocket, as far as each is asked for.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpStream;

use crate::error::{TransportError, TransportErrorKind as Kind};
use crate::network::tunnel::{self, TunnelError};
use crate::network::{HttpProxy, Scheme, authority, certificate_problem, over_tls};

use super::TransportType;
use super::endpoint::Way;
use super::stream::ByteStream;
use super::websocket::{self, UpgradeError};

/// Where to, through what, and whom to trust on the way. `Display` is for errors.
#[derive(Debug)]
pub(super) struct Path<'a> {
    pub(super) way: &'a Way,
    pub(super) proxy: Option<&'a HttpProxy>,
    /// There is one if anybody on the way is spoken to over TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.way.host, self.way.port))?;
        match self.proxy {
            Some(proxy) => write!(f, " through the proxy {proxy}"),
            None => Ok(()),
        }
    }
}

/// Connects. The deadline is the caller's, and so is what stands before the reason in the error.
///
/// PROTOCOL: TLS starts at once, without AMQP's own TLS header; no SDK sends one.
pub(super) async fn connect(
    path: &Path<'_>,
    doing: &str,
) -> Result<Box<dyn ByteStream>, TransportError> {
    let way = path.way;
    let mut stream = match path.proxy {
        None => tcp(&way.host, way.port)
            .await
            .map_err(|error| lost(doing, error, &way.host))?,
        Some(proxy) => through(proxy, path, doing).await?,
    };
    if way.tls {
        stream = tls(stream, path, &way.host, doing).await?;
    }
    match way.transport_type {
        TransportType::AmqpTcp => Ok(stream),
        TransportType::AmqpWebSockets => {
            let socket = websocket::upgrade(stream, way).await;
            let doing = format!("{doing}: no WebSocket");
            let socket = socket.map_err(|error| {
                let kind = match error {
                    UpgradeError::Io(error) => return lost(&doing, error, &way.host),
                    UpgradeError::Refused { status: 401 | 403 } => Kind::Unauthorized,
                    UpgradeError::Refused { status: 404 } => Kind::NotFound,
                    _ => Kind::ConnectionLost,
                };
                TransportError::new(kind, format!("{doing}: {error}"))
            })?;
            Ok(Box::new(socket))
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<Box<dyn ByteStream>> {
    let tcp = TcpStream::connect((host, port)).await?;
    // With Nagle's algorithm a flow frame waits for the peer's delayed ACK, up to 40 ms, while the link has no
    // credit: 30 thousand events per second instead of 590 thousand.
    tcp.set_nodelay(true)?;
    Ok(Box::new(tcp))
}

async fn through(
    proxy: &HttpProxy,
    path: &Path<'_>,
    doing: &str,
) -> Result<Box<dyn ByteStream>, TransportError> {
    if proxy.scheme() == Scheme::Unsupported {
        let context = format!("{doing}: it is no HTTP proxy, and no other kind is supported");
        return Err(TransportError::new(Kind::Proxy, context));
    }
    let mut stream = tcp(proxy.host(), proxy.port()).await.map_err(|error| {
        lost(
            &format!("{doing}: the proxy is not reached"),
            error,
            proxy.host(),
        )
    })?;
    if proxy.uses_tls() {
        stream = tls(stream, path, proxy.host(), doing).await?;
    }
    let Way { host, port, .. } = path.way;
    match tunnel::open(&mut stream, proxy, host, *port).await {
        Ok(()) => Ok(stream),
        Err(TunnelError::Io(error)) => {
            let doing = format!("{doing}: the proxy does not answer as an HTTP proxy does");
            Err(lost(&doing, error, proxy.host()))
        }
        Err(error) => {
            let kind = match error {
                TunnelError::Unreachable { .. } => Kind::ConnectionLost,
                _ => Kind::Proxy,
            };
            Err(TransportError::new(kind, format!("{doing}: {error}")))
        }
    }
}

async fn tls(
    stream: Box<dyn ByteStream>,
    path: &Path<'_>,
    host: &str,
    doing: &str,
) -> Result<Box<dyn ByteStream>, TransportError> {
    let shaken = async {
        let config = path.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
        over_tls(config, host, stream).await
    };
    match Box::pin(shaken).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(lost(&format!("{doing}: TLS"), error, host)),
    }
}

/// A stream that has failed, maybe over the certificate of `host` or over ours, which a server may refuse late.
fn lost(doing: &str, error: io::Error, host: &str) -> TransportError {
    let (kind, context) = match certificate_problem(&error, host) {
        Some(problem) => (Kind::Certificate, format!("{doing}: {problem}")),
        None => (Kind::ConnectionLost, doing.to_owned()),
    };
    TransportError::new(kind, context).with_source(error)
}
