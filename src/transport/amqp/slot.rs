//! The connection in use, and the next one when it is lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::runtime;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{TransportError, TransportErrorKind};
use crate::network::{HttpProxy, client_config};
use crate::telemetry::chain;

use super::cbs::Identity;
use super::connection::Connection;
use super::deadline::Deadline;
use super::dial::Path;
use super::endpoint::Endpoint;
use super::errors::Scope;
use super::failure::Failure;
use super::{AmqpOptions, TARGET};

/// Holds the connection in use, one for each runtime. The first operation that finds it lost replaces it; those that come
/// meanwhile wait and share the outcome, good or bad. Pauses between attempts are the caller's.
pub(super) struct Slot {
    endpoint: Endpoint,
    options: AmqpOptions,
    identity: Identity,
    proxy: Option<HttpProxy>,
    closed: CancellationToken,
    state: Mutex<State>,
    /// Connections that are being closed.
    retired: StdMutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    /// Counts the attempts to connect.
    generation: u64,
    /// One for each runtime that asks. A connection lives on the runtime that it was made on, and a runtime may be
    /// blocked, or gone, while another goes on.
    current: HashMap<runtime::Id, Arc<Connection>>,
    /// Connections without a free channel. Each lives as long as a receiver on it.
    full: Vec<Weak<Connection>>,
    last_failure: Option<Missed>,
    tls: Option<Arc<ClientConfig>>,
}

/// An attempt to connect that failed.
struct Missed {
    at: Instant,
    kind: TransportErrorKind,
    context: String,
}

/// Connections that one operation tries because the ones before had no free channel. Every one of them takes
/// hundreds of sessions, so more are needed only if that many others are opened at the same moment.
const MAX_FULL: u32 = 8;

/// How often an operation has tried already.
#[derive(Debug, Default)]
pub(super) struct Tries {
    lost: u32,
    full: u32,
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

    /// Whether the operation may succeed on another connection: this one was old and turned out to be lost, or
    /// it is full. Notes what it learns about this one.
    pub(super) fn is_worth_another(&self, failure: &Failure, tries: &mut Tries) -> bool {
        self.connection.vitals.note(failure);
        match failure.scope {
            Scope::Link => false,
            Scope::Connection => {
                tries.lost += 1;
                self.reused && tries.lost == 1
            }
            Scope::NoChannel => {
                tries.full += 1;
                tries.full < MAX_FULL
            }
        }
    }
}

impl Slot {
    pub(super) fn new(
        endpoint: Endpoint,
        options: AmqpOptions,
        identity: Identity,
        closed: CancellationToken,
    ) -> Self {
        let way = &endpoint.way;
        Self {
            proxy: options.proxy.toward(&way.host, way.port, way.tls),
            endpoint,
            options,
            identity,
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
        let here = runtime::Handle::current().id();
        if let Some(current) = state.current.get(&here)
            && current.is_usable()
            && !current.is_full()
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
        if let Some(former) = state.current.remove(&here) {
            if former.is_usable() {
                state.full.retain(|full| full.strong_count() > 0);
                state.full.push(Arc::downgrade(&former));
            } else {
                self.retire(former);
            }
        }
        state.current.retain(|_, other| other.is_usable());
        state.generation += 1;
        let generation = state.generation;
        // CANCEL: a caller that gives up here leaves nothing behind, and the next one starts over.
        match Box::pin(self.open(&mut state, deadline)).await {
            Ok(connection) => {
                tracing::debug!(target: TARGET, generation, "new connection in use");
                let connection = Arc::new(connection);
                state.current.insert(here, Arc::clone(&connection));
                Ok(Lease {
                    connection,
                    reused: false,
                })
            }
            Err(error) => {
                state.last_failure = Some(Missed {
                    at: Instant::now(),
                    kind: error.kind(),
                    context: chain(&error).to_string(),
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
        let uses_tls =
            self.endpoint.way.tls || self.proxy.as_ref().is_some_and(HttpProxy::uses_tls);
        let tls = match &state.tls {
            _ if !uses_tls => None,
            Some(tls) => Some(Arc::clone(tls)),
            None => Some(Arc::clone(state.tls.insert(self.load_tls(deadline).await?))),
        };
        let path = Path {
            way: &self.endpoint.way,
            proxy: self.proxy.as_ref(),
            tls,
        };
        Connection::open(
            &self.endpoint,
            &self.options,
            &path,
            &self.identity,
            deadline,
        )
        .await
    }

    /// Reading the platform's trusted certificates touches files.
    async fn load_tls(&self, deadline: &Deadline) -> Result<Arc<ClientConfig>, TransportError> {
        let options = self.options.tls.clone();
        let loading = tokio::task::spawn_blocking(move || client_config(&options));
        let doing = "loading the trusted certificates";
        let failed = |kind, error: crate::error::BoxError| {
            TransportError::new(kind, format!("{doing}: {error}")).with_source(error)
        };
        deadline
            .wait(doing, loading)
            .await?
            .map_err(|error| failed(TransportErrorKind::ConnectionLost, error.into()))?
            .map(Arc::new)
            .map_err(|error| failed(TransportErrorKind::Certificate, error.into()))
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
        let state = std::mem::take(&mut *self.state.lock().await);
        let full = state.full.iter().filter_map(Weak::upgrade);
        for connection in state.current.into_values().chain(full) {
            self.retire(connection);
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
