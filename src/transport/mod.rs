//! The seam to Event Hubs: what the processor needs of a connection, and the AMQP client behind it.

mod amqp;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{LastError, TransportError, TransportErrorKind};
use crate::model::{
    EventHubProperties, EventPosition, PartitionId, PartitionProperties, ReceivedEvent,
};

#[cfg(feature = "unstable-bench")]
pub(crate) use amqp::bench;
pub use amqp::{AmqpOptions, AmqpSender, AmqpTransport, TransportType};
pub(crate) use amqp::{OutgoingEvent, SendError};

/// What an AMQP error condition of the service means, such as `amqp:link:stolen`: for implementations of [`Transport`]
/// over another AMQP client. One that nobody has heard of is taken for a detached link, hence for transient.
///
/// The text decides where the condition does not: the service has one for all wrong arguments.
#[must_use]
pub fn kind_of_condition(condition: &str, description: &str) -> TransportErrorKind {
    amqp::classify(condition, description)
}

/// What a status of the nodes `$cbs` and `$management` means: for implementations of [`Transport`] over another AMQP
/// client. The error condition goes first, if there is one that says something.
#[must_use]
pub fn kind_of_status(code: i64, condition: Option<&str>, description: &str) -> TransportErrorKind {
    amqp::classify_status(code, condition, description)
}

/// How a receiver of one partition is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiverOptions {
    /// Consumer group to read in.
    pub consumer_group: String,
    /// Partition to read.
    pub partition_id: PartitionId,
    /// Where to start.
    pub position: EventPosition,
    /// The same in other words, if `position` is an offset and the processor knows the event there: reading starts after
    /// the event with this sequence number. For implementations over a client that understands numbers better than
    /// offsets; [`AmqpTransport`] goes by `position`. Default: `None`.
    pub after_sequence_number: Option<i64>,
    /// Priority among the receivers of the partition ("epoch" on the wire): opening with the same or a higher
    /// level disconnects the others. `None` joins without priority. Every SDK's processor uses 0.
    pub owner_level: Option<i64>,
    /// Most events the service may send ahead of their being received.
    pub prefetch: NonZeroU32,
    /// Most bytes of events that wait to be received. The service counts in events, so that it is asked for as many as
    /// will fit, going by the sizes of those that came; one event more than the limit may be held. Default: 8 MiB.
    pub prefetch_bytes: usize,
    /// Whether each event tells what the newest event of its partition is.
    pub track_last_enqueued_event_properties: bool,
    /// Name under which the service's error texts mention this receiver.
    pub receiver_name: Option<String>,
}

impl ReceiverOptions {
    /// Events sent ahead unless told otherwise; the default of the Python, .NET, Go and Rust SDKs.
    pub const DEFAULT_PREFETCH: NonZeroU32 = NonZeroU32::new(300).unwrap();

    /// Bytes that wait unless told otherwise.
    pub const DEFAULT_PREFETCH_BYTES: usize = 8 * 1024 * 1024;

    /// Options with the required values and the defaults of the other SDKs' plain receivers.
    pub fn new(
        consumer_group: impl Into<String>,
        partition_id: PartitionId,
        position: EventPosition,
    ) -> Self {
        Self {
            consumer_group: consumer_group.into(),
            partition_id,
            position,
            after_sequence_number: None,
            owner_level: None,
            prefetch: Self::DEFAULT_PREFETCH,
            prefetch_bytes: Self::DEFAULT_PREFETCH_BYTES,
            track_last_enqueued_event_properties: false,
            receiver_name: None,
        }
    }
}

/// A connection to one event hub. Cheap handles to one shared connection are up to the implementation.
///
/// Every method has its own deadline inside and reconnects by itself if the connection was lost.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Host name of the namespace, as it stands in blob names: no scheme.
    fn fully_qualified_namespace(&self) -> &str;

    /// Name of the event hub.
    fn event_hub_name(&self) -> &str;

    /// Reads the properties of the event hub.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`].
    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError>;

    /// Reads the properties of a partition.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`].
    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError>;

    /// Opens a receiver. Returns once the service has accepted it.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`]; what the service said when it refused stands in
    /// [`condition`](TransportError::condition).
    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError>;

    /// Trouble that concerns no operation under way and will end receivers unless it passes, such as a token that could
    /// not be renewed; told once. The processor asks every cycle and tells `on_error`. The default knows of none.
    fn take_trouble(&self) -> Option<TransportError> {
        None
    }

    /// What [`take_trouble`](Self::take_trouble) is about for as long as it lasts: the last attempt to get a token or to
    /// have it accepted has failed, and none has succeeded since. The processor asks once a second and shows it in its
    /// [status](crate::ProcessorStatus::event_hub_credential_error). The default knows of none.
    fn credential_error(&self) -> Option<LastError> {
        None
    }

    /// Closes the connection and everything on it, within a few seconds. Later calls fail with
    /// [`Closed`](crate::error::TransportErrorKind::Closed).
    async fn close(&self);
}

/// A receiver of one partition. It does not recover: after an error it is done, and the caller opens another at
/// the position after the last event it got. Only a message that is no event does not end it.
#[async_trait]
pub trait PartitionReceiver: fmt::Debug + Send {
    /// Waits for the next event and returns it together with those that are already here, `max` at most,
    /// in the order of the partition. Never returns an empty list.
    ///
    /// Returning events makes room for as many new ones: a caller that does not call holds back the service.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`]; the receiver is done. Except for a message that is no event, which the error brings
    /// along ([`TransportError::undecodable`]): the next call returns what comes after it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    async fn receive(&mut self, max: usize) -> Result<Vec<ReceivedEvent>, TransportError>;

    /// How long ago the service last gave a sign of life on this link. `None` (the default): the receiver does not
    /// know, and counts as attached until [`receive`](Self::receive) fails.
    ///
    /// While the checkpoint store does not answer, this is what tells the processor that its partition cannot have
    /// been taken.
    fn silence(&self) -> Option<Duration> {
        None
    }

    /// Has the service told once more, with the next [`receive`](Self::receive), how many events it may send: the frame
    /// that told it may have been lost on the other side. Does nothing by default.
    fn remind(&mut self) {}

    /// Keeps new receivers away from the connection that this one is on, because something about it is wrong that shows
    /// in no error. Those that are open on it go on. Does nothing by default.
    fn abandon_connection(&self) {}

    /// Bytes of the events that have come and not been returned. `None` (the default): the receiver does not know.
    fn buffered_bytes(&self) -> Option<usize> {
        None
    }

    /// Changes [`prefetch_bytes`](ReceiverOptions::prefetch_bytes). A lower limit holds once the credit that was given
    /// by the higher one has been used. The default does nothing.
    fn set_byte_limit(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Closes the link, within a few seconds.
    async fn close(self: Box<Self>);
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn fully_qualified_namespace(&self) -> &str {
        (**self).fully_qualified_namespace()
    }

    fn event_hub_name(&self) -> &str {
        (**self).event_hub_name()
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        (**self).event_hub_properties().await
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        (**self).partition_properties(partition_id).await
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        (**self).open_receiver(options).await
    }

    fn take_trouble(&self) -> Option<TransportError> {
        (**self).take_trouble()
    }

    fn credential_error(&self) -> Option<LastError> {
        (**self).credential_error()
    }

    async fn close(&self) {
        (**self).close().await;
    }
}
