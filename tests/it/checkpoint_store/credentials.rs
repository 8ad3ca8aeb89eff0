//! Keys that are replaced, signatures and tokens that end, over both client libraries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use eventhubs_emulator::Emulator;
use eventhubs_processor::GroupScope;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions, CheckpointStore as _,
};
use eventhubs_processor::credential::{
    AccessToken, NamedKeyCredential, Secret, StorageConnectionString, StorageCredential,
    TokenCredential,
};
use eventhubs_processor::error::{BoxError, StoreError, StoreErrorKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::raw_blob::RawBlob;

const CONTAINER: &str = "checkpoints";
/// The storage account of every emulator.
const ACCOUNT: &str = "devstoreaccount1";

async fn emulator() -> Arc<Emulator> {
    let emulator = Emulator::builder().with_container(CONTAINER).start();
    Arc::new(emulator.await.unwrap())
}

fn store(
    emulator: &Emulator,
    backend: BlobBackend,
    credential: StorageCredential,
) -> BlobCheckpointStore {
    let parsed = StorageConnectionString::parse(&emulator.storage_connection_string()).unwrap();
    let options = BlobCheckpointStoreOptions::default().with_backend(backend);
    BlobCheckpointStore::new(parsed.blob_endpoint(), CONTAINER, credential, options).unwrap()
}

async fn list(store: &BlobCheckpointStore) -> Result<(), StoreError> {
    let scope = GroupScope::new("ns", "hub", "g");
    store.list_ownership(&scope).await.map(drop)
}

/// Lists as often as it can for some seconds; the slowest took that long.
async fn list_for(store: &BlobCheckpointStore, seconds: u64) -> Duration {
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        list(store).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    slowest
}

for_each_backend!(
    a_key_is_replaced_between_two_requests,
    signatures_from_a_callback_are_renewed_beside_the_requests,
    an_expired_signature_is_one_error_and_no_request,
    tokens_are_renewed_beside_the_requests,
    a_refused_token_is_replaced_with_the_next_request,
);

async fn a_key_is_replaced_between_two_requests(backend: BlobBackend) {
    let emulator = emulator().await;
    let text = emulator.storage_connection_string();
    let old = text.split(';').find_map(|f| f.strip_prefix("AccountKey="));
    let key = NamedKeyCredential::new(ACCOUNT, old.unwrap());
    let store = store(
        &emulator,
        backend,
        StorageCredential::named_key(key.clone()),
    );
    list(&store).await.unwrap();
    emulator.set_storage_key("YW5vdGhlciBrZXk=").unwrap();
    let error = list(&store).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
    key.update(ACCOUNT, "YW5vdGhlciBrZXk=");
    list(&store).await.unwrap();
    key.update(ACCOUNT, "not base64!");
    let error = list(&store).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("base64"), "{error}");
}

async fn signatures_from_a_callback_are_renewed_beside_the_requests(backend: BlobBackend) {
    let emulator = emulator().await;
    let raw = RawBlob::new(&emulator.storage_connection_string());
    let minted = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&minted);
    let credential = StorageCredential::renewable_signature(move |url| {
        assert!(url.ends_with("/devstoreaccount1/checkpoints"), "{url}");
        // The first comes at once, all others take their time.
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        // Cut to a second, a fifth of it is still more than the pause.
        let end = OffsetDateTime::now_utc() + Duration::from_secs(11);
        let end = end.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap();
        let signature = raw.container_signature_until(CONTAINER, &end);
        let pause = Duration::from_millis(if is_first { 0 } else { 1500 });
        async move {
            tokio::time::sleep(pause).await;
            Ok(Secret::new(signature))
        }
    });
    let store = store(&emulator, backend, credential);
    let slowest = list_for(&store, 14).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let minted = minted.load(Ordering::SeqCst);
    assert!((2..=4).contains(&minted), "{minted}");
}

async fn an_expired_signature_is_one_error_and_no_request(backend: BlobBackend) {
    let emulator = emulator().await;
    let raw = RawBlob::new(&emulator.storage_connection_string());
    let expired = raw.container_signature_until(CONTAINER, "2020-01-01T00:00:00Z");
    let credential = StorageCredential::shared_access_signature(expired);
    let store = store(&emulator, backend, credential);
    let begun = Instant::now();
    let error = list(&store).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(!error.to_string().contains("sig="), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Hands out tokens for `audience`, and counts them.
#[derive(Debug)]
struct Issuer {
    emulator: Arc<Emulator>,
    /// What the first token is for; the others are for blobs.
    first: &'static str,
    issued: AtomicUsize,
}

const BLOBS: &str = "https://storage.azure.com/.default";

#[async_trait]
impl TokenCredential for Issuer {
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
        assert_eq!(scope, BLOBS);
        let is_first = self.issued.fetch_add(1, Ordering::SeqCst) == 0;
        let scope = if is_first {
            self.first
        } else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            BLOBS
        };
        let lifetime = Duration::from_secs(8);
        Ok(AccessToken {
            token: Secret::new(self.emulator.issue_token(scope, lifetime)),
            expires_at: SystemTime::now() + lifetime,
        })
    }
}

fn issuer(emulator: &Arc<Emulator>, first: &'static str) -> Arc<Issuer> {
    Arc::new(Issuer {
        emulator: Arc::clone(emulator),
        first,
        issued: AtomicUsize::new(0),
    })
}

async fn tokens_are_renewed_beside_the_requests(backend: BlobBackend) {
    let emulator = emulator().await;
    let issuer = issuer(&emulator, BLOBS);
    let credential = StorageCredential::token(Arc::clone(&issuer) as _);
    let store = store(&emulator, backend, credential);
    let slowest = list_for(&store, 14).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let issued = issuer.issued.load(Ordering::SeqCst);
    assert!((2..=4).contains(&issued), "{issued}");
}

async fn a_refused_token_is_replaced_with_the_next_request(backend: BlobBackend) {
    let emulator = emulator().await;
    let issuer = issuer(&emulator, "https://eventhubs.azure.net//.default");
    let credential = StorageCredential::token(Arc::clone(&issuer) as _);
    let store = store(&emulator, backend, credential);
    let error = list(&store).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
    // A request five seconds after the first token brings the renewal about, and need not wait for it.
    let begun = Instant::now();
    while list(&store).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(8));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(issuer.issued.load(Ordering::SeqCst), 2);
}
