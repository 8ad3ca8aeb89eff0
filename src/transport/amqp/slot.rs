//! The connection in use, and the next one when it is lost.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::credential::EventHubsCredential;
use crate::error::{TransportError, TransportErrorKind};

use super::connection::Connection;
use super::deadline::Deadline;
use super::endpoint::Endpoint;
use super::errors::Scope;
use super::failure::Failure;
use super::{AmqpOptions, TARGET, stream};

/// Holds one connection at a time. The first operation that finds it lost replaces it; those that come
/// meanwhile wait and share the outcome, good or bad. Pauses between attempts are the caller's.
pub(super) struct Slot {
    endpoint: Endpoint,
    options: AmqpOptions,
    credential: EventHubsCredential,
    closed: CancellationToken,
    state: Mutex<State>,
    /// Connections that are being closed.
    retired: StdMutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    /// Counts the attempts to connect.
    generation: u64,
    current: Option<Arc<Connection>>,
    last_failure: Option<Missed>,
    tls: Option<Arc<ClientConfig>>,
}

/// An attempt to connect that failed.
struct Missed {
    at: Instant,
    kind: TransportErrorKind,
    context: String,
}

/// A connection for one operation.
pub(super) struct Lease {
    connection: Arc<Connection>,
    /// Whether it was there before the operation.
    reused: bool,
}

impl Lease {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether the operation may succeed on another connection: this one was old and turned out to be lost.
    /// Notes the loss.
    pub(super) fn is_worth_another(&self, failure: &Failure) -> bool {
        self.connection.vitals.note(failure);
        self.reused && failure.scope == Scope::Connection
    }
}

impl Slot {
    pub(super) fn new(
        endpoint: Endpoint,
        options: AmqpOptions,
        credential: EventHubsCredential,
        closed: CancellationToken,
    ) -> Self {
        Self {
            endpoint,
            options,
            credential,
            closed,
            state: Mutex::default(),
            retired: StdMutex::default(),
        }
    }

    /// The connection in use, or a new one.
    pub(super) async fn lease(&self, deadline: &Deadline) -> Result<Lease, TransportError> {
        let asked_at = Instant::now();
        let mut state = deadline
            .wait("waiting for the connection", self.state.lock())
            .await?;
        if let Some(current) = &state.current
            && current.is_usable()
        {
            return Ok(Lease {
                connection: Arc::clone(current),
                reused: true,
            });
        }
        if let Some(missed) = &state.last_failure
            && missed.at >= asked_at
        {
            return Err(TransportError::new(missed.kind, missed.context.as_str()));
        }
        if let Some(lost) = state.current.take() {
            self.retire(lost);
        }
        state.generation += 1;
        let generation = state.generation;
        // CANCEL: a caller that gives up here leaves nothing behind, and the next one starts over.
        match Box::pin(self.open(&mut state, deadline)).await {
            Ok(connection) => {
                tracing::debug!(target: TARGET, generation, "new connection in use");
                let connection = Arc::new(connection);
                state.current = Some(Arc::clone(&connection));
                Ok(Lease {
                    connection,
                    reused: false,
                })
            }
            Err(error) => {
                state.last_failure = Some(Missed {
                    at: Instant::now(),
                    kind: error.kind(),
                    context: error.to_string(),
                });
                Err(error)
            }
        }
    }

    async fn open(
        &self,
        state: &mut State,
        deadline: &Deadline,
    ) -> Result<Connection, TransportError> {
        let tls = if self.endpoint.tls {
            Some(match &state.tls {
                Some(tls) => Arc::clone(tls),
                None => Arc::clone(state.tls.insert(load_tls(deadline).await?)),
            })
        } else {
            None
        };
        Connection::open(
            &self.endpoint,
            &self.options,
            tls,
            &self.credential,
            deadline,
        )
        .await
    }

    /// Closes a connection aside.
    fn retire(&self, connection: Arc<Connection>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        while retired.try_join_next().is_some() {}
        retired.spawn(async move { connection.close().await });
    }

    /// Closes everything. The client's `closed` token must have been cancelled, so that whoever is connecting
    /// lets go.
    pub(super) async fn close(&self) {
        debug_assert!(self.closed.is_cancelled());
        let current = self.state.lock().await.current.take();
        if let Some(current) = current {
            self.retire(current);
        }
        let mut retired =
            std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        let join = async { while retired.join_next().await.is_some() {} };
        // Each connection keeps to its own close timeout; this is for the case that it does not.
        let limit = self.options.close_timeout + Duration::from_secs(2);
        if timeout(limit, join).await.is_err() {
            tracing::warn!(target: TARGET, "connections were dropped unclosed");
        }
    }
}

/// Reading the platform's trusted certificates touches files.
async fn load_tls(deadline: &Deadline) -> Result<Arc<ClientConfig>, TransportError> {
    let loading = tokio::task::spawn_blocking(stream::tls_config);
    let doing = "loading the trusted certificates";
    let failed = |error: crate::error::BoxError| {
        TransportError::new(TransportErrorKind::ConnectionLost, doing).with_source(error)
    };
    deadline
        .wait(doing, loading)
        .await?
        .map_err(|error| failed(error.into()))?
        .map_err(|error| failed(error.into()))
}
