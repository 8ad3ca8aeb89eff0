//! The fuzz targets of the blob store: answers of a storage account, and records of strangers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};
use tokio::runtime::{Builder, Runtime};

use super::http::BoundedClient;
use super::metadata::{self, Metadata};
use super::requests::{Listing, Record};
use super::{BlobCheckpointStore, BlobCheckpointStoreOptions, names, records as read};
use crate::checkpoint::CheckpointStore;
use crate::credential::{Secret, StorageCredential};
use crate::model::GroupScope;

thread_local! {
    #[allow(clippy::expect_used, reason = "without a runtime there is nothing to try")]
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
}

/// An account that has one answer.
#[derive(Debug)]
struct Canned(Vec<u8>);

#[async_trait]
impl HttpClient for Canned {
    async fn execute_request(&self, _: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut headers = Headers::new();
        headers.insert("date", "Mon, 24 Nov 2025 10:00:00 GMT");
        let body = self.0.clone();
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, headers, body))
    }
}

/// A listing is refused as a whole, or gives records that can be written again.
#[allow(
    clippy::expect_used,
    reason = "without a store there is nothing to try"
)]
pub(crate) fn listing(data: &[u8]) {
    let credential = StorageCredential::SharedAccessSignature(Secret::new("sig=x"));
    let options = BlobCheckpointStoreOptions::default().with_retry_once(false);
    let http = BoundedClient::over(Arc::new(Canned(data.to_vec())));
    let store = BlobCheckpointStore::over(
        "https://account.example",
        "container",
        credential,
        options,
        http,
    )
    .expect("a store");
    let scope = GroupScope::new("ns", "hub", "$Default");
    let (owned, stored) = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let owned = store.list_ownership(&scope).await;
            (owned, store.list_checkpoints(&scope).await)
        })
    });
    for ownership in owned.into_iter().flat_map(|listing| listing.ownerships) {
        assert!(!ownership.partition_id.as_str().is_empty());
        assert!(!ownership.partition_id.as_str().contains('/'));
        assert!(!ownership.etag.as_str().is_empty());
    }
    for stored in stored.into_iter().flatten() {
        let checkpoint = stored.checkpoint;
        assert!(checkpoint.offset.is_some() || checkpoint.sequence_number.is_some());
    }
}

/// Records of strangers, one a line: name and `key=value` pairs, between tabs. None of them spoils another.
pub(crate) fn records(data: &[u8]) {
    const OWNERSHIP: &str = "ns/hub/g/ownership/";
    const CHECKPOINT: &str = "ns/hub/g/checkpoint/";
    let text = String::from_utf8_lossy(data);
    let listing = || Listing {
        as_of: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        records: text.lines().map(record).collect(),
    };
    let with = |name: &str, metadata: Metadata| {
        let mut listing = listing();
        listing.records.push(Record {
            name: name.to_owned(),
            metadata,
            etag: "ours".into(),
            last_modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2000)),
        });
        listing
    };
    let ours = metadata::write_owner(Some(&"me".into()));
    let owned = read::ownerships(OWNERSHIP, with(&format!("{OWNERSHIP}0"), ours));
    let found = owned.ownerships.iter().find(|o| o.etag == "ours".into());
    assert!(found.is_some_and(|ownership| ownership.owner_id == Some("me".into())));
    for ownership in &owned.ownerships {
        let id = &ownership.partition_id;
        assert_eq!(
            names::partition_of(OWNERSHIP, &format!("{OWNERSHIP}{id}")),
            Some(id.clone())
        );
    }
    let ours = Metadata::from([
        ("offset".to_owned(), "100".to_owned()),
        ("sequencenumber".to_owned(), "1".to_owned()),
    ]);
    let stored = read::checkpoints(CHECKPOINT, with(&format!("{CHECKPOINT}0"), ours));
    assert!(
        stored
            .iter()
            .any(|stored| stored.etag == Some("ours".into()))
    );
    for stored in stored {
        let checkpoint = stored.checkpoint;
        // What we can write, we read back as it was.
        if let Ok(written) = metadata::write_checkpoint(&checkpoint) {
            let again = metadata::read_checkpoint(&checkpoint.partition_id, &written);
            assert_eq!(again.ok(), Some(checkpoint));
        }
    }
}

fn record(line: &str) -> Record {
    let mut parts = line.split('\t');
    let name = parts.next().unwrap_or_default().to_owned();
    let pairs = parts.filter_map(|pair| pair.split_once('='));
    Record {
        name,
        metadata: pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        etag: "theirs".into(),
        last_modified: None,
    }
}
