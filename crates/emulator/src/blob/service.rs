//! One request through the endpoint: read it, judge it, apply it, answer it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderMap, Method, Request, Response,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING},
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    BlobOptions,
    auth::{AccountKey, Gate, Grant},
    clock::WallClock,
    errors::{ErrorCode, StorageError},
    faults::{BlobFaults, BodyEnd, FaultPlan, FaultReply},
    request::{Operation, Target},
    response::Reply,
    spelling::Spelling,
    state::Store,
};

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is answered.
    Reply(Response<Body>),
    /// The connection is closed without an answer, as a fault ordered.
    Drop,
}

/// A request that was read and let through.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) target: Target,
    pub(super) grant: Grant,
    pub(super) content: Bytes,
}

/// The endpoint without its sockets.
#[derive(Clone, Debug)]
pub(crate) struct BlobService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: BlobOptions,
    /// The key that the options began with, or another since.
    key: Mutex<Option<AccountKey>>,
    store: Mutex<Store>,
    /// What listings show while a fault keeps them stale.
    stale: Mutex<Option<Store>>,
    faults: BlobFaults,
    counts: Mutex<BTreeMap<Operation, u64>>,
}

impl BlobService {
    /// An empty account.
    pub(crate) fn new(mut options: BlobOptions) -> Self {
        let empty = || Store::new(options.limits, options.deviations);
        let store = options.store.take().unwrap_or_else(empty);
        let key = Mutex::new(options.key.take());
        Self(Arc::new(Inner {
            key,
            store: Mutex::new(store),
            stale: Mutex::new(None),
            faults: BlobFaults::default(),
            counts: Mutex::new(BTreeMap::new()),
            options,
        }))
    }

    /// The faults of this endpoint.
    pub(crate) fn faults(&self) -> &BlobFaults {
        &self.0.faults
    }

    /// How the endpoint was set up.
    pub(crate) fn options(&self) -> &BlobOptions {
        &self.0.options
    }

    pub(super) fn set_key(&self, key: AccountKey) {
        *self.key() = Some(key);
    }

    fn key(&self) -> MutexGuard<'_, Option<AccountKey>> {
        self.0.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stored state.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while it is held would be a bug of ours; other tests' state is not made worse.
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What listings show while a fault keeps them stale; lock it after the store.
    pub(super) fn stale(&self) -> MutexGuard<'_, Option<Store>> {
        self.0.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests that were let through so far, by operation; those that faults then refused
    /// or dropped are among them.
    pub(super) fn counts(&self) -> MutexGuard<'_, BTreeMap<Operation, u64>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> &WallClock {
        &self.0.options.clock
    }

    /// Answers one request.
    pub(crate) async fn handle(&self, request: Request<Body>, spelling: &Spelling) -> Outcome {
        let (parts, body) = request.into_parts();
        let request_id = uuid::Uuid::new_v4().to_string();
        let refuse = |error: StorageError| {
            tracing::debug!(method = %parts.method, path = parts.uri.path(), %error, "refused");
            Reply::error(&error, &request_id, self.clock().now())
        };
        let (reply, plan) = match self.admit(&parts, body).await {
            Err(error) => (refuse(error), FaultPlan::default()),
            Ok(admitted) => {
                let target = &admitted.target;
                *self.counts().entry(target.operation).or_default() += 1;
                let plan = self.0.faults.plan(target);
                let reply = match self.before_apply(&plan).await {
                    Before::Apply => {
                        self.keep_stale();
                        if plan.apply_twice {
                            let again = admitted.clone();
                            let first = self.apply(&parts, again, spelling);
                            tracing::debug!(ok = first.is_ok(), "applied for the first time");
                        }
                        let applied = self.apply(&parts, admitted, spelling);
                        applied.unwrap_or_else(refuse)
                    }
                    Before::Drop => return Outcome::Drop,
                    Before::Refuse(fault) => {
                        let error = StorageError::from(ErrorCode::InternalError);
                        fault.disguise(Reply::error(&error, &request_id, self.clock().now()))
                    }
                };
                (reply, plan)
            }
        };
        let now = self.shown_now();
        after_apply(reply, plan, &self.0.faults, |reply| {
            let is_head = parts.method == Method::HEAD;
            reply.finish(&parts.headers, is_head, &request_id, now)
        })
    }

    /// Reads and judges a request.
    async fn admit(&self, parts: &Parts, body: Body) -> Result<Admitted, StorageError> {
        let options = self.options();
        check_version(&parts.headers)?;
        let target = Target::parse(&parts.method, &parts.uri, &options.account)?;
        let mut grant = Grant::Full;
        let key = self.key().clone();
        if let Some(key) = &key {
            let gate = Gate {
                account: &options.account,
                key,
                issuer: options.issuer.as_ref(),
                now: options.check_dates.then(|| self.clock().now()),
            };
            grant = gate.check(parts, &target)?;
        }
        let content = self.read_body(parts, body).await?;
        Ok(Admitted {
            target,
            grant,
            content,
        })
    }

    /// The time that `Date` shows.
    fn shown_now(&self) -> SystemTime {
        let now = self.clock().now();
        let (skew, into_the_past) = self.0.faults.date_skew();
        let shown = if into_the_past {
            now.checked_sub(skew)
        } else {
            now.checked_add(skew)
        };
        shown.unwrap_or(now)
    }

    /// The place for faults that come before the effect.
    async fn before_apply<'p>(&self, plan: &'p FaultPlan) -> Before<'p> {
        if plan.delay > Duration::ZERO {
            tokio::time::sleep(plan.delay).await;
        }
        self.0.faults.thawed().await;
        if plan.drop_request {
            return Before::Drop;
        }
        plan.refusal.as_ref().map_or(Before::Apply, Before::Refuse)
    }

    /// Takes the picture that listings show while they are stale. Nothing has changed between the
    /// order for the fault and the first request after it, so this is the state at the order.
    fn keep_stale(&self) {
        let store = self.store();
        let mut frozen = self.stale();
        if !self.0.faults.has_stale_listings() {
            *frozen = None;
        } else if frozen.is_none() {
            *frozen = Some(store.clone());
        }
    }

    async fn read_body(&self, parts: &Parts, body: Body) -> Result<Bytes, StorageError> {
        let options = self.options();
        let length = parts.headers.get(CONTENT_LENGTH);
        if length.is_none()
            && parts.method == Method::PUT
            && !parts.headers.contains_key(TRANSFER_ENCODING)
        {
            return Err(ErrorCode::MissingContentLengthHeader.into());
        }
        let length: Option<usize> = length.and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length| length > options.max_body_bytes) {
            return Err(ErrorCode::RequestBodyTooLarge.into());
        }
        let read = to_bytes(body, options.max_body_bytes);
        let read = async {
            match options.body_timeout {
                Some(limit) => tokio::time::timeout(limit, read).await,
                None => Ok(read.await),
            }
        };
        match read.await {
            Ok(Ok(content)) => Ok(content),
            // A chunked body has no length to refuse beforehand; a cut connection also ends here,
            // but then nobody reads the answer.
            Ok(Err(_)) => Err(ErrorCode::RequestBodyTooLarge.into()),
            Err(_) => Err(ErrorCode::OperationTimedOut.into()),
        }
    }
}

/// What faults leave of a request before its effect.
#[derive(Debug)]
enum Before<'p> {
    Apply,
    Drop,
    Refuse(&'p FaultReply),
}

/// The place for faults that come after the effect.
fn after_apply(
    mut reply: Reply,
    plan: FaultPlan,
    faults: &BlobFaults,
    finish: impl FnOnce(Reply) -> Response<Body>,
) -> Outcome {
    if plan.drop_reply {
        return Outcome::Drop;
    }
    if let Some(how) = plan.last_modified {
        how.show_in(&mut reply);
    }
    if let Some(body) = plan.body {
        reply.body = body;
    }
    let half = reply.body.slice(..reply.body.len() / 2);
    let mut response = finish(reply);
    for (name, value) in plan.headers {
        match value {
            Some(value) => drop(response.headers_mut().insert(name, value)),
            None => drop(response.headers_mut().remove(name)),
        }
    }
    let half = stream::iter([Ok(half)]);
    Outcome::Reply(match plan.body_end {
        BodyEnd::Whole => response,
        BodyEnd::Hangs => {
            let cleared = faults.cleared();
            let hang = stream::once(async move {
                cleared.await;
                Err(io::Error::other("cut at the end of a fault"))
            });
            response.map(|_| Body::from_stream(half.chain(hang)))
        }
        BodyEnd::Truncated => {
            let cut = stream::iter([Err(io::Error::other("cut by a fault"))]);
            response.map(|_| Body::from_stream(half.chain(cut)))
        }
    })
}

fn check_version(headers: &HeaderMap) -> Result<(), StorageError> {
    let Some(version) = headers.get("x-ms-version") else {
        return Ok(());
    };
    let text = version.to_str().unwrap_or_default();
    let is_date = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    if is_date {
        return Ok(());
    }
    let code = ErrorCode::InvalidHeaderValue;
    Err(StorageError::header(code, "x-ms-version", text))
}
