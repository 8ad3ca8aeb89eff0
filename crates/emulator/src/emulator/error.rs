//! What can go wrong when starting or changing an emulator.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::storage::DataError;

/// Why an emulator did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another program listens there; port 0 picks a free port.
    #[error("{address} is in use by another program; choose another port, or 0 for any free one")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address could not be listened on for another reason.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no certificate for the TLS ports, or the one given cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An event hub or container of the builder cannot be created.
    #[error(transparent)]
    Entity(#[from] EmulatorError),
    /// The address can be reached from other machines and this was not allowed.
    ///
    /// The emulator is a test tool: without a key it lets everybody in.
    #[error("{address} can be reached from other machines, which has to be allowed explicitly")]
    PublicAddress {
        /// The address asked for.
        address: SocketAddr,
    },
}

/// Why a call on a running emulator had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The blob service would not take the blob.
    #[error("blob '{name}' is refused: {code}")]
    Blob {
        /// The name given.
        name: String,
        /// The error code of the blob service.
        code: String,
    },
    /// The blob service would not create the container.
    #[error("container '{name}' is refused: {code}")]
    Container {
        /// The name asked for.
        name: String,
        /// The error code of the blob service.
        code: String,
    },
    /// The data directory could not be written.
    #[error("not stored: {0}")]
    Data(String),
    /// An event hub of this name exists, or there are too many.
    #[error("event hub '{0}' exists already, or there are too many")]
    HubExists(String),
    /// The bytes given as an encoded event are not an AMQP message, or the event is too large.
    #[error("the event cannot be stored: {0}")]
    InvalidEvent(String),
    /// Consumer group names have 1 to 50 letters, digits, periods, hyphens and underscores, or are
    /// `$Default`.
    #[error("'{0}' is not a name of a consumer group")]
    InvalidGroupName(String),
    /// Event hub names have 1 to 256 letters, digits, periods, hyphens and underscores.
    #[error("'{0}' is not a name of an event hub")]
    InvalidHubName(String),
    /// The key of a storage account is base64.
    #[error("the key is not base64")]
    InvalidKey,
    /// An event hub has 1 to 2000 partitions.
    #[error("{0} is not a possible number of partitions")]
    InvalidPartitionCount(u32),
    /// Only a geo-replicated namespace has another region.
    #[error("the namespace is not geo-replicated")]
    NotGeoReplicated,
    /// There is no such event hub.
    #[error("no event hub '{0}'")]
    NoSuchHub(String),
    /// The event hub has no such partition.
    #[error("event hub '{hub}' has no partition '{partition}'")]
    NoSuchPartition {
        /// The event hub.
        hub: String,
        /// The partition asked for.
        partition: String,
    },
}
