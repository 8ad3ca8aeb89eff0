//! One request through the endpoint: read it, judge it, apply it, answer it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderMap, Method, Request, Response, StatusCode,
        header::{CONTENT_LENGTH, HOST, RANGE, TRANSFER_ENCODING},
        request::Parts,
    },
};
use bytes::Bytes;

use super::{
    BlobOptions,
    auth::Gate,
    clock::WallClock,
    conditions::Conditions,
    errors::{ErrorCode, StorageError},
    faults::{BlobFaults, FaultPlan},
    list::{self, ListQuery},
    metadata::Metadata,
    request::{Operation, Target},
    response::Reply,
    spelling::Spelling,
    state::{ContentHeaders, Store},
    xml,
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
}

impl BlobService {
    /// An empty account.
    pub(crate) fn new(options: BlobOptions) -> Self {
        let store = Store::new(options.limits, options.deviations);
        Self(Arc::new(Inner {
            store: Mutex::new(store),
            stale: Mutex::new(None),
            faults: BlobFaults::default(),
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
        let mut frozen = self.0.stale.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn apply(
        &self,
        parts: &Parts,
        target: &Target,
        content: Bytes,
        spelling: &Spelling,
    ) -> Result<Reply, StorageError> {
        let now = self.clock().now();
        let (container, blob) = (target.container(), target.blob());
        let conditions = Conditions::from_headers(&parts.headers)?;
        let metadata = || Metadata::from_headers(&parts.headers, |name| spelling.of(name));
        let reply = match target.operation {
            Operation::CreateContainer => {
                let version = self.store().create_container(container, metadata()?, now)?;
                Reply::written(StatusCode::CREATED, version)
            }
            Operation::DeleteContainer => {
                self.store().delete_container(container)?;
                Reply::new(StatusCode::ACCEPTED)
            }
            Operation::GetContainerProperties => {
                Reply::container(self.store().container(container)?)
            }
            Operation::ListContainers => self.list_containers(parts, target)?,
            Operation::ListBlobs => self.list_blobs(parts, target)?,
            Operation::PutBlob => {
                check_blob_type(&parts.headers)?;
                let headers = content_headers(&parts.headers);
                let upload = (content, headers, metadata()?);
                let version = self
                    .store()
                    .put_blob(container, blob, upload, &conditions, now)?;
                encrypted(Reply::written(StatusCode::CREATED, version))
            }
            Operation::SetBlobMetadata => {
                let metadata = metadata()?;
                let mut store = self.store();
                let version = store.set_metadata(container, blob, metadata, &conditions, now)?;
                encrypted(Reply::written(StatusCode::OK, version))
            }
            Operation::GetBlobMetadata => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let mut reply = Reply::written(StatusCode::OK, blob.version());
                reply.metadata(&blob.metadata);
                reply
            }
            Operation::GetBlobProperties => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let mut reply = Reply::blob(blob);
                reply
                    .headers
                    .insert(CONTENT_LENGTH, blob.content.len().into());
                reply
            }
            Operation::GetBlob => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let header = parts.headers.get("x-ms-range");
                let range = header.or_else(|| parts.headers.get(RANGE));
                let range = range.and_then(|value| value.to_str().ok());
                Reply::blob(blob).with_content(&blob.content, range)?
            }
            Operation::DeleteBlob => {
                self.store().delete_blob(container, blob, &conditions)?;
                let mut reply = Reply::new(StatusCode::ACCEPTED);
                reply.set("x-ms-delete-type-permanent", "true");
                reply
            }
        };
        Ok(reply)
    }

    fn list_containers(&self, parts: &Parts, target: &Target) -> Result<Reply, StorageError> {
        let mut query = list_query(target)?;
        query.delimiter.clear();
        let with_metadata = includes_metadata(target)?;
        let store = self.store();
        let page = list::page(store.containers(), &query)?;
        let endpoint = self.endpoint(parts);
        body(xml::containers(&endpoint, &query, &page, with_metadata))
    }

    fn list_blobs(&self, parts: &Parts, target: &Target) -> Result<Reply, StorageError> {
        let query = list_query(target)?;
        let with_metadata = includes_metadata(target)?;
        let store = self.store();
        let frozen = self.0.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = frozen.as_ref().unwrap_or(&store);
        let container = shown.container(target.container())?;
        let page = list::page(&container.blobs, &query)?;
        let place = (self.endpoint(parts), target.container());
        body(xml::blobs(
            (&place.0, place.1),
            &query,
            &page,
            with_metadata,
        ))
    }

    fn endpoint(&self, parts: &Parts) -> String {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        format!(
            "http://{}/{}/",
            host.unwrap_or_default(),
            self.options().account
        )
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

fn check_blob_type(headers: &HeaderMap) -> Result<(), StorageError> {
    const NAME: &str = "x-ms-blob-type";
    match headers
        .get(NAME)
        .map(|value| value.to_str().unwrap_or_default())
    {
        Some("BlockBlob") => Ok(()),
        Some("AppendBlob" | "PageBlob") => Err(ErrorCode::NotImplemented.into()),
        Some(other) => Err(StorageError::header(
            ErrorCode::InvalidHeaderValue,
            NAME,
            other,
        )),
        None => Err(StorageError::header(
            ErrorCode::MissingRequiredHeader,
            NAME,
            "",
        )),
    }
}

fn content_headers(headers: &HeaderMap) -> ContentHeaders {
    let text = |names: [&str; 2]| {
        let mut found = names.iter().filter_map(|name| headers.get(*name));
        Some(found.next()?.to_str().ok()?.to_owned())
    };
    ContentHeaders {
        // PROTOCOL: the default of the service.
        content_type: text(["x-ms-blob-content-type", "content-type"])
            .filter(|kind| !kind.is_empty())
            .or_else(|| Some("application/octet-stream".to_owned())),
        encoding: text(["x-ms-blob-content-encoding", "content-encoding"]),
        language: text(["x-ms-blob-content-language", "content-language"]),
        md5: text(["x-ms-blob-content-md5", "content-md5"]),
        cache_control: text(["x-ms-blob-cache-control", "cache-control"]),
        disposition: text(["x-ms-blob-content-disposition", "content-disposition"]),
    }
}

fn encrypted(mut reply: Reply) -> Reply {
    reply.set("x-ms-request-server-encrypted", "true");
    reply
}

fn list_query(target: &Target) -> Result<ListQuery, StorageError> {
    let text = |name: &str| target.query(name).unwrap_or_default().to_owned();
    let max_results = match target.query("maxresults") {
        None | Some("") => None,
        Some(given) => {
            let number: usize = given.parse().map_err(|_| {
                StorageError::query(ErrorCode::InvalidQueryParameterValue, "maxresults", given)
            })?;
            if number == 0 {
                let code = ErrorCode::OutOfRangeQueryParameterValue;
                return Err(StorageError::query(code, "maxresults", given));
            }
            Some(number)
        }
    };
    Ok(ListQuery {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        marker: text("marker"),
        max_results,
    })
}

fn includes_metadata(target: &Target) -> Result<bool, StorageError> {
    // PROTOCOL: these exist; the others have nothing to show here.
    const KNOWN: [&str; 12] = [
        "copy",
        "deleted",
        "deletedwithversions",
        "immutabilitypolicy",
        "legalhold",
        "metadata",
        "permissions",
        "snapshots",
        "system",
        "tags",
        "uncommittedblobs",
        "versions",
    ];
    let include = target.query("include").unwrap_or_default();
    let mut found = false;
    for word in include.split(',').filter(|word| !word.is_empty()) {
        if !KNOWN.contains(&word) {
            let code = ErrorCode::InvalidQueryParameterValue;
            return Err(StorageError::query(code, "include", include));
        }
        found |= word == "metadata";
    }
    Ok(found)
}

fn body(xml: std::io::Result<Vec<u8>>) -> Result<Reply, StorageError> {
    let body = xml.map_err(|_| StorageError::from(ErrorCode::InternalError))?;
    Ok(Reply::xml(StatusCode::OK, body))
}
