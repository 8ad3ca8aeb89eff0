//! Failures of the connection to Event Hubs.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::BoxError;
use crate::model::UndecodableEvent;

/// PROTOCOL: the service says that it is busy, not for how long; what .NET and Python wait.
const BUSY_WAIT: Duration = Duration::from_secs(4);

/// What kind of failure the connection to Event Hubs met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The server's certificate is not accepted: its authority is not trusted, it is for another name, or it has expired.
    /// Or the server does not accept ours. The text says which.
    Certificate,
    /// The client was closed by its user.
    Closed,
    /// The connection could not be made or was lost.
    ConnectionLost,
    /// The credential, or the issuer behind it, gave no token. Nothing is known about what the service thinks.
    CredentialUnavailable,
    /// The event hub is disabled.
    Disabled,
    /// The service closed the link or session and a new one may be opened.
    LinkDetached,
    /// The position to start from does not exist in this event hub: it was re-created, failed over, or the
    /// offset belongs to another one.
    InvalidPosition,
    /// The event hub, consumer group or partition does not exist.
    NotFound,
    /// Another receiver with the same or a higher owner level took the partition.
    OwnershipLost,
    /// The proxy lets nobody through: it wants (other) credentials, or does not allow this destination.
    Proxy,
    /// A quota of the service is used up, such as the receivers per partition.
    QuotaExceeded,
    /// The service refuses the request and will refuse it again.
    Rejected,
    /// The service is throttling.
    ServerBusy,
    /// No answer within the deadline.
    Timeout,
    /// The service refused the credentials, or they do not allow the operation.
    Unauthorized,
    /// A message came that cannot be decoded or lacks its position.
    UndecodableMessage,
}

/// A failed operation on Event Hubs.
#[derive(Debug)]
pub struct TransportError {
    kind: TransportErrorKind,
    context: String,
    condition: Option<String>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    undecodable: Option<Box<UndecodableEvent>>,
}

impl TransportError {
    /// A failure of the given kind; `context` says the operation and the object, never a secret.
    pub fn new(kind: TransportErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            condition: None,
            source: None,
            undecodable: None,
        }
    }

    /// A message came that is no event. `context` as in [`new`](Self::new).
    pub(crate) fn of_undecodable(
        context: impl fmt::Display,
        undecodable: Box<UndecodableEvent>,
    ) -> Self {
        let reason = undecodable.reason();
        Self {
            undecodable: Some(undecodable),
            ..Self::new(
                TransportErrorKind::UndecodableMessage,
                format!("{context}: {reason}"),
            )
        }
    }

    /// The message behind an [`UndecodableMessage`](TransportErrorKind::UndecodableMessage). `Some`: the receiver that
    /// returned this is not done, and goes on with the event after it.
    #[must_use]
    pub fn undecodable(&self) -> Option<&UndecodableEvent> {
        self.undecodable.as_deref()
    }

    /// The same once more, for another one who waits.
    pub(crate) fn repeated(&self) -> Self {
        Self {
            kind: self.kind,
            context: self.context.clone(),
            condition: self.condition.clone(),
            source: self.source.clone(),
            undecodable: None,
        }
    }

    /// Adds the AMQP error condition that the service gave, such as `amqp:link:stolen`.
    #[must_use]
    pub fn with_condition(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// Adds the error behind this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// The AMQP error condition that the service gave, if it gave one.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        self.condition.as_deref()
    }

    /// How long to wait at least before the next try: 4 s if the service is throttling, as .NET and Python do.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.kind == TransportErrorKind::ServerBusy).then_some(BUSY_WAIT)
    }

    /// Whether another receiver took the partition.
    #[must_use]
    pub fn is_ownership_lost(&self) -> bool {
        self.kind == TransportErrorKind::OwnershipLost
    }

    /// Whether trying again later can help without anybody changing the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.kind {
            TransportErrorKind::ConnectionLost
            | TransportErrorKind::CredentialUnavailable
            | TransportErrorKind::LinkDetached
            | TransportErrorKind::QuotaExceeded
            | TransportErrorKind::ServerBusy
            | TransportErrorKind::Timeout => true,
            TransportErrorKind::Certificate
            | TransportErrorKind::Closed
            | TransportErrorKind::Disabled
            | TransportErrorKind::InvalidPosition
            | TransportErrorKind::NotFound
            | TransportErrorKind::OwnershipLost
            | TransportErrorKind::Proxy
            | TransportErrorKind::Rejected
            | TransportErrorKind::Unauthorized
            | TransportErrorKind::UndecodableMessage => false,
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            TransportErrorKind::Certificate => "there is no trust between client and server",
            TransportErrorKind::Closed => "the client is closed",
            TransportErrorKind::ConnectionLost => "the connection to event hubs failed",
            TransportErrorKind::CredentialUnavailable => "there is no token",
            TransportErrorKind::Disabled => "the event hub is disabled",
            TransportErrorKind::LinkDetached => "the link was detached",
            TransportErrorKind::InvalidPosition => "the start position is invalid",
            TransportErrorKind::NotFound => "the entity does not exist",
            TransportErrorKind::OwnershipLost => "another receiver took the partition",
            TransportErrorKind::Proxy => "the proxy lets nothing through",
            TransportErrorKind::QuotaExceeded => "a quota is used up",
            TransportErrorKind::Rejected => "the service refused the request",
            TransportErrorKind::ServerBusy => "the service is throttling",
            TransportErrorKind::Timeout => "the service did not answer in time",
            TransportErrorKind::Unauthorized => "the service refused the credentials",
            TransportErrorKind::UndecodableMessage => "a message cannot be decoded",
        };
        write!(f, "{kind}: {}", self.context)?;
        if let Some(condition) = &self.condition {
            write!(f, " ({condition})")?;
        }
        Ok(())
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
