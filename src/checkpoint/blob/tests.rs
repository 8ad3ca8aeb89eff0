use super::*;
use crate::credential::{AccessToken, ConnectionStringError};
use crate::error::{BoxError, StoreErrorKind};

/// The client libraries that the store can use.
const BACKENDS: &[BlobBackend] = &[
    BlobBackend::Supported,
    #[cfg(feature = "legacy-storage")]
    BlobBackend::Legacy,
];

const CANARY: &str = "Y2FuYXJ5LWNhbmFyeQ==";

#[derive(Debug)]
struct NoTokens;

#[async_trait]
impl TokenCredential for NoTokens {
    async fn token(&self, _scope: &str) -> Result<AccessToken, BoxError> {
        Err("none".into())
    }
}

#[test]
fn every_way_to_build_a_store_works() {
    let url = "https://contoso.blob.core.windows.net";
    BlobCheckpointStore::with_account_key(url, "checkpoints", "contoso", CANARY).unwrap();
    BlobCheckpointStore::with_shared_access_signature(url, "checkpoints", "?sv=1&sig=a").unwrap();
    BlobCheckpointStore::with_token_credential(url, "checkpoints", Arc::new(NoTokens)).unwrap();
    BlobCheckpointStore::from_connection_string("UseDevelopmentStorage=true", "checkpoints")
        .unwrap();
}

#[test]
fn a_token_does_not_travel_in_the_clear() {
    let store =
        |url| BlobCheckpointStore::with_token_credential(url, "abc", Arc::new(NoTokens)).map(drop);
    for url in [
        "http://contoso.blob.core.windows.net",
        "http://localhost.example",
        "http://10.0.0.1:10000/devstoreaccount1",
        "http://[2001:db8::1]",
    ] {
        assert_eq!(store(url), Err(BlobStoreConfigError::InsecureTransport));
    }
    // To an emulator it does not travel at all.
    for url in [
        "http://127.0.0.1:10000/devstoreaccount1",
        "http://localhost",
        "http://[::1]:1",
    ] {
        assert_eq!(store(url), Ok(()));
    }
}

#[test]
fn impossible_settings_are_refused() {
    let connection_string = "UseDevelopmentStorage=true";
    for name in [
        "",
        "ab",
        "Checkpoints",
        "a/b",
        "..",
        "a_b",
        "-abc",
        "abc-",
        "a--b",
        &"a".repeat(64),
    ] {
        assert_eq!(
            BlobCheckpointStore::from_connection_string(connection_string, name).unwrap_err(),
            BlobStoreConfigError::InvalidContainerName,
            "{name}"
        );
    }
    let defaults = BlobCheckpointStoreOptions::default;
    for (option, options) in [
        ("api_version", defaults().with_api_version("2021\r\nx: y")),
        (
            "try_timeout",
            defaults().with_try_timeout(std::time::Duration::ZERO),
        ),
        (
            "operation_timeout",
            defaults().with_operation_timeout(std::time::Duration::from_secs(1)),
        ),
    ] {
        let error = BlobCheckpointStore::from_connection_string_with_options(
            connection_string,
            "checkpoints",
            options,
        );
        match error.unwrap_err() {
            BlobStoreConfigError::InvalidOption { option: found, .. } => assert_eq!(found, option),
            other => panic!("{other:?}"),
        }
    }
    for url in ["", "contoso", "ftp://a", "https://u:p@a", "https://a/?sv=1"] {
        assert!(matches!(
            BlobCheckpointStore::with_account_key(url, "abc", "a", CANARY),
            Err(BlobStoreConfigError::InvalidAccountUrl { .. })
        ));
    }
    assert!(matches!(
        BlobCheckpointStore::with_account_key("https://a", "abc", "a", "no base64"),
        Err(BlobStoreConfigError::ConnectionString(
            ConnectionStringError::Invalid { .. }
        ))
    ));
}

#[test]
fn nothing_secret_prints() {
    let url = "https://contoso.blob.core.windows.net";
    for backend in BACKENDS {
        for credential in [
            StorageCredential::account_key("contoso", CANARY),
            StorageCredential::shared_access_signature(format!("sv=1&sig={CANARY}")),
        ] {
            let options = BlobCheckpointStoreOptions::default().with_backend(*backend);
            let store = BlobCheckpointStore::new(url, "abc", credential, options).unwrap();
            let shown = format!("{store:?} {store:#?}");
            assert!(!shown.contains("Y2FuYXJ5"), "{shown}");
            assert!(
                shown.contains("contoso.blob.core.windows.net/abc"),
                "{shown}"
            );
        }
    }
}

#[tokio::test]
async fn values_no_sdk_could_read_are_refused_before_anything_is_sent() {
    // Nothing listens there: a request would fail as unavailable.
    let store = BlobCheckpointStore::with_account_key("http://127.0.0.1:9", "abc", "a", CANARY);
    let store = store.unwrap();
    let scope = GroupScope::new("ns", "hub", "g");
    let absent = WriteCondition::Absent;
    let outside = GroupScope::new("ns", "..", "g");
    let (partition, owner) = (PartitionId::new("0"), OwnerId::new("me"));
    let attempts = [
        store
            .claim_ownership(&scope, &partition, Some(&" ".into()), &absent)
            .await,
        store
            .claim_ownership(&scope, &"../0".into(), Some(&owner), &absent)
            .await,
        store
            .claim_ownership(&outside, &partition, Some(&owner), &absent)
            .await,
        store
            .claim_ownership(
                &scope,
                &partition,
                Some(&owner),
                &WriteCondition::Unconditional,
            )
            .await,
        store
            .claim_ownership(
                &scope,
                &partition,
                Some(&owner),
                &WriteCondition::Matches("".into()),
            )
            .await,
    ];
    for attempt in attempts {
        assert_eq!(attempt.unwrap_err().kind(), StoreErrorKind::InvalidValue);
    }
}
