//! Every odd value that is known to stand in records: what is read, and that what is written over it is sound.

use eventhubs_processor::checkpoint::{BlobBackend, CheckpointStore, WriteCondition, WriteOutcome};
use eventhubs_processor::error::StoreErrorKind;
use eventhubs_processor::{Checkpoint, GroupScope};

use super::{Endpoint, azurite};

const GROUP: &str = "contoso.servicebus.windows.net/hub/$default";

type Metadata = &'static [(&'static str, &'static str)];

/// Who is read from ownership metadata.
const OWNERS: &[(&str, Metadata, Option<&str>)] = &[
    ("as all write it", &[("ownerid", "a")], Some("a")),
    ("given back", &[("ownerid", "")], None),
    ("no metadata at all", &[], None),
    ("without the key", &[("other", "x")], None),
    (
        "further keys",
        &[("ownerid", "a"), ("epoch", "7")],
        Some("a"),
    ),
    ("early Java", &[("OwnerId", "a")], Some("a")),
    ("capitals", &[("OWNERID", "a")], Some("a")),
    (
        "any text",
        &[("ownerid", "Host/7 (blue); a=b&c %41 ~!")],
        Some("Host/7 (blue); a=b&c %41 ~!"),
    ),
];

/// The position that is read from checkpoint metadata; `None` where there is a record and no position.
type Position = Option<(Option<&'static str>, Option<i64>)>;

const POSITIONS: &[(&str, Metadata, Position)] = &[
    (
        "as all write it",
        &[("offset", "42"), ("sequencenumber", "7")],
        Some((Some("42"), Some(7))),
    ),
    (
        ".NET 5.11.0 to 5.11.2: offset empty",
        &[("offset", ""), ("sequencenumber", "7")],
        Some((None, Some(7))),
    ),
    (
        ".NET 5.11.3 to 5.11.6: a text for no offset",
        &[("offset", "no offset"), ("sequencenumber", "7")],
        Some((None, Some(7))),
    ),
    (
        "Python, from an empty offset",
        &[("offset", "None"), ("sequencenumber", "7")],
        Some((None, Some(7))),
    ),
    (
        "offset missing",
        &[("sequencenumber", "7")],
        Some((None, Some(7))),
    ),
    (
        "geo-replicated: the offset is no number",
        &[
            ("offset", "3:1152921504606846976:7"),
            ("sequencenumber", "7"),
        ],
        Some((Some("3:1152921504606846976:7"), Some(7))),
    ),
    (
        "sequence number missing",
        &[("offset", "42")],
        Some((Some("42"), None)),
    ),
    (
        "sequence number empty",
        &[("offset", "42"), ("sequencenumber", "")],
        Some((Some("42"), None)),
    ),
    (
        "sequence number no number",
        &[("offset", "42"), ("sequencenumber", "7.0")],
        Some((Some("42"), None)),
    ),
    (
        "sequence number of no event",
        &[("offset", "42"), ("sequencenumber", "-1")],
        Some((Some("42"), None)),
    ),
    (
        "sequence number too large",
        &[("offset", "42"), ("sequencenumber", "9223372036854775808")],
        Some((Some("42"), None)),
    ),
    (
        "the largest sequence number",
        &[("offset", "42"), ("sequencenumber", "9223372036854775807")],
        Some((Some("42"), Some(i64::MAX))),
    ),
    (
        "early Java",
        &[("Offset", "42"), ("SequenceNumber", "7")],
        Some((Some("42"), Some(7))),
    ),
    (
        "a canonical header",
        &[("Offset", "42"), ("Sequencenumber", "7")],
        Some((Some("42"), Some(7))),
    ),
    (
        ".NET since 5.11, and anything else",
        &[
            ("offset", "42"),
            ("sequencenumber", "7"),
            ("clientidentifier", "net"),
            ("other", "x"),
        ],
        Some((Some("42"), Some(7))),
    ),
    ("both missing", &[("other", "x")], None),
    ("no metadata at all", &[], None),
    (
        "both empty",
        &[("offset", ""), ("sequencenumber", "")],
        None,
    ),
    (
        "a text for no offset, and nothing else",
        &[("offset", "no offset")],
        None,
    ),
];

for_each_backend! {
    owners_on_azurite,
    owners_on_the_emulator,
    positions_on_azurite,
    positions_on_the_emulator,
}

async fn owners_on_azurite(backend: BlobBackend) {
    if let Some(endpoint) = azurite().await {
        owners(&endpoint, backend).await;
    }
}

async fn owners_on_the_emulator(backend: BlobBackend) {
    owners(&Endpoint::emulator().await, backend).await;
}

async fn positions_on_azurite(backend: BlobBackend) {
    if let Some(endpoint) = azurite().await {
        positions(&endpoint, backend).await;
    }
}

async fn positions_on_the_emulator(backend: BlobBackend) {
    positions(&Endpoint::emulator().await, backend).await;
}

fn scope() -> GroupScope {
    GroupScope::new("Contoso.servicebus.windows.net", "Hub", "$Default")
}

async fn owners(endpoint: &Endpoint, backend: BlobBackend) {
    let name = |partition: &str| format!("{GROUP}/ownership/{partition}");
    for (partition, (_, metadata, _)) in OWNERS.iter().enumerate() {
        endpoint.put(&name(&partition.to_string()), metadata).await;
    }
    // What is no record of a partition.
    endpoint.put(&name("5/extra"), &[("ownerid", "x")]).await;
    endpoint
        .put(&name("dir"), &[("hdi_isfolder", "true")])
        .await;

    let store = endpoint.store(backend);
    let listing = store.list_ownership(&scope()).await.unwrap();
    assert_eq!(listing.ownerships.len(), OWNERS.len(), "{listing:?}");
    for (partition, (what, _, expected)) in OWNERS.iter().enumerate() {
        let partition = partition.to_string();
        let is_it = |o: &&eventhubs_processor::Ownership| o.partition_id.as_str() == partition;
        let found = listing.ownerships.iter().find(is_it).unwrap();
        let owner = found.owner_id.as_ref().map(|owner| owner.as_str());
        assert_eq!(owner, *expected, "{what}");

        // Whatever stood there is replaced as a whole, with its version, and is sound for everybody then.
        let condition = WriteCondition::Matches(found.etag.clone());
        let me = "me".into();
        let outcome = store
            .claim_ownership(&scope(), &found.partition_id, Some(&me), &condition)
            .await
            .unwrap();
        assert!(
            matches!(outcome, WriteOutcome::Written(_)),
            "{what}: {outcome:?}"
        );
        let written = endpoint.metadata(&name(&partition)).await;
        assert_eq!(written, pairs(&[("ownerid", "me")]), "{what}");
    }
}

async fn positions(endpoint: &Endpoint, backend: BlobBackend) {
    let name = |partition: &str| format!("{GROUP}/checkpoint/{partition}");
    for (partition, (_, metadata, _)) in POSITIONS.iter().enumerate() {
        endpoint.put(&name(&partition.to_string()), metadata).await;
    }
    let store = endpoint.store(backend);
    let listed = store.list_checkpoints(&scope()).await.unwrap();
    for (partition, (what, _, expected)) in POSITIONS.iter().enumerate() {
        let partition = partition.to_string();
        let listed = listed
            .iter()
            .find(|stored| stored.checkpoint.partition_id.as_str() == partition);
        let position = listed.map(|stored| {
            let offset = stored
                .checkpoint
                .offset
                .as_ref()
                .map(|offset| offset.as_str());
            (offset, stored.checkpoint.sequence_number)
        });
        assert_eq!(position, *expected, "{what}");

        let single = store.checkpoint(&scope(), &partition.as_str().into()).await;
        let condition = match (&single, listed) {
            (Ok(single), Some(listed)) => {
                assert_eq!(
                    single.as_ref(),
                    Some(listed),
                    "{what}: both ways to read agree"
                );
                listed.condition()
            }
            (Err(error), None) => {
                assert_eq!(error.kind(), StoreErrorKind::MalformedRecord, "{what}");
                WriteCondition::Unconditional
            }
            other => panic!("{what}: {other:?}"),
        };

        let checkpoint = Checkpoint {
            partition_id: partition.as_str().into(),
            offset: Some("100".into()),
            sequence_number: Some(9),
            client_identifier: None,
        };
        let outcome = store
            .update_checkpoint(&scope(), &checkpoint, &condition)
            .await
            .unwrap();
        assert!(
            matches!(outcome, WriteOutcome::Written(_)),
            "{what}: {outcome:?}"
        );
        let written = endpoint.metadata(&name(&partition)).await;
        assert_eq!(
            written,
            pairs(&[("offset", "100"), ("sequencenumber", "9")]),
            "{what}"
        );
    }
}

fn pairs(metadata: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = metadata.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
