//! It is refused for good: one line says by whom and why, after one attempt.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::timeout;

use super::{Credential, KEY, LOCKED, PATIENCE, World};
use crate::support::proxy::{Proxy, Then};
use crate::support::tinyproxy::{Rules, Tinyproxy};
use crate::support::tls_front::{Authority, TlsFront};

/// The try timeout, of which an answer that comes at once needs little, even from a program on a busy machine.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs it to its end, which is a failure, and returns the one line about it.
async fn failure(mut command: Command) -> String {
    command
        .env("TRY_TIMEOUT_MS", TRY_TIMEOUT.as_millis().to_string())
        // The log is another matter: the platform's verifier of certificates writes to it, too.
        .env("RUST_LOG", "off");
    let started = Instant::now();
    let ended = timeout(PATIENCE, command.output()).await.unwrap();
    let Output {
        status,
        stdout,
        stderr,
        ..
    } = ended.unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed < TRY_TIMEOUT, "{elapsed:?}");
    let (stdout, stderr) = [stdout, stderr]
        .map(|text| String::from_utf8(text).unwrap())
        .into();
    assert!(!status.success(), "{stderr}");
    // No word on the way there.
    assert_eq!(stdout, "", "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    let [error] = lines[..] else {
        panic!("{stderr}");
    };
    assert!(error.starts_with("error: "), "{error}");
    assert!(!error.contains("canary"), "{error}");
    error.to_owned()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn where_there_is_no_trust_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let authority = Authority::new();
    let ca = world.ca.with_extension("other.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    for (transport, upstream) in [
        ("tcp", world.emulator.amqp_addr()),
        ("websockets", world.emulator.ws_addr().unwrap()),
    ] {
        let other = TlsFront::start(upstream, &authority, "other.invalid", None).await;
        let right = TlsFront::start(upstream, &authority, "localhost", None).await;
        for (front, ca, told) in [
            (&right, &world.ca, "authority that is not trusted"),
            (&other, &ca, "it is not for localhost but for"),
        ] {
            let mut command = world.consume(0, front.port, &Credential::Key(KEY));
            command
                .env("CA_CERTIFICATES", ca)
                .env("TRANSPORT_TYPE", transport)
                .env("PROXY", "none");
            let error = failure(command).await;
            assert!(error.contains("the certificate of localhost"), "{error}");
            assert!(error.contains(told), "{error}");
            assert_eq!(front.accepted(), 1, "{error}");
        }
    }
    std::fs::remove_file(ca).unwrap();
}

#[tokio::test]
async fn where_a_proxy_says_no_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let closed = Rules {
        only_port: Some(1),
        ..Rules::default()
    };
    for (rules, user, told) in [
        (LOCKED, "", "wants credentials"),
        (
            LOCKED,
            "canary-user:canary-wrong@",
            "does not accept the credentials",
        ),
        (closed, "", "does not allow it"),
    ] {
        let Some(proxy) = Tinyproxy::start(rules).await else {
            return;
        };
        for (transport, port) in [("tcp", world.tcp()), ("websockets", world.web())] {
            let mut command = world.consume(0, port, &Credential::Key(KEY));
            command
                .env("TRANSPORT_TYPE", transport)
                .env("PROXY", format!("http://{user}127.0.0.1:{}", proxy.port));
            let before = proxy.requests().len();
            let error = failure(command).await;
            let address = format!("the proxy 127.0.0.1:{} {told}", proxy.port);
            assert!(error.contains(&address), "{error}");
            assert_eq!(proxy.requests().len() - before, 1, "{error}");
        }
    }
}

/// AMQP gets through, requests to the store do not.
#[tokio::test]
async fn where_a_proxy_keeps_it_from_the_store_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let port = world.tcp();
    let rules = Rules {
        only_port: Some(port),
        ..Rules::default()
    };
    let Some(proxy) = Tinyproxy::start(rules).await else {
        return;
    };
    let store = world
        .emulator
        .storage_connection_string()
        .replace("BlobEndpoint=http://", "BlobEndpoint=https://");
    let mut command = world.consume(0, port, &Credential::Key(KEY));
    command
        .env("PROXY", proxy.address())
        .env("STORAGE_CONNECTION_STRING", store);
    let error = failure(command).await;
    let told = format!("the proxy 127.0.0.1:{} does not allow it", proxy.port);
    assert!(error.contains(&told), "{error}");
    // For the event hub, for the store, and for the reason.
    assert_eq!(proxy.requests().len(), 3, "{error}");
}

#[tokio::test]
async fn where_nobody_believes_who_it_is_it_says_so_after_one_attempt() {
    let world = World::new(1, true).await;
    let scope = "https://eventhubs.azure.net//.default";
    let expired = world.emulator.issue_token(scope, Duration::ZERO);
    std::fs::write(&world.token, &expired).unwrap();
    let mut refused = 0;
    for (transport, port) in [("tcp", world.tcp()), ("websockets", world.web())] {
        for (credential, told) in [
            (Credential::Key("canary-wrong"), "invalid signature"),
            (Credential::Signature(-60), "expired"),
            (Credential::Token, "expired"),
        ] {
            let front = Proxy::start(local(port), 0, 0, Then::Cut).await;
            let mut command = world.consume(0, front.addr.port(), &credential);
            command
                .env("TRANSPORT_TYPE", transport)
                .env("PROXY", "none");
            let error = failure(command).await;
            assert!(error.contains("refused the credentials"), "{error}");
            assert!(error.contains(told), "{error}");
            assert!(!error.contains(&expired), "{error}");
            assert_eq!(front.accepted.load(Ordering::SeqCst), 1, "{error}");
            // What it knows to have ended it does not even send.
            refused += u64::from(!matches!(credential, Credential::Signature(_)));
            assert_eq!(world.emulator.amqp_requests().tokens_refused, refused);
        }
    }
    assert_eq!(world.emulator.amqp_requests().tokens_accepted, 0);
}
