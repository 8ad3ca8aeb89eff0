//! The listener of the control port: HTTP/1.1 with every limit set.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Control, refusal, response};

/// Orders are a few hundred bytes; a replaced body of a blob may be some more.
const MAX_BODY: usize = 256 * 1024;
/// The request line and all headers. The smallest size the HTTP library takes.
const MAX_HEAD: usize = 8 * 1024;
/// Connections at the same time; others wait.
const MAX_CONNECTIONS: usize = 32;
/// From accept, or from the last answer, to the end of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// From there to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept error, which usually means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running control port. Dropping it ends every connection at once.
#[derive(Debug)]
pub(crate) struct ControlServer {
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl ControlServer {
    pub(crate) fn start(listener: TcpListener, control: Control) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(accept_loop(listener, control, shutdown.clone()));
        Self {
            shutdown,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Ends every connection, and returns when none holds on to the emulator's data any more.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the control port ended badly");
        }
    }
}

async fn accept_loop(listener: TcpListener, control: Control, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, control.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the control port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, control: Control) {
    let handler = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let control = control.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(Body::new(body), MAX_BODY);
            let answer = match tokio::time::timeout(BODY_TIMEOUT, body).await {
                Ok(Ok(body)) => control.answer(&head.method, head.uri.path(), &head.headers, &body),
                Ok(Err(_)) => refusal(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is too large or has broken off",
                ),
                Err(_) => refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come"),
            };
            Ok::<_, Infallible>(response(answer))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection ended early");
    }
}
