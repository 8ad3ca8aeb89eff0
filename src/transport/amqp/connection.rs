//! One AMQP connection: dialling, opening, handing out sessions, closing.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection as Fe2o3Connection, Session};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::error::{TransportError, TransportErrorKind};

use super::cbs::{Cbs, Identity};
use super::deadline::Deadline;
use super::dial::{self, Path};
use super::endpoint::Endpoint;
use super::errors::Scope;
use super::events::Links;
use super::failure::{self, Failure};
use super::guard::FrameGuard;
use super::rpc::RpcLink;
use super::stream::Guarded;
use super::{AmqpOptions, TARGET};

/// Highest channel number we ask for: a session per receiver and two more, so hubs of 1024 partitions fit several
/// times. .NET allows 8192 channels as well. The peer may allow fewer; then a second connection takes the rest.
const CHANNEL_MAX: u16 = 8191;

/// Sessions asked for while one is being begun. More callers wait.
const BEGIN_QUEUE: usize = 64;

/// PROTOCOL: smallest session window, in transfers; the library announces it anew when half of it is used.
const MIN_WINDOW: u32 = 5000;

/// The life of a connection as its tokens tell it.
#[derive(Clone, Debug, Default)]
pub(super) struct Vitals {
    /// Asks the tasks of the connection to end.
    stop: CancellationToken,
    /// Tears the stream down.
    kill: CancellationToken,
    /// The stream is gone.
    dead: CancellationToken,
    /// No new work: the next operation makes another connection.
    retired: CancellationToken,
    /// All channels are taken. What is on it lives on; new work goes to another connection.
    full: CancellationToken,
}

impl Vitals {
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether the stream is gone: told by cancellation.
    pub(super) fn dead(&self) -> &CancellationToken {
        &self.dead
    }

    /// Lets the next operation make another connection.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Keeps new work away and lets what is there live: as if no channel were left.
    pub(super) fn shun(&self) {
        self.full.cancel();
    }

    /// Keeps new work away if that is what the failure means.
    pub(super) fn note(&self, failure: &Failure) {
        match failure.scope {
            Scope::Connection => self.retire(),
            Scope::NoChannel => self.full.cancel(),
            Scope::Link => {}
        }
    }
}

/// A request for a session, to the task that owns the connection.
struct Begin {
    window: u32,
    deadline: Deadline,
    reply: oneshot::Sender<Result<SessionHandle<()>, Failure>>,
}

/// Where sessions come from. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    begin: mpsc::Sender<Begin>,
}

impl Sessions {
    /// Begins a session that takes `prefetch` transfers at once.
    pub(super) async fn begin(
        &self,
        prefetch: u32,
        deadline: &Deadline,
    ) -> Result<SessionHandle<()>, Failure> {
        let lost = || Failure {
            error: TransportError::new(TransportErrorKind::ConnectionLost, "beginning a session"),
            scope: Scope::Connection,
        };
        let (reply, begun) = oneshot::channel();
        let request = Begin {
            window: prefetch.saturating_mul(2).max(MIN_WINDOW),
            deadline: deadline.clone(),
            reply,
        };
        let exchange = async {
            self.begin.send(request).await.map_err(|_| lost())?;
            begun.await.map_err(|_| lost())?
        };
        deadline
            .wait("beginning a session", exchange)
            .await
            .map_err(Failure::of_link)?
    }
}

/// An open connection with its `$cbs` and `$management` links.
pub(super) struct Connection {
    pub(super) vitals: Vitals,
    pub(super) sessions: Sessions,
    /// The links whose transfers go past the library.
    pub(super) links: Links,
    pub(super) cbs: Cbs,
    pub(super) management: tokio::sync::Mutex<Option<RpcLink>>,
    driver: Mutex<Option<AbortOnDropHandle<()>>>,
    close_timeout: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("usable", &self.is_usable())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Dials, negotiates and opens.
    pub(super) async fn open(
        endpoint: &Endpoint,
        options: &AmqpOptions,
        path: &Path<'_>,
        identity: &Identity,
        deadline: &Deadline,
    ) -> Result<Self, TransportError> {
        let doing = format!("connecting to {path}");
        let deadline = deadline.or_earlier(Instant::now() + options.connect_timeout);
        let dialling = Box::pin(dial::connect(path, &doing));
        let stream = deadline.wait(&doing, dialling).await??;
        let vitals = Vitals::default();
        let links = Links::default();
        let guarded = Guarded::new(
            stream,
            FrameGuard::new(
                options.frame_limit(),
                options.message_limit(),
                millis(options.idle_timeout / 2),
                links.clone(),
            ),
            options.idle_timeout,
            vitals.kill.clone(),
            vitals.dead.clone(),
        );
        let container_id = options
            .container_id
            .clone()
            .unwrap_or_else(|| Uuid::new_v4().to_string());
        let open = Fe2o3Connection::builder()
            .container_id(container_id)
            .hostname(Some(endpoint.host.as_str()))
            .sasl_hostname(Some(endpoint.host.as_str()))
            // PROTOCOL: the identity is proven on `$cbs`, not here.
            .sasl_profile(SaslProfile::Anonymous)
            .max_frame_size(options.frame_limit())
            .channel_max(CHANNEL_MAX)
            .idle_time_out(millis(options.idle_timeout))
            .properties(product())
            .open_with_stream(guarded);
        let handle = deadline
            .wait(&doing, Box::pin(open))
            .await?
            .map_err(|error| failure::open(&doing, error, &path.way.host))?;
        tracing::debug!(target: TARGET, host = endpoint.host, "connected");

        let (begin, requests) = mpsc::channel(BEGIN_QUEUE);
        let sessions = Sessions { begin };
        let driver = tokio::spawn(drive(
            handle,
            requests,
            vitals.clone(),
            options.close_timeout,
        ));
        Ok(Self {
            cbs: Cbs::start(sessions.clone(), vitals.clone(), identity.clone()),
            vitals,
            sessions,
            links,
            management: tokio::sync::Mutex::new(None),
            driver: Mutex::new(Some(AbortOnDropHandle::new(driver))),
            close_timeout: options.close_timeout,
        })
    }

    /// Whether it has no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.vitals.full.is_cancelled()
    }

    /// Whether it is alive and not being given up.
    pub(super) fn is_usable(&self) -> bool {
        !self.vitals.dead.is_cancelled()
            && !self.vitals.retired.is_cancelled()
            && !self.vitals.stop.is_cancelled()
    }

    /// Closes it, at most within the close timeout and a second, and waits for its tasks.
    pub(super) async fn close(&self) {
        self.vitals.retire();
        self.vitals.stop.cancel();
        let driver = self
            .driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let join = async {
            self.cbs.join().await;
            if let Some(driver) = driver {
                let _ = driver.await;
            }
        };
        if timeout(self.close_timeout + Duration::from_secs(1), join)
            .await
            .is_err()
        {
            tracing::warn!(target: TARGET, "a connection did not close in time and was dropped");
        }
        self.vitals.kill.cancel();
    }
}

/// Owns the connection: begins sessions one after the other and closes it in the end.
///
/// CANCEL: a session that is given up half begun makes the library (0.18.4, connection/engine.rs) close the
/// whole connection when the peer's answer finds nobody. So sessions are begun here, where no caller can
/// cancel it, and one that nobody takes is ended.
async fn drive(
    mut connection: ConnectionHandle<()>,
    mut requests: mpsc::Receiver<Begin>,
    vitals: Vitals,
    close_timeout: Duration,
) {
    loop {
        let request = tokio::select! {
            // The end first: a session begun after it would not live.
            biased;
            () = vitals.stop.cancelled() => break,
            () = vitals.dead.cancelled() => break,
            request = requests.recv() => match request {
                Some(request) => request,
                None => break,
            },
        };
        if request.reply.is_closed() {
            continue;
        }
        let begin = Session::builder()
            .incoming_window(request.window)
            .begin(&mut connection);
        let begun = tokio::select! {
            biased;
            () = vitals.stop.cancelled() => break,
            begun = tokio::time::timeout_at(request.deadline.at(), begin) => begun,
        };
        match begun {
            Ok(begun) => {
                let begun = begun.map_err(|error| failure::begin("beginning a session", error));
                if let Err(failure) = &begun {
                    vitals.note(failure);
                }
                // Dropping a session ends it.
                drop(request.reply.send(begun));
            }
            Err(_) => {
                // The half-begun session has spoilt the connection; see above.
                vitals.retire();
                drop(request.reply.send(Err(Failure {
                    error: TransportError::new(TransportErrorKind::Timeout, "beginning a session"),
                    scope: Scope::Connection,
                })));
                break;
            }
        }
    }
    vitals.retire();
    match timeout(close_timeout, connection.close()).await {
        Ok(Ok(())) => tracing::debug!(target: TARGET, "connection closed"),
        // The library takes frames of its own sessions for an error once it has sent the close.
        Ok(Err(_)) if vitals.stop.is_cancelled() => {
            tracing::debug!(target: TARGET, "connection closed");
        }
        Ok(Err(error)) => tracing::info!(target: TARGET, %error, "connection lost"),
        Err(_) => tracing::info!(target: TARGET, "the peer did not answer the close"),
    }
    vitals.kill.cancel();
}

fn millis(duration: Duration) -> u32 {
    duration.as_millis().try_into().unwrap_or(u32::MAX)
}

/// Who we are, for the logs of the service.
fn product() -> Fields {
    let version = env!("CARGO_PKG_VERSION");
    let agent = format!("eventhubs-processor/{version} ({})", std::env::consts::OS);
    [
        ("product", "eventhubs-processor"),
        ("version", version),
        ("framework", "Rust"),
        ("platform", std::env::consts::OS),
        ("user-agent", agent.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (Symbol::from(key), Value::String(value.to_owned())))
    .collect()
}
