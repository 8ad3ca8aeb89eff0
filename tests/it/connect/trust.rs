//! Authorities and certificates of one's own.

use std::net::SocketAddr;

use eventhubs_emulator::TlsFault;
use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::network::TlsOptions;
use eventhubs_processor::transport::{AmqpTransport, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::tls_front::{Authority, TlsFront};

use super::{HUB, NAMESPACE, client, emulator, options, receive, trust, web_sockets};

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_besides_the_platforms_or_in_their_place() {
    let emulator = emulator().await;
    let address = format!("localhost:{}", emulator.tls_addr().unwrap().port());
    for tls in [
        trust(&emulator),
        trust(&emulator).with_platform_trust(false),
    ] {
        let client = client(&address, options().with_tls(tls));
        assert_eq!(receive(&client).await.unwrap(), "x");
        client.close().await;
    }
}

#[tokio::test]
async fn a_bad_certificate_is_told_for_what_it_is_after_one_attempt() {
    let emulator = emulator().await;
    let ports = [
        (emulator.tls_addr().unwrap().port(), options()),
        (emulator.wss_addr().unwrap().port(), web_sockets()),
    ];
    for (port, options) in ports {
        for (fault, told) in [
            (TlsFault::Expired, "has expired"),
            (TlsFault::NotYetValid, "not valid yet"),
            (TlsFault::SelfSigned, "not trusted"),
            (TlsFault::UnknownAuthority, "not trusted"),
            (TlsFault::WrongName, "not for localhost but for"),
        ] {
            emulator.faults().clear();
            emulator.faults().disturb_tls(fault, 1);
            let tls = trust(&emulator);
            let client = client(&format!("localhost:{port}"), options.clone().with_tls(tls));
            let error = client.event_hub_properties().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Certificate, "{fault:?}: {error}");
            assert!(!error.is_transient());
            assert!(error.to_string().contains(told), "{fault:?}: {error}");
            // The fault was for one attempt, and there was no other.
            client.event_hub_properties().await.unwrap();
            client.close().await;
        }
    }
}

#[tokio::test]
async fn without_its_authority_nobody_is_trusted() {
    let emulator = emulator().await;
    let port = emulator.tls_addr().unwrap().port();
    let other = rcgen::generate_simple_self_signed([NAMESPACE.to_owned()]).unwrap();
    let strangers = TlsOptions::default()
        .with_ca_certificates(other.cert.der())
        .unwrap();
    for tls in [TlsOptions::default(), strangers] {
        let client = client(&format!("localhost:{port}"), options().with_tls(tls));
        let error = client.event_hub_properties().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Certificate, "{error}");
        assert!(error.to_string().contains("not trusted"), "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_way() {
    let emulator = emulator().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let trusting = TlsOptions::default()
        .with_ca_certificates(authority.der())
        .unwrap();
    let shown = |of: &Authority| {
        let (certificate, key) = of.issue("consumer");
        trusting
            .clone()
            .with_client_certificate(certificate.pem(), key.serialize_pem())
            .unwrap()
    };
    for (upstream, options) in [
        (emulator.amqp_addr(), options()),
        (emulator.ws_addr().unwrap(), web_sockets()),
    ] {
        let front = TlsFront::start(upstream, &authority, "localhost", Some(&clients)).await;
        let ask = async |tls| {
            let client = client(
                &format!("localhost:{}", front.port),
                options.clone().with_tls(tls),
            );
            let answer = receive(&client).await;
            client.close().await;
            answer
        };
        assert_eq!(ask(shown(&clients)).await.unwrap(), "x");
        for tls in [trusting.clone(), shown(&authority)] {
            let before = front.accepted();
            let error = ask(tls).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Certificate, "{error:?}");
            assert!(error.to_string().contains("client certificate"), "{error}");
            assert_eq!(front.accepted() - before, 1, "one attempt");
        }
    }
}

#[tokio::test]
async fn a_custom_endpoint_is_dialled_and_the_namespace_is_meant() {
    let emulator = emulator().await;
    let tcp = format!("sb://localhost:{}", emulator.tls_addr().unwrap().port());
    let web = format!("localhost:{}", emulator.wss_addr().unwrap().port());
    for (address, options) in [(tcp, options()), (web, web_sockets())] {
        let options = options
            .with_tls(trust(&emulator))
            .with_custom_endpoint_address(address);
        // Nobody answers to this name, and the token is for it.
        let client = client(NAMESPACE, options);
        assert_eq!(receive(&client).await.unwrap(), "x");
        assert_eq!(client.fully_qualified_namespace(), NAMESPACE);
        client.close().await;
    }
}

#[tokio::test]
async fn the_certificate_must_be_for_the_custom_endpoint() {
    let emulator = emulator().await;
    let authority = Authority::new();
    let tls = TlsOptions::default()
        .with_ca_certificates(authority.der())
        .unwrap();
    for (upstream, options) in [
        (emulator.amqp_addr(), options()),
        (emulator.ws_addr().unwrap(), web_sockets()),
    ] {
        for (name, is_good) in [("localhost", true), (NAMESPACE, false)] {
            let front = TlsFront::start(upstream, &authority, name, None).await;
            let options = options
                .clone()
                .with_tls(tls.clone())
                .with_custom_endpoint_address(format!("localhost:{}", front.port));
            let client = client(NAMESPACE, options);
            match receive(&client).await {
                Ok(_) => assert!(is_good, "{name}"),
                Err(error) => {
                    assert!(!is_good, "{error}");
                    assert_eq!(error.kind(), Kind::Certificate, "{error}");
                }
            }
            client.close().await;
        }
    }
}

/// Passes a connection on and keeps what the client has sent.
async fn eavesdropper(upstream: SocketAddr) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from, mut back) = client.into_split();
        let upstream = TcpStream::connect(upstream).await.unwrap();
        let (mut answers, mut to) = upstream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut heard = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buf).await {
            heard.extend_from_slice(&buf[..count]);
            to.write_all(&buf[..count]).await.unwrap();
        }
        heard
    });
    (port, heard)
}

#[tokio::test]
async fn to_the_service_a_custom_endpoint_is_not_mentioned() {
    let emulator = emulator().await;
    let (port, heard) = eavesdropper(emulator.amqp_addr()).await;
    let text = format!(
        "Endpoint=sb://{NAMESPACE};SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    );
    let options = options().with_custom_endpoint_address(format!("localhost:{port}"));
    let client = AmqpTransport::from_connection_string_with_options(&text, HUB, options).unwrap();
    assert_eq!(receive(&client).await.unwrap(), "x");
    client.close().await;
    let heard = heard.await.unwrap();
    let has = |text: &[u8]| heard.windows(text.len()).any(|part| part == text);
    // The host name of the connection with its length before it, and the audience of the token.
    let length = u8::try_from(NAMESPACE.len()).unwrap();
    let host_name = [&[0xa1, length], NAMESPACE.as_bytes()].concat();
    assert!(has(&host_name));
    assert!(has(format!("sb://{NAMESPACE}/{HUB}/").as_bytes()));
    assert!(!has(b"localhost"));
}
