//! A way through an HTTP proxy.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::head::Head;
use super::proxy::{HttpProxy, authority};
use super::tls::over_tls;

/// Why a proxy let nothing through. The texts name the proxy and never its credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the proxy {proxy} wants credentials (HTTP {status})")]
    CredentialsWanted { proxy: String, status: u16 },
    #[error("the proxy {proxy} does not accept the credentials (HTTP {status})")]
    CredentialsRefused { proxy: String, status: u16 },
    #[error("the proxy {proxy} does not allow it (HTTP {status})")]
    Forbidden { proxy: String, status: u16 },
    #[error("the proxy {proxy} did not get through (HTTP {status})")]
    Unreachable { proxy: String, status: u16 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks a proxy for a way to a host. From then on the stream leads there.
///
/// PROTOCOL: RFC 9110, 9.3.6.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &HttpProxy,
    host: &str,
    port: u16,
) -> Result<(), TunnelError> {
    let target = authority(host, port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = proxy.authorization() {
        request += &format!("Proxy-Authorization: {}\r\n", authorization.expose());
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = Head::read(stream).await?;
    judge(head.status, proxy)
}

/// Asks a proxy, on a connection for nothing else, whether it lets anybody through to a host.
pub(crate) async fn ask(
    proxy: &HttpProxy,
    tls: &Arc<ClientConfig>,
    host: &str,
    port: u16,
) -> Result<(), TunnelError> {
    let mut stream = TcpStream::connect((proxy.host(), proxy.port())).await?;
    if !proxy.uses_tls() {
        return open(&mut stream, proxy, host, port).await;
    }
    let mut stream = over_tls(Arc::clone(tls), proxy.host(), stream).await?;
    open(&mut stream, proxy, host, port).await
}

/// What a status says that comes from the proxy itself.
pub(crate) fn judge(status: u16, proxy: &HttpProxy) -> Result<(), TunnelError> {
    let is_known = proxy.authorization().is_some();
    let proxy = proxy.to_string();
    Err(match status {
        200..300 => return Ok(()),
        // INTEROP: tinyproxy 1.11 says 407 to none and 401 to wrong ones.
        401 | 407 if is_known => TunnelError::CredentialsRefused { proxy, status },
        401 | 407 => TunnelError::CredentialsWanted { proxy, status },
        // What it could not reach or was too busy for, now.
        408 | 429 | 500.. => TunnelError::Unreachable { proxy, status },
        _ => TunnelError::Forbidden { proxy, status },
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn ask(proxy: &HttpProxy, answer: &str) -> (Result<(), TunnelError>, String) {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        let result = open(&mut ours, proxy, "ns.example", 5671).await;
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (result, request)
    }

    #[tokio::test]
    async fn the_proxy_is_asked_for_the_host_and_told_who_we_are() {
        let proxy = HttpProxy::new("http://user:pass@proxy:1").unwrap();
        let (result, request) = ask(&proxy, "HTTP/1.1 200 Connection established\r\n\r\n").await;
        result.unwrap();
        assert_eq!(
            request,
            "CONNECT ns.example:5671 HTTP/1.1\r\nHost: ns.example:5671\r\n\
             Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn refusals_name_the_proxy_and_not_its_credentials() {
        let open_proxy = HttpProxy::new("proxy:1").unwrap();
        let closed = HttpProxy::new("http://canary:canary@proxy:1").unwrap();
        for (proxy, answer, told) in [
            (&open_proxy, "HTTP/1.1 407 x\r\n\r\n", "wants credentials"),
            (&closed, "HTTP/1.1 407 x\r\n\r\n", "does not accept"),
            (&closed, "HTTP/1.1 401 x\r\n\r\n", "does not accept"),
            (&closed, "HTTP/1.1 403 canary\r\n\r\n", "HTTP 403"),
            (&closed, "HTTP/1.0 503 x\r\n\r\n", "HTTP 503"),
        ] {
            let error = ask(proxy, answer).await.0.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(told) && text.contains("proxy:1"), "{text}");
            assert!(!format!("{text} {error:?}").contains("canary"), "{error:?}");
        }
        let error = ask(&closed, "SSH-2.0-canary\r\n").await.0.unwrap_err();
        assert!(matches!(&error, TunnelError::Io(_)));
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
