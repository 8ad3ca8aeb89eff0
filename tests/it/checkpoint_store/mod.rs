//! The stores: conformance of every implementation, foreign and odd records, and what happens when the
//! storage service misbehaves.

mod conformance;
mod faults;
mod foreign_records;
mod raw_blob;
mod scripted_blob;
mod secrets;

use eventhubs_emulator::Emulator;
use eventhubs_processor::checkpoint::BlobCheckpointStore;
use eventhubs_processor::credential::StorageConnectionString;
use raw_blob::RawBlob;

/// Names the blob endpoint of a real Azurite (or account) by its connection string.
const AZURITE: &str = "EHP_AZURITE_CONNECTION_STRING";

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

    fn store(&self) -> BlobCheckpointStore {
        BlobCheckpointStore::from_connection_string(&self.connection_string, &self.container)
            .unwrap()
    }

    /// A store that has no key, only a signature for the container.
    fn store_with_signature(&self) -> BlobCheckpointStore {
        let parsed = StorageConnectionString::parse(&self.connection_string).unwrap();
        let signature = self.raw.container_signature(&self.container);
        BlobCheckpointStore::with_shared_access_signature(
            parsed.blob_endpoint(),
            &self.container,
            signature,
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
