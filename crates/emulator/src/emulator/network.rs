//! Ports besides the two every emulator has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::builder::local_addr;
use super::{BlobFaults, Emulator, EmulatorBuilder, StartError};
use crate::amqp::Service;
use crate::blob::BlobServer;
use crate::control::{Control, ControlServer};

/// What an emulator listens on besides plain AMQP and blobs; nothing by default.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkOptions {
    control_port: Option<u16>,
}

/// What it then listens on.
#[derive(Debug, Default)]
pub(super) struct Network {
    control: Option<(SocketAddr, ControlServer)>,
}

impl EmulatorBuilder {
    /// Serves the control port: faults and state over HTTP; 0 is any free one.
    ///
    /// It listens on a loopback address whatever the host is, because it lets everybody in.
    pub fn with_control_port(mut self, port: u16) -> Self {
        self.network.control_port = Some(port);
        self
    }

    pub(super) async fn start_network(
        &self,
        service: &Arc<Service>,
        blob: &BlobServer,
    ) -> Result<Network, StartError> {
        let mut network = Network::default();
        if let Some(port) = self.network.control_port {
            let host = match self.host {
                host if host.is_loopback() => host,
                _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let listener = self.listen_at(host, port).await?;
            let address = local_addr(&listener, host)?;
            let blob_faults = BlobFaults::new(blob.faults().clone());
            let control = Control::new(Arc::clone(service), blob_faults);
            network.control = Some((address, ControlServer::start(listener, control)));
        }
        Ok(network)
    }
}

impl Emulator {
    /// Where the control port listens, if it does.
    #[must_use]
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.network.control.as_ref().map(|(address, _)| *address)
    }
}
