//! TLS and WebSockets.

use std::sync::Arc;

use eventhubs_emulator::Emulator;
use fe2o3_amqp::{Connection, Session};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::support::{Client, PATIENCE, Reading, receive, text};

const HEADER: &[u8] = b"AMQP\x00\x01\x00\x00";

pub(crate) async fn emulator() -> Emulator {
    Emulator::builder()
        .with_hub("hub", 1)
        .with_tls_port(0)
        .with_ws_port(0)
        .with_wss_port(0)
        .with_tls_name("emulator.test")
        .start()
        .await
        .unwrap()
}

pub(crate) async fn tls(
    emulator: &Emulator,
    port: u16,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let pem = emulator.ca_certificate_pem().unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_reads_over_tls() {
    let emulator = emulator().await;
    let port = emulator.tls_addr().unwrap().port();
    for name in ["localhost", "127.0.0.1", "::1", "emulator.test"] {
        tls(&emulator, port, name).await.unwrap();
    }
    assert!(tls(&emulator, port, "other.test").await.is_err());

    let stream = tls(&emulator, port, "localhost").await.unwrap();
    let mut connection = Connection::builder()
        .container_id("test")
        .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
        .open_with_stream(stream)
        .await
        .unwrap();
    let session = Session::begin(&mut connection).await.unwrap();
    let mut client = Client {
        connection,
        session,
    };
    let large = "x".repeat(700_000);
    emulator.send("hub", Some("0"), &*large).unwrap();
    let mut receiver = client.receiver("0", Reading::default()).await;
    assert_eq!(text(&receive(&mut receiver).await), large);
    client.close().await;
}

#[tokio::test]
async fn an_identity_can_be_given() {
    let given = Emulator::builder()
        .with_tls_port(0)
        .with_tls_identity("no certificate", "no key")
        .start()
        .await;
    assert!(matches!(given, Err(eventhubs_emulator::StartError::Tls(_))));
}

pub(crate) fn request(
    port: u16,
    path: &str,
    protocol: &'static str,
) -> tungstenite::handshake::client::Request {
    let mut request = format!("ws://localhost:{port}{path}")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    request
}

#[tokio::test]
async fn binary_messages_are_a_stream_of_bytes() {
    let emulator = emulator().await;
    let port = emulator.ws_addr().unwrap().port();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = request(port, "/$servicebus/websocket/", "AMQPWSB10");
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "AMQPWSB10");
    socket.send(Message::Ping("p".into())).await.unwrap();
    let (first, rest) = HEADER.split_at(3);
    for part in [first, rest] {
        let message = Message::Binary(part.to_vec().into());
        socket.send(message).await.unwrap();
    }
    let mut got = Vec::new();
    while got.len() < 8 {
        match timeout(PATIENCE, socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Message::Binary(bytes) => got.extend_from_slice(&bytes),
            Message::Pong(bytes) => assert_eq!(&bytes[..], b"p"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, HEADER);
    socket.send(Message::Text("text".into())).await.unwrap();
    let end = timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(!matches!(end, Some(Ok(Message::Binary(_)))), "{end:?}");
}

#[tokio::test]
async fn an_upgrade_elsewhere_or_to_something_else_is_refused() {
    let emulator = emulator().await;
    let port = emulator.ws_addr().unwrap().port();
    for (path, protocol, status) in [
        ("/other", "AMQPWSB10", 404),
        ("/$servicebus/websocket", "mqtt", 400),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = request(port, path, protocol);
        match tokio_tungstenite::client_async(request, stream).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[tokio::test]
async fn web_sockets_come_with_tls_too() {
    let emulator = emulator().await;
    let port = emulator.wss_addr().unwrap().port();
    let stream = tls(&emulator, port, "localhost").await.unwrap();
    let request = request(port, "/$servicebus/websocket", "AMQPWSB10");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    socket
        .send(Message::Binary(HEADER.to_vec().into()))
        .await
        .unwrap();
    let reply = timeout(PATIENCE, socket.next()).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().into_data(), HEADER);
}

#[tokio::test]
async fn garbage_on_a_port_harms_no_other_client() {
    let emulator = emulator().await;
    for address in [emulator.tls_addr(), emulator.ws_addr(), emulator.wss_addr()] {
        let mut stream = TcpStream::connect(address.unwrap()).await.unwrap();
        stream.write_all(&[0x16; 30_000]).await.ok();
        stream.shutdown().await.ok();
        let mut end = Vec::new();
        let read = stream.read_to_end(&mut end);
        timeout(PATIENCE, read).await.unwrap().ok();
    }
    let mut client = Client::connect(&emulator).await;
    client.receiver("0", Reading::default()).await;
}
