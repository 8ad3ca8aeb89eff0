//! No key, signature or token shows up in logs and errors, whatever goes wrong.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use eventhubs_processor::GroupScope;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore, WriteCondition,
};
use eventhubs_processor::credential::{AccessToken, Secret, StorageCredential, TokenCredential};
use eventhubs_processor::error::BoxError;

use super::log::Log;
use super::scripted_blob::{Act, ScriptedBlob, done, page, refusal};

const CANARY: &str = "Y2FuYXJ5Y2FuYXJ5";

#[derive(Debug)]
struct Canary;

#[async_trait]
impl TokenCredential for Canary {
    async fn token(&self, _scope: &str) -> Result<AccessToken, BoxError> {
        Ok(AccessToken {
            token: Secret::new(CANARY),
            expires_at: SystemTime::now() + Duration::from_secs(3600),
        })
    }
}

async fn exercise(url: &str, backend: BlobBackend, credential: StorageCredential) -> String {
    let options = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_try_timeout(Duration::from_millis(200));
    let store = BlobCheckpointStore::new(url, "abc", credential, options).unwrap();
    let scope = GroupScope::new("ns", "hub", "g");
    let mut shown = format!("{store:?}");
    for _ in 0..3 {
        shown += &format!("{:?}", store.list_ownership(&scope).await);
        let condition = WriteCondition::Absent;
        let outcome = store
            .claim_ownership(&scope, &"0".into(), Some(&"me".into()), &condition)
            .await;
        shown += &format!("{outcome:?}");
        if let Err(error) = outcome {
            let mut next: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = next {
                shown += &format!("{error} {error:?}");
                next = error.source();
            }
        }
    }
    shown
}

for_each_backend!(nothing_secret_is_logged_or_told);

async fn nothing_secret_is_logged_or_told(backend: BlobBackend) {
    let (log, guard) = Log::start();
    let mut told = String::new();
    let mut secrets = vec![CANARY.to_owned()];
    let signature = format!("sv=2021-12-02&sig={CANARY}%3D");
    let minted = Secret::new(signature.as_str());
    let renewable = move |_| std::future::ready(Ok(minted.clone()));
    for (credential, travels) in [
        (StorageCredential::account_key("account", CANARY), false),
        (StorageCredential::shared_access_signature(signature), true),
        (StorageCredential::renewable_signature(renewable), true),
        (StorageCredential::token(Arc::new(Canary)), true),
    ] {
        let server = ScriptedBlob::start([
            Act::Reply(page(&[], "")),
            done("201 Created", "0x1"),
            refusal("403 Forbidden", "AuthenticationFailed"),
            refusal("409 Conflict", "BlobAlreadyExists"),
            Act::Close,
            Act::Close,
            Act::Hang,
            Act::Hang,
        ])
        .await;
        told += &exercise(&server.url(), backend, credential.clone()).await;
        let sent = server.requests().concat();
        secrets.extend(signatures(&sent));
        assert_eq!(sent.contains(CANARY), travels);
        // Nobody listens: the connection itself fails.
        told += &exercise("http://127.0.0.1:1", backend, credential).await;
    }
    // The token gets as far as a TLS handshake with nobody.
    let token = StorageCredential::token(Arc::new(Canary));
    told += &exercise("https://127.0.0.1:1", backend, token).await;
    drop(guard);
    let logged = log.text();
    assert!(logged.contains("abc"), "the log was captured");
    assert!(secrets.len() > 1, "requests were signed with the key");
    for text in [&told, &logged] {
        for secret in &secrets {
            if let Some(at) = text.find(secret.as_str()) {
                panic!("a secret shows: {}", &text[at.saturating_sub(200)..at]);
            }
        }
    }
}

/// What stands behind the account in `Authorization: SharedKey account:…`. Whoever has it can send the request again.
fn signatures(requests: &str) -> Vec<String> {
    let marker = "SharedKey account:";
    let found = requests.lines().filter_map(|line| line.split_once(marker));
    found
        .map(|(_, signature)| signature.trim().to_owned())
        .collect()
}
