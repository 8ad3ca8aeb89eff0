//! Ports besides the two every emulator has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;

use super::builder::local_addr;
use super::{BlobFaults, Emulator, EmulatorBuilder, StartError};
use crate::amqp::{Identity, Service, Transport};
use crate::blob::BlobServer;
use crate::control::{Control, ControlServer};

/// What an emulator listens on besides plain AMQP and blobs; nothing by default.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkOptions {
    control_port: Option<u16>,
    pub(super) ends_idle: Option<bool>,
    pub(super) has_single_cbs: bool,
    tls_port: Option<u16>,
    ws_port: Option<u16>,
    wss_port: Option<u16>,
    tls_names: Vec<String>,
    /// A chain of certificates and its key.
    tls_pem: Option<(String, TlsKey)>,
}

/// A private key as PEM, which is not shown.
#[derive(Clone)]
struct TlsKey(String);

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsKey")
    }
}

/// What it then listens on.
#[derive(Debug, Default)]
pub(super) struct Network {
    control: Option<(SocketAddr, ControlServer)>,
    tls: Option<SocketAddr>,
    ws: Option<SocketAddr>,
    wss: Option<SocketAddr>,
    ca_pem: Option<String>,
}

impl EmulatorBuilder {
    /// Serves the control port: faults and state over HTTP; 0 is any free one.
    ///
    /// It listens on a loopback address whatever the host is, because it lets everybody in.
    pub fn with_control_port(mut self, port: u16) -> Self {
        self.network.control_port = Some(port);
        self
    }

    /// Serves AMQP over TLS; 0 is any free port, and SDKs expect 5671.
    ///
    /// The certificate is made at the start and good for this machine's own names; clients have to
    /// trust [`Emulator::ca_certificate_pem`].
    pub fn with_tls_port(mut self, port: u16) -> Self {
        self.network.tls_port = Some(port);
        self
    }

    /// Serves AMQP over WebSockets without TLS, at `/$servicebus/websocket`; 0 is any free port.
    pub fn with_ws_port(mut self, port: u16) -> Self {
        self.network.ws_port = Some(port);
        self
    }

    /// Serves AMQP over WebSockets with TLS, at `/$servicebus/websocket`; 0 is any free port, and
    /// SDKs expect 443.
    pub fn with_wss_port(mut self, port: u16) -> Self {
        self.network.wss_port = Some(port);
        self
    }

    /// Adds a host name or address to the certificate that is made.
    pub fn with_tls_name(mut self, name: impl Into<String>) -> Self {
        self.network.tls_names.push(name.into());
        self
    }

    /// Shows this chain of certificates, with this key, and makes none; both are PEM.
    pub fn with_tls_identity(
        mut self,
        chain_pem: impl Into<String>,
        key_pem: impl Into<String>,
    ) -> Self {
        self.network.tls_pem = Some((chain_pem.into(), TlsKey(key_pem.into())));
        self
    }

    /// Detaches receivers and senders without traffic for 30 minutes and closes connections without
    /// links for 5 minutes, as the service does. On by default, unless time is driven: there it
    /// would jump from one deadline to the next.
    pub fn with_idle_rules(mut self, ends_idle: bool) -> Self {
        self.network.ends_idle = Some(ends_idle);
        self
    }

    /// Refuses a second pair of `$cbs` links on a connection with `amqp:not-allowed`, as the service
    /// does. Off by default: the official Rust SDK attaches a pair for each authorization, in a
    /// session of its own, and would be refused as soon as two of them overlap.
    pub fn with_single_cbs_link(mut self, is_single: bool) -> Self {
        self.network.has_single_cbs = is_single;
        self
    }

    /// Listens on the further ports of AMQP.
    pub(super) async fn listen_amqp(
        &self,
        network: &mut Network,
    ) -> Result<Vec<(TcpListener, Transport)>, StartError> {
        let options = &self.network;
        let mut listeners = Vec::new();
        if let Some(port) = options.ws_port {
            let listener = self.listen(port).await?;
            network.ws = Some(local_addr(&listener, self.host)?);
            listeners.push((listener, Transport::WebSocket));
        }
        if options.tls_port.is_none() && options.wss_port.is_none() {
            return Ok(listeners);
        }
        let identity = match &options.tls_pem {
            Some((chain, key)) => Identity::from_pem(chain, &key.0),
            None => Identity::generate(&options.tls_names),
        };
        let identity = Arc::new(identity.map_err(|error| StartError::Tls(Box::new(error)))?);
        if let Some(port) = options.tls_port {
            let listener = self.listen(port).await?;
            network.tls = Some(local_addr(&listener, self.host)?);
            listeners.push((listener, Transport::Tls(Arc::clone(&identity))));
        }
        network.ca_pem = identity.ca_pem();
        if let Some(port) = options.wss_port {
            let listener = self.listen(port).await?;
            network.wss = Some(local_addr(&listener, self.host)?);
            listeners.push((listener, Transport::TlsWebSocket(identity)));
        }
        Ok(listeners)
    }

    pub(super) async fn start_control(
        &self,
        network: &mut Network,
        service: &Arc<Service>,
        blob: &BlobServer,
    ) -> Result<(), StartError> {
        if let Some(port) = self.network.control_port {
            let host = match self.host {
                host if host.is_loopback() => host,
                _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let listener = self.listen_at(host, port).await?;
            let address = local_addr(&listener, host)?;
            let blob_faults = BlobFaults::new(blob.faults().clone());
            let control = Control::new(Arc::clone(service), blob_faults, blob.account());
            network.control = Some((address, ControlServer::start(listener, control)));
        }
        Ok(())
    }
}

impl Network {
    /// Stops the control port, if there is one.
    pub(super) async fn stop(self) {
        if let Some((_, control)) = self.control {
            control.stop().await;
        }
    }
}

impl Emulator {
    /// Where AMQP over TLS is served, if it is.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.network.tls
    }

    /// Where AMQP over WebSockets without TLS is served, if it is.
    #[must_use]
    pub fn ws_addr(&self) -> Option<SocketAddr> {
        self.network.ws
    }

    /// Where AMQP over WebSockets with TLS is served, if it is.
    #[must_use]
    pub fn wss_addr(&self) -> Option<SocketAddr> {
        self.network.wss
    }

    /// The certificate clients have to trust, if there is a TLS port and its identity was made
    /// here.
    #[must_use]
    pub fn ca_certificate_pem(&self) -> Option<&str> {
        self.network.ca_pem.as_deref()
    }

    /// Where the control port listens, if it does.
    #[must_use]
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.network.control.as_ref().map(|(address, _)| *address)
    }
}
