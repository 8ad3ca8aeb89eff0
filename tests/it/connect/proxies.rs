//! Through an HTTP proxy: tinyproxy, which counts how often it is asked.

use std::time::{Duration, Instant};

use eventhubs_emulator::Emulator;
use eventhubs_processor::error::{TransportError, TransportErrorKind as Kind};
use eventhubs_processor::network::{HttpProxy, Proxy};
use eventhubs_processor::transport::{AmqpOptions, Transport as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{PROXY_VARIABLES, client, emulator, options, receive, trust, web_sockets};
use crate::support::tinyproxy::{Rules, Tinyproxy};
use crate::support::tls_front::{Authority, TlsFront};

const USER: &str = "canary-user";
const PASSWORD: &str = "canary-password";

const LOCKED: Rules = Rules {
    credentials: Some((USER, PASSWORD)),
    only_port: None,
    forbids_all: false,
};

/// Both transports, with the ports that they are at.
fn transports(emulator: &Emulator) -> [(u16, AmqpOptions); 2] {
    [
        (emulator.tls_addr().unwrap().port(), options()),
        (emulator.wss_addr().unwrap().port(), web_sockets()),
    ]
}

/// Asks for something through a proxy, once.
async fn ask(
    emulator: &Emulator,
    port: u16,
    options: AmqpOptions,
    proxy: impl Into<Proxy>,
) -> Result<(), TransportError> {
    let options = options.with_tls(trust(emulator)).with_proxy(proxy);
    let client = client(&format!("localhost:{port}"), options);
    let asked = timeout(Duration::from_secs(11), client.event_hub_properties());
    asked
        .await
        .expect("within the timeout of an operation")
        .map(drop)
}

#[tokio::test]
async fn events_come_through_a_proxy_on_both_transports() {
    let emulator = emulator().await;
    for rules in [Rules::default(), LOCKED] {
        let Some(tinyproxy) = Tinyproxy::start(rules).await else {
            return;
        };
        let mut proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
        if let Some((user, password)) = rules.credentials {
            proxy = proxy.with_credentials(user, password);
        }
        for (port, options) in transports(&emulator) {
            let options = options.with_tls(trust(&emulator)).with_proxy(proxy.clone());
            let client = client(&format!("localhost:{port}"), options);
            assert_eq!(receive(&client).await.unwrap(), "x");
            client.close().await;
            let asked = format!("CONNECT localhost:{port} HTTP/1.1");
            assert_eq!(tinyproxy.requests().last(), Some(&asked));
        }
        assert_eq!(tinyproxy.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_proxy_may_itself_be_spoken_to_over_tls() {
    let emulator = emulator().await;
    let Some(tinyproxy) = Tinyproxy::start(LOCKED).await else {
        return;
    };
    let authority = Authority::new();
    let upstream = ([127, 0, 0, 1], tinyproxy.port).into();
    let front = TlsFront::start(upstream, &authority, "localhost", None).await;
    let proxy = HttpProxy::new(&format!("https://localhost:{}", front.port))
        .unwrap()
        .with_credentials(USER, PASSWORD);
    for (port, options) in transports(&emulator) {
        let options = options.with_proxy(proxy.clone());
        let tls = trust(&emulator);
        // Of those two, the proxy is the first whom it has to trust.
        let untrusted = client(
            &format!("localhost:{port}"),
            options.clone().with_tls(tls.clone()),
        );
        let error = receive(&untrusted).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Certificate, "{error}");
        let tls = tls.with_ca_certificates(authority.der()).unwrap();
        let client = client(&format!("localhost:{port}"), options.with_tls(tls));
        assert_eq!(receive(&client).await.unwrap(), "x");
        client.close().await;
    }
    assert_eq!(tinyproxy.requests().len(), 2);
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_is_asked_once_and_named_without_them() {
    let emulator = emulator().await;
    let Some(tinyproxy) = Tinyproxy::start(LOCKED).await else {
        return;
    };
    let open = HttpProxy::new(&tinyproxy.address()).unwrap();
    let wrong = open.clone().with_credentials(USER, "canary-wrong");
    let mut times = 0;
    for (port, options) in transports(&emulator) {
        for (proxy, told) in [(&open, "wants credentials"), (&wrong, "does not accept")] {
            let error = ask(&emulator, port, options.clone(), proxy.clone())
                .await
                .unwrap_err();
            times += 1;
            assert_eq!(error.kind(), Kind::Proxy, "{error}");
            let text = format!("{error} {error:?}");
            assert!(
                text.contains(told) && text.contains(&open.to_string()),
                "{text}"
            );
            assert!(
                !text.contains("canary") && !text.contains("Basic"),
                "{text}"
            );
            assert_eq!(tinyproxy.requests().len(), times);
        }
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_allow_it_is_asked_once() {
    let emulator = emulator().await;
    let rules = Rules {
        only_port: Some(1),
        ..Rules::default()
    };
    let Some(tinyproxy) = Tinyproxy::start(rules).await else {
        return;
    };
    let proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
    for (times, (port, options)) in (1..).zip(transports(&emulator)) {
        let error = ask(&emulator, port, options, proxy.clone())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Proxy, "{error}");
        assert!(error.to_string().contains("HTTP 403"), "{error}");
        assert_eq!(tinyproxy.requests().len(), times);
    }
}

#[tokio::test]
async fn what_a_proxy_cannot_reach_and_a_proxy_that_is_not_reached_are_lost_connections() {
    let emulator = emulator().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let absent = HttpProxy::new(&format!("127.0.0.1:{port}")).unwrap();
    let error = ask(&emulator, 5671, options(), absent).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
    assert!(
        error.to_string().contains("the proxy is not reached"),
        "{error}"
    );

    let Some(tinyproxy) = Tinyproxy::start(Rules::default()).await else {
        return;
    };
    let proxy = HttpProxy::new(&tinyproxy.address()).unwrap();
    let error = ask(&emulator, port, options(), proxy).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
    assert!(error.to_string().contains("did not get through"), "{error}");
    assert!(error.is_transient());
    assert_eq!(tinyproxy.requests().len(), 1);
}

#[tokio::test]
async fn whoever_does_not_answer_is_waited_for_once_and_not_for_long() {
    let emulator = emulator().await;
    // Connections are made, by the system, and nobody ever says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let patience = Duration::from_secs(1);
    let silent_proxy = HttpProxy::new(&format!("127.0.0.1:{port}")).unwrap();
    let mut times = 0;
    for options in [options(), web_sockets()] {
        for proxy in [Proxy::Direct, silent_proxy.clone().into()] {
            let options = options.clone().with_connect_timeout(patience);
            let started = Instant::now();
            let error = ask(&emulator, port, options, proxy).await.unwrap_err();
            times += 1;
            assert_eq!(error.kind(), Kind::Timeout, "{error}");
            assert!(
                error.to_string().contains(&format!("localhost:{port}")),
                "{error}"
            );
            assert!(started.elapsed() >= patience);
        }
    }
    let mut accepted = 0;
    while timeout(Duration::from_millis(50), silent.accept())
        .await
        .is_ok()
    {
        accepted += 1;
    }
    assert_eq!(accepted, times);
}

/// The environment is a matter of the process, so the client runs in others.
#[tokio::test]
async fn the_environment_names_the_proxy_and_who_goes_without() {
    let emulator = emulator().await;
    let Some(tinyproxy) = Tinyproxy::start(LOCKED).await else {
        return;
    };
    let ca = std::env::temp_dir().join(format!("ehp-ca-{}-{}", std::process::id(), tinyproxy.port));
    std::fs::write(&ca, emulator.ca_certificate_pem().unwrap()).unwrap();
    let proxy = format!("http://{USER}:{PASSWORD}@127.0.0.1:{}", tinyproxy.port);
    let nobody = "http://127.0.0.1:1".to_owned();
    let cases: [(&[(&str, &str)], usize); 6] = [
        (&[], 0),
        (&[("HTTPS_PROXY", &proxy)], 1),
        (&[("https_proxy", &proxy), ("HTTP_PROXY", &nobody)], 1),
        (&[("ALL_PROXY", &proxy)], 1),
        (&[("HTTPS_PROXY", &proxy), ("ALL_PROXY", &nobody)], 1),
        (
            &[("HTTPS_PROXY", &nobody), ("NO_PROXY", "other,localhost")],
            0,
        ),
    ];
    for (variables, times) in cases {
        let before = tinyproxy.requests().len();
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "--ignored"])
            .arg("connect::proxies::client_that_looks_at_the_environment")
            .env("EHP_TEST_CA", &ca)
            .env(
                "EHP_TEST_PORT",
                emulator.tls_addr().unwrap().port().to_string(),
            );
        for name in PROXY_VARIABLES {
            child.env_remove(name);
        }
        child.envs(variables.iter().copied());
        let output = timeout(Duration::from_secs(30), child.output());
        let output = output.await.unwrap().unwrap();
        assert!(output.status.success(), "{variables:?}: {output:?}");
        assert_eq!(tinyproxy.requests().len() - before, times, "{variables:?}");
    }
    std::fs::remove_file(&ca).unwrap();
}

#[tokio::test]
#[ignore = "a part of the_environment_names_the_proxy_and_who_goes_without"]
async fn client_that_looks_at_the_environment() {
    let port = std::env::var("EHP_TEST_PORT").unwrap();
    let ca = std::fs::read(std::env::var("EHP_TEST_CA").unwrap()).unwrap();
    let tls = eventhubs_processor::TlsOptions::default()
        .with_ca_certificates(ca)
        .unwrap();
    let client = client(&format!("localhost:{port}"), options().with_tls(tls));
    assert_eq!(receive(&client).await.unwrap(), "x");
    client.close().await;
}
