//! Which event hub, where it is dialled, and how its nodes are addressed. Pure.

use std::net::IpAddr;

use crate::credential::{ConnectionStringError, namespace_name, parse_host};
use crate::model::PartitionId;

use super::{AmqpOptions, TransportType};

/// One event hub and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host name of the namespace, no port.
    pub(super) host: String,
    /// The namespace in the names of blobs: with the port, if one was given.
    pub(super) namespace: String,
    pub(super) event_hub: String,
    pub(super) way: Way,
}

/// Where and how it is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The host to connect to, whom the certificate must name.
    ///
    /// INTEROP: of a custom endpoint it is that one's name, as .NET and Python have it; the gateway behind it has a
    /// certificate of its own.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) transport_type: TransportType,
}

impl Endpoint {
    pub(super) fn with_tls(
        host: String,
        port: Option<u16>,
        event_hub: String,
        options: &AmqpOptions,
    ) -> Result<Self, ConnectionStringError> {
        Self::new(host, port, event_hub, options, true)
    }

    /// Without TLS, for emulators: only to this machine or to the one host that the options name.
    pub(super) fn without_tls(
        host: String,
        port: Option<u16>,
        event_hub: String,
        options: &AmqpOptions,
    ) -> Result<Self, ConnectionStringError> {
        let endpoint = Self::new(host, port, event_hub, options, false)?;
        let dialled = &endpoint.way.host;
        let named = options
            .plaintext_host
            .as_deref()
            .is_some_and(|named| named.eq_ignore_ascii_case(dialled));
        if !named && !is_this_machine(dialled) {
            return Err(ConnectionStringError::Invalid {
                field: "UseDevelopmentEmulator",
                reason: "without TLS only this machine is spoken to, or the host that the options name",
            });
        }
        Ok(endpoint)
    }

    fn new(
        host: String,
        port: Option<u16>,
        event_hub: String,
        options: &AmqpOptions,
        tls: bool,
    ) -> Result<Self, ConnectionStringError> {
        let (dialled, dialled_port) = match options.custom_endpoint_address.as_deref() {
            None => (host.clone(), port),
            Some(address) => parse_address(address)?,
        };
        let transport_type = options.transport_type;
        Ok(Self {
            namespace: namespace_name(&host, port),
            host,
            event_hub,
            way: Way {
                host: dialled,
                port: dialled_port.unwrap_or_else(|| default_port(transport_type, tls)),
                tls,
                transport_type,
            },
        })
    }

    /// Address of a partition as seen by a consumer group.
    ///
    /// INTEROP: relative, as JS, Java and Go send it.
    pub(super) fn partition_address(&self, group: &str, partition: &PartitionId) -> String {
        format!(
            "{}/ConsumerGroups/{group}/Partitions/{partition}",
            self.event_hub
        )
    }

    /// Address to send to: of one partition, or of the event hub, which chooses.
    pub(super) fn sender_address(&self, partition: Option<&PartitionId>) -> String {
        match partition {
            Some(partition) => format!("{}/Partitions/{partition}", self.event_hub),
            None => self.event_hub.clone(),
        }
    }

    /// What a token for sending and for reading the properties is about.
    pub(super) fn hub_audience(&self) -> String {
        format!("sb://{}/{}", self.host, self.event_hub)
    }

    /// What a token for receiving is about. One for all partitions of the group, as in Python: a token per
    /// partition, as in JS, is a thousand requests an hour for the same right.
    pub(super) fn group_audience(&self, group: &str) -> String {
        format!(
            "sb://{}/{}/ConsumerGroups/{group}",
            self.host, self.event_hub
        )
    }
}

/// PROTOCOL: the ports of AMQP and of WebSockets, with and without TLS.
fn default_port(transport_type: TransportType, tls: bool) -> u16 {
    match (transport_type, tls) {
        (TransportType::AmqpTcp, true) => 5671,
        (TransportType::AmqpTcp, false) => 5672,
        (TransportType::AmqpWebSockets, true) => 443,
        (TransportType::AmqpWebSockets, false) => 80,
    }
}

/// Host and port of a custom endpoint, which may look like a URL. What its scheme says is said by other options.
fn parse_address(address: &str) -> Result<(String, Option<u16>), ConnectionStringError> {
    let authority = match address.split_once("://") {
        Some((_, authority)) => authority.strip_suffix('/').unwrap_or(authority),
        None => address,
    };
    parse_host(authority, "custom_endpoint_address")
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(host: &str, options: &AmqpOptions) -> Result<Endpoint, ConnectionStringError> {
        Endpoint::without_tls(host.to_owned(), None, "hub".to_owned(), options)
    }

    fn tls(
        host: &str,
        port: Option<u16>,
        options: &AmqpOptions,
    ) -> Result<Endpoint, ConnectionStringError> {
        Endpoint::with_tls(host.to_owned(), port, "hub".to_owned(), options)
    }

    #[test]
    fn each_transport_has_its_port() {
        let sockets = AmqpOptions::default().with_transport_type(TransportType::AmqpWebSockets);
        assert_eq!(tls("h", None, &sockets).unwrap().way.port, 443);
        assert_eq!(tls("h", Some(8443), &sockets).unwrap().way.port, 8443);
        assert_eq!(plain("localhost", &sockets).unwrap().way.port, 80);
    }

    #[test]
    fn a_custom_endpoint_is_dialled_and_the_namespace_meant() {
        let with = |address: &str| AmqpOptions::default().with_custom_endpoint_address(address);
        for (address, host, port) in [
            ("gateway.corp", "gateway.corp", 5671),
            ("Gateway.corp:443", "gateway.corp", 443),
            ("sb://gateway.corp:444/", "gateway.corp", 444),
            ("wss://10.0.0.4", "10.0.0.4", 5671),
            ("[fd00::4]:5671", "fd00::4", 5671),
        ] {
            let endpoint = tls("ns.example", None, &with(address)).unwrap();
            assert_eq!(endpoint.way.host, host, "{address}");
            assert_eq!(endpoint.way.port, port, "{address}");
            assert_eq!(endpoint.namespace, "ns.example");
            assert_eq!(endpoint.hub_audience(), "sb://ns.example/hub");
        }
        for address in ["", "sb://", "gateway/path", "user@gateway", "gateway:0"] {
            let error = tls("ns.example", None, &with(address)).unwrap_err();
            assert!(
                error.to_string().contains("custom_endpoint_address"),
                "{error}"
            );
        }
        // Nor does it carry plain text out of the machine.
        assert!(plain("localhost", &with("gateway.corp")).is_err());
        assert!(plain("ns.example", &with("localhost:5672")).is_ok());
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        let options = AmqpOptions::default();
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "::1"] {
            assert_eq!(plain(host, &options).unwrap().way.port, 5672, "{host}");
        }
        for host in [
            "emulator",
            "10.0.0.1",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "contoso.servicebus.windows.net",
        ] {
            assert!(plain(host, &options).is_err(), "{host}");
        }
    }

    #[test]
    fn one_more_host_can_be_named() {
        let options = AmqpOptions::default().with_plaintext_host("Emulator");
        assert!(!plain("emulator", &options).unwrap().way.tls);
        assert!(plain("emulator2", &options).is_err());
    }

    #[test]
    fn nodes_are_addressed_as_the_service_expects() {
        let endpoint = tls("ns.example", None, &AmqpOptions::default()).unwrap();
        assert_eq!(endpoint.way.port, 5671);
        assert_eq!(
            endpoint.partition_address("$Default", &"3".into()),
            "hub/ConsumerGroups/$Default/Partitions/3"
        );
        assert_eq!(endpoint.hub_audience(), "sb://ns.example/hub");
        assert_eq!(
            endpoint.group_audience("$Default"),
            "sb://ns.example/hub/ConsumerGroups/$Default"
        );
    }
}
