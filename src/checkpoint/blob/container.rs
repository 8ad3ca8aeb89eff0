//! One container: deadlines, the one retry, whole listings. The same over every client library.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use url::{Host, Url};

use super::failure::{Class, Failure};
use super::metadata::Metadata;
use super::requests::{ContainerRequests, Record};
use super::{BlobBackend, BlobCheckpointStoreOptions, BlobStoreConfigError, supported};
use crate::checkpoint::Written;
use crate::credential::{StorageCredential, StorageCredentialKind};
use crate::error::{LastError, StoreErrorKind};
use crate::model::ETag;
use crate::retry::RetryOptions;

/// Most pages and records of one listing. Event hubs have at most a few thousand partitions, and the service
/// puts 5000 records on a page.
const MAX_PAGES: usize = 32;
const MAX_RECORDS: usize = 20_000;

/// How a request ended, and whether an earlier try of it may have taken effect unnoticed.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) result: Result<T, Failure>,
    pub(super) is_ambiguous: bool,
}

/// Until when an operation and each of its tries may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// All blobs under a prefix.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) as_of: SystemTime,
    pub(super) records: Vec<Record>,
}

/// One container, with the credential to reach it.
pub(super) struct Container {
    requests: Arc<dyn ContainerRequests>,
    retry: RetryOptions,
    operation_timeout: Duration,
}

impl Container {
    pub(super) fn new(
        account_url: &Url,
        container_name: &str,
        credential: StorageCredential,
        options: &BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        credential.check()?;
        let is_token = matches!(credential.0, StorageCredentialKind::Token(_));
        if is_token && account_url.scheme() != "https" && !is_this_machine(account_url) {
            return Err(BlobStoreConfigError::InsecureTransport);
        }
        let requests: Arc<dyn ContainerRequests> = match options.backend {
            BlobBackend::Supported => Arc::new(supported::Client::new(
                account_url,
                container_name,
                credential,
                options,
            )?),
            #[cfg(feature = "legacy-storage")]
            BlobBackend::Legacy => Arc::new(super::legacy::Client::new(
                account_url,
                container_name,
                credential,
                options,
            )?),
        };
        Ok(Self::over(requests, options))
    }

    /// A container reached by requests of any kind.
    pub(super) fn over(
        requests: Arc<dyn ContainerRequests>,
        options: &BlobCheckpointStoreOptions,
    ) -> Self {
        Self {
            requests,
            retry: options.retry.clone(),
            operation_timeout: options.operation_timeout,
        }
    }

    pub(super) fn credential_error(&self) -> Option<LastError> {
        self.requests.credential_error()
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.operation_timeout)
    }

    /// As [`ContainerRequests::create`].
    pub(super) async fn create(
        &self,
        deadline: Deadline,
        name: &str,
        metadata: &Metadata,
    ) -> Ended<Written> {
        self.run(deadline, || self.requests.create(name, metadata))
            .await
    }

    /// As [`ContainerRequests::set_metadata`].
    pub(super) async fn set_metadata(
        &self,
        deadline: Deadline,
        name: &str,
        metadata: &Metadata,
        version: Option<&ETag>,
    ) -> Ended<Written> {
        self.run(deadline, || {
            self.requests.set_metadata(name, metadata, version)
        })
        .await
    }

    /// As [`ContainerRequests::put`].
    pub(super) async fn put(
        &self,
        deadline: Deadline,
        name: &str,
        content: &Bytes,
    ) -> Ended<Written> {
        self.run(deadline, || self.requests.put(name, content))
            .await
    }

    /// Reads metadata and version of a blob; `None` if there is no such blob.
    pub(super) async fn properties(
        &self,
        deadline: Deadline,
        name: &str,
    ) -> Result<Option<Record>, Failure> {
        let read = self.run(deadline, || self.requests.properties(name)).await;
        found(read.result)
    }

    /// Reads the beginning of a blob; `None` if there is no such blob.
    pub(super) async fn content(
        &self,
        deadline: Deadline,
        name: &str,
    ) -> Result<Option<Bytes>, Failure> {
        let read = self.run(deadline, || self.requests.content(name)).await;
        match read.result {
            Err(failure) if failure.class == Class::Empty => Ok(Some(Bytes::new())),
            result => found(result),
        }
    }

    /// Lists all blobs under a prefix. One failed page fails the listing: a part of it would show partitions
    /// as free that are not.
    pub(super) async fn list(&self, deadline: Deadline, prefix: &str) -> Result<Listing, Failure> {
        let mut first_answer = None;
        let mut records = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.run(deadline, || self.requests.page(prefix, marker.as_deref()));
            let page = page.await.result?;
            // The date of the first answer makes nobody look older than it is.
            let as_of = *first_answer.get_or_insert(page.as_of);
            records.extend(page.records);
            if records.len() > MAX_RECORDS {
                break;
            }
            match page.next_marker {
                None => {
                    return Ok(Listing { as_of, records });
                }
                next if next == marker => {
                    return Err(Failure::incomplete("the listing does not advance"));
                }
                next => marker = next,
            }
        }
        Err(Failure::new(
            Class::Refused,
            StoreErrorKind::Rejected,
            format!("the listing has more than {MAX_RECORDS} records or {MAX_PAGES} pages"),
        ))
    }

    /// Sends a request, and again if it failed in a way that may pass.
    async fn run<T, F>(&self, deadline: Deadline, send: impl Fn() -> F) -> Ended<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut is_ambiguous = false;
        let mut left = self.retry.max_retries;
        let mut backoff = self.retry.backoff();
        loop {
            let limit = self.retry.try_timeout.min(deadline.left());
            let failure = match tokio::time::timeout(limit, send()).await {
                Ok(Ok(value)) => {
                    return Ended {
                        result: Ok(value),
                        is_ambiguous,
                    };
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::timeout(limit),
            };
            let wait = backoff.next_delay(failure.retry_after, &mut rand::rng());
            // A longer one is the caller's to spend.
            let is_short = failure
                .retry_after
                .is_none_or(|asked| asked <= self.retry.max_delay);
            let may_retry =
                left > 0 && failure.is_worth_a_retry() && is_short && wait < deadline.left();
            if !may_retry {
                return Ended {
                    result: Err(failure),
                    is_ambiguous,
                };
            }
            left -= 1;
            tracing::debug!(detail = failure.detail, "trying a blob request again");
            is_ambiguous |= failure.class == Class::Ambiguous;
            tokio::time::sleep(wait).await;
        }
    }
}

/// Whether what is sent there stays on this machine: an emulator.
fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn found<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.class == Class::BlobNotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
