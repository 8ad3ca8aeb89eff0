//! The AMQP client behind [`Transport`]: fe2o3-amqp over a stream of our own. Its types stay in this folder.

#[cfg(feature = "unstable-bench")]
pub(crate) mod bench;
mod cbs;
mod connection;
mod convert;
mod deadline;
mod dial;
mod endpoint;
mod errors;
mod events;
mod failure;
mod filter;
mod frames;
#[cfg(feature = "unstable-fuzz")]
pub(super) mod fuzz;
mod grants;
mod guard;
mod management;
mod options;
mod receiver;
mod rpc;
mod scan;
mod sender;
mod slot;
mod stream;
mod token;
mod trouble;
mod websocket;
mod wire;

use std::fmt;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::credential::{
    ConnectionStringError, EventHubsConnectionString, EventHubsCredential, parse_host,
};
use crate::error::{LastError, TransportError, TransportErrorKind};
use crate::model::{EventHubProperties, PartitionId, PartitionProperties};

use super::{PartitionReceiver, ReceiverOptions, Transport};
use cbs::Identity;
use deadline::Deadline;
use endpoint::Endpoint;
use errors::Scope;
use failure::Failure;
use management::{Entity, Reply};
use receiver::{AmqpReceiver, Context};
use slot::{Lease, Slot, Tries};
use trouble::Trouble;

pub(super) use errors::{classify, classify_status};
pub use options::{AmqpOptions, TransportType};
pub use sender::AmqpSender;
pub(crate) use sender::{OutgoingEvent, SendError};

/// Where this module's log events can be found.
const TARGET: &str = "eventhubs_processor::transport";

/// A client of one event hub over AMQP, on one connection for all receivers (or on several, if the service allows
/// fewer sessions on one than there are receivers). Each tokio runtime that uses it gets a connection of its own: one that
/// is blocked, or shut down, disturbs no other.
///
/// It connects with the first operation and again when the connection is lost. Nothing waits without a
/// deadline ([`AmqpOptions`]). Dropping it drops the connection; [`close`](Transport::close) closes it.
///
/// It retries nothing but a loss it could not know of: an operation that finds the old connection dead is tried once
/// more on a new one, and a token that was refused is replaced once. Pauses and further attempts are the caller's.
///
/// # Cancel safety
///
/// Every operation may be dropped midway. What it had opened is closed, other operations and receivers are not
/// disturbed, and a connection that was being made for several callers is made by the next of them.
pub struct AmqpTransport {
    endpoint: Endpoint,
    options: AmqpOptions,
    slot: Slot,
    trouble: Trouble,
    closed: CancellationToken,
}

impl fmt::Debug for AmqpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpTransport")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl AmqpTransport {
    /// A client that connects with TLS to `fully_qualified_namespace`, such as
    /// `contoso.servicebus.windows.net`. A port may follow it; it is dialled, and then part of the name in blobs.
    ///
    /// # Errors
    ///
    /// [`ConnectionStringError::Invalid`] if the namespace or [`AmqpOptions::custom_endpoint_address`] is not a host name.
    pub fn new(
        fully_qualified_namespace: &str,
        event_hub_name: impl Into<String>,
        credential: EventHubsCredential,
        options: AmqpOptions,
    ) -> Result<Self, ConnectionStringError> {
        let (host, port) = parse_host(fully_qualified_namespace, "fully_qualified_namespace")?;
        let endpoint = Endpoint::with_tls(host, port, event_hub_name.into(), &options)?;
        Ok(Self::with_endpoint(endpoint, credential, options))
    }

    /// A client of the event hub that a connection string names, or of `event_hub_name`.
    ///
    /// With `UseDevelopmentEmulator=true` it speaks without TLS, and then only to this machine or to
    /// [`AmqpOptions::plaintext_host`].
    ///
    /// # Errors
    ///
    /// Those of [`EventHubsConnectionString::parse`] and
    /// [`event_hub_or`](EventHubsConnectionString::event_hub_or), and
    /// [`Invalid`](ConnectionStringError::Invalid) for an emulator on an unnamed other machine.
    pub fn from_connection_string<'a>(
        connection_string: &str,
        event_hub_name: impl Into<Option<&'a str>>,
    ) -> Result<Self, ConnectionStringError> {
        let options = AmqpOptions::default();
        Self::from_connection_string_with_options(connection_string, event_hub_name, options)
    }

    /// The same, with options.
    ///
    /// # Errors
    ///
    /// As [`from_connection_string`](Self::from_connection_string), and for an
    /// [`AmqpOptions::custom_endpoint_address`] that is none.
    pub fn from_connection_string_with_options<'a>(
        connection_string: &str,
        event_hub_name: impl Into<Option<&'a str>>,
        options: AmqpOptions,
    ) -> Result<Self, ConnectionStringError> {
        let parsed = EventHubsConnectionString::parse(connection_string)?;
        let event_hub = parsed.event_hub_or(event_hub_name.into())?;
        let host = parsed.host().to_owned();
        let endpoint = if parsed.uses_development_emulator() {
            Endpoint::without_tls(host, parsed.port(), event_hub, &options)?
        } else {
            Endpoint::with_tls(host, parsed.port(), event_hub, &options)?
        };
        Ok(Self::with_endpoint(
            endpoint,
            parsed.credential().clone(),
            options,
        ))
    }

    /// The same client with another credential, such as tokens in place of the connection string's key.
    /// Its connection, if there is one already, is dropped.
    #[must_use]
    pub fn with_credential(self, credential: EventHubsCredential) -> Self {
        Self::with_endpoint(self.endpoint, credential, self.options)
    }

    fn with_endpoint(
        endpoint: Endpoint,
        credential: EventHubsCredential,
        options: AmqpOptions,
    ) -> Self {
        let closed = CancellationToken::new();
        let trouble = Trouble::default();
        let identity = Identity {
            credential,
            trouble: trouble.clone(),
        };
        Self {
            slot: Slot::new(endpoint.clone(), options.clone(), identity, closed.clone()),
            endpoint,
            options,
            trouble,
            closed,
        }
    }

    /// Opens a sender to a partition, or with `None` to the event hub, which spreads the events over its partitions.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the link.
    pub async fn open_sender(
        &self,
        partition_id: Option<&PartitionId>,
    ) -> Result<AmqpSender, TransportError> {
        let deadline = self.deadline();
        let mut tries = Tries::default();
        loop {
            let lease = self.slot.lease(&deadline).await?;
            match self.try_open_sender(&lease, partition_id, &deadline).await {
                Err(failure) if lease.is_worth_another(&failure, &mut tries) => {}
                result => return result.map_err(|failure| self.told(failure)),
            }
        }
    }

    /// Opens a sender on the leased connection. A refused token is replaced once.
    async fn try_open_sender(
        &self,
        lease: &Lease,
        partition_id: Option<&PartitionId>,
        deadline: &Deadline,
    ) -> Result<AmqpSender, Failure> {
        let connection = lease.connection();
        let address = self.endpoint.sender_address(partition_id);
        let mut again = false;
        loop {
            let audience = self.endpoint.hub_audience();
            connection.cbs.authorize(audience, again, deadline).await?;
            let (options, closed) = (&self.options, &self.closed);
            match AmqpSender::attach(connection, &address, options, closed, deadline).await {
                Err(failure) if !again && is_unauthorized(&failure) => again = true,
                result => return result,
            }
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::new(
            Instant::now() + self.options.operation_timeout,
            &self.closed,
        )
    }

    async fn read(&self, entity: Entity<'_>) -> Result<Reply, TransportError> {
        let deadline = self.deadline();
        let mut tries = Tries::default();
        loop {
            let lease = self.slot.lease(&deadline).await?;
            match self.try_read(&lease, &entity, &deadline).await {
                Err(failure) if lease.is_worth_another(&failure, &mut tries) => {}
                result => return result.map_err(|failure| self.told(failure)),
            }
        }
    }

    /// Reads on the leased connection. A refused token is replaced once.
    async fn try_read(
        &self,
        lease: &Lease,
        entity: &Entity<'_>,
        deadline: &Deadline,
    ) -> Result<Reply, Failure> {
        let connection = lease.connection();
        let event_hub = &self.endpoint.event_hub;
        let mut again = false;
        loop {
            let audience = self.endpoint.hub_audience();
            let token = connection.cbs.authorize(audience, again, deadline).await?;
            match management::read(connection, event_hub, entity, &token, deadline).await {
                Err(failure) if !again && is_unauthorized(&failure) => again = true,
                result => return result,
            }
        }
    }

    /// Opens a receiver on the leased connection. A refused token is replaced once.
    async fn try_open(
        &self,
        lease: &Lease,
        options: &ReceiverOptions,
        deadline: &Deadline,
    ) -> Result<AmqpReceiver, Failure> {
        let connection = lease.connection();
        let context = Context {
            connection,
            endpoint: &self.endpoint,
            options: &self.options,
            closed: &self.closed,
        };
        let audience = self.endpoint.group_audience(&options.consumer_group);
        let mut again = false;
        loop {
            connection
                .cbs
                .authorize(audience.clone(), again, deadline)
                .await?;
            match AmqpReceiver::attach(&context, options, &audience, deadline).await {
                Err(failure) if !again && is_unauthorized(&failure) => again = true,
                result => return result,
            }
        }
    }

    /// The error for the caller.
    fn told(&self, failure: Failure) -> TransportError {
        if self.closed.is_cancelled() && failure.scope == Scope::Connection {
            return TransportError::new(TransportErrorKind::Closed, "the client was closed");
        }
        failure.error
    }
}

fn is_unauthorized(failure: &Failure) -> bool {
    failure.error.kind() == TransportErrorKind::Unauthorized
}

#[async_trait]
impl Transport for AmqpTransport {
    fn fully_qualified_namespace(&self) -> &str {
        &self.endpoint.namespace
    }

    fn event_hub_name(&self) -> &str {
        &self.endpoint.event_hub
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        self.read(Entity::EventHub).await?.event_hub()
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        self.read(Entity::Partition(partition_id))
            .await?
            .partition()
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let deadline = self.deadline();
        let mut tries = Tries::default();
        loop {
            let lease = self.slot.lease(&deadline).await?;
            match self.try_open(&lease, &options, &deadline).await {
                Ok(receiver) => return Ok(Box::new(receiver)),
                Err(failure) if lease.is_worth_another(&failure, &mut tries) => {}
                Err(failure) => return Err(self.told(failure)),
            }
        }
    }

    fn take_trouble(&self) -> Option<TransportError> {
        self.trouble.take()
    }

    fn credential_error(&self) -> Option<LastError> {
        self.trouble.standing()
    }

    async fn close(&self) {
        self.closed.cancel();
        self.slot.close().await;
    }
}
