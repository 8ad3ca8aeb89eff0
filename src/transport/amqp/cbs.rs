//! Claims-based security: telling the service who we are, once per hour and entity.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fe2o3_amqp_types::primitives::{SimpleValue, Timestamp, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::credential::{CredentialKind, EventHubsCredential, Secret};
use crate::error::{TransportError, TransportErrorKind};

use super::TARGET;
use super::connection::{Sessions, Vitals};
use super::deadline::Deadline;
use super::failure::Failure;
use super::filter::unix_millis;
use super::rpc::{Refusal, Request, RpcLink};

/// PROTOCOL: what tokens of Entra ID must be issued for; the doubled slash is no slip.
const SCOPE: &str = "https://eventhubs.azure.net//.default";

/// Least time between two tokens for one entity, so that a token source that hands out stale tokens, or none,
/// cannot make a busy loop of the renewal.
const FLOOR: Duration = Duration::from_secs(5);

/// Longest time for one renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests waiting while a token is put. More callers wait.
const QUEUE: usize = 64;

/// A token as it goes to the service.
struct Token {
    text: Secret,
    kind: &'static str,
    expires_at: SystemTime,
    renewable: bool,
}

/// Asks the credential for a token about `audience`.
async fn mint(credential: &EventHubsCredential, audience: &str) -> Result<Token, TransportError> {
    const SAS: &str = "servicebus.windows.net:sastoken";
    let now = SystemTime::now();
    let token = match &credential.0 {
        CredentialKind::SharedAccessKey(key) => {
            let signature = key.sign(audience, now);
            Token {
                text: signature.text,
                kind: SAS,
                expires_at: signature.expires_at,
                renewable: true,
            }
        }
        CredentialKind::SharedAccessSignature(signature) => Token {
            text: signature.text.clone(),
            kind: SAS,
            expires_at: signature.expires_at,
            renewable: false,
        },
        CredentialKind::Token(source) => {
            let token = source.token(SCOPE).await.map_err(|error| {
                TransportError::new(
                    TransportErrorKind::Unauthorized,
                    "the token credential gave no token",
                )
                .with_source(error)
            })?;
            Token {
                text: token.token,
                kind: "jwt",
                expires_at: token.expires_at,
                renewable: true,
            }
        }
    };
    if token.expires_at <= now {
        return Err(TransportError::new(
            TransportErrorKind::Unauthorized,
            "the token or signature has expired",
        ));
    }
    Ok(token)
}

/// What the service has accepted about one entity.
struct Grant {
    text: Secret,
    expires_at: Instant,
    /// When to renew, or to forget what cannot be renewed.
    due_at: Instant,
    renewable: bool,
}

impl Grant {
    fn new(token: Token, now: Instant) -> Self {
        let life = token
            .expires_at
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let due = if token.renewable {
            // Early enough that a few renewals may fail before anything expires.
            life.mul_f64(0.8).max(FLOOR)
        } else {
            life
        };
        Self {
            text: token.text,
            expires_at: now + life,
            due_at: now + due,
            renewable: token.renewable,
        }
    }
}

enum Command {
    Authorize(Authorize),
    Forget { audience: String },
}

struct Authorize {
    audience: String,
    /// Whether the service has refused what was granted before.
    again: bool,
    deadline: Deadline,
    reply: oneshot::Sender<Result<Secret, Failure>>,
}

/// The `$cbs` links of a connection, owned by one task.
#[derive(Debug)]
pub(super) struct Cbs {
    requests: mpsc::Sender<Command>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Cbs {
    pub(super) fn start(
        sessions: Sessions,
        vitals: Vitals,
        credential: EventHubsCredential,
    ) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = Task {
            sessions,
            vitals,
            credential,
            link: None,
            grants: BTreeMap::new(),
        };
        Self {
            requests,
            task: Mutex::new(Some(AbortOnDropHandle::new(tokio::spawn(task.run(queue))))),
        }
    }

    /// Makes sure that the service has a valid token about `audience`, and returns it. `again` forces a new
    /// one.
    pub(super) async fn authorize(
        &self,
        audience: String,
        again: bool,
        deadline: &Deadline,
    ) -> Result<Secret, Failure> {
        let lost = || {
            Failure::of_link(TransportError::new(
                TransportErrorKind::ConnectionLost,
                "authorizing",
            ))
        };
        let (reply, answer) = oneshot::channel();
        let request = Authorize {
            audience,
            again,
            deadline: deadline.clone(),
            reply,
        };
        let exchange = async {
            self.requests
                .send(Command::Authorize(request))
                .await
                .map_err(|_| lost())?;
            answer.await.map_err(|_| lost())?
        };
        deadline
            .wait("authorizing", exchange)
            .await
            .map_err(Failure::of_link)?
    }

    /// Forgets a grant that the service does not honour.
    pub(super) fn forget(&self, audience: &str) {
        // With a full queue somebody is authorizing anyway, and a refused attach renews the token.
        let _ = self.requests.try_send(Command::Forget {
            audience: audience.to_owned(),
        });
    }

    /// Waits for the task, which ends with the connection.
    pub(super) async fn join(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

struct Task {
    sessions: Sessions,
    vitals: Vitals,
    credential: EventHubsCredential,
    link: Option<RpcLink>,
    grants: BTreeMap<String, Grant>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Command>) {
        let stop = self.vitals.stop().clone();
        loop {
            let due = self.grants.values().map(|grant| grant.due_at).min();
            tokio::select! {
                // The end first, then those who wait, then what may wait.
                biased;
                () = stop.cancelled() => return,
                request = requests.recv() => match request {
                    Some(Command::Authorize(request)) => self.answer(request).await,
                    Some(Command::Forget { audience }) => {
                        self.grants.remove(&audience);
                    }
                    None => return,
                },
                () = sleep_until(due) => self.renew(&stop).await,
            }
        }
    }

    async fn answer(&mut self, request: Authorize) {
        if request.reply.is_closed() {
            return;
        }
        let now = Instant::now();
        let granted = self
            .grants
            .get(&request.audience)
            .filter(|grant| grant.expires_at > now && !request.again)
            .map(|grant| grant.text.clone());
        let answer = match granted {
            Some(text) => Ok(text),
            None => self.put(&request.audience, &request.deadline).await,
        };
        // Nobody waiting any more is no loss: the grant is kept.
        let _ = request.reply.send(answer);
    }

    /// Renews the grant that is due.
    async fn renew(&mut self, stop: &CancellationToken) {
        let now = Instant::now();
        let Some(audience) = self
            .grants
            .iter()
            .find(|(_, grant)| grant.due_at <= now)
            .map(|(audience, _)| audience.clone())
        else {
            return;
        };
        if self
            .grants
            .get(&audience)
            .is_some_and(|grant| grant.renewable)
        {
            let deadline = Deadline::new(now + RENEWAL_TIMEOUT, stop);
            match self.put(&audience, &deadline).await {
                Ok(_) => {
                    tracing::debug!(target: TARGET, audience, "token renewed");
                    return;
                }
                Err(failure) => {
                    tracing::warn!(target: TARGET, audience, error = %failure.error, "token not renewed");
                }
            }
        }
        let now = Instant::now();
        if let Some(grant) = self.grants.get_mut(&audience) {
            grant.due_at = now + FLOOR;
            if grant.expires_at <= now {
                // The next operation tries again and tells its caller what is wrong.
                self.grants.remove(&audience);
            }
        }
    }

    /// Puts a fresh token; on a link that turns out to be stale once more on a new one.
    async fn put(&mut self, audience: &str, deadline: &Deadline) -> Result<Secret, Failure> {
        let minted = deadline
            .wait("waiting for a token", mint(&self.credential, audience))
            .await
            .and_then(|minted| minted);
        let token = minted.map_err(Failure::of_link)?;
        loop {
            let (mut link, reused) = match self.link.take() {
                Some(link) => (link, true),
                None => {
                    let attached = RpcLink::attach("$cbs", &self.sessions, deadline).await;
                    // PROTOCOL: a connection has one pair of `$cbs` links; where one is left behind half
                    // open, only another connection helps.
                    (attached.inspect_err(|_| self.vitals.retire())?, false)
                }
            };
            match link
                .call("authorizing", request(&token, audience), deadline)
                .await
            {
                Ok(_) => {
                    self.link = Some(link);
                    let text = token.text.clone();
                    self.grants
                        .insert(audience.to_owned(), Grant::new(token, Instant::now()));
                    return Ok(text);
                }
                Err(Refusal::Status(error)) => {
                    self.link = Some(link);
                    self.grants.remove(audience);
                    return Err(Failure::of_link(error));
                }
                Err(Refusal::Broken(failure)) => {
                    self.vitals.note(&failure);
                    let late = failure.error.kind() == TransportErrorKind::Timeout;
                    if late {
                        self.vitals.retire();
                    }
                    if late || !reused {
                        return Err(failure);
                    }
                }
            }
        }
    }
}

fn request(token: &Token, audience: &str) -> Request {
    let expiration = Timestamp::from_milliseconds(unix_millis(token.expires_at));
    Request {
        properties: vec![
            ("operation", SimpleValue::from("put-token")),
            ("type", SimpleValue::from(token.kind)),
            ("name", SimpleValue::from(audience)),
            ("expiration", SimpleValue::Timestamp(expiration)),
        ],
        body: Value::String(token.text.expose().to_owned()),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
