//! The ways to the service that have secrets of their own: proxies with a password, TLS with a key.

use std::time::Duration;

use eventhubs_emulator::{Emulator, Event};
use eventhubs_processor::checkpoint::{BlobBackend, BlobCheckpointStoreOptions};
use eventhubs_processor::credential::StorageCredential;
use eventhubs_processor::network::{HttpProxy, TlsOptions};
use eventhubs_processor::transport::{AmqpOptions, ReceiverOptions, TransportType};
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, CheckpointStore, EventPosition, GroupScope, Transport,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::capture::{Capture, EMULATOR_THREAD};
use super::{BODY, HUB, KEY, PROXY_PASSWORD, WRONG_STORAGE_KEY, print, print_error};

/// A line from the midst of a private key as PEM; returns it with the certificate and the key.
pub(crate) struct ClientKey {
    chain: String,
    key: String,
    pub(crate) line: String,
}

impl ClientKey {
    pub(crate) fn generate() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        let line = key.lines().nth(1).unwrap().to_owned();
        Self {
            chain: made.cert.pem(),
            key,
            line,
        }
    }
}

/// Reads events over TLS and over WebSockets, with a key of the client's own.
pub(crate) async fn over_tls(capture: &Capture, client: &ClientKey) {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(EMULATOR_THREAD)
        .enable_all()
        .build()
        .unwrap();
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_sas_key("listen", KEY)
        .with_tls_port(0)
        .with_wss_port(0);
    let emulator = threads.spawn(emulator.start()).await.unwrap().unwrap();
    emulator.send(HUB, Some("0"), Event::new(BODY)).unwrap();
    let tls = TlsOptions::default()
        .with_ca_certificates(emulator.ca_certificate_pem().unwrap())
        .unwrap()
        .with_client_certificate(&client.chain, client.key.as_str())
        .unwrap();
    print(capture, &tls);
    let mixed_up =
        TlsOptions::default().with_client_certificate(&client.key, client.chain.as_str());
    print_error(capture, &mixed_up.unwrap_err());
    let ways = [
        (TransportType::AmqpTcp, emulator.tls_addr().unwrap().port()),
        (
            TransportType::AmqpWebSockets,
            emulator.wss_addr().unwrap().port(),
        ),
    ];
    for (transport_type, port) in ways {
        for tls in [tls.clone(), TlsOptions::default()] {
            let options = AmqpOptions::default()
                .with_transport_type(transport_type)
                .with_tls(tls)
                .with_operation_timeout(Duration::from_secs(5));
            print(capture, &options);
            let transport = transport(&format!("localhost:{port}"), options);
            let receiver = ReceiverOptions::new("$Default", "0".into(), EventPosition::Earliest);
            match transport.open_receiver(receiver).await {
                Ok(mut receiver) => {
                    let events = receiver.receive(1).await.unwrap();
                    assert_eq!(events[0].body(), BODY.as_bytes());
                    print(capture, &(&events, &receiver));
                }
                Err(error) => print_error(capture, &error),
            }
            print(capture, &transport);
            transport.close().await;
        }
    }
    threads.shutdown_background();
}

/// A proxy that wants another password, and one that is not there.
pub(crate) async fn through_proxies(capture: &Capture) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    for address in [refusing.to_string(), "127.0.0.1:1".to_owned()] {
        let in_the_address = format!(
            "http://user:{}@{address}",
            PROXY_PASSWORD.replace('/', "%2F")
        );
        for proxy in [
            HttpProxy::new(&in_the_address).unwrap(),
            HttpProxy::new(&address)
                .unwrap()
                .with_credentials("user", PROXY_PASSWORD),
        ] {
            print(capture, &proxy);
            let options = AmqpOptions::default()
                .with_proxy(proxy.clone())
                .with_operation_timeout(Duration::from_secs(5));
            print(capture, &options);
            let transport = transport("contoso.servicebus.test", options);
            let error = transport.event_hub_properties().await.unwrap_err();
            print_error(capture, &error);
            for backend in [BlobBackend::Supported, BlobBackend::Legacy] {
                blobs(capture, proxy.clone(), backend).await;
            }
        }
    }
    for address in [
        format!("socks5://user:{PROXY_PASSWORD}@{refusing}"),
        format!("http://user:{PROXY_PASSWORD}@:0"),
        format!("http://{PROXY_PASSWORD}/ @"),
    ] {
        match HttpProxy::new(&address) {
            Ok(proxy) => print(capture, &proxy.with_credentials("user", PROXY_PASSWORD)),
            Err(error) => print_error(capture, &error),
        }
    }
}

async fn blobs(capture: &Capture, proxy: HttpProxy, backend: BlobBackend) {
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_proxy(proxy)
        .with_try_timeout(Duration::from_secs(2))
        .with_operation_timeout(Duration::from_secs(4));
    print(capture, &options);
    let credential = StorageCredential::account_key("account", WRONG_STORAGE_KEY);
    let url = "https://account.blob.test";
    let store = BlobCheckpointStore::new(url, "checkpoints", credential, options).unwrap();
    print(capture, &store);
    let scope = GroupScope::new("namespace", HUB, "$Default");
    print_error(capture, &store.list_ownership(&scope).await.unwrap_err());
}

fn transport(address: &str, options: AmqpOptions) -> AmqpTransport {
    let text = format!("Endpoint=sb://{address};SharedAccessKeyName=listen;SharedAccessKey={KEY}");
    AmqpTransport::from_connection_string_with_options(&text, HUB, options).unwrap()
}
