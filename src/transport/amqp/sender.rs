//! Sending events: for samples, tests and dead letters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp::Sender;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::{Batch, Body, Data, Message, Outcome};
use fe2o3_amqp_types::primitives::{Binary, Value as Wire};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::Connection;
use super::convert::outgoing;
use super::deadline::Deadline;
use super::errors::Scope;
use super::failure::{self, Failure};
use crate::error::{TransportError, TransportErrorKind};
use crate::model::{AmqpBody, MessageProperties, Value};

/// An event to send, with all its parts.
#[derive(Debug)]
pub(crate) struct OutgoingEvent {
    pub(crate) body: AmqpBody,
    pub(crate) properties: BTreeMap<String, Value>,
    pub(crate) message_properties: MessageProperties,
    /// Chooses the partition, unless the sender has one.
    pub(crate) partition_key: Option<String>,
}

/// An event that was not accepted, as far as anybody knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Failed(TransportError),
    /// Nothing was sent.
    #[error("the event has {size} bytes, and the event hub takes {max}")]
    TooLarge { size: u64, max: u64 },
}

/// Transfers under way at once; a sender waits for each, so this is never reached.
const WINDOW: u32 = 64;

/// Sends events to an event hub or to one of its partitions, one after the other. Opened by
/// [`AmqpTransport::open_sender`](super::AmqpTransport::open_sender). It does not recover: after an error open another.
pub struct AmqpSender {
    // Before the session, so that it is dropped first: detach, then end.
    link: Sender,
    session: SessionHandle<()>,
    connection: Arc<Connection>,
    doing: String,
    closed: CancellationToken,
    operation_timeout: Duration,
    close_timeout: Duration,
}

impl AmqpSender {
    /// Attaches a link to `address`, for which sending has been authorized.
    pub(super) async fn attach(
        connection: &Arc<Connection>,
        address: &str,
        options: &super::AmqpOptions,
        closed: &CancellationToken,
        deadline: &Deadline,
    ) -> Result<Self, Failure> {
        let doing = format!("sending to {address}");
        let mut session = connection.sessions.begin(WINDOW, deadline).await?;
        let attach = Sender::builder()
            .name(Uuid::new_v4().to_string())
            .target(address)
            .attach(&mut session);
        let link = deadline
            .wait(&doing, Box::pin(attach))
            .await
            .map_err(Failure::of_link)?
            .map_err(|error| failure::attach_sender(&doing, error))?;
        Ok(Self {
            link,
            session,
            connection: Arc::clone(connection),
            doing,
            closed: closed.clone(),
            operation_timeout: options.operation_timeout,
            close_timeout: options.close_timeout,
        })
    }

    /// Sends an event with this body. Returns once the service has accepted it.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`]. After a [`Timeout`](TransportErrorKind::Timeout) or
    /// [`ConnectionLost`](TransportErrorKind::ConnectionLost) the event may have been accepted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves it open whether the event was accepted.
    pub async fn send(&mut self, body: impl Into<Bytes>) -> Result<(), TransportError> {
        let data = Data(Binary::from(Vec::from(body.into())));
        let message = Message::from(Body::Data(Batch::new(vec![data])));
        match self.send_message(message).await {
            Ok(()) => Ok(()),
            Err(SendError::Failed(error)) => Err(error),
            Err(error @ SendError::TooLarge { .. }) => {
                let kind = TransportErrorKind::Rejected;
                Err(TransportError::new(kind, self.doing.as_str()).with_source(error))
            }
        }
    }

    /// Sends an event with all its parts. Returns once the service has accepted it.
    pub(crate) async fn send_event(&mut self, event: &OutgoingEvent) -> Result<(), SendError> {
        let message = outgoing::message(event).map_err(|error| {
            let kind = TransportErrorKind::Rejected;
            TransportError::new(kind, self.doing.as_str()).with_source(error)
        });
        self.send_message(message.map_err(SendError::Failed)?).await
    }

    async fn send_message(&mut self, message: Message<Body<Wire>>) -> Result<(), SendError> {
        let deadline = Deadline::new(Instant::now() + self.operation_timeout, &self.closed);
        let sent = deadline.wait(&self.doing, self.link.send(message)).await;
        let outcome = sent
            .map_err(SendError::Failed)?
            .map_err(|error| match error {
                fe2o3_amqp::link::SendError::MessageSizeExceeded(exceeded) => SendError::TooLarge {
                    size: exceeded.size,
                    max: exceeded.max_size,
                },
                error => {
                    let failure = failure::send(&self.doing, error);
                    self.connection.vitals.note(&failure);
                    SendError::Failed(failure.error)
                }
            })?;
        match outcome {
            Outcome::Accepted(_) => Ok(()),
            Outcome::Rejected(rejected) => Err(SendError::Failed(rejected.error.map_or_else(
                || self.refused(),
                |error| failure::remote(&self.doing, &error, Scope::Link).error,
            ))),
            Outcome::Released(_) | Outcome::Modified(_) => Err(SendError::Failed(self.refused())),
        }
    }

    fn refused(&self) -> TransportError {
        TransportError::new(TransportErrorKind::Rejected, self.doing.as_str())
    }

    /// Closes the link, within a few seconds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the link.
    pub async fn close(self) {
        let Self {
            link,
            mut session,
            connection,
            close_timeout,
            ..
        } = self;
        let _ = timeout(close_timeout / 2, link.close()).await;
        if timeout(close_timeout / 2, session.end()).await.is_err() {
            connection.vitals.retire();
        }
    }
}

impl fmt::Debug for AmqpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSender")
            .field("doing", &self.doing)
            .finish_non_exhaustive()
    }
}
