//! The ways to the service: TLS with an authority of one's own, WebSockets, proxies, other addresses.

mod blobs;
#[cfg(all(feature = "azure-identity", target_os = "linux"))]
mod identities;
mod program;
mod proxies;
mod storms;
mod trust;
mod websockets;

use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::EventPosition;
use eventhubs_processor::error::TransportError;
use eventhubs_processor::network::TlsOptions;
use eventhubs_processor::transport::{
    AmqpOptions, AmqpTransport, ReceiverOptions, Transport as _, TransportType,
};

const HUB: &str = "hub";
/// What the service is called in these tests. Nobody answers to that name.
const NAMESPACE: &str = "contoso.servicebus.test";

/// What the environment says of proxies to a program that makes HTTPS connections.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// An emulator with all its ports, whose certificate is for this machine and for [`NAMESPACE`].
async fn emulator() -> Emulator {
    let emulator = Emulator::builder()
        .with_hub(HUB, 2)
        .with_tls_port(0)
        .with_ws_port(0)
        .with_wss_port(0)
        .with_tls_name(NAMESPACE)
        .start()
        .await
        .unwrap();
    emulator.send(HUB, Some("0"), Event::new("x")).unwrap();
    emulator
}

/// Trusts the emulator.
fn trust(emulator: &Emulator) -> TlsOptions {
    TlsOptions::default()
        .with_ca_certificates(emulator.ca_certificate_pem().unwrap())
        .unwrap()
}

fn options() -> AmqpOptions {
    AmqpOptions::default()
        .with_operation_timeout(Duration::from_secs(10))
        .with_connect_timeout(Duration::from_secs(5))
        .with_close_timeout(Duration::from_secs(2))
}

fn web_sockets() -> AmqpOptions {
    options().with_transport_type(TransportType::AmqpWebSockets)
}

/// A client of the service at `host:port`, with TLS.
fn client(address: &str, options: AmqpOptions) -> AmqpTransport {
    let text = format!("Endpoint=sb://{address};SharedAccessKeyName=n;SharedAccessKey=k");
    AmqpTransport::from_connection_string_with_options(&text, HUB, options).unwrap()
}

/// Reads one event, over a link of its own.
async fn receive(client: &AmqpTransport) -> Result<String, TransportError> {
    let position = EventPosition::Earliest;
    let options = ReceiverOptions::new("$Default", "0".into(), position);
    let mut receiver = client.open_receiver(options).await?;
    let events = receiver.receive(1).await?;
    receiver.close().await;
    Ok(events[0].body_as_str().into_owned())
}
