//! Blobs take the same ways, over both client libraries.

use std::net::SocketAddr;
use std::time::Duration;

use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::{BlobBackend, BlobCheckpointStoreOptions};
use eventhubs_processor::error::StoreErrorKind as Kind;
use eventhubs_processor::network::{HttpProxy, Proxy, TlsOptions};
use eventhubs_processor::{BlobCheckpointStore, CheckpointStore as _, GroupScope, StoreError};

use crate::support::tinyproxy::{Rules, Tinyproxy};
use crate::support::tls_front::{Authority, TlsFront};

const CONTAINER: &str = "checkpoints";

async fn emulator() -> (Emulator, SocketAddr) {
    let emulator = Emulator::builder()
        .with_container(CONTAINER)
        .start()
        .await
        .unwrap();
    let address = emulator.blob_addr();
    (emulator, address)
}

fn backends() -> [BlobCheckpointStoreOptions; 2] {
    [BlobBackend::Supported, BlobBackend::Legacy].map(|backend| {
        BlobCheckpointStoreOptions::default()
            .with_backend(backend)
            .with_try_timeout(Duration::from_secs(5))
    })
}

/// Lists through a front, or whatever else is at that port.
async fn list(
    emulator: &Emulator,
    scheme: &str,
    port: u16,
    options: BlobCheckpointStoreOptions,
) -> Result<(), StoreError> {
    let text = emulator.storage_connection_string();
    let (before, endpoint) = text.split_once("BlobEndpoint=").unwrap();
    let (_, account) = endpoint.rsplit_once('/').unwrap();
    let text = format!("{before}BlobEndpoint={scheme}://localhost:{port}/{account}");
    let store = BlobCheckpointStore::from_connection_string_with_options(&text, CONTAINER, options)
        .unwrap();
    let scope = GroupScope::new("ns", "hub", "group");
    store.list_ownership(&scope).await.map(drop)
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions::default()
        .with_ca_certificates(authority.der())
        .unwrap()
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_nobody_else() {
    let (emulator, blobs) = emulator().await;
    let authority = Authority::new();
    for options in backends() {
        let front = TlsFront::start(blobs, &authority, "localhost", None).await;
        let trusting_options = options.clone().with_tls(trusting(&authority));
        list(&emulator, "https", front.port, trusting_options.clone())
            .await
            .unwrap();
        let other = TlsFront::start(blobs, &authority, "other.invalid", None).await;
        for (front, options, told) in [
            (&front, options.clone(), "not trusted"),
            (&other, trusting_options, "not for localhost but for"),
        ] {
            let before = front.accepted();
            let error = list(&emulator, "https", front.port, options)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Certificate, "{error}");
            assert!(error.to_string().contains(told), "{error}");
            assert!(!error.is_transient());
            assert_eq!(front.accepted() - before, 1, "one attempt");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_way() {
    let (emulator, blobs) = emulator().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let front = TlsFront::start(blobs, &authority, "localhost", Some(&clients)).await;
    let (certificate, key) = clients.issue("consumer");
    let known = trusting(&authority)
        .with_client_certificate(certificate.pem(), key.serialize_pem())
        .unwrap();
    for options in backends() {
        let shown = options.clone().with_tls(known.clone());
        list(&emulator, "https", front.port, shown).await.unwrap();
        let options = options.with_tls(trusting(&authority));
        let error = list(&emulator, "https", front.port, options)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Certificate, "{error}");
        assert!(error.to_string().contains("client certificate"), "{error}");
    }
}

#[tokio::test]
async fn blobs_come_through_a_proxy_with_and_without_tls() {
    let (emulator, blobs) = emulator().await;
    let authority = Authority::new();
    let front = TlsFront::start(blobs, &authority, "localhost", None).await;
    let rules = Rules {
        credentials: Some(("canary-user", "canary-password")),
        ..Rules::default()
    };
    let Some(tinyproxy) = Tinyproxy::start(rules).await else {
        return;
    };
    let open = HttpProxy::new(&tinyproxy.address()).unwrap();
    let known = open
        .clone()
        .with_credentials("canary-user", "canary-password");
    let mut times = 0;
    for options in backends() {
        let options = options.with_tls(trusting(&authority));
        for (scheme, port, method) in [
            ("https", front.port, "CONNECT"),
            ("http", blobs.port(), "GET"),
        ] {
            let with = |proxy: &HttpProxy| options.clone().with_proxy(proxy.clone());
            list(&emulator, scheme, port, with(&known)).await.unwrap();
            times += 1;
            let requests = tinyproxy.requests();
            assert_eq!(requests.len(), times);
            assert!(requests[times - 1].starts_with(method), "{requests:?}");

            let error = list(&emulator, scheme, port, with(&open))
                .await
                .unwrap_err();
            times += 1;
            assert_eq!(error.kind(), Kind::Proxy, "{error}");
            let text = format!("{error} {error:?}");
            let told = format!("the proxy {open} wants credentials");
            assert!(text.contains(&told), "{text}");
            assert!(!text.contains("canary"), "{text}");
            assert_eq!(tinyproxy.requests().len(), times, "one attempt");
        }
        let direct = options.with_proxy(Proxy::Direct);
        list(&emulator, "http", blobs.port(), direct).await.unwrap();
    }
}

/// What a proxy answers to `CONNECT` the HTTP client does not say, so the proxy is asked once more.
const ASKED: [(&str, usize); 2] = [("https", 2), ("http", 1)];

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_the_reason_and_not_tried_again() {
    let (emulator, blobs) = emulator().await;
    let forbidding = Rules {
        forbids_all: true,
        ..Rules::default()
    };
    let locked = Rules {
        credentials: Some(("canary-user", "canary-password")),
        ..Rules::default()
    };
    for (rules, told) in [
        (forbidding, "does not allow it (HTTP 403)"),
        // That is how it says no to wrong ones.
        (locked, "does not accept the credentials (HTTP 401)"),
    ] {
        let Some(tinyproxy) = Tinyproxy::start(rules).await else {
            return;
        };
        let mut proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
        if rules.credentials.is_some() {
            proxy = proxy.with_credentials("canary-user", "canary-wrong");
        }
        let mut times = 0;
        for options in backends() {
            let options = options.with_proxy(proxy.clone());
            for (scheme, asked) in ASKED {
                let error = list(&emulator, scheme, blobs.port(), options.clone())
                    .await
                    .unwrap_err();
                assert_eq!(error.kind(), Kind::Proxy, "{scheme}: {error}");
                assert!(!error.is_transient());
                let text = format!("{error} {error:?}");
                let told = format!("the proxy {proxy} {told}");
                assert!(text.contains(&told), "{scheme}: {text}");
                assert!(
                    !text.contains("canary") && !text.contains("Basic"),
                    "{text}"
                );
                times += asked;
                assert_eq!(tinyproxy.requests().len(), times, "{scheme}");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_may_itself_be_spoken_to_over_tls() {
    let (emulator, blobs) = emulator().await;
    let rules = Rules {
        forbids_all: true,
        ..Rules::default()
    };
    let Some(tinyproxy) = Tinyproxy::start(rules).await else {
        return;
    };
    let authority = Authority::new();
    let upstream = ([127, 0, 0, 1], tinyproxy.port).into();
    let front = TlsFront::start(upstream, &authority, "localhost", None).await;
    let proxy = HttpProxy::new(&format!("https://localhost:{}", front.port)).unwrap();
    for options in backends() {
        let options = options
            .with_proxy(proxy.clone())
            .with_tls(trusting(&authority));
        for (scheme, _) in ASKED {
            let error = list(&emulator, scheme, blobs.port(), options.clone())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Proxy, "{scheme}: {error}");
            assert!(error.to_string().contains("HTTP 403"), "{scheme}: {error}");
        }
    }
}

#[tokio::test]
async fn what_a_proxy_cannot_reach_is_tried_again_and_told_as_what_may_pass() {
    let (emulator, _) = emulator().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let Some(tinyproxy) = Tinyproxy::start(Rules::default()).await else {
        return;
    };
    let proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
    let mut times = 0;
    for options in backends() {
        let options = options.with_proxy(proxy.clone());
        for (scheme, asked) in ASKED {
            let error = list(&emulator, scheme, port, options.clone())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{scheme}: {error}");
            assert!(error.is_transient());
            let told = format!("the proxy {proxy} did not get through (HTTP 5");
            assert!(error.to_string().contains(&told), "{scheme}: {error}");
            // With the one retry.
            times += 2 * asked;
            assert_eq!(tinyproxy.requests().len(), times, "{scheme}");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_account_is_not_taken_for_one_of_the_proxy() {
    let (emulator, blobs) = emulator().await;
    let authority = Authority::new();
    let front = TlsFront::start(blobs, &authority, "localhost", None).await;
    let Some(tinyproxy) = Tinyproxy::start(Rules::default()).await else {
        return;
    };
    let proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
    for options in backends() {
        let options = options
            .with_proxy(proxy.clone())
            .with_tls(trusting(&authority));
        for (scheme, port) in [("https", front.port), ("http", blobs.port())] {
            list(&emulator, scheme, port, options.clone())
                .await
                .unwrap();
            let faults = emulator.blob_faults();
            faults.fail_next(1, 403, "AuthenticationFailed", None);
            let error = list(&emulator, scheme, port, options.clone())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorized, "{scheme}: {error}");
            assert!(!error.to_string().contains("proxy"), "{scheme}: {error}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_reached_is_named() {
    let (emulator, blobs) = emulator().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let absent = HttpProxy::new(&format!("http://u:canary@{address}")).unwrap();
    for options in backends() {
        let options = options.with_proxy(absent.clone());
        let error = list(&emulator, "https", blobs.port(), options)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
