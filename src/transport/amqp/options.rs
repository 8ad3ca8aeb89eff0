//! Settings of the AMQP client. Data only.

use std::time::Duration;

use crate::network::{Proxy, TlsOptions};

/// What AMQP is spoken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportType {
    /// A TCP connection with TLS, port 5671 unless another is named.
    #[default]
    AmqpTcp,
    /// A WebSocket with TLS, port 443 unless another is named: for networks that let nothing else out. Python calls it
    /// `AmqpOverWebsocket`.
    AmqpWebSockets,
}

/// Settings of an [`AmqpTransport`](super::AmqpTransport).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpOptions {
    /// Name of this client in the service's logs and error texts (`container-id`). Default: a random one per
    /// connection.
    pub container_id: Option<String>,
    /// Longest time for one operation, with everything it needs on the way: connecting, authorizing, a second
    /// try on a fresh connection. Default: 60 s, the try timeout of the other SDKs.
    pub operation_timeout: Duration,
    /// Longest time from the first packet to an open AMQP connection. Default: 15 s.
    pub connect_timeout: Duration,
    /// Longest time to close a receiver, and again for the connection; after that it is dropped.
    /// Default: 5 s.
    pub close_timeout: Duration,
    /// Silence after which the peer counts as dead, and longest time that a write may be stuck. The service
    /// sends heartbeats twice as often. Default: 20 s, so that a cut network is noticed within 30 s.
    pub idle_timeout: Duration,
    /// Largest AMQP frame we accept, in bytes. Default: 64 KiB, as .NET, Java and Go. What lies outside 512 bytes (AMQP
    /// 1.0, 2.7.1) to 1 MiB counts as the nearer of the two.
    pub max_frame_size: u32,
    /// Largest message we accept, in bytes, with what the service adds to an event (its place, its time, the end of the
    /// partition). Default: 1 MiB, the largest event that may be sent outside self-serve dedicated clusters (20 MiB), and
    /// 64 KiB for what is added. What lies outside 1 KiB to 64 MiB counts as the nearer of the two: a value in a message
    /// may claim that much memory before it has come, so there is no "unlimited".
    pub max_message_size: u64,
    /// The one host besides this machine that may be spoken to without TLS, if the connection string says
    /// `UseDevelopmentEmulator=true`. Default: none.
    pub plaintext_host: Option<String>,
    /// What AMQP is spoken over. Default: [`TransportType::AmqpTcp`].
    pub transport_type: TransportType,
    /// Where to connect to in place of the namespace: `host`, `host:port` or `sb://host:port`, such as an application
    /// gateway or a private endpoint with a name of its own. The certificate must be for this host, as in the other SDKs;
    /// to the service (host name of the connection, tokens) and in the names of blobs it remains the namespace. A private
    /// endpoint with a private DNS zone needs no such thing. Default: none.
    pub custom_endpoint_address: Option<String>,
    /// The HTTP proxy to go through, with either transport type. Default: [`Proxy::FromEnvironment`].
    pub proxy: Proxy,
    /// Whom to trust. Default: whom the platform trusts.
    pub tls: TlsOptions,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        Self {
            container_id: None,
            operation_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
            max_frame_size: 64 * 1024,
            max_message_size: (1024 + 64) * 1024,
            plaintext_host: None,
            transport_type: TransportType::AmqpTcp,
            custom_endpoint_address: None,
            proxy: Proxy::FromEnvironment,
            tls: TlsOptions::default(),
        }
    }
}

impl AmqpOptions {
    pub(super) fn frame_limit(&self) -> u32 {
        self.max_frame_size.clamp(512, 1024 * 1024)
    }

    pub(super) fn message_limit(&self) -> u64 {
        self.max_message_size.clamp(1024, 64 * 1024 * 1024)
    }

    /// Sets [`container_id`](Self::container_id).
    #[must_use]
    pub fn with_container_id(mut self, container_id: impl Into<String>) -> Self {
        self.container_id = Some(container_id.into());
        self
    }

    /// Sets [`operation_timeout`](Self::operation_timeout).
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`close_timeout`](Self::close_timeout).
    #[must_use]
    pub fn with_close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets [`idle_timeout`](Self::idle_timeout).
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets [`max_message_size`](Self::max_message_size).
    #[must_use]
    pub fn with_max_message_size(mut self, bytes: u64) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Sets [`plaintext_host`](Self::plaintext_host), such as the name of an emulator's container.
    #[must_use]
    pub fn with_plaintext_host(mut self, host: impl Into<String>) -> Self {
        self.plaintext_host = Some(host.into());
        self
    }

    /// Sets [`transport_type`](Self::transport_type).
    #[must_use]
    pub fn with_transport_type(mut self, transport_type: TransportType) -> Self {
        self.transport_type = transport_type;
        self
    }

    /// Sets [`custom_endpoint_address`](Self::custom_endpoint_address). Whether it is an address is seen when the client is
    /// made.
    #[must_use]
    pub fn with_custom_endpoint_address(mut self, address: impl Into<String>) -> Self {
        self.custom_endpoint_address = Some(address.into());
        self
    }

    /// Sets [`proxy`](Self::proxy): an [`HttpProxy`](crate::network::HttpProxy), or [`Proxy::Direct`].
    #[must_use]
    pub fn with_proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Sets [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_limit() {
        let limits = |frame, message| {
            let options = AmqpOptions {
                max_frame_size: frame,
                max_message_size: message,
                ..AmqpOptions::default()
            };
            (options.frame_limit(), options.message_limit())
        };
        assert_eq!(limits(0, 0), (512, 1024));
        assert_eq!(limits(4096, 20 << 20), (4096, 20 << 20));
        assert_eq!(limits(u32::MAX, u64::MAX), (1 << 20, 64 << 20));
    }
}
