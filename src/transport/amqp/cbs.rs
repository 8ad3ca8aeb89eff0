//! Claims-based security: telling the service who we are, ahead of every expiry and once for each entity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fe2o3_amqp_types::primitives::{SimpleValue, Timestamp, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, JoinMap};

use crate::credential::renewal::{FLOOR, MINT_TIMEOUT};
use crate::credential::{CredentialKind, EventHubsCredential, Secret, Versioned};
use crate::error::{TransportError, TransportErrorKind};

use super::TARGET;
use super::connection::{Sessions, Vitals};
use super::deadline::Deadline;
use super::errors::Scope;
use super::failure::Failure;
use super::filter::unix_millis;
use super::grants::Grants;
use super::rpc::{Refusal, Request, RpcLink};
use super::token::{Token, mint};
use super::trouble::Trouble;

/// Requests waiting while a token is put. More callers wait.
const QUEUE: usize = 64;

/// Who we are, and where it is told that the service may soon not believe it any more.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) credential: EventHubsCredential,
    pub(super) trouble: Trouble,
}

type Reply = oneshot::Sender<Result<Secret, Failure>>;

struct Authorize {
    audience: String,
    /// Whether the service has refused what was granted before.
    again: bool,
    waiter: Waiter,
}

/// Somebody who cannot go on without a token.
struct Waiter {
    deadline: Deadline,
    reply: Reply,
}

/// The `$cbs` links of a connection, owned by one task.
#[derive(Debug)]
pub(super) struct Cbs {
    grants: Arc<Grants>,
    credential: EventHubsCredential,
    requests: mpsc::Sender<Authorize>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Cbs {
    pub(super) fn start(sessions: Sessions, vitals: Vitals, identity: Identity) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let grants = Arc::<Grants>::default();
        identity.trouble.watch(&grants);
        let credential = identity.credential.clone();
        let task = Task {
            sessions,
            vitals,
            identity,
            link: None,
            grants: Arc::clone(&grants),
            minting: JoinMap::new(),
            waiting: BTreeMap::new(),
        };
        Self {
            grants,
            credential,
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
        let version = self.credential.0.version();
        // Past the task: whoever has a grant does not wait for somebody else's token.
        if !again && let Some(text) = self.grants.valid(&audience, version, Instant::now()) {
            return Ok(text);
        }
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter {
            deadline: deadline.clone(),
            reply,
        };
        let request = Authorize {
            audience,
            again,
            waiter,
        };
        let exchange = async {
            let sent = self.requests.send(request).await;
            sent.map_err(|_| lost())?;
            answer.await.map_err(|_| lost())?
        };
        deadline
            .wait("authorizing", exchange)
            .await
            .map_err(Failure::of_link)?
    }

    /// Forgets a grant that the service does not honour.
    pub(super) fn forget(&self, audience: &str) {
        self.grants.forget(audience);
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

fn lost() -> Failure {
    Failure {
        error: TransportError::new(TransportErrorKind::ConnectionLost, "authorizing"),
        scope: Scope::Connection,
    }
}

struct Task {
    sessions: Sessions,
    vitals: Vitals,
    identity: Identity,
    link: Option<RpcLink>,
    grants: Arc<Grants>,
    /// Tokens that the credential has been asked for, by audience: one at a time for each.
    minting: JoinMap<String, Result<Token, TransportError>>,
    /// Who waits for them. A renewal has nobody waiting.
    waiting: BTreeMap<String, Vec<Waiter>>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Authorize>) {
        let (stop, dead) = (self.vitals.stop().clone(), self.vitals.dead().clone());
        let mut key = match &self.identity.credential.0 {
            CredentialKind::SharedAccessKey(key) => Some(key.watch()),
            CredentialKind::SharedAccessSignature(_)
            | CredentialKind::RenewableSignature(_)
            | CredentialKind::Token(_) => None,
        };
        loop {
            let due = self.grants.next_due();
            tokio::select! {
                // The end first, then a new key, so that nobody is answered by what was known of the old one, then
                // those who wait, then what may wait.
                biased;
                () = stop.cancelled() => return,
                () = dead.cancelled() => return,
                () = replaced(&mut key) => {
                    tracing::info!(target: TARGET, "the key was replaced; tokens are renewed");
                    self.grants.rotate(Instant::now(), &mut rand::rng());
                }
                request = requests.recv() => match request {
                    Some(request) => self.asked(request),
                    None => return,
                },
                Some((audience, minted)) = self.minting.join_next() => {
                    self.minted(audience, minted).await;
                }
                () = sleep_until(due) => {
                    for audience in self.grants.take_due(Instant::now()) {
                        self.mint(audience);
                    }
                }
            }
        }
    }

    fn asked(&mut self, request: Authorize) {
        let Authorize {
            audience,
            again,
            waiter,
        } = request;
        if waiter.reply.is_closed() {
            return;
        }
        let (now, version) = (Instant::now(), self.identity.credential.0.version());
        let known = match self.grants.valid(&audience, version, now) {
            Some(text) if !again => Some(Ok(text)),
            _ => self.grants.refused(&audience, now).map(Err),
        };
        match known {
            Some(answer) => {
                // Nobody waiting any more is no loss.
                let _ = waiter.reply.send(answer);
            }
            None => {
                let waiting = self.waiting.entry(audience.clone()).or_default();
                waiting.push(waiter);
                self.mint(audience);
            }
        }
    }

    /// Asks the credential, beside everything else: it may be slow.
    fn mint(&mut self, audience: String) {
        if self.minting.contains_key(&audience) {
            return;
        }
        let credential = self.identity.credential.clone();
        self.minting.spawn(audience.clone(), async move {
            mint(&credential, &audience).await
        });
    }

    /// Takes a token to the service, and the outcome to those who wait for it.
    async fn minted(
        &mut self,
        audience: String,
        minted: Result<Result<Token, TransportError>, JoinError>,
    ) {
        let waiting = self.waiting.remove(&audience).unwrap_or_default();
        let is_renewal = waiting.is_empty();
        let minted = minted.unwrap_or_else(|_| {
            let kind = TransportErrorKind::CredentialUnavailable;
            Err(TransportError::new(kind, "the credential panicked"))
        });
        let deadline = self.put_deadline(&audience, &waiting);
        let put = match minted {
            Ok(token) => self.put(token, &audience, &deadline).await,
            Err(error) => Err(Failure::of_link(error)),
        };
        match &put {
            Ok(_) => tracing::debug!(target: TARGET, audience, is_renewal, "token accepted"),
            Err(failure) => {
                let now = Instant::now();
                self.grants.fail(&audience, failure, now, &mut rand::rng());
                if is_renewal && failure.error.kind() != TransportErrorKind::Closed {
                    let left = self.grants.left(&audience, now);
                    let error = &failure.error;
                    tracing::warn!(target: TARGET, audience, %error, ?left, "token not renewed");
                    self.identity.trouble.note(error.repeated());
                }
            }
        }
        for waiter in waiting {
            let answer = match &put {
                Ok(text) => Ok(text.clone()),
                Err(failure) => Err(failure.repeated()),
            };
            let _ = waiter.reply.send(answer);
        }
    }

    /// As long as somebody waits for it; a renewal must be done, or have failed, before the grant ends.
    fn put_deadline(&self, audience: &str, waiting: &[Waiter]) -> Deadline {
        let now = Instant::now();
        let last = waiting.iter().map(|waiter| waiter.deadline.at()).max();
        let at = last.unwrap_or_else(|| {
            let left = self.grants.left(audience, now);
            now + left.clamp(FLOOR, MINT_TIMEOUT)
        });
        Deadline::new(at, self.vitals.stop())
    }

    /// Puts a token; on a link that turns out to be stale once more on a new one.
    async fn put(
        &mut self,
        token: Token,
        audience: &str,
        deadline: &Deadline,
    ) -> Result<Secret, Failure> {
        loop {
            let (mut link, reused) = match self.link.take() {
                Some(link) => (link, true),
                None => {
                    let attached = RpcLink::attach("$cbs", &self.sessions, deadline).await;
                    // PROTOCOL: a connection has one pair of `$cbs` links; where one is left behind half
                    // open, only another connection helps.
                    let attached = attached.map_err(|failure| Failure {
                        scope: Scope::Connection,
                        ..failure
                    });
                    (
                        attached.inspect_err(|failure| self.vitals.note(failure))?,
                        false,
                    )
                }
            };
            match link
                .call("authorizing", request(&token, audience), deadline)
                .await
            {
                Ok(_) => {
                    self.link = Some(link);
                    let text = token.text.clone();
                    let now = Instant::now();
                    self.grants.accept(audience, token, now, &mut rand::rng());
                    return Ok(text);
                }
                Err(Refusal::Status(error)) => {
                    self.link = Some(link);
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

/// Completes when the key is replaced by another one.
async fn replaced(key: &mut Option<watch::Receiver<Versioned>>) {
    // The sender lives in the credential, which the task holds.
    if let Some(key) = key
        && key.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
