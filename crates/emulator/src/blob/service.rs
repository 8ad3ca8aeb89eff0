//! One request through the endpoint: read it, judge it, apply it, answer it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderMap, Method, Request, Response, StatusCode,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING},
        request::Parts,
    },
};
use bytes::Bytes;

use super::{
    BlobOptions,
    auth::Gate,
    clock::WallClock,
    errors::{ErrorCode, StorageError},
    faults::{BlobFaults, FaultPlan},
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

/// The endpoint without its sockets.
#[derive(Clone, Debug)]
pub(crate) struct BlobService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: BlobOptions,
    store: Mutex<Store>,
    /// What listings show while a fault keeps them stale.
    stale: Mutex<Option<Store>>,
    faults: BlobFaults,
    counts: Mutex<BTreeMap<Operation, u64>>,
}

impl BlobService {
    /// An empty account.
    pub(crate) fn new(options: BlobOptions) -> Self {
        let store = Store::new(options.limits, options.deviations);
        Self(Arc::new(Inner {
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
        let reply = match self.answer(&parts, body, spelling, &request_id).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Outcome::Drop,
            Err(error) => {
                tracing::debug!(method = %parts.method, path = parts.uri.path(), %error, "refused");
                let reply = Reply::error(&error, &request_id, self.clock().now());
                (reply, FaultPlan::default())
            }
        };
        let (reply, plan) = reply;
        let (skew, into_the_past) = self.0.faults.date_skew();
        let now = self.clock().now();
        let shown = if into_the_past {
            now.checked_sub(skew)
        } else {
            now.checked_add(skew)
        };
        let is_head = parts.method == Method::HEAD;
        let now = shown.unwrap_or(now);
        let response = reply.finish(&parts.headers, is_head, &request_id, now);
        Outcome::Reply(if plan.hang_body {
            hang_body(response)
        } else {
            response
        })
    }

    async fn answer(
        &self,
        parts: &Parts,
        body: Body,
        spelling: &Spelling,
        request_id: &str,
    ) -> Result<Option<(Reply, FaultPlan)>, StorageError> {
        let options = self.options();
        check_version(&parts.headers)?;
        let target = Target::parse(&parts.method, &parts.uri, &options.account)?;
        if let Some(key) = &options.key {
            let gate = Gate {
                account: &options.account,
                key,
                now: options.check_dates.then(|| self.clock().now()),
            };
            gate.check(parts, &target)?;
        }
        let content = self.read_body(parts, body).await?;
        *self.counts().entry(target.operation).or_default() += 1;
        let plan = self.0.faults.plan(&target);
        if let Some(stop) = self.before_apply(&plan, request_id).await {
            return Ok(stop.map(|reply| (reply, plan)));
        }
        self.keep_stale(plan.stale_listing);
        let reply = self.apply(parts, &target, content, spelling)?;
        Ok(after_apply(reply, plan))
    }

    /// The place for faults that come before the effect: `Some` ends the request.
    async fn before_apply(&self, plan: &FaultPlan, request_id: &str) -> Option<Option<Reply>> {
        if plan.delay > Duration::ZERO {
            tokio::time::sleep(plan.delay).await;
        }
        self.0.faults.thawed().await;
        if plan.drop_request {
            return Some(None);
        }
        let fault = plan.refusal.as_ref()?;
        let error = StorageError::from(ErrorCode::InternalError);
        let mut reply = Reply::error(&error, request_id, self.clock().now());
        reply.status = fault.status;
        reply.set("x-ms-error-code", &fault.code);
        if let Ok(text) = String::from_utf8(reply.body.to_vec()) {
            reply.body = text
                .replace(ErrorCode::InternalError.as_str(), &fault.code)
                .into();
        }
        if let Some(after) = fault.retry_after {
            reply.set("retry-after", &after.as_secs().to_string());
        }
        Some(Some(reply))
    }

    /// Takes the picture that listings show while they are stale. Nothing has changed between the
    /// order for the fault and the first request after it, so this is the state at the order.
    fn keep_stale(&self, wanted: bool) {
        let store = self.store();
        let mut frozen = self.stale();
        if !wanted {
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
        match tokio::time::timeout(options.body_timeout, read).await {
            Ok(Ok(content)) => Ok(content),
            // A chunked body has no length to refuse beforehand; a cut connection also ends here,
            // but then nobody reads the answer.
            Ok(Err(_)) => Err(ErrorCode::RequestBodyTooLarge.into()),
            Err(_) => Err(ErrorCode::OperationTimedOut.into()),
        }
    }
}

/// The place for faults that come after the effect: `None` closes the connection.
fn after_apply(reply: Reply, plan: FaultPlan) -> Option<(Reply, FaultPlan)> {
    (!plan.drop_reply).then_some((reply, plan))
}

/// Sends the head, with the length of the body, and then nothing, with the connection open.
fn hang_body(response: Response<Body>) -> Response<Body> {
    response
        .map(|_| Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>()))
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
