//! [`Transport`] over connections that a factory makes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use azeventhubs::EventHubConnection;
use azeventhubs::consumer::EventPosition as AzPosition;
use azeventhubs::primitives::{PartitionReceiver as AzReceiver, PartitionReceiverOptions};
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::transport::{PartitionReceiver, ReceiverOptions};
use eventhubs_processor::{
    EventHubProperties, EventPosition, PartitionId, PartitionProperties, Transport, TransportError,
};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::{closed, failure, timed_out};
use crate::management::Management;
use crate::policy::NoRecovery;
use crate::reader::{CLOSE_TIMEOUT, Reader};

/// Longest time for one operation unless told otherwise: the try timeout of azeventhubs.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest offset that is sent; a longer one is none of the service.
const MAX_OFFSET: usize = 900;

type Connecting = Pin<Box<dyn Future<Output = azure_core::Result<EventHubConnection>> + Send>>;
type Asking<'a, T> = Pin<Box<dyn Future<Output = azure_core::Result<T>> + Send + 'a>>;
type Factory = Box<dyn Fn() -> Connecting + Send + Sync>;

/// A transport over connections of azeventhubs: one for each open receiver, and one for questions about the event hub.
///
/// Receivers do not share a connection, because azeventhubs loses all but one of them when it breaks; and none recovers
/// by itself, because azeventhubs takes a stolen partition back. The processor opens another receiver after the last
/// event it got.
pub struct AzEventHubsTransport {
    factory: Factory,
    operation_timeout: Duration,
    namespace: String,
    event_hub: String,
    /// Held while a question is out, because azeventhubs answers one at a time.
    management: Mutex<Option<Management>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AzEventHubsTransport {
    /// Makes the first connection, which tells the names of the namespace and the event hub, and keeps `factory` for
    /// those to come. Each call has to return a new connection.
    ///
    /// # Errors
    ///
    /// What the factory returns, told as a [`TransportError`], or a timeout after 60 s.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    pub async fn connect<F, C>(factory: F) -> Result<Self, TransportError>
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: Future<Output = azure_core::Result<EventHubConnection>> + Send + 'static,
    {
        let factory: Factory = Box::new(move || Box::pin(factory()));
        let connecting = open(&factory, "connecting");
        let connection = within(OPERATION_TIMEOUT, "connecting", connecting).await?;
        Ok(Self {
            factory,
            operation_timeout: OPERATION_TIMEOUT,
            namespace: connection.fully_qualified_namespace().to_owned(),
            event_hub: connection.event_hub_name().to_owned(),
            management: Mutex::new(Some(Management::new(connection))),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Sets the longest time for one operation, from the factory's call on. Default: 60 s. Those of azeventhubs do not
    /// apply.
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Asks over the connection there is, and once more over a new one if it fails: it may have been lost meanwhile.
    async fn ask<T, A>(&self, doing: &str, question: A) -> Result<T, TransportError>
    where
        A: Fn(&mut Management) -> Asking<'_, T> + Send + Sync,
        T: Send,
    {
        let asking = async {
            let mut slot = self.management.lock().await;
            loop {
                let is_new = slot.is_none();
                // Out of the slot while asking: a question that is cancelled leaves its answer on the connection.
                let mut management = match slot.take() {
                    Some(management) => management,
                    None => Management::new(open(&self.factory, doing).await?),
                };
                match question(&mut management).await {
                    Ok(answer) => {
                        *slot = Some(management);
                        return Ok(answer);
                    }
                    Err(error) => {
                        self.tasks.spawn(management.close());
                        if is_new {
                            return Err(failure(doing, error));
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(closed(doing)),
            answer = within(self.operation_timeout, doing, asking) => answer,
        }
    }

    async fn open_reader(
        &self,
        doing: &str,
        options: ReceiverOptions,
    ) -> Result<AzReceiver<NoRecovery>, TransportError> {
        // By number wherever the processor knows it: azeventhubs reads no offset of a geo-replicated namespace, and the
        // service honours none that comes from it there.
        let position = match options.after_sequence_number {
            Some(number) => AzPosition::from_sequence_number(number, false),
            None => position(options.position).ok_or_else(|| {
                let context = format!("{doing}: the offset cannot be sent");
                TransportError::new(Kind::InvalidPosition, context)
            })?,
        };
        let connection = open(&self.factory, doing).await?;
        let settings = PartitionReceiverOptions {
            prefetch_count: options.prefetch.get(),
            identifier: options.receiver_name,
            owner_level: options.owner_level,
            track_last_enqueued_event_properties: options.track_last_enqueued_event_properties,
            ..PartitionReceiverOptions::default()
        };
        let opening = AzReceiver::with_policy::<NoRecovery>().with_connection(
            &options.consumer_group,
            options.partition_id.as_str(),
            position,
            connection,
            settings,
        );
        // 16 KiB.
        Box::pin(opening)
            .await
            .map_err(|error| failure(doing, error))
    }
}

async fn open(factory: &Factory, doing: &str) -> Result<EventHubConnection, TransportError> {
    factory().await.map_err(|error| failure(doing, error))
}

async fn within<T>(
    limit: Duration,
    doing: &str,
    operation: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    timeout(limit, operation)
        .await
        .unwrap_or_else(|_| Err(timed_out(doing, limit)))
}

/// `None`: an offset that is none of the service.
///
/// PROTOCOL: azeventhubs writes an offset into the selector as it is. Here it is in quotes, as in the other SDKs: a text
/// that comes from a checkpoint says nothing but a place.
fn position(position: EventPosition) -> Option<AzPosition> {
    Some(match position {
        EventPosition::Earliest => AzPosition::earliest(),
        EventPosition::Offset { offset, inclusive } => {
            let text = offset.as_str();
            let is_odd = text.contains(|c: char| c == '\'' || c.is_control());
            if text.is_empty() || text.len() > MAX_OFFSET || is_odd {
                return None;
            }
            AzPosition::Offset {
                offset: format!("'{text}'"),
                is_inclusive: inclusive,
            }
        }
        EventPosition::SequenceNumber {
            sequence_number,
            inclusive,
        } => AzPosition::from_sequence_number(sequence_number, inclusive),
        // azeventhubs knows "after" only, in milliseconds.
        EventPosition::EnqueuedTime { time, inclusive } => {
            let earlier = time.checked_sub(Duration::from_millis(u64::from(inclusive)));
            AzPosition::from_enqueued_time(earlier.unwrap_or(SystemTime::UNIX_EPOCH).into())
        }
        _ => AzPosition::latest(),
    })
}

#[async_trait]
impl Transport for AzEventHubsTransport {
    fn fully_qualified_namespace(&self) -> &str {
        &self.namespace
    }

    fn event_hub_name(&self) -> &str {
        &self.event_hub
    }

    async fn event_hub_properties(&self) -> Result<EventHubProperties, TransportError> {
        let doing = format!("reading the properties of event hub '{}'", self.event_hub);
        let answer = self
            .ask(&doing, |management| {
                Box::pin(management.client.get_event_hub_properties())
            })
            .await?;
        let mut partitions = Vec::new();
        for id in answer.partition_ids() {
            partitions.push(PartitionId::from(id.as_str()));
        }
        let created_at = SystemTime::from(*answer.created_on());
        Ok(EventHubProperties::new(answer.name(), partitions).with_created_at(created_at))
    }

    async fn partition_properties(
        &self,
        partition_id: &PartitionId,
    ) -> Result<PartitionProperties, TransportError> {
        let doing = format!("reading the properties of partition '{partition_id}'");
        let answer = self
            .ask(&doing, |management| {
                let id = partition_id.to_string();
                Box::pin(async move { management.client.get_partition_properties(&id).await })
            })
            .await?;
        Ok(PartitionProperties {
            event_hub_name: answer.event_hub_name().to_owned(),
            partition_id: partition_id.clone(),
            beginning_sequence_number: answer.beginning_sequence_number(),
            last_enqueued_sequence_number: answer.last_enqueued_sequence_number(),
            last_enqueued_offset: answer.last_enqueued_offset().to_string().into(),
            last_enqueued_time: (*answer.last_enqueued_time()).into(),
            is_empty: answer.is_empty(),
        })
    }

    async fn open_receiver(
        &self,
        options: ReceiverOptions,
    ) -> Result<Box<dyn PartitionReceiver>, TransportError> {
        let partition = options.partition_id.clone();
        let doing = format!("opening a receiver of partition '{partition}'");
        let opening = self.open_reader(&doing, options);
        let receiver = tokio::select! {
            () = self.stop.cancelled() => return Err(closed(&doing)),
            receiver = within(self.operation_timeout, &doing, opening) => receiver?,
        };
        Ok(Box::new(Reader::spawn(
            format!("receiving from partition '{partition}'"),
            receiver,
            self.stop.clone(),
            &self.tasks,
        )))
    }

    async fn close(&self) {
        self.stop.cancel();
        // Nobody holds it for long any more.
        if let Some(management) = self.management.lock().await.take() {
            self.tasks.spawn(management.close());
        }
        self.tasks.close();
        if timeout(CLOSE_TIMEOUT * 2, self.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not close in time");
        }
    }
}

impl fmt::Debug for AzEventHubsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzEventHubsTransport")
            .field("namespace", &self.namespace)
            .field("event_hub", &self.event_hub)
            .finish_non_exhaustive()
    }
}
