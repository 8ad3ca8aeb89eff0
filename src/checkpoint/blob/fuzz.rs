//! The fuzz targets of the blob store: answers of a storage account, and records of strangers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::container::{Container, Listing};
use super::metadata::{self, Metadata};
use super::requests::Record;
use super::{BlobCheckpointStore, BlobCheckpointStoreOptions, names, records as read, supported};
use crate::checkpoint::CheckpointStore;
use crate::model::GroupScope;

thread_local! {
    #[allow(clippy::expect_used, reason = "without a runtime there is nothing to try")]
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
}

/// A listing is refused as a whole, or gives records that can be written again.
#[allow(
    clippy::expect_used,
    reason = "without a store there is nothing to try"
)]
pub(crate) fn listing(data: &[u8]) {
    let options = BlobCheckpointStoreOptions::default().with_max_retries(0);
    let url = Url::parse("https://account.example").expect("a URL");
    let requests = supported::fuzz::client(&url, &options, data).expect("a client");
    let container = Arc::new(Container::over(Arc::new(requests), &options));
    let store = BlobCheckpointStore::over(container, None, url.to_string(), options);
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
