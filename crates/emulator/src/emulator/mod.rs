//! The emulator as a test or a program holds it.

mod blob_faults;
mod blobs;
mod builder;
mod config;
mod entities;
mod error;
mod event;
mod faults;
mod network;
mod operation;
mod place_faults;
mod record;
mod status;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use crate::amqp::{BadFrame, ReplyFault, ResetStage, TlsFault};
pub use crate::blob::BlobOperation;
pub use blob_faults::BlobFaults;
pub use builder::EmulatorBuilder;
pub use config::ConfigError;
pub use error::{EmulatorError, StartError};
pub use event::{Event, PropertyValue};
pub use faults::Faults;
use network::Network;
pub use record::RecordedEvent;
pub(crate) use status::of as status;
pub use status::{ConnectionStatus, HubStatus, PartitionStatus, ReaderStatus, Status};
pub use stream::InProcessStream;

use crate::amqp::{AmqpServer, Service};
use crate::blob::{BlobServer, WELL_KNOWN_ACCOUNT, WELL_KNOWN_KEY};
use crate::broker::{Hub, Message};

/// The port SDKs use if a connection string names none.
const DEFAULT_AMQP_PORT: u16 = 5672;
/// What connection strings show while no key is checked; the names of the official emulator.
const ANY_KEY: (&str, &str) = ("RootManageSharedAccessKey", "SAS_KEY_VALUE");

/// A running emulator: an Event Hubs namespace and a storage account, both in memory
/// unless [`EmulatorBuilder::with_data_dir`] is used.
///
/// Dropping it ends both at once, as a crash would; [`stop`](Self::stop) ends them in order.
#[derive(Debug)]
pub struct Emulator {
    amqp_addr: SocketAddr,
    blob_addr: SocketAddr,
    sas_key: Option<(String, String)>,
    service: Arc<Service>,
    amqp: AmqpServer,
    blob: BlobServer,
    network: Network,
}

/// Where a sent event went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentEvent {
    /// The partition it is in.
    pub partition_id: String,
    /// Its sequence number.
    pub sequence_number: i64,
    /// Its offset.
    pub offset: String,
}

/// What clients have asked of the Event Hubs side, from [`Emulator::amqp_requests`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpRequests {
    /// Tokens that were taken, those included that faults then answered otherwise.
    pub tokens_accepted: u64,
    /// Tokens that were refused: forged, expired, or for something else.
    pub tokens_refused: u64,
    /// Attaches of event links, those included that were refused.
    pub attaches: u64,
}

/// State of a partition, as the management node tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProperties {
    /// The sequence number of the oldest event kept.
    pub begin_sequence_number: i64,
    /// The sequence number of the newest event, -1 if there never was one.
    pub last_enqueued_sequence_number: i64,
    /// The offset of the newest event, `-1` if there never was one.
    pub last_enqueued_offset: String,
    /// When the newest event was enqueued, the Unix epoch if there never was one.
    pub last_enqueued_time: SystemTime,
    /// Whether no event is kept.
    pub is_empty: bool,
}

impl Emulator {
    /// Settings for an emulator; both ports are free ones unless set.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::default()
    }

    /// Starts an emulator with one event hub, `eventhub`, with four partitions, on free ports.
    ///
    /// # Errors
    ///
    /// [`StartError`] if no port can be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// The connection string of the namespace, for every SDK that knows
    /// `UseDevelopmentEmulator=true`.
    #[must_use]
    pub fn event_hubs_connection_string(&self) -> String {
        let (name, key) = match &self.sas_key {
            Some((name, key)) => (name.as_str(), key.as_str()),
            None => ANY_KEY,
        };
        // INTEROP: Python puts the port into checkpoint blob names, JS does not; without a port
        // they agree.
        let port = match self.amqp_addr.port() {
            DEFAULT_AMQP_PORT => String::new(),
            port => format!(":{port}"),
        };
        let host = match reachable(self.amqp_addr.ip()).as_str() {
            "127.0.0.1" | "[::1]" => "localhost".to_owned(),
            other => other.to_owned(),
        };
        format!(
            "Endpoint=sb://{host}{port};SharedAccessKeyName={name};SharedAccessKey={key};\
             UseDevelopmentEmulator=true;"
        )
    }

    /// The connection string of the storage account.
    #[must_use]
    pub fn storage_connection_string(&self) -> String {
        let host = reachable(self.blob_addr.ip());
        let port = self.blob_addr.port();
        format!(
            "DefaultEndpointsProtocol=http;AccountName={WELL_KNOWN_ACCOUNT};\
             AccountKey={WELL_KNOWN_KEY};\
             BlobEndpoint=http://{host}:{port}/{WELL_KNOWN_ACCOUNT};"
        )
    }

    /// Where the Event Hubs side listens.
    #[must_use]
    pub fn amqp_addr(&self) -> SocketAddr {
        self.amqp_addr
    }

    /// Where the blob side listens.
    #[must_use]
    pub fn blob_addr(&self) -> SocketAddr {
        self.blob_addr
    }

    /// Appends an event to a partition; without one its key chooses, or they take turns.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or partition, or the event is not valid.
    pub fn send(
        &self,
        hub: &str,
        partition: Option<&str>,
        event: impl Into<Event>,
    ) -> Result<SentEvent, EmulatorError> {
        let found = self.hub(hub)?;
        let encoded = event.into().into_encoded();
        if encoded.len() > crate::amqp::limits::MAX_MESSAGE {
            return Err(EmulatorError::InvalidEvent(format!(
                "{} bytes",
                encoded.len()
            )));
        }
        let message = Message::parse(&encoded)
            .map_err(|error| EmulatorError::InvalidEvent(error.to_string()))?;
        let messages = [message];
        let place = match partition {
            Some(id) => found.partition(id),
            None => found.route(&messages),
        };
        let no_such_partition = || EmulatorError::NoSuchPartition {
            hub: hub.to_owned(),
            partition: partition.unwrap_or_default().to_owned(),
        };
        let place = place.ok_or_else(no_such_partition)?;
        let appended = place
            .append(&messages)
            .map_err(|error| EmulatorError::Data(error.to_string()))?
            .ok_or_else(no_such_partition)?;
        Ok(SentEvent {
            partition_id: place.id().to_owned(),
            sequence_number: appended.sequence_number,
            offset: appended.offset.to_string(),
        })
    }

    /// The state of a partition.
    ///
    /// # Errors
    ///
    /// [`EmulatorError`] if there is no such event hub or partition.
    pub fn partition_properties(
        &self,
        hub: &str,
        partition: &str,
    ) -> Result<PartitionProperties, EmulatorError> {
        let found = self.hub(hub)?;
        let state = found
            .partition(partition)
            .map(|place| place.state())
            .ok_or_else(|| EmulatorError::NoSuchPartition {
                hub: hub.to_owned(),
                partition: partition.to_owned(),
            })?;
        let millis = u64::try_from(state.last_enqueued_ms).unwrap_or(0);
        Ok(PartitionProperties {
            begin_sequence_number: state.begin_sequence_number,
            last_enqueued_sequence_number: state.last_sequence_number,
            last_enqueued_offset: state
                .last_offset
                .map_or_else(|| "-1".to_owned(), |offset| offset.to_string()),
            last_enqueued_time: UNIX_EPOCH + Duration::from_millis(millis),
            is_empty: state.is_empty,
        })
    }

    /// Opens an AMQP connection to this emulator that needs no socket.
    ///
    /// It behaves as a TCP connection to [`amqp_addr`](Self::amqp_addr) does, and is silent and
    /// closed if the emulator has ended.
    #[must_use]
    pub fn connect(&self) -> InProcessStream {
        InProcessStream::new(self.amqp.connect())
    }

    /// How many receivers are attached to a partition, in all consumer groups together.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::NoSuchHub`].
    pub fn receiver_count(&self, hub: &str, partition: &str) -> Result<usize, EmulatorError> {
        Ok(self.hub(hub)?.receiver_count(partition))
    }

    /// How many AMQP connections are open.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.service.connection_count()
    }

    /// What clients have asked of the Event Hubs side so far.
    #[must_use]
    pub fn amqp_requests(&self) -> AmqpRequests {
        let counts = &self.service.counts;
        AmqpRequests {
            tokens_accepted: counts.tokens_accepted.load(Ordering::Relaxed),
            tokens_refused: counts.tokens_refused.load(Ordering::Relaxed),
            attaches: counts.attaches.load(Ordering::Relaxed),
        }
    }

    /// Issues a bearer token for a scope, `https://eventhubs.azure.net//.default` or
    /// `https://storage.azure.com/.default`, as an identity provider would. No other emulator takes it.
    #[must_use]
    pub fn issue_token(&self, scope: &str, lifetime: Duration) -> String {
        self.service.keys.issuer().issue(scope, lifetime)
    }

    /// Adds a shared access key or replaces it, as [`EmulatorBuilder::with_sas_key`] does before the
    /// start; needs one to have been set there. What tokens of the old key have opened stays open
    /// until they expire.
    pub fn set_sas_key(&self, name: &str, key: &str) {
        self.service.keys.set(name, key);
    }

    /// Replaces the key of the storage account, in base64.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::InvalidKey`] if it is not.
    pub fn set_storage_key(&self, key: &str) -> Result<(), EmulatorError> {
        self.blob
            .account()
            .set_key(key)
            .map_err(|_| EmulatorError::InvalidKey)
    }

    /// Disturbs the Event Hubs side on purpose.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.service))
    }

    /// Disturbs the blob side on purpose.
    #[must_use]
    pub fn blob_faults(&self) -> BlobFaults {
        BlobFaults::new(self.blob.faults().clone())
    }

    /// Stops all servers: connections are closed with `amqp:connection:forced`, as when the
    /// service moves a namespace, and requests under way may finish for a moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends everything at once.
    pub async fn stop(self) {
        let Self {
            amqp,
            blob,
            network,
            ..
        } = self;
        tokio::join!(amqp.stop(), blob.stop(), network.stop());
    }

    fn hub(&self, name: &str) -> Result<Arc<Hub>, EmulatorError> {
        self.service
            .broker
            .hub(name)
            .ok_or_else(|| EmulatorError::NoSuchHub(name.to_owned()))
    }
}

/// How a program on this machine writes the address that is listened on.
fn reachable(listened_on: IpAddr) -> String {
    match listened_on {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
