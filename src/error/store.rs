//! Failures of a checkpoint store.

use std::fmt;
use std::time::Duration;

use super::BoxError;

/// What kind of failure a store met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store is throttling.
    Busy,
    /// The store's certificate is not accepted, or the store does not accept ours. The text says which and why.
    Certificate,
    /// The container (or table, bucket, …) that holds the records does not exist.
    ContainerNotFound,
    /// The credential, or the issuer behind it, gave no token or signature. The store was not asked.
    CredentialUnavailable,
    /// A value handed to the store cannot be stored in a way that every SDK can read.
    InvalidValue,
    /// A stored record cannot be understood. Concerns one partition only.
    MalformedRecord,
    /// The proxy on the way to the store lets nobody through: it wants (other) credentials, or does not allow this
    /// destination.
    Proxy,
    /// The store refuses the request and will refuse it again.
    Rejected,
    /// The records of the consumer group are kept under two spellings of its names, by processors that do not see
    /// each other.
    SplitGroup,
    /// The store refused the credentials, or they do not allow the operation.
    Unauthorized,
    /// No answer within the deadline.
    Timeout,
    /// The store could not be reached or failed on its side.
    Unavailable,
}

/// A store operation that did **not** take effect.
///
/// A conditional write that lost a race, or whose outcome nobody knows, is not an error but a
/// [`WriteOutcome`](crate::checkpoint::WriteOutcome).
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    context: String,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl StoreError {
    /// A failure of the given kind; `context` says the operation and the object, never a secret.
    pub fn new(kind: StoreErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            retry_after: None,
            source: None,
        }
    }

    /// Adds the error behind this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the wait that the store asked for.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// How long the store asked to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether trying again later can help without anybody changing the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.kind {
            StoreErrorKind::Busy
            | StoreErrorKind::CredentialUnavailable
            | StoreErrorKind::Timeout
            | StoreErrorKind::Unavailable => true,
            StoreErrorKind::Certificate
            | StoreErrorKind::ContainerNotFound
            | StoreErrorKind::InvalidValue
            | StoreErrorKind::MalformedRecord
            | StoreErrorKind::Proxy
            | StoreErrorKind::Rejected
            | StoreErrorKind::SplitGroup
            | StoreErrorKind::Unauthorized => false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StoreErrorKind::Busy => "the checkpoint store is throttling",
            StoreErrorKind::Certificate => "there is no trust between client and checkpoint store",
            StoreErrorKind::ContainerNotFound => "the checkpoint container does not exist",
            StoreErrorKind::CredentialUnavailable => "there is nothing to prove who we are",
            StoreErrorKind::InvalidValue => "the value cannot be stored",
            StoreErrorKind::MalformedRecord => "the stored record cannot be understood",
            StoreErrorKind::Proxy => "the proxy lets nothing through",
            StoreErrorKind::Rejected => "the checkpoint store refused the request",
            StoreErrorKind::SplitGroup => "the consumer group is kept under two spellings",
            StoreErrorKind::Unauthorized => "the checkpoint store refused the credentials",
            StoreErrorKind::Timeout => "the checkpoint store did not answer in time",
            StoreErrorKind::Unavailable => "the checkpoint store is unavailable",
        };
        write!(f, "{kind}: {}", self.context)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}
