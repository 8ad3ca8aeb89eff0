//! The AMQP client on networks that misbehave.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use eventhubs_emulator::{Emulator, Event, TlsFault};
use eventhubs_processor::EventPosition;
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::transport::{AmqpOptions, AmqpTransport, ReceiverOptions, Transport};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::proxy::{Proxy, Then};
use crate::support::tls_front::{Authority, TlsFront};

const HUB: &str = "hub";

fn options() -> AmqpOptions {
    AmqpOptions::default()
        .with_operation_timeout(Duration::from_secs(3))
        .with_connect_timeout(Duration::from_secs(1))
        .with_close_timeout(Duration::from_secs(1))
        .with_idle_timeout(Duration::from_secs(2))
}

fn client(port: u16) -> AmqpTransport {
    let text = format!(
        "Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    );
    AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap()
}

fn earliest(partition: &str) -> ReceiverOptions {
    ReceiverOptions::new("$Default", partition.into(), EventPosition::Earliest)
}

#[tokio::test]
async fn a_closed_port_is_a_lost_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = client(port).event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
    assert!(error.is_transient());
}

/// Opens a receiver and takes one event. Whatever the network does, the answer comes in time.
async fn open_and_receive(client: &AmqpTransport, partition: &str) -> Result<(), Kind> {
    let mut receiver = client
        .open_receiver(earliest(partition))
        .await
        .map_err(|error| error.kind())?;
    let received = receiver.receive(1).await.map_err(|error| error.kind());
    receiver.close().await;
    received.map(drop)
}

#[tokio::test]
async fn a_connection_that_ends_or_stalls_anywhere_is_noticed_in_time() {
    // A partition for each case: the receivers have no owner level, and only five of them may share one.
    let emulator = Emulator::builder()
        .with_hub(HUB, 200)
        .start()
        .await
        .unwrap();
    let upstream = emulator.amqp_addr();
    let mut cases = JoinSet::new();
    for then in [Then::Cut, Then::Stall] {
        for bytes in (0..1600).step_by(23) {
            let partition = cases.len().to_string();
            emulator
                .send(HUB, Some(&partition), Event::new("x"))
                .unwrap();
            cases.spawn(async move {
                let proxy = Proxy::start(upstream, 1, bytes, then).await;
                let client = client(proxy.addr.port());
                let started = Instant::now();
                let first = timeout(
                    Duration::from_secs(8),
                    open_and_receive(&client, &partition),
                )
                .await
                .unwrap_or_else(|_| panic!("hangs after {bytes} bytes, {then:?}"));
                if let Err(kind) = first {
                    assert!(
                        matches!(
                            kind,
                            Kind::ConnectionLost | Kind::Timeout | Kind::LinkDetached
                        ),
                        "{kind:?} after {bytes} bytes, {then:?}"
                    );
                }
                // The next connection is sound, and so is the client.
                let mut tries = 0;
                while let Err(kind) = open_and_receive(&client, &partition).await {
                    tries += 1;
                    assert!(tries < 3, "{kind:?} after {bytes} bytes, {then:?}");
                }
                let took = started.elapsed();
                client.close().await;
                assert!(proxy.accepted.load(Ordering::SeqCst) <= 3);
                (first.is_err(), took)
            });
        }
    }
    let mut failed = 0;
    while let Some(case) = cases.join_next().await {
        let (is_failed, took) = case.unwrap();
        failed += usize::from(is_failed);
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
    // The sweep must reach both into the handshake and behind the first event.
    assert!((40..130).contains(&failed), "{failed}");
}

#[tokio::test]
async fn tls_trusts_nobody_without_a_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(
        rustls::crypto::aws_lc_rs::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key.into())
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(
                acceptor.accept(stream).await.is_err(),
                "the client trusted us"
            );
        }
    });
    // A real self-signed certificate for this very name, and still nobody's word for it.
    let text = format!("Endpoint=sb://localhost:{port};SharedAccessKeyName=n;SharedAccessKey=k");
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap();
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Certificate, "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("certificate"), "{source}");
    assert!(server.try_join_next().is_none());
}

/// The platform's trust is a matter of the process, so the client runs in a second one that trusts our
/// authority.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn tls_trusts_the_platform_and_checks_the_name() {
    let authority = Authority::new();
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    emulator.send(HUB, Some("0"), Event::new("x")).unwrap();
    let front = TlsFront::start(emulator.amqp_addr(), &authority, "localhost", None).await;
    let port = front.port;
    let trusted = std::env::temp_dir().join(format!("ehp-{port}-{}.pem", std::process::id()));
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64::engine::general_purpose::STANDARD.encode(authority.der())
    );
    std::fs::write(&trusted, pem).unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "--ignored", "network::client_that_trusts_us"])
        .env("SSL_CERT_FILE", &trusted)
        .env("EHP_TEST_TLS_PORT", port.to_string());
    let output = timeout(Duration::from_secs(30), child.output())
        .await
        .unwrap()
        .unwrap();
    std::fs::remove_file(&trusted).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
#[ignore = "a part of tls_trusts_the_platform_and_checks_the_name"]
async fn client_that_trusts_us() {
    let port = std::env::var("EHP_TEST_TLS_PORT").unwrap();
    let client = |host| {
        let text = format!("Endpoint=sb://{host}:{port};SharedAccessKeyName=n;SharedAccessKey=k");
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap()
    };
    let good = client("localhost");
    open_and_receive(&good, "0").await.unwrap();
    good.close().await;
    // The same server under a name that the certificate does not cover.
    let error = client("127.0.0.1")
        .event_hub_properties()
        .await
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("certificate"), "{source}");
}

/// The emulator's authority is trusted, so that one thing alone is wrong with each certificate.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn tls_refuses_a_bad_certificate_whoever_signed_it() {
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_tls_port(0)
        .start()
        .await
        .unwrap();
    let port = emulator.tls_addr().unwrap().port();
    let trusted = std::env::temp_dir().join(format!("ehp-{port}-{}.pem", std::process::id()));
    std::fs::write(&trusted, emulator.ca_certificate_pem().unwrap()).unwrap();
    for (fault, told) in [
        (None, "connected"),
        (Some(TlsFault::Expired), "Expired"),
        (Some(TlsFault::NotYetValid), "NotValidYet"),
        (Some(TlsFault::SelfSigned), "UnknownIssuer"),
        (Some(TlsFault::UnknownAuthority), "UnknownIssuer"),
        (Some(TlsFault::WrongName), "NotValidForName"),
        (Some(TlsFault::OldVersion), "PeerIncompatible"),
    ] {
        emulator.faults().clear();
        if let Some(fault) = fault {
            emulator.faults().disturb_tls(fault, u32::MAX);
        }
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("network::client_that_tells_how_tls_went")
            .env("SSL_CERT_FILE", &trusted)
            .env("EHP_TEST_TLS_PORT", port.to_string());
        let output = timeout(Duration::from_secs(30), child.output());
        let output = output.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{fault:?}: {output:?}");
        assert!(text.contains(&format!("TLS: {told}")), "{fault:?}: {text}");
    }
    std::fs::remove_file(&trusted).unwrap();
}

#[tokio::test]
#[ignore = "a part of tls_refuses_a_bad_certificate_whoever_signed_it"]
#[allow(clippy::print_stdout, reason = "the test that starts it reads this")]
async fn client_that_tells_how_tls_went() {
    let port = std::env::var("EHP_TEST_TLS_PORT").unwrap();
    let text = format!("Endpoint=sb://localhost:{port};SharedAccessKeyName=n;SharedAccessKey=k");
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap();
    let Err(error) = client.event_hub_properties().await else {
        println!("TLS: connected");
        return;
    };
    assert!(
        matches!(error.kind(), Kind::Certificate | Kind::ConnectionLost),
        "{error}"
    );
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && let Some(tls) = error
                .get_ref()
                .and_then(|e| e.downcast_ref::<rustls::Error>())
        {
            println!(
                "TLS: {}",
                format!("{tls:?}").replace("InvalidCertificate(", "")
            );
            return;
        }
        cause = error.source();
    }
    panic!("no TLS error in {error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to_in_the_clear() {
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let text = emulator.event_hubs_connection_string().replace(
        "UseDevelopmentEmulator=true",
        "UseDevelopmentEmulator=false",
    );
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), options()).unwrap();
    let error = client.event_hub_properties().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn closing_lets_go_of_a_peer_that_never_answers() {
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let proxy = Proxy::start(emulator.amqp_addr(), 1, 500, Then::Stall).await;
    let text = format!(
        "Endpoint=sb://localhost:{};SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true",
        proxy.addr.port()
    );
    // Nothing but the close itself can be what ends it.
    let patient = options().with_idle_timeout(Duration::from_secs(300));
    let client =
        AmqpTransport::from_connection_string_with_options(&text, Some(HUB), patient).unwrap();
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert_eq!(proxy.open.load(Ordering::SeqCst), 1);
    let started = Instant::now();
    client.close().await;
    assert!(started.elapsed() < Duration::from_secs(3));
    let mut waits = 0;
    while proxy.open.load(Ordering::SeqCst) > 0 {
        waits += 1;
        assert!(waits < 100, "the stream is held on to");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let proxy = Proxy::start(emulator.amqp_addr(), 0, 0, Then::Cut).await;
    let client = client(proxy.addr.port());
    let mut receiver = client.open_receiver(earliest("0")).await.unwrap();
    // Long enough for the session's first exchanges to be over.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = proxy.sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(4200)).await;
    let heartbeats = (proxy.sent.load(Ordering::SeqCst) - before) / 8;
    // Half of our idle timeout of two seconds.
    assert!((3..=5).contains(&heartbeats), "{heartbeats}");
    emulator.send(HUB, Some("0"), Event::new("x")).unwrap();
    receiver.receive(1).await.unwrap();
    assert_eq!(proxy.accepted.load(Ordering::SeqCst), 1);
    client.close().await;
}

#[tokio::test]
async fn closing_leaves_no_task_behind() {
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for kind in ["closed", "dropped"] {
        let client = client(emulator.amqp_addr().port());
        emulator.send(HUB, Some("0"), Event::new("x")).unwrap();
        open_and_receive(&client, "0").await.unwrap();
        client.event_hub_properties().await.unwrap();
        emulator.faults().drop_connections();
        client.event_hub_properties().await.unwrap();
        assert!(metrics.num_alive_tasks() > before);
        if kind == "closed" {
            client.close().await;
        }
        drop(client);
        let mut waits = 0;
        while metrics.num_alive_tasks() > before {
            waits += 1;
            assert!(
                waits < 100,
                "{kind}: {} left",
                metrics.num_alive_tasks() - before
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
