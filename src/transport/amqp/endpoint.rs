//! Which event hub, where it is dialled, and how its nodes are addressed. Pure.

use std::net::IpAddr;

use crate::credential::{ConnectionStringError, namespace_name};
use crate::model::PartitionId;

use super::AmqpOptions;

/// PROTOCOL: the ports of AMQP over TLS and of plain AMQP.
const TLS_PORT: u16 = 5671;
const PLAIN_PORT: u16 = 5672;

/// One event hub and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host name of the namespace, no port.
    pub(super) host: String,
    /// The namespace in the names of blobs: with the port, if one was given.
    pub(super) namespace: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) event_hub: String,
}

impl Endpoint {
    pub(super) fn with_tls(host: String, port: Option<u16>, event_hub: String) -> Self {
        Self {
            namespace: namespace_name(&host, port),
            host,
            port: port.unwrap_or(TLS_PORT),
            tls: true,
            event_hub,
        }
    }

    /// Without TLS, for emulators: only to this machine or to the one host that the options name.
    pub(super) fn without_tls(
        host: String,
        port: Option<u16>,
        event_hub: String,
        options: &AmqpOptions,
    ) -> Result<Self, ConnectionStringError> {
        let named = options
            .plaintext_host
            .as_deref()
            .is_some_and(|named| named.eq_ignore_ascii_case(&host));
        if !named && !is_this_machine(&host) {
            return Err(ConnectionStringError::Invalid {
                field: "UseDevelopmentEmulator",
                reason: "without TLS only this machine is spoken to, or the host that the options name",
            });
        }
        Ok(Self {
            namespace: namespace_name(&host, port),
            host,
            port: port.unwrap_or(PLAIN_PORT),
            tls: false,
            event_hub,
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

    #[test]
    fn plain_text_stays_on_this_machine() {
        let options = AmqpOptions::default();
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "::1"] {
            assert_eq!(plain(host, &options).unwrap().port, 5672, "{host}");
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
        assert!(!plain("emulator", &options).unwrap().tls);
        assert!(plain("emulator2", &options).is_err());
    }

    #[test]
    fn nodes_are_addressed_as_the_service_expects() {
        let endpoint = Endpoint::with_tls("ns.example".to_owned(), None, "hub".to_owned());
        assert_eq!(endpoint.port, 5671);
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
