//! Dead letters in another event hub.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{DeadLetter, DeadLetterSink, shortened};
use crate::error::{BoxError, BuildError, TransportError};
use crate::model::Value;
use crate::transport::{AmqpSender, AmqpTransport, OutgoingEvent, SendError};

/// Below this length a reason that must be shortened says nothing any more.
const MIN_REASON: usize = 64;

/// What is left free of the largest message when a reason is shortened: the service adds the position, and many receivers
/// take no larger message than senders may send.
const HEADROOM: usize = 1024;

/// Sends dead letters to an event hub.
///
/// The new event has the body (bytes, value or sequence, as it was), the application properties, the standard message
/// properties and the partition key of the old one; so events of one key stay in one partition, in order. Further system
/// properties, such as those of IoT Hub, are not kept ([`BlobDeadLetters`](super::BlobDeadLetters) keeps them). These
/// application properties are added; one of the same name in the old event is replaced:
///
/// | name | type | what |
/// |---|---|---|
/// | `dead-letter-reason` | string | [`DeadLetter::reason`] |
/// | `dead-letter-attempts` | uint | [`DeadLetter::attempts`] |
/// | `dead-letter-failed-at` | timestamp | [`DeadLetter::failed_at`] |
/// | `dead-letter-namespace` | string | host name of the namespace that the event came from |
/// | `dead-letter-event-hub` | string | the event hub |
/// | `dead-letter-consumer-group` | string | the consumer group |
/// | `dead-letter-partition` | string | the partition |
/// | `dead-letter-sequence-number` | long | the event's place |
/// | `dead-letter-offset` | string | the event's place |
/// | `dead-letter-enqueued-time` | timestamp | when the event was enqueued |
/// | `dead-letter-owner` | string | the processor that read the event |
/// | `dead-letter-undecodable` | string | what is wrong with an event that could not be decoded; its body is the encoded message |
///
/// A letter that is stored twice is in the event hub twice; namespace, event hub, partition and sequence number tell.
///
/// An event that the properties make too large for the event hub gets a shorter reason. If that does not help, it cannot
/// be stored there: storing it fails each time, and its partition waits.
///
/// Letters are sent one after the other, over a link that is opened with the first and again after a failure. Each takes
/// at most twice the [`operation_timeout`](crate::transport::AmqpOptions::operation_timeout) for opening and for sending.
///
/// # Examples
///
/// ```
/// use eventhubs_processor::EventHubDeadLetters;
///
/// # fn example(connection_string: &str) -> Result<(), eventhubs_processor::BuildError> {
/// let sink = EventHubDeadLetters::from_connection_string(connection_string, "telemetry-failed")?;
/// # Ok(())
/// # }
/// ```
pub struct EventHubDeadLetters {
    transport: AmqpTransport,
    /// Held while a letter is sent: the link takes one at a time.
    sender: Mutex<Option<AmqpSender>>,
}

impl EventHubDeadLetters {
    /// A sink in the event hub that a connection string names, or in `event_hub_name`. It is not contacted yet; the key
    /// must allow to send.
    ///
    /// # Errors
    ///
    /// As [`AmqpTransport::from_connection_string`].
    pub fn from_connection_string<'a>(
        connection_string: &str,
        event_hub_name: impl Into<Option<&'a str>>,
    ) -> Result<Self, BuildError> {
        let transport = AmqpTransport::from_connection_string(connection_string, event_hub_name)?;
        Ok(Self::new(transport))
    }

    /// A sink in the event hub of a client, for credentials and options of all kinds.
    #[must_use]
    pub fn new(transport: AmqpTransport) -> Self {
        Self {
            transport,
            sender: Mutex::default(),
        }
    }

    /// Sends with the link at hand, or with a new one if there is none or it is broken: the service closes links that
    /// were idle for long.
    async fn send(
        &self,
        sender: &mut Option<AmqpSender>,
        event: &OutgoingEvent,
    ) -> Result<(), SendError> {
        if let Some(mut link) = sender.take() {
            match link.send_event(event).await {
                Err(SendError::Failed(error)) if error.is_transient() => {}
                result => {
                    // What failed for its size has not been sent, and the link is as good as before.
                    if !matches!(result, Err(SendError::Failed(_))) {
                        *sender = Some(link);
                    }
                    return result;
                }
            }
        }
        let mut link = self.transport.open_sender(None).await?;
        let result = link.send_event(event).await;
        if !matches!(result, Err(SendError::Failed(_))) {
            *sender = Some(link);
        }
        result
    }
}

impl fmt::Debug for EventHubDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHubDeadLetters")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl DeadLetterSink for EventHubDeadLetters {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let mut sender = self.sender.lock().await;
        let event = outgoing(letter, &letter.reason);
        let Err(error) = self.send(&mut sender, &event).await else {
            return Ok(());
        };
        let SendError::TooLarge { size, max } = error else {
            return Err(error.into());
        };
        let excess = usize::try_from(size.saturating_sub(max)).unwrap_or(usize::MAX);
        let excess = excess.saturating_add(HEADROOM);
        let room = letter.reason.len().saturating_sub(excess);
        if room < MIN_REASON {
            return Err(SendError::TooLarge { size, max }.into());
        }
        let reason = shortened(&letter.reason, room);
        let event = outgoing(letter, &reason);
        Ok(self.send(&mut sender, &event).await?)
    }
}

fn outgoing(letter: &DeadLetter, reason: &str) -> OutgoingEvent {
    let event = &letter.event;
    let mut properties = event.properties().clone();
    let text = |text: &str| Value::String(text.to_owned());
    for (name, value) in [
        ("reason", text(reason)),
        ("attempts", Value::U32(letter.attempts)),
        ("failed-at", timestamp(letter.failed_at)),
        ("namespace", text(letter.scope.fully_qualified_namespace())),
        ("event-hub", text(letter.scope.event_hub_name())),
        ("consumer-group", text(letter.scope.consumer_group())),
        ("partition", text(letter.partition_id.as_str())),
        ("sequence-number", Value::I64(event.sequence_number())),
        ("offset", text(event.offset().as_str())),
        ("enqueued-time", timestamp(event.enqueued_time())),
        ("owner", text(letter.owner_id.as_str())),
    ] {
        properties.insert(format!("dead-letter-{name}"), value);
    }
    if let Some(reason) = letter.undecodable {
        properties.insert(
            "dead-letter-undecodable".to_owned(),
            text(&reason.to_string()),
        );
    }
    OutgoingEvent {
        body: event.amqp_body().clone(),
        properties,
        message_properties: event.message_properties().clone(),
        partition_key: event.partition_key().map(str::to_owned),
    }
}

fn timestamp(time: SystemTime) -> Value {
    Value::Timestamp(millis(time))
}

/// Milliseconds since the Unix epoch.
pub(super) fn millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX);
            -before
        }
    }
}

impl From<TransportError> for SendError {
    fn from(error: TransportError) -> Self {
        Self::Failed(error)
    }
}
