//! The stores: conformance of every implementation, foreign and odd records, and what happens when the
//! storage service misbehaves.

/// Makes a test of each named function for each client library that the store can use.
macro_rules! for_each_backend {
    ($($test:ident),* $(,)?) => {
        mod supported {
            $(#[tokio::test]
            async fn $test() {
                super::$test(eventhubs_processor::checkpoint::BlobBackend::Supported).await;
            })*
        }

        #[cfg(feature = "legacy-storage")]
        mod legacy {
            $(#[tokio::test]
            async fn $test() {
                super::$test(eventhubs_processor::checkpoint::BlobBackend::Legacy).await;
            })*
        }
    };
}

mod conformance;
mod credentials;
mod dead_letters;
mod faults;
mod foreign_records;
mod legacy_checkpoints;
mod listings;
mod log;
mod lost_answers;
mod odd_values;
mod raw_blob;
mod scripted_blob;
mod scripted_store;
mod secrets;
mod spellings;

use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStore, BlobCheckpointStoreOptions,
};
use eventhubs_processor::credential::{StorageConnectionString, StorageCredential};
use raw_blob::RawBlob;

/// Names the blob endpoint of a real Azurite (or account) by its connection string.
const AZURITE: &str = "EHP_AZURITE_CONNECTION_STRING";

/// The client libraries that the store can use.
const BACKENDS: &[BlobBackend] = &[
    BlobBackend::Supported,
    #[cfg(feature = "legacy-storage")]
    BlobBackend::Legacy,
];

/// A blob endpoint to test against, with a fresh container.
#[derive(Debug)]
struct Endpoint {
    connection_string: String,
    container: String,
    raw: RawBlob,
    /// Keeps the emulator, if it is one, running.
    _emulator: Option<Emulator>,
}

impl Endpoint {
    async fn new(connection_string: String, emulator: Option<Emulator>) -> Self {
        let raw = RawBlob::new(&connection_string);
        let container = format!("ehp-{}", uuid::Uuid::new_v4().simple());
        raw.create_container(&container).await;
        Self {
            connection_string,
            container,
            raw,
            _emulator: emulator,
        }
    }

    async fn emulator() -> Self {
        let emulator = Emulator::builder().start().await.unwrap();
        Self::new(emulator.storage_connection_string(), Some(emulator)).await
    }

    fn store(&self, backend: BlobBackend) -> BlobCheckpointStore {
        self.store_with(BlobCheckpointStoreOptions::default().with_backend(backend))
    }

    fn store_with(&self, options: BlobCheckpointStoreOptions) -> BlobCheckpointStore {
        BlobCheckpointStore::from_connection_string_with_options(
            &self.connection_string,
            &self.container,
            options,
        )
        .unwrap()
    }

    /// Puts an empty blob as a foreign or broken writer would.
    async fn put(&self, name: &str, metadata: &[(&str, &str)]) {
        self.raw.put(&self.container, name, metadata).await;
    }

    /// The metadata of a blob, in the order of the keys.
    async fn metadata(&self, name: &str) -> Vec<(String, String)> {
        let answer = self.raw.head(&self.container, name).await;
        let pairs = answer.headers.into_iter().filter_map(|(name, value)| {
            let key = name.strip_prefix("x-ms-meta-")?;
            Some((key.to_owned(), value))
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        pairs
    }

    /// A store that has no key, only a signature for the container.
    fn store_with_signature(&self, backend: BlobBackend) -> BlobCheckpointStore {
        let parsed = StorageConnectionString::parse(&self.connection_string).unwrap();
        let signature = self.raw.container_signature(&self.container);
        BlobCheckpointStore::new(
            parsed.blob_endpoint(),
            &self.container,
            StorageCredential::shared_access_signature(signature),
            BlobCheckpointStoreOptions::default().with_backend(backend),
        )
        .unwrap()
    }
}

/// The Azurite that the test run was given, if it was.
async fn azurite() -> Option<Endpoint> {
    match std::env::var(AZURITE) {
        Ok(connection_string) => Some(Endpoint::new(connection_string, None).await),
        Err(_) => {
            eprintln!("skipped: {AZURITE} is not set");
            None
        }
    }
}
