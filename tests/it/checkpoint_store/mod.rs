//! The stores: conformance of every implementation, foreign and odd records, and what happens when the
//! storage service misbehaves.

mod conformance;
mod faults;
mod foreign_records;
mod raw_blob;
mod scripted_blob;
mod secrets;

use eventhubs_processor::checkpoint::BlobCheckpointStore;
use raw_blob::RawBlob;

/// Names the blob endpoint of a real Azurite (or account) by its connection string.
const AZURITE: &str = "EHP_AZURITE_CONNECTION_STRING";

/// A blob endpoint to test against, with a fresh container.
#[derive(Debug)]
struct Endpoint {
    connection_string: String,
    container: String,
    raw: RawBlob,
}

impl Endpoint {
    async fn new(connection_string: String) -> Self {
        let raw = RawBlob::new(&connection_string);
        let container = format!("ehp-{}", uuid::Uuid::new_v4().simple());
        raw.create_container(&container).await;
        Self {
            connection_string,
            container,
            raw,
        }
    }

    fn store(&self) -> BlobCheckpointStore {
        BlobCheckpointStore::from_connection_string(&self.connection_string, &self.container)
            .unwrap()
    }
}

/// The Azurite that the test run was given, if it was.
async fn azurite() -> Option<Endpoint> {
    match std::env::var(AZURITE) {
        Ok(connection_string) => Some(Endpoint::new(connection_string).await),
        Err(_) => {
            eprintln!("skipped: {AZURITE} is not set");
            None
        }
    }
}
