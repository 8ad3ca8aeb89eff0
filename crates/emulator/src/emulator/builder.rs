//! How an emulator is set up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;

use super::network::{Network, NetworkOptions};
use super::operation::Operation;
use super::{Emulator, EmulatorError, StartError};
use crate::amqp::{AmqpServer, Keys, Service, Transport};
use crate::blob::{BlobOptions, BlobServer, Deviations, WallClock};
use crate::broker::{Clock, Retention};
use crate::issuer::Issuer;

/// The event hub an emulator has if none is named.
const DEFAULT_HUB: (&str, u32) = ("eventhub", 4);
/// Events a partition keeps at most unless told otherwise.
const DEFAULT_RETAINED_EVENTS: usize = 1_000_000;
/// Bytes a partition keeps at most unless told otherwise: eight busy partitions fit a laptop.
const DEFAULT_RETAINED_BYTES: usize = 128 * 1024 * 1024;

/// Settings of an [`Emulator`], from [`Emulator::builder`].
#[derive(Clone)]
#[must_use]
pub struct EmulatorBuilder {
    pub(super) host: IpAddr,
    is_public_allowed: bool,
    amqp_port: u16,
    blob_port: u16,
    pub(super) hubs: Vec<(String, u32)>,
    containers: Vec<String>,
    sas_keys: Vec<(String, String)>,
    retention: Retention,
    is_time_driven: bool,
    pub(super) operation: Operation,
    pub(super) network: NetworkOptions,
}

/// Keys are not shown.
impl std::fmt::Debug for EmulatorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatorBuilder")
            .field("host", &self.host)
            .field("amqp_port", &self.amqp_port)
            .field("blob_port", &self.blob_port)
            .field("hubs", &self.hubs)
            .field("containers", &self.containers)
            .field("retention", &self.retention)
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl Default for EmulatorBuilder {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            is_public_allowed: false,
            amqp_port: 0,
            blob_port: 0,
            hubs: Vec::new(),
            containers: Vec::new(),
            sas_keys: Vec::new(),
            retention: Retention {
                events: DEFAULT_RETAINED_EVENTS,
                bytes: DEFAULT_RETAINED_BYTES,
            },
            is_time_driven: false,
            operation: Operation::default(),
            network: NetworkOptions::default(),
        }
    }
}

impl EmulatorBuilder {
    /// Adds an event hub. Without any there is one, `eventhub`, with four partitions.
    ///
    /// One that a data directory remembers gets more partitions if it has fewer, and keeps those
    /// it has.
    pub fn with_hub(mut self, name: impl Into<String>, partitions: u32) -> Self {
        self.hubs.push((name.into(), partitions));
        self
    }

    /// Adds a blob container.
    pub fn with_container(mut self, name: impl Into<String>) -> Self {
        self.containers.push(name.into());
        self
    }

    /// Sets the AMQP port; 0, the default, is any free one.
    ///
    /// SDKs of different languages agree on checkpoint blob names only on port 5672, because some
    /// of them put the port into the namespace.
    pub fn with_amqp_port(mut self, port: u16) -> Self {
        self.amqp_port = port;
        self
    }

    /// Sets the blob port; 0, the default, is any free one.
    pub fn with_blob_port(mut self, port: u16) -> Self {
        self.blob_port = port;
        self
    }

    /// Sets the address to listen on; the default is 127.0.0.1.
    pub fn with_host(mut self, host: IpAddr) -> Self {
        self.host = host;
        self
    }

    /// Allows an address that other machines can reach.
    pub fn with_public_listener(mut self, is_allowed: bool) -> Self {
        self.is_public_allowed = is_allowed;
        self
    }

    /// Adds a shared access key with all rights; the first one is in the connection string.
    /// Without any, every token is accepted.
    pub fn with_sas_key(mut self, name: impl Into<String>, key: impl Into<String>) -> Self {
        self.sas_keys.push((name.into(), key.into()));
        self
    }

    /// Sets how much a partition keeps: a number of events and of bytes, whichever is reached first.
    ///
    /// Older events are dropped and the partition's first sequence number moves on; the newest
    /// event stays in any case. The default is one million events and 128 MiB.
    pub fn with_retention(mut self, events: usize, bytes: usize) -> Self {
        self.retention = Retention { events, bytes };
        self
    }

    /// Takes time from the runtime's clock, for tests that pause and drive it.
    ///
    /// Enqueued times and blob dates then follow the driven clock, and deadlines of the emulator
    /// that time would jump to are off. Connect by [`Emulator::connect`] rather than by TCP: while
    /// a socket is slow, a paused clock jumps to the next timer, whosever it is.
    pub fn with_driven_time(mut self, is_driven: bool) -> Self {
        self.is_time_driven = is_driven;
        self
    }

    /// Starts both servers.
    ///
    /// # Errors
    ///
    /// [`StartError`] if an address cannot be used or a hub or container cannot be created.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn start(self) -> Result<Emulator, StartError> {
        let clock = if self.is_time_driven {
            Clock::driven()
        } else {
            Clock::Wall
        };
        let ends_idle = self.network.ends_idle.unwrap_or(!self.is_time_driven);
        let mut blobs = blob_options(clock);
        if self.operation.is_like_azurite {
            blobs.deviations = Deviations::azurite();
        }
        let (broker, mut blobs) = self.operation.open(self.retention, clock, blobs)?;
        let sas_key = self.sas_keys.first().cloned();
        let issuer = Issuer::default();
        blobs.issuer = Some(issuer.clone());
        let keys = Keys::with_issuer(self.sas_keys.iter().cloned().collect(), issuer);
        let service = Arc::new(
            Service::new(broker, keys)
                .with_idle_rules(ends_idle)
                .with_single_cbs(self.network.has_single_cbs),
        );
        let amqp_listener = self.listen(self.amqp_port).await?;
        let blob_listener = self.listen(self.blob_port).await?;
        let amqp_addr = local_addr(&amqp_listener, self.host)?;
        let blob_addr = local_addr(&blob_listener, self.host)?;
        let blob = BlobServer::start(blob_listener, blobs);
        let mut network = Network::default();
        let mut listeners = self.listen_amqp(&mut network).await?;
        listeners.push((amqp_listener, Transport::Plain));
        self.start_control(&mut network, &service, &blob).await?;
        let emulator = Emulator {
            amqp_addr,
            blob_addr,
            sas_key,
            amqp: AmqpServer::start(listeners, Arc::clone(&service)),
            blob,
            service,
            network,
        };
        let default_hub = (DEFAULT_HUB.0.to_owned(), DEFAULT_HUB.1);
        let hubs = if self.hubs.is_empty() && emulator.service.broker.hubs().is_empty() {
            vec![default_hub]
        } else {
            self.hubs
        };
        for (name, partitions) in hubs {
            emulator.ensure_hub(&name, partitions, self.operation.has_data_dir())?;
        }
        for (hub, group) in self.operation.groups {
            emulator.create_consumer_group(&hub, &group)?;
        }
        for name in self.containers {
            emulator.create_container(&name)?;
        }
        Ok(emulator)
    }

    pub(super) async fn listen(&self, port: u16) -> Result<TcpListener, StartError> {
        self.listen_at(self.host, port).await
    }

    pub(super) async fn listen_at(
        &self,
        host: IpAddr,
        port: u16,
    ) -> Result<TcpListener, StartError> {
        let address = SocketAddr::new(host, port);
        if !host.is_loopback() && !self.is_public_allowed {
            return Err(StartError::PublicAddress { address });
        }
        TcpListener::bind(address)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
                _ => StartError::Bind { address, source },
            })
    }
}

fn blob_options(clock: Clock) -> BlobOptions {
    let usual = BlobOptions::default();
    if !clock.is_driven() {
        return usual;
    }
    BlobOptions {
        clock: WallClock::new(move || clock.now()),
        check_dates: false,
        header_timeout: None,
        body_timeout: None,
        ..usual
    }
}

pub(super) fn local_addr(listener: &TcpListener, host: IpAddr) -> Result<SocketAddr, StartError> {
    let address = SocketAddr::new(host, 0);
    listener
        .local_addr()
        .map_err(|source| StartError::Bind { address, source })
}

pub(super) fn check_hub(name: &str, partitions: u32) -> Result<(), EmulatorError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 256 || !name.chars().all(is_allowed) {
        return Err(EmulatorError::InvalidHubName(name.to_owned()));
    }
    if !(1..=crate::amqp::limits::MAX_PARTITIONS).contains(&partitions) {
        return Err(EmulatorError::InvalidPartitionCount(partitions));
    }
    Ok(())
}
