//! The listener: accepts connections, speaks HTTP/1.1 on each, and ends them all on stop.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    service::{BlobService, Outcome},
    spelling::Noted,
};

/// How long requests under way may take after a stop; tests wait for this.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long to leave an exhausted system alone before accepting again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A fault ordered the connection to close without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without a reply, as a fault ordered")]
struct Dropped;

/// The task that accepts, with the means to end it.
#[derive(Debug)]
pub(super) struct Listening {
    stop: CancellationToken,
    requests: Requests,
    task: JoinHandle<()>,
}

/// The requests under way. They are tasks of their own, not parts of their connections: the
/// service applies a request that has reached it also when the client hangs up meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    tracker: TaskTracker,
    abort: CancellationToken,
}

impl Requests {
    async fn run(&self, request: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
        let abort = self.abort.clone();
        let request = async move {
            tokio::select! {
                () = abort.cancelled() => Outcome::Drop,
                outcome = request => outcome,
            }
        };
        self.tracker.spawn(request).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a blob request panicked");
            Outcome::Drop
        })
    }
}

impl Listening {
    pub(super) fn start(listener: TcpListener, service: BlobService) -> Self {
        let stop = CancellationToken::new();
        let requests = Requests::default();
        let accept = accept(listener, service, requests.clone(), stop.clone());
        Self {
            stop,
            requests,
            task: tokio::spawn(accept),
        }
    }

    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::warn!(%error, "the blob endpoint did not end by itself");
        }
        self.requests.abort.cancel();
        self.requests.tracker.close();
        self.requests.tracker.wait().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // CANCEL: aborting the task drops its `JoinSet`, which aborts every connection.
        self.task.abort();
        self.requests.abort.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    service: BlobService,
    requests: Requests,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(service.options().max_connections));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // Forgets the connections that have ended, so that the set does not grow.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let connection = serve(stream, service.clone(), requests.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve(
    stream: TcpStream,
    service: BlobService,
    requests: Requests,
    stop: CancellationToken,
) {
    // A reply is one small write; waiting to fill a segment would cost a delayed ACK.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    serve_stream(stream, service, requests, stop).await;
}

/// Answers the requests of one connection until it ends.
pub(super) async fn serve_stream<S>(
    stream: S,
    service: BlobService,
    requests: Requests,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (stream, spelling) = Noted::new(stream);
    let options = service.options().clone();
    let handler = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let service = service.clone();
        let spelling = spelling.clone();
        let requests = requests.clone();
        async move {
            let request = request.map(Body::new);
            let outcome = async move { service.handle(request, &spelling).await };
            match requests.run(outcome).await {
                Outcome::Reply(response) => Ok(response),
                Outcome::Drop => Err(Dropped),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(options.max_header_bytes)
        .serve_connection(TokioIo::new(stream), handler);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a blob connection ended early");
    }
}
