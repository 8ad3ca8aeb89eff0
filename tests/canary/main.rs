//! No key, signature, token or body shows anywhere: not in the log of any crate at its finest, not in an error, a panic,
//! a metric or a `Debug` form. A program of its own, because it listens to the whole process.
//!
//! A new kind of secret is a line in [`SECRETS`] and whatever uses it; a new public type that holds one, a line in
//! [`shown_types`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod capture;
mod needles;
mod ways;
mod work;

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::{BlobBackend, BlobCheckpointStoreOptions};
use eventhubs_processor::credential::azure_identity::EntraCredential;
use eventhubs_processor::credential::{
    AccessToken, EventHubsConnectionString, EventHubsCredential, IssuerRefusal, NamedKeyCredential,
    Secret, StorageConnectionString, StorageCredential, TokenCredential,
};
use eventhubs_processor::transport::ReceiverOptions;
use eventhubs_processor::{
    AmqpTransport, BlobCheckpointStore, BlobDeadLetters, BoxError, CheckpointStore, EventPosition,
    GroupScope, Transport,
};

use self::capture::Capture;
use self::needles::{Needles, shown};
use self::ways::ClientKey;

const HUB: &str = "hub";
const LETTERS: &str = "letters";

const KEY: &str = "canary-key-of-the-event-hub";
const WRONG_KEY: &str = "canary-key-that-is-wrong";
const SIGNATURE: &str = "canary/signature+of/the+event/hub";
const MINTED: &str = "canary/signature+that-is/minted";
const NEXT_KEY: &str = "canary-key-that-replaces-the-other";
/// Of an application, at Microsoft Entra ID.
const CLIENT_SECRET: &str = "canary~secret.of-the_client";
const TOKEN: &str = "canary.token.of.the.issuer";
/// In base64, as keys of accounts are.
const WRONG_STORAGE_KEY: &str = "Y2FuYXJ5LWtleS1vZi1hbi1hY2NvdW50LXRoYXQtaXMtd3Jvbmc=";
/// Holds what has to be percent-encoded in an address.
const PROXY_PASSWORD: &str = "canary/password-of-the-proxy";
const STORAGE_SIGNATURE: &str = "canary/signature+of/the+container";
const BODY: &str = "canary in a body";
const PROPERTY: &str = "canary in a property";
const UNDECODABLE: &str = "canary in what is no event";

/// All secrets. Those that are made from them, such as signatures, show by their marks.
const SECRETS: [(&str, &str); 13] = [
    ("the key", KEY),
    ("the wrong key", WRONG_KEY),
    ("the signature", SIGNATURE),
    ("the minted signature", MINTED),
    ("the next key", NEXT_KEY),
    ("the secret of the client", CLIENT_SECRET),
    ("the token", TOKEN),
    ("the wrong key of the account", WRONG_STORAGE_KEY),
    ("the signature of the container", STORAGE_SIGNATURE),
    ("the password of the proxy", PROXY_PASSWORD),
    ("a body", BODY),
    ("a property", PROPERTY),
    ("an undecodable message", UNDECODABLE),
];

/// No secret: it is in the span around the call of the handler.
const TRACE_PARENT: &str =
    "traceparent=\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"";
pub(crate) const STOLEN: &str = "another receiver took the partition";

/// What the run is about, by a text that only the log of it has.
const TOLD: [&str; 17] = [
    "eventhubs_processor::load_balancer",
    "eventhubs_processor::processor",
    "eventhubs_processor::handler",
    "eventhubs_processor::transport",
    "eventhubs_processor::transport::frames",
    "eventhubs_emulator",
    "tungstenite",
    "hyper_util",
    "reqwest",
    "azure_core",
    "panic: ",
    "metric Key",
    TRACE_PARENT,
    STOLEN,
    "407",
    "the service refused the credentials",
    "cannot be decoded",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_shows() {
    let capture = Capture::start();
    let emulator = Emulator::builder()
        .with_hub(HUB, 2)
        .with_hub(LETTERS, 1)
        .with_container("checkpoints")
        .with_sas_key("listen", KEY)
        .start()
        .await
        .unwrap();
    let storage = emulator.storage_connection_string();
    let client = ClientKey::generate();
    ways::over_tls(&capture, &client).await;
    ways::through_proxies(&capture).await;
    shown_types(&capture, &emulator);
    refused_by_event_hubs(&capture, &emulator).await;
    admitted_by_event_hubs(&capture).await;
    for backend in [BlobBackend::Supported, BlobBackend::Legacy] {
        refused_by_blobs(&capture, &storage, backend).await;
        work::run(&capture, &emulator, backend).await;
    }
    emulator.stop().await;

    let key_of_the_account = StorageKey::of(&storage);
    let mut needles = vec![
        Needles::of("the key of the account", &key_of_the_account.0),
        Needles::of("the key of the client", &client.line),
    ];
    for (what, secret) in SECRETS {
        needles.push(Needles::of(what, secret));
    }
    let text = capture.text();
    let untold: Vec<_> = TOLD.iter().filter(|told| !text.contains(**told)).collect();
    assert!(untold.is_empty(), "not in the log: {untold:?}");
    let shown: BTreeSet<_> = shown(&needles, &text).into_iter().collect();
    assert!(shown.is_empty(), "{shown:#?}");
    // That it would have been seen.
    capture.add(&format!("and here it is: {KEY}"));
    assert_eq!(self::shown(&needles, &capture.text()).len(), 1);
}

/// The emulator has the account that every Azurite has.
struct StorageKey(String);

impl StorageKey {
    fn of(connection_string: &str) -> Self {
        let behind = connection_string.split("AccountKey=").nth(1).unwrap();
        Self(behind.split(';').next().unwrap().to_owned())
    }
}

#[derive(Debug)]
struct Issuer;

#[async_trait]
impl TokenCredential for Issuer {
    async fn token(&self, _: &str) -> Result<AccessToken, BoxError> {
        let token = AccessToken {
            token: Secret::new(TOKEN),
            expires_at: SystemTime::now() + Duration::from_secs(600),
        };
        tracing::info!(?token, "the issuer says what it issues");
        Ok(token)
    }
}

/// Refuses, and says so without what it was given.
#[derive(Debug)]
struct NoIssuer;

#[async_trait]
impl TokenCredential for NoIssuer {
    async fn token(&self, _: &str) -> Result<AccessToken, BoxError> {
        Err(IssuerRefusal::new("the issuer does not know the application").into())
    }
}

/// The ways in which a value can be printed.
pub(crate) fn print(capture: &Capture, value: &impl Debug) {
    capture.add(&format!("{value:?}"));
    capture.add(&format!("{value:#?}"));
}

pub(crate) fn print_error<E>(capture: &Capture, error: &E)
where
    E: std::error::Error + 'static,
{
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let both: (&dyn Display, &dyn Debug) = (&error, &error);
        capture.add(&format!("{} {:?} {:#?}", both.0, both.1, both.1));
        next = error.source();
    }
}

fn event_hubs_credentials() -> Vec<EventHubsCredential> {
    let signature = |signature| {
        format!(
            "SharedAccessSignature sr=sb%3A%2F%2Flocalhost%2F&sig={signature}&se=4102444800&skn=listen"
        )
    };
    let key = NamedKeyCredential::new("listen", WRONG_KEY);
    key.update("listen", NEXT_KEY);
    vec![
        EventHubsCredential::shared_access_key("listen", WRONG_KEY),
        EventHubsCredential::shared_access_key("nobody", WRONG_KEY),
        EventHubsCredential::named_key(key),
        EventHubsCredential::shared_access_signature(signature(SIGNATURE)).unwrap(),
        EventHubsCredential::renewable_signature(move |_| {
            let minted = signature(MINTED);
            async move { Ok(Secret::new(minted)) }
        }),
        EventHubsCredential::token(Arc::new(Issuer)),
        EventHubsCredential::token(Arc::new(NoIssuer)),
    ]
}

fn storage_credentials() -> Vec<StorageCredential> {
    let signature = |signature| format!("sv=2021-12-02&sr=c&sp=rwl&se=2099-01-01&sig={signature}");
    let key = NamedKeyCredential::new("devstoreaccount1", WRONG_STORAGE_KEY);
    vec![
        StorageCredential::account_key("devstoreaccount1", WRONG_STORAGE_KEY),
        StorageCredential::named_key(key),
        StorageCredential::shared_access_signature(signature(STORAGE_SIGNATURE)),
        StorageCredential::renewable_signature(move |_| {
            let minted = signature(MINTED);
            async move { Ok(Secret::new(minted)) }
        }),
        StorageCredential::token(Arc::new(Issuer)),
    ]
}

/// `Debug` forms of whatever holds a secret, and the errors about secrets that are none.
fn shown_types(capture: &Capture, emulator: &Emulator) {
    print(capture, &Secret::new(KEY));
    print(capture, &NamedKeyCredential::new("listen", KEY));
    let tenant = "00000000-0000-0000-0000-000000000000";
    let entra = EntraCredential::client_secret(tenant, "client", CLIENT_SECRET).unwrap();
    print(capture, &entra);
    let odd = EntraCredential::client_secret(CLIENT_SECRET, "", CLIENT_SECRET);
    capture.add(&format!("{:?}", odd.map_err(|_| "refused")));
    print(capture, &event_hubs_credentials());
    print(capture, &storage_credentials());
    let hubs = emulator.event_hubs_connection_string();
    let storage = emulator.storage_connection_string();
    print(capture, &EventHubsConnectionString::parse(&hubs).unwrap());
    print(capture, &StorageConnectionString::parse(&storage).unwrap());
    print(capture, &Emulator::builder().with_sas_key("listen", KEY));
    for text in [
        format!("SharedAccessKeyName=listen;SharedAccessKey={KEY}"),
        format!("Endpoint=sb://{KEY}/{KEY};SharedAccessKeyName=listen;SharedAccessKey={KEY}"),
        format!("{hubs};SharedAccessSignature={SIGNATURE}"),
        format!("{hubs};SharedAccessKey={KEY}"),
        format!("{hubs};{KEY}"),
    ] {
        print_error(
            capture,
            &EventHubsConnectionString::parse(&text).unwrap_err(),
        );
    }
    for text in [
        format!("{storage};{WRONG_STORAGE_KEY}"),
        format!("{storage};AccountKey={WRONG_STORAGE_KEY}"),
        format!("AccountName=a;AccountKey=!{STORAGE_SIGNATURE};BlobEndpoint=http://localhost"),
        format!("BlobEndpoint=http://localhost?sig={STORAGE_SIGNATURE};AccountName=a"),
    ] {
        match BlobCheckpointStore::from_connection_string(&text, "checkpoints") {
            Ok(store) => print(capture, &store),
            Err(error) => print_error(capture, &error),
        }
    }
    let odd = EventHubsCredential::shared_access_signature(format!("sig={SIGNATURE}"));
    print_error(capture, &odd.unwrap_err());
}

async fn refused_by_event_hubs(capture: &Capture, emulator: &Emulator) {
    let namespace = format!("localhost:{}", emulator.amqp_addr().port());
    let good = emulator.event_hubs_connection_string();
    for credential in event_hubs_credentials() {
        let transport = work::transport(emulator, HUB).with_credential(credential);
        print(capture, &transport);
        let error = transport.event_hub_properties().await.unwrap_err();
        print_error(capture, &error);
        let options = ReceiverOptions::new("$Default", "0".into(), EventPosition::Earliest);
        let error = transport.open_receiver(options).await.unwrap_err();
        print_error(capture, &error);
        transport.close().await;
    }
    // Nobody listens.
    let nobody = good.replace(&namespace, "localhost:1");
    let transport = AmqpTransport::from_connection_string(&nobody, HUB).unwrap();
    let error = transport.event_hub_properties().await.unwrap_err();
    print_error(capture, &error);
    // Somebody listens who does not speak TLS.
    let tls = good.replace(
        "UseDevelopmentEmulator=true",
        "UseDevelopmentEmulator=false",
    );
    let transport = AmqpTransport::from_connection_string(&tls, HUB).unwrap();
    let error = transport.event_hub_properties().await.unwrap_err();
    print_error(capture, &error);
}

/// By an emulator that lets everybody in.
async fn admitted_by_event_hubs(capture: &Capture) {
    let emulator = Emulator::builder().with_hub(HUB, 1).start().await.unwrap();
    let key = NamedKeyCredential::new("listen", KEY);
    let mut credentials = event_hubs_credentials();
    // The last has no token.
    credentials.pop();
    credentials.push(EventHubsCredential::named_key(key.clone()));
    for credential in credentials {
        let transport = work::transport(&emulator, HUB).with_credential(credential);
        let options = ReceiverOptions::new("$Default", "0".into(), EventPosition::Earliest);
        let receiver = transport.open_receiver(options).await.unwrap();
        print(capture, &receiver);
        print(capture, &transport.event_hub_properties().await.unwrap());
        key.update("listen", NEXT_KEY);
        receiver.close().await;
        transport.close().await;
    }
}

async fn refused_by_blobs(capture: &Capture, storage: &str, backend: BlobBackend) {
    let account = storage.split("BlobEndpoint=").nth(1).unwrap();
    let account = account.trim_end_matches(';');
    let scope = GroupScope::new("namespace", HUB, "$Default");
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_try_timeout(Duration::from_secs(2))
        .with_operation_timeout(Duration::from_secs(4));
    for url in [account, "http://127.0.0.1:1/account"] {
        for credential in storage_credentials() {
            let letters =
                BlobDeadLetters::new(url, "checkpoints", credential.clone(), options.clone());
            match BlobCheckpointStore::new(url, "checkpoints", credential, options.clone()) {
                Ok(store) => {
                    print(capture, &store);
                    print(capture, &letters.unwrap());
                    let error = store.list_ownership(&scope).await.unwrap_err();
                    print_error(capture, &error);
                    let error = store.checkpoint(&scope, &"0".into()).await.unwrap_err();
                    print_error(capture, &error);
                }
                // A token does not go over plain HTTP.
                Err(error) => print_error(capture, &error),
            }
        }
    }
    let error = BlobCheckpointStore::new(
        &format!("{account}?sig={STORAGE_SIGNATURE}"),
        "Not A Name",
        storage_credentials()[0].clone(),
        options,
    )
    .unwrap_err();
    print_error(capture, &error);
}
